"""Distillation: teachers, sampling, shards that survive a kill, a student and its report."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import ase.build
import ase.io
import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.cluster import Icosahedron
from click.testing import CliRunner
from helpers import tiny_potential, water

import lesff
from lesff.atoms.structure import to_structure
from lesff.cli.main import main
from lesff.distill import DistillOptions, distill, label
from lesff.distill.labelling import label_structures
from lesff.distill.options import small_student
from lesff.distill.run import check_student
from lesff.distill.sampling import langevin, plan_tasks
from lesff.electrostatics.dispersion import DispersionConfig
from lesff.errors import (
    ConfigError,
    DataError,
    IntegrityError,
    LeftOutWarning,
    UnsupportedInputError,
)
from lesff.methods import open_method
from lesff.model_folder.folder import save_model
from lesff.model_folder.verify import verify_parity
from lesff.train.data import read_frames

HERE = __name__
EMT_SPEC = "ase.calculators.emt:EMT"
TINY = replace(
    small_student(has_states=False),
    model=replace(
        small_student(has_states=False).model,
        architecture={
            "type": "mace", "cutoff": 3.5, "hidden_irreps": "4x0e", "n_layers": 1, "max_ell": 1,
            "correlation": 2, "radial_mlp": [8],
        },
    ),
)  # fmt: skip


def clusters():
    """Small clusters and a crystal of Cu and Al near their EMT equilibrium."""
    mixed = Icosahedron("Cu", 2, 3.7)
    mixed.numbers[:5] = 13
    small = Icosahedron("Al", 2, 4.0)
    return [Icosahedron("Cu", 2, 3.6), mixed, small, ase.build.bulk("Cu", a=3.6, cubic=True)]


class NoForces(Calculator):
    implemented_properties = ["energy"]


class Well(Calculator):
    """Harmonic, 2 eV/A^2."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": float((atoms.positions**2).sum()), "forces": -2 * atoms.positions}


class Broken(Calculator):
    """NaN from the third call on."""

    implemented_properties = ["energy", "forces"]
    default_parameters = {"fails": True}
    calls = 0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        Broken.calls += 1
        self.results = {"energy": np.nan if Broken.calls > 2 else 1.0, "forces": atoms.positions}


def structures():
    return [to_structure(atoms) for atoms in clusters()]


def test_shards_hold_the_teachers_answers(tmp_path):
    options = DistillOptions(sample="rattle", frames=3, chunk=2, strain=0.03)
    paths = label_structures(open_method(EMT_SPEC), structures(), options, tmp_path)
    assert len(paths) == 8
    frames = [frame for path in paths for frame in read_frames(path)]
    assert len(frames) == 12
    for frame in frames:
        s = frame.structure
        atoms = ase.Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc, calculator=EMT())
        assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-12)
        if s.pbc.any():
            np.testing.assert_allclose(frame.stress, atoms.get_stress(voigt=False), atol=1e-12)
            assert abs(np.linalg.det(s.cell) / 3.6**3 - 1.0) > 1e-4
        else:
            assert frame.stress is None
    held_out = {frame.group for frame in frames if frame.is_validation}
    assert held_out
    assert not held_out & {frame.group for frame in frames if not frame.is_validation}


def test_labels_alone_are_one_file_with_the_frames_of_the_shards(tmp_path):
    options = {"sample": "rattle", "frames": 3, "chunk": 2, "strain": 0.03}
    path = label(EMT_SPEC, clusters(), tmp_path, options=options, progress=False)
    packed = read_frames(path)
    shards = [f for p in sorted((tmp_path / "shards").glob("*.npz")) for f in read_frames(p)]
    assert len(packed) == len(shards) == 12
    for one, other in zip(packed, shards, strict=True):
        assert one.energy == other.energy
        assert one.group == other.group
        assert one.is_validation == other.is_validation
        np.testing.assert_array_equal(one.forces, other.forces)
        np.testing.assert_array_equal(one.structure.cell, other.structure.cell)
        np.testing.assert_array_equal(one.structure.pbc, other.structure.pbc)
        assert (one.stress is None) == (other.stress is None)
        if one.stress is not None:
            np.testing.assert_array_equal(one.stress, other.stress)
    has_stress = {frame.stress is not None for frame in packed}
    assert has_stress == {True, False}  # of crystals, beside clusters


