"""Dipoles, quadrupoles and induction: limits, finite point clusters, self terms (T27, T28, T33)."""

import math

import ase
import numpy as np
import pytest
import torch
from helpers import left_handed, make_graph, random_rotation, transformed, triclinic_ice, two_waters
from torch.autograd import gradcheck, gradgradcheck

from lesff.atoms.graph import collate, strained
from lesff.electrostatics.coulomb import latent_energy
from lesff.electrostatics.moments.induction import induce, interact, potential_and_field
from lesff.electrostatics.moments.multipoles import (
    Multipoles,
    multipole_energy,
    self_energies,
    total_dipole,
)
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import UnsupportedInputError
from lesff.units import COULOMB_CONSTANT

SETTINGS = EwaldSettings()
ROUNDING = 1e-10


def slab() -> ase.Atoms:
    atoms = triclinic_ice()
    atoms.pbc = [True, True, False]
    return atoms


def random_moments(n: int, generator: torch.Generator) -> Multipoles:
    q, u, theta = (
        torch.randn(n, *shape, dtype=torch.float64, generator=generator)
        for shape in ((), (3,), (3, 3))
    )
    theta = theta + theta.transpose(1, 2)
    theta = theta - theta.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(3)
    return Multipoles(charges=q, dipoles=0.5 * u, quadrupoles=0.3 * theta)


def pair(distance: float, **moments: list) -> float:
    graph = make_graph(ase.Atoms("HH", positions=[[0, 0, 0], [0, 0, distance]]), 0.1)
    values = {k: torch.tensor(v, dtype=torch.float64) for k, v in moments.items()}
    return float(multipole_energy(Multipoles.of(**values), graph, SETTINGS)[0])


def mixed_batch():
    structures = [two_waters(), triclinic_ice(), slab(), left_handed(triclinic_ice())]
    return collate([make_graph(atoms) for atoms in structures])


def test_bare_limits():
    # T28: charge-dipole -ke / R^2, head-to-tail dipoles -2 ke / R^3 for R >> sigma
    up = [0.0, 0.0, 1.0]
    energy = pair(10.0, charges=[0.0, 1.0], dipoles=[[0.0] * 3, [0.0] * 3])
    assert energy == 0.0
    # a charge at +z sees the head of the dipole: repelled; the other way round attracted
    energy = pair(10.0, charges=[0.0, 1.0], dipoles=[up, [0.0] * 3])
    assert energy == pytest.approx(0.143996455, abs=1e-8)
    energy = pair(10.0, charges=[1.0, 0.0], dipoles=[[0.0] * 3, up])
    assert energy == pytest.approx(-0.143996455, abs=1e-8)
    energy = pair(10.0, charges=[0.0, 0.0], dipoles=[up, up])
    assert energy == pytest.approx(-0.0287992910, abs=1e-8)
    # linear quadrupole q (d along z): ke q Q_zz / R^3 (1 - 1/3 of the trace is zero here)
    theta = np.diag([-0.5, -0.5, 1.0]).tolist()
    energy = pair(10.0, charges=[1.0, 0.0], quadrupoles=[np.zeros((3, 3)).tolist(), theta])
    # 1/2 Q : grad grad (1/r) = (3 Q_zz - Tr Q) / (2 R^3)
    assert energy == pytest.approx(1.5 * COULOMB_CONSTANT / 1000, abs=1e-8)


@pytest.mark.parametrize("remove_self", [True, False])
def test_charges_alone_are_the_latent_energy(remove_self, generator):
    graph = mixed_batch()
    settings = EwaldSettings(remove_self_interaction=remove_self)
    q = torch.randn(graph.n_atoms, dtype=torch.float64, generator=generator)
    found = multipole_energy(Multipoles.of(q), graph, settings)
    expected = latent_energy(q, graph, settings)
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)


def cluster(atoms: ase.Atoms, moments: Multipoles, delta: float):
    """Point charges of Gaussian width with the moments of each atom, up to delta^2.

    u: +-1/(2 delta) at +-delta along each axis; Q_aa: 1/(2 delta^2) at +-delta and minus twice that
    in the middle; Q_ab: 1/(4 delta^2) times the sign at the four corners (primitive sum q r r).
    """
    positions, charges = [], []
    q, u, theta = (x.numpy() for x in (moments.charges, moments.dipoles, moments.quadrupoles))
    eye = np.eye(3)
    for i, r in enumerate(atoms.positions):
        centre = q[i]
        for a in range(3):
            for sign in (1, -1):
                positions.append(r + sign * delta * eye[a])
                charges.append(sign * u[i, a] / (2 * delta) + theta[i, a, a] / (2 * delta**2))
            centre -= theta[i, a, a] / delta**2
            for b in range(a):
                for s in (1, -1):
                    for t in (1, -1):
                        positions.append(r + delta * (s * eye[a] + t * eye[b]))
                        charges.append(s * t * theta[i, a, b] / (4 * delta**2))
        positions.append(r)
        charges.append(centre)
    built = ase.Atoms(f"H{len(charges)}", positions=positions, cell=atoms.cell, pbc=atoms.pbc)
    return built, torch.tensor(charges, dtype=torch.float64)


