"""Worker: energy and forces with mace-torch. Reads a structure file, answers "go" with CPU ms.

    peer_mace.py STRUCTURE CHECKPOINT | STRUCTURE HIDDEN_IRREPS CUTOFF

A checkpoint with latent charges is timed without its long-range term, which needs another package:
its time is a lower bound.
"""

import sys
import time
import types

import ase.io
import numpy as np
import torch
from mace import data, modules  # before e3nn: it allows e3nn 0.4.4 to read its own constants

from e3nn import o3  # isort: skip
from mace.tools import AtomicNumberTable, torch_geometric

PARTS = ("ewald", "bec", "atomwise")


def load(path: str) -> torch.nn.Module:
    """Unpickle a checkpoint; classes of the long-range package become empty modules."""
    for name in (
        "les",
        "les.les",
        "les.module",
        *(f"les.module.{k}" for k in ("ewald", "bec", "atomwise")),
    ):
        stand_in = types.ModuleType(name)
        stand_in.__getattr__ = lambda key: type(key, (torch.nn.Module,), {})
        sys.modules[name] = stand_in
    modules.models.MACELES = type("MACELES", (modules.ScaleShiftMACE,), {})
    return torch.load(path, map_location="cpu", weights_only=False).float()  # noqa: TID251, S614


def build(hidden: str, cutoff: float, elements: list[int]) -> torch.nn.Module:
    """Random weights."""
    return modules.ScaleShiftMACE(
        r_max=cutoff,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=len(elements),
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(elements)),
        avg_num_neighbors=40.0,
        atomic_numbers=elements,
        correlation=3,
        radial_type="bessel",
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )


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
sys.stdout.write("ready\n")
sys.stdout.flush()
for line in sys.stdin:
    if line.strip() != "go":
        break
    start = time.process_time()
    config = data.config_from_atoms(atoms)
    graph = data.AtomicData.from_config(config, z_table=table, cutoff=cutoff)
    batch = next(iter(torch_geometric.dataloader.DataLoader([graph], batch_size=1)))
    model(batch.to_dict(), compute_force=True)
    sys.stdout.write(f"{1e3 * (time.process_time() - start):.3f}\n")
    sys.stdout.flush()
