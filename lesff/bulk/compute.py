"""What a worker does: a chunk of items becomes rows, and a list of what has none and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import ase
import torch

from lesff.atoms.structure import Structure, to_structure
from lesff.bulk.items import Chunk, Item
from lesff.bulk.models import ModelReference
from lesff.errors import (
    LesffError,
    MissingDependencyError,
    PropertyError,
    UnsupportedInputError,
)
from lesff.notices import heard
from lesff.potential.batches import predict_structures
from lesff.potential.domain import check_domain
from lesff.potential.potential import Potential
from lesff.potential.response import BornOptions
from lesff.prediction import Prediction

_MANY_ATOMS = 500
"""Structures of so many atoms are worth several threads; batches of smaller ones have one thread in
every process, so that results do not depend, in the last bit, on where they are computed."""
_WARNED = 20
"""Warnings of a chunk that are kept."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How structures are computed; all of it changes results.

    Attributes:
        properties: Names.
        total_charge: Of every structure, in e; its own if None.
        spin_multiplicity: Likewise.
        external_field: In V/A, likewise.
        born: Options of Born effective charges.
        strict: Refuse what is outside of the domain.
        allow_close: Compute also where atoms overlap.
    """

    properties: tuple[str, ...]
    total_charge: int | None = None
    spin_multiplicity: int | None = None
    external_field: tuple[float, float, float] | None = None
    born: BornOptions | None = None
    strict: bool = False
    allow_close: bool = False


@dataclass(frozen=True, kw_only=True)
class Task:
    """What travels to a worker.

    Attributes:
        chunk: What to compute.
        model: With which model.
        settings: And how.
        threads: Threads for large structures; as they are if None.
    """

    chunk: Chunk
    model: ModelReference
    settings: Settings
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One structure and its results.

    Attributes:
        item: Where it came from; without the structure itself, which is in ``atoms``.
        atoms: The structure as it was read.
        state: The structure as it was computed.
        values: Results by property.
        out_of_domain: Why it is unlike those of the calibration; None for a model without one.
    """

    item: Item
    atoms: ase.Atoms
    state: Structure
    values: dict[str, Any]
    out_of_domain: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """One structure that has no results.

    Attributes:
        item: Where it came from.
        reason: Why.
    """

    item: Item
    reason: str


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    """What became of a chunk.

    Attributes:
        chunk: Its place among all chunks.
        rows: Structures with results, in the order of the items.
        skipped: Those without, likewise.
        gaps: Places of those without among all items of the chunk.
        warnings: Texts of warnings with the names of their categories.
        fatal: An error that would meet every chunk; then there is nothing else.
    """

    chunk: int
    rows: tuple[Row, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    gaps: tuple[int, ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()
    fatal: LesffError | None = None


@dataclass
class _Work:
    """A chunk that is being computed."""

    task: Task
    potential: Potential
    told: set[str] = field(default_factory=set)
    heard: list[tuple[str, str]] = field(default_factory=list)


def compute_chunk(task: Task) -> ChunkResult:
    """Compute a chunk; every error of a structure becomes a reason, none is raised.

    Batches are made of all structures of the chunk that can be computed, so that results depend on
    the chunk alone and not on how those that cannot were found.
    """
    index = task.chunk.index
    try:
        work = _Work(task, task.model.load())
        rows, skipped = _ready(work)
        done, more = _computed(work, rows)
    except LesffError as error:  # structures raise none
        return ChunkResult(chunk=index, fatal=error)
    places = {id(item): place for place, item in enumerate(task.chunk.items)}
    order = sorted([*skipped, *more], key=lambda row: places[id(row.item)])
    return ChunkResult(
        chunk=index,
        rows=tuple(done),
        skipped=tuple(replace(row, item=_bare(row.item)) for row in order),
        gaps=tuple(places[id(row.item)] for row in order),
        warnings=tuple(work.heard[:_WARNED]),
    )


def _ready(work: _Work) -> tuple[list[Row], list[Skipped]]:
    """Structures of a chunk that can be read and are covered, and the others."""
    settings, rows, skipped = work.task.settings, [], []
    with _listening(work):
        for item in work.task.chunk.items:
            try:
                atoms = item.to_atoms()
                state = to_structure(
                    atoms,
                    total_charge=settings.total_charge,
                    spin_multiplicity=settings.spin_multiplicity,
                    external_field=settings.external_field,
                    where=item.name,
                    told=work.told,
                )
            except MissingDependencyError:
                raise
            except Exception as error:  # noqa: BLE001 - one structure must not stop a million
                skipped.append(Skipped(item=item, reason=_reason(error, item)))
            else:
                rows.append(Row(item=item, atoms=atoms, state=state, values={}))
        rows, others = _covered(work, rows)
    return rows, [*skipped, *others]


def _covered(work: _Work, rows: list[Row]) -> tuple[list[Row], list[Skipped]]:
    """Rows that the model covers, and the others.

    All are looked at together, for most often all are covered. What the check warns of is said when
    the batch is computed.
    """
    config, strict = work.potential.config, work.task.settings.strict
    try:
        check_domain(config, [row.state for row in rows], strict=strict, quiet=True)
    except UnsupportedInputError:
        pass
    else:
        return rows, []
    covered, others = [], []
    for row in rows:
        try:
            check_domain(config, [row.state], strict=strict, quiet=True)
        except UnsupportedInputError as error:
            others.append(Skipped(item=row.item, reason=_reason(error, row.item)))
        else:
            covered.append(row)
    return covered, others


def _computed(work: _Work, rows: list[Row]) -> tuple[list[Row], list[Skipped]]:
    """Results of rows; those that raise are found by halving and left out."""
    if not rows:
        return [], []
    try:
        with _listening(work, rows):
            return _with_results(rows, _predict(work, rows)), []
    except Exception as error:  # noqa: BLE001 - one structure must not stop a million
        _raise_if_general(error)
        bad = dict(_culprits(work, rows, error))
    if not bad:  # too much together, each fine by itself
        middle = len(rows) // 2
        (first, some), (second, others) = (
            _computed(work, rows[:middle]),
            _computed(work, rows[middle:]),
        )
        return [*first, *second], [*some, *others]
    good = [row for i, row in enumerate(rows) if i not in bad]
    skipped = [
        Skipped(item=rows[i].item, reason=_reason(error, rows[i].item))
        for i, error in sorted(bad.items())
    ]
    done, more = _computed(work, good)
    return done, [*skipped, *more]


def _culprits(
    work: _Work, rows: Sequence[Row], error: Exception, first: int = 0
) -> Iterator[tuple[int, Exception]]:
    """Places and errors of rows that raise on their own; of both halves if only together."""
    if len(rows) == 1:
        yield first, error
        return
    middle = len(rows) // 2
    for start, part in ((0, rows[:middle]), (middle, rows[middle:])):
        try:
            with heard():
                _predict(work, part)
        except Exception as found:  # noqa: BLE001 - see above
            _raise_if_general(found)
            yield from _culprits(work, part, found, first + start)


def _predict(work: _Work, rows: Sequence[Row]) -> Prediction:
    settings, threads = work.task.settings, work.task.threads
    structures = [row.state for row in rows]
    is_large = max(len(state) for state in structures) >= _MANY_ATOMS
    with _threads(threads if is_large else 1):
        return predict_structures(
            work.potential,
            structures,
            settings.properties,
            model=work.task.model.name,
            caveats=work.task.model.caveats,
            born=settings.born,
            strict=settings.strict,
            allow_close=settings.allow_close,
            progress=False,
        )


def _with_results(rows: Sequence[Row], prediction: Prediction) -> list[Row]:
    try:
        reasons: Any = prediction.out_of_domain
    except PropertyError:
        reasons = [None] * len(rows)
    return [
        Row(
            item=_bare(row.item), atoms=row.atoms, state=row.state, values=values, out_of_domain=why
        )
        for row, values, why in zip(rows, prediction.per_structure(), reasons, strict=True)
    ]


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Inside the block, PyTorch and the kernels use so many threads."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _listening(work: _Work, rows: Sequence[Row] = ()) -> Iterator[None]:
    """Keep warnings instead of showing them; ``structure 3`` gets its name."""
    with heard() as warnings:
        yield
    names = [row.item.name for row in rows]
    work.heard.extend((_named(str(found), names), type(found).__name__) for found in warnings)


def _named(text: str, names: Sequence[str]) -> str:
    """The text with ``structure 3`` at its beginning replaced by the name of the structure."""
    found = re.match(r"structure ([0-9]+)", text)
    if found is None or int(found[1]) >= len(names):
        return text
    return names[int(found[1])] + text[found.end() :]


def _reason(error: Exception, item: Item) -> str:
    """Why there are no results, in one line, without the number in a batch."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(rf"^{re.escape(item.name)}:? ", "", text)
    text = re.sub(r"^structure( [0-9]+)?:? ", "", text)
    return text if isinstance(error, LesffError) else f"{type(error).__name__}: {text}"


def _raise_if_general(error: Exception) -> None:
    """Raise what is no fault of a structure: a library that is missing."""
    if isinstance(error, MissingDependencyError):
        raise error


def _bare(item: Item) -> Item:
    """An item without its structure."""
    return Item(
        source=item.source, index=item.index, key=item.key, smiles=item.smiles,
        n_atoms=item.n_atoms, info=item.info, fault=item.fault,
    )  # fmt: skip
