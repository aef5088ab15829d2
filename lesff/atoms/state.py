"""What else atoms say about charge and spin: keys that are not read, and known ground states.

Charge and multiplicity come from arguments or the keys of ``INFO_CHARGE`` and ``INFO_SPIN``. What
says something else elsewhere is not used, but never passed over in silence: it warns, once per kind
and call. The default multiplicity is always the lowest; where that is known to be wrong it warns.
"""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
from ase.data import chemical_symbols, ground_state_magnetic_moments
from ase.formula import Formula

from lesff.errors import StateWarning, warn
from lesff.quantities import INFO_CHARGE, INFO_SPIN

_CHARGE_KEYS = frozenset(
    (*INFO_CHARGE, "net_charge", "tot_charge", "molecular_charge", "formal_charge", "q")
)
_MULTIPLICITY_KEYS = frozenset(
    (*INFO_SPIN, "multiplicity", "mult", "spin_mult", "spinmult", "2s+1")
)
_UNPAIRED_KEYS = frozenset(
    ("uhf", "nunpaired", "n_unpaired", "unpaired", "unpaired_electrons", "2s", "magmom",
     "total_magnetic_moment")
)  # fmt: skip
_SPIN_KEYS = frozenset(("s", "total_spin"))
_PREFIXES = ("ref_", "dft_", "qm_", "target_", "true_")

_CHARGE_TOLERANCE = 0.1
"""Partial charges that sum to the total charge within this (e) agree with it: they are rounded."""
_MOMENT_TOLERANCE = 0.5
"""Magnetic moments (Bohr magnetons) of calculations are not whole numbers: this near they agree."""

_TRIPLETS = {
    0: "O2 S2 Se2 Te2 SO SeO B2 Si2 Ge2 NH PH AsH NF NCl NBr PF PCl SiC CH2 C2O CN2",
    -1: "NO PO",
    1: "OH SH NH2 ClO",
}
"""Molecules by total charge whose ground state is a triplet (K. P. Huber, G. Herzberg, Constants of
Diatomic Molecules, 1979; CH2, NH2+, C2O and CN2: M. E. Jacox, J. Phys. Chem. Ref. Data 32, 1
(2003)). NO+ is not among them: it is a singlet, like N2."""


def _key(counts: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items()))


_GROUND_STATES = {
    (_key(Formula(name).count()), charge): 3
    for charge, names in _TRIPLETS.items()
    for name in names.split()
}
_LARGEST = max(sum(n for _, n in formula) for formula, _ in _GROUND_STATES)
_LAST_MAIN_GROUP_ATOM = 18
"""Ions of elements up to here have the configuration of the neutral atom with as many electrons."""


def ground_state_multiplicity(numbers: np.ndarray, charge: int) -> int | None:
    """Multiplicity 2S+1 of a known ground state; None if nothing is known.

    Atoms follow Hund's rules (``ase.data.ground_state_magnetic_moments``), ions up to argon as the
    neutral atom with as many electrons; small molecules are those of a table.
    """
    if len(numbers) == 1:
        z, electrons = int(numbers[0]), int(numbers[0]) - charge
        if charge == 0 or max(z, electrons) <= _LAST_MAIN_GROUP_ATOM:
            return 1 + round(float(ground_state_magnetic_moments[electrons])) if electrons else 1
        return None
    if len(numbers) > _LARGEST:
        return None
    symbols = [chemical_symbols[z] for z in numbers.tolist()]
    counts = {symbol: symbols.count(symbol) for symbol in symbols}
    return _GROUND_STATES.get((_key(counts), charge))


def warn_of_ground_state(
    numbers: np.ndarray, charge: int, spin: int, *, where: str, told: set[str]
) -> None:
    """Warn where the lowest multiplicity is not that of a molecule's known ground state.

    Args:
        numbers: (n_atoms,) atomic numbers.
        charge: Total charge, e.
        spin: Multiplicity that is used, the lowest.
        where: Name of the structure.
        told: Kinds that were warned of before; those of this structure are added.
    """
    known = ground_state_multiplicity(numbers, charge)
    if known is None or known == spin:
        return
    name = Formula.from_list([chemical_symbols[z] for z in numbers.tolist()]).format("hill")
    name += f" ({charge:+d})" if charge else ""
    _tell(
        told, f"ground state of {name}",
        f"{where}: the lowest spin multiplicity {spin} is used, but the ground state of {name} "
        f"has {known}; set atoms.info[{INFO_SPIN[0]!r}], or give the spin multiplicity",
    )  # fmt: skip


