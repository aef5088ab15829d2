"""ASE calculator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from lesff.ase_errors import ase_errors
from lesff.atoms.contacts import ContactRule
from lesff.atoms.graph import build_graph
from lesff.atoms.neighbors import VerletList
from lesff.atoms.structure import Structure, to_structure
from lesff.electrostatics.sums.plan import SLAB
from lesff.errors import PropertyError
from lesff.potential.domain import check_caveats, check_domain
from lesff.potential.plan import PLANNED
from lesff.potential.potential import Potential
from lesff.potential.predict import predict_graph
from lesff.potential.replay import RepeatedStep
from lesff.quantities import INFO_CHARGE, INFO_FIELD, INFO_SPIN, QUANTITIES

ASE_NAMES = {
    "energy": "energy",
    "free_energy": "energy",
    "energies": "node_energy",
    "forces": "forces",
    "stress": "stress",
    "charges": "charges",
    "dipole": "dipole",
}
"""ASE property -> lesff quantity."""
_STATE_KEYS = (*INFO_CHARGE, *INFO_SPIN, INFO_FIELD)


class LesffCalculator(Calculator):
    """ASE calculator of a model.

    Units are ASE's: eV, A, e; stress in Voigt order (xx, yy, zz, yz, xz, xy) in eV/A^3, dipole in
    e A (about the centre of nuclear charge for charged systems). Total charge and spin
    multiplicity come from the arguments, else from ``atoms.info`` (``charge``,
    ``spin_multiplicity``, ``external_field``); changing them there invalidates stored results. In
    an external field the energy is the electric enthalpy; a crystal in a field has forces, but no
    energy and no stress (asking raises), see :mod:`lesff.electrostatics.moments.field`.

    A calculator, and Atoms that carry it, can be pickled, copied and sent to a worker process.

    Args:
        potential: The model.
        total_charge: Total charge in e for all structures.
        spin_multiplicity: 2S+1 for all structures.
        external_field: (3,) in V/A for all structures.
        strict: Raise instead of warn outside the trained range of charge and spin.
        allow_close: Compute also where atoms are closer than 0.45 of the sum of their covalent
            radii, which is refused as a mistake (a warning below 0.7, once a pair).
        skin: Neighbours are searched anew only when an atom has moved half of this, in A; the
            results do not depend on it. 0 searches at each call.
        replay: Whether steps are planned once and then repeated, as a CUDA graph on a GPU, until an
            atom has moved half the skin; see :mod:`lesff.potential.replay`. None: on GPUs, for
            models that can. Steps that cannot (slabs, fields, dipoles) are computed as without it.
        caveats: Quantities that are not to be trusted, and why; a warning when one is computed.

    Raises:
        StructureError, UnsupportedInputError, ChargeSpinError: as :meth:`lesff.Model.predict`,
            when a property is asked for; as classes that are ASE's errors, too, see
            :mod:`lesff.ase_errors`.
    """

    @ase_errors(setup=True)
    def __init__(
        self,
        potential: Potential,
        *,
        total_charge: int | None = None,
        spin_multiplicity: int | None = None,
        external_field: Sequence[float] | np.ndarray | None = None,
        strict: bool = False,
        allow_close: bool = False,
        skin: float = 0.5,
        replay: bool | None = None,
        caveats: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= skin <= 10.0:
            raise PropertyError(f"`skin` must be from 0 to 10 A, got {skin!r}")
        self.contacts = ContactRule(allow_close=allow_close)
        self.neighbors = VerletList(potential.architecture.cutoff, skin)
        if replay and not potential.can_plan:
            raise PropertyError(
                "`replay` must be False or None for a model with charge equilibration, "
                "multipoles or the joint embedding of published models, got True"
            )
        if replay is None:
            replay = potential.device.type == "cuda" and potential.can_plan
        self.repeated = RepeatedStep(potential, skin, self.contacts) if replay else None
        self.potential = potential
        self.total_charge = total_charge
        self.spin_multiplicity = spin_multiplicity
        self.external_field = external_field
        self.strict = strict
        self.caveats = dict(caveats or {})
        available = potential.available_properties()
        self.implemented_properties = [a for a, ours in ASE_NAMES.items() if ours in available]

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation, charge, spin and field in ``info`` included."""
        changes = super().check_state(atoms, tol=tol)
        if self.atoms is None:
            return changes
        before, after = (
            [np.asarray(source.info.get(key, np.nan), dtype=float) for key in _STATE_KEYS]
            for source in (self.atoms, atoms)
        )
        same = [np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True)]
        if not all(same):
            changes.append("info")
        return changes

    @ase_errors()
    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute what is asked for and forces; the energy too, unless a crystal is in a field."""
        super().calculate(atoms, properties, system_changes)
        structure = to_structure(
            self.atoms,
            total_charge=self.total_charge,
            spin_multiplicity=self.spin_multiplicity,
            external_field=self.external_field,
        )
        check_domain(self.potential.config, [structure], strict=self.strict)
        asked = {ASE_NAMES[name] for name in properties or []} | {"forces"}
        check_caveats("this model", self.caveats, sorted(asked), strict=self.strict)
        if structure.external_field is None or not structure.pbc.all():
            asked |= {"energy"}
        self.results.update(self._to_ase(self._evaluate(structure, sorted(asked))))

    def _evaluate(self, structure: Structure, asked: list[str]) -> dict[str, Any]:
        is_plain = structure.pbc.sum() != SLAB and structure.external_field is None
        if self.repeated is not None and is_plain and PLANNED.issuperset(asked):
            out = self.repeated(structure, asked)
            return {
                name: value.cpu().numpy() if QUANTITIES[name].level == "atom" else value[0].cpu()
                for name, value in out.items()
            }
        found = self.neighbors.find(structure.positions, structure.cell, structure.pbc)
        graph = build_graph(
            structure, self.potential.architecture.cutoff, found, contacts=self.contacts
        )
        (row,) = predict_graph(self.potential, graph, asked)
        return row

    def _to_ase(self, row: dict[str, Any]) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for ase_name, name in ASE_NAMES.items():
            if name not in row:
                continue
            value = row[name]
            if name == "stress":
                value = full_3x3_to_voigt_6_stress(value)
            results[ase_name] = float(value) if np.ndim(value) == 0 else np.asarray(value)
        return results
