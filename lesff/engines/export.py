"""A step as a package for C++ programs: energy and forces of one crystal, without Python.

::

    LESFF_KERNELS=off python -m lesff.engines.export off-small water_64.xyz step.pt2

writes ``step.pt2`` (AOTInductor) and ``step.json`` (atoms, cell, units, how far atoms may move, and
an energy with its forces to compare with). Index tables and wave vectors are those of the given
structure, with edges that reach further than the cutoff by ``skin``: the package serves until an
atom has moved half of that, or the cell changes. It is traced in plain PyTorch, and compiled for
the processor that exports it.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from lesff.atoms.graph import AtomGraph, ExactGeometry, build_graph
from lesff.atoms.structure import read_atoms, to_structure
from lesff.errors import ConfigError, KernelError, UnsupportedInputError
from lesff.kernels import kernel_status
from lesff.model import Model, load
from lesff.potential.potential import Potential

_AGREEMENT = {torch.float64: 1e-8, torch.float32: 1e-3}
"""eV and eV/A: what the package may differ from the model by rounding."""


def export_step(
    model: Model | str | Path,
    atoms: Any,
    path: str | Path,
    *,
    skin: float = 0.5,
    dtype: Any = "float64",
    **state: Any,
) -> Path:
    """Write the package and its description; takes minutes, and needs a C++ compiler.

    Args:
        model: A model or its name.
        atoms: A crystal, as for :meth:`lesff.Model.predict`.
        path: The package, ``*.pt2``; the description stands beside it as ``*.json``.
        skin: How far edges reach beyond the cutoff, in A; atoms may move half of it.
        dtype: Precision of a model given by name.
        **state: ``total_charge``, ``spin_multiplicity``.

    Returns:
        Where the description is.

    Raises:
        ConfigError: for another ending of the path, or compiled kernels in this process.
        UnsupportedInputError: for structures that are not periodic in three directions.
        KernelError: if the package does not give what the model gives.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ConfigError(f"`path` must end with .pt2, got {path.name}")
    if kernel_status().instruction_set is not None:
        raise ConfigError(
            "a step can be exported without compiled kernels only: set LESFF_KERNELS=off before "
            "Python starts"
        )
    structure = to_structure(atoms, **state)
    if not structure.pbc.all() or structure.external_field is not None:
        raise UnsupportedInputError(
            "a step can be exported for crystals without a field only, got pbc "
            f"{structure.pbc.tolist()}: sums over isolated atoms branch on distances"
        )
    if isinstance(model, (str, Path)):
        model = load(model, dtype=dtype)
    potential = copy.deepcopy(model.potential).requires_grad_(False)
    reach = potential.architecture.cutoff + skin
    graph = build_graph(structure, reach).to(dtype=potential.dtype)
    step = _Step(potential, graph)
    positions = torch.from_numpy(structure.positions)
    traced = _for_cpp(make_fx(step)(positions))
    program = torch.export.export(traced, (positions,), strict=False)
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    # somewhere else within the reach, as a caller will ask
    moved = np.random.default_rng(0).uniform(-0.2 * skin, 0.2 * skin, structure.positions.shape)
    there = positions + torch.from_numpy(moved)
    energy, forces = step(there)
    found = torch._inductor.aoti_load_package(str(path))(there)
    error = max(float((a - b).abs().max()) for a, b in zip(found, (energy, forces), strict=True))
    if not error < _AGREEMENT[potential.dtype]:
        raise KernelError(f"the package differs from the model by {error:.2g} eV or eV/A")
    description = {
        "model": model.name,
        "torch": torch.__version__,
        "numbers": structure.numbers.tolist(),
        "cell": structure.cell.tolist(),
        "total_charge": structure.total_charge,
        "spin_multiplicity": structure.spin_multiplicity,
        "positions": structure.positions.tolist(),
        "max_displacement": 0.5 * skin,
        "inputs": {"positions": "(n_atoms, 3) float64, A, unwrapped from `positions`"},
        "outputs": {"energy": "(1,) eV", "forces": "(n_atoms, 3) eV/A"},
        "check": {
            "positions": there.tolist(),
            "energy": float(energy[0]),
            "forces": forces.tolist(),
        },
    }
    written = path.with_suffix(".json")
    written.write_text(json.dumps(description), encoding="utf-8")
    return written


class _Step:
    """Energy and forces as a function of positions only."""

    def __init__(self, potential: Potential, graph: AtomGraph) -> None:
        self._potential, self._graph = potential, graph
        self._plan = potential.plan(graph)

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        graph = self._graph
        if graph.exact is None:
            graph = graph.replace(positions=positions.to(graph.positions.dtype))
        else:
            graph = graph.replace(exact=ExactGeometry(positions=positions, cell=graph.exact.cell))
        out = self._potential(graph, ("energy", "forces"), plan=self._plan)
        return out["energy"].detach(), out["forces"].detach()


def _for_cpp(traced: GraphModule) -> GraphModule:
    """What AOTInductor of PyTorch 2.13 gets wrong about complex numbers, in other words.

    It calls their difference with wrong arguments, and turns them around with an operator that is
    there in Python only.
    """
    aten, graph = torch.ops.aten, traced.graph
    for node in list(graph.nodes):
        if node.target not in (aten.sub.Tensor, aten.flip.default):
            continue
        if not node.meta["val"].dtype.is_complex:
            continue
        first, second = node.args
        with graph.inserting_before(node):
            if node.target == aten.flip.default:
                # axes from the front: there is one more at the end
                axes = [axis % node.meta["val"].ndim for axis in second]
                parts = graph.call_function(aten.view_as_real.default, (first,))
                turned = graph.call_function(aten.flip.default, (parts, axes))
                new = graph.call_function(aten.view_as_complex.default, (turned,))
            else:
                factor = -node.kwargs.get("alpha", 1)
                negative = factor * second if not isinstance(second, Node) else None
                if negative is None:
                    negative = graph.call_function(aten.mul.Tensor, (second, factor))
                new = graph.call_function(aten.add.Tensor, (first, negative))
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    traced.recompile()
    return traced


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Export energy and forces of a crystal for C++")
    parser.add_argument("model")
    parser.add_argument("structure")
    parser.add_argument("path", help="package to write, *.pt2")
    parser.add_argument("--skin", type=float, default=0.5)
    parser.add_argument("--dtype", default="float64")
    options = parser.parse_args()
    atoms = read_atoms(Path(options.structure))[0]
    export_step(options.model, atoms, options.path, skin=options.skin, dtype=options.dtype)


if __name__ == "__main__":
    main()
