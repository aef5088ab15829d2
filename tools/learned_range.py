"""What a model makes of the structures it learned: floors and limits for the wall below it.

    python tools/learned_range.py mat-small@0.1.0 inorganic_chgnet.npz born_charges.npz -o FOLDER
    python tools/learned_range.py RUN/model organic2.npz compressed.npz -o FOLDER --margin 0.3

Writes ``FOLDER/floors.json``, the energy in eV by which no atom of an element has to fall below
its reference energy: the lowest of the structures and ``--margin``, with ``WIDER`` added for
elements with fewer than ``FEW`` atoms; and ``FOLDER/limits.json``, charges in e that are ``BEYOND``
times the largest, or times what an atom takes from neighbours and gives to them altogether, where
transfers make charges: they stay as they are up to 0.8 of a limit. For ``--energy-floor`` and
``--charge-limits`` of ``tools/release.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from torch import Tensor
from tqdm import tqdm

import lesff
from lesff.atoms.files import read_npz
from lesff.atoms.graph import AtomGraph, build_graph
from lesff.atoms.structure import to_structure
from lesff.heads import HeadInput
from lesff.heads.edge import EdgeHead
from lesff.potential.potential import Potential

MARGIN, WIDER, LEAST, FEW = 1.5, 0.5, 2.0, 50
"""eV, eV, eV and atoms."""
BEYOND, SMALLEST = 1.4, 0.2
"""Share of the largest charge, and e."""


def structures(path: Path, known: set[int], most: int) -> Iterator[Atoms]:
    """Structures of a shard at random, of known elements only; crystals if it has cells."""
    data = read_npz(path)
    ends = np.cumsum(data["n"].astype(int))
    for i in np.random.default_rng(0).permutation(len(ends))[:most]:
        part = slice(ends[i] - int(data["n"][i]), ends[i])
        if not set(data["numbers"][part].tolist()) <= known:
            continue
        atoms = Atoms(data["numbers"][part], data["positions"][part])
        if "cell" in data:
            atoms.cell, atoms.pbc = data["cell"][i], True
        for key in ("charge", "spin_multiplicity"):
            if key in data:
                atoms.info[key] = int(data[key][i])
        yield atoms


def transferred(potential: Potential, graph: AtomGraph) -> Tensor:
    """What each atom takes and gives altogether, (n_atoms,) in e: what limits of transfers limit.

    Zero for models without transfers between neighbours.
    """
    head = potential.charge_head
    found = graph.positions.new_zeros(graph.n_atoms)
    if not isinstance(head, EdgeHead) or potential.ewald is None or not potential.has_polarization:
        return found
    output = potential.architecture(graph, potential.node_state(graph))
    x = HeadInput(
        invariants=output.invariants,
        element=potential.element_row[graph.atomic_numbers],
        graph=graph,
        settings=potential.ewald,
        pairs=output.pairs,
    )
    pairs = x.neighbours()
    size = head.transfers.of_pairs(x, pairs).abs()
    return found.index_add(0, pairs.first, size).index_add(0, pairs.second, size)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--most", type=int, default=2000, help="structures of each file")
    parser.add_argument("--margin", type=float, default=MARGIN, help="eV")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = lesff.load(options.model)
    potential, known = model.potential, set(model.config.elements)
    energies, charges = defaultdict(list), defaultdict(list)
    for path in options.files:
        for atoms in tqdm(structures(path, known, options.most), desc=path.name):
            graph = build_graph(to_structure(atoms), potential.cutoff).to(dtype=potential.dtype)
            with torch.no_grad():
                terms = potential.energy_terms(graph, dispersion=False)
                moved = transferred(potential, graph)
            rows = potential.element_row[graph.atomic_numbers]
            below = terms.node_energy - potential.reference_energies[rows]
            local = torch.zeros_like(below) if terms.local_charges is None else terms.local_charges
            largest = torch.maximum(local.abs(), moved)
            for z, energy, charge in zip(
                atoms.numbers, below.tolist(), largest.tolist(), strict=True
            ):
                energies[int(z)].append(energy)
                charges[int(z)].append(charge)
    unseen = ", ".join(chemical_symbols[z] for z in sorted(known - set(energies)))
    if unseen:
        sys.exit(f"the files must show every element of {options.model}, and lack {unseen}")
    floors = {
        chemical_symbols[z]: round(
            max(LEAST, options.margin + (0.0 if len(found) >= FEW else WIDER) - min(found)), 1
        )
        for z, found in sorted(energies.items())
    }
    limits = {
        chemical_symbols[z]: round(max(SMALLEST, BEYOND * max(found)), 2)
        for z, found in sorted(charges.items())
    }
    options.output.mkdir(exist_ok=True, parents=True)
    for name, values in (("floors", floors), ("limits", limits)):
        (options.output / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
