"""External fields: one enthalpy, its derivatives (docs/theory.md; T22, T23, T27, T38)."""

import ase
import numpy as np
import pytest
import torch
from helpers import (
    left_handed,
    make_graph,
    random_rotation,
    tiny_potential,
    triclinic_ice,
    two_waters,
    water,
)

from lesff.atoms.graph import AtomGraph, collate
from lesff.electrostatics.moments.field import field_energy
from lesff.electrostatics.moments.totals import moment_origin
from lesff.errors import PropertyError, UnsupportedInputError
from lesff.heads import HeadOutput
from lesff.potential.potential import EnergyTerms
from lesff.potential.response import polarizability
from lesff.units import COULOMB_CONSTANT

ROUNDING = 1e-10
"""Sums of some hundred float64 products of order one."""
DIFFERENCE = 1e-7
"""Central differences with step 1e-4: h^2 times third derivatives, and 1e-13 / h rounding."""

FIELD = (0.05, -0.12, 0.2)
STEP = 1e-4


def in_field(atoms: ase.Atoms, field=FIELD, **state) -> AtomGraph:
    graph = make_graph(atoms, **state)
    return graph.replace(external_field=torch.tensor(np.array([field])).double())


def slab() -> ase.Atoms:
    """Two waters, skewed in the plane, open along c; c is not along the normal."""
    atoms = triclinic_ice()
    atoms.pbc = [True, True, False]
    atoms.cell[2] = [0.5, -0.3, 14.0]
    return atoms


def normal_of(atoms: ase.Atoms) -> np.ndarray:
    normal = np.cross(atoms.cell[0], atoms.cell[1])
    return normal / np.linalg.norm(normal)


# --- T22: sign ---------------------------------------------------------------------------------


def test_rigid_pair_gains_mu_dot_e_and_the_positive_charge_goes_along():
    """T22: +q and -q, d apart along z: F = -q d E_z; force on + is +q E."""
    graph = in_field(ase.Atoms("HH", positions=[[0, 0, 1.0], [0, 0, -1.0]]), (0.0, 0.0, 0.3))
    positions = graph.positions.clone().requires_grad_()
    charges = torch.tensor([0.5, -0.5], dtype=torch.float64)
    energy = field_energy(charges, graph.replace(positions=positions)).sum()
    assert energy.item() == pytest.approx(-0.5 * 2.0 * 0.3, abs=1e-15)
    (gradient,) = torch.autograd.grad(energy, positions)
    assert (-gradient).tolist() == [[0.0, 0.0, 0.15], [0.0, 0.0, -0.15]]


# --- one enthalpy: molecules -------------------------------------------------------------------


