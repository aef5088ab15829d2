"""Resume points: everything a run needs to go on, in one safetensors file, written atomically."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lesff.errors import IntegrityError


@dataclass(kw_only=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: Optimiser steps done.
        epoch: Current epoch.
        batch: Batches done in this epoch.
        seconds: Training time so far.
        best: Best validation score so far.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    best: float = float("inf")


def save_state(
    path: Path,
    progress: Progress,
    recipe_hash: str,
    weights: dict[str, Tensor],
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write a resume point over the last one."""
    tensors = {f"weights/{name}": value for name, value in weights.items()}
    tensors |= {f"average/{name}": value for name, value in average.items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in slots.items()}
    tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    metadata = {"progress": json.dumps(asdict(progress)), "recipe": recipe_hash}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=metadata)
    os.replace(partial, path)


def load_state(
    path: Path, recipe_hash: str, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor]]:
    """Read a resume point; returns progress, weights and averaged weights.

    Raises:
        IntegrityError: if the file belongs to another recipe.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["recipe"] != recipe_hash:
        raise IntegrityError(
            f"{path} was written by another recipe or data set; "
            "use the same recipe to resume, or start in a new folder"
        )
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            slots.setdefault(int(index), {})[key] = value
    state = optimizer.state_dict()
    state["state"] = slots
    optimizer.load_state_dict(state)
    parts = [
        {name.split("/", 1)[1]: v for name, v in tensors.items() if name.startswith(prefix)}
        for prefix in ("weights/", "average/")
    ]
    return Progress(**json.loads(metadata["progress"])), parts[0], parts[1]
