"""Resume points: everything a run needs to go on, in one safetensors file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lesff.disk import written_atomically
from lesff.errors import DataError, IntegrityError


@dataclass(kw_only=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: Optimiser steps done.
        epoch: Current epoch.
        batch: Batches done in this epoch.
        seconds: Training time so far.
        best: Best validation score so far.
        best_step: Step of the best score.
        since_best: Validations since the best score.
        validated: Step of the last validation.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    best_step: int = 0
    since_best: int = 0
    validated: int = -1


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Tensors of a resume point, by name.

    Attributes:
        weights: What the optimiser moves.
        average: Averaged weights of the potential.
        best: Averaged weights at the best validation; empty if they are not kept.
    """

    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    best: dict[str, Tensor]


def save_state(
    path: Path,
    progress: Progress,
    recipe_hash: str,
    snapshot: ResumePoint,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write a resume point over the last one.

    Raises:
        DataError: if it cannot be written, such as on a full disk; the last one is kept.
    """
    tensors: dict[str, Tensor] = {}
    for part, values in _parts(snapshot).items():
        tensors |= {f"{part}/{name}": value for name, value in values.items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer:{index}:{key}": value for key, value in slots.items()}
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    metadata = {"progress": json.dumps(asdict(progress)), "recipe": recipe_hash}
    try:
        with written_atomically(path) as new:
            save_file(tensors, new, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"the resume point {path} cannot be written ({error}): make room and run again; "
            "the last one is kept"
        ) from error


def _parts(snapshot: ResumePoint) -> Mapping[str, dict[str, Tensor]]:
    return {"weights": snapshot.weights, "average": snapshot.average, "best": snapshot.best}


def load_state(
    path: Path, recipe_hash: str, optimizer: torch.optim.Optimizer
) -> tuple[Progress, ResumePoint]:
    """Read a resume point into the optimiser; returns progress and tensors.

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
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "average": {}, "best": {}}
    for name, value in tensors.items():
        if name.startswith("optimizer:"):
            _, index, key = name.split(":")
            slots.setdefault(int(index), {})[key] = value
        else:
            part, rest = name.split("/", 1)
            parts[part][rest] = value
    state = optimizer.state_dict()
    state["state"] = slots
    optimizer.load_state_dict(state)
    return Progress(**json.loads(metadata["progress"])), ResumePoint(**parts)
