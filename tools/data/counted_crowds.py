"""Neutral molecules pressed together further than any label goes: only their electrons count.

Frames of other sets are scaled about their middle. Their energies and forces are zero and mean
nothing (``only_counts = true`` of a source leaves them out of the loss); what is to be learned is
that no atom of a neutral crowd is an ion.

    python tools/data/counted_crowds.py DATA/liquid.npz DATA/crowded.npz -o DATA/counted_crowds.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from composed import Row, write_shard

from lesff.train.data import read_frames

SCALES = (0.62, 0.95)
"""Range of the factor by which positions shrink."""


def main() -> None:
    """Write the shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--times", type=int, default=2, help="frames made of each")
    parser.add_argument("--seed", type=int, default=31)
    options = parser.parse_args()
    rng, rows = np.random.default_rng(options.seed), []
    for path in options.files:
        for frame in read_frames(path):
            structure = frame.structure
            if structure.total_charge or structure.spin_multiplicity != 1:
                continue
            middle = structure.positions.mean(0)
            for scale in rng.uniform(*SCALES, size=options.times):
                rows.append(
                    Row(
                        numbers=structure.numbers,
                        positions=middle + scale * (structure.positions - middle),
                        energy=0.0,
                        forces=np.zeros_like(structure.positions),
                        name=frame.group,
                    )
                )
    write_shard(options.output, rows, hold_out=False)


if __name__ == "__main__":
    main()
