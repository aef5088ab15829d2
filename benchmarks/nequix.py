"""Nequix in lesff beside its own torch code: process CPU time of energy, forces and stress.

    python benchmarks/nequix.py FILE.nqx [--original FOLDER]

FOLDER holds the package ``nequix`` (its wheel unpacked; only ``nequix/torch_impl`` is used, which
needs e3nn and scipy). Both get the weights of the file, the same structures in float32 and one
thread, in turns; energies must agree. Times of lesff are those of its ASE calculator with new
positions at every call, neighbour lists included; times of the original are those of its model on
edges that are there already. The minimum of the repeats counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import torch
from ase.build import bulk
from ase.neighborlist import neighbor_list

import lesff
from lesff.convert.checkpoint import convert_checkpoint
from lesff.convert.nequix.reader import read_nqx


def structures() -> dict[str, ase.Atoms]:
    """Crystals of 15, 192 and 1536 atoms."""
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    cube = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    perovskite = ase.Atoms("SrTiO3", scaled_positions=cube, cell=[3.905] * 3, pbc=True)
    return {
        "SrTiO3": perovskite.repeat((3, 1, 1)),
        "NaCl, 192": salt.repeat((2, 3, 4)),
        "NaCl, 1536": salt.repeat((4, 6, 8)),
    }


def ours(folder: Path) -> Callable[[ase.Atoms], tuple[float, float]]:
    """CPU time and energy of one call."""
    calculator = lesff.load(folder).calculator()

    def call(atoms: ase.Atoms) -> tuple[float, float]:
        start = time.process_time()
        results = [calculator.get_property(key, atoms) for key in ("energy", "forces", "stress")]
        return time.process_time() - start, results[0]

    return call


def original(path: Path, folder: Path) -> Callable[[ase.Atoms], tuple[float, float]]:
    """CPU time and energy of one call of the package's torch model."""
    # the package itself imports jax
    package = types.ModuleType("nequix")
    package.__path__ = [str(folder / "nequix")]
    sys.modules["nequix"] = package
    from nequix.torch_impl.model import NequixTorch  # pyright: ignore[reportMissingImports]

    file = read_nqx(path)
    names = [
        "lmax", "cutoff", "hidden_irreps", "n_layers", "radial_basis_size", "radial_mlp_size",
        "radial_mlp_layers", "radial_polynomial_p", "mlp_init_scale", "index_weights",
        "layer_norm", "shift", "scale", "avg_n_neighbors",
    ]  # fmt: skip
    numbers = file.config["atomic_numbers"]
    model = NequixTorch(len(numbers), **{name: file.config[name] for name in names})
    left = list(file.arrays)
    model.atom_energies = left.pop(0)
    for layer in model.layers:
        parts = [p.weights for p in layer.radial_mlp.layers]
        parts += [layer.linear_1.weight, layer.linear_2.weight, layer.skip.weight]
        if layer.layer_norm is not None:
            parts += [*layer.layer_norm.affine_weight]
        for parameter in parts:
            _fill(parameter, left)
    _fill(model.readout.weight, left)
    model.eval().requires_grad_(False)

    def call(atoms: ase.Atoms) -> tuple[float, float]:
        i, j, shifts = neighbor_list("ijS", atoms, file.config["cutoff"])
        inputs = (
            torch.tensor([numbers.index(z) for z in atoms.numbers]),
            torch.tensor(atoms.positions, dtype=torch.float32),
            torch.tensor(shifts, dtype=torch.float32),
            torch.tensor(np.stack([j, i])),
            torch.tensor(atoms.cell[:], dtype=torch.float32)[None],
            torch.tensor([len(atoms)]),
            torch.tensor([len(i)]),
            torch.zeros(len(atoms), dtype=torch.int64),
        )
        start = time.process_time()
        energy, _, _ = model(*inputs)
        return time.process_time() - start, float(energy.detach().sum())

    return call


def _fill(parameter: torch.Tensor, left: list[torch.Tensor]) -> None:
    """As many arrays as the parameter has room for: e3nn keeps those of all orders in one."""
    parts, size = [], 0
    while size < parameter.numel():
        parts.append(left.pop(0).flatten())
        size += parts[-1].numel()
    parameter.data = torch.cat(parts).view_as(parameter)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--original", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp()) / "model"
    convert_checkpoint(arguments.file, folder)
    codes = {"lesff": ours(folder)}
    if arguments.original is not None:
        codes["original"] = original(arguments.file, arguments.original)
    print("| structure | atoms | " + " | ".join(f"{code}, ms/atom" for code in codes) + " |")
    print("|---" * (2 + len(codes)) + "|")
    for name, atoms in structures().items():
        times: dict[str, list[float]] = {code: [] for code in codes}
        random = np.random.default_rng(0)
        for repeat in range(arguments.repeats + 1):
            moved = atoms.copy()
            moved.positions += random.normal(0.0, 0.02, moved.positions.shape)
            found = {code: call(moved) for code, call in codes.items()}
            energies = [energy for _, energy in found.values()]
            if max(energies) - min(energies) > 2e-5 * len(atoms):
                raise SystemExit(f"energies of {name} must agree, got {energies}")
            # the first call is for caches
            if repeat:
                for code, (seconds, _) in found.items():
                    times[code].append(seconds)
        row = " | ".join(f"{1e3 * min(t) / len(atoms):.2f}" for t in times.values())
        print(f"| {name} | {len(atoms)} | {row} |", flush=True)


if __name__ == "__main__":
    main()
