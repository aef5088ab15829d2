"""What a model folder claims: sizes against bytes, before memory is taken; digests of its files."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from helpers import tiny_potential
from safetensors.torch import load_file, save_file

import lesff
from lesff.cli.main import main
from lesff.errors import ConfigError, IntegrityError, PublishError
from lesff.hub.publish import check_publication
from lesff.model_folder.digests import known_digests, released_digests
from lesff.model_folder.folder import expected_weights, load_model, save_model
from lesff.model_folder.tensor_file import read_header
from lesff.model_folder.verify import verify_parity

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "lesff" / "weights"
BUNDLED = sorted(path.parent for path in WEIGHTS.glob("*/*/model.safetensors"))
"""Others share their weights with a newer version."""
SMALL = WEIGHTS / "off-small" / "1.0.0"


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


# sizes: a gigabyte of address space beyond what Python and torch have taken is enough to refuse


LIMITED = """
import resource, sys
import torch
from pathlib import Path
from lesff.model_folder.folder import load_model
from lesff.errors import LesffError

pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30,) * 2)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        load_model(folder)
    except LesffError as error:
        print(folder.name, type(error).__name__, sep="=")
"""

SMALL_ARCHITECTURE = {
    "type": "mace", "cutoff": 4.0, "hidden_irreps": "4x0e+4x1o", "n_layers": 2, "max_ell": 2,
    "correlation": 3, "n_radial": 4, "radial_mlp": [8], "avg_num_neighbors": 4.0,
}  # fmt: skip


def claiming(architecture: dict | None = None, **changes: object) -> dict:
    base = {
        "architecture": {**SMALL_ARCHITECTURE, **(architecture or {})},
        "elements": [1, 8],
        "reference_energies": [0.0, 0.0],
    }
    return base | changes


STATE = {"name": "total_charge", "size": 4096, "n_classes": 4096}
BIG = {"hidden_irreps": "4096x0e+4096x1o+4096x2e", "n_layers": 8, "max_ell": 3}
CLAIMS = {
    "charge readout": (claiming(long_range={"readout_hidden": 10**9}), "ConfigError"),
    "charge readout of an integer without end": (
        claiming(long_range={"readout_hidden": 10**300}),
        "ConfigError",
    ),
    "heads": (claiming(long_range={"readout_heads": 10**12}), "ConfigError"),
    "energy readout": (
        claiming({"readout_hidden": 4096, "hidden_irreps": "4096x0e", "readout_bias": True}),
        "IntegrityError",
    ),
    "channels": (claiming(BIG | {"interaction": "gated"}), "ConfigError"),
    "channels of attention": (claiming(BIG | {"interaction": "attention"}), "ConfigError"),
    "radial network": (claiming(BIG | {"radial_mlp": [4096] * 8}), "ConfigError"),
    "elements": (
        claiming(BIG, elements=list(range(1, 119)), reference_energies=[0.0] * 118),
        "ConfigError",
    ),
    "couplings": (
        claiming(
            {
                "max_ell": 3,
                "stores_couplings": True,
                "coupling_paths": [[4096] * 3, [4096] * 3],
            }
        ),
        "IntegrityError",
    ),
    "states": (claiming(joint_embedding=[STATE] * 8), "IntegrityError"),
    "many states": (claiming(joint_embedding=[STATE] * 5000), "ConfigError"),
    "wave vectors": (claiming(long_range={"dl": 1e-5}), "ConfigError"),
    "infinity": (claiming({"avg_num_neighbors": "1e999"}), "ConfigError"),
    "a float of an integer": (claiming({"avg_num_neighbors": 10**400}), "ConfigError"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="address space is read from /proc")
@pytest.mark.slow
def test_a_small_configuration_takes_no_memory(tmp_path: Path) -> None:
    for name, (data, _) in CLAIMS.items():
        folder = shutil.copytree(SMALL, tmp_path / name)
        text = json.dumps(data).replace('"1e999"', "1e999")
        (folder / "config.json").write_text(text)
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    found = dict(line.split("=") for line in done.stdout.splitlines())
    assert found == {name: error for name, (_, error) in CLAIMS.items()}, done.stderr[-2000:]
    assert done.returncode == 0


def test_the_header_is_compared_before_anything_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(SMALL, tmp_path / "claims")
    data = config_of(folder)
    data["architecture"]["readout_hidden"] = 4096
    (folder / "config.json").write_text(json.dumps(data))
    sizes = []
    monkeypatch.setattr(
        torch.nn.Module,
        "to",
        lambda self, *_, **__: sizes.append(sum(p.numel() for p in self.parameters())),
    )
    with pytest.raises(IntegrityError, match=r"must be F32 of shape \(\d+, 4096\)"):
        load_model(folder)
    assert sizes == []


def test_weights_of_every_bundled_model_are_expected() -> None:
    for folder in BUNDLED:
        potential = load_model(folder)
        found = {k: (v.dtype, tuple(v.shape)) for k, v in potential.state_dict().items()}
        assert expected_weights(potential.config) == found
        assert all(p.device.type == "cpu" for p in potential.buffers())


def test_too_many_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lesff.model_folder.folder.MAX_VALUES", 1000)
    monkeypatch.setattr("lesff.model_folder.folder._MODEST", 0)
    with pytest.raises(ConfigError, match="must describe at most 1,000 weights, got"):
        load_model(SMALL)


def row(shape: list[int], begin: int, end: int) -> dict:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": row([4], 4, 20)}, "a must begin at byte 0, got 4"),
        ({"a": row([4], 0, 16), "b": row([4], 8, 24)}, "b must begin at byte 16, got 8"),
        ({"a": row([4], 0, 32)}, "tensors must end with the file"),
        ({"a": row([2**60], 0, 16)}, "shapes and offsets must be whole numbers"),
        ({"a": row([-4], 0, 16)}, "shapes and offsets must be whole numbers"),
        ({"a": row([True], 0, 16)}, "shapes and offsets must be whole numbers"),
        ({"a": {"dtype": "F32", "shape": [4]}}, "has no readable header"),
        ({"a": []}, "has no readable header"),
        ({"__metadata__": {"x": 3}, "a": row([4], 0, 16)}, "metadata must be text"),
    ],
)
def test_headers_that_do_not_describe_the_file(rows: dict, message: str, tmp_path: Path) -> None:
    header = json.dumps(rows).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(IntegrityError, match=message):
        read_header(path)


# digests


def flip(path: Path, offset: int = -5) -> None:
    """One bit of one byte, five bytes before the end if not told otherwise."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("source", BUNDLED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_flipped_bit_of_a_copied_release_is_refused(source: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(source, tmp_path / "copy")
    load_model(folder)
    flip(folder / "model.safetensors")
    # a calibration is compared with its weights first
    text = r"model.safetensors is not the one that was saved|was calibrated for other weights"
    with pytest.raises(IntegrityError, match=text):
        load_model(folder)


