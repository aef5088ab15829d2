"""Energy conservation and averages of water in two engines, from one start.

    python docs/examples/nve_engines.py start off-small start.npz --picoseconds 1
    python docs/examples/nve_engines.py openmm off-small start.npz --picoseconds 10
    python docs/examples/nve_engines.py lammps off-small start.npz --picoseconds 10

The first command thermalises 64 molecules at 300 K; the others go on at constant energy in steps
of 0.5 fs and print the drift of the total energy, its scatter, and mean temperature and potential
energy with errors from five blocks of the second half.
"""

import argparse
import time
from collections.abc import Iterator

import ase
import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from openmm_box import relaxed, water_box

import lesff

STEP, EVERY = 0.5, 40
"""fs, and steps between two rows."""
BLOCKS = 5


def thermalised(model: str, picoseconds: float, side: int) -> ase.Atoms:
    """A box of water at 300 K."""
    atoms = relaxed(water_box(side), model)
    rng = np.random.default_rng(1)
    atoms.calc = lesff.load(model).calculator()
    thermalize_momenta(atoms, temperature_K=300.0, rng=rng)
    motion = Langevin(
        atoms, STEP * units.fs, temperature_K=300.0, friction=0.02 / units.fs, rng=rng, fixcm=False
    )
    motion.run(round(1e3 * picoseconds / STEP))
    return atoms


def with_openmm(model: str, atoms: ase.Atoms, rows: int) -> Iterator[tuple[float, float]]:
    """Kinetic and potential energies in eV."""
    import openmm
    from openmm import unit

    from lesff.engines.openmm import create_system, from_ase

    topology, positions = from_ase(atoms)
    integrator = openmm.VerletIntegrator(STEP * unit.femtosecond)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(create_system(model, topology), integrator, platform)
    context.setPositions(positions)
    # A / ps: an angstrom is 0.1 nm
    context.setVelocities(100.0 * units.fs * atoms.get_velocities())
    for _ in range(rows):
        integrator.step(EVERY)
        state = context.getState(getEnergy=True)
        pair = state.getKineticEnergy(), state.getPotentialEnergy()
        kinetic, potential = (e.value_in_unit(unit.kilojoule_per_mole) for e in pair)
        yield kinetic * units.kJ / units.mol, potential * units.kJ / units.mol


def with_lammps(model: str, atoms: ase.Atoms, rows: int) -> Iterator[tuple[float, float]]:
    """Kinetic and potential energies in eV."""
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
    for _ in range(rows):
        lmp.command(f"run {EVERY} post no")
        yield lmp.get_thermo("ke"), lmp.get_thermo("pe")


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["start", "openmm", "lammps"])
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
        return
    data = np.load(options.file)
    atoms = ase.Atoms(data["numbers"], data["positions"], cell=data["cell"], pbc=True)
    atoms.set_momenta(data["momenta"])
    rows = round(1e3 * options.picoseconds / STEP / EVERY)
    run = {"openmm": with_openmm, "lammps": with_lammps}[options.what]
    begin = time.process_time()
    kinetic, potential = np.array(list(run(options.model, atoms, rows))).T
    spent = 1e3 * (time.process_time() - begin) / (rows * EVERY)
    ps, n = 1e-3 * STEP * EVERY * np.arange(1, rows + 1), len(atoms)
    total = 1e3 * (kinetic + potential) / n
    drift, _ = np.polyfit(ps, total, 1)
    print(f"{options.what}: {n} atoms, {ps[-1]:g} ps, {spent:.0f} ms of CPU a step")
    print(f"drift {drift:+.4f} meV/atom/ps, scatter {total.std():.4f} meV/atom")
    temperature = 2.0 * kinetic / (3.0 * n - 3.0) / units.kB
    for name, values, unit in (
        ("temperature", temperature, "K"), ("potential energy", 1e3 * potential / n, "meV/atom"),
    ):  # fmt: skip
        half = values[len(values) // 2 :]
        means = np.array([block.mean() for block in np.array_split(half, BLOCKS)])
        print(f"{name} {half.mean():.2f} +- {means.std(ddof=1) / BLOCKS**0.5:.2f} {unit}")


if __name__ == "__main__":
    main()
