"""The checkpoint reader against hostile and damaged files: nothing runs, hangs or fills memory."""

import builtins
import os
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import (
    MEGABYTES,
    Call,
    Holder,
    Small,
    archive,
    refuse_stream,
    refused,
    save,
    stream,
    tensor_stream,
)
from torch import nn

from lesff.convert import archive as zip_archive
from lesff.convert import unpickler as machine
from lesff.convert.reader import Record, read_checkpoint
from lesff.errors import IntegrityError, ModelNotFoundError


@pytest.fixture
def sentinel(tmp_path) -> Iterator[Path]:
    """A file that only executed code would create."""
    path = tmp_path / "sentinel"
    yield path
    assert not path.exists()


# --- Nothing is executed ----------------------------------------------------------------------


def attacks(sentinel: Path) -> dict[str, object]:
    code = f"open({str(sentinel)!r}, 'w').close()"
    return {
        "system": Call(os.system, f"touch {sentinel}"),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "open": Call(open, str(sentinel), "w"),
        "mkdir": Call(os.mkdir, str(sentinel)),
        "import": Call(builtins.__import__, "antigravity"),
        "torch.hub": Call(torch.hub.load, str(sentinel), "model"),
        "torch.jit": Call(torch.jit.load, str(sentinel)),
        "graph": Call(torch.fx.graph_module.reduce_graph_module, {"_code": code}, code),
        "argument": Call(print, Call(eval, code)),
        "dict": OrderedDict(a=Call(eval, code)),
        "set": {Call(eval, code)},
        "key": {Call(eval, code): 1},
    }


@pytest.mark.parametrize("name", sorted(attacks(Path("x"))))
def test_calls_become_records(tmp_path, sentinel, name):
    read = read_checkpoint(save(Holder(attacks(sentinel)[name]), tmp_path / "evil.pt"))
    value = read.attribute("value")
    assert isinstance(value, (Record, dict, set))


def test_call_keeps_function_and_arguments(tmp_path, sentinel):
    root = read_checkpoint(save(attacks(sentinel)["system"], tmp_path / "evil.pt"))
    assert (root.path, root.args) == (f"{os.system.__module__}.system", (f"touch {sentinel}",))


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (
            b"cbuiltins\ngetattr\ncbox\nModule\nX\6\0\0\0system\x86R)R",
            "calls an object of builtins.getattr",
        ),
        (b"cbuiltins\ngetattr\nX\2\0\0\0osX\6\0\0\0system\x86RX\1\0\0\0x\x85R", "getattr"),
        (b"X\6\0\0\0system)R", "calls a str"),
        (b"ctorch\nfloat32\n)R", "calls a dtype"),
        (b"cos\nsystem\nX\1\0\0\0xR", "os.system without a tuple"),
        (b"cos\nenviron\n}b", "state of os.environ"),
        (b"cos\nenviron\nK\1K\2s", "items of os.environ"),
        (b"cos\nenviron\nK\1a", "appends to os.environ"),
        (b"cos\nf\n)R}bK\1bK\1b", "state of an object of os.f"),
        (b"(X\6\0\0\0systemios\nsystem\n", "opcode b'i'"),
        (b"(cos\nsystem\nX\1\0\0\0xo", "opcode b'o'"),
        (b"\x82\1", "opcode"),
        (b"Px\n", "opcode b'P'"),
        (b"I1\n", "opcode b'I'"),
        (b"S'x'\n", "opcode b'S'"),
        (b"\x97", "opcode"),
        (b"\x80\2", "opcode"),
        (b"cos\n" + b"x" * 600 + b"\n", "endless name"),
        (b"cos;x\nsystem\n", "has the global"),
        (b"cos\nsys\x1b[0m\n", "has the global"),
        (b"c\n\n", "has the global"),
        (b"K\1K\1\x93", "without a name"),
        (b"c_codecs\nencode\nX\1\0\0\0xX\4\0\0\0zlib\x86R", "_codecs.encode with other"),
        (b"c_codecs\nencode\nX\3\0\0\0\xe2\x82\xacX\6\0\0\0latin1\x86R", "_codecs.encode with"),
        (b"ccollections\nOrderedDict\n]\x85R", "OrderedDict with other"),
        (b"c__builtin__\nset\nX\1\0\0\0a\x85R", "builtins.set with other"),
        (b"ctorch\nSize\n(J\xff\xff\xff\xfft\x85R", "torch.Size with other"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "_rebuild_tensor_v2 with other"),
        (b"ctorch._utils\n_rebuild_parameter\n(K\1\x89}tR", "_rebuild_parameter with other"),
        (b"}]K\1s", "a list as a key"),
        (b"}]\x85K\1s", "a tuple as a key"),
        (b"}(K\1u", "key without a value"),
        (b"K\1Q", "no storage"),
        (b"X\1\0\0\0\xff", "UTF-8"),
    ],
)
def test_tricks_are_refused(tmp_path, sentinel, body, match):
    refuse_stream(tmp_path, body, match)


