"""Several shards of one kind as one, thinned, with a weight for each frame.

``organic2_*.npz`` say how far the two teachers of a frame are apart (``spread``, RMS of force
components in eV/A), which predicts the error of their mean. A frame gets the weight
1 / (1 + (spread / 0.12)^2): labels off by half the spread, beside 0.06 eV/A that a small model is
off by itself. Frames to train on are thinned at random, held-out ones likewise; ``--most-atoms``
leaves larger ones out, ``--without-groups`` those of the groups it names, ``--without-last`` the
last frames of such.

    python tools/data/merged.py organic2_des_mono.npz=0.5 organic2_des_dimer.npz -o organic2.npz
    python tools/data/merged.py multiple_bonds_17.npz --without-groups "O=C=O (1, 2)" \
        "O=C=S (1, 2)" -o multiple_bonds_14.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lesff.train.shards import read_shard, write_npz

TRUSTED = 0.12
"""Spread at which the weight of a frame is half, eV/A."""
PER_ATOM = ("numbers", "positions", "forces", "charges")
PER_FRAME = ("n", "energy", "charge", "dipole", "spin_multiplicity", "group", "valid")


def thinned(
    path: Path,
    share: float,
    rng: np.random.Generator,
    most_atoms: int,
    without_groups: Sequence[str] = (),
    last: int = 0,
    without_last: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """A share of the frames of a shard, of those that are wanted, with weights."""
    data = read_shard(path)
    kept = (rng.random(len(data["n"])) < share) & (data["n"] <= most_atoms)
    if without_groups and "group" in data:
        kept &= ~np.isin(data["group"].astype(str), without_groups)
    for name in without_last:
        kept[np.flatnonzero(data["group"].astype(str) == name)[-last:]] = False
    atoms = np.repeat(kept, data["n"].astype(np.int64))
    found = {key: data[key][atoms] for key in PER_ATOM if key in data}
    found |= {key: data[key][kept] for key in PER_FRAME if key in data}
    spread = data["spread"][kept] if "spread" in data else np.zeros(kept.sum())
    found["weight"] = (1.0 / (1.0 + (spread / TRUSTED) ** 2)).astype(np.float32)
    return found


def main() -> None:
    """Write the shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE[=SHARE]")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-atoms", type=int, default=10**6, help="of a frame")
    parser.add_argument("--without-groups", nargs="+", default=[], help="names in `group`")
    parser.add_argument("--without-charges", action="store_true", help="leave out atomic charges")
    parser.add_argument(
        "--without-last",
        nargs="+",
        default=[],
        metavar=("N", "GROUP"),
        help="without the last N frames of each of these groups",
    )
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    last, *shortened = options.without_last or ["0"]
    if options.without_last and not (last.isdigit() and int(last) and shortened):
        parser.error("--without-last must be a number above 0 and groups, as in 3 'C=N (0, 1)'")
    parts, left = [], {*options.without_groups, *shortened}
    for text in options.files:
        name, _, share = text.partition("=")
        if left:
            left -= set(read_shard(Path(name)).get("group", np.array([])).astype(str))
        limits = (options.most_atoms, options.without_groups, int(last), shortened)
        parts.append(thinned(Path(name), float(share or 1.0), rng, *limits))
    if left:
        parser.error(
            "--without-groups and --without-last must name groups of the files, got "
            f"{', '.join(sorted(left))}"
        )
    keys = set(parts[0])
    for text, part in zip(options.files, parts, strict=True):
        if set(part) != keys:
            parser.error(f"{text} must have the arrays {sorted(keys)}, got {sorted(part)}")
    kept = [key for key in parts[0] if key != "charges" or not options.without_charges]
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in kept}
    write_npz(options.output, arrays, np.savez_compressed)


if __name__ == "__main__":
    main()
