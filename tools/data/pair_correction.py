"""A pair potential that brings a teacher's labels nearer to DFT, fitted to some hundred DFT frames.

    python tools/data/pair_correction.py fit train.extxyz -o correction.json \
        --teacher "so3krates_torch.calculator.so3:SO3LRCalculator?charge={charge}"
    python tools/data/pair_correction.py add labelled.npz --correction correction.json -o better.npz

The correction is linear in its coefficients: for each pair of elements Gaussians of the distance
under 3.8 A, times a cosine that takes them to zero there, and an energy for each element.
Ridge regression of DFT minus teacher finds them, of energies per atom and force components
together; the weight of the ridge is the one with the least error of forces in a cross-validation
over molecules. Frames that are held out must not be among the frames. The teacher is any method of
``lesff distill --teacher``; its energies are used as they are: ``fit`` finds the energy of each
element, so that those of ``better.npz`` have the zero of the DFT frames.

Needs nothing but lesff, in an environment that has the teacher (``environments.sh``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from ase import Atoms
from scipy.spatial.distance import pdist, squareform
from tqdm.auto import tqdm

from lesff.atoms.files import read_npz
from lesff.methods import open_method
from lesff.plain_data import read_json, write_json
from lesff.train.data import Frame, read_frames
from lesff.train.shards import write_npz

CUTOFF, FIRST, WIDTH, SPACING = 3.8, 0.7, 0.25, 0.25
"""Of the basis in A: where it ends, its first centre, width and spacing of the Gaussians."""
ENERGY_WEIGHT = 3.0
"""Of an error of the energy per atom beside one of a force component, 1/A."""
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Weights of the squares of coefficients, as shares of the mean square of the design matrix."""
FOLDS = 5


