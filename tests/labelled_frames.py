"""Labelled frames and a small recipe to train on."""

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from helpers import two_waters, water

RECIPE = """
name = "tiny"
[model]
architecture = {{ type = "mace", cutoff = 3.0, hidden_irreps = "8x0e", max_ell = 2, correlation = 2, radial_mlp = [8] }}
long_range = {{ head = "shifted" }}
dtype = "float64"
[data]
sources = [{{ path = "train.xyz" }}]
max_atoms = 9
[optimizer]
lr = 0.02
ema_decay = 0.0
max_steps = {max_steps}
warmup_steps = 1
validate_every = {validate_every}
"""  # noqa: E501 - one table per line


def labelled(atoms, seed, *, energy=None):
    """Atoms with made-up labels that a potential can fit: any numbers will do."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    energy = float(rng.normal()) if energy is None else energy
    forces = rng.normal(size=(len(atoms), 3))
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    atoms.info["dipole"] = rng.normal(size=3)
    return atoms


def write_frames(path, count=4):
    """An extxyz file of labelled waters."""
    ase.io.write(path, [labelled(water() if i % 2 else two_waters(), i) for i in range(count)])
    return path
