"""Pairs of atoms from bonds down to hard contacts, with PBE0/def2-TZVP (PySCF).

No set of molecules says what happens when two atoms come closer than bonds are. This makes curves
of all pairs of H B C N O F Si P S Cl Br I from the sum of covalent radii inwards: energies relative
to isolated neutral atoms, of the lower of the two lowest spin multiplicities; forces from a cubic
spline through r E(r). Frames above 60 eV or 100 eV/A (``--largest-force``) are left out. The level
is a compromise with time: forces of wB97M-V/def2-TZVP differ by up to 1 % (C-O 0.9, I-I 2.0, I-H
1.2, S-Br 1.5 A).

The curves are kept in a JSON file beside the output; an interrupted run goes on where it stopped,
and the shard is written anew after each pair.

Needs ``pip install pyscf ase scipy tqdm`` in an environment that finds lesff.

    python tools/data/pair_contacts.py -o DATA/pair_contacts.npz
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from ase.units import Hartree
from composed import Row, write_shard
from pyscf import dft, gto, lib
from scipy.interpolate import CubicSpline
from tqdm.auto import tqdm

from lesff.plain_data import read_json, write_json

SYMBOLS = ("H", "C", "N", "O", "F", "S", "Cl", "P", "B", "Si", "Br", "I")
"""Elements, the frequent ones first."""
SHARES = (1.15, 1.0, 0.9, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3)
"""Distances in units of the sum of covalent radii, from outside to inside."""
OUTERMOST = 1.0
"""Share of the first frame: stretched pairs would need broken spin symmetry."""
DECIDED_AT = (1.0, 0.6)
"""Shares at which both multiplicities are computed first; all others where these disagree."""
MOST_ENERGY, MOST_FORCE = 60.0, 100.0
"""Of a frame, eV and eV/A; a curve ends where its slope is 1.2 times that force."""
KINK = 0.03
"""Of a curve r E(r): allowed distance from a cubic, relative to its change, eV A."""
FUNCTIONAL, BASIS = "pbe0", "def2-tzvp"
GRID_LEVEL, TOLERANCE = 1, 1e-6
"""Of PySCF: quadrature grid, convergence of the energy in Hartree."""
ATOM_MULTIPLICITIES = {
    "H": 2, "B": 2, "C": 3, "N": 4, "O": 3, "F": 2, "Si": 3, "P": 4, "S": 3, "Cl": 2, "Br": 2,
    "I": 2,
}  # fmt: skip


def solved(
    symbols: tuple[str, ...], distance: float, multiplicity: int, guess: np.ndarray | None
) -> tuple[float, np.ndarray]:
    """Energy in eV and density matrices of atoms on a line.

    Raises:
        RuntimeError: if the SCF does not converge from the guess, nor from atomic densities with
            damping.
    """
    molecule = gto.M(
        atom=[(s, (0.0, 0.0, i * distance)) for i, s in enumerate(symbols)],
        basis=BASIS, ecp={"I": BASIS} if "I" in symbols else {}, spin=multiplicity - 1, verbose=0,
    )  # fmt: skip
    for start, shift in ((guess, 0.0), (None, 0.0), (None, 0.3)):
        field = dft.UKS(molecule, xc=FUNCTIONAL).density_fit()
        field.grids.level, field.conv_tol, field.level_shift = GRID_LEVEL, TOLERANCE, shift
        field.max_cycle = 60
        energy = field.kernel(dm0=start)
        if field.converged:
            return energy * Hartree, np.asarray(field.make_rdm1())
    raise RuntimeError(f"{'-'.join(symbols)} at {distance:.3f} A: the SCF did not converge")


@dataclass
class Curve:
    """Energies of one pair in one spin state, computed from outside to inside.

    Attributes:
        symbols: The two elements.
        multiplicity: 2S + 1.
        zero: Energy of the separated atoms, eV.
    """

    symbols: tuple[str, str]
    multiplicity: int
    zero: float

    def __post_init__(self) -> None:
        """No point is known."""
        self.energies: dict[float, float] = {}
        self._densities: dict[float, np.ndarray] = {}

    @property
    def length(self) -> float:
        """Sum of covalent radii, A."""
        return float(sum(covalent_radii[atomic_numbers[s]] for s in self.symbols))

    def extend(self, shares: tuple[float, ...]) -> None:
        """Compute these shares inwards, until a point is beyond the limits."""
        guess = None
        last = (np.inf, 0.0)
        for share in shares:
            if share not in self.energies:
                self._try(share, guess)
            guess = self._densities.get(share, guess)
            if share not in self.energies:
                continue
            point = (share * self.length, self.energies[share])
            slope = (point[1] - last[1]) / (last[0] - point[0])
            if point[1] > MOST_ENERGY or slope > 1.2 * MOST_FORCE:
                return
            last = point

    def smooth(self) -> None:
        """Compute points beside a kink again, from atoms and from their neighbours' densities."""
        for share in self.kinks():
            known = sorted(self.energies)
            place = known.index(share)
            self._try(share, None)
            for other in known[max(place - 1, 0) : place + 2]:
                self._try(share, self._densities[other])

    def kinks(self) -> list[float]:
        """Shares whose energy differs from a cubic through r E(r) of the four points around."""
        shares = np.array(sorted(self.energies))
        r = shares * self.length
        y = r * np.array([self.energies[share] for share in shares])
        found = []
        for i in range(1, len(r) - 1):
            near = [j for j in range(max(i - 2, 0), min(i + 3, len(r))) if j != i]
            expected = np.polyval(np.polyfit(r[near] - r[i], y[near], len(near) - 1), 0.0)
            if abs(expected - y[i]) > KINK * (1.0 + np.ptp(y[i - 1 : i + 2])):
                found.append(float(shares[i]))
        return found

    def _try(self, share: float, guess: np.ndarray | None) -> None:
        """Compute a point; it counts if it is the first, or lower than before."""
        try:
            energy, density = solved(self.symbols, share * self.length, self.multiplicity, guess)
        except RuntimeError:
            return
        if energy - self.zero < self.energies.get(share, np.inf):
            self.energies[share], self._densities[share] = energy - self.zero, density


