"""BibTeX of what to cite, from ``citations.bib`` of the manifest."""

from __future__ import annotations

import re

from lesff.errors import ManifestError
from lesff.hub.manifest.entries import ModelEntry
from lesff.hub.manifest.names import manifest_folder

CITATIONS_FILE = "citations.bib"
"""Beside the manifest files; every record begins and ends at the beginning of a line."""

_RECORD = re.compile(r"^@\w+\{([^,\s]+),\n.*?^\}$", re.MULTILINE | re.DOTALL)


def read_citations() -> dict[str, str]:
    """BibTeX records of the manifest by key.

    Raises:
        ManifestError: if the file is missing or two records share a key.
    """
    path = manifest_folder() / CITATIONS_FILE
    if not path.is_file():
        raise ManifestError(f"{path} does not exist; install lesff again")
    found = [(match[1], match[0]) for match in _RECORD.finditer(path.read_text(encoding="utf-8"))]
    records = dict(found)
    if len(records) != len(found):
        raise ManifestError(f"{path} must have each key once")
    return records


def bibtex(entry: ModelEntry) -> str:
    """BibTeX records of the works to cite for a model.

    Raises:
        ManifestError: if the manifest names none or one that it does not have.
    """
    if not entry.bibtex:
        raise ManifestError(f"the manifest has no BibTeX for {entry.name}: cite {entry.citation}")
    records = read_citations()
    absent = [key for key in entry.bibtex if key not in records]
    if absent:
        raise ManifestError(f"{CITATIONS_FILE} must have {', '.join(absent)} for {entry.name}")
    return "\n\n".join(records[key] for key in entry.bibtex)