@pytest.mark.parametrize("make", [two_waters, triclinic_ice, slab])
def test_clusters_of_charges_converge_to_moments(make, generator):
    """T28: all kernels and self energies at once, against charges only; error delta^2."""
    atoms = make()[:3]
    moments = random_moments(3, generator)
    settings = EwaldSettings(remove_self_interaction=False)
    found = multipole_energy(moments, make_graph(atoms), settings)
    errors = []
    for delta in (0.08, 0.04):
        built, charges = cluster(atoms, moments, delta)
        expected = latent_energy(charges, make_graph(built, 1e-3), settings)
        errors.append(float((found - expected).abs()))
    assert errors[1] < 0.02 * abs(float(found))
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)
    extrapolated = abs(errors[1] - errors[0] / 4)
    assert extrapolated < 2e-4 * abs(float(found))


@pytest.mark.parametrize("sigma", [1.0, 0.7])
def test_self_energies(sigma):
    # T28: ke u^2 / (3 sigma^3 sqrt(2 pi)), ke Q:Q / (10 sigma^5 sqrt(2 pi))
    settings = EwaldSettings(sigma=sigma)
    root = math.sqrt(2 * math.pi)
    theta = torch.diag(torch.tensor([-0.3, -0.1, 0.4], dtype=torch.float64))[None]
    one = torch.tensor([0.8], dtype=torch.float64)
    u = torch.tensor([[0.1, 0.2, -0.4]], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    expected = [
        (Multipoles.of(one), 0.64 / (sigma * root)),
        (Multipoles.of(zero, u), 0.21 / (3 * sigma**3 * root)),
        (Multipoles.of(zero, None, theta), 0.26 / (10 * sigma**5 * root)),
    ]
    for moments, value in expected:
        found = float(self_energies(moments, settings)[0])
        assert found == pytest.approx(COULOMB_CONSTANT * value, rel=1e-8)


def test_self_energy_is_the_coincidence_limit(generator):
    """Two coinciding atoms have twice the self energy of pair energy, crystals and molecules."""
    moments = random_moments(1, generator)
    doubled = Multipoles(
        charges=moments.charges.repeat(2),
        dipoles=moments.dipoles.repeat(2, 1),
        quadrupoles=moments.quadrupoles.repeat(2, 1, 1),
    )
    graph = make_graph(ase.Atoms("HH", positions=[[0, 0, 0], [0, 0, 2e-3]]), 1e-3)
    found = float(multipole_energy(doubled, graph, SETTINGS)[0])
    assert found == pytest.approx(2 * float(self_energies(moments, SETTINGS)[0]), rel=1e-5)


def test_box_converges_to_the_molecule(generator):
    """Neutral with dipoles: after the Makov-Payne dipole term errors of order L^-5 and higher."""
    atoms = two_waters()
    moments = random_moments(6, generator)
    moments = Multipoles(
        charges=moments.charges - moments.charges.mean(),
        dipoles=moments.dipoles,
        quadrupoles=moments.quadrupoles,
    )
    settings = EwaldSettings(dl=1.0)
    alone = float(multipole_energy(moments, make_graph(atoms), settings)[0])
    errors = []
    for length in (20.0, 40.0):
        boxed = atoms.copy()
        boxed.cell, boxed.pbc = [length] * 3, True
        graph = make_graph(boxed)
        dipole = total_dipole(moments, graph, torch.zeros(1, 3, dtype=torch.float64))
        correction = 2 * math.pi / 3 * COULOMB_CONSTANT * float(dipole.square().sum()) / length**3
        found = float(multipole_energy(moments, graph, settings)[0])
        errors.append(abs(found + correction - alone))
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] > 20


@pytest.mark.parametrize("name", ["direct", "nufft", "mesh"])
def test_evaluators_agree(name, generator):
    graph = make_graph(triclinic_ice())
    moments = random_moments(6, generator)
    direct = multipole_energy(moments, graph, SETTINGS, "direct")
    found = multipole_energy(moments, graph, SETTINGS, name)
    torch.testing.assert_close(found, direct, rtol=1e-9, atol=0)


