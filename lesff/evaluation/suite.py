"""The suite: which checks there are, which apply, and running them one after the other."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tqdm.auto import tqdm

from lesff.atoms.elements import symbols
from lesff.errors import ConfigError
from lesff.evaluation.checks.crystals import (
    MORE_SOURCES,
    PHONON_SOURCES,
    SURFACE_SOURCES,
    check_more_solids,
    check_phonons,
    check_surfaces,
    compare_phonons,
)
from lesff.evaluation.checks.dipoles import DIPOLE_SOURCES, check_dipoles
from lesff.evaluation.checks.dynamics import (
    DRIFT_SOURCES,
    LIQUID_SOURCES,
    check_drift,
    check_liquids,
)
from lesff.evaluation.checks.frames import FRAME_SOURCES, Labelled, check_conformers, check_frames
from lesff.evaluation.checks.interactions import S22_SOURCES, check_s22
from lesff.evaluation.checks.long_range import LONG_RANGE_SOURCES, check_long_range
from lesff.evaluation.checks.reactions import REACTION_SOURCES, check_reactions
from lesff.evaluation.checks.solids import (
    BORN_SOURCES,
    SOLID_SOURCES,
    SOLIDS,
    check_born,
    check_solids,
    compare_solids,
    crystal,
)
from lesff.evaluation.checks.states import STATE_SOURCES, check_states
from lesff.evaluation.checks.torsions import TORSION_SOURCES, check_torsions
from lesff.evaluation.checks.water import WATER_SOURCES, check_water
from lesff.evaluation.coverage import require
from lesff.evaluation.results import CheckResult, NotCoveredError, SuiteFile, Value
from lesff.evaluation.robustness.chapter import ROBUSTNESS, SOURCES
from lesff.methods import XTB, Method

Rows = Sequence[dict[str, Any]]
Family = Literal["data", "organic", "inorganic", "robustness"]
ORGANIC = (1, 6, 7, 8)
"""Elements that a model must cover for the organic checks: H C N O."""
SUITES = ("standard", "full")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of the suite.

    Attributes:
        name: As on the command line and in result files.
        family: ``"data"`` needs labelled frames; the others go by the elements of the model, those
            of the chapter ``"robustness"`` item by item.
        run: Does it; takes a subject, and the labelled frames in the family ``"data"``.
        sources: Where its reference values are from.
        full_only: Whether it takes too long for the suite ``"standard"``.
        models_only: Whether it is for models of lesff only, not for baselines.
        compare: Quantities of a baseline that compare it with the model: takes the name of the
            model, its rows and those of the baseline.
        summarise: Quantities from rows; of a baseline those of the model's items are taken.
    """

    name: str
    family: Family
    run: Callable[..., CheckResult]
    sources: tuple[str, ...]
    full_only: bool = False
    models_only: bool = False
    compare: Callable[[str, Rows, Rows], list[dict[str, Any]]] | None = None
    summarise: Callable[[Rows], list[Value]] | None = None

    def why_not(self, subject: Method, data: Labelled | None, suite: str) -> str:
        """Why the check is not run; empty if it is."""
        if self.full_only and suite != "full":
            return "only in --suite full"
        if self.family == "data" and data is None:
            return "no labelled frames: give --data FILE"
        if self.models_only and subject.model is None:
            return "for models only"
        missing = symbols([z for z in ORGANIC if z not in subject.elements])
        if self.family == "organic" and missing:
            return f"organic checks need H C N O; no {missing}"
        if self.family == "inorganic" and subject.name == XTB:
            return f"{XTB} is for molecules"
        if self.family == "inorganic" and all(
            require(subject, crystal(s)) for s in SOLIDS.values()
        ):
            return "the elements cover none of the 15 ionic solids"
        return ""


