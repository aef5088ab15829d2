"""Born effective charges of periodic systems, image-exact.

``Z*[i, a, b] = q_i delta_ab + sum_{i'} [d B_a / d r_i'b - r_i'a d q_tot / d r_i'b]`` over all
images i' of atom i, with ``B = sum_j r_j q_j`` (r_j held fixed) over the home cell. Local charges
are functions of a finite neighbourhood, so they are evaluated on an unfolded cluster in which every
image is an atom of its own: no sine, no dependence on the cell, origin independent. The same device
as the unfolded-cell heat flux (Langer et al., arXiv 2305.01401).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lesff.derivatives import gradients
from lesff.graph import AtomGraph
from lesff.neighbors import find_neighbors

ChargeFunction = Callable[[AtomGraph, Tensor | None], Tensor]


def periodic_born_charges(
    charges: Tensor,
    graph: AtomGraph,
    charge_function: ChargeFunction,
    node_state: Tensor | None,
    *,
    reach: float,
    cutoff: float,
) -> Tensor:
    """Born effective charges, (n_atoms, 3, 3) in e, [a, i, j] = dP_i / dr_aj.

    A uniform shift of the charges to the total charge enters through ``charges`` only: in a
    periodic cell the dipole of its derivative is not defined.

    Args:
        charges: (n_atoms,) charges that sum to the total charge of each system.
        graph: The batch; rows of systems that are not periodic stay zero.
        charge_function: Local charges of a graph.
        node_state: (n_atoms, channels) charge and spin increment of the node features, or None.
        reach: Receptive field of a charge in A.
        cutoff: Edge cutoff in A.
    """
    counts = graph.atoms_per_system().tolist()
    is_periodic = graph.pbc.all(1).tolist()
    rows, start = [], 0
    for system, count in enumerate(counts):
        atoms = slice(start, start + count)
        start += count
        if not is_periodic[system]:
            rows.append(charges.new_zeros(count, 3, 3))
            continue
        cluster, home = unfold(graph, system, atoms, reach=reach, cutoff=cutoff)
        state = None if node_state is None else node_state.detach()[atoms][home]
        response = _charge_response(cluster, home, count, charge_function, state)
        eye = torch.eye(3, dtype=charges.dtype, device=charges.device)
        rows.append(charges[atoms, None, None] * eye + response)
    return torch.cat(rows)


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
    inverse = torch.linalg.inv(cell)
    angle = 2.0 * torch.pi * torch.einsum("ni,nij->nj", positions, inverse[batch]).detach()
    sine, cosine = torch.sin(angle), torch.cos(angle)
    rows = []
    for c in range(3):
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
    moved = torch.einsum("nca,ncb->nab", cell[batch], response)
    return charges.detach()[:, None, None] * eye + moved


def _charge_response(
    cluster: AtomGraph, home: Tensor, n_home: int, charge_function: ChargeFunction,
    state: Tensor | None,
) -> Tensor:  # fmt: skip
    with torch.enable_grad():
        positions = cluster.positions.detach().requires_grad_()
        local = charge_function(cluster.replace(positions=positions), state)[:n_home]
        r_fixed = positions.detach()
        moment = (r_fixed[:n_home] * local[:, None]).sum(0)  # (3,)
        (d_total,) = gradients(local, [positions], create_graph=False, keep_graph=True)
        rows = []
        for a in range(3):
            (d_moment,) = gradients(moment[a], [positions], create_graph=False, keep_graph=a < 2)
            rows.append(d_moment - r_fixed[:, a, None] * d_total)
    per_image = torch.stack(rows, dim=1)  # (n_cluster, a, b)
    return per_image.new_zeros(n_home, 3, 3).index_add(0, home, per_image)


def unfold(
    graph: AtomGraph, system: int, atoms: slice, *, reach: float, cutoff: float
) -> tuple[AtomGraph, Tensor]:
    """Cluster of one periodic system: home atoms first, then all images within ``reach``.

    Returns:
        The cluster as an open graph, and (n_cluster,) the home atom of each of its atoms.
    """
    positions = graph.positions[atoms].detach().cpu().double().numpy()
    cell = graph.cell[system].detach().cpu().double().numpy()
    numbers = graph.atomic_numbers[atoms]
    # an image can matter if it lies within `reach` of some home atom
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    fractional = positions @ np.linalg.inv(cell)
    extent = fractional.max(0) - fractional.min(0)
    n = np.ceil(extent + reach / heights).astype(int)
    grid = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in n], indexing="ij"), -1)
    shifts = grid.reshape(-1, 3)
    shifts = shifts[np.any(shifts != 0, axis=1)]
    margin = reach / heights + 1e-9
    image = (fractional[None] + shifts[:, None]).reshape(-1, 3)
    near = np.all(
        (image > fractional.min(0) - margin) & (image < fractional.max(0) + margin), axis=1
    )
    points = np.concatenate([positions, image[near] @ cell])
    home_index = np.tile(np.arange(len(positions)), len(shifts))[near]
    home = torch.from_numpy(np.concatenate([np.arange(len(positions)), home_index]))
    home = home.to(graph.positions.device)
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
