"""Conductors: percolation against known landscapes and bvlain, grids, refinement, the command."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from ase.spacegroup import crystal
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

import lesff
from lesff.cli import main
from lesff.errors import ConfigError, DataError
from lesff.workflows.conductors import ConductorOptions, conductor, ranked, screen_conductors
from lesff.workflows.conductors_report import path_profile
from lesff.workflows.ion_grid import Grid, distances_to, make_grid
from lesff.workflows.landscape import Landscape, refined
from lesff.workflows.percolation import percolation


def plain(atoms: Atoms) -> Atoms:
    """Without what ASE notes about the space group."""
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


SULFIDE = plain(
    crystal(
        ["Li", "S"], [(0.25, 0.25, 0.25), (0, 0, 0)], spacegroup=225, cellpar=[5.71] * 3 + [90] * 3
    )
)
OLIVINE = plain(
    crystal(
        ["Li", "Fe", "P", "O", "O", "O"],
        [(0, 0, 0), (0.2822, 0.25, 0.9747), (0.0948, 0.25, 0.4182), (0.0968, 0.25, 0.7428),
         (0.4571, 0.25, 0.2060), (0.1656, 0.0465, 0.2848)],
        spacegroup=62, cellpar=[10.332, 6.010, 4.692, 90, 90, 90],
    )
)  # fmt: skip
NITRIDE = Atoms(
    "Li3N",
    scaled_positions=[(1 / 3, 2 / 3, 0), (2 / 3, 1 / 3, 0), (0, 0, 0.5), (0, 0, 0)],
    cell=[[3.648, 0, 0], [-1.824, 3.159, 0], [0, 0, 3.875]],
    pbc=True,
)


@pytest.fixture(scope="module")
def model() -> lesff.Model:
    return lesff.load("mat-small")


def channels(n: int = 10) -> np.ndarray:
    """A channel along the first axis at 0.3 eV, in a plane at 0.6 eV, in a solid at 0.9 eV."""
    energies = np.full((n, n, n), 0.9)
    energies[:, :, 5] = 0.6
    energies[:, 4, 5] = 0.3
    energies[0, 4, 5] = 0.0
    return energies


@pytest.mark.parametrize("neighbours", [6, 18, 26])
def test_known_landscape(neighbours):
    found = percolation(channels(), neighbours=neighbours)
    np.testing.assert_array_equal(found.energies, [0.3, 0.6, 0.9])
    vectors = np.abs([path.vector for path in found.paths])
    np.testing.assert_array_equal(vectors, np.eye(3))
    for path, energy in zip(found.paths, found.energies, strict=True):
        assert channels().ravel()[path.points].max() == energy


def test_diagonal_channel_needs_diagonal_neighbours():
    """A chain of corners: open to 26 neighbours, closed to 18; it leaves along (1, 1, 1)."""
    n = 6
    energies = np.full((n, n, n), np.inf)
    energies[np.arange(n), np.arange(n), np.arange(n)] = 1.0
    found = percolation(energies, neighbours=26)
    np.testing.assert_array_equal(found.energies, [1.0, np.inf, np.inf])
    assert found.paths[0].vector in [(1, 1, 1), (-1, -1, -1)]
    np.testing.assert_array_equal(percolation(energies, neighbours=18).energies, np.inf)
    with pytest.raises(ConfigError, match="6, 18 or 26"):
        percolation(energies, neighbours=8)


def test_channels_that_never_meet_are_no_network():
    """Two crossing directions in different components percolate in one dimension only."""
    energies = np.full((8, 8, 8), np.inf)
    energies[:, 1, 1] = 0.1
    energies[3, :, 5] = 0.2
    np.testing.assert_array_equal(percolation(energies).energies, [0.1, np.inf, np.inf])
    energies[3, 1, 2:5] = 0.4  # a bridge makes one of them
    found = percolation(energies)
    np.testing.assert_array_equal(found.energies, [0.1, 0.4, np.inf])
    assert energies.ravel()[found.networks[1]].max() == 0.4


def barriers(oracle, cutoff: float) -> list[float]:
    """Of bvlain, which imports from a place that scipy has left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(oracle.percolation_barriers(encut=cutoff).values())


@pytest.mark.parametrize("seed", range(4))
def test_bvlain_agrees_on_smooth_random_landscapes(seed):
    bvlain = pytest.importorskip("bvlain")
    noise = np.random.default_rng(seed).normal(size=(14, 12, 13))
    energies = gaussian_filter(noise, 1.5, mode="wrap")
    energies = 3.0 * (energies - energies.min()) / np.ptp(energies)
    oracle = bvlain.Lain(verbose=False)
    oracle.data, oracle.size = energies, energies.shape
    theirs = barriers(oracle, 4.0)
    # theirs are bisected to 0.01 eV
    np.testing.assert_allclose(percolation(energies).energies, theirs, atol=0.011)


