"""Ionic conductors from the energy landscape of one ion in a frozen framework.

After Maevskiy et al., arXiv 2411.06804, whose abstract names the quantities; how they are computed
here is a reconstruction, see docs/workflows.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import ase
import numpy as np
from ase.data import atomic_numbers

from lesff.errors import ConfigError, DataError, LesffError
from lesff.model import Model
from lesff.quantities import INFO_CHARGE
from lesff.workflows.crystals import Start, check_crystal, minimum
from lesff.workflows.folder import WorkFolder
from lesff.workflows.ion_grid import Grid, cell_lengths, distances_to, make_grid
from lesff.workflows.landscape import Landscape, refined
from lesff.workflows.percolation import NEIGHBOURS, GridPath, percolation

Framework = Literal["emptied", "vacancy"]
_CHUNK = 256
"""Structures that are handed over together."""
_TIE = 2
"""Digits of eV within which two percolation energies count as equal in the ranking."""


@dataclass(frozen=True, kw_only=True)
class ConductorOptions:
    """How landscapes are computed.

    Attributes:
        mobile: Symbol of the ion.
        framework: ``"emptied"``: all mobile ions are taken away; ``"vacancy"``: only the one that
            moves.
        start: What is relaxed first, see :func:`lesff.workflows.crystals.minimum`.
        fmax: Largest force of the minimum, eV/A.
        step: Largest distance of neighbouring points of the first grid, A.
        r_min: Points nearer to an atom of the framework are closed, A.
        min_length: The framework is repeated until its lattice vectors have this length, A.
        refine: How often the step is halved around minimum and saddles.
        margin: How much interpolation between points may be too high for a way not to be
            overlooked by the refinement, eV.
        neighbours: Of each point: 6, 18 or 26.
        level: Above the minimum, eV: where the free volume is taken.
        dimension: In which the percolation energy ranks the structures: 1, 2 or 3.

    Raises:
        ConfigError: for a bad value.
    """

    mobile: str = "Li"
    framework: Framework = "emptied"
    start: Start = "cell"
    fmax: float = 0.02
    step: float = 0.4
    r_min: float = 1.0
    min_length: float = 8.0
    refine: int = 1
    margin: float = 0.3
    neighbours: int = 26
    level: float = 0.5
    dimension: int = 1

    def __post_init__(self) -> None:
        """Check the values."""
        if self.mobile not in atomic_numbers or self.mobile == "X":
            raise ConfigError(f"`mobile` must be the symbol of an element, got {self.mobile!r}")
        for name, kind in (("framework", Framework), ("start", Start)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ConfigError(f"`{name}` must be of {known}, got {getattr(self, name)!r}")
        for name in ("fmax", "step", "level"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0.0):
                raise ConfigError(f"`{name}` must be positive, got {value!r}")
        for name in ("r_min", "min_length", "margin", "refine"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0.0):
                raise ConfigError(f"`{name}` must be at least 0, got {value!r}")
        if self.neighbours not in NEIGHBOURS:
            raise ConfigError(f"`neighbours` must be 6, 18 or 26, got {self.neighbours!r}")
        if self.dimension not in (1, 2, 3):
            raise ConfigError(f"`dimension` must be 1, 2 or 3, got {self.dimension!r}")


@dataclass(frozen=True, kw_only=True)
class Conductor:
    """The landscape of one structure and what it says.

    Attributes:
        name: Of the structure.
        atoms: The crystal whose cell was scanned, mobile ions included.
        framework: The atoms that the ion moved among, in the same cell.
        grid: Points.
        energies: (n_a, n_b, n_c) eV above the minimum; infinite where closed. Of a refined grid,
            interpolated where no more was needed.
        barriers: (3,) percolation energies in 1, 2, 3 dimensions, eV; infinite where there is none.
        coarse: (n_levels, 3) those of each grid, the last one's are ``barriers``.
        paths: Ways that percolate in as many dimensions as there are.
        free_volume: A^3 for each mobile ion, where the energy is below ``level``.
        free_fraction: Of the cell.
        closest: Distance of the lowest point to the framework, A.
        next_to_closed: Whether a neighbour of the lowest point is closed: the minimum then is a
            hole of the model, or ``r_min`` is too large.
        relative_volume: After the relaxation over before; far from 1 the model is not to be
            trusted.
        n_computed: Energies that were computed.
    """

    name: str
    atoms: ase.Atoms
    framework: ase.Atoms
    grid: Grid
    energies: np.ndarray
    barriers: np.ndarray
    coarse: np.ndarray
    paths: tuple[GridPath, ...]
    free_volume: float
    free_fraction: float
    closest: float
    next_to_closed: bool
    relative_volume: float
    n_computed: int

    def volume_below(self, levels: np.ndarray) -> np.ndarray:
        """Fraction of the cell whose energy is at most each of the levels (n,) in eV."""
        return np.searchsorted(np.sort(self.energies.ravel()), levels, "right") / self.grid.size


@dataclass(frozen=True, kw_only=True)
class Screening:
    """Structures in the order of their percolation energies.

    Attributes:
        ranking: Best first: lowest percolation energy, of equal ones (to 0.01 eV) the largest free
            volume.
        errors: Why others were not computed, by name.
    """

    ranking: tuple[Conductor, ...]
    errors: dict[str, str]


def screen_conductors(
    model: Model,
    structures: Sequence[tuple[str, ase.Atoms]],
    options: ConductorOptions | None = None,
    *,
    folder: WorkFolder | None = None,
    executor: str | None = None,
    on_done: Callable[[str, Conductor | str], None] | None = None,
) -> Screening:
    """Rank crystals by how easily one ion percolates through them.

    Args:
        model: The model.
        structures: Names and crystals.
        options: How.
        folder: Where minima and landscapes are kept.
        executor: Where the energies of the first grids are computed, see
            :meth:`lesff.Model.map`; in this process if not given.
        on_done: Called with each name and its result, or why there is none.
    """
    options = options or ConductorOptions()
    found: list[Conductor] = []
    errors: dict[str, str] = {}
    for index, (name, atoms) in enumerate(structures):
        try:
            row = conductor(
                model, atoms, options, name=name, folder=folder, stem=f"{index:04d}",
                executor=executor,
            )  # fmt: skip
        except LesffError as error:
            errors[name] = str(error)
            if on_done is not None:
                on_done(name, str(error))
            continue
        found.append(row)
        if on_done is not None:
            on_done(name, row)
    return Screening(ranking=tuple(ranked(found, options.dimension)), errors=errors)


def ranked(found: Sequence[Conductor], dimension: int) -> list[Conductor]:
    """Best first; see :class:`Screening`."""
    return sorted(
        found, key=lambda row: (round(float(row.barriers[dimension - 1]), _TIE), -row.free_volume)
    )


def conductor(
    model: Model,
    atoms: ase.Atoms,
    options: ConductorOptions | None = None,
    *,
    name: str = "crystal",
    folder: WorkFolder | None = None,
    stem: str = "0000",
    executor: str | None = None,
) -> Conductor:
    """The landscape of one ion in a crystal.

    Args:
        model: The model.
        atoms: The crystal; its total charge is kept, whatever is taken away.
        options: How.
        name: Of the structure.
        folder: Where minimum and landscape are kept.
        stem: Of the names of their files.
        executor: See :func:`screen_conductors`.

    Raises:
        DataError: if the crystal has no such ion, nothing else, or no open point.
        ConvergenceError: if it cannot be relaxed.
    """
    options = options or ConductorOptions()
    check_crystal(atoms)
    mobile = np.array([s == options.mobile for s in atoms.symbols])
    if not mobile.any() or mobile.all():
        what = "none" if not mobile.any() else "nothing else"
        raise DataError(f"the crystal must have {options.mobile} and a framework, got {what}")

    def kept(what: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return compute() if folder is None else folder.stage(f"{what}-{stem}", compute)

    def relaxed() -> dict[str, np.ndarray]:
        start = minimum(model, atoms, options.start, fmax=options.fmax)
        return {"positions": start.positions, "cell": start.cell.array}

    start = kept("minimum", relaxed)
    crystal = atoms.copy()
    crystal.set_constraint()
    crystal.set_cell(start["cell"])
    crystal.positions = start["positions"]
    scanned, framework, host, sites = _emptied(crystal, options)
    grid = make_grid(framework, sites, options.step)

    def computed() -> dict[str, np.ndarray]:
        def energy(at: Grid, points: np.ndarray, where: str | None = None) -> np.ndarray:
            return _ion_energies(model, host, at.positions(points), options, where)

        land = Landscape.computed(grid, lambda at, points: energy(at, points, executor))
        levels = [percolation(land.energies, neighbours=options.neighbours).energies]
        levels[0] = levels[0] - land.energies.min()
        for _ in range(int(options.refine)):
            land = refined(land, energy, margin=options.margin, neighbours=options.neighbours)
            found = percolation(land.energies, neighbours=options.neighbours).energies
            levels.append(found - land.energies.min())
        return {
            "energies": land.energies, "coarse": np.array(levels),
            "n_computed": np.array(land.n_computed),
        }  # fmt: skip

    land = kept("landscape", computed)
    for _ in range(int(options.refine)):
        grid = grid.finer()
    relative = crystal.get_volume() / atoms.get_volume()
    return _described(name, scanned, framework, grid, land, options, relative)


def _emptied(
    crystal: ase.Atoms, options: ConductorOptions
) -> tuple[ase.Atoms, ase.Atoms, ase.Atoms, np.ndarray]:
    """What is scanned, the framework in the same cell, the one that is computed, sites."""
    lengths = cell_lengths(np.array(crystal.cell))
    times = np.maximum(1, np.ceil(options.min_length / lengths - 1e-6)).astype(int)
    if options.framework == "vacancy":
        crystal = crystal.repeat(times)  # the vacancy has its own cell
        times = np.ones(3, int)
    mobile = np.flatnonzero([s == options.mobile for s in crystal.symbols])
    removed = mobile if options.framework == "emptied" else mobile[:1]
    framework = ase.Atoms(
        np.delete(crystal.numbers, removed), np.delete(crystal.positions, removed, axis=0),
        cell=crystal.cell, pbc=True,
    )  # fmt: skip
    charge = crystal.info.get(INFO_CHARGE[0], 0)
    host = framework.repeat(times)
    host.info[INFO_CHARGE[0]] = charge
    return crystal, framework, host, crystal.get_scaled_positions()[removed]


def _ion_energies(
    model: Model,
    host: ase.Atoms,
    positions: np.ndarray,
    options: ConductorOptions,
    executor: str | None,
) -> np.ndarray:
    """Energies with the ion at each position (n, 3), infinite where closed, (n,) in eV."""
    energies = np.full(len(positions), np.inf)
    is_open = np.flatnonzero(distances_to(host, positions) >= options.r_min)

    def structures():
        for index in is_open:
            yield host + ase.Atoms(options.mobile, positions[index : index + 1])

    rows = model.map(
        structures(), "energy", executor=executor, chunk=_CHUNK, on_error="skip", allow_close=True
    )
    for index, row in zip(is_open, rows, strict=True):
        if row is not None:
            energies[index] = float(row.energy)
    return energies


def _described(
    name: str,
    crystal: ase.Atoms,
    framework: ase.Atoms,
    grid: Grid,
    land: dict[str, np.ndarray],
    options: ConductorOptions,
    relative_volume: float,
) -> Conductor:
    energies = land["energies"] - land["energies"].min()
    found = percolation(energies, neighbours=options.neighbours)
    lowest = int(energies.argmin())
    around = np.unravel_index(lowest, grid.shape)
    near = np.ix_(*[(a + np.arange(-1, 2)) % n for a, n in zip(around, grid.shape, strict=True)])
    fraction = float((energies <= options.level).mean())
    n_mobile = sum(s == options.mobile for s in crystal.symbols)
    return Conductor(
        name=name,
        atoms=crystal,
        framework=framework,
        grid=grid,
        energies=energies,
        barriers=found.energies,
        coarse=land["coarse"],
        paths=found.paths,
        free_volume=fraction * crystal.get_volume() / n_mobile,
        free_fraction=fraction,
        closest=float(distances_to(framework, grid.positions(np.array([lowest])))[0]),
        next_to_closed=bool(np.isinf(energies[near]).any()),
        relative_volume=float(relative_volume),
        n_computed=int(land["n_computed"]),
    )
