"""Worker: energy and forces with lesff. Reads a structure file, see report.

own.py STRUCTURE CHECKPOINT | STRUCTURE HIDDEN_IRREPS CUTOFF

With ``STEPS=recorded`` a step is one of the ASE calculator in a trajectory, atoms moved by 0.01 A.
"""

import os
import sys
from pathlib import Path

import ase.io
import numpy as np
import torch
from report import serve

from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.calculator import LesffCalculator
from lesff.convert.mace.model import convert_mace
from lesff.convert.reader import read_checkpoint
from lesff.heads import LongRangeConfig
from lesff.potential.config import ModelConfig
from lesff.potential.potential import Potential

WARM = 30
"""Steps after which those of a trajectory are recorded."""


def build(hidden: str, cutoff: float, elements: tuple[int, ...]) -> Potential:
    """Random weights."""
    architecture = {
        "type": "mace",
        "cutoff": cutoff,
        "hidden_irreps": hidden,
        "avg_num_neighbors": 40.0,
        "radial_mlp": [64, 64, 64],
    }
    config = ModelConfig(
        architecture=architecture,
        elements=elements,
        reference_energies=(0.0,) * len(elements),
        long_range=LongRangeConfig(),
    )
    return Potential(config).requires_grad_(requires_grad=False)


torch.set_num_threads(1)
torch.manual_seed(0)
path, *spec = sys.argv[1:]
atoms = ase.io.read(path)
if len(spec) == 1:
    potential = convert_mace(read_checkpoint(Path(spec[0])))
else:
    potential = build(spec[0], float(spec[1]), tuple(sorted(set(atoms.numbers.tolist()))))
potential.radial = os.environ.get("RADIAL", "table")  # what load() takes in float32
cutoff = potential.architecture.cutoff


def evaluate() -> None:
    """One step of molecular dynamics without the list of neighbours being kept."""
    graph = build_graph(to_structure(atoms), cutoff).to(dtype=torch.float32)
    potential(graph, ["energy", "forces"])


def move() -> None:
    """One step of molecular dynamics with the calculator, which keeps its list of neighbours."""
    atoms.positions = start + 0.01 * rng.standard_normal(start.shape)
    atoms.get_forces()


if os.environ.get("STEPS") == "recorded":
    start, rng = atoms.positions.copy(), np.random.default_rng(0)
    atoms.calc = LesffCalculator(potential)
    for _ in range(WARM):
        move()
    serve(move)
else:
    serve(evaluate)
