"""Pseudo-random weights and structures of the reference values: the same everywhere, for ever."""

import zlib
from pathlib import Path

import ase.io
import numpy as np
from ase.build import bulk

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "acetamide_water.xyz"

MIN_SIZE = 65
"""Smaller tensors keep their values."""


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform numbers of unit variance (less for dense layers and contractions), float32.

    Args:
        name: Dotted name of the parameter in the checkpoint.
        shape: Its shape.
    """
    x = np.arange(int(np.prod(shape)), dtype=np.uint64)
    x += np.uint64(zlib.crc32(name.encode()) << 32)
    with np.errstate(over="ignore"):  # splitmix64 (Steele, Lea, Flood 2014)
        x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    unit = ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    scale = np.sqrt(12.0)
    if ".contractions." in name:
        scale /= shape[1]
    elif ".net." in name or "joint_embedding" in name:
        scale /= np.sqrt(shape[-1])
    return ((unit - 0.5) * scale).astype(np.float32).reshape(shape)


def structures(elements: list[int], *, has_state: bool) -> list[ase.Atoms]:
    """A molecular dimer, an ion with its charge and spin, or a crystal, as the model covers."""
    if 12 in elements:
        crystal = bulk("MgO", "rocksalt", a=4.2, cubic=True)
        crystal.rattle(0.1, seed=1)
        return [crystal]
    dimer = ase.io.read(EXAMPLE)
    if not has_state:
        return [dimer]
    ion = dimer.copy()
    ion.info.update(total_charge=-1, total_spin=2)
    dimer.info.update(total_charge=0, total_spin=1)
    return [dimer, ion]


def strained_oxide() -> ase.Atoms:
    """A strained and rattled cell of four elements, so that nothing is symmetric."""
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    atoms.symbols[0], atoms.symbols[2] = "Sr", "Ti"
    strain = np.array([[0, 0.03, 0], [0, 0, 0.02], [0.01, 0, 0.04]])
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    return atoms
