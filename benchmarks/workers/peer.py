"""Worker: energy and forces with mace-torch. Reads a structure file, see report.

    peer.py STRUCTURE CHECKPOINT | STRUCTURE HIDDEN_IRREPS CUTOFF

A checkpoint with latent charges is timed without its long-range term, which needs another package:
its time is a lower bound.
"""

import sys

import ase.io
import torch
from mace import data
from mace.tools import AtomicNumberTable, torch_geometric
from peer_model import build, load
from report import serve

PARTS = ("ewald", "bec", "atomwise")


torch.set_num_threads(1)
torch.set_default_dtype(torch.float32)
torch.manual_seed(0)
path, *spec = sys.argv[1:]
atoms = ase.io.read(path)
if len(spec) == 1:
    model = load(spec[0])
else:
    model = build(spec[0], float(spec[1]), sorted(set(atoms.numbers.tolist())))
table = AtomicNumberTable(model.atomic_numbers.tolist())
cutoff = float(model.r_max)
for parameter in model.parameters():
    parameter.requires_grad_(False)


def evaluate() -> None:
    """Graph, energy and forces."""
    config = data.config_from_atoms(atoms)
    graph = data.AtomicData.from_config(config, z_table=table, cutoff=cutoff)
    batch = next(iter(torch_geometric.dataloader.DataLoader([graph], batch_size=1)))
    model(batch.to_dict(), compute_force=True)


serve(evaluate)
