"""Response properties of a potential: what may be asked, Born effective charges, field forces."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum
from lesff.autograd import jacobian_rows, system_jacobian
from lesff.electrostatics.moments.born import (
    CHUNK_ATOMS,
    BornMode,
    ChargeFunction,
    periodic_born_charges,
    sine_born_charges,
)
from lesff.electrostatics.moments.field import NO_RESPONSE, check_field, has_field
from lesff.electrostatics.moments.totals import dipole_moment, moment_origin
from lesff.errors import PropertyError, UnsupportedInputError


@dataclass(frozen=True, kw_only=True)
class BornOptions:
    """How Born effective charges are computed.

    Attributes:
        mode: For crystals: ``"exact"`` (image-exact), or ``"sine"``, the stencil of arXiv
            2504.05169, for comparison with published numbers: displacements are replaced by sines
            of the cell's period. Molecules are exact in either mode.
        sum_rule: Whether the mean excess over the acoustic sum rule ``sum_a Z*_a = Q`` is
            subtracted from every atom.
        chunk_atoms: Atoms of a crystal whose charges are evaluated at a time; bounds the memory.
    """

    mode: BornMode = "exact"
    sum_rule: bool = False
    chunk_atoms: int = CHUNK_ATOMS

    def __post_init__(self) -> None:
        """Raise PropertyError for an unknown mode or an empty chunk."""
        if self.mode not in get_args(BornMode):
            raise PropertyError(
                f"`born.mode` must be one of {', '.join(get_args(BornMode))}, got {self.mode!r}"
            )
        if self.chunk_atoms < 1:
            raise PropertyError(f"`born.chunk_atoms` must be positive, got {self.chunk_atoms!r}")


@dataclass(frozen=True, kw_only=True)
class LocalCharges:
    """Charges before any constraint, as a function of structure.

    Attributes:
        function: Local charges of a graph, a node state and potentials.
        node_state: (n_atoms, channels) charge and spin increment of the node features, or None.
        potentials: (n_systems, k) of the charge head, see :class:`lesff.heads.base.HeadOutput`, or
            None.
        reach: Receptive field in A.
        cutoff: Edge cutoff in A.
    """

    function: ChargeFunction
    node_state: Tensor | None
    potentials: Tensor | None
    reach: float
    cutoff: float


def check_response(
    wanted: Collection[str],
    graph: AtomGraph,
    *,
    has_charges: bool,
    responds: bool,
    only_dipoles_respond: bool = False,
) -> None:
    """Refuse fields and properties that the boundaries or the charge head leave undefined.

    Args:
        wanted: Properties asked for, all known.
        graph: The batch.
        has_charges: Whether the model has charges.
        responds: Whether its charges or atomic dipoles depend on the field.
        only_dipoles_respond: Whether it is the dipoles only, whose sum has one value in any cell.

    Raises:
        PropertyError: naming the property and the reason.
        UnsupportedInputError: for a field that has no defined effect.
    """
    wanted = set(wanted)
    if "stress" in wanted and not bool(graph.pbc.all()):
        raise PropertyError(
            "`stress` needs structures periodic in all three directions; "
            "leave it out for molecules and slabs"
        )
    # slabs: P has many values in the plane and one along the normal, and neither the dipole of
    # molecules nor the unfolding of crystals does for both
    partial = graph.pbc.any(1) & ~graph.pbc.all(1)
    if "born_effective_charges" in wanted and bool(partial.any()):
        raise PropertyError(
            "`born_effective_charges` need structures periodic in all three directions or in "
            "none; leave them out for slabs"
        )
    if "polarizability" in wanted and not responds:
        raise PropertyError(NO_RESPONSE)
    # sums of q r depend on which image of each atom is in the list; sums of atomic dipoles do not
    moments = {"dipole", "quadrupole"} | (set() if only_dipoles_respond else {"polarizability"})
    moments = sorted(wanted & moments)
    if moments and bool(graph.pbc.any()):
        raise PropertyError(
            f"{' and '.join(moments)} of a periodic structure depend on the choice of cell; "
            "ask for born_effective_charges, or set pbc=False for a molecule"
        )
    _check_field(wanted, graph, has_charges=has_charges)


def _check_field(wanted: set[str], graph: AtomGraph, *, has_charges: bool) -> None:
    """The part of :func:`check_response` for batches with a field; same errors."""
    present, field = has_field(graph), graph.external_field
    if field is None or not bool(present.any()):  # None first: .any() waits for the device
        return
    if not has_charges:
        raise UnsupportedInputError(
            "`external_field` must be absent or zero for a model without charges (trained without "
            f"LES), got {field[present][0].tolist()}"
        )
    check_field(graph)
    undefined = sorted(wanted & {"energy", "node_energy", "stress"})
    if undefined and bool((present & graph.pbc.all(1)).any()):
        raise PropertyError(
            f"{' and '.join(undefined)} of a crystal in an external field are not defined: its "
            "polarisation has many values; ask for forces, energy_sr and energy_lr, or "
            "integrate E.Z* along unwrapped positions"
        )


def check_crystal_response(wanted: Collection[str], graph: AtomGraph) -> None:
    """Refuse what needs Born effective charges of crystals from charges without a receptive field.

    Raises:
        PropertyError: for Born effective charges.
        UnsupportedInputError: for a field in a crystal, whose forces need them.
    """
    crystals = graph.pbc.all(1)
    advice = (
        "are not defined for charges that flow between any two atoms of a crystal; use a model "
        "with the head 'latent', 'shifted', 'edge' or 'fukui' and without induced charges"
    )
    if "born_effective_charges" in wanted and bool(crystals.any()):
        raise PropertyError(f"`born_effective_charges` {advice}")
    if bool((has_field(graph) & crystals).any()):
        raise UnsupportedInputError(f"forces of an `external_field` {advice}")


def born_charges(
    charges: Tensor,
    graph: AtomGraph,
    local: LocalCharges,
    options: BornOptions,
    directions: Tensor | None = None,
    *,
    dipoles: Tensor | None = None,
) -> Tensor:
    """Born effective charges, (n_atoms, 3, 3) in e, [a, i, j] = dP_i / dr_aj.

    Args:
        charges: (n_atoms,) in e, summing to the total charge, with a graph to the positions.
        graph: Crystals and molecules.
        local: The charges as a local function, for crystals.
        options: Mode, sum rule and memory.
        directions: (n_systems, m, 3): components of P to take instead of x, y, z; the result is
            then (n_atoms, m, 3).
        dipoles: (n_atoms, 3) atomic dipoles in e A with a graph to the positions, if any. Their
            sum has one value in any cell, so that crystals need no unfolding for them.

    Raises:
        PropertyError: for the sine stencil, which is that of charges, and crystals with dipoles.
    """
    if directions is None:
        eye = torch.eye(3, dtype=charges.dtype, device=charges.device)
        directions = eye.expand(graph.n_systems, 3, 3)
    periodic = graph.pbc.all(1)
    parts = []
    # molecules: Z* is the Jacobian of the dipole; s: system, m: direction, i: Cartesian
    if not bool(periodic.all()):
        dipole = dipole_moment(charges, graph, moment_origin(graph), dipoles)
        along = torch.einsum("smi,si->sm", directions, dipole)
        parts.append(jacobian_rows(along, graph.positions))
    # crystals: charges on an unfolded cluster, atomic dipoles as they are
    if bool(periodic.any()):
        crystal = _crystal(charges, graph, local, options, directions)
        if dipoles is not None:
            if options.mode == "sine":
                raise PropertyError(
                    "`born.mode` must be 'exact' for a crystal and a model with atomic dipoles, "
                    "got 'sine': the published stencil is for charges only"
                )
            total = segment_sum(dipoles, graph.batch, graph.n_systems)
            along = torch.einsum("smi,si->sm", directions, total)
            crystal = crystal + jacobian_rows(along, graph.positions)
        parts.append(crystal)
    born = parts[0]
    if len(parts) == 2:
        # each part has rows for all atoms, (n_atoms, m, 3); take those of its own systems
        born = torch.where(periodic[graph.batch][:, None, None], parts[1], parts[0])
    return _with_sum_rule(born, graph, directions) if options.sum_rule else born


def _crystal(
    charges: Tensor,
    graph: AtomGraph,
    local: LocalCharges,
    options: BornOptions,
    directions: Tensor,
) -> Tensor:
    """Born effective charges of crystals from their charges, (n_atoms, m, 3) in e."""
    if options.mode == "exact":
        return periodic_born_charges(
            charges.detach(),
            graph,
            local.function,
            local.node_state,
            reach=local.reach,
            cutoff=local.cutoff,
            potentials=local.potentials,
            directions=directions,
            chunk_atoms=options.chunk_atoms,
        )
    eye = torch.eye(3, dtype=charges.dtype, device=charges.device)
    cell = torch.where(graph.pbc.all(1)[:, None, None], graph.cell, eye)  # molecules: unused rows
    born = sine_born_charges(charges, graph.positions, cell, graph.batch)
    return torch.einsum("nma,nab->nmb", directions[graph.batch], born)  # n: atom, a, b: Cartesian


def _with_sum_rule(born: Tensor, graph: AtomGraph, directions: Tensor) -> Tensor:
    """Born effective charges that obey the acoustic sum rule, (n_atoms, m, 3) in e.

    Moving all atoms by b changes the polarisation by ``Q b``: ``sum_a Z*_a = Q 1``. Whatever the
    sum exceeds it by is taken from all atoms alike.
    """
    total = segment_sum(born, graph.batch, graph.n_systems)
    excess = total - graph.total_charge[:, None, None] * directions
    mean = excess / graph.atoms_per_system()[:, None, None]
    return born - mean[graph.batch]


def crystal_field_forces(charges: Tensor, graph: AtomGraph, local: LocalCharges) -> Tensor:
    """``Z*^T E`` of charges on atoms of crystals in eV/A, (n_atoms, 3); zero for other systems.

    The acoustic sum rule is imposed: a uniform field exerts no net force on a neutral cell.

    Args:
        charges: (n_atoms,) in e, summing to zero in crystals with a field.
        graph: The batch, with a field.
        local: The charges as a local function.
    """
    field = graph.external_field
    crystals = has_field(graph) & graph.pbc.all(1)
    if field is None or not bool(crystals.any()):
        return torch.zeros_like(graph.positions)
    # one direction, m = 1, of the field's length: sum_i E_i dP_i / dr_aj is the force itself
    along = torch.where(crystals[:, None], field, 0.0)[:, None]  # [s, 1, i]
    forces = born_charges(charges, graph, local, BornOptions(sum_rule=True), along)[:, 0]
    return torch.where(crystals[graph.batch][:, None], forces, 0.0)


def polarizability(dipole: Tensor, field: Tensor, *, create_graph: bool = False) -> Tensor:
    """``alpha[i, j] = d mu_i / d E_j`` of every system, (n_systems, 3, 3) in e A^2 / V.

    Args:
        dipole: (n_systems, 3) in e A, computed from ``field``; a system's dipole depends on its
            own field only.
        field: (n_systems, 3) in V / A, with a gradient.
        create_graph: Keep the graph for further derivatives.

    Raises:
        PropertyError: if the dipole does not depend on the field.
    """
    jacobian = system_jacobian(dipole, field, create_graph=create_graph)
    if jacobian is None:
        raise PropertyError(NO_RESPONSE)
    return jacobian
