"""What a model was trained on: structures and quantities outside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.data import chemical_symbols

from lesff.atoms.elements import elements_of, metals_of, symbols
from lesff.atoms.structure import Structure, lowest_spin
from lesff.errors import (
    CaveatWarning,
    ChargedCellWarning,
    ExtrapolationWarning,
    OutOfDomainError,
    UnsupportedInputError,
    warn,
)
from lesff.nn.local_state import constants_of
from lesff.potential.config import ModelConfig
from lesff.potential.uncertainty import Uncertainty
from lesff.quantities import OF_CHARGES

OutOfDomain = Literal["warn", "stop", "ignore"]
"""What a calculator does about structures outside of what its model was calibrated on."""

_NAMED = 5
"""Structures that a message names."""


def check_domain(
    config: ModelConfig,
    structures: Sequence[Structure],
    *,
    strict: bool,
    quiet: bool = False,
) -> None:
    """Refuse what the model does not cover.

    Args:
        config: Configuration of the model.
        structures: The structures.
        strict: Raise also outside the trained range of charge and spin.
        quiet: Without ``strict``, say nothing of that range.

    Raises:
        UnsupportedInputError: for an element the model does not know, and a charge or spin beyond
            what the atoms of a local state can hold; with ``strict`` also for a charge or spin
            outside the trained range (a warning otherwise), and for any charge or spin if the model
            has no input for them.
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
        _check_holds(config, structure, index)
        for name, (low, high) in ranges.items():
            value = getattr(structure, name)
            if low <= value <= high or (quiet and not strict):
                continue
            if name == "spin_multiplicity" and _is_of_a_cell(config, structure):
                continue
            text = (
                f"structure {index} has {name} {value}, but the model was trained on {low}..{high}"
            )
            if strict:
                raise UnsupportedInputError(text)
            warn(f"{text}; the result is an extrapolation", ExtrapolationWarning)


def _is_of_a_cell(config: ModelConfig, structure: Structure) -> bool:
    """Whether a spin is only that of an odd number of electrons in the cell of a crystal.

    Aluminium has three in its cell and is no radical. Boxes of models that know no metal are
    liquids and molecular crystals, in which an odd number is one.
    """
    electrons = int(structure.numbers.sum()) - structure.total_charge
    is_lowest = structure.spin_multiplicity == lowest_spin(electrons)
    return is_lowest and bool(structure.pbc.all()) and bool(metals_of(config.elements))


def _check_holds(config: ModelConfig, structure: Structure, index: int) -> None:
    """Refuse totals that the atoms of a local state cannot hold (:mod:`lesff.nn.local_state`)."""
    if not config.local_state:
        return
    n_atoms, unpaired = len(structure.numbers), structure.spin_multiplicity - 1
    constants = constants_of(
        config.state_charge, config.full_weight, shares_protons=config.shared_protons
    )
    most_charge, most_spin = constants.max_charge * n_atoms, constants.max_spin * n_atoms
    if abs(structure.total_charge) < most_charge and unpaired < most_spin:
        return
    raise UnsupportedInputError(
        f"structure {index} has total_charge {structure.total_charge:+d} and {unpaired} unpaired "
        f"electron(s) on {n_atoms} atom(s); this model holds less than {constants.max_charge:g} e "
        f"and {constants.max_spin:g} unpaired electrons an atom"
    )


@dataclass(frozen=True, kw_only=True)
class Outside:
    """A structure unlike everything that a model was calibrated on.

    Attributes:
        index: Its place among those that were asked for.
        reasons: Why, see :meth:`lesff.potential.uncertainty.Uncertainty.reasons`.
        atom: The most novel atom, None if all are known.
        symbol: Its element.
        novelty: That of the atom, in units of what is known.
    """

    index: int
    reasons: tuple[str, ...]
    atom: int | None = None
    symbol: str = ""
    novelty: float = 0.0

    def cause(self) -> str:
        """The most novel atom, or the other reasons where all atoms are known."""
        if self.atom is None:
            return "; ".join(self.reasons)
        states = [reason for reason in self.reasons if not reason.startswith("geometry")]
        worst = (
            f"atom {self.atom} ({self.symbol}) has novelty {self.novelty:.3g}, known ones up to 1"
        )
        return "; ".join([worst, *states])


