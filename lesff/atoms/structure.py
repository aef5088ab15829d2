"""Atoms in any form -> checked ``Structure`` -> ``AtomGraph``. Input is judged here, once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np

from lesff.atoms.files import check_size, read_images, unknown_symbol
from lesff.atoms.state import warn_of_other_states
from lesff.errors import ChargeSpinError, StructureError
from lesff.quantities import INFO_CHARGE, INFO_FIELD, INFO_SPIN

MIN_DISTANCE = 0.2
"""Atoms closer than this (A) are taken for a mistake."""
_MIN_VOLUME = 1e-3
"""Smallest volume (A^3) of a cell periodic in three directions."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One checked structure.

    Attributes:
        numbers: (n_atoms,) int64 atomic numbers.
        positions: (n_atoms, 3) in A, float64.
        cell: (3, 3) in A, rows are lattice vectors.
        pbc: (3,) bool.
        total_charge: e.
        spin_multiplicity: 2S + 1.
        external_field: (3,) in V/A, or None without a field.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    total_charge: int
    spin_multiplicity: int
    external_field: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of atoms."""
        return len(self.numbers)


def to_structure(
    source: Any,
    *,
    total_charge: int | None = None,
    spin_multiplicity: int | None = None,
    external_field: Any = None,
    where: str = "structure",
    told: set[str] | None = None,
) -> Structure:
    """Check one ASE Atoms object (or anything with ``to_ase_atoms()``) and settle charge and spin.

    Charge and spin come from the arguments, else from ``atoms.info`` (``charge`` or
    ``total_charge``; ``spin_multiplicity`` or ``spin``), else neutral and the lowest multiplicity
    that the number of electrons allows. The external field comes from the argument, else from
    ``atoms.info["external_field"]``, else there is none. What says something else and is not read
    (initial charges and magnetic moments, other keys, see :mod:`lesff.atoms.state`) warns; so does
    the lowest multiplicity where the ground state is known to have another, such as O2.

    Args:
        source: The atoms.
        total_charge: e.
        spin_multiplicity: 2S + 1.
        external_field: (3,) in V/A.
        where: Name of the structure in error messages.
        told: Kinds of such warnings that were given before; new ones are added.

    Raises:
        StructureError: for a wrong type, no atoms, positions that are not finite, a periodic cell
            without volume, a field that is not three finite numbers.
        ChargeSpinError: for values that are not integers, contradict each other or the number of
            electrons.
    """
    atoms = as_atoms(source, where)
    charge, spin = total_charge, spin_multiplicity
    _check_numbers(atoms.numbers, where)
    if charge is None:
        charge = _from_info(atoms, INFO_CHARGE, "total charge", where)
    if spin is None:
        spin = _from_info(atoms, INFO_SPIN, "spin multiplicity", where)
    structure = structure_of_arrays(
        atoms.numbers,
        atoms.positions,
        cell=atoms.cell,
        pbc=atoms.pbc,
        total_charge=charge,
        spin_multiplicity=spin,
        external_field=atoms.info.get(INFO_FIELD) if external_field is None else external_field,
        where=where,
    )
    warn_of_other_states(
        atoms, structure.total_charge, structure.spin_multiplicity,
        charge_is_given=total_charge is not None, spin_is_given=spin_multiplicity is not None,
        spin_is_default=spin is None, where=where, told=set() if told is None else told,
    )  # fmt: skip
    return structure


def structure_of_arrays(
    numbers: Any,
    positions: Any,
    *,
    cell: Any = None,
    pbc: Any = False,
    total_charge: Any = None,
    spin_multiplicity: Any = None,
    external_field: Any = None,
    where: str = "structure",
) -> Structure:
    """Check arrays, which are copied, and settle charge and spin as :func:`to_structure` does.

    Args:
        numbers: (n_atoms,) atomic numbers.
        positions: (n_atoms, 3) in A.
        cell: (3, 3) in A, rows are lattice vectors; none if not given.
        pbc: (3,) periodic directions, or one value for all.
        total_charge: e; 0 if not given.
        spin_multiplicity: 2S + 1; the lowest that the electrons allow if not given.
        external_field: (3,) in V/A.
        where: Name of the structure in error messages.

    Raises:
        StructureError: see :func:`to_structure`.
        ChargeSpinError: see :func:`to_structure`.
    """
    numbers = np.array(numbers, dtype=np.int64)
    _check_numbers(numbers, where)
    positions = np.array(positions, dtype=np.float64)  # a copy: atoms may move later
    check_positions(positions, where)
    cell = np.zeros((3, 3)) if cell is None else np.array(cell, dtype=np.float64)
    periodic = np.zeros(3, dtype=bool)
    periodic[:] = pbc
    check_cell(cell, periodic, where)
    charge, spin = _settle_state(int(numbers.sum()), total_charge, spin_multiplicity, where)
    return Structure(
        numbers=numbers,
        positions=positions,
        cell=cell,
        pbc=periodic,
        total_charge=charge,
        spin_multiplicity=spin,
        external_field=_settle_field(external_field, where),
    )


def _check_numbers(numbers: np.ndarray, where: str) -> None:
    if len(numbers) == 0:
        raise StructureError(f"{where} must have at least one atom, got none")
    if numbers.min() < 1 or numbers.max() > 118:
        raise StructureError(f"{where}: atomic numbers must be 1..118, got {set(numbers.tolist())}")


def with_state(atoms: ase.Atoms, structure: Structure) -> ase.Atoms:
    """The atoms, labels and all, with the charge, spin and field that were used in ``info``.

    Other keys for the same are removed, so that no two can contradict each other.
    """
    copy = atoms.copy()
    copy.calc = atoms.calc
    for key in (*INFO_CHARGE, *INFO_SPIN, INFO_FIELD):
        copy.info.pop(key, None)
    copy.info[INFO_CHARGE[0]] = structure.total_charge
    copy.info[INFO_SPIN[0]] = structure.spin_multiplicity
    if structure.external_field is not None:
        copy.info[INFO_FIELD] = structure.external_field
    return copy


def _settle_field(field: Any, where: str) -> np.ndarray | None:
    """Three finite numbers in V/A; None where there is no field or it is zero."""
    if field is None:
        return None
    try:
        values = np.asarray(field, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    if values.shape != (3,) or not np.isfinite(values).all():
        raise StructureError(
            f"{where}: `external_field` must be three finite numbers in V/A, got {field!r}"
        )
    return values if values.any() else None


def as_atoms(source: Any, where: str) -> ase.Atoms:
    """ASE atoms of any supported object; StructureError for others, naming ``where`` it stood."""
    if isinstance(source, ase.Atoms):
        return source
    convert = getattr(source, "to_ase_atoms", None)  # pymatgen structures and molecules
    if callable(convert):
        try:
            return as_atoms(convert(), where)
        except KeyError as error:  # ASE has no such symbol
            raise StructureError(f"{where}: {unknown_symbol(error)}") from error
    if callable(getattr(source, "GetConformer", None)):
        return _from_rdkit(source, where)
    raise StructureError(
        f"{where} must be an ASE Atoms object, an RDKit molecule, a pymatgen structure, a list of "
        f"them or the path of a structure file, got {type(source).__name__}"
    )


def _is_structure(source: Any) -> bool:
    """Whether it is one structure and not a sequence of them (ASE atoms are iterable)."""
    return isinstance(source, ase.Atoms) or any(
        callable(getattr(source, name, None)) for name in ("to_ase_atoms", "GetConformer")
    )


def _from_rdkit(molecule: Any, where: str) -> ase.Atoms:
    """RDKit molecule with one 3D conformer and explicit hydrogens; formal charges are kept."""
    if molecule.GetNumConformers() == 0 or any(a.GetTotalNumHs() for a in molecule.GetAtoms()):
        raise StructureError(
            f"{where}: an RDKit molecule needs explicit hydrogens and a conformer; "
            "use Chem.AddHs and AllChem.EmbedMolecule"
        )
    members = list(molecule.GetAtoms())
    atoms = ase.Atoms(
        [atom.GetAtomicNum() for atom in members], molecule.GetConformer().GetPositions()
    )
    atoms.info["charge"] = sum(atom.GetFormalCharge() for atom in members)
    atoms.info["spin_multiplicity"] = 1 + sum(a.GetNumRadicalElectrons() for a in members)
    return atoms


def check_positions(positions: np.ndarray, where: str) -> None:
    """Raise StructureError for positions (n_atoms, 3) that are not finite, naming the atom."""
    if not np.isfinite(positions).all():
        bad = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise StructureError(
            f"{where}: positions must be finite, atom {bad} is at {positions[bad]}"
        )


def check_cell(cell: np.ndarray, pbc: np.ndarray, where: str) -> None:
    """Raise StructureError if the periodic rows of the cell are not finite or span no volume."""
    if not pbc.any():
        return
    if not np.isfinite(cell).all():
        raise StructureError(f"{where}: the cell must be finite, got {cell.tolist()}")
    # length, area or volume of the periodic rows: the root of their Gram determinant
    rows = cell[pbc]
    with np.errstate(over="ignore", invalid="ignore"):
        measure = np.sqrt(np.linalg.det(rows @ rows.T).clip(min=0.0))
    if not measure >= _MIN_VOLUME:  # also for nan, of vectors so long that their squares overflow
        raise StructureError(
            f"{where}: pbc is {pbc.tolist()}, so these rows of the cell must span a volume, "
            f"got {rows.tolist()}; give a cell or set atoms.pbc = False"
        )


def _from_info(atoms: ase.Atoms, names: Sequence[str], what: str, where: str) -> int | None:
    """Value of ``atoms.info`` under any of the names; None where there is none.

    Raises:
        ChargeSpinError: for values that are no integers or contradict each other.
    """
    found = {n: _integer(atoms.info[n], what, where) for n in names if n in atoms.info}
    if len(set(found.values())) > 1:
        raise ChargeSpinError(f"{where}: atoms.info has contradictory values {found}")
    return next(iter(found.values()), None)


def lowest_spin(n_electrons: int) -> int:
    """Lowest spin multiplicity 2S+1 that a number of electrons allows."""
    return 1 + n_electrons % 2


def _settle_state(n_protons: int, charge: Any, spin: Any, where: str) -> tuple[int, int]:
    """Charge and multiplicity, with defaults: neutral, and no more unpaired electrons than needed.

    Raises:
        ChargeSpinError: for values that are no integers or do not fit the number of electrons.
    """
    charge = 0 if charge is None else _integer(charge, "total charge", where)
    n_electrons = n_protons - charge
    if n_electrons < 0:
        raise ChargeSpinError(f"{where}: total charge {charge} exceeds the {n_protons} electrons")
    if spin is None:
        return charge, lowest_spin(n_electrons)
    # 2S unpaired electrons: 2S and the number of electrons are both even or both odd
    spin = _integer(spin, "spin multiplicity", where)
    unpaired = spin - 1
    if spin < 1 or unpaired > n_electrons or (n_electrons - unpaired) % 2:
        parity = "odd" if n_electrons % 2 == 0 else "even"
        raise ChargeSpinError(
            f"{where}: {n_electrons} electrons (total charge {charge}) need an {parity} spin "
            f"multiplicity 2S+1 of at most {n_electrons + 1}, got {spin}"
        )
    return charge, spin


def _integer(value: Any, name: str, where: str) -> int:
    """The value as an integer; ChargeSpinError for 0.5 and for what is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if number != np.round(number) or not np.isfinite(number):
        raise ChargeSpinError(f"{where}: {name} must be an integer, got {value!r}")
    return int(number)


