"""Solids to sample around, for the second generation of `mat-*`: more kinds, relaxed by mat-large.

    python tools/data/crystals.py --data born_charges.npz --count 6000 -o seeds.extxyz
    lesff distill --teacher mat-large --structures seeds.extxyz --sample rattle \
        --frames 8 --labels-only -o labels --set displacement=[0.01,0.25] --set strain=0.06
    lesff distill --teacher mat-large --structures seeds.extxyz --sample md \
        --temperatures 600,1500 --frames 4 --labels-only -o labels-hot

``mat-large`` has the energies, forces and stress of Nequix-OAM-1-PFT, bit by bit. Kinds, in
``info["kind"]``, by the shares of ``KINDS``:

- ``ionic``: substitutions into AFLOW prototypes that sum to no charge (``mat_seeds.py``), with
  hydrides, carbides, phosphides, arsenides and antimonides (III-V, II-VI semiconductors), too
- ``polyanion``: likewise, with carbonate, nitrate, phosphate, sulfate, iodate and the like
- ``metal``: prototypes of alloys with metals, scaled to metallic radii
- ``element``: each element in the structure of ``ase.data.reference_states``, where it is a crystal
- ``real``: crystals of ``--data`` of the compositions that ``tools/born_head.py`` trains on
- ``slab``: a low surface of one of the others, 10 to 14 A of vacuum

All but ``real`` are relaxed for a few steps with their cell by the teacher; those with short bonds,
odd volumes or large forces are left out. Interrupted runs go on where they stopped. Needs ``pip
install pymatgen`` in an environment that finds lesff.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import ase
import ase.io
import numpy as np
from ase.build import bulk, surface
from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers, chemical_symbols, reference_states
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from mat_seeds import (
    MAX_FORCE,
    RELAX_STEPS,
    Prototype,
    Site,
    check_plan,
    is_sound,
    read_prototypes,
    read_sites,
    scaled,
    substitute,
)
from tqdm.auto import tqdm

import lesff
from lesff.disk import written_atomically

PART = 25
"""Structures per part."""
KINDS = {"ionic": 0.5, "polyanion": 0.15, "metal": 0.12, "real": 0.15, "slab": 0.08}
"""Shares; each element comes once, beside them."""
MORE_ANIONS = {"H": (-1, 1.4), "C": (-4, 1.6), "P": (-3, 1.9), "As": (-3, 2.0), "Sb": (-3, 2.2)}
"""States, and radii in A that make carbides and pnictides of about their size before relaxing."""
CENTRES = {
    "C": (4, 0.15), "N": (5, 0.13), "P": (5, 0.25), "S": (6, 0.2), "Si": (4, 0.35), "B": (3, 0.11),
    "Se": (6, 0.38), "As": (5, 0.4), "I": (5, 0.55), "Cl": (7, 0.22), "V": (5, 0.4), "Mo": (6, 0.5),
}  # fmt: skip
"""Centres of polyanions: states, and radii in A by which oxygen at 1.26 A is bonded to them."""
OXYGEN = Site("O", -2, 1.26)
METALS = (
    "Li", "Be", "Na", "Mg", "Al", "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu",
    "Zn", "Ga", "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Cs",
    "Ba", "La", "Ce", "Hf", "Ta", "W", "Re", "Ir", "Pt", "Au", "Tl", "Pb", "Bi",
)  # fmt: skip
ALLOYS = {"B2": (1, 1), "L1_0": (1, 1), "L1_2": (1, 3), "D0_3": (1, 3), "C15": (1, 2)}
MOST_IN_SLAB = 40
VACUUM = (10.0, 14.0)
"""A, both sides together."""


@dataclass(eq=False)
class Maker:
    """Makes structures; each is a function of the seed and its number.

    Attributes:
        known: Elements of the teacher.
        calculator: The teacher.
        real: Crystals of the data.
        seed: Of everything.
    """

    known: list[str]
    calculator: Calculator
    real: Sequence[ase.Atoms]
    seed: int

    @cached_property
    def prototypes(self) -> list[Prototype]:
        """Of ionic crystals."""
        return read_prototypes()

    @cached_property
    def sites(self) -> tuple[list[Site], list[Site]]:
        """Cations and anions."""
        cations, anions = read_sites(self.known)
        more = [Site(s, state, radius) for s, (state, radius) in MORE_ANIONS.items()]
        return cations, anions + more

    def ionic(self, rng: np.random.Generator) -> ase.Atoms | None:
        """A substitution into a prototype."""
        common = [p for p in self.prototypes if p.is_common]
        pool = common if rng.random() < 0.4 else self.prototypes
        prototype = pool[int(rng.integers(len(pool)))]
        sites = substitute(prototype, *self.sites, rng)
        return None if sites is None else scaled(prototype, sites)

    def polyanion(self, rng: np.random.Generator) -> ase.Atoms | None:
        """Oxygen as the anion, and one of the cations the centre of a polyanion."""
        pool = [p for p in self.prototypes if len(p.species) == 3 and max(p.counts) >= 3]
        prototype = pool[int(rng.integers(len(pool)))]
        cations = self.sites[0]
        names = list(CENTRES)
        for _ in range(200):
            centre = names[int(rng.integers(len(names)))]
            state, radius = CENTRES[centre]
            cation = cations[int(rng.integers(len(cations)))]
            # the species that there is most of is oxygen; the others in either order
            oxygen = int(np.argmax(prototype.counts))
            rest = [i for i in range(3) if i != oxygen]
            first, second = rng.permutation(rest)
            found: list[Site] = [OXYGEN] * 3
            found[first], found[second] = Site(centre, state, radius), cation
            charge = sum(s.state * n for s, n in zip(found, prototype.counts, strict=True))
            if charge == 0 and cation.symbol != centre:
                return scaled(prototype, found)
        return None

    def metal(self, rng: np.random.Generator) -> ase.Atoms | None:
        """Two metals in a prototype of alloys."""
        from pymatgen.core import Element

        names = [s for s in METALS if s in self.known]
        a, b = (names[i] for i in rng.choice(len(names), 2, replace=False))
        kind = list(ALLOYS)[int(rng.integers(len(ALLOYS)))]
        radius = [float(Element(s).metallic_radius or Element(s).atomic_radius) for s in (a, b)]
        n, m = ALLOYS[kind]
        volume = (n * radius[0] ** 3 + m * radius[1] ** 3) * 4.0 * 2.0**0.5
        if kind == "B2":
            length = volume ** (1.0 / 3.0)
            return bulk(a + b, "cesiumchloride", a=length)
        if kind in ("L1_0", "L1_2"):
            cells = 2.0 if kind == "L1_0" else 1.0
            length = (volume * cells) ** (1.0 / 3.0)
            atoms = bulk("Cu", "fcc", a=length, cubic=True)
            atoms.symbols = [a, a, b, b] if kind == "L1_0" else [a, b, b, b]
            return atoms
        if kind == "D0_3":
            length = (volume * 4.0) ** (1.0 / 3.0)
            cell = 0.5 * length * (np.ones((3, 3)) - np.eye(3))
            places = [[0, 0, 0], [0.25] * 3, [0.5] * 3, [0.75] * 3]
            return ase.Atoms([a, b, b, b], scaled_positions=places, cell=cell, pbc=True)
        length = (volume * 8.0) ** (1.0 / 3.0)
        cell = 0.5 * length * (np.ones((3, 3)) - np.eye(3))
        corners = [[0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
        places = [[0.125] * 3, [0.875] * 3, *corners]
        return ase.Atoms([a, a, b, b, b, b], scaled_positions=places, cell=cell, pbc=True)

    def slab(self, rng: np.random.Generator) -> ase.Atoms | None:
        """A surface of a crystal of another kind."""
        sources = [self.ionic, self.metal] + ([self.from_data] if self.real else [])
        crystal = sources[int(rng.integers(len(sources)))](rng)
        if crystal is None or not is_sound(crystal):
            return None
        index = list(product((0, 1), repeat=3))[1:][int(rng.integers(7))]
        for layers in (4, 3, 2):
            slab = surface(crystal, index, layers, vacuum=rng.uniform(*VACUUM) / 2, periodic=True)
            if len(slab) <= MOST_IN_SLAB:
                return slab
        return None

    def from_data(self, rng: np.random.Generator) -> ase.Atoms | None:
        """A crystal of the data."""
        return self.real[int(rng.integers(len(self.real)))].copy()

    def relaxed(self, atoms: ase.Atoms, *, is_slab: bool) -> ase.Atoms | None:
        """After a few steps; None if it should be left out."""
        atoms.calc = self.calculator
        moved = atoms if is_slab else FrechetCellFilter(atoms)
        with contextlib.redirect_stdout(io.StringIO()):
            FIRE(moved, logfile=None, maxstep=0.1).run(0.05, RELAX_STEPS)
        largest = np.linalg.norm(atoms.get_forces(), axis=1).max()
        if largest > MAX_FORCE or not (is_slab or is_sound(atoms)):
            return None
        return ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)

    def make(self, number: int) -> ase.Atoms:
        """The structure of a number."""
        rng = np.random.default_rng([self.seed, number])
        shares = {k: v for k, v in KINDS.items() if self.real or k != "real"}
        weights = np.array(list(shares.values())) / sum(shares.values())
        makers: dict[str, Callable[[np.random.Generator], ase.Atoms | None]] = {
            "ionic": self.ionic,
            "polyanion": self.polyanion,
            "metal": self.metal,
            "real": self.from_data,
            "slab": self.slab,
        }
        while True:
            kind = str(rng.choice(list(shares), p=weights))
            atoms = makers[kind](rng)
            if atoms is None or not set(atoms.get_chemical_symbols()) <= set(self.known):
                continue
            if kind not in ("real", "slab") and not is_sound(atoms):
                continue
            if kind != "real":
                try:
                    atoms = self.relaxed(atoms, is_slab=kind == "slab")
                except (RuntimeError, ValueError, ArithmeticError):  # cells that fall together
                    continue
            if atoms is not None:
                atoms.info["kind"] = kind
                return atoms


def elements(known: Sequence[str]) -> list[ase.Atoms]:
    """Elements in their reference structure, where ASE can build it."""
    found = []
    for symbol in known:
        state = reference_states[atomic_numbers[symbol]]
        if state is None or state["symmetry"] in ("atom", "diatom"):
            continue
        try:
            atoms = bulk(symbol)
        except (ValueError, KeyError, RuntimeError):
            continue
        atoms.info["kind"] = "element"
        found.append(atoms)
    return found


def real_crystals(path: Path | None) -> list[ase.Atoms]:
    """Crystals of a file of Born charges whose compositions ``born_head.py`` trains on."""
    if path is None:
        return []
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from born_features import read_crystals
    from born_head import part_of

    return [
        ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        for atoms in read_crystals(path)
        if part_of(atoms.info["formula"]) == "train"
    ]


def main() -> None:
    """Write the structures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="real crystals, such as born_charges.npz")
    parser.add_argument("--teacher", default="mat-large", help="lesff model that relaxes")
    parser.add_argument("--count", type=int, default=6000, help="beside the elements")
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    if given.count < PART or given.count % PART:
        parser.error(f"--count must be a multiple of {PART}, got {given.count}")
    warnings.simplefilter("ignore")
    model = lesff.load(given.teacher)
    known = [chemical_symbols[z] for z in model.config.elements]
    maker = Maker(
        known=known,
        calculator=model.calculator(on_out_of_domain="ignore"),
        real=real_crystals(given.data),
        seed=given.seed,
    )
    folder = given.output.with_suffix(".parts")
    folder.mkdir(parents=True, exist_ok=True)
    check_plan(
        folder / "plan.json",
        {"seed": given.seed, "teacher": given.teacher, "real": len(maker.real)},
    )
    starts = range(0, given.count, PART)
    paths = [folder / f"{start:06d}.extxyz" for start in starts]
    for path, start in tqdm(list(zip(paths, starts, strict=True)), unit="part"):
        if not path.exists():
            write_whole(path, [maker.make(i) for i in range(start, start + PART)])
    made = [atoms for path in paths for atoms in ase.io.read(path, ":")]
    write_whole(given.output, elements(known) + made)


def write_whole(path: Path, frames: Sequence[ase.Atoms]) -> None:
    """Write a file that appears complete or not at all."""
    with written_atomically(path) as new:
        ase.io.write(new, frames, format="extxyz")


if __name__ == "__main__":
    main()