def computed(symbols: tuple[str, str], zero: float) -> dict[str, dict[str, float]]:
    """Energies (eV) by share, by multiplicity."""
    electrons = sum(atomic_numbers[s] for s in symbols)
    lowest = 1 + electrons % 2
    curves = [Curve(symbols, multiplicity, zero) for multiplicity in (lowest, lowest + 2)]
    for curve in curves:
        curve.extend(DECIDED_AT)
    low = {
        min(known, key=lambda curve: curve.energies[share]).multiplicity
        for share in DECIDED_AT
        if (known := [curve for curve in curves if share in curve.energies])
    }
    wanted = [curve for curve in curves if curve.multiplicity in low]
    for curve in wanted:
        curve.extend(SHARES)
        for _ in range(2):
            curve.smooth()
    return {
        str(curve.multiplicity): {str(share): e for share, e in sorted(curve.energies.items())}
        for curve in wanted
    }


def rows_of(name: str, curves: dict[str, dict[str, float]], most_force: float) -> list[Row]:
    """Frames of a pair, at each distance the state of lowest energy."""
    numbers = np.array([atomic_numbers[s] for s in name.split("-")])
    length = covalent_radii[numbers].sum()
    best: dict[str, tuple[float, float, int]] = {}
    for multiplicity, energies in curves.items():
        if len(energies) < 4:
            continue
        r = np.array([float(share) for share in energies]) * length
        e = np.array(list(energies.values()))
        slope = CubicSpline(r, r * e)(r, 1)
        for share, energy, force in zip(energies, e, -(slope - e) / r, strict=True):
            if share not in best or energy < best[share][0]:
                best[share] = (float(energy), float(force), int(multiplicity))
    rows = []
    for share, (energy, force, multiplicity) in sorted(best.items()):
        if float(share) > OUTERMOST or energy > MOST_ENERGY or abs(force) > most_force:
            continue
        axis = np.array([0.0, 0.0, 1.0])
        positions = np.array([0.0 * axis, float(share) * length * axis])
        forces = np.array([-force * axis, force * axis])
        rows.append(Row(name, numbers, positions, energy, forces, spin_multiplicity=multiplicity))
    return rows


def write_curves(
    path: Path, curves: dict[str, dict[str, dict[str, float]]], most_force: float
) -> None:
    """Write the shard of all pairs so far."""
    rows = [row for name, found in curves.items() for row in rows_of(name, found, most_force)]
    write_shard(path, rows, hold_out=False)


def main() -> None:
    """Compute the curves and write the shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--largest-force", type=float, default=MOST_FORCE, help="of a frame that is written, eV/A"
    )
    options = parser.parse_args()
    lib.num_threads(1)
    kept = options.output.with_suffix(".json")
    curves = read_json(kept) if kept.is_file() else {}
    atoms = {s: solved((s,), 0.0, ATOM_MULTIPLICITIES[s], None)[0] for s in SYMBOLS}
    pairs = sorted(
        combinations_with_replacement(SYMBOLS, 2),
        key=lambda pair: max(SYMBOLS.index(s) for s in pair),
    )
    for pair in tqdm(pairs, unit="pair", file=sys.stderr):
        name = "-".join(pair)
        if name not in curves:
            curves[name] = computed(pair, sum(atoms[s] for s in pair))
            write_json(kept, curves)
            write_curves(options.output, curves, options.largest_force)
    write_curves(options.output, curves, options.largest_force)


if __name__ == "__main__":
    main()
