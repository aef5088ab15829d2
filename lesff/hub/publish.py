"""Publishing: checks of a model folder, its manifest entry, and the upload to a hub."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lesff.environment import hub_endpoint, is_offline
from lesff.errors import ConfigError, OfflineError, PublishError
from lesff.files import GIT_ID, FileEntry, FileSet
from lesff.hub.manifest.entries import (
    PERMISSIVE_LICENSES,
    HubSource,
    ModelEntry,
    Sources,
    VersionEntry,
)
from lesff.hub.signatures import read_signature
from lesff.hub.spec import VERSION, is_safe_url
from lesff.model_folder.card import front_matter, read_card
from lesff.model_folder.folder import load_model
from lesff.model_folder.layout import (
    LICENSE_FILE,
    MODEL_FILES,
    OPTIONAL_FILES,
    SIGNATURE_FILE,
    model_files,
)
from lesff.model_folder.verify import verify_parity
from lesff.potential.config import ModelConfig

_CODE = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".model", ".py", ".so"}
"""Endings of files that can hold code."""
_MIN_LICENSE = 40
_MIN_CARD = 200
"""Fewer characters say nothing."""
_REQUIRED = ("license", "description", "citation")


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A model folder that may be published.

    Attributes:
        folder: The folder.
        files: Size and sha256 of every file.
        config: Its configuration.
        facts: What the top of the card says.
        license: SPDX expression.
    """

    folder: Path
    files: tuple[FileEntry, ...]
    config: ModelConfig
    facts: dict[str, str]
    license: str

    def entry(self, name: str, version: str, repo: str, commit: str) -> ModelEntry:
        """Manifest entry.

        Raises:
            ManifestError: for a name or version that a manifest cannot hold.
        """
        return ModelEntry(
            name=name,
            description=self.facts["description"],
            license=self.license,
            elements=tuple(sorted(self.config.elements)),
            citation=self.facts["citation"],
            license_url=self.facts.get("license_url", ""),
            license_terms=self.facts.get("license_terms", ""),
            versions=(
                VersionEntry(
                    version=version,
                    date=datetime.date.today().isoformat(),
                    files=self.files,
                    sources=Sources(hub=HubSource(repo=repo, commit=commit)),
                    min_lesff=_release(importlib.metadata.version("lesff")),
                    level_of_theory=self.config.level_of_theory,
                    total_charge=self.config.total_charge,
                    spin_multiplicity=self.config.spin_multiplicity,
                ),
            ),
        )


def check_publication(folder: Path) -> Publication:
    """Make sure that a model folder may be published.

    It must have card, licence, configuration, weights and golden values, and nothing else; the card
    must state ``license``, ``description`` and ``citation`` at its top; the golden values must be
    reproduced here.

    Raises:
        PublishError: naming what is missing or wrong.
        IntegrityError: if a file is damaged.
        ConfigError: for a bad ``config.json``.
    """
    _check_names(folder)
    names = [n for n in (*model_files(folder), SIGNATURE_FILE) if (folder / n).is_file()]
    # before the checks: what is uploaded must be what these see
    files = FileSet.of(folder, names)
    text = (folder / LICENSE_FILE).read_text(encoding="utf-8", errors="replace")
    if len(text.split()) < _MIN_LICENSE // 5:
        raise PublishError(f"{folder / LICENSE_FILE} must be the full text of the licence")
    card = read_card(folder)
    facts = front_matter(card)
    absent = [name for name in _REQUIRED if not facts.get(name)]
    if absent:
        raise PublishError(
            f"the card of {folder} must state {', '.join(absent)} between the --- lines at its top"
        )
    if len(card) < _MIN_CARD:
        raise PublishError(
            f"the card of {folder} must say what the model is for and how accurate it is, in at "
            f"least {_MIN_CARD} characters"
        )
    config = load_model(folder).config
    report = verify_parity(folder)
    if not report.ok:
        raise PublishError(
            f"{folder} must reproduce its golden values, got errors of {report.energy_error:.1e} "
            f"eV/atom and {report.force_error:.1e} eV/A; save the model again"
        )
    return Publication(
        folder=folder,
        files=files.entries,
        config=config,
        facts=facts,
        license=_spdx(facts["license"]),
    )


def publish_folder(
    folder: Path,
    repo: str,
    *,
    version: str,
    private: bool = False,
    token: str | None = None,
) -> ModelEntry:
    """Check a model folder and upload it to a hub as one commit with a tag.

    The token goes to the endpoint of the hub (``LESFF_HUB``, ``HF_ENDPOINT`` or the public hub) and
    nowhere else, and never over plain http to another machine.

    Args:
        folder: The model folder.
        repo: ``"organisation/name"``; made if need be.
        version: ``"major.minor.patch"``; a version that the repository has is never replaced.
        private: Make a new repository private.
        token: Access token; the one of ``hf auth login`` or ``HF_TOKEN`` if None.

    Returns:
        Entry for a manifest, pinned to the commit.

    Raises:
        PublishError: if the folder may not be published, the version exists or the hub refuses.
        ConfigError: for a malformed version or an endpoint that a token must not be sent to.
        OfflineError: if the session is offline.
    """
    if is_offline():
        raise OfflineError("publishing needs the network, but LESFF_OFFLINE or HF_HUB_OFFLINE is 1")
    if not VERSION.fullmatch(version):
        raise ConfigError(f"`version` must be 'major.minor.patch', got {version!r}")
    endpoint = hub_endpoint()
    if endpoint is not None and not is_safe_url(endpoint):
        raise ConfigError(
            f"a token must not be sent to {endpoint}: it must start with https:// (http:// for "
            "this machine only) and have no credentials"
        )
    publication = check_publication(folder)
    _check_signature(publication, version)
    name = publication.facts.get("name") or repo.split("/")[-1].lower()
    publication.entry(name, version, repo, "0" * 40)  # refuses bad names before the upload
    with tempfile.TemporaryDirectory() as work:  # readable by this user only
        copy = _checked_copy(publication, Path(work))
        commit = _upload(copy, repo, version, endpoint=endpoint, token=token, private=private)
    return publication.entry(name, version, repo, commit)


