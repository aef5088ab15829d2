"""Molecular dynamics with the integrators of ASE: blocks, each with a checkpoint at its end.

A run is cut into blocks of ``checkpoint`` steps. At the end of a block one file is written with
its frames and all numbers that the integrator, the atoms and the random generator hold; lists of
neighbours, recorded steps and forces are then found anew, as they are after a restart. So a run
that was stopped and continued gives the same bytes as one that was not, on the same machine with
the same number of threads; a run with another ``checkpoint`` differs by rounding.

Steps of small systems are recorded and repeated, see :mod:`lesff.potential.replay`. These depend by
rounding on the steps before, so that such a run goes on from the last step that is a multiple of
``checkpoint``, and computes what came after it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import ase
import numpy as np
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixCom
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from lesff.calculator import LesffCalculator
from lesff.errors import ConfigError, OutOfDomainError
from lesff.model import Model
from lesff.potential.domain import OutOfDomain
from lesff.train.shards import write_npz
from lesff.units import EV_PER_A3_TO_GPA

Ensemble = Literal["nve", "nvt", "npt"]
Thermostat = Literal["langevin", "bussi"]
CellMotion = Literal["isotropic", "full"]
_ONLY_OF: dict[str, Ensemble] = {
    "thermostat": "nvt", "pressure": "npt", "cell": "npt", "tau_pressure": "npt",
}  # fmt: skip
"""Options that other ensembles would ignore."""


@dataclass(frozen=True, kw_only=True)
class DynamicsOptions:
    """How atoms move.

    Attributes:
        ensemble: ``"nve"`` (velocity Verlet), ``"nvt"``, ``"npt"`` (Martyna-Tobias-Klein).
        thermostat: Of ``"nvt"``: ``"langevin"`` or ``"bussi"`` (stochastic velocity rescaling).
        temperature: K; also of the velocities at the start, if the atoms have none.
        pressure: GPa, of ``"npt"``.
        dt: Time step, fs.
        steps: Steps in all, a multiple of ``every``.
        every: Steps between frames.
        checkpoint: Steps between checkpoints, a multiple of ``every``.
        tau: Time constant of the thermostat, fs; the friction of ``"langevin"`` is its inverse.
        tau_pressure: Time constant of the barostat, fs.
        cell: Of ``"npt"``: ``"isotropic"`` or ``"full"``.
        seed: Of velocities and noise.
        on_out_of_domain: ``"warn"``, ``"stop"`` (calibrated models) or ``"ignore"``.

    Raises:
        ConfigError: for a bad value.
    """

    ensemble: Ensemble = "nvt"
    thermostat: Thermostat = "bussi"
    temperature: float = 300.0
    pressure: float = 0.0
    dt: float = 0.5
    steps: int = 1000
    every: int = 10
    checkpoint: int = 1000
    tau: float = 100.0
    tau_pressure: float = 1000.0
    cell: CellMotion = "isotropic"
    seed: int = 0
    on_out_of_domain: OutOfDomain = "warn"

    def __post_init__(self) -> None:
        """Check the values."""
        choices = {"ensemble": Ensemble, "thermostat": Thermostat, "cell": CellMotion}
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ConfigError(f"`{name}` must be of {known}, got {getattr(self, name)!r}")
        for name in ("dt", "tau", "tau_pressure", "temperature"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0.0):
                raise ConfigError(f"`{name}` must be positive, got {value!r}")
        for name in ("steps", "every", "checkpoint"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {getattr(self, name)!r}")
        for name in ("steps", "checkpoint"):  # else frames are not equally far apart
            if getattr(self, name) % self.every:
                raise ConfigError(
                    f"`{name}` must be a multiple of `every` ({self.every}), got "
                    f"{getattr(self, name)}"
                )
        if not np.isfinite(self.pressure):
            raise ConfigError(f"`pressure` must be a number of GPa, got {self.pressure!r}")
        self._check_used()

    def _check_used(self) -> None:
        """Refuse what the ensemble would ignore."""
        defaults = {field.name: field.default for field in fields(self)}
        for name, ensemble in _ONLY_OF.items():
            if self.ensemble != ensemble and getattr(self, name) != defaults[name]:
                raise ConfigError(
                    f"`{name}` must be left out unless `ensemble` is {ensemble!r}, got "
                    f"{self.ensemble!r}"
                )


@dataclass(frozen=True, kw_only=True)
class DynamicsResult:
    """A run, frame by frame.

    Attributes:
        time: (n_frames,) in fs.
        potential: (n_frames,) potential energy, eV.
        kinetic: (n_frames,) kinetic energy, eV.
        conserved: (n_frames,) what the equations of motion conserve, eV; NaN for Langevin.
        temperature: (n_frames,) K.
        pressure: (n_frames,) GPa, with the kinetic part; NaN where not periodic in 3D.
        volume: (n_frames,) A^3; NaN likewise.
        positions: (n_frames, n_atoms, 3) in A, not wrapped.
        momenta: (n_frames, n_atoms, 3) in ASE's unit.
        cell: (n_frames, 3, 3) in A.
        atoms: The start, for elements, masses and the rest.
        stopped: Why the run ended early, or None.
    """

    time: np.ndarray
    potential: np.ndarray
    kinetic: np.ndarray
    conserved: np.ndarray
    temperature: np.ndarray
    pressure: np.ndarray
    volume: np.ndarray
    positions: np.ndarray
    momenta: np.ndarray
    cell: np.ndarray
    atoms: ase.Atoms
    stopped: str | None = None

    @property
    def n_frames(self) -> int:
        """Number of frames, the start included."""
        return len(self.time)

    def frames(self) -> Iterator[ase.Atoms]:
        """The frames with their momenta and energies."""
        for index in range(self.n_frames):
            atoms = self.atoms.copy()
            # constraints hold for the frames already: they must not change what is set
            atoms.set_cell(self.cell[index])
            atoms.set_positions(self.positions[index], apply_constraint=False)
            atoms.set_momenta(self.momenta[index], apply_constraint=False)
            atoms.info["time_fs"] = float(self.time[index])
            atoms.calc = SinglePointCalculator(atoms, energy=float(self.potential[index]))
            yield atoms


_SERIES = ("potential", "kinetic", "conserved", "temperature", "pressure", "volume")
_ARRAYS = ("positions", "momenta", "cell")


def run_dynamics(
    model: Model,
    atoms: ase.Atoms,
    options: DynamicsOptions | None = None,
    *,
    folder: Path | None = None,
    say: Callable[[int, dict[str, float]], None] | None = None,
) -> DynamicsResult:
    """Run, or go on with a run that is in the folder.

    The centre of mass of atoms without constraints rests, but for ``"npt"``, whose thermostat
    counts all 3 N degrees of freedom.

    Args:
        model: The model.
        atoms: The start, with or without velocities; stays as it is.
        options: How.
        folder: Where the blocks are kept; nothing is written if not given.
        say: Called after each block with the step and the last frame's numbers.

    Raises:
        ConfigError: for a pressure without a cell, or constraints that the integrator cannot keep.
    """
    options = options or DynamicsOptions()
    periodic = bool(atoms.pbc.all())
    if options.ensemble == "npt" and (not periodic or atoms.constraints):
        raise ConfigError(
            "`ensemble` must be 'nve' or 'nvt' for atoms with constraints or not periodic in three "
            "directions, got 'npt'"
        )
    if folder is not None:
        (folder / "blocks").mkdir(parents=True, exist_ok=True)
    start = atoms.copy()
    moving = atoms.copy()
    if options.ensemble != "npt" and len(moving) > 1 and not moving.constraints:
        # the thermostats of ASE count degrees of freedom by constraints
        moving.set_constraint(FixCom())
    rng = np.random.default_rng(options.seed)
    if not moving.has("momenta"):
        thermalize_momenta(moving, temperature_K=options.temperature, rng=rng)
    # nothing is recorded on a GPU
    may_repeat = model.potential.device.type == "cpu"
    calculator = model.calculator(
        on_out_of_domain=options.on_out_of_domain, replay=None if may_repeat else False
    )
    moving.calc = calculator
    dynamics = _integrator(moving, options, rng)
    blocks = [] if folder is None else _stored(folder)
    stopped = None
    if may_repeat and calculator.evaluator.may_repeat(len(moving)):
        blocks = _whole(blocks, options)
    if blocks:
        stopped = _restored(blocks[-1], dynamics, moving, rng)
    while stopped is None and (not blocks or dynamics.nsteps < options.steps):
        block, stopped = _block(dynamics, moving, calculator, options, rng, periodic)
        blocks.append(block)
        if folder is not None:
            write_npz(folder / "blocks" / f"{int(block['start']):09d}.npz", block)
        if say is not None and len(block["step"]):
            say(int(block["step"][-1]), {name: float(block[name][-1]) for name in _SERIES})
    joined = {k: np.concatenate([b[k] for b in blocks]) for k in ("step", *_SERIES, *_ARRAYS)}
    step = joined.pop("step")
    return DynamicsResult(time=step * options.dt, atoms=start, stopped=stopped, **joined)


def _integrator(atoms: ase.Atoms, options: DynamicsOptions, rng: np.random.Generator) -> Any:
    """One of ASE's integrators."""
    dt, tau = options.dt * units.fs, options.tau * units.fs
    if options.ensemble == "nve":
        return VelocityVerlet(atoms, dt)
    if options.ensemble == "nvt" and options.thermostat == "langevin":
        return Langevin(
            atoms,
            dt,
            temperature_K=options.temperature,
            friction=1.0 / tau,
            fixcm=False,
            rng=rng,
        )
    if options.ensemble == "nvt":
        return Bussi(atoms, dt, temperature_K=options.temperature, taut=tau, rng=rng)
    kind = IsotropicMTKNPT if options.cell == "isotropic" else MTKNPT
    return kind(
        atoms,
        dt,
        temperature_K=options.temperature,
        pressure_au=options.pressure / EV_PER_A3_TO_GPA,
        tdamp=tau,
        pdamp=options.tau_pressure * units.fs,
    )


