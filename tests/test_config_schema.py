"""``docs/config.schema.json``: made from the dataclasses, true of every model folder here."""

import copy
import json
import runpy
from pathlib import Path

import jsonschema
import pytest

from lesff.architectures import ARCHITECTURES
from lesff.heads import HEAD_NAMES, LongRangeConfig
from lesff.potential.config import ModelConfig

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs" / "config.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
FILES = sorted((ROOT / "lesff" / "weights").glob("*/*/config.json"))
OPTIONS = {
    "mace": {"cutoff": 4.0, "hidden_irreps": "4x0e"},
    "nequip": {"cutoff": 4.0, "hidden_irreps": "4x0e"},
    "aimnet2": {},
}


def config(name: str, **options: object) -> dict:
    made = ModelConfig(
        architecture={"type": name, **OPTIONS[name]},
        elements=(1, 8),
        reference_energies=(-1.0, -2.0),
        **options,  # pyright: ignore[reportArgumentType]
    )
    return json.loads(json.dumps(made.to_dict()))


def test_the_schema_is_that_of_the_dataclasses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = runpy.run_path(str(ROOT / "tools" / "config_schema.py"))
    assert tool["schema"]() == SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(tool["OURS"]) == set(OPTIONS) <= set(ARCHITECTURES)


def test_bundled_models_follow_it() -> None:
    assert len(FILES) >= 5
    for path in FILES:
        VALIDATOR.validate(json.loads(path.read_text("utf-8")))


@pytest.mark.parametrize("name", OPTIONS)
def test_configurations_follow_it(name: str) -> None:
    VALIDATOR.validate(config(name))
    for head in HEAD_NAMES:
        VALIDATOR.validate(config(name, long_range=LongRangeConfig(head=head)))
    VALIDATOR.validate({"members": [config(name), config(name)]})


def test_architectures_of_others_follow_it() -> None:
    data = config("mace")
    data["architecture"] = {"type": "toy", "whatever": [1, 2]}
    VALIDATOR.validate(data)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("elements",), []),
        (("elements",), [119]),
        (("elements",), ["H"]),
        (("total_charge",), [0]),
        (("dtype",), "float16"),
        (("format_version",), 2),
        (("wall",), "soft"),
        (("long_range",), {"head": "magic"}),
        (("long_range",), {"head": "latent", "sgima": 1.0}),
        (("architecture",), "mace"),
        (("architecture",), {"cutoff": 4.0}),
        (("architecture", "cutoff"), "4"),
        (("architecture", "cutof"), 4.0),
        (("unknown",), 1),
    ],
)
def test_what_cannot_be_read_does_not_follow_it(place: tuple[str, ...], value: object) -> None:
    data = copy.deepcopy(config("mace"))
    inside = data
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    assert not VALIDATOR.is_valid(data)


@pytest.mark.parametrize("count", [0, 1, 65])
def test_ensembles_have_several_members(count: int) -> None:
    assert not VALIDATOR.is_valid({"members": [config("mace")] * count})
