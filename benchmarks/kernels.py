"""Compiled kernels against plain PyTorch and mace-torch: CPU ms and extra memory, one thread.

Parts are measured in one process, compiled and plain in alternation; whole steps (neighbour list,
energy and forces) in processes of their own, in alternation too; "calculator" is the step of a
trajectory, its list kept and, up to 256 atoms, its operations recorded. Medians. Of convolutions
also the additions and multiplications a second, beside those of a large product of matrices of
PyTorch.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import ase.io
import numpy as np
import torch
from inference import water_box
from workers import Worker

from lesff import kernels
from lesff.atoms.element_rows import element_rows
from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.nn.contraction import SymmetricContraction
from lesff.nn.convolution import Convolution
from lesff.nn.edge_tables import build_topology
from lesff.nn.radial import BesselBasis, RadialNetwork
from lesff.nn.radial_table import RadialTabulator, TableSource

CUTOFF = 4.5
CASES = {
    "192": ((4, 4, 4), "128x0e", 128, 0),
    "1536": ((8, 8, 8), "128x0e", 128, 0),
    "3072": ((8, 8, 16), "128x0e", 128, 0),
    "960": ((8, 8, 5), "192x0e+192x1o", 192, 1),
}


@contextmanager
def plain_torch():
    """No compiled kernels inside."""
    with mock.patch.object(kernels, "is_active", return_value=False):
        yield


def milliseconds(function: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    function()
    return 1e3 * (time.process_time() - start)


def forward_backward(run: Callable[..., tuple], inputs: list[torch.Tensor]) -> tuple[float, float]:
    """CPU ms of the value and of its gradients."""
    out: list[tuple] = []
    forward = milliseconds(lambda: out.append(run(*inputs)))
    grads = [torch.ones_like(x) for x in out[0]]
    return forward, milliseconds(lambda: torch.autograd.grad(out[0], inputs, grads))


def matrix_speed() -> float:
    """Operations of a product of 1024 x 1024 matrices, 1e9 a second: what the core can do."""
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    times = [milliseconds(lambda: a @ b) for _ in range(15)]
    return 2.0 * 1024**3 / np.median(times) * 1e-6


def convolution_operations(conv: Convolution, n_pairs: int) -> tuple[float, float]:
    """Additions and multiplications of values and gradients, radial functions from tables.

    Of a path with a = 2 l1 + 1 rows and b = 2 l3 + 1 columns, for each channel: six products and
    their sum (11) are a radial weight. A directed edge has one, and a + 2 a b for its message,
    2 a + 2 a b for the gradient of its features; a pair has one and its slope (2 more), and 7 a b
    for the gradients of the angular kernel and of the distance.
    """
    value = gradient = 0
    for path in conv.paths.paths:
        a, b = path.rows, path.cols
        value += 2 * (11 + a + 2 * a * b)
        gradient += 2 * (11 + 2 * a + 2 * a * b) + 24 + 7 * a * b
    return float(value * n_pairs * conv.channels), float(gradient * n_pairs * conv.channels)


def measure(
    name: str,
    compiled: Callable,
    plain: Callable,
    inputs: list,
    repeats: int,
    operations: tuple[float, float] | None = None,
) -> None:
    """Print one row per direction: plain ms, compiled ms, ratio, 1e9 operations a second."""
    rows = []
    for _ in range(repeats + 1):
        fast = forward_backward(compiled, inputs)
        with plain_torch():
            rows.append((*forward_backward(plain, inputs), *fast))
    slow_f, slow_b, fast_f, fast_b = np.median(rows[1:], axis=0)
    times = (("value", slow_f, fast_f), ("gradient", slow_b, fast_b))
    for (what, slow, fast), n in zip(times, operations or (0.0, 0.0), strict=True):
        speed = f"{n / fast * 1e-6:10.0f}" if n else ""
        print(f"  {name + ', ' + what:34}{slow:9.2f}{fast:9.2f}{slow / fast:8.1f}{speed}")


def measure_parts(atoms: ase.Atoms, channels: int, max_l: int, repeats: int) -> None:
    """Convolutions with their radial weights, contractions."""
    graph = build_graph(to_structure(atoms), CUTOFF).to(dtype=torch.float32)
    topology = build_topology(graph, element_rows((1, 8)))
    n_pairs = graph.n_edges // 2
    basis = BesselBasis(cutoff=CUTOFF, n_basis=8, p=5)
    for feature_l in sorted({0, max_l}):
        conv = Convolution(channels=channels, feature_l=feature_l, max_ell=3)
        network = RadialNetwork(sizes=(8, 64, 64, 64, conv.n_paths * channels))
        network.requires_grad_(requires_grad=False)
        tabulator = RadialTabulator(blocks=((conv.n_paths, channels),))
        inputs = [
            torch.randn(graph.n_atoms, (feature_l + 1) ** 2, channels).requires_grad_(),
            torch.randn(n_pairs, 16).requires_grad_(),
            (torch.rand(n_pairs) ** (1 / 3) * CUTOFF).clamp(min=0.9).requires_grad_(),
        ]

        def compiled(h, y, r, conv=conv, network=network, tabulator=tabulator):
            (weights,) = tabulator.weights(TableSource.of(r, basis, CUTOFF), network)
            return tuple(conv(h, y, weights, topology))

        def plain(h, y, r, conv=conv, network=network):
            return tuple(conv(h, y, network(basis(r, r)), topology))

        operations = convolution_operations(conv, n_pairs)
        name = f"convolution, l = {feature_l} senders"
        measure(name, compiled, plain, inputs, repeats, operations)
    for l_out in range(max_l + 1):
        module = SymmetricContraction(
            channels=channels, max_ell=3, l_out=l_out, correlation=3, n_elements=2
        ).requires_grad_(requires_grad=False)

        def contraction(x, module=module):
            return (module(x, topology),)

        features = torch.randn(graph.n_atoms, 16, channels).requires_grad_()
        measure(f"contraction, L = {l_out}", contraction, contraction, [features], repeats)


def measure_steps(atoms: ase.Atoms, hidden: str, peer: str | None, repeats: int) -> None:
    """Whole steps, each way in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "water.xyz")
        ase.io.write(path, atoms)
        arguments = [path, hidden, str(CUTOFF)]
        own = (sys.executable, "own.py", arguments)
        workers = {
            "compiled, table": Worker(*own, LESFF_KERNELS="on", RADIAL="table"),
            "the same, calculator": Worker(
                *own, LESFF_KERNELS="on", RADIAL="table", STEPS="recorded"
            ),
            "compiled, exact": Worker(*own, LESFF_KERNELS="on", RADIAL="exact"),
            "plain PyTorch": Worker(*own, LESFF_KERNELS="off", RADIAL="exact"),
        }
        if peer is not None:
            workers["mace-torch"] = Worker(peer, "peer.py", arguments)
        rows = {name: [] for name in workers}
        for _ in range(repeats + 1):
            for name, worker in workers.items():
                rows[name].append(worker.run())
        for worker in workers.values():
            worker.close()
    medians = {name: np.median([ms for ms, _ in found[1:]]) for name, found in rows.items()}
    ways = ("compiled, table", "the same, calculator")
    print(
        f"  {'whole step':28}{'CPU ms':>9}{'extra MB':>10}" + "".join(f"  / {w:22}" for w in ways)
    )
    for name, found in rows.items():
        ratios = "".join(f"  {medians[name] / medians[way]:<24.1f}" for way in ways)
        print(f"  {name:28}{medians[name]:9.1f}{found[-1][1]:10.0f}{ratios}")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", help="Python of an environment with mace-torch")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-parts", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"kernels: {kernels.kernel_status().instruction_set}; float32, one thread, medians")
    print(f"a product of matrices by PyTorch: {matrix_speed():.0f} GFLOP/s")
    for case in options.cases:
        shape, hidden, channels, max_l = CASES[case]
        atoms = water_box(shape)
        print(f"\nwater, {len(atoms)} atoms, {hidden}, cutoff {CUTOFF} A")
        if not options.no_parts:
            print(f"  {'part':34}{'plain ms':>9}{'ms':>9}{'ratio':>8}{'GFLOP/s':>10}")
            measure_parts(atoms, channels, max_l, options.repeats)
        measure_steps(atoms, hidden, options.peer_python, options.repeats)


if __name__ == "__main__":
    main()
