"""The service: what it answers, what it refuses, and that company changes no result."""

import asyncio
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ase.io
import httpx
import numpy as np
import pytest
from ase.build import bulk, molecule

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

import lesff
from lesff.atoms.structure import to_structure
from lesff.errors import ConfigError
from lesff.notices import hooked_warnings
from lesff.service.app import create_app
from lesff.service.batcher import Batcher, Job, Outcome, check
from lesff.service.faults import ServiceError
from lesff.service.limits import Limits
from lesff.service.meters import Meters
from lesff.service.reading import read_cif_text, read_xyz_text
from lesff.service.waiting import Bell

WATER = {
    "symbols": ["O", "H", "H"],
    "positions": [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]],
}
WATER_XYZ = "3\n\nO 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n"
XYZ = {"content-type": "chemical/x-xyz"}


@pytest.fixture(scope="module")
def model() -> lesff.Model:
    return lesff.load("off-small")


@pytest.fixture
def client(model: lesff.Model) -> Iterator[TestClient]:
    with TestClient(create_app({"off-small": model})) as client:
        yield client


def limited(model: lesff.Model, **limits: float) -> TestClient:
    return TestClient(create_app({"off-small": model}, limits=Limits(**limits)))


def handlers_of(client: TestClient) -> Any:
    app: Any = client.app
    return app.state.handlers