@pytest.mark.parametrize("charge", [0, 1])
@pytest.mark.parametrize("head", ["latent", "shifted"])
def test_forces_in_a_field_are_derivatives_of_the_enthalpy(head, charge):
    potential = tiny_potential(head=head, state_embedding=True)
    atoms = two_waters()
    out = potential(in_field(atoms, total_charge=charge), ["energy", "forces", "node_energy"])
    assert float(out["node_energy"].sum()) == pytest.approx(float(out["energy"]), abs=ROUNDING)
    for atom, axis in ((0, 0), (1, 2), (5, 1)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * STEP
            graph = in_field(moved, total_charge=charge)
            energies.append(float(potential(graph, ["energy"])["energy"]))
        numeric = -(energies[0] - energies[1]) / (2 * STEP)
        assert float(out["forces"][atom, axis]) == pytest.approx(numeric, abs=DIFFERENCE)


@pytest.mark.parametrize("charge", [0, 2])
def test_dipole_is_minus_the_derivative_of_the_enthalpy(charge):
    """About the coordinate origin; the dipole of an ion is about its nuclear charge centre."""
    potential = tiny_potential(state_embedding=True)
    graph = in_field(two_waters(), total_charge=charge)
    numeric = []
    for axis in range(3):
        energies = []
        for sign in (1, -1):
            field = graph.external_field.clone()
            field[0, axis] += sign * STEP
            moved = graph.replace(external_field=field)
            energies.append(float(potential(moved, ["energy"])["energy"]))
        numeric.append(-(energies[0] - energies[1]) / (2 * STEP))
    dipole = potential(graph, ["dipole"])["dipole"][0]
    expected = dipole + charge * moment_origin(graph)[0]
    np.testing.assert_allclose(numeric, expected, atol=DIFFERENCE)


@pytest.mark.parametrize("charge", [0, 1])
def test_field_forces_of_molecules_are_born_charges_times_field(charge):
    potential = tiny_potential(state_embedding=True)
    names = ["forces", "born_effective_charges"]
    out = potential(in_field(two_waters(), total_charge=charge), names)
    bare = potential(make_graph(two_waters(), total_charge=charge), names)
    field = torch.tensor(FIELD, dtype=torch.float64)
    expected = torch.einsum("nab,a->nb", bare["born_effective_charges"], field)
    torch.testing.assert_close(out["forces"] - bare["forces"], expected, rtol=0, atol=ROUNDING)
    # charges do not respond: Z* is that without a field; the net force is Q E
    name = "born_effective_charges"
    torch.testing.assert_close(out[name], bare[name], rtol=0, atol=ROUNDING)
    torch.testing.assert_close(out["forces"].sum(0), charge * field, rtol=0, atol=ROUNDING)


def test_energy_without_field_is_the_sum_of_its_parts():
    potential = tiny_potential()
    out = potential(in_field(two_waters()), ["energy", "energy_sr", "energy_lr", "dipole"])
    share = float(out["energy"] - out["energy_sr"] - out["energy_lr"])
    expected = -float(out["dipole"][0] @ torch.tensor(FIELD, dtype=torch.float64))
    assert share == pytest.approx(expected, abs=ROUNDING)


def test_turning_molecule_and_field_together_changes_nothing(generator):
    potential = tiny_potential()
    rotation = random_rotation(generator)
    atoms = two_waters()
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.numpy().T
    first = potential(in_field(atoms), ["energy", "forces"])
    field = tuple((rotation @ torch.tensor(FIELD, dtype=torch.float64)).tolist())
    second = potential(in_field(turned, field), ["energy", "forces"])
    torch.testing.assert_close(second["energy"], first["energy"], rtol=0, atol=ROUNDING)
    torch.testing.assert_close(
        second["forces"], first["forces"] @ rotation.T, rtol=0, atol=ROUNDING
    )


# --- slabs -------------------------------------------------------------------------------------


def test_slab_in_a_normal_field():
    potential = tiny_potential()
    atoms = slab()
    field = 0.15 * normal_of(atoms)
    out = potential(in_field(atoms, field), ["energy", "forces"])
    bare = potential(make_graph(atoms), ["forces"])["forces"]
    assert float((out["forces"] - bare).abs().max()) > 1e-3
    for atom, axis in ((0, 2), (3, 0)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * STEP
            energies.append(float(potential(in_field(moved, field), ["energy"])["energy"]))
        numeric = -(energies[0] - energies[1]) / (2 * STEP)
        assert float(out["forces"][atom, axis]) == pytest.approx(numeric, abs=DIFFERENCE)


def test_slab_energy_does_not_depend_on_the_image_in_the_plane():
    potential = tiny_potential()
    atoms = slab()
    field = 0.15 * normal_of(atoms)
    moved = atoms.copy()
    moved.positions[[0, 4]] += 2 * atoms.cell[0] - atoms.cell[1]
    first, second = (potential(in_field(a, field), ["energy"])["energy"] for a in (atoms, moved))
    torch.testing.assert_close(first, second, rtol=0, atol=ROUNDING)


def test_slab_in_a_field_along_its_plane_raises():
    with pytest.raises(UnsupportedInputError, match="of a slab must be along its normal"):
        tiny_potential()(in_field(slab(), (0.1, 0.0, 0.1)), ["forces"])


# --- crystals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [triclinic_ice, lambda: left_handed(triclinic_ice())])
def test_crystal_forces_are_born_charges_times_field(make):
    potential = tiny_potential()
    out = potential(in_field(make()), ["forces"])["forces"]
    bare = potential(make_graph(make()), ["forces"])["forces"]
    born = potential.born_effective_charges(make_graph(make()), sum_rule=True)
    field = torch.tensor(FIELD, dtype=torch.float64)
    expected = torch.einsum("nab,a->nb", born, field)
    assert float(expected.abs().max()) > 1e-3
    torch.testing.assert_close(out - bare, expected, rtol=0, atol=ROUNDING)
    # a uniform field does not move a neutral cell
    torch.testing.assert_close(out.sum(0), torch.zeros(3).double(), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", ["energy", "node_energy", "stress"])
def test_crystals_in_a_field_have_no_energy(name):
    with pytest.raises(PropertyError, match=f"{name} of a crystal in an external field"):
        tiny_potential()(in_field(triclinic_ice()), [name])


def test_parts_of_the_energy_of_a_crystal_are_those_without_field():
    potential = tiny_potential()
    names = ["energy_sr", "energy_lr", "born_effective_charges"]
    out, bare = (potential(g(triclinic_ice()), names) for g in (in_field, make_graph))
    for name in names:
        torch.testing.assert_close(out[name], bare[name], rtol=0, atol=ROUNDING)


def test_charged_periodic_system_in_a_field_raises():
    for atoms in (triclinic_ice(), slab()):
        with pytest.raises(UnsupportedInputError, match="of a periodic structure in an external"):
            tiny_potential()(in_field(atoms, (0, 0, 0.1), total_charge=1), ["forces"])


def test_forces_of_crystals_in_a_field_cannot_be_trained_on():
    with pytest.raises(PropertyError, match="cannot be differentiated further"):
        tiny_potential()(in_field(triclinic_ice()), ["forces"], create_graph=True)


def test_mixed_batch_equals_one_by_one():
    potential = tiny_potential(state_embedding=True)
    surface = slab()
    graphs = [
        in_field(triclinic_ice()),
        in_field(water(), (0.3, 0.0, -0.1), total_charge=1),
        make_graph(two_waters()),
        in_field(surface, 0.2 * normal_of(surface)),
        make_graph(triclinic_ice()),
    ]
    together = potential(collate(graphs), ["forces"])["forces"]
    alone = torch.cat([potential(graph, ["forces"])["forces"] for graph in graphs])
    torch.testing.assert_close(together, alone, rtol=0, atol=ROUNDING)


def test_model_without_charges_refuses_a_field():
    potential = tiny_potential(head=None)
    with pytest.raises(UnsupportedInputError, match="for a model without charges"):
        potential(in_field(water()), ["energy"])
    assert torch.isfinite(potential(in_field(water(), (0, 0, 0)), ["energy"])["energy"]).all()


def test_training_on_forces_in_a_field_has_gradients():
    potential = tiny_potential().requires_grad_(True)
    out = potential(in_field(two_waters()), ["energy", "forces"], create_graph=True)
    (out["forces"] ** 2).sum().backward()
    found = [p.grad for p in potential.charge_head.parameters() if p.grad is not None]
    assert found
    assert all(torch.isfinite(g).all() for g in found)


# --- polarizability ----------------------------------------------------------------------------


def test_a_head_without_response_refuses_the_polarizability():
    potential = tiny_potential()
    assert "polarizability" not in potential.available_properties()
    with pytest.raises(PropertyError, match="charges do not respond to a field"):
        potential(make_graph(water()), ["polarizability"])
    dipole = torch.ones(1, 3, dtype=torch.float64, requires_grad=True) * 2.0
    with pytest.raises(PropertyError, match="charges do not respond to a field"):
        polarizability(dipole, torch.zeros(1, 3, dtype=torch.float64, requires_grad=True))


class ToyEquilibration:
    """QEq (docs/theory.md): minimise q A q / 2 + chi q + J q^2 / 2 - E.sum q r at sum q = Q.

    A: ke erf(r / sqrt(2)) / r, diagonal 2 ke / sqrt(2 pi) (sigma 1 A).
    """

    hardness = 5.0

    def __init__(self, electronegativity: list[float]) -> None:
        self.chi = torch.tensor(electronegativity, dtype=torch.float64)

    def matrix(self, r: torch.Tensor) -> torch.Tensor:
        eye = torch.eye(len(r), dtype=r.dtype)
        distance = ((r[:, None] - r[None]).square().sum(-1) + eye).sqrt()
        pair = COULOMB_CONSTANT * torch.erf(distance / 2**0.5) / distance
        diagonal = 2 * COULOMB_CONSTANT / (2 * torch.pi) ** 0.5 + self.hardness
        return pair * (1 - eye) + diagonal * eye

    def solve(self, graph: AtomGraph) -> EnergyTerms:
        """Charges in the field, and the energy without its share, of one molecule."""
        r = graph.positions
        n = len(r)
        matrix = self.matrix(r)
        ones = torch.ones(n, 1, dtype=r.dtype)
        bordered = torch.cat(
            [torch.cat([matrix, ones], 1), torch.cat([ones.T, torch.zeros(1, 1).double()], 1)]
        )
        push = -self.chi
        if graph.external_field is not None:
            push = push + r @ graph.external_field[0]
        charges = torch.linalg.solve(bordered, torch.cat([push, graph.total_charge]))[:n]
        energy = 0.5 * charges @ matrix @ charges + self.chi @ charges
        zero = torch.zeros(n, dtype=torch.float64)
        head = HeadOutput(local=charges, charges=charges, latent=charges, coulomb=None)
        return EnergyTerms(
            node_energy=zero,
            energy_sr=zero.sum()[None],
            energy_lr=energy[None],
            local_charges=charges,
            charges=charges,
            head=head,
        )


@pytest.fixture
def equilibrated(monkeypatch):
    """A potential whose energy is that of a toy charge equilibration."""

    def make(electronegativity):
        potential = tiny_potential()
        toy = ToyEquilibration(electronegativity)
        monkeypatch.setattr(potential, "energy_terms", lambda graph, **_: toy.solve(graph))
        monkeypatch.setattr(type(potential.charge_head), "responds_to_field", True)
        return potential, toy

    return make


def test_polarizability_of_two_atoms(equilibrated):
    """T38: alpha = R^2 / D = 0.2079645 e^2 A^2 / eV along the bond; q = +0.1039822509 e."""
    potential, _ = equilibrated([0.0, 2.0])
    graph = make_graph(ase.Atoms("HH", positions=[[0, 0, 0], [0, 0, 2.0]]))
    out = potential(graph, ["polarizability", "charges"])
    assert float(out["charges"][0]) == pytest.approx(0.1039822509, abs=1e-9)
    expected = torch.zeros(3, 3).double()
    expected[2, 2] = 0.2079645
    torch.testing.assert_close(out["polarizability"][0], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("charge", [0, 1])
def test_enthalpy_of_responding_charges_is_consistent(equilibrated, charge):
    """T27: mu = -dF/dE; alpha = dmu/dE = -d2F/dE2, symmetric, positive, R^T S R; forces."""
    potential, toy = equilibrated([0.0, 2.0, 1.5, -0.4, 1.0, 1.2])
    graph = in_field(two_waters(), total_charge=charge)
    names = ["energy", "dipole", "forces", "polarizability"]
    out = potential(graph, names)
    field = graph.external_field
    plus, minus = (
        [
            potential(
                graph.replace(external_field=field + s * STEP * torch.eye(3).double()[i]), names
            )
            for i in range(3)
        ]
        for s in (1, -1)
    )
    slope = [-float(p["energy"] - m["energy"]) / (2 * STEP) for p, m in zip(plus, minus, strict=1)]
    expected = out["dipole"][0] + charge * moment_origin(graph)[0]
    np.testing.assert_allclose(slope, expected, atol=DIFFERENCE)
    columns = [(p["dipole"] - m["dipole"])[0] / (2 * STEP) for p, m in zip(plus, minus, strict=1)]
    alpha = out["polarizability"][0]
    torch.testing.assert_close(alpha, torch.stack(columns, 1), rtol=0, atol=DIFFERENCE)
    torch.testing.assert_close(alpha, alpha.T, rtol=0, atol=ROUNDING)
    assert float(torch.linalg.eigvalsh(alpha).min()) > 0
    # S = A^-1 - A^-1 1 1^T A^-1 / (1^T A^-1 1), the constrained inverse hardness
    inverse = torch.linalg.inv(toy.matrix(graph.positions))
    row = inverse.sum(1)
    susceptibility = inverse - torch.outer(row, row) / row.sum()
    closed = graph.positions.T @ susceptibility @ graph.positions
    torch.testing.assert_close(alpha, closed, rtol=0, atol=ROUNDING)
    for atom, axis in ((0, 0), (4, 2)):
        energies = []
        for sign in (1, -1):
            positions = graph.positions.clone()
            positions[atom, axis] += sign * STEP
            moved = graph.replace(positions=positions)
            energies.append(float(potential(moved, ["energy"])["energy"]))
        numeric = -(energies[0] - energies[1]) / (2 * STEP)
        assert float(out["forces"][atom, axis]) == pytest.approx(numeric, abs=DIFFERENCE)


def test_polarizability_of_a_crystal_raises(equilibrated):
    potential, _ = equilibrated([0.0] * 6)
    with pytest.raises(PropertyError, match="polarizability of a periodic structure depend"):
        potential(make_graph(triclinic_ice()), ["polarizability"])
