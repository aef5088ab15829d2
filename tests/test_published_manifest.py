"""The manifest's models of others: consistent, cited, pinned; real files pass through it."""

import io
import json
import re
import runpy
import zipfile
from contextlib import contextmanager
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
from ase.build import bulk
from checkpoints import UPSTREAM
from click.testing import CliRunner
from file_server import running_server
from helpers import tiny_aimnet2
from nequix_files import nequix_file
from published_site import EXAMPLE, checkpoint, digest_of

import lesff
from lesff.cli import main
from lesff.errors import IntegrityError, LicenseError, UnsupportedInputError
from lesff.files import Digest
from lesff.hub.manifest.citations import bibtex, read_citations
from lesff.hub.manifest.names import list_models, manifest_folder

ROOT = Path(__file__).parents[1]
BLOB_IDS = UPSTREAM / "blob-ids.md"
ENTRIES = {entry.name: entry for entry in list_models() if entry.is_published}
TOLERANCE = 1e-9
"""eV per atom and eV/A: the order of float64 sums."""


def source_of(name):
    return ENTRIES[name].versions[0].sources.published


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_are_complete(name):
    entry, source = ENTRIES[name], source_of(name)
    assert source.url.startswith("https://")
    assert source.url.endswith(source.filename)
    assert entry.license_url.startswith("https://")
    assert entry.license_terms.endswith(".")
    assert bibtex(entry).count("@") >= 2
    assert entry.elements[0] == 1 or name.startswith("les-fit-au")


def test_files_are_those_of_the_tool():
    tool = runpy.run_path(str(ROOT / "tools" / "published.py"))
    files = tool["manifest_files"]()
    assert {f"{name}.json" for name in ENTRIES} == set(files)
    for name, text in files.items():
        assert (manifest_folder() / name).read_text(encoding="utf-8") == text


def test_every_work_is_cited_by_someone_and_well_formed():
    cited = {key for entry in list_models() for key in entry.bibtex}
    records = read_citations()
    assert set(records) == cited
    for record in records.values():
        assert record.count("{") == record.count("}")
        for field in ("author", "title", "year"):
            assert re.search(rf"^  {field} = {{.+}},?$", record, re.MULTILINE)


def test_our_model_is_cited_with_its_method():
    output = CliRunner().invoke(main, ["cite", "off-small"]).output
    for number in ("2412.15455", "2206.07697", "2512.18029"):
        assert number in output


@pytest.mark.skipif(not BLOB_IDS.is_file(), reason="needs the list of blob ids")
def test_pins_are_those_of_the_repositories():
    rows = [line.split("|")[1:6] for line in BLOB_IDS.read_text().splitlines() if "/" in line]
    known = {
        (repository.strip(), path.strip()): (commit.strip(), blob.strip())
        for repository, commit, path, blob, _ in (row for row in rows if len(row) == 5)
        if re.fullmatch(r"[0-9a-f]{40}", blob.strip())
    }
    seen = set()
    for name in ENTRIES:
        source = source_of(name)
        match = re.fullmatch(
            r"https://raw\.githubusercontent\.com/(.+?/.+?)/(\w+)/(.+)", source.url
        )
        assert (match is not None) == (source.git_blob is not None)
        if match is not None:
            commit, blob = known[match[1], match[3]]
            assert source.git_blob == blob
            assert match[2].startswith(commit)
            seen.add((match[1], match[3]))
    assert seen == set(known)


def test_the_table_in_the_documentation_is_current():
    text = (ROOT / "docs" / "published-models.md").read_text(encoding="utf-8")
    table = text.split("<!-- begin table -->\n")[1].split("<!-- end table -->")[0]
    assert table == CliRunner().invoke(main, ["list", "--markdown"]).output


def upstream(stem):
    path = UPSTREAM / f"{stem}.model"
    if not path.is_file():
        pytest.skip("needs the published file")
    return path, UPSTREAM / "reference" / f"{stem}.npz"


def check_frame(model, frames, reference):
    atoms = ase.io.read(UPSTREAM / frames, "0")
    out = model.predict(atoms, ["energy", "forces", "latent_charges"])
    with np.load(reference) as expected:
        assert abs(out.energy - float(expected["0.energy"][0])) < TOLERANCE * len(atoms)
        assert np.abs(out.forces - expected["0.forces"]).max() < TOLERANCE
        assert np.abs(out.latent_charges - expected["0.latent_charges"]).max() < TOLERANCE


