"""The bill of materials names every bundled model with the hashes of the manifest."""

import json
import runpy
from pathlib import Path

from lesff.hub.manifest.names import list_models

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "sbom.py"))


def test_bundled_models_are_components_with_the_released_hashes():
    released = json.loads((ROOT / "tests" / "released.json").read_text("utf-8"))
    found = TOOL["bundled_models"](ROOT / "checkpoints_manifest")
    names = {f"{row['name']}@{row['version']}" for row in found}
    bundled = {
        f"{entry.name}@{version.version}"
        for entry in list_models()
        for version in entry.versions
        if version.sources.bundled
    }
    assert names == bundled
    assert "off-small@0.1.0" in names
    for row in found:
        hashes = {part["name"]: part["hashes"][0]["content"] for part in row["components"]}
        assert hashes == released[f"{row['name']}@{row['version']}"]
        license_id = "MIT" if row["name"].endswith("-large") else "Apache-2.0"  # the trunk's
        assert row["licenses"] == [{"license": {"id": license_id}}]


def test_models_are_parts_of_the_main_component():
    bill = {
        "metadata": {"component": {"bom-ref": "root"}},
        "components": [{"type": "library", "bom-ref": "torch==2"}],
        "dependencies": [{"ref": "torch==2"}, {"ref": "root", "dependsOn": ["torch==2"]}],
    }
    models = TOOL["bundled_models"](ROOT / "checkpoints_manifest")
    full = TOOL["with_models"](bill, models)
    assert full["components"] == [*bill["components"], *models]
    (root,) = [row for row in full["dependencies"] if row["ref"] == "root"]
    assert set(root["dependsOn"]) == {"torch==2", *(model["bom-ref"] for model in models)}
    references = [row["bom-ref"] for row in full["components"]]
    assert len(references) == len(set(references))