def kind(response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["kind"]


# --- answers ------------------------------------------------------------------------------------


def test_a_prediction_is_that_of_the_model(client, model):
    names = ["energy", "forces", "charges", "dipole"]
    answer = client.post("/predict", json=WATER | {"properties": names}).json()
    atoms = ase.Atoms(WATER["symbols"], WATER["positions"])
    expected = model.predict(atoms, names)
    assert answer["model"] == model.name
    (row,) = answer["results"]
    assert (row["symbols"], row["positions"]) == (WATER["symbols"], WATER["positions"])
    for name in names:
        np.testing.assert_allclose(row["values"][name], expected[name], atol=1e-6)
    assert row["units"] == expected.units
    assert (row["charge"], row["spin_multiplicity"]) == (0, 1)


def test_charge_spin_and_field_are_used(client, model):
    field = [0.0, 0.0, 0.1]
    given = {"symbols": ["O", "H"], "positions": [[0, 0, 0], [0, 0, 0.97]], "charge": -1}
    (row,) = client.post("/predict", json=given | {"external_field": field}).json()["results"]
    atoms = ase.Atoms("OH", given["positions"])
    expected = model.predict(atoms, total_charge=-1, external_field=field).energy
    assert row["values"]["energy"] == pytest.approx(expected, abs=1e-6)
    assert row["external_field"] == field
    assert row["charge"] == -1
    wrong = client.post("/predict", json=WATER | {"spin_multiplicity": 2})
    assert kind(wrong) == (422, "ChargeSpinError")


def test_xyz_in_and_extxyz_out(client, model):
    frames = WATER_XYZ + WATER_XYZ.replace("0.76", "0.8")
    answer = client.post("/predict?properties=energy,forces,charges", content=frames, headers=XYZ)
    assert answer.headers["content-type"].startswith("chemical/x-xyz")
    found = ase.io.read(io.StringIO(answer.text), ":", format="extxyz")
    expected = model.predict(found, ["energy", "forces"])
    assert len(found) == 2
    for atoms, energy in zip(found, expected.energy, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-5)
    assert found[0].info["model"] == model.name


def test_smiles_bring_their_charge(client):
    pytest.importorskip("rdkit")
    (row,) = client.post("/predict", json={"smiles": "C[NH3+]"}).json()["results"]
    assert (row["charge"], len(row["symbols"])) == (1, 8)
    assert kind(client.post("/predict", json={"smiles": "C1CC"})) == (422, "StructureError")


def test_crystals_of_cif(model):
    text = io.BytesIO()
    ase.io.write(text, bulk("NaCl", "rocksalt", a=5.64, cubic=True), format="cif")
    atoms = read_cif_text(text.getvalue().decode(), Limits())
    assert atoms.get_chemical_formula() == "Cl4Na4"
    assert atoms.cell.lengths() == pytest.approx([5.64] * 3)


def test_a_relaxation_ends_at_a_minimum(client, model):
    answer = client.post("/relax", json=WATER | {"fmax": 0.01}).json()
    (row,) = answer["results"]
    assert answer["is_converged"]
    atoms = ase.Atoms(row["symbols"], row["positions"])
    assert np.linalg.norm(model.predict(atoms).forces, axis=1).max() < 0.011
    short = client.post("/relax", json=WATER | {"fmax": 0.001, "steps": 1}).json()
    assert not short["is_converged"]
    assert short["n_steps"] == 1


def test_water_has_three_modes(client):
    answer = client.post("/vibrations", json=WATER).json()
    modes = answer["modes"]
    # harmonic wavenumbers of water, 1649, 3832 and 3943 1/cm: W. S. Benedict, N. Gailar,
    # E. K. Plyler, J. Chem. Phys. 24, 1139 (1956); the model is not exact
    assert modes["wavenumbers"] == pytest.approx([1649, 3832, 3943], rel=0.05)
    assert np.shape(modes["displacements"]) == (3, 3, 3)
    assert min(modes["intensities"]) >= 0.0
    assert "hessian" not in answer["results"][0]["values"]


def test_warnings_reach_who_caused_them(client):
    oxygen = {"symbols": ["O", "O"], "positions": [[0, 0, 0], [0, 0, 1.21]]}
    (row,) = client.post("/predict", json=oxygen).json()["results"]
    assert "the ground state of O2 has 3" in " ".join(row["warnings"])
    (row,) = client.post("/predict", json=WATER).json()["results"]
    assert row["warnings"] == []


def test_what_a_service_says_of_itself(client):
    assert client.get("/health").json() == {"status": "ok", "waiting": 0}
    (row,) = client.get("/info").json()["models"]
    assert row["elements"] == [1, 6, 7, 8, 9, 15, 16, 17]
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/predict", "/relax", "/vibrations", "/health", "/metrics"} <= set(paths)
    assert client.get("/docs").status_code == 404  # it would load scripts from elsewhere


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    folder = Path(lesff.__file__).parent / "service" / "static"
    for path in folder.iterdir():
        answer = client.get(f"/static/{path.name}")
        assert answer.content == path.read_bytes()
        if path.suffix in (".html", ".css", ".js") and path.name != "3Dmol-min.js":
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert "http://" not in text, path.name
            assert "https://" not in text, path.name
    for outside in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd"):
        assert client.get(outside).status_code == 404


def test_counts_are_those_of_prometheus(client):
    client.post("/predict", json=WATER)
    client.post("/predict", json={})
    client.get("/nothing/of/this/name")
    text = client.get("/metrics").text
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["lesff_requests_total", "/predict", "200"] == 1
    assert found["lesff_requests_total", "/predict", "422"] == 1
    assert found["lesff_requests_total", "404", "other"] == 1
    assert found["lesff_atoms_total",] == 3
    assert found["lesff_batch_structures_count",] == 1
    assert found["lesff_waiting",] == 0


# --- company ------------------------------------------------------------------------------------


def mixed() -> list[ase.Atoms]:
    names = ("H2O", "CH4", "NH3", "CH3OH", "C6H6", "CH3CHO", "CO2", "HCN")
    frames = [molecule(name) for name in names]
    frames[0].info["external_field"] = [0.0, 0.1, 0.0]
    return frames


def jobs_of(model: lesff.Model, frames: list[ase.Atoms]) -> list[Job]:
    names = ("energy", "forces", "charges")
    return [Job(model="off-small", state=to_structure(atoms), properties=names) for atoms in frames]


def test_results_in_company_are_those_alone(model):
    meters = Meters()
    frames = mixed()
    batcher = Batcher({"off-small": model}, Limits(), meters)
    try:
        jobs = jobs_of(model, frames)
        batcher.submit(jobs)
        outcomes = [job.future.result(timeout=60) for job in jobs]
    finally:
        batcher.close()
    for atoms, outcome in zip(frames, outcomes, strict=True):
        alone = model.predict(atoms, ["energy", "forces", "charges"])
        # float32, as tests/test_predict.py
        assert outcome.values["energy"] == pytest.approx(alone.energy, abs=2e-5)
        np.testing.assert_allclose(outcome.values["forces"], alone.forces, atol=2e-5)
        np.testing.assert_allclose(outcome.values["charges"], alone.charges, atol=2e-5)
    assert meters.registry.get_sample_value("lesff_batches_total") == 1


def test_concurrent_requests_share_batches(client, model):
    bodies = [
        {"numbers": atoms.numbers.tolist(), "positions": atoms.positions.tolist()}
        for atoms in 6 * mixed()
    ]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: client.post("/predict", json=body).json(), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        alone = model.predict(ase.Atoms(body["numbers"], body["positions"])).energy
        assert answer["results"][0]["values"]["energy"] == pytest.approx(alone, abs=2e-5)
    meters = handlers_of(client).meters.registry
    assert meters.get_sample_value("lesff_batches_total") < len(bodies)


def test_one_bad_structure_does_not_spoil_the_others(model):
    frames = mixed()
    bad = ase.Atoms("O2", [[0, 0, 0], [0, 0, 0.3]])  # refused when its neighbours are looked for
    batcher = Batcher({"off-small": model}, Limits(), Meters())
    try:
        jobs = jobs_of(model, [*frames[:3], bad, *frames[3:]])
        batcher.submit(jobs)
        with pytest.raises(lesff.errors.StructureError, match="overlap"):
            jobs[3].future.result(timeout=60)
        for job in (*jobs[:3], *jobs[4:]):
            assert np.isfinite(job.future.result(timeout=60).values["energy"])
    finally:
        batcher.close()


def slowed(batcher: Batcher, monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Sizes of the batches, each of which takes so many seconds and computes nothing."""
    sizes: list[int] = []

    def wait(batch):
        sizes.append(len(batch))
        time.sleep(seconds)
        return [Outcome(state=job.state, values={"energy": 0.0}) for job in batch]

    monkeypatch.setattr(batcher, "_predict", wait)
    return sizes


def test_after_a_batch_the_next_waits_for_those_it_answered(model, monkeypatch):
    batcher = Batcher({"off-small": model}, Limits(), Meters())
    try:
        sizes = slowed(batcher, monkeypatch, 2.0)
        first, second = jobs_of(model, mixed()[:4]), jobs_of(model, mixed()[:4])
        batcher.submit(first)
        first[-1].future.result(timeout=60)
        for job in second:  # one by one, as clients ask again
            batcher.submit([job])
            time.sleep(0.02)
        second[-1].future.result(timeout=60)
        # the last of a batch is alone, and is not waited for longer than half a batch
        (third,) = jobs_of(model, mixed()[:1])
        batcher.submit([third])
        third.future.result(timeout=60)
    finally:
        batcher.close()
    assert sizes == [4, 4, 1]


def test_a_lonely_request_waits_for_nobody(model, monkeypatch):
    batcher = Batcher({"off-small": model}, Limits(), Meters())
    try:
        sizes = slowed(batcher, monkeypatch, 1.0)
        jobs = jobs_of(model, mixed()[:2])
        start = time.monotonic()
        for job in jobs:
            batcher.submit([job])
            job.future.result(timeout=60)
        seconds = time.monotonic() - start
    finally:
        batcher.close()
    assert sizes == [1, 1]
    assert seconds < 2.4  # with the patience of a batch of several it were 2.5


def test_a_batch_wakes_its_requests_with_one_call(monkeypatch):
    async def both() -> tuple[int, bool]:
        loop = asyncio.get_running_loop()
        bell, futures = Bell(loop), [Future() for _ in range(20)]
        calls = []
        call = loop.call_soon_threadsafe
        monkeypatch.setattr(
            loop, "call_soon_threadsafe", lambda *args, **more: [calls.append(0), call(*args)]
        )
        waits = [asyncio.create_task(bell.wait([future], 60.0)) for future in futures]
        await asyncio.sleep(0)
        for future in futures:
            future.set_result(None)
        await asyncio.gather(*waits)
        with pytest.raises(TimeoutError, match="^$"):
            await bell.wait([Future()], 0.01)
        return len(calls), all(task.done() for task in waits)

    assert asyncio.run(both()) == (1, True)


# --- limits -------------------------------------------------------------------------------------


def test_large_bodies_are_refused(model):
    with limited(model, max_body=1000) as client:
        assert kind(client.post("/predict", content=b" " * 1001)) == (413, "body")
        pieces = (b" " * 100 for _ in range(11))  # no length is announced
        assert kind(client.post("/predict", content=pieces)) == (413, "body")
        assert client.post("/predict", json=WATER).status_code == 200


def test_many_atoms_are_refused(model):
    with limited(model, max_atoms=5, max_structures=2, max_hessian_atoms=2) as client:
        assert kind(client.post("/predict", content=2 * WATER_XYZ, headers=XYZ)) == (413, "atoms")
        many = {"numbers": [1] * 6, "positions": [[0, 0, i] for i in range(6)]}
        assert kind(client.post("/predict", json=many)) == (413, "atoms")
        claims = "900000000\n\nH 0 0 0\n"
        assert kind(client.post("/predict", content=claims, headers=XYZ)) == (413, "atoms")
        assert kind(client.post("/vibrations", json=WATER)) == (413, "atoms")
        assert kind(client.post("/predict", json=WATER | {"properties": ["hessian"]})) == (
            413,
            "atoms",
        )
        hydrogen = "1\n\nH 0 0 0\n"
        assert kind(client.post("/predict", content=3 * hydrogen, headers=XYZ)) == (
            413,
            "structures",
        )


class Slow:
    """Predicts nothing until it is told to."""

    def __init__(self, batcher: Batcher, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        predict = batcher._predict

        def wait(batch):
            self.begun.set()
            assert self.may_end.wait(60)
            return predict(batch)

        monkeypatch.setattr(batcher, "_predict", wait)


def test_a_full_line_is_said_to_be_full(model, monkeypatch):
    with limited(model, max_queue=2) as client, ThreadPoolExecutor(4) as pool:
        batcher = handlers_of(client).batcher
        slow = Slow(batcher, monkeypatch)
        waiting = [pool.submit(client.post, "/predict", json=WATER)]
        assert slow.begun.wait(60)
        waiting += [pool.submit(client.post, "/predict", json=WATER) for _ in range(2)]
        end = time.monotonic() + 60
        while batcher.n_waiting < 2 and time.monotonic() < end:
            time.sleep(0.01)
        refused = client.post("/predict", json=WATER)
        assert kind(refused) == (503, "busy")
        assert refused.headers["retry-after"] == "1"
        slow.may_end.set()
        assert [task.result().status_code for task in waiting] == [200] * 3


def test_what_takes_too_long_is_given_up(model, monkeypatch):
    with limited(model, timeout=0.3) as client:
        slow = Slow(handlers_of(client).batcher, monkeypatch)
        for path in ("/predict", "/relax", "/vibrations"):
            assert kind(client.post(path, json=WATER)) == (504, "timeout")
        slow.may_end.set()
        assert client.get("/health").json()["status"] == "ok"


def test_a_slow_sender_is_given_up(model):
    app = create_app({"off-small": model}, limits=Limits(body_timeout=0.1))
    sent = []

    async def receive():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b"",
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    app.state.handlers.close()
    assert sent[0]["status"] == 408


def test_tasks_have_a_limit_too(model, monkeypatch):
    with limited(model, max_tasks=1) as client, ThreadPoolExecutor(1) as pool:
        slow = Slow(handlers_of(client).batcher, monkeypatch)
        first = pool.submit(client.post, "/relax", json=WATER)
        assert slow.begun.wait(60)
        assert kind(client.post("/relax", json=WATER)) == (503, "busy")
        slow.may_end.set()
        assert first.result().status_code == 200
        assert client.post("/relax", json=WATER).status_code == 200


def test_the_key_opens(model):
    with TestClient(create_app({"off-small": model}, api_key="secret")) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "secre"}):
            assert kind(client.post("/predict", json=WATER, headers=headers)) == (401, "key")
            assert client.get("/metrics", headers=headers).status_code == 401
        for headers in ({"authorization": "Bearer secret"}, {"x-api-key": "secret"}):
            assert client.post("/predict", json=WATER, headers=headers).status_code == 200
        for path in ("/", "/health", "/static/style.css"):
            assert client.get(path).status_code == 200
        assert client.get("/info").json()["needs_key"]


@pytest.mark.parametrize("name", ["max_body", "max_queue", "timeout", "max_atoms"])
def test_limits_must_be_positive(name):
    for value in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match=f"`{name}` must be a positive number"):
            Limits(**{name: value})


# --- what strangers send ------------------------------------------------------------------------

MALFORMED = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 100_000,
    "no UTF-8": b'{"smiles": "\xff"}',
    "unknown key": json.dumps(WATER | {"path": "/etc/passwd"}).encode(),
    "no structure": b"{}",
    "two structures": json.dumps(WATER | {"smiles": "C"}).encode(),
    "no positions": b'{"symbols": ["H"]}',
    "too few positions": b'{"symbols": ["H", "H"], "positions": [[0, 0, 0]]}',
    "no numbers": b'{"numbers": [1], "positions": [["a", 0, 0]]}',
    "nan": b'{"numbers": [1], "positions": [[NaN, 0, 0]]}',
    "infinite": b'{"numbers": [1], "positions": [[1e999, 0, 0]]}',
    "two coordinates": b'{"numbers": [1], "positions": [[0, 0]]}',
    "element 0": b'{"numbers": [0], "positions": [[0, 0, 0]]}',
    "element 10**30": b'{"numbers": [1000000000000000000000000000000], "positions": [[0, 0, 0]]}',
    "no atoms": b'{"numbers": [], "positions": []}',
    "same place": b'{"numbers": [1, 1], "positions": [[0, 0, 0], [0, 0, 0]]}',
    "flat cell": b'{"numbers": [1], "positions": [[0, 0, 0]], "cell": [[1,0,0],[2,0,0],[0,0,1]]}',
    "charge of a half": json.dumps(WATER | {"charge": 0.5}).encode(),
    "huge charge": json.dumps(WATER | {"charge": 10**30}).encode(),
    "unknown property": json.dumps(WATER | {"properties": ["energi"]}).encode(),
    "no properties": json.dumps(WATER | {"properties": []}).encode(),
    "unknown element": b'{"symbols": ["Xx"], "positions": [[0, 0, 0]]}',
    "uncovered element": b'{"symbols": ["He"], "positions": [[0, 0, 0]]}',
    "path as xyz": b'{"xyz": "/etc/passwd"}',
    "path as cif": b'{"cif": "/etc/passwd"}',
    "path as smiles": b'{"smiles": "/etc/passwd"}',
    "xyz of words": b'{"xyz": "1\\n\\nH a b c\\n"}',
    "xyz too short": b'{"xyz": "5\\n\\nH 0 0 0\\n"}',
    "xyz of many columns": json.dumps(
        {"xyz": "1\nProperties=species:S:1:pos:R:3:x:R:999999999\nH 0 0 0\n"}
    ).encode(),
    "empty cif": b'{"cif": "data_x\\n"}',
    "cif without sites": b'{"cif": "data_x\\n_cell_length_a 3\\n_cell_length_b 3\\n"}',
    "long smiles": json.dumps({"smiles": "C" * 100_000}).encode(),
    "heavy smiles": json.dumps({"smiles": "C" * 100}).encode(),
    "empty smiles": b'{"smiles": ""}',
    "control characters": b'{"smiles": "C\\u0000\\u001b[31m"}',
}


@pytest.mark.parametrize("path", ["/predict", "/relax", "/vibrations"])
def test_malformed_input_is_refused_in_words(client, path):
    for name, body in MALFORMED.items():
        if ("property" in name or "properties" in name) and path != "/predict":
            continue
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (413, 422), (name, answer.status_code, answer.text)
        told = answer.json()["error"]
        assert 3 < len(told["message"]) < 2100, name
        assert "root:" not in told["message"], name
    assert client.post(path, json=WATER).status_code == 200


def test_other_methods_and_models_are_refused(client):
    answer = client.get("/predict")
    assert kind(answer) == (405, "method")
    assert answer.headers["allow"] == "POST"
    assert kind(client.post("/predict", json=WATER | {"model": "../../etc"})) == (404, "model")
    not_text = client.post("/predict", content=b"\xff\xfe", headers=XYZ)
    assert kind(not_text) == (422, "request")


def test_errors_of_the_service_say_nothing_of_its_inside(client, monkeypatch):
    def broken(_):
        raise RuntimeError("/home/someone/secret")

    monkeypatch.setattr(handlers_of(client).batcher, "_predict", broken)
    answer = client.post("/predict", json=WATER)
    assert kind(answer) == (500, "internal")
    assert "secret" not in answer.text


def test_text_is_never_opened(monkeypatch, tmp_path):
    path = tmp_path / "water.xyz"
    path.write_text(WATER_XYZ)
    for reader in (read_xyz_text, read_cif_text):
        with pytest.raises(lesff.errors.StructureError):
            reader(str(path), Limits())


def test_what_a_model_does_not_cover_is_refused_before_it_waits(model):
    with hooked_warnings(), pytest.raises(lesff.errors.UnsupportedInputError, match="He"):
        check(model, to_structure(ase.Atoms("He")), ["energy"])
    batcher = Batcher({"off-small": model}, Limits(), Meters())
    batcher.close()
    with pytest.raises(ServiceError, match="stopping"):
        batcher.submit(jobs_of(model, mixed()))


# --- the command --------------------------------------------------------------------------------


def started(port: int) -> tuple[subprocess.Popen[str], str]:
    """The command in a process of its own, and its address."""
    words = [sys.executable, "-m", "lesff", "serve", "-m", "off-small", "--port", str(port)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "LESFF_API_KEY": "abc"}
    process = subprocess.Popen(  # noqa: S603 - ours
        words, stdout=subprocess.PIPE, text=True, env=environment
    )
    return process, process.stdout.readline().split()[-1]


@pytest.mark.slow
def test_the_command_serves_and_can_be_killed_and_started_again():
    with ExitStack() as stack:
        process, address = started(0)
        stack.callback(process.stdout.close)
        stack.callback(process.wait)
        stack.callback(process.kill)
        post = httpx.Client(
            base_url=address, headers={"x-api-key": "abc"}, timeout=60, trust_env=False
        )
        stack.enter_context(post)
        assert post.post("/predict", json=WATER).status_code == 200
        assert httpx.post(f"{address}/predict", json=WATER, trust_env=False).status_code == 401
        process.kill()
        process.wait()
        again, same = started(int(address.rsplit(":", 1)[1]))
        stack.callback(again.stdout.close)
        stack.callback(again.wait)
        stack.callback(again.kill)
        assert same == address
        new = stack.enter_context(
            httpx.Client(
                base_url=address, headers={"x-api-key": "abc"}, timeout=60, trust_env=False
            )
        )
        assert new.post("/predict", json=WATER).status_code == 200
        again.terminate()
        assert again.wait(timeout=30) == 0
        assert "stopped" in again.stdout.read()
