"""Model folders of earlier layouts are read; those of later ones are refused."""

import json
import shutil
from pathlib import Path

import pytest

import lesff
from lesff.errors import ConfigError
from lesff.model_folder.folder import load_model
from lesff.model_folder.layout import CONFIG_FILE
from lesff.model_folder.verify import verify_parity
from lesff.potential import upgrade
from lesff.potential.config import FORMAT_VERSION
from lesff.potential.upgrade import upgraded

WEIGHTS = Path(lesff.__file__).parent / "weights"
OFF_SMALL = WEIGHTS / "off-small"
SHIPPED = sorted(path.parent.relative_to(WEIGHTS) for path in WEIGHTS.glob(f"*/*/{CONFIG_FILE}"))


@pytest.mark.parametrize("release", ["off-small/0.1.0", "off-small/1.0.0", "off-medium/1.0.0"])
def test_released_folders_load_with_their_golden_values(release):
    """Whatever the layout of today is; the first and later releases."""
    assert verify_parity(WEIGHTS / release).ok


@pytest.mark.parametrize("release", SHIPPED, ids=str)
def test_released_configurations_name_their_version(release):
    data = json.loads((WEIGHTS / release / CONFIG_FILE).read_text())
    assert data["format_version"] == 1  # released bytes never change
    assert upgraded(data, CONFIG_FILE)["format_version"] == FORMAT_VERSION


@pytest.fixture
def old(tmp_path):
    """A folder of a layout that never was: the energy scale has another name."""
    folder = shutil.copytree(OFF_SMALL / "0.1.0", tmp_path / "old")
    data = json.loads((folder / CONFIG_FILE).read_text())
    data["scale"] = data.pop("energy_scale")
    (folder / CONFIG_FILE).write_text(json.dumps(data | {"format_version": -1}))
    return folder


def renamed(data):
    return {("energy_scale" if key == "factor" else key): value for key, value in data.items()}


def renamed_before(data):
    return {("factor" if key == "scale" else key): value for key, value in data.items()}


def test_a_lower_version_is_upgraded_step_by_step(old, monkeypatch):
    before = (old / CONFIG_FILE).read_bytes()
    monkeypatch.setattr(upgrade, "UPGRADES", {-1: renamed_before, 0: renamed})
    model, original = load_model(old), load_model(OFF_SMALL / "0.1.0")
    assert model.config == original.config
    assert model.config.energy_scale != 1.0  # not the default
    assert verify_parity(old).ok
    assert (old / CONFIG_FILE).read_bytes() == before


def test_without_the_step_a_lower_version_is_refused(old, monkeypatch):
    monkeypatch.setattr(upgrade, "UPGRADES", {-1: renamed_before})
    with pytest.raises(ConfigError, match=r"must be one of \[-1, 1\], got 0: no lesff has"):
        load_model(old)


def test_the_result_of_an_upgrade_is_read_strictly(old, monkeypatch):
    monkeypatch.setattr(upgrade, "UPGRADES", {-1: renamed_before, 0: dict})
    with pytest.raises(ConfigError, match="has unknown key.* factor"):
        load_model(old)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (FORMAT_VERSION + 1, f"must be at most {FORMAT_VERSION}, got .*newer lesff; update lesff"),
        ("1", "must be an integer, got '1'"),
        (True, "must be an integer, got True"),
        (0, "no lesff has written it"),
    ],
)
def test_versions_that_are_not_known_are_refused(version, message):
    with pytest.raises(ConfigError, match=message):
        upgraded({"format_version": version}, CONFIG_FILE)


def test_a_configuration_without_a_version_is_of_the_first_layout(monkeypatch):
    monkeypatch.setattr(upgrade, "FORMAT_VERSION", 2)
    monkeypatch.setattr(upgrade, "UPGRADES", {1: lambda data: {"new": data["old"]}})
    assert upgraded({"old": 3}, CONFIG_FILE) == {"new": 3, "format_version": 2}
