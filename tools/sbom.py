"""Software bill of materials of a release: the installed packages and the bundled models.

    python tools/sbom.py .venv/bin/python -o lesff-0.1.0.cdx.json

The packages are those of the environment that the interpreter belongs to, found by ``cyclonedx-py``
(``pip install cyclonedx-bom``); models are components of the type "machine-learning-model" with the
size and sha256 of every file, licence and level of theory, from ``checkpoints_manifest``. CycloneDX
1.6 (ECMA-424), JSON, checked against its schema; the same input gives the same bytes.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def model_component(entry: dict[str, Any], version: dict[str, Any]) -> dict[str, Any]:
    """CycloneDX component of one version of a bundled model."""
    name = f"{entry['name']}@{version['version']}"
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{name}",
        "name": entry["name"],
        "version": version["version"],
        "description": entry["description"],
        "licenses": [{"license": {"id": entry["license"]}}],
        "properties": [{"name": "lesff:level_of_theory", "value": version["level_of_theory"]}],
        "components": [
            {
                "type": "file",
                "bom-ref": f"model:{name}/{file['path']}",
                "name": file["path"],
                "hashes": [{"alg": "SHA-256", "content": file["sha256"]}],
                "properties": [{"name": "lesff:size", "value": str(file["size"])}],
            }
            for file in version["files"]
        ],
    }


def bundled_models(manifest: Path) -> list[dict[str, Any]]:
    """Components of all versions whose weights come with the package, by name and version."""
    found = []
    for path in sorted(manifest.glob("*.json")):
        entry = json.loads(path.read_text("utf-8"))
        found += [
            model_component(entry, version)
            for version in entry["versions"]
            if version["sources"].get("bundled")
        ]
    return found


def packages(python: Path) -> dict[str, Any]:
    """The bill of the environment of an interpreter."""
    command = [
        sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--validate",
        "--sv", "1.6", "--of", "JSON", "--pyproject", str(ROOT / "pyproject.toml"), str(python),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"cyclonedx-py failed (pip install cyclonedx-bom):\n{done.stderr}")
    return json.loads(done.stdout)


def with_models(bill: dict[str, Any], models: list[dict[str, Any]]) -> dict[str, Any]:
    """The bill with the models among its components, and as parts of the main component."""
    root = bill["metadata"]["component"]["bom-ref"]
    references = [model["bom-ref"] for model in models]
    edges = {row["ref"]: row for row in bill.get("dependencies", [])}
    of_root = edges.setdefault(root, {"ref": root})
    of_root["dependsOn"] = sorted({*of_root.get("dependsOn", []), *references})
    return bill | {
        "components": [*bill.get("components", []), *models],
        "dependencies": [edges[name] for name in sorted(edges)],
    }


def main() -> None:
    """Write the bill."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", type=Path, help="interpreter of a release's environment")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    bill = with_models(packages(options.python), bundled_models(ROOT / "checkpoints_manifest"))
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = json.dumps(bill, indent=1) + "\n"
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        sys.exit(f"the bill does not follow CycloneDX 1.6: {error}")
    options.output.write_text(text, encoding="utf-8")
    n_models = sum(row["type"] == "machine-learning-model" for row in bill["components"])
    n_packages = len(bill["components"]) - n_models
    sys.stdout.write(f"{options.output}: {n_packages} packages, {n_models} models\n")


if __name__ == "__main__":
    main()
