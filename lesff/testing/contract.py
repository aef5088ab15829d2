"""Promises of a part, their tolerances, and what was found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from lesff.errors import ContractError
from lesff.quantities import QUANTITIES

EXACT = 1e-10
"""Relative to the largest component or 1: float64 sums of some hundred terms in another order."""
SINGLE = 2e-5
"""Likewise in float32, for energies of order 100 eV of which forces are differences."""
SMOOTH = 1e-6
"""Likewise for forces on both sides of the cutoff; a jump of a model is orders larger."""
DIFFERENCE = 1e-6
"""Likewise for second derivatives from differences with a step of 1e-4 A: rounding 1e-12 / h."""
EFFECT = 1e-7
"""What must have an effect changes results by more."""

PROMISES = {
    "configuration": "the configuration is plain data, all of it",
    "shapes and types": "results have the documented shapes and the type of the positions",
    "effect": "energies depend on positions, charges on surroundings",
    "rotation and inversion": "r -> R r leaves scalars alone and turns vectors and tensors",
    "equivariant features": "features of order l turn with e3nn's Wigner matrices",
    "permutation": "results follow the order of the atoms",
    "translation": "results do not depend on the origin or on the image of an atom",
    "batch equals single": "a structure has the same results alone and in a batch",
    "extensive energy": "two cells have twice the energy of one",
    "receptive field": "an atom sees `n_layers` edges far, charges the head's `extra_hops` further",
    "cutoff": "energy and forces are continuous where an atom crosses the cutoff",
    "edges beyond the cutoff": "with a given topology longer edges count nothing",
    "planned steps": "a step with a plan has the results of one without",
    "node state": "a state of zeros is no state, another one has an effect",
    "derivatives": "forces, stress and responses are derivatives of the energy",
    "second derivatives": "forces can be differentiated again, as training does",
    "atomic energies": "they sum to the energy",
    "single precision": "float32 weights give float32 results, up to rounding",
    "state dict": "weights travel in `state_dict`, all of them",
    "total charge": "charges sum to the total charge",
    "response to fields": "charges depend on the site potential if and only if they say so",
}
"""Name of a promise -> what it says."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A promise that was kept.

    Attributes:
        promise: Key of :data:`PROMISES`.
        where: Quantity and structure.
        error: Largest difference.
        tolerance: Largest that is allowed.
        unit: Of both.
    """

    promise: str
    where: str
    error: float
    tolerance: float
    unit: str


class Contract:
    """What was found so far; the first broken promise raises ContractError.

    Args:
        subject: Name of the part, for messages.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.findings: list[Finding] = []

    def fail(
        self, promise: str, text: str, *, error: float = math.nan, tolerance: float = math.nan
    ) -> NoReturn:
        """Raise for a broken promise.

        Args:
            promise: Key of :data:`PROMISES`.
            text: What must be, and what was got.
            error: Size of the violation, where there is one.
            tolerance: Largest that is allowed.
        """
        raise ContractError(
            f"{self.subject} breaks the promise {promise!r} ({PROMISES[promise]}): {text}",
            promise=promise,
            error=error,
            tolerance=tolerance,
        )

    def require(
        self, promise: str, where: str, error: float, tolerance: float = EXACT, unit: str = ""
    ) -> None:
        """An error is a number and at most the tolerance."""
        if not error <= tolerance:
            text = f"the error of {where} must be at most {tolerance:.1e}, got {error:.1e} {unit}"
            self.fail(promise, text.strip(), error=error, tolerance=tolerance)
        self.findings.append(
            Finding(promise=promise, where=where, error=error, tolerance=tolerance, unit=unit)
        )

    def require_effect(self, promise: str, where: str, size: float) -> None:
        """Something has an effect, so that the other promises mean something."""
        if not size > EFFECT:
            text = f"the effect on {where} must be above {EFFECT:.0e}, got {size:.1e}"
            self.fail(promise, text, error=size, tolerance=EFFECT)

    def require_tensor(
        self, promise: str, where: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        """A tensor has this shape and type."""
        if tuple(tensor.shape) != shape:
            self.fail(promise, f"the shape of {where} must be {shape}, got {tuple(tensor.shape)}")
        if tensor.dtype != dtype:
            self.fail(promise, f"the type of {where} must be {dtype}, got {tensor.dtype}")

    def same(
        self,
        promise: str,
        structure: str,
        got: Mapping[str, Tensor],
        expected: Mapping[str, Tensor],
        tolerance: float = EXACT,
    ) -> None:
        """All quantities agree, relative to their largest component or 1."""
        for name, value in expected.items():
            found, where = got[name], f"{name} of the {structure}"
            self.require_tensor(promise, where, found, tuple(value.shape), found.dtype)
            if value.numel() == 0:
                continue
            scale = max(1.0, float(value.abs().max()))
            error = float((found.double() - value.double()).abs().max())
            unit = QUANTITIES[name].unit if name in QUANTITIES else ""
            self.require(promise, where, error, tolerance * scale, unit)
