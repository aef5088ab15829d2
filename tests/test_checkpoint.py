"""Model folders: exact round trips, strict reading, no half-written folders."""

import json
import os
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.errors import ConfigError, IntegrityError, ModelNotFoundError
from lesff.heads import LongRangeConfig
from lesff.model_folder import folder as checkpoint
from lesff.model_folder import tensor_file
from lesff.model_folder.folder import load_model, save_model
from lesff.model_folder.layout import MODEL_FILES
from lesff.model_folder.verify import verify_parity
from lesff.potential.config import ModelConfig
from lesff.potential.potential import Potential


def tiny_potential(seed: int = 0, **changes) -> Potential:
    options = {
        "architecture": {
            "type": "mace", "cutoff": 3.0, "hidden_irreps": "4x0e", "max_ell": 1,
            "correlation": 2, "radial_mlp": [8],
        },
        "elements": (1, 8),
        "reference_energies": (0.0, 0.0),
        "long_range": LongRangeConfig(head="shifted"),
    }  # fmt: skip
    torch.manual_seed(seed)
    return Potential(ModelConfig(**(options | changes)))


def save(potential: Potential, folder: Path, **options) -> Path:
    save_model(potential, folder, card="# Card\n", license_text="Licence\n", **options)
    return folder


def predict(potential: Potential) -> dict[str, torch.Tensor]:
    atoms = ase.Atoms("OHHO", [[0, 0, 0], [0.9, 0.1, 0], [-0.2, 0.95, 0], [0.3, 0.2, 2.5]])
    graph = build_graph(to_structure(atoms), potential.architecture.cutoff)
    return potential(graph.to(dtype=potential.dtype), ("energy", "forces"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_potential(), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(stored: Path, tmp_path: Path) -> Path:
    """A private copy that a test may damage."""
    copy = tmp_path / "tiny"
    copy.mkdir()
    for name in MODEL_FILES:
        (copy / name).write_bytes((stored / name).read_bytes())
    return copy


def change_weights(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip_is_bit_identical(dtype: str, tmp_path: Path) -> None:
    energies = (-13.6057 - 1e-9, -2043.1234567891)
    potential = tiny_potential(dtype=dtype, reference_energies=energies)
    for parameter in potential.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    again = load_model(save(potential, tmp_path / "model"), radial="exact")
    assert again.dtype is getattr(torch, dtype)
    assert again.config == ModelConfig(**vars(again.config))
    assert again.reference_energies.tolist() == list(energies)
    for name, value in predict(potential).items():
        assert torch.equal(predict(again)[name], value)


def test_saving_twice_gives_the_same_bytes(stored: Path, tmp_path: Path) -> None:
    again = save(load_model(stored), tmp_path / "again")
    assert sorted(path.name for path in again.iterdir()) == sorted(MODEL_FILES)
    for name in MODEL_FILES:
        assert (again / name).read_bytes() == (stored / name).read_bytes()


def test_loaded_parameters_are_frozen_and_rng_is_untouched(stored: Path) -> None:
    before = torch.get_rng_state()
    potential = load_model(stored)
    assert torch.equal(torch.get_rng_state(), before)
    assert not potential.training
    assert not any(parameter.requires_grad for parameter in potential.parameters())


def test_float64_on_request_keeps_constants(tmp_path: Path) -> None:
    potential = tiny_potential(reference_energies=(-13.60569301, -2043.123456789))
    folder = save(potential, tmp_path / "model")
    assert load_model(folder, dtype=torch.float64).dtype is torch.float64
    for dtype in (torch.float32, torch.float64):
        assert load_model(folder, dtype=dtype).reference_energies[1] == -2043.123456789
    with pytest.raises(ConfigError, match="`dtype` must be torch.float32 or torch.float64"):
        load_model(folder, dtype=torch.float16)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"long_range": None},
        {"elements": (3,), "reference_energies": (-200.0,)},
        {"elements": (1, 6, 9, 17), "reference_energies": (0.0, 1.0, 2.0, 3.0)},
        {"total_charge": (-1, 1), "spin_multiplicity": (1, 3), "state_embedding": True},
        {"total_charge": (-2, -1)},
    ],
)
def test_parity_holds_for_every_kind_of_model(changes: dict, tmp_path: Path) -> None:
    potential = tiny_potential(**changes)
    report = verify_parity(save(potential, tmp_path / "model"))
    assert report.ok
    assert max(report.energy_error, report.force_error) < 1e-10
    assert (report.charge_error is None) == (potential.charge_head is None)
    golden = load_file(tmp_path / "model" / "parity.safetensors")
    assert set(golden["numbers"].tolist()) == set(potential.config.elements)
    assert golden["pbc"].any()
    assert not golden["pbc"].all()
    assert golden["forces"].abs().max() > 1e-3
    low, high = potential.config.total_charge
    assert {low, high} <= set(golden["total_charge"].tolist())


def test_parity_finds_other_weights(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors["architecture.embedding"].mul_(1.001))
    report = verify_parity(folder)
    assert not report.ok
    assert report.energy_error > report.tolerance


def test_parity_finds_another_configuration(folder: Path) -> None:
    change_config(folder, reference_energies=[0.0, 1e-5])
    assert not verify_parity(folder).ok