CHECKS = (
    Check(name="frames", family="data", run=check_frames, sources=FRAME_SOURCES),
    Check(name="conformers", family="data", run=check_conformers, sources=FRAME_SOURCES),
    Check(name="s22", family="organic", run=check_s22, sources=S22_SOURCES),
    Check(name="water", family="organic", run=check_water, sources=WATER_SOURCES),
    Check(name="dipoles", family="organic", run=check_dipoles, sources=DIPOLE_SOURCES),
    Check(name="torsions", family="organic", run=check_torsions, sources=TORSION_SOURCES),
    Check(name="long-range", family="organic", run=check_long_range, sources=LONG_RANGE_SOURCES),
    Check(name="states", family="organic", run=check_states, sources=STATE_SOURCES),
    Check(name="reactions", family="organic", run=check_reactions, sources=REACTION_SOURCES),
    Check(
        name="drift", family="organic", run=check_drift, sources=DRIFT_SOURCES, models_only=True
    ),
    Check(
        name="liquids", family="organic", run=check_liquids, sources=LIQUID_SOURCES,
        models_only=True, full_only=True,
    ),
    Check(
        name="solids", family="inorganic", run=check_solids, sources=SOLID_SOURCES,
        compare=compare_solids,
    ),
    Check(
        name="more-solids", family="inorganic", run=check_more_solids, sources=MORE_SOURCES,
        compare=compare_solids,
    ),
    Check(
        name="phonons", family="inorganic", run=check_phonons, sources=PHONON_SOURCES,
        compare=compare_phonons,
    ),
    Check(name="surfaces", family="inorganic", run=check_surfaces, sources=SURFACE_SOURCES),
    Check(name="born", family="inorganic", run=check_born, sources=BORN_SOURCES),
    *(
        Check(name=f"robustness-{check.name}", family="robustness", run=check.run, sources=SOURCES,
              summarise=check.summarise)
        for check in ROBUSTNESS
    ),
)  # fmt: skip
"""All checks, in the order of the tables."""


def find_checks(names: Sequence[str]) -> list[Check]:
    """Checks by name; all if there are none.

    Raises:
        ConfigError: for an unknown name; near names are suggested.
    """
    known = {check.name: check for check in CHECKS}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"no check {name!r}; checks are {', '.join(known)}{hint}")
    return [check for check in CHECKS if not names or check.name in names]


def run_suite(
    subjects: Sequence[Method],
    checks: Sequence[Check],
    file: SuiteFile,
    *,
    suite: str,
    data: Labelled | None = None,
    again: bool = False,
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Run checks; the file is complete after each, and results it already has are kept.

    Args:
        subjects: The model, then what it is compared with.
        checks: What to run.
        file: Where results go.
        suite: ``"standard"`` or ``"full"``.
        data: Labelled frames.
        again: Run checks again that the file has results of.

    Yields:
        Name of the subject, name of the check, its result as in the file.

    Raises:
        ConfigError: for two subjects of the same name.
    """
    first = subjects[0]
    names = [subject.name for subject in subjects]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"results go by name, and more than one model is called {', '.join(repeated)}: rename "
            "a folder, or leave one out"
        )
    if data is not None:
        _keep_data(file, data, first)
    tasks = [(subject, check) for subject in subjects for check in checks]
    bar = tqdm(tasks, unit="check")
    for subject, check in bar:
        bar.set_description(f"{subject.name} {check.name}")
        stored = file.get(subject.name, check.name)
        why = check.why_not(subject, data, suite)
        ours = file.get(first.name, check.name)
        if subject is not first and (ours is None or ours["status"] != "done"):
            why = why or f"{first.name} is not covered"
        if stored is not None and stored["status"] == "done" and (why or not again):
            yield subject.name, check.name, stored
            continue
        if why:
            result: dict[str, Any] = {"status": "not covered", "reason": why}
        else:
            result = _run(check, subject, data)
            if check.compare and subject is not first and ours and result["status"] == "done":
                result["quantities"] += check.compare(first.name, ours["rows"], result["rows"])
            if check.summarise and subject is not first and ours and result["status"] == "done":
                _take_same_items(check.summarise, result, ours["rows"])
        file.put(subject.name, check.name, result)
        yield subject.name, check.name, result


def _take_same_items(
    summarise: Callable[[Rows], list[Value]], result: dict[str, Any], ours: Rows
) -> None:
    """Let the quantities of a baseline be those of the items that the model has."""
    items = {row["item"] for row in ours}
    rows = [row for row in result["rows"] if row["item"] in items]
    quantities = CheckResult(quantities=summarise(rows)).to_dict()["quantities"] if rows else []
    result["quantities"] = quantities


def _keep_data(file: SuiteFile, data: Labelled, model: Method) -> None:
    """Describe the labelled frames in the file; results for other frames are dropped."""
    description = data.describe()
    data.keep_covered(model)
    if file.data.get("data", description)["sha256"] != description["sha256"]:
        for results in file.data["results"].values():
            for check in CHECKS:
                if check.family == "data":
                    results.pop(check.name, None)
    file.data["data"] = description


def _run(check: Check, subject: Method, data: Labelled | None) -> dict[str, Any]:
    start = time.monotonic()
    arguments = (subject, data) if check.family == "data" else (subject,)
    try:
        result = check.run(*arguments).to_dict()
    except NotCoveredError as reason:
        return {"status": "not covered", "reason": str(reason)}
    seconds = round(time.monotonic() - start, 1)
    return {**result, "sources": list(check.sources), "seconds": seconds}
