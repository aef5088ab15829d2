"""Close pairs and local states: the compiled library against plain PyTorch, and their limits."""

import math
from dataclasses import replace

import pytest
import torch
from ase.data import covalent_radii

from lesff import kernels
from lesff.kernels import StateInputs
from lesff.nn.contacts import (
    CROWDING,
    SHARING_WIDTH,
    VALENCES,
    ClosePairs,
    Contacts,
    InnerCutoff,
    plain_bonds,
    plain_count,
    plain_excess,
    plain_inner,
    plain_shared_count,
)
from lesff.nn.local_state import CONSTANTS, plain_states, staircase

compiled = pytest.mark.skipif(
    kernels.backend(torch.zeros(1)) is None, reason="no compiled kernels here"
)


def _pairs(seed: int = 0, n_atoms: int = 30, n_pairs: int = 60) -> ClosePairs:
    g = torch.Generator().manual_seed(seed)
    known = torch.tensor([1, 5, 6, 7, 8, 9, 11, 15, 16, 17, 53])
    z = known[torch.randint(len(known), (n_atoms,), generator=g)]
    first = torch.randint(n_atoms, (n_pairs,), generator=g)
    second = (first + 1 + torch.randint(n_atoms - 1, (n_pairs,), generator=g)) % n_atoms
    distance = 0.2 + 3.0 * torch.rand(n_pairs, generator=g, dtype=torch.float64)
    return ClosePairs(distance=distance, first=first, second=second, z=z)


COUNTS = (plain_count, plain_shared_count)


def _fields(found):
    return found.wall, found.openness, found.bonded, found.lacks


@compiled
@pytest.mark.parametrize("shares_protons", [False, True])
@pytest.mark.parametrize(
    ("has_wall", "wall_from", "stiffness"),
    [(True, 0.0, 0.0), (True, 0.75, 0.0), (True, 0.75, 300.0), (False, 0.0, 0.0)],
)
def test_compiled_contacts_are_those_of_pytorch(has_wall, wall_from, stiffness, shares_protons):
    # as many pairs as it takes for some atoms to be crowded
    pairs = _pairs(n_pairs=150)
    contacts = Contacts(
        has_wall=has_wall,
        wall_from=wall_from,
        wall_stiffness=stiffness,
        shares_protons=shares_protons,
    ).eval()
    if shares_protons:
        whole, shared = (f(pairs.distance, pairs, contacts.elements) for f in COUNTS)
        assert float((whole - shared).max()) > 0.5
    weight = torch.linspace(0.5, 1.5, len(pairs.z), dtype=torch.float64)
    found, slopes = [], []
    for is_fused in (True, False):
        r = pairs.distance.clone().requires_grad_()
        out = (
            _fields(contacts(replace(pairs, distance=r))) if is_fused else contacts.plain(r, pairs)
        )
        total = sum((y * weight.roll(k)).sum() for k, y in enumerate(out[:3]) if len(y))
        found.append(torch.stack([y for y in out if len(y)]).detach())
        slopes.append(torch.autograd.grad(total, r)[0])
    assert found[0].abs().max() > 0.5
    if has_wall:
        excess = plain_excess(plain_count(r, pairs, contacts.elements), pairs, contacts.elements)
        assert float(excess.detach().max()) > 0.5
    # the same formulas in another order of operations
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shares_protons", [False, True])
@pytest.mark.parametrize(("wall_from", "stiffness"), [(0.0, 0.0), (0.75, 0.0), (0.75, 300.0)])
def test_contacts_have_second_derivatives(wall_from, stiffness, shares_protons):
    pairs = _pairs(n_atoms=6, n_pairs=8)
    contacts = Contacts(
        has_wall=True,
        wall_from=wall_from,
        wall_stiffness=stiffness,
        shares_protons=shares_protons,
    ).eval()
    r = pairs.distance.clone().requires_grad_()

    def function(x):
        return _fields(contacts(replace(pairs, distance=x)))[:3]

    assert torch.autograd.gradcheck(function, (r,))
    assert torch.autograd.gradgradcheck(function, (r,))


