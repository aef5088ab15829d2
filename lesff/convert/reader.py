"""Inert reader of torch zip files: pickled and scripted modules become data, nothing is executed.

A checkpoint is a zip archive with a pickle stream `data.pkl` and one raw member per storage. The
stream is interpreted here, opcode by opcode: a global is never looked up, it only gives a `Record`
with its dotted path, and a call only gives a `Record` with the arguments. The few exceptions (plain
containers, bytes, types and tensors over bounds-checked storages) are the table
`unpickler._CALLS`.

A TorchScript archive has the same stream of objects, another one of constants, and code. The code
is never read: what a module computes is known from its class and its paper, or it is refused.

Limits keep hostile files cheap; see the constants of the modules. Values may share parts many times
over, so code that walks them must count its steps, as `Record.parameters_and_buffers` does.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import BinaryIO

from lesff.convert.archive import (
    ZIP_ERRORS,
    Storages,
    byte_order,
    check_ends,
    check_members,
    read_member,
)
from lesff.convert.record import RESAVE, Record, RefusedError, shown
from lesff.convert.script import sort_members
from lesff.convert.unpickler import InertUnpickler
from lesff.errors import IntegrityError, ModelNotFoundError

__all__ = ["Record", "read_checkpoint"]


def read_checkpoint(path: Path) -> Record:
    """Root object of a torch zip checkpoint or a TorchScript archive as inert data.

    Args:
        path: File written by `torch.save` of a whole module (`.model`, `.pt`), or by
            `torch.jit.save` (`.jpt`, `.pt`).

    Returns:
        The pickled object; tensors are on the CPU, share storages as in the file and need no
        gradient. Of a TorchScript archive: the module, whose members are sorted as eager ones are
        (:mod:`lesff.convert.script`); tensors among the constants of its code are buffers
        `constants[0]`, `constants[1]`, ... of the root.

    Raises:
        ModelNotFoundError: `path` is no file.
        IntegrityError: The file is damaged, of another format, or asks for what no model needs.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"{path} is not a file; check the path of the checkpoint")
    try:
        with path.open("rb") as handle:
            root = _read_root(handle)
    except RefusedError as error:
        raise IntegrityError(f"{path} is refused: {error}") from None
    return root


def _read_root(handle: BinaryIO) -> Record:
    check_ends(handle)
    try:
        archive = zipfile.ZipFile(handle)
    except ZIP_ERRORS as error:
        raise RefusedError(f"its zip archive is damaged ({error})") from None
    members = check_members(archive)
    if byte_order(archive, members) != b"little":
        raise RefusedError("its numbers are not little-endian", RESAVE)
    stream = read_member(archive, members["data.pkl"])
    root = InertUnpickler(stream, Storages(archive, members)).run()
    if not isinstance(root, Record) or root.args is None:
        raise RefusedError(f"it holds {shown(root)}, not a whole module", RESAVE)
    if "constants.pkl" not in members:
        return root
    stream = read_member(archive, members["constants.pkl"])
    constants = InertUnpickler(stream, Storages(archive, members, "constants")).run()
    sort_members(root, constants)
    return root