# --- Limits -----------------------------------------------------------------------------------


def laughs() -> bytes:
    """Tuples of two of the former tuple: 2**150 leaves when written out."""
    return b"K\1" + b"q\0h\0\x86" * 150


def shared(opcodes: bytes, values: int, calls: int) -> bytes:
    """A long value built once and copied by many calls."""
    group = b"".join(b"X\4\0\0\0" + f"{i:04x}".encode() for i in range(values))
    return b"](" + group + b"eq\0" + opcodes * calls


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"X\xff\xff\xff\xff", "cut off"),
        (b"B\xff\xff\xff\xff", "cut off"),
        (b"\x8d" + b"\xff" * 8, "cut off"),
        (b"\x8e" + b"\xff" * 8, "cut off"),
        (b"\x8b\xff\xff\xff\xff", "integer of 4294967295 bytes"),
        (b"\x8a\xff" + b"\1" * 255, "integer of 255 bytes"),
        (b"r\0\0\0\x80", "memo index 2147483648"),
        (b"j\0\0\0\x80", "unknown memo index 2147483648"),
        (b"h\x05", "unknown memo index 5"),
        (b"0" * 10, "closes a group"),
        (b"e", "closes a group"),
        (b"0\x87", "empty stack"),
        (b"0s", "empty stack"),
        (b"0q\0", "empty stack"),
        (b"(", "empty stack"),
        (b"}" + laughs() + b"K\1s", "a tuple as a key"),
        (b")" + b"\x85" * 300, "deeper than 200"),
        (b"]" + b"q\x000]h\0a" * 300, "deeper than 200"),
        (b"N" + b"q\x000cx\ny\nh\0\x85R" * 300, "deeper than 200"),
        (b"\x8f(" + b"".join(b"M" + struct.pack("<H", i) for i in range(11000)) + b"\x90", "keys"),
        (shared(b"c__builtin__\nset\nh\0\x85R", 20000, 4000), "copies the same"),
    ],
)
def test_streams_beyond_the_limits_are_refused(tmp_path, body, match):
    refuse_stream(tmp_path, body, match)


@pytest.mark.parametrize("opcode", [b"(", b"\x8f", b"\x85", b"N0"])
def test_floods_of_opcodes_are_refused(tmp_path, opcode):
    count = machine.MAX_OPCODES // len(opcode) + 10
    refuse_stream(tmp_path, b")" + opcode * count, "more than 1000000 opcodes|closes a group")


def test_shared_values_cost_nothing(tmp_path):
    path = archive(tmp_path / "m.model", stream(b"}X\1\0\0\0a" + laughs() + b"s"))
    tracemalloc.start()
    try:
        read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < MEGABYTES
    finally:
        tracemalloc.stop()


def test_announced_lengths_cost_nothing(tmp_path):
    paths = [
        archive(tmp_path / f"{i}.model", stream(body))
        for i, body in enumerate(
            (
                b"X\xff\xff\xff\x7f",
                b"\x8b\xff\xff\xff\x7f",
                b"\x95" + b"\xff" * 8 + b"X",
                b"r\0\0\0\x80",
            )
        )
    ]
    tracemalloc.start()
    try:
        for path in paths:
            refused(path, "cut off|integer|memo")
        assert tracemalloc.get_traced_memory()[1] < MEGABYTES
    finally:
        tracemalloc.stop()


def test_bytes_copied_many_times_are_refused(tmp_path):
    text = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\0"
    call = b"c_codecs\nencode\nh\0X\6\0\0\0latin1\x86R"
    refuse_stream(tmp_path, text + call * 100, "copies the same")


def test_deep_records_are_released(tmp_path):
    body = b"N" + b"q\x000cx\ny\nh\0\x85R" * 100_000
    refuse_stream(tmp_path, body, "deeper than 200")


# --- Tensors ----------------------------------------------------------------------------------

DATA = {"data/0": torch.arange(4.0).numpy().tobytes()}


