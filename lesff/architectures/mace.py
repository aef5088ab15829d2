"""MACE (Batatia et al., arXiv 2206.07697): two-body messages, many-body products, few layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from e3nn import o3
from torch import Tensor, nn

from lesff.architectures.base import Architecture, ArchitectureOutput
from lesff.errors import ConfigError
from lesff.graph import AtomGraph
from lesff.nn.contraction import SymmetricContraction
from lesff.nn.convolution import Convolution
from lesff.nn.harmonics import pair_harmonics
from lesff.nn.linear import ElementLinear, OrderLinear, split_orders
from lesff.nn.radial import AgnesiTransform, BesselBasis, RadialNetwork, ScreenedRepulsion
from lesff.nn.radial_table import RadialTabulator, TableSource
from lesff.nn.readout import LayerReadouts
from lesff.nn.topology import Topology, build_topology
from lesff.ops import segment_sum


@dataclass(frozen=True, kw_only=True)
class MACEConfig:
    """Hyper-parameters of the short-range model.

    Attributes:
        cutoff: Edge cutoff in A.
        hidden_irreps: Node features between layers, e.g. ``"64x0e"`` or ``"96x0e+96x1o"``; equal
            multiplicities, natural parity, orders 0..L without gaps, L <= 2.
        n_layers: Message-passing layers. The last one keeps only invariants.
        max_ell: Highest order of the harmonics, 0..3.
        correlation: Degree of the symmetric contraction, 1..3.
        n_radial: Number of Bessel functions.
        radial_frequencies: Frequencies of the Bessel functions in 1/A; n pi / cutoff if not given.
        radial_prefactor: Factor of the Bessel functions; sqrt(2 / cutoff) if not given.
        cutoff_power: p of the polynomial cutoff.
        radial_mlp: Hidden sizes of the radial network.
        readout_hidden: Hidden units of the last readout, or None for a linear one.
        first_residual: Whether the first layer adds a self-connection of the embedding; if not,
            an element-wise map acts on its message instead ("agnostic" block of MACE).
        avg_num_neighbors: Divisor of the summed messages.
        message_normalization: ``"neighbors"``: divide by ``avg_num_neighbors``; ``"density"``: by
            one plus a learned local density of neighbours.
        agnesi: Parameters (a, q, p) of the Agnesi transform of distances in front of the radial
            basis, or None.
        repulsion: Whether to add the ZBL pair repulsion, cut off with the same power.
        stores_couplings: Whether the coupling coefficients of the contraction are stored with the
            weights; published models were trained with coefficients in single precision.
    """

    cutoff: float
    hidden_irreps: str
    n_layers: int = 2
    max_ell: int = 3
    correlation: int = 3
    n_radial: int = 8
    radial_frequencies: tuple[float, ...] | None = None
    radial_prefactor: float | None = None
    cutoff_power: int = 5
    radial_mlp: tuple[int, ...] = (64, 64, 64)
    readout_hidden: int | None = 16
    first_residual: bool = True
    avg_num_neighbors: float = 1.0
    message_normalization: Literal["neighbors", "density"] = "neighbors"
    agnesi: tuple[float, float, float] | None = None
    repulsion: bool = False
    stores_couplings: bool = False

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: naming the field.
        """
        checks = {
            "cutoff": (0.0 < self.cutoff <= 20.0, "in (0, 20] A"),
            "n_layers": (1 <= self.n_layers <= 8, "from 1 to 8"),
            "max_ell": (0 <= self.max_ell <= 3, "from 0 to 3"),
            "correlation": (1 <= self.correlation <= 3, "from 1 to 3"),
            "n_radial": (1 <= self.n_radial <= 64, "from 1 to 64"),
            "radial_frequencies": (
                self.radial_frequencies is None or len(self.radial_frequencies) == self.n_radial,
                f"null or {self.n_radial} values",
            ),
            "cutoff_power": (2 <= self.cutoff_power <= 20, "from 2 to 20"),
            "radial_mlp": (
                0 < len(self.radial_mlp) <= 8 and all(0 < n <= 4096 for n in self.radial_mlp),
                "1 to 8 sizes from 1 to 4096",
            ),
            "readout_hidden": (
                self.readout_hidden is None or 1 <= self.readout_hidden <= 4096,
                "null or from 1 to 4096",
            ),
            "avg_num_neighbors": (self.avg_num_neighbors > 0, "positive"),
        }
        for name, (is_good, expected) in checks.items():
            if not is_good:
                raise ConfigError(
                    f"`architecture.{name}` must be {expected}, got {getattr(self, name)!r}"
                )
        _ = self.channels, self.feature_l

    def _parsed(self) -> tuple[int, int]:
        try:
            irreps = o3.Irreps(self.hidden_irreps)
        except ValueError as error:
            raise ConfigError(
                f"`architecture.hidden_irreps` must be e3nn irreps, got {self.hidden_irreps!r}"
            ) from error
        muls = {mul for mul, _ in irreps}
        orders = [(ir.l, ir.p) for _, ir in irreps]
        natural = [(order, (-1) ** order) for order in range(len(orders))]
        if len(muls) != 1 or orders != natural or len(orders) > 3 or not 0 < max(muls) <= 4096:
            raise ConfigError(
                "`architecture.hidden_irreps` must list orders 0..L (L <= 2) once each, natural "
                "parity, with one multiplicity of at most 4096, like '64x0e+64x1o'; "
                f"got {self.hidden_irreps!r}"
            )
        return muls.pop(), len(orders) - 1

    @property
    def channels(self) -> int:
        """Multiplicity of the hidden irreps."""
        return self._parsed()[0]

    @property
    def feature_l(self) -> int:
        """Highest order L of the hidden irreps."""
        return self._parsed()[1]


