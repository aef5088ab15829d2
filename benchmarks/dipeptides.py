"""Latent charges under AIMNet2: dipoles and Born charges of dipeptides from energies and forces.

    python benchmarks/dipeptides.py aimnet2_wb97m-d3_0.jpt dipeptides_train.xyz dipeptides_val.xyz

AIMNet2 without its Coulomb energy is trained further on energies and forces of the first file,
once as it is and once with latent charges, which begin as differences of electronegativities. Of
charges it is told nothing but that molecules are neutral. Then both are asked for forces of the
second file, and the latent charges for dipoles and Born effective charges, of which training saw
none (the experiment of D. S. King, D. Kim, P. Zhong, B. Cheng, Nat. Commun. 16 (2025), with another
trunk). A run that was stopped goes on where it was with the same ``-o``.
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
from lesff.atoms.graph import build_graph, collate
from lesff.atoms.segments import segment_sum
from lesff.atoms.structure import to_structure
from lesff.convert.checkpoint import convert_checkpoint
from lesff.potential.edit import with_head
from lesff.potential.potential import Potential
from lesff.train.data import Frame, read_labelled

Row = dict[str, float]
ELECTRONEGATIVITIES = {1: 2.20, 6: 2.55, 7: 3.04, 8: 3.44}
"""Pauling's scale."""
CHARGE_PER_UNIT, FIRST_STEPS = 0.3, 200
"""e by which an atom's charge differs from that of a more electronegative one, at the start."""


def without_coulomb(model: lesff.Model) -> lesff.Model:
    """The model without electrostatics, other weights as they are."""
    old = model.potential
    short = Potential(replace(old.config, long_range=None))
    short.load_state_dict(old.state_dict(), strict=False)
    return lesff.Model(short, model.source)


def with_latent_charges(model: lesff.Model, atoms: list[ase.Atoms]) -> lesff.Model:
    """The model with a charge head that knows no more than which elements attract electrons.

    The Coulomb energy is quadratic in the charges: from the 1e-6 e of :func:`with_head`, with which
    energies stay what they are, training would have to find their signs first.
    """
    potential = with_head(model.potential, "latent")
    batch = collate([build_graph(to_structure(a), potential.cutoff) for a in atoms])
    batch = batch.to(dtype=potential.dtype)
    chi = torch.tensor([ELECTRONEGATIVITIES[z] for z in batch.atomic_numbers.tolist()])
    mean = segment_sum(chi, batch.batch, batch.n_systems) / batch.atoms_per_system()
    wanted = CHARGE_PER_UNIT * (mean[batch.batch] - chi)
    head = potential.charge_head
    assert head is not None  # noqa: S101 - it was just made
    head.requires_grad_(requires_grad=True)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(FIRST_STEPS):
        optimizer.zero_grad()
        found = potential.local_charges(batch, None)
        (found - wanted).square().mean().backward()
        optimizer.step()
    head.requires_grad_(requires_grad=False)
    return lesff.Model(potential, model.source)


def trained(model: lesff.Model, data: Path, output: Path, options: argparse.Namespace) -> Any:
    """The model trained on energies and forces."""
    return model.finetune(
        data,
        output,
        loss={"dipole": 0.0, "total_charge": 1.0 if model.potential.charge_head else 0.0},
        returns="trained",
        strategy=options.strategy,
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
    error = np.concatenate(found.forces) - np.concatenate(
        [np.asarray(frame.forces) for frame in frames]
    )
    row = {"forces": 1e3 * float(np.sqrt(np.mean(error**2)))}
    if has_charges:
        row["dipole"] = r2(np.array(found.dipole), np.array([frame.dipole for frame in frames]))
        labels = np.concatenate([np.asarray(frame.born_effective_charges) for frame in frames])
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
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--strategy", choices=["head", "full"], default="head")
    parser.add_argument("--trunk-rate", type=float, default=1.0)
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
    print(f"{'':30}{'forces, meV/A':>15}{'R2 of dipoles':>15}{'of Born charges':>17}")
    say("AIMNet2, as published", judged(whole, atoms, frames))
    say("latent charges, at the start", judged(starts["latent"], atoms, frames))
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
    print(f"{name:30}{row['forces']:15.1f}{rest}", flush=True)


if __name__ == "__main__":
    main()
