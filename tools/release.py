"""Turn a trained model folder into a bundled release: card tables, weights folder, manifest entry.

    python tools/release.py RUN/model NAME VERSION
    python tools/release.py lesff/weights/NAME/OLD NAME VERSION --cutoff smooth --dl 1
    python tools/release.py lesff/weights/NAME/OLD NAME VERSION --walled [--energy-floor 5]
    python tools/release.py lesff/weights/NAME/OLD NAME VERSION --walled --wall-stiffness 200 \
        --energy-floor FLOORS.json --charge-limits LIMITS.json --no-crowding
    python tools/release.py FOLDER NAME VERSION --train FILE... --validation FILE...
    python tools/release.py FOLDER NAME VERSION --uncalibrated REASON --license FILE

Fills the tables of the card ``model_cards/NAME.md``: those of the training from the recipe, those
of the results from the JSON files beside it: ``NAME.evaluation.json`` (``lesff evaluate`` on DFT
frames) and ``NAME.born.json`` (``tools/born_errors.py``), which become the metrics of the manifest,
``NAME.suite.json`` (``lesff evaluate --suite``) and whatever else the card has marks for. Writes
``lesff/weights/NAME/VERSION``, ``checkpoints_manifest/NAME.json`` and the hashes in
``tests/released.json``. The folder has the card in two parts: ``README.md`` is what to read before
use, ``EVALUATION.md`` has the training and all tables.
``--cutoff``, ``--dl`` and ``--dispersion-dl`` change the sums over wave vectors of the same
weights: crystals and slabs change, molecules do not. ``--walled`` gives the same weights a wall, a
floor and limits of charges that no structure of the training sees; ``--wall-stiffness`` makes the
wall steeper (eV), ``--inner-cutoff`` lets it begin elsewhere than at 0.75 of the sum of radii,
``--energy-floor`` is one number or a JSON file with one for each symbol,
``--charge-limits`` such a file (both of ``tools/learned_range.py``), and
``--no-crowding`` is for solids. A folder with a wall gets another one. ``--state-charge`` and
``--full-weight`` bound the local state likewise. Works to cite (``bibtex``) are kept from version
to version; those of a new model are added to its manifest entry by hand.
Every version carries its calibration: ``lesff train`` attaches it where the recipe says how. For a
folder without, ``--train`` and ``--validation`` give the frames to calibrate it on; of a file given
to both, its own split counts. Without them it is refused, unless ``--uncalibrated`` says in a
sentence for the card why there is none. ``--license`` gives the text of another licence than that
of the repository; ``--level-of-theory``, ``--training-data`` and ``--total-charge`` replace those
of the configuration.
A version that exists is never changed.
"""

import argparse
import datetime
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ase.data import chemical_symbols
from card_training import with_training

from lesff.evaluation.card_pages import two_parts
from lesff.evaluation.tables import filled
from lesff.hub.manifest.entries import PERMISSIVE_LICENSES
from lesff.model_folder.card import front_matter, read_card, read_evaluation, with_section
from lesff.model_folder.folder import load_model, save_model
from lesff.model_folder.layout import CARD_FILE, model_files
from lesff.model_folder.verify import verify_parity
from lesff.potential.edit import INNER_CUTOFF, with_charge_limits, with_state_limits, with_wall
from lesff.potential.potential import Potential
from lesff.train.frame_stream import FrameStream, StreamedFile, sample_of
from lesff.uncertainty.calibration import calibrate, card_section

ROOT = Path(__file__).parents[1]
SPDX = {name.lower(): name for name in PERMISSIVE_LICENSES}
"""Cards have licences in lower case, as the Hub does; the manifest has SPDX identifiers."""
MAX_VALIDATION = 2000
"""Held-out frames that set the scale of the uncertainty."""
RELEASED = ROOT / "tests" / "released.json"
"""Hashes that a test compares with the manifest for ever."""


