"""Runs over many structures: resumed by content, sharded, with a table of what was skipped."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from bulk_structures import MODEL, predict, rattled, write_frames

import lesff
from lesff.bulk import engine
from lesff.bulk.compute import ChunkResult, Task, compute_chunk
from lesff.bulk.run import parse_shard
from lesff.errors import ConfigError

FRAMES, CHUNK = 230, 20
WHAT = ("-p", "energy,forces,dipole", "--chunk", CHUNK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of frames, one in a hundred bad, and what an uninterrupted run makes of it."""
    path = tmp_path_factory.mktemp("bulk")
    bad = write_frames(path / "in.xyz", FRAMES)
    (path / "bad.json").write_text(json.dumps(bad))
    predict(path / "in.xyz", "-o", path / "ref.parquet", *WHAT, "--on-error", "skip")
    return path


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the chunks that are computed, in order."""
    found: list[int] = []

    def counted(task: Task) -> ChunkResult:
        found.append(task.chunk.index)
        return compute_chunk(task)

    monkeypatch.setattr(engine, "compute_chunk", counted)
    return found


def skipped(path: Path) -> list[dict[str, str]]:
    with path.with_name(f"{path.name}.skipped.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_what_is_skipped_is_listed_with_reasons(folder: Path) -> None:
    bad = json.loads((folder / "bad.json").read_text())
    rows = skipped(folder / "ref.parquet")
    assert [int(row["index"]) for row in rows] == bad
    assert {row["source"] for row in rows} == {str(folder / "in.xyz")}
    assert "element(s) Au" in rows[0]["reason"]
    assert "they overlap" in rows[1]["reason"]
    # no number of a batch, and one line each
    assert not any("structure" in row["reason"] or "\n" in row["reason"] for row in rows)


def test_good_structures_of_a_chunk_do_not_feel_the_bad_ones(folder: Path, tmp_path: Path) -> None:
    """The same bytes as without the bad frames, apart from their numbers and the chunks' ends."""
    frames = ase.io.read(folder / "in.xyz", ":")
    good = [atoms for i, atoms in enumerate(frames[:60]) if i != 37]
    ase.io.write(tmp_path / "some.xyz", frames[:60])
    ase.io.write(tmp_path / "good.xyz", good)
    for name in ("some", "good"):
        predict(tmp_path / f"{name}.xyz", "-o", tmp_path / f"{name}.npz", "--on-error", "skip")
    with np.load(tmp_path / "some.npz") as some, np.load(tmp_path / "good.npz") as other:
        assert len(some["energy"]) == 59
        assert np.array_equal(some["energy"], other["energy"])
        assert np.array_equal(some["forces"], other["forces"])


def test_stop_names_the_structure_and_keeps_what_is_done(
    folder: Path, tmp_path: Path, computed: list[int]
) -> None:
    out = tmp_path / "out.parquet"
    text = predict(folder / "in.xyz", "-o", out, *WHAT, code=1).output
    assert "in.xyz, frame 37: has element(s) Au" in text
    assert "--on-error skip" in text
    assert not out.exists()
    assert computed == [0, 1]
    predict(folder / "in.xyz", "-o", out, *WHAT, "--on-error", "skip")
    assert computed == [0, 1, *range(1, 12)]
    assert out.read_bytes() == (folder / "ref.parquet").read_bytes()
    # a run that stops at the bad frame does not take the chunk that has it for done
    out.with_name(f"{out.name}.run.json").unlink()
    predict(folder / "in.xyz", "-o", out, *WHAT, "--on-error", "skip", "--keep-chunks")
    assert "frame 37" in predict(folder / "in.xyz", "-o", out, "--charge", 0, *WHAT, code=1).output


def test_stop_of_a_single_chunk_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    predict(folder / "in.xyz", "-o", tmp_path / "out.extxyz", code=1)
    assert list(tmp_path.iterdir()) == []


def test_what_is_done_is_not_computed_again(
    folder: Path, tmp_path: Path, computed: list[int]
) -> None:
    source, out = tmp_path / "in.xyz", tmp_path / "out.jsonl"
    frames = rattled(100)
    ase.io.write(source, frames)
    arguments = [source, "-o", out, *WHAT, "--keep-chunks"]
    predict(*arguments)
    before = out.read_bytes()
    assert computed == [0, 1, 2, 3, 4]
    assert "is complete already" in predict(*arguments).output
    # the output is lost: it is joined again
    out.unlink()
    assert "5 of 5 chunks were done before" in predict(*arguments).output
    assert out.read_bytes() == before
    assert len(computed) == 5
    # one structure changes, more come: one chunk and the new one
    frames[45].positions[0, 0] += 0.01
    ase.io.write(source, [*frames, *rattled(7, seed=1)])
    text = predict(*arguments).output
    assert "is of another run" in text
    assert computed[5:] == [2, 5]
    assert len(out.read_text().splitlines()) == 107


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--charge", 1, "--spin", 2], "total_charge: None -> 1"),
        (["-p", "energy"], "properties: "),
        (["--dtype", "float64"], "dtype: float32 -> float64"),
        (["-m", "off-medium"], "model: off-small@"),
    ],
)
def test_changed_options_and_models_are_noticed(
    tmp_path: Path, computed: list[int], change: list[str], named: str
) -> None:
    source, out = tmp_path / "in.xyz", tmp_path / "out.jsonl"
    ase.io.write(source, rattled(4))
    predict(source, "-o", out, "--chunk", 2, "--keep-chunks", "-p", "energy,forces")
    out.unlink()
    text = predict(source, "-o", out, "--chunk", 2, "-p", "energy,forces", *change).output
    assert named in text
    assert "not used" in text
    assert computed == [0, 1, 0, 1]


