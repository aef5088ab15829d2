"""Short-range architectures: one file each, listed by name in ``ARCHITECTURES``."""

from lesff.architectures.base import Architecture, ArchitectureOutput, FirstLayerState
from lesff.architectures.mace.config import MACEConfig
from lesff.architectures.mace.model import MACE

ARCHITECTURES: dict[str, tuple[type[MACEConfig], type[MACE]]] = {"mace": (MACEConfig, MACE)}
"""Name in ``config.json`` -> (configuration class, module class)."""

__all__ = [
    "ARCHITECTURES",
    "MACE",
    "Architecture",
    "ArchitectureOutput",
    "FirstLayerState",
    "MACEConfig",
]
