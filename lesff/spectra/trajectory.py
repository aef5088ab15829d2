"""A molecular dynamics trajectory as arrays: unwrapped positions, velocities, times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ase.cell
import numpy as np
from ase import units

from lesff.atoms.structure import read_structures
from lesff.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Frames at equal times.

    Attributes:
        frames: The structures.
        time_step: Between frames, fs.
        positions: (n_frames, n_atoms, 3) in A, unwrapped: no jumps across the cell.
        velocities: (n_frames, n_atoms, 3) in A/fs.
        has_velocities: Whether velocities come from the file; else they are central differences
            of the positions.
        masses: (n_atoms,) in u.
        volume: Mean volume in A^3 of a crystal, or None.
        temperature: Mean kinetic temperature in K, one degree of freedom less per direction for
            the centre of mass.
    """

    frames: list[ase.Atoms]
    time_step: float
    positions: np.ndarray
    velocities: np.ndarray
    has_velocities: bool
    masses: np.ndarray
    volume: float | None
    temperature: float

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def temperature_or(self, given: float | None) -> float:
        """The given temperature in K, or that of the velocities.

        Differences of positions leave out what moves faster than frames are written: a temperature
        of theirs is too low by any factor.

        Raises:
            DataError: if none is given and the frames have no velocities.
        """
        if given is not None:
            return given
        if not self.has_velocities:
            raise DataError(
                "the frames have no velocities, whose temperature this needs: give `--temperature`"
            )
        return self.temperature


def read_trajectory(path: Path, time_step: float) -> Trajectory:
    """Read a trajectory of any format ASE knows.

    Args:
        path: The file; frames with momenta (``.traj``, extxyz) give the better velocities.
        time_step: Between frames, fs.

    Raises:
        StructureError: if the file cannot be read.
        DataError: for too few frames, changing atoms or boundaries, a bad time step, or a step so
            long that atoms cannot be followed across the cell.
    """
    return as_trajectory([atoms for _, atoms in read_structures(path)], time_step)


def as_trajectory(frames: list[ase.Atoms], time_step: float) -> Trajectory:
    """Frames in memory as a :class:`Trajectory`; see :func:`read_trajectory`."""
    if not (np.isfinite(time_step) and time_step > 0):
        raise DataError(f"`time_step` must be a positive number of fs, got {time_step!r}")
    if len(frames) < 4:
        raise DataError(f"a trajectory must have at least 4 frames, got {len(frames)}")
    first = frames[0]
    for index, atoms in enumerate(frames):
        same = np.array_equal(atoms.numbers, first.numbers)
        if not same or not np.array_equal(atoms.pbc, first.pbc):
            raise DataError(f"frame {index} must have the atoms and the pbc of frame 0")
    _check_times(frames, time_step)
    positions = unwrapped(frames)
    given = all(atoms.has("momenta") for atoms in frames)
    if given:
        velocities = np.array([a.get_velocities() for a in frames]) * units.fs
    else:
        velocities = np.gradient(positions, time_step, axis=0)
    masses = first.get_masses()
    periodic = bool(first.pbc.all())
    return Trajectory(
        frames=frames,
        time_step=time_step,
        positions=positions,
        velocities=velocities,
        has_velocities=given,
        masses=masses,
        volume=float(np.mean([a.get_volume() for a in frames])) if periodic else None,
        temperature=kinetic_temperature(velocities, masses),
    )


def _check_times(frames: list[ase.Atoms], time_step: float) -> None:
    """Frames that carry their times, as those of ``lesff md``, must be ``time_step`` apart."""
    times = [atoms.info.get("time_fs") for atoms in frames]
    if any(time is None for time in times):
        return
    steps = np.diff(np.array(times, dtype=np.float64))
    wrong = np.flatnonzero(np.abs(steps - time_step) > 1e-3 * time_step)
    if wrong.size:
        index = int(wrong[0])
        raise DataError(
            f"frames {index} and {index + 1} are {steps[index]:g} fs apart by their `time_fs`, and "
            f"the time between frames is given as {time_step:g} fs"
        )


def unwrapped(frames: list[ase.Atoms]) -> np.ndarray:
    """Positions without jumps across the cell, (n_frames, n_atoms, 3) in A.

    Jumps are whole numbers in the scaled coordinates ``s = r h^-1`` of each frame's own cell ``h``:
    a cell that breathes moves atoms far from the origin, wrapped or not, but not their ``s``. The
    unwrapped position is ``(s - n) h`` with the jumps ``n`` so far, as a cell that scales with all
    its images carries it.

    Raises:
        DataError: if an atom moves by more than 0.35 of a lattice vector between frames.
    """
    positions = np.array([atoms.positions for atoms in frames])
    pbc = frames[0].pbc
    if not pbc.any():
        return positions
    cells = np.array([_complete(atoms) for atoms in frames])  # [t, lattice vector, xyz]
    # s of every frame in its own cell: rows of r times h^-1
    scaled = np.linalg.solve(cells.transpose(0, 2, 1), positions.transpose(0, 2, 1))
    step = np.diff(scaled.transpose(0, 2, 1), axis=0)  # [t, n, lattice vector]
    jump = np.where(pbc, np.round(step), 0.0)
    size = np.abs((step - jump)[:, :, pbc]).max(axis=(1, 2))
    if size.max(initial=0.0) > 0.35:
        index = int(np.flatnonzero(size > 0.35)[0])
        raise DataError(
            f"an atom moves by more than 0.35 of the cell between frames {index} and {index + 1}: "
            "it cannot be followed; write frames more often"
        )
    total = np.concatenate([np.zeros_like(jump[:1]), np.cumsum(jump, axis=0)])
    return positions - np.einsum("tna,tax->tnx", total, cells)


def _complete(atoms: ase.Atoms) -> np.ndarray:
    """Cell with unit vectors normal to the periodic rows for those of open directions."""
    cell = np.where(np.array(atoms.pbc)[:, None], np.array(atoms.cell), 0.0)
    return np.array(ase.cell.Cell(cell).complete())


def kinetic_temperature(velocities: np.ndarray, masses: np.ndarray) -> float:
    """Mean of ``sum m v^2 / (n_f k_B)`` in K; n_f = 3 N - 3, or 3 for a single atom.

    Args:
        velocities: (n_frames, n_atoms, 3) in A/fs.
        masses: (n_atoms,) in u.
    """
    momenta = np.einsum("n,tnk->tk", masses, velocities) / masses.sum()
    relative = velocities - momenta[:, None] if len(masses) > 1 else velocities
    twice_kinetic = np.einsum("n,tnk->t", masses, relative**2) / units.fs**2
    free = max(3 * len(masses) - 3, 3)
    return float(twice_kinetic.mean() / (free * units.kB))
