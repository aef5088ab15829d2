"""The chapter of robustness: its checks, running them, and GFN2-xTB beside the figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lesff.evaluation.results import CheckResult, NotCoveredError, Value
from lesff.evaluation.robustness.approaches import measure_approaches, summarise_approaches
from lesff.evaluation.robustness.clashes import measure_clashes, summarise_clashes
from lesff.evaluation.robustness.compression import measure_compression, summarise_compression
from lesff.evaluation.robustness.converged_sums import (
    measure_converged_sums,
    summarise_converged_sums,
)
from lesff.evaluation.robustness.dissociation import measure_dissociation, summarise_dissociation
from lesff.evaluation.robustness.hot_runs import measure_hot_runs, summarise_hot_runs
from lesff.evaluation.robustness.hunt import measure_hunt, summarise_hunt
from lesff.evaluation.robustness.ion_contacts import (
    measure_ion_contacts,
    summarise_ion_contacts,
)
from lesff.evaluation.robustness.pairs import measure_pairs, summarise_pairs
from lesff.evaluation.robustness.probe import Options
from lesff.evaluation.robustness.proton_runs import (
    measure_proton_runs,
    summarise_proton_runs,
)
from lesff.evaluation.robustness.size_consistency import (
    measure_size_consistency,
    summarise_size_consistency,
)
from lesff.evaluation.robustness.solvated_ions import (
    measure_solvated_ions,
    summarise_solvated_ions,
)
from lesff.evaluation.robustness.spin_order import measure_spin_order, summarise_spin_order
from lesff.methods import Method
from lesff.plain_data import read_json

Rows = Sequence[dict[str, Any]]
REFERENCES = Path(__file__).with_name("references")
"""Rows of other methods, a JSON file each, written by ``tools/robustness_reference.py``."""
SOURCES = ("pass marks of the chapter of robustness: docs/evaluation.md",)


@dataclass(frozen=True, kw_only=True)
class RobustnessCheck:
    """One check.

    Attributes:
        name: As on the command line and in result files.
        measure: Takes a subject and options; gives rows, and what is left out.
        summarise: Figures with pass marks, from rows; of GFN2-xTB, too, for the same items.
        is_random: Whether the seed matters.
    """

    name: str
    measure: Callable[[Method, Options], CheckResult]
    summarise: Callable[[Rows], list[Value]]
    is_random: bool = False

    def run(self, subject: Method, options: Options | None = None) -> CheckResult:
        """Rows and figures.

        Raises:
            NotCoveredError: if no item is covered.
        """
        result = self.measure(subject, options or Options())
        if not result.rows:
            raise NotCoveredError("; ".join(sorted(set(result.left_out.values()))))
        result.quantities = self.summarise(result.rows)
        return result


ROBUSTNESS = (
    RobustnessCheck(name="pairs", measure=measure_pairs, summarise=summarise_pairs),
    RobustnessCheck(
        name="approaches", measure=measure_approaches, summarise=summarise_approaches,
        is_random=True,
    ),
    RobustnessCheck(
        name="compression", measure=measure_compression, summarise=summarise_compression
    ),
    RobustnessCheck(
        name="dissociation", measure=measure_dissociation, summarise=summarise_dissociation
    ),
    RobustnessCheck(
        name="size-consistency", measure=measure_size_consistency,
        summarise=summarise_size_consistency,
    ),
    RobustnessCheck(
        name="ions-in-water", measure=measure_solvated_ions, summarise=summarise_solvated_ions
    ),
    RobustnessCheck(
        name="ion-contacts", measure=measure_ion_contacts, summarise=summarise_ion_contacts
    ),
    RobustnessCheck(
        name="spin-order", measure=measure_spin_order, summarise=summarise_spin_order
    ),
    RobustnessCheck(
        name="converged-sums", measure=measure_converged_sums, summarise=summarise_converged_sums
    ),
    RobustnessCheck(
        name="clashes", measure=measure_clashes, summarise=summarise_clashes, is_random=True
    ),
    RobustnessCheck(
        name="hot-runs", measure=measure_hot_runs, summarise=summarise_hot_runs, is_random=True
    ),
    RobustnessCheck(
        name="proton-runs", measure=measure_proton_runs, summarise=summarise_proton_runs,
        is_random=True,
    ),
    RobustnessCheck(name="hunt", measure=measure_hunt, summarise=summarise_hunt, is_random=True),
)  # fmt: skip
"""All checks, in the order of the tables."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found.

    Attributes:
        check: Its name.
        result: Figures, rows and what is left out; None if nothing is covered.
        reason: Why nothing is covered; empty if something is.
        references: Values of other methods for the same items: by method and name of the figure.
        seconds: Wall time.
    """

    check: str
    result: CheckResult | None
    reason: str = ""
    references: dict[str, dict[str, float]]
    seconds: float

    @property
    def failed(self) -> list[str]:
        """Names of the figures outside their limits."""
        values = self.result.quantities if self.result else []
        return [value.name for value in values if value.passes is False]


def run_chapter(
    subject: Method, options: Options, checks: Sequence[RobustnessCheck] = ROBUSTNESS
) -> Iterator[Finding]:
    """Run checks one after the other.

    Args:
        subject: The method.
        options: How much is done.
        checks: What to run.

    Yields:
        What each check found.
    """
    bar = tqdm(checks, unit="check", leave=False)
    for check in bar:
        bar.set_description(check.name)
        start = time.monotonic()
        try:
            result, reason = check.run(subject, options), ""
        except NotCoveredError as error:
            result, reason = None, str(error)
        yield Finding(
            check=check.name,
            result=result,
            reason=reason,
            references=reference_values(check, result, options) if result else {},
            seconds=round(time.monotonic() - start, 1),
        )


def reference_values(
    check: RobustnessCheck, result: CheckResult, options: Options
) -> dict[str, dict[str, float]]:
    """Figures of other methods for the items of a result that they were computed for.

    Args:
        check: The check.
        result: Of another method.
        options: Whose seed must be that of the stored rows where it matters.
    """
    items = {row["item"] for row in result.rows}
    found = {}
    for name, stored in stored_references().items():
        if check.is_random and options.seed != stored["seed"]:
            continue
        rows = [row for row in stored["rows"].get(check.name, ()) if row["item"] in items]
        if rows:
            found[name] = {value.name: value.value for value in check.summarise(rows)}
    return found


@cache
def stored_references() -> dict[str, dict[str, Any]]:
    """``seed`` and ``rows`` by check of every method that was stored, by its name in tables."""
    files = sorted(REFERENCES.glob("*.json"))
    return {data["method"]: data for data in map(read_json, files)}