def metrics(evaluation: dict) -> list[dict]:
    """Force and energy errors of every subset as manifest metrics."""
    rows = []
    for subset, errors in evaluation["errors"].items():
        for quantity, key, unit in (
            ("forces", "forces_mae", "meV/A"),
            ("energy", "energy_mae", "meV/atom"),
        ):
            rows.append(
                {
                    "dataset": f"{evaluation['data'][0]}:{subset}",
                    "quantity": quantity,
                    "metric": "mae",
                    "unit": unit,
                    "value": round(errors[key], 3),
                    "n_structures": errors["n_frames"],
                }
            )
    return rows


def born_metrics(result: dict) -> list[dict]:
    """Errors of Born charges of every set of crystals as manifest metrics."""
    return [
        {
            "dataset": f"{result['data'][0]}:{name}",
            "quantity": "born_effective_charges",
            "metric": "relative_rms",
            "unit": "%",
            "value": round(row["relative_rms"], 3),
            "n_structures": row["n_crystals"],
        }
        for name, row in result["born"].items()
    ]


def by_element(path: Path, elements: Sequence[int]) -> tuple[float, ...]:
    """Numbers of the elements in a JSON file ``{"Na": 4.0, ...}``."""
    found = json.loads(path.read_text("utf-8"))
    symbols = [chemical_symbols[z] for z in elements]
    missing = ", ".join(symbol for symbol in symbols if symbol not in found)
    if missing:
        sys.exit(f"{path} must have a number for every element, and has none for {missing}")
    return tuple(float(found[symbol]) for symbol in symbols)


def floors_of(text: str, elements: Sequence[int]) -> float | tuple[float, ...]:
    """Floors in eV: a number, or those of the elements in a JSON file."""
    path = Path(text)
    return by_element(path, elements) if path.suffix == ".json" else float(text)


def with_limited_state(
    potential: Potential, charge: float | None, full_weight: float | None
) -> Potential:
    """The same weights with a local state of less charge on an atom, and on full atoms."""
    if charge is None and full_weight is None:
        return potential
    changed = with_state_limits(potential, charge, full_weight)
    # kept as it is: features change a little where ions stand beside molecules with full bonds
    changed.uncertainty = potential.uncertainty
    return changed


def with_wall_below(
    potential: Potential,
    energy_floor: float | tuple[float, ...] | None,
    *,
    stiffness: float = 0.0,
    crowding: bool = True,
    limits: tuple[float, ...] | None = None,
    inner_cutoff: float = INNER_CUTOFF,
) -> Potential:
    """The same weights with a wall and limits of charges; molecules: floor and crowding, too."""
    changed = with_wall(
        potential,
        wall="zbl-inner",
        wall_stiffness=stiffness,
        inner_cutoff=inner_cutoff,
        energy_floor=energy_floor,
        crowding=crowding and energy_floor is not None,
    )
    if changed.config.long_range is not None:
        changed = with_charge_limits(changed, limits)
    # features of what it was calibrated on do not change
    changed.uncertainty = potential.uncertainty
    return changed


def walled_as_told(potential: Potential, options: argparse.Namespace) -> Potential:
    """The potential with the wall of the command line, or as it is without ``--walled``."""
    parts = {
        "--energy-floor": options.energy_floor is not None,
        "--wall-stiffness": options.wall_stiffness,
        "--no-crowding": options.no_crowding,
        "--inner-cutoff": options.inner_cutoff is not None,
        "--charge-limits": options.charge_limits is not None,
    }
    if options.walled:
        floor, limits = options.energy_floor, options.charge_limits
        return with_wall_below(
            potential,
            None if floor is None else floors_of(floor, potential.config.elements),
            stiffness=options.wall_stiffness,
            crowding=not options.no_crowding,
            limits=None if limits is None else by_element(limits, potential.config.elements),
            inner_cutoff=INNER_CUTOFF if options.inner_cutoff is None else options.inner_cutoff,
        )
    for name in (name for name, is_given in parts.items() if is_given):
        sys.exit(f"`{name}` is a part of the wall: give `--walled`, too")
    return potential


