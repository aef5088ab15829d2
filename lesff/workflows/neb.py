"""Minimum energy paths by the nudged elastic band of ASE, all images in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast, get_args

import ase
import numpy as np
from ase.build.rotate import minimize_rotation_and_translation
from ase.calculators.singlepoint import SinglePointCalculator
from ase.mep import NEB
from ase.utils.forcecurve import fit_images

from lesff.atoms.structure import to_structure
from lesff.errors import ConfigError, ConvergenceError, DataError
from lesff.model import Model
from lesff.reports.figures import new_figure
from lesff.train.shards import write_npz
from lesff.workflows.batch import Batch, SharedCalculator
from lesff.workflows.folder import WorkFolder, staged
from lesff.workflows.relax import OPTIMIZERS, RelaxOptions, relax

Interpolation = Literal["idpp", "linear"]
Tangent = Literal["improvedtangent", "aseneb", "eb"]
_SAME = 1e-2
"""Ends whose atoms all lie nearer than this, in A, are one."""
_CHECKPOINT = 10
"""Steps between checkpoints."""


@dataclass(frozen=True, kw_only=True)
class NebOptions:
    """How a path is found.

    Attributes:
        images: Between the ends, where only these are given.
        interpolation: Of the first path: ``"idpp"`` (Smidstrup et al., J. Chem. Phys. 140, 214106
            (2014)) or ``"linear"``.
        spring: eV/A^2.
        method: Tangents, a name of :class:`ase.mep.NEB`.
        climb: Whether the highest image climbs to the saddle point, once the band is near.
        climb_below: Largest force at which it begins, eV/A.
        optimizer: ``"fire"``, ``"lbfgs"`` or ``"bfgs"``.
        fmax: Largest force of the band at the end, eV/A.
        steps: Most steps.
        relaxes_ends: Whether the ends are relaxed first, to the same force.

    Raises:
        ConfigError: for a bad value.
    """

    images: int = 5
    interpolation: Interpolation = "idpp"
    spring: float = 0.1
    method: Tangent = "improvedtangent"
    climb: bool = True
    climb_below: float = 0.3
    optimizer: str = "fire"
    fmax: float = 0.05
    steps: int = 500
    relaxes_ends: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        for name, kind in (("interpolation", Interpolation), ("method", Tangent)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ConfigError(f"`{name}` must be of {known}, got {getattr(self, name)!r}")
        if self.optimizer not in OPTIMIZERS:
            known = ", ".join(OPTIMIZERS)
            raise ConfigError(f"`optimizer` must be of {known}, got {self.optimizer!r}")
        for name in ("spring", "fmax", "climb_below"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0.0):
                raise ConfigError(f"`{name}` must be positive, got {value!r}")
        if self.images < 1 or self.steps < 1:
            raise ConfigError(
                f"`images` and `steps` must be at least 1, got {self.images}, {self.steps}"
            )


@dataclass(frozen=True, kw_only=True)
class NebResult:
    """A path.

    Attributes:
        images: The ends and what is between, energy and forces attached.
        energies: (n_images,) eV.
        distances: (n_images,) along the path, A.
        barrier: From the first end to the highest image, eV.
        reverse_barrier: From the last end, eV.
        reaction_energy: From the first end to the last, eV.
        saddle: Index of the highest image.
        converged: Whether the forces of the band are small enough.
        fmax: Largest of them, eV/A.
        steps: Steps taken.
        n_calls: Batched calls of the model, since the last start.
    """

    images: list[ase.Atoms]
    energies: np.ndarray
    distances: np.ndarray
    barrier: float
    reverse_barrier: float
    reaction_energy: float
    saddle: int
    converged: bool
    fmax: float
    steps: int
    n_calls: int


def nudged_elastic_band(
    model: Model,
    path: Sequence[ase.Atoms],
    options: NebOptions | None = None,
    *,
    folder: WorkFolder | None = None,
) -> NebResult:
    """The minimum energy path between two structures.

    The band and its optimiser are ASE's, unchanged; what all images need is computed in one call.
    The last end of molecules is turned onto the first beforehand.

    Args:
        model: The model.
        path: The two ends, or all images of a first path; atoms in the same order, the same cell.
            Constraints of the first hold for all.
        options: How.
        folder: Where ends and band are kept.

    Raises:
        DataError: for structures that are not of the same atoms.
        ConvergenceError: if an end has no minimum, or two ends are one.
    """
    options = options or NebOptions()
    _check_path(path)

    start = staged(folder, "start", lambda: {"positions": _first_path(model, path, options)})[
        "positions"
    ]
    images = [_image(path[0], positions) for positions in start]
    batch = Batch(model.evaluator())
    for index, image in enumerate(images):
        batch.put(index, image, f"image {index}")
    band = _Band(images, batch, options, folder)
    converged = band.run()
    energies = np.array([image.get_potential_energy() for image in images])
    # as ASE counts: over all atoms, to the nearest periodic image
    distances = np.asarray(fit_images(images).path)
    saddle = int(np.argmax(energies))
    for image in images:
        results = dict(cast(SharedCalculator, image.calc).results)
        image.calc = SinglePointCalculator(image, **results)
    return NebResult(
        images=images,
        energies=energies,
        distances=distances,
        barrier=float(energies[saddle] - energies[0]),
        reverse_barrier=float(energies[saddle] - energies[-1]),
        reaction_energy=float(energies[-1] - energies[0]),
        saddle=saddle,
        converged=converged,
        fmax=band.fmax,
        steps=band.steps,
        n_calls=batch.n_calls,
    )


def _check_path(path: Sequence[ase.Atoms]) -> None:
    if len(path) < 2:
        raise DataError(f"a path must have two ends at least, got {len(path)} structures")
    first = path[0]
    for index, atoms in enumerate(path):
        same = np.array_equal(atoms.numbers, first.numbers)
        if not (same and np.array_equal(atoms.pbc, first.pbc)):
            raise DataError(
                f"structure {index} must have the atoms, in order, and pbc of the first"
            )
        if atoms.pbc.any() and not np.allclose(atoms.cell, first.cell, atol=1e-8):
            raise DataError(f"structure {index} must have the cell of the first")
        state, of_first = (
            (s.total_charge, s.spin_multiplicity)
            for s in (to_structure(atoms), to_structure(first))
        )
        if state != of_first:
            raise DataError(
                f"structure {index} must have total charge and 2S+1 of the first, {of_first}, got "
                f"{state}: a path stays on one energy surface"
            )


def _image(first: ase.Atoms, positions: np.ndarray) -> ase.Atoms:
    """The atoms, charge, spin and constraints of the first end, elsewhere."""
    image = first.copy()
    image.set_positions(positions, apply_constraint=False)
    return image


def _first_path(model: Model, path: Sequence[ase.Atoms], options: NebOptions) -> np.ndarray:
    """Positions of the images of the first path, (n_images, n_atoms, 3)."""
    images = [_image(path[0], atoms.positions) for atoms in path]
    if options.relaxes_ends:
        how = RelaxOptions(method="lbfgs", fmax=options.fmax, steps=1000)
        rows = relax(model, [images[0], images[-1]], how).relaxed
        for name, row in zip(("first", "last"), rows, strict=True):
            if not row.converged:
                why = row.error or f"the largest force stays {row.fmax:.2g} eV/A"
                raise ConvergenceError(f"the {name} end must have a minimum, but {why}")
        images[0].positions, images[-1].positions = (row.atoms.positions for row in rows)
    periodic = bool(images[0].pbc.any())
    if not periodic and not images[0].constraints:
        for before, image in pairwise(images):
            minimize_rotation_and_translation(before, image)
    if np.abs(images[-1].positions - images[0].positions).max() < _SAME:
        raise ConvergenceError(
            "the two ends must be two minima, but they are one: start nearer to each of them"
        )
    if len(images) == 2:
        ends = images
        images = [_image(ends[0], ends[0].positions) for _ in range(options.images + 1)]
        images.append(ends[1])
        NEB(images, method=options.method).interpolate(options.interpolation, mic=periodic)
    return np.array([image.positions for image in images])


class _Band:
    """ASE's band and optimiser, advanced step by step.

    Args:
        images: The images, with the calculators of the batch.
        batch: What computes them.
        options: How.
        folder: Where checkpoints are.
    """

    def __init__(
        self, images: list[ase.Atoms], batch: Batch, options: NebOptions, folder: WorkFolder | None
    ) -> None:
        self._images, self._batch, self._options = images, batch, options
        self._path = None if folder is None else folder.path / "band.npz"
        self.steps = 0
        self.fmax = float("nan")
        self._climbs = False
        if self._path is not None and self._path.is_file():
            with np.load(self._path) as stored:
                for image, positions in zip(images, stored["positions"], strict=True):
                    image.set_positions(positions, apply_constraint=False)
                self.steps, self._climbs = int(stored["steps"]), bool(stored["climbs"])

    def run(self) -> bool:
        """Run to the end; whether it is a path of small forces."""
        try:
            converged = False
            if not self._climbs:
                limit = self._options.fmax
                first = max(limit, self._options.climb_below) if self._options.climb else limit
                converged = self._phase(first)
                self._climbs = self._options.climb and converged
            if self._climbs:
                converged = self._phase(self._options.fmax)
        finally:
            self._keep()
        return converged

    def _phase(self, fmax: float) -> bool:
        """Steps of an optimiser of its own until the largest force is below ``fmax``."""
        band: Any = NEB(
            self._images, k=self._options.spring, climb=self._climbs, method=self._options.method
        )
        optimizer: Any = OPTIMIZERS[self._options.optimizer](band, logfile=None)
        optimizer.fmax = fmax
        while True:
            failed = self._batch.compute()
            if failed:
                raise next(iter(failed.values()))
            gradient = optimizer.optimizable.get_gradient()
            self.fmax = float(optimizer.optimizable.gradient_norm(gradient))
            if optimizer.gradient_converged(gradient):
                return True
            if self.steps >= self._options.steps:
                return False
            optimizer.step()
            optimizer.nsteps += 1
            self.steps += 1
            if self.steps % _CHECKPOINT == 0:
                self._keep()

    def _keep(self) -> None:
        if self._path is not None:
            write_npz(self._path, {
                "positions": np.array([image.positions for image in self._images]),
                "steps": np.array(self.steps), "climbs": np.array(self._climbs),
            })  # fmt: skip


def report_neb(folder: WorkFolder, result: NebResult, *, command_line: str | None = None) -> None:
    """Write ``neb.json``, ``.html``, ``neb.png``, ``path.extxyz`` and ``saddle.extxyz``.

    Args:
        folder: Where.
        result: The path.
        command_line: For the page.
    """
    folder.write_atoms("path.extxyz", result.images)
    folder.write_atoms("saddle.extxyz", result.images[result.saddle])
    figure = new_figure(5.5, 3.6)
    panel = figure.subplots()
    fit = fit_images(result.images)
    zero = result.energies - result.energies[0]
    panel.plot(fit.fit_path, fit.fit_energies, color="#1f6fb2", lw=1.1)
    panel.scatter(fit.path, zero, s=18, color="#c0392b", zorder=3)
    panel.set(xlabel="along the path (A)", ylabel="energy (eV)")
    word = "converged" if result.converged else "not converged"
    rows = [
        [i, float(s), float(e), "saddle" if i == result.saddle else ""]
        for i, (s, e) in enumerate(zip(result.distances, zero, strict=True))
    ]
    folder.finish(
        {
            "barrier_ev": result.barrier, "reverse_barrier_ev": result.reverse_barrier,
            "reaction_energy_ev": result.reaction_energy, "saddle": result.saddle,
            "converged": result.converged, "fmax_ev_per_a": result.fmax, "steps": result.steps,
            "n_calls": result.n_calls, "energies_ev": result.energies.tolist(),
            "distances_a": result.distances.tolist(),
        },
        title=f"Minimum energy path of {result.images[0].get_chemical_formula()}",
        summary=[
            f"model {folder.settings['model']}: {word} after {result.steps} steps, largest force "
            f"{result.fmax:.3f} eV/A",
            f"barrier {result.barrier:.4f} eV, back {result.reverse_barrier:.4f} eV, reaction "
            f"energy {result.reaction_energy:.4f} eV",
        ],
        tables={"Images": (["image", "along the path A", "energy eV", ""], rows)},
        figures={"neb": figure},
        command_line=command_line,
    )  # fmt: skip