def test_a_published_file_passes_through_its_entry(tmp_path, monkeypatch):
    path, reference = upstream("water_maceles-r-4.5-nl-1-l-0_H20_stagetwo")
    name = "les-fit-water-maceles-nl1-l0"
    monkeypatch.setenv("LESFF_CACHE", str(tmp_path))
    monkeypatch.delenv("LESFF_ACCEPT_LICENSE", raising=False)
    assert Digest.of(path).git_blob == "f735e0c1fd404161df61d1a34145c83f949d0a8b"
    assert source_of(name).git_blob == Digest.of(path).git_blob
    runner = CliRunner()
    refused = runner.invoke(main, ["pull", name, "--from", str(path)])
    assert "is under the licence CC-BY-NC-4.0" in refused.output
    result = runner.invoke(main, ["pull", name, "--from", str(path), "--accept-license"])
    assert result.exit_code == 0, result.output
    check_frame(lesff.load(name, dtype="float64"), "water_rpbe-d3_test.xyz", reference)


@contextmanager
def served(name, data, tmp_path, monkeypatch, elements=None):
    """The real entry of a model, but for the address and hash of the file."""
    monkeypatch.setenv("LESFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("LESFF_ACCEPT_LICENSE", raising=False)
    monkeypatch.setattr("lesff.hub.sources.download._BACKOFF_S", 0.0)
    text = (manifest_folder() / f"{name}.json").read_text(encoding="utf-8")
    with running_server() as server:
        server.files["file"] = data
        text = text.replace(source_of(name).url, server.url("file"))
        source, digest = source_of(name), digest_of(data)
        for known, ours in ((source.git_blob, digest.git_blob), (source.sha256, digest.sha256)):
            text = text if known is None else text.replace(known, ours)
        if source.size is not None:
            text = text.replace(f'"size": {source.size}', f'"size": {len(data)}')
        entry = json.loads(text) | {"elements": list(elements or ENTRIES[name].elements)}
        text = json.dumps(entry)
        manifest = tmp_path / "manifest"
        manifest.mkdir()
        (manifest / f"{name}.json").write_text(text, encoding="utf-8")
        monkeypatch.setattr("lesff.hub.manifest.names.manifest_folder", lambda: manifest)
        yield server


def test_maceles_off_by_name(tmp_path, monkeypatch):
    """A file of the size and format of the published one, with other weights."""
    name, data = "maceles-off-small", checkpoint("maceles_off_small")
    with served(name, data, tmp_path, monkeypatch) as server:
        server.faults = [3_000_000]
        with pytest.raises(LicenseError, match="Non-commercial use only"):
            lesff.load(name, offline=False)
        model = lesff.load(name, offline=False, accept_license=True)
        assert [r.get("range") for r in server.requests] == [None, "bytes=3000000-"]
        assert sum(server.sent) == len(data)
    assert (model.name, model.source.origin) == (f"{name}@1.0.0", "published")
    out = model.predict(ase.io.read(EXAMPLE), ["energy", "forces", "latent_charges", "dipole"])
    assert np.isfinite(out.energy)
    assert np.isfinite(out.forces).all()
    assert lesff.load(name, offline=True).source.origin == "cache"


def test_nequix_by_name(tmp_path, monkeypatch):
    """A file of the format and the elements of the published one, with other weights."""
    name = "nequix-oam-1-pft"
    data = nequix_file(ENTRIES[name].elements)
    with served(name, data, tmp_path, monkeypatch) as server:
        # bytes of another file are refused, an interrupted download goes on
        server.files["file"] = data[:-1] + b"!"
        with pytest.raises(IntegrityError, match="its sha256 must be"):
            lesff.load(name, offline=False)
        server.files["file"], server.faults = data, [20_000]
        del server.requests[:]
        model = lesff.load(name, offline=False)
        assert [r.get("range") for r in server.requests] == [None, "bytes=20000-"]
    assert (model.name, model.source.origin) == (f"{name}@1.0.0", "published")
    assert "PBE+U" in model.card
    assert np.isfinite(model.predict(bulk("Si"), ["energy", "forces", "stress"]).stress).all()
    assert lesff.load("nequix", offline=True).source.origin == "cache"


def test_the_published_nequix_passes_through_its_entry(tmp_path, monkeypatch):
    path = UPSTREAM / "nequix-oam-1-pft.nqx"
    if not path.is_file():
        pytest.skip("needs the published file")
    monkeypatch.setenv("LESFF_CACHE", str(tmp_path))
    result = CliRunner().invoke(main, ["pull", "nequix-oam-1-pft", "--from", str(path)])
    assert result.exit_code == 0, result.output
    out = lesff.load("nequix", dtype="float64").predict(bulk("Si"), ["energy"])
    assert -6.0 < out.energy / 2 < -5.0  # eV/atom; PBE of the Materials Project: -5.4


def test_a_published_file_comes_over_the_network(tmp_path, monkeypatch):
    """As a machine with internet access would see it, but for the address."""
    path, reference = upstream("dipep_maceles-r-4-l-0_dipep_train_stagetwo")
    name = "les-fit-dipeptides-maceles-r4-l0"
    with served(name, path.read_bytes(), tmp_path, monkeypatch) as server:
        server.faults = [300_000, "500"]
        model = lesff.load(name, dtype="float64", offline=False, accept_license=True)
        assert [r.get("range") for r in server.requests] == [None, *["bytes=300000-"] * 2]
    assert model.source.origin == "published"
    check_frame(model, "dipeptides_val.xyz", reference)


TINY = (1, 6, 8, 17)
"""Elements of the small AIMNet2 model."""


def wheel(tmp_path, member="Auto3D/models/aimnet2_wb97m_ens_f.jpt", head=b"0", count=1):
    """A zip archive with an ensemble of small models where the published wheel has it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Auto3D/auto3D.py", "raise SystemExit")
        archive.writestr(member, ensemble(tiny_aimnet2(tmp_path).read_bytes(), head, count))
    return out.getvalue()


def ensemble(data, head, count):
    """The archive of an ensemble whose members, alike, are the model of another archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith("/data.pkl"):
                # protocol 2, one object, stop: the object goes into three others
                def inside(name, *rows):
                    path = b"c__torch__.m\n" + name + b"\n)\x81}"
                    for key, value in rows:
                        path += b"X" + len(key).to_bytes(4, "little") + key + value + b"s"
                    return path + b"b"

                assert content[:2] == b"\x80\2"
                forces = inside(b"Forces", (b"module", content[2:-1]))
                heads = [head, *(str(i).encode() for i in range(1, count))]
                members = inside(b"ModuleList", *((name, forces) for name in heads))
                content = b"\x80\2" + inside(b"EnsembledModel", (b"models", members)) + b"."
            new.writestr(info.filename, content)
    return out.getvalue()


def test_aimnet2_by_name(tmp_path, monkeypatch):
    """A wheel with a file of the format of the published one, and other weights."""
    data = wheel(tmp_path)
    with served("aimnet2-wb97m-d3", data, tmp_path, monkeypatch, TINY) as server:
        server.faults = [9_000]
        model = lesff.load("aimnet2-wb97m-d3", offline=False)
        assert [r.get("range") for r in server.requests] == [None, "bytes=9000-"]
    assert model.source.origin == "published"
    assert "Auto3D/models/aimnet2_wb97m_ens_f.jpt" in model.card
    assert "- Licence: MIT (https://opensource.org/license/mit)" in model.card
    atoms = ase.build.molecule("CH3OH")
    out = model.predict(atoms, ["energy", "forces", "charges", "dipole"])
    assert np.isfinite(out.forces).all()
    assert lesff.load("aimnet2-wb97m-d3", offline=True).source.origin == "cache"


def test_the_four_members_of_aimnet2_by_one_name(tmp_path, monkeypatch):
    """Members of the test file are alike: their mean is each of them, and nothing spreads."""
    data, name = wheel(tmp_path, count=4), "aimnet2-wb97m-d3-ensemble"
    with served(name, data, tmp_path, monkeypatch, TINY):
        assert lesff.load(name, offline=False).source.origin == "published"
    together = lesff.load(name, offline=True)
    single = lesff.Model(together.potential.members[0], together.source)
    assert together.source.origin == "cache"
    assert len(together.potential.members) == 4
    assert "holds `all`" in together.card
    atoms = ase.build.molecule("CH3OH")
    names = ["energy", "forces", "charges"]
    one = single.predict(atoms, names)
    all_four = together.predict(atoms, [*names, "forces_spread"])
    for name in names:
        np.testing.assert_allclose(all_four[name], one[name], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(all_four.forces_spread, 0.0, atol=1e-6)


def test_another_wheel_is_refused(tmp_path, monkeypatch):
    data = wheel(tmp_path)
    with served("aimnet2-wb97m-d3", data, tmp_path, monkeypatch, TINY) as server:
        server.files["file"] = data[:-1] + bytes([data[-1] ^ 1])
        with pytest.raises(IntegrityError, match="is not the published file: its sha256 must be"):
            lesff.load("aimnet2-wb97m-d3", offline=False)
        assert not (tmp_path / "cache" / "models").exists() or not any(
            (tmp_path / "cache" / "models").rglob("config.json")
        )


def test_a_wheel_without_the_file_or_the_member_is_refused(tmp_path, monkeypatch):
    data = wheel(tmp_path, member="Auto3D/other.jpt")
    with (
        served("aimnet2-wb97m-d3", data, tmp_path, monkeypatch, TINY),
        pytest.raises(IntegrityError, match=r"has no member Auto3D/models/aimnet2_wb97m_ens_f"),
    ):
        lesff.load("aimnet2-wb97m-d3", offline=False)


def test_a_missing_member_of_the_ensemble_is_named(tmp_path, monkeypatch):
    data = wheel(tmp_path, head=b"7")
    with (
        served("aimnet2-wb97m-d3", data, tmp_path, monkeypatch, TINY),
        pytest.raises(UnsupportedInputError, match="members of the archive, 7, got '0'"),
    ):
        lesff.load("aimnet2-wb97m-d3", offline=False)
