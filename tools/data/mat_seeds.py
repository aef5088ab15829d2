"""Structures to sample around for `mat-*`: charge-balanced substitutions into AFLOW prototypes.

Each structure is a prototype (Mehl et al., Comput. Mater. Sci. 136, S1 (2017), as listed in
pymatgen) with elements whose oxidation states sum to zero, scaled to the sum of Shannon's ionic
radii and relaxed for a few steps by CHGNet, the teacher. Left out are structures with short bonds
or odd volumes, and those on which CHGNet's two sets of weights disagree.

    pip install torch==2.13.0 chgnet==0.4.2 && pip install .
    python tools/data/mat_seeds.py --data inorganic_chgnet.npz --count 1800 -o mat_seeds.extxyz
    PYTHONPATH=tools/data lesff distill --teacher mat_seeds:r2scan --structures mat_seeds.extxyz \
      --sample rattle --frames 12 --labels-only -o mat_labels \
      --set displacement=[0.01,0.15] --set strain=0.03 --set validation=0.04

Parts of 25 structures are written as they are done: run the same command again to go on.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from tqdm.auto import tqdm

MAX_ATOMS = 20
PART = 25
"""Structures per part."""
RELAX_STEPS = 12
MAX_DISAGREEMENT = 0.8
"""Root mean square of the difference of the forces of CHGNet's two sets of weights, eV/A."""
MAX_FORCE = 4.0
"""Of a relaxed structure, eV/A."""
COMMON = ("B1", "B2", "B3", "B4", "C1", "C4", "C6", "D5_1", "E2_1", "D0_9", "H1_1", "B8_1")
"""Strukturbericht symbols drawn with probability COMMON_SHARE: the usual ionic crystals."""
COMMON_SHARE = 0.4
ANIONS = {"F": -1, "Cl": -1, "Br": -1, "I": -1, "O": -2, "S": -2, "Se": -2, "Te": -2, "N": -3}
ANION_WEIGHTS = {"O": 4.0, "F": 2.0, "Cl": 2.5, "Br": 1.5, "I": 1.2, "S": 1.5, "Se": 1.0}
DISPLACEMENT = 0.08
"""Of the atoms in the test of disagreement, A."""


@dataclass(frozen=True)
class Site:
    """An element in an oxidation state."""

    symbol: str
    state: int
    radius: float


@dataclass(frozen=True)
class Prototype:
    """A crystal structure whose species are to be replaced."""

    name: str
    atoms: ase.Atoms
    species: tuple[int, ...]
    counts: tuple[int, ...]
    is_common: bool


def read_prototypes() -> list[Prototype]:
    """Prototypes with two to four species and at most MAX_ATOMS atoms in the primitive cell."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY
    from pymatgen.io.ase import AseAtomsAdaptor

    found = []
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        structure = entry["snl"].structure.get_primitive_structure()
        if not structure.is_ordered or len(structure) > MAX_ATOMS:
            continue
        bare = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        atoms = ase.Atoms(bare.numbers, bare.positions, cell=bare.cell, pbc=True)
        species, counts = np.unique(atoms.numbers, return_counts=True)
        if 2 <= len(species) <= 4:
            tags = entry["tags"]
            found.append(
                Prototype(
                    name=tags["aflow"], atoms=atoms, species=tuple(species.tolist()),
                    counts=tuple(counts.tolist()), is_common=tags["strukturbericht"] in COMMON,
                )
            )  # fmt: skip
    return found


def read_sites(elements: list[str]) -> tuple[list[Site], list[Site]]:
    """Cations and anions of the elements, with ionic radii in A."""
    from pymatgen.core import Element, Species

    cations, anions = [], []
    for symbol in elements:
        if symbol in ANIONS:
            radius = Species(symbol, ANIONS[symbol]).ionic_radius
            anions.append(Site(symbol, ANIONS[symbol], float(radius or 1.8)))
            continue
        for state in Element(symbol).common_oxidation_states:
            if state > 0:
                radius = Species(symbol, state).ionic_radius
                if radius is not None:
                    cations.append(Site(symbol, int(state), float(radius)))
    return cations, anions


def substitute(
    prototype: Prototype, cations: list[Site], anions: list[Site], rng: np.random.Generator
) -> list[Site] | None:
    """Sites for the species of a prototype that sum to no charge, or None after many tries."""
    weights = np.array([ANION_WEIGHTS.get(a.symbol, 0.6) for a in anions])
    count = len(prototype.species)
    for _ in range(400):
        n_anions = 1 if count == 2 or rng.random() < 0.85 else 2
        is_anion = np.isin(np.arange(count), rng.permutation(count)[:n_anions])
        sites = [
            anions[int(rng.choice(len(anions), p=weights / weights.sum()))]
            if flag
            else cations[int(rng.integers(len(cations)))]
            for flag in is_anion
        ]
        charge = sum(s.state * n for s, n in zip(sites, prototype.counts, strict=True))
        if charge == 0 and len({s.symbol for s in sites}) == count:
            return sites
    return None


def scaled(prototype: Prototype, sites: list[Site]) -> ase.Atoms | None:
    """The substituted structure; the closest ions of opposite sign touch."""
    atoms = prototype.atoms.copy()
    by_number = dict(zip(prototype.species, sites, strict=True))
    places = [by_number[int(z)] for z in prototype.atoms.numbers]
    atoms.symbols = [p.symbol for p in places]
    big = atoms.repeat(3)
    where = big.get_all_distances(mic=True)[: len(atoms)]
    charges = np.array([p.state for p in places] * 27)
    radii = np.array([p.radius for p in places] * 27)
    opposite = np.sign(charges[: len(atoms), None]) != np.sign(charges[None])
    ratio = where / (radii[: len(atoms), None] + radii[None])
    ratio = ratio[opposite & (where > 1e-3)]
    if not len(ratio) or not np.isfinite(ratio).all() or ratio.min() < 1e-2:
        return None
    atoms.set_cell(atoms.cell / ratio.min(), scale_atoms=True)
    return atoms


def is_sound(atoms: ase.Atoms) -> bool:
    """No bond under 0.95 A and 4 to 120 A^3 per atom."""
    where = atoms.repeat(3).get_all_distances(mic=True)[: len(atoms)]
    volume = atoms.get_volume() / len(atoms)
    return bool(where[where > 1e-3].min() > 0.95 and 4.0 < volume < 120.0)


@functools.cache
def chgnet(weights: str) -> Calculator:
    """ASE calculator of one of CHGNet's sets of weights."""
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    with contextlib.redirect_stdout(io.StringIO()):
        return CHGNetCalculator(CHGNet.load(model_name=weights), use_device="cpu")


