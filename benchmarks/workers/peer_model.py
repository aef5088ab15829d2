"""Models of mace-torch: from a checkpoint, or with random weights."""

import sys
import types

import numpy as np
import torch
from mace import modules  # before e3nn: it allows e3nn 0.4.4 to read its own constants

from e3nn import o3  # isort: skip


def load(path: str) -> torch.nn.Module:
    """Unpickle a checkpoint; classes of the long-range package become empty modules."""
    for name in (
        "les",
        "les.les",
        "les.module",
        *(f"les.module.{k}" for k in ("ewald", "bec", "atomwise")),
    ):
        stand_in = types.ModuleType(name)
        stand_in.__getattr__ = lambda key: type(key, (torch.nn.Module,), {})
        sys.modules[name] = stand_in
    modules.models.MACELES = type("MACELES", (modules.ScaleShiftMACE,), {})
    return torch.load(path, map_location="cpu", weights_only=False).float()  # noqa: TID251, S614


def build(hidden: str, cutoff: float, elements: list[int]) -> torch.nn.Module:
    """Random weights."""
    return modules.ScaleShiftMACE(
        r_max=cutoff,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=len(elements),
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(elements)),
        avg_num_neighbors=40.0,
        atomic_numbers=elements,
        correlation=3,
        radial_type="bessel",
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
