"""The table of quantities: name, shape, unit, level and meaning. Nothing else names an output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Level = Literal["system", "atom", "pair"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One row of the table.

    Attributes:
        name: Key in results, files and on the command line.
        shape: Shape per system, atom or pair of atoms, without the counts.
        unit: Unit as text.
        level: Whether there is one value per system, per atom or per pair of atoms of a system.
        meaning: What it is, with sign and index order.
    """

    name: str
    shape: tuple[int, ...]
    unit: str
    level: Level
    meaning: str


_ROWS = (
    Quantity(
        name="energy", shape=(), unit="eV", level="system",
        meaning="Total potential energy; its zero is the model card's energy reference. In an "
        "external field E the electric enthalpy U - E.P, P = sum q r + u about the coordinate "
        "origin.",
    ),
    Quantity(
        name="energy_sr", shape=(), unit="eV", level="system",
        meaning="Part of the energy from the short-range model, reference energies included; "
        "energy_sr + energy_lr is the energy without the field's share -E.P.",
    ),
    Quantity(
        name="energy_lr", shape=(), unit="eV", level="system",
        meaning="Part of the energy from the latent Coulomb interaction and from dispersion.",
    ),
    Quantity(
        name="energy_dispersion", shape=(), unit="eV", level="system",
        meaning="Part of energy_lr from dispersion. Models with such only.",
    ),
    Quantity(
        name="node_energy", shape=(), unit="eV", level="atom",
        meaning="Atomic energies; they sum to energy, long range included.",
    ),
    Quantity(
        name="forces", shape=(3,), unit="eV/A", level="atom",
        meaning="Minus the gradient of energy with respect to positions; in a field they contain "
        "born_effective_charges^T E.",
    ),
    Quantity(
        name="stress", shape=(3, 3), unit="eV/A^3", level="system",
        meaning="(1/V) dE/dstrain, symmetric; positive under tension. Needs three periodic axes.",
    ),
    Quantity(
        name="hessian", shape=(3, 3), unit="eV/A^2", level="pair",
        meaning="[a, i, b, j] = d2 energy / dr_ai dr_bj, (n_atoms, 3, n_atoms, 3) of a structure, "
        "symmetric, in float64; reshape(3 n_atoms, 3 n_atoms) is the matrix. Of a crystal: atoms "
        "move with their images. Differences of forces: see lesff.potential.hessian.",
    ),
    Quantity(
        name="latent_charges", shape=(), unit="e", level="atom",
        meaning="Charges that enter the latent Coulomb energy, induced ones included.",
    ),
    Quantity(
        name="charges", shape=(), unit="e", level="atom",
        meaning="sqrt(eps_inf) times the latent charges.",
    ),
    Quantity(
        name="dipole", shape=(3,), unit="e*A", level="system",
        meaning="Sum of charge times position and of atomic dipoles; about the centre of nuclear "
        "charge when the total charge is not zero: in predictions, files, labels and the "
        "calculator. Labels about another point say so, see INFO_DIPOLE_ORIGIN. Of a slab: its "
        "part (mu.n) n along the normal n, -dF/dE_n in a field along it; the part in the plane has "
        "many values and is left out (zero). Not for crystals.",
    ),
    Quantity(
        name="quadrupole", shape=(3, 3), unit="e*A^2", level="system",
        meaning="Primitive second moment sum q r r + u r + r u + Q about the same origin as "
        "dipole. Finite systems only.",
    ),
    Quantity(
        name="atomic_dipoles", shape=(3,), unit="e*A", level="atom",
        meaning="Latent and induced dipole of each atom, part of dipole. Models with such only.",
    ),
    Quantity(
        name="atomic_quadrupoles", shape=(3, 3), unit="e*A^2", level="atom",
        meaning="Latent traceless second moment of each atom, part of quadrupole. Models with such "
        "only.",
    ),
    Quantity(
        name="born_effective_charges", shape=(3, 3), unit="e", level="atom",
        meaning="[a, i, j] = dP_i / dr_aj, P the total dipole of the system.",
    ),
    Quantity(
        name="polarizability", shape=(3, 3), unit="e*A^2/V", level="system",
        meaning="[i, j] = d dipole_i / dE_j = -d2 energy / dE_i dE_j at fixed positions. Models "
        "that respond to a field only; periodic systems if the dipoles only do (of the cell, at "
        "fixed macroscopic field).",
    ),
    Quantity(
        name="energy_uncertainty", shape=(), unit="eV", level="system",
        meaning="Standard deviation of energy, calibrated (lesff calibrate).",
    ),
    Quantity(
        name="forces_uncertainty", shape=(), unit="eV/A", level="atom",
        meaning="Standard deviation of a force component of the atom (root mean square of the "
        "three), calibrated.",
    ),
    Quantity(
        name="novelty", shape=(), unit="1", level="atom",
        meaning="Distance of the atom's features to those the model was calibrated on, in units "
        "of the largest that counts as known; above 1 out of the domain, infinite for elements "
        "never seen.",
    ),
)  # fmt: skip

OF_CHARGES = (
    "latent_charges",
    "charges",
    "dipole",
    "quadrupole",
    "atomic_dipoles",
    "atomic_quadrupoles",
    "born_effective_charges",
    "polarizability",
)
"""What charges decide."""

_OF_MEMBERS = ("energy", "forces", "stress", "charges", "dipole")
_SPREAD_ROWS = tuple(
    replace(
        row,
        name=f"{row.name}_spread",
        meaning=f"Standard deviation (N - 1) of every component of {row.name} over the N members "
        "of an ensemble; not calibrated.",
    )
    for row in _ROWS
    if row.name in _OF_MEMBERS
)

QUANTITIES: dict[str, Quantity] = {row.name: row for row in (*_ROWS, *_SPREAD_ROWS)}
"""All quantities by name."""

SPREADS = {row.name: row.name.removesuffix("_spread") for row in _SPREAD_ROWS}
"""What only ensembles have, and the quantity that each is the spread of."""

UNCERTAINTIES = ("energy_uncertainty", "forces_uncertainty", "novelty")
"""What a model has after calibration; ``"uncertainty"`` asks for all of it."""

DEFAULT_PROPERTIES = ("energy", "forces")
"""What predict returns when nothing is asked for."""

# Keys of ``atoms.info``: every command writes the first of each, every reader knows all.

INFO_CHARGE = ("charge", "total_charge")
"""Keys of ``atoms.info`` that hold the total charge, in order."""

INFO_FIELD = "external_field"
"""Key of ``atoms.info`` that holds the external electric field, three numbers in V/A."""

INFO_SPIN = ("spin_multiplicity", "spin")
"""Keys of ``atoms.info`` that hold the spin multiplicity 2S+1, in order."""

INFO_MODEL = "model"
"""Key of ``atoms.info`` that names the model whose predictions a file holds."""

INFO_DIPOLE_ORIGIN = "dipole_origin"
"""Key of ``atoms.info`` (array of an npz shard) that says what point the dipole label of an ion is
about: one of DIPOLE_ORIGINS or three numbers in A. The centre of nuclear charge if left out; in a
shard, the coordinate origin. The dipole of a neutral system does not depend on it."""

DIPOLE_ORIGINS = ("nuclear_charge", "mass", "coordinates")
"""Centre of nuclear charge, centre of mass (isotopes of natural abundance), coordinate origin."""
