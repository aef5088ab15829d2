"""Models of others: fetched, verified, converted once, kept."""

import errno
import json
import multiprocessing
import shutil
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from published_site import (
    DATA,
    DIGEST,
    EXAMPLE,
    NAME,
    Site,
    checkpoint,
    cut_conversion,
    cut_network,
    digest_of,
    private_site,
    run,
)

import lesff
from lesff.convert.checkpoint import convert_checkpoint
from lesff.errors import (
    CacheError,
    IntegrityError,
    ModelNotFoundError,
    OfflineError,
    UnsupportedInputError,
    UnverifiedWarning,
)
from lesff.hub.manifest import names as registry
from lesff.hub.resolve import pull, resolve
from lesff.hub.sources import download
from lesff.hub.sources.download import Download


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with private_site(tmp_path, monkeypatch) as site:
        yield site


# from a name to a prediction


def test_a_name_becomes_a_prediction(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish(sha256=DIGEST.sha256, size=DIGEST.size)
    model = lesff.load(NAME, dtype="float64")
    assert (model.name, model.source.origin) == (f"{NAME}@1.0.0", "published")
    (tmp_path / "small.model").write_bytes(DATA)
    convert_checkpoint(tmp_path / "small.model", tmp_path / "direct")
    expected = lesff.load(tmp_path / "direct", dtype="float64").predict(ase.io.read(EXAMPLE))
    assert model.predict(ase.io.read(EXAMPLE)).energy == expected.energy
    assert model.config.level_of_theory == "PBE"
    for text in (f"# {NAME}", "Someone (2020)", "MIT", "example.org/small", DIGEST.sha256):
        assert text in model.card
    assert "MIT" in (site.cached / "LICENSE").read_text()
    record = json.loads((site.cached / "source.json").read_text())
    assert record["source"] == {
        "size": len(DATA), "sha256": DIGEST.sha256, "git_blob": DIGEST.git_blob
    }  # fmt: skip
    assert record["url"] == site.server.url("small.model")
    assert len(record["files"]) == 5
    assert site.leftovers() == []
    assert not any("authorization" in headers for headers in site.server.requests)

    cut_network(monkeypatch)
    cut_conversion(monkeypatch)
    again = lesff.load("others@1")
    assert again.source.origin == "cache"
    assert lesff.load(NAME, offline=True).source.origin == "cache"


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "LICENSE"])
def test_a_damaged_conversion_is_made_anew(site: Site, damage: str) -> None:
    site.publish()
    resolve(NAME)
    before = (site.cached / damage).read_bytes()
    (site.cached / damage).write_bytes(before[:-2] + b"X\n")
    assert resolve(NAME).origin == "published"
    assert (site.cached / damage).read_bytes() == before
    (site.cached / damage).unlink()
    assert resolve(NAME).origin == "published"
    assert resolve(NAME).origin == "cache"
    assert site.leftovers() == []


def test_a_record_of_another_checkpoint_is_not_used(site: Site) -> None:
    site.publish()
    resolve(NAME)
    site.server.files["small.model"] = other = checkpoint("agnostic_l2")
    site.publish(git_blob=digest_of(other).git_blob)
    assert resolve(NAME).origin == "published"
    record = json.loads((site.cached / "source.json").read_text())
    assert record["source"]["sha256"] == digest_of(other).sha256


# interrupted downloads


@pytest.mark.parametrize("cuts", [[1], [1000], [len(DATA) - 1], [70_000, 1, 50_000, 9]])
def test_an_interrupted_download_goes_on(site: Site, cuts: list[int]) -> None:
    site.publish()
    site.server.faults = list(cuts)
    assert resolve(NAME).origin == "published"
    starts = np.cumsum(cuts)
    ranges = [headers.get("range") for headers in site.server.requests]
    assert ranges == [None, *(f"bytes={start}-" for start in starts)]
    assert sum(site.server.sent) == len(DATA)  # no byte twice


def test_what_has_arrived_is_used_by_the_next_call(site: Site) -> None:
    site.publish()
    site.server.faults = [100_000, "500", "503", "500", "500"]
    with pytest.raises(OfflineError, match=r"cannot download small.model of .*500.*is kept: try"):
        resolve(NAME)
    assert not site.cached.exists()
    assert resolve(NAME).origin == "published"
    assert site.server.requests[-1]["range"] == "bytes=100000-"
    assert site.server.sent[-1] == len(DATA) - 100_000
    assert site.leftovers() == []


def test_servers_without_ranges_or_tags_start_again(site: Site) -> None:
    site.publish()
    site.server.has_ranges = False
    site.server.faults = [1000, 200_000]
    assert resolve(NAME).origin == "published"
    assert site.server.sent == [1000, 200_000, len(DATA)]
    shutil.rmtree(site.cached)
    site.server.has_etags = False
    site.server.faults = [1000]
    assert resolve(NAME).origin == "published"
    assert "range" not in site.server.requests[-1]


