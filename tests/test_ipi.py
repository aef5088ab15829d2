"""i-PI beyond the contract: runs of its own program, restarts, sockets, extras and errors."""

import json
import os
import re
import runpy
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import ase.cell
import ase.io
import numpy as np
import pytest
from click.testing import CliRunner
from helpers import triclinic_ice, two_waters, water

import lesff
from lesff.cli import main
from lesff.engines.cells import lower_triangular
from lesff.engines.ipi import driver_path, ffdirect, run_socket_driver
from lesff.errors import (
    ConfigError,
    MissingDependencyError,
    StructureError,
    UnsupportedInputError,
)

pytest.importorskip("ipi", reason='i-PI is not installed: pip install "lesff[ipi]"')
from ipi.scripting import InteractiveSimulation  # noqa: E402 - after the check

from lesff.engines.ipi_driver import LesffDriver  # noqa: E402 - imports i-PI

pytestmark = [
    # i-PI's own: it leaves files open
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::lesff.errors.ChargedCellWarning"),
]
EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "pimd_water.py"
HARTREE, BOHR = 27.211386245988, 0.529177210903
"""CODATA 2018; i-PI's own differ by 1e-7."""


def template(folder, atoms):
    """Atoms in i-PI's orientation, as a template and as a start."""
    cell, rotation = lower_triangular(atoms.cell) if atoms.pbc.any() else (None, np.eye(3))
    atoms = atoms.copy()
    atoms.positions = atoms.positions @ rotation
    if cell is not None:
        atoms.set_cell(cell)
    ase.io.write(folder / "t.extxyz", atoms)
    box = atoms.cell if atoms.pbc.any() else ase.cell.Cell.new([50, 50, 50])
    lengths = " ".join(f"{x:.10f}" for x in box.cellpar())
    rows = [f"{a.symbol} {a.x:.12f} {a.y:.12f} {a.z:.12f}" for a in atoms]
    comment = f"# CELL(abcABC): {lengths} positions{{angstrom}} cell{{angstrom}}"
    (folder / "start.xyz").write_text("\n".join([str(len(atoms)), comment, *rows, ""]))
    return atoms


