"""Interfaces: misfits of known lattices, layers of made trajectories, phases that are known."""

from __future__ import annotations

import json

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from click.testing import CliRunner
from helpers import tiny_potential

import lesff
from lesff.cli import main
from lesff.cli.interface import _miller, _stage
from lesff.errors import ConfigError, DataError
from lesff.model_folder.folder import save_model
from lesff.spectra.trajectory import as_trajectory
from lesff.workflows.dynamics import DynamicsOptions
from lesff.workflows.folder import WorkFolder
from lesff.workflows.interface import AnalysisOptions, Stage, analyse_interface, run_stages
from lesff.workflows.interface_build import PART, InterfaceOptions, build_interfaces
from lesff.workflows.interface_layers import coordination, density_profiles, resting, turned
from lesff.workflows.interface_phases import descriptors, find_phases

SALT = 4.0
"""Lattice constants in A; the films below are made for it."""


def _salt(a: float = SALT) -> ase.Atoms:
    return bulk("LiF", "rocksalt", a, cubic=True)


def _sandwich() -> ase.Atoms:
    """Two conventional cells of salt below two of lithium of the same lattice constant."""
    below, above = _salt().repeat((1, 1, 2)), bulk("Li", "bcc", SALT, cubic=True).repeat((1, 1, 2))
    above.positions[:, 2] += 2 * SALT
    both = below + above
    both.set_cell([SALT, SALT, 4 * SALT])
    return both


def test_misfit_of_known_lattices():
    """A film 2 % too large is compressed by E = ((1/1.02)^2 - 1) / 2 in both directions."""
    pytest.importorskip("pymatgen.analysis.interfaces")
    options = InterfaceOptions(max_area=20.0, substrate_thickness=4.0, film_thickness=4.0, gap=2.0)
    first, *_ = build_interfaces(_salt(), _salt(1.02 * SALT), options)
    expected = 0.5 * (1.02**-2 - 1.0)
    np.testing.assert_allclose(np.diag(first.green_lagrange)[:2], expected, atol=1e-6)
    # the primitive cell of the surface: a^2 / 2
    assert first.area == pytest.approx(0.5 * SALT**2, rel=1e-6)
    part, z = first.atoms.arrays[PART], first.atoms.positions[:, 2]
    assert z[part == 1].min() - z[part == 0].max() == pytest.approx(2.0, abs=1e-6)
    # above the film, the gap again
    assert first.atoms.cell.array[2, 2] - z.max() + z.min() == pytest.approx(2.0, abs=1e-6)
    counts = [(first.atoms.symbols[part == k] == "Li").sum() for k in (0, 1)]
    assert [2 * n for n in counts] == [(part == k).sum() for k in (0, 1)]


def test_no_match_says_what_to_change():
    pytest.importorskip("pymatgen.analysis.interfaces")
    options = InterfaceOptions(max_area=20.0, max_strain=0.01, max_atoms=100)
    with pytest.raises(DataError, match="raise `max_strain`, `max_area`"):
        build_interfaces(_salt(), _salt(1.2 * SALT), options)
    with pytest.raises(DataError, match="`film` must be a crystal"):
        build_interfaces(_salt(), ase.Atoms("Li"))


def test_the_normal_is_turned_to_z():
    atoms = _sandwich()
    tilted = atoms.copy()
    tilted.rotate(40.0, (1.0, 2.0, 3.0), rotate_cell=True)
    (found,) = turned([tilted])
    np.testing.assert_allclose(found.cell.array, atoms.cell.array, atol=1e-9)
    np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-9)


def test_density_integrates_to_the_atoms():
    frames = [_sandwich() for _ in range(8)]
    for atoms, shift in zip(frames, np.linspace(0.0, 1.0, 8), strict=True):
        atoms.positions[:, 0] += shift
    run = as_trajectory(turned(frames), 1.0)
    found = density_profiles(run, resting(run), width=1.0, n_blocks=2)
    volume = frames[0].get_volume() / 16
    assert found["F"].density.sum() * volume == pytest.approx(8.0)
    assert found["Li"].density.sum() * volume == pytest.approx(12.0)
    assert found["F"].density[9:].max() == 0.0  # all below


