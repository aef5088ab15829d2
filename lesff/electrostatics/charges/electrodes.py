r"""Metal electrodes at constant potential (Siepmann and Sprik, J. Chem. Phys. 102, 511 (1995)).

Electrode atoms carry Gaussian charges that minimise

.. math::
    F(q_m) = E(q_f + q_m) + \tfrac12 \sum J q_m^2 - \sum_m V_m q_m

at fixed charges ``q_f`` of everything else, self terms of the metal included: every metal atom
comes to its potential ``V_m``, up to one constant that the total charge of the metal sets. With the
potential ``phi = A q_f`` of the fixed charges, ``F - E(q_f)`` is the W of :mod:`.qeq` for the metal
alone, with ``chi_m = phi_m - V_m``.

Metal and electrolyte share one Gaussian width, that of the latent charges. Plates a distance d
apart have the capacitance ``eps0 A / d`` for d large against the width; an image plane lies ``sigma
/ sqrt(2 pi)`` above the atoms of a single sheet, for ions with wavelengths long against sigma: a
wave k of the sheet's charge has the potential ``2 pi ke / k erfc(sigma k / sqrt 2)`` on the sheet,
``(2 pi ke / k) exp(-2 k sigma / sqrt(2 pi))`` to first order in k.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.atoms.segments import segment_sum
from lesff.electrostatics.charges.qeq import coulomb_potential, equilibrate
from lesff.electrostatics.coulomb import latent_energy
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import UnsupportedInputError

_TOTAL_TOLERANCE = 1e-4
"""e: what a sum of fixed charges may miss, rounding of float32."""


@dataclass(frozen=True)
class Electrodes:
    """Charges at constant potential, differentiable.

    Attributes:
        charges: (n_atoms,) of all atoms in e.
        energy: (n_systems,) F in eV; its gradient in positions at given potentials is minus the
            forces.
    """

    charges: Tensor
    energy: Tensor


def constant_potential(
    fixed_charges: Tensor,
    potentials: Tensor,
    is_electrode: Tensor,
    graph: AtomGraph,
    settings: EwaldSettings,
    *,
    hardness: Tensor | None = None,
    neutral: bool = True,
) -> Electrodes:
    """Charges of electrodes at given potentials, and F.

    Args:
        fixed_charges: (n_atoms,) in e of the other atoms; entries of electrode atoms must be zero.
        potentials: (n_atoms,) V of electrode atoms in V, others are not read: two electrodes with
            a voltage U have V = U/2 and -U/2.
        is_electrode: (n_atoms,) bool.
        graph: Positions, cells, boundaries, total charges.
        settings: Constants of the Coulomb energy.
        hardness: (n_atoms,) J in eV / e^2, read for electrode atoms; zero if not given.
        neutral: Whether the electrodes together are neutral; if not, they hold what the fixed
            charges lack of the total charge.

    Raises:
        UnsupportedInputError: for a structure without electrode atoms, charges on them, and, with
            ``neutral``, fixed charges that do not sum to the total charge.
        NotPositiveDefiniteError: for electrode atoms too close for the width of their charges.
    """
    count = segment_sum(is_electrode.to(torch.int64), graph.batch, graph.n_systems)  # per system
    if bool((count == 0).any()):
        raise UnsupportedInputError(
            f"structure {int(torch.nonzero(count == 0)[0])} has no electrode atoms"
        )
    if bool((fixed_charges.detach()[is_electrode] != 0).any()):
        raise UnsupportedInputError("`fixed_charges` of electrode atoms must be zero")
    # what the electrodes must hold for the system to have its total charge, (n_systems,)
    lacking = graph.total_charge - segment_sum(fixed_charges, graph.batch, graph.n_systems)
    wrong = torch.nonzero(lacking.detach().abs() > _TOTAL_TOLERANCE).flatten().tolist()
    if neutral and wrong:
        raise UnsupportedInputError(
            f"`fixed_charges` of structure {wrong[0]} must sum to its total charge "
            f"{float(graph.total_charge[wrong[0]]):g} for neutral electrodes, they lack "
            f"{float(lacking.detach()[wrong[0]]):g}; pass neutral=False to put it on the electrodes"
        )
    totals = torch.zeros_like(lacking) if neutral else lacking
    atoms = torch.nonzero(is_electrode).flatten()
    # A with self terms; at electrode atoms, whose fixed charges are zero, they add nothing to phi
    full = replace(settings, remove_self_interaction=False)
    outer = coulomb_potential(fixed_charges, graph, full)
    # minimise over the metal's charges only, in the same cells
    metal = _atoms_only(graph, atoms)
    stiffness = torch.zeros_like(outer) if hardness is None else hardness
    found = equilibrate(
        (outer - potentials)[atoms], stiffness[atoms], metal, settings, totals=totals
    )
    charges = fixed_charges.index_add(0, atoms, found.charges)  # those of the metal were zero
    return Electrodes(charges, latent_energy(fixed_charges, graph, settings) + found.energy)


def _atoms_only(graph: AtomGraph, atoms: Tensor) -> AtomGraph:
    """Some atoms in the same cells, without edges."""
    return graph.replace(
        positions=graph.positions[atoms],
        atomic_numbers=graph.atomic_numbers[atoms],
        batch=graph.batch[atoms],
        edge_index=graph.edge_index[:, :0],
        cell_shifts=graph.cell_shifts[:0],
        reverse_edge=graph.reverse_edge[:0],
    )
