"""An input script of LAMMPS with a model attached to it before its first run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesff.engines.lammps import Attachment, attach, start
from lesff.errors import ConfigError
from lesff.model import Model

_RUNS = ("run", "minimize", "rerun", "neb", "temper", "tad", "prd", "hyper", "dynamical_matrix")
"""Commands that compute forces."""


@dataclass(frozen=True)
class SplitScript:
    """An input script in two parts.

    Attributes:
        before: What comes before the model.
        after: The rest.
        fix: ID of the fix that the script makes for the model, ``"lesff"`` if it makes none.
    """

    before: str
    after: str
    fix: str


def split_script(text: str, name: str) -> SplitScript:
    """Find where a model must be attached.

    That is after ``fix ID all external pf/callback 1 1`` if the script has such a line, else before
    the first command that computes forces, or before the first ``label``: loops stay whole.

    Args:
        text: The script.
        name: Its name, for messages.

    Raises:
        ConfigError: for a script without such a place, and for a fix that is not on all atoms.
    """
    lines = text.splitlines(keepends=True)
    first, fixed, kept = None, None, ""
    for index, line in enumerate(lines):
        # a command goes on where its line ends with &; comments are no part of it
        stripped = line.split("#")[0].strip()
        if stripped.endswith("&"):
            kept += stripped[:-1] + " "
            continue
        words, kept = (kept + stripped).split(), ""
        if words[:1] == ["fix"] and words[3:5] == ["external", "pf/callback"]:
            if words[2] != "all" or words[5:7] != ["1", "1"]:
                raise ConfigError(
                    f"{name}, line {index + 1}: the fix of a model must be `fix {words[1]} all "
                    f"external pf/callback 1 1`, got `{' '.join(words)}`"
                )
            fixed = fixed or (index + 1, words[1])
        if first is None and words and words[0] in (*_RUNS, "label"):
            first = index
    if fixed is None and first is None:
        raise ConfigError(
            f"{name} must have a run or minimize command, or the line `fix lesff all external "
            "pf/callback 1 1` where the model is to be attached; files that it includes are not "
            "looked at"
        )
    place, fix = fixed if fixed is not None else (first, "lesff")
    return SplitScript("".join(lines[:place]), "".join(lines[place:]), fix)


def run_script(
    script: Path,
    model: Model,
    *,
    arguments: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> tuple[Any, Attachment]:
    """Run an input script with a model.

    Args:
        script: The script; paths in it are relative to the working directory, as ever.
        model: The model.
        arguments: Command line of LAMMPS.
        say: Called with what is done.
        **options: Of :func:`lesff.engines.lammps.attach`.

    Returns:
        LAMMPS after the run, and the attachment.

    Raises:
        ConfigError: if the script cannot be read or has no place for the model, or for an error of
            LAMMPS.
    """
    try:
        text = script.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the input script {script} cannot be read: {error}") from error
    parts = split_script(text, script.name)
    lmp = start(*arguments)
    with tempfile.TemporaryDirectory() as folder:
        # as files, not as lists of commands: `jump SELF` and `include` work in files only
        for name, part in (("before", parts.before), ("after", parts.after)):
            (Path(folder) / f"{script.name}.{name}").write_text(part + "\n", encoding="utf-8")
        _run(lmp, Path(folder) / f"{script.name}.before")
        attachment = attach(lmp, model, fix=parts.fix, **options)
        say(f"{model.name} attached as fix {parts.fix}")
        _run(lmp, Path(folder) / f"{script.name}.after")
    return lmp, attachment


def _run(lmp: Any, path: Path) -> None:
    """Run a script; errors of LAMMPS itself as one of lesff's, others as they are."""
    try:
        lmp.file(str(path))
    except Exception as error:
        if type(error).__name__ != "Exception" and type(error).__name__ != "MPIAbortException":
            raise
        text = re.sub(r"\s*\(src/[^)]*\)", "", str(error)).strip().strip("'\"")
        raise ConfigError(f"LAMMPS: {' '.join(text.split())}") from error
