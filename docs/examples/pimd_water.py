"""Water with quantum nuclei: a ring polymer of beads in i-PI, all beads in one evaluation.

    python docs/examples/pimd_water.py off-small water.xyz --beads 8 --steps 1000

The structure is any file that ASE reads; i-PI writes pimd.out, trajectories and the charges of each
bead (pimd.charges_*) into the working directory. The dynamics is at constant volume with the PILE-G
thermostat (Ceriotti, Parrinello, Markland, Manolopoulos, J. Chem. Phys. 133, 124104 (2010)).
"""

import argparse
from pathlib import Path

import ase.io
from ipi.scripting import InteractiveSimulation

from lesff.engines.cells import lower_triangular
from lesff.engines.ipi import ffdirect

INPUT = """<simulation verbosity='low'>
  <output prefix='pimd'>
    <properties stride='1' filename='out'> [step, time{{picosecond}}, conserved{{electronvolt}},
      temperature{{kelvin}}, potential{{electronvolt}}, kinetic_cv{{electronvolt}},
      pressure_cv{{bar}}] </properties>
    <trajectory filename='positions' stride='20'> positions{{angstrom}} </trajectory>
    <trajectory filename='charges' stride='20' extra_type='charges'> extras </trajectory>
    <checkpoint stride='100'/>
  </output>
  <total_steps>{steps}</total_steps> <prng><seed>1</seed></prng>
  {force_field}
  <system>
    <initialize nbeads='{beads}'>
      <file mode='xyz'> start.xyz </file> <velocities mode='thermal' units='kelvin'>300</velocities>
    </initialize>
    <forces> <force forcefield='lesff'/> </forces>
    <motion mode='dynamics'> <dynamics mode='nvt'>
      <timestep units='femtosecond'> 0.25 </timestep>
      <thermostat mode='pile_g'> <tau units='femtosecond'> 100 </tau> </thermostat>
    </dynamics> </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>"""


def simulation_input(atoms: ase.Atoms, model: str, *, beads: int, steps: int) -> str:
    """Write template.extxyz and start.xyz of a crystal or a liquid; returns i-PI's input."""
    # i-PI wants the first lattice vector along x, the second in the xy plane
    cell, rotation = lower_triangular(atoms.cell)
    atoms = atoms.copy()
    atoms.positions = atoms.positions @ rotation
    atoms.cell = cell
    ase.io.write("template.extxyz", atoms)
    lengths = " ".join(f"{x:.8f}" for x in atoms.cell.cellpar())
    lines = [f"{a.symbol} {a.x:.8f} {a.y:.8f} {a.z:.8f}" for a in atoms]
    comment = f"# CELL(abcABC): {lengths} positions{{angstrom}} cell{{angstrom}}"
    Path("start.xyz").write_text("\n".join([str(len(atoms)), comment, *lines, ""]))
    # all beads in one evaluation
    force_field = ffdirect("template.extxyz", model, batch_size=beads, extras="charges")
    return INPUT.format(steps=steps, beads=beads, force_field=force_field)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("structure")
    parser.add_argument("--beads", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    atoms = ase.io.read(options.structure, index=0)
    text = simulation_input(atoms, options.model, beads=options.beads, steps=options.steps)
    InteractiveSimulation(text).run(options.steps)


if __name__ == "__main__":
    main()
