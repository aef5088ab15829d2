"""Other methods on the structures of `lesff verify --robustness`: columns beside a model's figures.

    python tools/robustness_reference.py                      # GFN2-xTB: needs tblite, half an hour
    python tools/robustness_reference.py NAME:CALLABLE --as TEACHER --elements Na Cl Mg O

Writes `lesff/evaluation/robustness/references/`: rows of each check with seed 0, those of --quick
included, for some elements. Curves stay where pictures are made of them. Checks that are in the
file already are kept: delete it to start anew.
"""

import argparse
import re
from importlib.metadata import version

from ase.data import atomic_numbers

from lesff.evaluation.results import NotCoveredError
from lesff.evaluation.robustness.chapter import REFERENCES, ROBUSTNESS
from lesff.evaluation.robustness.probe import Options
from lesff.methods import XTB, open_method
from lesff.plain_data import read_json, write_json

ELEMENTS = [
    "H", "Li", "B", "C", "N", "O", "F", "Na", "Mg", "Si", "P", "S", "Cl", "K", "Ca", "Br", "I",
]  # fmt: skip
PICTURED = ("pairs", "dissociation")
SEED = 0


def main() -> None:
    """Compute what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", nargs="?", default=XTB, help="as lesff.methods.open_method takes")
    parser.add_argument("--as", dest="label", default="GFN2-xTB", help="head of the column")
    parser.add_argument("--elements", nargs="+", default=ELEMENTS)
    parser.add_argument("--only", nargs="+", default=[check.name for check in ROBUSTNESS])
    options = parser.parse_args()
    method = open_method(options.method)
    method.elements = frozenset(atomic_numbers[symbol] for symbol in options.elements)
    name = re.sub(r"\W+", "_", options.label.lower())
    path = REFERENCES / f"{name}.json"
    data = read_json(path) if path.exists() else {"rows": {}}
    data |= {"method": options.label, "seed": SEED}
    if options.method == XTB:
        data["tblite"] = version("tblite")
    for check in ROBUSTNESS:
        if check.name in options.only and check.name not in data["rows"]:
            data["rows"][check.name] = rows_of(check, method)
            write_json(path, data)


def rows_of(check, method) -> list[dict]:
    """Rows of a check, quick and full; those of the full run where both have an item."""
    rows = {}
    for quick in (True, False):
        try:
            result = check.run(method, Options(quick=quick, seed=SEED))
        except NotCoveredError:
            continue
        rows |= {row["item"]: row for row in result.to_dict()["rows"]}
    dropped = {"numbers", "positions", "cell", "pbc"}
    if check.name not in PICTURED:
        dropped |= {"x", "energy_ev"}
    return [{k: v for k, v in row.items() if k not in dropped} for row in rows.values()]


if __name__ == "__main__":
    main()
