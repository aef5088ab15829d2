"""Born effective charges of a model against those of held-out crystals.

    python tools/born_errors.py mat-large born_charges.npz --json model_cards/mat-large.born.json
    python tools/born_errors.py mat-large born_charges.npz --known-to mat-medium
    python tools/born_errors.py mat-large born_charges.npz --trunk nequix-oam-1-pft

Crystals are those of the part of ``born_head.py`` that is never trained on (``--part``), if their
sign is sure and the model covers their elements. Relative RMS error: ``sqrt(sum |Z - Zref|^2 / sum
|Zref|^2)`` over atoms and components, ``Z = Z* of the model times sqrt(eps_inf)`` with the eps_inf
(mean of the diagonal) of the label. Beside it stands what the mean of each element over the
training crystals gives, shifted to add up to zero in the cell.

``--trunk`` compares energies, forces and stress of the crystals, rattled by 0.05 A, with another
model instead.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from born_features import columns_of, digest, read_crystals
from born_head import part_of, sqrt_epsilon

import lesff
from lesff.evaluation.tables import born_markdown
from lesff.model import Model
from lesff.plain_data import write_json

FIRST = 973
"""Crystals of up to 12 atoms, in the order of ``born_features.py``, that had features by then."""
MAX_ATOMS = 12
N_WORST = 6
RATTLE = 0.05
"""A, standard deviation of the displacements of ``--trunk``."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A crystal with what was found for it, all in e.

    Attributes:
        atoms: The crystal, with its labels.
        is_first: Whether it is among the crystals of the first look, see :data:`FIRST`.
        found: (n_atoms, 3, 3) Z* of the model times sqrt(eps_inf).
        mean: The same from means of elements.
    """

    atoms: Atoms
    is_first: bool
    found: np.ndarray
    mean: np.ndarray


@dataclass(frozen=True, kw_only=True)
class BornErrors:
    """Errors over a set of crystals.

    Attributes:
        n_crystals: Number of crystals.
        n_atoms: Of all of them together.
        relative_rms: In percent, see the module's text.
        by_symmetry: The same over the columns of Z* that symmetry leaves, each times the columns it
            stands for: what ``born_head.py`` reports.
        median: Of the relative RMS errors of single crystals, percent.
        element_mean: Relative RMS error of the means of elements, percent.
        largest_sum: Largest component of the sum of Z* over a cell, e.
    """

    n_crystals: int
    n_atoms: int
    relative_rms: float
    by_symmetry: float
    median: float
    element_mean: float
    largest_sum: float


def main() -> None:
    """Print the tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("data", type=Path, help="born_charges.npz")
    parser.add_argument("--part", choices=("train", "choice", "test"), default="test")
    parser.add_argument("--known-to", metavar="MODEL", help="crystals of its elements only")
    parser.add_argument("--trunk", metavar="MODEL", help="compare energies and forces instead")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--as", dest="label", help="name in the result, for models to be released")
    given = parser.parse_args()
    model = lesff.load(given.model)
    known = set(model.config.elements)
    if given.known_to:
        known &= set(lesff.load(given.known_to).config.elements)
    crystals = [c for c in read_crystals(given.data) if c.info["sign_ok"]]
    chosen = [
        c
        for c in crystals
        if part_of(c.info["formula"]) == given.part and set(c.numbers.tolist()) <= known
    ]
    if given.trunk:
        sys.stdout.write(difference(model, lesff.load(given.trunk), chosen) + "\n")
        return
    first = first_rows(crystals)
    cases = solved(model, chosen, first, element_means(crystals))
    worst = sorted(((relative_rms([c]), c.atoms.info["formula"]) for c in cases), reverse=True)
    result = {
        "model": given.label or model.name,
        "data": [given.data.name],
        "part": given.part,
        "known_to": given.known_to,
        "born": errors_of(cases),
        "by_element": errors_by_element(cases),
        "worst": worst[:N_WORST],
    }
    sys.stdout.write(born_markdown(result) + "\n")
    if given.json is not None:
        write_json(given.json, result)


def first_rows(crystals: list[Atoms]) -> set[int]:
    """Rows of the crystals of the first look."""
    small = [c.info for c in crystals if len(c) <= MAX_ATOMS]
    ordered = sorted(small, key=lambda info: digest(f"{info['formula']} {info['row']}"))
    return {info["row"] for info in ordered[:FIRST]}


