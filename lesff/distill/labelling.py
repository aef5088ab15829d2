"""Labelled shards: each appears complete or not at all, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import BaseCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from tqdm.auto import tqdm

from lesff.atoms.structure import Structure
from lesff.distill.options import DistillOptions
from lesff.distill.sampling import Task, plan_tasks, sample
from lesff.errors import DataError, IntegrityError, LeftOutWarning, LesffError, warn
from lesff.methods import FAILURES, Method
from lesff.plain_data import read_json, write_json
from lesff.quantities import DIPOLE_ORIGINS
from lesff.train.data import structure_hash, unlabelled
from lesff.train.shards import write_npz

SHARDS = "shards"
"""Folder of the shards inside the run folder."""
PLAN_FILE = "plan.json"
LABELS_FILE = "labels.npz"
"""All shards in one file, inside the run folder."""
_NAMED = 5
"""Structures that a message names."""


def label_structures(
    teacher: Method,
    structures: Sequence[Structure],
    options: DistillOptions,
    output: Path,
    *,
    driver: Method | None = None,
    progress: bool = False,
) -> list[Path]:
    """Sample and label; shards that are there are kept.

    Args:
        teacher: What labels.
        structures: What is sampled around.
        options: How.
        output: Run folder.
        driver: What drives dynamics; the teacher if not given.
        progress: Whether to show a progress bar.

    Returns:
        The shards: npz files as :func:`lesff.train.data.read_frames` reads them, in order. A
        warning names structures of which every frame has too large forces.

    Raises:
        DataError: for structures that cannot be sampled or labelled, or if the disk is full.
        IntegrityError: if the folder belongs to another teacher, structures or options.
    """
    for one in (teacher, driver or teacher):
        one.check(list(structures))
    in_field = [i for i, s in enumerate(structures) if s.external_field is not None]
    if in_field:
        raise DataError(
            f"structure {in_field[0]} has an external field, which sampling and teachers would not "
            "see: leave it out"
        )
    tasks = plan_tasks(structures, options)
    _check_plan(output, teacher, structures, options)
    folder = output / SHARDS
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{task.index:05d}.npz" for task in tasks]
    total = sum(task.frames for task in tasks)
    with tqdm(total=total, disable=not progress, unit="frame", desc="label") as bar:
        for task, path in zip(tasks, paths, strict=True):
            if not path.exists():
                write_npz(path, _shard(task, structures[task.source], teacher, driver, options))
            bar.update(task.frames)
    return _with_frames(tasks, paths, options)


def _with_frames(
    tasks: Sequence[Task], paths: Sequence[Path], options: DistillOptions
) -> list[Path]:
    """Shards that have frames; structures without are named.

    Raises:
        DataError: if no shard has any.
    """
    kept, without = [], []
    for task, path in zip(tasks, paths, strict=True):
        with np.load(path, allow_pickle=False) as file:
            is_empty = len(file["n"]) == 0
        if is_empty:
            without.append(task.source)
        else:
            kept.append(path)
    if not without:
        return kept
    named = ", ".join(map(str, list(dict.fromkeys(without))[:_NAMED]))
    text = (
        f"every frame of {len(without)} of {len(paths)} shards (structure {named}"
        f"{', ...' if len(set(without)) > _NAMED else ''}) has forces above "
        f"{options.max_force:g} eV/A: far from equilibrium for this teacher; relax such structures "
        "first, or raise `max_force`"
    )
    if not kept:
        raise DataError(text)
    warn(f"{text}; they are left out", LeftOutWarning)
    return kept


def _check_plan(
    output: Path, teacher: Method, structures: Sequence[Structure], options: DistillOptions
) -> None:
    hashes = "".join(structure_hash(unlabelled(structure)) for structure in structures)
    plan = {
        "teacher": teacher.name,
        "structures_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        "options": json.loads(json.dumps(asdict(options))),
    }
    path = output / PLAN_FILE
    if path.exists():
        before = read_json(path)
        changed = [name for name in plan if before.get(name) != plan[name]]
        if changed:
            raise IntegrityError(
                f"{output} was begun with other {', '.join(changed)}; use the same to resume, or "
                "another folder"
            )
    write_json(path, plan)


def _shard(
    task: Task,
    structure: Structure,
    teacher: Method,
    driver: Method | None,
    options: DistillOptions,
) -> dict[str, np.ndarray]:
    where = f"{task.group}, shard {task.index}"
    calculator = _calculator(teacher, structure)
    moving = calculator if driver is None else _calculator(driver, structure)
    frames: list[ase.Atoms] = []
    labels: list[dict[str, np.ndarray]] = []
    dropped = 0
    try:
        for number, atoms in enumerate(sample(task, structure, options, moving)):
            found = label_atoms(atoms, calculator, f"{where}, frame {number}")
            if np.linalg.norm(found["forces"], axis=1).max() > options.max_force:
                dropped += 1
                continue
            frames.append(atoms)
            labels.append(found)
    except (RuntimeError, ValueError, ArithmeticError, NotImplementedError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: sampling failed: {type(error).__name__}: {error}") from error
    if not frames:
        return {"n": np.zeros(0, dtype=np.int64), "dropped": np.array([dropped])}
    return _arrays(task, structure, frames, labels, dropped)


def _calculator(method: Method, structure: Structure) -> BaseCalculator:
    return method.fast_calculator(structure.total_charge, structure.spin_multiplicity)


def label_atoms(atoms: ase.Atoms, calculator: BaseCalculator, where: str) -> dict[str, np.ndarray]:
    """Labels of a structure by its teacher.

    Energy (eV) and forces (eV/A); stress of crystals (eV/A^3) and dipole of neutral molecules (e A)
    where the teacher has them.

    Args:
        atoms: The structure, with ``charge`` in ``info``.
        calculator: The teacher.
        where: Name of the structure in errors.

    Raises:
        DataError: if it fails, or a label is not finite.
    """
    names = ["energy", "forces"]
    if atoms.pbc.all() and "stress" in calculator.implemented_properties:
        names.append("stress")
    is_neutral = atoms.info.get("charge", 0) == 0
    if not atoms.pbc.any() and is_neutral and "dipole" in calculator.implemented_properties:
        names.append("dipole")
    try:
        found = {n: np.array(calculator.get_property(n, atoms), dtype=np.float64) for n in names}
    except LesffError:
        raise
    except FAILURES as error:
        raise DataError(
            f"{where}: the teacher failed ({type(error).__name__}: {error}); leave this structure "
            "out or sample closer to it"
        ) from error
    bad = [name for name, value in found.items() if not np.isfinite(value).all()]
    if bad:
        raise DataError(f"{where}: the teacher's {bad[0]} must be finite, got NaN or infinity")
    if "stress" in found and found["stress"].shape == (6,):
        found["stress"] = voigt_6_to_full_3x3_stress(found["stress"])
    return found


def _arrays(
    task: Task,
    structure: Structure,
    frames: Sequence[ase.Atoms],
    labels: Sequence[dict[str, np.ndarray]],
    dropped: int,
) -> dict[str, np.ndarray]:
    count = len(frames)
    arrays: dict[str, Any] = {
        "n": np.full(count, len(structure)),
        "numbers": np.tile(structure.numbers, count),
        "positions": np.concatenate([atoms.positions for atoms in frames]),
        "charge": np.full(count, structure.total_charge),
        "spin_multiplicity": np.full(count, structure.spin_multiplicity),
        "dipole_origin": np.full(count, DIPOLE_ORIGINS[0].encode()),
        "group": np.full(count, task.group.encode()),
        "valid": np.full(count, task.is_validation),
        "dropped": np.array([dropped]),
    }
    if structure.pbc.any():
        arrays["cell"] = np.stack([np.array(atoms.cell) for atoms in frames])
        arrays["pbc"] = np.tile(structure.pbc, (count, 1))
    for name in labels[0]:
        values = [found[name] for found in labels]
        arrays[name] = np.concatenate(values) if name == "forces" else np.stack(values)
    return arrays


def pack_shards(paths: Sequence[Path], output: Path) -> Path:
    """All shards in one compressed file; a label that a shard lacks is NaN in its frames.

    Raises:
        DataError: if the file cannot be written.
    """
    shards = []
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            shards.append({name: file[name] for name in file.files if name != "dropped"})
    names = sorted(set().union(*shards))
    arrays = {
        name: np.concatenate([_with_gaps(shard, names)[name] for shard in shards]) for name in names
    }
    write_npz(output, arrays, np.savez_compressed)
    return output


def _with_gaps(shard: dict[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The shard with what others beside it have: an open cell, and no stress or dipole (NaN)."""
    count = len(shard["n"])
    filled: dict[str, np.ndarray] = {
        "cell": np.zeros((count, 3, 3)),
        "pbc": np.zeros((count, 3), dtype=bool),
        "stress": np.full((count, 3, 3), np.nan),
        "dipole": np.full((count, 3), np.nan),
    }
    return {name: filled[name] for name in names if name in filled} | shard


def check_parts(paths: Sequence[Path]) -> None:
    """Refuse shards to train on if none is held out, or all are.

    Raises:
        DataError: if so.
    """
    held_out = set()
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            held_out.add(bool(file["valid"][0]))
    if len(held_out) == 1:
        part = "training" if held_out == {True} else "held-out"
        raise DataError(
            f"no {part} structure has a frame with forces below `max_force`: relax the structures "
            "first, raise `max_force`, or have others held out with another `seed`, in another "
            f"folder; the labels of the rest are in {paths[0].parent}"
        )


def dropped_frames(folder: Path) -> int:
    """Frames that were left out for their forces, of all shards of a folder."""
    total = 0
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            total += int(file["dropped"][0])
    return total
