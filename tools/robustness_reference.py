"""GFN2-xTB on the structures of `lesff verify --robustness`: the column beside a model's figures.

    python tools/robustness_reference.py        # needs tblite, some twenty minutes on one core

Writes `lesff/evaluation/robustness/gfn2_xtb.json`: rows of each check with seed 0, those of --quick
included, for the elements below. Curves stay where pictures are made of them. Checks that are in
the file already are kept: delete it to start anew.
"""

from importlib.metadata import version

from lesff.evaluation.results import NotCoveredError
from lesff.evaluation.robustness.chapter import REFERENCE_FILE, ROBUSTNESS
from lesff.evaluation.robustness.probe import Options
from lesff.methods import XTB, open_method
from lesff.plain_data import read_json, write_json

ELEMENTS = (1, 3, 5, 6, 7, 8, 9, 11, 12, 14, 15, 16, 17, 19, 20, 35, 53)
PICTURED = ("pairs", "dissociation")
SEED = 0


def main() -> None:
    """Compute what is missing."""
    method = open_method(XTB)
    method.elements = frozenset(ELEMENTS)
    data = read_json(REFERENCE_FILE) if REFERENCE_FILE.exists() else {"rows": {}}
    data |= {"method": XTB, "tblite": version("tblite"), "seed": SEED}
    for check in ROBUSTNESS:
        if check.name in data["rows"]:
            continue
        rows = {}
        for quick in (True, False):
            try:
                result = check.run(method, Options(quick=quick, seed=SEED))
            except NotCoveredError:
                continue
            rows |= {row["item"]: row for row in result.to_dict()["rows"]}
        for row in rows.values():
            if check.name not in PICTURED:
                row.pop("x", None)
                row.pop("energy_ev", None)
            for key in ("numbers", "positions", "cell", "pbc"):
                row.pop(key, None)
        data["rows"][check.name] = list(rows.values())
        write_json(REFERENCE_FILE, data)


if __name__ == "__main__":
    main()
