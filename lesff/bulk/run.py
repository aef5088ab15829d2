"""A run over any number of structures into one file: resumed, sharded, bounded in memory."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from tqdm.auto import tqdm

from lesff import errors
from lesff.bulk.compute import ChunkResult, Settings, Task
from lesff.bulk.engine import compute_all
from lesff.bulk.executors import Workers
from lesff.bulk.formats import Table, format_of
from lesff.bulk.items import Chunk, Item, chunks_of, name_of
from lesff.bulk.models import ModelReference
from lesff.bulk.parts import Part, Parts, described
from lesff.bulk.smiles import rdkit_version
from lesff.disk import written_atomically
from lesff.errors import ConfigError, StructureError, warn

OnError = Literal["skip", "stop"]
CHUNK = 1000
"""Structures of a chunk: a second or so of small molecules."""
MAX_ATOMS = 100_000
"""Atoms from which on a chunk is full."""
_WARNINGS = 5
"""Warnings of one kind that are shown."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What does not change results.

    Attributes:
        chunk: Most structures of a chunk.
        on_error: What to do about structures without results.
        shard: ``(i, n)``: every n-th chunk, beginning with the i-th of the first n.
        keep_parts: Leave the folder of parts when the output is written.
        progress: Show a progress bar; on terminals only if None.
    """

    chunk: int = CHUNK
    on_error: OnError = "stop"
    shard: tuple[int, int] = (1, 1)
    keep_parts: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for values without sense."""
        if self.chunk < 1:
            raise ConfigError(f"`chunk` must be at least 1, got {self.chunk}")
        if self.on_error not in ("skip", "stop"):
            raise ConfigError(f"`on_error` must be 'skip' or 'stop', got {self.on_error!r}")
        place, count = self.shard
        if not 1 <= place <= count:
            raise ConfigError(f"`shard` must be i/n with i from 1 to n, got {place}/{count}")


@dataclass(kw_only=True)
class Summary:
    """What a run did.

    Attributes:
        n_rows: Structures with results, of this run and those before it.
        n_skipped: Structures without.
        n_known: Chunks that were done before.
        n_chunks: All chunks.
        n_missing: Chunks that other shards have to do.
        dropped: Names of labels that are not written.
        skipped_file: Table of what was skipped; None if nothing was.
        is_old: Whether the output was there already, complete.
    """

    n_rows: int = 0
    n_skipped: int = 0
    n_known: int = 0
    n_chunks: int = 0
    n_missing: int = 0
    dropped: set[str] = field(default_factory=set)
    skipped_file: Path | None = None
    is_old: bool = False


