"""Layers of an interface over time: density along the normal, motion, coordination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from ase.neighborlist import natural_cutoffs, neighbor_list

from lesff.errors import DataError
from lesff.spectra.correlation import mean_and_error, split
from lesff.spectra.diffusion import Diffusion, relative_positions, self_diffusion
from lesff.spectra.trajectory import Trajectory

_BOND: Any = 1.3  # ASE takes it for an integer
"""Atoms nearer than this times the sum of their covalent radii are neighbours."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Density of a species along the normal.

    Attributes:
        height: (n,) centres of the bins, A.
        density: (n,) atoms / A^3, mean of all frames.
        error: (n,) its standard error over blocks.
    """

    height: np.ndarray
    density: np.ndarray
    error: np.ndarray


@dataclass(frozen=True, kw_only=True)
class LayerMotion:
    """Motion of one species that began in one layer.

    Attributes:
        layer: Its number, from the bottom.
        species: Symbol.
        n_atoms: Atoms.
        diffusion: Of these atoms; ``axes`` are x, y, z with the normal along z.
        in_plane: Mean of x and y, cm^2/s.
        in_plane_error: Its standard error over blocks.
    """

    layer: int
    species: str
    n_atoms: int
    diffusion: Diffusion
    in_plane: float
    in_plane_error: float


def turned(frames: list[ase.Atoms]) -> list[ase.Atoms]:
    """Frames with the first lattice vector along x and the normal of the plane along z.

    Raises:
        DataError: if the frames are not periodic in 3D.
    """
    if not frames or not frames[0].pbc.all():
        raise DataError("an interface must be periodic in three directions (vacuum may be in it)")
    found = []
    for atoms in frames:
        cell = atoms.cell.array
        normal = np.cross(cell[0], cell[1])
        x, z = cell[0] / np.linalg.norm(cell[0]), normal / np.linalg.norm(normal)
        axes = np.array([x, np.cross(z, x), z])
        copy = atoms.copy()
        copy.set_cell(cell @ axes.T)
        copy.set_positions(atoms.positions @ axes.T, apply_constraint=False)
        if atoms.has("momenta"):
            copy.set_momenta(atoms.get_momenta() @ axes.T, apply_constraint=False)
        found.append(copy)
    return found


def resting(run: Trajectory) -> np.ndarray:
    """Positions relative to the centre of mass, (n_frames, n_atoms, 3) in A, unwrapped."""
    everything = np.ones(len(run.masses), dtype=bool)
    return relative_positions(run.positions, run.masses, everything, "all")


def heights(run: Trajectory, positions: np.ndarray) -> np.ndarray:
    """Heights over the lowest lattice plane in one period, (n_frames, n_atoms) in A."""
    period = np.array([atoms.cell.array[2, 2] for atoms in run.frames])[:, None]
    return positions[:, :, 2] % period


def density_profiles(
    run: Trajectory, positions: np.ndarray, *, width: float = 0.5, n_blocks: int = 5
) -> dict[str, Profile]:
    """Density along the normal of each species.

    Args:
        run: The frames, the normal along z.
        positions: (n_frames, n_atoms, 3), see :func:`resting`.
        width: Of a bin, A.
        n_blocks: Blocks for the standard errors.
    """
    z, symbols = heights(run, positions), np.array(run.frames[0].get_chemical_symbols())
    period = float(np.mean([atoms.cell.array[2, 2] for atoms in run.frames]))
    n_bins = max(1, round(period / width))
    volume = float(np.mean([atoms.get_volume() for atoms in run.frames])) / n_bins
    # the share of the period, in case that it breathes
    place = np.floor(z / period * n_bins).astype(int) % n_bins
    found = {}
    for species in dict.fromkeys(symbols):
        of_species = place[:, symbols == species]
        counts = np.stack([(of_species == b).sum(1) for b in range(n_bins)], axis=1)
        _, error = mean_and_error(np.array([block.mean(0) for block in split(counts, n_blocks)]))
        found[str(species)] = Profile(
            height=(np.arange(n_bins) + 0.5) * period / n_bins,
            density=counts.mean(0) / volume,
            error=error / volume,
        )
    return found


def layers_of(run: Trajectory, positions: np.ndarray, n_layers: int) -> np.ndarray:
    """Layer of each atom in the first frame, (n_atoms,): slices of equal height, from 0.

    Raises:
        DataError: for less than one layer.
    """
    if n_layers < 1:
        raise DataError(f"`n_layers` must be at least 1, got {n_layers}")
    share = heights(run, positions)[0] / run.frames[0].cell.array[2, 2]
    return np.minimum((share * n_layers).astype(int), n_layers - 1)


def layer_motions(
    run: Trajectory,
    positions: np.ndarray,
    layers: np.ndarray,
    *,
    lower: float,
    upper: float,
    n_blocks: int = 5,
) -> list[LayerMotion]:
    """Diffusion of each species of each layer, in the plane and along the normal.

    Args:
        run: The frames.
        positions: (n_frames, n_atoms, 3), see :func:`resting`.
        layers: (n_atoms,) where atoms began.
        lower: Start of the straight part, fs.
        upper: End of it, fs.
        n_blocks: Blocks for the standard errors.
    """
    symbols = np.array(run.frames[0].get_chemical_symbols())
    found = []
    for layer in range(int(layers.max(initial=0)) + 1):
        for species in dict.fromkeys(symbols[layers == layer]):
            chosen = (layers == layer) & (symbols == species)
            moved = self_diffusion(
                positions[:, chosen], run.time_step, lower=lower, upper=upper, n_blocks=n_blocks
            )
            found.append(
                LayerMotion(
                    layer=layer,
                    species=str(species),
                    n_atoms=int(chosen.sum()),
                    diffusion=moved,
                    in_plane=float(moved.axes[:2].mean()),
                    # as if x and y were independent
                    in_plane_error=float(0.5 * np.hypot(*moved.axes_error[:2])),
                )
            )
    return found


def coordination(frames: list[ase.Atoms], layers: np.ndarray) -> list[dict[str, float]]:
    """Mean numbers of neighbours by layer: ``{"Li-F": 6.0, ...}`` is F around Li.

    Args:
        frames: Frames to average over.
        layers: (n_atoms,) layer of each atom.
    """
    symbols = np.array(frames[0].get_chemical_symbols())
    kinds = list(dict.fromkeys(symbols))
    numbers = np.array([kinds.index(s) for s in symbols])
    around = np.zeros((len(symbols), len(kinds)))  # [centre, species of neighbours]
    for atoms in frames:
        first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=_BOND))
        np.add.at(around, (first, numbers[second]), 1.0 / len(frames))
    return [
        {
            f"{centre}-{kind}": float(around[chosen, k].mean())
            for centre in dict.fromkeys(symbols[layers == layer])
            if (chosen := (layers == layer) & (symbols == centre)).any()
            for k, kind in enumerate(kinds)
        }
        for layer in range(int(layers.max(initial=0)) + 1)
    ]
