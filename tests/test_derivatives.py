"""Forces, stress, Hessian and node energies against finite differences (T33, T34)."""

import ase
import numpy as np
import pytest
import torch
from helpers import left_handed, make_graph, tiny_potential, triclinic_ice, two_waters, water

from lesff.atoms.graph import strained
from lesff.autograd import gradients, jacobian_rows

STEP = 2e-5
"""A: truncation h^2 E''' / 6 with E''' up to 1000 eV/A^3, rounding 1e-14 / h."""
FORCE_TOLERANCE = 5e-7
"""eV/A, from STEP; T33 asks for 1e-5."""
ROUNDING = 1e-10
"""Float64 sums of order 1 to 100."""

HIDDEN = ("4x0e", "4x0e+4x1o")
SYSTEMS = {
    "molecule": two_waters,
    "triclinic": triclinic_ice,
    "left-handed": lambda: left_handed(triclinic_ice()),
}


def energy_of(potential, atoms, **state) -> float:
    return float(potential(make_graph(atoms, **state), ["energy"])["energy"])


def numeric_forces(potential, atoms, chosen, **state):
    out = np.zeros((len(chosen), 3))
    for row, atom in enumerate(chosen):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[atom, axis] += sign * STEP
                energies.append(energy_of(potential, moved, **state))
            out[row, axis] = -(energies[0] - energies[1]) / (2 * STEP)
    return out


