"""What engines cost on top of the model itself: constant-energy dynamics of water, step by step.

    python benchmarks/engines.py --model off-small --runs 15
    python benchmarks/engines.py --no-replay --engines lammps openmm

"step" is a whole step of the engine (of 20 in a run), "model" the part of the same steps inside
of the model: energy, forces and what else the engine asks for of a graph that is there, recorded or
not (``--no-replay``). "overhead" is all the rest, neighbours, checks, copies and the integrator, in
units of it; "least" is that of the run with the smallest. "plain" is energy and forces by
``Potential`` of a graph of the same positions, measured after each run. All others are medians of
CPU ms, or of the ratios of runs. An engine is a row of ``ENGINES``: a function that gives its steps
and positions. Then beads of a ring polymer through i-PI's driver: one by one, without recorded
steps and with them, and all at once; "ratio" is that of the first and the last.
"""

import argparse
import functools
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import torch
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.units import fs

import lesff
from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.engines import lammps
from lesff.engines.ipi import ffdirect
from lesff.kernels.recording import Recording
from lesff.potential.potential import Potential

STRUCTURE = Path(__file__).parents[1] / "docs" / "examples" / "water_64.xyz"
Steps = tuple[Callable[[], object], Callable[[], np.ndarray]]
Options = dict[str, Any]
"""Of the evaluator."""
CHUNK, SKIPPED = 20, 2
"""Steps of a run, and runs at the beginning that are not counted."""


