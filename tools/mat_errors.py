"""Errors of a model on held-out frames of crystals, by what the reference charges add up to.

    python tools/mat_errors.py mat-medium DATA/split-2/*.npz --json mat-medium.references.json

Classes: crystals of one element; compositions whose reference charges (those of
``recipes/mat-medium``) sum to zero; all others, whose charges are shifted alike.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

import lesff
from lesff.evaluation.tables import error_markdown
from lesff.plain_data import write_json
from lesff.train.data import Frame, read_frames
from lesff.train.metrics import errors_by, predict_frames
from lesff.train.stages import read_stages

RECIPE = Path(__file__).parents[1] / "recipes" / "mat-medium"
ZERO = 1e-6
"""Of a sum of charges, e."""


def class_of(frame: Frame, charges: dict[int, float]) -> str:
    """Class of a frame; see the module's text."""
    numbers = frame.structure.numbers
    if len(np.unique(numbers)) == 1:
        return "one element"
    total = sum(charges[int(z)] for z in numbers)
    return "charges sum to zero" if abs(total) < ZERO else "charges do not sum to zero"


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("data", type=Path, nargs="+", help="npz; frames held out are used")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--as", dest="label", help="name in the result, for models to be released")
    given = parser.parse_args()
    recipe = read_stages(RECIPE)[0].recipe
    if recipe is None or recipe.model is None or recipe.model.reference_charges is None:
        parser.error(f"{RECIPE} has no reference charges")
    charges = {atomic_numbers[s]: q for s, q in recipe.model.reference_charges.items()}
    frames = [f for path in given.data for f in read_frames(path) if f.is_validation]
    model = lesff.load(given.model)
    predictions = predict_frames(model.potential, frames, progress=True)
    errors = errors_by(predictions, lambda frame: class_of(frame, charges))
    rows = {name: asdict(row) for name, row in errors.items()}
    sys.stdout.write(error_markdown(rows) + "\n")
    if given.json is not None:
        data = [path.name for path in given.data]
        write_json(given.json, {"model": given.label or model.name, "data": data, "errors": rows})


if __name__ == "__main__":
    main()
