"""Models with dipoles, quadrupoles and induction (T23, T24, T26-T29, T33, T34)."""

from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from helpers import (
    left_handed,
    make_graph,
    random_rotation,
    transformed,
    triclinic_ice,
    two_waters,
    water,
)
from multipole_models import (
    BEC,
    DIFFERENCE,
    FIELD,
    FP64,
    INDUCED,
    KINDS,
    NO_OP,
    OFF_DIAGONAL,
    ROUNDING,
    STEP,
    bare,
    differences,
    filled,
    in_field,
    make,
    slab,
)

from lesff.atoms.graph import AtomGraph, collate
from lesff.atoms.segments import segment_sum
from lesff.electrostatics.coulomb import latent_energy
from lesff.electrostatics.moments import multipoles as multipoles_module
from lesff.electrostatics.moments.totals import dipole_moment, moment_origin, quadrupole_moment
from lesff.errors import PropertyError
from lesff.heads import HeadInput, MultipoleConfig
from lesff.potential.edit import with_multipoles
from lesff.potential.potential import Potential
from lesff.potential.verify import check_physics

# --- start without effect, training ------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "head"),
    [(kind, "latent") for kind in KINDS]
    + [("all", head) for head in ("shifted", "edge", "fukui", "qeq-local")],
)
def test_new_moments_change_nothing(kind, head):
    before = bare(head)
    after = with_multipoles(before, MultipoleConfig(**KINDS[kind]))
    graph = collate([make_graph(f()) for f in (two_waters, triclinic_ice, slab)])
    names = ["energy", "energy_lr", "forces", "charges", "latent_charges"]
    one, two = before(graph, names), after(graph, names)
    for name in names:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=NO_OP)
    assert before.multipole_head is None
    molecule = make_graph(water())
    torch.testing.assert_close(
        after(molecule, ["dipole"])["dipole"], before(molecule, ["dipole"])["dipole"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_every_new_weight(kind):
    """Towards forces of a model with such moments; gates open first, then what is behind them."""
    graph = make_graph(two_waters())
    target = make(kind)(graph, ["forces"])["forces"]
    potential = with_multipoles(bare(), MultipoleConfig(**KINDS[kind]))
    potential.multipole_head.requires_grad_(True)
    start = {n: p.detach().clone() for n, p in potential.multipole_head.named_parameters()}
    optimizer = torch.optim.Adam(potential.multipole_head.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        forces = potential(graph, ["forces"], create_graph=True)["forces"]
        loss = (forces - target).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[1] < losses[0]
    for name, parameter in potential.multipole_head.named_parameters():
        moved = (parameter.detach() - start[name]).abs()
        assert bool(torch.isfinite(parameter).all())
        assert float(moved.max()) > 0, name


def test_a_gate_never_closes_for_good():
    """Value |g| with slope 1 at the start, so that a step can open it from either side."""
    head = with_multipoles(bare(), MultipoleConfig(induced="dipoles")).multipole_head
    gate = head.polarizability.gate.requires_grad_(True)
    head.polarizability.scale().backward()
    assert float(gate.grad) == 1.0
    gate.data.fill_(-1e-3)  # a first step the wrong way
    optimizer = torch.optim.SGD([gate], lr=0.2)
    for _ in range(40):
        optimizer.zero_grad()
        (head.polarizability.scale() - 0.3).square().backward()
        optimizer.step()
    assert float(gate.detach()) == pytest.approx(-0.3, abs=1e-3)
    assert float(head.polarizability.scale().detach()) == pytest.approx(0.3, abs=1e-3)


# --- derivatives: all of them from one enthalpy --------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("structure", [two_waters, triclinic_ice, slab])
def test_forces_are_energy_derivatives(kind, structure):
    """T33, for every atom and axis along one direction."""
    potential, atoms = make(kind), structure()
    forces = potential(make_graph(atoms), ["forces"])["forces"]
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-9)
    direction = np.random.default_rng(0).normal(size=(6, 3))

    def energy(h):
        moved = atoms.copy()
        moved.positions += h.item() * direction
        return potential(make_graph(moved), ["energy"])["energy"]

    slope = differences(energy, torch.zeros(1, dtype=torch.float64))
    work = -float((forces * torch.from_numpy(direction)).sum())
    assert work == pytest.approx(float(slope), abs=20 * DIFFERENCE)
    if not atoms.pbc.any():
        torque = torch.linalg.cross(make_graph(atoms).positions, forces).sum(0)
        np.testing.assert_allclose(torque, 0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_stress_is_strain_derivative(kind):
    """T34, in a skewed cell."""
    potential, atoms = make(kind), triclinic_ice()
    stress = potential(make_graph(atoms), ["stress"])["stress"][0]
    torch.testing.assert_close(stress, stress.T, rtol=0, atol=ROUNDING)

    def energy(strain):
        e = strain.numpy()
        matrix = np.array([[e[0], e[3], e[4]], [e[3], e[1], e[5]], [e[4], e[5], e[2]]])
        moved = atoms.copy()
        moved.set_cell(np.array(atoms.cell) @ (np.eye(3) + matrix), scale_atoms=True)
        return potential(make_graph(moved), ["energy"])["energy"][0]

    slope = differences(energy, torch.zeros(6, dtype=torch.float64)) / atoms.get_volume()
    found = torch.stack([*stress.diagonal(), *(2 * stress[a, b] for a, b in OFF_DIAGONAL)])
    torch.testing.assert_close(found, slope, rtol=0, atol=DIFFERENCE)


def test_verify_physics_covers_everything():
    """`lesff verify --physics`: molecule, slab, triclinic and left-handed crystal."""
    potential = make("all", "shifted")
    found = {(c.structure, c.quantity): c for c in check_physics(potential)}
    assert all(check.ok for check in found.values())
    numbers = [c for c in found.values() if not c.note]
    assert max(c.error / c.tolerance for c in numbers) < 0.1
    wanted = ("forces in a field", "dipole from field", "Born charges", "polarizability")
    for quantity in wanted:
        assert found["molecule", quantity].error > 0
    assert found["slab", "forces in a field"].error > 0
    assert found["triclinic", "stress"].error > 0
    assert found["triclinic", "response to fields"].note == "charges are not local"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("charge", [0, 1])
def test_dipole_and_polarizability_are_field_derivatives(kind, charge):
    """T27: mu = -dF/dE; alpha = dmu/dE, symmetric, not negative; forces' slope is Z*^T."""
    potential = make(kind)
    names = ["energy", "dipole", "forces", BEC, "quadrupole", "node_energy"]
    graph = in_field(two_waters(), FIELD, total_charge=charge)
    out = potential(graph, names)

    def value(name):
        return lambda field: potential(in_field(two_waters(), field, total_charge=charge), [name])[
            name
        ]

    slope = -differences(value("energy"), FIELD)[0]
    origin = moment_origin(graph)[0]
    torch.testing.assert_close(out["dipole"][0] + charge * origin, slope, rtol=0, atol=DIFFERENCE)
    torch.testing.assert_close(out["node_energy"].sum(), out["energy"][0], rtol=0, atol=ROUNDING)
    # d force_ab / dE_i = dP_i / dr_ab
    push = differences(value("forces"), FIELD).transpose(1, 2)
    torch.testing.assert_close(out[BEC], push, rtol=0, atol=DIFFERENCE)
    torch.testing.assert_close(  # T24, a molecule: sum Z* = Q
        out[BEC].sum(0), charge * torch.eye(3).double(), rtol=0, atol=ROUNDING
    )
    if kind not in INDUCED:
        with pytest.raises(PropertyError, match="charges do not respond to a field"):
            potential(graph, ["polarizability"])
        return
    alpha = potential(graph, ["polarizability"])["polarizability"][0]
    torch.testing.assert_close(
        alpha, differences(value("dipole"), FIELD)[0], rtol=0, atol=DIFFERENCE
    )
    torch.testing.assert_close(alpha, alpha.T, rtol=0, atol=ROUNDING)
    assert float(torch.linalg.eigvalsh(alpha).min()) > 1e-6


@pytest.mark.parametrize("kind", ["dipoles", "induced-dipoles", "anisotropic"])
@pytest.mark.parametrize("structure", [triclinic_ice, lambda: left_handed(triclinic_ice())])
def test_crystals_in_a_field(kind, structure):
    """Slope of the forces at any field is Z*^T at that field; alpha that of the atomic dipoles."""
    potential, atoms = make(kind, "shifted"), structure()
    graph = in_field(atoms, FIELD)
    out = potential.born_effective_charges(graph, sum_rule=True)

    def value(name):
        return lambda field: potential(in_field(atoms, field), [name])[name]

    push = differences(value("forces"), FIELD).transpose(1, 2)
    torch.testing.assert_close(out, push, rtol=0, atol=DIFFERENCE)
    forces = potential(graph, ["forces"])["forces"]
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-9)
    if kind == "dipoles":
        return
    alpha = potential(graph, ["polarizability"])["polarizability"][0]
    slope = differences(lambda field: value("atomic_dipoles")(field).sum(0), FIELD)
    torch.testing.assert_close(alpha, slope, rtol=0, atol=DIFFERENCE)
    assert float(torch.linalg.eigvalsh(alpha).min()) > 1e-6
    # one step: the cell's polarizability is the sum of those of the atoms, whatever the cell
    twice = potential(make_graph(atoms.repeat((2, 1, 1))), ["polarizability"])["polarizability"][0]
    torch.testing.assert_close(twice, 2 * alpha, rtol=0, atol=1e-9)
    flat = atoms.copy()
    flat.pbc = [True, True, False]
    alpha = potential(make_graph(flat), ["polarizability"])["polarizability"][0]
    torch.testing.assert_close(alpha, alpha.T, rtol=0, atol=ROUNDING)
    with pytest.raises(PropertyError, match="energy of a crystal in an external field"):
        potential(graph, ["energy"])


@pytest.mark.parametrize("kind", KINDS)
def test_slab_in_a_normal_field(kind):
    """Forces from the enthalpy; every moment answers along the normal only as far as defined."""
    potential = make(kind, "shifted")
    rows = np.array(slab().cell)
    normal = np.cross(rows[0], rows[1])
    field = torch.from_numpy(0.1 * normal / np.linalg.norm(normal))
    forces = potential(in_field(slab(), field), ["forces"])["forces"]

    def energy(move):
        atoms = slab()
        atoms.positions[1] += move.numpy()
        return potential(in_field(atoms, field), ["energy"])["energy"][0]

    expected = -differences(energy, torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(forces[1], expected, rtol=0, atol=DIFFERENCE)


# --- symmetry, batches, sums ---------------------------------------------------------------------

RANK = {
    "energy": 0, "node_energy": 0, "charges": 0, "latent_charges": 0, "forces": 1, "dipole": 1,
    "stress": 2, "quadrupole": 2, BEC: 2, "polarizability": 2, "atomic_dipoles": 1,
    "atomic_quadrupoles": 2,
}  # fmt: skip
OPEN_ONLY = {"dipole", "quadrupole"}


def names_of(potential: Potential, *, crystal: bool) -> list[str]:
    known = [name for name in RANK if name in potential.available_properties()]
    absent = OPEN_ONLY if crystal else {"stress"}
    if crystal and not potential.traits.has_local_charges:
        absent = absent | {BEC}
    if crystal and not potential.traits.only_dipoles_respond:
        absent = absent | {"polarizability"}
    return [name for name in known if name not in absent]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("structure", [two_waters, triclinic_ice])
def test_rotation_and_inversion(kind, structure, generator):
    """T29 for every quantity: dipoles are odd, quadrupoles even."""
    potential, atoms = make(kind), structure()
    names = names_of(potential, crystal=bool(atoms.pbc.any()))
    matrix = -random_rotation(generator)
    one = potential(make_graph(atoms), names)
    two = potential(make_graph(transformed(atoms, matrix)), names)
    for name in names:
        value = one[name]
        if RANK[name] == 1:
            value = value @ matrix.T
        elif RANK[name] == 2:
            value = matrix @ value @ matrix.T
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(two[name], value, rtol=0, atol=30 * FP64 * scale, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_batch_equals_one_by_one(kind):
    potential = make(kind)
    structures = (two_waters, triclinic_ice, water, slab, lambda: left_handed(triclinic_ice()))
    graphs = [make_graph(make_atoms()) for make_atoms in structures]
    names = ["energy", "node_energy", "charges", "forces"]
    names += [n for n in names_of(potential, crystal=True) if n.startswith("atomic_")]
    together = potential(collate(graphs), names)
    alone = [potential(graph, names) for graph in graphs]
    for name in names:
        expected = torch.cat([one[name] for one in alone])
        torch.testing.assert_close(together[name], expected, rtol=0, atol=ROUNDING)
    sums = segment_sum(together["node_energy"], collate(graphs).batch, len(graphs))
    torch.testing.assert_close(sums, together["energy"], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("kind", ["induced-charges", "all"])
@pytest.mark.parametrize("charge", [0, -1])
def test_induced_charges_sum_to_zero(kind, charge):
    """The total charge stays, in crystals too, and energies fall."""
    potential = make(kind, "shifted")
    for atoms in (two_waters(), triclinic_ice(), slab()):
        graph = make_graph(atoms, total_charge=charge)
        charges = potential(graph, ["charges"])["charges"]
        permanent = potential.energy_terms(graph).head.coulomb
        assert float(charges.sum()) == pytest.approx(charge, abs=ROUNDING)
        assert float((charges - permanent).abs().max()) > 1e-4
        terms = potential.energy_terms(graph)
        assert float(terms.energy_lr - terms.coulomb_energy) < 0


def test_a_supercell_has_twice_the_energy():
    """T11 with every moment: all wave vectors of the cell are among those of the supercell."""
    potential = make("all")
    one = potential(make_graph(triclinic_ice()), ["energy"])["energy"]
    two = potential(make_graph(triclinic_ice().repeat((1, 1, 2))), ["energy"])["energy"]
    torch.testing.assert_close(two, 2 * one, rtol=0, atol=1e-9)


# --- limits --------------------------------------------------------------------------------------


def test_moments_of_a_model_are_those_of_point_charges():
    """T28: each atom's moments as a cluster of charges give the model's energy, dipole, quadrupole.

    Error delta^2 in the energy; the dipole and quadrupole of the cluster are exact.
    """
    potential = filled(
        with_multipoles(bare("shifted"), MultipoleConfig(dipoles=True, quadrupoles=True))
    )
    atoms = two_waters()
    graph = make_graph(atoms)
    names = ["energy_lr", "charges", "atomic_dipoles", "atomic_quadrupoles", "dipole", "quadrupole"]
    out = potential(graph, names)
    assert float(out["atomic_dipoles"].norm(dim=1).max()) > 0.05
    assert float(out["atomic_quadrupoles"].abs().max()) > 0.05
    trace = out["atomic_quadrupoles"].diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(trace, torch.zeros_like(trace), rtol=0, atol=ROUNDING)
    settings = replace(potential.ewald, remove_self_interaction=False)
    own = multipoles_module.self_energies(potential.energy_terms(graph).head.moments, settings)
    with_self = float(out["energy_lr"][0] + own.sum())
    errors = []
    for delta in (0.08, 0.04):
        built, charges = point_cluster(atoms, out, delta)
        large = make_graph(built, 1e-3)
        energy = float(latent_energy(charges, large, settings)[0])
        errors.append(with_self - energy)
        origin = moment_origin(graph)
        for name, function in (("dipole", dipole_moment), ("quadrupole", quadrupole_moment)):
            found = function(charges, large, origin)
            torch.testing.assert_close(found, out[name], rtol=0, atol=1e-8)
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)
    assert abs(errors[1] - errors[0] / 4) < 2e-4 * abs(with_self)


def point_cluster(atoms: ase.Atoms, out, delta: float) -> tuple[ase.Atoms, torch.Tensor]:
    """Charges around each atom with its charge, dipole and second moment."""
    positions, charges = [], []
    eye = np.eye(3)
    moments = (out[n].numpy() for n in ("charges", "atomic_dipoles", "atomic_quadrupoles"))
    for r, q, u, theta in zip(atoms.positions, *moments, strict=True):
        centre = q
        for a in range(3):
            for s in (1, -1):
                positions.append(r + s * delta * eye[a])
                charges.append(s * u[a] / (2 * delta) + theta[a, a] / (2 * delta**2))
            centre -= theta[a, a] / delta**2
            for b in range(a):
                for s in (1, -1):
                    for t in (1, -1):
                        positions.append(r + delta * (s * eye[a] + t * eye[b]))
                        charges.append(s * t * theta[a, b] / (4 * delta**2))
        positions.append(r)
        charges.append(centre)
    built = ase.Atoms(f"H{len(charges)}", positions=positions)
    return built, torch.tensor(charges, dtype=torch.float64)


def test_neutral_dipole_and_charged_quadrupole_origin_rules():
    """T26: the dipole of a neutral molecule does not depend on where it is; Q of an ion moves."""
    potential = make("all")
    moved = two_waters()
    moved.translate([1.0, -2.0, 0.5])
    for charge in (0, 1):
        one, two = (
            potential(make_graph(a, total_charge=charge), ["dipole", "quadrupole"])
            for a in (two_waters(), moved)
        )  # both about the centre of nuclear charge
        for name in ("dipole", "quadrupole"):
            torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-9)


def head_input(potential: Potential, graph: AtomGraph) -> HeadInput:
    output = potential.architecture(graph, None, max_order=2)
    return HeadInput(
        invariants=output.invariants,
        element=potential.element_row[graph.atomic_numbers],
        graph=graph,
        settings=potential.ewald,
        equivariants=output.equivariants,
    )


@pytest.mark.parametrize("structure", [two_waters, triclinic_ice])
def test_induced_moments_are_softness_times_potential_and_alpha_times_field(structure):
    """docs/theory.md against differences of the Coulomb energy in each atom's own moments."""
    potential, graph = make("all"), make_graph(structure())
    terms = potential.energy_terms(graph)
    response = potential.multipole_head.response(head_input(potential, graph))
    permanent = terms.head.moments
    q, u = permanent.charges, permanent.dipoles
    alpha, kappa = response.polarizability, response.softness
    assert float(torch.linalg.eigvalsh(alpha).min()) > 0
    torch.testing.assert_close(alpha, alpha.transpose(1, 2), rtol=0, atol=ROUNDING)

    def energy(dq, du):
        moved = replace(permanent, charges=q + dq, dipoles=u + du)
        return multipoles_module.multipole_energy(moved, graph, potential.ewald).sum()

    zero_q, zero_u = torch.zeros_like(q), torch.zeros_like(u)
    potentials, fields = torch.zeros_like(q), torch.zeros_like(u)
    for atom in range(graph.n_atoms):
        unit = torch.zeros_like(q)
        unit[atom] = STEP
        potentials[atom] = (energy(unit, zero_u) - energy(-unit, zero_u)) / (2 * STEP)
        for axis in range(3):
            shift = torch.zeros_like(u)
            shift[atom, axis] = STEP
            fields[atom, axis] = -(energy(zero_q, shift) - energy(zero_q, -shift)) / (2 * STEP)
    deviation = potentials - (kappa * potentials).sum() / kappa.sum()
    charges = -kappa * deviation
    dipoles = torch.einsum("nab,nb->na", alpha, fields)
    torch.testing.assert_close(terms.charges - q, charges, rtol=0, atol=DIFFERENCE)
    torch.testing.assert_close(terms.dipoles - u, dipoles, rtol=0, atol=DIFFERENCE)
    drop = 0.5 * (charges * deviation).sum() - 0.5 * (dipoles * fields).sum()
    found = terms.energy_lr - terms.coulomb_energy
    assert float(found) == pytest.approx(float(drop), abs=1e-5)


def test_blocks_of_pairs_change_nothing(monkeypatch):
    """Large molecules: rows of pairs are recomputed in the backward pass, twice with induction."""
    potential, graph = make("all"), make_graph(two_waters())
    names = ["energy", "forces", "polarizability", BEC]
    expected = potential(graph, names)
    monkeypatch.setattr(multipoles_module, "_PAIRS", 12)
    found = potential(graph, names)
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-9)
