"""Hessians and Born effective charges, in evaluations of energy and forces.

    python benchmarks/second_derivatives.py [off-small off-medium]

Process CPU time on one thread: the Hessian of 21 atoms by `predict`, by ASE's `Vibrations`
(central differences, one structure at a time) and by double backward; Born effective charges of
192 atoms of water, periodic and not. Everything is measured twice, and the lower time counts.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ase
import numpy as np
import torch
from ase.build import molecule
from ase.vibrations import Vibrations

import lesff
from lesff.atoms.graph import AtomGraph, build_graph
from lesff.atoms.structure import to_structure
from lesff.model import Model


def seconds(run: Callable[[], object], repeats: int = 2) -> float:
    """Lowest CPU time of some runs, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def pair() -> ase.Atoms:
    """Isobutane beside acetaldehyde, 21 atoms."""
    one, other = molecule("isobutane"), molecule("CH3CHO")
    other.translate((5.0, 0.0, 0.0))
    return one + other


def water(*, periodic: bool) -> ase.Atoms:
    """64 molecules on a grid, turned."""
    atoms = ase.Atoms(cell=[12.4] * 3, pbc=periodic)
    for place in np.ndindex(4, 4, 4):
        one = molecule("H2O")
        one.rotate(37.0 * sum(place), (1, 2, 3))
        one.translate(3.1 * np.array(place))
        atoms += one
    return atoms


def vibrations(model: Model, atoms: ase.Atoms) -> None:
    """ASE's Hessian."""
    atoms = atoms.copy()
    atoms.calc = model.calculator()
    with tempfile.TemporaryDirectory() as folder:
        found = Vibrations(atoms, name=str(Path(folder) / "vib"))
        found.run()
        found.get_vibrations()


def double_backward(model: Model, graph: AtomGraph) -> None:
    """One backward pass through the forces for every coordinate."""
    graph = graph.replace(positions=graph.positions.detach().requires_grad_())
    forces = model.potential(graph, ["forces"], create_graph=True)["forces"].reshape(-1)
    for force in forces:
        torch.autograd.grad(force, graph.positions, retain_graph=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["off-small", "off-medium"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in options.models:
        model, atoms = lesff.load(name), pair()
        cutoff, dtype = model.potential.architecture.cutoff, model.potential.dtype
        graph = build_graph(to_structure(atoms), cutoff).to(dtype=dtype)
        rows = {
            "hessian by predict": seconds(partial(model.predict, atoms, "hessian")),
            "hessian by ase.vibrations": seconds(partial(vibrations, model, atoms), 1),
            "hessian by double backward": seconds(partial(double_backward, model, graph), 1),
        }
        report(name, "21 atoms", seconds(partial(model.predict, atoms), 10), rows)
        for periodic in (True, False):
            atoms, kind = water(periodic=periodic), "periodic" if periodic else "open"
            born = seconds(partial(model.predict, atoms, "born_effective_charges"))
            unit = seconds(partial(model.predict, atoms), 10)
            report(name, f"192 atoms, {kind}", unit, {"Born charges": born})


def report(name: str, system: str, unit: float, rows: dict[str, float]) -> None:
    """Times of one system, and as multiples of energy and forces."""
    print(f"{name}, {system}: energy and forces {1e3 * unit:.1f} ms")
    for what, time_s in rows.items():
        print(f"  {what:28}{time_s:8.3f} s{time_s / unit:8.1f} evaluations")


if __name__ == "__main__":
    main()
