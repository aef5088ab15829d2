"""TorchScript archives: tensors, numbers and modules as torch wrote them, and no code is read."""

import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoints import archive, refused
from torch import nn

from lesff.convert.reader import read_checkpoint


class Scripted(nn.Module):
    """Parameters, buffers, a child module, numbers, and tensors in a list."""

    steps: list[int]
    tables: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.register_buffer("shift", torch.tensor([1.5, -2.0], dtype=torch.float64))
        self.child = nn.Linear(3, 2)
        self.width, self.name = 2.5, "mean"
        self.steps = [3, 1]
        self.tables = [torch.ones(2), torch.zeros(3, dtype=torch.int64)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.child(x * self.width) @ self.weight + self.tables[0].sum() + self.shift.sum()


@pytest.fixture(scope="module")
def scripted(tmp_path_factory) -> tuple[Scripted, Path]:
    module, path = Scripted(), tmp_path_factory.mktemp("script") / "m.jpt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        torch.jit.save(torch.jit.script(module), path)
    return module, path


def test_every_tensor_has_its_name(scripted):
    module, path = scripted
    found = read_checkpoint(path).parameters_and_buffers()
    expected = module.state_dict()
    expected |= {f"tables[{i}]": table for i, table in enumerate(module.tables)}
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype


def test_numbers_and_modules_are_preserved(scripted):
    root = read_checkpoint(scripted[1])
    assert root.path.endswith("Scripted")
    assert root.submodule("child").path == "__torch__.torch.nn.modules.linear.Linear"
    for name in ("width", "name", "steps"):
        assert root.attribute(name) == getattr(scripted[0], name)


def test_constants_of_frozen_code_are_named(tmp_path, scripted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(torch.jit.script(Scripted().eval()))
        torch.jit.save(frozen, tmp_path / "frozen.jpt")
    found = read_checkpoint(tmp_path / "frozen.jpt").parameters_and_buffers()
    assert set(found) == {f"constants[{i}]" for i in range(len(found))}
    weight = Scripted().weight
    assert any(torch.equal(value, weight) for value in found.values() if value.shape == (2, 3))


def test_code_is_never_read(tmp_path, scripted):
    changed = tmp_path / "m.jpt"
    with zipfile.ZipFile(scripted[1]) as old, zipfile.ZipFile(changed, "w") as new:
        for info in old.infolist():
            is_code = "/code/" in info.filename
            new.writestr(info.filename, b"\xff no code" if is_code else old.read(info))
    found = read_checkpoint(changed).parameters_and_buffers()
    assert set(found) == set(read_checkpoint(scripted[1]).parameters_and_buffers())


_OBJECT = b"c__torch__.m\nA\n)\x81"
"""An object of a scripted class, without state."""
_EMPTY = b"\x80\2)."


@pytest.mark.parametrize(
    ("body", "constants", "match"),
    [
        (b"cos\nsystem\n)R}b", _EMPTY, "root is an object of os.system"),
        (_OBJECT + b"}b", b"\x80\2}.", "constants are a dict"),
        (_OBJECT + b"K\1b", _EMPTY, "no scripted module"),
        (_OBJECT + b"}X\1\0\0\0acos\nsystem\n)Rsb", _EMPTY, "os.system, which is no scripted"),
        (_OBJECT + b"}X\1\0\0\0a]" + _OBJECT + b"asb", _EMPTY, "in a list"),
        (_OBJECT + b"}K\1K\1sb", _EMPTY, "no plain name"),
        (_OBJECT + b"}X\1\0\0\0a]q\0h\0asb", _EMPTY, "more than 100000 members"),
    ],
)
def test_other_objects_are_refused(tmp_path, body, constants, match):
    path = archive(tmp_path / "m.jpt", b"\x80\2" + body + b".", **{"constants.pkl": constants})
    refused(path, match)


def test_missing_constant_is_refused(tmp_path):
    body = (
        b"\x80\2(ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n"
        b"X\1\0\0\x000X\3\0\0\0cpuK\1tQK\0))\x89ccollections\nOrderedDict\n)RtRt."
    )
    path = archive(
        tmp_path / "m.jpt",
        b"\x80\2" + _OBJECT + b"}b.",
        **{"constants.pkl": body, "data/0": bytes(4)},
    )
    refused(path, "its storage '0' is missing")
