"""Command that says what this installation computes with."""

from __future__ import annotations

import json
import platform
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


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(*, as_json: bool) -> None:
    """Show versions, compiled kernels, threads, device, cache and offline state."""
    rows = diagnosis()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for key, value in rows.items():
        click.echo(f"{key + ':':18}{value}")
