"""``lesff.testing``: our own parts keep the contract, and so does one from outside; broken ones do
not, each for its reason."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from lesff.architectures import (
    ARCHITECTURES,
    MACE,
    AIMNet2,
    AIMNet2Config,
    Architecture,
    ArchitectureOutput,
    MACEConfig,
    NequIP,
    NequIPConfig,
)
from lesff.atoms.element_rows import element_rows
from lesff.atoms.graph import edge_vectors
from lesff.atoms.segments import segment_sum, shift_to_total
from lesff.errors import ContractError
from lesff.heads import HEADS, ChargeModel, HeadOutput, LongRangeConfig
from lesff.nn.edge_tables import build_topology
from lesff.testing import PROMISES, check_architecture, check_charge_head

TINY = {
    "cutoff": 3.2, "n_layers": 2, "max_ell": 2, "correlation": 2, "n_radial": 4,
    "radial_mlp": (8,), "readout_hidden": 4, "avg_num_neighbors": 4.0,
}  # fmt: skip
SMALL_AIMNET2 = {
    "cutoff": 3.2, "n_features": 3, "n_radial": 4, "n_vectors": 2,
    "hidden": ((6,), (6,)), "active_outputs": (False, True), "energy_hidden": (5,),
}  # fmt: skip
SLOW_CARRIED = [("carried", None), ("latent", 2.5)]
HEAD_KINDS = [(name, False) for name in HEADS if name != "carried"]
HEAD_KINDS += [
    pytest.param(name, True, marks=pytest.mark.slow)
    for name in HEADS
    if name not in ("latent", "shifted", "carried")
]
KEEP_THEIR_OWN_SUM = [("latent", False), ("edge", True)]
"""Free charges, and transfers on top of them."""


# --- ours --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", ["4x0e", "4x0e+4x1o", "4x0e+4x1o+4x2e"])
def test_mace_keeps_the_contract(hidden):
    found = check_architecture(MACEConfig, MACE, TINY | {"hidden_irreps": hidden})
    checked = {f.promise for f in found}
    heads_only = {"total charge", "response to fields"}
    never_found = {"shapes and types", "effect", "configuration"}  # raise only
    vectors = set() if "1o" in hidden else {"equivariant features"}
    assert checked == set(PROMISES) - heads_only - never_found - vectors
    # far below the tolerances: a failure is not a matter of rounding
    assert all(f.error < 0.2 * f.tolerance for f in found)


SMALL_NEQUIP = {
    "type": "nequip", "cutoff": 3.2, "n_layers": 2, "max_ell": 1, "n_radial": 4, "radial_mlp": (8,),
    "hidden_irreps": "4x0e+3x1o", "layer_norm": True, "avg_num_neighbors": 4.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("hidden", "layer_norm"), [("4x0e", True), ("4x0e+3x1o+2x2e", True), ("4x0e+3x1o", False)]
)
def test_nequip_keeps_the_contract(hidden, layer_norm):
    options = {"cutoff": 3.2, "n_layers": 2, "max_ell": 2, "n_radial": 4, "radial_mlp": (8,)}
    options |= {"hidden_irreps": hidden, "layer_norm": layer_norm, "avg_num_neighbors": 4.0}
    options |= {"inner_cutoff": None if layer_norm else 0.75}
    found = check_architecture(NequIPConfig, NequIP, options)
    checked = {f.promise for f in found}
    assert ("equivariant features" in checked) is ("1o" in hidden)
    assert all(f.error < 0.2 * f.tolerance for f in found)


@pytest.mark.parametrize(("name", "residual"), HEAD_KINDS)
def test_every_head_keeps_the_contract(name, residual):
    long_range = LongRangeConfig(head=name, residual=residual, readout_hidden=4)
    conserves = (name, residual) not in KEEP_THEIR_OWN_SUM
    found = check_charge_head(HEADS[name], long_range, conserves_charge=conserves)
    assert ("total charge" in {f.promise for f in found}) is conserves
    assert all(f.error < 0.2 * f.tolerance for f in found)


def test_transfers_of_all_layers_keep_the_contract():
    long_range = LongRangeConfig(head="edge", transfer_layers="all", cutoff="smooth")
    found = check_charge_head(HEADS["edge"], long_range, architecture=SMALL_NEQUIP)
    assert "total charge" in {f.promise for f in found}
    assert all(f.error < 0.2 * f.tolerance for f in found)


@pytest.mark.parametrize("inner_cutoff", [None, 0.75])
def test_aimnet2_keeps_the_contract(inner_cutoff):
    options = SMALL_AIMNET2 | {"inner_cutoff": inner_cutoff}
    found = check_architecture(AIMNet2Config, AIMNet2, options)
    heads_only = {"total charge", "response to fields"}
    never_found = {"shapes and types", "effect", "configuration"}  # raise only
    assert {f.promise for f in found} == set(PROMISES) - heads_only - never_found
    assert all(f.error < 0.2 * f.tolerance for f in found)


@pytest.mark.parametrize(
    ("name", "onset"),
    [("carried", 2.5), *(pytest.param(*x, marks=pytest.mark.slow) for x in SLOW_CARRIED)],
)
def test_heads_on_charges_of_layers_keep_the_contract(name, onset):
    # Gaussian charges narrow enough for the neighbours to see all that is missing
    waves = {"sigma": 0.5, "dl": 0.6, "cutoff": "smooth"}
    long_range = LongRangeConfig(head=name, readout_hidden=4, onset=onset, **waves)
    architecture = {"type": "aimnet2"} | SMALL_AIMNET2
    conserves = name == "carried"
    found = check_charge_head(
        HEADS[name], long_range, conserves_charge=conserves, architecture=architecture
    )
    assert all(f.error < 0.2 * f.tolerance for f in found)


@pytest.mark.parametrize(("name", "residual"), KEEP_THEIR_OWN_SUM)
def test_heads_that_keep_their_own_sum_do_not_conserve_charge(name, residual):
    long_range = LongRangeConfig(head=name, residual=residual, readout_hidden=4)
    with pytest.raises(ContractError, match="breaks the promise 'total charge'"):
        check_charge_head(HEADS[name], long_range)


def test_nothing_stays_registered():
    before = dict(ARCHITECTURES)
    with pytest.raises(ContractError):
        check_architecture(GaussianConfig, Slanted)
    assert before == ARCHITECTURES


# --- an architecture from outside --------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class GaussianConfig:
    """Sums of Gaussians of distances, as in Behler and Parrinello, PRL 98, 146401 (2007)."""

    cutoff: float = 4.0
    channels: int = 6
    widths: tuple[float, ...] = (0.1, 0.3, 1.0)


class GaussianDescriptors(Architecture):
    """``e_i = w . silu(A g_i + s_i)``, ``g_i = sum_j a_zj exp(-eta r_ij^2) f_c(r_ij)``."""

    n_layers = 1

    def __init__(self, config, elements):
        super().__init__()
        self.cutoff, self.channels = config.cutoff, config.channels
        self.register_buffer("element_row", element_rows(elements), persistent=False)
        self.register_buffer("eta", torch.tensor(config.widths, dtype=torch.float64), False)
        self.sender = nn.Parameter(torch.randn(len(elements), len(config.widths)))
        self.own = nn.Parameter(torch.randn(len(elements), config.channels))
        self.mix = nn.Linear(len(config.widths), config.channels)
        self.out = nn.Parameter(torch.randn(config.channels))

    def topology(self, graph):
        return build_topology(graph, self.element_row)

    @property
    def n_features(self):
        return self.channels

    def envelope(self, distance):
        """Cosine cutoff of Behler and Parrinello."""
        inside = 0.5 * (torch.cos(torch.pi * distance / self.cutoff) + 1.0)
        return torch.where(distance < self.cutoff, inside, 0.0)

    def forward(self, graph, node_state, *, tabulated=False, topology=None, max_order=0, **ignored):
        distance = edge_vectors(graph).norm(dim=1)
        element = self.element_row[graph.atomic_numbers]
        gaussians = torch.exp(-self.eta.to(distance.dtype) * distance[:, None] ** 2)
        pairs = gaussians * self.envelope(distance)[:, None]
        pairs = pairs * self.sender[element[graph.edge_index[0]]]
        sums = segment_sum(pairs, graph.edge_index[1], graph.n_atoms)
        hidden = self.mix(sums) + self.own[element]
        if node_state is not None:
            hidden = hidden + node_state
        hidden = nn.functional.silu(hidden)
        return ArchitectureOutput(node_energy=hidden @ self.out, invariants=[hidden])

    def last_layer_features(self, invariants):
        return invariants[-1]


def test_an_architecture_from_outside_keeps_the_contract():
    found = check_architecture(GaussianConfig, GaussianDescriptors)
    assert {"derivatives", "cutoff", "planned steps"} <= {f.promise for f in found}


def changed(output, energy):
    return replace(output, node_energy=energy)


class Slanted(GaussianDescriptors):
    """Sees the direction of x."""

    def forward(self, graph, node_state, **options):
        out = super().forward(graph, node_state, **options)
        x = edge_vectors(graph)
        weight = x[:, 0] ** 2 * self.envelope(x.norm(dim=1)) ** 2
        extra = segment_sum(weight, graph.edge_index[1], graph.n_atoms)
        return changed(out, out.node_energy + 0.01 * extra)


class Ordered(GaussianDescriptors):
    """Counts atoms."""

    def forward(self, graph, node_state, **options):
        out = super().forward(graph, node_state, **options)
        rank = torch.arange(graph.n_atoms, dtype=out.node_energy.dtype)
        starts = torch.cumsum(graph.atoms_per_system(), 0) - graph.atoms_per_system()
        return changed(out, out.node_energy * (1 + 1e-3 * (rank - starts[graph.batch])))


class Anchored(GaussianDescriptors):
    """Sees the distance from the origin."""

    def forward(self, graph, node_state, **options):
        out = super().forward(graph, node_state, **options)
        return changed(out, out.node_energy + 1e-4 * graph.positions.square().sum(1))


class Averaging(GaussianDescriptors):
    """Divides by the number of structures."""

    def forward(self, graph, node_state, **options):
        out = super().forward(graph, node_state, **options)
        return changed(out, out.node_energy / graph.n_systems)


class Intensive(GaussianDescriptors):
    """Divides by the size of the system."""

    def forward(self, graph, node_state, **options):
        out = super().forward(graph, node_state, **options)
        return changed(out, out.node_energy / graph.atoms_per_system()[graph.batch])


class Sharp(GaussianDescriptors):
    """Cuts off without fading out."""

    def envelope(self, distance):
        return (distance < self.cutoff).to(distance.dtype)


class Kinked(GaussianDescriptors):
    """Energies are continuous, forces are not."""

    def envelope(self, distance):
        return (1.0 - distance / self.cutoff).clamp(min=0.0)


class Endless(GaussianDescriptors):
    """Relies on the graph to end at the cutoff; continuous there."""

    def envelope(self, distance):
        return (1.0 - distance / self.cutoff) ** 2


class TwoHops(GaussianDescriptors):
    """Passes a message on and says that it does not."""

    def forward(self, graph, node_state, **options):
        out = super().forward(graph, node_state, **options)
        weight = self.envelope(edge_vectors(graph).norm(dim=1))
        message = weight * out.node_energy[graph.edge_index[0]]
        return changed(
            out, out.node_energy + 0.1 * segment_sum(message, graph.edge_index[1], graph.n_atoms)
        )


class Detached(GaussianDescriptors):
    """Forgets that the cutoff depends on positions."""

    def envelope(self, distance):
        return super().envelope(distance.detach())


class OnceOnly(GaussianDescriptors):
    """A backward pass that cannot be differentiated."""

    class _Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
            (x,) = ctx.saved_tensors
            return grad * 2.0 * x.detach()

    def envelope(self, distance):
        return self._Square.apply(super().envelope(distance))


class Forgetful(GaussianDescriptors):
    """Keeps a weight that is no parameter."""

    def __init__(self, config, elements):
        super().__init__(config, elements)
        self.scale = float(torch.rand(()) + 0.5)

    def forward(self, graph, node_state, **options):
        out = super().forward(graph, node_state, **options)
        return changed(out, self.scale * out.node_energy)


class Lazy(GaussianDescriptors):
    """Has weights of another name each time."""

    def __init__(self, config, elements):
        super().__init__(config, elements)
        name = f"weight_{int(torch.randint(1 << 30, ()))}"
        self.register_parameter(name, nn.Parameter(torch.zeros(1)))


class AlwaysDouble(GaussianDescriptors):
    """Computes in float64 whatever it is given."""

    def forward(self, graph, node_state, **options):
        out = super().forward(graph, node_state, **options)
        return changed(out, out.node_energy.double())


class Stateless(GaussianDescriptors):
    """Ignores charge and spin."""

    def forward(self, graph, node_state, **options):
        return super().forward(graph, None, **options)


class Constant(GaussianDescriptors):
    """No interaction at all."""

    def envelope(self, distance):
        return 0.0 * distance


class Flat(GaussianDescriptors):
    """Energies as a column."""

    def forward(self, graph, node_state, **options):
        out = super().forward(graph, node_state, **options)
        return changed(out, out.node_energy[:, None])


class MissingLayer(GaussianDescriptors):
    """Says two layers and hands out one."""

    n_layers = 2


class Cartesian(GaussianDescriptors):
    """Vectors in the order x, y, z, as e3nn's."""

    equivariant_layers = (1,)
    order = (0, 1, 2)

    def forward(self, graph, node_state, **options):
        out = super().forward(graph, node_state, **options)
        vectors = edge_vectors(graph)
        vectors = vectors * self.envelope(vectors.norm(dim=1))[:, None]
        sums = segment_sum(vectors, graph.edge_index[1], graph.n_atoms)[:, list(self.order), None]
        return replace(out, equivariants=[[sums.expand(-1, -1, self.channels)]])


