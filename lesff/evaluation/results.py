"""What a check gives, and the JSON file that keeps it: complete after every check."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import lesff
from lesff.errors import ConfigError, DataError
from lesff.plain_data import read_json, write_json

FORMAT = 1
NONE_MAY = (None, 0.0)
"""Limits of a count of items that fail; its unit says of how many."""


class NotCoveredError(Exception):
    """A check says nothing about this subject; the message says why. Never leaves the suite."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """One number of a card table.

    Attributes:
        name: What it is.
        unit: Its unit.
        value: What the subject gives.
        reference: The value of experiment or theory to compare with; None for errors, whose aim is
            zero.
        limits: Lowest and highest value that passes (None: any); None for values without a pass
            mark.
    """

    name: str
    unit: str
    value: float
    reference: float | None = None
    limits: tuple[float | None, float | None] | None = None

    @property
    def passes(self) -> bool | None:
        """Whether the value is within its limits; None without limits."""
        if self.limits is None:
            return None
        low, high = self.limits
        inside = (low is None or self.value >= low) and (high is None or self.value <= high)
        return bool(np.isfinite(self.value) and inside)


@dataclass(kw_only=True)
class CheckResult:
    """What a check found.

    Attributes:
        quantities: The numbers of the card table.
        rows: Items behind them, one dictionary each.
        left_out: Items without result, and why.
    """

    quantities: list[Value] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(
        self, name: str, unit: str, value: float | np.floating, reference: float | None = None
    ) -> None:
        """Append a quantity."""
        self.quantities.append(Value(name=name, unit=unit, value=float(value), reference=reference))

    def to_dict(self) -> dict[str, Any]:
        """Plain data: numbers with six significant digits, no NaN."""
        return _plain({"status": "done", **asdict(self)})


@dataclass
class SuiteFile:
    """Results of a model and of what it is compared with, in a JSON file.

    Attributes:
        path: The file.
        data: ``model``, ``weights_sha256``, ``lesff``, and ``results`` by subject and check.
    """

    path: Path
    data: dict[str, Any]

    @classmethod
    def open(cls, path: Path, model: str, weights_sha256: str, *, restart: bool) -> SuiteFile:
        """Start a file, or go on with the one that is there.

        Args:
            path: The file.
            model: Resolved name of the model.
            weights_sha256: Identity of its weights.
            restart: Forget what an older file says.

        Raises:
            DataError: if the file is not one of ours or belongs to other weights.
        """
        fresh = cls(
            path,
            {
                "format": FORMAT,
                "model": model,
                "weights_sha256": weights_sha256,
                "lesff": lesff.__version__,
                "results": {},
            },
        )
        if restart or not path.exists():
            return fresh
        data = read_suite(path)
        if data["weights_sha256"] != weights_sha256:
            raise DataError(
                f"{path} holds results of {data['model']} with other weights; write to another "
                "file, or use --restart to replace it"
            )
        return cls(path, data | {"model": model, "lesff": lesff.__version__})

    def get(self, subject: str, check: str) -> dict[str, Any] | None:
        """The stored result of a check."""
        return self.data["results"].get(subject, {}).get(check)

    def put(self, subject: str, check: str, result: dict[str, Any]) -> None:
        """Store a result and write the file; it appears complete or not at all."""
        self.data["results"].setdefault(subject, {})[check] = result
        write_json(self.path, self.data)


def read_suite(path: Path) -> dict[str, Any]:
    """Results of the suite.

    Raises:
        DataError: if the file is not one that the suite wrote.
    """
    try:
        data = read_json(path)
    except (OSError, ConfigError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if data.get("format") != FORMAT or not isinstance(data.get("results"), dict):
        raise DataError(f"{path} must be a result file of the evaluation suite, format {FORMAT}")
    return data


def _plain(value: Any) -> Any:
    """Numbers of JSON: six significant digits, None for NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