def test_layers_that_move_in_the_plane_only():
    """Random walks of the upper half in x and y with a known D, over which nothing else moves."""
    rng = np.random.default_rng(0)
    n_frames, step, d = 400, 10.0, 2e-5  # A^2/fs
    start = _sandwich().repeat((3, 3, 1))
    upper = start.positions[:, 2] > 2 * SALT - 0.1
    walk = np.zeros((n_frames, len(start), 3))
    moves = np.sqrt(2.0 * d * step) * rng.normal(size=(n_frames - 1, int(upper.sum()), 2))
    moves -= moves.mean(1, keepdims=True)  # the centre of mass rests
    walk[1:, upper, :2] = np.cumsum(moves, axis=0)
    frames = []
    for moved in walk:
        atoms = start.copy()
        atoms.positions += moved
        frames.append(atoms)
    options = AnalysisOptions(n_layers=2, lower=50.0, upper=300.0)
    found = analyse_interface(frames, step, options)
    assert found.phases is None
    rows = {(m.layer, m.species): m for m in found.motions}
    assert {key: m.n_atoms for key, m in rows.items()} == {
        (0, "Li"): 72, (0, "F"): 72, (1, "Li"): 36
    }  # fmt: skip
    moving = rows[1, "Li"]
    # 1 A^2/fs is 0.1 cm^2/s
    assert moving.in_plane == pytest.approx(0.1 * d, rel=0.1)
    assert abs(moving.diffusion.axes[2]) < 1e-3 * moving.in_plane
    assert abs(rows[0, "F"].in_plane) < 1e-3 * moving.in_plane


def test_neighbours_of_salt_and_metal():
    """Six F around Li of LiF; of bcc lithium the eight nearest and six next ones (3.0, 3.4 A)."""
    salt = _salt(4.02).repeat(2)
    (found,) = coordination([salt], np.zeros(len(salt), dtype=int))
    assert found["Li-F"] == found["F-Li"] == 6.0
    metal = bulk("Li", "bcc", 3.44, cubic=True).repeat(3)
    (found,) = coordination([metal], np.zeros(len(metal), dtype=int))
    assert found["Li-Li"] == 8.0


