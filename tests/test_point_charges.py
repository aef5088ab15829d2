"""Point charges around a structure: their potential, the enthalpy, forces on both sides."""

import itertools

import ase
import numpy as np
import pytest
import torch
from helpers import tiny_potential, triclinic_ice, two_waters, water
from multipole_models import KINDS, make

import lesff
from lesff.atoms.graph import build_graph, collate
from lesff.atoms.point_charges import PointCharges, join
from lesff.atoms.structure import to_structure
from lesff.electrostatics.moments.point_charges import potential_of
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.engines.embedding import EmbeddedEvaluator
from lesff.errors import PropertyError, UnsupportedInputError
from lesff.units import COULOMB_CONSTANT

DIFFERENCE = 1e-4
"""eV/A: what forces may differ from differences by, as the issue asks."""


CHARGES = np.array([0.8, -0.5, 0.4, -0.7])
POINTS = np.array([[3.6, 0.7, 0.7], [-1.8, 4.2, 0.3], [0.9, -2.4, 2.2], [2.6, 2.5, -3.3]])
BOX = np.array([[9.0, 0.0, 0.0], [1.1, 10.0, 0.0], [-2.0, 1.5, 11.0]])


def embedded(potential, charges=CHARGES, **options):
    return EmbeddedEvaluator(unsaved(potential), charges, on_out_of_domain="ignore", **options)


def unsaved(potential):
    bundled = lesff.load("off-small")
    return lesff.model.Model(potential, bundled.source)


HEADS = ["latent", "shifted", "fukui", "edge", "qeq", "qeq-local"]