def test_a_file_that_changed_meanwhile_starts_again(site: Site) -> None:
    site.publish()
    site.server.files["small.model"] = b"old" * 50_000
    site.server.faults = [1000, "500", "500", "500", "500"]
    with pytest.raises(OfflineError, match="cannot download"):
        resolve(NAME)
    site.server.files["small.model"] = DATA
    assert resolve(NAME).origin == "published"
    assert site.server.sent[-1] == len(DATA)


def test_a_spoiled_part_gets_a_second_chance(site: Site) -> None:
    site.publish()
    site.server.faults = [100_000, "500", "500", "500", "500"]
    with pytest.raises(OfflineError, match="cannot download"):
        resolve(NAME)
    part = next((site.cache / "downloads").glob("*.part"))
    part.write_bytes(b"y" + part.read_bytes()[1:])
    assert resolve(NAME).origin == "published"
    assert site.server.sent[-2:] == [len(DATA) - 100_000, len(DATA)]


def test_an_interrupted_session_keeps_the_part(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish()
    site.server.faults = [50_000]

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt("stop")

    monkeypatch.setattr(download.time, "sleep", stop)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        resolve(NAME)
    monkeypatch.undo()
    part = next((site.cache / "downloads").glob("*.part"))
    assert part.read_bytes() == DATA[:50_000]


# wrong files and bad servers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"git_blob": "0" * 40}, r"its git_blob must be 0{40} \(the manifest\), got"),
        ({"git_blob": None, "sha256": "0" * 64}, r"its sha256 must be 0{64} \(the manifest\), got"),
        ({"size": len(DATA) + 1}, f"must have {len(DATA) + 1} bytes, but http.* gives {len(DATA)}"),
        ({"size": 1000}, "must have 1000 bytes, but http"),
        ({"elements": (1, 8)}, r"must cover the elements \[1, 8\] of others-small, got \[1, 6, 7"),
    ],
)
def test_another_file_is_refused(site: Site, changes: dict[str, Any], message: str) -> None:
    site.publish(**changes)
    with pytest.raises(IntegrityError, match=message):
        resolve(NAME)
    assert not site.cached.exists()
    assert not site.pin.exists()
    assert site.leftovers() == []


def test_tampered_bytes_are_refused(site: Site) -> None:
    site.publish()
    site.server.faults = ["tampered"]
    with pytest.raises(IntegrityError, match="is not the published file: its git_blob must be"):
        resolve(NAME)
    assert site.leftovers() == []
    assert resolve(NAME).origin == "published"


def test_servers_that_fail_are_asked_again(site: Site) -> None:
    site.publish()
    site.server.faults = ["500", "429"]
    assert resolve(NAME).origin == "published"
    assert len(site.server.requests) == 3


@pytest.mark.parametrize("status", ["404", "403"])
def test_a_missing_file_is_not_asked_for_again(site: Site, status: str) -> None:
    site.publish()
    site.server.faults = [status]
    with pytest.raises(
        ModelNotFoundError, match=f"does not give small.model.*status {status}.*--f"
    ):
        resolve(NAME)
    assert len(site.server.requests) == 1


def test_redirects_are_bounded_and_never_to_plain_http(site: Site) -> None:
    site.publish()
    site.server.faults = [f"moved:{site.server.url('small.model')}"]
    assert resolve(NAME).origin == "published"
    shutil.rmtree(site.cached)
    site.server.faults = ["moved:http://example.org/small.model"]
    with pytest.raises(IntegrityError, match="leads to 'http://example.org.* must start with http"):
        resolve(NAME)
    site.server.faults = ["moved:/small.model"] * 10
    with pytest.raises(IntegrityError, match="leads on more than 5 times"):
        resolve(NAME)


def test_a_server_that_stalls_is_asked_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish()
    monkeypatch.setattr(download, "_TIMEOUT_S", 0.3)
    site.server.faults = ["stall"]
    resolve(NAME)
    assert len(site.server.requests) >= 2


def test_redirects_from_https_stay_there() -> None:
    may = download._may_lead_to
    assert may("https://a.org/x", "https://b.org/y")
    assert may("http://localhost/x", "http://127.0.0.1:80/y")
    for target in ("http://b.org/y", "http://127.0.0.1/y", "https://me:you@b.org/y", "file:///y"):
        assert not may("https://a.org/x", target)


def test_too_large_files_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish(size=len(DATA))
    for fault in ("oversize", "endless"):
        site.server.faults = [fault]
        with pytest.raises(IntegrityError, match=f"must have {len(DATA)} bytes"):
            resolve(NAME)
    site.publish()
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    for fault in ("oversize", "endless"):
        site.server.faults = [fault]
        with pytest.raises(IntegrityError, match="must have at most 1000 bytes"):
            resolve(NAME)
    assert site.leftovers() == []


