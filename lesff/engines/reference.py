"""A model by name and digest: what an engine's file keeps instead of weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast

import torch

from lesff.errors import ConfigError, IntegrityError
from lesff.model import Model, load
from lesff.model_folder.digests import digest_metadata
from lesff.model_folder.folder import load_model
from lesff.potential.potential import RadialMode


@dataclass(frozen=True, kw_only=True)
class ModelReference:
    """What finds a model again.

    Attributes:
        name: ``name@version``, ``hf:organisation/name@commit`` or the path of a folder.
        digest: sha256 over the digests of its configuration, weights and calibration.
        dtype: ``"float32"`` or ``"float64"``.
        radial: ``"table"`` or ``"exact"``.
        device: Where it computes, such as ``"cpu"``; the CPU where there is no such device.
    """

    name: str
    digest: str
    dtype: str
    radial: str
    device: str

    @classmethod
    def of(cls, model: Model) -> ModelReference:
        """Reference of a model that is loaded.

        Raises:
            ConfigError: for a model whose weights differ from the files that it came from.
        """
        potential, source = model.potential, model.source
        reference = cls(
            name=_name_of(model),
            digest=_digest(source.folder),
            dtype=str(potential.dtype).removeprefix("torch."),
            radial=potential.radial,
            device=str(potential.device),
        )
        if not _holds(source.folder, model):
            raise ConfigError(
                f"`model` must be one that a file holds, got {model.name} changed in memory: save "
                "it with `model.save(DIR)` and give DIR"
            )
        return reference

    def load(self) -> Model:
        """The model.

        Raises:
            IntegrityError: if the model of this name is another one than that of the reference.
            ModelNotFoundError: if there is none.
        """
        model = _loaded(self.name, self.dtype, self.radial, _usable(self.device))
        found = _digest(model.source.folder)
        if found != self.digest:
            raise IntegrityError(
                f"the model {self.name} must have the digest {self.digest[:12]} that this system "
                f"was made with, got {found[:12]}: put the files back, or make the system anew "
                "from the model that is there"
            )
        return model


@lru_cache(maxsize=4)
def _loaded(name: str, dtype: str, radial: str, device: str) -> Model:
    """The model, once for all copies of a force."""
    return load(
        name,
        dtype=cast("Literal['float32', 'float64']", dtype),
        radial=cast("RadialMode", radial),
        device=device,
    )


def _name_of(model: Model) -> str:
    """What :func:`lesff.load` finds the same files with."""
    source = model.source
    is_address = source.name.startswith(("http:", "https:"))
    if source.version is None or is_address:
        return str(source.folder.resolve())
    return model.name


def _digest(folder: Path) -> str:
    """One digest of the files that decide what a model predicts."""
    text = "".join(digest_metadata(folder).values())
    return hashlib.sha256(text.encode()).hexdigest()


def _holds(folder: Path, model: Model) -> bool:
    """Whether a folder's weights and configuration are those of the model in memory."""
    potential = model.potential
    read = load_model(folder, dtype=potential.dtype, radial=potential.radial)
    first, second = read.state_dict(), potential.state_dict()
    if read.config != potential.config or first.keys() != second.keys():
        return False
    return all(torch.equal(value, second[name].cpu()) for name, value in first.items())


def _usable(device: str) -> str:
    """The device, or the CPU: a system made on a GPU can be looked at elsewhere."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        return "cpu"
    return device
