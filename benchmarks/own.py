"""Worker: energy and forces with lesff; answers "go" with CPU ms and extra MB."""

import sys
import time

import ase.io
import memory
import torch

from lesff.potential import LongRangeConfig, ModelConfig, Potential
from lesff.structures import build_graph, to_structure

path, hidden, cutoff = sys.argv[1], sys.argv[2], float(sys.argv[3])
radial = sys.argv[4] if len(sys.argv) > 4 else "table"  # what load() takes in float32
torch.set_num_threads(1)
torch.manual_seed(0)
atoms = ase.io.read(path)
elements = tuple(sorted(set(atoms.numbers.tolist())))
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
potential = Potential(config).requires_grad_(requires_grad=False)
potential.radial = radial
idle = memory.mark()
sys.stdout.write("ready\n")
sys.stdout.flush()
for line in sys.stdin:
    if line.strip() != "go":
        break
    start = time.process_time()
    graph = build_graph(to_structure(atoms), cutoff).to(dtype=torch.float32)
    potential(graph, ["energy", "forces"])
    spent = 1e3 * (time.process_time() - start)
    extra = memory.peak() - idle
    sys.stdout.write(f"{spent:.3f} {extra:.0f}\n")
    sys.stdout.flush()
