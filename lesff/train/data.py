"""Labelled structures: npz shards, extxyz files, databases and lists of atoms, read as frames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import ase
import numpy as np

from lesff.atoms.contacts import warn_of_close_frames
from lesff.atoms.structure import Structure, read_structures, to_structure
from lesff.errors import DataError
from lesff.quantities import DIPOLE_ORIGINS, INFO_DIPOLE_ORIGIN, INFO_FIELD
from lesff.train.labels import LabelReader, LabelSummary, dipole_about_nuclear_charge
from lesff.train.shards import read_shard

CHARGE_SUM_TOLERANCE = 0.05
"""Allowed difference (e) of a sum of charge labels to the total charge."""

SHARD_DIPOLE_ORIGIN = "coordinates"
"""Point that dipoles of ions are about in an npz shard without an array ``dipole_origin``."""

_ATOM_ARRAYS = ("forces", "charges", "born_effective_charges")
_SYSTEM_ARRAYS = ("dipole", "stress", "polarizability")

Source = Path | str | Sequence[ase.Atoms]
"""Where frames come from: a file (npz shard or anything ASE reads) or a list of Atoms."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some atoms of a frame, in order, far from the others.

    Attributes:
        n_atoms: How many.
        charge: Their total charge, e.
        unpaired: Their 2S; NaN if the spins of the frame do not say.
    """

    n_atoms: int
    charge: float
    unpaired: float


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One labelled structure; conventions as in :data:`lesff.train.labels.LABELS`.

    Attributes:
        structure: Atoms, cell, charge and spin.
        energy: eV; NaN if there is no label.
        forces: (n_atoms, 3) in eV/A; NaN if there is no label.
        dipole: (3,) in e A, of ions about the centre of nuclear charge, or None.
        stress: (3, 3) in eV/A^3, or None.
        charges: (n_atoms,) in e, or None.
        born_effective_charges: (n_atoms, 3, 3) in e, [a, i, j] = dP_i / dr_aj, or None.
        weight: Weight in the loss.
        is_closed: Whether a singlet is one of closed shells, not of radicals with opposite spins.
        group: Name of the molecule or composition; splits keep groups together.
        subset: Name of the part of the data the frame belongs to.
        is_validation: Whether the data's own split holds the frame out.
        parts: Of a composite, else empty.
    """

    structure: Structure
    energy: float
    forces: np.ndarray
    dipole: np.ndarray | None = None
    stress: np.ndarray | None = None
    charges: np.ndarray | None = None
    born_effective_charges: np.ndarray | None = None
    weight: float = 1.0
    is_closed: bool = True
    group: str = ""
    subset: str = ""
    is_validation: bool = False
    parts: tuple[Part, ...] = ()

    def labels(self) -> tuple[str, ...]:
        """Names of the labels that it has."""
        known = {"energy": self.energy == self.energy, "forces": np.isfinite(self.forces).all()}
        others = ("dipole", "stress", "charges", "born_effective_charges")
        known |= {name: getattr(self, name) is not None for name in others}
        return tuple(name for name, is_there in known.items() if is_there)


def unlabelled(structure: Structure, *, subset: str = "", weight: float = 1.0) -> Frame:
    """A frame that is yet to be labelled."""
    return Frame(
        structure=structure,
        energy=float("nan"),
        forces=np.full((len(structure), 3), np.nan),
        subset=subset,
        weight=weight,
    )


def structure_hash(frame: Frame) -> str:
    """Name of a structure to 1e-4 A: elements, positions, cell, charge, spin, field."""
    s = frame.structure
    parts = [s.numbers, np.round(s.positions, 4) + 0.0, s.pbc]
    if s.pbc.any():
        parts.append(np.round(s.cell, 4) + 0.0)
    parts.append(np.array([s.total_charge, s.spin_multiplicity]))
    if s.external_field is not None:
        parts.append(s.external_field)
    return hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest()


def read_frames(path: Path, *, weight: float = 1.0) -> list[Frame]:
    """Frames of an npz shard or of any file ASE reads, all with energies and forces.

    Raises:
        DataError: if the file is missing, empty, lacks labels, or has labels that are not finite.
    """
    return read_labelled(path, weight=weight, required=("energy", "forces"))[0]