def test_hand_written_tensor_is_read(tmp_path):
    body = b"}X\1\0\0\0a" + tensor_stream(b"K\2\x85", b"K\2\x85", b"K\1") + b"s"
    read = read_checkpoint(archive(tmp_path / "m.model", stream(body), **DATA))
    assert read.attribute("a").tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("size", "stride", "offset", "match"),
    [
        (b"K\5\x85", b"K\1\x85", b"K\0", "beyond its storage"),
        (b"K\4\x85", b"K\1\x85", b"K\1", "beyond its storage"),
        (b"K\2\x85", b"K\4\x85", b"K\0", "beyond its storage"),
        (b"K\2K\2\x86", b"K\2K\2\x86", b"K\0", "beyond its storage"),
        (b")", b")", b"K\4", "beyond its storage"),
        (b"K\0\x85", b"K\1\x85", b"K\5", "beyond its storage"),
        (b"K\1\x85", b"K\1\x85", b"J\xff\xff\xff\xff", "malformed"),
        (b"J\xff\xff\xff\xff\x85", b"K\1\x85", b"K\0", "malformed"),
        (b"K\2\x85", b"J\xff\xff\xff\xff\x85", b"K\1", "malformed"),
        (b"\x88\x85", b"K\1\x85", b"K\0", "malformed"),
        (b"K\1K\1\x86", b"K\1\x85", b"K\0", "malformed"),
        (b"(" + b"K\1" * 65 + b"t", b"(" + b"K\1" * 65 + b"t", b"K\0", "malformed"),
        (b"\x8a\x08" + b"\xff" * 7 + b"\x7f\x85", b"K\0\x85", b"K\0", "malformed"),
        (b"J\0\0\0\x7f\x85", b"K\0\x85", b"K\0", "repeats"),
        (b"J\0\0\0\x7fJ\0\0\0\x7f\x86", b"K\0K\0\x86", b"K\0", "of size"),
        (b"K\0J\0\0\0\x7fJ\0\0\0\x7f\x87", b"K\0K\0K\0\x87", b"K\0", "of size"),
        (b"K\1", b"K\1\x85", b"K\0", "with other arguments"),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, size, stride, offset, match):
    refuse_stream(tmp_path, tensor_stream(size, stride, offset), match, **DATA)


@pytest.mark.parametrize(
    ("kind", "data", "match"),
    [
        (b"FloatStorage", b"", "missing or not of 4"),
        (b"FloatStorage", b"\0" * 15, "missing or not of 4"),
        (b"DoubleStorage", b"\0" * 16, "missing or not of 4"),
        (b"BoolStorage", b"\0\1\2\1", "booleans"),
        (b"QInt8Storage", b"\0" * 4, "unsupported type torch.QInt8Storage"),
        (b"float32", b"\0" * 4, "unsupported type a dtype"),
    ],
)
def test_bad_storages_are_refused(tmp_path, kind, data, match):
    body = tensor_stream(b"K\4\x85", b"K\1\x85", kind=kind)
    refuse_stream(tmp_path, body, match, **{"data/0": data})
    refuse_stream(tmp_path, body, "missing|unsupported")


def test_storage_with_two_types_is_refused(tmp_path):
    one = tensor_stream(b"K\4\x85", b"K\1\x85")
    two = tensor_stream(b"K\4\x85", b"K\1\x85", kind=b"IntStorage")
    refuse_stream(tmp_path, one + two, "two types", **DATA)


# --- Archives ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../data.pkl", "/data.pkl", "model/../data.pkl", "model/data/../../x", "model\\data.pkl",
        "model/data/0/x", "model/data/x", "model/evil.py", "data/0", "a/b/data.pkl", "model/data/",
        "./data/0", "../data/0",
    ],
)  # fmt: skip
def test_suspicious_members_are_refused(tmp_path, name):
    path = archive(tmp_path / "m.model", stream(b"}"))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"")
    refused(path, "not one of a torch checkpoint|two members|single folder")


def test_two_folders_or_none_are_refused(tmp_path):
    path = archive(tmp_path / "m.model", stream(b"}"))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("other/data/0", b"")
    refused(path, "single folder")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/version", b"3")
    refused(path, "single folder")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_members_are_refused(tmp_path):
    path = archive(tmp_path / "m.model", stream(b"}"))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("model/data.pkl", stream(b"}"))
    refused(path, "two members 'model/data.pkl'")


def test_compressed_members_are_refused(tmp_path):
    bomb = {"data/0": b"\0" * 2**24}
    path = archive(tmp_path / "m.model", stream(b"}"), method=zipfile.ZIP_DEFLATED, **bomb)
    refused(path, "compressed")


def test_overlapping_members_are_refused(tmp_path):
    path = archive(tmp_path / "m.model", stream(b"}"), **{"data/0": b"\0" * 10_000})
    with zipfile.ZipFile(path, "a") as file:
        for key in range(1, 4):  # directory entries that point at the same bytes again
            info = zipfile.ZipInfo(f"model/data/{key}")
            first = file.getinfo("model/data/0")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(info, field, getattr(first, field))
            file.filelist.append(info)
        file._didModify = True
    refused(path, "larger than the file")


