"""The bundled models: their cards tell the truth, and they behave as physics demands."""

import json
import sys
import warnings
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

import lesff
from lesff.errors import CacheError, CaveatWarning, ModelNotFoundError
from lesff.evaluation.checks.solids import BORN, SOLIDS, crystal
from lesff.evaluation.checks.states import HYDROGEN_ATOM, at_donor
from lesff.evaluation.molecules import add_proton
from lesff.evaluation.relaxation import relaxed, zero_point_energy
from lesff.model_folder.verify import verify_parity
from lesff.train.data import read_frames
from lesff.train.metrics import evaluate_frames
from lesff.train.splits import split_by_molecule
from lesff.units import BOLTZMANN, COULOMB_CONSTANT, EA_TO_DEBYE, EV_TO_KCAL_PER_MOL

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"
DFT = ROOT.parent / "shared" / "data" / "dft_organic.extxyz"


DIPOLE_TOLERANCE = {"off-small": 0.25, "off-medium": 0.35}
"""Debye; the cards give the mean error of 22 molecules."""


@pytest.fixture(scope="module", params=["off-small", "off-medium"])
def model(request):
    """The model in float64."""
    return lesff.load(request.param, dtype="float64", offline=True)


@pytest.mark.parametrize("name", ["off-small", "off-medium"])
def test_molecules_are_those_of_the_versions_before(name):
    """1.2.0 has the weights of 1.1.0 and other sums in crystals, 1.3.0 a wall that they are not at.

    1.1.0 shares its weights with a newer version and is put together in the cache.
    """
    walled = lesff.load(f"{name}@1.3.0", dtype="float64", offline=True)
    for version in ("1.1.0", "1.2.0"):
        before = lesff.load(f"{name}@{version}", dtype="float64", offline=True)
        for system in ("H2O", "CH3CONH2", "C6H6", "CH3Cl"):
            old, new = (m.predict(molecule(system), ["energy", "forces"]) for m in (before, walled))
            # charges within limits are shared out in another order of operations
            assert new.energy == pytest.approx(old.energy, abs=1e-10)
            np.testing.assert_allclose(new.forces, old.forces, rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore::lesff.errors.ExtrapolationWarning")
def test_pressed_molecules_repel(model):
    """Where versions before fell by tens to thousands of eV."""
    before = lesff.load(f"{model.name.split('@')[0]}@1.2.0", dtype="float64", offline=True)
    pressed = molecule("H2O")
    pressed.positions[1] = pressed.positions[0] + 0.5 * (
        pressed.positions[1] - pressed.positions[0]
    )
    old, new = (m.predict(pressed, "energy", allow_close=True).energy for m in (before, model))
    at_rest = model.predict(molecule("H2O"), "energy").energy
    assert old < at_rest - 40.0
    assert new > at_rest + 10.0


def test_versions_that_share_weights_are_put_together_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LESFF_CACHE", str(tmp_path / "cache"))
    folder = lesff.load("off-small@1.2.0", offline=True).source.folder
    assert folder == tmp_path / "cache" / "models" / "off-small" / "1.2.0"
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    again = lesff.load("off-small@1.2.0", offline=True)  # damaged, and healed
    assert verify_parity(again.source.folder).ok
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LESFF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CacheError, match=r"off-small@1.2.0 shares its weights"):
        lesff.load("off-small@1.2.0", offline=True)
    assert lesff.load("off-small", offline=True).source.origin == "bundled"


@pytest.mark.filterwarnings("ignore:off-large@1.0.0 is deprecated:FutureWarning")
def test_versions_of_another_package_load_where_it_is_installed(monkeypatch):
    """``lesff-older-weights``: conftest puts it on the path as ``pip install`` does."""
    found = lesff.load("off-large@1.0.0", offline=True)
    assert found.source.origin == "bundled"
    assert found.source.folder == ROOT / "older_weights/lesff_older_weights/off-large/1.0.0"
    assert verify_parity(found.source.folder).ok
    older = str(ROOT / "older_weights")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != older])
    monkeypatch.delitem(sys.modules, "lesff_older_weights", raising=False)
    text = r"package lesff-older-weights, which is not installed: .* or load off-large@1\.2\.0"
    with pytest.raises(ModelNotFoundError, match=text):
        lesff.load("off-large@1.0.0", offline=True)


