"""Text of clients becomes atoms. No path is opened; sizes are judged before work is done."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import ase
import numpy as np
from ase.data import atomic_numbers

from lesff.atoms.files import unknown_symbol
from lesff.atoms.state import warn_of_ground_state
from lesff.atoms.structure import Structure, structure_of_arrays
from lesff.atoms.xyz import frames_of_text
from lesff.bulk.smiles import atoms_of_smiles
from lesff.errors import LesffError, StructureError
from lesff.notices import heard
from lesff.quantities import INFO_CHARGE, INFO_FIELD, INFO_SPIN
from lesff.service.faults import ServiceError
from lesff.service.limits import Limits
from lesff.service.requests import StructureRequest

_COLUMNS = re.compile(r"Properties\s*=\s*\"?([^\s\"]+)", re.IGNORECASE)
_MAX_COLUMNS = 64
_CIF_LINES = 4000
_HEAVY = 60
"""Heavy atoms of a SMILES, at most: the time of RDKit's embedding grows fast."""
_KEPT = {*INFO_CHARGE, *INFO_SPIN, INFO_FIELD}


def read(request: StructureRequest, limits: Limits) -> list[ase.Atoms]:
    """Structures of a request; charge, spin and field that it gives are in ``info``.

    Raises:
        StructureError: for what is no structure.
        ServiceError: for more atoms or structures than are allowed.
        MissingDependencyError: for a SMILES without RDKit.
    """
    frames = _frames(request, limits)
    if not frames:
        raise StructureError("the text holds no structure")
    if len(frames) > limits.max_structures:
        raise ServiceError(
            413, "structures", f"at most {limits.max_structures} structures, got {len(frames)}"
        )
    check_atoms(sum(len(atoms) for atoms in frames), limits)
    for atoms in frames:
        _settle(atoms, request)
    return frames


def structure_of_lists(request: StructureRequest, limits: Limits) -> Structure:
    """The structure of a request with lists of numbers, without the detour of ASE's atoms.

    Raises:
        StructureError: for what is no structure.
        ChargeSpinError: for a charge and spin that the electrons do not allow.
        ServiceError: for more atoms than are allowed.
    """
    names = request.symbols or ()
    check_atoms(len(request.positions or ()), limits)
    pbc = request.cell is not None if request.pbc is None else request.pbc
    try:
        numbers = request.numbers or [atomic_numbers[name] for name in names]
    except KeyError as error:
        raise StructureError(unknown_symbol(error)) from None
    structure = structure_of_arrays(
        numbers,
        request.positions,
        cell=request.cell,
        pbc=pbc,
        total_charge=request.charge,
        spin_multiplicity=request.spin_multiplicity,
        external_field=request.external_field,
    )
    if request.spin_multiplicity is None and not structure.pbc.any():
        state = structure.total_charge, structure.spin_multiplicity
        warn_of_ground_state(structure.numbers, *state, where="structure", told=set())
    return structure


def check_atoms(count: int, limits: Limits) -> None:
    """Raise ServiceError for more atoms than a request may have."""
    if count > limits.max_atoms:
        raise ServiceError(413, "atoms", f"at most {limits.max_atoms} atoms, got {count}")


def _frames(request: StructureRequest, limits: Limits) -> list[ase.Atoms]:
    if request.smiles is not None:
        return [_of_smiles(request.smiles, limits)]
    if request.xyz is not None:
        return read_xyz_text(request.xyz, limits)
    if request.cif is not None:
        return [read_cif_text(request.cif, limits)]
    names = request.symbols if request.symbols is not None else request.numbers
    assert names is not None  # noqa: S101 - by the model of the request
    check_atoms(len(names), limits)
    positions = np.array(request.positions, dtype=np.float64).reshape(-1, 3)
    try:
        return [ase.Atoms(np.array(names) if request.numbers else list(names), positions)]
    except KeyError as error:
        raise StructureError(unknown_symbol(error)) from None


def _of_smiles(smiles: str, limits: Limits) -> ase.Atoms:
    text = smiles.strip()
    letters = len(re.findall(r"\[[^\]]*\]|Br|Cl|[BCNOPSFIbcnops]", text))
    most = min(_HEAVY, limits.max_atoms)
    if letters > most:
        raise ServiceError(
            413,
            "atoms",
            f"a SMILES may have at most {most} heavy atoms, got {letters}: send coordinates",
        )
    return atoms_of_smiles(text)


