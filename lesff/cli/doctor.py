"""Command that says what this installation computes with."""

from __future__ import annotations

import json
import platform
import time
from importlib.metadata import PackageNotFoundError, version

import click

import lesff
from lesff.environment import cache_folder, is_offline
from lesff.errors import KernelError

_PACKAGES = ("torch", "ase", "numpy", "vesin", "safetensors")


def diagnosis() -> dict[str, str]:
    """One line of text per subject."""
    # start-up: help needs nothing that computes
    import torch

    from lesff.kernels import kernel_status

    try:
        status = kernel_status()
        found = status.instruction_set is not None
        kernels = f"compiled, {status.path}" if found else f"plain PyTorch: {status.reason}"
        instruction_set = status.instruction_set or "none"
    except KernelError as error:
        kernels, instruction_set = f"error: {error}", "none"
    cuda = torch.cuda.is_available()
    gpus = f"{torch.cuda.device_count()} CUDA device(s) available" if cuda else "no CUDA device"
    return {
        "lesff": lesff.__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name: _version(name) for name in _PACKAGES},
        "kernels": kernels,
        "instruction set": instruction_set,
        "GPU kernels": _gpu_kernels(),
        "threads": str(torch.get_num_threads()),
        "default device": f"cpu ({gpus})",
        "cache": str(cache_folder()),
        "offline": "yes" if is_offline() else "no",
    }


def _gpu_kernels() -> str:
    # start-up: help needs nothing that computes
    from lesff.kernels.library import VARIABLE, device_kernels_wanted

    if not device_kernels_wanted():
        return f"plain PyTorch: switched off by {VARIABLE}=off"
    triton = _version("triton")
    found = triton != "not installed"
    return f"Triton {triton}" if found else "plain PyTorch: Triton is not installed"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def measured_steps(name: str = "off-medium", steps: int = 3) -> dict[str, str]:
    """Time of a step of water with one thread and with more; a line of text per size.

    Real time, as users see it: on a busy machine threads wait for each other, and fewer are faster.

    Args:
        name: A model that knows water.
        steps: Steps of which the fastest counts.
    """
    # start-up: help needs nothing that computes
    import numpy as np
    import torch
    from ase.build import molecule

    from lesff.model import load

    model, before = load(name), torch.get_num_threads()
    choices = sorted({1, max(before // 2, 1), before})
    rng, rows = np.random.default_rng(0), {}
    water = molecule("H2O")
    water.set_cell([3.105] * 3)  # 1 g/cm3
    water.pbc = True
    try:
        for side in (1, 2, 4, 8):
            atoms = water.repeat((side,) * 3) if side > 1 else molecule("H2O")
            found = {}
            for threads in choices:
                torch.set_num_threads(threads)
                atoms.calc = model.calculator()
                times = []
                for _ in range(steps + 1):  # the first one makes tables
                    atoms.positions += 1e-3 * rng.standard_normal(atoms.positions.shape)
                    start = time.perf_counter()
                    atoms.get_forces()
                    times.append(time.perf_counter() - start)
                found[threads] = 1e3 * min(times[1:])
            best = min(found, key=lambda n: found[n])
            texts = ", ".join(f"{n}: {ms:.1f} ms" for n, ms in found.items())
            rows[f"{len(atoms)} atoms"] = f"{texts}; best with {best}" if len(found) > 1 else texts
    finally:
        torch.set_num_threads(before)
    return rows


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--benchmark", is_flag=True, help="Measure steps of water by threads, OMP_NUM_THREADS: seconds."
)
def doctor_command(*, as_json: bool, benchmark: bool) -> None:
    """Show versions, compiled kernels, threads, device, cache and offline state."""
    rows = diagnosis()
    if benchmark:
        rows |= measured_steps()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for key, value in rows.items():
        click.echo(f"{key + ':':18}{value}")
