"""Bulk prediction: throughput beside ``model.predict``, and a run that is killed and resumed.

    python benchmarks/bulk.py throughput --smiles pool.tsv --count 2000 -m off-small
    python benchmarks/bulk.py resume --count 5000
    PARSL_WORKERS=2 python benchmarks/bulk.py resume --count 5000
        --executor parsl:docs/examples/parsl_workstation.py
    python benchmarks/bulk.py cost --smiles pool.tsv --count 400

``throughput``: CPU and wall seconds, in one process, of ``model.predict`` of a list, of the same
list from its file, and of what ``lesff predict FILE -o OUT`` does, for each format; each
between two runs of the reference, and the median of ``--repeats`` ratios.
``resume``: a file of rattled G2 molecules, one frame in a hundred bad; the command is killed three
times and resumed; its table is compared with that of an uninterrupted run, and with those of each
``--executor`` (``processes:2`` if none is given).
``cost``: wall seconds of the command for SMILES, embedding and all, as core hours a million.
"""

import argparse
import csv
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import ase
import ase.io
import numpy as np
import pandas as pd
import torch
from ase.build import molecule
from ase.collections import g2

import lesff
from lesff.bulk.compute import Settings
from lesff.bulk.run import RunOptions, predict_to_file
from lesff.bulk.smiles import atoms_of_smiles
from lesff.bulk.sources import items_of, sources_of
from lesff.errors import StructureError

KNOWN = {1, 6, 7, 8, 9, 15, 16, 17}
"""Elements of off-small."""


def smiles_of(path: Path, count: int) -> list[str]:
    """SMILES of a file, any column of it, in an order at random."""
    rows = [line.split() for line in path.read_text().splitlines()]
    words = [max(row, key=len) for row in rows if row]
    order = np.random.default_rng(0).permutation(len(words))[:count]
    return [words[i] for i in order]


def conformers(path: Path, count: int) -> list[ase.Atoms]:
    """Structures of SMILES that can be embedded and have known elements, or of an extxyz file."""
    if path.suffix == ".extxyz":
        return ase.io.read(path, f":{count}")  # pyright: ignore[reportReturnType]
    found = []
    for smiles in smiles_of(path, 2 * count):
        try:
            atoms = atoms_of_smiles(smiles)
        except StructureError:
            continue
        if set(atoms.numbers) <= KNOWN:
            found.append(atoms)
        if len(found) == count:
            break
    return found


def rattled(count: int) -> list[ase.Atoms]:
    """Rattled closed shells of the G2 set, one in a hundred with gold or overlapping atoms."""
    rng = np.random.default_rng(0)
    names = [
        name
        for name in g2.names
        if set(molecule(name).numbers) <= KNOWN
        and len(molecule(name)) > 2
        and molecule(name).numbers.sum() % 2 == 0
    ]
    frames = []
    for i in range(count):
        known = molecule(names[i % len(names)])
        noise = 0.03 * rng.standard_normal(known.positions.shape)
        atoms = ase.Atoms(known.numbers, known.positions + noise)
        if i % 200 == 50:
            atoms.numbers[0] = 79
        elif i % 100 == 50:
            atoms.positions[1] = atoms.positions[0] + 0.01
        frames.append(atoms)
    return frames


