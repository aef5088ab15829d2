"""What one client may ask of a service, and how much of it waits."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields

from lesff.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a service.

    Attributes:
        max_body: Bytes of a request.
        max_atoms: Atoms of all structures of a request.
        max_hessian_atoms: Atoms of a structure whose vibrations are computed.
        max_structures: Structures of a request.
        max_queue: Structures that wait, of all clients.
        max_queue_atoms: Their atoms.
        max_tasks: Relaxations and SMILES under way, each.
        batch_atoms: Atoms that are computed together, or one structure.
        timeout: Seconds until a request is given up.
        body_timeout: Seconds that a client may take to send a request.
    """

    max_body: int = 2_000_000
    max_atoms: int = 1000
    max_hessian_atoms: int = 100
    max_structures: int = 256
    max_queue: int = 1024
    max_queue_atoms: int = 100_000
    max_tasks: int = 4
    batch_atoms: int = 1024
    timeout: float = 60.0
    body_timeout: float = 20.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: for one that is not positive.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"`{field.name}` must be a positive number, got {value!r}")


def api_key_of_environment() -> str | None:
    """``$LESFF_API_KEY``, or None: the key that clients of a service must know."""
    return os.environ.get("LESFF_API_KEY", "").strip() or None
