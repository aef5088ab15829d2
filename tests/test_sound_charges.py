"""Bounded charges, the wall and the local state: what holds for any weights, in float64."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import covalent_radii
from helpers import ANY_HEADS, make_graph, tiny_potential, triclinic_ice

from lesff import kernels
from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.errors import ConfigError, PropertyError, UnsupportedInputError
from lesff.heads import LongRangeConfig, MultipoleConfig
from lesff.heads.config import charge_limits_of
from lesff.heads.edge import _FusedMoved, plain_moved
from lesff.heads.sharing import at_shares, plain_shares, shared_within
from lesff.kernels import ShareInputs, TransferLimits
from lesff.nn.contacts import BOND_FULL, BOND_NONE, ClosePairs, Elements
from lesff.nn.local_state import LocalState, constants_of
from lesff.nn.saturation import LINEAR_SHARE, from_below, saturated, saturated_norm
from lesff.potential.domain import check_domain
from lesff.potential.edit import (
    Redesign,
    with_charge_limits,
    with_fresh_head,
    with_head,
    with_local_state,
    with_multipoles,
    with_wall,
)
from lesff.potential.potential import Potential
from lesff.potential.replay import RepeatedStep
from lesff.potential.verify import _crystal_born, check_physics
from lesff.units import COULOMB_CONSTANT

ELEMENTS = (1, 6, 7, 8, 17)
LIMITS = charge_limits_of(ELEMENTS)


def _model(head="edge", **options):
    given = {"local_state": True, "wall": True, "limits": LIMITS, "elements": ELEMENTS}
    return tiny_potential(head=head, **(given | options))


def _aimnet2(**options):
    """A small AIMNet2 with all weights at random, and the parts of ``_model``."""
    other = _model()
    architecture = {
        "type": "aimnet2",
        "cutoff": 4.0,
        "n_features": 4,
        "n_radial": 4,
        "n_vectors": 3,
        "hidden": ((8, 6), (8, 6), (8, 6)),
        "active_outputs": (False, True, True),
        "energy_hidden": (8,),
        "inner_cutoff": 0.75,
        "local_charges": True,
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        potential = Potential(replace(other.config, architecture=architecture, **options))
        for parameter in potential.local_state.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return potential.to(torch.float64).requires_grad_(False).eval()


def _scaled(potential, factor):
    """The same with charge readouts and transfers of another size."""
    with torch.no_grad():
        for name, parameter in potential.charge_head.named_parameters():
            if "out" in name.split(".") or "readouts" in name or "electronegativity" in name:
                parameter.mul_(factor)
    return potential


def _found(potential, atoms, charge=0, multiplicity=1):
    graph = make_graph(
        atoms,
        potential.architecture.cutoff,
        total_charge=charge,
        spin_multiplicity=multiplicity,
    )
    found = dict(potential(graph, ["energy", "forces", "charges", "latent_charges"]))
    with torch.no_grad():
        found["states"] = potential.energy_terms(graph).states
    return found


def _ammonium():
    ion = molecule("CH4")
    ion.numbers[ion.numbers == 6] = 7
    ion.positions *= 1.02 / 1.09
    return ion


# -- saturation


def test_saturation_is_the_identity_then_levels_off_and_keeps_the_order():
    limit = 2.0
    x = torch.linspace(-50.0, 50.0, 4001, dtype=torch.float64)
    y = saturated(x, limit)
    inside = x.abs() <= LINEAR_SHARE * limit
    assert torch.equal(y[inside], x[inside])
    assert bool((y.diff() >= 0).all())
    assert bool((y.abs() <= limit).all())
    assert float(saturated(torch.tensor(1e6), limit)) == pytest.approx(limit, abs=1e-6)
    assert torch.equal(from_below(x, 1.0, 0.5)[x >= 1.0], x[x >= 1.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturation_has_derivatives_everywhere(dtype):
    x = torch.tensor([0.0, 1e-30, 1.2, -1.2, 1.5, -40.0, 1e12, -3e30], dtype=dtype)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(saturated(x, 2.0).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert bool(slope.isfinite().all())
    assert bool(curvature.isfinite().all())
    assert slope[0] == 1.0
    points = torch.tensor([0.3, 1.21, 1.5, -1.9, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda v: saturated(v, 2.0), (points,))


def test_vectors_keep_their_direction_and_have_a_largest_norm():
    v = torch.tensor([[0.0, 0.0, 0.0], [0.3, -0.4, 0.0], [30.0, 40.0, 0.0]], dtype=torch.float64)
    limit = torch.full((3,), 1.0, dtype=torch.float64)
    got = saturated_norm(v, limit)
    assert torch.equal(got[:2], v[:2])
    assert float(got[2].norm()) <= 1.0
    torch.testing.assert_close(got[2] / got[2].norm(), v[2] / 50.0)
    v.requires_grad_()
    assert torch.autograd.grad(saturated_norm(v, limit).sum(), v)[0].isfinite().all()


# -- bounded charges


@pytest.mark.parametrize("head", [h for h in ANY_HEADS if h != "qeq"])
def test_charges_of_any_weights_stay_within_their_limits(head):
    atoms = molecule("CH3CONH2") if head != "edge" else molecule("CH3COCl")
    atoms.positions *= 0.5
    wild = _found(_scaled(_model(head, limits=None, local_state=False), 300.0), atoms)
    tame = _found(_scaled(_model(head, local_state=False), 300.0), atoms)
    limits = torch.tensor([dict(zip(ELEMENTS, LIMITS, strict=True))[z] for z in atoms.numbers])
    # sharing out what is missing may use up the limits, never exceed them beyond rounding
    assert bool((wild["latent_charges"].abs() > 2.0 * limits).any())
    assert bool((tame["latent_charges"].abs() <= limits * (1.0 + 1e-9) + 0.02).all())
    if head != "latent":
        assert float(tame["charges"].sum()) == pytest.approx(0.0, abs=1e-9)


def test_equilibrated_charges_are_bounded_by_what_drives_them():
    atoms = molecule("CH3CONH2")
    wild = _scaled(_model("qeq", limits=None, local_state=False), 1.0)
    tame = _model("qeq", local_state=False)
    for potential in (wild, tame):
        with torch.no_grad():
            for parameter in potential.charge_head.electronegativity.parameters():
                parameter.mul_(3000.0)
    # |q|_2 <= |chi + lambda|_2 / J_min, and |chi| <= J L with limits
    assert float(_found(tame, atoms)["charges"].abs().max()) < 2.0 * max(LIMITS)
    assert float(_found(wild, atoms)["charges"].abs().max()) > 10.0 * max(LIMITS)


def test_latent_dipoles_and_quadrupoles_are_bounded():
    moments = MultipoleConfig(dipoles=True, quadrupoles=True)
    options = {"hidden_irreps": "4x0e+4x1o+4x2e", "local_state": False}
    atoms = molecule("CH3CONH2")
    norms = []
    for limits in (None, LIMITS):
        potential = with_multipoles(_model(limits=limits, **options), moments)
        with torch.no_grad():
            for parameter in potential.multipole_head.parameters():
                torch.nn.init.normal_(parameter, std=100.0)
        graph = make_graph(atoms, potential.architecture.cutoff)
        found = potential(graph, ["atomic_dipoles", "atomic_quadrupoles"])
        norms.append([x.flatten(1).norm(dim=1) for x in found.values()])
    limits = torch.tensor([dict(zip(ELEMENTS, LIMITS, strict=True))[z] for z in atoms.numbers])
    for wild, tame in zip(*norms, strict=True):
        assert bool((wild > 2.0 * limits).any())
        assert bool((tame <= limits * (1.0 + 1e-9)).all())


def test_molecules_exchange_little_charge():
    potential = _scaled(_model(), 100.0)
    pair = molecule("H2O") + molecule("H2O")
    pair.positions[3:] += [0.0, 2.6, 1.2]
    charge = float(_found(potential, pair)["charges"][:3].sum())
    # 0.006 e for each of nine pairs of atoms at most, and within the molecules as much as there is
    assert 0.0 < abs(charge) < 9 * 0.006
    assert float(_found(potential, pair)["charges"].abs().max()) > 0.1


@pytest.mark.skipif(kernels.backend(torch.zeros(1)) is None, reason="no compiled kernels here")
@pytest.mark.parametrize(("ion", "charge"), [("Cl", -1), ("Li", 1)])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_ions_in_a_solvent_give_little_of_their_charge_and_take_none(ion, charge, scale):
    """Any weights: -1 to -0.8 e in water, and forces that are the slope."""
    elements = (1, 3, 6, 7, 8, 17)
    potential = _model(elements=elements, limits=charge_limits_of(elements))
    with torch.no_grad():
        for parameter in (potential.local_state.out, potential.local_state.element):
            parameter.zero_()
        potential.local_state.element[elements.index(17), 0] = -1.0
        potential.local_state.element[elements.index(3), 0] = 1.0
        potential.charge_head.transfers.out.mul_(scale)
    rng = np.random.default_rng(0)
    atoms, waters = Atoms(ion, [[0.0, 0.0, 0.0]]), []
    for place in (
        *itertools.product((-2.3, 2.3), repeat=3),
        *(3.2 * np.eye(3)),
        *(-3.2 * np.eye(3)),
    ):
        water = molecule("H2O")
        water.rotate(rng.uniform(0, 180), rng.normal(size=3))
        water.positions += np.array(place) - water.positions[0]
        waters.append(water)
        atoms += water
    found = _found(potential, atoms, charge)
    kept = charge * float(found["charges"][0])
    assert 0.8 < kept <= 1.0
    assert float(found["charges"].sum()) == pytest.approx(charge, abs=1e-10)
    moved, step = [], 1e-4
    for sign in (1.0, -1.0):
        copy = atoms.copy()
        copy.positions[0, 0] += sign * step
        moved.append(float(_found(potential, copy, charge)["energy"]))
    slope = -(moved[0] - moved[1]) / (2.0 * step)
    assert float(found["forces"][0, 0]) == pytest.approx(slope, abs=1e-6, rel=2e-5)


@pytest.mark.parametrize("has_bonds", [True, False])
@pytest.mark.parametrize("has_limits", [True, False])
@pytest.mark.parametrize("scale", [0.001, 0.3, 10.0])
def test_compiled_transfers_are_those_of_pytorch(has_bonds, has_limits, scale):
    head = _model().charge_head
    atoms = molecule("CH3CONH2") + molecule("H2O")
    atoms.positions[9:] += [0.0, 2.4, 1.5]
    first, second = torch.triu_indices(len(atoms), len(atoms), 1)
    distance = torch.tensor(atoms.get_all_distances())[first, second]
    pairs = ClosePairs(distance=distance, first=first, second=second, z=torch.tensor(atoms.numbers))
    transfers = scale * torch.randn(len(first), dtype=torch.float64)
    limits = TransferLimits(
        radius=head.elements.radius, valence=head.elements.valence,
        atoms=torch.full((len(atoms),), 1.4, dtype=torch.float64) if has_limits else None,
        has_bonds=has_bonds, bond_full=BOND_FULL, bond_none=BOND_NONE, between=0.006, soft=1e-3,
    )  # fmt: skip
    weight = torch.linspace(-1.0, 1.0, len(atoms), dtype=torch.float64)
    results = []
    for is_fused in (True, False):
        t, r = transfers.clone().requires_grad_(), distance.clone().requires_grad_()
        if is_fused:
            moved = _FusedMoved.apply(t, r, pairs, limits, head.elements, kernels.backend(t))
        else:
            moved = plain_moved(t, r, pairs, limits, head.elements)
        slopes = torch.autograd.grad((moved * weight).sum(), (t, r), allow_unused=True)
        results.append([moved.detach(), slopes[0], slopes[1]])
    assert abs(float(results[0][0].sum())) < 1e-12
    # the same formulas in another order of operations
    torch.testing.assert_close(results[0][:2], results[1][:2], rtol=1e-11, atol=1e-12)
    if has_bonds:
        torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-11, atol=1e-12)
    else:
        assert not results[0][2].any()


def test_no_atom_gains_more_than_the_floor():
    """Weights of any size: what is learned of an atom stays above -(floor + 1) eV."""
    potential = _scaled(_model(limits=None), 1.0)
    potential.config = replace(potential.config, energy_floor=None, energy_scale=1e4)
    atoms = molecule("CH3CONH2")
    graph = make_graph(atoms, potential.architecture.cutoff)
    free = potential.energy_terms(graph).node_energy
    potential.config = replace(potential.config, energy_floor=5.0)
    floored = potential.energy_terms(graph).node_energy
    row = potential.element_row[graph.atomic_numbers]
    below = free - potential.reference_energies[row]
    assert bool((below < -50.0).any())
    assert bool((floored - potential.reference_energies[row] >= -6.0).all())
    inside = below >= -5.0
    assert bool(inside.any())
    torch.testing.assert_close(floored[inside], free[inside], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("head", ANY_HEADS)
def test_limits_change_nothing_in_the_trained_range(head):
    atoms = molecule("CH3CONH2")
    wide = tuple(20.0 for _ in ELEMENTS)
    plain, bounded = (
        _found(_model(head, limits=None), atoms),
        _found(_model(head, limits=wide), atoms),
    )
    for name in ("energy", "forces", "charges", "latent_charges"):
        torch.testing.assert_close(bounded[name], plain[name], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("solved", [False, True])
def test_shares_within_limits_sum_to_the_total_and_have_exact_derivatives(solved):
    g = torch.Generator().manual_seed(0)
    p = (2.0 * torch.randn(9, generator=g, dtype=torch.float64)).requires_grad_()
    w = (0.2 + torch.rand(9, generator=g, dtype=torch.float64)).requires_grad_()
    limits, batch = torch.full((9,), 1.0, dtype=torch.float64), torch.tensor([0] * 5 + [1] * 4)
    totals = torch.tensor([2.0, -1.0], dtype=torch.float64)
    charges, _ = shared_within(p, w, totals, limits, batch, solved=solved)
    sums = torch.zeros(2, dtype=torch.float64).index_add(0, batch, charges)
    torch.testing.assert_close(sums, totals)
    assert bool((charges.abs() <= 1.0 + 1e-9).all())

    def function(p, w):
        return shared_within(p, w, totals, limits, batch, solved=solved)[0]

    assert torch.autograd.gradcheck(function, (p, w))
    assert torch.autograd.gradgradcheck(function, (p, w), atol=1e-4)


@pytest.mark.parametrize("charge", [-2.0, -1.0, 1.0, 2.5, 3.3])
def test_shares_are_solved_however_many_steps_that_takes(charge):
    """Two electrons too many on a water: one atom beyond its limit, two that hardly take any."""
    p = torch.tensor([-1.965, -0.017, -0.017], dtype=torch.float64, requires_grad=True)
    w = torch.tensor([1.4, 1e-3, 1e-3], dtype=torch.float64)
    log = w.log().requires_grad_()
    limits, batch = torch.tensor([1.4, 1.0, 1.0], dtype=torch.float64), torch.zeros(3).long()
    total = torch.tensor([charge], dtype=torch.float64)

    charges, potential = shared_within(p, w, total, limits, batch, solved=True)
    at = at_shares(p, w, potential, limits, batch)
    assert float(at.detach().sum()) == pytest.approx(charge, abs=1e-12)

    def function(p, log):
        charges, potential = shared_within(p, log.exp(), total, limits, batch, solved=True)
        return charges, torch.asinh(potential)

    assert torch.autograd.gradcheck(function, (p, log), rtol=1e-4)
    assert torch.autograd.gradgradcheck(lambda *x: function(*x)[0], (p, log), atol=1e-4)
    x = ShareInputs(
        p=p, weights=w, totals=total, limits=limits, batch=batch, n_steps=0, least=0.05, tiny=1e-14
    )
    torch.testing.assert_close(plain_shares(x), (charges, potential), rtol=1e-9, atol=1e-12)


# -- wall


def _diatomic(a, b, distance):
    return Atoms([a, b], [[0.0, 0.0, 0.0], [0.0, 0.0, distance]])


def test_energies_of_pairs_rise_below_what_is_learned_for_any_weights():
    potential = _model()
    for i, a in enumerate(ELEMENTS):
        for b in ELEMENTS[i:]:
            reach = covalent_radii[a] + covalent_radii[b]
            energies = [
                float(
                    _found(potential, Atoms([a, b], [[0, 0, 0], [0, 0, x * reach]]), 0, None)[
                        "energy"
                    ]
                )
                for x in np.linspace(0.55, 0.33, 15)
            ]
            assert bool((np.diff(energies) > 0).all()), (a, b)


def test_what_is_learned_hardly_changes_below_its_range():
    potential = _model()
    reach = 2 * covalent_radii[6]
    short = []
    for x in (0.4, 0.2):
        graph = make_graph(_diatomic(6, 6, x * reach), potential.architecture.cutoff)
        output = potential.architecture(graph, None)
        short.append(output.node_energy)
    graph = make_graph(_diatomic(6, 6, 0.9 * reach), potential.architecture.cutoff)
    away = potential.architecture(graph, None).node_energy
    change, scale = (short[0] - short[1]).abs().max(), (short[0] - away).abs().max()
    # levelled(u) from u = 4.4 to 6.9: 1 - 1/(4 u^4)
    assert float(change) < 0.01 * float(scale)


def test_imported_and_old_models_have_no_wall():
    potential = tiny_potential()
    assert potential.contacts is None
    data = potential.config.to_dict()
    assert "wall" not in data
    assert "inner_cutoff" not in data["architecture"]
    assert "charge_limits" not in data["long_range"]


# -- local state

SATURATED = ("H2O", "CH4", "NH3", "CH3OH", "HCl", "N2H4")


@pytest.mark.parametrize("name", SATURATED)
def test_closed_shells_see_no_state_whatever_the_weights(name):
    found = _found(_model(), molecule(name))
    assert not found["states"].charges.any()
    assert not found["states"].spins.any()
    # and the energy is that of the model without a state
    without = _model()
    without.local_state = None
    without.config = replace(without.config, local_state=False)
    graph = make_graph(molecule(name), without.architecture.cutoff)
    assert float(without(graph, ["energy"])["energy"]) == float(found["energy"])


def test_liquids_of_closed_shells_see_no_state():
    box = molecule("H2O", cell=[3.1, 3.1, 3.1], pbc=True) * (2, 2, 2)
    assert not _found(_model(), box)["states"].charges.any()


PAIRS = {
    "water, ammonia": ("H2O", 0, 1, "NH3", 0, 1),
    "ammonium, water": ("NH4", 1, 1, "H2O", 0, 1),
    "hydroxide, methane": ("OH", -1, 1, "CH4", 0, 1),
    "methyl, water": ("CH3", 0, 2, "H2O", 0, 1),
    "triplet oxygen, water": ("O2", 0, 3, "H2O", 0, 1),
    "chloride, methanol": ("Cl", -1, 1, "CH3OH", 0, 1),
}


def _part(name):
    special = {"NH4": _ammonium, "Cl": lambda: Atoms("Cl")}
    return special[name]() if name in special else molecule(name)


@pytest.mark.parametrize("make", [_model, _aimnet2])
@pytest.mark.parametrize("case", PAIRS)
def test_far_fragments_are_independent_of_each_other_for_any_weights(case, make):
    a, qa, sa, b, qb, sb = PAIRS[case]
    potential = make()
    first, second = _part(a), _part(b)
    second.positions += [200.0, 0.0, 0.0]
    both = first + second
    apart = [_found(potential, x, q, s) for x, q, s in ((first, qa, sa), (second, qb, sb))]
    joined = _found(potential, both, qa + qb, sa + sb - 1)
    # full atoms have a thousandth of the weight of an open one, times e^w of random w; random
    # weights make some ten eV of one charge
    leak = float(joined["charges"][: len(first)].sum()) - qa
    assert abs(leak) < 0.02
    difference = float(joined["energy"] - apart[0]["energy"] - apart[1]["energy"])
    coulomb = COULOMB_CONSTANT * qa * qb / 200.0
    exact = qa == qb == 0 and sa == sb == 1
    assert difference == pytest.approx(coulomb, abs=1e-9 if exact else 0.2)


def test_charges_of_passes_are_local_only_where_a_state_says_where_they_are():
    potential = _aimnet2()
    architecture = dict(potential.config.architecture) | {"local_charges": False}
    shared = Potential(replace(potential.config, architecture=architecture)).to(torch.float64)
    shared.load_state_dict(potential.state_dict())
    far = molecule("H2O")
    far.positions += [200.0, 0.0, 0.0]
    for model, leaks in ((shared, True), (potential, False)):
        alone = _found(model, _ammonium(), 1)["energy"] + _found(model, molecule("H2O"))["energy"]
        joined = _found(model, _ammonium() + far, 1)["energy"]
        assert (abs(float(joined - alone)) > 1e-3) is leaks
    # the redesign gives the same model
    redesigned = Redesign(local_charges=True).of(shared)
    both = (_found(model, _ammonium(), 1)["energy"] for model in (potential, redesigned))
    torch.testing.assert_close(*both, rtol=0.0, atol=0.0)
    with pytest.raises(ConfigError, match="`local_charges` needs an architecture that carries"):
        Redesign(local_charges=True).of(_model())
    with pytest.raises(ConfigError, match="`architecture.local_charges` must be false without"):
        replace(potential.config, local_state=False)


def test_single_molecules_keep_their_energies_when_charges_become_local():
    potential = _aimnet2()
    architecture = dict(potential.config.architecture) | {"local_charges": False}
    shared = Potential(replace(potential.config, architecture=architecture)).to(torch.float64)
    shared.load_state_dict(potential.state_dict())
    for atoms, charge in ((molecule("CH3CONH2"), 0), (_ammonium(), 1)):
        before, after = (_found(m, atoms, charge)["energy"] for m in (shared, potential))
        torch.testing.assert_close(after, before, rtol=0.0, atol=1e-6)  # the floor of weights


def test_strong_bonds_lose_their_charge_over_a_longer_way():
    """A pair of C, N, O is joined up to ``join_until``; molecules at rest are as before."""
    potential = _aimnet2()
    longer = Redesign(join_until=1.85).of(potential)
    assert longer.config.architecture["join_until"] == 1.85
    assert "join_until" not in potential.config.to_dict()["architecture"]
    assert longer.config.to_dict()["architecture"]["join_until"] == 1.85
    for atoms in (molecule("CH3CONH2"), molecule("CH3OH")):
        energies = [_found(m, atoms)["energy"] for m in (potential, longer)]
        torch.testing.assert_close(*energies, rtol=0.0, atol=1e-12)
    # a bond in its middle is another one; far apart both are none
    for x, differs in ((1.2, False), (1.6, True), (1.9, False)):
        pair = _diatomic(6, 8, x * (covalent_radii[6] + covalent_radii[8]))
        old, new = (float(_found(m, pair)["energy"]) for m in (potential, longer))
        assert (abs(old - new) > 1e-9) is differs


@pytest.mark.parametrize(("first", "second", "end"), [(6, 8, 1.85), (1, 6, 1.55), (6, 17, 1.55)])
def test_how_far_atoms_are_joined(first, second, end):
    """Whole up to 1.25 of the sum of covalent radii, half in the middle, none from the end on."""
    shares = torch.tensor([1.0, 1.25, 0.5 * (1.25 + end), end, 1.9], dtype=torch.float64)
    n = len(shares)
    pairs = ClosePairs(
        distance=shares * (covalent_radii[first] + covalent_radii[second]),
        first=torch.arange(n),
        second=torch.arange(n) + n,
        z=torch.tensor([first] * n + [second] * n),
    )
    found = Elements().joined(pairs, 100.0, 1.85)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0], dtype=torch.float64))
    before = Elements().joined(pairs, 100.0)
    torch.testing.assert_close(before, Elements().close(pairs.distance, pairs))


def test_join_until_is_refused_where_it_means_nothing():
    potential = _aimnet2()
    with pytest.raises(ConfigError, match=r"`architecture.join_until` must be null, or with"):
        Redesign(join_until=2.5).of(potential)
    with pytest.raises(ConfigError, match="`join_until` needs `architecture.local_charges`"):
        Redesign(join_until=1.7).of(_model())


def test_forces_are_derivatives_where_strong_bonds_come_apart():
    longer = Redesign(join_until=1.85).of(_aimnet2())
    atoms = molecule("CH3OH")
    axis = atoms.positions[1] - atoms.positions[0]
    atoms.positions[[1, 3]] += 0.45 * axis / np.linalg.norm(axis)
    forces = _found(longer, atoms)["forces"]
    for atom in (0, 1):
        values = []
        for step in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.positions[atom] += step * axis
            values.append(float(_found(longer, moved)["energy"]))
        slope = -(values[0] - values[1]) / 2e-4
        assert float(forces[atom] @ torch.as_tensor(axis)) == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("make", [_model, _aimnet2])
def test_a_hydrogen_bond_of_an_ion_takes_no_charge_away(make):
    """Chloride keeps its guess beside water as close as 1.7 A; molecules at rest are as before."""
    potential = make()
    shared = Redesign(shared_protons=True).of(potential)
    assert shared.config.to_dict()["shared_protons"]
    assert "shared_protons" not in potential.config.to_dict()
    for atoms, charge in ((molecule("CH3OH"), 0), (_ammonium(), 1)):
        energies = [_found(m, atoms, charge)["energy"] for m in (potential, shared)]
        torch.testing.assert_close(*energies, rtol=0.0, atol=1e-6)
    alone, guesses = float(_found(shared, Atoms("Cl"), -1)["states"].guess), []
    for model in (potential, shared):
        atoms = molecule("H2O")
        along = atoms.positions[1] - atoms.positions[0]
        atoms += Atoms("Cl", [atoms.positions[1] + 1.7 * along / np.linalg.norm(along)])
        found = _found(model, atoms, -1)
        guesses.append(float(found["states"].guess[3]))
        values = []
        for step in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.positions[1] += [step, 0.0, 0.0]
            values.append(float(_found(model, moved, -1)["energy"]))
        assert float(found["forces"][1, 0]) == pytest.approx(
            -(values[0] - values[1]) / 2e-4, abs=1e-5
        )
    # in proportion to its openness, which is nearly whole
    assert guesses == pytest.approx([0.0, alone], abs=5e-3)
    assert abs(alone) > 0.1
    with pytest.raises(ConfigError, match="`shared_protons` must be left out without"):
        Redesign(shared_protons=True).of(tiny_potential())


def test_the_local_state_can_be_bounded():
    """Less charge on an atom, and less leaks to molecules whose bonds are full."""
    potential = _model()
    bounded = Redesign(state_charge=2.0, full_weight=2e-5).of(potential)
    assert {"state_charge", "full_weight"}.isdisjoint(potential.config.to_dict())
    assert bounded.config.to_dict()["state_charge"] == 2.0
    assert bounded.config.to_dict()["full_weight"] == 2e-5
    energies = [_found(m, molecule("CH3OH"))["energy"] for m in (potential, bounded)]
    torch.testing.assert_close(*energies, rtol=0.0, atol=0.0)
    far = molecule("CH4")
    far.positions += [100.0, 0.0, 0.0]
    leaks = [
        float(_found(m, molecule("C2H4") + far, 1, 2)["states"].charges[6:].sum())
        for m in (potential, bounded)
    ]
    assert leaks[0] > 1e-5
    assert leaks[1] == pytest.approx(0.1 * leaks[0], rel=0.1)
    # three electrons fewer than the nuclei of two atoms ask for
    charges = [_found(m, _diatomic(1, 8, 1.0), 3)["states"].charges for m in (potential, bounded)]
    # both are given and taken near zero, where what is missing is divided smoothly
    assert float(charges[1].abs().max()) < 2.01 < float(charges[0].abs().max())
    for found in charges:
        assert float(found.sum()) == pytest.approx(3.0, abs=1e-6)
    assert constants_of(2.0, None).max_guess == 1.5
    with pytest.raises(ConfigError, match=r"`full_weight` must be null, or in \(0, 0.01\]"):
        Redesign(full_weight=0.5).of(potential)
    with pytest.raises(ConfigError, match=r"`state_charge` must be null, or in"):
        Redesign(state_charge=2.0).of(tiny_potential())


def test_what_a_head_adds_to_carried_charges_is_limited():
    potential = _aimnet2(long_range=LongRangeConfig(head="carried"))
    topped = with_head(potential, "edge")
    with torch.no_grad():
        for parameter in topped.charge_head.transfers.parameters():
            parameter.copy_(30.0 * torch.randn_like(parameter))
    limited = with_charge_limits(topped)
    graph = make_graph(molecule("CH3CONH2"), topped.architecture.cutoff)
    limits = limited.charge_limits[topped.element_row[graph.atomic_numbers]]
    for model, is_within in ((topped, False), (limited, True)):
        terms = model.energy_terms(graph)
        moved = terms.charges - terms.carried.charges
        assert bool((moved.abs() <= limits).all()) is is_within
        assert float(terms.charges.sum()) == pytest.approx(0.0, abs=1e-6)


def _strong(scale, **options):
    """A small AIMNet2 with limits of charges, whose passes move charges by more or less."""
    potential = _aimnet2(
        long_range=LongRangeConfig(head="carried", charge_limits=LIMITS), **options
    )
    with torch.no_grad():
        for network in potential.architecture.passes[:-1]:
            last = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
            last.weight[0] *= scale
            last.bias[0] *= scale
    return potential


@pytest.mark.parametrize(("scale", "is_beyond"), [(0.1, False), (60.0, True)])
def test_carried_charges_level_off_and_keep_their_sum(scale, is_beyond):
    potential = _strong(scale)
    atoms = molecule("CH3CONH2")
    atoms += Atoms("Cl", [[0.0, 0.0, 4.0]])
    graph = make_graph(atoms, potential.architecture.cutoff, total_charge=-1)
    limits = potential.charge_limits[potential.element_row[graph.atomic_numbers]]
    with torch.no_grad():
        terms = potential.energy_terms(graph)
    raw, charges = terms.carried.charges, terms.charges
    assert bool((raw.abs() > limits).any()) is is_beyond
    assert bool((charges.abs() <= limits * (1.0 + 1e-9)).all())
    assert float(charges.sum()) == pytest.approx(float(raw.sum()), abs=1e-9)
    if not is_beyond:
        torch.testing.assert_close(charges, raw, rtol=0.0, atol=1e-12)
    # another model without limits is as it was
    free = Potential(replace(potential.config, long_range=LongRangeConfig(head="carried"))).to(
        torch.float64
    )
    free.load_state_dict(potential.state_dict())
    with torch.no_grad():
        assert torch.equal(free.energy_terms(graph).charges, raw)


@pytest.mark.parametrize("scale", [0.1, 60.0])
def test_energies_of_limited_carried_charges_have_their_forces(scale):
    potential = _strong(scale)
    atoms = molecule("CH3CONH2")
    atoms.rattle(0.02, seed=3)
    forces = _found(potential, atoms)["forces"]
    for atom, axis in ((0, 0), (3, 1), (7, 2)):
        sides = []
        for step in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.positions[atom, axis] += step
            sides.append(float(_found(potential, moved)["energy"]))
        slope = (sides[0] - sides[1]) / 2e-4
        assert float(forces[atom, axis]) == pytest.approx(-slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("has_edges", [False, True])
def test_born_charges_of_limited_carried_charges_are_differences(has_edges):
    """Against finite differences: the shares depend on the whole cell, one number at a time."""
    potential = _strong(60.0)
    if has_edges:
        potential = with_head(potential, "edge")
        with torch.no_grad():
            potential.charge_head.transfers.out.normal_(std=0.3)
    box = molecule("CH3OH", cell=[4.5, 4.4, 4.6], pbc=True)
    born, reference = _crystal_born(potential, box)
    np.testing.assert_allclose(born, reference, rtol=1e-5, atol=1e-7)


def test_forces_of_a_molecule_that_comes_apart_are_the_slope_of_its_energy():
    potential, reach = _aimnet2(), float(covalent_radii[8] + covalent_radii[1])
    water = molecule("H2O")
    along = water.positions[1] - water.positions[0]
    along /= np.linalg.norm(along)

    def at(distance):
        atoms = water.copy()
        atoms.positions[1] = atoms.positions[0] + distance * along
        graph = make_graph(atoms, potential.architecture.cutoff)
        return potential(graph, ["energy", "forces"])

    for x in (1.26, 1.3, 1.4, 1.5, 1.54):
        h = 1e-6
        force = float(at(x * reach)["forces"][1] @ torch.from_numpy(along))
        energies = [float(at(x * reach + k * h)["energy"]) for k in (-1, 1)]
        assert force == pytest.approx(-(energies[1] - energies[0]) / (2 * h), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("pair", [(8, 1), (6, 17), (11, 8), (53, 53)])
def test_molecules_end_within_the_cutoff(pair):
    reach, cutoff = float(covalent_radii[list(pair)].sum()), 4.0

    def joined(distance):
        close = ClosePairs(
            distance=torch.tensor(distance, dtype=torch.float64),
            first=torch.zeros(len(distance), dtype=torch.int64),
            second=torch.ones(len(distance), dtype=torch.int64),
            z=torch.tensor(pair),
        )
        return Elements().joined(close, cutoff)

    bonded, apart = joined([1.2 * reach])[0], joined([1.56 * reach, cutoff, cutoff + 0.1])
    assert float(bonded) == 1.0
    assert not apart.any()
    # no jump anywhere
    distance = np.linspace(0.5, 5.0, 2001)
    assert float(joined(distance).diff().abs().max()) < 0.02


@pytest.mark.parametrize("make", [_model, _aimnet2, lambda: _strong(60.0)])
@pytest.mark.parametrize("charge", [0, 1])
def test_recorded_steps_with_a_local_state_are_the_model(make, charge):
    potential, rng = make(), np.random.default_rng(1)
    step = RepeatedStep(potential, 0.6)
    atoms = _ammonium() if charge else molecule("NH3")
    other = molecule("CH3OH")
    other.positions += [0.0, 0.0, 4.0]
    atoms += other
    for _ in range(8):
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        structure = to_structure(atoms, total_charge=charge)
        got = step(structure, ("energy", "forces", "charges"))
        graph = build_graph(structure, potential.architecture.cutoff)
        for name, value in potential(graph, ("energy", "forces", "charges")).items():
            torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-9)
    planned = step._step
    assert planned is not None
    assert planned.is_recorded


def test_born_charges_of_a_liquid_reach_across_its_molecules():
    potential = _aimnet2()
    box = molecule("CH3OH", cell=[4.5, 4.4, 4.6], pbc=True)
    extra = potential.architecture.extra_reach(make_graph(box, potential.architecture.cutoff))
    widest = box.get_all_distances().max()
    assert extra == pytest.approx(2 * widest)
    born, reference = _crystal_born(potential, box)
    np.testing.assert_allclose(born, reference, rtol=1e-5, atol=1e-7)


def test_born_charges_of_bonds_without_end_are_refused():
    potential = _aimnet2()
    graph = make_graph(bulk("C", cubic=True), potential.architecture.cutoff)
    with pytest.raises(PropertyError, match="go on through its cell"):
        potential(graph, ["born_effective_charges"])


def test_the_physics_of_models_that_share_along_bonds_is_checked_on_molecules():
    """`lesff verify --physics` ended with an error at the first crystal."""
    smooth = LongRangeConfig(head="edge", readout_hidden=4, charge_limits=LIMITS, cutoff="smooth")
    checks = list(check_physics(_aimnet2(long_range=smooth)))
    assert all(check.ok for check in checks)
    born = {c.structure: c.note for c in checks if c.quantity == "Born charges"}
    assert born == {
        "molecule": "",
        "triclinic": "bonds go on through the cell",
        "left-handed": "bonds go on through the cell",
        "molecules": "",
    }


def test_ions_of_opposite_charge_keep_theirs_where_the_guess_says_so():
    potential = _model()
    with torch.no_grad():
        for parameter in (potential.local_state.out, potential.local_state.element):
            parameter.zero_()
        # what training would say: +1 for an open nitrogen, -1 for an open chlorine
        potential.local_state.element[ELEMENTS.index(7), 0] = 1.0
        potential.local_state.element[ELEMENTS.index(17), 0] = -1.0
    pair = _ammonium() + Atoms("Cl", [[0.0, 0.0, 30.0]])
    states = _found(potential, pair)["states"]
    expected = torch.tensor([-1.0 * (z == 17) + (z == 7) for z in pair.numbers]).double()
    assert torch.equal(states.charges, expected)
    # the same beside water, and the dipole is that of two charges
    far = molecule("H2O")
    far.positions += [0.0, 40.0, 0.0]
    assert torch.equal(_found(potential, pair + far)["states"].charges[: len(pair)], expected)


@pytest.mark.parametrize("head", ANY_HEADS)
def test_forces_go_through_state_limits_and_wall(head):
    potential = _model(head)
    atoms = molecule("H2O") + _ammonium()
    atoms.positions[3:] += [0.0, 1.3, 1.5]
    graph = make_graph(atoms, potential.architecture.cutoff, total_charge=1)
    forces = potential(graph, ["forces"])["forces"]
    step = 1e-5
    for k, i in ((0, 1), (1, 2), (3, 0), (5, 2)):
        energies = []
        for sign in (1.0, -1.0):
            moved = atoms.copy()
            moved.positions[k, i] += sign * step
            energies.append(float(_found(potential, moved, 1)["energy"]))
        slope = (energies[0] - energies[1]) / (2 * step)
        assert float(forces[k, i]) == pytest.approx(-slope, rel=1e-5, abs=1e-6)


def test_parameter_gradients_of_forces_go_through_all_parts():
    potential = _model().requires_grad_(requires_grad=True)
    graph = make_graph(_ammonium(), potential.architecture.cutoff, total_charge=1)
    results = potential(graph, ["energy", "forces"], create_graph=True)
    (results["forces"] ** 2).sum().backward()
    for name in ("hidden", "out", "element", "table", "mix"):
        grad = getattr(potential.local_state, name).grad
        assert grad is not None
        assert bool(grad.isfinite().all()), name
        assert bool(grad.any()), name


def test_planned_steps_give_the_same():
    potential = _model()
    atoms = _ammonium() + molecule("H2O")
    atoms.positions[5:] += [0.0, 0.0, 3.0]
    graph = make_graph(atoms, potential.architecture.cutoff + 0.5, total_charge=1)
    planned = potential(graph, ["energy", "forces"], plan=potential.plan(graph))
    exact = _found(potential, atoms, 1)
    for name in ("energy", "forces"):
        torch.testing.assert_close(planned[name], exact[name], rtol=1e-10, atol=1e-10)


def test_a_state_needs_two_layers():
    with pytest.raises(ConfigError, match="n_layers"):
        _model(n_layers=1)


def test_one_input_for_charge_and_spin():
    with pytest.raises(ConfigError, match="exclude each other"):
        _model(state_embedding=True)


def test_transfers_start_from_one_kind_of_charges():
    config = _model().config
    long_range = replace(config.long_range, reference_charges=(0.0,) * len(ELEMENTS))
    with pytest.raises(ConfigError, match="exclude each other"):
        replace(config, long_range=long_range)


def test_limits_are_one_per_element():
    with pytest.raises(ConfigError, match="charge_limits"):
        _model(limits=(1.0, 2.0))


# -- older models


def test_neutral_energies_of_a_model_stay_when_its_state_becomes_local():
    old = tiny_potential(head="fukui", state_embedding=True, elements=ELEMENTS)
    new = with_local_state(old)
    assert isinstance(new.local_state, LocalState)
    assert new.state_embedding is None
    for name in ("CH3CONH2", "CH3COCl", "H2O"):
        graph = make_graph(molecule(name), old.architecture.cutoff)
        for key, value in old(graph, ["energy", "forces", "charges"]).items():
            assert torch.equal(new(graph, [key])[key], value)


def test_limits_and_walls_are_added_to_a_model():
    old = tiny_potential(head="fukui", elements=ELEMENTS)
    atoms = molecule("CH3CONH2")
    limited = with_charge_limits(old)
    assert limited.config.long_range.charge_limits == LIMITS
    walled = with_wall(old)
    assert walled.config.wall == "zbl"
    assert walled.architecture.inner_cutoff.start == 0.75
    # bonds of C and H are shorter than the sum of radii, and the wall is positive there
    before, after = (_found(p, atoms)["energy"] for p in (old, walled))
    assert 0.0 < float(after - before) < 5.0
    fresh = with_head(old, "edge", fresh=True)
    assert fresh.config.long_range.head == "edge"
    assert not fresh.config.long_range.bases
    assert fresh.charge_head.base is None
    design = Redesign(
        local_state=True, wall="zbl", fresh_head="edge", transfer_layers="all", bounded_charges=True
    )
    new = design.of(old)
    config = new.config
    # of both layers, each as wide as what the readouts of the last one take
    assert config.long_range.transfer_layers == "all"
    one = with_fresh_head(old, "edge").charge_head.transfers.sender.weight.shape
    assert new.charge_head.transfers.sender.weight.shape == (one[0], 2 * one[1])
    assert config.local_state
    assert config.wall == "zbl"
    assert config.long_range.head == "edge"
    assert config.long_range.charge_limits == LIMITS


@pytest.mark.skipif(kernels.backend(torch.zeros(1)) is None, reason="no compiled kernels here")
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_compiled_shares_are_those_of_pytorch(scale):
    """Far from the limits, and with most charges at them."""
    g = torch.Generator().manual_seed(3)
    batch = torch.tensor([0] * 7 + [1] * 5 + [2])
    n = len(batch)
    p = scale * torch.randn(n, generator=g, dtype=torch.float64)
    weights = 0.1 + torch.rand(n, generator=g, dtype=torch.float64)
    totals = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    limits = 0.8 + torch.rand(n, generator=g, dtype=torch.float64)
    factors = torch.linspace(0.3, 1.7, n, dtype=torch.float64)
    found = []
    for function in (shared_within, lambda *x: plain_shares(_share_inputs(*x))):
        inputs = [x.clone().requires_grad_() for x in (p, weights, totals)]
        charges, potential = function(*inputs, limits, batch)
        total = (charges * factors).sum() + potential @ potential.new_tensor([0.2, 0.5, -0.4])
        found.append((charges, potential, *torch.autograd.grad(total, inputs)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    sums = torch.zeros(3, dtype=torch.float64).index_add(0, batch, found[0][0].detach())
    torch.testing.assert_close(sums, totals, rtol=0, atol=1e-12)
    assert bool((found[0][0].abs() <= limits).all())
    assert bool((found[0][0].abs() > 0.8 * limits).any()) is (scale > 1.0)
    function = lambda *x: shared_within(*x, limits, batch)  # noqa: E731
    inputs = [x.clone().requires_grad_() for x in (p, weights, totals)]
    assert torch.autograd.gradcheck(function, inputs)


def _share_inputs(p, weights, totals, limits, batch):
    return ShareInputs(
        p=p, weights=weights, totals=totals, limits=limits, batch=batch,
        n_steps=6, least=0.05, tiny=1e-6,
    )  # fmt: skip


def test_an_inner_wall_leaves_pretrained_energies():
    """Where no pair is below the inner cutoff; below it energies rise, whatever the weights."""
    old = tiny_potential(head="latent", elements=ELEMENTS)
    new = with_wall(old, wall="zbl-inner", energy_floor=None)
    graph = make_graph(molecule("H2O"))
    before, after = (float(p(graph, ["energy"])["energy"]) for p in (old, new.eval()))
    assert after == pytest.approx(before, abs=1e-10)
    energies = []
    for share in np.linspace(0.55, 0.33, 15):
        pair = Atoms("OH", [[0, 0, 0], [0, 0, share * 0.97]])
        energies.append(float(new(make_graph(pair), ["energy"])["energy"]))
    assert np.diff(energies).min() > 0.0
    assert new.contacts.crowding > 0.0
    solid = with_wall(old, wall="zbl-inner", energy_floor=None, crowding=False)
    assert solid.eval().contacts.crowding == 0.0
    with pytest.raises(ConfigError, match="`crowding` must be left out without `wall`"):
        replace(old.config, crowding=False)
    with pytest.raises(ConfigError, match="`wall` must not be 'zbl-inner' without"):
        replace(new.config, architecture=old.config.architecture)


@pytest.mark.parametrize("changes", [{}, {"inner_cutoff": 0.6}, {"transfer_layers": "all"}])
def test_redesigns_without_effect_are_refused(changes):
    with pytest.raises(ConfigError, match="redesign"):
        Redesign(**changes)


def test_pretrained_weights_of_the_trunk_survive_a_redesign():
    old = tiny_potential(head="fukui", state_embedding=True, elements=ELEMENTS)
    design = Redesign(local_state=True, wall="zbl", fresh_head="edge", bounded_charges=True)
    new, before = design.of(old).state_dict(), old.state_dict()
    kept = [name for name in before if name.startswith("architecture.")]
    assert kept
    assert all(torch.equal(new[name], before[name]) for name in kept)


@pytest.mark.parametrize("charge", [0, 1])
def test_the_sum_rule_of_crystals_holds_within_limits(charge):
    """Sum of Z* = Q (Pick, Cohen, Martin, PRB 1, 910 (1970)), where limits bind.

    Within limits a transfer depends on what its neighbours take and give altogether.
    """
    limits = tuple(0.02 for _ in ELEMENTS)
    potential = _scaled(_model(limits=limits, local_state=False), 3.0)
    graph = make_graph(triclinic_ice(), total_charge=charge)
    with torch.no_grad():
        free = _scaled(_model(limits=None, local_state=False), 3.0).energy_terms(graph).charges
        bound = potential.energy_terms(graph).charges
    assert float((free - bound).abs().max()) > 0.01  # limits bind
    born = potential(graph, ["born_effective_charges"])["born_effective_charges"]
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(born.sum(0), charge * eye, rtol=0, atol=1e-10)


def test_more_charge_than_atoms_can_hold_is_refused():
    config = _model().config
    for state, text in (
        ({"total_charge": -4}, "total_charge -4"),
        ({"spin_multiplicity": 10}, "9 unp"),
    ):
        structures = [to_structure(Atoms("Cl"), **state)]
        with pytest.raises(UnsupportedInputError, match=text):
            check_domain(config, structures, strict=False, quiet=True)
    check_domain(config, [to_structure(Atoms("Cl"), total_charge=3)], strict=False, quiet=True)
