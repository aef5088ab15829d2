"""Energy conservation and averages of water in two engines, from one state.

    python docs/examples/nve_engines.py start off-small start.npz --picoseconds 5
    python docs/examples/nve_engines.py openmm off-small start.npz --picoseconds 10
    python docs/examples/nve_engines.py lammps off-small start.npz --picoseconds 10
    python docs/examples/nve_engines.py compare off-small start.npz

The first command thermalises 64 molecules at 300 K; the next two go on at constant energy in steps
of 0.5 fs, print the drift of the total energy, its scatter and averages, and write the energies to
``start.openmm.npz`` and ``start.lammps.npz``; the last one compares these.

At constant energy averages are functions of the energy, so that both engines must begin with the
very same one: masses are ASE's, the centre of mass rests, and OpenMM's leapfrog gets the velocities
of half a step earlier. From the same state both integrators make the same trajectory, until
rounding has grown (about a picosecond); averages leave that part out. Errors are those of blocks
(H. Flyvbjerg, H. G. Petersen, J. Chem. Phys. 91, 461 (1989)).
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import ase
import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from openmm_box import relaxed, water_box

import lesff

STEP, EVERY = 0.5, 40
"""fs, and steps between two rows."""
DISCARDED = 0.2
"""Share of a run that averages leave out."""
FEWEST_BLOCKS = 8
WRITTEN = 50
"""Rows between two writings of the file."""
ALIKE = 0.2
"""ps that two runs from one state must have in common."""
Rows = Iterator[tuple[float, float]]


def thermalised(model: str, picoseconds: float, side: int) -> ase.Atoms:
    """A box of water at 300 K whose centre of mass rests."""
    atoms = relaxed(water_box(side), model)
    rng = np.random.default_rng(1)
    atoms.calc = lesff.load(model).calculator()
    thermalize_momenta(atoms, temperature_K=300.0, rng=rng)
    motion = Langevin(
        atoms, STEP * units.fs, temperature_K=300.0, friction=0.02 / units.fs, rng=rng, fixcm=False
    )
    motion.run(round(1e3 * picoseconds / STEP))
    Stationary(atoms)
    return atoms


def with_openmm(model: str, atoms: ase.Atoms, rows: int) -> Rows:
    """Kinetic and potential energies in eV, the start first."""
    import openmm
    from openmm import unit

    from lesff.engines.openmm import create_system, from_ase

    topology, positions = from_ase(atoms)
    system = create_system(model, topology, remove_cm_motion=False)
    # OpenMM's own masses differ by 1e-5
    for index, mass in enumerate(atoms.get_masses()):
        system.setParticleMass(index, mass)
    integrator = openmm.VerletIntegrator(STEP * unit.femtosecond)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system, integrator, platform, {"Threads": "1"})
    context.setPositions(positions)
    # leapfrog: velocities are those of half a step before the positions; 1 kJ/mol/nm/u = 1 nm/ps^2
    forces = context.getState(getForces=True).getForces(asNumpy=True)._value
    before = 0.5e-3 * STEP * forces / atoms.get_masses()[:, None]
    # A / ps: an angstrom is 0.1 nm
    context.setVelocities(100.0 * units.fs * atoms.get_velocities() - before)
    for row in range(rows + 1):
        integrator.step(EVERY if row else 0)
        # kinetic energy at the time of the positions: OpenMM moves the velocities for it
        state = context.getState(getEnergy=True)
        pair = state.getKineticEnergy(), state.getPotentialEnergy()
        kinetic, potential = (e.value_in_unit(unit.kilojoule_per_mole) for e in pair)
        yield kinetic * units.kJ / units.mol, potential * units.kJ / units.mol


def with_lammps(model: str, atoms: ase.Atoms, rows: int) -> Rows:
    """Kinetic and potential energies in eV, the start first."""
    from lesff.engines import lammps

    lmp = lammps.start("-log", "none", "-screen", "none")
    for line in ("units metal", "atom_style charge", "atom_modify map array"):
        lmp.command(line)
    rotation = lammps.add_atoms(lmp, atoms, ["O", "H"])
    for line in (
        "pair_style zero 6.0",
        "pair_coeff * *",
        f"timestep {1e-3 * STEP}",
        "fix 1 all nve",
    ):
        lmp.command(line)
    lammps.attach(lmp, model, elements=["O", "H"], virial=False)
    # A / ps
    velocities = 1e3 * units.fs * atoms.get_velocities() @ rotation
    lmp.scatter_atoms("v", 1, 3, np.ctypeslib.as_ctypes(np.ascontiguousarray(velocities).ravel()))
    for row in range(rows + 1):
        lmp.command(f"run {EVERY if row else 0} post no")
        yield lmp.get_thermo("ke"), lmp.get_thermo("pe")


ENGINES = {"openmm": with_openmm, "lammps": with_lammps}


def block_errors(values: np.ndarray) -> dict[int, float]:
    """Standard errors of the mean by rows of a block, from at least FEWEST_BLOCKS blocks each."""
    errors, length = {}, 1
    while len(values) >= FEWEST_BLOCKS * length:
        count = len(values) // length
        means = values[-count * length :].reshape(count, length).mean(axis=1)
        errors[length] = float(means.std(ddof=1) / count**0.5)
        length *= 2
    return errors


def averages(series: dict[str, np.ndarray]) -> dict[str, tuple[float, float, str]]:
    """Mean, its error and unit of temperature and potential energy, the start left out.

    The error is the largest of any block length: too small as long as it still grows with it.
    """
    found = {}
    for name, unit in (("temperature", "K"), ("potential energy", "meV/atom")):
        kept = series[name][int(DISCARDED * len(series[name])) :]
        found[name] = float(kept.mean()), max(block_errors(kept).values(), default=np.nan), unit
    return found


def run(engine: str, model: str, file: str, picoseconds: float) -> None:
    """Run one engine, print and write its energies."""
    data = np.load(file)
    atoms = ase.Atoms(data["numbers"], data["positions"], cell=data["cell"], pbc=True)
    atoms.set_momenta(data["momenta"])
    count, found = round(1e3 * picoseconds / STEP / EVERY), []
    begin = time.process_time()
    for row in ENGINES[engine](model, atoms, count):
        found.append(row)
        if len(found) % WRITTEN == 1 or len(found) > count:
            series = as_series(np.array(found), len(atoms))
            np.savez(Path(file).with_suffix(f".{engine}.npz"), **series)
    spent = 1e3 * (time.process_time() - begin) / (count * EVERY)
    say(series)
    print(f"{engine}: {spent:.0f} ms of CPU a step")


def as_series(rows: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Times in ps, temperature in K, energies in meV/atom from rows of kinetic and potential."""
    kinetic, potential = rows.T
    return {
        "ps": 1e-3 * STEP * EVERY * np.arange(len(rows)),
        # the centre of mass rests
        "temperature": 2.0 * kinetic / (3.0 * n - 3.0) / units.kB,
        "potential energy": 1e3 * potential / n,
        "total energy": 1e3 * (kinetic + potential) / n,
    }