# --- forces ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden_irreps", HIDDEN)
@pytest.mark.parametrize("head", [None, "latent", "shifted"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_forces_are_energy_derivatives(system, head, hidden_irreps):
    potential = tiny_potential(head=head, hidden_irreps=hidden_irreps)
    atoms, chosen = SYSTEMS[system](), [0, 1, 5]
    forces = potential(make_graph(atoms), ["forces"])["forces"].numpy()
    assert abs(forces).max() > 1e-2
    expected = numeric_forces(potential, atoms, chosen)
    np.testing.assert_allclose(forces[chosen], expected, rtol=0, atol=FORCE_TOLERANCE)


@pytest.mark.parametrize("head", ["latent", "shifted"])
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(("charge", "spin"), [(1, 2), (-2, 3)])
def test_forces_of_charged_systems(system, head, charge, spin):
    potential = tiny_potential(head=head, state_embedding=True)
    atoms, state = SYSTEMS[system](), {"total_charge": charge, "spin_multiplicity": spin}
    forces = potential(make_graph(atoms, **state), ["forces"])["forces"].numpy()
    expected = numeric_forces(potential, atoms, [0, 4], **state)
    np.testing.assert_allclose(forces[[0, 4]], expected, rtol=0, atol=FORCE_TOLERANCE)
    neutral = potential(make_graph(atoms), ["forces"])["forces"].numpy()
    assert abs(forces - neutral).max() > 1e-3


@pytest.mark.parametrize("system", SYSTEMS)
def test_forces_sum_to_zero(system):
    potential = tiny_potential(head="shifted", state_embedding=True)
    forces = potential(make_graph(SYSTEMS[system](), total_charge=1), ["forces"])["forces"]
    np.testing.assert_allclose(forces.sum(0), 0, atol=ROUNDING)


def test_torque_of_a_molecule_is_zero():
    potential = tiny_potential(head="shifted", state_embedding=True)
    atoms = two_waters()
    forces = potential(make_graph(atoms, total_charge=1), ["forces"])["forces"].numpy()
    np.testing.assert_allclose(np.cross(atoms.positions, forces).sum(0), 0, atol=ROUNDING)


# --- stress ------------------------------------------------------------------------------------


def numeric_stress(potential, atoms, **state):
    """(1/V) dE/dstrain for the symmetric strain, straight from strained atoms."""
    out = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            energies = []
            for sign in (1, -1):
                strain = np.zeros((3, 3))
                strain[a, b] += 0.5 * sign * STEP
                strain[b, a] += 0.5 * sign * STEP
                moved = atoms.copy()
                moved.set_cell(np.array(atoms.cell) @ (np.eye(3) + strain), scale_atoms=True)
                energies.append(energy_of(potential, moved, **state))
            out[a, b] = (energies[0] - energies[1]) / (2 * STEP)
    return out / atoms.get_volume()


@pytest.mark.parametrize("hidden_irreps", HIDDEN)
@pytest.mark.parametrize("head", [None, "latent", "shifted"])
@pytest.mark.parametrize("system", ["triclinic", "left-handed"])
def test_stress_is_strain_derivative(system, head, hidden_irreps):
    potential = tiny_potential(head=head, hidden_irreps=hidden_irreps)
    atoms = SYSTEMS[system]()
    stress = potential(make_graph(atoms), ["stress"])["stress"][0].numpy()
    # the same step with derivatives of order 1000 over a volume of 140
    np.testing.assert_allclose(
        stress, numeric_stress(potential, atoms), rtol=0, atol=FORCE_TOLERANCE
    )
    np.testing.assert_allclose(stress, stress.T, rtol=0, atol=1e-14)
    assert abs(stress).max() > 1e-3


def test_stress_does_not_depend_on_handedness():
    potential = tiny_potential()
    names = ["energy", "forces", "stress"]
    right = potential(make_graph(triclinic_ice()), names)
    left = potential(make_graph(left_handed(triclinic_ice())), names)
    for name in names:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=ROUNDING)


def test_stress_trace_is_the_volume_derivative():
    """Sign of keys.py, positive under tension: tr(stress) / 3 = dE/dV."""
    atoms = triclinic_ice()
    potential = tiny_potential()
    stress = potential(make_graph(atoms), ["stress"])["stress"][0]
    values = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.set_cell(np.array(atoms.cell) * (1 + sign * STEP), scale_atoms=True)
        values.append((moved.get_volume(), energy_of(potential, moved)))
    (v_plus, e_plus), (v_minus, e_minus) = values
    slope = (e_plus - e_minus) / (v_plus - v_minus)
    assert float(stress.trace()) / 3 == pytest.approx(slope, abs=FORCE_TOLERANCE)


# --- energies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [None, "latent", "shifted"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_node_energies_sum_to_the_energy(system, head):
    potential = tiny_potential(head=head, state_embedding=True)
    graph = make_graph(SYSTEMS[system](), total_charge=1)
    out = potential(graph, ["energy", "energy_sr", "node_energy"])
    assert out["node_energy"].shape == (6,)
    assert float(out["node_energy"].sum()) == pytest.approx(float(out["energy"]), abs=ROUNDING)
    if head is None:
        assert float(out["energy_sr"]) == float(out["energy"])


def test_long_range_node_energy_is_charge_times_half_potential():
    """Two atoms beyond the cutoff: each holds half of q1 q2 erf(r / sqrt 2) ke / r."""
    from math import erf, sqrt

    from lesff.units import COULOMB_CONSTANT

    potential = tiny_potential()
    atoms = ase.Atoms("OH", positions=[[0, 0, 0], [0, 0, 5.0]])
    names = ["node_energy", "energy_sr", "energy_lr", "charges"]
    out = potential(make_graph(atoms), names)
    q = out["charges"]
    expected = COULOMB_CONSTANT * float(q[0] * q[1]) * erf(5 / sqrt(2)) / 5
    assert float(out["energy_lr"]) == pytest.approx(expected, abs=ROUNDING)
    bare = tiny_potential(head=None)
    bare.load_state_dict(potential.state_dict(), strict=False)
    short = bare(make_graph(atoms), ["node_energy"])["node_energy"]
    np.testing.assert_allclose(out["node_energy"] - short, expected / 2, atol=ROUNDING)


def test_energy_parts_sum():
    out = tiny_potential()(make_graph(two_waters()), ["energy", "energy_sr", "energy_lr"])
    assert float(out["energy"]) == float(out["energy_sr"] + out["energy_lr"])
    assert abs(float(out["energy_lr"])) > 1e-3


def test_reference_energies_are_part_of_the_energy():
    """One atom far from everything, no layers see a neighbour: only its element's terms."""
    potential = tiny_potential(head=None)
    graph = make_graph(ase.Atoms("O"))
    before = float(potential(graph, ["energy"])["energy"])
    potential.reference_energies += 3.0
    assert float(potential(graph, ["energy"])["energy"]) == pytest.approx(before + 3, abs=1e-12)


def test_one_atom_has_no_forces():
    out = tiny_potential()(make_graph(ase.Atoms("O")), ["energy", "forces", "node_energy"])
    assert out["forces"].tolist() == [[0.0, 0.0, 0.0]]
    assert float(out["node_energy"][0]) == float(out["energy"])


def test_one_atom_in_a_small_periodic_cell():
    """Images of the only atom are neighbours; a cubic site has no force, stress is isotropic."""
    atoms = ase.Atoms("O", cell=[2.1] * 3, pbc=True)
    out = tiny_potential()(make_graph(atoms), ["energy", "forces", "stress"])
    np.testing.assert_allclose(out["forces"], 0, atol=ROUNDING)
    stress = out["stress"][0].numpy()
    np.testing.assert_allclose(stress, stress[0, 0] * np.eye(3), atol=ROUNDING)
    assert abs(stress[0, 0]) > 1e-3


# --- second derivatives ------------------------------------------------------------------------


@pytest.mark.parametrize("hidden_irreps", HIDDEN)
@pytest.mark.parametrize("system", ["molecule", "triclinic"])
def test_hessian(system, hidden_irreps):
    """Double backward through the hand-written backward: symmetric, and equal to differences."""
    potential = tiny_potential(hidden_irreps=hidden_irreps, head="shifted")
    atoms = SYSTEMS[system]()
    graph = make_graph(atoms)
    positions = graph.positions.clone().requires_grad_()
    moving = graph.replace(positions=positions)
    forces = potential(moving, ["forces"], create_graph=True)["forces"].flatten()
    rows = [torch.autograd.grad(-f, positions, retain_graph=True)[0].flatten() for f in forces]
    hessian = torch.stack(rows).numpy()
    np.testing.assert_allclose(hessian, hessian.T, rtol=0, atol=ROUNDING)
    for atom, axis in ((0, 0), (1, 2), (4, 1)):
        differences = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * STEP
            differences.append(potential(make_graph(moved), ["forces"])["forces"].numpy())
        numeric = -(differences[0] - differences[1]).ravel() / (2 * STEP)
        # fourth derivatives of order 1000
        np.testing.assert_allclose(hessian[3 * atom + axis], numeric, rtol=0, atol=1e-5)


def test_parameter_gradient_of_a_force_loss():
    """d(sum F^2)/dtheta along a random direction in parameter space, by differences."""
    potential = tiny_potential(head="shifted").requires_grad_(True)
    graph = make_graph(water())

    def loss(create_graph):
        forces = potential(graph, ["forces"], create_graph=create_graph)["forces"]
        return forces.square().sum()

    loss(True).backward()
    parameters = [p for p in potential.parameters() if p.grad is not None]
    assert len(parameters) > 20
    directions = [torch.randn_like(p) for p in parameters]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True))
    values, h = [], 1e-5
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += sign * h * d
        values.append(float(loss(False)))
    # h^2 times curvature in parameter space
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(slope, rel=1e-5)