def _line(middle: float, length: float, ends: tuple[int, int]) -> ClosePairs:
    """A hydrogen between two atoms, all on a line."""
    r = torch.tensor([middle, length - middle, length], dtype=torch.float64)
    i, j = torch.tensor([0, 2, 0]), torch.tensor([1, 1, 2])
    return ClosePairs(distance=r, first=i, second=j, z=torch.tensor([ends[0], 1, ends[1]]))


def test_a_proton_is_one_bond_wherever_it_is():
    """Of the one it is at, of both halfway; ratio e^(d / w) of the shares between."""
    elements = Contacts(has_wall=False).elements
    oxygen, hydrogen, chlorine = (float(covalent_radii[z]) for z in (8, 1, 17))
    # water and chloride at the end of the check of contacts: 0.96 and 1.7 A
    pairs = _line(0.96, 2.66, (8, 17))
    whole, shared = (f(pairs.distance, pairs, elements) for f in COUNTS)
    apart = 1.7 / (chlorine + hydrogen) - 0.96 / (oxygen + hydrogen)
    assert whole[1] == pytest.approx(2.0, abs=0.05)
    bond = float(elements.close(pairs.distance, pairs)[1])
    ratio = bond * math.exp(-apart / SHARING_WIDTH)
    assert float(shared[2]) == pytest.approx(bond * ratio / (1.0 + ratio), rel=1e-6)
    assert 0.1 < float(shared[2]) < 0.2
    assert float(shared[0]) == pytest.approx(1.0 / (1.0 + ratio), rel=1e-6)
    # in the middle of two oxygens, 1.2 A from both
    pairs = _line(1.2, 2.4, (8, 8))
    shared = plain_shared_count(pairs.distance, pairs, elements)
    assert shared[[0, 2]].tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    # far from the other nothing is shared
    pairs = _line(0.96, 3.5, (8, 17))
    whole, shared = (f(pairs.distance, pairs, elements) for f in COUNTS)
    assert shared.tolist() == pytest.approx(whole.tolist(), abs=1e-8)


def test_inner_cutoff_is_the_identity_above_its_start_and_has_second_derivatives():
    pairs = _pairs(n_pairs=40)
    inner = InnerCutoff(0.75)
    radius = torch.tensor(covalent_radii)[pairs.z]
    share = pairs.distance / (radius[pairs.first] + radius[pairs.second])
    got = inner(pairs)
    assert torch.equal(got[share >= 0.75], pairs.distance[share >= 0.75])
    assert bool((got[share < 0.75] > pairs.distance[share < 0.75]).all())
    # start - width: the shortest distance that is ever seen
    assert bool((got / (radius[pairs.first] + radius[pairs.second]) > 0.75 - 0.08).all())
    plain = plain_inner(pairs.distance, pairs, inner.elements, 0.75)
    torch.testing.assert_close(got, plain, rtol=1e-14, atol=0)
    r = pairs.distance.clone().requires_grad_()

    def function(x):
        return inner(replace(pairs, distance=x))

    assert torch.autograd.gradcheck(function, (r,))
    assert torch.autograd.gradgradcheck(function, (r,))