def test_phases_that_are_known():
    """Two clouds of descriptors, of which one takes an atom from the other in each frame."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    frames = [_sandwich() for _ in range(8)]
    symbols = np.array(frames[0].get_chemical_symbols())
    is_salt = np.arange(20) < 16
    features = np.empty((8, 20, 3))
    for t in range(8):
        inside = np.where(np.arange(20) < 16 - t, 0.0, 10.0)
        features[t] = inside[:, None] + 0.1 * rng.normal(size=(20, 3))
    time = 1000.0 * np.arange(8)
    for method in ("kmeans", "hdbscan"):
        found = find_phases(features, frames, time, method=method, n_blocks=2)
        assert found.counts[:, 0].tolist() == list(range(16, 8, -1))
        assert found.silhouette > 0.9
        # an atom a picosecond, of 20 in 16 A
        np.testing.assert_allclose(found.growth, [-0.8, 0.8], atol=1e-9)
        np.testing.assert_allclose(found.growth_error, 0.0, atol=1e-9)
    expected = (symbols[is_salt] == "F").sum() * 8  # no F is given away at once
    assert found.compositions[0]["F"] <= expected / found.counts[:, 0].sum()


def test_noise_is_no_phase():
    """Points at random, as far apart as the largest cluster that is looked for is small."""
    pytest.importorskip("sklearn")
    frames = [_sandwich()]
    features = 10.0 ** np.arange(20)[None, :, None] * np.ones((1, 20, 3))
    found = find_phases(features, frames, np.zeros(1), method="hdbscan", n_blocks=1)
    assert found.unassigned == 1.0
    assert found.counts.shape == (1, 0)
    assert found.compositions == []
    assert len(found.growth) == 0


@pytest.mark.slow
def test_the_model_tells_salt_from_metal():
    pytest.importorskip("sklearn")
    model = lesff.load("mat-small")
    atoms = _sandwich()
    atoms.rattle(0.05, seed=1)
    values = descriptors(model, [atoms], 4.0)
    found = find_phases(values, [atoms], np.zeros(1), n_phases=2, n_blocks=1)
    # the middle of the salt and the middle of the metal
    z = atoms.positions[:, 2]
    assert len(set(found.labels[0][(z > 3.0) & (z < 5.0)])) == 1
    assert found.labels[0][np.abs(z - 4.0).argmin()] != found.labels[0][np.abs(z - 12.0).argmin()]
    # a descriptor is that of the structure, wherever it stands
    moved = atoms.copy()
    moved.positions += [0.3, 0.4, 5.0]
    np.testing.assert_allclose(descriptors(model, [moved], 4.0), values, atol=1e-3)


@pytest.mark.slow
def test_hdbscan_from_the_command_line(tmp_path):
    """Salt below metal, shaken: all 16 atoms of the salt are one phase, the metal has no F."""
    pytest.importorskip("sklearn")
    frames = [_sandwich() for _ in range(20)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    write(tmp_path / "made.traj", frames)
    words = ["interface", "analyse", tmp_path / "made.traj", "-m", "mat-small", "--dt", 10,
             "-o", tmp_path / "out", "--method", "hdbscan"]  # fmt: skip
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    phases = json.loads((tmp_path / "out" / "interface.json").read_text())["phases"]
    salt, *metal = phases["list"]
    assert salt["composition"] == {"Li": 0.5, "F": 0.5}
    # 16 of 20 atoms, of 16 A
    assert salt["thickness_first_a"] == pytest.approx(12.8)
    assert metal
    assert all(phase["composition"]["F"] == 0.0 for phase in metal)
    total = sum(phase["atoms_first"] for phase in phases["list"])
    assert total == pytest.approx(20.0 * (1.0 - phases["unassigned_share"]))
    assert phases["silhouette"] > 0.5
    labels = read(tmp_path / "out" / "phases.extxyz").arrays["phase"]
    assert (labels[:16] == 0).all()


def _tiny(tmp_path) -> lesff.Model:
    potential = tiny_potential(elements=(3, 9))
    save_model(potential, tmp_path / "model", card="#", license_text="MIT")
    return lesff.load(str(tmp_path / "model"))


def test_stages_follow_each_other(tmp_path):
    model = _tiny(tmp_path)
    folder = WorkFolder(tmp_path / "out", "interface", model, [_salt()], {})
    options = DynamicsOptions(dt=0.1, every=2, checkpoint=4)
    stages = [Stage(temperature=50.0, steps=6), Stage(temperature=80.0, steps=4)]
    run = run_stages(model, _salt(), stages, options, folder=folder)
    frames = run.frames()
    assert [atoms.info["time_fs"] for atoms in frames] == pytest.approx([0.2 * i for i in range(6)])
    *_, before = run.stages[0][1].frames()
    np.testing.assert_array_equal(run.stages[1][1].positions[0], before.positions)
    np.testing.assert_array_equal(run.stages[1][1].momenta[0], before.get_momenta())
    with pytest.raises(ConfigError, match="multiples of `every`"):
        run_stages(model, _salt(), [Stage(temperature=50.0, steps=3)], options, folder=folder)


@pytest.mark.parametrize("text", ["300", "hot:10", "300:0", "300:1.5"])
def test_bad_stages(text):
    with pytest.raises(ConfigError, match="KELVIN:STEPS"):
        _stage(text)


def test_planes():
    assert _miller("110") == (1, 1, 0)
    assert _miller("1,-1,0") == (1, -1, 0)
    with pytest.raises(ConfigError, match="three integers"):
        _miller("11")


def test_commands(tmp_path):
    pytest.importorskip("pymatgen.analysis.interfaces")
    pytest.importorskip("sklearn")
    _tiny(tmp_path)
    write(tmp_path / "a.xyz", _salt(), format="extxyz")
    write(tmp_path / "b.xyz", _salt(1.01 * SALT), format="extxyz")
    built = tmp_path / "interface.extxyz"
    words = ["interface", "build", tmp_path / "a.xyz", tmp_path / "b.xyz", "-o", built,
             "--max-area", 20, "--substrate-thickness", 4, "--film-thickness", 4]  # fmt: skip
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert "strain of the film: xx -0.99 %, yy -0.99 %" in result.output
    assert set(read(built).arrays[PART]) == {0, 1}
    out = tmp_path / "run"
    words = ["interface", "run", built, "-m", tmp_path / "model", "-o", out, "--stage", "20:8",
             "--stage", "40:32", "--relax", 1, "--dt", 0.1, "--every", 2, "--checkpoint", 8,
             "--blocks", 2, "--layers", 2, "--phases", 2]  # fmt: skip
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    report = json.loads((out / "interface.json").read_text())
    assert report["n_frames"] == 21
    assert len(report["phases"]["list"]) == 2
    for name in ("interface.html", "density.png", "phases.png", "phases.extxyz", "density.csv"):
        assert (out / name).is_file()
    before = (out / "phases.csv").read_bytes()
    assert CliRunner().invoke(main, [str(word) for word in words]).exit_code == 0
    assert (out / "phases.csv").read_bytes() == before
    words = ["interface", "analyse", out / "trajectory.traj", "-o", tmp_path / "again", "--dt", 0.2,
             "--blocks", 2, "--layers", 2]  # fmt: skip
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    again = json.loads((tmp_path / "again" / "interface.json").read_text())
    assert again["layers"] == report["layers"]
    assert again["phases"] is None