def find_outside(
    uncertainty: Uncertainty, structure: Structure, distance: np.ndarray, index: int = 0
) -> Outside | None:
    """What is outside about a structure, or None.

    Args:
        uncertainty: Calibration of the model.
        structure: The structure.
        distance: (n_atoms,) novelty of its atoms.
        index: Its place among those that are asked for.
    """
    # most often nothing is, and a step is to cost nothing
    if distance.max() <= 1.0 and not uncertainty.state_reasons(structure):
        return None
    reasons = uncertainty.reasons(structure, distance)
    size = np.nan_to_num(distance, nan=np.inf, posinf=np.inf)
    worst = int(size.argmax())
    if size[worst] <= 1.0:
        return Outside(index=index, reasons=reasons)
    symbol = chemical_symbols[structure.numbers[worst]]
    return Outside(
        index=index, reasons=reasons, atom=worst, symbol=symbol, novelty=float(size[worst])
    )


class DomainCheck:
    """Finds structures outside of what a model was calibrated on, while they are computed.

    Args:
        uncertainty: Calibration of the model.
        structures: All structures that are asked for.
        model: Name of the model, for messages.
        strict: Refuse the first structures that are outside.
        is_single: Whether a single structure is asked for, which has no number.
    """

    def __init__(
        self,
        uncertainty: Uncertainty,
        structures: Sequence[Structure],
        *,
        model: str,
        strict: bool,
        is_single: bool,
    ) -> None:
        self._uncertainty, self._structures = uncertainty, structures
        self._model, self._strict, self._is_single = model, strict, is_single
        self._found: dict[int, Outside] = {}

    def check_states(self) -> None:
        """With ``strict``, look at what needs no evaluation: elements, charges, spins, boundaries.

        Raises:
            OutOfDomainError: naming the first structures that are outside.
        """
        if not self._strict:
            return
        for index, structure in enumerate(self._structures):
            reasons = self._uncertainty.state_reasons(structure)
            if reasons:
                self._found[index] = Outside(index=index, reasons=reasons)
        self._refuse()

    def add(self, novelty: Mapping[int, np.ndarray]) -> None:
        """Look at structures of a batch.

        Args:
            novelty: (n_atoms,) novelty by index of the structure.

        Raises:
            OutOfDomainError: with ``strict``, naming the first structures that are outside.
        """
        for index, distance in novelty.items():
            found = find_outside(self._uncertainty, self._structures[index], distance, index)
            if found is not None:
                self._found[index] = found
        if self._strict:
            self._refuse()

    def reasons(self) -> list[tuple[str, ...]]:
        """Why each structure is outside; empty for those that are not."""
        found = self._found
        return [found[i].reasons if i in found else () for i in range(len(self._structures))]

    def warn(self) -> None:
        """Warn, once, if any structure is outside."""
        if self._found:
            advice = "`prediction.out_of_domain` says why for each, strict=True refuses"
            warn(f"{self._text()}; the result is an extrapolation: {advice}", ExtrapolationWarning)

    def _refuse(self) -> None:
        if self._found:
            raise OutOfDomainError(
                f"{self._text()}; leave such structures out, label some and train on them (`lesff "
                "finetune`), or ask without `strict` for an extrapolation"
            )

    def _text(self) -> str:
        found = sorted(self._found.values(), key=lambda row: row.index)
        outside = f"outside of what {self._model} was calibrated on"
        worst = max(found, key=lambda row: row.novelty)
        if self._is_single:
            return f"the structure is {outside}: {worst.cause()}"
        if len(found) == 1:
            return f"structure {worst.index} is {outside}: {worst.cause()}"
        named = ", ".join(str(row.index) for row in found[:_NAMED])
        more = ", ..." if len(found) > _NAMED else ""
        return (
            f"{len(found)} of {len(self._structures)} structures ({named}{more}) are {outside}, "
            f"most of all structure {worst.index}: {worst.cause()}"
        )


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


def check_charge_elements(
    config: ModelConfig,
    structures: Sequence[Structure],
    properties: Sequence[str],
    *,
    strict: bool,
) -> None:
    """Warn, once for all structures, of charges of elements whose charges were not trained.

    Raises:
        UnsupportedInputError: instead, with ``strict``.
    """
    trained = None if config.long_range is None else config.long_range.charge_elements
    asked = [name for name in properties if name in OF_CHARGES]
    if trained is None or not asked:
        return
    for index, structure in enumerate(structures):
        unknown = sorted(elements_of(structure) - set(trained))
        if not unknown:
            continue
        text = (
            f"structure {index} has {symbols(unknown)}, whose charges this model was not trained "
            f"on: {', '.join(asked)} mean nothing there"
        )
        if strict:
            raise UnsupportedInputError(text)
        warn(text, CaveatWarning)
        return


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
