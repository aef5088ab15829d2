"""Converted AIMNet2 archives: energies, forces and charges of the published code.

The references of small models with pseudo-random weights were computed in float64 by
``references/make_aimnet2_references.py`` with the published code; those of the published weights,
in ``shared/upstream``, with positions rounded to float32 by that code.
"""

import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import tiny_aimnet2
from references.make_aimnet2_references import ELEMENTS, MOLECULES

from lesff.atoms.graph import build_graph, collate
from lesff.atoms.structure import to_structure
from lesff.cli import main
from lesff.convert.aimnet2 import convert_aimnet2
from lesff.convert.checkpoint import checkpoint_heads, convert_checkpoint
from lesff.convert.mace.model import convert_mace
from lesff.convert.reader import read_checkpoint
from lesff.convert.record import Record
from lesff.errors import UnsupportedInputError
from lesff.model import load

HERE = Path(__file__).parent / "references"
UPSTREAM = Path(__file__).parents[2] / "shared" / "upstream"
PUBLISHED = UPSTREAM / "aimnet2_wb97m-d3_0.jpt"
needs_published = pytest.mark.skipif(
    not PUBLISHED.exists(), reason="the published archive is not here"
)
RESULTS = ("energy", "forces", "charges")


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory) -> Path:
    return tiny_aimnet2(tmp_path_factory.mktemp("aimnet2"))


@pytest.fixture
def root(tiny_file) -> Record:
    return read_checkpoint(tiny_file)


def graph_of(atoms, charge, dtype=torch.float64):
    return build_graph(to_structure(atoms, total_charge=charge), 5.0).to(dtype=dtype)


def test_results_are_those_of_the_published_code(root):
    potential = convert_aimnet2(root)
    potential.cast_parameters(torch.float64)
    assert potential.config.elements == ELEMENTS
    graph = collate([graph_of(atoms, charge) for atoms, charge in MOLECULES])
    out = potential(graph, RESULTS)
    with np.load(HERE / "aimnet2.npz") as reference:
        for name in RESULTS:
            rows = [np.atleast_1d(reference[f"{i}.{name}"]) for i in range(len(MOLECULES))]
            expected = np.concatenate(rows)
            error = np.abs(out[name].numpy() - expected).max()
            # float64, but for the Gaussians of the Coulomb sums: 3e-8 of 14 eV A / 5 A x 1 e^2
            assert error < (1e-12 if name == "charges" else 1e-6), (name, error)
    assert np.abs(out["forces"].numpy()).max() > 0.1  # the weights matter


@needs_published
@pytest.mark.parametrize(
    "frames", [slice(0, None, 7), pytest.param(slice(None), marks=pytest.mark.slow)]
)
def test_published_weights_agree_on_frames(frames):
    potential = convert_aimnet2(read_checkpoint(PUBLISHED))
    potential.cast_parameters(torch.float64)
    images = list(enumerate(ase.io.read(UPSTREAM / "aimnet2_frames.extxyz", ":")))[frames]
    with np.load(UPSTREAM / "reference" / "aimnet2_wb97m-d3_0.npz") as reference:
        for index, atoms in images:
            atoms.positions = atoms.positions.astype(np.float32)
            out = potential(graph_of(atoms, int(atoms.info["charge"])), RESULTS)
            bounds = {"energy": 1e-6 * len(atoms), "forces": 1e-5, "charges": 1e-6}
            for name, bound in bounds.items():
                error = np.abs(out[name].numpy() - reference[f"{index}.{name}"]).max()
                assert error < bound, (index, name, error)


def test_converted_model_survives_a_folder(tiny_file, root, tmp_path):
    folder = tmp_path / "model"
    config = convert_checkpoint(tiny_file, folder)
    assert checkpoint_heads(tiny_file) == ["default"]
    model = load(folder)
    assert model.config == config
    atoms, charge = MOLECULES[2]
    atoms = atoms.copy()
    atoms.info["total_charge"] = charge
    found = model.predict(atoms, ["energy", "forces", "charges", "dipole"])
    # the folder holds float32, the reference float64
    with np.load(HERE / "aimnet2.npz") as reference:
        assert abs(float(found["energy"]) - reference["2.energy"]) < 1e-5
        assert np.abs(found["charges"] - reference["2.charges"]).max() < 1e-5
    assert found["charges"].sum() == pytest.approx(charge, abs=1e-4)
    assert found["dipole"].shape == (3,)


def test_command_converts(tiny_file, tmp_path):
    result = CliRunner().invoke(main, ["convert", str(tiny_file), str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    assert load(tmp_path / "model").config.architecture["type"] == "aimnet2"


@pytest.mark.parametrize(
    ("module", "name", "value", "match"),
    [
        ("", "d2features", False, "`.d2features` of the archive must be True"),
        ("outputs.energy_mlp", "apply_fn", "pow2", "`outputs.energy_mlp.apply_fn`"),
        ("outputs.d3bj", "k3", -3.0, "`outputs.d3bj.k3` of the archive must be -4.0"),
        ("aev", "_dual_basis", True, "`aev._dual_basis`"),
    ],
)
def test_other_options_are_refused(root, module, name, value, match):
    root.submodule(module).state[name] = value
    with pytest.raises(UnsupportedInputError, match=re.escape(match)):
        convert_aimnet2(root)


def test_tensors_without_a_place_are_refused_by_name(root):
    root.submodule("aev").state["_buffers"]["gate"] = torch.ones(2)
    with pytest.raises(UnsupportedInputError, match=r"cannot represent: aev\.gate"):
        convert_aimnet2(root)


def test_other_networks_are_refused(root):
    root.submodule("mlps.0.1").path = "__torch__.torch.nn.modules.activation.SiLU"
    with pytest.raises(UnsupportedInputError, match=r"`mlps\.0`.*got Linear, SiLU, Linear"):
        convert_aimnet2(root)


def test_other_radial_functions_of_vectors_are_refused(root):
    root.submodule("aev").state["_buffers"]["eta_v"] = torch.tensor(3.0)
    with pytest.raises(UnsupportedInputError, match=r"`aev\.eta_v` must be `aev\.eta_s`"):
        convert_aimnet2(root)


def test_other_scripted_models_are_refused(root):
    root.path = "__torch__.some.Model"
    with pytest.raises(UnsupportedInputError, match=r"class __torch__\.some\.Model cannot be"):
        convert_mace(root)
