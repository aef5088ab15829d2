"""mat-large: the trunk's energies, forces and stress to the bit, and Born charges beside them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk

import lesff
from lesff.atoms.structure import to_structure
from lesff.errors import ExtrapolationWarning, UnsupportedInputError
from lesff.evaluation.checks.solids import BORN, SOLIDS, crystal
from lesff.evaluation.coverage import require
from lesff.methods import ModelMethod
from lesff.model_folder.verify import verify_parity
from lesff.potential.domain import check_domain
from lesff.potential.potential import Potential

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model() -> lesff.Model:
    return lesff.load("mat-large", offline=True)


def test_golden_values_are_reproduced(model):
    report = verify_parity(model.source.folder)
    assert report.ok
    assert report.n_structures >= 2


@pytest.mark.parametrize("name", ["NaCl", "MgO"])
def test_energy_forces_and_stress_are_those_of_the_trunk(model, name):
    """The same bits without the head: its charges are not in the energy."""
    assert model.config.long_range is not None
    assert model.config.long_range.in_energy is False
    trunk = Potential(replace(model.config, long_range=None))
    kept = {k: v for k, v in model.potential.state_dict().items() if k in trunk.state_dict()}
    trunk.load_state_dict(kept, strict=True)
    trunk.radial = model.potential.radial
    bare = lesff.Model(trunk.requires_grad_(requires_grad=False).eval(), model.source)
    atoms = crystal(SOLIDS[name])
    atoms.rattle(0.05, seed=0)
    names = ["energy", "forces", "stress"]
    ours, theirs = model.predict(atoms, names), bare.predict(atoms, names)
    for quantity in names:
        np.testing.assert_array_equal(ours[quantity], theirs[quantity])


def test_weights_of_the_trunk_are_the_published_ones(model):
    """Needs the published file, which is not part of lesff."""
    path = ROOT.parent / "shared" / "upstream" / "nequix-oam-1-pft.nqx"
    if not path.exists():
        pytest.skip("the published file is not here")
    from lesff.convert.nequix.model import convert_nequix
    from lesff.convert.nequix.reader import read_nqx

    published = convert_nequix(read_nqx(path)).state_dict()
    ours = model.potential.state_dict()
    assert set(published) == {k for k in ours if not k.startswith(("charge_", "multipole_"))}
    for key, value in published.items():
        np.testing.assert_array_equal(ours[key].numpy(), value.numpy(), err_msg=key)


@pytest.mark.parametrize("name", ["NaCl", "MgO"])
def test_born_charges_are_near_experiment_and_add_up_to_zero(model, name):
    """``Z* = sqrt(eps_inf) Z_latent`` (arXiv 2504.05169) within 15 %, neither trained on; Kittel,
    polaritons. The sum rule holds by construction, to float32."""
    z = model.predict(crystal(SOLIDS[name]), "born_effective_charges").born_effective_charges
    reference, eps_inf = BORN[name]
    assert np.sqrt(eps_inf) * np.trace(z[0]) / 3.0 == pytest.approx(reference, rel=0.15)
    np.testing.assert_allclose(z.sum(0), np.zeros((3, 3)), atol=2e-6)


def test_the_sum_rule_holds_without_symmetry():
    model = lesff.load("mat-large", dtype="float64", offline=True)
    atoms = crystal(SOLIDS["MgO"])
    atoms.positions[0] += [0.13, -0.07, 0.21]
    z = model.predict(atoms, "born_effective_charges").born_effective_charges
    assert np.abs(z - np.trace(z[0]) / 3.0 * np.eye(3)).max() > 1e-2  # no symmetry left
    np.testing.assert_allclose(z.sum(0), np.zeros((3, 3)), atol=1e-10)


def test_the_licence_names_both_parts(model):
    for owner in ("Copyright (c) 2025 Teddy Koker", "Copyright (c) 2026 the lesff developers"):
        assert owner in model.license_text
    assert "lesff/weights/mat-large" in (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert "17.9 %" in model.card


def test_an_odd_number_of_electrons_in_a_cell_is_no_radical(model):
    """Aluminium has 13 in its cell; an atom of it alone is a doublet that nobody trained on."""
    aluminium = bulk("Al")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        energy = model.predict(aluminium, "energy", strict=True).energy
        assert ModelMethod("mat-large").lacks([13]) != ""
        assert require(ModelMethod("mat-large"), aluminium) == ""
    atom = ase.Atoms("Al")
    with pytest.warns(ExtrapolationWarning, match="spin_multiplicity 2"):
        assert model.predict(atom, "energy").energy > energy
    with pytest.raises(UnsupportedInputError, match="spin_multiplicity 2"):
        model.predict(atom, "energy", strict=True)
    # a radical in a liquid is one, for a model that knows no metal
    config = replace(lesff.load("off-small").config, spin_multiplicity=(1, 1))
    radical = to_structure(
        ase.Atoms("OH", positions=[[0, 0, 0], [1, 0, 0]], cell=[9] * 3, pbc=True)
    )
    with pytest.raises(UnsupportedInputError, match="spin_multiplicity 2"):
        check_domain(config, [radical], strict=True)
