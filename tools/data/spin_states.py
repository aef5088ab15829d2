"""Charge and spin states at one geometry, moved to the second teacher.

``spin_vertical.npz`` has molecules with the labels of SO3LR and, at the same geometry, with one
electron less or more (differences by IPEA1-xTB) and as triplets (by GFN2-xTB). SO3LR's energies
have a zero of their own between molecules. Here all states of a geometry get AIMNet2's label of the
closed shell instead: label(state) + AIMNet2(closed) - label(closed), for energies and forces.
AIMNet2's energies are moved to isolated atoms by one energy per element, which AIMNet2's labels in
``organic2_extended.npz`` determine. Geometries whose closed shell is further than 0.3 eV/A (RMS of
force components) from AIMNet2 are left out.

Needs ``pip install torch tqdm`` and the ensemble of AIMNet2 (TorchScript, in the wheel of Auto3D,
MIT). It runs code from that file: only in an environment of its own.

    python tools/data/spin_states.py --data DATA --aimnet2 aimnet2_wb97m_ens_f.jpt -o OUTPUT.npz
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from lesff.train.shards import read_shard, write_npz

CALIBRATION = 600
"""Frames of ``organic2_extended.npz`` that energies of elements are from."""
LARGEST_SPREAD = 0.3
"""RMS difference of the teachers' forces, eV/A."""

Molecule = tuple[np.ndarray, np.ndarray, int]
"""Atomic numbers (n_atoms,), positions (n_atoms, 3) in A, total charge."""


def labelled(
    model: torch.jit.ScriptModule, molecules: Sequence[Molecule]
) -> list[tuple[float, np.ndarray]]:
    """Energy (eV, total) and forces (eV/A) of each."""
    found = []
    for numbers, positions, charge in tqdm(molecules, file=sys.stderr):
        result = model(
            {
                "coord": torch.tensor(positions[None], dtype=torch.float32),
                "numbers": torch.tensor(numbers[None].astype(np.int64)),
                "charge": torch.tensor([float(charge)]),
            }
        )
        found.append((float(result["energy"]), result["forces"][0].detach().numpy().astype(float)))
    return found


def molecules_of(data: dict[str, np.ndarray], chosen: np.ndarray) -> list[Molecule]:
    """Frames of a shard."""
    stops = np.cumsum(data["n"].astype(np.int64))
    rows = [slice(int(stops[i]) - int(data["n"][i]), int(stops[i])) for i in chosen]
    return [
        (data["numbers"][row], data["positions"][row], int(data["charge"][i]))
        for i, row in zip(chosen, rows, strict=True)
    ]


def energies_of_elements(model: torch.jit.ScriptModule, path: Path) -> dict[int, float]:
    """What the totals of AIMNet2 are above its labels, per atom of each element, eV."""
    data = read_shard(path)
    chosen = np.sort(np.random.default_rng(0).permutation(len(data["n"]))[:CALIBRATION])
    molecules = molecules_of(data, chosen)
    elements = np.unique(np.concatenate([numbers for numbers, _, _ in molecules]))
    counts = np.array([[(n == z).sum() for z in elements] for n, _, _ in molecules], float)
    totals = np.array([energy for energy, _ in labelled(model, molecules)])
    difference = totals - data["energy"][chosen]
    found, *_ = np.linalg.lstsq(counts, difference, rcond=None)
    error = np.abs(counts @ found - difference).max()
    sys.stdout.write(f"energies of elements explain the labels to {1e3 * error:.1f} meV\n")
    return {int(z): float(e) for z, e in zip(elements, found, strict=True)}


def main() -> None:
    """Write the shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--aimnet2", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = torch.jit.load(str(options.aimnet2))
    zeros = energies_of_elements(model, options.data / "organic2_extended.npz")
    data = read_shard(options.data / "spin_vertical.npz")
    counts = data["n"].astype(np.int64)
    states = molecules_of(data, np.arange(len(counts)))
    keys = [(n.tobytes(), np.round(x, 3).tobytes()) for n, x, _ in states]
    closed = np.flatnonzero(data["level"] == b"SO3LR")
    labels = labelled(model, molecules_of(data, closed))
    rows = [slice(stop - n, stop) for stop, n in zip(np.cumsum(counts), counts, strict=True)]
    shifts = {}
    for i, (energy, forces) in zip(closed, labels, strict=True):
        numbers = states[i][0]
        change = forces - data["forces"][rows[i]]
        if np.sqrt(np.mean(change**2)) <= LARGEST_SPREAD:
            relative = energy - sum(zeros[int(z)] for z in numbers)
            shifts[keys[i]] = (relative - data["energy"][i], change)
    kept = np.array([key in shifts for key in keys])
    atoms = np.repeat(kept, counts)
    arrays = {key: data[key][atoms] for key in ("numbers", "positions")}
    arrays |= {
        key: data[key][kept] for key in ("n", "charge", "spin_multiplicity", "group", "valid")
    }
    chosen = np.flatnonzero(kept)
    arrays["energy"] = np.array([data["energy"][i] + shifts[keys[i]][0] for i in chosen])
    arrays["forces"] = np.concatenate(
        [data["forces"][rows[i]] + shifts[keys[i]][1] for i in chosen]
    ).astype(np.float32)
    write_npz(options.output, arrays, np.savez_compressed)
    moved = np.array([shift for shift, _ in shifts.values()])
    sys.stdout.write(
        f"{kept.sum()} of {len(kept)} frames; energies moved by {moved.mean():.3f} eV on average, "
        f"{moved.std():.3f} eV standard deviation\n"
    )


if __name__ == "__main__":
    main()
