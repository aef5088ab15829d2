"""Short-range architectures: one file or folder each, by name in :mod:`registry`."""

from lesff.architectures.aimnet2.config import AIMNet2Config
from lesff.architectures.aimnet2.model import AIMNet2
from lesff.architectures.base import Architecture, ArchitectureOutput, FirstLayerState
from lesff.architectures.mace.config import MACEConfig
from lesff.architectures.mace.model import MACE
from lesff.architectures.nequip.config import NequIPConfig
from lesff.architectures.nequip.model import NequIP
from lesff.architectures.registry import (
    ARCHITECTURES,
    find_architecture,
    read_architecture,
    register_architecture,
)

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
    "find_architecture",
    "read_architecture",
    "register_architecture",
]