def test_parity_file_is_read_strictly(folder: Path) -> None:
    path = folder / "parity.safetensors"
    golden = load_file(path)
    save_file({**golden, "n_atoms": golden["n_atoms"] + 1}, path)
    with pytest.raises(IntegrityError, match="parity.safetensors: n_atoms must add up"):
        verify_parity(folder)
    save_file({k: v for k, v in golden.items() if k != "forces"}, path)
    with pytest.raises(IntegrityError, match="parity.safetensors lacks forces"):
        verify_parity(folder)
    save_file({"energy": golden["energy"]}, path)
    with pytest.raises(IntegrityError, match="parity.safetensors holds no structures"):
        verify_parity(folder)
    path.unlink()
    with pytest.raises(IntegrityError, match="parity.safetensors is missing; fetch or copy"):
        verify_parity(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("architecture.embedding"), "lacks architecture.embedding: it does not"),
        (lambda t: t.update(extra=torch.ones(1)), "has unexpected extra: it does not belong"),
        (
            lambda t: t.update({"architecture.embedding": torch.ones(3, 4)}),
            r"embedding must be F32 of shape \(2, 4\), got F32 of shape \(3, 4\)",
        ),
        (
            lambda t: t.update({"architecture.embedding": torch.ones(2, 4).double()}),
            r"embedding must be F32 of shape \(2, 4\), got F64",
        ),
        (lambda t: t["architecture.embedding"].fill_(torch.inf), "embedding must be finite"),
        (lambda t: t["architecture.embedding"].fill_(torch.nan), "embedding must be finite"),
    ],
)
def test_wrong_tensors_are_refused(folder: Path, change, message: str) -> None:
    change_weights(folder, change)
    with pytest.raises(IntegrityError, match=f"model.safetensors.*{message}.*fetch or copy"):
        load_model(folder)


def test_damaged_weight_files_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    n_header = int.from_bytes(data[:8], "little")
    damaged = {
        b"": "must have 9..",
        data[:5]: "must have 9..",
        data[: n_header // 2]: "says its header has .* cut short or damaged",
        data[: 8 + n_header]: "is cut short or damaged",
        data[:-1]: "is cut short or damaged",
        data + b"\0": "is cut short or damaged",
        (10**12).to_bytes(8, "little") + data[8:]: "says its header has 1000000000000 bytes",
        (1).to_bytes(8, "little") + data[8:]: "says its header has 1 bytes",
        data[:8] + b"[" + data[9:]: "has no readable header",
        data[:8] + b"[" * n_header + data[8 + n_header :]: "has no readable header",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "says its header has",
    }
    for content, message in damaged.items():
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match=f"model.safetensors.*{message}.*fetch or copy"):
            load_model(folder)


def test_duplicate_tensor_names_are_refused(folder: Path) -> None:
    row = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = b'{"a":' + row + b',"a":' + row + b"}"
    content = len(header).to_bytes(8, "little") + header + b"\0\0\0\0"
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError, match="duplicate name"):
        load_model(folder)


def test_header_is_limited_before_reading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "_MAX_HEADER_BYTES", 100)
    with pytest.raises(IntegrityError, match="says its header has"):
        load_model(folder)
    monkeypatch.setattr(tensor_file, "_MAX_FILE_BYTES", 100)
    with pytest.raises(IntegrityError, match=r"must have 9\.\.100 bytes"):
        load_model(folder)


def test_missing_files_and_folders_are_named(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere does not exist"):
        load_model(folder / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(IntegrityError, match="model.safetensors is missing; fetch or copy"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(IntegrityError, match="config.json is missing"):
        load_model(folder)


def test_bad_configurations_are_refused(folder: Path) -> None:
    change_config(folder, colour="red")
    with pytest.raises(ConfigError, match=r"`config.json` has unknown key\(s\) colour"):
        load_model(folder)
    (folder / "config.json").write_text('{"a": NaN}')
    with pytest.raises(ConfigError, match="config.json must be a JSON object: NaN"):
        load_model(folder)


def test_an_interrupted_save_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt("stop")

    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(checkpoint, "golden_values", interrupt)
    for target, overwrite in ((folder.parent / "new", False), (folder, True)):
        with pytest.raises(KeyboardInterrupt, match="stop"):
            save(tiny_potential(seed=1), target, overwrite=overwrite)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_failed_swap_restores_the_old_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "model.safetensors").read_bytes()
    replace = os.replace

    def fail_for_new(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError("disk trouble")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_for_new)
    with pytest.raises(OSError, match="disk trouble"):
        save(tiny_potential(seed=1), folder, overwrite=True)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (folder / "model.safetensors").read_bytes() == before


def test_overwriting_must_be_asked_for_and_is_for_models_only(folder: Path) -> None:
    other = tiny_potential(seed=1)
    with pytest.raises(ConfigError, match="`folder` must not exist.*overwrite=True"):
        save(other, folder)
    save(other, folder, overwrite=True)
    loaded = load_model(folder, radial="exact")
    assert np.isclose(predict(loaded)["energy"], predict(other)["energy"], rtol=0)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="has other files: notes.txt; choose another folder"):
        save(other, folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"


def test_values_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    potential = tiny_potential()
    next(potential.parameters()).data.fill_(torch.nan)
    with pytest.raises(IntegrityError, match="weights must be finite in float32 to be saved"):
        save(potential, tmp_path / "model")
    with pytest.raises(ConfigError, match="`config` must hold finite plain data only"):
        save(tiny_potential(energy_scale=float("nan")), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
