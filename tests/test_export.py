"""Steps for C++: what the package computes, what its description says, what is refused."""

import json
import os
import subprocess
import sys

import ase.io
import numpy as np
import pytest
import torch
from helpers import triclinic_ice, water
from torch.fx.experimental.proxy_tensor import make_fx

import lesff
from lesff.engines import export
from lesff.errors import ConfigError, UnsupportedInputError
from lesff.kernels import KernelStatus


@pytest.fixture
def _plain(monkeypatch):
    monkeypatch.setattr(export, "kernel_status", lambda: KernelStatus(None))


@pytest.mark.slow
def test_the_package_gives_what_predict_gives(tmp_path):
    """About two minutes of a compiler; in a process without kernels, as users run it."""
    ase.io.write(tmp_path / "ice.extxyz", triclinic_ice())
    command = [sys.executable, "-m", "lesff.engines.export", "off-small"]
    command += [str(tmp_path / "ice.extxyz"), str(tmp_path / "step.pt2")]
    plain = {**os.environ, "LESFF_KERNELS": "off"}
    subprocess.run(  # noqa: S603 - lesff
        command, check=True, capture_output=True, timeout=900, env=plain
    )
    description = json.loads((tmp_path / "step.json").read_text())
    package = torch._inductor.aoti_load_package(str(tmp_path / "step.pt2"))
    atoms, rng = triclinic_ice(), np.random.default_rng(1)
    reach = description["max_displacement"]
    assert reach == 0.25
    model = lesff.load("off-small", dtype="float64")
    for _ in range(3):
        step = rng.uniform(-1.0, 1.0, (len(atoms), 3)) * reach / np.sqrt(3.0)
        there = atoms.copy()
        there.positions += 0.5 * step
        energy, forces = package(torch.from_numpy(there.positions))
        expected = model.predict(there)
        assert float(energy[0]) == pytest.approx(expected.energy, rel=1e-8)
        np.testing.assert_allclose(forces.numpy(), expected.forces, atol=1e-5)
    check = description["check"]
    energy, forces = package(torch.tensor(check["positions"], dtype=torch.float64))
    assert float(energy[0]) == pytest.approx(check["energy"], abs=1e-9)
    np.testing.assert_allclose(forces.numpy(), check["forces"], atol=1e-9)
    assert description["numbers"] == atoms.numbers.tolist()


@pytest.mark.usefixtures("_plain")
def test_what_cannot_be_exported(tmp_path, monkeypatch):
    path = tmp_path / "step.pt2"
    with pytest.raises(ConfigError, match=r"end with .pt2, got step.so"):
        export.export_step("off-small", triclinic_ice(), tmp_path / "step.so")
    with pytest.raises(UnsupportedInputError, match="crystals without a field only"):
        export.export_step("off-small", water(), path)
    monkeypatch.setattr(export, "kernel_status", lambda: KernelStatus("generic"))
    with pytest.raises(ConfigError, match="LESFF_KERNELS=off"):
        export.export_step("off-small", triclinic_ice(), path)
    assert not path.exists()


def test_differences_and_mirrors_of_complex_numbers_are_written_otherwise():
    def function(x):
        z = torch.complex(x, 2.0 * x)
        return (z - z.flip(-1) * x).abs().sum() - x.flip(0)

    x = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
    traced = make_fx(function)(x)
    changed = export._for_cpp(traced)
    differences = [n for n in changed.graph.nodes if n.target == torch.ops.aten.sub.Tensor]
    mirrors = [n for n in changed.graph.nodes if n.target == torch.ops.aten.flip.default]
    # real ones are left
    assert len(differences) == 1
    assert not any(n.meta["val"].dtype.is_complex for n in differences if "val" in n.meta)
    assert sorted(n.args[0].target == torch.ops.aten.view_as_real.default for n in mirrors) == [
        False,
        True,
    ]
    torch.testing.assert_close(changed(x + 1.0), function(x + 1.0))
