"""Converted MACE models of every supported block, and of published sizes, equal mace-torch.

The weights are pseudo-random and reproducible; the reference values were computed in float64 with
mace-torch 0.3.16 by ``references/make_mace_references.py``.
"""

import lzma
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from references.synthetic import EXAMPLE, MIN_SIZE, structures, weights

from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.cli import main
from lesff.convert.checkpoint import convert_checkpoint
from lesff.convert.mace.model import convert_mace, mace_heads
from lesff.convert.reader import read_checkpoint
from lesff.convert.record import Record
from lesff.errors import ModelNotFoundError, UnsupportedInputError
from lesff.model import load
from lesff.model_folder.folder import load_model, save_model
from lesff.model_folder.verify import verify_parity

HERE = Path(__file__).parent / "references"
HEADS = {"heads": ("omat", "omol", "spice"), "mh_1": ("omat", "omol", "spice")}
NAMES = sorted(path.name.removesuffix(".model.xz") for path in HERE.glob("*.model.xz"))
CASES = [(name, head) for name in NAMES for head in HEADS.get(name, (None,))]
# files with radii, repulsion or transforms hold their constants in float32: 6e-8 relative
ROUNDED = {"density_agnesi_zbl", "density_gaussian_soft", "mpa_0_medium", "mh_1"}


def checkpoint(name, folder):
    """The checkpoint with its large parameters filled in."""
    root = read_checkpoint(saved(name, folder))
    for key, module in root.named_modules():
        for part, tensor in module.attributes().get("_parameters", {}).items():
            if tensor is not None and tensor.numel() >= MIN_SIZE:
                full = f"{key}.{part}" if key else part
                tensor.copy_(torch.from_numpy(weights(full, tuple(tensor.shape))))
    return root


@pytest.mark.parametrize(("name", "head"), CASES, ids=[f"{n}-{h}" if h else n for n, h in CASES])
def test_energy_and_forces_are_those_of_mace(name, head, tmp_path):
    potential = convert_mace(checkpoint(name, tmp_path), head=head)
    potential.cast_parameters(torch.float64)
    elements = list(potential.config.elements)
    images = structures(elements, has_state=bool(potential.config.joint_embedding))
    tolerance = 1e-7 if name in ROUNDED else 1e-9
    with np.load(HERE / f"{name}.npz") as reference:
        for index, atoms in enumerate(images):
            prefix = str(index) if head is None else f"{head}.{index}"
            if "total_spin" in atoms.info:
                atoms.info["spin_multiplicity"] = atoms.info.pop("total_spin")
            graph = build_graph(to_structure(atoms), potential.architecture.cutoff)
            wanted = ["energy", "forces"]
            if potential.charge_head is not None:
                wanted.append("latent_charges")
            out = potential(graph, wanted)
            forces = reference[f"{prefix}.forces"]
            assert np.abs(forces).max() > 0.01  # the weights matter
            for key in wanted:
                error = np.abs(out[key].numpy() - reference[f"{prefix}.{key}"]).max()
                assert error < tolerance, (key, error)


def saved(name, folder):
    """A checkpoint file as mace-torch would write it, but with zeros for its large parameters."""
    path = folder / f"{name}.model"
    path.write_bytes(lzma.decompress((HERE / f"{name}.model.xz").read_bytes()))
    return path


@pytest.mark.parametrize("name", ["attention", "edges_above_features", "omol", "maceles_off_small"])
def test_converted_model_survives_a_folder(name, tmp_path):
    potential = convert_mace(checkpoint(name, tmp_path))
    save_model(potential, tmp_path / "model", card="test\n", license_text="test\n")
    assert verify_parity(tmp_path / "model").ok
    again = load_model(tmp_path / "model", radial="exact")
    graph = build_graph(to_structure(ase.io.read(EXAMPLE)), potential.architecture.cutoff)
    graph = graph.to(dtype=torch.float32)
    assert torch.equal(again(graph)["energy"], potential(graph)["energy"])


def test_checkpoint_becomes_a_loadable_folder(tmp_path):
    convert_checkpoint(saved("residual_l1", tmp_path), tmp_path / "model")
    assert "sha256" in load(tmp_path / "model").card
    with pytest.raises(ModelNotFoundError, match="checkpoint .* does not exist"):
        convert_checkpoint(tmp_path / "none.model", tmp_path / "other")


