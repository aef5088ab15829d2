"""Worker: one training step with mace-torch; see report.

peer_training.py FRAMES HIDDEN_IRREPS CUTOFF N_FRAMES
"""

import sys

import ase.io
import torch
from mace import data, modules
from mace.tools import AtomicNumberTable, torch_geometric
from peer_model import build
from report import serve

path, hidden, cutoff, n_frames = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
torch.set_default_dtype(torch.float32)
torch.manual_seed(0)
frames = ase.io.read(path, f":{n_frames}")
for frame in frames:
    frame.info["REF_energy"] = frame.info.get("energy", 0.0)
    frame.arrays["REF_forces"] = frame.arrays["force" if "force" in frame.arrays else "forces"]
elements = sorted({int(z) for frame in frames for z in frame.numbers})
table = AtomicNumberTable(elements)
model = build(hidden, cutoff, elements)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
loss_function = modules.WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=1.0)
keys = data.KeySpecification(
    info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"}
)


def step() -> None:
    """Batch, loss on energies and forces, gradients, update."""
    configs = [data.config_from_atoms(frame, key_specification=keys) for frame in frames]
    graphs = [data.AtomicData.from_config(c, z_table=table, cutoff=cutoff) for c in configs]
    loader = torch_geometric.dataloader.DataLoader(graphs, batch_size=len(graphs))
    batch = next(iter(loader))
    optimizer.zero_grad()
    out = model(batch.to_dict(), training=True, compute_force=True)
    loss_function(pred=out, ref=batch).backward()
    optimizer.step()


serve(step)