def element_means(crystals: list[Atoms]) -> dict[int, float]:
    """``tr Z* / 3 sqrt(eps_inf)`` of every element, its mean over atoms of training crystals, e."""
    found = defaultdict(list)
    for atoms in crystals:
        if part_of(atoms.info["formula"]) == "train":
            traces = np.trace(atoms.arrays["born"], axis1=1, axis2=2) / (3.0 * sqrt_epsilon(atoms))
            for z, charge in zip(atoms.numbers.tolist(), traces, strict=True):
                found[z].append(charge)
    return {z: float(np.mean(charges)) for z, charges in found.items()}


def solved(
    model: Model, crystals: list[Atoms], first: set[int], means: dict[int, float]
) -> list[Case]:
    """Born charges of the model and of the means of elements for every crystal."""
    cases = []
    for atoms in crystals:
        scale = sqrt_epsilon(atoms)
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        found = model.predict(bare, "born_effective_charges").born_effective_charges
        charges = np.array([means.get(z, 0.0) for z in atoms.numbers.tolist()])
        charges = charges - charges.mean()
        cases.append(
            Case(
                atoms=atoms,
                is_first=atoms.info["row"] in first,
                found=scale * np.asarray(found),
                mean=scale * charges[:, None, None] * np.eye(3),
            )
        )
    return cases


def relative_rms(cases: list[Case], rows: int | None = None, *, of_means: bool = False) -> float:
    """Relative RMS error in percent.

    Args:
        cases: Crystals.
        rows: Atomic number of the atoms that count; all of them if None.
        of_means: Of the means of elements instead of the model.
    """
    wrong = total = 0.0
    for case in cases:
        reference = case.atoms.arrays["born"]
        counted = slice(None) if rows is None else case.atoms.numbers == rows
        found = case.mean if of_means else case.found
        wrong += float(np.square(found - reference)[counted].sum())
        total += float(np.square(reference)[counted].sum())
    return 100.0 * (wrong / total) ** 0.5


def relative_rms_by_symmetry(cases: list[Case]) -> float:
    """Relative RMS error in percent, over columns of Z* that symmetry does not give from others."""
    wrong = total = 0.0
    for case in cases:
        columns, weights = columns_of(case.atoms)
        atom, direction = columns.T
        reference = case.atoms.arrays["born"][atom, :, direction]
        errors = case.found[atom, :, direction] - reference
        wrong += float((weights[:, None] * np.square(errors)).sum())
        total += float((weights[:, None] * np.square(reference)).sum())
    return 100.0 * (wrong / total) ** 0.5


def errors_of(cases: list[Case]) -> dict[str, dict[str, float]]:
    """Errors of the crystals of the first look, of the others and of all."""
    subsets = {
        "first look": [c for c in cases if c.is_first],
        "others": [c for c in cases if not c.is_first],
        "all": cases,
    }
    return {
        name: asdict(
            BornErrors(
                n_crystals=len(part),
                n_atoms=sum(len(c.atoms) for c in part),
                relative_rms=relative_rms(part),
                by_symmetry=relative_rms_by_symmetry(part),
                median=float(np.median([relative_rms([c]) for c in part])),
                element_mean=relative_rms(part, of_means=True),
                largest_sum=float(max(np.abs(c.found.sum(0)).max() for c in part)),
            )
        )
        for name, part in subsets.items()
        if part
    }


def errors_by_element(cases: list[Case]) -> dict[str, float]:
    """Relative RMS error of every element with atoms in three crystals or more, percent."""
    counts: dict[int, int] = defaultdict(int)
    for case in cases:
        for z in set(case.atoms.numbers.tolist()):
            counts[z] += 1
    return {
        chemical_symbols[z]: round(relative_rms(cases, z), 1)
        for z in sorted(counts)
        if counts[z] >= 3
    }


def difference(model: Model, trunk: Model, crystals: list[Atoms]) -> str:
    """Largest differences of energy, forces and stress between two models."""
    rattled = []
    for atoms in crystals:
        moved = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        moved.rattle(RATTLE, seed=0)
        rattled.append(moved)
    ours, theirs = (m.predict(rattled, ["energy", "forces", "stress"]) for m in (model, trunk))
    largest = {
        name: max(
            float(np.abs(np.asarray(a) - np.asarray(b)).max())
            for a, b in zip(ours[name], theirs[name], strict=True)
        )
        for name in ("energy", "forces", "stress")
    }
    text = ", ".join(f"{name} {value:g}" for name, value in largest.items())
    return f"{len(crystals)} crystals, largest differences in eV, eV/A and eV/A^3: {text}"


if __name__ == "__main__":
    main()