def warn_of_other_states(
    atoms: ase.Atoms,
    charge: int,
    spin: int,
    *,
    charge_is_given: bool,
    spin_is_given: bool,
    spin_is_default: bool,
    where: str,
    told: set[str],
) -> None:
    """Warn of what the atoms say about charge and spin that differs from what is used.

    Args:
        atoms: The atoms.
        charge: Total charge that is used, e.
        spin: Multiplicity that is used.
        charge_is_given: Whether an argument gave the charge: nothing else is then looked at.
        spin_is_given: Whether an argument gave the multiplicity.
        spin_is_default: Whether nothing gave it.
        where: Name of the structure.
        told: Kinds that were warned of before; those of this structure are added.
    """
    if not charge_is_given:
        for kind, value in _other_charges(atoms, charge):
            _tell(
                told, kind,
                f"{where}: not read: {kind} ({value:+.3g} e); the total charge {charge:+d} is "
                f"used: set atoms.info[{INFO_CHARGE[0]!r}], or give the total charge",
            )  # fmt: skip
    if spin_is_given:
        return
    said = False
    for kind, value in _other_multiplicities(atoms, spin):
        said = True
        _tell(
            told, kind,
            f"{where}: not read: {kind} (2S+1 = {value:.3g}); the spin multiplicity {spin} is "
            f"used: set atoms.info[{INFO_SPIN[0]!r}], or give the spin multiplicity",
        )  # fmt: skip
    if not spin_is_default or said or atoms.pbc.any():
        return
    warn_of_ground_state(atoms.numbers, charge, spin, where=where, told=told)


def _tell(told: set[str], kind: str, text: str) -> None:
    if kind not in told:
        told.add(kind)
        warn(text, StateWarning)


def _other_charges(atoms: ase.Atoms, charge: int) -> list[tuple[str, float]]:
    """Kind and value of every unread charge that differs from the one that is used."""
    found: list[tuple[str, float]] = []
    if atoms.has("initial_charges"):
        total = float(atoms.get_initial_charges().sum())
        if atoms.get_initial_charges().any() and abs(total - charge) > _CHARGE_TOLERANCE:
            found.append(("the sum of the initial charges", total))
    for key, value in _numbers(atoms):
        if _bare(key) in _CHARGE_KEYS and key not in INFO_CHARGE and value != charge:
            found.append((f"info[{key!r}]", value))
    return found


def _other_multiplicities(atoms: ase.Atoms, spin: int) -> list[tuple[str, float]]:
    """Kind and 2S+1 of every unread spin that differs from the one that is used."""
    said = [(kind, 1.0 + abs(m), _MOMENT_TOLERANCE) for kind, m in _moments(atoms)]
    for key, value in _numbers(atoms):
        name = _bare(key)
        if key in INFO_SPIN:
            continue
        if name in _MULTIPLICITY_KEYS:
            said.append((f"info[{key!r}]", value, 0.0))
        elif name in _UNPAIRED_KEYS:
            said.append((f"info[{key!r}]", 1.0 + abs(value), _MOMENT_TOLERANCE))
        elif name in _SPIN_KEYS:
            said.append((f"info[{key!r}]", 1.0 + 2.0 * abs(value), 0.0))
    return [(kind, value) for kind, value, tolerance in said if abs(value - spin) > tolerance]


def _moments(atoms: ase.Atoms) -> list[tuple[str, float]]:
    """Kind and value (Bohr magnetons) of total magnetic moments of a molecule."""
    found: list[tuple[str, float]] = []
    # the magnetic order of a crystal is no multiplicity of its cell (ASE's bulk iron has moments)
    if atoms.has("initial_magmoms") and not atoms.pbc.any():
        moments = np.asarray(atoms.get_initial_magnetic_moments(), dtype=np.float64)
        if moments.any():
            total = moments.sum() if moments.ndim == 1 else np.linalg.norm(moments.sum(0))
            found.append(("the initial magnetic moments", float(total)))
    results = getattr(atoms.calc, "results", None)
    moment = results.get("magmom") if isinstance(results, dict) else None
    if moment is not None and not atoms.pbc.any() and np.ndim(moment) == 0 and np.isfinite(moment):
        found.append(("the magnetic moment of the calculator", float(moment)))
    return found


def _numbers(atoms: ase.Atoms) -> list[tuple[str, float]]:
    """Entries of ``atoms.info`` that are one number, as text or not."""
    found = []
    for key, value in atoms.info.items():
        number = _number(value)
        if isinstance(key, str) and number is not None:
            found.append((key, number))
    return found


def _number(value: Any) -> float | None:
    """The value as a number; None for what is none, such as arrays and truth values."""
    if isinstance(value, (bool, np.bool_)) or np.ndim(value) != 0:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _bare(key: str) -> str:
    """The key in lower case, without a prefix such as ``REF_``.

    >>> _bare("DFT_Multiplicity")
    'multiplicity'
    """
    lower = key.lower()
    for prefix in _PREFIXES:
        lower = lower.removeprefix(prefix)
    return lower
