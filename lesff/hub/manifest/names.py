"""Names: which model and version a name of the manifest stands for."""

from __future__ import annotations

import difflib
import html
from collections.abc import Sequence
from pathlib import Path

from lesff.errors import ConfigError, ManifestError, ModelNotFoundError
from lesff.hub.manifest.entries import ModelEntry, VersionEntry
from lesff.hub.manifest.memory import with_remembered_caveats
from lesff.hub.manifest.updates import installed_update, merge
from lesff.hub.spec import VERSION_PREFIX, RegistrySpec
from lesff.plain_data import from_dict, read_json

_KNOWN_NAMES_SHOWN = 12


def package_folder() -> Path:
    """Folder of the imported package."""
    return Path(__file__).parents[2]


def manifest_folder() -> Path:
    """Folder of the manifest files: in the installed package, else in the source tree."""
    package = package_folder()
    installed = package / "checkpoints_manifest"
    return installed if installed.is_dir() else package.parent / "checkpoints_manifest"


class ModelList(tuple[ModelEntry, ...]):
    """Models by name, shown as a table in notebooks."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
            for cells in ((m.name, m.description, m.license) for m in self)
        )
        return f"<table><tr><th>name</th><th>for</th><th>licence</th></tr>{rows}</table>"


def list_models() -> ModelList:
    """All models of the manifest and of the update that this user has pulled, by name.

    Caveats of earlier updates count, also where this one leaves them out.

    Raises:
        ManifestError: if a file is malformed, or two models share a name or alias.
    """
    update = installed_update()
    models = merge(installed_models(), update)
    return ModelList(models if update is None else with_remembered_caveats(models))


def installed_models() -> tuple[ModelEntry, ...]:
    """All models of the manifest that came with lesff, by name.

    Raises:
        ManifestError: if a file is malformed.
    """
    folder = manifest_folder()
    if not folder.is_dir():
        raise ManifestError(f"manifest folder {folder} does not exist; install lesff again")
    return tuple(read_entry(path) for path in sorted(folder.glob("*.json")))


def find_model(spec: RegistrySpec | str) -> tuple[ModelEntry, VersionEntry]:
    """Model and version that a name stands for.

    Args:
        spec: ``"off-small"`` (newest active version), ``"off-small@0.1"`` (newest 0.1.x) or
            ``"off-small@0.1.0"``, or these parsed; an alias may stand for the name.

    Raises:
        ModelNotFoundError: for a name or version that the manifest does not have.
        ManifestError: if the manifest is malformed.
    """
    if isinstance(spec, str):
        spec = RegistrySpec.parse(spec)
    entries = list_models()
    entry = next((e for e in entries if spec.name in (e.name, *e.aliases)), None)
    if entry is None:
        raise ModelNotFoundError(_unknown_name(spec.name, entries))
    wanted = spec.version
    is_number = wanted is None or VERSION_PREFIX.fullmatch(wanted)
    version = entry.newest(wanted) if is_number else None
    if version is None:
        known = ", ".join(e.version for e in sorted(entry.versions, key=lambda e: e.order))
        raise ModelNotFoundError(f"{entry.name} has no version {wanted!r}; its versions: {known}")
    return entry, version


def read_entry(path: Path) -> ModelEntry:
    """Read a manifest file.

    Raises:
        ManifestError: if it is malformed.
    """
    try:
        entry = from_dict(ModelEntry, read_json(path), path.name)
    except (ConfigError, ManifestError, TypeError) as error:
        raise ManifestError(f"manifest file {path} is malformed: {error}") from error
    if entry.name != path.stem:
        raise ManifestError(f"manifest file {path} must describe {path.stem}, got {entry.name!r}")
    return entry


def _unknown_name(name: str, entries: Sequence[ModelEntry]) -> str:
    names = [known for entry in entries for known in (entry.name, *entry.aliases)]
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    first = sorted(entries, key=lambda entry: (entry.is_published, entry.name))
    known = ", ".join(entry.name for entry in first[:_KNOWN_NAMES_SHOWN]) or "none"
    if len(entries) > _KNOWN_NAMES_SHOWN:
        known += f" and {len(entries) - _KNOWN_NAMES_SHOWN} more (see `lesff list`)"
    return (
        f"no model is called {name!r}{hint} Known models: {known}. "
        f"A folder is given as a path with a separator, such as ./{name}"
    )