def test_first_and_second_derivatives(generator):
    """T33: positions, strain and all moments, in a batch of a molecule, a crystal and a slab."""
    graph = collate([make_graph(make()[:2]) for make in (two_waters, triclinic_ice, slab)])
    moments = random_moments(6, generator)

    def energy(r, strain, q, u, theta):
        moved = strained(graph.replace(positions=r), strain)
        found = Multipoles(charges=q, dipoles=u, quadrupoles=theta)
        return multipole_energy(found, moved, SETTINGS)

    inputs = [graph.positions, torch.zeros(3, 3, 3, dtype=torch.float64)]
    inputs += [moments.charges, moments.dipoles, moments.quadrupoles]
    inputs = [x.clone().requires_grad_() for x in inputs]
    assert gradcheck(energy, inputs, eps=1e-5, atol=1e-5, fast_mode=True)
    assert gradgradcheck(energy, inputs, eps=1e-5, atol=1e-4, fast_mode=True)


def rotated(moments: Multipoles, matrix: torch.Tensor) -> Multipoles:
    return Multipoles(
        charges=moments.charges,
        dipoles=moments.dipoles @ matrix.T,
        quadrupoles=matrix @ moments.quadrupoles @ matrix.T,
    )


@pytest.mark.parametrize("inversion", [False, True])
@pytest.mark.parametrize("make", [two_waters, triclinic_ice, slab])
def test_rotation(make, inversion, generator):
    matrix = random_rotation(generator) * (-1 if inversion else 1)
    moments = random_moments(6, generator)
    turned = make_graph(transformed(make(), matrix))
    softness = torch.rand(6, dtype=torch.float64, generator=generator)
    alpha = torch.randn(6, 3, 3, dtype=torch.float64, generator=generator)
    alpha = alpha @ alpha.transpose(1, 2)

    def response(moments, graph, alpha):
        found = induce(moments, graph, SETTINGS, softness=softness, polarizability=alpha)
        return multipole_energy(moments, graph, SETTINGS) + found.energy, found

    energy, one = response(moments, make_graph(make()), alpha)
    after, two = response(rotated(moments, matrix), turned, matrix @ alpha @ matrix.T)
    torch.testing.assert_close(after, energy, rtol=1e-11, atol=ROUNDING)
    torch.testing.assert_close(two.charges, one.charges, rtol=0, atol=1e-9)
    torch.testing.assert_close(two.dipoles, one.dipoles @ matrix.T, rtol=0, atol=1e-9)


def test_left_handed_cells_and_batches(generator):
    moments = random_moments(6, generator)
    graphs = [make_graph(triclinic_ice()), make_graph(left_handed(triclinic_ice()))]
    one, two = (multipole_energy(moments, graph, SETTINGS) for graph in graphs)
    torch.testing.assert_close(one, two, rtol=0, atol=ROUNDING)
    twice = Multipoles(
        charges=moments.charges.repeat(2),
        dipoles=moments.dipoles.repeat(2, 1),
        quadrupoles=moments.quadrupoles.repeat(2, 1, 1),
    )
    both = multipole_energy(twice, collate([make_graph(two_waters()), graphs[0]]), SETTINGS)
    alone = multipole_energy(moments, make_graph(two_waters()), SETTINGS)
    torch.testing.assert_close(both, torch.cat([alone, one]), rtol=0, atol=ROUNDING)


# --- induction ---------------------------------------------------------------------------------


def test_potential_and_field_of_a_dipole():
    # on the axis at R = 10: Phi = ke u / R^2, E = 2 ke u / R^3 along u
    graph = make_graph(ase.Atoms("HH", positions=[[0, 0, 0], [0, 0, 10.0]]), 0.1)
    u = torch.tensor([[0, 0, 1.0], [0, 0, 0]], dtype=torch.float64)
    moments = Multipoles.of(torch.zeros(2, dtype=torch.float64), u)
    potential, field = potential_and_field(moments, graph, SETTINGS)
    assert float(potential[1]) == pytest.approx(COULOMB_CONSTANT / 100, abs=1e-10)
    assert float(field[1, 2]) == pytest.approx(2 * COULOMB_CONSTANT / 1000, abs=1e-10)
    np.testing.assert_allclose(field[0], 0, atol=1e-12)  # own field left out


def test_induced_charges_sum_to_zero(generator):
    graph = mixed_batch()
    moments = random_moments(graph.n_atoms, generator)
    softness = torch.rand(graph.n_atoms, dtype=torch.float64, generator=generator)
    softness[:6] = 0.0  # a system that cannot be charged
    found = induce(moments, graph, SETTINGS, softness=softness)
    sums = torch.zeros(4, dtype=torch.float64).index_add(0, graph.batch, found.charges)
    torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=ROUNDING)
    assert float(found.energy[0]) == 0.0
    assert bool((found.energy[1:] < 0).all())


