"""JSON schema of ``config.json`` of a model folder, from the dataclasses that read it.

    python tools/config_schema.py

Writes ``docs/config.schema.json``. lesff itself reads with the dataclasses, which also know the
rules that a schema cannot say: which parts exclude each other, and what fits the elements.
"""

import json
from pathlib import Path
from typing import Any

from manifest_schema import table

from lesff.architectures import ARCHITECTURES
from lesff.model_folder.folder import MAX_MEMBERS, MEMBERS
from lesff.potential.config import FORMAT_VERSION, ModelConfig

TARGET = Path(__file__).parents[1] / "docs" / "config.schema.json"
OURS = ("aimnet2", "mace", "nequip")


def architecture(name: str) -> dict[str, Any]:
    """Hyper-parameters of one of our architectures, and its name."""
    found = table(ARCHITECTURES[name][0])
    found["properties"] = {"type": {"const": name}, **found["properties"]}
    found["required"] = ["type", *found["required"]]
    return {"title": name, **found}


def model() -> dict[str, Any]:
    """One model."""
    found = table(ModelConfig)
    described = found["properties"]["architecture"]["description"]
    other = {
        "title": "architecture of another package",
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"type": "string", "not": {"enum": list(OURS)}}},
    }
    found["properties"]["architecture"] = {
        "description": described,
        "oneOf": [*map(architecture, OURS), other],
    }
    found["properties"]["format_version"] |= {"const": FORMAT_VERSION}
    return found


def schema() -> dict[str, Any]:
    """The whole schema: a model, or an ensemble of several."""
    members = {"type": "array", "items": {"$ref": "#/$defs/model"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "config.json of a lesff model folder",
        "description": "Everything that defines a model apart from its weights",
        "anyOf": [
            {"$ref": "#/$defs/model"},
            {
                "title": "ensemble",
                "type": "object",
                "additionalProperties": False,
                "required": [MEMBERS],
                "properties": {MEMBERS: {**members, "minItems": 2, "maxItems": MAX_MEMBERS}},
            },
        ],
        "$defs": {"model": model()},
    }


if __name__ == "__main__":
    TARGET.write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
