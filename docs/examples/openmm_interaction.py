"""Two water molecules drawn apart: both by the model, one of each kind, both by TIP3P.

    python docs/examples/openmm_interaction.py off-medium --picture docs/openmm-water.png

"donor" is the model's molecule giving its hydrogen to one of TIP3P, "acceptor" the other way
round. Energies in kJ/mol, relative to the molecules 60 A apart.
"""

import argparse

import numpy as np
import openmm
from ase.build import molecule
from openmm import app, unit
from openmmml import MLPotential

DISTANCES = np.array([2.5, 2.6, 2.7, 2.8, 2.9, 3.0, 3.2, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0])
"""Between the oxygen atoms, A."""
FAR = 60.0


def dimer(distance: float) -> np.ndarray:
    """Positions in nm of a hydrogen bond along z: the donor, then the acceptor."""
    donor, acceptor = molecule("H2O"), molecule("H2O")
    for one in (donor, acceptor):
        one.positions -= one.positions[0]
    # an O-H bond along z; and the lone pairs of the other towards it
    donor.rotate(donor.positions[1], "z")
    acceptor.rotate(acceptor.positions[1:].sum(0), (0.9, 0.0, 1.0))
    acceptor.translate([0.0, 0.0, distance])
    return np.concatenate([donor.positions, acceptor.positions]) / 10.0


def curve(system: openmm.System) -> np.ndarray:
    """Energies at all distances against those far apart, kJ/mol."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    energies = []
    for distance in [*DISTANCES, FAR]:
        context.setPositions(dimer(distance))
        energy = context.getState(getEnergy=True).getPotentialEnergy()
        energies.append(energy.value_in_unit(unit.kilojoule_per_mole))
    return np.array(energies[:-1]) - energies[-1]


def topology_of_two() -> app.Topology:
    """Two waters in open space."""
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(2):
        residue = topology.addResidue("HOH", chain)
        oxygen = topology.addAtom("O", app.element.oxygen, residue)
        for name in ("H1", "H2"):
            topology.addBond(oxygen, topology.addAtom(name, app.element.hydrogen, residue))
    return topology


def main() -> None:
    """Print the table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--picture", default=None)
    options = parser.parse_args()
    topology = topology_of_two()
    field = app.ForceField("amber14/tip3p.xml")
    mm = field.createSystem(topology, nonbondedMethod=app.NoCutoff, rigidWater=False)
    potential = MLPotential(f"lesff-{options.model}", dtype="float64")
    curves = {"model": curve(potential.createSystem(topology))}
    for name, atoms in (("donor", [0, 1, 2]), ("acceptor", [3, 4, 5])):
        mixed = potential.createMixedSystem(topology, mm, atoms, embedding="electrostatic")
        curves[name] = curve(mixed)
    curves["TIP3P"] = curve(mm)
    print(f"{'O-O / A':>8}" + "".join(f"{name:>10}" for name in curves))
    for index, distance in enumerate(DISTANCES):
        print(f"{distance:8.1f}" + "".join(f"{row[index]:10.2f}" for row in curves.values()))
    if options.picture is None:
        return
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.0, 3.5))
    for (name, row), style in zip(curves.items(), ("k-", "C0o-", "C1s-", "C7--"), strict=True):
        axes.plot(DISTANCES, row, style, label=name, markersize=4)
    axes.axhline(0.0, color="k", linewidth=0.5)
    axes.set(xlabel="O-O distance / A", ylabel="energy / (kJ/mol)", ylim=(-35.0, 25.0))
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(options.picture, dpi=120)


if __name__ == "__main__":
    main()
