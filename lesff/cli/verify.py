"""The command that replays golden values and checks physics."""

from __future__ import annotations

from pathlib import Path

import click

from lesff.cli.options import accept_license_option
from lesff.errors import IntegrityError, PhysicsError
from lesff.files import forget
from lesff.hub.resolve import resolve
from lesff.hub.signatures import check_folder, digest_of
from lesff.model_folder.layout import model_files

_PATH = click.Path(path_type=Path)


@click.command("verify")
@click.argument("name")
@click.option("--deep", is_flag=True, help="Read and hash every file, also those unchanged.")
@click.option(
    "--key", type=click.Path(path_type=Path), help="Public key that must have signed the folder."
)
@click.option("--as", "label", help="NAME or NAME@VERSION that the signature must bind.")
@click.option(
    "--physics", is_flag=True,
    help="Check forces, stress and responses against finite differences too, in float64.",
)  # fmt: skip
@click.option(
    "--robustness",
    is_flag=True,
    help="Check what the model does far from its data too: overlapping atoms, hot runs, ions, "
    "parts far apart (minutes).",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="A few items of each check of --robustness only.")
@click.option("--seed", type=click.IntRange(min=0), help="Of what is random in --robustness.")
@click.option("--json", "json_file", type=_PATH, help="Write --robustness as JSON.")
@click.option("--html", "html_file", type=_PATH, help="Write --robustness as a page with pictures.")
@click.option(
    "--found", type=_PATH, help="Write the atoms of the lowest energy that its hunt found (extxyz)."
)
@accept_license_option
def verify_command(
    name: str,
    key: Path | None,
    label: str | None,
    seed: int | None,
    json_file: Path | None,
    html_file: Path | None,
    found: Path | None,
    *,
    deep: bool,
    physics: bool,
    robustness: bool,
    quick: bool,
    accept_license: bool,
) -> None:
    """Replay the golden values stored with a model (a name or a folder).

    --robustness prints a table of figures, each with its limit and that of GFN2-xTB for the same
    structures, and fails if one of them is outside. Every line is complete when it is printed, and
    so is the file of --json: a run can be stopped at any time. Structures that the model does not
    cover (elements, charge, spin) are left out and counted. docs/evaluation.md says what is done.
    """
    if label is not None and key is None:
        raise click.UsageError("--as is what the signature must bind: give --key, too")
    extra = (quick or None, seed, json_file, html_file, found)
    if not robustness and any(value is not None for value in extra):
        raise click.UsageError("--quick, --seed, --json, --html and --found need --robustness")
    folder = resolve(name, accept_license=accept_license).folder
    if deep:
        for file in model_files(folder):
            forget(folder / file)
        folder = resolve(name).folder
        click.echo(f"sha256 of the folder: {digest_of(folder)}")
    if key is not None:
        wanted, _, version = (label or "").partition("@")
        signature = check_folder(folder, key, name=wanted or None, version=version or None)
        click.echo(f"signed with the key {signature.key} {signature.subject}")
    if physics:
        _verify_physics(name, accept_license=accept_license)
    _verify_parity(name, folder)
    if robustness:
        # start-up: the checks take 0.5 s of CPU to import
        from lesff.cli.robustness import Outputs, verify_robustness
        from lesff.evaluation.robustness.probe import Options

        outputs = Outputs(json=json_file, html=html_file, found=found)
        options = Options(quick=quick, seed=seed or 0)
        verify_robustness(name, options, outputs, accept_license=accept_license)


def _verify_parity(name: str, folder: Path) -> None:
    # start-up: help needs nothing that computes
    from lesff.model_folder.verify import verify_parity

    report = verify_parity(folder)
    charge = "" if report.charge_error is None else f", charges {report.charge_error:.1e} e"
    if report.uncertainty_error is not None:
        charge += f", uncertainty {report.uncertainty_error:.1e}"
    click.echo(
        f"{report.n_structures} structures: energy {report.energy_error:.1e} eV/atom, "
        f"forces {report.force_error:.1e} eV/A{charge} (tolerance {report.tolerance:.0e})"
    )
    if report.damage is not None:
        raise IntegrityError(f"{report.damage}: do not use it")
    if not report.ok:
        raise IntegrityError(f"{name} does not reproduce its golden values: do not use it here")


def _verify_physics(name: str, *, accept_license: bool) -> None:
    # start-up: help needs nothing that computes
    from lesff.model import load
    from lesff.potential.verify import check_physics

    model = load(name, dtype="float64", accept_license=accept_license)
    click.echo(f"{'structure':13}{'quantity':22}{'unit':10}{'error':>10}{'tolerance':>11}  result")
    failed = []
    for check in check_physics(model.potential):
        head = f"{check.structure:13}{check.quantity:22}{check.unit:10}"
        if check.note:
            click.echo(f"{head}{'-':>10}{'-':>11}  {check.note}")
            continue
        result = "ok" if check.ok else "FAIL"
        click.echo(f"{head}{check.error:10.1e}{check.tolerance:11.1e}  {result}")
        failed += [] if check.ok else [f"{check.quantity} of the {check.structure}"]
    if failed:
        raise PhysicsError(
            f"{name} disagrees with finite differences in {', '.join(failed)}: do not use it here"
        )
