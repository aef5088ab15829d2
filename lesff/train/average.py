"""The average of the weights of two models, one trained on from the other."""

from __future__ import annotations

import torch

from lesff.errors import ConfigError
from lesff.potential.edit import with_head
from lesff.potential.potential import Potential


def average_weights(earlier: Potential, later: Potential, share: float) -> Potential:
    """Weights = earlier + share (later - earlier) (Wortsman et al., arXiv 2109.01903).

    If the later model has another charge head, the one that the earlier is given leaves its
    energies as they are: its output weights are zero, and what comes before these is that of the
    later.

    Args:
        earlier: The model at the start.
        later: The model at the end; its weights are changed.
        share: Share of the later model, between 0 and 1.

    Returns:
        ``later``.

    Raises:
        ConfigError: if the models have not the same weights.
    """
    trained = set(earlier.state_dict())
    if later.config.long_range is not None:
        earlier = with_head(earlier, later.config.long_range.head)
    before, after = dict(earlier.named_parameters()), dict(later.named_parameters())
    if odd := before.keys() ^ after.keys():
        raise ConfigError(f"the models must have the same weights, got {', '.join(sorted(odd))}")
    with torch.no_grad():
        for name, parameter in after.items():
            if name in trained or not bool(before[name].any()):
                parameter.lerp_(before[name], 1.0 - share)
    later.uncertainty = None  # it belongs to the weights of one model
    return later