class MACE(Architecture):
    """The short-range model.

    Args:
        config: Hyper-parameters.
        elements: Atomic numbers covered, ascending; their position is the element table row.
    """

    def __init__(self, config: MACEConfig, elements: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.cutoff = config.cutoff
        self.n_layers = config.n_layers
        self.channels = config.channels
        n_elements = len(elements)
        self.register_buffer("element_row", element_rows(elements), persistent=False)
        self.element_row: Tensor
        self.embedding = nn.Parameter(torch.randn(n_elements, config.channels))
        self.radial_basis = BesselBasis(
            cutoff=config.cutoff,
            n_basis=config.n_radial,
            p=config.cutoff_power,
            frequencies=config.radial_frequencies,
            prefactor=config.radial_prefactor,
        )
        self.transform = None if config.agnesi is None else AgnesiTransform(*config.agnesi)
        self.layers = nn.ModuleList(
            _Layer(
                config,
                n_elements=n_elements,
                l_in=config.feature_l if index else 0,
                l_out=config.feature_l if index < config.n_layers - 1 else 0,
                is_residual=config.first_residual or index > 0,
            )
            for index in range(config.n_layers)
        )
        self.readouts = LayerReadouts(
            channels=config.channels, n_layers=config.n_layers, hidden=config.readout_hidden
        )
        self.repulsion = ScreenedRepulsion(p=config.cutoff_power) if config.repulsion else None

    def forward(
        self, graph: AtomGraph, node_state: Tensor | None, *, tabulated: bool = False
    ) -> ArchitectureOutput:
        """See :class:`Architecture`."""
        topology = build_topology(graph, self.element_row)
        vectors = pair_vectors(graph, topology)
        distance, harmonics = pair_harmonics(vectors, self.config.max_ell)
        basis = self._radial_features(graph, topology, distance)
        # a transform depends on the elements of the pair, one table per network does not
        source = (
            TableSource.of(distance, self.radial_basis, self.cutoff)
            if tabulated and self.transform is None
            else None
        )

        features = self.embedding[topology.node_element] * self.embedding.shape[0] ** -0.5
        if node_state is not None:
            features = features + node_state[topology.node_order]
        features = features[:, None, :]
        invariants = []
        for layer in self.layers:
            features = layer(features, harmonics, basis, topology, source)
            invariants.append(features[:, 0])
        node_energy = self.readouts(invariants)[topology.node_rank]
        if self.repulsion is not None:
            node_energy = node_energy + self._repulsion_energy(graph, topology, distance)
        return ArchitectureOutput(
            node_energy=node_energy, invariants=[x[topology.node_rank] for x in invariants]
        )

    def _radial_features(self, graph: AtomGraph, topology: Topology, distance: Tensor) -> Tensor:
        if self.transform is None:
            return self.radial_basis(distance, distance)
        z = graph.atomic_numbers
        pair = z[topology.pair_sender], z[topology.pair_receiver]
        return self.radial_basis(self.transform(distance, *pair), distance)

    def _repulsion_energy(self, graph: AtomGraph, topology: Topology, distance: Tensor) -> Tensor:
        z = graph.atomic_numbers
        pair = self.repulsion(distance, z[topology.pair_sender], z[topology.pair_receiver])  # pyright: ignore[reportOptionalCall]
        half = 0.5 * pair
        return segment_sum(half, topology.pair_sender, graph.n_atoms) + segment_sum(
            half, topology.pair_receiver, graph.n_atoms
        )


class _Layer(nn.Module):
    """Interaction block and product block of one layer."""

    def __init__(
        self, config: MACEConfig, *, n_elements: int, l_in: int, l_out: int, is_residual: bool
    ) -> None:
        super().__init__()
        channels, n_orders = config.channels, config.max_ell + 1
        same = (channels,)
        self.l_in = l_in
        self.is_residual = is_residual
        self.scale = 1.0 / config.avg_num_neighbors
        self.density = (
            RadialNetwork(sizes=(config.n_radial, 1))
            if config.message_normalization == "density"
            else None
        )
        self.linear_up = OrderLinear(channels_in=same * (l_in + 1), channels_out=same * (l_in + 1))
        self.convolution = Convolution(channels=channels, feature_l=l_in, max_ell=config.max_ell)
        self.radial = RadialNetwork(
            sizes=(config.n_radial, *config.radial_mlp, self.convolution.n_paths * channels)
        )
        self.tabulator = RadialTabulator(n_paths=self.convolution.n_paths, channels=channels)
        self.linear = OrderLinear(
            channels_in=tuple(n * channels for n in self.convolution.blocks_per_order),
            channels_out=same * n_orders,
        )
        self.self_connection = ElementLinear(
            channels=channels,
            channels_out=channels,
            n_elements=n_elements,
            max_l=min(l_in, l_out) if is_residual else config.max_ell,
        )
        self.contractions = nn.ModuleList(
            SymmetricContraction(
                channels=channels,
                max_ell=config.max_ell,
                l_out=order,
                correlation=config.correlation,
                n_elements=n_elements,
                stores_basis=config.stores_couplings,
            )
            for order in range(l_out + 1)
        )
        self.product_linear = OrderLinear(
            channels_in=same * (l_out + 1), channels_out=same * (l_out + 1)
        )

    def forward(
        self,
        features: Tensor,
        harmonics: Tensor,
        basis: Tensor,
        topology: Topology,
        source: TableSource | None = None,
    ) -> Tensor:
        """(n_nodes, (l_in + 1)^2, c) to (n_nodes, (l_out + 1)^2, c), element order."""
        up = self.linear_up(split_orders(features, self.l_in))
        weights = (
            self.radial(basis) if source is None else self.tabulator.weights(source, self.radial)
        )
        messages = self.convolution(up, harmonics, weights, topology)
        message = self.linear(messages) * self._normalization(basis, topology)
        if not self.is_residual:
            message = self.self_connection(message, topology)
        products = [contraction(message, topology) for contraction in self.contractions]
        mixed = self.product_linear(products)
        if not self.is_residual:
            return mixed
        residual = self.self_connection(features, topology)
        n_residual = residual.shape[1]
        if n_residual == mixed.shape[1]:
            return mixed + residual
        return torch.cat([mixed[:, :n_residual] + residual, mixed[:, n_residual:]], dim=1)

    def _normalization(self, basis: Tensor, topology: Topology) -> Tensor | float:
        """Factor of the summed messages, (n_nodes, 1, 1) or one number."""
        if self.density is None:
            return self.scale
        pair = torch.tanh(self.density(basis).square())
        return 1.0 / (1.0 + sum_pairs(pair, topology)[:, None])


def sum_pairs(values: Tensor, topology: Topology) -> Tensor:
    """Sum (n_pairs, k) over the pairs of each node, element order, (n_nodes, k)."""
    n_nodes = len(topology.node_rank)
    total = segment_sum(values, topology.pair_sender, n_nodes)
    total = total + segment_sum(values, topology.pair_receiver, n_nodes)
    return total[topology.node_order]


def element_rows(elements: tuple[int, ...]) -> Tensor:
    """(119,) int64 table row of each atomic number; -1 where the model has none."""
    rows = torch.full((119,), -1, dtype=torch.int64)
    rows[list(elements)] = torch.arange(len(elements))
    return rows


def pair_vectors(graph: AtomGraph, topology: Topology) -> Tensor:
    """Edge vectors sender to receiver of every undirected pair, (n_pairs, 3) in A."""
    positions = graph.positions
    vectors = positions[topology.pair_receiver] - positions[topology.pair_sender]
    shift = topology.pair_shift.to(positions.dtype)
    cell = graph.cell[graph.batch[topology.pair_sender]]
    return vectors + torch.einsum("pi,pij->pj", shift, cell)
