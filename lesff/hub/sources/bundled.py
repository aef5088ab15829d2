"""Weights that come with the package: where they are, their check, copies that heal the cache."""

from __future__ import annotations

import shutil
from pathlib import Path

from lesff.disk import first_link, replaced_folder
from lesff.environment import cache_folder
from lesff.errors import IntegrityError
from lesff.hub.cache import find_damage
from lesff.hub.manifest.entries import ModelEntry, VersionEntry
from lesff.hub.manifest.names import package_folder


def bundled_folder() -> Path:
    """Folder of the weights that come with the package."""
    return package_folder() / "weights"


def bundled_version(entry: ModelEntry, version: VersionEntry) -> Path:
    """Where the package has a version of a model, if it has it."""
    return bundled_folder() / entry.name / version.version


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
