"""Solids to sample around, for the second generation of `mat-*`: more kinds, relaxed by mat-large.

    python tools/data/crystals.py --data born_charges.npz --count 3000 --seed 21 -o drawn_21.extxyz
    python tools/data/crystals.py --data born_charges.npz --which listed -o listed.extxyz
    python tools/data/crystals.py --data born_charges.npz --which melts -o melts.extxyz

``mat-large`` has the energies, forces and stress of Nequix-OAM-1-PFT, bit by bit. Kinds, in
``info["kind"]``; drawn are, by the shares of ``KINDS``:

- ``ionic``: substitutions into AFLOW prototypes that sum to no charge (``mat_seeds.py``), with
  hydrides, carbides, phosphides, arsenides and antimonides (III-V, II-VI semiconductors), too
- ``polyanion``: likewise, with carbonate, nitrate, phosphate, sulfate, iodate and the like
- ``metal``: prototypes of alloys with metals, scaled to metallic radii
- ``slab``: a low surface of one of the others or of ``real``, 10 to 14 A of vacuum

Listed are:

- ``common``: salts, oxides, semiconductors and the like that everybody computes, ``crystals.tsv``
- ``element``: each element in the structure of ``ase.data.reference_states``, where it is a crystal
- ``real``: crystals of ``--data`` of the compositions that ``tools/born_head.py`` trains on

Melts are cells of ``common`` with two atoms, doubled and blown up, to be melted by dynamics.

All but ``real`` and ``element`` are relaxed for some steps with their cell by the teacher; those
with short bonds, odd volumes or large forces are left out. Interrupted runs go on where they
stopped. Needs ``pip install pymatgen`` in an environment that finds lesff.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import ase
import ase.io
import numpy as np
from ase.build import bulk, surface
from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers, chemical_symbols, covalent_radii, reference_states
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from ase.spacegroup import crystal
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

COMMON = Path(__file__).with_name("crystals.tsv")
PART = 25
"""Structures per part."""
KINDS = {"ionic": 0.6, "polyanion": 0.18, "metal": 0.13, "slab": 0.09}
"""Shares of what is drawn."""
LEFT_OUT = {
    *("He", "Ne", "Ar", "Kr", "Xe", "Tc", "Pm", "Ac", "Pa", "U", "Np", "Pu"),
    *("Pr", "Sm", "Eu", "Tb", "Dy", "Ho", "Er", "Tm", "Yb"),
}
"""Elements of the teacher that no structure has: noble, radioactive, and lanthanides with likes."""
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
COMMON_STEPS = 80
"""Of relaxing what is in every textbook."""
MELT = 1.07
"""Factor of the cell's lengths of a crystal that is to melt: salts expand by a fifth and more."""
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

    def common(self) -> Iterator[ase.Atoms]:
        """What ``crystals.tsv`` lists, where the teacher keeps it."""
        for line in COMMON.read_text(encoding="utf-8").splitlines()[1:]:
            kind, formulas = line.split("\t")
            for formula in formulas.split():
                atoms = textbook(kind, formula)
                if not set(atoms.get_chemical_symbols()) <= set(self.known):
                    continue
                relaxed = self.relaxed(atoms, is_slab=False, steps=COMMON_STEPS)
                if relaxed is None:
                    tqdm.write(f"{formula}, {kind}: left out, the teacher does not keep it")
                    continue
                relaxed.info["kind"] = "common"
                yield relaxed

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

    def relaxed(
        self, atoms: ase.Atoms, *, is_slab: bool, steps: int = RELAX_STEPS
    ) -> ase.Atoms | None:
        """After a few steps; None if it should be left out."""
        atoms.calc = self.calculator
        moved = atoms if is_slab else FrechetCellFilter(atoms)
        with contextlib.redirect_stdout(io.StringIO()):
            FIRE(moved, logfile=None, maxstep=0.1).run(0.02 if steps > RELAX_STEPS else 0.05, steps)
        largest = np.linalg.norm(atoms.get_forces(), axis=1).max()
        if largest > MAX_FORCE or not (is_slab or is_sound(atoms)):
            return None
        return ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)

    def make(self, number: int) -> ase.Atoms:
        """The structure of a number."""
        rng = np.random.default_rng([self.seed, number])
        weights = np.array(list(KINDS.values())) / sum(KINDS.values())
        makers: dict[str, Callable[[np.random.Generator], ase.Atoms | None]] = {
            "ionic": self.ionic,
            "polyanion": self.polyanion,
            "metal": self.metal,
            "slab": self.slab,
        }
        while True:
            kind = str(rng.choice(list(KINDS), p=weights))
            atoms = makers[kind](rng)
            if atoms is None or not set(atoms.get_chemical_symbols()) <= set(self.known):
                continue
            if kind != "slab" and not is_sound(atoms):
                continue
            try:
                atoms = self.relaxed(atoms, is_slab=kind == "slab")
            except (RuntimeError, ValueError, ArithmeticError):  # cells that fall together
                continue
            if atoms is not None:
                atoms.info["kind"] = kind
                return atoms