def test_every_release_without_digests_inside_is_in_the_table() -> None:
    """``tests/released.json`` says what was released."""
    released = json.loads((ROOT / "tests" / "released.json").read_text())
    ours = {name: files for name, files in released.items() if "parity.safetensors" in files}
    assert len(ours) >= 9
    for name, files in ours.items():
        places = [WEIGHTS, ROOT / "older_weights" / "lesff_older_weights"]
        folder = next(
            folder for place in places if (folder := place.joinpath(*name.split("@"))).is_dir()
        )
        known = known_digests(folder)
        assert known is not None
        assert known.items() <= files.items()
    assert set(released_digests()) <= {files["parity.safetensors"] for files in ours.values()}


def verify(folder: Path) -> str:
    result = CliRunner().invoke(main, ["verify", str(folder)])
    assert result.exit_code == 1, result.output
    return result.output


def test_verify_refuses_what_golden_values_do_not_feel(tmp_path: Path) -> None:
    folder = shutil.copytree(SMALL, tmp_path / "copy")
    flip(folder / "model.safetensors")
    assert "model.safetensors is not the one that was saved" in verify(folder)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    save_model(tiny_potential(), folder, card="card", license_text="text")
    return folder


def forget_digest(path: Path) -> None:
    save_file(load_file(path), path)


def other_description(path: Path) -> None:
    path.write_text(path.read_text().replace("unspecified", "CCSD(T)"))


@pytest.mark.parametrize(
    ("name", "change"),
    [("model.safetensors", flip), ("config.json", other_description)],
)
def test_a_saved_folder_carries_its_digests(
    name: str, change: Callable[[Path], None], saved: Path
) -> None:
    known = known_digests(saved)
    assert known is not None
    assert sorted(known) == ["config.json", "model.safetensors"]
    assert verify_parity(saved).ok
    change(saved / name)
    with pytest.raises(IntegrityError, match=f"{name} is not the one that was saved .*anew"):
        lesff.load(saved)
    assert not verify_parity(saved).ok
    assert f"{name} is not the one" in verify(saved)


def test_an_uncertainty_from_elsewhere_is_refused(saved: Path) -> None:
    (saved / "uncertainty.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(IntegrityError, match="uncertainty.safetensors"):
        load_model(saved)


def test_card_and_license_may_be_edited(saved: Path) -> None:
    for name in ("README.md", "LICENSE"):
        (saved / name).write_text("another text")
    assert verify_parity(saved).ok


def test_folders_without_digests_still_load(saved: Path) -> None:
    forget_digest(saved / "parity.safetensors")
    assert known_digests(saved) is None
    assert verify_parity(saved).ok


@pytest.mark.parametrize("text", ["[]", "{}", '{"config.json": "x"}', '{"a": 1}', "nonsense"])
def test_digests_that_are_none_are_refused(text: str, saved: Path) -> None:
    path = saved / "parity.safetensors"
    save_file(load_file(path), path, metadata={"sha256": text})
    with pytest.raises(IntegrityError, match="must hold the digests of its model"):
        load_model(saved)


def test_the_same_model_is_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save_model(tiny_potential(), tmp_path / "again", card="card", license_text="text")
    for name in ("model.safetensors", "parity.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_a_damaged_folder_is_not_published(tmp_path: Path) -> None:
    folder = shutil.copytree(SMALL, tmp_path / "copy")
    flip(folder / "model.safetensors")
    with pytest.raises((IntegrityError, PublishError), match="is not the one that was saved"):
        check_publication(folder)
