"""Structures on their way in: where they stand, what they are, and what is wrong with them.

An item is as raw as it came (text of a frame, SMILES, atoms): it is parsed where it is computed, so
that chunks that are done are not parsed again and workers share the work.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ase
import numpy as np

from lesff.atoms.files import unknown_symbol
from lesff.atoms.xyz import frames_of_text
from lesff.bulk.smiles import atoms_of_smiles
from lesff.errors import LesffError, StructureError

_ATOMS_OF_A_CHARACTER = 2
"""Atoms that a character of SMILES stands for, hydrogens included, about."""


LIST = "structure"
"""Name of the source of structures that a program gives."""


def name_of(source: str, index: int) -> str:
    """What a structure of a source is called in messages."""
    return f"{LIST} {index}" if source == LIST else f"{source}, frame {index}"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One structure, or the reason why there is none.

    Attributes:
        source: File, database, ``-`` or text that it came from.
        index: Its place there, from 0.
        key: sha256 of its content, hexadecimal.
        atoms: The structure, if it came as ASE atoms.
        text: The frame of an xyz file, if it came as such.
        smiles: SMILES, if it came as such.
        n_atoms: Number of atoms, estimated for SMILES.
        info: What the source says about it otherwise.
        fault: Why it cannot be read; None if it may be.
    """

    source: str
    index: int
    key: str
    atoms: ase.Atoms | None = None
    text: str | None = None
    smiles: str | None = None
    n_atoms: int = 0
    info: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return name_of(self.source, self.index)

    def to_atoms(self) -> ase.Atoms:
        """The structure as ASE atoms, with all that was said about it in ``info``.

        Raises:
            StructureError: if it is none.
            MissingDependencyError: for SMILES without RDKit.
        """
        if self.fault is not None:
            raise StructureError(self.fault)
        if self.smiles is not None:
            atoms = atoms_of_smiles(self.smiles)
        elif self.text is not None:
            atoms = _parsed(self.text)
        elif self.atoms is not None:
            atoms = self.atoms
        else:
            raise StructureError("there is no structure")
        if self.info and atoms is self.atoms:
            atoms = atoms.copy()
        for key, value in self.info.items():
            atoms.info.setdefault(key, value)
        return atoms


def item_of_atoms(atoms: ase.Atoms, source: str, index: int) -> Item:
    """An item that holds atoms; its key covers positions, cell, boundaries, info and arrays."""
    digest = hashlib.sha256(b"atoms")
    for name in sorted(atoms.arrays):
        values = np.ascontiguousarray(atoms.arrays[name])
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values.tobytes() if values.dtype != object else repr(values).encode())
    digest.update(np.ascontiguousarray(atoms.cell.array).tobytes())
    digest.update(bytes(atoms.pbc.astype(np.uint8)))
    for key in sorted(atoms.info, key=str):
        digest.update(f"{key}={_exact(atoms.info[key])}".encode())
    return Item(source=source, index=index, key=digest.hexdigest(), atoms=atoms, n_atoms=len(atoms))


def item_of_frame(text: str, source: str, index: int, n_atoms: int) -> Item:
    """An item that holds a frame of an xyz file."""
    key = hashlib.sha256(b"xyz" + text.encode()).hexdigest()
    return Item(source=source, index=index, key=key, text=text, n_atoms=n_atoms)


def item_of_smiles(
    smiles: str, source: str, index: int, info: Mapping[str, Any] | None = None
) -> Item:
    """An item that holds a SMILES, and what the row says otherwise."""
    info = {} if info is None else info
    digest = hashlib.sha256(b"smiles" + smiles.encode())
    digest.update(repr(sorted(info.items())).encode())
    return Item(
        source=source,
        index=index,
        key=digest.hexdigest(),
        smiles=smiles,
        n_atoms=max(1, _ATOMS_OF_A_CHARACTER * len(smiles)),
        info=info,
    )


def faulty_item(fault: str, source: str, index: int) -> Item:
    """An item that holds the reason why there is no structure."""
    key = hashlib.sha256(b"fault" + fault.encode()).hexdigest()
    return Item(source=source, index=index, key=key, fault=fault)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Consecutive items that are computed and written together.

    Attributes:
        index: Its place among all chunks.
        items: The items.
    """

    index: int
    items: tuple[Item, ...]

    def key(self, settings: str) -> str:
        """Hexadecimal digest of what the chunk holds and how it is computed.

        Args:
            settings: Digest of the model and all options that change results.
        """
        digest = hashlib.sha256(settings.encode())
        for item in self.items:
            digest.update(f"\n{item.key} {item.index} {item.source}".encode())
        return digest.hexdigest()

    @property
    def title(self) -> str:
        """Its items, first and last."""
        first, last = self.items[0], self.items[-1]
        if first is last:
            return first.name
        end = str(last.index) if first.source == last.source else last.name
        return f"{first.name} to {end}"


def chunks_of(items: Iterator[Item], size: int, max_atoms: int) -> Iterator[Chunk]:
    """Items in chunks; where one ends depends on the items alone.

    Args:
        items: All items in their order.
        size: Most items of a chunk.
        max_atoms: Atoms from which on a chunk is full.
    """
    held: list[Item] = []
    index, atoms = 0, 0
    for item in items:
        held.append(item)
        atoms += item.n_atoms
        if len(held) >= size or atoms >= max_atoms:
            yield Chunk(index=index, items=tuple(held))
            held, atoms, index = [], 0, index + 1
    if held:
        yield Chunk(index=index, items=tuple(held))


def _parsed(text: str) -> ase.Atoms:
    """The one frame of a text, as :func:`lesff.atoms.files.read_images` reads it."""
    simple = frames_of_text(text)
    if simple is not None:
        return simple[0]
    from ase.io.extxyz import read_extxyz  # start-up: imports scipy, 0.7 s of CPU

    try:
        frames: Any = read_extxyz(io.StringIO(text), slice(0, 1))  # pyright: ignore[reportArgumentType]
        return next(iter(frames))
    except LesffError:
        raise
    except KeyError as error:
        raise StructureError(f"cannot be read: {unknown_symbol(error)}") from error
    except Exception as error:  # noqa: BLE001 - readers of text raise anything
        raise StructureError(f"cannot be read: {error or type(error).__name__}") from error


def _exact(value: Any) -> str:
    """A value of ``info`` as text that differs where the value does."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str}{value.shape}{value.tolist()!r}"
    if isinstance(value, Mapping):
        return repr({k: _exact(value[k]) for k in sorted(value, key=str)})
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return repr([_exact(part) for part in value])
    return repr(value)
