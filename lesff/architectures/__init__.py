"""Short-range architectures: one file or folder each, listed by name in ``ARCHITECTURES``."""

from typing import Any

from lesff.architectures.aimnet2.config import AIMNet2Config
from lesff.architectures.aimnet2.model import AIMNet2
from lesff.architectures.base import Architecture, ArchitectureOutput, FirstLayerState
from lesff.architectures.mace.config import MACEConfig
from lesff.architectures.mace.model import MACE
from lesff.architectures.nequip.config import NequIPConfig
from lesff.architectures.nequip.model import NequIP

ARCHITECTURES: dict[str, tuple[type[Any], type[Any]]] = {
    "aimnet2": (AIMNet2Config, AIMNet2),
    "mace": (MACEConfig, MACE),
    "nequip": (NequIPConfig, NequIP),
}
"""Name in ``config.json`` -> (configuration class, module class)."""

__all__ = [
    "ARCHITECTURES",
    "MACE",
    "AIMNet2",
    "AIMNet2Config",
    "Architecture",
    "ArchitectureOutput",
    "FirstLayerState",
    "MACEConfig",
    "NequIP",
    "NequIPConfig",
]
