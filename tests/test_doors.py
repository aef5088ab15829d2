"""Doors that a hostile hub, network or user of the same cache once had, by their kind.

The rows C1 to C6 are those of the list of faults that these tests were written for.
"""

import json
import mmap
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from file_server import running_server
from hostile_hub import COMMIT, REPO, SOURCE, HostileHub, hostile_hub
from published_site import DATA, DIGEST, NAME, Site, checkpoint, cut_network, private_site, run

import lesff
from lesff import files as digests
from lesff.environment import state_folder
from lesff.errors import (
    CacheError,
    IntegrityError,
    LicenseError,
    ModelNotFoundError,
    OfflineError,
    UnverifiedWarning,
)
from lesff.files import FileSet, sha256_of
from lesff.hub import time_limit
from lesff.hub.cache import locked
from lesff.hub.resolve import resolve
from lesff.hub.sources import download, foreign
from lesff.hub.sources import huggingface as repositories
from lesff.hub.sources.download import Download
from lesff.hub.spdx import is_permissive_license
from lesff.hub.time_limit import SLOWEST, TimeLimit
from lesff.model_folder.layout import MODEL_FILES, UNCERTAINTY_FILE

MANIFEST = Path(__file__).parents[1] / "checkpoints_manifest"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("LESFF_OFFLINE", "HF_HUB_OFFLINE", "LESFF_HUB", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LESFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_BACKOFF_S", 0.0)
    monkeypatch.setattr(repositories, "_BACKOFF_S", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileHub]:
    with hostile_hub() as server:
        monkeypatch.setenv("LESFF_HUB", server.url)
        yield server


@pytest.fixture
def site(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with private_site(tmp_path, monkeypatch) as site:
        site.publish()
        yield site


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the user outside of the cache."""
    folder = tmp_path / "victim"
    (folder / "thesis").mkdir(parents=True)
    (folder / "thesis" / "text").write_text("years of work")
    return folder


def is_unharmed(victim: Path) -> bool:
    found = [path.relative_to(victim) for path in victim.rglob("*")]
    text = (victim / "thesis" / "text").read_text()
    return sorted(map(str, found)) == ["thesis", "thesis/text"] and text == "years of work"


def snapshot_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


GOOD = {name: (SOURCE / name).read_bytes() for name in MODEL_FILES}


# C1: what a hub says never becomes a path


@pytest.mark.parametrize(
    "commit",
    ["../../../../escape", "/escape", "0" * 39, "A" * 40, "main", "", None, ["0" * 40], "0" * 41],
)  # fmt: skip
def test_a_commit_must_look_like_one(hub: HostileHub, cache: Path, commit: object) -> None:
    hub.commit = commit
    before = sorted(cache.parent.iterdir())
    with pytest.raises(IntegrityError, match=f"commit of hf:{REPO} must be 40 lower-case hex"):
        resolve(f"hf:{REPO}")
    assert sorted(cache.parent.iterdir()) == before
    assert not any("resolve" in path for path in hub.asked)


@pytest.mark.parametrize("revision", ["", f"@{COMMIT}", "@v1/beta"])
def test_headers_never_become_paths(hub: HostileHub, cache: Path, revision: str) -> None:
    evil = "../../../../../../escape"
    for name in ("ETag", "X-Linked-ETag", "X-Repo-Commit"):
        hub.headers[name] = evil
    found = resolve(f"hf:{REPO}{revision}")
    assert snapshot_of(found.folder) == GOOD
    assert found.version == COMMIT
    assert found.folder == cache / "repositories" / REPO / COMMIT
    assert not list(cache.parent.rglob("*escape*"))
    assert not any(path.is_symlink() for path in cache.rglob("*"))


@pytest.mark.parametrize(
    "revision",
    [
        "../../x", "..", ".", "a/../b", "/etc", "a//b", "a/", "-x", "a/..", "a..b", "a\\..\\b",
        "a b", "a\n",
    ],
)  # fmt: skip
def test_revisions_with_steps_upward_are_refused(cache: Path, revision: str) -> None:
    with pytest.raises(ModelNotFoundError, match="must be 'hf:organisation/name'"):
        resolve(f"hf:a/b@{revision}")


@pytest.mark.parametrize("repo", ["../x", "x/..", "./x", ".git/x", "a/.b", "-a/b"])
def test_repositories_with_steps_upward_are_refused(cache: Path, repo: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"must be 'hf:|not a valid repository name"):
        resolve(f"hf:{repo}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"size": "1"}, "must say that config.json has 1 to"),
        ({"size": -1}, "must say that config.json has 1 to"),
        ({"size": True}, "must say that config.json has 1 to"),
        ({"size": 300_000_000}, "config.json has 1 to 25000000 bytes, got 300000000"),
    ],
)
def test_sizes_in_a_list_are_bounded(hub: HostileHub, row: dict[str, object], message: str) -> None:
    hub.row = row
    with pytest.raises(IntegrityError, match=message):
        resolve(f"hf:{REPO}")
    assert not any("resolve" in path for path in hub.asked)


def test_a_hub_without_digests_is_named(hub: HostileHub) -> None:
    hub.row = {"oid": "W/weak", "lfs": None}
    hub.headers["ETag"] = '"no digest"'
    with pytest.warns(UnverifiedWarning, match="gives no digest of config.json, model.safetens"):
        found = resolve(f"hf:{REPO}")
    (found.folder / "LICENSE").write_bytes(b"x")
    data = bytearray(GOOD["model.safetensors"])
    data[-1] ^= 1
    hub.content["model.safetensors"] = bytes(data)
    with pytest.raises(IntegrityError, match="must be what this user first fetched"):
        resolve(f"hf:{REPO}")


def test_a_large_file_of_known_size_is_not_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = json.loads((MANIFEST / "off-small.json").read_text())
    source = {"hub": {"repo": REPO, "commit": COMMIT}}
    version = data["versions"][0] | {"sources": source}
    entry = data | {"name": "off-hub", "versions": [version]}
    (site.manifest / "off-hub.json").write_text(json.dumps(entry))
    with hostile_hub() as hub:
        monkeypatch.setenv("LESFF_HUB", hub.url)
        hub.content["README.md"] = b"x" * 30_000_000
        with pytest.raises(
            IntegrityError, match=r"README.md of off-hub.* must have \d+ bytes, but"
        ):
            resolve("off-hub")


# C2: what links lead to is not removed


@pytest.mark.parametrize(
    "place",
    [
        "models/evil", "models/evil/1.0.0", "web/evil", "repositories/a", "repositories/a/b",
        f"repositories/a/b/{COMMIT}", "downloads", "models", "hf", "web/.x.tmp", "pins",
    ],
)  # fmt: skip
def test_prune_does_not_follow_links(cache: Path, victim: Path, place: str) -> None:
    old = time.time() - 10**6
    for path in (*victim.rglob("*"), victim):
        os.utime(path, (old, old))
    link = cache / place
    link.parent.mkdir(parents=True)
    link.symlink_to(victim, target_is_directory=True)
    run("cache", "verify")
    result = run("cache", "prune")
    assert result.exit_code == 0, result.output
    assert is_unharmed(victim)


def test_prune_removes_links_inside_of_damaged_entries_only(cache: Path, victim: Path) -> None:
    entry = cache / "models" / "off-small" / "0.1.0"
    shutil.copytree(SOURCE, entry)
    (entry / "LICENSE").unlink()
    (entry / "LICENSE").symlink_to(victim / "thesis" / "text")
    (entry / "inner").symlink_to(victim)
    assert "cannot be used" in run("cache", "verify").output
    assert "removed" in run("cache", "prune").output
    assert not entry.exists()
    assert is_unharmed(victim)


def test_prune_leaves_what_others_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = cache / "models" / "forgotten" / "0.1.0"
    shutil.copytree(SOURCE, entry)
    monkeypatch.setattr("lesff.hub.cache_contents.os.geteuid", lambda: os.getuid() + 1)
    assert "0 entries" in run("cache", "prune").output
    monkeypatch.undo()
    assert entry.is_dir()


# C3: hub repositories stay what they were


def test_altered_repositories_do_not_pass(hub: HostileHub, cache: Path) -> None:
    spec = f"hf:{REPO}@{COMMIT}"
    folder = resolve(spec).folder
    data = bytearray(GOOD["model.safetensors"])
    data[-1] ^= 1
    for name, content in {"model.safetensors": bytes(data), UNCERTAINTY_FILE: b"planted"}.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)
        assert "cannot be used" in run("cache", "verify").output
        with pytest.raises(OfflineError, match="damaged"):
            resolve(spec, offline=True)
        assert snapshot_of(resolve(spec).folder) == GOOD
    assert resolve(spec, offline=True).origin == "cache"


def test_links_in_a_repository_do_not_pass(hub: HostileHub, tmp_path: Path) -> None:
    spec = f"hf:{REPO}@{COMMIT}"
    folder = resolve(spec).folder
    copy = shutil.copytree(folder, tmp_path / "copy")
    (folder / "LICENSE").unlink()
    (folder / "LICENSE").symlink_to(copy / "LICENSE")
    with pytest.raises(OfflineError, match="is a symbolic link"):
        resolve(spec, offline=True)
    assert not (resolve(spec).folder / "LICENSE").is_symlink()
    assert (copy / "LICENSE").is_file()


def test_a_planted_repository_is_not_loaded(hub: HostileHub, cache: Path) -> None:
    planted = cache / "repositories" / REPO / COMMIT
    shutil.copytree(SOURCE, planted)
    data = bytearray(GOOD["model.safetensors"])
    data[-1] ^= 1
    (planted / "model.safetensors").write_bytes(data)
    old = cache / "hf" / f"models--{REPO.replace('/', '--')}" / "snapshots" / COMMIT
    shutil.copytree(planted, old)
    for revision in ("main", COMMIT):
        with pytest.raises(OfflineError, match="must be in the cache to be used offline"):
            resolve(f"hf:{REPO}@{revision}", offline=True)
    assert snapshot_of(resolve(f"hf:{REPO}").folder) == GOOD


def test_a_hub_cannot_exchange_a_known_commit(hub: HostileHub) -> None:
    folder = resolve(f"hf:{REPO}@{COMMIT}").folder
    hub.content["LICENSE"] = b"other"
    assert resolve(f"hf:{REPO}").origin == "cache"
    (folder / "LICENSE").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="has other files for that commit now"):
        resolve(f"hf:{REPO}")


def test_what_is_here_already_is_not_fetched_again(hub: HostileHub, cache: Path) -> None:
    """A cache that another user has filled, in which every byte is as the hub announces it."""
    shutil.copytree(SOURCE, cache / "repositories" / REPO / COMMIT)
    assert snapshot_of(resolve(f"hf:{REPO}").folder) == GOOD
    assert not any("resolve" in path for path in hub.asked)


def test_a_hub_that_is_gone_leaves_what_is_known(
    hub: HostileHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(f"hf:{REPO}")
    hub.behaviour = "silent"
    monkeypatch.setenv("LESFF_TIMEOUT", "0.3")
    with pytest.warns(UnverifiedWarning, match=f"could not be asked for, so {COMMIT} is used"):
        assert resolve(f"hf:{REPO}").version == COMMIT


# C4: what a conversion must hold is in the state of the user


def planted_conversion(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What another user could leave in a shared cache: a converted folder with its record."""
    with monkeypatch.context() as other:
        other.setenv("LESFF_STATE", str(tmp_path / "other user"))
        resolve(NAME)


def test_a_planted_conversion_is_not_loaded(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted_conversion(site, monkeypatch, tmp_path)
    assert (site.cached / "source.json").is_file()
    with pytest.raises(OfflineError, match="this user has no record of the conversion"):
        resolve(NAME, offline=True)
    assert "no record of the conversion" in run("cache", "verify").output
    assert resolve(NAME).origin == "published"
    assert resolve(NAME, offline=True).origin == "cache"
    (site.cached / "source.json").unlink()
    assert resolve(NAME, offline=True).origin == "cache"
    (site.cached / UNCERTAINTY_FILE).write_bytes(b"planted")
    with pytest.raises(OfflineError, match="is not in the record of its conversion"):
        resolve(NAME, offline=True)


def test_pins_in_the_cache_are_not_believed(site: Site) -> None:
    site.publish(git_blob=None)
    pin = site.cache / "published" / f"{NAME}@1.0.0.json"
    pin.parent.mkdir(parents=True)
    pin.write_text(json.dumps({"size": 1, "sha256": "0" * 64, "git_blob": "0" * 40}))
    with pytest.warns(UnverifiedWarning, match="no hash of small.model"):
        assert resolve(NAME).origin == "published"
    assert state_folder() in site.pin.parents


# a read-only cache that an administrator has filled


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    places = [folder, *folder.rglob("*")]
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in places:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_read_only_cache_serves_models_of_others(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted_conversion(site, monkeypatch, tmp_path)
    cut_network(monkeypatch)
    with read_only(site.cache):
        with pytest.warns(UnverifiedWarning, match="converted by whoever filled this cache"):
            assert resolve(NAME).origin == "cache"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert resolve(NAME).origin == "cache"
    data = bytearray((site.cached / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (site.cached / "model.safetensors").write_bytes(data)
    with read_only(site.cache), pytest.raises(OfflineError, match="must have sha256"):
        resolve(NAME, offline=True)


def test_a_read_only_cache_serves_repositories_and_addresses(
    hub: HostileHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_server() as server:
        for name, data in GOOD.items():
            server.files[f"m/{name}"] = data
        with monkeypatch.context() as other:
            other.setenv("LESFF_STATE", str(tmp_path / "other user"))
            resolve(f"hf:{REPO}")
            with pytest.warns(UnverifiedWarning, match="could not be verified"):
                resolve(server.url("m/"))
    cut_network(monkeypatch)
    for spec in (f"hf:{REPO}", server.url("m/")):
        with pytest.raises(OfflineError, match="must be in the cache"):
            resolve(spec, offline=True)
        with read_only(cache):
            with pytest.warns(UnverifiedWarning, match="filled by whoever keeps this cache"):
                assert resolve(spec, offline=True).origin == "cache"
            assert resolve(spec, offline=True).origin == "cache"


def test_a_read_only_cache_of_models_of_the_manifest_needs_no_trust(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = MANIFEST / "off-small.json"
    shutil.copy(manifest, site.manifest)
    shutil.copytree(SOURCE, site.cache / "models" / "off-small" / "0.1.0")
    with read_only(site.cache):
        assert resolve("off-small@0.1.0").origin == "cache"


# C5: "hashed before" holds only where nobody else can write


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(digests, "_SETTLED_S", 0.0)
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    path = folder / "weights"
    path.write_bytes(b"a" * (digests.ALWAYS_HASHED + 1))
    path.chmod(0o644)
    time.sleep(0.02)
    return path


def test_a_kept_mapping_does_not_fool(large: Path) -> None:
    large.chmod(0o664)  # a group that may write
    with large.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapping:
        mapping[0] = ord("b")  # the page is dirty from now on: later writes leave no trace
        time.sleep(0.02)
        before, state = sha256_of(large), large.stat()
        mapping[0] = ord("c")
        after = large.stat()
        same = ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")
        assert all(getattr(state, name) == getattr(after, name) for name in same)
        assert sha256_of(large) != before


@pytest.mark.parametrize("which", ["file", "folder", "folder above"])
@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_what_others_can_write_is_hashed_each_time(large: Path, which: str, bits: int) -> None:
    path = {"file": large, "folder": large.parent, "folder above": large.parents[1]}[which]
    mode = path.stat().st_mode & 0o777
    path.chmod(mode | bits)
    time.sleep(0.02)
    sha256_of(large)
    assert not (state_folder() / "verified").exists()
    path.chmod(mode)
    sha256_of(large)
    assert list((state_folder() / "verified").iterdir())


def test_files_of_another_user_are_hashed_each_time(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(large, 12345, -1)
    else:
        monkeypatch.setattr("lesff.disk.os.geteuid", lambda: os.getuid() + 1)
    sha256_of(large)
    assert not (state_folder() / "verified").exists()


# C6: nothing is written through links


@pytest.mark.parametrize("kind", ["symbolic", "hard", "others"])
def test_downloads_do_not_append_to_what_is_not_theirs(
    cache: Path, victim: Path, kind: str, tmp_path: Path
) -> None:
    text = victim / "thesis" / "text"
    with running_server() as server:
        server.files["x"] = b"years of work and malice"
        fetch = Download(server.url("x"), cache, what="x")
        cache.mkdir()
        state = {"url": fetch.url, "etag": None, "last_modified": "today", "size": 24}
        for path, content in ((fetch.path, b"years of work"), (fetch._state_path, None)):
            target = text if content else tmp_path / "state"
            if content is None:
                target.write_text(json.dumps(state))
            if kind == "symbolic":
                path.symlink_to(target)
            elif kind == "hard":
                os.link(target, path)
            else:
                path.write_bytes(target.read_bytes())
                path.chmod(0o666)
        assert fetch.run().read_bytes() == b"years of work and malice"
        assert "range" not in server.requests[0]
        assert not fetch.path.is_symlink()
    assert is_unharmed(victim)


@pytest.mark.parametrize("place", ["downloads", "models", f"models/{NAME}", "lock"])
def test_links_on_the_way_are_refused(site: Site, victim: Path, place: str) -> None:
    if place == "lock":
        lock = Download(
            site.server.url("small.model"), site.cache / "downloads", what="x"
        ).lock_path
        lock.parent.mkdir(parents=True)
        lock.symlink_to(victim / "thesis" / "text")
    else:
        link = site.cache / place
        link.parent.mkdir(parents=True)
        link.symlink_to(victim, target_is_directory=True)
    with pytest.raises(CacheError, match="must not be a symbolic link"):
        resolve(NAME)
    assert is_unharmed(victim)


def test_bundled_weights_do_not_heal_through_links(cache: Path, victim: Path) -> None:
    link = cache / "models" / "off-small"
    link.parent.mkdir(parents=True)
    link.symlink_to(victim, target_is_directory=True)
    (victim / "0.1.0").mkdir()
    assert resolve("off-small@0.1.0").origin == "bundled"
    assert list((victim / "0.1.0").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_pipes_do_not_block(cache: Path) -> None:
    planted = cache / "web" / "planted"
    planted.mkdir(parents=True)
    os.mkfifo(planted / "web.json")
    assert "must be a plain file" in run("cache", "verify").output
    (cache / "downloads").mkdir()
    lock = cache / "downloads" / "x.lock"
    os.mkfifo(lock)
    with pytest.raises(CacheError, match="must be a plain file"), locked(lock, "x"):
        pass


def test_a_part_that_was_exchanged_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(b"x")
    path.chmod(0o666)
    with pytest.raises(PermissionError, match="not a file of this user only"):
        digests.Digest.copied(path, tmp_path / "copy", own=True)


@pytest.mark.parametrize("which", ["record", "folder"])
def test_records_that_all_can_write_are_not_believed(hub: HostileHub, which: str) -> None:
    spec = f"hf:{REPO}@{COMMIT}"
    resolve(spec)
    record = state_folder() / "repositories" / REPO / f"{COMMIT}.json"
    path = record if which == "record" else state_folder()
    path.chmod(path.stat().st_mode | 0o002)
    with pytest.raises(OfflineError, match="not be writable by everybody"):
        resolve(spec, offline=True)


@pytest.mark.parametrize("place", ["repositories", "repositories/lesff-org", "downloads"])
def test_repositories_are_not_written_through_links(
    hub: HostileHub, cache: Path, victim: Path, place: str
) -> None:
    link = cache / place
    link.parent.mkdir(parents=True)
    link.symlink_to(victim, target_is_directory=True)
    with pytest.raises(CacheError, match="must not be a symbolic link"):
        resolve(f"hf:{REPO}")
    assert is_unharmed(victim)


@pytest.mark.parametrize("place", ["web", "downloads"])
def test_addresses_are_not_written_through_links(cache: Path, victim: Path, place: str) -> None:
    (cache / place).parent.mkdir(parents=True)
    (cache / place).symlink_to(victim, target_is_directory=True)
    digest = FileSet.of(SOURCE, MODEL_FILES).digest
    with running_server() as server:
        for name, data in GOOD.items():
            server.files[f"m/{name}"] = data
        with pytest.raises(CacheError, match="must not be a symbolic link"):
            resolve(f"{server.url('m/')}#sha256={digest}")
    assert is_unharmed(victim)


@pytest.mark.parametrize("n_letters", [40, 64])
def test_what_an_old_link_leads_to_is_not_deleted(
    hub: HostileHub, cache: Path, victim: Path, n_letters: int
) -> None:
    """The cache of huggingface_hub, in which a link to a file of 40 or 64 letters was believed."""
    secret = victim / ("a" * n_letters)
    secret.write_text("mine")
    old = cache / "hf" / f"models--{REPO.replace('/', '--')}"
    snapshot = old / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (old / "refs").mkdir()
    (old / "refs" / "main").write_text(COMMIT)
    for name in MODEL_FILES:
        (snapshot / name).symlink_to(secret)
    for offline in (True, False):
        try:
            resolve(f"hf:{REPO}", offline=offline)
        except OfflineError:
            assert offline
    assert secret.read_text() == "mine"


# every wait ends

SOON = 30.0
"""Seconds within which a wait of half a second ends on a machine that is busy."""


@pytest.mark.parametrize("behaviour", ["silent", "drip", "drip body"])
def test_a_hub_that_does_not_answer_is_given_up(
    hub: HostileHub, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.behaviour = behaviour
    monkeypatch.setenv("LESFF_TIMEOUT", "0.5")
    start = time.monotonic()
    host = hub.url.removeprefix("http://")
    with pytest.raises(OfflineError, match=rf"{host} was too slow.*LESFF_TIMEOUT is 0.5 s"):
        resolve(f"hf:{REPO}")
    assert time.monotonic() - start < SOON


def test_an_address_that_drips_is_given_up(
    hub: HostileHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.behaviour = "drip body"
    monkeypatch.setenv("LESFF_TIMEOUT", "0.5")
    start = time.monotonic()
    with pytest.raises(OfflineError, match="was too slow or silent"):
        resolve(f"{hub.url}/m/")
    assert time.monotonic() - start < SOON


def test_a_download_that_goes_on_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes at five quarters of the slowest rate, for longer than the limit."""
    clock = 100.0
    monkeypatch.setattr(time_limit, "time", SimpleNamespace(monotonic=lambda: clock))
    monkeypatch.setenv("LESFF_TIMEOUT", "0.2")
    limit = TimeLimit()
    with limit.waiting():
        for _ in range(6):
            clock += 0.08
            limit.received(round(0.1 * SLOWEST))
            assert limit.left > 0
        assert limit.waited > limit.seconds
        limit.received(10**9)
        assert limit.left <= limit.seconds  # speed before is no credit for silence after
        clock += 0.25
        assert limit.left <= 0


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_a_limit_must_be_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LESFF_TIMEOUT", value)
    with pytest.raises(lesff.errors.ConfigError, match="`LESFF_TIMEOUT` must be a positive number"):
        resolve("hf:a/b")


HOLD = """
import fcntl, os, sys, time
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="holds the lock with flock")
@pytest.mark.parametrize("limit", [0.4, 1.4])
def test_a_lock_that_another_process_holds(
    cache: Path, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    monkeypatch.setenv("LESFF_TIMEOUT", str(limit))
    lock = cache / "x.lock"
    cache.mkdir()
    command = [sys.executable, "-c", HOLD, str(lock)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ours
    try:
        assert holder.stdout.readline() == "held\n"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            message = f"x is being fetched by .*{holder.pid}|another process.* LESFF_TIMEOUT is"
            with pytest.raises(CacheError, match=message), locked(lock, "x"):
                pass
        assert [("waiting for" in str(w.message)) for w in caught] == ([True] if limit > 1 else [])
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with locked(lock, "x"):
        pass


# what is verified is what is converted


def test_a_file_that_changes_after_its_check(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, verify = tmp_path / "given.model", foreign._verify
    given.write_bytes(DATA)

    def verify_and_exchange(*arguments: object) -> None:
        verify(*arguments)
        given.write_bytes(checkpoint("agnostic_l2"))

    monkeypatch.setattr(foreign, "_verify", verify_and_exchange)
    result = run("pull", NAME, "--from", given)
    assert result.exit_code == 0, result.output
    assert DIGEST.sha256 in (site.cached / "README.md").read_text()  # of what was converted


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a" * 10)
    with path.open("rb") as stream:
        with path.open("ab") as more:
            more.write(b"b")
        assert digests.Digest._of_stream(stream, None).size == 11
    assert digests.Digest.copied(path, tmp_path / "copy") == digests.Digest.of(path)
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


# licences that are not understood are not free


@pytest.mark.parametrize(
    "expression",
    [
        "MIT WITH Commons-Clause", "proprietary or MIT", "MIT OR proprietary", "MIT OR", "MIT MIT",
        "MIT WITH LicenseRef-scancode-commons-clause", "MIT, CC0-1.0", "MIT/CC-BY-NC-4.0", "other",
        "LicenseRef-MIT-TC", "MIT AND LicenseRef-x", "GPL-3.0-only WITH MIT", "", " ", "OR MIT",
        "(MIT", "MIT)", "MIT AND (CC-BY-NC-4.0 OR GPL-3.0-only)", "NOT MIT",
    ],
)  # fmt: skip
def test_expressions_fail_closed(expression: str) -> None:
    assert not is_permissive_license(expression)
    assert not is_permissive_license(expression, ignore_case=True)


@pytest.mark.parametrize(
    "expression",
    ["MIT", "MIT OR GPL-3.0-only", "(MIT AND Apache-2.0) OR CC-BY-NC-4.0", "(MIT)",
     "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only"],
)  # fmt: skip
def test_free_expressions(expression: str) -> None:
    assert is_permissive_license(expression)
    assert not is_permissive_license(expression.lower())
    assert is_permissive_license(expression.lower(), ignore_case=True)


@pytest.mark.parametrize(
    "top",
    [
        "license: MIT\nlicense: cc-by-nc-4.0", "license: cc-by-nc-4.0\nlicense: MIT",
        "license: MIT\nLicense: cc-by-nc-4.0", "license: MIT\n\"license\": x",
        "license: MIT\n license: x", "license: MIT\nlicence: x", "license: MIT WITH Commons-Clause",
        "license: proprietary or MIT", "license:\n- mit\n- cc-by-nc-4.0", "license: mit or",
    ],
)  # fmt: skip
def test_cards_that_contradict_themselves_state_nothing(
    cache: Path, tmp_path: Path, top: str
) -> None:
    folder = shutil.copytree(SOURCE, tmp_path / "mine")
    for text, is_refused in ((top, True), ("license: mit\nlicense_name: x", False)):
        (folder / "README.md").write_text(f"---\n{text}\n---\n\n# A card\n")
        if is_refused:
            with pytest.raises(LicenseError, match="card of mine .* allows 'permissive' licences"):
                resolve(folder, licenses="permissive")
        else:
            assert resolve(folder, licenses="permissive").folder == folder