def test_every_head_becomes_a_folder(tmp_path):
    source, target = saved("heads", tmp_path), tmp_path / "models"
    result = CliRunner().invoke(main, ["convert", str(source), str(target), "--all-heads"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in target.iterdir()) == ["omat", "omol", "spice"]
    energies = {load(path).config.reference_energies for path in target.iterdir()}
    assert len(energies) == 3
    result = CliRunner().invoke(main, ["convert", str(source), str(tmp_path / "one")])
    assert "choose one" in result.output
    arguments = ["convert", str(source), str(tmp_path / "one"), "--head", "omol"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert "holds `omol`" in load(tmp_path / "one").card


def test_what_cannot_be_represented_is_named(tmp_path):
    root = checkpoint("residual_l1", tmp_path)
    root.path = "mace.modules.extensions.PolarMACE"
    with pytest.raises(
        UnsupportedInputError, match=r"PolarMACE cannot be converted: .*fukui.* MACELES"
    ):
        convert_mace(root)
    root = checkpoint("residual_l1", tmp_path)
    root.submodule("interactions.1").path = "mace.modules.blocks.SomethingElse"
    with pytest.raises(UnsupportedInputError, match=r"blocks .*SomethingElse are not supported"):
        convert_mace(root)
    root = checkpoint("residual_l1", tmp_path)
    root.state["heads"] = ["a", "b"]
    with pytest.raises(UnsupportedInputError, match="has the heads a, b; choose one"):
        convert_mace(root)


def test_heads_are_chosen_by_name(tmp_path):
    root = checkpoint("heads", tmp_path)
    assert mace_heads(root) == ["omat", "omol", "spice"]
    with pytest.raises(UnsupportedInputError, match="has the heads omat, omol, spice; choose one"):
        convert_mace(root)
    with pytest.raises(UnsupportedInputError, match="must be one of omat, .* got 'oma'"):
        convert_mace(root, head="oma")


def test_gates_of_older_files_hold_the_same_constants(tmp_path):
    """Before 0.3.16 the gate was e3nn's, with its constants in two activation modules."""
    new = convert_mace(checkpoint("omol", tmp_path))
    root = checkpoint("omol", tmp_path)
    for index in range(3):
        gate = root.submodule(f"interactions.{index}.equivariant_nonlin")
        constants = [gate.state.pop(name) for name in ("_scalar_cst", "_gate_cst")]
        for name, constant in zip(("act_scalars", "act_gates"), constants, strict=True):
            act = Record("e3nn.math.normalize2mom", (), {"cst": constant})
            acts = Record("torch.nn.ModuleList", (), {"_modules": {"0": act}})
            owner = Record("e3nn.nn.Activation", (), {"_modules": {"acts": acts}})
            gate.state["_modules"][name] = owner
    assert convert_mace(root).config == new.config


def test_charge_beyond_the_table_of_the_embedding_raises(tmp_path):
    potential = convert_mace(checkpoint("omol", tmp_path))
    assert potential.config.total_charge == (-100, 100)
    assert potential.config.spin_multiplicity == (1, 100)
    atoms = ase.io.read(EXAMPLE)
    graph = build_graph(to_structure(atoms), potential.architecture.cutoff).to(dtype=torch.float32)
    too_much = graph.replace(total_charge=graph.total_charge + 101)
    with pytest.raises(UnsupportedInputError, match=r"`total_charge` must be from -100 to 100"):
        potential(too_much)


def test_another_coupling_basis_of_the_same_space_gives_the_same_energy(tmp_path):
    """Reduced bases have other columns; here the columns are mixed, and the weights accordingly."""
    root = checkpoint("residual_l1", tmp_path)
    expected = convert_mace(root)
    contraction = root.submodule("products.0.symmetric_contractions.contractions.0")
    basis = contraction.attribute("U_matrix_2")
    weight = contraction.attribute("weights_max")
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(basis.shape[-1], basis.shape[-1], dtype=torch.float64, generator=generator)
    contraction.state["_buffers"]["U_matrix_2"] = basis.double() @ mix
    inverse = torch.linalg.inv(mix)
    contraction.state["_parameters"]["weights_max"] = torch.einsum(
        "pq,zqc->zpc", inverse, weight.double()
    )
    mixed = convert_mace(root)
    for potential in (expected, mixed):
        potential.cast_parameters(torch.float64)
    graph = build_graph(to_structure(ase.io.read(EXAMPLE)), 4.0)
    error = mixed(graph)["energy"] - expected(graph)["energy"]
    assert float(error.abs().max()) < 1e-5  # the weights were rounded to float32 on the way
    contraction.state["_buffers"]["U_matrix_2"] = torch.randn(basis.shape, generator=generator)
    with pytest.raises(UnsupportedInputError, match="degree 2 is not equivariant"):
        convert_mace(root)
