"""lesff: foundation models for atoms with long-range electrostatics.

>>> import lesff
>>> from ase.build import molecule
>>> model = lesff.load("off-small")
>>> p = model.predict(molecule("H2O"), ["energy", "dipole"])
>>> p["dipole"].shape
(3,)

The names below are imported when they are first used: PyTorch takes seconds to import, which a
command such as ``lesff list`` does not need.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lesff.errors import (
    CacheError,
    CaveatWarning,
    ChargedCellWarning,
    ChargeSpinError,
    ConfigError,
    ConvergenceError,
    DataError,
    DeviceError,
    ExtrapolationWarning,
    IntegrityError,
    KernelError,
    LesffError,
    LicenseError,
    ManifestError,
    MissingDependencyError,
    ModelNotFoundError,
    NotPositiveDefiniteError,
    OfflineError,
    OutOfDomainError,
    PhysicsError,
    PropertyError,
    PublishError,
    SignatureError,
    StructureError,
    UnsupportedInputError,
    UnverifiedWarning,
)

if TYPE_CHECKING:
    __version__: str

    from lesff.ensemble import EnsembleModel, load_ensemble
    from lesff.hub.manifest.names import list_models
    from lesff.hub.resolve import ResolvedModel, resolve
    from lesff.model import Model, load
    from lesff.potential.config import ModelConfig
    from lesff.potential.potential import Potential
    from lesff.potential.response import BornOptions
    from lesff.prediction import Prediction
    from lesff.reports.viewer import view

__all__ = [
    "BornOptions",
    "CacheError",
    "CaveatWarning",
    "ChargedCellWarning",
    "ChargeSpinError",
    "ConfigError",
    "ConvergenceError",
    "DataError",
    "DeviceError",
    "EnsembleModel",
    "ExtrapolationWarning",
    "IntegrityError",
    "KernelError",
    "LesffError",
    "LicenseError",
    "ManifestError",
    "MissingDependencyError",
    "Model",
    "ModelConfig",
    "ModelNotFoundError",
    "NotPositiveDefiniteError",
    "OfflineError",
    "OutOfDomainError",
    "PhysicsError",
    "Potential",
    "Prediction",
    "PropertyError",
    "PublishError",
    "ResolvedModel",
    "SignatureError",
    "StructureError",
    "UnsupportedInputError",
    "UnverifiedWarning",
    "__version__",
    "list_models",
    "load",
    "load_ensemble",
    "resolve",
    "view",
]

# threads of OpenMP that spin while they wait take the CPU from others; PyTorch reads this when it
# is imported, so that it counts where lesff comes first
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_HOMES = {
    "BornOptions": "lesff.potential.response",
    "EnsembleModel": "lesff.ensemble",
    "Model": "lesff.model",
    "ModelConfig": "lesff.potential.config",
    "Potential": "lesff.potential.potential",
    "Prediction": "lesff.prediction",
    "ResolvedModel": "lesff.hub.resolve",
    "list_models": "lesff.hub.manifest.names",
    "load": "lesff.model",
    "load_ensemble": "lesff.ensemble",
    "resolve": "lesff.hub.resolve",
    "view": "lesff.reports.viewer",
}
"""Module of every name that is imported when it is first used."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # start-up: 20 ms that most callers do not need

        value: Any = version("lesff")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'lesff' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
