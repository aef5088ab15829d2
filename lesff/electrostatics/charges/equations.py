r"""Linear equations of charge equilibration with fixed totals, as plain numbers.

.. math::
    \begin{pmatrix} K & B^T \\ B & 0 \end{pmatrix} \begin{pmatrix} q \\ \lambda \end{pmatrix}
    = \begin{pmatrix} b \\ Q \end{pmatrix}, \qquad K = A + \mathrm{diag}\, J

``B`` sums the charges of each fragment: ``B_fi = 1`` for the atoms i of fragment f. Small systems
are factorised once, all systems of a batch together; large ones use conjugate gradients in the
space of charges that keep the totals, where each step costs one long-range energy and its gradient
and no matrix is stored (projected preconditioned conjugate gradients: Gould, Hribar, Nocedal, SIAM
J. Sci. Comput. 23, 1376 (2001)).

Dense. The first row gives ``q = K^-1 (b - B^T lambda)``, the second then

.. math::
    \Sigma \lambda = B K^{-1} b - Q, \qquad \Sigma = B K^{-1} B^T \quad (\text{Schur complement}).

Slabs have the matrix ``K - c 1 1^T``, with a constant c for all pairs that may make it indefinite.
At fixed totals ``c 1 1^T q = c Q_tot 1``, and ``1 = B^T 1``: the charges are those of K, and every
multiplier of the system is larger by ``c Q_tot``.

Iterative. With q at its totals all steps p have ``B p = 0``, and of ``r = b - K q`` only the part
``P r`` with ``B P r = 0`` matters: r less its mean in each fragment. At the solution ``r = B^T
lambda``, whose means are lambda. The preconditioner solves the same equations with the diagonal D
of K: ``z = D^-1 (r - B^T mu)`` with ``B z = 0``, that is ``mu_f = sum_f D^-1 r / sum_f D^-1``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum
from lesff.electrostatics.charges.coulomb_matrix import coulomb_matrix
from lesff.electrostatics.coulomb import latent_energy
from lesff.electrostatics.sums.padding import Padding
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import ConvergenceError, NotPositiveDefiniteError, UnsupportedInputError

_TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12}
"""Residual relative to the right side at which the iteration stops."""
_MAX_ITERATIONS = 500


@dataclass(frozen=True)
class Fragments:
    """Groups of atoms with a given total charge.

    Attributes:
        index: (n_atoms,) fragment of each atom.
        system: (n_fragments,) system of each fragment.
    """

    index: Tensor
    system: Tensor

    @staticmethod
    def whole_systems(graph: AtomGraph) -> Fragments:
        """One fragment per system."""
        return Fragments(graph.batch, torch.arange(graph.n_systems, device=graph.batch.device))

    @staticmethod
    def of(index: Tensor, n_fragments: int, graph: AtomGraph) -> Fragments:
        """Check that the fragments cover every atom once and stay inside systems.

        Args:
            index: (n_atoms,) int64, fragment of each atom, from 0.
            n_fragments: Number of fragments.
            graph: The batch.

        Raises:
            UnsupportedInputError: if they do not.
        """
        if index.shape != (graph.n_atoms,):
            raise UnsupportedInputError(
                f"`fragments` must have one entry per atom ({graph.n_atoms}), "
                f"got shape {tuple(index.shape)}"
            )
        outside = torch.nonzero((index < 0) | (index >= n_fragments)).flatten().tolist()
        if outside:
            raise UnsupportedInputError(
                f"`fragments` must cover every atom with a number from 0 to {n_fragments - 1} (one "
                f"per entry of `totals`), got {int(index[outside[0]])} for atom {outside[0]}"
            )
        # fragments without atoms would make the Schur complement singular
        empty = torch.nonzero(torch.bincount(index, minlength=n_fragments) == 0).flatten().tolist()
        if empty:
            raise UnsupportedInputError(
                f"fragment {empty[0]} has a total charge but no atoms; give `totals` "
                "for fragments with atoms only"
            )
        # the system of one of its atoms is that of the fragment, if all others agree
        system = torch.zeros(n_fragments, dtype=torch.int64, device=index.device)
        system = system.index_copy(0, index, graph.batch)
        split = torch.nonzero(system[index] != graph.batch).flatten().tolist()
        if split:
            raise UnsupportedInputError(
                f"fragment {int(index[split[0]])} has atoms of more than one structure; "
                "number the fragments of each structure separately"
            )
        return Fragments(index, system)

    @property
    def count(self) -> int:
        """Number of fragments."""
        return len(self.system)

    def sum(self, values: Tensor) -> Tensor:
        """Sums of (n_atoms,) values over fragments, (n_fragments,)."""
        return segment_sum(values, self.index, self.count)


class Equations(ABC):
    """The linear system of a batch at given positions and hardness."""

    @abstractmethod
    def solve(self, right: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
        """Charges (n_atoms,) and multipliers (n_fragments,).

        Args:
            right: (n_atoms,) b in eV / e.
            totals: (n_fragments,) Q in e.
        """


class DenseEquations(Equations):
    """Cholesky factors in float64, Schur complement for the totals.

    Raises:
        NotPositiveDefiniteError: if ``A + diag J`` is not positive definite.
    """

    @torch.no_grad()
    def __init__(
        self, hardness: Tensor, graph: AtomGraph, settings: EwaldSettings, fragments: Fragments
    ) -> None:
        self.padding = Padding.of(graph.batch, graph.n_systems)
        self.fragments = fragments
        matrix, self.background = coulomb_matrix(graph, settings)  # [s, a, a] and c, [s]
        n_max = self.padding.n_max
        # K = A + diag J; the identity on padding, where b = 0, gives q = 0
        diagonal = torch.ones_like(matrix[:, 0]).flatten()
        diagonal = diagonal.index_copy(0, self.padding.slot, hardness.double())
        matrix.diagonal(dim1=1, dim2=2).add_(diagonal.view(-1, n_max))
        self.factor, info = torch.linalg.cholesky_ex(matrix)
        if bool((info != 0).any()):
            system = int(torch.nonzero(info)[0])
            lowest = float(torch.linalg.eigvalsh(matrix[system])[0])
            raise NotPositiveDefiniteError(
                f"the Coulomb matrix plus hardness of structure {system} must be positive definite "
                f"for charges to have an equilibrium, its lowest eigenvalue is {lowest:.3g} "
                f"eV/e^2; the lowest hardness is {float(hardness.min()):.3g} eV/e^2, raise it"
            )
        self._eliminate_totals()

    def _eliminate_totals(self) -> None:
        """``K^-1 B^T`` and the factor of ``B K^-1 B^T``, padded to the most fragments."""
        system, n_systems = self.fragments.system, len(self.factor)
        # fragments of each system in a padded table, (n_systems, n_fragments); `slot` is the flat
        # place of each fragment in the order in which they were given
        order = torch.argsort(system, stable=True)
        table = Padding.of(system[order], n_systems)
        self.slot = torch.empty_like(table.slot).index_copy(0, order, table.slot)
        self.n_fragments = table.n_max
        n_max = self.padding.n_max
        # B of each system, [s, f, a]: row of the atom's fragment, column of the atom in its system
        sums = self.factor.new_zeros(n_systems * self.n_fragments, n_max)
        row, column = self.slot[self.fragments.index], self.padding.slot % n_max
        sums[row, column] = 1.0
        self.sums = sums.view(n_systems, self.n_fragments, n_max)
        self.response = torch.cholesky_solve(self.sums.transpose(1, 2), self.factor)  # [s, a, f]
        schur = self.sums @ self.response  # [s, f, a] @ [s, a, g] -> [s, f, g]
        # identity for fragments that a system does not have
        absent = torch.ones(n_systems * self.n_fragments, dtype=schur.dtype, device=schur.device)
        absent[self.slot] = 0.0
        schur.diagonal(dim1=1, dim2=2).add_(absent.view(n_systems, -1))
        self.schur = torch.linalg.cholesky(schur)

    @torch.no_grad()
    def solve(self, right: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Equations.solve`."""
        b = self.padding.pad(right.double())[..., None]  # [s, a, 1]
        given = b.new_zeros(self.schur.shape[0] * self.n_fragments)
        given = given.index_copy(0, self.slot, totals.double()).view(len(b), -1, 1)
        # charges without totals, the multipliers that correct their sums, and charges with totals
        free = torch.cholesky_solve(b, self.factor)  # K^-1 b, [s, a, 1]
        multiplier = torch.cholesky_solve(self.sums @ free - given, self.schur)  # [s, f, 1]
        # [s, a, f] @ [s, f, 1], and the rows of real atoms only, (n_atoms,)
        q = (free - self.response @ multiplier).flatten()[self.padding.slot]
        # K - background on every pair: the same charges, a shift of the multipliers by c Q_tot
        multiplier = multiplier[..., 0] + (self.background * given.sum((1, 2)))[:, None]
        return q.to(right.dtype), multiplier.flatten()[self.slot].to(right.dtype)


