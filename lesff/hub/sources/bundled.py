"""Weights that come with a package: where they are, their check, copies in the cache.

lesff has them, or, of versions that would make it too large, a package that holds nothing else. Of
versions that differ in other files only, the newest has the weights; others are put together
from it in the cache when they are asked for.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from lesff.disk import first_link, replaced_folder
from lesff.environment import cache_folder
from lesff.errors import CacheError, IntegrityError, ModelNotFoundError
from lesff.hub.cache import check_no_links, find_damage
from lesff.hub.manifest.entries import ModelEntry, VersionEntry
from lesff.hub.manifest.names import package_folder


def bundled_folder() -> Path:
    """Folder of the weights that come with the package."""
    return package_folder() / "weights"


def bundled_version(entry: ModelEntry, version: VersionEntry) -> Path:
    """Where a package has a version of a model, if it has it."""
    package = version.sources.package
    folder = bundled_folder() if package is None else _package_folder(package)
    return (folder or bundled_folder()) / entry.name / version.version


def _package_folder(package: str) -> Path | None:
    """Folder of a package of weights; None if it is not installed."""
    found = importlib.util.find_spec(package.replace("-", "_"))
    return None if found is None or found.origin is None else Path(found.origin).parent


def _check_installed(entry: ModelEntry, version: VersionEntry) -> None:
    package = version.sources.package
    if package is not None and _package_folder(package) is None:
        other = "" if version.successor is None else f", or load {version.successor}"
        raise ModelNotFoundError(
            f"the weights of {entry.name}@{version.version} come with the package {package}, which "
            f"is not installed: `pip install ./older_weights` in a copy of the repository{other}"
        )


def ready_bundled(
    entry: ModelEntry, version: VersionEntry, cached: Path, *, is_damaged: bool
) -> Path:
    """Checked folder of a version that comes with the package: there, or its copy in the cache.

    Args:
        entry: The model.
        version: The version.
        cached: Where the cache has it, if it has it.
        is_damaged: Whether there is a damaged copy in the cache, to be healed where that works.

    Raises:
        CacheError: if the version has to be put together in a cache that cannot be written.
        IntegrityError: if the package's files are not those of the manifest.
        ModelNotFoundError: if they are in a package that is not installed.
    """
    _check_installed(entry, version)
    bundled = bundled_version(entry, version)
    if bundled.is_dir() and not is_whole(bundled, version):
        assemble(entry, version, cached)
        return cached
    check_bundled(bundled, version)
    return cached if is_damaged and heal_from(bundled, cached, version) else bundled


def is_whole(bundled: Path, version: VersionEntry) -> bool:
    """Whether the package has all files of a version in one folder."""
    return all((bundled / file.path).exists() for file in version.files)


def assemble(entry: ModelEntry, version: VersionEntry, cached: Path) -> None:
    """Copy the files of a version to the cache, those it shares from the versions that have them.

    Raises:
        CacheError: if the cache cannot be written, or leads elsewhere.
        IntegrityError: if the package lacks a file or has another one.
    """
    places: dict[str, Path] = {}
    for file in version.files:
        owners = [version, *(v for v in entry.versions if file in v.files)]
        paths = [bundled_version(entry, owner) / file.path for owner in owners]
        found = next((path for path in paths if path.exists()), None)
        if found is None:
            raise IntegrityError(
                f"bundled weights are damaged: no version of {entry.name} has {file.path} of "
                f"{version.version}; install lesff again"
            )
        places[file.path] = found
    check_no_links(cached)
    try:
        with replaced_folder(cached, is_intact=lambda: find_damage(cached, version) is None) as new:
            for name, path in places.items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, new / name)
            damage = find_damage(new, version)
            if damage is not None:
                raise IntegrityError(f"bundled weights are damaged: {damage}; install lesff again")
    except OSError as error:
        raise CacheError(
            f"{entry.name}@{version.version} shares its weights with a newer version and is put "
            f"together in the cache, which cannot be written: {error}; name another place with "
            "LESFF_CACHE, or load the newer version"
        ) from error


def check_bundled(bundled: Path, version: VersionEntry) -> None:
    """Make sure that bundled files are those of the manifest.

    Raises:
        IntegrityError: naming the first that is not.
    """
    damage = find_damage(bundled, version)
    if damage is not None:
        raise IntegrityError(f"bundled weights are damaged: {damage}; install lesff again")


def heal_from(bundled: Path, cached: Path, version: VersionEntry) -> bool:
    """Replace a damaged cache entry by a copy of the bundled files; False if that is not possible.

    It is not in a read-only cache, and where a link of the cache leads elsewhere.
    """
    if first_link(cache_folder(), cached) is not None:
        return False
    try:
        with replaced_folder(cached, is_intact=lambda: find_damage(cached, version) is None) as new:
            for file in version.files:
                target = new / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundled / file.path, target)
    except OSError:
        return False
    return True
