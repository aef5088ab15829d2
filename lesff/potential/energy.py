"""Parts of the energy of a batch, and the share of each atom."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lesff.autograd import gradients
from lesff.electrostatics.charges.sharing import CarriedCharges
from lesff.electrostatics.moments.point_charges import SitePotential
from lesff.heads import HeadOutput
from lesff.nn.local_state import LocalStates


@dataclass(frozen=True, kw_only=True)
class EnergyTerms:
    """Energies of a batch, with graph.

    Attributes:
        node_energy: (n_atoms,) short-range part in eV, float64.
        energy_sr: (n_systems,) in eV, float64.
        energy_lr: (n_systems,) in eV, float64.
        local_charges: (n_atoms,) before any constraint, or None without LES.
        charges: (n_atoms,) physical charges in e, or None without LES.
        head: All that the heads gave, or None without LES.
        coulomb_energy: (n_systems,) Coulomb energy of the permanent moments in eV, if any.
        dispersion_energy: (n_systems,) part of ``energy_lr`` in eV, or None without dispersion.
        dispersion_coefficients: (n_atoms,) ``sqrt(C6)`` of the model's dispersion, if any.
        dispersion_shares: (n_atoms,) shares of the atoms in eV, float64, where they are known.
        invariants: One (n_atoms, channels) tensor per layer.
        states: Charges and spins of a local state, if the model has one.
        surroundings: Potential of the graph's point charges at the atoms, if it has any.
        carried: Charges that the architecture makes itself, if it does.
    """

    node_energy: Tensor
    energy_sr: Tensor
    energy_lr: Tensor
    local_charges: Tensor | None
    charges: Tensor | None
    head: HeadOutput | None = None
    coulomb_energy: Tensor | None = None
    dispersion_energy: Tensor | None = None
    dispersion_coefficients: Tensor | None = None
    dispersion_shares: Tensor | None = None
    invariants: list[Tensor] = field(default_factory=list)
    states: LocalStates | None = None
    surroundings: SitePotential | None = None
    carried: CarriedCharges | None = None

    @property
    def potentials(self) -> Tensor | None:
        """(n_systems, k) numbers by which charges depend on their whole system, or None.

        Those of the architecture, those of the local state, then those of the charge head.
        """
        sources = (self.carried, self.states, self.head)
        found = [x.potentials for x in sources if x is not None and x.potentials is not None]
        return torch.cat(found, dim=1) if found else None

    def parts(self) -> dict[str, Tensor]:
        """Parts of the energy by the names of :data:`lesff.quantities.QUANTITIES`."""
        parts = {"energy_sr": self.energy_sr, "energy_lr": self.energy_lr}
        if self.dispersion_energy is not None:
            parts["energy_dispersion"] = self.dispersion_energy
        return parts

    @property
    def dipoles(self) -> Tensor | None:
        """(n_atoms, 3) latent and induced dipoles in e A, or None for a model without."""
        return None if self.head is None else self.head.dipoles

    @property
    def quadrupoles(self) -> Tensor | None:
        """(n_atoms, 3, 3) latent quadrupoles in e A^2, or None for a model without."""
        return None if self.head is None else self.head.quadrupoles


def atomic_energies(terms: EnergyTerms, *, create_graph: bool, keep_graph: bool) -> Tensor:
    """Energy of every atom without the work of a field, (n_atoms,) in eV, float64.

    The Coulomb share of atom i is ``q_i phi_i / 2 = q_i (dE/dq_i) / 2``: E is quadratic in the
    charges, and likewise in dipoles, quadrupoles and coefficients of dispersion.

    Args:
        terms: Parts of the energy, with graph.
        create_graph: Keep the graph for further derivatives.
        keep_graph: Keep the graph of the Coulomb energy.
    """
    energy = terms.node_energy
    if terms.dispersion_shares is not None:
        energy = energy + terms.dispersion_shares
    if terms.dispersion_energy is not None and terms.dispersion_coefficients is not None:
        c = terms.dispersion_coefficients
        (slope,) = gradients(
            terms.dispersion_energy, [c], create_graph=create_graph, keep_graph=keep_graph
        )
        energy = energy + (0.5 * c * slope).to(torch.float64)
    if terms.head is None:
        return energy
    if terms.coulomb_energy is not None and terms.head.coulomb is not None:
        moments, sources = terms.head.moments, [terms.head.coulomb]
        if moments is not None:
            rest = (moments.dipoles, moments.quadrupoles)
            sources += [x for x in rest if x is not None and x.requires_grad]
        slopes = gradients(
            terms.coulomb_energy, sources, create_graph=create_graph, keep_graph=keep_graph
        )
        for source, slope in zip(sources, slopes, strict=True):
            share = 0.5 * (source * slope).reshape(len(source), -1).sum(1)
            energy = energy + share.to(torch.float64)
    if terms.head.atom_response is not None:
        energy = energy + terms.head.atom_response.to(torch.float64)
    return energy
