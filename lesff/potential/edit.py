"""Another charge head or further moments on a pretrained potential, and dispersion added to it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import get_args

import torch
from torch import nn

from lesff.electrostatics.dispersion import Dispersion, DispersionConfig
from lesff.errors import ConfigError
from lesff.heads import HeadName, MultipoleConfig
from lesff.potential.potential import Potential

_FREE = ("latent", "shifted")
_BASELESS = (
    *((old, new) for old in _FREE for new in ("qeq", "qeq-local", "fukui")),
    ("latent", "edge"),
)
"""Changes that leave the readouts of a free head where they are; others lay the old head below."""
_PLAIN = ("shifted", "fukui")
"""With its equal weights at the start, the second head is the first one without a residual."""


def with_head(potential: Potential, name: str) -> Potential:
    """A copy with another charge head that starts out with the same energies and forces.

    Everything but the head is copied, and the head keeps the charge readouts; what is new starts
    such that energies agree to rounding. See :mod:`lesff.heads.base` for how charges start.

    Args:
        potential: A potential with any head but ``"qeq"``; not modified.
        name: The new head.

    Raises:
        ConfigError: if there is no head to start from, from ``"qeq"``, for ``"qeq"`` with further
            moments, and for more than ``MAX_BASES`` changes in a row.
    """
    if name not in get_args(HeadName):
        raise ConfigError(f"`head` must be one of {', '.join(get_args(HeadName))}, got {name!r}")
    long_range = potential.config.long_range
    if long_range is None or potential.charge_head is None:
        raise ConfigError(
            f"`head` must not be given for a model without `long_range`, got {name!r}: there are "
            "no charges to start from"
        )
    head: HeadName = name  # pyright: ignore[reportAssignmentType]
    if long_range.head == head:
        return copy.deepcopy(potential)
    if long_range.head == "qeq":
        raise ConfigError(
            f"`head` cannot change from 'qeq' to {name!r}: its charges minimise an energy, so that "
            "the dipole is its derivative by a field; no other head gives the same charges, and "
            "with one on top they would not minimise it; start from the model before 'qeq'"
        )
    has_base = bool(long_range.bases) or (long_range.head, name) not in _BASELESS
    if has_base:
        new = long_range.topped_by(head)
    else:
        new = replace(long_range, head=head, residual=(long_range.head, name) != _PLAIN)
    result = copy.deepcopy(potential)
    result.config = replace(potential.config, long_range=new)
    result.uncertainty = None  # it was calibrated with the other head
    result.charge_head = result.make_head()
    if has_base:
        result.charge_head.put_on(copy.deepcopy(potential.charge_head))
    else:
        own = result.charge_head.state_dict()
        own.update(potential.charge_head.state_dict())
        if long_range.head == "shifted" and "anchored.anchor" in own:
            own["anchored.anchor"] = torch.zeros_like(own["anchored.anchor"])
        result.charge_head.load_state_dict(own, strict=True)
    _adopt(result, result.charge_head, potential)
    return result


def with_multipoles(potential: Potential, multipoles: MultipoleConfig) -> Potential:
    """A copy with moments beyond charges that start out with the same energies and forces.

    Args:
        potential: A potential with charges and without multipoles; not modified.
        multipoles: The moments.

    Raises:
        ConfigError: if there are no charges to start from, for a head whose charges equilibrate,
            if there are other multipoles already, and for features that the architecture lacks.
    """
    long_range = potential.config.long_range
    if long_range is None:
        raise ConfigError(
            "`multipoles` must not be given for a model without `long_range`: there are no charges "
            "to start from"
        )
    if long_range.multipoles == multipoles:
        return copy.deepcopy(potential)
    if long_range.multipoles is not None:
        raise ConfigError(
            f"`multipoles` cannot change from {long_range.multipoles} to {multipoles}; start from "
            "a model without"
        )
    new = replace(long_range, multipoles=multipoles)
    result = copy.deepcopy(potential)
    result.config = replace(potential.config, long_range=new)
    result.multipole_head = result.make_multipole_head()
    _adopt(result, result.multipole_head, potential)
    return result


def with_dispersion(potential: Potential, dispersion: DispersionConfig) -> Potential:
    """A copy with dispersion added; energies change by it until the copy is trained further.

    Args:
        potential: A potential without dispersion; not modified.
        dispersion: The dispersion.

    Raises:
        ConfigError: if there is another dispersion already, or no coefficient for an element.
    """
    before = potential.config.dispersion
    if before not in (None, dispersion):
        raise ConfigError(
            f"`dispersion` cannot change from {before} to {dispersion}; start from a model without"
        )
    config = replace(potential.config, dispersion=dispersion)
    result = copy.deepcopy(potential)
    result.config = config
    result.dispersion = Dispersion(dispersion, config.elements).to(potential.device)
    result.uncertainty = None  # it was calibrated without
    return result


def _adopt(result: Potential, head: nn.Module, potential: Potential) -> None:
    """Give a new head the type, place and mode of the potential that it was made for."""
    frozen = not any(parameter.requires_grad for parameter in potential.parameters())
    result.cast_parameters(potential.dtype)
    head.to(potential.device).requires_grad_(not frozen).train(potential.training)
