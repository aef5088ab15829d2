"""What kernels are called with: tables of plain numbers and tensors, the same for all backends.

What a backend makes of them for itself (C arrays, tables on a device) is made when it is needed and
kept by the backend, found by the identity of the table; so the tables can be pickled and copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor


@dataclass(frozen=True)
class ConvolutionPath:
    """One tensor-product path: sender order l1, harmonic order l2, message order l3.

    Attributes:
        rows: Sender components, 2 l1 + 1.
        cols: Message components, 2 l3 + 1.
        feature_row: First of the (l, m) rows of order l1 in the sender features.
        kernel_col: First column of the path's (m1, m3) block in the angular kernel.
        order: l3: which message tensor.
        block: Position among the paths of the same l3.
        is_odd: Whether the angular kernel changes sign with the edge's direction.
    """

    rows: int
    cols: int
    feature_row: int
    kernel_col: int
    order: int
    block: int
    is_odd: bool

    @property
    def features(self) -> slice:
        """Rows of the sender features that the path reads."""
        return slice(self.feature_row, self.feature_row + self.rows)

    @property
    def kernel(self) -> slice:
        """Columns of the angular kernel that the path reads, (m1, m3) flattened."""
        return slice(self.kernel_col, self.kernel_col + self.rows * self.cols)

    def columns(self, channels: int) -> slice:
        """Channels of the message that the path fills."""
        return slice(self.block * channels, (self.block + 1) * channels)


@dataclass(frozen=True, eq=False)
class ConvolutionPaths:
    """The paths of one convolution; equal to itself only.

    Attributes:
        paths: In the order of the radial weights.
        message_cols: Channels of each order's message, one block per path of that order.
    """

    paths: tuple[ConvolutionPath, ...]
    message_cols: tuple[int, ...]


@dataclass(frozen=True)
class ConvolutionEdges:
    """Edges grouped by receiver, int32 but for the sign.

    Attributes:
        node_start: (n_nodes + 1,) first edge of each receiver.
        sender: (n_edges,) sending node.
        pair: (n_edges,) undirected pair.
        sign: (n_edges,) int8, +1 along the pair's edge, -1 against it.
        pair_sender, pair_receiver: (n_pairs,) nodes.
    """

    node_start: Tensor
    sender: Tensor
    pair: Tensor
    sign: Tensor
    pair_sender: Tensor
    pair_receiver: Tensor


@dataclass(frozen=True)
class RadialTable:
    """Radial weights as quintic splines.

    Attributes:
        splines: (n_paths, n_blocks, n_intervals + 11, 16): coefficients of B-splines, see
            :func:`lesff.nn.spline.spline_coefficients`; the last six rows, of zeros, stand for all
            beyond the cutoff.
        start: First knot in A.
        inverse_step: Intervals per A.
    """

    splines: Tensor
    start: float
    inverse_step: float

    @property
    def n_intervals(self) -> int:
        """Intervals below the cutoff."""
        return self.splines.shape[2] - 11


RadialWeights = Tensor | tuple[Tensor, RadialTable]
"""Weights (n_pairs or 2 n_pairs, n_paths * channels), or distances (n_pairs,) in A and a table."""


@dataclass(frozen=True, eq=False)
class ContractionTerms:
    """Monomials of a symmetric contraction, int32, on the host; equal to itself only.

    Attributes:
        groups: (n_groups, 4): leading factors i <= j, output component, end of the group's terms.
        last: (n_terms,) last factor k of each term. Factor 0 is the constant 1.
        n_components: Components of the output.
    """

    groups: Tensor
    last: Tensor
    n_components: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ContactTables:
    """Tables by atomic number and constants of :mod:`lesff.nn.contacts`.

    Attributes:
        radius: (n_elements,) covalent radii in A, float64.
        valence: (n_elements,) bonds of full shells, 0 for elements that are always open, float64.
        onium: (n_elements,) 1 where more bonds open an atom, too, float64.
        most: (n_elements,) bonds beyond which an atom is crowded, float64.
        counted: (n_elements,) bonds beyond which an atom is no ion, float64.
        inner_start: Share of the sum of radii from which distances level off below.
        inner_width: By how much.
        bond_full: Share of the sum of radii up to which a pair is one bond.
        bond_none: From which it is none.
        open_from: Missing bonds from which an atom begins to be open.
        open_full: From which it is.
        crowding: Energy of one bond too many in eV.
        wall_from: Share of the sum of radii from which on the wall has no repulsion, which levels
            off there as distances do; 0 for one up to the sum of radii.
        wall_stiffness: Energy in eV of a pair per square of what levelling off adds to its
            distance, in sums of radii; 0 without ``wall_from``.
        sharing_width: In which the shares of two atoms in a hydrogen differ by a factor of e, in
            sums of radii; 0 for whole bonds of both.
    """

    radius: Tensor
    valence: Tensor
    onium: Tensor
    most: Tensor
    counted: Tensor
    inner_start: float
    inner_width: float
    bond_full: float
    bond_none: float
    open_from: float
    open_full: float
    crowding: float
    wall_from: float
    wall_stiffness: float
    sharing_width: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ShareInputs:
    """What :func:`lesff.heads.sharing.plain_shares` takes.

    Attributes:
        p: (n_atoms,) charges before, in e.
        weights: (n_atoms,), positive.
        totals: (n_systems,) in e.
        limits: (n_atoms,) in e.
        batch: (n_atoms,) system of each atom.
        n_steps: Newton steps whose slopes count at least ``least``, before two with ``tiny``; 0 for
            as many, between bounds, as the solution takes.
        least: Least slope of a charge in its argument.
        tiny: The same of the last steps, whose derivatives are those of the solution.
    """

    p: Tensor
    weights: Tensor
    totals: Tensor
    limits: Tensor
    batch: Tensor
    n_steps: int
    least: float
    tiny: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ContactValues:
    """Functions of close pairs and their derivatives; empty where not asked for.

    Attributes:
        inner: (n_pairs,) distances in A that level off.
        d_inner: (n_pairs,) their derivative.
        wall: (n_atoms,) repulsion of the nuclei and crowding in eV.
        d_wall: (n_pairs,) derivative of a pair's energy in eV/A.
        openness: (n_atoms,) 0 for full atoms, 1 for open ones.
        bonded: (n_atoms,) 0 without bonds, 1 from one bond on.
        lacks: (n_atoms,) 1, or 0 for more bonds than the valence.
        d_bond: (n_pairs,) derivative of a pair's bond in 1/A.
        d_open: (n_atoms,) derivative of the openness by the number of bonds.
        d_bonded: (n_atoms,) derivative of ``bonded`` by it.
        d_crowd: (n_atoms,) derivative of the wall by it.
    """

    inner: Tensor
    d_inner: Tensor
    wall: Tensor
    d_wall: Tensor
    openness: Tensor
    bonded: Tensor
    lacks: Tensor
    d_bond: Tensor
    d_open: Tensor
    d_bonded: Tensor
    d_crowd: Tensor


PairKind = Literal["gaussian", "dispersion"]
"""Kernels of pair sums: of Gaussian charges, and damped 1/r^6."""


class PairAtoms(Protocol):
    """Atoms of pairs; :class:`lesff.nn.contacts.ClosePairs` is one."""

    @property
    def first(self) -> Tensor:
        """(n_pairs,) an atom of each pair."""
        ...

    @property
    def second(self) -> Tensor:
        """(n_pairs,) the other one."""
        ...

    @property
    def z(self) -> Tensor:
        """(n_atoms,) atomic numbers."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class TransferLimits:
    """What limits the charge that pairs exchange, see :mod:`lesff.heads.edge`.

    Attributes:
        radius: (n_elements,) covalent radii in A, float64.
        valence: (n_elements,) bonds of full shells, 0 for metals, float64.
        atoms: (n_atoms,) largest change of an atom's charge in e, or None.
        has_bonds: Whether pairs without a bond have the limit ``between``.
        bond_full: Share of the sum of radii up to which a pair is one bond.
        bond_none: From which it is none.
        between: e.
        soft: e of a transfer, where its size is rounded off.
    """

    radius: Tensor
    valence: Tensor
    atoms: Tensor | None
    has_bonds: bool
    bond_full: float
    bond_none: float
    between: float
    soft: float


@dataclass(frozen=True, kw_only=True)
class StateConstants:
    """Constants of :mod:`lesff.nn.local_state`.

    ``proportional`` says whether the guess is ``o R(x)``, not ``R(o x)``.
    """

    max_guess: float
    max_log_weight: float
    faint: float
    soft: float
    pull: float
    max_charge: float
    max_spin: float
    proportional: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class StateInputs:
    """What :func:`lesff.nn.local_state.plain_states` takes.

    Attributes:
        values: (n_atoms, 4) of the features: guess, logarithms of the weights A, D and W.
        base: (n_atoms, 4) the same of the element.
        openness: (n_atoms,).
        bonded: (n_atoms,).
        lacks: (n_atoms,).
        batch: (n_atoms,) system of each atom.
        charge: (n_systems,) total charge in e.
        unpaired: (n_systems,) 2S.
        potentials: (n_systems, 3) that are given; those that the totals ask for if None.
    """

    values: Tensor
    base: Tensor
    openness: Tensor
    bonded: Tensor
    lacks: Tensor
    batch: Tensor
    charge: Tensor
    unpaired: Tensor
    potentials: Tensor | None