def read_labelled(
    source: Source,
    *,
    keys: Mapping[str, str] | None = None,
    required: Sequence[str] = (),
    weight: float = 1.0,
    group_key: str | None = None,
) -> tuple[list[Frame], LabelSummary]:
    """Frames with whatever labels they have, and what was found.

    Args:
        source: An npz shard, a file or database that ASE reads, or a list of Atoms.
        keys: Key of a label, by label name; the table of ``lesff.train.labels`` for the rest.
        required: Labels that every frame must have.
        weight: Weight of the frames in the loss; times ``info["weight"]`` of a frame.
        group_key: Key of ``info`` that names the group of a frame; ``molecule`` or else the formula
            if not given.

    Raises:
        DataError: if there is no frame, a label is missing or cannot be used, or charges do not sum
            to the total charge. The message names file and frame.
    """
    reader = LabelReader(keys)
    frames, name = _read(source, reader, keys, required, weight, group_key)
    return _looked_at(frames, reader.summary, name)


def _read(
    source: Source,
    reader: LabelReader,
    keys: Mapping[str, str] | None,
    required: Sequence[str],
    weight: float = 1.0,
    group_key: str | None = None,
) -> tuple[list[Frame], str]:
    """Frames, and the name of where they come from."""
    name = "the given list"
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.exists():
            raise DataError(f"data file {path} does not exist")
        name = str(path)
        if path.suffix == ".npz":
            if keys:
                raise DataError(
                    f"{path}: the arrays of a shard have fixed names; leave out `labels`"
                )
            return list(_npz_frames(path, weight, reader.summary)), name
        subset = path.stem
        pairs = read_structures(path)
    else:
        subset, pairs = "frames", _structures(source)
    frames = [
        _frame(structure, atoms, reader, f"{name}, frame {index}", required, weight, group_key,
               subset)
        for index, (structure, atoms) in enumerate(pairs)
    ]  # fmt: skip
    if not frames:
        raise DataError(f"{name} holds no frames")
    return frames, name


def _looked_at(
    frames: list[Frame], summary: LabelSummary, name: str
) -> tuple[list[Frame], LabelSummary]:
    """Frames and summary, which says where atoms are too close."""
    text = warn_of_close_frames([frame.structure for frame in frames], name)
    if text is not None:
        summary.notes.append(text)
    return frames, summary


def _structures(atoms_list: Iterable[ase.Atoms]) -> Iterator[tuple[Structure, ase.Atoms]]:
    told: set[str] = set()
    for index, atoms in enumerate(atoms_list):
        yield to_structure(atoms, where=f"frame {index}", told=told), atoms


def labelled_pieces(
    path: Path,
    size: int,
    *,
    keys: Mapping[str, str] | None = None,
    required: Sequence[str] = (),
) -> Iterator[list[Frame]]:
    """Frames of a file in pieces, for data sets whose frames do not fit into memory together.

    Of an npz shard the arrays are in memory, and the frames of one piece; other files are read
    whole, as by :func:`read_labelled`. Distances of atoms are not looked at.

    Args:
        path: An npz shard, or a file or database that ASE reads.
        size: Most frames of a piece.
        keys: As ``required``, see :func:`read_labelled`.
        required: Labels that every frame must have.

    Raises:
        DataError: as :func:`read_labelled`.
    """
    if path.suffix == ".npz" and not keys:
        frames = _npz_frames(path, 1.0, LabelReader().summary)
    else:
        frames = iter(_read(path, LabelReader(keys), keys, required)[0])
    while piece := list(islice(frames, size)):
        yield piece