def textbook(kind: str, formula: str) -> ase.Atoms:
    """A crystal of a common structure; lengths from covalent radii, to be relaxed.

    Args:
        kind: Structure of ``ase.build.bulk``, or ``"perovskite"``, ``"corundum"``, ``"rutile"``,
            ``"quartz"``, ``"fluorite"`` with the cation first.
        formula: Of one formula unit, cations first.
    """
    symbols = list(ase.Atoms(formula).symbols)
    bond = float(
        covalent_radii[atomic_numbers[symbols[0]]] + covalent_radii[atomic_numbers[symbols[-1]]]
    )
    if kind == "perovskite":
        # B-O-B along the edge
        length = 2.0 * float(
            covalent_radii[atomic_numbers[symbols[1]]] + covalent_radii[atomic_numbers[symbols[-1]]]
        )
        places = [[0.5] * 3, [0.0] * 3, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
        return ase.Atoms(symbols, scaled_positions=places, cell=[length] * 3, pbc=True)
    if kind == "rutile":
        a = 2.35 * bond
        return crystal(
            [symbols[0], symbols[-1]], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136,
            cellpar=[a, a, 0.645 * a, 90, 90, 90],
        )  # fmt: skip
    if kind == "corundum":
        a = 2.5 * bond
        return crystal(
            [symbols[0], symbols[-1]], [(0, 0, 0.352), (0.306, 0, 0.25)], spacegroup=167,
            cellpar=[a, a, 2.73 * a, 90, 90, 120], primitive_cell=True,
        )  # fmt: skip
    if kind == "quartz":
        a = 2.8 * bond
        return crystal(
            [symbols[0], symbols[-1]], [(0.470, 0, 0), (0.413, 0.266, 0.119)], spacegroup=152,
            cellpar=[a, a, 1.1 * a, 90, 90, 120],
        )  # fmt: skip
    if kind in ("rocksalt", "cesiumchloride"):
        factor = {"rocksalt": 2.0, "cesiumchloride": 2.0 / 3.0**0.5}[kind]
        return bulk(symbols[0] + symbols[-1], kind, a=factor * bond)
    if kind == "wurtzite":
        return bulk(formula, kind, a=1.633 * bond, c=1.633 * 1.633 * bond)
    return bulk(formula, kind, a=4.0 / 3.0**0.5 * bond)


def molten(crystals: Sequence[ase.Atoms]) -> list[ase.Atoms]:
    """Cells of eight, blown up, of crystals with two atoms."""
    found = [atoms.repeat(2) for atoms in crystals if len(atoms) == 2]
    for atoms in found:
        atoms.set_cell(MELT * atoms.cell, scale_atoms=True)
        atoms.info["kind"] = "melt"
    return found


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
    parser.add_argument("--count", type=int, help="of what is drawn (3000)")
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--which", choices=("drawn", "listed", "melts"), default="drawn")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    if given.which != "drawn" and given.count is not None:
        parser.error(f"--count is for what is drawn, not for --which {given.which}")
    given.count = 3000 if given.count is None else given.count
    if given.count < PART or given.count % PART:
        parser.error(f"--count must be a multiple of {PART}, got {given.count}")
    warnings.simplefilter("ignore")
    model = lesff.load(given.teacher)
    symbols = [chemical_symbols[z] for z in model.config.elements]
    known = [symbol for symbol in symbols if symbol not in LEFT_OUT]
    maker = Maker(
        known=known,
        calculator=model.calculator(on_out_of_domain="ignore"),
        real=real_crystals(given.data),
        seed=given.seed,
    )
    if given.which == "melts":
        write_whole(given.output, molten(list(maker.common())))
        return
    if given.which == "listed":
        real = [atoms for atoms in maker.real if set(atoms.get_chemical_symbols()) <= set(known)]
        for atoms in real:
            atoms.info["kind"] = "real"
        write_whole(given.output, [*elements(known), *maker.common(), *real])
        return
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
    write_whole(given.output, made)


def write_whole(path: Path, frames: Sequence[ase.Atoms]) -> None:
    """Write a file that appears complete or not at all."""
    with written_atomically(path) as new:
        ase.io.write(new, frames, format="extxyz")


if __name__ == "__main__":
    main()
