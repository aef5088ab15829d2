"""Reader of simple xyz files, for start-up: ASE's own imports scipy, 0.7 s of CPU.

What is not certain to be read as ASE reads it, errors included, is left to ASE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers

_MAX_BYTES = 2**24
"""Larger files take ASE longer to read than to import."""
_COLUMNS = {"species:S:1:pos:R:3": 3, "species:S:1:pos:R:3:forces:R:3": 6}
"""Numbers behind the symbol, by ``Properties`` of the comment."""
_WORD = r"[^\s=\\'\"{}\[\]]+"
_PAIR = re.compile(
    # a value may have further `=` between its words, as SMILES have double bonds; between quotes, a
    # backslash stands before quotes and backslashes
    rf"\s*(?P<key>{_WORD})"
    rf"(?:=(?:\"(?P<quoted>(?:[^\"\\]|\\[\"\\])+)\"|(?P<bare>{_WORD}(?:=+{_WORD})*)))?(?=\s|$)"
)
_ESCAPED = re.compile(r"\\(.)")
_NUMBER = re.compile(r"[-+.0-9_aefintyAEFINTY]+")
"""Characters of numbers, of nan and infinity too."""
_TRUTH = {
    "T": True, "true": True, "True": True, "TRUE": True,
    "F": False, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_ENERGIES = ("energy", "free_energy")
_SHORT = 80
"""Characters of a value that is kept for the next frames."""
_ARRAYS_3_3 = ("virial", "stress")
_OTHER_RESULTS = frozenset(all_properties) - {*_ENERGIES}
"""Keys that ASE's readers take for results of other kinds."""


class _LeaveItError(Exception):
    """The file is not simple."""


def read_simple_xyz(path: Path) -> list[ase.Atoms] | None:
    """All frames of a plain or extended xyz file, equal to those that ASE reads.

    Symbols, positions, forces, the cell and what ``key=value`` of the comment holds: numbers, truth
    values and words.

    Returns:
        None for other names of files, and for what ASE has to read, or to refuse.

    Raises:
        OSError: if the file cannot be read.
    """
    if path.suffix not in (".xyz", ".extxyz") or path.stat().st_size > _MAX_BYTES:
        return None
    try:
        return frames_of_text(path.read_bytes().decode("ascii"))
    except UnicodeDecodeError:
        return None


def frames_of_text(text: str) -> list[ase.Atoms] | None:
    """All frames of the text of an xyz file; None for what ASE has to read, or to refuse."""
    if not text.isascii():
        return None
    try:
        return list(_frames(text.replace("\r\n", "\n")))
    except _LeaveItError:
        return None


def _frames(text: str) -> Iterator[ase.Atoms]:
    """Frame after frame; blank lines may follow the last."""
    lines, place = text.split("\n"), 0
    # other ends of lines and words than ASE splits at
    if not text or "\x1f" in text or text.splitlines() != (lines if lines[-1] else lines[:-1]):
        raise _LeaveItError
    while place < len(lines) and (lines[place].strip() or place == 0):
        if not re.fullmatch(r"\s*[1-9][0-9]{0,6}\s*", lines[place]):
            raise _LeaveItError
        end = place + 2 + int(lines[place])
        if end > len(lines):
            raise _LeaveItError
        yield _frame(_info(lines[place + 1].strip()), lines[place + 2 : end])
        place = end
    if any(line.strip() for line in lines[place:]):
        raise _LeaveItError


def _frame(info: dict[str, Any], lines: Sequence[str]) -> ase.Atoms:
    """Atoms from the pairs of the comment and the lines of the atoms."""
    n_numbers = _COLUMNS.get(info.pop("Properties", "species:S:1:pos:R:3"))
    if n_numbers is None:
        raise _LeaveItError
    # a cell without pbc is periodic in all directions
    pbc = info.pop("pbc", [True, True, True] if "Lattice" in info else None)
    cell = info.pop("Lattice", None)
    rows = [line.split() for line in lines]
    if min(map(len, rows)) <= n_numbers:
        raise _LeaveItError
    symbols, *columns = tuple(zip(*rows, strict=False))[: 1 + n_numbers]
    numbers = [atomic_numbers.get(symbol.capitalize(), -1) for symbol in symbols]
    if -1 in numbers:
        raise _LeaveItError
    table = np.array([_floats(column) for column in columns])
    results = {"forces": table[3:].T.copy()} if n_numbers > 3 else {}
    results |= {key: info.pop(key) for key in list(info) if key in _ENERGIES}
    atoms = ase.Atoms(
        numbers=np.array(numbers), positions=table[:3].T, cell=cell, pbc=pbc, info=info
    )
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _floats(words: Sequence[str]) -> list[float]:
    try:
        return list(map(float, words))
    except ValueError as error:
        raise _LeaveItError from error


def _info(comment: str) -> dict[str, Any]:
    """Pairs of a comment, each value converted as ASE does."""
    info: dict[str, Any] = {}
    place = 0
    while place < len(comment):
        pair = _PAIR.match(comment, place)
        if pair is None:
            raise _LeaveItError
        place = pair.end()
        text = pair["bare"]
        if pair["quoted"] is not None:
            text = _ESCAPED.sub(r"\1", pair["quoted"])
        is_short = text is None or len(text) <= _SHORT
        value = (_known_value if is_short else _value)(pair["key"], text)
        # what is kept for the next frame stays as it is
        info[pair["key"]] = value.copy() if isinstance(value, (list, np.ndarray)) else value
    return info


def _value(key: str, text: str | None) -> Any:
    """Numbers, truth values or text; of a key without a value, True."""
    if key == "Properties":
        if text is None:
            raise _LeaveItError
        return text
    text = "T" if text is None else text
    if text.startswith("_JSON ") or key.lower() == "uid" or key in _ARRAYS_3_3:
        raise _LeaveItError
    words = re.findall(r"[^\s,]+", text)
    if not words or key in _OTHER_RESULTS:
        raise _LeaveItError
    value = _converted(words)
    if key == "Lattice":
        if not isinstance(value, np.ndarray) or value.shape != (9,):
            raise _LeaveItError
        return value.reshape(3, 3)
    if key in _ENERGIES and not isinstance(value, (np.integer, np.floating)):
        raise _LeaveItError
    # words between quotes keep their spaces
    return text if isinstance(value, str) else value


_known_value = lru_cache(maxsize=256)(_value)
"""As :func:`_value`: charges, boundaries and columns recur in every frame."""


def _converted(words: Sequence[str]) -> Any:
    """Whole numbers if all are, else numbers, else truth values; text as the first word."""
    may_be_numbers = all(map(_NUMBER.fullmatch, words))
    for kind in (int, float) if may_be_numbers else ():
        try:
            numbers = np.array(words, dtype=kind)
        except (ValueError, OverflowError):
            continue
        return numbers[0] if len(numbers) == 1 else numbers
    if all(word in _TRUTH for word in words):
        truths = [_TRUTH[word] for word in words]
        return truths[0] if len(truths) == 1 else truths
    return words[0]
