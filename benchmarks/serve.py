"""Load of `lesff serve`: clients on loopback, beside `predict` in batches in one process.

    python benchmarks/serve.py --seconds 60 --clients 50 --model off-small

Prints structures per second of both, their ratio, latencies, errors and the memory of the server.
The clients, in this process, compete with the server for the cores of the machine; CPU seconds of
both computing processes are comparable on a busy machine, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import ase
import numpy as np
from ase.build import molecule

import lesff

SMALL = ("H2O", "NH3", "CH4", "CO2", "HCN", "CH3OH", "C2H6", "CH3CHO")
MEDIUM = ("CH3CH2OH", "CH3COCH3", "C6H6", "isobutane", "C3H9N", "butadiene", "C4H4NH", "C5H5N")
PROPERTIES = ["energy", "forces", "charges"]
BATCH = 64
"""Structures of a call of `predict` to compare with."""


@dataclass
class Tally:
    """What the clients saw.

    Attributes:
        seconds: Of each request.
        statuses: Answers by status.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)


def structures() -> list[ase.Atoms]:
    """Single molecules, pairs of them 12 A apart, and clusters of water of up to 60 atoms."""
    single = [molecule(name) for name in (*SMALL, *MEDIUM)]
    pairs = []
    for i, first in enumerate(single):
        second = single[-1 - i].copy()
        second.positions += [12.0, 0.0, 0.0]
        pairs.append(first + second)
    clusters = []
    for n in (4, 8, 12, 20):
        cluster = ase.Atoms()
        for i in range(n):
            water = molecule("H2O")
            water.positions += 3.2 * np.array([i % 3, i // 3 % 3, i // 9])
            cluster += water
        clusters.append(cluster)
    return single + pairs + 2 * clusters


def body(atoms: ase.Atoms) -> bytes:
    """A request."""
    return json.dumps(
        {
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "properties": PROPERTIES,
        }
    ).encode()


def batched(name: str, frames: list[ase.Atoms], seconds: float) -> tuple[float, float]:
    """Structures per second of `predict` in batches, and per CPU second."""
    model = lesff.load(name)
    chooser = random.Random(1)  # noqa: S311 - no secret
    model.predict(frames, PROPERTIES)
    count, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        model.predict(chooser.choices(frames, k=BATCH), PROPERTIES)
        count += BATCH
    return count / (time.perf_counter() - start), count / (time.process_time() - cpu)


async def client(port: int, bodies: list[bytes], end: float, seed: int, tally: Tally) -> None:
    """One client: asks, waits for the answer, asks again, on one connection."""
    chooser = random.Random(seed)  # noqa: S311 - no secret
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    while time.perf_counter() < end:
        data = chooser.choice(bodies)
        start = time.perf_counter()
        writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        answer = await reader.readuntil(b"\r\n\r\n")
        status = int(answer.split()[1])
        length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
        await reader.readexactly(int(length[1]) if length else 0)
        tally.seconds.append(time.perf_counter() - start)
        tally.statuses[status] = tally.statuses.get(status, 0) + 1
    writer.close()


async def load(
    process: int, port: int, bodies: list[bytes], clients: int, seconds: float
) -> tuple[Tally, list[float]]:
    """All clients; memory of the server in MB, ten times."""
    tally, sizes = Tally(), []
    end = time.perf_counter() + seconds
    tasks = [asyncio.create_task(client(port, bodies, end, seed, tally)) for seed in range(clients)]
    for _ in range(10):
        await asyncio.sleep(seconds / 10)
        sizes.append(memory(process))
    await asyncio.gather(*tasks)
    return tally, sizes


def memory(process: int) -> float:
    """Resident memory of a process in MB."""
    text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0


def cpu_seconds(process: int) -> float:
    """CPU seconds of a process so far."""
    text = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(text[11]) + int(text[12])) / os.sysconf("SC_CLK_TCK")


def thread_seconds(process: int) -> tuple[float, float]:
    """CPU seconds of the thread that answers clients, and of the others."""
    tick = os.sysconf("SC_CLK_TCK")
    found = {}
    for folder in Path(f"/proc/{process}/task").iterdir():
        text = (folder / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
        found[int(folder.name)] = (int(text[11]) + int(text[12])) / tick
    first = found.pop(process)
    return first, sum(found.values())


def batches(port: int) -> tuple[float, float]:
    """Batches and structures that a server has computed."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    names = ("lesff_batch_structures_count", "lesff_batch_structures_sum")
    count, structures = (
        float(found[1]) if (found := re.search(rf"^{name} (\S+)", text, re.MULTILINE)) else 0.0
        for name in names
    )
    return count, structures


def started(name: str) -> tuple[subprocess.Popen[str], int]:
    """A server, and its port."""
    command = [sys.executable, "-m", "lesff", "serve", "-m", name, "--port", "0"]
    server = subprocess.Popen(  # noqa: S603 - ours
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    line = server.stdout.readline() if server.stdout is not None else ""
    return server, int(line.rsplit(":", 1)[1])


def main() -> None:
    """Run both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--model", default="off-small")
    options = parser.parse_args()
    frames = structures()
    sizes = [len(atoms) for atoms in frames]
    print(f"{len(frames)} structures of {min(sizes)} to {max(sizes)} atoms")
    bodies = [body(atoms) for atoms in frames]
    server, port = started(options.model)
    try:
        asyncio.run(load(server.pid, port, bodies, options.clients, 3.0))  # warm
        before = batched(options.model, frames, options.seconds / 2)
        cpu, threads, done = cpu_seconds(server.pid), thread_seconds(server.pid), batches(port)
        tally, memories = asyncio.run(
            load(server.pid, port, bodies, options.clients, options.seconds)
        )
        cpu = cpu_seconds(server.pid) - cpu
        threads = [b - a for a, b in zip(threads, thread_seconds(server.pid), strict=True)]
        done = [b - a for a, b in zip(done, batches(port), strict=True)]
        after = batched(options.model, frames, options.seconds / 2)
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=30)
    direct, per_cpu = ((a + b) / 2 for a, b in zip(before, after, strict=True))
    rate = len(tally.seconds) / options.seconds
    slow = statistics.quantiles(tally.seconds, n=100)
    print(
        f"predict in batches of {BATCH}: {direct:.0f} structures/s "
        f"({before[0]:.0f}, {after[0]:.0f})"
    )
    print(f"service, {options.clients} clients: {rate:.0f} structures/s, {rate / direct:.2f}x")
    print(
        f"per CPU second: {per_cpu:.0f} and {len(tally.seconds) / cpu:.0f}, "
        f"{len(tally.seconds) / cpu / per_cpu:.2f}x"
    )
    each = [1e3 * part / len(tally.seconds) for part in threads]
    print(f"CPU ms a structure: {each[0]:.2f} of answering, {each[1]:.2f} of computing")
    print(f"structures a batch: {done[1] / max(done[0], 1.0):.1f}")
    print(f"latency: median {slow[49] * 1e3:.0f} ms, 99 % {slow[98] * 1e3:.0f} ms")
    print(f"answers by status: {tally.statuses}")
    print("memory (MB): " + " ".join(f"{size:.0f}" for size in memories))
    print(f"exit code after SIGTERM: {code}")


if __name__ == "__main__":
    main()
