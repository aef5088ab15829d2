"""The path of someone new, from a file of an ion to a model that others load by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write
from click.testing import CliRunner
from test_publish import REPO, TOKEN, UploadHandler

import lesff
from lesff.cli import main
from lesff.errors import IntegrityError, LicenseError, ManifestError, UnsupportedInputError
from lesff.hub.manifest.citations import read_citations
from lesff.hub.mirror.copy import mirror_models
from lesff.hub.mirror.server import running
from lesff.hub.mirror.store import Store
from lesff.hub.sources.bundled import bundled_folder

OLD = bundled_folder() / "off-small" / "0.1.0"


def run(*arguments: object) -> str:
    """Output of a command that must succeed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{result.output}{result.exception!r}"
    return result.output


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, a cache of its own, and no other hub."""
    for name in ("LESFF_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "LESFF_HUB", "LESFF_LOCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LESFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model_folder(target: Path, **facts: str) -> Path:
    """A copy of a bundled model whose card says something else."""
    target.mkdir()
    for path in OLD.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    card = (target / "README.md").read_text(encoding="utf-8")
    head, text = card.split("---\n", 2)[1:]
    lines = [line for line in head.splitlines() if line.split(":")[0] not in facts]
    lines += [f"{key}: {value}" for key, value in facts.items() if value]
    new = "\n".join(["---", *lines, "---"])
    (target / "README.md").write_text(f"{new}\n{text}", encoding="utf-8")
    return target


@pytest.mark.slow
def test_from_a_file_of_an_ion_to_a_model_by_name(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predict, evaluate, finetune, load, mirror, serve, load elsewhere, publish."""
    # predict anions; the file that is written is labelled data
    frames = []
    for seed in range(12):
        atoms = molecule("CH3O")
        atoms.set_initial_magnetic_moments(None)  # those of the radical
        atoms.rattle(0.03, seed=seed)
        frames.append(atoms)
    write(here / "ions.xyz", frames)
    what = ["-m", "off-small", "--charge", -1, "-p", "energy,forces,dipole"]
    run("predict", "ions.xyz", *what, "-o", "out.extxyz")
    assert len(read(here / "out.extxyz", ":")) == 12
    run("evaluate", "off-small", "out.extxyz", "--json", "errors.json")
    errors = json.loads((here / "errors.json").read_text())["errors"]["all"]
    assert errors["forces_mae"] < 1e-2  # meV/A: the model's own labels, in float32
    # finetune on it, with another charge head
    how = ["--minutes", 0.02, "--set", "head=qeq"]
    run("finetune", "out.extxyz", "-m", "off-small", "-o", "RUN", *how)
    model = lesff.load("./RUN/model")
    energy = model.predict(frames[0], "energy", total_charge=-1).energy
    assert np.isfinite(energy)
    # mirror and serve it, load it by name from another cache
    run("hub", "mirror", "mirror", "./RUN/model", "--name", "anions", "--version", "1.0.0")
    with running(here / "mirror") as server:
        code = (
            "import lesff, sys; from ase.io import read; m = lesff.load('hf:local/anions@1.0.0'); "
            "print(float(m.predict(read('ions.xyz', 0), 'energy', total_charge=-1).energy))"
        )
        environment = os.environ | {"LESFF_HUB": server.url, "LESFF_CACHE": str(here / "other")}
        found = subprocess.run(  # noqa: S603 - this Python
            [sys.executable, "-W", "ignore", "-c", code],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert float(found.stdout) == pytest.approx(energy, abs=1e-4)
    # publish it to a hub
    (here / "store").mkdir()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running(here / "store", handler=UploadHandler) as server:
        monkeypatch.setenv("LESFF_HUB", server.url)
        output = run("publish", "./RUN/model", "--repo", REPO, "--version", "1.0.0")
        assert "is published" in output
        again = lesff.load(f"hf:{REPO}@1.0.0").predict(frames[0], "energy", total_charge=-1)
        assert again.energy == pytest.approx(energy, abs=1e-4)


def test_a_private_folder_is_mirrored_under_its_name(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(here / "mine", name="my-model", version="1.2.0")
    output = run("hub", "mirror", "mirror", "./mine")
    assert output.startswith("local/my-model at ")
    store = Store(here / "mirror")
    assert set(store.references("local/my-model")) == {"1.2.0", "main"}
    # an older version does not become what the name alone loads
    (first,) = mirror_models([f"{folder}"], here / "mirror", version="1.1.0")
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nOlder.\n")
    (old,) = mirror_models([f"{folder}"], here / "mirror", version="1.0.0")
    assert old.commit != first.commit == store.references("local/my-model")["main"]
    with running(here / "mirror") as server:
        monkeypatch.setenv("LESFF_HUB", server.url)
        for spec in ("hf:local/my-model", "hf:local/my-model@1.2.0"):
            assert lesff.load(spec).source.version == first.commit
        assert lesff.load("hf:local/my-model@1.0.0").source.version == old.commit


def test_a_version_of_a_folder_never_changes(here: Path) -> None:
    folder = model_folder(here / "mine", name="my-model")
    (first,) = mirror_models(["./mine"], here / "mirror")
    assert mirror_models(["./mine"], here / "mirror") == [first]
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nChanged.\n")
    with pytest.raises(IntegrityError, match="has version 0.1.0 with other bytes.*--version"):
        mirror_models(["./mine"], here / "mirror")
    mirror_models(["./mine"], here / "mirror", version="0.2.0")


@pytest.mark.parametrize(
    ("facts", "accepts", "message"),
    [
        ({"license": "cc-by-nc-4.0"}, False, "is under cc-by-nc-4.0, .*say --accept-license"),
        ({"license": "LicenseRef-ours"}, False, "is under LicenseRef-ours"),
        (
            {"license": "LicenseRef-ASL", "base_model": "mace-off23-small@1.0.0"},
            True,
            "mace-off23-small is under .*not known to allow passing on copies",
        ),
    ],
)
def test_licences_decide_which_folders_are_mirrored(
    here: Path, facts: dict[str, str], accepts: bool, message: str
) -> None:
    model_folder(here / "mine", **facts)
    with pytest.raises(LicenseError, match=message):
        mirror_models(["./mine"], here / "mirror", accept_license=accepts)
    assert Store(here / "mirror").repositories() == []


def test_the_owner_of_a_private_licence_may_mirror(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_folder(here / "mine", license="LicenseRef-ours")
    assert mirror_models(["./mine"], here / "mirror", accept_license=True)
    monkeypatch.setenv("LESFF_LICENSES", "permissive")
    with pytest.raises(LicenseError, match="LESFF_LICENSES allows 'permissive' licences only"):
        mirror_models(["./mine"], here / "mirror", accept_license=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "My Model"}, ManifestError, "`name` of .* must be lower-case .*--name"),
        ({"version": "1"}, ManifestError, "`version` of .* must be 'major.minor.patch', got '1'"),
    ],
)
def test_bad_names_and_versions_are_refused(
    here: Path, options: dict[str, str], error: type[Exception], message: str
) -> None:
    model_folder(here / "mine")
    with pytest.raises(error, match=message):
        mirror_models(["./mine"], here / "mirror", **options)
    with pytest.raises(UnsupportedInputError, match="`version` are for one model folder"):
        mirror_models(["off-small"], here / "mirror", **options)


def test_a_head_on_a_published_trunk_cites_the_trunk() -> None:
    """Nequix, its phonon finetuning, NequIP, and LES for what charges mean."""
    output = run("cite", "mat-large")
    for identifier in ("2508.16067", "2601.07742", "s41467-022-29939-5", "2412.15455"):
        assert identifier in output


@pytest.mark.parametrize("name", ["off-small", "off-medium", "mat-small", "mat-medium"])
def test_shipped_models_are_cited(name: str) -> None:
    """The method (LES, MACE) and the teacher, as the cards have them."""
    assert read_citations()
    output = run("cite", name)
    teacher = "jacs.5c09558" if name.startswith("off") else "s42256-023-00716-3"
    for identifier in ("2412.15455", "2206.07697", teacher):
        assert identifier in output
