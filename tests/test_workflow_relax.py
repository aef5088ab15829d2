"""Relaxation: batched as alone, interrupted as in one go, MgO as measured."""

from __future__ import annotations

import json
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import FIRE, LBFGS
from click.testing import CliRunner

import lesff
from lesff.cli import main
from lesff.errors import ConfigError
from lesff.evaluation.checks.solids import SOLIDS
from lesff.workflows.relax import Relaxed, RelaxOptions, relax


@pytest.fixture(scope="module")
def off_small() -> lesff.Model:
    return lesff.load("off-small", dtype="float64")


def _molecules() -> list[ase.Atoms]:
    found = [molecule(name) for name in ("H2O", "CH3OH", "NH3")]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.05, seed=seed)
    return found


@pytest.mark.parametrize(("method", "optimizer"), [("fire", FIRE), ("lbfgs", LBFGS)])
def test_each_structure_takes_the_steps_that_it_takes_alone(off_small, method, optimizer):
    structures = _molecules()
    found = relax(off_small, structures, RelaxOptions(method=method, fmax=0.05, batch=2))
    for row, start in zip(found.relaxed, structures, strict=True):
        alone = start.copy()
        alone.calc = off_small.calculator()
        ase_run = optimizer(alone, logfile=None)
        assert ase_run.run(fmax=0.05)
        assert row.converged
        assert row.steps == ase_run.nsteps
        # batches sum in another order: float64 rounding
        np.testing.assert_allclose(row.atoms.positions, alone.positions, atol=1e-9)
        assert row.energy == pytest.approx(alone.get_potential_energy(), abs=1e-9)
    # two at a time, and not one after the other
    assert found.n_calls < sum(row.steps + 1 for row in found.relaxed)


def test_cell_filter_as_alone_and_lattice_constant_of_mgo():
    model = lesff.load("mat-small", dtype="float64")
    start = bulk("MgO", "rocksalt", a=4.3)
    options = RelaxOptions(method="lbfgs", cell="full", fmax=0.005)
    (row,) = relax(model, [start], options).relaxed
    alone = start.copy()
    alone.calc = model.calculator()
    assert LBFGS(FrechetCellFilter(alone), logfile=None).run(fmax=0.005)
    np.testing.assert_allclose(row.atoms.cell, alone.cell, atol=1e-9)
    # measured: the table of solids, with its source there
    assert np.sqrt(2.0) * row.atoms.cell.lengths()[0] == pytest.approx(SOLIDS["MgO"].a, rel=0.02)


def test_constraints_are_kept_and_a_bad_structure_keeps_no_other_from_its_minimum(off_small):
    first, bad, last = _molecules()
    first.set_constraint(FixAtoms([0]))
    bad.positions[1] = bad.positions[0] + 0.05  # two nuclei in one place
    found = relax(off_small, [first, bad, last], RelaxOptions(fmax=0.1))
    np.testing.assert_array_equal(found.relaxed[0].atoms.positions[0], first.positions[0])
    assert found.relaxed[0].atoms.constraints
    assert [row.converged for row in found.relaxed] == [True, False, True]
    assert "atoms" in (found.relaxed[1].error or "")


def test_interrupted_work_goes_on(off_small, tmp_path: Path):
    structures = _molecules()
    options = RelaxOptions(fmax=0.1, batch=2)
    whole = relax(off_small, structures, options)

    def stop(row: Relaxed) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relax(off_small, structures, options, folder=tmp_path, on_done=stop)
    with (tmp_path / "finished.jsonl").open("a") as stream:
        stream.write('{"index": 1, "conv')  # killed while it was written
    seen: list[int] = []
    found = relax(
        off_small, structures, options, folder=tmp_path, on_done=lambda row: seen.append(row.index)
    )
    assert len(seen) == 2
    assert found.n_converged == 3
    for row, other in zip(found.relaxed, whole.relaxed, strict=True):
        # both are within the force limit of the minimum
        assert row.energy == pytest.approx(other.energy, abs=2e-3)
        assert np.abs(row.atoms.get_forces()).max() < 0.1


def test_command(tmp_path: Path):
    write(tmp_path / "in.extxyz", _molecules()[:2])
    output = tmp_path / "out"
    line = ["relax", str(tmp_path / "in.extxyz"), "-m", "off-small", "-o", str(output)]
    line += ["--fmax", "0.1", "--trajectory"]
    first = CliRunner().invoke(main, line)
    assert first.exit_code == 0, first.output
    assert "2 of 2 converged" in first.output
    report = json.loads((output / "relax.json").read_text())
    relaxed = read(output / "relaxed.extxyz", index=":")
    assert [row["energy"] for row in report["structures"]] == pytest.approx(
        [a.get_potential_energy() for a in sorted(relaxed, key=lambda a: a.info["index"])]
    )
    n_frames = len(read(output / "trajectories" / "000000.traj", index=":"))
    assert n_frames == report["structures"][0]["steps"] + 1
    assert "<img" in (output / "relax.html").read_text()
    # again: nothing is computed
    again = CliRunner().invoke(main, line)
    assert "2 of 2 converged; 0 batched calls" in again.output
    other = CliRunner().invoke(main, [*line, "--fmax", "0.2"])
    assert other.exit_code == 1
    assert "another fmax" in other.output


def test_command_fails_if_nothing_can_be_computed(tmp_path: Path):
    write(tmp_path / "in.extxyz", ase.Atoms("H2", positions=np.zeros((2, 3))))
    line = ["relax", str(tmp_path / "in.extxyz"), "-m", "off-small", "-o", str(tmp_path / "out")]
    found = CliRunner().invoke(main, line)
    assert found.exit_code == 1
    assert "no structure could be computed" in found.output
    report = json.loads((tmp_path / "out" / "relax.json").read_text())
    assert "overlap" in report["structures"][0]["error"]


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match="`fmax` must be positive, got -1"):
        RelaxOptions(fmax=-1.0)
    with pytest.raises(ConfigError, match="`pressure` must be a number of GPa, and 0 where"):
        RelaxOptions(pressure=1.0)


def test_cell_of_a_molecule_is_refused(off_small):
    found = relax(off_small, _molecules()[:1], RelaxOptions(cell="full"))
    assert "periodic in three directions" in (found.relaxed[0].error or "")