def test_labels_alone_refuse_options_of_the_training(tmp_path):
    ase.io.write(tmp_path / "in.extxyz", clusters())
    call = [
        "distill", "--teacher", EMT_SPEC, "--structures", str(tmp_path / "in.extxyz"),
        "--sample", "rattle", "--frames", "1", "-o", str(tmp_path / "run"), "--labels-only",
    ]  # fmt: skip
    out = CliRunner().invoke(main, [*call, "--minutes", "3"])
    assert out.exit_code == 1
    assert "trains nothing: leave out `--minutes`" in out.output
    out = CliRunner().invoke(main, call)
    assert out.exit_code == 0, out.output
    assert (tmp_path / "run" / "labels.npz").is_file()
    assert not (tmp_path / "run" / "model").exists()


def test_dynamics_of_a_harmonic_well_obey_equipartition():
    """<x^2> = kT / k for every coordinate, within four standard errors of independent frames."""
    atoms = ase.Atoms("H8", np.zeros((8, 3)), calculator=Well())
    options = DistillOptions(timestep=1.0, friction=0.2, interval=40)
    dynamics = langevin(atoms, 300.0, options, np.random.default_rng(0))
    found = []
    for _ in range(200):
        next(dynamics)
        found.append(np.mean(atoms.positions**2))
    n = 200 * 24
    assert np.mean(found) * 2.0 / (units.kB * 300.0) == pytest.approx(1.0, abs=4 * (2 / n) ** 0.5)


def test_a_structure_without_any_frame_is_named_and_left_out(tmp_path):
    """One of thousands that the teacher tears apart must not end the run."""
    far, near = structures()[:2]
    tight = replace(near, positions=0.4 * near.positions)
    options = DistillOptions(sample="rattle", frames=3, max_force=20.0, displacement=(0.0, 0.01))
    teacher = open_method(EMT_SPEC)
    with pytest.warns(LeftOutWarning, match=r"of 1 of 2 shards \(structure 1\).*are left out"):
        (path,) = label_structures(teacher, [far, tight], options, tmp_path)
    assert len(read_frames(path)) == 3
    # run again, nothing is labelled anew and the same is said
    with pytest.warns(LeftOutWarning, match="structure 1"):
        assert label_structures(teacher, [far, tight], options, tmp_path) == [path]


def test_without_frames_held_out_nothing_is_trained(tmp_path):
    """All dropped frames are counted, and the run ends before the training, not after it."""
    copper = ase.build.bulk("Cu", cubic=True)
    tight = ase.Atoms("Cu2", [[0, 0, 0], [0, 0, 0.9]])
    options: dict[str, Any] = {"sample": "rattle", "frames": 2, "displacement": (0.0, 0.01)}
    said = []

    def holds_out_the_tight_one(seed):
        tasks = plan_tasks(
            [to_structure(a) for a in (copper, tight)], DistillOptions(**options, seed=seed)
        )
        return tasks[1].is_validation

    given = options | {"seed": next(filter(holds_out_the_tight_one, range(10)))}
    with (
        pytest.warns(LeftOutWarning, match="structure 1"),
        pytest.raises(DataError, match="no held-out structure has a frame .* another `seed`"),
    ):
        distill(EMT_SPEC, [copper, tight], tmp_path, steps=2, options=given, progress=False,
                say=said.append)  # fmt: skip
    assert "1 shards" in said[0]
    assert "2 frames dropped" in said[0]
    assert not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"sample": "rattle", "temperatures": (900.0,)}, "temperatures"),
        ({"sample": "rattle", "interval": 5}, "interval"),
        ({"sample": "md", "chunk": 5}, "chunk"),
        ({"displacement": (0.1, 0.2)}, "displacement"),
    ],
)
def test_options_of_the_other_sampling_are_refused(given, name):
    with pytest.raises(ConfigError, match=f"`{name}` must be left out unless `sample` is"):
        DistillOptions(**given)


