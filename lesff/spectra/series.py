"""A property at every frame of a trajectory, resumable: one file per chunk of frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import ase
import numpy as np
from tqdm.auto import tqdm

from lesff.errors import DataError
from lesff.model import Model
from lesff.plain_data import write_json
from lesff.potential.potential import Potential
from lesff.potential.response import BornOptions
from lesff.train.shards import write_npz

CHUNK_FRAMES = 10
"""Frames per file."""


def property_series(
    model: Model,
    frames: Sequence[ase.Atoms],
    name: str,
    folder: Path,
    *,
    born: BornOptions | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Values of a property at every frame, (n_frames, ...), computed once.

    Interrupted work goes on where it stopped: chunks that are in ``folder`` are read. They are
    written under another name first, so a file that is there is whole. The trajectory may grow
    between calls.

    Args:
        model: The model.
        frames: The structures, all of the same atoms.
        name: A quantity of :data:`lesff.quantities.QUANTITIES`.
        folder: Where the chunks are.
        born: Options of Born effective charges.
        progress: Show a progress bar.

    Raises:
        DataError: if ``folder`` belongs to another model, property, options or trajectory.
    """
    options = born or BornOptions()
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, {
        "property": name, "weights": float64_digest(model.potential),
        "dtype": str(model.potential.dtype), "born_mode": options.mode,
        "sum_rule": options.sum_rule, "chunk_frames": CHUNK_FRAMES,
    })  # fmt: skip
    parts = []
    bar = tqdm(total=len(frames), disable=not progress, unit="frame", desc=name)
    for start in range(0, len(frames), CHUNK_FRAMES):
        chunk = list(frames[start : start + CHUNK_FRAMES])
        parts.append(_chunk(model, chunk, name, folder / f"{start:08d}.npz", options))
        bar.update(len(chunk))
    bar.close()
    return np.concatenate(parts)


def _chunk(
    model: Model, frames: list[ase.Atoms], name: str, path: Path, options: BornOptions
) -> np.ndarray:
    digests = np.array([structure_digest(atoms) for atoms in frames])
    known = np.zeros(0)
    if path.is_file():
        with np.load(path) as stored:
            n = min(len(stored["structures"]), len(frames))
            if not np.array_equal(stored["structures"][:n], digests[:n]):
                raise DataError(
                    f"{path} belongs to other frames; choose another output folder, or remove it"
                )
            known = stored["values"][:n]
        if n == len(frames):
            return known
    # the trajectory may have grown since: keep what is known of the last chunk
    rows = model.predict(frames[len(known) :], name, born=options, progress=False)
    fresh = np.array(rows[name])
    values = np.concatenate([known, fresh]) if len(known) else fresh
    write_npz(path, {"values": values, "structures": digests})
    return values


def _claim(folder: Path, settings: dict[str, object]) -> None:
    path = folder / "series.json"
    if not path.is_file():
        write_json(path, settings)
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    different = sorted(key for key in settings if stored.get(key) != settings[key])
    if different:
        raise DataError(
            f"{folder} was made with another {', '.join(different)}; choose another output folder, "
            "or remove it"
        )


def float64_digest(potential: Potential) -> str:
    """sha256 of the configuration and all weights."""
    digest = hashlib.sha256(json.dumps(potential.config.to_dict(), sort_keys=True).encode())
    for key, value in sorted(potential.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def structure_digest(atoms: ase.Atoms) -> str:
    """sha256 of elements, positions, cell and boundaries."""
    digest = hashlib.sha256()
    for part in (atoms.numbers, atoms.positions, np.array(atoms.cell), atoms.pbc):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
