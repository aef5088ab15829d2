"""What engines cost on top of the model itself: constant-energy dynamics of water, step by step.

    python benchmarks/engines.py --model off-small --steps 60

"step" is a whole step of the engine (of five in a run); "model" is what the engine asks for (energy
and forces; with ``stress`` where it asks for the virial, too) of a graph of the same positions that
is there, measured after each run: medians of CPU ms, and of the ratios of pairs. Then beads of a
ring polymer, all at once and one by one, through i-PI's driver. An engine is a row of ``ENGINES``:
a function that gives its steps and its positions.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

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

STRUCTURE = Path(__file__).parents[1] / "docs" / "examples" / "water_64.xyz"
Steps = tuple[Callable[[], object], Callable[[], np.ndarray]]
CHUNK = 5


def milliseconds(action: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    action()
    return 1e3 * (time.process_time() - start)


def ase_steps(model: lesff.Model, atoms: ase.Atoms) -> Steps:
    """ASE's velocity Verlet."""
    atoms.calc = model.calculator(on_out_of_domain="ignore")
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 0.5 * fs)
    dynamics.run(1)
    return partial(dynamics.run, CHUNK), lambda: atoms.positions


def lammps_steps(model: lesff.Model, atoms: ase.Atoms, *, virial: bool = True) -> Steps:
    """LAMMPS' fix nve."""
    lmp = lammps.start("-log", "none", "-screen", "none")
    lmp.commands_string("units metal\natom_style atomic\natom_modify map array")
    lammps.add_atoms(lmp, atoms, ["O", "H"])
    lmp.commands_string("pair_style zero 6.0\npair_coeff * *\nneighbor 1.0 bin\ntimestep 0.0005")
    lmp.commands_string("velocity all create 300.0 1\nfix 1 all nve")
    found = lammps.attach(lmp, model, virial=virial, on_out_of_domain="ignore")
    lmp.command("run 1")

    def positions() -> np.ndarray:
        order = np.argsort(lmp.numpy.extract_atom("id")[: len(atoms)])
        return lmp.numpy.extract_atom("x")[: len(atoms)][order]

    assert found.error is None  # noqa: S101 - a failed run measures nothing
    return partial(lmp.command, f"run {CHUNK} pre no post no"), positions


def ipi_steps(model: lesff.Model, atoms: ase.Atoms) -> Steps:
    """One bead in i-PI, in its process."""
    from ipi.scripting import InteractiveSimulation

    ase.io.write("template.extxyz", atoms)
    box = " ".join(f"{x:.8f}" for x in atoms.cell.cellpar())
    rows = [f"{a.symbol} {a.x:.8f} {a.y:.8f} {a.z:.8f}" for a in atoms]
    head = f"# CELL(abcABC): {box} positions{{angstrom}} cell{{angstrom}}"
    Path("start.xyz").write_text("\n".join([str(len(atoms)), head, *rows, ""]))
    field = ffdirect("template.extxyz", str(model.source.folder), on_out_of_domain="ignore")
    simulation = InteractiveSimulation(
        "<simulation verbosity='quiet'><output prefix='x'></output>"
        f"<total_steps>1000</total_steps><prng><seed>1</seed></prng>{field}<system>"
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


FORCES = ("energy", "forces")
ENGINES = {
    "ase": ("ase", ase_steps, FORCES),
    "lammps": ("lammps", lammps_steps, (*FORCES, "stress")),
    "lammps --no-virial": ("lammps", partial(lammps_steps, virial=False), FORCES),
    "ipi": ("ipi", ipi_steps, (*FORCES, "stress")),
}
"""Package, steps, and what is asked for at each."""


def compare(name: str, model: lesff.Model, atoms: ase.Atoms, count: int) -> str:
    """One row of the table."""
    _, make, names = ENGINES[name]
    step, positions = make(model, atoms.copy())
    potential, frame, rows = model.potential, atoms.copy(), []
    for _ in range(count):
        whole = milliseconds(step) / CHUNK
        frame.positions = positions()
        structure = to_structure(frame)
        graph = build_graph(structure, potential.architecture.cutoff).to(dtype=potential.dtype)
        bare = milliseconds(partial(potential, graph, names))
        rows.append((whole, bare, whole / bare))
    whole, bare, ratio = np.median(rows[5:], axis=0)
    return f"{name:>20}{len(atoms):7d}{whole:9.1f}{bare:9.1f}{ratio - 1.0:10.1%}"


def beads(model: lesff.Model, atoms: ase.Atoms, count: int, n_beads: int) -> str:
    """Beads at once and one by one, in alternation."""
    from lesff.engines.ipi_driver import LesffDriver

    ase.io.write("template.extxyz", atoms)
    make = partial(LesffDriver, "template.extxyz", str(model.source.folder))
    together = make(on_out_of_domain="ignore")
    alone = [make(on_out_of_domain="ignore") for _ in range(n_beads)]
    rng, bohr = np.random.default_rng(0), 0.529177210903
    x = [atoms.positions / bohr + rng.normal(0, 0.05, (len(atoms), 3)) for _ in range(n_beads)]
    h, rows = np.array(atoms.cell).T / bohr, []

    def one_by_one() -> None:
        for driver, positions in zip(alone, x, strict=True):
            driver(h, positions)

    for _ in range(count):
        x = [positions + rng.normal(0, 0.005, positions.shape) for positions in x]
        single = milliseconds(one_by_one)
        batch = milliseconds(partial(together, [h] * n_beads, x))
        rows.append((single, batch, single / batch))
    single, batch, ratio = np.median(rows[2:], axis=0)
    return f"{n_beads:>8}{len(atoms):7d}{single:12.1f}{batch:12.1f}{ratio:9.1f}"


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="off-small")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--beads", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, atoms = lesff.load(options.model), ase.io.read(STRUCTURE)
    os.chdir(tempfile.mkdtemp())
    print(f"{model.name}, one thread, CPU ms")
    print(f"{'engine':>20}{'atoms':>7}{'step':>9}{'model':>9}{'overhead':>10}")
    for name in options.engines:
        if find_spec(ENGINES[name][0]) is not None:
            print(compare(name, model, atoms, options.steps), flush=True)
    if find_spec("ipi") is not None and "ipi" in options.engines:
        print(f"{'beads':>8}{'atoms':>7}{'one by one':>12}{'at once':>12}{'ratio':>9}")
        for n_atoms in (3, 24, len(atoms)):
            part = atoms[:n_atoms]
            part.pbc = n_atoms == len(atoms)  # droplets and the box
            print(beads(model, part, options.steps // 3, options.beads), flush=True)


if __name__ == "__main__":
    main()