def predict_to_file(
    read: Callable[[], Iterator[Item]],
    output: Path,
    model: ModelReference,
    settings: Settings,
    options: RunOptions | None = None,
    *,
    workers: Workers | None = None,
    count: Callable[[], int | None] = lambda: None,
    has_smiles: bool = False,
    can_reread: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Compute structures chunk by chunk and write one file.

    Args:
        read: Gives all items, in their order.
        output: The file; its ending says the format, see :func:`lesff.bulk.formats.format_of`.
        model: The model.
        settings: How structures are computed.
        options: Chunks, errors, shards.
        workers: Where to compute; in this process if None.
        count: Number of structures, for the progress bar.
        has_smiles: Whether there are SMILES, whose coordinates depend on the version of RDKit.
        can_reread: Whether ``read`` may be called again.
        say: Called with every line about what was found.

    Raises:
        StructureError: with ``on_error="stop"``, for the first structure without results.
        LesffError: for errors that are no fault of a structure.
        OSError: if something cannot be written.
    """
    options = RunOptions() if options is None else options
    table = Table(properties=settings.properties, model=model.name, digest=model.digest)
    format_of(output, table)  # refused before anything is computed
    versions = {"lesff": version("lesff")}
    if has_smiles:
        versions["rdkit"] = rdkit_version()
    parts = Parts(output, described(settings, model, versions, output.suffix))
    run = _Run(read, parts, table, model, settings, options, workers, say)
    if can_reread and parts.record.is_file():
        keys = [chunk.key(parts.settings) for chunk in run.chunks()]
        if parts.is_finished(keys):
            return Summary(n_chunks=len(keys), n_known=len(keys), is_old=True)
        say(f"{output} is of another run: other structures, model or options")
    for line in parts.open():
        say(f"{parts.folder} has chunks of other settings, which are not used: {line}")
    try:
        run.compute(count)
        return run.finish()
    finally:
        parts.remove_if_empty()


class _Run:
    """The state of a run, see :func:`predict_to_file`."""

    def __init__(
        self,
        read: Callable[[], Iterator[Item]],
        parts: Parts,
        table: Table,
        model: ModelReference,
        settings: Settings,
        options: RunOptions,
        workers: Workers | None,
        say: Callable[[str], None],
    ) -> None:
        self._read, self._parts, self._table = read, parts, table
        self._model, self._settings, self._options = model, settings, options
        self._workers = workers
        self._keys: list[str] = []
        self._known: set[str] = set()
        self._spoken = Spoken(say)

    def chunks(self) -> Iterator[Chunk]:
        """All chunks."""
        return chunks_of(self._read(), self._options.chunk, MAX_ATOMS)

    def compute(self, count: Callable[[], int | None]) -> None:
        """Compute what is not done yet and belongs to this shard."""
        writer = format_of(self._parts.output, self._table)
        with progress_bar(self._options, count) as bar:
            for result in compute_all(self._tasks(bar), self._workers):
                self._spoken.hear(result)
                if result.skipped and self._options.on_error == "stop":
                    first = result.skipped[0]
                    stop(first.item.source, first.item.index, first.reason, kept=self._kept())
                self._parts.write(self._keys[result.chunk], result, writer)
                bar.update(len(result.rows) + len(result.skipped))
        self._spoken.close()

    def _tasks(self, bar: tqdm) -> Iterator[Task]:
        place, shards = self._options.shard
        for chunk in self.chunks():
            key = chunk.key(self._parts.settings)
            self._keys.append(key)
            if chunk.index % shards != place - 1:
                continue
            part = self._parts.find(key)
            if part is None:
                yield Task(chunk=chunk, model=self._model, settings=self._settings)
                continue
            if part.skipped and self._options.on_error == "stop":
                source, index, _, reason = part.skipped[0]
                stop(source, index, reason, kept=self._kept())
            self._known.add(key)
            if not bar.disable:
                # what was done before says nothing about the rate
                bar.initial += len(chunk.items)
                bar.n += len(chunk.items)
                bar.refresh()

    def _kept(self) -> Path | None:
        return self._parts.folder if len(self._keys) > 1 else None

    def finish(self) -> Summary:
        """Write the output if all chunks are there, whoever computed them."""
        summary = Summary(n_chunks=len(self._keys), n_known=len(self._known))
        if not self._keys:
            raise StructureError("there are no structures")
        found = [self._parts.find(key) for key in self._keys]
        summary.n_missing = sum(part is None for part in found)
        for part in found:
            if part is not None:
                summary.n_rows += part.n_rows
                summary.n_skipped += len(part.skipped)
                summary.dropped.update(part.dropped)
        if summary.n_missing:
            return summary
        self._parts.join(self._keys, format_of(self._parts.output, self._table))
        summary.skipped_file = self._write_skipped([part for part in found if part is not None])
        if len(self._keys) > 1:
            self._parts.write_record(self._keys, summary.n_rows, summary.n_skipped)
        else:
            self._parts.record.unlink(missing_ok=True)
        if not self._options.keep_parts:
            self._parts.remove()
        return summary

    def _write_skipped(self, parts: list[Part]) -> Path | None:
        """The table of what was skipped beside the output; an old one goes if there is nothing."""
        path = skipped_path(self._parts.output)
        rows = [row for part in parts for row in part.skipped]
        if not rows:
            path.unlink(missing_ok=True)
            return None
        with written_atomically(path) as new, new.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["source", "index", "key", "reason"])
            writer.writerows(rows)
        return path


class Spoken:
    """Repeats warnings of workers, a few of each kind.

    Args:
        say: Called with a line about those that were not repeated.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._heard: dict[str, int] = {}

    def hear(self, result: ChunkResult) -> None:
        """Repeat the warnings of a chunk."""
        for text, name in result.warnings:
            self._heard[name] = self._heard.get(name, 0) + 1
            if self._heard[name] <= _WARNINGS:
                warn(text, getattr(errors, name, UserWarning))

    def close(self) -> None:
        """Say how many were not repeated."""
        for name, number in self._heard.items():
            if number > _WARNINGS:
                self._say(f"{number - _WARNINGS} more warnings of the kind {name}")


def progress_bar(options: RunOptions, count: Callable[[], int | None]) -> tqdm:
    """A bar with rate and remaining time; structures are counted only if it is shown."""
    disable = None if options.progress is None else not options.progress
    bar = tqdm(disable=disable, unit="structure", desc="predict", smoothing=0.05)
    if not bar.disable:
        total = count()
        bar.total = None if total is None else -(-total // options.shard[1])
        bar.refresh()
    return bar


def stop(source: str, index: int, reason: str, kept: Path | None = None) -> None:
    """Raise StructureError for a structure without results."""
    also = "" if kept is None else f"; what is finished is kept in {kept}"
    raise StructureError(
        f"{name_of(source, index)}: {reason} (on_error='skip', `--on-error skip`, leaves it out "
        f"and goes on{also})"
    )


def skipped_path(output: Path) -> Path:
    """Where the table of skipped structures of an output is."""
    return output.with_name(f"{output.name}.skipped.csv")


def parse_shard(text: str) -> tuple[int, int]:
    """``"3/8"`` as numbers.

    Raises:
        ConfigError: for other text, and for i outside of 1 to n.
    """
    place, slash, count = text.partition("/")
    if not (slash and place.isdecimal() and count.isdecimal()):
        raise ConfigError(f"`--shard` must be i/n with i from 1 to n, got {text!r}")
    if not 1 <= int(place) <= int(count):
        raise ConfigError(
            f"`--shard` must be i/n with i from 1 to n, got {text!r}; job arrays should count "
            "from 1 (--array=1-n)"
        )
    return int(place), int(count)
