"""off-large: what charges and spins do, with the marks of docs/evaluation.md."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from helpers import make_graph

import lesff
from lesff.evaluation.robustness.ion_contacts import measure_ion_contacts
from lesff.evaluation.robustness.probe import Options
from lesff.evaluation.robustness.solvated_ions import WINDOW, in_water
from lesff.evaluation.robustness.structures import base
from lesff.methods import open_method
from lesff.units import COULOMB_CONSTANT

ROOT = Path(__file__).parents[1]
FAR = 30.0
"""A between the parts of a pair."""


@pytest.fixture(scope="module")
def model() -> lesff.Model:
    return lesff.load("off-large", dtype="float64", offline=True)


def energy(model, atoms, charge=0, spin=None):
    return model.predict(atoms, "energy", total_charge=charge, spin_multiplicity=spin).energy


def ammonium():
    atoms = molecule("CH4")
    atoms.symbols[0] = "N"
    atoms.positions *= 1.02 / 1.09
    return atoms


def far(first, second):
    """Two molecules ``FAR`` apart."""
    return first + Atoms(second.numbers, second.positions + [FAR, 0.0, 0.0])


@pytest.mark.parametrize(
    ("first", "second", "charges", "spins", "spin"),
    [
        ("ammonium", "Cl", (1, -1), (1, 1), 1),
        ("H2O", "Cl", (0, -1), (1, 1), 1),
        ("O2", "H2O", (0, 0), (3, 1), 3),
        ("CH3", "CH4", (0, 0), (2, 1), 2),
        ("H2O", "C6H6", (0, 0), (1, 1), 1),
    ],
)
def test_far_parts_are_the_sum_and_their_coulomb_energy(model, first, second, charges, spins, spin):
    a, b = (ammonium() if n == "ammonium" else Atoms("Cl") if n == "Cl" else molecule(n)
            for n in (first, second))  # fmt: skip
    both = far(a, b)
    expected = energy(model, a, charges[0], spins[0]) + energy(model, b, charges[1], spins[1])
    expected += COULOMB_CONSTANT * charges[0] * charges[1] / FAR
    p = model.predict(
        both, ["energy", "charges"], total_charge=sum(charges), spin_multiplicity=spin
    )
    assert p.energy == pytest.approx(expected, abs=0.05)
    assert p.charges[: len(a)].sum() == pytest.approx(charges[0], abs=0.05)


@pytest.mark.filterwarnings("ignore::lesff.errors.ExtrapolationWarning")
@pytest.mark.parametrize("name", ["O2", "CH2_s3B1d", "NH", "S2", "SO"])
def test_ground_states_are_triplets(model, name):
    """NIST-JANAF and Huber, Herzberg: O2, CH2, NH, S2 and SO are triplets."""
    atoms = molecule(name)
    assert energy(model, atoms, spin=3) < energy(model, atoms, spin=1)


@pytest.mark.filterwarnings("ignore::lesff.errors.ExtrapolationWarning")
@pytest.mark.parametrize("count", [1, 4, 16])
def test_chloride_keeps_its_charge_in_water(model, count):
    system = in_water("Cl", -1, count)
    p = model.predict(system.atoms, "charges", total_charge=-1)
    low, high = WINDOW
    assert -high - 1e-6 <= p.charges[0] <= -low


def test_hydrogen_bonds_of_ions_have_no_steps():
    """The check of the chapter, whose mark AIMNet2 meets as published (0.02 eV)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = measure_ion_contacts(open_method("off-large"), Options())
    assert len(found.rows) == 23
    assert [row["item"] for row in found.rows if not row["ok"]] == []


@pytest.mark.parametrize(
    ("name", "expected"), [("adenine", 0.0), ("thymine", 0.0), ("uracil", 0.0), ("C6H6", 0.0)]
)
def test_what_rings_are_guessed_to_be(model, name, expected):
    """docs/charges.md: nothing, but for the carbon between two nitrogens."""
    atoms = molecule(name) if name == "C6H6" else base(name).atoms
    potential = model.potential
    graph = make_graph(atoms, potential.architecture.cutoff)
    with torch.no_grad():
        guess = potential.energy_terms(graph).states.guess.abs()
    assert float(guess.max()) == pytest.approx(expected, abs=0.01 if expected else 1e-12)
    assert int((guess > 1e-12).sum()) == (1 if expected else 0)


def test_the_licence_names_both_parts(model):
    for owner in ("Copyright (c) 2024 Isayev Lab", "Copyright (c) 2026 the lesff developers"):
        assert owner in model.license_text
    assert "lesff/weights/off-large" in (ROOT / "NOTICE").read_text(encoding="utf-8")