def read_structures(path: Path) -> Iterator[tuple[Structure, ase.Atoms]]:
    """Structures of a file in any format ASE knows, with the atoms they came from.

    Raises:
        StructureError: if the file is missing, unreadable or empty.
    """
    told: set[str] = set()
    for index, atoms in enumerate(read_atoms(path)):
        yield to_structure(atoms, where=f"{path.name}, frame {index}", told=told), atoms


def read_atoms(path: Path) -> list[ase.Atoms]:
    """Atoms of a file in any format ASE knows; charge and spin are not looked at.

    Rows of an ASE database have their key-value pairs and data in ``info``: there the charge is.

    Raises:
        StructureError: if the file is missing, unreadable or empty.
    """
    images = _database_rows(path) if path.suffix == ".db" and path.is_file() else read_images(path)
    if not images:
        raise StructureError(f"structure file {path} holds no structures")
    return images


def _database_rows(path: Path) -> list[ase.Atoms]:
    """Rows of an ASE database, key-value pairs and data beside each other in ``info``."""
    from ase.db import connect  # start-up: imports scipy

    try:
        check_size(path)
        found = list(connect(path).select())
    except (sqlite3.Error, ValueError, KeyError, IndexError, OSError) as error:
        raise StructureError(f"structure file {path} cannot be read: {error}") from error
    return [database_atoms(row, path) for row in found]


