"""Uniform external electric field: its energy, where it is defined, and the polarizability.

Everything in a field follows from the electric enthalpy ``F(E) = U - E.P`` with
``P = sum_i q_i r_i + u_i`` about the coordinate origin, in the positions as given: forces
``-dF/dr``, dipole ``-dF/dE`` (for a charged system about that origin), polarizability
``-d2F/dE2``. A positive charge is pushed along E.

``U`` is the energy without the field, at the charges that the field leaves: a head that
equilibrates its charges does so with ``- E.P`` in its functional and returns ``U`` without it, so
that the coupling is counted once, here. Then ``dF/dE = -P`` by the Hellmann-Feynman theorem.

* Molecules: any total charge. Of a charged molecule the energy changes by ``-Q E.a`` if it is
  moved by ``a``, as it must; energy and forces agree.
* Slabs: fields along the normal, where positions are unwrapped and P is a number.
* Crystals: P is defined up to lattice vectors times e, and latent charges have no single-valued P
  at all, so there is no energy. Forces are ``Z*^T E`` with the image-exact Born effective charges
  under the acoustic sum rule (a field moves no neutral cell as a whole). Atomic dipoles have a
  single-valued sum: their ``-E.u``, and the energy of those induced, enter the forces as
  derivatives, and so does what a field adds to induced ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph
from lesff.electrostatics.moments.totals import slab_normals
from lesff.errors import UnsupportedInputError

_IN_PLANE = 1e-5
"""Share of a slab's field that may lie in the plane: rounding of float32."""


def has_field(graph: AtomGraph) -> Tensor:
    """(n_systems,) bool: which systems have a field that is not zero."""
    if graph.external_field is None:
        return torch.zeros_like(graph.pbc[:, 0])
    return (graph.external_field != 0).any(1)


def check_field(graph: AtomGraph) -> None:
    """Refuse fields without a defined effect.

    Raises:
        UnsupportedInputError: for a charged periodic system, and for a slab with a field that is
            not along its normal.
    """
    field = graph.external_field
    if field is None:
        return
    periodic = has_field(graph) & graph.pbc.any(1)
    charged = torch.nonzero(periodic & (graph.total_charge != 0)).flatten().tolist()
    if charged:
        raise UnsupportedInputError(
            "`total_charge` of a periodic structure in an external field must be 0, got "
            f"{float(graph.total_charge[charged[0]]):g} (structure {charged[0]}): the field would "
            "accelerate the whole cell"
        )
    normals = slab_normals(graph)
    for system in torch.nonzero(periodic & (graph.pbc.sum(1) == 2)).flatten().tolist():
        # the part of E in the plane of the periodic rows would be that of a crystal
        normal = normals[system]
        in_plane = field[system] - (field[system] @ normal) * normal
        if float(in_plane.norm()) > _IN_PLANE * float(field[system].norm()):
            raise UnsupportedInputError(
                "`external_field` of a slab must be along its normal "
                f"{[round(x, 4) for x in normal.tolist()]}, got {field[system].tolist()} "
                f"(structure {system})"
            )


def site_potential(graph: AtomGraph) -> Tensor | None:
    """``-E.r`` of every atom in V, (n_atoms,), zero in crystals; None without a field.

    In a crystal ``-E.r`` jumps by ``-E.a`` over a lattice vector a, so it is no potential there.
    """
    if graph.external_field is None:
        return None
    field = graph.external_field.masked_fill(graph.pbc.all(1)[:, None], 0.0)
    return -(field[graph.batch] * graph.positions).sum(1)


def field_energy(charges: Tensor, graph: AtomGraph) -> Tensor:
    """``-q_i E.r_i`` of every atom in eV, (n_atoms,) float64; zero for crystals.

    Args:
        charges: (n_atoms,) in e, summing to the total charge of each system.
        graph: Positions, with a field.
    """
    if graph.external_field is None:
        raise UnsupportedInputError("`external_field` must be given for an energy in a field")
    field = graph.external_field.masked_fill(graph.pbc.all(1)[:, None], 0.0)
    work = (field[graph.batch] * graph.positions).sum(1)  # E.r, (n_atoms,) in V
    return -(charges * work).to(torch.float64)  # minus: a positive charge is pushed along E


def dipole_field_energy(dipoles: Tensor, graph: AtomGraph) -> Tensor:
    """``-u_i.E`` of every atom in eV, (n_atoms,) float64, crystals included.

    Args:
        dipoles: (n_atoms, 3) in e A.
        graph: The batch, with a field.
    """
    if graph.external_field is None:
        raise UnsupportedInputError("`external_field` must be given for an energy in a field")
    # minus: a dipole turns into the field
    return -(dipoles * graph.external_field[graph.batch]).sum(1).to(torch.float64)


NO_RESPONSE = (
    "this model has no polarizability: its charges do not respond to a field (it would be zero); "
    "use a model with charge equilibration or induced dipoles"
)
"""Message of the error for a polarizability of a model whose moments ignore the field."""


def with_field_leaf(graph: AtomGraph) -> AtomGraph:
    """The graph with a field that has a gradient of its own; zero if there was none."""
    field = graph.external_field
    field = torch.zeros_like(graph.cell[:, 0]) if field is None else field.detach()
    return graph.replace(external_field=field.requires_grad_())
