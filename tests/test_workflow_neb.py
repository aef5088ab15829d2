"""Minimum energy paths: ASE's band image by image, ammonia as measured."""

from __future__ import annotations

import json
from pathlib import Path

import ase
import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.build.rotate import minimize_rotation_and_translation
from ase.io import read, write
from ase.mep import NEB
from ase.optimize import FIRE
from click.testing import CliRunner

import lesff
from lesff.cli import main
from lesff.errors import ConfigError, ConvergenceError, DataError
from lesff.workflows.batch import Batch
from lesff.workflows.neb import NebOptions, NebResult, nudged_elastic_band
from lesff.workflows.relax import RelaxOptions, relax
from lesff.workflows.vibrations import vibrations

INVERSION = 2018.0 * units.invcm
"""Effective barrier of ammonia, 1/cm in eV: Swalen, Ibers, J. Chem. Phys. 36, 1914 (1962)."""


@pytest.fixture(scope="module")
def model() -> lesff.Model:
    return lesff.load("off-medium", dtype="float64")


def _ends() -> list[ase.Atoms]:
    first = molecule("NH3")
    last = first.copy()
    plane = first.positions[1:, 2].mean()
    last.positions[0, 2] = 2.0 * plane - first.positions[0, 2]
    return [first, last]


@pytest.fixture(scope="module")
def inversion(model) -> NebResult:
    return nudged_elastic_band(model, _ends(), NebOptions(fmax=0.02))


def test_ammonia_as_measured(model, inversion):
    assert inversion.converged
    # what off-medium is good for: 25 % of a barrier; the effective one has zero-point effects
    assert inversion.barrier == pytest.approx(INVERSION, rel=0.25)
    assert inversion.reverse_barrier == pytest.approx(inversion.barrier, abs=1e-6)
    assert inversion.saddle == 3
    # planar by symmetry, and a saddle point of first order
    planar = _ends()[0]
    planar.positions[0, 2] = planar.positions[1:, 2].mean()
    (row,) = relax(model, [planar], RelaxOptions(fmax=1e-3)).relaxed
    assert row.energy - inversion.energies[0] == pytest.approx(inversion.barrier, abs=2e-3)
    found = vibrations(model, row.atoms, relaxes=False)
    assert (found.frequencies < -200.0).sum() == 1


def test_images_are_those_of_ase_one_by_one(model):
    ends = _ends()
    options = NebOptions(images=3, fmax=0.1, climb=False, relaxes_ends=False)
    found = nudged_elastic_band(model, ends, options)
    minimize_rotation_and_translation(ends[0], ends[1])
    images = [ends[0], *(ends[0].copy() for _ in range(3)), ends[1]]
    band = NEB(images, k=0.1, method="improvedtangent")
    band.interpolate("idpp")
    for image in images:
        image.calc = model.calculator()
    run = FIRE(band, logfile=None)
    assert run.run(fmax=0.1)
    assert found.steps == run.nsteps
    for ours, theirs in zip(found.images, images, strict=True):
        np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=1e-6)
        assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), abs=1e-8)
    # one call a step, and one at the start
    assert found.n_calls == found.steps + 1


def test_interrupted_work_goes_on(model, tmp_path: Path, monkeypatch):
    from lesff.workflows.folder import WorkFolder

    options = NebOptions(fmax=0.05)
    work = WorkFolder(tmp_path, "neb", model, _ends(), {"fmax": 0.05})
    compute, calls = Batch.compute, []

    def interrupted(self: Batch):
        calls.append(self)
        if len(calls) > 6:  # two of the ends are relaxed in calls of their own
            raise KeyboardInterrupt
        return compute(self)

    monkeypatch.setattr(Batch, "compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        nudged_elastic_band(model, _ends(), options, folder=work)
    monkeypatch.setattr(Batch, "compute", compute)
    nudged_elastic_band(model, _ends(), options, folder=work)
    found = nudged_elastic_band(model, _ends(), options, folder=work)
    assert found.converged
    assert found.n_calls == 1  # nothing is left to do
    whole = nudged_elastic_band(model, _ends(), options)
    assert found.barrier == pytest.approx(whole.barrier, abs=2e-3)


def test_command(tmp_path: Path, inversion):
    for name, atoms in zip(("a", "b"), _ends(), strict=True):
        write(tmp_path / f"{name}.extxyz", atoms)
    output = tmp_path / "out"
    line = ["neb", str(tmp_path / "a.extxyz"), str(tmp_path / "b.extxyz"), "-o", str(output)]
    found = CliRunner().invoke(main, [*line, "-m", "off-medium", "--fmax", "0.02"])
    assert found.exit_code == 0, found.output
    report = json.loads((output / "neb.json").read_text())
    assert report["barrier_ev"] == pytest.approx(inversion.barrier, abs=2e-3)
    path = read(output / "path.extxyz", index=":")
    assert len(path) == 7
    energies = [atoms.get_potential_energy() for atoms in path]
    assert energies == pytest.approx(report["energies_ev"], abs=1e-5)
    assert "<img" in (output / "neb.html").read_text()


def test_all_images_of_a_given_path_are_turned(model):
    """Images that are each turned against the one before: the path is as long as it is inside."""
    first, last = _ends()
    still = [first.copy() for _ in range(5)]
    for share, image in zip(np.linspace(0.0, 1.0, 5), still, strict=True):
        image.positions += share * (last.positions - first.positions)
    turned = [image.copy() for image in still]
    for index, image in enumerate(turned):
        image.rotate(15.0 * index, "z")
    options = NebOptions(steps=1, relaxes_ends=False)
    one, other = (nudged_elastic_band(model, path, options) for path in (still, turned))
    np.testing.assert_allclose(np.diff(other.distances), np.diff(one.distances), atol=0.02)


def test_what_cannot_be_is_refused(model):
    first, last = _ends()
    ion = last.copy()
    ion.info["charge"] = 1
    with pytest.raises(
        DataError, match=r"structure 1 must have total charge and 2S\+1 of the first"
    ):
        nudged_elastic_band(model, [first, ion])
    with pytest.raises(DataError, match="a path must have two ends at least, got 1"):
        nudged_elastic_band(model, [first])
    with pytest.raises(DataError, match="structure 1 must have the atoms, in order"):
        nudged_elastic_band(model, [first, molecule("H2O")])
    last.positions[0] = last.positions[1]
    with pytest.raises(ConvergenceError, match="the last end must have a minimum, but"):
        nudged_elastic_band(model, [first, last])
    with pytest.raises(ConvergenceError, match="must be two minima, but they are one"):
        nudged_elastic_band(model, [first, first])
    with pytest.raises(ConfigError, match="`images` and `steps` must be at least 1, got 0, 500"):
        NebOptions(images=0)