class Spherical(Cartesian):
    """Those of the usual real harmonics, m = -1, 0, 1: y, z, x."""

    order = (1, 2, 0)


def test_vectors_of_an_architecture_from_outside_pass():
    found = check_architecture(GaussianConfig, Cartesian)
    assert "equivariant features" in {f.promise for f in found}


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (Slanted, "rotation and inversion"),
        (Ordered, "permutation"),
        (Anchored, "translation"),
        (Averaging, "batch equals single"),
        (Intensive, "extensive energy"),
        (Sharp, "cutoff"),
        (Kinked, "cutoff"),
        (Endless, "edges beyond the cutoff"),
        (TwoHops, "receptive field"),
        (Detached, "derivatives"),
        (OnceOnly, "second derivatives"),
        (Forgetful, "state dict"),
        (Lazy, "state dict"),
        (AlwaysDouble, "single precision"),
        (Stateless, "node state"),
        (Constant, "effect"),
        (Flat, "shapes and types"),
        (MissingLayer, "shapes and types"),
        (Spherical, "equivariant features"),
    ],
)
def test_broken_architectures_fail_for_their_reason(broken, promise):
    with pytest.raises(ContractError, match=f"{broken.__name__} breaks the promise") as caught:
        check_architecture(GaussianConfig, broken)
    assert caught.value.promise == promise
    assert isinstance(caught.value, AssertionError)