def with_sums(
    potential: Potential, cutoff: str | None, dl: float | None, dispersion_dl: float | None
) -> Potential:
    """The same weights with other sums over wave vectors; None leaves a setting as it is."""
    config = potential.config
    if config.long_range is not None:
        chosen = {"cutoff": cutoff, "dl": dl}
        changes = {key: value for key, value in chosen.items() if value is not None}
        config = replace(config, long_range=replace(config.long_range, **changes))
    if config.dispersion is not None and dispersion_dl is not None:
        config = replace(config, dispersion=replace(config.dispersion, dl=dispersion_dl))
    changed = Potential(config)
    changed.load_state_dict(potential.state_dict(), strict=True)
    # features, and with them the calibration, do not depend on the sums
    changed.uncertainty = potential.uncertainty
    return changed


def calibrated(
    potential: Potential,
    card: str,
    train: Sequence[Path],
    validation: Sequence[Path],
    uncalibrated: str | None = None,
) -> str:
    """Give a model its calibration, if frames are given for it.

    Args:
        potential: The model; its ``uncertainty`` is set.
        card: Card of its folder.
        train: Files of training frames; none leaves the calibration that it has.
        validation: Files of held-out frames.
        uncalibrated: Why it has none, if it may be released without.

    Returns:
        What the card of the release says about the calibration, Markdown.
    """
    if bool(train) != bool(validation):
        sys.exit("`--train` and `--validation` must be given together")
    if train:
        known, both = set(potential.config.elements), set(train) & set(validation)

        def stream(paths: Sequence[Path], *, held: bool) -> FrameStream:
            return FrameStream(
                [
                    StreamedFile(
                        path=path,
                        keep=lambda frame, path=path: (
                            set(frame.structure.numbers.tolist()) <= known
                            and (path not in both or frame.is_validation == held)
                        ),
                    )
                    for path in paths
                ]
            )

        frames = stream(train, held=False)
        sample = sample_of(stream(validation, held=True), MAX_VALIDATION)
        potential.uncertainty, result = calibrate(potential, frames, sample, progress=True)
        return card_section(len(frames), result)
    section = re.search(r"^## Uncertainty\n(.*?)(?=^## |\Z)", card, re.DOTALL | re.MULTILINE)
    if potential.uncertainty is None and uncalibrated is not None:
        return f"Not calibrated: {uncalibrated}"
    if potential.uncertainty is None:
        sys.exit(
            "the model carries no calibration, and every release must: add a section "
            "[calibration] to the recipe and run `lesff train` again (nothing is trained anew), or "
            "give frames with --train and --validation, or say why not with --uncalibrated"
        )
    return section[1].strip() if section else "Last-layer uncertainty (LLPR); see the run."


