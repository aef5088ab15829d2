"""Simple physical checks of an organic model, as JSON.

    python benchmarks/physics.py off-small -o model_cards/off-small.physics.json

Water monomer (relaxed): dipole, geometry. Water dimer (relaxed from the linear structure): binding
energy. Liquid: drift of the total energy of 64 waters at constant energy over 2 ps, after
relaxation and 0.5 ps at 300 K. References: dipole 1.855 D (Clough et al., J. Chem. Phys. 59, 2254
(1973)); dimer CCSD(T)/CBS 4.97 kcal/mol (S22A, Takatani et al., J. Chem. Phys. 132, 144104
(2010), at its own geometry).
"""

import argparse
import json
import sys
from pathlib import Path

import ase
import numpy as np
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE
from ase.units import fs
from inference import water_box
from tqdm import tqdm

import lesff
from lesff.units import EA_TO_DEBYE, EV_TO_KCAL_PER_MOL


def relaxed(atoms: ase.Atoms, model: lesff.Model) -> ase.Atoms:
    """Local minimum, forces below 5 meV/A."""
    atoms.calc = model.calculator()
    if not BFGS(atoms, logfile=None).run(fmax=0.005, steps=500):
        sys.exit(f"relaxation of {atoms.symbols} did not converge in 500 steps")
    return atoms


def dimer() -> ase.Atoms:
    """Linear hydrogen bond, O-O 2.9 A."""
    donor, acceptor = molecule("H2O"), molecule("H2O")
    donor.positions -= donor.positions[0]
    bond = donor.positions[1] / np.linalg.norm(donor.positions[1])
    donor.rotate(bond, (1, 0, 0), center=(0, 0, 0))
    acceptor.positions -= acceptor.positions[0]
    bisector = acceptor.positions[1:].sum(0)
    acceptor.rotate(bisector, (1, 0, 0.6), center=(0, 0, 0))
    acceptor.positions += (2.9, 0.0, 0.0)
    return donor + acceptor


def drift(model: lesff.Model, picoseconds: float) -> dict[str, float]:
    """Slope and scatter of the total energy of 64 waters at constant energy."""
    box = water_box(4)
    box.calc = model.calculator()
    FIRE(box, logfile=None).run(fmax=0.5, steps=200)
    rng = np.random.default_rng(0)
    thermalize_momenta(box, temperature_K=300, rng=rng)
    Stationary(box)
    step = 0.5 * fs
    thermostat = Langevin(box, step, temperature_K=300, friction=0.02 / fs, rng=rng)
    for _ in tqdm(range(1000), desc="thermostat", unit="step"):
        thermostat.run(1)
    dynamics = VelocityVerlet(box, step)
    times, energies, temperatures = [], [], []
    for index in tqdm(range(int(2000 * picoseconds)), desc="NVE", unit="step"):
        dynamics.run(1)
        if index % 10 == 9:
            times.append((index + 1) * 0.5e-3)
            energies.append(1e3 * box.get_total_energy() / len(box))
            temperatures.append(box.get_temperature())
    slope = np.polyfit(times, energies, 1)[0]
    return {
        "nve_picoseconds": picoseconds,
        "nve_drift_mev_per_atom_ps": float(slope),
        "nve_scatter_mev_per_atom": float(np.std(energies)),
        "nve_mean_temperature_k": float(np.mean(temperatures)),
    }


def main() -> None:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--picoseconds", type=float, default=2.0)
    options = parser.parse_args()
    model = lesff.load(options.model)
    precise = lesff.load(options.model, dtype="float64")
    monomer = relaxed(molecule("H2O"), precise)
    prediction = precise.predict(monomer, ["energy", "dipole", "charges"])
    pair = relaxed(dimer(), precise)
    binding = 2 * prediction.energy - pair.get_potential_energy()
    result = {
        "model": model.name,
        "water_dipole_d": float(np.linalg.norm(prediction.dipole) * EA_TO_DEBYE),
        "water_oh_a": float(monomer.get_distance(0, 1)),
        "water_hoh_degree": float(monomer.get_angle(1, 0, 2)),
        "water_oxygen_charge_e": float(prediction.charges[0]),
        "water_dimer_binding_kcal_per_mol": float(binding * EV_TO_KCAL_PER_MOL),
        "water_dimer_oo_a": float(pair.get_distance(0, 3)),
    }
    if options.picoseconds > 0:
        result |= drift(model, options.picoseconds)
    text = json.dumps({k: round(v, 4) if k != "model" else v for k, v in result.items()}, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