def test_energies_are_continuous_in_the_cell(model):
    """The energy of a box of water changes by its stress, at every step of a strain.

    Along this path off-medium 1.1.0 jumps by 11.5 meV. Trapezoids of 5e-5 are good to 1e-7 eV.
    """
    rng, box = np.random.default_rng(0), ase.Atoms(cell=[9.3] * 3, pbc=True)
    for place in np.ndindex(3, 3, 3):
        water = molecule("H2O")
        water.rotate(rng.uniform(0, 360), rng.normal(size=3))
        water.translate(np.array(place) * 3.1 - water.get_center_of_mass())
        box += water
    scales, energies, slopes = np.linspace(0.9845, 0.9865, 41), [], []
    for scale in scales:
        atoms = box.copy()
        atoms.set_cell(box.cell * scale, scale_atoms=True)
        found = model.predict(atoms, ["energy", "stress"])
        energies.append(found.energy)
        slopes.append(np.trace(found.stress) * atoms.get_volume() / scale)  # dE / dscale
    work = 0.5 * (np.array(slopes[1:]) + np.array(slopes[:-1])) * np.diff(scales)
    assert np.abs(np.diff(energies) - work).max() < 1e-6


def test_a_molecule_in_a_large_box_is_the_free_molecule(model):
    """Apart from its images: -2 pi ke mu^2 / (3 V) of a cubic lattice of dipoles in a conductor
    (Makov and Payne, PRB 51, 4014 (1995)), to 0.01 meV."""
    free = molecule("CH3CONH2")
    box = free.copy()
    box.set_cell([80.0] * 3)
    box.center()
    box.pbc = True
    alone = model.predict(free, ["energy", "forces", "dipole"])
    inside = model.predict(box, ["energy", "forces"])
    images = -2.0 * np.pi * COULOMB_CONSTANT * np.square(alone.dipole).sum() / (3.0 * 80.0**3)
    assert inside.energy - alone.energy == pytest.approx(images, abs=1e-5)
    # the field 4 pi ke mu / (3 V) on Born charges of about 2 e
    field = 4.0 * np.pi * COULOMB_CONSTANT * np.linalg.norm(alone.dipole) / (3.0 * 80.0**3)
    assert np.abs(inside.forces - alone.forces).max() < 2.5 * field


def test_golden_values_are_reproduced(model):
    report = verify_parity(model.source.folder)
    assert report.ok
    assert report.n_structures >= 3


@pytest.mark.parametrize(
    ("name", "experiment"),
    # Debye, NIST CCCBDB
    [("H2O", 1.855), ("NH3", 1.472), ("CH3OH", 1.70), ("H2CO", 2.332), ("CH3Cl", 1.892)],
)
def test_dipoles_are_near_experiment(model, name, experiment):
    dipole = np.linalg.norm(model.predict(molecule(name), "dipole").dipole) * EA_TO_DEBYE
    assert dipole == pytest.approx(experiment, abs=DIPOLE_TOLERANCE[model.name.split("@")[0]])


def test_symmetric_molecules_have_no_dipole(model):
    for name in ("CH4", "C6H6", "CO2"):
        dipole = np.linalg.norm(model.predict(molecule(name), "dipole").dipole) * EA_TO_DEBYE
        assert dipole < 0.01  # geometries of ASE are symmetric to 1e-4 A