def test_hotter_dynamics_go_further_up(tmp_path):
    options = DistillOptions(
        frames=12, temperatures=(50.0, 600.0), interval=10, timestep=4.0, friction=0.1
    )
    one = [to_structure(Icosahedron("Cu", 2, 3.6)), to_structure(Icosahedron("Al", 2, 4.0))]
    paths = label_structures(open_method(EMT_SPEC), one, options, tmp_path)
    cold, hot = (np.mean([f.energy for f in read_frames(paths[i])]) for i in (0, 1))
    assert hot > cold
    assert len({f.energy for f in read_frames(paths[0])}) == 12


@pytest.mark.slow
def test_killed_labelling_resumes_to_identical_shards(tmp_path):
    ase.io.write(tmp_path / "in.extxyz", clusters())
    code = (
        "import sys, ase.io, time\n"
        "from pathlib import Path\n"
        "from lesff.distill import DistillOptions, labelling\n"
        "from lesff.methods import open_method\n"
        "from lesff.atoms.structure import to_structure\n"
        "slow = labelling.label_atoms\n"
        "def label(*a):\n    time.sleep(0.05)\n    return slow(*a)\n"
        "labelling.label_atoms = label\n"
        "s = [to_structure(a) for a in ase.io.read(sys.argv[1], ':')]\n"
        "o = DistillOptions(frames=4, interval=2, temperatures=(300.0, 500.0))\n"
        f"labelling.label_structures(open_method({EMT_SPEC!r}), s, o, Path(sys.argv[2]))\n"
    )
    run = tmp_path / "killed"
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", code, str(tmp_path / "in.extxyz"), str(run)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while len(list(run.glob("shards/*.npz"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {p.name: p.read_bytes() for p in run.glob("shards/*.npz")}
    assert 2 <= len(before) < 8
    given = [to_structure(atoms) for atoms in ase.io.read(tmp_path / "in.extxyz", ":")]
    options = DistillOptions(frames=4, interval=2, temperatures=(300.0, 500.0))
    teacher = open_method(EMT_SPEC)
    resumed = label_structures(teacher, given, options, run)
    whole = label_structures(teacher, given, options, tmp_path / "whole")
    assert len(resumed) == len(whole) == 8
    for a, b in zip(resumed, whole, strict=True):
        assert a.read_bytes() == b.read_bytes()
    for name, content in before.items():
        assert (run / "shards" / name).read_bytes() == content
    with pytest.raises(IntegrityError, match="begun with other options"):
        label_structures(teacher, given, replace(options, frames=5), run)


def test_a_student_of_emt(tmp_path):
    lines = []
    recipe = replace(TINY, dispersion=DispersionConfig(sigma=1.2))
    model = distill(
        EMT_SPEC, clusters(), tmp_path / "run", recipe=recipe, steps=6, progress=False,
        say=lines.append, options={"sample": "rattle", "frames": 4, "displacement": [0.01, 0.03]},
    )  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    held_out, train = (report["errors"][part]["all"]["student"] for part in ("held out", "train"))
    assert held_out["n_frames"] == 4
    assert train["n_frames"] == 12
    assert report["steps"] == 6
    assert held_out["forces_rmse"] > 0.0
    assert report["worst_frames"][0]["forces_rmse"] >= held_out["forces_rmse"]
    assert set(report["errors"]["train"]) & set(report["errors"]["held out"]) == {"all"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "data:image/png;base64" in page
    assert not re.search(r"(src|href)=\"http", page)
    assert verify_parity(tmp_path / "run" / "model").ok
    assert "Student of ase.calculators.emt:EMT" in model.card
    assert "license: unknown" in model.card
    assert "student against ase.calculators.emt:EMT on 4 frames" in lines[-1]
    assert model.predict(clusters()[0], "energy_dispersion").energy_dispersion < 0.0


def test_a_student_of_a_lesff_model_by_command(tmp_path):
    card = "---\nname: tiny\nlicense: CC-BY-4.0\n---\nTiny.\n"
    save_model(tiny_potential(head="shifted"), tmp_path / "t", card=card, license_text="Yours.\n")
    waters = [water() for _ in range(3)]
    for i, atoms in enumerate(waters):
        atoms.positions[1] *= 1.0 + 0.04 * i
    ase.io.write(tmp_path / "in.extxyz", waters)
    out = CliRunner().invoke(main, [
        "distill", "--teacher", str(tmp_path / "t"), "--structures", str(tmp_path / "in.extxyz"),
        "--sample", "rattle", "--frames", "3", "--steps", "2", "-o", str(tmp_path / "run"),
    ])  # fmt: skip
    assert out.exit_code == 0, out.output
    model = lesff.load(tmp_path / "run" / "model")
    assert "license: CC-BY-4.0" in model.card
    assert (tmp_path / "run" / "model" / "LICENSE").read_text() == "Yours.\n"
    frames = read_frames(tmp_path / "run" / "shards" / "00000.npz")
    assert frames[0].dipole is not None
    teacher = lesff.load(tmp_path / "t").predict(
        ase.Atoms("OHH", frames[0].structure.positions), "dipole"
    )
    np.testing.assert_allclose(frames[0].dipole, teacher.dipole, atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no.such.module:Calc", "cannot be imported: No module named 'no'"),
        ("ase.calculators.emt:Nothing", "cannot be imported: module"),
        ("ase.calculators.emt:EMT?speed=2", "has no option speed; it has asap_cutoff"),
        ("ase.calculators.emt:EMT?asap_cutoff", "must be KEY=VALUE"),
        ("ase.calculators.emt:__doc__", "must name something callable"),
        ("collections:OrderedDict", "must give an ASE calculator, got OrderedDict"),
        (f"{HERE}:NoForces", "must have energy and forces, but has no forces"),
    ],
)
def test_bad_teachers(spec, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        open_method(spec)


def test_bad_labels_and_structures(tmp_path):
    options = DistillOptions(sample="rattle", frames=2)
    with pytest.raises(DataError, match="shard 1, frame 0: the teacher's energy must be finite"):
        label_structures(open_method(f"{HERE}:Broken"), structures(), options, tmp_path / "a")
    emt = open_method(EMT_SPEC)
    iron = [to_structure(ase.Atoms("Fe2", [[0, 0, 0], [0, 0, d]])) for d in (2.0, 2.2)]
    with pytest.raises(DataError, match="the teacher failed"):
        label_structures(emt, iron, options, tmp_path / "b")
    with pytest.raises(DataError, match=r"every frame of 4 of 4 shards .* has forces"):
        label_structures(emt, structures(), replace(options, max_force=1e-3), tmp_path / "c")
    with pytest.raises(DataError, match="at least two different ones"):
        plan_tasks(structures()[:1] * 3, options)
    ion = to_structure(clusters()[0], total_charge=1)
    with pytest.raises(UnsupportedInputError, match="would not be told"):
        label_structures(emt, [ion, structures()[1]], options, tmp_path / "d")


def test_structures_that_a_student_cannot_hold(tmp_path):
    wire = ase.Atoms("Cu", cell=[2.5, 9, 9], pbc=[True, False, False])
    with pytest.raises(UnsupportedInputError, match="three directions"):
        distill(EMT_SPEC, [wire, *clusters()], tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    short = replace(TINY, model=replace(TINY.model, long_range=None))
    check_student(short, [to_structure(wire)])
    with pytest.raises(UnsupportedInputError, match="three directions"):
        check_student(replace(short, dispersion=DispersionConfig()), [to_structure(wire)])
    states = [to_structure(clusters()[0], total_charge=q) for q in (0, 1)]
    with pytest.raises(UnsupportedInputError, match="cannot tell apart"):
        check_student(TINY, states)
    with pytest.raises(ConfigError, match="must have a `model` section"):
        check_student(replace(TINY, model=None), states)


def test_options_are_checked():
    with pytest.raises(ConfigError, match="`temperatures` is out of range"):
        DistillOptions(temperatures=())
    with pytest.raises(ConfigError, match="`driver` must be left out"):
        DistillOptions(sample="rattle", driver="off-small")
    with pytest.raises(ConfigError, match="unknown key"):
        distill(EMT_SPEC, clusters(), "unused", options={"temperture": 3})
