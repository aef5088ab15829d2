"""Frames that do not fit into memory together: read piece by piece, as often as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesff.errors import TwinFramesWarning, warn
from lesff.train.data import Frame, labelled_pieces, structure_hash

PIECE = 2000
"""Frames in memory at a time: some 10 MB of organic molecules."""


@dataclass(frozen=True, kw_only=True)
class StreamedFile:
    """What is read of one file.

    Attributes:
        path: An npz shard, or a file or database that ASE reads.
        keep: Which of its frames count.
        fraction: Share of those that are drawn, the same ones in every pass.
        keys: Key of a label, by label name, see :func:`lesff.train.data.read_labelled`.
        required: Labels that every frame must have.
    """

    path: Path
    keep: Callable[[Frame], bool] = lambda frame: True
    fraction: float = 1.0
    keys: Mapping[str, str] | None = None
    required: tuple[str, ...] = ()


class FrameStream:
    """Frames of several files, never more than one piece of them in memory.

    Args:
        files: The files, in their order.
        size: Most frames of a piece.
    """

    def __init__(self, files: Sequence[StreamedFile], *, size: int = PIECE) -> None:
        self.files = tuple(files)
        self.size = size
        self._length: int | None = None

    def __len__(self) -> int:
        """Number of frames; read once to know it."""
        if self._length is None:
            self._length = sum(len(piece) for piece in self.pieces())
        return self._length

    def pieces(self) -> Iterator[list[Frame]]:
        """All frames once, in lists of at most ``size``; the same ones in every pass.

        Raises:
            DataError: if a file cannot be used.
        """
        for number, file in enumerate(self.files):
            rng = np.random.default_rng(number)
            read = labelled_pieces(file.path, self.size, keys=file.keys, required=file.required)
            for piece in read:
                kept = [frame for frame in piece if file.keep(frame)]
                drawn = rng.random(len(kept)) < file.fraction
                chosen = [frame for frame, is_in in zip(kept, drawn, strict=True) if is_in]
                if chosen:
                    yield chosen


Frames = Sequence[Frame] | FrameStream
"""Frames in memory, or those of files."""


def pieces_of(frames: Frames) -> Iterator[Sequence[Frame]]:
    """Pieces of a stream; frames in memory are one piece."""
    return frames.pieces() if isinstance(frames, FrameStream) else iter([frames])


def sample_of(frames: Frames, count: int, *, seed: int = 0) -> list[Frame]:
    """At most ``count`` frames, each with the same probability, in their order.

    Reservoir sampling (Vitter, ACM Trans. Math. Softw. 11, 37 (1985), algorithm R): one pass, and
    never more than ``count`` frames kept.
    """
    rng = np.random.default_rng(seed)
    kept: list[tuple[int, Frame]] = []
    index = 0
    for piece in pieces_of(frames):
        for frame in piece:
            place = index if index < count else int(rng.integers(index + 1))
            if index < count:
                kept.append((index, frame))
            elif place < count:
                kept[place] = (index, frame)
            index += 1
    return [frame for _, frame in sorted(kept, key=lambda row: row[0])]


def without_twins(validation: list[Frame], train: Frames) -> list[Frame]:
    """Held-out frames whose structure no training frame has; warns of the others.

    Files divided one by one may share structures: what one holds out, another trains on.
    """
    names = [structure_hash(frame) for frame in validation]
    held, trained = set(names), set[str]()
    for piece in pieces_of(train):
        trained |= held.intersection(structure_hash(frame) for frame in piece)
    kept = [frame for frame, name in zip(validation, names, strict=True) if name not in trained]
    if len(kept) < len(validation):
        warn(
            f"{len(validation) - len(kept)} of {len(validation)} held-out frames are training "
            "frames of another file too; they are not used to validate",
            TwinFramesWarning,
        )
    return kept
