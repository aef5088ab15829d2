"""What the tools that make many frames share: chunks a killed run goes on from, a shard, its hash.

A chunk is a file of the folder ``NAME.parts`` beside the output, whole or not there. The folder
holds what the run was asked for, too, and a run that asks for something else is refused. When all
chunks are there, the shard is written, its sha256 beside it, and the folder goes.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from lesff.atoms.files import read_npz
from lesff.disk import write_atomically
from lesff.files import sha256_of
from lesff.plain_data import read_json, write_json
from lesff.train.shards import write_npz

Arrays = dict[str, np.ndarray]


def written_in_chunks(
    output: Path, asked: Mapping[str, Any], count: int, make: Callable[[int], Arrays | None]
) -> str:
    """Make chunks that are not there yet, then the shard of all of them.

    Args:
        output: The shard.
        asked: What the run was asked for, plain data.
        count: Number of chunks.
        make: Arrays of a chunk, the same keys in all; None for a chunk without frames.

    Returns:
        sha256 of the shard.
    """
    if output.exists():
        sys.exit(f"{output} is there already: remove it to make it anew")
    parts = output.with_suffix(".parts")
    parts.mkdir(parents=True, exist_ok=True)
    plan = parts / "asked.json"
    if plan.is_file() and read_json(plan) != dict(asked):
        sys.exit(f"{parts} is of a run with other options: remove it, or take another --output")
    write_json(plan, dict(asked))
    paths = [parts / f"{i:05d}.npz" for i in range(count)]
    for i in tqdm(range(count), unit="chunk", desc=output.stem, file=sys.stderr):
        if not paths[i].exists():
            arrays = make(i)
            write_npz(paths[i], {"empty": np.zeros(1)} if arrays is None else arrays)
    chunks = [arrays for arrays in map(read_npz, paths) if "empty" not in arrays]
    if not chunks:
        sys.exit(f"{output} would have no frames")
    write_npz(
        output,
        {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]},
        np.savez_compressed,
    )
    digest = sha256_of(output)
    write_atomically(output.with_suffix(".sha256"), f"{digest}  {output.name}\n")
    shutil.rmtree(parts)
    return digest