class Inside:
    """CPU time spent inside of the model, from when this is made on.

    Attributes:
        ms: Milliseconds so far.
    """

    def __init__(self) -> None:
        self.ms, self._depth = 0.0, 0
        for kind, name in (
            (Potential, "forward"),
            (Recording, "repeat"),
            (Recording, "set_up"),
        ):
            setattr(kind, name, self._timed(getattr(kind, name)))

    def _timed(self, function: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(function)
        def timed(*args: object, **options: object) -> object:
            begin, self._depth = time.process_time(), self._depth + 1
            try:
                return function(*args, **options)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.ms += 1e3 * (time.process_time() - begin)

        return timed


def milliseconds(action: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    action()
    return 1e3 * (time.process_time() - start)


def ase_steps(model: lesff.Model, atoms: ase.Atoms, options: Options) -> Steps:
    """ASE's velocity Verlet."""
    atoms.calc = model.calculator(**options)
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 0.5 * fs)
    dynamics.run(1)
    return partial(dynamics.run, CHUNK), lambda: atoms.positions


def lammps_steps(
    model: lesff.Model,
    atoms: ase.Atoms,
    options: Options,
    *,
    motion: str = "nve",
    virial: bool = True,
) -> Steps:
    """LAMMPS' fix nve, or another one."""
    lmp = lammps.start("-log", "none", "-screen", "none")
    lmp.commands_string("units metal\natom_style atomic\natom_modify map array")
    lammps.add_atoms(lmp, atoms, ["O", "H"])
    lmp.commands_string("pair_style zero 6.0\npair_coeff * *\nneighbor 1.0 bin\ntimestep 0.0005")
    lmp.commands_string("velocity all create 300.0 1\nthermo 1000")
    lmp.command(f"fix 1 all {motion}")
    found = lammps.attach(lmp, model, virial=virial, **options)
    lmp.command("run 1")

    def positions() -> np.ndarray:
        order = np.argsort(lmp.numpy.extract_atom("id")[: len(atoms)])
        return lmp.numpy.extract_atom("x")[: len(atoms)][order]

    assert found.error is None  # noqa: S101 - a failed run measures nothing
    return partial(lmp.command, f"run {CHUNK} pre no post no"), positions


def openmm_steps(model: lesff.Model, atoms: ase.Atoms, options: Options) -> Steps:
    """OpenMM's leapfrog on its CPU platform."""
    import openmm

    from lesff.engines.openmm import create_system, from_ase

    topology, start = from_ase(atoms)
    system = create_system(model, topology, **options)
    platform = openmm.Platform.getPlatformByName("CPU")
    integrator = openmm.VerletIntegrator(0.0005)
    context = openmm.Context(system, integrator, platform, {"Threads": "1"})
    context.setPositions(start)
    context.setVelocitiesToTemperature(300.0, 1)

    def positions() -> np.ndarray:
        return 10.0 * np.array(context.getState(positions=True).getPositions(asNumpy=True)._value)

    return partial(integrator.step, CHUNK), positions


def ipi_steps(model: lesff.Model, atoms: ase.Atoms, options: Options) -> Steps:
    """One bead in i-PI, in its process."""
    from ipi.scripting import InteractiveSimulation

    ase.io.write("template.extxyz", atoms)
    box = " ".join(f"{x:.8f}" for x in atoms.cell.cellpar())
    rows = [f"{a.symbol} {a.x:.8f} {a.y:.8f} {a.z:.8f}" for a in atoms]
    head = f"# CELL(abcABC): {box} positions{{angstrom}} cell{{angstrom}}"
    Path("start.xyz").write_text("\n".join([str(len(atoms)), head, *rows, ""]))
    field = ffdirect("template.extxyz", str(model.source.folder), **options)
    simulation = InteractiveSimulation(
        "<simulation verbosity='quiet'><output prefix='x'></output>"
        f"<total_steps>100000</total_steps><prng><seed>1</seed></prng>{field}<system>"
        "<initialize nbeads='1'><file mode='xyz'>start.xyz</file>"
        "<velocities mode='thermal' units='kelvin'>300</velocities></initialize>"
        "<forces><force forcefield='lesff'/></forces><motion mode='dynamics'>"
        "<dynamics mode='nve'><timestep units='femtosecond'>0.5</timestep></dynamics></motion>"
        "<ensemble><temperature units='kelvin'>300</temperature></ensemble></system></simulation>"
    )
    simulation.run(1)
    (system,) = simulation.syslist
    return (
        partial(simulation.run, CHUNK, write_outputs=False),
        lambda: np.array(system.beads.q[0]).reshape(-1, 3) * 0.529177210903,
    )


ENGINES = {
    "ase": ("ase", ase_steps),
    "lammps": ("lammps", lammps_steps),
    "lammps --no-virial": ("lammps", partial(lammps_steps, virial=False)),
    "lammps npt": (
        "lammps",
        partial(lammps_steps, motion="npt temp 300 300 0.1 iso 1.0 1.0 1.0"),
    ),
    "openmm": ("openmm", openmm_steps),
    "ipi": ("ipi", ipi_steps),
}
"""Package and steps."""


def compare(
    name: str, model: lesff.Model, atoms: ase.Atoms, options: Options, count: int, inside: Inside
) -> str:
    """One row of the table."""
    _, make = ENGINES[name]
    step, positions = make(model, atoms.copy(), options)
    potential, frame, rows = model.potential, atoms.copy(), []
    for _ in range(count):
        before = inside.ms
        whole = milliseconds(step) / CHUNK
        own = (inside.ms - before) / CHUNK
        frame.positions = positions()
        structure = to_structure(frame)
        graph = build_graph(structure, potential.architecture.cutoff).to(dtype=potential.dtype)
        plain = milliseconds(partial(potential, graph, ("energy", "forces")))
        rows.append((whole, own, whole / own, plain))
    whole, own, ratio, plain = np.median(rows[SKIPPED:], axis=0)
    overhead = f"{ratio - 1.0:10.1%}{np.min(rows[SKIPPED:], axis=0)[2] - 1.0:8.1%}"
    return f"{name:>20}{len(atoms):7d}{whole:9.1f}{own:9.1f}{overhead}{plain:9.1f}"


def beads(model: lesff.Model, atoms: ase.Atoms, count: int, n_beads: int) -> str:
    """Beads at once and one by one, recorded and not, in turn."""
    from lesff.engines.ipi_driver import LesffDriver

    ase.io.write("template.extxyz", atoms)
    make = partial(LesffDriver, "template.extxyz", str(model.source.folder))
    together = make(on_out_of_domain="ignore")
    plain = [make(on_out_of_domain="ignore", replay=False) for _ in range(n_beads)]
    recorded = [make(on_out_of_domain="ignore") for _ in range(n_beads)]
    rng, bohr = np.random.default_rng(0), 0.529177210903
    x = [atoms.positions / bohr + rng.normal(0, 0.05, (len(atoms), 3)) for _ in range(n_beads)]
    h, rows = np.array(atoms.cell).T / bohr, []

    def one_by_one(drivers: list[LesffDriver]) -> None:
        for driver, positions in zip(drivers, x, strict=True):
            driver(h, positions)

    for _ in range(count):
        x = [positions + rng.normal(0, 0.005, positions.shape) for positions in x]
        rows.append(
            (
                milliseconds(partial(one_by_one, plain)),
                milliseconds(partial(one_by_one, recorded)),
                milliseconds(partial(together, [h] * n_beads, x)),
            )
        )
    # the first steps are not recorded
    single, repeated, batch = np.median(rows[6:], axis=0)
    times = f"{single:12.1f}{repeated:12.1f}{batch:12.1f}"
    return f"{n_beads:>8}{len(atoms):7d}{times}{single / batch:9.1f}"


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="off-small")
    parser.add_argument("--runs", type=int, default=15, help="of 20 steps")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--no-replay", action="store_true", help="steps are not recorded")
    parser.add_argument("--beads", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, atoms = lesff.load(options.model), ase.io.read(STRUCTURE)
    os.chdir(tempfile.mkdtemp())
    given: Options = {"on_out_of_domain": "ignore"}
    given |= {"replay": False} if options.no_replay else {}
    print(f"{model.name}, one thread, CPU ms")
    print(
        f"{'engine':>20}{'atoms':>7}{'step':>9}{'model':>9}{'overhead':>10}{'least':>8}{'plain':>9}"
    )
    inside = Inside()
    for name in options.engines:
        if find_spec(ENGINES[name][0]) is not None:
            print(compare(name, model, atoms, given, options.runs, inside), flush=True)
    if find_spec("ipi") is not None and "ipi" in options.engines:
        head = f"{'beads':>8}{'atoms':>7}{'one by one':>12}{'recorded':>12}{'at once':>12}"
        print(f"{head}{'ratio':>9}")
        for n_atoms in (3, 24, len(atoms)):
            part = atoms[:n_atoms]
            part.pbc = n_atoms == len(atoms)  # droplets and the box
            print(beads(model, part, options.runs + 6, options.beads), flush=True)


if __name__ == "__main__":
    main()
