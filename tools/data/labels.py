"""Labels of a teacher on structures: energies, forces, dipoles, charges, and where it is unsure.

    python tools/data/labels.py DATA/thermal.npz -o DATA/thermal_aimnet2.npz \
        --teacher aimnet2-wb97m-d3-ensemble --isolated isolated_atoms_eV.json
    python tools/data/labels.py crystals.npz -o labelled.npz --teacher nequix-oam-1-pft

``lesff pull NAME`` fetches a teacher from where it is published and converts it, once; nothing of
another package runs. Any method of ``lesff distill --teacher`` does, too: an ASE calculator as
``module:callable?key=value`` in an environment that has it and lesff (``environments.sh`` makes
them), without dipoles and charges where it has none.

Energies are relative to isolated neutral atoms where ``--isolated`` has theirs: a JSON file, energy
in eV by atomic number, on the scale of the teacher (``isolated_energies.py`` makes it for
wB97M-D3BJ, which AIMNet2 was trained on but for basis functions). Of an ensemble the labels are
means, and ``spread`` is the RMS over force components of the standard deviation of its members in
eV/A, which ``merged.py`` turns into weights. Structures with a force component over
``--largest-force`` are left out, and counted.

An interrupted run goes on where it stopped; see ``chunks.py``. Needs ``pip install tqdm`` in an
environment that finds lesff.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from chunks import Arrays, written_in_chunks

import lesff
from lesff.atoms.files import read_npz
from lesff.files import sha256_of
from lesff.methods import FAILURES, Method, ModelMethod, open_method
from lesff.potential.ensemble import Ensemble

CHUNK = 500
"""Structures of a chunk."""
PER_FRAME = ("charge", "spin_multiplicity", "group", "kind", "valid", "cell")
"""Arrays of the structures that are kept as they are."""


@dataclass(frozen=True)
class Label:
    """What the teacher says of one structure; see the arrays of a shard.

    Attributes:
        energy: In eV.
        forces: (n_atoms, 3) in eV/A.
        dipole: (3,) in e A, of molecules.
        charges: (n_atoms,) in e.
        stress: (3, 3) in eV/A^3, of crystals.
        spread: In eV/A, of an ensemble.
    """

    energy: float
    forces: np.ndarray
    dipole: np.ndarray | None = None
    charges: np.ndarray | None = None
    stress: np.ndarray | None = None
    spread: float | None = None


def structures(data: Arrays, rows: np.ndarray) -> list[Atoms]:
    """Structures of a shard."""
    ends = np.cumsum(data["n"].astype(np.int64))
    found = []
    for i in rows:
        part = slice(ends[i] - int(data["n"][i]), ends[i])
        atoms = Atoms(data["numbers"][part], data["positions"][part].astype(float))
        if "cell" in data:
            atoms.cell, atoms.pbc = data["cell"][i], True
        for key in ("charge", "spin_multiplicity"):
            if key in data:
                atoms.info[key] = int(data[key][i])
        found.append(atoms)
    return found


def by_model(model: lesff.Model, atoms: list[Atoms]) -> list[Label | None]:
    """Labels of a model of lesff, in batches."""
    is_crystal = bool(atoms[0].pbc.all())
    has_charges = model.config.long_range is not None
    is_ensemble = isinstance(model.potential, Ensemble)
    asked = ["energy", "forces"]
    asked += ["stress"] if is_crystal else []
    asked += ["charges"] if has_charges else []
    asked += ["dipole"] if has_charges and not is_crystal else []
    asked += ["forces_spread"] if is_ensemble else []
    with warnings.catch_warnings():  # of contacts and surroundings, made on purpose
        warnings.simplefilter("ignore")
        p = model.predict(atoms, asked, allow_close=True, progress=False)
    return [
        Label(
            energy=float(p.energy[i]),
            forces=np.asarray(p.forces[i]),
            dipole=np.asarray(p.dipole[i]) if "dipole" in asked else None,
            charges=np.asarray(p.charges[i]) if has_charges else None,
            stress=np.asarray(p.stress[i]) if is_crystal else None,
            spread=float(np.sqrt(np.mean(p.forces_spread[i] ** 2))) if is_ensemble else None,
        )
        for i in range(len(atoms))
    ]


def by_calculator(method: Method, atoms: list[Atoms]) -> list[Label | None]:
    """Labels of an ASE calculator, one by one; None where it fails."""
    found: list[Label | None] = []
    for one in atoms:
        one.calc = method.fast_calculator(
            int(one.info.get("charge", 0)), one.info.get("spin_multiplicity")
        )
        try:
            dipole = None if one.pbc.any() else one.get_dipole_moment()
        except (PropertyNotImplementedError, *FAILURES):
            dipole = None
        try:
            found.append(
                Label(
                    energy=float(one.get_potential_energy()),
                    forces=one.get_forces(),
                    dipole=dipole,
                    stress=one.get_stress(voigt=False) if one.pbc.all() else None,
                )
            )
        except FAILURES as error:
            sys.stderr.write(f"{one.symbols}: {error}\n")
            found.append(None)
    return found


def arrays_of(data: Arrays, rows: np.ndarray, labels: list[Label]) -> Arrays:
    """Arrays of labelled structures."""
    ends = np.cumsum(data["n"].astype(np.int64))
    atoms = np.concatenate(
        [np.arange(int(ends[i]) - int(data["n"][i]), int(ends[i])) for i in rows]
    )
    found = {key: data[key][rows] for key in ("n", *PER_FRAME) if key in data}
    found |= {key: data[key][atoms] for key in ("numbers", "positions")}
    found["energy"] = np.array([label.energy for label in labels])
    found["forces"] = np.concatenate([label.forces for label in labels]).astype(np.float32)
    for key in ("dipole", "stress", "spread"):
        values = [getattr(label, key) for label in labels]
        if all(value is not None for value in values):
            found[key] = np.array(values).astype(np.float32)
    charges = [label.charges for label in labels if label.charges is not None]
    if len(charges) == len(labels):
        found["charges"] = np.concatenate(charges).astype(np.float32)
    return found


def main() -> None:
    """Label and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structures", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--isolated", type=Path, help="energies of atoms in eV, JSON")
    parser.add_argument("--largest-force", type=float, default=20.0, help="eV/A")
    options = parser.parse_args()
    torch.set_num_threads(1)
    method = open_method(options.teacher)
    data = read_npz(options.structures)
    zero = np.zeros(120)
    if options.isolated is not None:
        for number, energy in json.loads(options.isolated.read_text("utf-8")).items():
            zero[int(number)] = energy
    unknown = sorted(set(data["numbers"].tolist()) - set(method.elements))
    if unknown:
        sys.exit(f"{options.teacher} does not know the elements {unknown}")
    if options.isolated is not None and not zero[data["numbers"]].all():
        missing = sorted(set(data["numbers"][zero[data["numbers"]] == 0.0].tolist()))
        sys.exit(f"{options.isolated} must have the energies of {missing}")
    left_out = 0

    def make(chunk: int) -> Arrays | None:
        nonlocal left_out
        rows = np.arange(chunk * CHUNK, min((chunk + 1) * CHUNK, len(data["n"])))
        atoms = structures(data, rows)
        labels = (
            by_model(method.fast, atoms)
            if isinstance(method, ModelMethod)
            else by_calculator(method, atoms)
        )
        kept = [
            (row, label)
            for row, label in zip(rows, labels, strict=True)
            if label is not None and np.abs(label.forces).max() <= options.largest_force
        ]
        left_out += len(rows) - len(kept)
        if not kept:
            return None
        found = arrays_of(data, np.array([row for row, _ in kept]), [x for _, x in kept])
        ends = np.cumsum(found["n"].astype(np.int64))
        sums = np.add.reduceat(zero[found["numbers"]], ends - found["n"])
        found["energy"] = found["energy"] - sums
        return found

    asked = {
        "structures": sha256_of(options.structures),
        "teacher": options.teacher,
        "isolated": None if options.isolated is None else sha256_of(options.isolated),
        "largest_force": options.largest_force,
    }
    count = -(-len(data["n"]) // CHUNK)
    digest = written_in_chunks(options.output, asked, count, make)
    sys.stderr.write(f"{left_out} structures left out in this run\n")
    sys.stdout.write(f"{digest}  {options.output}\n")


if __name__ == "__main__":
    main()