def say(series: dict[str, np.ndarray]) -> None:
    """Print drift, scatter and averages."""
    ps = series["ps"]
    total = series["total energy"]
    drift, offset = np.polyfit(ps, total, 1)
    scatter = (total - drift * ps - offset).std()
    print(f"{ps[-1]:g} ps from a total energy of {total[0]:.4f} meV/atom")
    print(f"drift {drift:+.4f} meV/atom/ps, scatter {scatter:.4f} meV/atom")
    for name, (mean, error, unit) in averages(series).items():
        print(f"{name} {mean:.2f} +- {error:.2f} {unit}")
    kept = series["temperature"][int(DISCARDED * len(ps)) :]
    lengths = ", ".join(f"{ps[1] * k:g} ps {e:.2f}" for k, e in block_errors(kept).items())
    print(f"errors of the temperature by length of blocks: {lengths}")


def compare(file: str) -> None:
    """Print how two runs differ."""
    first, second = ({**np.load(Path(file).with_suffix(f".{name}.npz"))} for name in ENGINES)
    rows = min(len(first["ps"]), len(second["ps"]))
    first, second = ({k: v[:rows] for k, v in one.items()} for one in (first, second))
    for name, series in zip(ENGINES, (first, second), strict=True):
        print(name)
        say(series)
    start = first["total energy"][0] - second["total energy"][0]
    print(f"total energies of the start differ by {abs(start):.5f} meV/atom")
    early = (first["ps"] <= ALIKE).nonzero()[0]
    apart = np.abs(first["temperature"] - second["temperature"])
    print(f"temperatures differ by {apart[early].max():.4f} K at most in the first {ALIKE} ps")
    for where in np.flatnonzero(apart > 1.0)[:1]:
        print(f"and by more than 1 K from {first['ps'][where]:.2f} ps on")
    pairs = zip(averages(first).items(), averages(second).values(), strict=True)
    for (name, (mean, error, unit)), (other, other_error, _) in pairs:
        both = np.hypot(error, other_error)
        print(
            f"mean {name}: differs by {mean - other:+.2f} +- {both:.2f} {unit}, "
            f"{abs(mean - other) / both:.1f} errors"
        )


def main() -> None:
    """Run one of the four."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["start", *ENGINES, "compare"])
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("--picoseconds", type=float, default=10.0)
    parser.add_argument("--side", type=int, default=4, help="molecules along an edge of the start")
    options = parser.parse_args()
    if options.what == "start":
        atoms = thermalised(options.model, options.picoseconds, options.side)
        np.savez(
            options.file, numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell[:],
            momenta=atoms.get_momenta(),
        )  # fmt: skip
    elif options.what == "compare":
        compare(options.file)
    else:
        run(options.what, options.model, options.file, options.picoseconds)


if __name__ == "__main__":
    main()