@pytest.mark.parametrize("is_fused", [pytest.param(True, marks=compiled), False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stiffness_is_a_spring_between_distances_and_those_that_level_off(is_fused, dtype):
    """k ((r' - r) / R)^2 of a pair, half of it for each atom; nothing at all from s R outwards."""
    radius = float(covalent_radii[11])
    share = torch.tensor([0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 1.0], dtype=dtype)
    n = len(share)
    pairs = ClosePairs(
        distance=2.0 * radius * share,
        first=torch.arange(n),
        second=n + torch.arange(n),
        z=torch.full((2 * n,), 11),
    )

    def wall(stiffness):
        contacts = Contacts(has_wall=True, wall_from=0.75, wall_stiffness=stiffness).eval()
        return contacts(pairs).wall if is_fused else contacts.plain(pairs.distance, pairs)[0]

    added = wall(400.0) - wall(0.0)
    assert torch.equal(added[:n], added[n:])
    assert not added[4:n].any()
    # u (1 + u^4)^(-1/4) in shares of w = 0.08
    u = (0.75 - share[:4].double()) / 0.08
    gap = 0.08 * (u - u * (1.0 + u**4) ** -0.25)
    expected = (0.5 * 400.0 * gap**2).to(dtype)
    torch.testing.assert_close(added[:4], expected, rtol=1e-5, atol=1e-5)


def test_inner_walls_begin_where_what_is_learned_levels_off():
    """Zero from there outwards, bit for bit, and as steep as the repulsion of the nuclei far in."""
    pairs = _pairs(n_pairs=40)
    radius = torch.tensor(covalent_radii)[pairs.z]
    reach = radius[pairs.first] + radius[pairs.second]
    whole, inner = (
        Contacts(has_wall=True, counts_bonds=False, wall_from=w).eval() for w in (0.0, 0.75)
    )
    for share in (0.75, 0.9, 1.1):
        assert not inner(replace(pairs, distance=share * reach)).wall.any()
    slopes = []
    for contacts in (whole, inner):
        r = (0.3 * reach).requires_grad_()
        (slope,) = torch.autograd.grad(contacts(replace(pairs, distance=r)).wall.sum(), r)
        slopes.append(slope)
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-2, atol=0)


def _energies_of_all_pairs(contacts: Contacts, shares: torch.Tensor) -> torch.Tensor:
    """(n_shares, n_pairs) walls in eV of all pairs of elements at shares of their radii."""
    elements = torch.tensor([z for z in range(1, 95) if covalent_radii[z] > 0])
    first, second = torch.combinations(torch.arange(len(elements)), with_replacement=True).T
    radius = torch.tensor(covalent_radii)[elements]
    reach = radius[first] + radius[second]
    # one pair of nuclei per structure of two atoms: energies of pairs are sums of their two halves
    z = torch.cat([elements[first], elements[second]])
    n = len(first)
    walls = []
    for share in shares:
        pairs = ClosePairs(
            distance=share * reach, first=torch.arange(n), second=n + torch.arange(n), z=z
        )
        wall = contacts(pairs).wall
        walls.append(wall[:n] + wall[n:])
    return torch.stack(walls)


def test_walls_rise_monotonically_for_all_pairs_of_elements():
    shares = torch.linspace(0.99, 0.1, 60, dtype=torch.float64)
    energies = _energies_of_all_pairs(Contacts(has_wall=True), shares)
    assert bool((energies.diff(dim=0) > 0.0).all())


def test_stiff_walls_rise_monotonically_for_all_pairs_of_elements():
    """From the inner cutoff inwards, where every pair is repelled by its nuclei alone at least."""
    shares = torch.linspace(0.74, 0.1, 60, dtype=torch.float64)
    soft, stiff = (
        _energies_of_all_pairs(
            Contacts(has_wall=True, counts_bonds=False, wall_from=0.75, wall_stiffness=k), shares
        )
        for k in (0.0, 200.0)
    )
    assert bool((stiff.diff(dim=0) > soft.diff(dim=0)).all())
    assert bool((soft.diff(dim=0) >= 0.0).all())
    # 200 (0.5 - (0.75 - 0.08))^2 at half of the radii, but for the width of levelling off
    half = int((shares - 0.5).abs().argmin())
    assert float((stiff - soft)[half].min()) == pytest.approx(200.0 * 0.17**2, rel=0.1)


def test_crowded_atoms_repel_and_known_structures_are_not_crowded():
    """E = C max(0, k - m)^2: four atoms on one hydrogen, m = 2 (hydrogen bonds, diborane)."""
    contacts = Contacts(has_wall=True).eval()
    z = torch.tensor([1, 6, 6, 6, 6])
    for count in (1, 2, 3, 4):
        first = torch.arange(1, count + 1)
        pairs = ClosePairs(
            distance=torch.full((count,), 1.2, dtype=torch.float64),  # 1.12 of the radii, no wall
            first=first,
            second=torch.zeros_like(first),
            z=z,
        )
        assert contacts(pairs).wall[0] == CROWDING * max(0, count - 2) ** 2
        # training goes without
        assert contacts.train()(pairs).wall[0] == 0.0
        contacts.eval()
    # bonds of textbooks: NH4+, BH4 bridges, sulfur of SF6, the bridgeheads of bicyclo[1.1.1]pentane
    for centre, n_bonds in ((7, 4), (5, 5), (16, 6), (6, 5)):
        assert contacts.elements.most[centre] >= n_bonds


# molecules of textbooks, bonds listed by hand: (numbers, bonds with lengths in A, open atoms)
MOLECULES = {
    "water": ([8, 1, 1], [(0, 1, 0.96), (0, 2, 0.96)], ()),
    "ammonia": ([7, 1, 1, 1], [(0, k, 1.01) for k in (1, 2, 3)], ()),
    "methane": ([6, 1, 1, 1, 1], [(0, k, 1.09) for k in (1, 2, 3, 4)], ()),
    "ammonium": ([7, 1, 1, 1, 1], [(0, k, 1.02) for k in (1, 2, 3, 4)], (0,)),
    "hydronium": ([8, 1, 1, 1], [(0, k, 0.98) for k in (1, 2, 3)], (0,)),
    "oxygen of ice X": ([8, 1, 1, 1, 1], [(0, k, 1.2) for k in (1, 2, 3, 4)], ()),
    "nitrogen in a crowd": ([7, 1, 1, 1, 1, 1], [(0, k, 1.25) for k in range(1, 6)], ()),
    "hydroxide": ([8, 1], [(0, 1, 0.97)], (0,)),
    "methyl": ([6, 1, 1, 1], [(0, k, 1.08) for k in (1, 2, 3)], (0,)),
    "hydrogen chloride": ([17, 1], [(0, 1, 1.27)], ()),
    "chloride": ([17], [], (0,)),
    "sodium chloride": ([11, 17], [(0, 1, 2.36)], (0, 1)),
    "hydrogen bond": ([8, 1, 1, 8], [(0, 1, 0.97), (0, 2, 0.96), (3, 1, 1.75)], (3,)),
}


@pytest.mark.parametrize("name", MOLECULES)
def test_electrons_are_counted(name):
    numbers, bonds, is_open = MOLECULES[name]
    z = torch.tensor(numbers)
    table = torch.tensor(bonds, dtype=torch.float64).reshape(-1, 3)
    pairs = ClosePairs(
        distance=table[:, 2], first=table[:, 0].long(), second=table[:, 1].long(), z=z
    )
    contacts = Contacts(has_wall=False)
    expected = torch.zeros(len(z), dtype=torch.float64)
    expected[list(is_open)] = 1.0
    # full atoms are closed exactly, open ones open exactly: small stretches change nothing
    assert torch.equal(contacts(pairs).openness, expected)
    count = plain_count(pairs.distance, pairs, contacts.elements)
    assert torch.equal(plain_bonds(count, pairs, contacts.elements)[0], expected)
    assert 11 not in VALENCES


def _state_inputs(
    scale: float = 1.0, *, given: bool = False, charges: tuple[float, ...] = (1.0, -2.0, 0.0)
) -> StateInputs:
    g = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    n, batch = 12, torch.tensor([0] * 5 + [1] * 4 + [2] * 3)
    openness = random(n)
    openness[::4] = 0.0
    return StateInputs(
        values=scale * (random(n, 4) - 0.5),
        base=scale * (random(n, 4) - 0.5),
        openness=openness,
        bonded=random(n),
        lacks=(random(n) > 0.3).double(),
        batch=batch,
        charge=torch.tensor(charges, dtype=torch.float64),
        unpaired=torch.tensor([1.0, 0.0, 20.0 if FULL in charges else 2.0], dtype=torch.float64),
        potentials=(20.0 if FULL in charges else 1.0) * random(3, 3) if given else None,
    )


INPUTS = ("values", "base", "openness", "bonded")
FULL = 13.0
"""Charge of five atoms that are near what they can hold."""


@compiled
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("charges", [(1.0, -2.0, 0.0), (FULL, -11.0, 0.0)])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_compiled_states_are_those_of_pytorch(given, scale, charges):
    x = _state_inputs(scale, given=given, charges=charges)
    fused = kernels.backend(x.values)
    found = fused.local_state(x, CONSTANTS)
    for got, expected in zip(found, plain_states(x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    leaves = [getattr(x, name).clone().requires_grad_() for name in INPUTS]
    results = plain_states(replace(x, **dict(zip(INPUTS, leaves, strict=True))))
    g = torch.Generator().manual_seed(2)
    grads = [torch.randn(y.shape, generator=g, dtype=torch.float64) for y in results]
    n_used = 4 if given else 5
    expected = torch.autograd.grad(results[:n_used], leaves, grads[:n_used])
    got = fused.local_state_backward(grads, x, found[-1], CONSTANTS)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def _sums(x: StateInputs, values: torch.Tensor) -> torch.Tensor:
    return torch.zeros(3, dtype=torch.float64).index_add(0, x.batch, values)


def test_states_sum_to_the_totals_and_neutral_closed_shells_have_none():
    x = _state_inputs()
    charges, spins, *_ = plain_states(x)
    torch.testing.assert_close(_sums(x, charges), x.charge, rtol=0, atol=1e-12)
    torch.testing.assert_close(_sums(x, spins), x.unpaired, rtol=0, atol=1e-12)
    # full atoms, and open ones of which nothing or little is read off
    zeros = torch.zeros(3, dtype=torch.float64)
    neutral = replace(x, charge=zeros, unpaired=zeros)
    for y in (
        replace(neutral, openness=torch.zeros_like(x.openness)),
        replace(neutral, values=0.1 * x.values, base=0.1 * x.base),
    ):
        charges, spins, *_ = plain_states(y)
        assert not charges.any()
        assert not spins.any()


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_no_atom_is_given_more_than_it_can_hold(scale):
    # weights of one system differ by e^18 and more
    x = _state_inputs(scale, charges=(FULL, -11.0, 0.0))
    charges, spins, *_ = plain_states(x)
    torch.testing.assert_close(_sums(x, charges), x.charge, rtol=0, atol=1e-9)
    torch.testing.assert_close(_sums(x, spins), x.unpaired, rtol=0, atol=1e-9)
    assert charges.abs().max() <= 4.0 + 0.05
    assert spins.abs().max() <= 8.0
    # a system that is far from any limit stays as it is, bit by bit
    ordinary = _state_inputs(scale)
    alone = plain_states(ordinary)
    mixed = plain_states(replace(ordinary, charge=torch.tensor([FULL, -2.0, 0.0]).double()))
    assert torch.equal(alone[0][5:], mixed[0][5:])


def test_derivatives_of_full_atoms():
    x = _state_inputs(3.0, charges=(FULL, -11.0, 0.0))
    leaves = [getattr(x, name).clone().requires_grad_() for name in INPUTS]

    def states(*given):
        return plain_states(replace(x, **dict(zip(INPUTS, given, strict=True))))[:2]

    assert torch.autograd.gradcheck(states, leaves, rtol=1e-4)
    assert torch.autograd.gradgradcheck(states, leaves, rtol=1e-3)


def test_staircase_is_flat_about_half_charges():
    x = torch.tensor([0.1, -0.12, 0.45, 0.6, -0.9, 1.12, 1.5], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.0, 0.5, 0.5, -1.0, 1.0, 1.5], dtype=torch.float64)
    assert torch.equal(staircase(x), expected)
    r = (1.5 * torch.randn(20, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(staircase, (r,))
    assert torch.autograd.gradgradcheck(staircase, (r,))
