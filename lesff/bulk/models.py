"""Models in workers: found by name and digest, loaded once a process."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock

import torch

from lesff.autograd import plain_arithmetic
from lesff.errors import IntegrityError, LesffError
from lesff.hub.resolve import ResolvedModel, resolve
from lesff.model_folder.folder import load_model
from lesff.potential.config import DTYPES
from lesff.potential.ensemble import members_of
from lesff.potential.potential import Potential, RadialMode

_loaded: dict[str, Potential] = {}
_lock = Lock()


@dataclass(frozen=True, kw_only=True)
class ModelReference:
    """What a worker needs to have the same model.

    Attributes:
        name: Resolved name, for messages and results.
        spec: What :func:`lesff.load` takes.
        digest: Of weights, configuration, precision and mode, see :func:`potential_digest`.
        device: Where to compute.
        dtype: ``"float32"`` or ``"float64"``.
        radial: How radial functions are evaluated.
        caveats: Quantities that are not to be trusted, and why.
        potential: The model itself where no file holds it; else None.
    """

    name: str
    spec: str
    digest: str
    device: str
    dtype: str
    radial: RadialMode
    caveats: dict[str, str]
    potential: Potential | None = None

    def load(self) -> Potential:
        """The model, loaded by the first call in a process.

        Raises:
            IntegrityError: if what is found by this name is another model.
            LesffError: if it cannot be loaded.
        """
        with _lock:
            if self.digest not in _loaded:
                _loaded[self.digest] = self._found()
            return _loaded[self.digest]

    def _found(self) -> Potential:
        if self.potential is not None:
            return self.potential
        # whoever made the reference has accepted the licence
        folder = resolve(_spec(self.spec), accept_license=True).folder
        potential = _load(folder, DTYPES[self.dtype], self.device, self.radial)
        found = potential_digest(potential)
        if found != self.digest:
            raise IntegrityError(
                f"model {self.spec} of the worker must have digest {self.digest}, got {found}: it "
                "needs the files that this process has"
            )
        return potential


def reference_to(potential: Potential, source: ResolvedModel, name: str) -> ModelReference:
    """Reference to a model of this process, which need not be loaded again here.

    A model that no file holds, because it was changed after it was loaded, travels itself.

    Args:
        potential: The model.
        source: Where it came from.
        name: Its resolved name.
    """
    digest = potential_digest(potential)
    with _lock:
        _loaded[digest] = potential
    return ModelReference(
        name=name,
        spec=_spec_of(source),
        digest=digest,
        device=str(potential.device),
        dtype=str(potential.dtype).removeprefix("torch."),
        radial=potential.radial,
        caveats=dict(source.caveats),
    )


def for_workers(reference: ModelReference, source: ResolvedModel) -> ModelReference:
    """The reference for other processes: with the model itself if its files are another one."""
    potential = reference.load()
    try:
        stored = _load(source.folder, potential.dtype, potential.device, potential.radial)
        is_stored = potential_digest(stored) == reference.digest
    except (LesffError, OSError):
        is_stored = False
    if is_stored:
        return reference
    return replace(reference, potential=potential)


def potential_digest(potential: Potential) -> str:
    """Hexadecimal sha256 of a model's configuration, weights, precision and radial mode."""
    configs = [asdict(member.config) for member in members_of(potential)]
    config = json.dumps(configs if len(configs) > 1 else configs[0], sort_keys=True, default=str)
    digest = hashlib.sha256(f"{config} {potential.dtype} {potential.radial}".encode())
    for name, tensor in sorted(potential.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load(
    folder: Path, dtype: torch.dtype, device: str | torch.device, radial: RadialMode
) -> Potential:
    with plain_arithmetic(device):
        return load_model(folder, dtype=dtype, device=device, radial=radial)


def _spec_of(source: ResolvedModel) -> str:
    """The name by which another process finds the same model."""
    if source.origin == "folder":
        return str(source.folder.resolve())
    if source.origin == "web" or source.version is None:
        return source.name
    return f"{source.name}@{source.version}"


def _spec(text: str) -> str | Path:
    path = Path(text)
    return path if path.is_absolute() else text