def test_bvlain_agrees_on_its_landscape_of_olivine():
    """1D 0.44, 2D 3.33, 3D 3.36 eV at 0.2 A: pypi.org/project/BVlain; here 0.3 A, for time."""
    bvlain = pytest.importorskip("bvlain")
    oracle = bvlain.Lain(verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle.read_atoms(OLIVINE)
        energies = oracle.bvse_distribution(mobile_ion="Li1+", resolution=0.3)
    theirs = barriers(oracle, 5.0)
    found = percolation(energies)
    np.testing.assert_allclose(found.energies - energies.min(), theirs, atol=0.011)
    assert theirs[0] == pytest.approx(0.44, abs=0.1)
    assert theirs[1] == pytest.approx(3.33, abs=0.3)


@pytest.mark.parametrize(
    ("atoms", "n_operations"),
    # of the emptied frameworks: fcc with four translations, the sulfur's; 62 has 8; P6/mmm 24
    [(SULFIDE, 192), (OLIVINE, 8), (NITRIDE, 24)],
    ids=["sulfide", "olivine", "nitride"],
)
def test_grid_keeps_symmetry_and_sites(atoms, n_operations):
    lithium = atoms.numbers == 3
    framework, sites = atoms[~lithium], atoms.get_scaled_positions()[lithium]
    grid = make_grid(framework, sites, 0.6)
    assert len(grid.rotations) == n_operations
    assert grid.step <= 0.6
    # sites on points
    off = (sites - grid.origin) * grid.shape
    np.testing.assert_allclose(off, np.rint(off), atol=1e-6)
    # all points of an orbit see the same framework
    distances = distances_to(framework, grid.positions(np.arange(grid.size)))
    np.testing.assert_allclose(distances, distances[grid.orbits()], atol=1e-3)
    assert len(np.unique(grid.orbits())) < 4 * grid.size / n_operations


def wavy(grid: Grid, points: np.ndarray) -> np.ndarray:
    """Smooth, with saddles of three heights: cosines along a, b, c."""
    x = 2.0 * np.pi * grid.fractional(points)
    heights = np.array([0.2, 0.35, 0.6])
    return 0.5 * (heights * (1.0 - np.cos(x))).sum(1) + 0.04 * np.cos(2.0 * x).sum(1)


@pytest.mark.parametrize("neighbours", [6, 26])
def test_refinement_finds_what_the_whole_fine_grid_has(neighbours):
    # no symmetry, sites off the points: nothing but the refinement helps
    grid = Grid(
        cell=np.eye(3) * 4.0, shape=(6, 6, 6), origin=np.array([0.03, 0.02, 0.05]),
        rotations=np.eye(3, dtype=int)[None], shifts=np.zeros((1, 3)), n_symmetry=1,
    )  # fmt: skip
    coarse = Landscape.computed(grid, wavy)
    how = {"neighbours": neighbours, "margin": 0.05}
    fine = refined(coarse, wavy, **how)
    whole = Landscape.computed(grid.finer(), wavy)
    found = percolation(fine.energies, neighbours=neighbours).energies - fine.energies.min()
    exact = percolation(whole.energies, neighbours=neighbours).energies - whole.energies.min()
    np.testing.assert_allclose(found, exact, atol=1e-9)
    before = percolation(coarse.energies, neighbours=neighbours).energies - coarse.energies.min()
    assert np.abs(before - exact).max() > 0.01
    assert fine.n_computed < 0.5 * whole.n_computed


def test_symmetry_changes_nothing(model):
    """Shaken by less than the sites' tolerance would, the grid has no symmetry to use."""
    options = ConductorOptions(start="none", step=1.5, refine=0, min_length=0.0)
    ideal = conductor(model, SULFIDE, options)
    broken = SULFIDE.copy()
    broken.positions[broken.numbers == 16] += 0.004 * np.random.default_rng(0).normal(size=(4, 3))
    other = conductor(model, broken, options)
    assert ideal.n_computed < 10 < other.n_computed
    assert len(other.grid.rotations) < len(ideal.grid.rotations)
    if other.grid.shape == ideal.grid.shape:
        low = ideal.energies < 2.0
        np.testing.assert_allclose(other.energies[low], ideal.energies[low], atol=0.05)
    assert other.barriers == pytest.approx(ideal.barriers, abs=0.05)


def test_lithium_sulfide(model):
    """An isotropic conductor, sites on grid points."""
    options = ConductorOptions(start="none", min_length=0.0, neighbours=6, step=0.8)
    sulfide = conductor(model, SULFIDE, options)
    # 0.237 eV: the whole grid of 0.4 A without symmetry, by another program, mat-small;
    # 0.293 eV is what 0.5 A gives there, and what the first grid must give here
    assert sulfide.barriers == pytest.approx([0.237] * 3, abs=0.01)
    assert sulfide.coarse[0] == pytest.approx([0.293] * 3, abs=0.01)
    assert sulfide.closest == pytest.approx(5.71 * np.sqrt(3) / 4, abs=0.01)
    assert not sulfide.next_to_closed
    way, energy = path_profile(sulfide, sulfide.paths[0])
    assert energy[0] == energy[-1] == energy.min() < 0.02
    assert energy.max() == pytest.approx(sulfide.barriers[0])
    assert way[-1] >= 5.7
    assert sulfide.volume_below(np.array([0.5]))[0] == sulfide.free_fraction


def test_executor_changes_nothing(model):
    options = ConductorOptions(start="none", step=1.5, refine=0, min_length=0.0)
    here = conductor(model, SULFIDE, options)
    there = conductor(model, SULFIDE, options, executor="threads:2")
    np.testing.assert_array_equal(there.energies, here.energies)


def test_vacancy_keeps_the_other_ions(model):
    options = ConductorOptions(
        start="none", framework="vacancy", step=1.5, refine=0, min_length=0.0
    )
    found = conductor(model, SULFIDE, options)
    assert len(found.framework) == len(SULFIDE) - 1
    emptied = conductor(model, SULFIDE, ConductorOptions(start="none", step=1.5, refine=0))
    assert found.free_fraction < emptied.free_fraction


def test_what_cannot_be_scanned_is_said(model):
    with pytest.raises(DataError, match="must have Na"):
        conductor(model, SULFIDE, ConductorOptions(mobile="Na"))
    closed = ConductorOptions(start="none", r_min=5.0, step=2.0)
    result = screen_conductors(model, [("closed", SULFIDE)], closed)
    assert not result.ranking
    assert "lower `r_min`" in result.errors["closed"]
    for bad in (
        {"mobile": "Q"},
        {"step": 0.0},
        {"neighbours": 7},
        {"dimension": 4},
        {"margin": -1.0},
    ):
        with pytest.raises(ConfigError):
            ConductorOptions(**bad)


@pytest.mark.slow
def test_command_ranks_resumes_and_draws(tmp_path: Path, model):
    write(tmp_path / "sulfide.extxyz", SULFIDE)
    fluoride = crystal(["Li", "F"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=225,
                       cellpar=[4.02] * 3 + [90] * 3)  # fmt: skip
    write(tmp_path / "fluoride.extxyz", plain(fluoride))
    write(tmp_path / "salt.extxyz", Atoms("NaCl", scaled_positions=[[0] * 3, [0.5] * 3],
                                          cell=[3.5] * 3, pbc=True))  # fmt: skip
    out = tmp_path / "out"
    words = ["screen", "conductors", *(str(tmp_path / f"{n}.extxyz")
             for n in ("fluoride", "salt", "sulfide")), "-m", "mat-small", "-o", str(out),
             "--relax", "none", "--min-length", "0", "--step", "1.0", "--refine", "0"]  # fmt: skip
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    report = json.loads((out / "conductors.json").read_text())
    # lithium fluoride is the poor conductor
    assert [row["name"] for row in report["structures"]] == ["sulfide", "fluoride"]
    assert list(report["errors"]) == ["salt"]
    assert all(row["relative_volume"] == pytest.approx(1.0) for row in report["structures"])
    assert {p.name for p in out.glob("*.png")} == {
        "levels.png",
        "01-landscape.png",
        "02-landscape.png",
    }
    assert "sulfide" in (out / "conductors.html").read_text()
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("*.npz")}
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 0, again.output
    assert {p: p.stat().st_mtime_ns for p in out.glob("*.npz")} == stamps
    assert json.loads((out / "conductors.json").read_text())["structures"] == report["structures"]


def test_ties_go_to_the_larger_free_volume(model):
    options = ConductorOptions(start="none", step=1.5, refine=0, min_length=0.0)
    first = conductor(model, SULFIDE, options, name="first")
    roomy = replace(first, barriers=first.barriers + 0.001, free_volume=first.free_volume + 1.0)
    worse = replace(first, barriers=first.barriers + 0.1, free_volume=first.free_volume + 9.0)
    assert ranked([worse, first, roomy], 1) == [roomy, first, worse]