def read_xyz_text(text: str, limits: Limits) -> list[ase.Atoms]:
    """Frames of the text of an xyz or extxyz file.

    Raises:
        StructureError: if it is none, or claims what it does not have.
        ServiceError: for more atoms than a request may have.
    """
    _check_claims(text, limits)
    simple = frames_of_text(text)
    if simple is not None:
        return simple
    from ase.io.extxyz import read_xyz  # start-up: imports scipy

    try:
        return list(read_xyz(io.StringIO(text), slice(None)))  # pyright: ignore[reportArgumentType]
    except Exception as error:  # noqa: BLE001 - readers of what strangers send raise anything
        raise StructureError(f"the xyz text cannot be read: {_why(error)}") from error


def _check_claims(text: str, limits: Limits) -> None:
    """Compare the numbers of atoms of the frames with the lines that are there."""
    lines, at, total, frame = text.splitlines(), 0, 0, 0
    while at < len(lines) and lines[at].strip():
        head = lines[at].strip()
        if not re.fullmatch(r"[0-9]{1,9}", head):
            raise StructureError(
                f"xyz, frame {frame}: the first line must be the number of atoms, got {head[:40]!r}"
            )
        n_atoms = int(head)
        total, frame = total + n_atoms, frame + 1
        check_atoms(total, limits)
        if len(lines) < at + 2 + n_atoms:
            raise StructureError(
                f"xyz, frame {frame - 1}: it claims {n_atoms} atoms and has "
                f"{max(len(lines) - at - 2, 0)}"
            )
        columns = _COLUMNS.search(lines[at + 1])
        counts = re.findall(r"[0-9]+", columns[1]) if columns else []
        if sum(int(count[:9]) for count in counts) > _MAX_COLUMNS:
            raise StructureError(f"xyz, frame {frame - 1}: more than {_MAX_COLUMNS} columns")
        at += 2 + n_atoms
        while at < len(lines) and lines[at].lstrip().startswith("VEC"):
            at += 1


def read_cif_text(text: str, limits: Limits) -> ase.Atoms:
    """The first crystal of the text of a CIF file.

    Raises:
        StructureError: if it is none.
        ServiceError: if it is longer than any crystal of the allowed number of atoms.
    """
    if text.count("\n") > _CIF_LINES or len(text) > 100 * _CIF_LINES:
        raise ServiceError(413, "atoms", f"a CIF may have at most {_CIF_LINES} lines")
    # each site has at most 192 images
    n_sites = sum(
        len(line.split()) >= 4 and not line.lstrip().startswith(("_", "#"))
        for line in text.splitlines()
    )
    check_atoms(max(n_sites - 300, 0), limits)  # lists of symmetry operations look like sites
    from ase.io.cif import parse_cif  # start-up: imports scipy

    try:
        with heard():
            images = list(parse_cif(io.StringIO(text)))
            first = images[0].get_atoms() if images else None
    except Exception as error:  # noqa: BLE001 - readers of what strangers send raise anything
        raise StructureError(f"the CIF text cannot be read: {_why(error)}") from error
    if first is None:
        raise StructureError("the CIF text holds no structure")
    return first


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return unknown_symbol(error)
    text = str(error) if isinstance(error, (ValueError, LesffError)) else ""
    return (text or type(error).__name__)[:300]


def _settle(atoms: ase.Atoms, request: StructureRequest) -> None:
    """Cell, charge, spin and field of the request come before those of the text."""
    # other keys are labels, which nothing here reads
    for key in [key for key in atoms.info if key not in _KEPT]:
        del atoms.info[key]
    atoms.calc = None
    if request.cell is not None:
        atoms.cell = np.array(request.cell)
        atoms.pbc = True
    if request.pbc is not None:
        atoms.pbc = request.pbc
    _replace(atoms, INFO_CHARGE, request.charge)
    _replace(atoms, INFO_SPIN, request.spin_multiplicity)
    _replace(atoms, (INFO_FIELD,), request.external_field)


def _replace(atoms: ase.Atoms, keys: Sequence[str], value: object) -> None:
    if value is None:
        return
    for key in keys:
        atoms.info.pop(key, None)
    atoms.info[keys[0]] = value