def seconds(action: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall time of one call."""
    start, begin = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - start, time.perf_counter() - begin


def throughput(options: argparse.Namespace, folder: Path) -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    model = lesff.load(options.model)
    frames = conformers(options.smiles, options.count)
    source = folder / "in.extxyz"
    ase.io.write(source, frames)
    n_atoms = sum(map(len, frames))
    settings, reference = Settings(properties=("energy", "forces")), model.reference()

    def to_file(ending: str) -> None:
        sources = sources_of([str(source)])
        out = folder / f"out{ending}"
        for old in folder.glob("out*"):
            old.unlink()
        predict_to_file(
            lambda: items_of(sources), out, reference, settings, RunOptions(progress=False)
        )

    def reference_action() -> object:
        return model.predict(frames, progress=False)

    actions: dict[str, Callable[[], object]] = {
        "model.predict(list)": reference_action,
        "model.map(list)": lambda: list(model.map(frames)),
        "model.predict(file)": lambda: model.predict(source, progress=False),
    }
    for ending in (".parquet", ".extxyz", ".npz", ".jsonl"):
        actions[f"lesff predict -o {ending}"] = lambda ending=ending: to_file(ending)
    for action in actions.values():
        action()
    # [repeat, action, the reference before it, itself, the reference after it, CPU or wall]
    found = np.array(
        [
            [
                [seconds(step) for step in (reference_action, action, reference_action)]
                for action in actions.values()
            ]
            for _ in range(options.repeats)
        ]
    )
    # machines that others use, too, change speed within seconds: ratios of neighbours, their median
    around = 0.5 * (found[:, :, 0] + found[:, :, 2])
    shares = 100.0 * np.median(around / found[:, :, 1], axis=0)
    taken = np.median(found[:, :, 1, 0], axis=0)
    print(f"{model.name}, {len(frames)} structures, {n_atoms / len(frames):.1f} atoms each")
    print("structures per CPU second; share of model.predict(list), CPU and wall")
    for name, own, (cpu, wall) in zip(actions, taken, shares, strict=True):
        print(f"{name:28}{len(frames) / own:8.0f}{cpu:8.1f} %{wall:8.1f} %", flush=True)


def resume(options: argparse.Namespace, folder: Path) -> None:
    """Kill, resume and compare."""
    source = folder / "in.xyz"
    ase.io.write(source, rattled(options.count))

    def words(name: str, *more: str) -> list[str]:
        return [sys.executable, "-m", "lesff", "predict", str(source), "-m", options.model,
                "-p", "energy,forces,dipole", "--on-error", "skip", "--chunk", "250",
                "-o", str(folder / name), *more]  # fmt: skip

    def finished(name: str, *more: str) -> str:
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(words(name, *more), check=True, capture_output=True)  # noqa: S603
        wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return f"{wall:.1f} s, {cpu:.1f} CPU s"

    print(f"uninterrupted: {finished('ref.parquet')}", flush=True)
    parts, n_chunks = folder / "out.parquet.parts", -(-options.count // 250)
    for turn in range(3):
        process = subprocess.Popen(words("out.parquet"), stderr=subprocess.DEVNULL)  # noqa: S603
        enough = (turn + 1) * n_chunks // 4
        while len(list(parts.glob("*.parquet"))) < enough and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"killed with {len(list(parts.glob('*.parquet')))} of {n_chunks} chunks", flush=True)
    print(f"resumed and ended: {finished('out.parquet')}", flush=True)
    reference = (folder / "ref.parquet").read_bytes()
    found: dict[str, bool] = {}
    for number, executor in enumerate(options.executor):
        output = f"executor-{number}.parquet"
        print(f"{executor}: {finished(output, '--executor', executor)}", flush=True)
        found[f"same bytes of {executor}"] = (folder / output).read_bytes() == reference
    table = pd.read_parquet(folder / "out.parquet")
    with (folder / "out.parquet.skipped.csv").open() as stream:
        skipped = [int(row["index"]) for row in csv.DictReader(stream)]
    found |= {
        "same bytes as the uninterrupted run": (folder / "out.parquet").read_bytes() == reference,
        "every frame once": sorted([*table["index"], *skipped]) == list(range(options.count)),
        "bad frames are those skipped": skipped == list(range(50, options.count, 100)),
        "units in pandas": table.attrs["units"]["forces"] == "eV/A",
    }
    for name, is_so in found.items():
        print(f"{name}: {'yes' if is_so else 'NO'}")
    print(f"{len(table)} rows, {len(skipped)} skipped, {len(reference) / 2**20:.1f} MiB")
    if not all(found.values()):
        raise SystemExit(1)


def cost(options: argparse.Namespace, folder: Path) -> None:
    """Time the command on SMILES and on structures, and say what a million costs."""
    smiles = folder / "in.smi"
    smiles.write_text("".join(f"{s}\n" for s in smiles_of(options.smiles, options.count)))
    frames = conformers(options.smiles, options.count)
    ase.io.write(folder / "in.extxyz", frames)
    for name, count in (("in.smi", options.count), ("in.extxyz", len(frames))):
        words = [sys.executable, "-m", "lesff", "predict", str(folder / name), "-m", options.model,
                 "--on-error", "skip", "-o", str(folder / f"{name}.parquet")]  # fmt: skip
        begin = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)  # noqa: S603
        took = time.perf_counter() - begin
        size = (folder / f"{name}.parquet").stat().st_size
        print(
            f"{name}: {count / took:.0f} structures/s, {1e6 / count * took / 3600:.1f} core hours "
            f"and {size / count * 1e6 / 2**30:.1f} GiB of Parquet a million", flush=True
        )  # fmt: skip


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["throughput", "resume", "cost"])
    parser.add_argument("-m", "--model", default="off-small")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument(
        "--smiles",
        type=Path,
        help="A column of SMILES, one row a molecule; for throughput, or an extxyz file.",
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--executor", action="append", help="Of resume, beside the serial runs; may be repeated."
    )
    options = parser.parse_args()
    if options.smiles is None and options.what != "resume":
        parser.error("--smiles is needed")
    options.executor = options.executor or ["processes:2"]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        {"throughput": throughput, "resume": resume, "cost": cost}[options.what](
            options, Path(folder)
        )


if __name__ == "__main__":
    main()
