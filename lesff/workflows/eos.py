"""Equation of state: energies at volumes in one batch, fitted by ASE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import ase
import numpy as np
from ase.eos import EquationOfState

from lesff.errors import ConfigError, ConvergenceError
from lesff.model import Model
from lesff.reports.figures import new_figure
from lesff.units import EV_PER_A3_TO_GPA
from lesff.workflows.crystals import Start, kept_minimum
from lesff.workflows.folder import WorkFolder, staged
from lesff.workflows.relax import RelaxOptions, relax

Form = Literal["birchmurnaghan", "murnaghan", "vinet", "sj"]
Inner = Literal["none", "atoms", "shape"]


@dataclass(frozen=True, kw_only=True)
class EosOptions:
    """How the equation of state is computed.

    Attributes:
        start: What is relaxed first, see :func:`lesff.workflows.crystals.minimum`.
        fmax: Largest force of a minimum, eV/A.
        strain: Largest change of the lattice constants, relative.
        points: Volumes.
        inner: What is relaxed at each volume: ``"none"``, ``"atoms"``, or ``"shape"`` of the cell
            with the atoms.
        form: Equation, a name of :class:`ase.eos.EquationOfState`.

    Raises:
        ConfigError: for a bad value.
    """

    start: Start = "cell"
    fmax: float = 1e-3
    strain: float = 0.02
    points: int = 9
    inner: Inner = "atoms"
    form: Form = "birchmurnaghan"

    def __post_init__(self) -> None:
        """Check the values."""
        for name, kind in (("start", Start), ("inner", Inner), ("form", Form)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ConfigError(f"`{name}` must be of {known}, got {getattr(self, name)!r}")
        if not 0.0 < self.strain < 0.3:
            raise ConfigError(f"`strain` must be above 0 and below 0.3, got {self.strain!r}")
        if self.points < 5:
            raise ConfigError(f"`points` must be at least 5, got {self.points!r}")
        if not (np.isfinite(self.fmax) and self.fmax > 0.0):
            raise ConfigError(f"`fmax` must be positive, got {self.fmax!r}")


@dataclass(frozen=True, kw_only=True)
class EosResult:
    """An equation of state.

    Attributes:
        atoms: The crystal that was strained.
        volumes: (n_points,) of the cell, A^3.
        energies: (n_points,) eV.
        volume: At the minimum of the fit, A^3.
        energy: There, eV.
        bulk_modulus: There, GPa.
        pressure_derivative: Of the bulk modulus, B'; NaN for ``"sj"``.
        residual: Root mean square of the fit, meV/atom.
        curve: (2, 100) volumes and energies of the fit.
    """

    atoms: ase.Atoms
    volumes: np.ndarray
    energies: np.ndarray
    volume: float
    energy: float
    bulk_modulus: float
    pressure_derivative: float
    residual: float
    curve: np.ndarray

    @property
    def scale(self) -> float:
        """Lattice constants at the minimum of the fit over those of ``atoms``."""
        return float((self.volume / self.atoms.get_volume()) ** (1.0 / 3.0))


def equation_of_state(
    model: Model,
    atoms: ase.Atoms,
    options: EosOptions | None = None,
    *,
    folder: WorkFolder | None = None,
) -> EosResult:
    """Energies of a crystal at several volumes and their fit.

    Args:
        model: The model.
        atoms: The crystal.
        options: How.
        folder: Where minimum and energies are kept.

    Raises:
        ConvergenceError: if a relaxation fails, or the volumes do not enclose a minimum.
    """
    options = options or EosOptions()

    crystal = kept_minimum(model, atoms, options.start, fmax=options.fmax, folder=folder)
    points = staged(folder, "energies", lambda: _energies(model, crystal, options))
    volumes, energies = points["volumes"], points["energies"]
    if np.argmin(energies) in (0, len(energies) - 1):
        raise ConvergenceError(
            f"the volumes must enclose the minimum, but from {volumes.min():.3f} to "
            f"{volumes.max():.3f} A^3 the energy is lowest at an end; start from `--relax cell`, "
            "or strain more"
        )
    fit = EquationOfState(volumes, energies, eos=options.form)
    volume, energy, modulus = fit.fit(warn=False)
    _, _, _, _, x, y, _, _ = fit.getplotdata()
    known = options.form != "sj"
    at_points = fit.func(volumes, *fit.eos_parameters) if known else fit.fit0(volumes ** -(1 / 3))
    return EosResult(
        atoms=crystal,
        volumes=volumes,
        energies=energies,
        volume=float(volume),
        energy=float(energy),
        bulk_modulus=float(modulus) * EV_PER_A3_TO_GPA,
        pressure_derivative=float(fit.eos_parameters[2]) if known else float("nan"),
        residual=1e3 * float(np.sqrt(np.mean((at_points - energies) ** 2))) / len(crystal),
        curve=np.array([x, y]),
    )


def _energies(model: Model, crystal: ase.Atoms, options: EosOptions) -> dict[str, np.ndarray]:
    strained = []
    for strain in np.linspace(-options.strain, options.strain, options.points):
        copy = crystal.copy()
        copy.set_cell(crystal.cell * (1.0 + strain), scale_atoms=True)
        strained.append(copy)
    volumes = np.array([copy.get_volume() for copy in strained])
    if options.inner == "none":
        energies = model.predict(strained, "energy", progress=False).energy
        return {"volumes": volumes, "energies": np.array(energies)}
    cell = "shape" if options.inner == "shape" else "fixed"
    how = RelaxOptions(method="lbfgs", cell=cell, fmax=options.fmax, steps=1000)
    rows = relax(model, strained, how).relaxed
    bad = next((row for row in rows if not row.converged), None)
    if bad is not None:
        raise ConvergenceError(
            f"atoms must relax at each volume, but at {volumes[bad.index]:.3f} A^3 "
            f"{bad.error or f'the largest force stays {bad.fmax:.2g} eV/A'}"
        )
    return {"volumes": volumes, "energies": np.array([row.energy for row in rows])}


def report_eos(folder: WorkFolder, result: EosResult, *, command_line: str | None = None) -> None:
    """Write ``eos.json``, ``.html`` and ``eos.png``.

    Args:
        folder: Where.
        result: The equation of state.
        command_line: For the page.
    """
    cell = result.atoms.cell.cellpar()
    cell[:3] *= result.scale
    n_atoms = len(result.atoms)
    figure = new_figure(5.5, 3.6)
    panel = figure.subplots()
    panel.plot(result.curve[0] / n_atoms, result.curve[1] / n_atoms, color="#1f6fb2", lw=1.1)
    panel.scatter(result.volumes / n_atoms, result.energies / n_atoms, s=16, color="#c0392b")
    panel.set(xlabel="volume (A³/atom)", ylabel="energy (eV/atom)")
    values = {
        "volume_a3": result.volume, "energy_ev": result.energy,
        "bulk_modulus_gpa": result.bulk_modulus, "pressure_derivative": result.pressure_derivative,
        "residual_mev_per_atom": result.residual, "cell_a_deg": cell.tolist(),
    }  # fmt: skip
    folder.finish(
        values | {"volumes_a3": result.volumes.tolist(), "energies_ev": result.energies.tolist()},
        title=f"Equation of state of {result.atoms.get_chemical_formula()}",
        summary=[
            f"model {folder.settings['model']}, {folder.settings['form']}",
            f"bulk modulus {result.bulk_modulus:.2f} GPa, B' {result.pressure_derivative:.2f}, "
            f"volume {result.volume:.4f} A³",
        ],
        tables={
            "Fit": (["", "value"], [[k, v] for k, v in values.items() if k != "cell_a_deg"]),
            "Cell at the minimum": (["a A", "b A", "c A", "alpha", "beta", "gamma"],
                                    [[float(x) for x in cell]]),
        },
        figures={"eos": figure},
        command_line=command_line,
    )  # fmt: skip
