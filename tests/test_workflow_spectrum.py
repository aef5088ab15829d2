"""Spectra of structures: lines where the harmonic ones are when it is cold, and the command."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from ase.io import write
from click.testing import CliRunner
from helpers import tiny_potential, water

import lesff
from lesff.cli import main
from lesff.errors import ConfigError, PropertyError
from lesff.heads.config import MultipoleConfig
from lesff.model_folder.folder import save_model
from lesff.potential.edit import with_multipoles
from lesff.reports.spectrum import write_csv
from lesff.spectra.correlation import Spectrum, peaks
from lesff.workflows.folder import WorkFolder
from lesff.workflows.spectrum import (
    A2_PER_CM_OF_KM_PER_MOL,
    SpectrumOptions,
    bands,
    structure_spectrum,
)


def test_unit_of_intensities():
    """1 km/mol is 1.6605e-19 cm a molecule: 1e5 cm over Avogadro's number; 1 cm is 1e16 A^2/cm."""
    assert pytest.approx(1.66054e-19 * 1e16, rel=1e-5) == A2_PER_CM_OF_KM_PER_MOL


def test_names_of_columns_may_have_commas(tmp_path):
    columns = {"x (1/cm)": np.arange(3.0), "y, VV (a, b)": np.array([1.0, np.nan, 1e-9])}
    write_csv(tmp_path / "a.csv", columns)
    with (tmp_path / "a.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [list(row) for row in rows] == 3 * [list(columns)]
    assert float(rows[2]["y, VV (a, b)"]) == 1e-9


def test_bands_are_maxima_beyond_their_errors():
    x = np.arange(0.0, 1000.0)
    heights = sum(np.exp(-(((x - c) / 10.0) ** 2)) * h for c, h in ((200, 1.0), (500, 0.5)))
    errors = np.where(x > 400.0, 0.4, 0.01)
    found = Spectrum(
        wavenumber=x, values=np.asarray(heights), errors=errors, unit="", n_blocks=2, max_lag=1.0
    )
    assert [band.wavenumber for band in bands(found, 1000.0)] == [200.0]
    assert bands(found, 100.0) == []


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"steps": 1000}, "`max_lag` must be at most the 100 fs"),
        ({"equilibration": 3}, "`equilibration` must be a multiple of `keep`"),
        ({"keep": 0}, "`keep` must be at least 1"),
        ({"steps": 20_002}, "`steps` must be a multiple of `keep`"),
    ],
)
def test_bad_options(values, text):
    with pytest.raises(ConfigError, match=text):
        SpectrumOptions(**values)


@pytest.mark.slow
def test_cold_water_has_its_harmonic_lines(tmp_path):
    """Lines and intensities of dynamics at 10 K are those of the double harmonic approximation.

    Single lines have the energy that chance gave them, so only their places are compared.
    """
    model = lesff.load("off-small")
    options = SpectrumOptions(temperature=10.0, steps=2400, equilibration=0, max_lag=600.0,
                              blocks=2, tau=1000.0)  # fmt: skip
    folder = WorkFolder(tmp_path / "out", "spectrum", model, [water()], {})
    found = structure_spectrum(model, water(), options, folder=folder)
    assert found.missing == ("raman",)
    assert found.resolution == pytest.approx(55.6, abs=0.1)  # 1 / (c 600 fs)
    spectrum, harmonic = found.spectra["vdos"], found.harmonic
    assert harmonic is not None
    for expected in harmonic.frequencies[-3:]:
        # Verlet's steps of 0.5 fs shift stretches up by some 25 1/cm
        assert abs(peaks(spectrum, expected - 60.0, expected + 60.0) - expected) < 45.0
    curve = found.harmonic_infrared(spectrum.wavenumber)
    assert harmonic.intensities is not None
    assert curve is not None
    total = A2_PER_CM_OF_KM_PER_MOL * harmonic.intensities[-3:].sum()
    # Lorentzians reach beyond both ends
    assert np.trapezoid(curve, spectrum.wavenumber) == pytest.approx(total, rel=0.05)


def test_command_goes_on_and_writes_everything(tmp_path):
    folder = tmp_path / "model"
    save_model(tiny_potential(), folder, card="#", license_text="MIT")
    write(tmp_path / "water.xyz", water())
    words = ["spectrum", tmp_path / "water.xyz", "-m", folder, "-o", tmp_path / "out",
             "--steps", 80, "--equilibration", 4, "--keep", 2, "--blocks", 2,
             "--born", "sine", "--temperature", 5, "--dt", 0.1, "--no-harmonic"]  # fmt: skip
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "spectrum.json").read_text())
    assert set(report["spectra"]) == {"ir", "vdos"}
    assert report["not_of_this_model"] == ["raman"]
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["born"] == "sine"
    assert settings["max_lag"] == pytest.approx(4.0)  # fs, of a block
    for name in ("spectrum.html", "spectrum.png", "ir.csv", "vdos.csv"):
        assert (tmp_path / "out" / name).is_file()
    before = (tmp_path / "out" / "ir.csv").read_bytes()
    blocks = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "dynamics").rglob("*.npz")}
    assert CliRunner().invoke(main, [str(word) for word in words]).exit_code == 0
    assert (tmp_path / "out" / "ir.csv").read_bytes() == before
    assert blocks == {p: p.stat().st_mtime_ns for p in blocks}
    other = [str(word) for word in [*words, "--kind", "raman"]]
    other[other.index(str(tmp_path / "out"))] = str(tmp_path / "other")
    refused = CliRunner().invoke(main, other)
    assert isinstance(refused.exception, PropertyError) or "polarizability" in refused.output


@pytest.mark.slow
def test_raman_from_the_command_line(tmp_path):
    """Infrared and Raman spectra of cold water have their maximum at a harmonic frequency.

    off-small has no polarizability; here its atoms get one that changes with their surroundings by
    weights at random.
    """
    known = lesff.load("off-small").potential
    potential = with_multipoles(known, MultipoleConfig(induced="dipoles"))
    response = potential.multipole_head.polarizability
    torch.manual_seed(0)
    with torch.no_grad():
        response.gate.fill_(0.05)
        for weight in response.readouts.parameters():
            weight.normal_(std=0.3)
    save_model(potential, tmp_path / "model", card="#", license_text="MIT")
    write(tmp_path / "water.xyz", water())
    words = ["spectrum", tmp_path / "water.xyz", "-m", tmp_path / "model", "-o", tmp_path / "out",
             "--temperature", 10, "--steps", 1600, "--equilibration", 0, "--lag", 300,
             "--blocks", 2]  # fmt: skip
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "spectrum.json").read_text())
    assert set(report["spectra"]) == {"ir", "raman", "vdos"}
    lines = np.array([mode["wavenumber"] for mode in report["harmonic"]])
    for kind in ("ir", "raman"):
        x, y, *_ = np.genfromtxt(tmp_path / "out" / f"{kind}.csv", delimiter=",")[1:].T
        inside = x > 500.0  # above rotations
        highest = x[inside][y[inside].argmax()]
        # half of the width, and the shift of stretches by steps of 0.5 fs
        assert np.abs(lines - highest).min() < 0.5 * 111.2 + 25.0
    assert "Raman" in (tmp_path / "out" / "spectrum.html").read_text()
