"""Latent charges under AIMNet2: dipoles and Born charges of dipeptides from energies and forces.

    python benchmarks/dipeptides.py aimnet2_wb97m-d3_0.jpt dipeptides_train.xyz dipeptides_val.xyz

AIMNet2 without its Coulomb energy is trained further on energies and forces of the first file,
without a label of charge, once as it is and once with latent charges that begin anew. Then both are
asked for forces of the second file, and the latent charges for dipoles and Born effective charges,
of which training saw none (the experiment of D. S. King, D. Kim, P. Zhong, B. Cheng, Nat. Commun.
16 (2025), with another trunk). A run that was stopped goes on where it was with the same ``-o``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import torch

import lesff
from lesff.convert.checkpoint import convert_checkpoint
from lesff.potential.edit import LAST_MAPS, with_head
from lesff.potential.potential import Potential
from lesff.train.data import Frame, read_labelled

Row = dict[str, float]
FIRST_CHARGE = 0.05
"""e, root mean square at the start."""


def without_coulomb(model: lesff.Model) -> lesff.Model:
    """The model without electrostatics, other weights as they are."""
    old = model.potential
    short = Potential(replace(old.config, long_range=None))
    short.load_state_dict(old.state_dict(), strict=False)
    return lesff.Model(short, model.source)


def with_latent_charges(model: lesff.Model, atoms: list[ase.Atoms]) -> lesff.Model:
    """The model with a new charge head, whose charges are of the size of charges and mean nothing.

    From those of 1e-6 e that :func:`with_head` gives, with which energies stay what they are,
    training takes thousands of steps to get anywhere.
    """
    potential = with_head(model.potential, "latent")
    result = lesff.Model(potential, model.source)
    found = np.concatenate(result.predict(atoms, ["latent_charges"], progress=False).latent_charges)
    assert potential.charge_head is not None  # noqa: S101 - it was just made
    for name, parameter in potential.charge_head.named_parameters():
        if name.endswith(LAST_MAPS):
            parameter.data *= FIRST_CHARGE / float(np.sqrt(np.mean(found**2)))
    return result


def trained(model: lesff.Model, data: Path, output: Path, options: argparse.Namespace) -> Any:
    """The model trained on energies and forces."""
    return model.finetune(
        data,
        output,
        loss={"dipole": 0.0},
        returns="trained",
        rates={"trunk": options.trunk_rate, "embedding": options.trunk_rate},
        optimizer={
            "lr": options.lr,
            "max_steps": options.steps,
            "validate_every": 500,
            "ema_decay": 0.998,
        },
    )


def r2(found: np.ndarray, labels: np.ndarray) -> float:
    """Share of the variance of labels that is found."""
    residual = np.sum((found - labels) ** 2)
    return float(1.0 - residual / np.sum((labels - labels.mean(axis=0)) ** 2))


def judged(model: lesff.Model, atoms: list[ase.Atoms], frames: list[Frame]) -> Row:
    """Errors of forces (meV/A), and R2 of dipoles and Born charges where there are charges."""
    has_charges = model.potential.charge_head is not None
    names = ["forces", *(["dipole", "born_effective_charges"] if has_charges else [])]
    found = model.predict(atoms, names, progress=False)
    error = np.concatenate(found.forces) - np.concatenate([frame.forces for frame in frames])
    row = {"forces": 1e3 * float(np.sqrt(np.mean(error**2)))}
    if has_charges:
        row["dipole"] = r2(np.array(found.dipole), np.array([frame.dipole for frame in frames]))
        labels = np.concatenate([frame.born_effective_charges for frame in frames])
        row["Born charges"] = r2(np.concatenate(found.born_effective_charges), labels)
    return row


def main() -> None:
    """Train both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="AIMNet2's TorchScript archive")
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("dipeptides"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--trunk-rate", type=float, default=0.05)
    parser.add_argument("--only", nargs="+", choices=["latent", "short"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(exist_ok=True)
    folder = options.output / "aimnet2"
    if not folder.exists():
        convert_checkpoint(options.archive, folder)
    whole = lesff.load(folder)
    short = without_coulomb(whole)
    frames = read_labelled(options.validation)[0]
    atoms: Any = ase.io.read(options.validation, ":")
    starts = {"latent": with_latent_charges(short, atoms[:8]), "short": short}
    print(f"{'':28}{'forces, meV/A':>15}{'R2 of dipoles':>15}{'of Born charges':>17}")
    say("AIMNet2, as published", judged(whole, atoms, frames))
    for name in options.only or starts:
        model = trained(starts[name], options.train, options.output / name, options)
        say(
            {"latent": "latent charges", "short": "without charges"}[name],
            judged(model, atoms, frames),
        )


def say(name: str, row: Row) -> None:
    """Print a row of the table."""
    rest = "".join(f"{row[key]:{w}.3f}" for key, w in (("dipole", 15), ("Born charges", 17))
                   if key in row)  # fmt: skip
    print(f"{name:28}{row['forces']:15.1f}{rest}", flush=True)


if __name__ == "__main__":
    main()
