"""Time from a name to a prediction, and of verification, beside plain huggingface_hub.

    python benchmarks/load.py [--megabytes 200]

First part: a new process imports lesff, then loads the bundled model and predicts (cold), then
again (warm). Second part, in process: a folder with large weights is resolved from the cache for
the first time (every byte hashed), and again (size, times and inode compared), beside reading the
file, and beside `hf_hub_download` of a cached commit and `safetensors.torch.load_file`. A mirror on
this machine stands for the hub.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file, save_file

from lesff.hub.manifest import names as registry
from lesff.hub.mirror.server import running
from lesff.hub.mirror.store import Store
from lesff.hub.resolve import resolve
from lesff.hub.sources.bundled import bundled_folder

FIRST = """
import time
a = time.perf_counter()
import lesff
from ase.build import molecule
water = molecule("H2O")
b = time.perf_counter()
lesff.load("off-small").predict(water)
c = time.perf_counter()
lesff.load("off-small").predict(water)
d = time.perf_counter()
print(b - a, c - b, d - c)
"""
NAMES = ("config.json", "README.md", "LICENSE", "parity.safetensors")


def milliseconds(action: Callable[[], object], repeats: int = 7) -> float:
    """Median wall time in ms."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def first_prediction() -> None:
    """Cold and warm load and prediction in new processes, offline."""
    environment = {**os.environ, "LESFF_OFFLINE": "1"}
    rows = []
    for _ in range(3):
        done = subprocess.run(  # noqa: S603 - ours
            [sys.executable, "-c", FIRST], env=environment, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        rows.append([float(part) for part in done.stdout.split()])
    imports, cold, warm = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"imports {imports:.2f} s; bundled off-small, load and first prediction: {cold:.2f} s")
    print(f"  again in the same process: {1e3 * warm:.0f} ms")


def make_site(root: Path, n_bytes: int) -> tuple[Path, str]:
    """A mirror with large weights and a manifest that knows them; returns mirror and commit."""
    source = bundled_folder() / "off-small" / "0.1.0"
    weights = root / "model.safetensors"
    save_file({"weights": torch.rand(n_bytes // 4)}, weights)
    files = {name: source / name for name in NAMES} | {weights.name: weights}
    (root / "mirror").mkdir()
    snapshot = Store(root / "mirror").add("lesff/large", files, refs=("main",), date="2026-01-01")
    data = json.loads((registry.manifest_folder() / "off-small.json").read_text())
    rows = [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in snapshot.files]
    version = data["versions"][0] | {
        "files": rows,
        "sources": {"hub": {"repo": "lesff/large", "commit": snapshot.commit}},
    }
    (root / "manifest").mkdir()
    entry = data | {"name": "large", "versions": [version]}
    (root / "manifest" / "large.json").write_text(json.dumps(entry))
    registry.manifest_folder = lambda: root / "manifest"
    return root / "mirror", snapshot.commit


def large_weights(root: Path, n_bytes: int) -> None:
    """Cost of verification of a large file."""
    os.environ |= {"LESFF_CACHE": str(root / "cache"), "LESFF_STATE": str(root / "state")}
    mirror, commit = make_site(root, n_bytes)
    with running(mirror) as server:
        os.environ["LESFF_HUB"] = server.url

        def plain() -> Path:
            return Path(
                hf_hub_download(
                    "lesff/large", "model.safetensors", revision=commit, endpoint=server.url,
                    cache_dir=root / "hf", token=False,
                )
            )  # fmt: skip

        fetched = milliseconds(lambda: resolve("large"), 1)
        fetched_plain = milliseconds(plain, 1)
        time.sleep(3)  # a file that has just changed is hashed again
        hashed = milliseconds(lambda: resolve("large", offline=True), 1)
        path = resolve("large", offline=True).folder / "model.safetensors"
        known = milliseconds(lambda: resolve("large", offline=True))
        known_plain = milliseconds(plain)
        reading = milliseconds(path.read_bytes)
        mapping = milliseconds(lambda: load_file(path))
    print(f"{n_bytes / 1e6:.0f} MB of weights, ms        lesff   huggingface_hub")
    print(f"  fetch from a mirror here{fetched:12.0f}{fetched_plain:12.0f}  (lesff hashes)")
    print(f"  cached, hash every byte {hashed:12.0f}           -")
    print(f"  cached, unchanged since {known:12.1f}{known_plain:12.1f}  (not verified)")
    print(f"  reading its bytes {reading:.0f} ms, mapping it with safetensors {mapping:.1f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    options = parser.parse_args()
    first_prediction()
    with tempfile.TemporaryDirectory() as folder:
        large_weights(Path(folder), options.megabytes * 10**6)


if __name__ == "__main__":
    main()