def test_the_size_of_the_violation_is_named():
    with pytest.raises(ContractError, match=r"must be at most .*, got \d.\de[+]00 eV") as caught:
        check_architecture(GaussianConfig, Intensive)
    assert caught.value.error > caught.value.tolerance > 0


def test_a_configuration_that_cannot_be_read_back_is_found():
    @dataclass(frozen=True, kw_only=True)
    class Drifting(GaussianConfig):
        def __post_init__(self):
            object.__setattr__(self, "cutoff", self.cutoff + 0.1)

    with pytest.raises(ContractError, match="breaks the promise 'configuration'"):
        check_architecture(Drifting, GaussianDescriptors)


# --- a charge head from outside ----------------------------------------------------------------


class Electronegativities(ChargeModel):
    """A number of each atom from its features, shifted to the total charge."""

    is_local = True

    def __init__(self, config, sizes):
        super().__init__()
        self.readout = nn.Linear(sizes.channels, 1)

    def local(self, x):
        return self.readout(x.invariants[-1])[:, 0]

    def at_potentials(self, x, potentials):
        return self.local(x)

    def constrained(self, local, graph):
        return shift_to_total(local, graph.batch, graph.total_charge, graph.atoms_per_system())

    def forward(self, x):
        local = self.local(x)
        charges = self.constrained(local, x.graph)
        return HeadOutput(local=local, charges=charges, latent=charges, coulomb=charges)