@pytest.mark.parametrize("box", [None, BOX], ids=["open", "box"])
@pytest.mark.parametrize("make_potential", [
    *(pytest.param(lambda h=head: tiny_potential(head=h), id=head) for head in HEADS),
    *(pytest.param(lambda k=kind: make(k), id=kind) for kind in KINDS),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::lesff.errors.ChargedCellWarning")
def test_forces_are_slopes_on_both_sides(make_potential, box):
    evaluator = embedded(make_potential(), total_charge=1)
    atoms, periodic = two_waters(), box is not None
    out = evaluator.among(atoms.numbers, atoms.positions, POINTS, box, periodic=periodic)

    def energy(positions, points):
        return evaluator.among(
            atoms.numbers, positions, points, box, periodic=periodic, properties=["energy"]
        )["energy"]

    generator = np.random.default_rng(0)
    for side, forces in enumerate((out["forces"], out["point_forces"])):
        assert np.abs(forces).max() > 1e-3
        # along a few directions of all atoms at a time
        for _ in range(3):
            along = generator.normal(size=forces.shape)
            along /= np.linalg.norm(along)
            values = []
            for step in (1e-4, -1e-4):
                moved = [atoms.positions.copy(), POINTS.copy()]
                moved[side] += step * along
                values.append(energy(*moved))
            slope = (values[0] - values[1]) / 2e-4
            assert (forces * along).sum() == pytest.approx(-slope, abs=DIFFERENCE)
    # no force on the whole
    np.testing.assert_allclose(out["forces"].sum(0) + out["point_forces"].sum(0), 0.0, atol=1e-6)


def test_far_charges_act_by_coulombs_law():
    potential = tiny_potential(head="shifted")
    atoms = water()
    points = np.array([[30.0, 0.0, 0.0], [0.0, -25.0, 10.0]])
    charges = np.array([1.0, -0.4])
    out = embedded(potential, charges).among(atoms.numbers, atoms.positions, points)
    alone = unsaved(potential).predict(atoms, ["energy", "charges"])
    r = np.linalg.norm(atoms.positions[:, None] - points, axis=-1)
    expected = COULOMB_CONSTANT * (alone["charges"][:, None] * charges / r).sum()
    assert out["energy"] - alone["energy"] == pytest.approx(expected, rel=1e-9)


def test_kernel_is_that_of_the_charges_of_the_model():
    # a Gaussian pair is the energy of one Gaussian in the potential of the other, and the potential
    # of a Gaussian is that of point charges spread over it
    settings, sigma = EwaldSettings(sigma=1.3), 1.3
    nodes, weights = np.polynomial.hermite.hermgauss(24)
    grid = np.array(list(itertools.product(nodes, repeat=3))) * sigma  # density exp(-r^2/sigma^2)
    shares = np.prod(list(itertools.product(weights, repeat=3)), axis=1) / np.pi**1.5
    distance = 1.7
    atom = ase.Atoms("H", [[0.0, 0.0, distance]])
    graph = build_graph(to_structure(atom, spin_multiplicity=2), 1.0)
    found = potential_of(points_of(grid, shares), graph, settings)
    expected = torch.special.erf(torch.tensor(distance / (np.sqrt(2) * sigma))) / distance
    assert float(found.value) == pytest.approx(COULOMB_CONSTANT * float(expected), rel=1e-6)


def points_of(positions, charges):
    return PointCharges(
        positions=torch.as_tensor(positions, dtype=torch.float64),
        charges=torch.as_tensor(charges, dtype=torch.float64),
        batch=torch.zeros(len(charges), dtype=torch.int64),
    )


def test_box_does_not_depend_on_how_it_is_summed():
    # potential of many cells that are one large cell, to what the sums leave out (1e-6 of 3 V), and
    # of images of the points
    atoms = ase.Atoms("OH", [[0.5, 0.5, 0.5], [1.0, 1.2, 0.4]], cell=BOX, pbc=True)
    graph = build_graph(to_structure(atoms), 1.0)
    settings = EwaldSettings(sigma=1.0)
    large = atoms.copy()
    large.cell = BOX * np.array([[2.0], [1.0], [1.0]])
    twice = np.concatenate([POINTS, POINTS + BOX[0]])
    found = potential_of(points_of(POINTS, CHARGES), graph, settings, 2)
    same = potential_of(
        points_of(twice, np.tile(CHARGES, 2)), build_graph(to_structure(large), 1.0), settings, 2
    )
    moved = potential_of(points_of(POINTS - BOX[1] + 2 * BOX[2], CHARGES), graph, settings, 2)
    for name in ("value", "gradient", "hessian"):
        value = getattr(found, name)
        torch.testing.assert_close(value, getattr(same, name), atol=1e-5, rtol=0.0)
        torch.testing.assert_close(value, getattr(moved, name), atol=1e-10, rtol=0.0)


@pytest.mark.parametrize("name", ["qeq", "induced-charges", "induced-dipoles", "anisotropic"])
def test_moments_that_respond_lower_the_enthalpy(name):
    potential = tiny_potential(head=name) if name == "qeq" else make(name)
    atoms = water()
    moments = ["charges"] + (["atomic_dipoles"] if potential.traits.has_atomic_dipoles else [])
    factors = (0.0, 0.05, 0.1)
    rows = []
    for factor in factors:
        evaluator = embedded(potential, factor * CHARGES)
        rows.append(evaluator.among(
            atoms.numbers, atoms.positions, POINTS, properties=["energy", *moments]
        ))  # fmt: skip
    assert any(np.abs(rows[0][x] - rows[2][x]).max() > 1e-4 for x in moments)
    # the enthalpy is concave in the potential: charges that stayed would leave it straight
    energies = [row["energy"] for row in rows]
    assert energies[0] - 2 * energies[1] + energies[2] < -1e-6


def test_results_follow_the_points_and_not_only_the_atoms():
    evaluator = embedded(tiny_potential())
    atoms = water()
    first = evaluator.among(atoms.numbers, atoms.positions, POINTS)
    second = evaluator.among(atoms.numbers, atoms.positions, POINTS + 0.1)
    again = evaluator.among(atoms.numbers, atoms.positions, POINTS + 0.1)
    assert first["energy"] != second["energy"] == again["energy"]
    assert evaluator.n_evaluations == 2


def test_point_charges_of_a_batch():
    potential = tiny_potential(head="qeq")
    graphs, expected = [], []
    for index, atoms in enumerate((water(), two_waters())):
        graph = build_graph(to_structure(atoms), potential.architecture.cutoff)
        points = points_of(POINTS + index, CHARGES * (1 - index)) if index == 0 else None
        graphs.append(graph.replace(point_charges=points))
        expected.append(potential(graphs[-1], ["energy"])["energy"])
    graph = collate(graphs)
    assert join([None, None]) is None
    torch.testing.assert_close(potential(graph, ["energy"])["energy"], torch.cat(expected))
    with torch.inference_mode():
        inside = graphs[0].point_charges.cloned()
    again = graphs[0].replace(point_charges=inside)
    torch.testing.assert_close(potential(again, ["energy"])["energy"], expected[0])


def test_bad_surroundings():
    model = unsaved(tiny_potential())
    graph = build_graph(to_structure(triclinic_ice()), 3.2)
    graph = graph.replace(point_charges=points_of(POINTS, CHARGES))
    with pytest.raises(PropertyError, match="stress of a structure among point charges"):
        model.potential(graph, ["stress"])
    with pytest.raises(UnsupportedInputError, match="planned step is for"):
        model.potential.plan(graph)
    slab = triclinic_ice()
    slab.cell[2] = [0.0, 0.0, 40.0]
    slab.pbc = [True, True, False]
    graph = build_graph(to_structure(slab), 3.2)
    graph = graph.replace(point_charges=points_of(POINTS, CHARGES))
    with pytest.raises(UnsupportedInputError, match="`point_charges` need `pbc` in three"):
        model.potential(graph, ["energy"])
    short = unsaved(tiny_potential(head=None))
    with pytest.raises(UnsupportedInputError, match="needs a model with charges"):
        EmbeddedEvaluator(short, CHARGES)
    with pytest.raises(UnsupportedInputError, match="`point_charges` must be absent"):
        short.potential(graph, ["energy"])
    with pytest.raises(UnsupportedInputError, match="`charges` must be finite"):
        EmbeddedEvaluator(model, np.array([np.nan]))
