"""Every command ends in one line of error, never a traceback, whatever the machine does.

The faults are those of the kernel where it can be had: a limit of zero bytes on files that are
written, folders below /proc, pipes that nobody reads, real interrupts.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from helpers import tiny_potential
from labelled_frames import RECIPE, write_frames
from published_site import cut_network

from lesff.cli.main import COMMANDS, main
from lesff.cli.terminal import escaped, explain, one_line
from lesff.model_folder.folder import save_model

COMMON = ["-m", "MODEL", "-o", "OUT/o"]
ARGUMENTS: dict[str, list[str]] = {
    "list": [],
    "info": ["MODEL"],
    "cite": ["mace-mp-0-medium"],
    "pull": ["mace-mp-0-medium", "--from", "FILE"],
    "predict": ["FRAMES", "-m", "MODEL", "-o", "OUT/o.xyz"],
    "screen conductors": ["FRAMES", *COMMON, "--mobile", "H"],
    "diffusion": ["FRAMES", "-o", "OUT/o", "--species", "H", "--dt", "1"],
    "relax": ["FRAMES", *COMMON, "--steps", "1"],
    "md": ["FRAMES", *COMMON, "--steps", "1"],
    "vibrations": ["FRAMES", *COMMON],
    "phonons": ["FRAMES", *COMMON],
    "eos": ["FRAMES", *COMMON],
    "elastic": ["FRAMES", *COMMON],
    "neb": ["FRAMES", *COMMON],
    "interface build": ["FRAMES", "FRAMES", "-o", "OUT/o.extxyz"],
    "interface run": ["FRAMES", *COMMON, "--stage", "300:10"],
    "interface analyse": ["FRAMES", "-o", "OUT/o", "--dt", "1"],
    "spectrum": ["FRAMES", *COMMON, "--dt", "1", "--kind", "vdos"],
    "transport": ["FRAMES", *COMMON, "--dt", "1"],
    "split": ["FRAMES", "-o", "OUT/o"],
    "train": ["RECIPE", "--data", "DATA", "-o", "OUT/o"],
    "finetune": ["FRAMES", *COMMON, "--minutes", "0.001", "--config", "FILE"],
    "distill": ["--teacher", "MODEL", "--structures", "FRAMES", "-o", "OUT/o", "--labels-only",
                "--sample", "rattle", "--frames", "2"],
    "calibrate": ["MODEL", "--train", "FRAMES", "--validation", "FRAMES", "-o", "OUT/o"],
    "select": ["FRAMES", "-n", "1", "-m", "MODEL", "-o", "OUT/o.xyz", "--without-calibration"],
    "evaluate": ["MODEL", "FRAMES", "--json", "OUT/o.json"],
    "verify": ["MODEL", "--key", "KEY"],
    "sign": ["MODEL", "--key", "KEY"],
    "convert": ["FILE", "OUT/o"],
    "publish": ["MODEL", "--check"],
    "doctor": [],
    # no run: MPI is not to end the process of the tests, and a driver waits for its server
    "lammps": ["OUT/missing", "-m", "MODEL"],
    "ipi": ["OUT/missing", "-m", "MODEL"],
    "hub lock": ["off-small", "-o", "OUT/o.lock"],
    "hub mirror": ["OUT/o", "off-small"],
    "serve": ["-m", "FILE"],
    "hub site": ["OUT/o"],
    "hub serve": ["FILE", "--host", "256.0.0.1", "--port", "0"],
    "hub update": ["FILE", "--key", "KEY"],
    "hub sign": ["DATA", "-o", "OUT/o.json", "--serial", "1", "--key", "KEY"],
    "cache list": [],
    "cache verify": [],
    "cache prune": [],
}  # fmt: skip
"""Arguments by command; words in capital letters stand for files."""

ALWAYS_DONE = {"list", "cite", "doctor", "hub site", "cache list", "cache prune"}
"""Commands that need none of the files."""


def every_command() -> list[str]:
    found = []
    for section in COMMANDS.values():
        for name in section:
            command = main.get_command(click.Context(main), name)
            if isinstance(command, click.Group):
                found += [f"{name} {inner}" for inner in command.commands]
            else:
                found.append(name)
    return found


def test_every_command_is_tried() -> None:
    assert sorted(ARGUMENTS) == sorted(every_command())


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("material")
    card = "---\nlicense: mit\ndescription: A test.\ncitation: Nobody.\n---\n\n" + "word " * 80
    save_model(tiny_potential(), root / "model", card=card, license_text="word " * 80)
    (root / "data").mkdir()
    write_frames(root / "data" / "train.xyz")
    (root / "recipe.toml").write_text(RECIPE.format(max_steps=1, validate_every=1))
    (root / "file").write_text("")
    key = root / "key.pem"
    made = ed25519.Ed25519PrivateKey.generate()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.write_bytes(made.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    return {
        "MODEL": root / "model",
        "FRAMES": root / "data" / "train.xyz",
        "DATA": root / "data",
        "RECIPE": root / "recipe.toml",
        "FILE": root / "file",
        "KEY": key,
        "OUT": root,
    }


@pytest.fixture
def files(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Path]:
    """The same files for every test, nothing shared, no network."""
    monkeypatch.setenv("LESFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LESFF_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("LESFF_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    cut_network(monkeypatch)
    copy = tmp_path / "material"
    shutil.copytree(material["OUT"], copy)
    return {name: copy / path.relative_to(material["OUT"]) for name, path in material.items()}


def call(command: str, files: dict[str, Path]) -> Result:
    words = [*command.split()]
    for word in ARGUMENTS[command]:
        name, _, rest = word.partition("/")
        words.append(str(files[name] / rest) if name in files else word)
    return CliRunner().invoke(main, words)


def check_ends_well(result: Result, *, codes: tuple[int, ...] = (0, 1, 2)) -> None:
    """One line that begins with ``Error`` and no traceback; an exit code to go with it."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in codes, result.output
    assert "Traceback" not in result.output
    assert "this is a fault of lesff" not in result.output
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert len(lines) == (1 if result.exit_code else 0), result.output
    if result.exit_code:
        assert result.output.splitlines()[-1] == lines[0]
        assert len(lines[0]) > len("Error: ") + 5


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """No file can grow: every write fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITES = [name for name, words in ARGUMENTS.items() if any("OUT/" in word for word in words)]


@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_full_disk(command: str, files: dict[str, Path]) -> None:
    with no_room():
        result = call(command, files)
    check_ends_well(result)
    if command in WRITES:
        assert result.exit_code, result.output


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder where not even root can write")
@pytest.mark.parametrize("command", ARGUMENTS)
def test_folders_that_cannot_be_written(
    command: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LESFF_CACHE", "/proc/none/cache")
    monkeypatch.setenv("LESFF_STATE", "/proc/none/state")
    result = call(command, files | {"OUT": Path("/proc/none")})
    check_ends_well(result)
    if command in WRITES:
        assert result.exit_code, result.output


@pytest.mark.parametrize("command", ARGUMENTS)
def test_missing_files(command: str, files: dict[str, Path], tmp_path: Path) -> None:
    result = call(command, {name: tmp_path / "none" / name for name in files})
    check_ends_well(result)
    assert bool(result.exit_code) == (command not in ALWAYS_DONE | {"cache verify", "hub lock",
                                                                   "hub mirror"})  # fmt: skip


@pytest.mark.parametrize("command", ARGUMENTS)
def test_folders_in_place_of_files(command: str, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    check_ends_well(call(command, dict.fromkeys(files, tmp_path / "folder")))


ODD = {
    "empty": b"",
    "cut": b'{"architecture": {',
    "list": b"[]",
    "null": b"null",
    "number": b"1e999",
    "infinity": b'{"reference_energies": [1e999]}',
    "digits": b'{"format_version": ' + b"9" * 5000 + b"}",
    "deep": b"[" * 100_000,
    "twice": b'{"a": 1, "a": 2}',
    "no text": b"\xff\xfe\x00\x80",
    "sequences": b'{"\\u001b[2J": "\\u001b]0;x\\u0007"}',
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "command", ["info", "predict", "verify", "publish", "hub update", "hub sign", "finetune",
                "convert", "split", "train", "evaluate", "select"],
)  # fmt: skip
def test_odd_files(command: str, odd: str, files: dict[str, Path]) -> None:
    for path in (files["MODEL"] / "config.json", files["FILE"], files["RECIPE"], files["FRAMES"]):
        path.write_bytes(ODD[odd])
    (files["DATA"] / "entry.json").write_bytes(ODD[odd])
    Path(f"{files['FILE']}.sig").write_bytes(ODD[odd])
    result = call(command, files)
    check_ends_well(result, codes=(1, 2))
    assert "\x1b" not in result.output


@pytest.mark.parametrize("odd", ODD)
def test_odd_files_in_cache_and_state(odd: str, files: dict[str, Path], tmp_path: Path) -> None:
    for path in (
        "cache/models/off-small/1.1.0/config.json",
        "cache/published/x.json",
        "state/manifest/manifest.json",
        "state/manifest/manifest.json.sig",
        "state/manifest/key.pem",
        "state/remembered/models/x.json",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(ODD[odd])
    for command in ("list", "info", "cache list", "cache verify", "hub update", "hub lock"):
        check_ends_well(call(command, files))


def raising(error: BaseException) -> Any:
    def callback(*_args: object, **_kwargs: object) -> None:
        raise error

    return callback


def command_of(name: str) -> click.Command:
    words = name.split()
    command = main.get_command(click.Context(main), words[0])
    assert command is not None
    return command.commands[words[1]] if isinstance(command, click.Group) else command


ERRORS = [
    (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "(/x/y): make room and run again"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "make room and run again"),
    (PermissionError(errno.EACCES, "Permission denied", "/x"), "(/x): check the permissions"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), "Broken pipe"),
    (MemoryError(), "not enough memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
    (RecursionError("maximum recursion depth"), "nested too deeply"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "must be UTF-8 text"),
    (TypeError("two\nlines \x1b[2J"), r"two lines \u001b[2J"),
    (KeyError(), "KeyError: no message"),
    (AssertionError(), "AssertionError"),
]


@pytest.mark.parametrize("command", ARGUMENTS)
def test_any_exception_is_one_line(
    command: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, text in ERRORS:
        monkeypatch.setattr(command_of(command), "callback", raising(error))
        result = call(command, files)
        assert isinstance(result.exception, SystemExit)
        assert result.exit_code == 1
        assert result.output.startswith("Error: ")
        assert len(result.output.splitlines()) == 1
        assert text in result.output


@pytest.mark.parametrize("command", ARGUMENTS)
def test_an_interrupt_is_one_line_and_130(
    command: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_of(command), "callback", raising(KeyboardInterrupt()))
    result = call(command, files)
    assert (result.exit_code, result.output) == (130, "Error: interrupted\n")


def test_a_traceback_can_be_had(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_of("doctor"), "callback", raising(TypeError("x")))
    monkeypatch.setenv("LESFF_TRACEBACK", "1")
    assert isinstance(call("doctor", files).exception, TypeError)


PROGRAM = [sys.executable, "-m", "lesff"]


@pytest.mark.slow
def test_a_real_interrupt(files: dict[str, Path]) -> None:
    mirror = files["OUT"] / "mirror"
    mirror.mkdir()
    command = [*PROGRAM, "distill", "--teacher", str(files["MODEL"]), "--structures",
               str(files["FRAMES"]), "-o", str(files["OUT"] / "run"), "--sample", "rattle",
               "--frames", "100000", "--labels-only"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    time.sleep(12.0)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error.splitlines()[-1] == "Error: interrupted"
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["doctor"], ["cite", "mace-mp-0"]])
def test_output_that_cannot_be_written(arguments: list[str]) -> None:
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(  # noqa: S603
                [*PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("Error: ") or done.stderr.startswith("Usage")
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(  # noqa: S603
        [*PROGRAM, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


# what reaches the terminal


EVIL = "\x1b]0;title\x07\x1b[2J\x9b31m\u202eevil\x08\x7f\rover"


def test_a_card_cannot_move_the_cursor(files: dict[str, Path]) -> None:
    card = files["MODEL"] / "README.md"
    card.write_text(card.read_text() + EVIL + "\n\ttab stays\n", newline="")
    output = call("info", files).output
    # click leaves out colours and the like where there is no terminal
    assert r"\u001b]0;title\u0007" in output
    assert r"\u009b31m\u202eevil\u0008\u007f" in output
    assert "\ttab stays\n" in output
    assert set(output) & {"\x1b", "\x07", "\x9b", "\x08", "\x7f", "\r", "\u202e"} == set()


def test_names_and_configurations_cannot_move_the_cursor(files: dict[str, Path]) -> None:
    config = files["MODEL"] / "config.json"
    data = json.loads(config.read_text())
    config.write_text(json.dumps(data | {EVIL: 1}))
    for command in ("info", "verify", "predict", "publish"):
        assert "\x1b" not in call(command, files).output
    evil = files["OUT"] / f"none{EVIL}"
    assert "\x1b" not in call("predict", files | {"FRAMES": evil}).output
    assert "\x1b" not in CliRunner().invoke(main, [EVIL]).output


def test_json_stays_exact(files: dict[str, Path]) -> None:
    """Escapes of the terminal are those of JSON."""
    saved = files["OUT"] / "evil"
    potential = tiny_potential()
    object.__setattr__(potential.config, "level_of_theory", EVIL)
    save_model(potential, saved, card="card", license_text="text")
    result = CliRunner().invoke(main, ["info", str(saved), "--json"])
    assert json.loads(result.output)["level_of_theory"] == EVIL
    assert "\x7f" not in result.output


def test_lines_and_their_length() -> None:
    assert one_line("a\r\n\n  b\x0bc\u2028d") == "a b c d"
    assert len(one_line("x" * 10**6)) < 2100
    assert escaped("a\tb\nc") == "a\tb\nc"
    assert explain(OSError("plain")).startswith("OSError: plain")
