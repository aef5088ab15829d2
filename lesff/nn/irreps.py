"""Irreps of node features in e3nn's notation, such as ``64x0e+64x1o``."""

from __future__ import annotations

import re

_IRREP = re.compile(
    r"(?:(?P<multiplicity>[0-9]{1,9})\s*x\s*)?(?P<order>[0-9]{1,3})(?P<parity>[eo])"
)
"""Multiplicity x order, "e" for parity +1 and "o" for -1."""


def multiplicities(irreps: str) -> tuple[int, ...] | None:
    """Channels of orders 0, 1, .. L.

    Args:
        irreps: Joined by ``+``; natural parity (-1)^l, every order once, ascending.

    Returns:
        One number per order; None for orders or parities of another kind.

    Raises:
        ValueError: for what is not in e3nn's notation.
    """
    parts = [_IRREP.fullmatch(part.strip()) for part in irreps.split("+")]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts):
        raise ValueError(f"must be e3nn irreps, got {irreps!r}")
    orders = [(int(part["order"]), part["parity"]) for part in known]
    if orders != [(order, "eo"[order % 2]) for order in range(len(orders))]:
        return None
    return tuple(int(part["multiplicity"] or 1) for part in known)