def test_a_head_from_outside_keeps_the_contract():
    found = check_charge_head(Electronegativities)
    assert {"total charge", "receptive field", "derivatives"} <= {f.promise for f in found}


class Leaking(Electronegativities):
    """Loses a little charge."""

    def constrained(self, local, graph):
        return super().constrained(local, graph) * (1.0 - 1e-4)


class Nonlocal(Electronegativities):
    """Scales by the whole system and says that it is local."""

    def constrained(self, local, graph):
        size = segment_sum(local.square(), graph.batch, graph.n_systems).sqrt()
        return super().constrained(local / (1.0 + size)[graph.batch], graph)


class Reaching(Electronegativities):
    """Reads its neighbours' features without saying ``extra_hops``."""

    def local(self, x):
        local, graph = super().local(x), x.graph
        fade = (1.0 - edge_vectors(graph).norm(dim=1) / 3.2).clamp(min=0.0) ** 3
        return local + segment_sum(
            fade * local[graph.edge_index[0]], graph.edge_index[1], graph.n_atoms
        )


class Polarisable(Electronegativities):
    """Says that it responds to fields and does not."""

    responds_to_field = True


class Unshared(Electronegativities):
    """An energy of the response without the atoms' shares."""

    is_local = False

    def forward(self, x):
        out = super().forward(x)
        energy = segment_sum(out.charges**4, x.graph.batch, x.graph.n_systems)
        return replace(out, response_energy=energy, atom_response=0.0 * out.charges)


class Frozen(Electronegativities):
    """Charges that do not depend on anything."""

    def local(self, x):
        return 0.0 * super().local(x)


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (Leaking, "total charge"),
        (Nonlocal, "receptive field"),
        (Reaching, "receptive field"),
        (Polarisable, "response to fields"),
        (Unshared, "atomic energies"),
        (Frozen, "effect"),
    ],
)
def test_broken_heads_fail_for_their_reason(broken, promise):
    with pytest.raises(ContractError, match=f"{broken.__name__} breaks the promise") as caught:
        check_charge_head(broken)
    assert caught.value.promise == promise
