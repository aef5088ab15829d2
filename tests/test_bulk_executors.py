"""Executors: the same bytes everywhere; dead workers replaced, deadly structures isolated."""

import importlib.util
import os
import warnings
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bulk_structures import MODEL, Deadly, predict, rattled, with_bad_ones, write_frames

import lesff
from lesff.bulk.compute import Settings, Task, compute_chunk
from lesff.bulk.engine import compute_all, in_order
from lesff.bulk.executors import Given, Processes, workers_of
from lesff.bulk.items import Item, chunks_of, item_of_atoms
from lesff.errors import (
    ConfigError,
    ExecutorError,
    ExtrapolationWarning,
    PropertyError,
    StructureError,
)
from lesff.model import Model
from lesff.prediction import Prediction

WHAT = ("-p", "energy,forces,dipole", "--chunk", 30, "--on-error", "skip")
EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture(scope="module")
def model() -> Model:
    return lesff.load(MODEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("executors")
    write_frames(path / "in.xyz", 200)
    predict(path / "in.xyz", "-o", path / "ref.parquet", *WHAT)
    return path


def assert_same_bytes(folder: Path, executor: str) -> None:
    out = folder / f"{executor.partition(':')[0]}.parquet"
    text = predict(folder / "in.xyz", "-o", out, *WHAT, "--executor", executor).output
    assert "2 structures skipped" in text
    assert out.read_bytes() == (folder / "ref.parquet").read_bytes()
    table = out.with_name(f"{out.name}.skipped.csv")
    assert table.read_bytes() == (folder / "ref.parquet.skipped.csv").read_bytes()


def test_threads_give_the_same_bytes(folder: Path) -> None:
    assert_same_bytes(folder, "threads:2")


@pytest.mark.slow
def test_processes_give_the_same_bytes(folder: Path) -> None:
    assert_same_bytes(folder, "processes:2")


@pytest.mark.slow
def test_parsl_gives_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration that is shipped, with two workers, in an environment not activated."""
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setenv("PARSL_WORKERS", "2")
    monkeypatch.setenv("PARSL_RUN_DIR", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sockets and forks of Parsl
        assert_same_bytes(folder, f"parsl:{EXAMPLES / 'parsl_workstation.py'}")
    assert os.environ["PATH"] == os.defpath  # as before
    managers = list(tmp_path.rglob("worker_*.log"))
    assert len(managers) == 2


@pytest.mark.slow
def test_dask_gives_the_same_bytes(folder: Path) -> None:
    from distributed import LocalCluster

    with (
        warnings.catch_warnings(),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        warnings.simplefilter("ignore")  # those of Dask
        assert_same_bytes(folder, f"dask:{cluster.scheduler_address}")


@pytest.mark.parametrize("name", ["parsl_slurm", "parsl_pbs", "parsl_workstation"])
def test_configurations_that_are_shipped_can_be_read(name: str) -> None:
    from parsl.config import Config

    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert isinstance(module.config, Config)
    assert "OMP_NUM_THREADS=1" in module.config.executors[0].provider.worker_init


def test_map_yields_in_order_as_it_goes(model: Model) -> None:
    frames, taken = rattled(40), []

    def stream() -> Any:
        for i, atoms in enumerate(frames):
            taken.append(i)
            yield atoms

    found = model.map(stream(), "energy,forces", chunk=8)
    first = next(found)
    assert len(taken) <= 9
    rest = list(found)
    expected = model.predict(frames, ["energy", "forces"])
    assert len(rest) == 39
    for i, prediction in enumerate([first, *rest]):
        assert isinstance(prediction, Prediction)
        assert prediction.energy == pytest.approx(expected.energy[i], abs=2e-5)
        np.testing.assert_allclose(prediction.forces, expected.forces[i], atol=2e-5)


def test_map_skips_or_stops(model: Model) -> None:
    frames, (bad,) = with_bad_ones(rattled(50))
    found = list(model.map(frames, "energy", chunk=10, on_error="skip"))
    assert [i for i, prediction in enumerate(found) if prediction is None] == [bad]
    with pytest.raises(StructureError, match=f"structure {bad}: has element"):
        list(model.map(frames, "energy", chunk=10))
    with pytest.raises(PropertyError, match="unknown property 'energie'"):
        model.map(frames, "energie")
    with pytest.raises(ConfigError, match="`on_error` must be 'skip' or 'stop'"):
        next(model.map(frames, "energy", on_error="raise"))


def test_map_takes_smiles_files_and_options(model: Model, tmp_path: Path) -> None:
    write_frames(tmp_path / "in.xyz", 3)
    assert len(list(model.map([tmp_path / "in.xyz", "CCO", rattled(1)[0]], "energy"))) == 5
    (cation,) = model.map(["[NH4+]"], "charges")
    assert cation.charges.sum() == pytest.approx(1.0, abs=1e-4)
    with pytest.warns(ExtrapolationWarning, match="spin multiplicity 2 never seen"):
        (cation,) = model.map(rattled(1), "charges", total_charge=1, spin_multiplicity=2)
    assert cation.charges.sum() == pytest.approx(1.0, abs=1e-4)


def test_map_through_executors_of_the_caller(model: Model) -> None:
    frames = rattled(30)
    expected = [p.energy for p in model.map(frames, "energy", chunk=10)]
    with ThreadPoolExecutor(2) as pool:
        assert [p.energy for p in model.map(frames, "energy", chunk=10, executor=pool)] == expected
        # the executor is the caller's: it still works
        assert pool.submit(int, "3").result() == 3
    with pytest.raises(ConfigError, match="`executor` must be processes:N, .* got int"):
        next(model.map(frames, "energy", executor=3))


@pytest.mark.slow
def test_a_model_that_no_file_holds_travels_itself() -> None:
    model = lesff.load(MODEL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for parameter in model.potential.parameters():
            parameter.data.mul_(1.01)
    assert model.reference(for_workers=True).potential is not None
    assert lesff.load(MODEL).reference(for_workers=True).potential is None
    frames = rattled(4)
    serial = [p.energy for p in model.map(frames, "energy")]
    assert [p.energy for p in model.map(frames, "energy", executor="processes:1")] == serial


def deadly_items(count: int, *places: int) -> list[Item]:
    """Items, some of them deadly."""
    return [
        item_of_atoms(Deadly(atoms) if i in places else atoms, "list", i)
        for i, atoms in enumerate(rattled(count))
    ]


def tasks(model: Model, items: list[Item], chunk: int) -> Any:
    settings = Settings(properties=("energy", "forces"))
    reference = model.reference()
    return (
        Task(chunk=part, model=reference, settings=settings)
        for part in chunks_of(iter(items), chunk, 10**6)
    )


@pytest.mark.slow
def test_a_structure_that_kills_workers_is_isolated(model: Model) -> None:
    """The others get what they get without it, and no chunk is lost."""
    items = deadly_items(24, 9)
    workers = Processes(2)
    try:
        found = list(in_order(compute_all(tasks(model, items, 8), workers)))
    finally:
        workers.close()
    assert [len(result.rows) for result in found] == [8, 7, 8]
    (bad,) = found[1].skipped
    assert (bad.item.index, found[1].gaps) == (9, (1,))
    assert "no worker survives it, in 2 tries (BrokenProcessPool" in bad.reason
    rest = [item for item in items if item.index != 9]
    plain = [compute_chunk(task) for task in tasks(model, rest[8:15], 8)]
    assert [row.values["energy"] for row in found[1].rows] == [
        row.values["energy"] for row in plain[0].rows
    ]


class Failing:
    """Workers of which some submissions are lost, as of nodes that go away.

    Args:
        lost: Which submissions are lost.
    """

    count, threads = 2, None

    def __init__(self, lost: set[int]) -> None:
        self.lost, self.number, self.restarts = lost, 0, 0

    def submit(self, function: Any, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.number += 1
        if self.number - 1 in self.lost:
            future.set_exception(RuntimeError("the node is gone"))
        else:
            future.set_result(function(*arguments))
        return future

    def restart(self) -> bool:
        self.restarts += 1
        return True

    def close(self) -> None:
        pass


def test_chunks_of_lost_workers_are_computed_again(model: Model) -> None:
    items = deadly_items(40)
    expected = list(compute_all(tasks(model, items, 5), None))
    workers = Failing({1, 2, 6})
    found = list(in_order(compute_all(tasks(model, items, 5), workers)))
    assert workers.restarts >= 2
    for one, other in zip(found, expected, strict=True):
        assert one.skipped == ()
        assert [r.values["energy"] for r in one.rows] == [r.values["energy"] for r in other.rows]


def test_workers_that_never_live_end_the_run(model: Model) -> None:
    with pytest.raises(ExecutorError, match="workers die before they compute anything"):
        list(compute_all(tasks(model, deadly_items(4), 2), Failing(set(range(100)))))


@pytest.mark.slow
def test_a_pool_of_the_caller_that_breaks_is_said(model: Model) -> None:
    with (
        ProcessPoolExecutor(1) as pool,
        pytest.raises(ExecutorError, match="the executor is broken, because a worker died"),
    ):
        list(compute_all(tasks(model, deadly_items(2, 1), 2), Given(pool)))


def test_workers_do_not_share_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    with ThreadPoolExecutor(4) as pool:
        assert Given(pool).threads == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with ThreadPoolExecutor(4) as pool:
        assert Given(pool).threads == 2
    with ThreadPoolExecutor(40) as pool:
        assert Given(pool).threads == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("processes:0", "with N from 1 to 4096"),
        ("threads:x", "with N from 1 to 4096"),
        ("ray:2", "must be processes:N, threads:N, dask:ADDRESS or parsl:CONFIG.py"),
        ("parsl:no/such.py", "the file does not exist"),
    ],
)
def test_bad_executors_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        workers_of(text)


def test_a_table_of_a_pool_opens_in_pandas(folder: Path) -> None:
    frame = pd.read_parquet(folder / "ref.parquet")
    assert len(frame) == 198
    assert frame.attrs["units"]["dipole"] == "e*A"
