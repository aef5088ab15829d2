"""Charges of AIMNet2 on structures that have other labels already.

    python tools/data/charges.py organic2_more.npz organic_water.npz -o FOLDER

``FOLDER/NAME_c.npz`` has the structures of a shard whose charges say something for a head that
keeps charge on its molecule: neutral ones, and ions that are one molecule. They get an array
``charges`` in e, of ``aimnet2-wb97m-d3`` as published (``-m`` for another model, ``--suffix`` for
another ending than ``_c``). Others are left out: AIMNet2 spreads the charge of an ion over
molecules that touch it. So are structures with elements that the model does not know.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import lesff
from lesff.atoms.graph import build_graph, collate
from lesff.atoms.molecules import find_molecules
from lesff.atoms.structure import Structure
from lesff.train.shards import read_shard, write_npz

BATCH = 64


def structures(data: dict[str, np.ndarray]) -> list[Structure]:
    """All of a shard, singlets."""
    ends = np.cumsum(data["n"])
    return [
        Structure(
            numbers=data["numbers"][start:stop].astype(np.int64),
            positions=data["positions"][start:stop].astype(np.float64),
            cell=np.zeros((3, 3)),
            pbc=np.zeros(3, dtype=bool),
            total_charge=int(charge),
            spin_multiplicity=1,
        )
        for start, stop, charge in zip(ends - data["n"], ends, data["charge"], strict=True)
    ]


def labelled(
    model: lesff.Model, found: list[Structure], name: str
) -> tuple[list[np.ndarray], np.ndarray]:
    """Charges of every structure, and which of them say something."""
    potential = model.potential
    charges: list[np.ndarray] = [np.zeros(0)] * len(found)
    is_kept = np.zeros(len(found), dtype=bool)
    known = set(model.config.elements)
    held = [i for i, s in enumerate(found) if set(s.numbers.tolist()) <= known]
    order = np.array(sorted(held, key=lambda i: len(found[i])))
    for first in tqdm(range(0, len(order), BATCH), desc=name):
        chosen = order[first : first + BATCH]
        graphs = [build_graph(found[i], potential.cutoff) for i in chosen]
        graph = collate(graphs).to(dtype=potential.dtype)
        with torch.no_grad():
            terms = potential.energy_terms(graph, dispersion=False)
        assert terms.charges is not None  # noqa: S101 - the model has charges
        molecules = torch.bincount(find_molecules(graph).system, minlength=len(chosen))
        parts = torch.split(terms.charges, [len(found[i]) for i in chosen])
        for index, part, count in zip(chosen, parts, molecules.tolist(), strict=True):
            charges[index] = part.numpy().astype(np.float32)
            is_kept[index] = count == 1 or found[index].total_charge == 0
    return charges, is_kept


def main() -> None:
    """Label and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("-m", "--model", default="aimnet2-wb97m-d3@1.0.0")
    parser.add_argument("--suffix", default="_c")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    model = lesff.load(options.model)
    for path in options.shards:
        data = dict(read_shard(path))
        charges, is_kept = labelled(model, structures(data), path.name)
        if not is_kept.any():
            parser.error(f"{path} has no structure whose charges {options.model} can tell")
        of_atom = np.repeat(is_kept, data["n"])
        kept = {
            key: value[is_kept if len(value) == len(is_kept) else of_atom]
            for key, value in data.items()
        }
        kept["charges"] = np.concatenate(
            [x for x, keep in zip(charges, is_kept, strict=True) if keep]
        )
        out = options.output / f"{path.stem}{options.suffix}.npz"
        write_npz(out, kept, np.savez)
        logging.info("%s: %d of %d structures", out, is_kept.sum(), len(is_kept))


if __name__ == "__main__":
    main()