def test_a_server_that_is_not_there(site: Site, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    fetch = Download(f"http://127.0.0.1:{port}/x", tmp_path, what="x of y")
    with pytest.raises(OfflineError, match="cannot download x of y from http.*last error"):
        fetch.run()


def test_offline_says_how_to_get_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish()
    cut_network(monkeypatch)
    monkeypatch.setenv("LESFF_OFFLINE", "1")
    message = f"run `lesff pull {NAME} --from FILE` with a copy of its checkpoint, or load a copy"
    with pytest.raises(OfflineError, match=message):
        lesff.load(NAME)


def test_a_cache_that_cannot_be_written(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_args: object, **_options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    site.publish()
    monkeypatch.setattr("lesff.disk._install", read_only)
    message = f"the cache {site.cache} must be writable to hold .*Read-only.*LESFF_CACHE names"
    with pytest.raises(CacheError, match=message):
        resolve(NAME)


def test_what_cannot_be_converted_is_not_fetched_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise UnsupportedInputError("not yet")

    site.publish()
    monkeypatch.setattr("lesff.convert.checkpoint.convert_checkpoint", refuse)
    for _ in range(2):
        with pytest.raises(UnsupportedInputError, match="not yet"):
            resolve(NAME)
    assert len(site.server.requests) == 1
    assert not site.cached.exists()


def test_one_head_of_several_is_converted(site: Site) -> None:
    data = checkpoint("heads")
    site.server.files["small.model"] = data
    site.publish(git_blob=digest_of(data).git_blob)
    with pytest.raises(UnsupportedInputError, match="head"):
        resolve(NAME)
    energies = {}
    for head in ("omat", "omol", "spice"):
        site.publish(git_blob=digest_of(data).git_blob, head=head)
        model = lesff.load(NAME, dtype="float64")
        assert model.source.origin == "published"  # the folder of another head is not used
        energies[head] = model.predict(ase.io.read(EXAMPLE)).energy
    assert len(set(energies.values())) == 3


# files without a known hash


def test_the_first_fetch_of_an_unknown_file_is_recorded(site: Site) -> None:
    site.publish(git_blob=None)
    with pytest.warns(UnverifiedWarning, match=f"no hash of small.model.*{DIGEST.sha256} is now"):
        resolve(NAME)
    assert json.loads(site.pin.read_text())["sha256"] == DIGEST.sha256
    shutil.rmtree(site.cached)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve(NAME).origin == "published"
    shutil.rmtree(site.cached)
    site.server.files["small.model"] = checkpoint("agnostic_l2")
    with pytest.raises(IntegrityError, match=r"its sha256 must be .* \(the first fetch\), got"):
        resolve(NAME)
    assert not site.cached.exists()
    site.pin.write_text("{}")
    with pytest.raises(IntegrityError, match="must hold the digest of the first fetch"):
        resolve(NAME)


def test_a_page_in_place_of_the_file_is_not_recorded(site: Site) -> None:
    site.publish(git_blob=None)
    site.server.files["small.model"] = b"<html>please log in</html>"
    with pytest.raises(
        IntegrityError, match="small.model from http.* is no use: .*small.model is refused"
    ):
        resolve(NAME)
    assert not site.pin.exists()
    assert site.leftovers() == []


# files given by the user


def test_a_file_can_be_given(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, other = tmp_path / "given.model", tmp_path / "other.model"
    given.write_bytes(DATA)
    other.write_bytes(checkpoint("agnostic_l2"))
    site.publish()
    cut_network(monkeypatch)
    result = run("pull", NAME, "--from", given)
    assert result.exit_code == 0, result.output
    assert f"{NAME}@1.0.0 is at {site.cached} (published)" in result.output
    assert lesff.load(NAME, offline=True).source.origin == "cache"
    result = run("pull", NAME, "--from", other)
    assert result.exit_code == 1
    assert "is not the published file: its git_blob must be" in result.output
    assert lesff.load(NAME, offline=True).source.origin == "cache"
    result = run("pull", NAME, "--from", "none.model")
    assert "checkpoint none.model does not exist" in result.output
    site.publish(git_blob=None, sha256=None)
    shutil.rmtree(site.cached)
    result = run("pull", NAME, "--from", given)
    assert "Warning: no hash of small.model" in result.output
    assert site.pin.exists()


def test_a_file_is_for_models_of_others_only(site: Site) -> None:
    site.manifest.rename(site.manifest.with_name("empty"))
    shutil.copytree(EXAMPLE.parents[2] / "checkpoints_manifest", site.manifest)
    with pytest.raises(UnsupportedInputError, match="off-small comes from the package; leave it"):
        pull("off-small", checkpoint=EXAMPLE)


# processes


def _load_in_process(cache: Path, manifest: Path, queue: Any) -> None:
    import os

    os.environ["LESFF_CACHE"] = str(cache)
    os.environ["NO_PROXY"] = "127.0.0.1"
    registry.manifest_folder = lambda: manifest
    queue.put(resolve(NAME).origin)


@pytest.mark.slow
def test_two_processes_fetch_once(site: Site) -> None:
    site.publish()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=_load_in_process, args=(site.cache, site.manifest, queue))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    origins = [queue.get(timeout=100) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert set(origins) <= {"published", "cache"}
    assert site.server.sent == [len(DATA)]
    assert resolve(NAME).origin == "cache"
    assert site.leftovers() == []
