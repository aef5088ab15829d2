"""Training sections of model cards, made from the recipes.

    python tools/card_training.py            # renew all cards
    python tools/card_training.py --check    # say which are not up to date

In a card, the text between ``<!-- begin training: recipes/NAME -->`` and ``<!-- end training -->``
becomes two tables: the stages of the recipe and the files that they read.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from lesff.train.data_lock import LOCK_FILE, UNKNOWN, LockedFile, read_data_lock
from lesff.train.loss import LossConfig
from lesff.train.recipe import Recipe
from lesff.train.stages import Stage, read_stages

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"
_BLOCK = re.compile(
    r"<!-- begin training: (recipes/[\w-]+) -->\n(.*?)<!-- end training -->", re.DOTALL
)
_DIGITS = 16
"""Of a sha256 in a table; all of them are in the lock."""


def with_training(card: str, root: Path = ROOT) -> str:
    """A card with its tables of stages and data made anew.

    Args:
        card: The card as text.
        root: Folder that holds ``recipes``.
    """

    def block(match: re.Match[str]) -> str:
        tables = training_section(root / match[1])
        return f"<!-- begin training: {match[1]} -->\n{tables}\n<!-- end training -->"

    return _BLOCK.sub(block, card)


def training_section(recipe: Path) -> str:
    """Markdown of a recipe folder: its stages, then its files."""
    stages = read_stages(recipe)
    return f"{stage_table(stages)}\n\n{file_table(stages, read_data_lock(recipe / LOCK_FILE))}"


def stage_table(stages: Sequence[Stage]) -> str:
    """One row for each stage: where it starts, why, data, loss, schedule, steps, result."""
    lines = [
        "| stage | from | why | data | weights of the loss | schedule | steps | result |",
        "|---|---|---|---|---|---|---|---|",
    ]
    names = {stage.name: stage for stage in stages}
    for stage in stages:
        start = names.get(stage.start or "")
        cells = [stage.name, stage.start or "fresh weights", stage.notes.why]
        if stage.notes.made_by:
            cells += ["; ".join(f"`{c}`" for c in stage.notes.made_by), "", "", ""]
        elif stage.recipe is None:
            cells += [_average_of(stage), "", "", ""]
        else:
            cells += [
                _data_of(stage, start),
                _loss_of(stage.recipe.loss),
                _schedule_of(stage, stage.recipe),
                _steps_of(stage, stage.recipe),
            ]
        cells.append(stage.notes.released or "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def file_table(stages: Sequence[Stage], lock: dict[str, LockedFile]) -> str:
    """One row for each file: stages that read it, size, beginning of its sha256, origin."""
    lines = ["| file | stages | bytes | sha256 | origin | licence |", "|---|---|---|---|---|---|"]
    for name, row in lock.items():
        digest = UNKNOWN if row.sha256 == UNKNOWN else f"{row.sha256[:_DIGITS]}..."
        size = "" if row.bytes is None else f"{row.bytes:,}"
        cells = [name, _use_of(name, stages), size, digest, row.origin, row.license]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _use_of(name: str, stages: Sequence[Stage]) -> str:
    """Numbers of the stages that train on a file, or what else it is for."""
    trained = [i for i, stage in enumerate(stages) if name in stage.source_files()]
    held = [i for i, stage in enumerate(stages) if name in stage.data_files()]
    used = [i for i, stage in enumerate(stages) if name in " ".join(stage.notes.made_by).split()]
    if used:
        return ", ".join(stages[i].name.split("-")[0] for i in used)
    found = trained or held
    if not found:
        return "others are made from it"
    first, last = (stages[i].name.split("-")[0] for i in (found[0], found[-1]))
    numbers = [stages[i].name.split("-")[0] for i in found]
    is_range = len(found) > 2 and found == list(range(found[0], found[-1] + 1))
    text = f"{first} to {last}" if is_range else ", ".join(numbers)
    return text if trained else f"{text}: its molecules are left out"


def _average_of(stage: Stage) -> str:
    average = stage.notes.average
    if average is None:
        raise ValueError(f"stage {stage.name} must have a recipe or an average")
    return f"{1.0 - average.share:g} {average.earlier} + {average.share:g} {stage.start}"


def _data_of(stage: Stage, start: Stage | None) -> str:
    """Number of files trained on, and which are new or left out since the stage it goes on from."""
    now = stage.source_files()
    text = f"{len(now)} file{'s' if len(now) > 1 else ''}"
    if start is None or start.recipe is None or stage.notes.folder != start.notes.folder:
        return text if len(now) > 3 else ", ".join(now)
    before = start.source_files()
    new = [name for name in now if name not in before]
    gone = [name for name in before if name not in now]
    text += f", new: {', '.join(new)}" if new else ""
    return text + (f", left out: {', '.join(gone)}" if gone else "")


def _loss_of(loss: LossConfig) -> str:
    """Weights that are not zero."""
    weights = {
        field.name: getattr(loss, field.name)
        for field in fields(loss)
        if field.type == "float" and not field.name.endswith("_delta")
    }
    return ", ".join(f"{name} {value:g}" for name, value in weights.items() if value)


def _schedule_of(stage: Stage, recipe: Recipe) -> str:
    """Learning rate, length and batch."""
    options = recipe.optimizer
    if options.time_limit_minutes:
        length = f"{options.time_limit_minutes:g} minutes"
        if options.stop_after_minutes:
            length = f"{options.stop_after_minutes:g} of {length}"
    else:
        length = f"{options.max_steps:,} steps"
    atoms = f"{recipe.data.max_atoms} atoms"
    batch = atoms if stage.notes.processes == 1 else f"{stage.notes.processes} x {atoms}"
    return f"lr {options.lr:g}, {length}, {batch}"


def _steps_of(stage: Stage, recipe: Recipe) -> str:
    if stage.notes.steps is not None:
        return f"{stage.notes.steps:,}"
    return "" if recipe.optimizer.time_limit_minutes else f"{recipe.optimizer.max_steps:,}"


def main() -> None:
    """Renew the cards, or say which are not up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    stale = []
    for path in sorted(CARDS.glob("*.md")):
        card = path.read_text(encoding="utf-8")
        new = with_training(card)
        if new == card:
            continue
        stale.append(path.name)
        if not options.check:
            path.write_text(new, encoding="utf-8")
    if stale:
        sys.stdout.write(f"{'stale' if options.check else 'renewed'}: {', '.join(stale)}\n")
    if stale and options.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