@pytest.mark.filterwarnings("ignore:.*initial magnetic moments:lesff.errors.StateWarning")
def test_charges_sum_to_the_total_charge(model):
    for atoms, charge in ((molecule("H2O"), 0), (molecule("CH3O"), -1)):
        total = model.predict(atoms, "charges", total_charge=charge).charges.sum()
        assert total == pytest.approx(charge, abs=1e-10)


def test_born_charges_of_water_obey_the_sum_rule(model):
    z = model.predict(molecule("H2O"), "born_effective_charges").born_effective_charges
    np.testing.assert_allclose(z.sum(0), np.zeros((3, 3)), atol=1e-10)


def test_anions_are_bound_to_a_proton_donor(model):
    """Chloride at water: enthalpy of binding 14.7 kcal/mol (Hiraoka et al., J. Phys. Chem. 92,
    3943 (1988)), not trained on. Within half of it: the cards have the values."""
    start = at_donor(ase.Atoms("Cl"))
    together = relaxed(start, model.calculator(total_charge=-1))
    parts = model.predict([start[:1], molecule("H2O")], "energy", total_charge=[-1, 0]).energy
    binding = (sum(parts) - together.get_potential_energy()) * EV_TO_KCAL_PER_MOL
    assert binding == pytest.approx(14.7, rel=0.5)


def test_an_ion_far_from_a_molecule_keeps_its_charge(model):
    """Limit of molecules that do not touch, 15 A apart: all of the charge is on the ion."""
    atoms = add_proton(molecule("NH3"), 0)
    far = molecule("H2O")
    far.translate([15.0, 0.0, 0.0])
    charges = model.predict(atoms + far, "charges", total_charge=1).charges
    assert charges[:5].sum() == pytest.approx(1.0, abs=0.1)


def test_separated_ions_have_charges(model):
    """NH4+ and Cl- 15 A apart: unit charges, within half of it; the cards have the values."""
    atoms = add_proton(molecule("NH3"), 0) + ase.Atoms("Cl", [[15.0, 0.0, 0.0]])
    charges = model.predict(atoms, "charges").charges
    assert charges[:5].sum() == pytest.approx(1.0, abs=0.5)


def test_proton_affinity_has_no_offset(model):
    """Ammonia at 298 K, 204.0 kcal/mol (Hunter, Lias, J. Phys. Chem. Ref. Data 27, 413 (1998)): the
    energy zero of ions is that of neutral molecules. Within 5 kcal/mol."""
    base = relaxed(molecule("NH3"), model.calculator())
    acid = relaxed(add_proton(molecule("NH3"), 0), model.calculator(total_charge=1))
    electronic = base.get_potential_energy() - acid.get_potential_energy() - HYDROGEN_ATOM
    vibrational = zero_point_energy(base) - zero_point_energy(acid)
    affinity = (electronic + vibrational + 2.5 * BOLTZMANN * 298.15) * EV_TO_KCAL_PER_MOL
    assert affinity == pytest.approx(204.0, abs=5.0)


@pytest.mark.filterwarnings("ignore:.*initial magnetic moments:lesff.errors.StateWarning")
@pytest.mark.filterwarnings("ignore::lesff.errors.ExtrapolationWarning")
def test_neutral_singlets_do_not_see_the_state_embedding(model):
    """The embedding adds exactly zero (arXiv 2105.00304, without bias): the same bits."""
    embedding = model.potential.state_embedding
    saved = [parameter.detach().clone() for parameter in embedding.parameters()]

    def energies():
        neutral = model.predict(molecule("H2O"), "energy").energy
        return neutral, model.predict(molecule("CH3O"), "energy", total_charge=-1).energy

    neutral, charged = energies()
    try:
        with torch.no_grad():
            for parameter in embedding.parameters():
                parameter.add_(1.0)
        assert energies()[0] == neutral
        assert abs(energies()[1] - charged) > 1e-3
    finally:
        with torch.no_grad():
            for parameter, value in zip(embedding.parameters(), saved, strict=True):
                parameter.copy_(value)