def _block(
    dynamics: Any,
    atoms: ase.Atoms,
    calculator: LesffCalculator,
    options: DynamicsOptions,
    rng: np.random.Generator,
    periodic: bool,
) -> tuple[dict[str, np.ndarray], str | None]:
    """Steps up to the next checkpoint as arrays; why they ended early."""
    rows: list[dict[str, Any]] = []
    # lists of neighbours and results are found anew, as after a restart
    calculator.skin = calculator.skin
    calculator.reset()
    start = dynamics.nsteps
    end = min((start // options.checkpoint + 1) * options.checkpoint, options.steps)
    stopped = None
    try:
        if start == 0:
            rows.append(_frame(0, dynamics, atoms, periodic))
        while dynamics.nsteps < end:
            n_steps = min(options.every, end - dynamics.nsteps)
            dynamics.run(n_steps)
            rows.append(_frame(dynamics.nsteps, dynamics, atoms, periodic))
    except OutOfDomainError as error:
        stopped = str(error)
    n_atoms = len(atoms)
    empty = {name: np.empty(0) for name in ("step", *_SERIES)}
    empty |= {"positions": np.empty((0, n_atoms, 3)), "momenta": np.empty((0, n_atoms, 3))}
    empty |= {"cell": np.empty((0, 3, 3))}
    block = {k: np.array([row[k] for row in rows]) if rows else v for k, v in empty.items()}
    block["start"] = np.array(start)
    block["nsteps"] = np.array(dynamics.nsteps)
    block["stopped"] = np.array(stopped or "")
    block["generator"] = np.array(json.dumps(rng.bit_generator.state))
    block["final_positions"] = atoms.positions.copy()
    block["final_momenta"] = atoms.get_momenta()
    block["final_cell"] = atoms.cell.array.copy()
    return block | _numbers(dynamics), stopped


def _frame(step: int, dynamics: Any, atoms: ase.Atoms, periodic: bool) -> dict[str, Any]:
    potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
    conserved = potential + kinetic
    if isinstance(dynamics, Langevin):
        conserved = np.nan
    elif isinstance(dynamics, Bussi):
        conserved -= dynamics.transferred_energy
    elif isinstance(dynamics, (MTKNPT, IsotropicMTKNPT)):
        conserved = dynamics.get_conserved_energy()
    pressure = volume = np.nan
    if periodic:
        stress = atoms.get_stress(include_ideal_gas=True)
        pressure = -float(stress[:3].mean()) * EV_PER_A3_TO_GPA
        volume = atoms.get_volume()
    return {
        "step": step, "potential": potential, "kinetic": kinetic, "conserved": conserved,
        "temperature": atoms.get_temperature(), "pressure": pressure, "volume": volume,
        "positions": atoms.positions.copy(), "momenta": atoms.get_momenta(),
        "cell": atoms.cell.array.copy(),
    }  # fmt: skip


_PARTS = ("", "_thermostat", "_barostat")


def _numbers(dynamics: Any) -> dict[str, np.ndarray]:
    """All numbers that an integrator holds, by ``integrator.PART.NAME``."""
    found = {}
    for part in _PARTS:
        holder = getattr(dynamics, part, None) if part else dynamics
        for name, value in vars(holder).items() if holder is not None else ():
            if isinstance(value, (float, np.ndarray)):
                found[f"integrator.{part}.{name}"] = np.array(value)
    return found


def _restored(
    block: dict[str, np.ndarray], dynamics: Any, atoms: ase.Atoms, rng: np.random.Generator
) -> str | None:
    """Set everything as it was at the end of a block; why the run stopped there."""
    atoms.set_cell(block["final_cell"])
    atoms.set_positions(block["final_positions"], apply_constraint=False)
    atoms.set_momenta(block["final_momenta"], apply_constraint=False)
    rng.bit_generator.state = json.loads(str(block["generator"]))
    dynamics.nsteps = int(block["nsteps"])
    for key, value in block.items():
        if key.startswith("integrator."):
            _, part, name = key.split(".")
            holder = getattr(dynamics, part) if part else dynamics
            setattr(holder, name, float(value) if value.ndim == 0 else value.copy())
    return str(block["stopped"]) or None


def _whole(blocks: list[dict[str, np.ndarray]], options: DynamicsOptions) -> list[Any]:
    """The blocks without a last one that ends between two checkpoints where the run goes on."""
    if not blocks or str(blocks[-1]["stopped"]):
        return blocks
    end = int(blocks[-1]["nsteps"])
    is_whole = end % options.checkpoint == 0 or end >= options.steps
    return blocks if is_whole else blocks[:-1]


def _stored(folder: Path) -> list[dict[str, np.ndarray]]:
    """Blocks of a folder in order."""
    found = []
    for path in sorted((folder / "blocks").glob("[0-9]*.npz")):
        with np.load(path) as stored:
            found.append({key: stored[key] for key in stored.files})
    return found