@pytest.mark.parametrize("order", [b"big", b"", b"x" * 1000])
def test_other_byte_orders_are_refused(tmp_path, order):
    refused(archive(tmp_path / "m.model", stream(b"}"), byteorder=order), "little-endian")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "m.model"
    for contents in (b"", b"PK", b"\x80\x02}.", b"\x7fELF" * 100, b"PK\3\4" * 100):
        path.write_bytes(contents)
        refused(path, "no zip checkpoint|cut off")
    legacy = save(nn.Linear(1, 1), path, _use_new_zipfile_serialization=False)
    refused(legacy, "save it again with torch.save")
    refused(save({"a": torch.ones(1)}, path), "holds a dict, not a whole module")
    refused(save(nn.Linear, path), "holds .*Linear, not a whole module")
    with pytest.raises(ModelNotFoundError, match="not a file"):
        read_checkpoint(tmp_path)


def test_trailing_bytes_and_prefixes_are_refused(tmp_path):
    path = archive(tmp_path / "m.model", stream(b"}"))
    good = path.read_bytes()
    path.write_bytes(good + b"x")
    refused(path, "bytes after the zip")
    path.write_bytes(b"x" + good)
    refused(path, "no zip checkpoint")
    refused(archive(path, stream(b"}") + b"x"), "does not end with one object")
    refused(archive(path, stream(b"}")[:-1]), "cut off")
    refused(archive(path, b"}."), "not of protocol")
    refused(archive(path, b"\x80\x06}."), "not of protocol")


def test_sizes_are_limited(tmp_path, monkeypatch):
    path = archive(tmp_path / "m.model", stream(b"}"))
    for name, match in {
        "MAX_FILE_BYTES": "bytes, more than 3",
        "MAX_PICKLE_BYTES": "data.pkl has more than 3",
        "MAX_DIRECTORY_BYTES": "directory has",
        "MAX_MEMBERS": "members, more than 1",
        "MAX_OPCODES": "more than 3 opcodes",
    }.items():
        with monkeypatch.context() as context:
            owner = machine if name == "MAX_OPCODES" else zip_archive
            context.setattr(owner, name, 1 if name == "MAX_MEMBERS" else 3)
            refused(path, match)


# --- Damaged files ----------------------------------------------------------------------------


def assert_harmless(path: Path) -> bool:
    """Whether the file was read; anything but a record or an IntegrityError fails."""
    try:
        root = read_checkpoint(path)
        root.parameters_and_buffers()
    except IntegrityError:
        return False
    return isinstance(root, Record)


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """One to five bytes changed, bits flipped, pieces cut out or opcodes put in."""
    changed = bytearray(data)
    opcodes = np.frombuffer(b"\xff\0().}]NRbQeu\x81\x85q\0h\1", dtype=np.uint8)
    for _ in range(generator.choice([1, 1, 2, 5])):
        start = int(generator.integers(len(changed)))
        kind = generator.integers(4)
        if kind == 0:
            changed[start] = generator.integers(256)
        elif kind == 1:
            changed[start] ^= 1 << int(generator.integers(8))
        elif kind == 2:
            del changed[start : start + int(generator.integers(1, 9))]
        else:
            changed[start:start] = generator.choice(opcodes, 3).tobytes()
    return bytes(changed)


def test_mutated_files_raise_nothing_else(tmp_path):
    good = save(Small(), tmp_path / "good.pt").read_bytes()
    generator = np.random.default_rng(5)
    path = tmp_path / "mutated.pt"
    for _ in range(300):
        path.write_bytes(mutate(good, generator))
        assert_harmless(path)


def test_mutated_streams_raise_nothing_else(tmp_path):
    """Mutations behind a correct checksum, which reach the interpreter."""
    with zipfile.ZipFile(save(Small(), tmp_path / "good.pt")) as file:
        members = {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}
    good = members.pop("data.pkl")
    generator = np.random.default_rng(6)
    read = 0
    for _ in range(600):
        path = archive(tmp_path / "mutated.pt", mutate(good, generator), **members)
        read += assert_harmless(path)
    assert 0 < read < 600  # some mutations only change numbers


def test_truncated_files_are_refused(tmp_path):
    good = save(nn.Linear(2, 2), tmp_path / "good.pt").read_bytes()
    path = tmp_path / "cut.pt"
    for size in range(0, len(good), 17):
        path.write_bytes(good[:size])
        refused(path, "cut off|no zip")
