"""Response properties of a potential: what may be asked, Born effective charges, field forces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph, lattice_offset
from lesff.atoms.segments import segment_sum
from lesff.autograd import jacobian_rows, system_jacobian
from lesff.electrostatics.moments.born import (
    CHUNK_ATOMS,
    BornMode,
    ChargeFunction,
    periodic_born_charges,
    sine_born_charges,
)
from lesff.electrostatics.moments.field import NO_RESPONSE, has_field
from lesff.electrostatics.moments.totals import dipole_moment, moment_origin
from lesff.errors import PropertyError


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
        reach: Gives the receptive field in A, which may depend on the structure.
        cutoff: Edge cutoff in A.
        polarization: Function of the graph whose derivatives are Born charges in crystals, too,
            (n_systems, 3) in e A; None where there is none.
        by_layers: Whether the function takes ``layer_features``, and whatever of an atom enters
            charges of others is in these: at most one edge leads from the last ones to a charge.
    """

    function: ChargeFunction
    node_state: Tensor | None
    potentials: Tensor | None
    reach: Callable[[], float]
    cutoff: float
    polarization: Callable[[AtomGraph], Tensor] | None = None
    by_layers: bool = False


def born_charges(
    charges: Tensor,
    graph: AtomGraph,
    local: LocalCharges,
    options: BornOptions,
    directions: Tensor | None = None,
    *,
    dipoles: Tensor | None = None,
    positions: Tensor | None = None,
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
        positions: (n_atoms, 3) in A, what charges and dipoles are differentiated by; those of the
            graph if not given.

    Raises:
        PropertyError: for the sine stencil, which is that of charges, and crystals with dipoles.
    """
    if directions is None:
        eye = torch.eye(3, dtype=charges.dtype, device=charges.device)
        directions = eye.expand(graph.n_systems, 3, 3)
    positions = graph.positions if positions is None else positions
    periodic = graph.pbc.all(1)
    parts = []
    # molecules: Z* is the Jacobian of the dipole; s: system, m: direction, i: Cartesian
    if not bool(periodic.all()):
        dipole = dipole_moment(charges, graph, moment_origin(graph), dipoles)
        along = torch.einsum("smi,si->sm", directions, dipole)
        parts.append(jacobian_rows(along, positions))
    # crystals: charges on an unfolded cluster, atomic dipoles as they are
    if bool(periodic.any()):
        crystal = _crystal(charges, graph, local, options, directions, positions)
        if dipoles is not None:
            if options.mode == "sine":
                raise PropertyError(
                    "`born.mode` must be 'exact' for a crystal and a model with atomic dipoles, "
                    "got 'sine': the published stencil is for charges only"
                )
            total = segment_sum(dipoles, graph.batch, graph.n_systems)
            along = torch.einsum("smi,si->sm", directions, total)
            crystal = crystal + jacobian_rows(along, positions)
        parts.append(crystal)
    born = parts[0]
    if len(parts) == 2:
        # each part has rows for all atoms, (n_atoms, m, 3); take those of its own systems
        born = torch.where(periodic[graph.batch][:, None, None], parts[1], parts[0])
    born = born.to(charges.dtype)
    return _with_sum_rule(born, graph, directions) if options.sum_rule else born


def _crystal(
    charges: Tensor,
    graph: AtomGraph,
    local: LocalCharges,
    options: BornOptions,
    directions: Tensor,
    positions: Tensor,
) -> Tensor:
    """Born effective charges of crystals, (n_atoms, m, 3) in e.

    Derivatives of the polarization where the charges have one; else from the charges, image by
    image.
    """
    if options.mode == "exact" and local.polarization is not None:
        along = torch.einsum("smi,si->sm", directions, local.polarization(graph))
        return jacobian_rows(along, positions)
    if options.mode == "exact":
        return periodic_born_charges(
            charges.detach(),
            _wrapped(graph),
            local.function,
            local.node_state,
            reach=local.reach(),
            cutoff=local.cutoff,
            potentials=local.potentials,
            directions=directions,
            chunk_atoms=options.chunk_atoms,
            by_layers=local.by_layers,
        )
    # the stencil, in the positions' own precision
    eye = torch.eye(3, dtype=positions.dtype, device=charges.device)
    cell = (graph.cell if graph.exact is None else graph.exact.cell).to(positions.dtype)
    cell = torch.where(graph.pbc.all(1)[:, None, None], cell, eye)  # molecules: unused rows
    born = sine_born_charges(charges, positions, cell, graph.batch)
    # n: atom, a, b: Cartesian
    return torch.einsum("nma,nab->nmb", directions[graph.batch].to(born.dtype), born)


def _wrapped(graph: AtomGraph) -> AtomGraph:
    """The graph with atoms near its cell, for unfolding: the images it needs start from there.

    Edges keep the shifts of the atoms as they were, so that they fit no longer.
    """
    positions = graph.positions.detach().to(torch.float64)
    offset = lattice_offset(graph, positions, graph.cell.detach().to(torch.float64))
    return graph.replace(positions=(positions - offset).to(graph.positions.dtype))


def _with_sum_rule(born: Tensor, graph: AtomGraph, directions: Tensor) -> Tensor:
    """Born effective charges that obey the acoustic sum rule, (n_atoms, m, 3) in e.

    Moving all atoms by b changes the polarisation by ``Q b``: ``sum_a Z*_a = Q 1``. Whatever the
    sum exceeds it by is taken from all atoms alike.
    """
    total = segment_sum(born, graph.batch, graph.n_systems)
    excess = total - graph.total_charge[:, None, None] * directions
    mean = excess / graph.atoms_per_system()[:, None, None]
    return born - mean[graph.batch]


def crystal_field_forces(
    charges: Tensor, graph: AtomGraph, local: LocalCharges, positions: Tensor | None = None
) -> Tensor:
    """``Z*^T E`` of charges on atoms of crystals in eV/A, (n_atoms, 3); zero for other systems.

    The acoustic sum rule is imposed: a uniform field exerts no net force on a neutral cell.

    Args:
        charges: (n_atoms,) in e, summing to zero in crystals with a field.
        graph: The batch, with a field.
        local: The charges as a local function.
        positions: See :func:`born_charges`.
    """
    field = graph.external_field
    crystals = has_field(graph) & graph.pbc.all(1)
    if field is None or not bool(crystals.any()):
        return torch.zeros_like(graph.positions)
    # one direction, m = 1, of the field's length: sum_i E_i dP_i / dr_aj is the force itself
    along = torch.where(crystals[:, None], field, 0.0)[:, None]  # [s, 1, i]
    options = BornOptions(sum_rule=True)
    forces = born_charges(charges, graph, local, options, along, positions=positions)[:, 0]
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
