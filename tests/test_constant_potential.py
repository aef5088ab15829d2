"""Two electrodes at a voltage: plates as measured, forces, energy in dynamics, fluctuations."""

import numpy as np
import pytest
from ase import Atoms
from ase import units as ase_units
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet

from lesff.errors import ConfigError, DataError
from lesff.units import BOLTZMANN
from lesff.workflows.constant_potential import (
    ChargeRecord,
    ElectrodeCalculator,
    fluctuation_capacitance,
)

EPS0 = 0.005526349
"""e / (V A): the CODATA constant, see test_units.py."""


def plates(distance: float, *, n: int = 4, spacing: float = 2.5, ions=()) -> Atoms:
    """Two square gold sheets, then ions; a slab open along z."""
    axis = spacing * np.arange(n)
    x, y = (v.ravel() for v in np.meshgrid(axis, axis))
    rows = [np.stack([x, y, np.full_like(x, z)], 1) for z in (0.0, distance)]
    symbols = "Au" * (2 * n * n) + "".join(s for s, _ in ions)
    positions = np.concatenate([*rows, *(np.array([r]) for _, r in ions)])
    return Atoms(symbols, positions, cell=[n * spacing, n * spacing, 0.0], pbc=[1, 1, 0])


def between(atoms: Atoms, voltage: float, **options) -> ElectrodeCalculator:
    gold = np.flatnonzero(atoms.numbers == 79)
    half = len(gold) // 2
    charges = np.zeros(len(atoms))
    charges[atoms.numbers == 11], charges[atoms.numbers == 17] = 1.0, -1.0
    return ElectrodeCalculator(gold[:half], gold[half:], voltage, charges=charges, **options)


def salt() -> Atoms:
    """A small cell with two ions."""
    ions = [("Na", [1.0, 2.2, 3.1]), ("Cl", [3.3, 0.9, 5.2])]
    return plates(8.5, n=3, spacing=2.0, ions=ions)


# 0.07654 and 0.03631 e/V: measured with the functions alone, image planes 2 x 0.39 A
@pytest.mark.parametrize(("distance", "measured"), [(8.0, 0.07654), (16.0, 0.03631)])
def test_parallel_plates(distance, measured):
    atoms = plates(distance)
    calc = atoms.calc = between(atoms, 1.0)
    first, second = calc.electrode_charges(atoms)
    assert first == pytest.approx(-second, abs=1e-9)
    assert first == pytest.approx(measured, rel=2e-3)
    # eps0 A / (d - 0.78 A), sigma / sqrt(2 pi) = 0.40 A above each sheet to first order
    assert first == pytest.approx(EPS0 * 100.0 / (distance - 0.78), rel=5e-3)
    assert calc.capacitance(atoms) == pytest.approx(first, rel=1e-9)
    # F = -C V^2 / 2
    assert atoms.get_potential_energy() == pytest.approx(-0.5 * first, rel=1e-6)
    # dQ/dV by the setter, which forgets the old results
    calc.voltage = 3.0
    assert calc.electrode_charges(atoms)[0] == pytest.approx(3.0 * first, rel=1e-9)


def test_forces_are_the_gradient():
    atoms = salt()
    atoms.calc = between(
        atoms, 1.5, hardness=2.0, base=LennardJones(sigma=2.0, epsilon=0.1, rc=4.0)
    )
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 0.1
    for atom in (0, 12, len(atoms) - 2, len(atoms) - 1):
        for axis in range(3):
            energies = []
            for step in (1e-3, -1e-3):
                moved = atoms.copy()
                moved.positions[atom, axis] += step
                moved.calc = atoms.calc
                energies.append(moved.get_potential_energy())
            found = (energies[1] - energies[0]) / 2e-3
            assert forces[atom, axis] == pytest.approx(found, abs=2e-5)