def r2scan() -> Calculator:
    """The teacher of `mat-*`."""
    return chgnet("r2scan")


class Teacher:
    """CHGNet's two sets of weights."""

    def __init__(self) -> None:
        self.calculator, self.other = r2scan(), chgnet("0.3.0")

    def relaxed(self, atoms: ase.Atoms) -> ase.Atoms | None:
        """The structure after a few steps, or None if it should be left out."""
        atoms.calc = self.calculator
        with contextlib.redirect_stdout(io.StringIO()):
            FIRE(FrechetCellFilter(atoms), logfile=None, maxstep=0.1).run(0.05, RELAX_STEPS)
        if not is_sound(atoms) or np.linalg.norm(atoms.get_forces(), axis=1).max() > MAX_FORCE:
            return None
        moved = atoms.copy()
        moved.positions += np.random.default_rng(0).normal(scale=DISPLACEMENT, size=(len(atoms), 3))
        pair = [c.get_property("forces", moved) for c in (self.calculator, self.other)]
        if np.sqrt(np.mean((pair[0] - pair[1]) ** 2)) > MAX_DISAGREEMENT:
            return None
        return ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


def make(
    index: int, seed: int, prototypes: list[Prototype], cations: list[Site], anions: list[Site],
    teacher: Teacher,
) -> ase.Atoms:  # fmt: skip
    """Structure of a number: a function of seed and number only."""
    rng = np.random.default_rng([seed, index])
    common = [p for p in prototypes if p.is_common]
    while True:
        pool = common if rng.random() < COMMON_SHARE else prototypes
        prototype = pool[int(rng.integers(len(pool)))]
        sites = substitute(prototype, cations, anions, rng)
        atoms = None if sites is None else scaled(prototype, sites)
        if atoms is None or not is_sound(atoms):
            continue
        try:
            atoms = teacher.relaxed(atoms)
        except (RuntimeError, ValueError, ArithmeticError):  # the teacher's graph needs neighbours
            continue
        if atoms is not None:
            atoms.info["prototype"] = prototype.name
            return atoms


def check_plan(path: Path, plan: dict[str, Any]) -> None:
    """Parts that are there belong to the same seed and elements, or nothing is done."""
    if path.exists() and json.loads(path.read_text("utf-8")) != plan:
        sys.exit(f"{path.parent} was begun with another seed or other elements; use another output")
    path.write_text(json.dumps(plan) + "\n", encoding="utf-8")


def main() -> None:
    """Write the structures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="npz whose elements are used")
    parser.add_argument("--count", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    if given.count < PART or given.count % PART:
        parser.error(f"--count must be a multiple of {PART}, got {given.count}")
    warnings.simplefilter("ignore")
    with np.load(given.data, allow_pickle=False) as file:
        elements = [chemical_symbols[int(z)] for z in np.unique(file["numbers"])]
    prototypes = read_prototypes()
    cations, anions = read_sites(elements)
    teacher = Teacher()
    folder = given.output.with_suffix(".parts")
    folder.mkdir(parents=True, exist_ok=True)
    check_plan(folder / "plan.json", {"seed": given.seed, "elements": elements})
    starts = range(0, given.count, PART)
    paths = [folder / f"{start:06d}.extxyz" for start in starts]
    for path, start in tqdm(list(zip(paths, starts, strict=True)), unit="part"):
        if path.exists():
            continue
        numbers = range(start, start + PART)
        made = [make(i, given.seed, prototypes, cations, anions, teacher) for i in numbers]
        partial = path.with_suffix(".partial")
        ase.io.write(partial, made, format="extxyz")
        os.replace(partial, path)
    partial = given.output.with_suffix(".partial")
    ase.io.write(partial, [a for p in paths for a in ase.io.read(p, ":")], format="extxyz")
    os.replace(partial, given.output)


if __name__ == "__main__":
    main()
