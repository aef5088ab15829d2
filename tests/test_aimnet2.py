"""AIMNet2's own parts: charges of layers, the onset of the Coulomb interaction, D3(BJ)."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import ase
import ase.build
import numpy as np
import pytest
import torch
from ase.build import molecule
from helpers import make_graph, nacl, tiny_aimnet2, triclinic_ice, two_waters, water
from labelled_frames import labelled

import lesff
from lesff.architectures import AIMNet2Config
from lesff.architectures.aimnet2.layer import GaussianShells
from lesff.convert.aimnet2 import convert_aimnet2
from lesff.convert.reader import read_checkpoint
from lesff.electrostatics.charges.sharing import shared
from lesff.electrostatics.coulomb import latent_energy
from lesff.electrostatics.d3 import D3, D3Config
from lesff.electrostatics.onset import onset, onset_energy
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import ConfigError
from lesff.heads import LongRangeConfig
from lesff.model_folder.folder import save_model
from lesff.plain_data import from_dict
from lesff.potential.config import ModelConfig
from lesff.potential.edit import with_head
from lesff.potential.potential import Potential
from lesff.potential.verify import check_physics
from lesff.units import BOHR, COULOMB_CONSTANT, HARTREE

CONVERGED = EwaldSettings(sigma=0.9, dl=0.9, cutoff="smooth")
CUTOFF = 5.0


@pytest.fixture(scope="module")
def potential(tmp_path_factory) -> Potential:
    """The small model of ``references/make_aimnet2_references.py`` in float64."""
    result = convert_aimnet2(read_checkpoint(tiny_aimnet2(tmp_path_factory.mktemp("aimnet2"))))
    result.cast_parameters(torch.float64)
    return result


def close(graph):
    """Distances and atoms of each pair of neighbours once."""
    once = torch.arange(graph.n_edges) < graph.reverse_edge
    first, second = graph.edge_index[:, once]
    vectors = graph.positions[second] - graph.positions[first]
    return (vectors + graph.cell_shifts[once].double() @ graph.cell[0]).norm(dim=1), first, second


# --- charges -----------------------------------------------------------------------------------


def test_radial_functions_are_never_subnormal():
    # from one end of the range to the other e^-eta(r - s)^2 is 1e-40 and less
    shells = GaussianShells(AIMNet2Config())
    distance = torch.linspace(0.7, 5.2, 4001)
    found = shells(distance)
    exact = shells(distance.double())
    assert bool(((found == 0.0) | (found > torch.finfo(found.dtype).tiny)).all())
    torch.testing.assert_close(found.double(), exact, rtol=2e-5, atol=5e-8)


def test_shared_charges_have_the_total():
    charges, weights = torch.randn(5).double(), torch.rand(5).double()
    batch, totals = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1.0, -2.0]).double()
    found, potential = shared(charges, weights, totals, batch)
    assert found[:3].sum() == pytest.approx(1.0)
    assert found[3:].sum() == pytest.approx(-2.0)
    assert torch.equal(shared(charges, weights, totals, batch, potential)[0], found)
    # nobody to share with: charges stay as they are
    still, _ = shared(charges, 0.0 * weights, totals, batch, floor=1e-6)
    assert torch.equal(still, charges)


def test_total_charge_changes_the_energy_of_layers(potential):
    atoms = molecule("CH3OH")
    graphs = [make_graph(atoms, CUTOFF, total_charge=q, spin_multiplicity=1) for q in (0, -2)]
    energies = [float(potential(graph, ["energy_sr"])["energy_sr"]) for graph in graphs]
    assert abs(energies[0] - energies[1]) > 1e-3


def test_equal_fragments_share_a_charge_equally(potential):
    potential = copy.deepcopy(potential)
    architecture = potential.architecture
    architecture.config = replace(architecture.config, share_floor=0.0)
    near = molecule("H2O")
    far = near.copy()
    far.positions += [12.0, 0.0, 0.0]
    both = make_graph(near + far, CUTOFF)
    alone = make_graph(near, CUTOFF)
    charges = potential(both, ["charges"])["charges"][:3]
    assert charges.numpy() == pytest.approx(potential(alone, ["charges"])["charges"].numpy())
    ion = make_graph(near + far, CUTOFF, total_charge=2)
    assert float(potential(ion, ["charges"])["charges"][:3].sum()) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("head", ["latent", "shifted", "edge", "fukui", "qeq-local"])
def test_another_head_starts_from_the_charges_of_layers(potential, head):
    graph = make_graph(molecule("CH3OH"), CUTOFF, total_charge=1, spin_multiplicity=2)
    names = ["energy", "forces", "latent_charges", "born_effective_charges"]
    new = with_head(potential, head)
    assert new.config.long_range.base.head == "carried"
    before, after = potential(graph, names), new(graph, names)
    for name in names:
        # the published share_floor leaves 1e-6 of a charge, which other heads shift away
        assert after[name].numpy() == pytest.approx(before[name].numpy(), abs=3e-6)


def test_other_architectures_carry_no_charges():
    config = ModelConfig(
        architecture={"type": "mace", "cutoff": 4.0, "hidden_irreps": "4x0e"},
        elements=(1, 8),
        reference_energies=(0.0, 0.0),
        long_range=LongRangeConfig(head="carried"),
    )
    with pytest.raises(ConfigError, match="'carried' for an architecture that carries no"):
        Potential(config)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"head": "carried", "residual": True}, "must be left out for the head 'carried'"),
        ({"head": "qeq", "onset": 4.0}, "`long_range.onset` must be null for the head 'qeq'"),
        ({"onset": -1.0}, r"`long_range.onset` must be null or in \(0, 1000\) A, got -1.0"),
    ],
)
def test_options_without_meaning_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        LongRangeConfig(**options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hidden": ((4,),), "active_outputs": (True,)}, "`architecture.hidden` must be of 2 to"),
        ({"active_outputs": (True,)}, "`architecture.active_outputs` must be one for each pass"),
        ({"n_vectors": 0}, "sizes from 1 to 4096"),
        ({"radial_centers": (1.0, math.nan)}, "`architecture.radial_centers` must be null or 16"),
        ({"share_floor": -1.0}, r"`architecture.share_floor` must be in \[0, 1\], got -1.0"),
    ],
)
def test_sizes_without_meaning_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        AIMNet2Config(**options)


# --- a model like any other ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(potential, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("aimnet2") / "model"
    save_model(potential, path, card="# Tiny\n", license_text="Yours.\n")
    return path


def test_finetuning_moves_every_part(folder, tmp_path):
    model = lesff.load(folder)
    frames = [labelled(water() if k % 2 else two_waters(), k) for k in range(8)]
    better = model.finetune(
        frames, tmp_path / "run", max_atoms=9, checks_units=False, returns="trained",
        progress=False, optimizer={"max_steps": 4, "validate_every": 4, "warmup_steps": 1},
    )  # fmt: skip
    before, after = model.potential.state_dict(), better.potential.state_dict()
    moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    parts = {"embedding", "feature_mixing", "charge_mixing", "passes", "energy"}
    assert moved == parts  # tables of D3 stay as they are
    assert better.predict(water(), ["charges"]).charges.sum() == pytest.approx(0.0, abs=1e-3)


def test_calculator_gives_what_predict_gives(folder):
    model = lesff.load(folder, dtype="float64")
    atoms = triclinic_ice()
    atoms.calc = model.calculator()
    expected = model.predict(atoms, ["energy", "forces", "stress"])
    assert atoms.get_potential_energy() == pytest.approx(float(expected.energy), abs=1e-9)
    assert atoms.get_forces() == pytest.approx(expected.forces, abs=1e-9)
    assert atoms.get_stress(voigt=False) == pytest.approx(expected.stress, abs=1e-9)
    atoms.rattle(0.05, seed=1)
    assert atoms.get_forces() == pytest.approx(model.predict(atoms).forces, abs=1e-9)


# --- onset of the Coulomb interaction ----------------------------------------------------------


@pytest.mark.parametrize("r", [0.7, 2.0, 3.9, 4.6, 4.9])
def test_pair_has_the_energy_of_the_formula(r):
    graph = make_graph(ase.Atoms("OH", positions=[[0, 0, 0], [0, 0, r]]), CUTOFF)
    charges = torch.tensor([0.7, -1.1], dtype=torch.float64)
    energy = latent_energy(charges, graph, CONVERGED)
    energy = energy + onset_energy(charges, *close(graph), graph, CONVERGED, 4.6)
    f = math.exp(1.0 - 1.0 / (1.0 - (r / 4.6) ** 2)) if r < 4.6 else 0.0
    expected = -0.77 * COULOMB_CONSTANT * (1.0 - f) / r
    assert float(energy) == pytest.approx(expected, abs=1e-8)


def test_point_charges_beyond_the_onset_have_the_madelung_energy():
    crystal = nacl()
    graph = make_graph(crystal.atoms, CUTOFF)
    charges = torch.from_numpy(crystal.charges).double()
    energy = latent_energy(charges, graph, CONVERGED)
    energy = energy + onset_energy(charges, *close(graph), graph, CONVERGED, 2.5)
    per_unit = crystal.madelung * COULOMB_CONSTANT / crystal.length
    # beyond 5 A the Gaussians are taken for points: 3e-8 of each pair
    assert float(energy) == pytest.approx(-crystal.formula_units * per_unit, rel=2e-7)


def test_onset_is_smooth_at_its_end():
    r = torch.tensor([4.5999, 4.6, 4.6001, 0.0], dtype=torch.float64, requires_grad=True)
    f = onset(r, 4.6)
    (slope,) = torch.autograd.grad(f.sum(), r)
    assert f.tolist() == pytest.approx([0.0, 0.0, 0.0, 1.0])
    assert slope.abs().max() < 1e-12


# --- D3 ----------------------------------------------------------------------------------------


def pair_by_pair(atoms: ase.Atoms, d3: D3, elements: tuple[int, ...]) -> float:
    """D3(BJ) in eV as published: the sum over references of both atoms divided by its weights."""
    z = [elements.index(number) for number in atoms.numbers]
    r = atoms.get_all_distances() / BOHR
    radius, size, most = (x.numpy()[z] for x in (d3.radius, d3.size, d3.most))
    n = len(atoms)
    count = np.zeros(n)
    for i in range(n):
        for j in set(range(n)) - {i}:
            count[i] += 1.0 / (1.0 + math.exp(-16.0 * ((radius[i] + radius[j]) / r[i, j] - 1.0)))
    count = np.minimum(count, most)
    total = 0.0
    for i in range(n):
        for j in range(i):
            a, b = d3.counts.numpy()[z[i]][:, None], d3.counts.numpy()[z[j]][None]
            weight = np.exp(-4.0 * ((count[i] - a) ** 2 + (count[j] - b) ** 2))
            c6 = (d3.c6.numpy()[z[i], z[j]] * weight).sum() / weight.sum()
            rho = 3.0 * size[i] * size[j]
            damping = d3.config.a1 * math.sqrt(rho) + d3.config.a2
            total -= c6 * d3.config.s6 / (r[i, j] ** 6 + damping**6)
            total -= c6 * d3.config.s8 * rho / (r[i, j] ** 8 + damping**8)
    return total * HARTREE


@pytest.mark.parametrize("name", ["CH3OH", "CH3Cl", "C6H6"])
def test_d3_of_molecules_is_the_published_sum(potential, name):
    atoms = molecule(name)
    found = potential(make_graph(atoms, CUTOFF), ["energy_dispersion"])["energy_dispersion"]
    expected = pair_by_pair(atoms, potential.d3, potential.config.elements)
    assert expected < -1e-3
    assert float(found) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_d3_of_a_crystal_is_that_of_a_sphere_of_it(potential):
    """The middle of a large cluster, less what the smooth end of the sum leaves out."""
    cell = ase.build.bulk("C", "diamond", a=3.567, cubic=True)
    config = D3Config(s8=0.39, a1=0.566, a2=3.128, cutoff=12.0)
    d3 = D3(config, potential.config.elements)
    d3.load_state_dict(potential.d3.state_dict())
    carbon = potential.config.elements.index(6)

    def of_atoms(atoms):
        graph = make_graph(atoms, 2.0)
        return d3(graph, torch.full((len(atoms),), carbon))

    crystal = of_atoms(cell)
    assert torch.allclose(crystal, crystal[:1].expand(8), rtol=1e-12)
    images = cell.repeat(9)
    middle = int((images.positions - images.positions.mean(0)).__pow__(2).sum(1).argmin())
    away = np.linalg.norm(images.positions - images.positions[middle], axis=1)
    sphere = images[away < 15.9]
    sphere.pbc = False
    centre = int((sphere.positions - images.positions[middle]).__pow__(2).sum(1).argmin())
    exact = float(of_atoms(sphere)[centre])
    # what pairs beyond 0.8 x 12 A give, with the density of diamond and its C6 of some 20 a.u.
    tail = 2.0 * math.pi / 3.0 * (8 / 3.567**3) * 20.0 * HARTREE * BOHR**6 / 9.6**3
    assert abs(float(crystal[0]) - exact) < tail
    assert float(crystal[0]) == pytest.approx(exact, rel=0.02)


@pytest.mark.slow
def test_derivatives_are_those_of_the_energy(potential):
    names = {"forces", "stress", "Born charges", "sum of Born charges"}
    found = [check for check in check_physics(potential) if not check.note]
    assert names <= {check.quantity for check in found}
    for check in found:
        assert check.error < 0.2 * check.tolerance, check


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"s8": -1.0}, r"`d3.s8` must be in \[0, 1000\), got -1.0"),
        ({"cutoff": 0.5}, r"`d3.cutoff` must be in \[1, 100\] A, got 0.5"),
        ({"n_references": 0}, "`d3.n_references` must be from 1 to 100, got 0"),
    ],
)
def test_constants_of_d3_are_checked(options, match):
    with pytest.raises(ConfigError, match=match):
        D3Config(**({"s8": 1.0, "a1": 0.4, "a2": 4.0} | options))


def test_one_dispersion_only(potential):
    data = potential.config.to_dict() | {"dispersion": {}}
    with pytest.raises(ConfigError, match="`dispersion` and `d3` exclude each other"):
        from_dict(ModelConfig, data, "config")
