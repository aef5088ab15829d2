"""What a model was trained on: structures and quantities outside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lesff.atoms.elements import elements_of, symbols
from lesff.atoms.structure import Structure
from lesff.errors import (
    CaveatWarning,
    ChargedCellWarning,
    ExtrapolationWarning,
    UnsupportedInputError,
    warn,
)
from lesff.potential.config import ModelConfig


def check_domain(config: ModelConfig, structures: Sequence[Structure], *, strict: bool) -> None:
    """Refuse what the model does not cover.

    Raises:
        UnsupportedInputError: for an element the model does not know; with ``strict`` also for a
            charge or spin outside the trained range (a warning otherwise), and for any charge or
            spin if the model has no input for them.
    """
    known = frozenset(config.elements)
    ranges = {"total_charge": config.total_charge, "spin_multiplicity": config.spin_multiplicity}
    for index, structure in enumerate(structures):
        unknown = sorted(elements_of(structure) - known)
        if unknown:
            raise UnsupportedInputError(
                f"structure {index} has element(s) {symbols(unknown)}, but the model covers "
                f"{symbols(config.elements)} only"
            )
        for name, (low, high) in ranges.items():
            value = getattr(structure, name)
            if low <= value <= high:
                continue
            text = (
                f"structure {index} has {name} {value}, but the model was trained on {low}..{high}"
            )
            if strict:
                raise UnsupportedInputError(text)
            warn(f"{text}; the result is an extrapolation", ExtrapolationWarning)


def warn_of_background(config: ModelConfig, structures: Sequence[Structure]) -> bool:
    """Warn, once for all structures, of a neutralising background in the energy.

    Returns:
        Whether there is one: a charged structure that is periodic, for a model with charges.
    """
    charged = [
        (index, structure.total_charge)
        for index, structure in enumerate(structures)
        if structure.total_charge and structure.pbc.any()
    ]
    if not charged or config.long_range is None:
        return False
    index, charge = charged[0]
    others = f" (and {len(charged) - 1} more)" if len(charged) > 1 else ""
    warn(
        f"structure {index}{others} is periodic and has total_charge {charge:+d}: its energy "
        "contains that of a uniform neutralising background, which depends on the cell; for a "
        "molecule in a cubic box add lesff.electrostatics.sums.finite_size."
        "makov_payne_correction, or set pbc=False",
        ChargedCellWarning,
    )
    return True


def check_caveats(
    model: str, caveats: Mapping[str, str], properties: Sequence[str], *, strict: bool
) -> None:
    """Warn of quantities that a model gives but that are not to be trusted.

    Raises:
        UnsupportedInputError: instead, with ``strict``.
    """
    for name in properties:
        if name not in caveats:
            continue
        text = f"{name} of {model} is not to be trusted: {caveats[name]}"
        if strict:
            raise UnsupportedInputError(text)
        warn(text, CaveatWarning)