def database_atoms(row: Any, path: Path) -> ase.Atoms:
    """Atoms of a row of an ASE database, key-value pairs and data beside each other in ``info``.

    Raises:
        StructureError: if a key has two values.
    """
    atoms = row.toatoms(add_additional_information=True)
    for nested in ("key_value_pairs", "data"):
        for key, value in dict(atoms.info.pop(nested, None) or {}).items():
            other = atoms.info.setdefault(key, value)
            if other is not value and not np.array_equal(other, value):
                raise StructureError(
                    f"{path.name}, row {row.id}: `{key}` must have one value, got {other!r} "
                    f"and {value!r}"
                )
    return atoms


def to_structures(
    source: Any,
    *,
    total_charge: int | Sequence[int] | None = None,
    spin_multiplicity: int | Sequence[int] | None = None,
    external_field: Any = None,
) -> tuple[list[Structure], bool]:
    """Check one or many structures.

    Args:
        source: Atoms, a sequence of them, or the path of a structure file.
        total_charge: One value for all, or one per structure.
        spin_multiplicity: One value for all, or one per structure.
        external_field: (3,) in V/A for all, or (n_structures, 3).

    Returns:
        The structures, and whether ``source`` was a single one.

    Raises:
        StructureError: see :func:`to_structure`; also for an empty list.
        ChargeSpinError: see :func:`to_structure`; also for a wrong number of values.
    """
    if isinstance(source, (str, Path)):
        items: list[Any] = list(read_atoms(Path(source)))
        is_single, name = False, f"{Path(source).name}, frame"
    elif isinstance(source, Iterable) and not _is_structure(source):
        items, is_single, name = list(source), False, "structure"
    else:
        items, is_single, name = [source], True, "structure"
    if not items:
        raise StructureError("at least one structure must be given, got an empty list")
    charges = _spread(total_charge, len(items), "total_charge")
    spins = _spread(spin_multiplicity, len(items), "spin_multiplicity")
    fields = _spread_field(external_field, len(items))
    told: set[str] = set()
    structures = [
        to_structure(
            item,
            total_charge=charge,
            spin_multiplicity=spin,
            external_field=field,
            where=name if is_single else f"{name} {index}",
            told=told,
        )
        for index, (item, charge, spin, field) in enumerate(
            zip(items, charges, spins, fields, strict=True)
        )
    ]
    return structures, is_single


def _spread(value: Any, count: int, name: str) -> list[Any]:
    """One value per structure from one for all or a sequence; ChargeSpinError for another count."""
    if value is None or np.ndim(value) == 0:
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise ChargeSpinError(
            f"`{name}` must be one value or one per structure ({count}), got {len(values)}"
        )
    return values


def _spread_field(field: Any, count: int) -> list[Any]:
    """One field per structure from one for all or a row each; StructureError for another count."""
    if field is None or np.ndim(field) != 2:
        return [field] * count
    if len(field) != count:
        raise StructureError(
            f"`external_field` must be three numbers or one row per structure ({count}), "
            f"got {len(field)} rows"
        )
    return list(field)
