"""Worker: one training step with lesff; see report.

own_training.py FRAMES HIDDEN_IRREPS CUTOFF N_FRAMES
"""

import os
import sys
from pathlib import Path

import torch
from report import serve

from lesff.heads import LongRangeConfig
from lesff.potential.config import ModelConfig
from lesff.potential.potential import Potential
from lesff.train.batches import make_batch
from lesff.train.data import read_frames
from lesff.train.gradients import accumulate_gradients
from lesff.train.loss import LossConfig

path, hidden, cutoff, n_frames = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
method = os.environ.get("GRADIENTS", "central_difference")
torch.set_num_threads(1)
torch.manual_seed(0)
frames = list(read_frames(Path(path)))[:n_frames]
elements = tuple(sorted({int(z) for frame in frames for z in frame.structure.numbers}))
config = ModelConfig(
    architecture={
        "type": "mace",
        "cutoff": cutoff,
        "hidden_irreps": hidden,
        "avg_num_neighbors": 20.0,
        "radial_mlp": [64, 64, 64],
    },
    elements=elements,
    reference_energies=(0.0,) * len(elements),
    long_range=LongRangeConfig(),
)
potential = Potential(config)
optimizer = torch.optim.Adam(potential.parameters(), lr=1e-3)


def step() -> None:
    """Batch, loss on energies and forces, gradients, update."""
    batch = make_batch(frames, cutoff, potential.dtype)
    optimizer.zero_grad()
    accumulate_gradients(potential, batch, LossConfig(kind="mse"), method)
    optimizer.step()


serve(step)