class IterativeEquations(Equations):
    """Conjugate gradients for all systems at once; memory linear in atoms.

    The preconditioner is the diagonal ``J + A_ii``, restricted to charges that keep the totals.
    """

    def __init__(
        self, hardness: Tensor, graph: AtomGraph, settings: EwaldSettings, fragments: Fragments
    ) -> None:
        self.hardness, self.graph = hardness.detach(), graph
        self.settings = replace(settings, remove_self_interaction=False)
        self.fragments = fragments
        # D^-1, with A_ii = 2 self_energy, exact in open space; and sum_f D^-1
        self.inverse = 1.0 / (self.hardness + 2.0 * settings.self_energy)
        self.softness = fragments.sum(self.inverse)
        if bool((self.inverse <= 0).any()):
            raise NotPositiveDefiniteError(
                f"the hardness must exceed -{2.0 * settings.self_energy:.3g} eV/e^2, "
                f"got {float(self.hardness.min()):.3g}"
            )

    def product(self, q: Tensor) -> Tensor:
        """``K q``: gradient of the energy with respect to charges, (n_atoms,)."""
        with torch.enable_grad():
            q = q.detach().requires_grad_()
            energy = latent_energy(q, self.graph, self.settings)
            (potential,) = torch.autograd.grad(energy.sum(), q)
        return potential + self.hardness * q.detach()

    @torch.no_grad()
    def solve(self, right: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Equations.solve`.

        Raises:
            NotPositiveDefiniteError: if a direction of negative curvature turns up.
            ConvergenceError: if the residual stays above the tolerance.
        """
        batch, fragments = self.graph.batch, self.fragments
        n_systems = self.graph.n_systems
        # start from the totals, spread as the diagonal would: sum_f D^-1 / softness = 1
        q = self.inverse * (totals / self.softness)[fragments.index]
        product = self.product(q)
        residual, _ = self._project(right - product)
        # a start that happens to be good is not asked for more digits than the right side has
        first = self._norm(residual).maximum(self._norm(self._project(right)[0]))
        target = _TOLERANCE[right.dtype] * first
        direction = torch.zeros_like(q)
        slope = right.new_ones(n_systems)
        # systems are independent: scalars are (n_systems,), finished systems take steps of zero
        for iteration in range(_MAX_ITERATIONS + 1):
            norm = self._norm(residual)
            active = norm > target
            if not bool(active.any()):
                break
            if iteration == _MAX_ITERATIONS:
                worst = int((norm / first).argmax())
                raise ConvergenceError(
                    f"charges of structure {worst} did not converge in {iteration} iterations: "
                    f"relative residual {float(norm[worst] / first[worst]):.1e}, tolerance "
                    f"{_TOLERANCE[right.dtype]:.0e}; the lowest hardness is "
                    f"{float(self.hardness.min()):.3g} eV/e^2, raise it or use float64"
                )
            # z, r.z, and the next direction p = z + (r.z / previous r.z) p
            scaled, _ = self._precondition(residual)
            new = segment_sum(residual * scaled, batch, n_systems)
            ratio = torch.where(active, new / slope, 0.0) if iteration else torch.zeros_like(new)
            direction = scaled + ratio[batch] * direction
            slope = torch.where(active, new, 1.0)
            # p.K p: negative only if K has no minimum on charges that keep the totals
            image = self.product(direction)
            curvature = segment_sum(direction * image, batch, n_systems)
            if bool((active & (curvature <= 0)).any()):
                system = int(torch.nonzero(active & (curvature <= 0))[0])
                raise NotPositiveDefiniteError(
                    f"charges of structure {system} have no equilibrium: the Coulomb matrix plus "
                    f"hardness has a negative eigenvalue; the lowest hardness is "
                    f"{float(self.hardness.min()):.3g} eV/e^2, raise it"
                )
            # the minimum along p
            step = torch.where(active, new / torch.where(active, curvature, 1.0), 0.0)[batch]
            q = q + step * direction
            residual, _ = self._project(residual - step * image)
        # sums drift by rounding only
        q = q + self.inverse * ((totals - fragments.sum(q)) / self.softness)[fragments.index]
        return q, self._project(right - self.product(q))[1]

    def _project(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values less each fragment's mean, which the multiplier takes, (n_atoms,); and the means.

        The part orthogonal to the rows of B.
        """
        count = self.fragments.sum(torch.ones_like(values))
        mean = self.fragments.sum(values) / count
        return values - mean[self.fragments.index], mean

    def _precondition(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse diagonal on charges that keep the totals: z and mu of the module's head."""
        shift = self.fragments.sum(self.inverse * residual) / self.softness
        return self.inverse * (residual - shift[self.fragments.index]), shift

    def _norm(self, values: Tensor) -> Tensor:
        """Euclidean norm in each system, (n_systems,)."""
        return segment_sum(values.square(), self.graph.batch, self.graph.n_systems).sqrt()
