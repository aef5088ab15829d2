"""The published Nequix model: equal to its original code, and no file is trusted.

The file (MIT) and the reference values, computed in float64 with the original code, are not part of
lesff; tests of them skip where they are absent.
"""

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from nequix_files import nequix_file
from references.synthetic import strained_oxide

import lesff
from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.cli import main
from lesff.convert.checkpoint import checkpoint_heads, convert_checkpoint
from lesff.convert.nequix.model import convert_nequix
from lesff.convert.nequix.reader import NqxFile, is_nqx, read_nqx
from lesff.errors import IntegrityError, ModelNotFoundError, UnsupportedInputError

REFERENCES = Path(__file__).parent / "references"
UPSTREAM = Path(__file__).parents[2] / "shared" / "upstream"
NAME = "nequix-oam-1-pft"
needs_upstream = pytest.mark.skipif(
    not (UPSTREAM / f"{NAME}.nqx").exists(), reason="the published model is not here"
)


@pytest.fixture
def file(tmp_path):
    """A small file."""
    path = tmp_path / "small.nqx"
    path.write_bytes(nequix_file())
    return path


def as_read(atoms):
    """The reference values are those of positions and cells in single precision."""
    atoms.positions[:] = atoms.positions.astype(np.float32)
    atoms.cell[:] = atoms.cell[:].astype(np.float32)
    return atoms


@pytest.mark.parametrize("name", ["nequix_l3", "nequix_l1"])
def test_a_plain_implementation_gives_the_same(name):
    """``references/make_nequix_references.py``: e3nn, one tensor product per edge."""
    potential = convert_nequix(read_nqx(REFERENCES / f"{name}.nqx"))
    potential.cast_parameters(torch.float64)
    graph = build_graph(to_structure(strained_oxide()), potential.architecture.cutoff)
    out = potential(graph, ["energy", "forces", "stress"])
    with np.load(REFERENCES / f"{name}.npz") as reference:
        assert np.abs(reference["forces"]).max() > 0.01  # the weights matter
        for key in ("energy", "forces", "stress"):
            assert np.abs(out[key].squeeze().numpy() - reference[key]).max() < 1e-10, key


@needs_upstream
@pytest.mark.parametrize("radial", ["exact", "table"])
def test_energies_forces_and_stress_are_those_of_the_original(radial):
    potential = convert_nequix(read_nqx(UPSTREAM / f"{NAME}.nqx"))
    assert sum(p.numel() for p in potential.parameters()) == 707_569  # arXiv 2508.16067
    potential.cast_parameters(torch.float64)
    potential.radial = radial
    frames = ase.io.read(UPSTREAM / "nequix_frames.extxyz", ":")
    with np.load(UPSTREAM / "reference" / f"{NAME}.npz") as reference:
        for index, atoms in enumerate(frames):
            graph = build_graph(to_structure(as_read(atoms)), potential.architecture.cutoff)
            out = potential(graph, ["energy", "forces", "stress"])
            error = out["energy"].item() - reference[f"{index}.energy"]
            assert abs(error) / len(atoms) < 1e-6
            error = out["forces"].numpy() - reference[f"{index}.forces"]
            assert np.abs(error).max() < 1e-5
            error = out["stress"][0].numpy() - reference[f"{index}.stress"]
            assert np.abs(error).max() < 1e-6


@needs_upstream
def test_stress_is_the_derivative_of_the_energy_in_strain():
    potential = convert_nequix(read_nqx(UPSTREAM / f"{NAME}.nqx"))
    potential.cast_parameters(torch.float64)
    atoms = ase.io.read(UPSTREAM / "nequix_frames.extxyz", "0")
    strain = np.random.default_rng(0).standard_normal((3, 3))
    strain = strain + strain.T

    def energy(step):
        moved = atoms.copy()
        moved.set_cell(atoms.cell[:] @ (np.eye(3) + step * strain), scale_atoms=True)
        graph = build_graph(to_structure(moved), potential.architecture.cutoff)
        return potential(graph, ["energy"])["energy"].item()

    step = 2e-5
    slope = (energy(step) - energy(-step)) / (2 * step)
    graph = build_graph(to_structure(atoms), potential.architecture.cutoff)
    stress = potential(graph, ["stress"])["stress"][0].numpy()
    # the error goes with the square of the step: 1.1e-5 eV at 1e-4
    assert slope == pytest.approx((stress * strain).sum() * atoms.get_volume(), abs=1e-6)


def test_a_file_of_other_sizes_is_converted_and_round_trips(file, tmp_path):
    assert is_nqx(file)
    assert checkpoint_heads(file) == []
    config = convert_checkpoint(file, tmp_path / "model")
    assert config.architecture["hidden_irreps"] == "4x0e+3x1o+2x2e"
    assert config.energy_scale == 0.8
    arrays = read_nqx(file).arrays
    assert config.reference_energies == tuple((arrays[0].double() - 1.5).tolist())
    model = lesff.load(tmp_path / "model", dtype="float64")
    potential = convert_nequix(read_nqx(file))
    potential.cast_parameters(torch.float64)
    graph = build_graph(to_structure(ase.Atoms("H2O", np.eye(3))), 3.5)
    expected = potential(graph, ["energy", "forces"])
    found = model.predict(ase.Atoms("H2O", np.eye(3)), ["energy", "forces"])
    assert found.energy == pytest.approx(expected["energy"].item(), abs=1e-12)
    assert np.abs(found.forces - expected["forces"].numpy()).max() < 1e-12


