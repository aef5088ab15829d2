"""Diffusion, Haven ratio and activation energies of random walkers that are known."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from click.testing import CliRunner

from lesff.cli import main
from lesff.errors import ConfigError, DataError
from lesff.spectra.arrhenius import arrhenius
from lesff.spectra.diffusion import ion_conductivity, relative_positions, self_diffusion
from lesff.spectra.transport import helfand
from lesff.units import BOLTZMANN

STEP = 10.0
"""fs."""
DIFFUSIVE = 3e-4
"""cm^2/s, that is 3e-3 A^2/fs."""


def walkers(n_frames, n_atoms, *, common=0.0, axes=(1.0, 1.0, 1.0), d=DIFFUSIVE, seed=0):
    """Brownian walkers (n_frames, n_atoms, 3) in A; steps of two atoms correlate by ``common``."""
    rng = np.random.default_rng(seed)
    # <dx^2> = 2 D t, D in A^2/fs
    width = np.sqrt(2.0 * 10.0 * d * STEP)
    alone = rng.normal(size=(n_frames, n_atoms, 3))
    together = rng.normal(size=(n_frames, 1, 3))
    steps = np.sqrt(1.0 - common) * alone + np.sqrt(common) * together
    return np.cumsum(width * steps * np.sqrt(axes), axis=0)


def test_brownian_walkers():
    found = self_diffusion(walkers(3000, 40), STEP, lower=0.0, upper=200.0)
    assert found.error < 0.03 * DIFFUSIVE
    assert found.coefficient == pytest.approx(DIFFUSIVE, abs=4.0 * found.error)
    assert found.coefficient == pytest.approx(found.axes.mean())
    # all starting times by FFT are those of the definition
    r = walkers(60, 3)
    plain = [((r[k:] - r[: 60 - k]) ** 2).sum(-1).mean() for k in range(11)]
    one = self_diffusion(r, STEP, lower=0.0, upper=100.0, n_blocks=1)
    np.testing.assert_allclose(one.squared, plain, atol=1e-9)
    assert np.isnan(one.error)


def test_error_bars_are_honest():
    """The scatter of independent runs is what the blocks of one run say, within its own noise."""
    runs = [
        self_diffusion(walkers(1000, 8, seed=s), STEP, lower=0.0, upper=50.0, n_blocks=10)
        for s in range(40)
    ]
    scatter = np.std([run.coefficient for run in runs], ddof=1)
    assert np.mean([run.error for run in runs]) == pytest.approx(scatter, rel=0.35)


def test_axes_tell_a_plane():
    found = self_diffusion(walkers(3000, 20, axes=(1.5, 1.5, 0.0)), STEP, lower=0.0, upper=100.0)
    assert found.coefficient == pytest.approx(DIFFUSIVE, rel=0.05)
    np.testing.assert_allclose(found.axes / DIFFUSIVE, [1.5, 1.5, 0.0], atol=0.1)


@pytest.mark.parametrize(("common", "haven"), [(0.0, 1.0), (0.1, 1.0 / 2.5)])
def test_haven_ratio_of_correlated_walkers(common, haven):
    """<|sum dr|^2> = N (1 + (N - 1) c) <dr^2>: H = 1 / (1 + (N - 1) c), N = 16."""
    r = walkers(20000, 16, common=common, seed=3)
    state = {"temperature": 500.0, "volume": 1000.0, "lower": 0.0, "upper": 50.0, "n_blocks": 8}
    found = ion_conductivity({"Li": r}, {"Li": 1.0}, STEP, **state)
    # e^2 N D / (V kT) in SI: (1.602176634e-19)^2 * 16 * 3e-8 m^2/s / (1e-27 m^3 * k * 500 K)
    exact = 1.602176634e-19**2 * 16 * 3e-8 / (1e-27 * 1.380649e-23 * 500.0)
    assert found.nernst_einstein == pytest.approx(exact, rel=0.03)
    assert found.haven_error < 0.1 * haven
    assert found.haven == pytest.approx(haven, abs=4.0 * found.haven_error)
    whole = helfand(r.sum(1), STEP, **state)
    assert found.collective == pytest.approx(whole.conductivity)
    assert found.collective_error == pytest.approx(whole.error)


def test_opposite_ions_that_move_together_carry_nothing():
    r = walkers(2000, 4, common=1.0)
    state = {"temperature": 500.0, "volume": 1000.0, "lower": 0.0, "upper": 50.0}
    found = ion_conductivity({"Li": r, "F": r}, {"Li": 1.0, "F": -1.0}, STEP, **state)
    assert found.collective == pytest.approx(0.0, abs=1e-9 * found.nernst_einstein)
    assert found.nernst_einstein > 0
    assert found.haven == np.inf


def test_what_rests():
    r = walkers(100, 6)
    drifting = r + 0.1 * np.arange(100)[:, None, None]
    masses = np.array([7.0, 7.0, 7.0, 32.0, 32.0, 32.0])
    species = masses == 7.0
    for reference in ("all", "others"):
        np.testing.assert_allclose(
            relative_positions(drifting, masses, species, reference),
            relative_positions(r, masses, species, reference) + r[0] * 0.0, atol=1e-9,
        )  # fmt: skip
    assert relative_positions(drifting, masses, species, "cell") is drifting
    with pytest.raises(ConfigError, match="all or cell"):
        relative_positions(r, masses, masses > 0, "others")


def test_arrhenius_of_exact_values():
    kelvin = np.array([600.0, 800.0, 1000.0, 1200.0])
    values = 2e-3 * np.exp(-0.31 / (BOLTZMANN * kelvin))
    for errors in (None, 0.05 * values, np.full(4, np.nan)):
        fit = arrhenius(kelvin, values, errors)
        assert fit.activation_energy == pytest.approx(0.31, abs=1e-12)
        assert np.exp(fit.log_prefactor) == pytest.approx(2e-3)
        assert fit.at(300.0)[0] == pytest.approx(2e-3 * np.exp(-0.31 / (BOLTZMANN * 300.0)))
    # two points: E = ln(y2/y1) / (1/kT1 - 1/kT2), relative errors of 5 % each
    two = arrhenius(kelvin[:2], values[:2], 0.05 * values[:2])
    span = 1.0 / (BOLTZMANN * 600.0) - 1.0 / (BOLTZMANN * 800.0)
    assert two.error == pytest.approx(0.05 * np.sqrt(2.0) / span)
    assert np.isnan(arrhenius(kelvin[:2], values[:2]).error)


def test_arrhenius_errors_cover():
    """The known value lies within one error in about two of three noisy fits."""
    kelvin = np.array([600.0, 800.0, 1000.0, 1200.0])
    exact = 2e-3 * np.exp(-0.31 / (BOLTZMANN * kelvin))
    rng = np.random.default_rng(1)
    relative = np.array([0.2, 0.1, 0.05, 0.05])
    inside = 0
    for _ in range(300):
        values = exact * np.exp(relative * rng.normal(size=4))
        fit = arrhenius(kelvin, values, relative * values)
        inside += abs(fit.activation_energy - 0.31) < fit.error
    # 68 % of a normal error; raised where the scatter is large: a little more
    assert 0.64 < inside / 300 < 0.85


def test_arrhenius_refuses_what_has_no_logarithm():
    with pytest.raises(DataError, match="two temperatures"):
        arrhenius([300.0, 300.0], [1.0, 2.0])
    with pytest.raises(DataError, match="must be positive"):
        arrhenius([300.0, 400.0], [-1.0, 2.0])


def trajectory(path, kelvin, seed):
    """Lithium walks at E_a = 0.2 eV through chlorine at rest, wrapped into the cell."""
    d = 1e-2 * np.exp(-0.2 / (BOLTZMANN * kelvin))
    r = walkers(600, 8, d=d, seed=seed) + 6.0
    frames = []
    for positions in r:
        atoms = Atoms("Li8Cl8", np.concatenate([positions, np.eye(8, 3) * 3.0]), cell=[12.0] * 3,
                      pbc=True)  # fmt: skip
        atoms.wrap()
        frames.append(atoms)
    write(path, frames)


def test_command_fits_temperatures(tmp_path):
    kelvin = (500.0, 800.0, 1200.0)
    paths = [tmp_path / f"{int(t)}.traj" for t in kelvin]
    for seed, (path, t) in enumerate(zip(paths, kelvin, strict=True)):
        trajectory(path, t, seed)
    words = ["diffusion", *map(str, paths), "--species", "Li", "--dt", "10", "--lower", "0",
             "--upper", "100", "--reference", "others", "-o", str(tmp_path / "out")]  # fmt: skip
    for t in kelvin:
        words += ["--temperature", str(t)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "diffusion.json").read_text())
    fit = report["arrhenius"]["D(Li)"]
    assert fit["activation_energy_ev"] == pytest.approx(0.2, abs=4 * fit["error_ev"])
    assert fit["error_ev"] < 0.01
    for row, t in zip(report["trajectories"], kelvin, strict=True):
        found = row["species"]["Li"]
        exact = 1e-2 * np.exp(-0.2 / (BOLTZMANN * t))
        assert found["d_cm2_per_s"] == pytest.approx(exact, abs=5 * found["d_error_cm2_per_s"])
        assert row["haven_ratio"] == pytest.approx(1.0, abs=5 * row["haven_ratio_error"])
    for name in ("diffusion.png", "arrhenius.png", "squared-0.csv"):
        assert (tmp_path / "out" / name).is_file()
    for row in report["trajectories"]:
        assert row["velocities"] == "differences of positions"
    for more, text in ((["--born", "sine"], "--born is for Born charges: give --model"),
                       (["--every", "2"], "--every is for Born charges"),
                       (["--skip", "-5"], "--skip"), (["--dt", "0"], "--dt")):  # fmt: skip
        refused = CliRunner().invoke(main, [*words, *more])
        assert refused.exit_code == 2
        assert text in refused.output
    refused = CliRunner().invoke(main, words[: words.index("--temperature")])
    assert refused.exit_code == 1
    assert "give `--temperature`" in refused.output
    wrong = CliRunner().invoke(main, [*words, "--species", "Xe"])
    assert wrong.exit_code == 1
    assert "Xe=CHARGE" in wrong.output
