"""The folder of finished chunks beside an output: what makes a run resume by content.

A part is named by the digest of what its chunk holds and how it is computed. A changed input, model
or option has another name, so that nothing that is stale is ever found.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lesff.bulk.compute import ChunkResult, Settings
from lesff.bulk.formats import Format
from lesff.bulk.models import ModelReference
from lesff.disk import UNFINISHED, write_atomically, written_atomically
from lesff.errors import ConfigError
from lesff.files import FileEntry, sha256_of

PARTS = ".parts"
"""Ending of the folder of parts, behind the name of the output."""
RECORD = ".run.json"
"""Ending of the record of a finished run, behind the name of the output."""
_MAX_RECORD = 2**30


@dataclass(frozen=True, kw_only=True)
class Part:
    """A finished chunk.

    Attributes:
        n_rows: Structures with results.
        skipped: Source, index, key and reason of those without.
        dropped: Names of labels that were not written.
        file: The data; None if there are no rows.
    """

    n_rows: int
    skipped: tuple[tuple[str, int, str, str], ...]
    dropped: tuple[str, ...]
    file: FileEntry | None


class Parts:
    """The folder of parts of an output.

    Args:
        output: The file that they become.
        described: What changes results, see :func:`described`.
    """

    def __init__(self, output: Path, described: Mapping[str, Any]) -> None:
        self.output = output
        self.folder = output.with_name(output.name + PARTS)
        self.described = dict(described)
        text = json.dumps(self.described, sort_keys=True)
        self.settings = hashlib.sha256(text.encode()).hexdigest()

    def open(self) -> list[str]:
        """Make the folder; returns what has changed since it was made, one line each."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(f".*{UNFINISHED}"):
            left.unlink(missing_ok=True)
        path = self.folder / "run.json"
        before = _read(path)
        if before != self.described:
            write_atomically(path, json.dumps(self.described, indent=1) + "\n")
        if before is None:
            return []
        keys = sorted({*before, *self.described})
        return [
            f"{key}: {before.get(key)} -> {self.described.get(key)}"
            for key in keys
            if before.get(key) != self.described.get(key)
        ]

    def find(self, key: str) -> Part | None:
        """A finished chunk; None if it is not there or damaged."""
        data = _read(self._marker(key))
        if data is None:
            return None
        try:
            file = data["file"]
            part = Part(
                n_rows=int(data["n_rows"]),
                skipped=tuple((str(s), int(i), str(k), str(r)) for s, i, k, r in data["skipped"]),
                dropped=tuple(map(str, data["dropped"])),
                file=None if file is None else FileEntry(**file),
            )
        except (KeyError, TypeError, ValueError):
            return None
        if part.file is not None and part.file.damage(self.path(key)) is not None:
            return None
        return part

    def write(self, key: str, result: ChunkResult, writer: Format) -> Part:
        """Write a chunk; it counts once its marker is there, which is written last."""
        path = self.path(key)
        writer.dropped = set()
        if result.rows:
            with written_atomically(path) as new:
                writer.write(result.rows, new)
        part = Part(
            n_rows=len(result.rows),
            skipped=tuple(
                (row.item.source, row.item.index, row.item.key, row.reason)
                for row in result.skipped
            ),
            dropped=tuple(sorted(writer.dropped)),
            file=FileEntry.of(path, path.name) if result.rows else None,
        )
        write_atomically(self._marker(key), json.dumps(asdict(part)))
        return part

    def path(self, key: str) -> Path:
        """Where the data of a chunk are."""
        return self.folder / f"{key}{self.output.suffix}"

    def join(self, keys: Sequence[str], writer: Format) -> None:
        """Write the output from all chunks, in their order."""
        paths = [self.path(key) for key in keys if self.path(key).exists()]
        with written_atomically(self.output) as new:
            writer.join(paths, new)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Remove the folder if no chunk is finished."""
        if self.folder.is_dir() and not any(
            path.suffix == ".json" and path.name != "run.json" for path in self.folder.iterdir()
        ):
            self.remove()

    def _marker(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    # --- the record of a finished run -----------------------------------------------------------

    @property
    def record(self) -> Path:
        """Where the record of a finished run is."""
        return self.output.with_name(self.output.name + RECORD)

    def is_finished(self, keys: Sequence[str]) -> bool:
        """Whether the output is there, as a run over the same chunks left it."""
        data = _read(self.record)
        if data is None or not self.output.is_file():
            return False
        is_same = data.get("settings") == self.described and data.get("chunks") == list(keys)
        return is_same and data.get("sha256") == sha256_of(self.output)

    def write_record(self, keys: Sequence[str], n_rows: int, n_skipped: int) -> None:
        """Say what the output is."""
        data = {
            "settings": self.described,
            "n_structures": n_rows,
            "n_skipped": n_skipped,
            "sha256": sha256_of(self.output),
            "chunks": list(keys),
        }
        write_atomically(self.record, json.dumps(data, indent=1) + "\n")


def described(
    settings: Settings, model: ModelReference, versions: Mapping[str, str], suffix: str
) -> dict[str, Any]:
    """All that changes results or their form, as plain data."""
    plain = asdict(settings) | {"properties": list(settings.properties)}
    plain["external_field"] = settings.external_field and list(settings.external_field)
    return {
        **plain,
        "model": model.name,
        "model_digest": model.digest,
        "dtype": model.dtype,
        "device": model.device,
        "format": suffix,
        **versions,
    }


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is none or it is damaged."""
    try:
        if path.stat().st_size > _MAX_RECORD:
            raise ConfigError(f"{path} is too large to be a record of lesff")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
