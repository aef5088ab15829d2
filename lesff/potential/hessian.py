"""Second derivatives of the energy by positions: central differences of forces, in batches.

Why not double backward, which is exact: one column of it takes 17 ms where four evaluations of
forces in a batch take 5 (off-small, 24 atoms, float32, one core), 52 against 13 (off-medium), 172
against 60 (off-small, 192 atoms of water): compiled kernels have no second derivatives. The stencil
of fourth order errs by ``h^4/30 d^6E/dr^6``. ``benchmarks/second_derivatives.py`` measures both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph, ExactGeometry, collate, one_system

STEPS = {torch.float32: 1e-2, torch.float64: 1e-3}
"""h in A, of the least error: against double backward 5e-4 and 1e-8 eV/A^2 (methoxyethane, the
largest element 58), all but 1e-4 of which is rounding of single precision in the first."""
BATCH_ATOMS = 1024
"""Atoms evaluated at a time, or one structure: bounds the memory. Larger batches are not faster."""

_STENCIL = ((-2.0, 1.0 / 12.0), (-1.0, -2.0 / 3.0), (1.0, 2.0 / 3.0), (2.0, -1.0 / 12.0))
"""Multiples of h, and weights of the first derivative times h (Abramowitz and Stegun 25.3.23)."""


def hessian(
    graph: AtomGraph, forces_of: Callable[[AtomGraph], Tensor], *, batch_atoms: int = BATCH_ATOMS
) -> Tensor:
    """``H[a, i, b, j] = d2 E / dr_ai dr_bj`` of every system in eV/A^2.

    Charges of atoms, moments and dispersion follow the displacements; total charge, spin, cell and
    external field stay.

    Args:
        graph: The batch. Pairs beyond the cutoff at rest are not looked for: they enter with the
            power of the cutoff function.
        forces_of: Forces of a batch, (n_atoms, 3) in eV/A.
        batch_atoms: Atoms evaluated at a time.

    Returns:
        (n_atoms, 3, n_most, 3) in float64, symmetric; b counts atoms of the same system, and rows
        of systems smaller than the largest are filled up with zeros.
    """
    counts = graph.atoms_per_system().tolist()
    found = torch.zeros(
        graph.n_atoms, 3, max(counts), 3, dtype=torch.float64, device=graph.positions.device
    )
    start = 0
    for system, count in enumerate(counts):
        matrix = _of_one_system(one_system(graph, system), forces_of, batch_atoms)
        found[start : start + count, :, :count] = matrix.reshape(count, 3, count, 3)
        start += count
    return found


def _of_one_system(
    graph: AtomGraph, forces_of: Callable[[AtomGraph], Tensor], batch_atoms: int
) -> Tensor:
    """(3 n, 3 n), the mean of the matrix of differences and its transpose."""
    n_columns = 3 * graph.n_atoms
    step = STEPS[graph.positions.dtype]
    columns = graph.positions.new_zeros(n_columns, n_columns, dtype=torch.float64)
    n_copies = max(batch_atoms // graph.n_atoms, 1)
    batch: AtomGraph | None = None
    for column, shift, weight in _points(n_columns, n_copies, columns.device):
        if batch is None or batch.n_systems != len(column):
            batch = collate([graph] * len(column))
        forces = forces_of(_displaced(batch, column, step * shift))
        # c: displaced coordinate, k: component of the force, all atoms
        slopes = -weight[:, None] / step * forces.detach().reshape(len(column), -1)
        columns.index_add_(0, column, slopes.to(columns.dtype))
    return 0.5 * (columns + columns.T)


def _points(
    n_columns: int, n_copies: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Coordinate, multiple of the step and weight of every evaluation, (n_copies,) each."""
    shift, weight = torch.tensor(_STENCIL, dtype=torch.float64, device=device).T
    column = torch.arange(n_columns, device=device).repeat_interleave(len(shift))
    table = column, shift.repeat(n_columns), weight.repeat(n_columns)
    yield from zip(*(values.split(n_copies) for values in table), strict=True)


def _displaced(batch: AtomGraph, column: Tensor, shift: Tensor) -> AtomGraph:
    """Copies of one structure, of each of which one coordinate is moved by so much (A)."""
    exact = batch.exact
    # displacements of float32 positions would be rounded
    origin = batch.positions if exact is None else exact.positions
    positions = origin.detach().to(torch.float64, copy=True).reshape(len(column), -1)
    positions[torch.arange(len(column), device=column.device), column] += shift
    positions = positions.reshape(-1, 3)
    if batch.positions.dtype == torch.float64:
        return batch.replace(positions=positions)
    cell = (batch.cell if exact is None else exact.cell).detach().to(torch.float64)
    return batch.replace(
        positions=positions.to(batch.positions.dtype),
        exact=ExactGeometry(positions=positions, cell=cell),
    )
