"""Ions made of neutral molecules by taking a proton off or putting one on: only electrons count.

Frames of other sets, each with one proton less (acids, alcohols, phenols, thiols, water) or more
(amines, ammonia, water). Nothing else moves, so that bonds are those of the neutral molecule: where
the charge sits must not depend on small changes of bonds. Energies and forces are zero and mean
nothing (``only_counts = true`` of a source leaves them out of the loss).

    cd DATA; python tools/data/counted_ions.py organic2.npz organic_water.npz -o counted_ions.npz
    python tools/data/counted_ions.py organic2.npz --acids --most-atoms 24 -o counted_acids.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from ase.data import covalent_radii
from composed import Row, write_shard

from lesff.train.data import Frame, read_frames

LENGTH = 1.03
"""Of a new bond to hydrogen, A."""
FREE = 1.4
"""Least distance of a new proton from other atoms, A."""


def bonds_of(numbers: np.ndarray, positions: np.ndarray) -> list[list[int]]:
    """Neighbours of every atom within 1.25 of the sum of covalent radii."""
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    reach = 1.25 * (covalent_radii[numbers][:, None] + covalent_radii[numbers][None])
    is_bond = (distance < reach) & ~np.eye(len(numbers), dtype=bool)
    return [np.flatnonzero(row).tolist() for row in is_bond]


def without_proton(
    numbers: np.ndarray, positions: np.ndarray, *, acids: bool = False
) -> Iterator[tuple[np.ndarray, ...]]:
    """Anions: one hydrogen of an O-H or S-H less; ``acids``: of COOH alone."""
    bonds = bonds_of(numbers, positions)
    for i, z in enumerate(numbers):
        if z in (8, 16) and len(bonds[i]) == 2:
            if acids and not any(is_acid_carbon(j, i, numbers, bonds) for j in bonds[i]):
                continue
            for j in bonds[i]:
                if numbers[j] == 1 and len(bonds[j]) == 1:
                    yield np.delete(numbers, j), np.delete(positions, j, axis=0)
                    break


def is_acid_carbon(carbon: int, oxygen: int, numbers: np.ndarray, bonds: list[list[int]]) -> bool:
    """Whether an atom is a carbon with three bonds, one of them to a second oxygen, a bare one."""
    ends = [j for j in bonds[carbon] if j != oxygen and numbers[j] == 8 and len(bonds[j]) == 1]
    return numbers[carbon] == 6 and len(bonds[carbon]) == 3 and bool(ends)


def with_proton(numbers: np.ndarray, positions: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Cations: a hydrogen on a pyramidal nitrogen, or on water."""
    bonds = bonds_of(numbers, positions)
    for i, z in enumerate(numbers):
        is_water = z == 8 and sorted(numbers[bonds[i]]) == [1, 1]
        if not is_water and not (z == 7 and len(bonds[i]) == 3):
            continue
        arms = positions[bonds[i]] - positions[i]
        arms /= np.linalg.norm(arms, axis=1, keepdims=True)
        # away from the bonds; flat nitrogen (amides, anilines) has no lone pair to spare
        out = -arms.sum(0)
        size = np.linalg.norm(out)
        if size < 0.6:
            continue
        proton = positions[i] + LENGTH * out / size
        others = np.delete(positions, i, axis=0)
        if np.linalg.norm(others - proton, axis=1).min() > FREE:
            yield np.append(numbers, 1), np.vstack([positions, proton])


def main() -> None:
    """Write the shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--most", type=int, default=4000, help="ions of each sign")
    parser.add_argument("--acids", action="store_true", help="carboxylates alone")
    parser.add_argument("--most-atoms", type=int, default=10**6, help="of a frame")
    parser.add_argument("--seed", type=int, default=37)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    frames: list[Frame] = [
        frame
        for path in options.files
        for frame in read_frames(path)
        if not frame.structure.total_charge
        and frame.structure.spin_multiplicity == 1
        and len(frame.structure.numbers) <= options.most_atoms
    ]
    anions = partial(without_proton, acids=options.acids)
    kinds = [(-1, anions)] if options.acids else [(-1, anions), (1, with_proton)]
    rows: list[Row] = []
    order = rng.permutation(len(frames))
    for charge, made in kinds:
        count = 0
        for index in order:
            frame = frames[index]
            structure = frame.structure
            found = list(made(structure.numbers, structure.positions))
            if frame.is_validation or not found:
                continue
            numbers, positions = found[rng.integers(len(found))]
            zero = np.zeros_like(positions)
            rows.append(
                Row(
                    name=frame.group, numbers=numbers, positions=positions, energy=0.0,
                    forces=zero, charge=charge,
                )
            )  # fmt: skip
            count += 1
            if count == options.most:
                break
    write_shard(options.output, rows, hold_out=False)


if __name__ == "__main__":
    main()
