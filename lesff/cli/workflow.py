"""What the commands of workflows share: options, input with its state, the model."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lesff.cli.options import accept_license_option
from lesff.errors import DataError

if TYPE_CHECKING:
    import ase

    from lesff.model import Model

F = TypeVar("F", bound=Callable[..., Any])

output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), required=True,
    help="Folder for results; a folder that is there is continued.",
)  # fmt: skip
charge_option = click.option("--charge", type=int, help="Total charge of every structure, e.")
spin_option = click.option("--spin", type=int, help="Spin multiplicity 2S+1 of every structure.")
relax_crystal_option = click.option(
    "--relax", "start", type=click.Choice(["cell", "atoms", "none"]), default="cell",
    show_default=True, help="What is relaxed first, with the symmetry that there is.",
)  # fmt: skip


def input_argument(many: bool = False) -> Callable[[F], F]:
    """The file, or files, that a workflow starts from."""
    kind = click.Path(path_type=Path)
    if many:
        return click.argument("structures", type=kind, nargs=-1, required=True)
    return click.argument("structure", type=kind)


def model_options(default: str, dtype: str | None = None) -> Callable[[F], F]:
    """Which model, where it computes and with how many digits, and its licence.

    Args:
        default: Name of the model.
        dtype: Precision; the model's own if None.
    """

    def decorate(function: F) -> F:
        options = (
            click.option("-m", "--model", "name", default=default, show_default=True,
                         help="Model name."),
            click.option("--device", default="cpu", show_default=True, help="Where to compute."),
            click.option("--dtype", type=click.Choice(["float32", "float64"]), default=dtype,
                         show_default=dtype is not None, help="Precision."),
            accept_license_option,
        )  # fmt: skip
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def trajectory_options(command: F) -> F:
    """Options of commands that run dynamics: what is written how often, thermostat, domain."""
    options = (
        click.option("--every", default=10, show_default=True, help="Steps between frames."),
        click.option("--checkpoint", default=1000, show_default=True,
                     help="Steps between checkpoints."),
        click.option("--tau", default=100.0, show_default=True,
                     help="Time of the thermostat, fs."),
        click.option("--on-out-of-domain", type=click.Choice(["warn", "stop", "ignore"]),
                     default="warn", show_default=True,
                     help="Where atoms are unlike those of the calibration."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def open_model(name: str, device: str, dtype: Any, accept_license: bool) -> Model:
    """The model."""
    from lesff.model import load  # start-up: help needs nothing that computes

    return load(name, device=device, dtype=dtype, accept_license=accept_license)


def read_input(
    paths: Sequence[Path], charge: int | None = None, spin: int | None = None
) -> list[ase.Atoms]:
    """Structures of all that `lesff predict` reads, each with charge and spin in ``info``.

    Labels are left out.
    """
    # start-up: help needs nothing that computes
    from lesff.atoms.structure import to_structure, with_state
    from lesff.bulk.sources import items_of, sources_of

    found: list[ase.Atoms] = []
    told: set[str] = set()
    for item in items_of(sources_of([str(path) for path in paths], stdin=sys.stdin)):
        atoms = item.to_atoms()
        state = to_structure(
            atoms, total_charge=charge, spin_multiplicity=spin, where=item.name, told=told
        )
        copy = with_state(atoms, state)
        copy.calc = None
        copy.set_initial_magnetic_moments(None)  # the state says it
        copy.set_initial_charges(None)
        found.append(copy)
    return found


def read_one(path: Path, charge: int | None = None, spin: int | None = None) -> ase.Atoms:
    """The only structure of a file.

    Raises:
        DataError: if it has more.
    """
    found = read_input([path], charge, spin)
    if len(found) != 1:
        raise DataError(f"{path} must hold one structure, got {len(found)}")
    return found[0]


def command_line() -> str:
    """The command as it was given."""
    return shlex.join(["lesff", *sys.argv[1:]])
