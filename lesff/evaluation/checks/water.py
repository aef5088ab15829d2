"""Water: one molecule, two, six."""

from __future__ import annotations

from ase.build import molecule

from lesff.evaluation.checks.water_clusters import HEXAMERS, build, dimer, hydrogen_bonds
from lesff.evaluation.coverage import dipole_of, has_dipole
from lesff.evaluation.relaxation import FAILURES, relaxed
from lesff.evaluation.results import CheckResult
from lesff.methods import Method
from lesff.units import EA_TO_DEBYE, EV_TO_KCAL_PER_MOL

WATER_SOURCES = (
    "water dipole: Clough et al., J. Chem. Phys. 59, 2254 (1973)",
    "water r_e and angle: Csaszar et al., J. Chem. Phys. 122, 214305 (2005)",
    "water dimer O-O, CCSD(T)-F12b: Lane, J. Chem. Theory Comput. 9, 316 (2013)",
    "water dimer and hexamer binding, CCSD(T)/CBS (WATER27): Manna et al., "
    "J. Chem. Theory Comput. 13, 3136 (2017)",
)

BINDING = {"prism": 45.988, "cage": 45.733, "book": 45.292, "ring": 44.296}
"""Energy of six relaxed molecules minus that of the hexamer, kcal/mol, revised WATER27."""


def check_water(subject: Method) -> CheckResult:
    """Geometry and dipole of the molecule, binding of the dimer, order of the hexamers.

    All structures are relaxed. A hexamer counts only if it keeps the hydrogen bonds of its family.
    """
    result = CheckResult()
    monomer = relaxed(molecule("H2O"), subject.calculator())
    if has_dipole(subject):
        result.add("dipole", "D", dipole_of(subject, monomer) * EA_TO_DEBYE, 1.855)
    result.add("O-H", "A", monomer.get_distance(0, 1), 0.958)
    result.add("H-O-H", "degree", monomer.get_angle(1, 0, 2), 104.48)
    alone = monomer.get_potential_energy()
    pair = relaxed(dimer(), subject.calculator())
    binding = (2.0 * alone - pair.get_potential_energy()) * EV_TO_KCAL_PER_MOL
    result.add("dimer binding", "kcal/mol", binding, 4.974)
    result.add("dimer O-O", "A", pair.get_distance(0, 3), 2.909)
    found = {}
    for name, network in HEXAMERS.items():
        try:
            cluster = relaxed(build(network), subject.calculator())
        except FAILURES as error:
            result.left_out[f"hexamer {name}"] = str(error)
            continue
        if hydrogen_bonds(cluster) != {frozenset(bond) for bond in network.bonds}:
            result.left_out[f"hexamer {name}"] = "relaxes to another network of hydrogen bonds"
            continue
        energy = 6.0 * alone - cluster.get_potential_energy()
        found[name] = energy * EV_TO_KCAL_PER_MOL
        result.rows.append(
            {"hexamer": name, "binding_kcal_per_mol": found[name], "reference": BINDING[name]}
        )
    if "prism" in found:
        result.add("hexamer prism, binding", "kcal/mol", found["prism"], BINDING["prism"])
        for name in found:
            if name != "prism":
                above = found["prism"] - found[name]
                expected = round(BINDING["prism"] - BINDING[name], 3)
                result.add(f"hexamer {name} above prism", "kcal/mol", above, expected)
    return result