def test_charge_is_the_derivative_of_the_energy():
    """dF/dV = -Q, ions and all."""
    atoms = salt()
    calc = atoms.calc = between(atoms, 0.7)
    charge = calc.electrode_charges(atoms)[0]
    energies = []
    for voltage in (0.701, 0.699):
        calc.voltage = voltage
        energies.append(atoms.get_potential_energy())
    assert (energies[1] - energies[0]) / 0.002 == pytest.approx(charge, abs=1e-6)


def test_dynamics_conserve_energy_and_record():
    atoms = salt()
    atoms.set_constraint(FixAtoms(np.flatnonzero(atoms.numbers == 79)))
    atoms.calc = between(atoms, 2.0, base=LennardJones(sigma=2.0, epsilon=0.1, rc=4.0))
    record = ChargeRecord(atoms)
    dynamics = VelocityVerlet(atoms, timestep=0.5 * ase_units.fs)
    dynamics.attach(record, interval=2)
    before = atoms.get_total_energy()
    dynamics.run(30)
    assert atoms.get_kinetic_energy() > 0.01
    assert atoms.get_total_energy() == pytest.approx(before, abs=1e-4)
    assert len(record.charges) == 16
    assert np.ptp(record.charges) > 1e-4
    empty = plates(8.5, n=3, spacing=2.0)
    assert record.frozen[-1] == pytest.approx(between(empty, 0.0).capacitance(empty), rel=1e-9)


def test_fluctuations_give_the_derivative_of_the_mean():
    """An ion on a line of points, all of them counted: d<Q>/dV against <dQ/dV> + var Q / kT."""
    temperature = 20000.0  # the weights of all points matter
    thermal = BOLTZMANN * temperature
    atoms = salt()
    calc = between(atoms, 0.0)
    heights = np.linspace(2.0, 6.5, 7)

    def samples(voltage: float) -> tuple[np.ndarray, np.ndarray]:
        calc.voltage = voltage
        energies, charges = [], []
        for z in heights:
            atoms.positions[-2, 2] = z
            energies.append(calc.get_property("energy", atoms))
            charges.append(calc.electrode_charges(atoms)[0])
        weights = np.exp(-(np.array(energies) - min(energies)) / thermal)
        return np.array(charges), weights / weights.sum()

    means = [float(np.dot(*samples(v))) for v in (1.05, 0.95)]
    exact = (means[0] - means[1]) / 0.1
    charges, weights = samples(1.0)
    # a run that visits each point as often as it weighs
    visits = np.repeat(charges, np.rint(20000 * weights).astype(int))
    order = np.random.default_rng(0).permutation(len(visits))
    frozen = np.full(len(visits), calc.capacitance(atoms))
    found, error = fluctuation_capacitance(visits[order], frozen, temperature)
    assert found == pytest.approx(exact, rel=2e-3)
    # fluctuations matter, and their error is small
    assert found > 1.02 * frozen[0]
    assert 0.0 < error < 0.05 * found


def test_initial_charges_are_taken_and_bad_input_is_refused():
    atoms = salt()
    explicit = between(atoms, 1.0)
    expected = explicit.get_property("energy", atoms)
    atoms.set_initial_charges([0.3] * 18 + [1.0, -1.0])
    calc = ElectrodeCalculator(range(9), range(9, 18), 1.0)
    assert calc.get_property("energy", atoms) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="have atoms"):
        ElectrodeCalculator([], [1], 1.0)
    with pytest.raises(ConfigError, match="in common"):
        ElectrodeCalculator([0, 1], [1], 1.0)
    with pytest.raises(ConfigError, match="finite"):
        ElectrodeCalculator([0], [1], float("nan"))
    with pytest.raises(DataError, match="indices below"):
        ElectrodeCalculator([0], [99], 1.0).get_property("energy", atoms)
    with pytest.raises(DataError, match="one an atom"):
        ElectrodeCalculator([0], [1], 1.0, charges=[1.0]).get_property("energy", atoms)
    with pytest.raises(ConfigError, match="ElectrodeCalculator"):
        ChargeRecord(salt())
    with pytest.raises(DataError, match="temperature"):
        fluctuation_capacitance(np.zeros(10), np.zeros(10), -1.0, n_blocks=2)
