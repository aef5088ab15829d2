"""Checkpoints for the tests of the reader: honest ones, hand-written streams, refusals."""

import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from lesff.convert.reader import read_checkpoint
from lesff.errors import IntegrityError

ROOT = Path(__file__).parents[1]
UPSTREAM = ROOT.parent / "shared" / "upstream"
SECONDS = 20.0
"""Bound on the time of any file: a hang, not a slow machine, is what fails."""
MEGABYTES = 64 * 2**20

GET = b"h\x00"
STORAGE_REFERENCE = b"(X\x07\0\0\0storagectorch\n%s\nX\x01\0\0\0%sX\x03\0\0\0cpu%stQ"
OPEN_MODULE = b"cbox\nModule\n)\x81"
"""An object of an unknown class, so that the root is a record."""


class Small(nn.Module):
    """Every kind of tensor and of plain attribute."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.layers = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Sequential(nn.Linear(1, 2))])
        self.weights = nn.ParameterList([torch.randn(2, 3), torch.randn(1)])
        self.tied = self.linear.weight
        self.names = ["default", "other"]
        self.constants = {"cutoff": 4.5, "p": 5, "on": True, "none": None, 3: ("a", (1, -7))}
        self.large = (2**31, -(2**31), 2**62, -(2**100))
        self.members = {"a", "b"}
        self.raw = bytes(range(256))
        self.empty = b""
        self.window = slice(1, None, 2)
        self.kind = torch.bfloat16
        self.shape = torch.Size([2, 3])
        self.activation = torch.nn.functional.silu
        base = torch.arange(24, dtype=torch.float64)
        for name, value in {
            "base": base,
            "view": base.view(4, 6)[1:, ::2].T,
            "scalar": torch.tensor(-0.0),
            "nan": torch.tensor([float("nan"), float("inf")]),
            "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 5),
            "nothing": torch.zeros(0, 3),
            "bfloat": torch.randn(5).to(torch.bfloat16),
            "half_values": torch.randn(5).half(),
            "complex_values": torch.randn(3, dtype=torch.complex64),
            "flags": torch.tensor([True, False, True]),
            **{
                f"{dtype}_values"[6:]: torch.tensor([1, 2, 127], dtype=dtype)
                for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
            },
        }.items():
            self.register_buffer(name, value)
        self.register_buffer("absent", None)
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.register_parameter("missing", None)


class Call:
    """Pickles as a call, the way every attack does."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


class Holder(nn.Module):
    """A module with one attribute."""

    def __init__(self, value):
        super().__init__()
        self.value = value


def save(module, path: Path, **options) -> Path:
    torch.save(module, path, **options)
    return path


def archive(path: Path, stream: bytes, /, method=zipfile.ZIP_STORED, **members: bytes) -> Path:
    """A checkpoint with the given pickle stream."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, contents in {"data.pkl": stream, "byteorder": b"little", **members}.items():
            file.writestr(f"model/{name}", contents)
    return path


def stream(body: bytes, protocol: int = 2) -> bytes:
    """A pickle stream whose root is a module with the state left by `body`."""
    return b"\x80" + bytes([protocol]) + OPEN_MODULE + body + b"b."


def refused(path: Path, match: str) -> None:
    begin = time.monotonic()
    with pytest.raises(IntegrityError, match=match) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 500
    assert time.monotonic() - begin < SECONDS


def refuse_stream(folder: Path, body: bytes, match: str, **members: bytes) -> None:
    refused(archive(folder / "bad.model", stream(body), **members), match)


def tensor_stream(
    size: bytes, stride: bytes, offset: bytes = b"K\0", kind: bytes = b"FloatStorage"
) -> bytes:
    storage = STORAGE_REFERENCE % (kind, b"0", b"K\x04")
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + offset
        + size
        + stride
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )
