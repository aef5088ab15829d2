"""Charge heads: one file per family, listed by name in ``HEADS``."""

from collections.abc import Callable

from lesff.heads.base import ChargeModel, HasPolarization, HeadInput, HeadOutput, HeadSizes
from lesff.heads.carried import CarriedHead
from lesff.heads.config import HEAD_NAMES, HeadName, LongRangeConfig, MultipoleConfig
from lesff.heads.edge import EdgeHead
from lesff.heads.free import FreeHead
from lesff.heads.fukui import FukuiHead
from lesff.heads.multipoles import MultipoleHead
from lesff.heads.qeq import LocalQEqHead, QEqHead

HEADS: dict[HeadName, Callable[[LongRangeConfig, HeadSizes], ChargeModel]] = {
    "latent": FreeHead,
    "shifted": FreeHead,
    "qeq": QEqHead,
    "qeq-local": LocalQEqHead,
    "edge": EdgeHead,
    "fukui": FukuiHead,
    "carried": CarriedHead,
}
"""Name in ``config.json`` -> class."""


def make_head(config: LongRangeConfig, sizes: HeadSizes) -> ChargeModel:
    """A charge head as its configuration says, with those below it and initial weights."""
    head = HEADS[config.head](config, sizes)
    if config.base is not None:
        head.put_on(make_head(config.base, sizes))
    return head


__all__ = [
    "HEADS",
    "HEAD_NAMES",
    "ChargeModel",
    "HasPolarization",
    "HeadInput",
    "HeadName",
    "HeadOutput",
    "HeadSizes",
    "LongRangeConfig",
    "MultipoleConfig",
    "MultipoleHead",
    "make_head",
]
