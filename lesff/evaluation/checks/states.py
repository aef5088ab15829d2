"""Charge and spin: ionisation, attachment, proton affinities, anions at a proton donor."""

from __future__ import annotations

from collections.abc import Callable

import ase
import numpy as np
from ase.build import molecule
from ase.data.cccbdb_ip import IP

from lesff.errors import ConvergenceError
from lesff.evaluation.coverage import require
from lesff.evaluation.molecules import add_proton
from lesff.evaluation.relaxation import FAILURES, relaxed, zero_point_energy
from lesff.evaluation.results import CheckResult, NotCoveredError
from lesff.methods import Method
from lesff.units import BOLTZMANN, EV_TO_KCAL_PER_MOL

STATE_SOURCES = (
    "vertical ionisation energies: NIST CCCBDB, as in ase.data.cccbdb_ip",
    "electron affinities: Rienstra-Kiracofe et al., Chem. Rev. 102, 231 (2002)",
    "proton affinities at 298 K: Hunter, Lias, J. Phys. Chem. Ref. Data 27, 413 (1998)",
    "Cl- H2O, enthalpy: Hiraoka et al., J. Phys. Chem. 92, 3943 (1988); "
    "HCOO- H2O, enthalpy: Meot-Ner, Sieck, J. Am. Chem. Soc. 108, 7525 (1986)",
)

IONISED = ("H2O", "NH3", "CH4", "CH3OH", "H2CO", "C2H2", "C2H4", "HCN", "PH3", "SH2")
"""Molecules with vertical ionisation energies."""

AFFINITIES = {"CN": 3.862, "SH": 2.317, "CH3S": 1.867, "CH3O": 1.572, "NO2": 2.273, "OH": 1.828}
"""Adiabatic electron affinities of radicals, eV."""

PROTON_AFFINITIES = {
    "NH3": (0, 204.0),
    "H2O": (0, 165.2),
    "CH3OH": (1, 180.3),
    "C5H5N": (0, 222.3),
    "H3CNH2": (1, 214.9),
    "H2CO": (0, 170.4),
    "CH3COCH3": (0, 194.1),
    "CH3CN": (2, 186.2),
    "CH3OCH3": (1, 189.3),
}
"""Atom that takes the proton, and proton affinity at 298 K, kcal/mol."""

BOUND = {"Cl- H2O": 14.7, "HCOO- H2O": 16.0}
"""Enthalpy of binding, kcal/mol."""

HYDROGEN_ATOM = -13.5720
"""Energy of the hydrogen atom, wB97M-D3BJ/def2-TZVPPD, eV: the energy of a proton is zero, so this
is minus its energy relative to a neutral atom."""


def check_states(subject: Method) -> CheckResult:
    """Ionisation and attachment energies, proton affinities, bound anions; what is covered."""
    result = CheckResult()
    if subject.model is None:
        result.left_out["ionisation and attachment"] = f"{subject.name} is not made for them"
    else:
        _group(result, "vertical ionisation energies", "eV", _ionisation(subject))
        _group(result, "electron affinities", "eV", _attachment(subject))
    _proton_affinities(subject, result)
    _bound_anions(subject, result)
    if not result.quantities:
        reasons = sorted(set(result.left_out.values()))
        raise NotCoveredError("; ".join(reasons))
    return result


Case = tuple[str, float, str, Callable[[], float]]
"""Name, reference, why it is not covered (or empty), and how to compute it."""


def _ionisation(subject: Method) -> list[Case]:
    def value(atoms: ase.Atoms) -> float:
        neutral = relaxed(atoms, subject.calculator())
        cation = neutral.copy()
        cation.calc = subject.calculator(charge=1, spin=2)
        return cation.get_potential_energy() - neutral.get_potential_energy()

    return [
        (
            f"ionisation of {name}",
            IP[name][1] or IP[name][0],
            require(subject, molecule(name), 1, 2),
            lambda name=name: value(molecule(name)),
        )
        for name in IONISED
    ]


def _attachment(subject: Method) -> list[Case]:
    def value(atoms: ase.Atoms) -> float:
        neutral = relaxed(atoms, subject.calculator(spin=2))
        anion = relaxed(atoms, subject.calculator(charge=-1, spin=1))
        return neutral.get_potential_energy() - anion.get_potential_energy()

    return [
        (
            f"electron affinity of {name}",
            reference,
            require(subject, molecule(name), 0, 2) or require(subject, molecule(name), -1, 1),
            lambda name=name: value(molecule(name)),
        )
        for name, reference in AFFINITIES.items()
    ]