@pytest.mark.parametrize("options", [[], ["--all-heads"]])
def test_the_command_converts_a_file(file, tmp_path, options):
    result = CliRunner().invoke(main, ["convert", str(file), str(tmp_path / "model"), *options])
    assert result.exit_code == 0, result.output
    assert lesff.load(tmp_path / "model").potential.config.architecture["type"] == "nequip"
    result = CliRunner().invoke(main, ["convert", str(file), str(tmp_path / "x"), "--head", "a"])
    assert "a Nequix file has no heads, got head 'a'" in result.output


def test_files_in_double_precision_stay_so(tmp_path):
    path = tmp_path / "double.nqx"
    path.write_bytes(nequix_file(dtype=np.float64))
    assert convert_nequix(read_nqx(path)).config.dtype == "float64"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index_weights": True}, "`index_weights` of the file must be false"),
        ({"add_repulsion": True}, "does not know: add_repulsion"),
        ({"cutoff": "6"}, "`cutoff` of the file must be a float, got 6"),
        ({"layer_norm": 1}, "`layer_norm` of the file must be a bool"),
        ({"atomic_numbers": [8, 1]}, "`atomic_numbers` of the file must be ascending"),
        ({"hidden_irreps": "4x0e+4x1e"}, "natural parity"),
        ({"hidden_irreps": "2x0e+4x1o"}, "do not grow with the order"),
        ({"radial_polynomial_p": 2.5}, "must be a whole number"),
        ({"n_layers": 3}, "the file lacks the array layers.1.skip.1"),
        ({"n_layers": 1}, "arrays beyond those of a Nequix model"),
        ({"layer_norm": False}, "arrays beyond those of a Nequix model"),
        ({"radial_mlp_size": 7}, r"layers.0.radial.0 must have shape \(4, 7\), got \(4, 5\)"),
        ({"hidden_irreps": "4096x0e+3x1o+2x2e"}, "must have shape"),
    ],
)
def test_what_cannot_be_represented_is_named(file, change, message):
    found = read_nqx(file)
    with pytest.raises(UnsupportedInputError, match=message):
        convert_nequix(NqxFile(found.config | change, found.arrays))


def test_a_missing_entry_is_named(file):
    found = read_nqx(file)
    config = {key: value for key, value in found.config.items() if key != "shift"}
    with pytest.raises(UnsupportedInputError, match="lacks `shift`"):
        convert_nequix(NqxFile(config, found.arrays))


@pytest.mark.parametrize("place", [4, 7])
def test_an_array_of_another_shape_is_named(file, place):
    found = read_nqx(file)
    arrays = list(found.arrays)
    arrays[place] = torch.zeros(3, 3)
    with pytest.raises(UnsupportedInputError, match=r"must have shape .*, got \(3, 3\)"):
        convert_nequix(NqxFile(found.config, tuple(arrays)))


HEADER = b"\x93NUMPY\x01\x00"


def with_header(text):
    """A file whose first array has this header."""
    return b"{}\n" + HEADER + len(text).to_bytes(2, "little") + text + bytes(8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "first line must be JSON"),
        (b"{}", "first line must be JSON"),
        (b"{]\n", "is no JSON"),
        (b"{" * 100_000 + b"\n", "is no JSON"),
        (b'{"cutoff": NaN}\n', "is no JSON"),
        (b'{"a": 1, "a": 2}\n', "a name occurs twice"),
        (b"[1]\n", "must be a JSON object"),
        (b"{}\nrubbish", "does not begin as one of numpy"),
        (b"{}\n" + HEADER + b"\xff\xff", "at most 4096 bytes"),
        (with_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"), "numbers must be"),
        (with_header(b"{'descr': '<f4', 'fortran_order': False}"), "damaged"),
        (with_header(b"__import__('os').abort()"), "damaged"),
        (with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**9,)}"), "damaged"),
        (with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "is none"),
        (with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (9,)}"), "beyond the end"),
        (with_header(b"{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2)}"), "C order"),
    ],
)
def test_damaged_and_hostile_files_are_refused(tmp_path, content, message):
    path = tmp_path / "bad.nqx"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=message):
        read_nqx(path)


def test_a_cut_file_is_refused_wherever_it_is_cut(file):
    whole = file.read_bytes()
    for end in (len(whole) - 1, len(whole) - 20, len(whole) // 2):
        file.write_bytes(whole[:end])
        with pytest.raises(IntegrityError, match="is refused"):
            read_nqx(file)
    with pytest.raises(ModelNotFoundError, match="is not a file"):
        read_nqx(file.with_name("absent.nqx"))


def test_values_that_are_not_finite_are_refused(file):
    file.write_bytes(nequix_file()[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(IntegrityError, match="not finite"):
        read_nqx(file)