@pytest.mark.parametrize("name", ["off-small", "off-medium"])
def test_errors_on_dft_frames_are_those_of_the_card(name):
    """Recomputes the table of the card; needs the DFT frames, which are not part of lesff."""
    if not DFT.exists():
        pytest.skip("the DFT frames are not here")
    expected = json.loads((CARDS / f"{name}.evaluation.json").read_text())["errors"]
    model = lesff.load(name, offline=True)
    known = set(model.config.elements)
    frames = read_frames(DFT)
    split = split_by_molecule([(frame.subset, frame.group) for frame in frames])
    frames = [frame for frame in frames if split.holds_out(frame.group)]
    frames = [f for f in frames if set(f.structure.numbers.tolist()) <= known]
    table = evaluate_frames(model.potential, frames)
    for subset, row in expected.items():
        assert table[subset].forces_mae == pytest.approx(row["forces_mae"], rel=1e-3)
        assert table[subset].energy_mae == pytest.approx(row["energy_mae"], rel=1e-2)


@pytest.fixture(scope="module", params=["mat-small", "mat-medium"])
def solid_model(request):
    """A model of solids in float64."""
    return lesff.load(request.param, dtype="float64", offline=True)


def test_golden_values_of_solids_are_reproduced(solid_model):
    report = verify_parity(solid_model.source.folder)
    assert report.ok
    assert report.n_structures >= 3


@pytest.mark.parametrize("name", ["NaCl", pytest.param("MgO", marks=pytest.mark.slow)])
def test_born_charges_of_salts_obey_the_sum_rule(solid_model, name):
    """Transfers between neighbours cancel in a cell: no rule has to be imposed."""
    atoms = crystal(SOLIDS[name])
    atoms.positions[0] += [0.13, -0.07, 0.21]  # no symmetry that makes the sum vanish
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaveatWarning)
        z = solid_model.predict(atoms, "born_effective_charges").born_effective_charges
    assert np.abs(z).max() > 1e-3
    np.testing.assert_allclose(z.sum(0), np.zeros((3, 3)), atol=1e-8)


def test_charges_of_mat_small_come_with_a_warning():
    atoms = crystal(SOLIDS["NaCl"])
    with pytest.warns(CaveatWarning, match="not to be trusted: its teacher is short-ranged"):
        lesff.load("mat-small", offline=True).predict(atoms, "born_effective_charges")


@pytest.mark.parametrize("name", ["NaCl", "MgO"])
def test_born_charges_of_mat_medium_are_near_those_of_experiment(name):
    """``Z* = sqrt(eps_inf) Z_latent`` (arXiv 2504.05169) within 25 %; Kittel, polaritons."""
    atoms = crystal(SOLIDS[name], conventional=True)
    model = lesff.load("mat-medium", offline=True)
    z = model.predict(atoms, "born_effective_charges").born_effective_charges
    reference, eps_inf = BORN[name]
    cation = atoms.symbols == SOLIDS[name].species[0]
    found = np.sqrt(eps_inf) * np.trace(z[cation].mean(0)) / 3.0
    assert found == pytest.approx(reference, rel=0.25)


def test_stress_is_the_derivative_of_the_energy(solid_model):
    """(1/V) dE/de_xx by central differences, at a strained NaCl."""
    atoms = crystal(SOLIDS["NaCl"], a=5.5)
    volume, step = atoms.get_volume(), 1e-4

    def energy(strain):
        moved = atoms.copy()
        deformation = np.eye(3)
        deformation[0, 0] += strain
        moved.set_cell(atoms.cell @ deformation, scale_atoms=True)
        return solid_model.predict(moved, "energy").energy

    slope = (energy(step) - energy(-step)) / (2.0 * step * volume)
    stress = solid_model.predict(atoms, "stress").stress
    assert stress[0, 0] == pytest.approx(slope, abs=1e-7)
