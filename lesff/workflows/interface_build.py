"""Two crystals become one strain-matched interface, by pymatgen's builder.

The builder looks for the smallest common cells of two surfaces (Zur and McGill, J. Appl. Phys. 55,
378 (1984)); the film is strained to the substrate.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ase
import numpy as np

from lesff.errors import ConfigError, DataError
from lesff.workflows.extras import require

PART = "part"
"""Array of atoms that says whose they were: 0 for the substrate, 1 for the film."""
Miller = tuple[int, int, int]
_CANDIDATES = 50
"""Matches that are built for each pair of terminations."""


@dataclass(frozen=True, kw_only=True)
class InterfaceOptions:
    """What an interface is made of.

    Attributes:
        substrate_miller: Plane of the substrate.
        film_miller: Plane of the film.
        substrate_thickness: At least, A.
        film_thickness: At least, A.
        gap: Between the outermost atoms of the two, A.
        vacuum: Above the film, A; the gap if None: film and substrate then meet twice, as in a
            sandwich that is periodic along the normal.
        max_strain: Largest von Mises strain of the film.
        max_area: Largest area of the common cell, A^2.
        max_atoms: Most atoms.

    Raises:
        ConfigError: for a bad value.
    """

    substrate_miller: Miller = (0, 0, 1)
    film_miller: Miller = (0, 0, 1)
    substrate_thickness: float = 8.0
    film_thickness: float = 8.0
    gap: float = 2.2
    vacuum: float | None = None
    max_strain: float = 0.05
    max_area: float = 200.0
    max_atoms: int = 500

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("substrate_thickness", "film_thickness", "gap", "max_strain", "max_area"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0.0):
                raise ConfigError(f"`{name}` must be positive, got {value!r}")
        for name in ("substrate_miller", "film_miller"):
            value = getattr(self, name)
            if len(value) != 3 or not any(value):
                raise ConfigError(f"`{name}` must be three integers, not all 0, got {value!r}")
        if self.max_atoms < 2 or (self.vacuum is not None and self.vacuum < 0.0):
            raise ConfigError(
                f"`max_atoms` must be at least 2 and `vacuum` not negative, got {self.max_atoms}, "
                f"{self.vacuum}"
            )


@dataclass(frozen=True, kw_only=True)
class Match:
    """One interface and what it costs the film.

    Attributes:
        atoms: The interface, its normal along z, with the array ``part``.
        area: A^2.
        strain: Von Mises strain of the film.
        green_lagrange: (3, 3) Green-Lagrange strain of the film.
        termination: Of film and substrate, as pymatgen names them.
    """

    atoms: ase.Atoms
    area: float
    strain: float
    green_lagrange: np.ndarray
    termination: tuple[str, str]


def build_interfaces(
    substrate: ase.Atoms, film: ase.Atoms, options: InterfaceOptions | None = None
) -> list[Match]:
    """Interfaces within the limits, the one with the fewest atoms first.

    Args:
        substrate: A crystal, in its conventional cell if the planes are to be those of books.
        film: Likewise.
        options: How.

    Raises:
        MissingDependencyError: without pymatgen.
        DataError: if the inputs are no crystals, or nothing is within the limits.
    """
    options = options or InterfaceOptions()
    coherent = require("pymatgen.analysis.interfaces.coherent_interfaces", "pymatgen")
    zsl = require("pymatgen.analysis.interfaces.zsl", "pymatgen")
    adaptor = require("pymatgen.io.ase", "pymatgen").AseAtomsAdaptor
    for name, atoms in (("substrate", substrate), ("film", film)):
        if not atoms.pbc.all():
            raise DataError(f"`{name}` must be a crystal, periodic in 3D, got pbc {atoms.pbc}")
    with warnings.catch_warnings():
        # pymatgen calls spglib in a way that spglib gives up
        warnings.simplefilter("ignore", DeprecationWarning)
        built = _built(coherent, zsl, adaptor, substrate, film, options)
    fitting = [
        match
        for match in built
        if match.strain <= options.max_strain and len(match.atoms) <= options.max_atoms
    ]
    if not fitting:
        best = min((match.strain for match in built), default=None)
        found = "nothing" if best is None else f"{len(built)}, the least strain being {best:.3f}"
        raise DataError(
            f"no interface has a strain of at most {options.max_strain} and at most "
            f"{options.max_atoms} atoms (found {found}); raise `max_strain`, `max_area` or "
            "`max_atoms`, or take other planes"
        )
    return sorted(_different(fitting), key=lambda match: (len(match.atoms), match.strain))


def _built(
    coherent: Any,
    zsl: Any,
    adaptor: Any,
    substrate: ase.Atoms,
    film: ase.Atoms,
    options: InterfaceOptions,
) -> list[Match]:
    """All interfaces of pymatgen's builder, of each pair of terminations."""
    builder = coherent.CoherentInterfaceBuilder(
        substrate_structure=adaptor.get_structure(_bare(substrate)),
        film_structure=adaptor.get_structure(_bare(film)),
        film_miller=options.film_miller,
        substrate_miller=options.substrate_miller,
        zslgen=zsl.ZSLGenerator(
            max_area=options.max_area, max_length_tol=options.max_strain, bidirectional=True
        ),
    )
    vacuum = options.gap if options.vacuum is None else options.vacuum
    return [
        _match(interface)
        for termination in (builder.terminations if builder.zsl_matches else ())
        for interface in islice(
            builder.get_interfaces(
                termination, gap=options.gap, vacuum_over_film=vacuum,
                film_thickness=options.film_thickness,
                substrate_thickness=options.substrate_thickness, in_layers=False,
            ), _CANDIDATES,
        )
    ]  # fmt: skip


def _bare(atoms: ase.Atoms) -> ase.Atoms:
    """Elements, positions and cell only."""
    return ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


def _match(interface: Any) -> Match:
    """An interface of pymatgen as atoms, from the substrate upwards."""
    properties = interface.interface_properties
    atoms = ase.Atoms(
        [site.specie.symbol for site in interface],
        interface.cart_coords,
        cell=interface.lattice.matrix,
        pbc=True,
    )
    atoms.arrays[PART] = np.array(
        [int(label == "film") for label in interface.site_properties["interface_label"]]
    )
    atoms.positions[:, 2] -= atoms.positions[:, 2].min()
    cell = atoms.cell.array
    film, substrate = properties["termination"]
    return Match(
        atoms=atoms,
        area=float(np.linalg.norm(np.cross(cell[0], cell[1]))),
        strain=float(properties["von_mises_strain"]),
        green_lagrange=np.array(properties["strain"]),
        termination=(str(film), str(substrate)),
    )


def _different(matches: list[Match]) -> list[Match]:
    """Of those with the same size, strain and terminations, the first: others are turned."""
    found: dict[tuple[Any, ...], Match] = {}
    for match in matches:
        key = (match.termination, len(match.atoms), round(match.area, 2), round(match.strain, 4))
        found.setdefault(key, match)
    return list(found.values())
