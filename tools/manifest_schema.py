"""JSON schema of the manifest files, from the dataclasses that read them.

    python tools/manifest_schema.py

Writes ``docs/manifest.schema.json``. Other tools check manifest files with it; lesff itself checks
them with the dataclasses, which also know the rules that a schema cannot say.
"""

import json
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lesff import files
from lesff.hub import spec
from lesff.hub.manifest import entries as manifest
from lesff.hub.manifest.entries import ModelEntry

TARGET = Path(__file__).parents[1] / "docs" / "manifest.schema.json"

PATTERNS = {
    "name": spec.NAME,
    "aliases": spec.NAME,
    "version": spec.VERSION,
    "min_lesff": spec.VERSION,
    "date": manifest.DATE,
    "license": manifest._SPDX,
    "successor": manifest._SUCCESSOR,
    "bibtex": manifest._CITATION_KEY,
    "path": files.PATH,
    "member": files.PATH,
    "sha256": files.SHA256,
    "git_blob": files.GIT_ID,
    "commit": files.GIT_ID,
    "repo": spec.REPOSITORY,
    "filename": manifest._FILENAME,
    "package": manifest._PACKAGE,
}
"""Regular expressions by the name of the field."""

SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def docs(cls: type) -> dict[str, str]:
    """Meaning of every field, from the ``Attributes:`` of the docstring."""
    block = (cls.__doc__ or "").split("Attributes:\n")[-1]
    meanings: dict[str, str] = {}
    for line in block.splitlines():
        if line.startswith("        ") and not line.startswith("         ") and ": " in line:
            name, text = line.strip().split(": ", 1)
            meanings[name] = text
        elif line.strip() and meanings:
            meanings[list(meanings)[-1]] += " " + line.strip()
    return meanings


BOUNDS = {"size": {"minimum": 1}, "elements": {"minimum": 1, "maximum": 118}}
"""Ranges of numbers, by the name of the field."""


def table(cls: type) -> dict[str, Any]:
    """Schema of a dataclass: its fields and no other."""
    hints, meanings = get_type_hints(cls), docs(cls)
    rows = fields(cls)
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [f.name for f in rows if f.default is MISSING and f.default_factory is MISSING],
        "properties": {
            f.name: described(meanings.get(f.name), value(hints[f.name], f.name)) for f in rows
        },
    }


def described(meaning: str | None, schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with what it means, if its dataclass says so."""
    return schema if meaning is None else {"description": meaning, **schema}


def value(hint: Any, name: str) -> dict[str, Any]:
    """Schema of a value of a type."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if is_dataclass(hint):
        return table(hint)
    if origin in (Union, types.UnionType):
        inner = [value(arg, name) for arg in args if arg is not type(None)]
        return {"anyOf": [*inner, *([{"type": "null"}] if type(None) in args else [])]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is tuple:
        if args[-1] is Ellipsis:
            least = {"minItems": 1} if name in ("elements", "versions") else {}
            return {"type": "array", "items": value(args[0], name), **least}
        return {
            "type": "array",
            "items": value(args[0], name),
            "minItems": len(args),
            "maxItems": len(args),
        }
    if origin is dict:
        return {"type": "object", "additionalProperties": value(args[1], name)}
    schema: dict[str, Any] = {"type": SCALARS[hint]}
    if name in PATTERNS and hint is str:
        schema["pattern"] = f"^(?:{PATTERNS[name].pattern})$"
    schema |= BOUNDS.get(name, {})
    if name == "schema":
        schema = {"const": manifest.SCHEMA}
    return schema


def schema() -> dict[str, Any]:
    """The whole schema."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lesff manifest file",
        "description": "One named model, checkpoints_manifest/<name>.json",
        **table(ModelEntry),
    }


if __name__ == "__main__":
    TARGET.write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