def _npz_frames(path: Path, weight: float, summary: LabelSummary) -> Iterator[Frame]:
    data = read_shard(path)
    counts = data["n"].astype(np.int64)
    ends = np.cumsum(counts)
    n = len(counts)
    charge = data.get("charge", np.zeros(n))
    spin = data.get("spin_multiplicity", np.ones(n))
    group = data.get("group", np.arange(n))
    valid = data.get("valid", np.zeros(n, dtype=bool))
    weights = data.get("weight", np.ones(n)).astype(np.float64)
    pbc = data.get("pbc", np.ones((n, 3), dtype=bool)).astype(bool)
    fields = data.get(INFO_FIELD, np.zeros((n, 3))).astype(np.float64)
    # shards were about the coordinate origin before they could say so
    origins = data.get(INFO_DIPOLE_ORIGIN, np.full(n, SHARD_DIPOLE_ORIGIN))
    open_cell, open_pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)
    labels = [key for key in ("energy", *_ATOM_ARRAYS, *_SYSTEM_ARRAYS) if key in data]
    missing = {
        key: int(np.isnan(data[key].reshape(n, -1)).all(1).sum())
        for key in _SYSTEM_ARRAYS
        if key in data
    }
    summary.found = {(key, key): n - missing.get(key, 0) for key in labels}
    for i, (start, stop) in enumerate(zip(ends - counts, ends, strict=True)):
        cell = data["cell"][i].astype(np.float64) if "cell" in data else open_cell
        structure = Structure(
            numbers=data["numbers"][start:stop].astype(np.int64),
            positions=data["positions"][start:stop].astype(np.float64),
            cell=cell,
            pbc=pbc[i] if "cell" in data else open_pbc,
            total_charge=int(charge[i]),
            spin_multiplicity=int(spin[i]),
            external_field=fields[i] if fields[i].any() else None,
        )
        summary.count_state(structure.total_charge, structure.spin_multiplicity)
        values = {key: data[key][start:stop] for key in _ATOM_ARRAYS if key in data}
        if "stress" in data and structure.pbc.all():
            values["stress"] = data["stress"][i]
        if "dipole" in data and not structure.pbc.any():
            values["dipole"] = data["dipole"][i]
        # of a system, NaN throughout says that the teacher had none
        values = {k: v for k, v in values.items() if k in _ATOM_ARRAYS or not np.isnan(v).all()}
        for key, value in (*values.items(), ("energy", data["energy"][i])):
            if not np.isfinite(value).all():
                raise DataError(
                    f"{path}, frame {i}: labels must be finite, got NaN or infinity in {key}"
                )
        if "dipole" in values:
            values["dipole"] = dipole_about_nuclear_charge(
                values["dipole"],
                numbers=structure.numbers,
                positions=structure.positions,
                total_charge=structure.total_charge,
                origin=origins[i],
                where=f"{path}, frame {i}",
            )
        yield Frame(
            structure=structure,
            energy=float(data["energy"][i]),
            weight=weight * checked_weight(weights[i], f"{path}, frame {i}"),
            group=group[i].decode() if isinstance(group[i], bytes) else str(group[i]),
            subset=path.stem,
            is_validation=bool(valid[i]),
            **values,  # pyright: ignore[reportArgumentType]
        )


def has_label(frame: Frame, name: str) -> bool:
    """Whether a frame has a label, by its name in :class:`Frame`."""
    if name == "energy":
        return frame.energy == frame.energy
    if name == "forces":
        return bool((frame.forces == frame.forces).all())
    return getattr(frame, name) is not None


def _frame(
    structure: Structure,
    atoms: ase.Atoms,
    reader: LabelReader,
    where: str,
    required: Sequence[str],
    weight: float,
    group_key: str | None,
    subset: str,
) -> Frame:
    labels = reader.read(atoms, where)
    reader.summary.count_state(structure.total_charge, structure.spin_multiplicity)
    missing = [key for key in required if key not in labels]
    if missing:
        reader.summary.check_results()
        raise DataError(f"{where}: no {' and no '.join(missing)}")
    if "dipole" in labels:
        labels["dipole"] = dipole_about_nuclear_charge(
            labels["dipole"],
            numbers=structure.numbers,
            positions=structure.positions,
            total_charge=structure.total_charge,
            origin=atoms.info.get(INFO_DIPOLE_ORIGIN, DIPOLE_ORIGINS[0]),
            where=where,
        )
    charges = labels.get("charges")
    if charges is not None and abs(charges.sum() - structure.total_charge) > CHARGE_SUM_TOLERANCE:
        raise DataError(
            f"{where}: charges must sum to the total charge {structure.total_charge}, got "
            f"{charges.sum():.3f} e; set info['charge'], or leave them out with "
            "labels={'charges': ''}"
        )
    if group_key is not None and group_key not in atoms.info:
        raise DataError(f"{where}: no info[{group_key!r}] to group by")
    group = atoms.info.get(group_key or "molecule", atoms.get_chemical_formula())
    return Frame(
        structure=structure,
        energy=float(labels.pop("energy", np.nan)),
        forces=labels.pop("forces", np.full((len(atoms), 3), np.nan)),
        weight=weight * _weight_of(atoms, where),
        group=str(group),
        subset=str(atoms.info.get("subset", subset)),
        **labels,  # pyright: ignore[reportArgumentType]
    )


def _weight_of(atoms: ase.Atoms, where: str) -> float:
    """``info["weight"]`` of a frame, 1 if absent."""
    return checked_weight(atoms.info.get("weight", 1.0), where)


def checked_weight(weight: object, where: str) -> float:
    """Weight of a frame.

    Raises:
        DataError: if it is no number, or negative or infinite.
    """
    if not isinstance(weight, (int, float, np.number)) or not 0.0 <= float(weight) < np.inf:
        raise DataError(f"{where}: `weight` must be a number of at least 0, got {weight!r}")
    return float(weight)