def test_outputs_are_detached_unless_asked():
    potential = tiny_potential().requires_grad_(True)
    graph = make_graph(water())
    names = ["energy", "forces", "charges", "dipole", "node_energy"]
    assert not any(v.requires_grad for v in potential(graph, names).values())
    assert all(v.requires_grad for v in potential(graph, names, create_graph=True).values())
    assert list(potential(graph, names)) == ["energy", "node_energy", "forces", "charges", "dipole"]


# --- the helpers themselves --------------------------------------------------------------------


def test_gradients_of_something_constant_are_zero():
    x = torch.ones(2, requires_grad=True)
    assert gradients(torch.ones(3), [x], create_graph=False)[0].tolist() == [0.0, 0.0]
    y = torch.ones(2, requires_grad=True)
    grads = gradients(3 * y, [x, y], create_graph=False)
    assert [g.tolist() for g in grads] == [[0.0, 0.0], [3.0, 3.0]]


def test_jacobian_rows_index_order():
    positions = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    matrix = torch.arange(9.0, dtype=torch.float64).view(3, 3)
    jacobian = jacobian_rows((positions[1] @ matrix.T)[None], positions)
    assert jacobian[0].abs().max() == 0
    assert torch.equal(jacobian[1], matrix)


def test_strain_uses_its_symmetric_part():
    graph = make_graph(triclinic_ice())
    rotation = torch.zeros(1, 3, 3, dtype=torch.float64)
    rotation[0, 0, 1], rotation[0, 1, 0] = 0.1, -0.1
    moved = strained(graph, rotation)
    assert torch.equal(moved.positions, graph.positions)
    assert torch.equal(moved.cell, graph.cell)
    stretch = torch.diag(torch.tensor([0.1, 0.0, 0.0], dtype=torch.float64))[None]
    moved = strained(graph, stretch)
    torch.testing.assert_close(moved.positions[:, 0], 1.1 * graph.positions[:, 0])
    torch.testing.assert_close(moved.cell[0, :, 0], 1.1 * graph.cell[0, :, 0])
    torch.testing.assert_close(moved.cell[0, :, 1], graph.cell[0, :, 1])
