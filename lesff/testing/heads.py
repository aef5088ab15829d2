"""The contract of a charge head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ase
import torch

from lesff.heads import LongRangeConfig
from lesff.potential.potential import Potential
from lesff.potential.verify import check_structures
from lesff.testing.contract import EXACT, Contract, Finding
from lesff.testing.potentials import (
    HeadFactory,
    chains,
    check_potential,
    graph_of,
    model_config,
    random_potential,
)

_MACE = {
    "type": "mace",
    "cutoff": 3.2,
    "hidden_irreps": "4x0e",
    "n_layers": 1,
    "max_ell": 2,
    "correlation": 2,
    "n_radial": 4,
    "radial_mlp": (8,),
    "readout_hidden": 4,
    "avg_num_neighbors": 4.0,
}
"""Small short-range model under the heads; with two layers Born charges take twice as long."""


def check_charge_head(
    head_factory: HeadFactory,
    long_range: LongRangeConfig | None = None,
    *,
    conserves_charge: bool = True,
    elements: tuple[int, ...] = (1, 8),
    architecture: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[Finding, ...]:
    """Check a charge head on top of a short-range model.

    Args:
        head_factory: Makes the head; a subclass of :class:`lesff.heads.ChargeModel`.
        long_range: Configuration that it is called with; its multipoles are left out.
        conserves_charge: Whether charges sum to the total charge.
        elements: Atomic numbers, ascending, at least one.
        architecture: Configuration of the short-range model; a small MACE if not given.
        seed: Of the random weights.

    Returns:
        What was found, for a look at how close to the tolerances it is.

    Raises:
        ContractError: for the first of :data:`lesff.testing.PROMISES` that does not hold.
    """
    contract = Contract(getattr(head_factory, "__name__", "the charge head"))
    chosen = replace(long_range or LongRangeConfig(), multipoles=None)
    config = model_config(dict(architecture or _MACE), elements, chosen)

    def build(seed: int) -> Potential:
        return random_potential(config, seed, head_factory)

    potential = build(seed)
    structures = check_structures(potential)
    _check_output(contract, potential, structures)
    if conserves_charge:
        _check_total_charge(contract, potential, structures)
    _check_local_charges(contract, potential, structures)
    _check_field(contract, potential, structures["molecule"])
    check_potential(contract, potential, build, structures)
    return tuple(contract.findings)


def _check_output(
    contract: Contract, potential: Potential, structures: Mapping[str, ase.Atoms]
) -> None:
    for name, atoms in structures.items():
        head = potential.energy_terms(graph_of(potential, atoms)).head
        if head is None:
            contract.fail("shapes and types", "it must give charges, got none")
        for key in ("charges", "latent", "local"):
            where, value = f"{key} of the {name}", getattr(head, key)
            contract.require_tensor("shapes and types", where, value, (len(atoms),), torch.float64)
        contract.require_effect("effect", f"charges of the {name}", float(head.charges.std()))


def _check_total_charge(
    contract: Contract, potential: Potential, structures: Mapping[str, ase.Atoms]
) -> None:
    for name, atoms in structures.items():
        for total in (-2, 0, 1):
            graph = graph_of(potential, atoms, total_charge=total)
            error = abs(float(potential(graph, ["charges"])["charges"].sum()) - total)
            where = f"charges of the {name} with {total} e"
            contract.require("total charge", where, error, EXACT * len(atoms), "e")


def _check_local_charges(
    contract: Contract, potential: Potential, structures: Mapping[str, ase.Atoms]
) -> None:
    """Charges of a local head are functions of the receptive field and one shift per system."""
    head = potential.charge_head
    if head is None or not head.is_local:
        return
    for name, atoms in structures.items():
        graph = graph_of(potential, atoms, total_charge=1)
        terms = potential.energy_terms(graph)
        if terms.charges is not None:
            rest = terms.charges - potential.local_charges(graph, None, terms.potentials)
            error = float((rest - rest.mean()).abs().max())
            contract.require("receptive field", f"charges of the {name}", error, EXACT, "e")
    hops = round(potential.charge_reach / potential.architecture.cutoff)
    pair = [graph_of(potential, atoms) for atoms in chains(potential, hops)]
    potentials = potential.energy_terms(pair[0]).potentials  # those of one, for both
    before, after = (
        {"charges": potential.local_charges(graph, None, potentials)[:1]} for graph in pair
    )
    contract.same("receptive field", "chain of atoms", after, before)


def _check_field(contract: Contract, potential: Potential, molecule: ase.Atoms) -> None:
    graph = graph_of(potential, molecule)
    field = torch.tensor([[0.2, -0.1, 0.3]], dtype=torch.float64)  # V/A
    without, within = (
        potential(one, ["charges"])["charges"]
        for one in (graph, graph.replace(external_field=field))
    )
    where, change = "charges of the molecule", float((within - without).abs().max())
    if potential.charge_head is not None and potential.charge_head.responds_to_field:
        contract.require_effect("response to fields", where, change)
    else:
        contract.require("response to fields", where, change, EXACT, "e")
