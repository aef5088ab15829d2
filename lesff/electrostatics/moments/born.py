r"""Born effective charges of periodic systems: image-exact, and with the published sine stencil.

An atom that moves with all its images carries its own charge along and changes those around it.
With distances from the image that caused the change the dipole's derivative is

.. math::
    Z^*_{i,ab} = q_i \delta_{ab}
      + \sum_{j \in \text{home}} \sum_{i'} (r_j - r_{i'})_a \frac{\partial q_j}{\partial r_{i'b}}

over all images i' of atom i: a common lattice shift of j and i' changes no term, so that "all j,
one i" and "home j, all images of i" are the same sum. With ``B = sum_j r_j q_j`` (r_j held fixed)
and ``q_tot = sum_j q_j`` over the home cell it reads ``Z*[i, a, b] = q_i delta_ab + sum_{i'} [d B_a
/ d r_i'b - r_i'a d q_tot / d r_i'b]``.

Local charges are functions of a finite neighbourhood, so they are evaluated on an unfolded cluster
in which every image is an atom of its own: no sine, no dependence on the cell, origin independent.
The same device as the unfolded-cell heat flux (Langer et al., arXiv 2305.01401).

The sum over j is inside the backward pass, so no Jacobian dq_j/dr_i is ever formed: one pass per
direction and one for q_tot, memory linear in the atoms, and bounded by handling the home atoms in
chunks: the sum over j splits.

Where the charges are those of a network whose layers can be looked into, nothing but geometry
differs between an atom and its images: their features are those of the home atom. The backward pass
then stops after every layer, moves what has arrived at images to their home atoms, with the
distance that it has come, and goes on from there (:func:`_response_by_layers`): images one edge far
are enough, and 192 atoms of water take 5 evaluations of energy and forces instead of 41.

Index letters: i or n atom, m direction of P, a and b Cartesian, b that of the displacement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.atoms.neighbors import find_neighbors
from lesff.autograd import gradients

BornMode = Literal["exact", "sine"]
CHUNK_ATOMS = 4096
"""Home atoms whose charges are evaluated at a time, by default."""

ChargeFunction = Callable[..., Tensor]
"""Local charges of a graph, a node state, potentials and, layer by layer, ``layer_features``."""


def periodic_born_charges(
    charges: Tensor,
    graph: AtomGraph,
    charge_function: ChargeFunction,
    node_state: Tensor | None,
    *,
    reach: float,
    cutoff: float,
    potentials: Tensor | None = None,
    directions: Tensor | None = None,
    chunk_atoms: int = CHUNK_ATOMS,
    by_layers: bool = False,
) -> Tensor:
    """Born effective charges, (n_atoms, 3, 3) in e, [a, i, j] = dP_i / dr_aj.

    A uniform shift of the charges to the total charge enters through ``charges`` only, and the
    potentials of a head stay as they are: in a periodic cell the dipole of the derivative of either
    is not defined.

    Args:
        charges: (n_atoms,) charges that sum to the total charge of each system.
        graph: The batch; rows of systems that are not periodic stay zero.
        charge_function: Local charges of a graph, a node state and potentials.
        node_state: (n_atoms, channels) charge and spin increment of the node features, or None.
        reach: Receptive field of a charge in A.
        cutoff: Edge cutoff in A.
        potentials: (n_systems, k), see :class:`lesff.heads.base.HeadOutput`, or None.
        directions: (n_systems, m, 3); row m of the result is then ``sum_i d_mi dP_i / dr_aj``.
        chunk_atoms: Home atoms whose charges are evaluated at a time.
        by_layers: Whether images take their features from home atoms, see
            :class:`lesff.potential.response.LocalCharges`: about a fifth of the time, for systems
            of up to ``chunk_atoms`` atoms.
    """
    if directions is None:
        eye = torch.eye(3, dtype=charges.dtype, device=charges.device)
        directions = eye.expand(graph.n_systems, 3, 3)
    counts = graph.atoms_per_system().tolist()
    is_periodic = graph.pbc.all(1).tolist()
    rows, start = [], 0
    for system, count in enumerate(counts):
        atoms = slice(start, start + count)
        start += count
        along = directions[system]  # (m, 3)
        # q_i d_mb: the moving charge itself, (count, m, 3)
        total = charges[atoms, None, None] * along
        if is_periodic[system] and by_layers and count <= chunk_atoms:
            cluster, home = _with_neighbours(graph, system, atoms, cutoff)
            state = None if node_state is None else node_state.detach()[atoms][home]
            common = None if potentials is None else potentials.detach()[system : system + 1]
            parts = _response_by_layers(
                cluster, home, lambda g, f, s=state, c=common: charge_function(g, s, c, f), along
            )
            rows.append(total.index_add(0, home, parts))
            continue
        for members in _chunks(graph, system, atoms, chunk_atoms) if is_periodic[system] else ():
            cluster, home = unfold(
                graph, system, atoms, reach=reach, cutoff=cutoff, members=members
            )
            state = None if node_state is None else node_state.detach()[atoms][home]
            common = None if potentials is None else potentials.detach()[system : system + 1]
            parts = _charge_response(
                cluster, len(members), lambda g, s=state, c=common: charge_function(g, s, c), along
            )
            # sum over images i': each cluster atom's share goes to its home atom
            total = total.index_add(0, home, parts)
        rows.append(total if is_periodic[system] else torch.zeros_like(total))
    return torch.cat(rows)


def _chunks(graph: AtomGraph, system: int, atoms: slice, chunk_atoms: int) -> list[np.ndarray]:
    """Atoms of a system in slices of the cell across its longest axis, at most that many each."""
    count = atoms.stop - atoms.start
    if count <= chunk_atoms:
        return [np.arange(count)]
    cell = graph.cell[system].detach().cpu().double().numpy()
    # column j of h^-1 is normal to the planes of the other two vectors, its norm one over their
    # distance: cut where the cell is longest, so that slices have the least surface
    inverse = np.linalg.inv(cell)
    axis = int(np.argmin(np.linalg.norm(inverse, axis=0)))
    along = graph.positions[atoms].detach().cpu().double().numpy() @ inverse[:, axis]
    return np.array_split(np.argsort(along, kind="stable"), -(-count // chunk_atoms))


def sine_born_charges(charges: Tensor, positions: Tensor, cell: Tensor, batch: Tensor) -> Tensor:
    """Born effective charges with the published sine stencil, (n_atoms, 3, 3) in e.

    ``Z*[i, a, b] = q_i delta_ab + sum_j sum_c h_ca sin(2 pi (s_jc - s_ic)) / (2 pi) dq_j/dr_ib``
    (arXiv 2504.05169, eq. 10): displacements are replaced by sines of the cell's period, which
    errs by ``(2 pi ds)^2 / 6`` at a range of ``ds`` cells. For comparison with published numbers;
    :func:`periodic_born_charges` is exact.

    Args:
        charges: (n_atoms,) in e, with a graph to ``positions``.
        positions: (n_atoms, 3) in A.
        cell: (n_systems, 3, 3) in A, all periodic.
        batch: (n_atoms,) system of each atom.
    """
    # 2 pi s of each atom along the three lattice vectors, (n_atoms, c); detached, as the weights of
    # the dq_j stay fixed
    inverse = torch.linalg.inv(cell)
    angle = 2.0 * torch.pi * torch.einsum("ni,nij->nj", positions, inverse[batch]).detach()
    sine, cosine = torch.sin(angle), torch.cos(angle)
    rows = []
    for c in range(3):
        # sum_j sin(x_jc) dq_j/dr_nb and the same with cosines, (n, b): one backward pass each
        parts = []
        for weight in (sine, cosine):
            (part,) = gradients(
                weight[:, c] * charges, [positions], create_graph=False, keep_graph=True
            )
            parts.append(part)
        # sin(x_j - x_i) = sin(x_j) cos(x_i) - cos(x_j) sin(x_i)
        rows.append(cosine[:, c, None] * parts[0] - sine[:, c, None] * parts[1])
    response = torch.stack(rows, dim=1) / (2.0 * torch.pi)  # (n, c, b)
    eye = torch.eye(3, dtype=charges.dtype, device=charges.device)
    # fractional displacements c to Cartesian ones a by the rows of the cell
    moved = torch.einsum("nca,ncb->nab", cell[batch], response)
    return charges.detach()[:, None, None] * eye + moved


def _charge_response(
    cluster: AtomGraph, n_home: int, charges_of: Callable[[AtomGraph], Tensor], along: Tensor
) -> Tensor:
    """Share of every cluster atom in the response of the first ``n_home`` charges.

    ``sum_{j home} d_m . (r_j - r_i') dq_j / dr_i'b``, (n_cluster, m, 3).

    Args:
        cluster: Home atoms first, then images.
        n_home: Number of home atoms.
        charges_of: Local charges of a graph.
        along: (m, 3) directions d.
    """
    with torch.enable_grad():
        positions = cluster.positions.detach().requires_grad_()
        local = charges_of(cluster.replace(positions=positions))[:n_home]
        # d_m . r with r held fixed: only the charges move
        work = positions.detach() @ along.T  # (n_cluster, m)
        moment = (work[:n_home] * local[:, None]).sum(0)  # d_m . B, (m,)
        (d_total,) = gradients(local, [positions], create_graph=False, keep_graph=True)
        rows = []
        for m in range(len(along)):
            last = m == len(along) - 1
            (d_moment,) = gradients(moment[m], [positions], create_graph=False, keep_graph=not last)
            rows.append(d_moment - work[:, m, None] * d_total)  # (n_cluster, b)
    return torch.stack(rows, dim=1)  # (n_cluster, m, b)


def _response_by_layers(
    cluster: AtomGraph,
    home: Tensor,
    charges_of: Callable[[AtomGraph, Callable[[Tensor], Tensor]], Tensor],
    along: Tensor,
) -> Tensor:
    """:func:`_charge_response` where images have the features of their home atoms after each layer.

    A derivative that arrives at the features of an image ``s'`` of s goes on from s: what is
    weighted with the distance from ``s'`` so far, ``A = sum_j d_m . (r_j - r_s') dq_j / dh_s'``, is
    then weighted with that from s, whose neighbours are the images i', in addition: ``d_m . (r_j -
    r_s') + d_m . (r_s - r_i')``. One backward pass per direction and one without weights, each in
    as many parts as there are layers, so that the cluster reaches one edge far.

    Args:
        cluster: Home atoms first, then images within one edge of these.
        home: (n_cluster,) the home atom of each.
        charges_of: Local charges of a graph, with ``layer_features``.
        along: (m, 3) directions d.
    """
    n_home = int(home.max()) + 1
    found: list[Tensor] = []
    leaves: list[Tensor] = []

    def folded(features: Tensor) -> Tensor:
        found.append(features)
        leaves.append(features.detach().index_select(0, home).requires_grad_())
        return leaves[-1]

    with torch.enable_grad():
        positions = cluster.positions.detach().requires_grad_()
        local = charges_of(cluster.replace(positions=positions), folded)[:n_home]
    work = (positions.detach() @ along.T).T  # d_m . r, (m, n_cluster)
    # derivatives by every leaf and by positions: [0] unweighted, [1 + m] weighted with d_m . r_j
    weights = [torch.ones_like(local), *work[:, :n_home]]
    inputs = [*leaves, positions]
    totals = _weighted_gradients(local, weights, inputs)
    for layer in reversed(range(len(leaves))):
        arrived = [row[layer] for row in totals]
        shape = (-1, *[1] * (arrived[0].ndim - 1))
        # U_s, and A_s + d_m . r_s U_s
        own = _at_home(arrived[0], home, n_home)
        weights = [own]
        for m, x in enumerate(work):
            away = _at_home(arrived[1 + m] - x.reshape(shape) * arrived[0], home, n_home)
            weights.append(away + x[:n_home].reshape(shape) * own)
        more = _weighted_gradients(found[layer][:n_home], weights, [*leaves[:layer], positions])
        for row, added in zip(totals, more, strict=True):
            row[:layer] = [a + b for a, b in zip(row[:layer], added[:-1], strict=True)]
            row[-1] = row[-1] + added[-1]
    d_total = totals[0][-1]
    parts = [row[-1] - x[:, None] * d_total for row, x in zip(totals[1:], work, strict=True)]
    return torch.stack(parts, dim=1)  # (n_cluster, m, b)


def _weighted_gradients(
    output: Tensor, weights: list[Tensor], inputs: list[Tensor]
) -> list[list[Tensor]]:
    """Derivatives of ``sum(weight * output)`` by the inputs, for every weight."""
    # all layers share what belongs to pairs: the graph is kept to the end
    return [
        gradients(weight * output, inputs, create_graph=False, keep_graph=True)
        for weight in weights
    ]


def _at_home(values: Tensor, home: Tensor, n_home: int) -> Tensor:
    """Sum over all images of every home atom."""
    return values.new_zeros(n_home, *values.shape[1:]).index_add(0, home, values)


def _with_neighbours(
    graph: AtomGraph, system: int, atoms: slice, cutoff: float
) -> tuple[AtomGraph, Tensor]:
    """As :func:`unfold` for one edge, without edges between images and images without edges."""
    cluster, home = unfold(graph, system, atoms, reach=cutoff, cutoff=cutoff)
    n_home = atoms.stop - atoms.start
    first, second = cluster.edge_index
    kept = torch.nonzero((first < n_home) | (second < n_home))[:, 0]
    # places of edges and atoms among those that stay; both directions of a pair do, or neither
    place = torch.empty_like(cluster.reverse_edge)
    place[kept] = torch.arange(len(kept), device=place.device)
    edges = cluster.edge_index[:, kept]
    members = torch.cat([torch.arange(n_home, device=home.device), edges[0], edges[1]]).unique()
    rank = torch.empty_like(home)
    rank[members] = torch.arange(len(members), device=home.device)
    return cluster.replace(
        positions=cluster.positions[members],
        atomic_numbers=cluster.atomic_numbers[members],
        batch=cluster.batch[members],
        edge_index=rank[edges],
        cell_shifts=cluster.cell_shifts[kept],
        reverse_edge=place[cluster.reverse_edge[kept]],
    ), home[members]


def unfold(
    graph: AtomGraph,
    system: int,
    atoms: slice,
    *,
    reach: float,
    cutoff: float,
    members: np.ndarray | None = None,
) -> tuple[AtomGraph, Tensor]:
    """Cluster of one periodic system: home atoms first, then all images within ``reach``.

    Args:
        graph: The batch.
        system: Which system of it.
        atoms: Its atoms.
        reach: How far from a home atom images are needed, A.
        cutoff: Edge cutoff in A.
        members: Home atoms, counted within the system; all by default.

    Returns:
        The cluster as an open graph, and (n_cluster,) the home atom of each of its atoms.
    """
    positions = graph.positions[atoms].detach().cpu().double().numpy()
    cell = graph.cell[system].detach().cpu().double().numpy()
    numbers = graph.atomic_numbers[atoms]
    count = len(positions)
    members = np.arange(count) if members is None else members
    # an image can matter if it lies within `reach` of some home atom; in fractional coordinates
    # `reach` is at most reach / (distance of lattice planes), and the box of all home atoms with
    # that margin holds every such image (and more)
    margin = reach * np.linalg.norm(np.linalg.inv(cell), axis=0) + 1e-9
    fractional = positions @ np.linalg.inv(cell)
    low, high = fractional[members].min(0) - margin, fractional[members].max(0) + margin
    # lattice shifts that can bring an atom into the box, (n_shifts, 3)
    first = np.floor(low - fractional.max(0)).astype(int)
    last = np.ceil(high - fractional.min(0)).astype(int)
    axes = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
    shifts = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    is_home = np.zeros(count, dtype=bool)
    is_home[members] = True
    images, owners = [], []
    for shift in shifts:
        moved = fractional + shift
        near = np.all((moved > low) & (moved < high), axis=1)
        if not shift.any():
            near &= ~is_home  # home atoms stand in front already
        images.append(positions[near] + shift @ cell)  # rows of the cell are lattice vectors
        owners.append(np.flatnonzero(near))
    points = np.concatenate([positions[members], *images])
    home = torch.from_numpy(np.concatenate([members, *owners])).to(graph.positions.device)
    # an open graph: images are atoms of their own, edges have no shifts
    found = find_neighbors(points, np.zeros((3, 3)), np.zeros(3, dtype=bool), cutoff)
    device = graph.positions.device
    cluster = AtomGraph(
        positions=torch.from_numpy(points).to(graph.positions),
        atomic_numbers=numbers[home],
        batch=torch.zeros(len(points), dtype=torch.int64, device=device),
        cell=torch.zeros_like(graph.cell[:1]),
        pbc=torch.zeros_like(graph.pbc[:1]),
        total_charge=graph.total_charge[system : system + 1],
        spin_multiplicity=graph.spin_multiplicity[system : system + 1],
        edge_index=torch.from_numpy(found.edge_index).to(device),
        cell_shifts=torch.from_numpy(found.cell_shifts).to(device),
        reverse_edge=torch.from_numpy(found.reverse_edge).to(device),
    )
    return cluster, home