def test_damaged_parts_are_computed_again(tmp_path: Path, computed: list[int]) -> None:
    source, out = tmp_path / "in.xyz", tmp_path / "out.extxyz"
    ase.io.write(source, rattled(6))
    predict(source, "-o", out, "--chunk", 2, "--keep-chunks")
    before = out.read_bytes()
    out.unlink()
    parts = sorted((tmp_path / "out.extxyz.parts").glob("*.extxyz"))
    parts[0].write_bytes(parts[0].read_bytes()[:-10])
    parts[1].with_suffix(".json").write_text("{")
    predict(source, "-o", out, "--chunk", 2)
    assert len(computed) == 5
    assert out.read_bytes() == before


def test_shards_together_are_the_whole(folder: Path, tmp_path: Path, computed: list[int]) -> None:
    out = tmp_path / "out.parquet"
    for place in (3, 1, 2):
        arguments = [folder / "in.xyz", "-o", out, *WHAT, "--on-error", "skip"]
        text = predict(*arguments, "--shard", f"{place}/3").output
        assert out.exists() == (place == 2)
        assert ("chunks are done" in text) == (place != 2)
    assert sorted(computed) == list(range(12))
    assert out.read_bytes() == (folder / "ref.parquet").read_bytes()
    assert skipped(out) == skipped(folder / "ref.parquet")


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_shards_count_from_one(text: str) -> None:
    with pytest.raises(ConfigError, match="must be i/n with i from 1 to n"):
        parse_shard(text)


def test_nothing_but_bad_structures(tmp_path: Path) -> None:
    (tmp_path / "in.xyz").write_text("1\n\nAu 0 0 0\n")
    for ending in ("parquet", "extxyz", "csv", "jsonl", "npz", "db"):
        out = tmp_path / f"out.{ending}"
        text = predict(tmp_path / "in.xyz", "-o", out, "--on-error", "skip").output
        assert "0 structures written" in text
        assert len(skipped(out)) == 1
        assert out.exists()


@pytest.mark.filterwarnings("ignore::lesff.errors.ExtrapolationWarning")
def test_many_structures_are_summed_up_on_the_screen(folder: Path) -> None:
    text = predict(folder / "in.xyz", "-p", "energy", "--on-error", "skip").output
    bad = json.loads((folder / "bad.json").read_text())
    good = [atoms for i, atoms in enumerate(ase.io.read(folder / "in.xyz", ":")) if i not in bad]
    energies = lesff.load(MODEL).predict(good, "energy").energy
    assert "228 structures" in text
    assert f"energy (eV): smallest {min(energies):.4f}" in text
    assert f"mean {np.mean(energies):.4f}" in text
    assert "2 structures skipped" in text
    few = predict("O", "smiles:C", "-p", "energy").output
    assert few.count("energy (eV):") == 2


def test_standard_input(tmp_path: Path) -> None:
    predict("-", "-o", tmp_path / "out.csv", "-p", "energy", stdin="CCO\nC\n")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_killed_three_times_and_resumed(folder: Path, tmp_path: Path) -> None:
    """Killed at its first, fourth and eighth finished chunk, the run ends with the same bytes."""
    out = tmp_path / "out.parquet"
    words = [sys.executable, "-m", "lesff", "predict", str(folder / "in.xyz"), "-m", MODEL,
             "-o", str(out), *map(str, WHAT), "--on-error", "skip"]  # fmt: skip
    parts = tmp_path / "out.parquet.parts"
    for enough in (1, 4, 8):
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)  # noqa: S603 - our own words
        while len(list(parts.glob("*.parquet"))) < enough:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
    found = subprocess.run(words, capture_output=True, text=True, check=True)  # noqa: S603
    assert "chunks were done before" in found.stdout
    # of a process of its own, too: what tests before this one computed with does not matter
    whole = tmp_path / "whole.parquet"
    subprocess.run([str(whole) if w == str(out) else w for w in words], check=True)  # noqa: S603
    assert out.read_bytes() == whole.read_bytes()
    assert skipped(out) == skipped(folder / "ref.parquet")
    assert not parts.exists()
