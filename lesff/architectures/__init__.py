"""Short-range architectures: one file each, listed by name in ``ARCHITECTURES``."""

from lesff.architectures.base import Architecture, ArchitectureOutput
from lesff.architectures.mace import MACE
from lesff.architectures.mace_config import MACEConfig

ARCHITECTURES: dict[str, tuple[type[MACEConfig], type[MACE]]] = {"mace": (MACEConfig, MACE)}
"""Name in ``config.json`` -> (configuration class, module class)."""

__all__ = ["ARCHITECTURES", "MACE", "Architecture", "ArchitectureOutput", "MACEConfig"]
