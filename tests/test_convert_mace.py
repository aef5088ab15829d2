"""Published MACE and MACELES checkpoints: equal to their original code to rounding.

The checkpoints (CC BY-NC 4.0) and the reference values, computed in float64 with the original
code, are not part of lesff; the tests skip where they are absent.
"""

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch

from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.autograd import jacobian_rows
from lesff.convert.mace.model import convert_mace
from lesff.convert.reader import read_checkpoint
from lesff.electrostatics.moments.born import sine_born_charges
from lesff.errors import UnsupportedInputError
from lesff.model_folder.folder import load_model, save_model

UPSTREAM = Path(__file__).parents[2] / "shared" / "upstream"
NAMES = (
    "dipep_mace-r-4-l-0_dipep_train_stagetwo",
    "dipep_maceles-r-4-l-0_dipep_train_stagetwo",
    "dipep_maceles-r-4.5-l-0_dipep_train_stagetwo",
    "water_mace-r-4.5-nl-1-l-0_H20_stagetwo",
    "water_maceles-r-4.5-nl-0_H20_stagetwo",
    "water_maceles-r-4.5-nl-1-l-0_H20_stagetwo",
)
pytestmark = pytest.mark.skipif(
    not UPSTREAM.exists(), reason="the published checkpoints are not here"
)

# targets of the conversion, per dtype
TOLERANCE = {
    torch.float64: {"energy": 1e-9, "forces": 1e-8, "latent_charges": 1e-8, "energy_lr": 1e-8},
    torch.float32: {"energy": 2e-6, "forces": 5e-5, "latent_charges": 1e-5, "energy_lr": 1e-4},
}


def frames(name):
    """Frames that belong to the reference values of a model."""
    file = "water_rpbe-d3_test.xyz" if name.startswith("water") else "dipeptides_val.xyz"
    return ase.io.read(UPSTREAM / file, ":")


@pytest.mark.parametrize("radial", ["exact", "table"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_energies_forces_and_charges_are_those_of_the_original(name, dtype, radial):
    potential = convert_mace(read_checkpoint(UPSTREAM / f"{name}.model"))
    potential.cast_parameters(dtype)
    potential.radial = radial
    tolerance = TOLERANCE[dtype]
    if radial == "table" and dtype == torch.float64:
        tolerance = dict.fromkeys(tolerance, 1e-6)  # eV/A, the promise of the tables
    wanted = [key for key in tolerance if key in potential.available_properties()]
    images = frames(name)
    with np.load(UPSTREAM / "reference" / f"{name}.npz") as reference:
        indices = sorted({int(key.split(".")[0]) for key in reference.files})[:2]
        assert indices
        for index in indices:
            graph = build_graph(to_structure(images[index]), potential.architecture.cutoff)
            out = potential(graph.to(dtype=dtype), wanted)
            per_atom = np.abs(out["energy"].numpy() - reference[f"{index}.energy"]).max()
            assert per_atom / graph.n_atoms < tolerance["energy"]
            error = out["forces"].numpy() - reference[f"{index}.forces"]
            assert np.abs(error).max() < tolerance["forces"]
            if "latent_charges" in out:
                q = reference[f"{index}.latent_charges"].ravel()
                assert np.abs(out["latent_charges"].numpy() - q).max() < tolerance["latent_charges"]
                error = out["energy_lr"].numpy() - reference[f"{index}.les_energy"]
                assert np.abs(error).max() < tolerance["energy_lr"]


def test_converted_model_survives_a_round_trip_through_a_folder(tmp_path):
    name = NAMES[2]
    potential = convert_mace(read_checkpoint(UPSTREAM / f"{name}.model"))
    save_model(potential, tmp_path / "model", card="test\n", license_text="test\n")
    again = load_model(tmp_path / "model", dtype=torch.float64)
    potential.cast_parameters(torch.float64)
    graph = build_graph(to_structure(frames(name)[0]), again.architecture.cutoff)
    for key, value in potential(graph, ["energy", "forces"]).items():
        torch.testing.assert_close(again(graph, ["energy", "forces"])[key], value, rtol=0, atol=0)


def test_constants_come_from_the_file():
    """The published files carry another prefactor and keep the self energy (importer notes)."""
    root = read_checkpoint(UPSTREAM / f"{NAMES[5]}.model")
    settings = convert_mace(root).config.long_range
    assert settings.prefactor == 90.0474
    assert settings.remove_self_interaction is False


def test_a_tensor_that_cannot_be_represented_is_named():
    root = read_checkpoint(UPSTREAM / f"{NAMES[0]}.model")
    root.module("readouts").state["_buffers"]["surprise"] = torch.ones(3)
    with pytest.raises(UnsupportedInputError, match="cannot represent: readouts.surprise"):
        convert_mace(root)


@pytest.mark.parametrize("name", [NAMES[1], NAMES[4]])
def test_born_charges_with_the_published_stencil(name):
    """Mean charge removed, sine form in cells, plain form for molecules: as the original does."""
    potential = convert_mace(read_checkpoint(UPSTREAM / f"{name}.model"))
    potential.cast_parameters(torch.float64)
    with np.load(UPSTREAM / "reference" / f"{name}.npz") as reference:
        index = min(int(key.split(".")[0]) for key in reference.files)
        expected = reference[f"{index}.born_effective_charges"].squeeze()
    graph = build_graph(to_structure(frames(name)[index]), potential.architecture.cutoff)
    positions = graph.positions.requires_grad_()
    charges = potential.energy_terms(graph).charges
    charges = charges - charges.mean()
    if graph.pbc.all():
        found = sine_born_charges(charges, positions, graph.cell, graph.batch)
    else:
        found = jacobian_rows((charges[:, None] * positions).sum(0)[None], positions)
    assert np.abs(found.numpy() - expected).max() < 1e-10


def test_stress_is_the_derivative_of_the_energy():
    """Central differences over a strain of positions and cell, for the water MACELES model."""
    potential = convert_mace(read_checkpoint(UPSTREAM / f"{NAMES[4]}.model"))
    potential.cast_parameters(torch.float64)
    atoms = frames(NAMES[4])[0]
    cutoff = potential.architecture.cutoff
    stress = potential(build_graph(to_structure(atoms), cutoff), ["stress"])["stress"][0]
    h = 1e-4  # the error of a central difference is O(h^2)
    for a, b in ((0, 0), (0, 1), (2, 2)):
        energies = []
        for sign in (1.0, -1.0):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5 * sign * h
            strain[b, a] += 0.5 * sign * h
            moved = atoms.copy()
            moved.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
            graph = build_graph(to_structure(moved), cutoff)
            energies.append(float(potential(graph, ["energy"])["energy"][0]))
        expected = (energies[0] - energies[1]) / (2 * h) / atoms.get_volume()
        assert float(stress[a, b]) == pytest.approx(expected, abs=1e-6)