def main() -> None:
    """Write the release."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("name")
    parser.add_argument("version")
    parser.add_argument("--cutoff", choices=("sharp", "smooth"), help="of the sum over k")
    parser.add_argument("--dl", type=float, help="resolution of the Coulomb sum, A")
    parser.add_argument("--dispersion-dl", type=float, help="that of dispersion, A")
    parser.add_argument("--charge-limits", type=Path, help="of it, JSON by symbol, e")
    parser.add_argument("--walled", action="store_true", help="add a wall below what is learned")
    parser.add_argument("--wall-stiffness", type=float, default=0.0, help="of the wall, eV")
    parser.add_argument("--inner-cutoff", type=float, help="where it begins, share of radii")
    parser.add_argument("--energy-floor", help="of it, eV: a number, or a JSON file by symbol")
    parser.add_argument(
        "--no-crowding", action="store_true", help="do not count bonds: solids with a floor"
    )
    parser.add_argument("--train", type=Path, nargs="+", default=[], help="frames to calibrate on")
    parser.add_argument("--validation", type=Path, nargs="+", default=[], help="held-out frames")
    parser.add_argument("--uncalibrated", metavar="REASON", help="release without calibration")
    parser.add_argument(
        "--license", type=Path, default=ROOT / "LICENSE", help="text of the licence"
    )
    parser.add_argument("--level-of-theory", help="instead of that of the configuration")
    parser.add_argument("--training-data", help="instead of those of the configuration")
    parser.add_argument(
        "--total-charge", type=int, nargs=2, metavar=("LOW", "HIGH"), help="trained range, e"
    )
    parser.add_argument("--state-charge", type=float, help="largest of the local state, e")
    parser.add_argument("--full-weight", type=float, help="of full atoms in the local state")
    options = parser.parse_args()
    manifest = ROOT / "checkpoints_manifest" / f"{options.name}.json"
    entry = json.loads(manifest.read_text("utf-8")) if manifest.exists() else {"versions": []}
    if any(row["version"] == options.version for row in entry["versions"]):
        sys.exit(f"{options.name}@{options.version} is released: its bytes never change")
    potential = with_sums(
        load_model(options.model), options.cutoff, options.dl, options.dispersion_dl
    )
    potential = walled_as_told(potential, options)
    potential = with_limited_state(potential, options.state_charge, options.full_weight)
    said = {"level_of_theory": options.level_of_theory, "training_data": options.training_data}
    potential.config = replace(
        potential.config, **{key: text for key, text in said.items() if text is not None}
    )
    if options.total_charge is not None:
        potential.config = replace(potential.config, total_charge=tuple(options.total_charge))
    section = calibrated(
        potential,
        read_card(options.model) + (read_evaluation(options.model) or ""),
        options.train,
        options.validation,
        options.uncalibrated,
    )
    cards = ROOT / "model_cards"
    card_file = cards / f"{options.name}.md"
    card = with_training(filled(card_file.read_text(encoding="utf-8"), options.name, cards))
    card = with_section(card, "Uncertainty", section)
    card_file.write_text(card, encoding="utf-8")
    suite = json.loads((cards / f"{options.name}.suite.json").read_text("utf-8"))
    readme, tables = two_parts(card, options.name, suite, back=CARD_FILE)
    measured: list[dict] = []
    for key, rows_of in (("evaluation", metrics), ("born", born_metrics)):
        path = cards / f"{options.name}.{key}.json"
        if path.is_file():
            measured += rows_of(json.loads(path.read_text("utf-8")))
    if not measured:
        sys.exit(f"{cards} must hold {options.name}.evaluation.json or {options.name}.born.json")
    head = front_matter(card)
    config = potential.config
    folder = ROOT / "lesff" / "weights" / options.name / options.version
    license_text = options.license.read_text(encoding="utf-8")
    save_model(potential, folder, card=readme, evaluation=tables, license_text=license_text)
    report = verify_parity(folder)
    if not report.ok:
        sys.exit(f"parity failed: {report}")
    files = []
    for name in model_files(folder):
        data = (folder / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        files.append({"path": name, "size": len(data), "sha256": digest})
    version = {
        "version": options.version,
        "date": datetime.date.today().isoformat(),
        "files": files,
        "sources": {"bundled": True},
        "min_lesff": "0.1.0",
        "level_of_theory": config.level_of_theory,
        "total_charge": list(config.total_charge),
        "spin_multiplicity": list(config.spin_multiplicity),
        "metrics": measured,
    }
    # weights that were not trained anew are to be trusted as little as before
    if (options.walled or options.cutoff) and entry["versions"]:
        caveats = entry["versions"][-1].get("caveats")
        version |= {} if caveats is None else {"caveats": caveats}
    entry |= {
        "name": options.name,
        "description": head["description"],
        "license": SPDX[head["license"]],
        "elements": list(config.elements),
        "citation": head["citation"],
        "versions": [*entry["versions"], version],
    }
    manifest.parent.mkdir(exist_ok=True)
    manifest.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    released = json.loads(RELEASED.read_text("utf-8"))
    released[f"{options.name}@{options.version}"] = {row["path"]: row["sha256"] for row in files}
    RELEASED.write_text(json.dumps(released, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{folder.relative_to(ROOT)} and {manifest.relative_to(ROOT)} written\n")


if __name__ == "__main__":
    main()