@pytest.mark.parametrize("remove_self", [True, False])
def test_interaction_has_the_energy_and_potentials_without_self_parts(remove_self, generator):
    graph = mixed_batch()
    settings = EwaldSettings(remove_self_interaction=remove_self)
    moments = random_moments(graph.n_atoms, generator)
    found = interact(moments, graph, settings)
    expected = multipole_energy(moments, graph, settings)
    torch.testing.assert_close(found.energy, expected, rtol=0, atol=1e-9)
    bare = interact(moments, graph, SETTINGS)
    torch.testing.assert_close(found.potential, bare.potential, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(found.field, bare.field, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("isotropic", [True, False])
def test_field_derivatives_are_dipole_and_polarizability(isotropic, generator):
    """T27 for the enthalpy of docs/theory.md."""
    graph = make_graph(two_waters())
    moments = random_moments(6, generator)
    softness = 0.02 * torch.rand(6, dtype=torch.float64, generator=generator)
    alpha = 0.1 * torch.rand(6, dtype=torch.float64, generator=generator)
    if not isotropic:
        root = torch.randn(6, 3, 3, dtype=torch.float64, generator=generator)
        alpha = 0.1 * root @ root.transpose(1, 2)
    origin = torch.zeros(1, 3, dtype=torch.float64)

    def enthalpy(field):
        found = induce(
            moments, graph, SETTINGS, softness=softness, polarizability=alpha, external_field=field
        )
        permanent = (field * total_dipole(moments, graph, origin)).sum()
        total = Multipoles(
            charges=moments.charges + found.charges,
            dipoles=moments.dipoles + found.dipoles,
            quadrupoles=moments.quadrupoles,
        )
        return found.energy.sum() - permanent, total_dipole(total, graph, origin)[0]

    field = torch.tensor([[0.02, -0.01, 0.03]], dtype=torch.float64, requires_grad=True)
    value, dipole = enthalpy(field)
    (slope,) = torch.autograd.grad(value, field, create_graph=True)
    torch.testing.assert_close(-slope[0], dipole, rtol=0, atol=1e-9)
    rows = [-torch.autograd.grad(s, field, retain_graph=True)[0][0] for s in slope[0]]
    tensor = torch.stack(rows)
    torch.testing.assert_close(tensor, tensor.T, rtol=0, atol=ROUNDING)
    assert float(torch.linalg.eigvalsh(tensor).min()) > 0.01


@pytest.mark.parametrize("make", [two_waters, triclinic_ice, slab])
def test_forces_with_induction_are_differences(make, generator):
    """T33: energy of permanent and induced moments."""
    graph = make_graph(make()[:3])
    moments = random_moments(3, generator)
    softness = 0.02 * torch.rand(3, dtype=torch.float64, generator=generator)
    alpha = 0.1 * torch.rand(3, dtype=torch.float64, generator=generator)

    def energy(r, q, u):
        moved = graph.replace(positions=r)
        found = Multipoles(charges=q, dipoles=u, quadrupoles=moments.quadrupoles)
        induced = induce(found, moved, SETTINGS, softness=softness, polarizability=alpha)
        return multipole_energy(found, moved, SETTINGS) + induced.energy

    inputs = [graph.positions, moments.charges, moments.dipoles]
    inputs = [x.clone().requires_grad_() for x in inputs]
    assert gradcheck(energy, inputs, eps=1e-5, atol=1e-5, fast_mode=True)
    assert gradgradcheck(energy, inputs, eps=1e-5, atol=1e-4, fast_mode=True)


def test_bad_responses_raise(generator):
    moments = random_moments(6, generator)
    field = torch.zeros(1, 3, dtype=torch.float64)
    with pytest.raises(UnsupportedInputError, match="`external_field` must be absent"):
        induce(
            moments, make_graph(triclinic_ice()), SETTINGS,
            softness=torch.ones(6, dtype=torch.float64), external_field=field,
        )  # fmt: skip
    negative = torch.full((6,), -0.1, dtype=torch.float64)
    graph = make_graph(two_waters())
    with pytest.raises(UnsupportedInputError, match="`softness` must not be negative, got -0.1"):
        induce(moments, graph, SETTINGS, softness=negative)
    with pytest.raises(UnsupportedInputError, match="`polarizability` must not be negative"):
        induce(moments, graph, SETTINGS, polarizability=negative)