def simulation_input(force_field, beads=2, steps=6, ensemble="nve"):
    barostat = (
        "<barostat mode='isotropic'><tau units='femtosecond'>50</tau></barostat>"
        "<thermostat mode='langevin'><tau units='femtosecond'>50</tau></thermostat>"
        if ensemble == "npt"
        else ""
    )
    return f"""<simulation verbosity='quiet'>
 <output prefix='out'>
  <properties stride='1' filename='out'> [step, conserved, potential, volume] </properties>
  <trajectory filename='extra' stride='1' extra_type='charges'> extras </trajectory>
  <checkpoint stride='1'/>
 </output>
 <total_steps>{steps}</total_steps> <prng><seed>1</seed></prng>
 {force_field}
 <system>
  <initialize nbeads='{beads}'> <file mode='xyz'> start.xyz </file>
   <velocities mode='thermal' units='kelvin'> 300 </velocities> </initialize>
  <forces> <force forcefield='lesff'/> </forces>
  <motion mode='dynamics'> <dynamics mode='{ensemble}'> {barostat}
   <timestep units='femtosecond'> 0.2 </timestep> </dynamics> </motion>
  <ensemble> <temperature units='kelvin'> 300 </temperature>
   <pressure units='bar'> 1 </pressure> </ensemble>
 </system>
</simulation>"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_beads_of_a_run_are_those_of_predict(folder):
    atoms = template(folder, triclinic_ice())
    text = simulation_input(
        ffdirect("t.extxyz", "off-small", batch_size=3, extras="charges", dtype="float64"),
        beads=3,
        ensemble="npt",
    )
    simulation = InteractiveSimulation(text)
    simulation.run(4)
    (system,) = simulation.syslist
    model = lesff.load("off-small", dtype="float64")
    cell = np.array(system.cell.h).T * BOHR
    assert abs(np.linalg.det(cell) / atoms.get_volume() - 1.0) > 1e-6  # it has moved
    for bead in range(3):
        moved = atoms.copy()
        moved.set_cell(cell)
        moved.positions = np.array(system.beads.q[bead]).reshape(-1, 3) * BOHR
        expected = model.predict(moved, ["energy", "forces", "stress", "charges"])
        # i-PI's constants are rounded to 1e-7
        assert system.forces.pots[bead] * HARTREE == pytest.approx(expected.energy, rel=1e-6)
        forces = np.array(system.forces.f[bead]).reshape(-1, 3) * HARTREE / BOHR
        np.testing.assert_allclose(forces, expected.forces, atol=3e-6)
        virial = np.array(system.forces.virs[bead]) * HARTREE
        # i-PI keeps the upper triangle
        expected_virial = np.triu(-expected.stress * moved.get_volume())
        np.testing.assert_allclose(virial, expected_virial, atol=1e-5)
        charges = system.forces.extras["charges"][bead]
        np.testing.assert_allclose(charges, expected.charges, atol=1e-6)


def test_a_restarted_run_goes_on(folder):
    template(folder, two_waters())
    field = ffdirect("t.extxyz", "off-small", batch_size=2, extras="charges", dtype="float64")
    whole = InteractiveSimulation(simulation_input(field))
    whole.run(3)
    text = Path("RESTART").read_text()
    whole.run(3)
    again = InteractiveSimulation(text)
    again.run(3)
    energy = float(whole.properties("potential"))
    assert float(again.properties("potential")) == pytest.approx(energy, rel=1e-8)
    beads = [np.array(one.syslist[0].beads.q) for one in (again, whole)]
    # i-PI writes nine digits
    np.testing.assert_allclose(beads[0], beads[1], atol=1e-7)


def test_extras_in_atomic_units(folder):
    atoms = template(folder, water())
    driver = LesffDriver("t.extxyz", "off-small", "dipole+charges", dtype="float64")
    cell, positions = np.eye(3) * 100, atoms.positions / BOHR
    *_, extras = driver(cell, positions)
    found = json.loads(extras)
    expected = lesff.load("off-small", dtype="float64").predict(atoms, ["dipole", "charges"])
    np.testing.assert_allclose(np.array(found["dipole"]) * BOHR, expected.dipole, atol=1e-6)
    np.testing.assert_allclose(found["charges"], expected.charges, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a.symbols.__setitem__(0, "Au"), UnsupportedInputError, "Au"),
        (lambda a: a.info.update(charge=0.5), lesff.ChargeSpinError, "t.extxyz: total charge"),
    ],
)
def test_a_bad_template_is_refused_at_the_start(change, error, message, folder):
    atoms = water()
    change(atoms)
    template(folder, atoms)
    with pytest.raises(error, match=message):
        LesffDriver("t.extxyz", "off-small")


def test_bad_options_and_atoms(folder):
    atoms = template(folder, water())
    with pytest.raises(StructureError, match="absent"):
        LesffDriver("absent.xyz", "off-small")
    with pytest.raises(ConfigError, match="`extras` must name quantities"):
        LesffDriver("t.extxyz", "off-small", "charges+magic")
    with pytest.raises(ConfigError, match="options of the i-PI driver.*'sking'"):
        LesffDriver("t.extxyz", "off-small", sking="1")
    driver = LesffDriver("t.extxyz", "off-small", skin="0.3", external_field="0 0 0.1")
    assert driver.evaluator.skin == 0.3
    with pytest.raises(StructureError, match="i-PI has 2 atoms, but the template t.extxyz has 3"):
        driver.compute(np.eye(3) * 100, atoms.positions[:2] / BOHR)
    with pytest.raises(ConfigError, match="without commas"):
        ffdirect("a,b.xyz", "off-small")
    parsed = ET.fromstring(ffdirect("a&b.xyz", "off-small", batch_size=4))  # noqa: S314 - our own
    assert parsed.find("batch_size").text == "4"
    assert parsed.find("pes_path").text == str(driver_path())
    assert "a&b.xyz" in parsed.find("parameters").text


def test_the_command(folder, monkeypatch):
    result = CliRunner().invoke(main, ["ipi", "--path"])
    assert Path(result.output.strip()) == driver_path()
    assert driver_path().is_file()
    result = CliRunner().invoke(main, ["ipi", "absent.xyz"])
    assert result.exit_code == 1
    assert "TEMPLATE must be a file" in result.output
    monkeypatch.setattr("lesff.engines.ipi.shutil.which", lambda *a, **k: None)
    with pytest.raises(MissingDependencyError, match=r'pip install "lesff\[ipi\]"'):
        run_socket_driver("t.extxyz", "off-small", address="x")


def ipi_program():
    return [sys.executable, str(Path(sys.executable).parent / "i-pi")]


@pytest.mark.slow
def test_a_socket_gives_what_the_process_gives(folder):
    template(folder, two_waters())
    name = f"lesff_{os.getpid()}"
    socket = (
        f"<ffsocket mode='unix' name='lesff' pbc='false'> <address>{name}</address> "
        "<batch_size>2</batch_size> <latency>1e-3</latency> </ffsocket>"
    )
    Path("in.xml").write_text(simulation_input(socket))
    with Path("ipi.log").open("w") as log:
        command = [*ipi_program(), "in.xml"]
        server = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - a fixed command
        try:
            deadline = time.monotonic() + 60
            while not Path(f"/tmp/ipi_{name}").exists():  # noqa: S108 - i-PI's own place
                assert time.monotonic() < deadline, Path("ipi.log").read_text()
                time.sleep(0.1)
            command = [sys.executable, "-m", "lesff", "ipi", "t.extxyz", "-m", "off-small"]
            command += ["-a", name, "--extras", "charges", "--dtype", "float64"]
            subprocess.run(command, check=True, timeout=120)  # noqa: S603 - a fixed command
            assert server.wait(timeout=60) == 0, Path("ipi.log").read_text()
        finally:
            server.kill()
    by_socket = np.loadtxt("out.out")
    field = ffdirect("t.extxyz", "off-small", batch_size=2, extras="charges", dtype="float64")
    direct = InteractiveSimulation(simulation_input(field))
    direct.run(6)
    # the last step
    assert by_socket[-1, 0] == 6
    energy = by_socket[-1, 2] * HARTREE
    assert energy == pytest.approx(float(direct.properties("potential")), rel=1e-6)


@pytest.mark.slow
def test_a_refused_step_ends_the_program_with_its_reason(folder):
    template(folder, two_waters())
    text = simulation_input(ffdirect("t.extxyz", "off-small", batch_size=2), steps=200)
    extra = re.compile(r"<trajectory filename='extra'.*</trajectory>")
    Path("in.xml").write_text(extra.sub("", text))
    # the template is sound, the start is not
    rows = Path("start.xyz").read_text().splitlines()
    rows[3] = "H " + rows[2].split(maxsplit=1)[1] + "1"
    Path("start.xyz").write_text("\n".join(rows))
    command = [*ipi_program(), "in.xml"]
    done = subprocess.run(  # noqa: S603 - a fixed command
        command, capture_output=True, text=True, timeout=120, check=False
    )
    assert "they overlap, below 0.45" in done.stdout + done.stderr


@pytest.mark.slow
def test_the_example_runs(folder, monkeypatch):
    structure = EXAMPLE.parent / "water_64.xyz"
    monkeypatch.setattr(
        sys, "argv", ["x", "off-small", str(structure), "--beads", "2", "--steps", "2"]
    )
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    rows = np.loadtxt("pimd.out")
    assert rows[-1, 0] == 2
    assert rows[0, 2] == pytest.approx(rows[-1, 2], abs=0.05)  # the conserved quantity, eV