def _checked_copy(publication: Publication, folder: Path) -> Publication:
    """The same with copies of the files, which must be those that were checked.

    Raises:
        PublishError: if a file has changed since.
    """
    for file in publication.files:
        shutil.copyfile(publication.folder / file.path, folder / file.path)
    damage = FileSet(publication.files).damage(folder)
    if damage is not None:
        raise PublishError(
            f"a file of {publication.folder} has changed while it was checked ({damage}): nothing "
            "was uploaded; publish it again"
        )
    return replace(publication, folder=folder)


def _check_signature(publication: Publication, version: str) -> None:
    """A signature that binds another version would travel under a wrong one."""
    path = publication.folder / SIGNATURE_FILE
    if not path.is_file():
        return
    bound = read_signature(path).version
    if bound not in (None, version):
        raise PublishError(
            f"{path} binds the version {bound}, not {version}; sign the folder for this version"
        )


def _upload(
    publication: Publication,
    repo: str,
    version: str,
    *,
    endpoint: str | None,
    token: str | None,
    private: bool,
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi  # start-up: 0.3 s of CPU

    api = HfApi(endpoint=endpoint, token=token)

    def run() -> str:
        operations = [_operation(CommitOperationAdd, publication, f) for f in publication.files]
        api.create_repo(repo, private=private, exist_ok=True)
        if version in {tag.name for tag in api.list_repo_refs(repo).tags}:
            raise PublishError(
                f"{repo} has version {version}, whose bytes never change; publish a new version"
            )
        info = api.create_commit(repo, operations, commit_message=f"Version {version}")
        if not isinstance(info.oid, str) or not GIT_ID.fullmatch(info.oid):
            raise PublishError(
                f"the hub must answer with a commit of 40 hexadecimal digits, got {info.oid!r:.80}"
            )
        api.create_tag(repo, tag=version, revision=info.oid)
        return info.oid

    with _token_for(api.endpoint):
        return _explained(run, repo)


def _operation(kind: Any, publication: Publication, file: FileEntry) -> Any:
    """The upload of a file, whose bytes must be those that were checked."""
    operation = kind(path_in_repo=file.path, path_or_fileobj=publication.folder / file.path)
    if operation.upload_info.sha256.hex() != file.sha256:
        raise PublishError(f"{file.path} has changed after it was checked: nothing was uploaded")
    return operation


@contextlib.contextmanager
def _token_for(endpoint: str) -> Iterator[None]:
    """Inside the block, huggingface_hub sends the token to the host of the hub only.

    Hubs name other places, for large files and their verification; huggingface_hub would send the
    token along to the latter.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http  # the factory that is in use has no public name

    before, own = _http._GLOBAL_CLIENT_FACTORY, _origin(endpoint)

    def strip(request: Any) -> None:
        if _origin(str(request.url)) != own:
            request.headers.pop("authorization", None)
            request.headers.pop("cookie", None)

    def guarded() -> Any:
        client = before()
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "request": [*hooks.get("request", []), strip]}
        return client

    set_client_factory(guarded)
    try:
        yield
    finally:
        set_client_factory(before)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default


def _explained(action: Callable[[], str], repo: str) -> str:
    try:
        return action()
    except PublishError:
        raise
    except Exception as error:  # noqa: BLE001 - what a hub answers can break its client anywhere
        lines = str(error).strip().splitlines()
        first = lines[0] if lines else "no reason given"
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        raise PublishError(
            f"the hub did not take {repo}: {kind}{first}; check its name, your token (`hf auth "
            "login`) and its rights"
        ) from error


def _check_names(folder: Path) -> None:
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    missing = [name for name in MODEL_FILES if name not in found]
    if missing:
        raise PublishError(f"{folder} must have {', '.join(missing)} to be published")
    own = {*MODEL_FILES, *OPTIONAL_FILES, SIGNATURE_FILE}
    foreign = [name for name in found if name not in own]
    if foreign:
        code = [name for name in foreign if Path(name).suffix in _CODE]
        why = f"; {code[0]} can hold code, which a model never does" if code else ""
        raise PublishError(f"{folder} must hold nothing but a model, got {foreign[0]}{why}")
    for name in found:
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise PublishError(f"{folder / name} must be a plain file to be published")


def _spdx(text: str) -> str:
    """Licence id with the capital letters of SPDX; hubs write them small."""
    known = {name.lower(): name for name in PERMISSIVE_LICENSES}
    return known.get(text.lower(), text)


def _release(version: str) -> str:
    """First three numbers of a version."""
    match = VERSION.match(version)
    return match[0] if match else "0.1.0"
