"""lesff: foundation models for atoms with long-range electrostatics.

>>> import lesff
>>> from ase.build import molecule
>>> model = lesff.load("off-small")
>>> p = model.predict(molecule("H2O"), ["energy", "dipole"])
>>> p["dipole"].shape
(3,)
"""

from lesff.hub.manifest.names import list_models
from lesff.hub.resolve import ResolvedModel, resolve
from lesff.model import Model, load
from lesff.potential.potential import ModelConfig, Potential
from lesff.prediction import Prediction

__version__ = "0.1.0"

__all__ = [
    "Model",
    "ModelConfig",
    "Potential",
    "Prediction",
    "ResolvedModel",
    "__version__",
    "list_models",
    "load",
    "resolve",
]
