"""Dynamics: the integrators of ASE, restarts bit by bit, salt at the right density."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ase
import numpy as np
import pytest
from ase import units
from ase.constraints import FixAtoms
from ase.geometry.rdf import get_rdf
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from click.testing import CliRunner
from helpers import tiny_potential, water
from test_uncertainty import frames_of

import lesff
from lesff.cli import main
from lesff.errors import ConfigError
from lesff.evaluation.checks.solids import SOLIDS, crystal
from lesff.kernels.recording import Recording
from lesff.model_folder.folder import save_model
from lesff.potential.evaluator import Evaluator
from lesff.uncertainty.calibration import calibrate
from lesff.workflows.dynamics import DynamicsOptions, run_dynamics
from lesff.workflows.dynamics_report import block_average, energy_drift, radial_distributions


@pytest.fixture(scope="module")
def mat_small() -> lesff.Model:
    return lesff.load("mat-small")


def _salt() -> ase.Atoms:
    return crystal(SOLIDS["NaCl"], conventional=True)


def test_steps_are_those_of_ase(mat_small):
    start = _salt()
    start.set_momenta(np.random.default_rng(1).normal(size=(8, 3)))
    start.set_momenta(start.get_momenta() - start.get_momenta().mean(0))
    model = lesff.load("mat-small", dtype="float64")
    options = DynamicsOptions(ensemble="nve", dt=2.0, steps=6, every=2, checkpoint=4)
    found = run_dynamics(model, start, options)
    alone = start.copy()
    alone.calc = model.calculator()
    # the centre of mass rests in both
    alone.set_momenta(alone.get_momenta() - alone.get_masses()[:, None]
                      * alone.get_momenta().sum(0) / alone.get_masses().sum())  # fmt: skip
    VelocityVerlet(alone, 2.0 * units.fs).run(6)
    np.testing.assert_allclose(found.positions[-1], alone.positions, atol=1e-9)
    np.testing.assert_allclose(found.time, [0.0, 4.0, 8.0, 12.0])


@pytest.mark.parametrize(
    "changes",
    [
        {"ensemble": "nve"},
        {"thermostat": "langevin"},
        {"thermostat": "bussi"},
        {"ensemble": "npt"},
        {"ensemble": "npt", "cell": "full"},
    ],
)
def test_stopped_and_continued_gives_the_same_bytes(mat_small, tmp_path: Path, changes):
    start = _salt()
    options = DynamicsOptions(**changes, dt=2.0, steps=12, every=2, checkpoint=4, tau=20.0)
    whole = run_dynamics(mat_small, start, options)

    def stop(step: int, row: dict[str, float]) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_dynamics(mat_small, start, options, folder=tmp_path, say=stop)
    again = run_dynamics(mat_small, start, options, folder=tmp_path)
    for name in ("positions", "momenta", "cell", "potential", "conserved"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert whole.n_frames == 7


def test_recorded_steps_go_on_to_the_same_bytes_from_any_step(tmp_path: Path):
    model = lesff.load("off-small")
    options = DynamicsOptions(steps=30, every=5, checkpoint=20)
    whole = run_dynamics(model, water(), options)
    run_dynamics(model, water(), replace(options, steps=10), folder=tmp_path)
    again = run_dynamics(model, water(), options, folder=tmp_path)
    for name in ("time", "positions", "momenta", "potential", "conserved"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert again.n_frames == 7
    # a run that has ended is read, not computed
    calls = []
    run_dynamics(model, water(), options, folder=tmp_path, say=lambda *_: calls.append(1))
    assert calls == []


def test_small_systems_are_recorded_and_differ_by_rounding(monkeypatch):
    model, options = lesff.load("off-small"), DynamicsOptions(ensemble="nve", steps=20)
    repeats, repeat = [], Recording.repeat

    def counted(self):
        repeats.append(1)
        return repeat(self)

    monkeypatch.setattr(Recording, "repeat", counted)
    found = run_dynamics(model, water(), options)
    assert len(repeats) >= 12
    monkeypatch.setattr(Evaluator, "_following", lambda self, structure, slot: None)
    plain = run_dynamics(model, water(), options)
    # forces differ by 1e-6 eV/A (docs/performance.md); a momentum is 0.5 to 10 in ASE's unit
    np.testing.assert_allclose(found.momenta, plain.momenta, atol=1e-5)
    np.testing.assert_allclose(found.potential, plain.potential, atol=1e-5)
    assert len(repeats) < 40


@pytest.mark.parametrize("changes", [{"ensemble": "nve"}, {}, {"ensemble": "npt"}])
def test_the_conserved_energy_is_conserved(mat_small, changes):
    # kT is 26 meV; what a thermostat moves in and out is of that size
    options = DynamicsOptions(**changes, dt=2.0, steps=60, every=2, checkpoint=30, tau=50.0)
    _, scatter = energy_drift(run_dynamics(mat_small, _salt(), options))
    assert scatter < 0.5


def test_constraints_are_kept(mat_small):
    start = _salt()
    start.set_constraint(FixAtoms([0]))
    options = DynamicsOptions(dt=2.0, steps=4, every=2, checkpoint=4)
    found = run_dynamics(mat_small, start, options)
    np.testing.assert_array_equal(found.positions[:, 0], np.tile(start.positions[0], (3, 1)))
    with pytest.raises(ConfigError, match="`ensemble` must be 'nve' or 'nvt' for atoms with const"):
        run_dynamics(mat_small, start, DynamicsOptions(ensemble="npt"))


@pytest.mark.filterwarnings("ignore::lesff.errors.CloseContactWarning")
def test_out_of_domain_stops_with_the_last_good_frame(tmp_path: Path):
    # calibrated on water at rest, started so fast that it comes apart
    potential = tiny_potential(head="shifted")
    potential.uncertainty, _ = calibrate(
        potential, frames_of(potential, 60), frames_of(potential, 30, seed=1)
    )
    save_model(potential, tmp_path / "m", card="---\nname: tiny\n---\n", license_text="Yours.\n")
    model = lesff.load(tmp_path / "m")
    start = water()
    momenta = np.zeros((3, 3))
    momenta[1] = 8.0 * (start.positions[0] - start.positions[1])  # a hydrogen at the oxygen
    start.set_momenta(momenta)
    options = DynamicsOptions(
        ensemble="nve", dt=0.2, steps=200, every=2, checkpoint=100, on_out_of_domain="stop"
    )
    found = run_dynamics(model, start, options, folder=tmp_path)
    assert "outside of what this model was calibrated on" in (found.stopped or "")
    assert 1 <= found.n_frames < 101
    assert np.isfinite(found.potential).all()
    # it stays stopped
    again = run_dynamics(model, start, options, folder=tmp_path)
    assert again.stopped == found.stopped
    assert again.n_frames == found.n_frames


def test_block_average():
    values = np.r_[np.full(20, 100.0), np.tile([1.0, 3.0], 40)]  # the first fifth is left out
    mean, error = block_average(values)
    assert mean == pytest.approx(2.0)
    assert error == pytest.approx(0.0)


def test_command_and_distance_of_neighbours_in_salt(tmp_path: Path):
    write(tmp_path / "salt.extxyz", _salt().repeat((2, 1, 1)))
    output = tmp_path / "out"
    line = ["md", str(tmp_path / "salt.extxyz"), "-m", "mat-small", "-o", str(output), "--dt", "2"]
    line += ["--every", "5", "--checkpoint", "25", "--ensemble", "npt", "--tau", "50"]
    first = CliRunner().invoke(main, [*line, "--steps", "25"])
    assert first.exit_code == 0, first.output
    more = CliRunner().invoke(main, [*line, "--steps", "50"])
    assert more.exit_code == 0, more.output
    assert "step 25:" not in more.output
    report = json.loads((output / "md.json").read_text())
    assert report["n_frames"] == 11
    frames = read(output / "trajectory.traj", index=":")
    assert len(frames) == 11
    assert frames[3].get_kinetic_energy() > 0.0
    table = np.genfromtxt(output / "rdf.csv", delimiter=",", names=True)
    # Na and Cl are half a lattice constant apart: the table of solids has its source
    nearest = table["distance_A"][np.argmax(table["NaCl"])]
    assert nearest == pytest.approx(SOLIDS["NaCl"].a / 2.0, abs=0.2)
    expected, _ = get_rdf(frames[2:], table["distance_A"][-1] + 0.5 * np.diff(
        table["distance_A"])[0], len(table), elements=("Na", "Cl"))  # fmt: skip
    np.testing.assert_allclose(table["NaCl"], expected, atol=1e-3 * expected.max())
    assert "<img" in (output / "md.html").read_text()


def test_no_radial_distribution_without_a_volume(mat_small):
    options = DynamicsOptions(ensemble="nve", steps=1, every=1, checkpoint=1)
    slab = _salt()
    slab.pbc = [True, True, False]
    assert radial_distributions(run_dynamics(mat_small, slab, options)) is None


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match="`checkpoint` must be a multiple of `every`"):
        DynamicsOptions(every=3, steps=9, checkpoint=10)
    with pytest.raises(ConfigError, match=r"`steps` must be a multiple of `every` \(10\), got 15"):
        DynamicsOptions(steps=15)
    for ensemble, name, value in (
        ("nve", "thermostat", "langevin"), ("nvt", "pressure", 1.0), ("nvt", "cell", "full"),
        ("nve", "tau_pressure", 5.0),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"`{name}` must be left out unless `ensemble` is"):
            DynamicsOptions(**{"ensemble": ensemble, name: value})
    with pytest.raises(ConfigError, match="`dt` must be positive, got 0"):
        DynamicsOptions(dt=0.0)