def _group(result: CheckResult, title: str, unit: str, cases: list[Case]) -> None:
    errors = []
    reasons = {why for _, _, why, _ in cases}
    if len(reasons) == 1 and "" not in reasons:
        result.left_out[title] = reasons.pop()
        return
    for name, reference, why, compute in cases:
        value = _try(result, name, why, compute)
        if value is None:
            continue
        errors.append(value - reference)
        result.rows.append({"item": name, "unit": unit, "value": value, "reference": reference})
    if errors:
        result.add(f"{title}, MAE ({len(errors)})", unit, np.abs(errors).mean())


def _try(result: CheckResult, name: str, why: str, compute: Callable[[], float]) -> float | None:
    """The value, or None with the reason noted."""
    if not why:
        try:
            return compute()
        except FAILURES as error:
            why = str(error)
    result.left_out[name] = why
    return None


def _proton_affinities(subject: Method, result: CheckResult) -> None:
    """Absolute where the energy zero is the isolated atom; always about the mean error."""

    def value(name: str, site: int) -> float:
        base = relaxed(molecule(name), subject.calculator())
        start = add_proton(molecule(name), site)
        acid = relaxed(start, subject.calculator(charge=1))
        electronic = base.get_potential_energy() - acid.get_potential_energy() - HYDROGEN_ATOM
        vibrational = zero_point_energy(base) - zero_point_energy(acid)
        return (electronic + vibrational + 2.5 * BOLTZMANN * 298.15) * EV_TO_KCAL_PER_MOL

    found = {}
    for name, (site, _) in PROTON_AFFINITIES.items():
        label = f"proton affinity of {name}"
        why = require(subject, molecule(name)) or require(
            subject, add_proton(molecule(name), site), 1
        )
        affinity = _try(result, label, why, lambda name=name, site=site: value(name, site))
        if affinity is not None:
            found[name] = affinity
    if not found:
        return
    model = subject.model
    absolute = model is not None and "isolated" in model.config.energy_reference
    errors = {name: found[name] - PROTON_AFFINITIES[name][1] for name in found}
    mean = float(np.mean(list(errors.values())))
    for name, error in errors.items():
        result.rows.append(
            {
                "item": f"proton affinity of {name}",
                "unit": "kcal/mol",
                "value": found[name] if absolute else None,
                "error_about_mean": error - mean,
                "reference": PROTON_AFFINITIES[name][1],
            }
        )
    if absolute:
        result.add(f"proton affinities, mean error ({len(errors)})", "kcal/mol", mean)
    about = np.abs([error - mean for error in errors.values()]).mean()
    result.add(f"proton affinities, MAE about the mean error ({len(errors)})", "kcal/mol", about)


def _bound_anions(subject: Method, result: CheckResult) -> None:
    for name, anion in (("Cl- H2O", ase.Atoms("Cl")), ("HCOO- H2O", formate())):
        start = at_donor(anion)
        why = require(subject, start, -1)

        def binding_of(anion: ase.Atoms = anion, start: ase.Atoms = start) -> float:
            together = relaxed(start, subject.calculator(charge=-1))
            if together.get_all_distances()[: len(anion), len(anion) :].min() > 3.0:
                raise ConvergenceError("the anion leaves the molecule")
            ion = relaxed(anion, subject.calculator(charge=-1))
            water = relaxed(molecule("H2O"), subject.calculator())
            parts = ion.get_potential_energy() + water.get_potential_energy()
            return (parts - together.get_potential_energy()) * EV_TO_KCAL_PER_MOL

        binding = _try(result, name, why, binding_of)
        if binding is not None:
            result.add(f"{name}, binding", "kcal/mol", binding, BOUND[name])
            result.rows.append(
                {"item": name, "unit": "kcal/mol", "value": binding, "reference": BOUND[name]}
            )


def formate() -> ase.Atoms:
    """HCOO-, one oxygen first."""
    return ase.Atoms(
        "OCOH", [(0.0, 0.0, 0.0), (1.26, 0.0, 0.0), (1.26 - 1.26 * np.cos(np.deg2rad(130.0)),
        1.26 * np.sin(np.deg2rad(130.0)), 0.0), (1.8, -1.0, 0.0)]
    )  # fmt: skip


def at_donor(anion: ase.Atoms) -> ase.Atoms:
    """An anion, its first atom at the origin, with a water molecule whose O-H points at it."""
    water = molecule("H2O")
    water.positions -= water.positions[0]
    water.rotate(water.positions[1], (1.0, 0.0, 0.0), center=(0, 0, 0))
    water.positions += (-2.9 if len(anion) > 1 else -3.2, 0.0, 0.0)
    return anion + water
