"""Phonons by phonopy: displacement forces in batches, splitting by Born charges of the model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np

from lesff.atoms.structure import to_structure
from lesff.errors import ConfigError, UnsupportedInputError
from lesff.model import Model
from lesff.units import COULOMB_CONSTANT
from lesff.workflows.crystals import Start, check_crystal, kept_minimum
from lesff.workflows.extras import require
from lesff.workflows.folder import WorkFolder, staged

THZ_TO_PER_CM = 33.35640951981521
"""1 THz in 1/cm."""
_SUPERCELL_LENGTH = 10.0
_PATH_POINTS = 41
_CHUNK_ATOMS = 2000


@dataclass(frozen=True, kw_only=True)
class PhononOptions:
    """How phonons are computed.

    Attributes:
        start: What is relaxed first, see :func:`lesff.workflows.crystals.minimum`.
        fmax: Largest force of the minimum, eV/A.
        supercell: Multiples of the lattice vectors; None for at least 10 A along each.
        displacement: A.
        nac: Whether the field of longitudinal modes is added (non-analytic term).
        dielectric: Electronic dielectric tensor (3, 3), its diagonal, or one number; from the
            polarizability of models that have one if None.
        born_file: phonopy's ``BORN`` file in place of the model's charges and ``dielectric``.
        mesh: Length that sets the mesh of the density of states, A (see phonopy's ``run_mesh``).
        temperatures: K, of heat capacity and free energy.

    Raises:
        ConfigError: for a bad value.
    """

    start: Start = "cell"
    fmax: float = 1e-3
    supercell: tuple[int, int, int] | None = None
    displacement: float = 0.01
    nac: bool = True
    dielectric: Any = None
    born_file: Path | None = None
    mesh: float = 60.0
    temperatures: tuple[float, ...] = (0.0, 100.0, 200.0, 300.0)

    def __post_init__(self) -> None:
        """Check the values."""
        if self.start not in ("cell", "atoms", "none"):
            raise ConfigError(f"`start` must be of cell, atoms, none, got {self.start!r}")
        for name in ("fmax", "displacement", "mesh"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0.0):
                raise ConfigError(f"`{name}` must be positive, got {value!r}")
        if self.supercell is not None and min(self.supercell) < 1:
            raise ConfigError(f"`supercell` must be three positive numbers, got {self.supercell}")
        if self.dielectric is not None:
            dielectric_tensor(self.dielectric)
        for name in ("dielectric", "born_file"):
            if getattr(self, name) is not None and not self.nac:
                raise ConfigError(f"`{name}` must be left out without `nac`, which it is for")
        if self.dielectric is not None and self.born_file is not None:
            raise ConfigError("`dielectric` must be left out: `born_file` has its own")


@dataclass(frozen=True, kw_only=True)
class PhononResult:
    """Phonons of a crystal; frequencies in THz, imaginary ones negative.

    Attributes:
        phonon: phonopy's object, for everything else.
        atoms: The crystal at its minimum.
        supercell: Multiples of the lattice vectors.
        n_displacements: Supercells that were computed.
        gamma: (n_modes,) at the zone centre without the field: transverse.
        longitudinal: (n_modes,) at the zone centre along the first reciprocal vector, with the
            field; None without it.
        born: (n_primitive, 3, 3) Born charges as they were used, e, or None: symmetrised, and those
            of a model times the root of what screens them (see :func:`screening`).
        dielectric: (3, 3) or None.
        path: Special points along the path, ``","`` between pieces that are not connected.
        distances: For each segment (n_points,), 1/A.
        bands: For each segment (n_points, n_modes).
        segments: Names of the ends of each segment.
        dos: (n_points, 2) frequencies and density of states, states per THz and primitive cell.
        thermal: Temperatures (K), free energy (kJ/mol), entropy and heat capacity (J/(K mol)) of
            the primitive cell.
        minimum_frequency: Of the mesh.
    """

    phonon: Any
    atoms: ase.Atoms
    supercell: tuple[int, int, int]
    n_displacements: int
    gamma: np.ndarray
    longitudinal: np.ndarray | None
    born: np.ndarray | None
    dielectric: np.ndarray | None
    path: str
    distances: list[np.ndarray]
    bands: list[np.ndarray]
    segments: list[tuple[str, str]]
    dos: np.ndarray
    thermal: dict[str, np.ndarray]
    minimum_frequency: float


def dielectric_tensor(value: Any) -> np.ndarray:
    """One number, a diagonal or a tensor as (3, 3).

    Raises:
        ConfigError: for something else, or a tensor that does not screen.
    """
    array = np.asarray(value, dtype=float)
    full = {(): array * np.eye(3), (3,): np.diag(np.resize(array, 3)), (3, 3): array}.get(
        array.shape
    )
    if full is None or not np.isfinite(full).all() or np.linalg.eigvalsh(full).min() < 1.0:
        raise ConfigError(
            "`dielectric` must be one number, three or 3x3, symmetric, with values from 1, got "
            f"{value!r}"
        )
    return full


def phonons(
    model: Model,
    atoms: ase.Atoms,
    options: PhononOptions | None = None,
    *,
    folder: WorkFolder | None = None,
) -> PhononResult:
    """Phonons of a crystal by finite displacements.

    Args:
        model: The model.
        atoms: The crystal.
        options: How.
        folder: Where minimum and forces are kept.

    Raises:
        MissingDependencyError: without phonopy.
        ConfigError: if there is no dielectric constant for the field of longitudinal modes.
        UnsupportedInputError: for a charged crystal or one in an external field.
    """
    phonopy = require("phonopy", "phonopy")
    options = options or PhononOptions()
    check_crystal(atoms)
    state = to_structure(atoms)
    if state.total_charge or state.external_field is not None:
        raise UnsupportedInputError(
            "phonons need a neutral crystal without an external field: its supercells would have "
            "other charges than the cell that was given"
        )

    needs_charges = options.nac and options.born_file is None
    if needs_charges and options.dielectric is None:
        _check_polarizable(model)

    crystal = kept_minimum(model, atoms, options.start, fmax=options.fmax, folder=folder)
    phonon = _displaced(phonopy, crystal, options)
    phonon.forces = _forces(model, phonon, folder)
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    gamma = phonon.run_qpoints([[0.0, 0.0, 0.0]]).frequencies[0].copy()
    longitudinal = None
    if options.nac:
        if options.born_file is not None:
            phonon.nac_params = phonopy.file_IO.parse_BORN(
                phonon.primitive, filename=str(options.born_file)
            )
        else:
            arrays = staged(
                folder, "response", lambda: _response(model, phonon, options.dielectric)
            )
            phonon.nac_params = {
                "born": arrays["born"], "dielectric": arrays["dielectric"],
                "factor": COULOMB_CONSTANT,
            }  # fmt: skip
        along = phonon.run_qpoints([[0.0, 0.0, 0.0]], nac_q_direction=[1.0, 0.0, 0.0])
        longitudinal = along.frequencies[0].copy()
    return _collected(phonon, crystal, options, gamma, longitudinal)


def _check_polarizable(model: Model) -> None:
    if "polarizability" not in model.potential.available_properties():
        raise ConfigError(
            "`dielectric` must be given: the field of longitudinal modes needs the electronic "
            "dielectric constant, and this model has no polarizability; give `--dielectric EPS`, "
            "or leave the field out (`--no-nac`)"
        )


def _displaced(phonopy: Any, crystal: ase.Atoms, options: PhononOptions) -> Any:
    """Displacements of phonopy in a supercell."""
    atoms_module = require("phonopy.structure.atoms", "phonopy")
    repeats = options.supercell
    if repeats is None:
        lengths = crystal.cell.lengths()
        a, b, c = np.ceil(_SUPERCELL_LENGTH / lengths - 1e-6).astype(int).tolist()
        repeats = (a, b, c)
    cell = atoms_module.PhonopyAtoms(
        symbols=crystal.get_chemical_symbols(),
        cell=crystal.cell.array,
        scaled_positions=crystal.get_scaled_positions(),
        masses=crystal.get_masses(),
    )
    with warnings.catch_warnings():
        # phonopy 4 says that it does what it is asked for here
        warnings.filterwarnings("ignore", message="primitive_matrix defaulted")
        phonon = phonopy.Phonopy(cell, np.diag(repeats), primitive_matrix="auto")
    phonon.generate_displacements(distance=options.displacement)
    return phonon


def _forces(model: Model, phonon: Any, folder: WorkFolder | None) -> np.ndarray:
    """Forces on the displaced supercells, chunk by chunk, (n_displacements, n_atoms, 3)."""
    cells = [
        ase.Atoms(s.symbols, scaled_positions=s.scaled_positions, cell=s.cell, pbc=True)
        for s in phonon.supercells_with_displacements
    ]
    size = max(_CHUNK_ATOMS // len(cells[0]), 1)
    found = []
    for start in range(0, len(cells), size):
        chunk = cells[start : start + size]
        name = f"forces_{start:05d}"
        found.append(_of_chunk(model, chunk) if folder is None else folder.stage(
            name, lambda chunk=chunk: {"forces": _of_chunk(model, chunk)})["forces"])  # fmt: skip
    return np.concatenate(found)


def _of_chunk(model: Model, cells: Sequence[ase.Atoms]) -> np.ndarray:
    return np.array(model.predict(list(cells), "forces", progress=False).forces)


def _response(model: Model, phonon: Any, dielectric: Any) -> dict[str, np.ndarray]:
    """Born charges and dielectric tensor of the primitive cell, with its symmetry."""
    symmetry = require("phonopy.structure.symmetry", "phonopy")
    p = phonon.primitive
    cell = ase.Atoms(p.symbols, scaled_positions=p.scaled_positions, cell=p.cell, pbc=True)
    long_range = model.config.long_range
    moments = None if long_range is None else long_range.multipoles
    induces = moments is not None and moments.induced != "none"
    needs_own = dielectric is None or induces
    names = ["born_effective_charges", *(["polarizability"] if needs_own else [])]
    row = model.predict(cell, names)
    own = None
    if needs_own:
        # eps = 1 + P / (eps0 E): alpha in e A^2/V
        alpha = np.asarray(row.polarizability)
        own = np.eye(3) + 4.0 * np.pi * COULOMB_CONSTANT * alpha / cell.get_volume()
    tensor = own if dielectric is None else dielectric_tensor(dielectric)
    assert tensor is not None  # noqa: S101 - checked before anything was computed
    born, tensor = symmetry.symmetrize_borns_and_epsilon(
        screening(tensor, own) ** 0.5 * np.asarray(row.born_effective_charges),
        tensor, p, symprec=1e-4,
    )  # fmt: skip
    return {"born": born, "dielectric": tensor}


def screening(dielectric: np.ndarray, own: np.ndarray | None = None) -> float:
    """What the product of two Born charges of a model has to be multiplied by to be that of nature.

    ``Z* = sqrt(eps_inf) Z_latent`` (arXiv 2504.05169): latent charges interact as in vacuum, which
    stands for ``1 / eps_inf``. Of a model with induced dipoles these do their part of it. In a
    cubic crystal the splitting is then ``4 pi ke Z_latent^2 / V`` whatever ``dielectric`` is.

    Args:
        dielectric: (3, 3) electronic dielectric tensor of the crystal.
        own: (3, 3) that of the model; None if its dipoles do not respond.

    Returns:
        Ratio of the means of the diagonals.
    """
    return float(np.trace(dielectric) / (3.0 if own is None else np.trace(own)))


def _collected(
    phonon: Any,
    crystal: ase.Atoms,
    options: PhononOptions,
    gamma: np.ndarray,
    longitudinal: np.ndarray | None,
) -> PhononResult:
    """Bands, density of states and thermal properties of phonopy as arrays."""
    path, points, segments = _band_path(np.asarray(phonon.primitive.cell))
    phonon.run_band_structure(points)
    bands = phonon.band_structure
    phonon.run_mesh(options.mesh)
    phonon.run_total_dos()
    dos = phonon.total_dos
    minimum_frequency = float(phonon.mesh.frequencies.min())
    phonon.run_thermal_properties(
        temperatures=list(options.temperatures), exclude_gamma_acoustic=True
    )
    thermal = phonon.thermal_properties
    nac = phonon.nac_params
    a, b, c = np.diag(phonon.supercell_matrix).tolist()
    return PhononResult(
        phonon=phonon,
        atoms=crystal,
        supercell=(a, b, c),
        n_displacements=len(phonon.supercells_with_displacements),
        gamma=gamma,
        longitudinal=longitudinal,
        born=None if nac is None else np.asarray(nac["born"]),
        dielectric=None if nac is None else np.asarray(nac["dielectric"]),
        path=path,
        distances=[np.asarray(d) for d in bands.distances],
        bands=[np.asarray(f) for f in bands.frequencies],
        segments=segments,
        dos=np.column_stack([dos.frequency_points, dos.dos]),
        thermal={name: np.array(getattr(thermal, name)) for name in
                 ("temperatures", "free_energy", "entropy", "heat_capacity")},
        minimum_frequency=minimum_frequency,
    )  # fmt: skip


def _band_path(cell: np.ndarray) -> tuple[str, list[np.ndarray], list[tuple[str, str]]]:
    """ASE's path through the zone (Setyawan, Curtarolo 2010) in segments of special points."""
    from ase.cell import Cell
    from ase.dft.kpoints import parse_path_string

    found = Cell(cell).bandpath(npoints=0)
    points: list[np.ndarray] = []
    segments: list[tuple[str, str]] = []
    for piece in parse_path_string(found.path):
        for first, second in zip(piece, piece[1:], strict=False):
            ends = found.special_points[first], found.special_points[second]
            points.append(np.linspace(*ends, _PATH_POINTS))
            segments.append((first, second))
    return found.path, points, segments