@dataclass(frozen=True)
class PairCorrection:
    """Linear pair potential.

    Attributes:
        elements: Atomic numbers, ascending.
        coefficients: (n_pairs n_basis + n_elements,) in eV: of the pairs of elements in the order
            of ``combinations_with_replacement``, then of the elements.
    """

    elements: tuple[int, ...]
    coefficients: np.ndarray

    def labels(self, numbers: np.ndarray, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy in eV and forces (n_atoms, 3) in eV/A of a molecule."""
        energy, forces = design(self.elements, numbers, positions)
        n_atoms = len(numbers)
        return float(energy @ self.coefficients), (forces @ self.coefficients).reshape(n_atoms, 3)


def basis(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and derivatives of the basis, (n_pairs, n_basis) each."""
    centres = np.arange(FIRST, CUTOFF, SPACING)
    x = (r[:, None] - centres) / WIDTH
    gauss = np.exp(-0.5 * x**2)
    fade = 0.5 * (1.0 + np.cos(np.pi * r / CUTOFF))[:, None]
    slope = (-0.5 * np.pi / CUTOFF * np.sin(np.pi * r / CUTOFF))[:, None]
    return gauss * fade, gauss * (slope - x / WIDTH * fade)


def design(
    elements: Sequence[int], numbers: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What the coefficients multiply: of the energy, and of the forces (3 n_atoms, n)."""
    pairs = list(combinations_with_replacement(elements, 2))
    place = {pair: i for i, pair in enumerate(pairs)}
    n_basis = len(np.arange(FIRST, CUTOFF, SPACING))
    size = len(pairs) * n_basis + len(elements)
    energy, forces = np.zeros(size), np.zeros((len(numbers), 3, size))
    distance = squareform(pdist(positions))
    first, second = np.nonzero(np.triu(distance < CUTOFF, 1))
    r = distance[first, second]
    value, slope = basis(r)
    for p, (i, j) in enumerate(zip(first, second, strict=True)):
        pair = tuple(sorted((int(numbers[i]), int(numbers[j]))))
        own = slice(place[pair] * n_basis, (place[pair] + 1) * n_basis)
        energy[own] += value[p]
        along = (positions[j] - positions[i]) / r[p]
        forces[i, :, own] += along[:, None] * slope[p]
        forces[j, :, own] -= along[:, None] * slope[p]
    for k, z in enumerate(elements):
        energy[len(pairs) * n_basis + k] = np.count_nonzero(numbers == z)
    return energy, forces.reshape(-1, size)


def fitted(
    frames: Sequence[Frame], energies: np.ndarray, forces: Sequence[np.ndarray]
) -> tuple[PairCorrection, dict[str, float]]:
    """Correction of a teacher's labels of DFT frames, and errors of forces in a cross-validation.

    Args:
        frames: DFT frames of molecules.
        energies: (n_frames,) of the teacher, eV.
        forces: (n_atoms, 3) of each frame, of the teacher, eV/A.
    """
    elements = tuple(sorted({int(z) for frame in frames for z in frame.structure.numbers}))
    rows, targets, kinds, owners = [], [], [], []
    names = sorted({frame.group for frame in frames})
    for frame, energy, force in zip(frames, energies, forces, strict=True):
        s = frame.structure
        a, b = design(elements, s.numbers, s.positions)
        n = len(s)
        rows += [ENERGY_WEIGHT * a[None] / n, b]
        targets += [[ENERGY_WEIGHT * (frame.energy - energy) / n], (frame.forces - force).ravel()]
        kinds += [[False], np.ones(3 * n, bool)]
        owners.append(np.full(3 * n + 1, names.index(frame.group) % FOLDS))
    x, y = np.concatenate(rows), np.concatenate(targets)
    is_force, fold = np.concatenate(kinds), np.concatenate(owners)

    def solved(chosen: np.ndarray, ridge: float) -> np.ndarray:
        a, b = x[chosen], y[chosen]
        normal = a.T @ a
        size = len(normal)
        # energies of elements are not held back
        held = np.arange(size) < size - len(elements)
        normal[np.diag_indices(size)] += ridge * np.trace(normal) / size * held + 1e-12
        return np.linalg.solve(normal, a.T @ b)

    def error(ridge: float) -> float:
        left = [
            np.abs(y[part] - x[part] @ solved(fold != k, ridge)).mean()
            for k in range(FOLDS)
            if (part := (fold == k) & is_force).any()
        ]
        return float(np.mean(left))

    errors = {ridge: error(ridge) for ridge in RIDGES}
    best = min(errors, key=lambda ridge: errors[ridge])
    found = {"before": float(np.abs(y[is_force]).mean()), "after": errors[best], "ridge": best}
    return PairCorrection(elements, solved(np.ones(len(y), bool), best)), found


def fit(options: argparse.Namespace) -> None:
    """Fit and write the coefficients."""
    method = open_method(options.teacher)
    given = [frame for path in options.frames for frame in read_frames(path)]
    if any(frame.structure.pbc.any() for frame in given):
        sys.exit("the correction is for molecules: leave periodic frames out")
    known = set(method.elements)
    frames = [frame for frame in given if set(frame.structure.numbers.tolist()) <= known]
    if len(frames) < len(given):
        sys.stderr.write(
            f"{len(given) - len(frames)} frames have elements that the teacher lacks: left out\n"
        )
    energies, forces = [], []
    for frame in tqdm(frames, unit="frame", file=sys.stderr):
        s = frame.structure
        atoms = Atoms(s.numbers, s.positions)
        atoms.calc = method.fast_calculator(int(s.total_charge), s.spin_multiplicity)
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    correction, errors = fitted(frames, np.array(energies), forces)
    write_json(
        options.output,
        {
            "teacher": options.teacher,
            "elements": list(correction.elements),
            "coefficients": correction.coefficients.tolist(),
        },
    )
    sys.stdout.write(
        f"{len(frames)} frames; mean error of forces {1e3 * errors['before']:.1f} meV/A, in the "
        f"cross-validation {1e3 * errors['after']:.1f} (ridge {errors['ridge']:g})\n"
    )


def add(options: argparse.Namespace) -> None:
    """Write a shard with the correction added."""
    read = read_json(options.correction)
    correction = PairCorrection(tuple(read["elements"]), np.array(read["coefficients"]))
    data = read_npz(options.labelled)
    if "cell" in data:
        sys.exit(f"{options.labelled} must hold molecules, and has cells")
    unknown = sorted(set(data["numbers"].tolist()) - set(correction.elements))
    if unknown:
        sys.exit(f"{options.correction} must know the elements of the shard, and lacks {unknown}")
    data = dict(data)
    data["forces"] = data["forces"].astype(float)
    ends = np.cumsum(data["n"].astype(np.int64))
    for i in tqdm(range(len(ends)), unit="frame", file=sys.stderr):
        part = slice(ends[i] - int(data["n"][i]), ends[i])
        positions = data["positions"][part].astype(float)
        energy, forces = correction.labels(data["numbers"][part], positions)
        data["energy"][i] += energy
        data["forces"][part] += forces
    data["forces"] = data["forces"].astype(np.float32)
    write_npz(options.output, data, np.savez_compressed)


def main() -> None:
    """Fit a correction, or add one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("fit")
    one.add_argument("frames", type=Path, nargs="+")
    one.add_argument("--teacher", required=True)
    one.set_defaults(run=fit)
    other = commands.add_parser("add")
    other.add_argument("labelled", type=Path)
    other.add_argument("--correction", type=Path, required=True)
    other.set_defaults(run=add)
    for command in (one, other):
        command.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
