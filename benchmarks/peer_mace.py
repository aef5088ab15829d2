"""Worker: energy and forces with mace-torch; answers "go" with CPU ms and extra MB."""

import sys
import time

import ase.io
import memory
import numpy as np
import torch
from mace import data, modules  # before e3nn: it allows e3nn 0.4.4 to read its own constants

from e3nn import o3  # isort: skip
from mace.tools import AtomicNumberTable, torch_geometric

path, hidden, cutoff = sys.argv[1], sys.argv[2], float(sys.argv[3])
torch.set_num_threads(1)
torch.set_default_dtype(torch.float32)
torch.manual_seed(0)
atoms = ase.io.read(path)
table = AtomicNumberTable(sorted(set(atoms.numbers.tolist())))
model = modules.ScaleShiftMACE(
    r_max=cutoff,
    num_bessel=8,
    num_polynomial_cutoff=5,
    max_ell=3,
    interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
    interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
    num_interactions=2,
    num_elements=len(table),
    hidden_irreps=o3.Irreps(hidden),
    MLP_irreps=o3.Irreps("16x0e"),
    gate=torch.nn.functional.silu,
    atomic_energies=np.zeros(len(table)),
    avg_num_neighbors=40.0,
    atomic_numbers=table.zs,
    correlation=3,
    radial_type="bessel",
    radial_MLP=[64, 64, 64],
    atomic_inter_scale=1.0,
    atomic_inter_shift=0.0,
)
for parameter in model.parameters():
    parameter.requires_grad_(False)
idle = memory.mark()
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
    spent = 1e3 * (time.process_time() - start)
    extra = memory.peak() - idle
    sys.stdout.write(f"{spent:.3f} {extra:.0f}\n")
    sys.stdout.flush()
