"""Converted random-weight MACE models of every supported block equal mace-torch to rounding."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch

from lesff.convert.folder import convert_checkpoint
from lesff.convert.mace import convert_mace
from lesff.convert.reader import read_checkpoint
from lesff.errors import ModelNotFoundError, UnsupportedInputError
from lesff.predict import load
from lesff.structures import build_graph, to_structure

HERE = Path(__file__).parent / "references"
EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "acetamide_water.xyz"
# files hold 3j symbols, radii and repulsion constants in float32: 6e-8 relative
TOLERANCE = {"residual_l1": 1e-10, "agnostic_l2": 1e-10, "density_agnesi_zbl": 2e-6}


@pytest.mark.parametrize("name", TOLERANCE)
def test_energy_and_forces_are_those_of_mace(name):
    potential = convert_mace(read_checkpoint(HERE / f"{name}.model"))
    potential.cast_parameters(torch.float64)
    graph = build_graph(to_structure(ase.io.read(EXAMPLE)), potential.architecture.cutoff)
    out = potential(graph)
    with np.load(HERE / "references.npz") as reference:
        energy, forces = reference[f"{name}.energy"], reference[f"{name}.forces"]
    assert np.abs(forces).max() > 0.01  # the weights matter
    assert np.abs(out["forces"].numpy() - forces).max() < TOLERANCE[name]
    assert np.abs(out["energy"].numpy() - energy).max() < TOLERANCE[name]


def test_checkpoint_becomes_a_loadable_folder(tmp_path):
    convert_checkpoint(HERE / "residual_l1.model", tmp_path / "model")
    model = load(tmp_path / "model", dtype="float64")
    with np.load(HERE / "references.npz") as reference:
        expected = float(reference["residual_l1.energy"][0])
    assert model.predict(ase.io.read(EXAMPLE)).energy == pytest.approx(expected, abs=1e-9)
    assert "sha256" in model.card
    with pytest.raises(ModelNotFoundError, match="checkpoint .* does not exist"):
        convert_checkpoint(tmp_path / "none.model", tmp_path / "other")


def test_what_cannot_be_represented_is_named():
    root = read_checkpoint(HERE / "residual_l1.model")
    root.path = "mace.modules.extensions.PolarMACE"
    with pytest.raises(UnsupportedInputError, match=r"PolarMACE cannot be converted; .* MACELES"):
        convert_mace(root)
    root = read_checkpoint(HERE / "residual_l1.model")
    root.submodule("interactions.1").path = "mace.modules.blocks.SomethingElse"
    with pytest.raises(UnsupportedInputError, match=r"blocks .*SomethingElse are not supported"):
        convert_mace(root)
    root = read_checkpoint(HERE / "residual_l1.model")
    root.state["heads"] = ["a", "b"]
    with pytest.raises(UnsupportedInputError, match="several heads: a, b"):
        convert_mace(root)
