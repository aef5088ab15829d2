"""What names and checks files is imported without what computes: commands that list stay quick."""

import subprocess
import sys

import pytest

import lesff

HEAVY = ("torch", "e3nn", "ase", "scipy", "huggingface_hub", "numpy")
SCRIPT = """
import importlib, sys, types
# the package itself offers models, which compute: leave its own imports out
package = types.ModuleType("lesff")
package.__path__ = [sys.argv[1]]
sys.modules["lesff"] = package
importlib.import_module(sys.argv[2])
print(" ".join(name for name in sys.argv[3:] if name in sys.modules))
"""


@pytest.mark.parametrize(
    "module",
    [
        "lesff.files",
        "lesff.plain_data",
        "lesff.model_folder.layout",
        "lesff.model_folder.card",
        "lesff.hub.spec",
        "lesff.hub.signatures",
        "lesff.hub.manifest.citations",
        "lesff.hub.manifest.entries",
        "lesff.hub.manifest.names",
        "lesff.hub.manifest.updates",
        "lesff.hub.cache",
        "lesff.hub.licenses",
        "lesff.hub.lockfile",
        "lesff.hub.resolve",
        "lesff.hub.cache_contents",
        "lesff.hub.mirror.copy",
        "lesff.hub.mirror.server",
        "lesff.hub.sources.update",
    ],
)
def test_nothing_that_computes_is_imported(module: str) -> None:
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-c", SCRIPT, lesff.__path__[0], module, *HEAVY],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []
