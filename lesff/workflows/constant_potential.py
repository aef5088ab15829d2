r"""Molecular dynamics between two electrodes at a given voltage.

The charges of the electrodes are at their minimum at every step, see
:mod:`lesff.electrostatics.charges.electrodes`. The energy F is that of the open circuit less the
work of the source, ``dF/dV = -Q`` with the charge Q of the first electrode, so that averages at
constant voltage obey

.. math::
    \frac{d\langle Q \rangle}{dV} = \Big\langle \frac{\partial Q}{\partial V} \Big\rangle
    + \frac{\langle Q^2 \rangle - \langle Q \rangle^2}{kT} .

The first term is the capacitance at fixed atoms, that of the empty capacitor for electrodes at
rest; fluctuations alone lack it where charges follow the atoms without a temperature of their own
(Scalfi et al., Phys. Chem. Chem. Phys. 22, 10480 (2020)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes

from lesff.atoms.graph import AtomGraph, build_graph
from lesff.atoms.structure import to_structure
from lesff.electrostatics.charges.electrodes import constant_potential
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import ConfigError, DataError, StructureError
from lesff.spectra.correlation import split
from lesff.units import BOLTZMANN

_NO_EDGES = 0.1
"""A: cutoff of a graph whose edges are not read."""


class ElectrodeCalculator(Calculator):
    """ASE calculator of two electrodes at a voltage, and fixed charges between them.

    The energy is F in eV, minus the gradient of which are the forces; ``charges`` are those of all
    atoms in e. Hold the electrodes with :class:`ase.constraints.FixAtoms` in dynamics.

    Args:
        first: Indices of the atoms at ``+voltage / 2``, or (n_atoms,) bool.
        second: Those at ``-voltage / 2``.
        voltage: Of the first against the second, V.
        charges: (n_atoms,) fixed charges of the other atoms in e; their sum is the total charge.
            The initial charges of the atoms if not given.
        base: Calculator of all that is not the Coulomb energy, such as repulsion. It must have no
            charges of its own: those would count twice.
        sigma: Width of all charges, A. Electrode atoms must not be much closer than that.
        dl: Resolution of the sum over wave vectors, A.
        hardness: Of electrode atoms, eV/e^2: how a metal resists charging.

    Raises:
        ConfigError: for groups that are empty or overlap, or values that are not finite.
    """

    implemented_properties = ["energy", "free_energy", "forces", "charges"]

    def __init__(
        self,
        first: Sequence[int] | np.ndarray,
        second: Sequence[int] | np.ndarray,
        voltage: float,
        *,
        charges: Sequence[float] | np.ndarray | None = None,
        base: Calculator | None = None,
        sigma: float = 1.0,
        dl: float = 2.0,
        hardness: float = 0.0,
    ) -> None:
        super().__init__()
        self.first, self.second = _indices(first), _indices(second)
        if not len(self.first) or not len(self.second):
            raise ConfigError("`first` and `second` must have atoms each")
        if np.intersect1d(self.first, self.second).size:
            raise ConfigError("`first` and `second` must have no atom in common")
        for name, value in (("voltage", voltage), ("hardness", hardness)):
            if not np.isfinite(value):
                raise ConfigError(f"`{name}` must be finite, got {value!r}")
        self._voltage = float(voltage)
        self._fixed = None if charges is None else np.asarray(charges, float)
        self._base = base
        self._hardness = float(hardness)
        self._settings = EwaldSettings(sigma=sigma, dl=dl)

    @property
    def voltage(self) -> float:
        """Of the first electrode against the second, V; may be set."""
        return self._voltage

    @voltage.setter
    def voltage(self, value: float) -> None:
        if not np.isfinite(value):
            raise ConfigError(f"`voltage` must be finite, got {value!r}")
        if value != self._voltage:
            self._voltage = float(value)
            self.reset()

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Charges of the electrodes at their minimum, F and forces."""
        if atoms is None:
            raise DataError("the calculator must have atoms, got None")
        super().calculate(atoms, list(properties), list(system_changes))
        if self.atoms is None:
            raise StructureError("`atoms` must be given: there is nothing to compute")
        graph, fixed = self._prepared(self.atoms)
        positions = graph.positions.clone().requires_grad_(True)
        found = self._solved(graph.replace(positions=positions), fixed, self._voltage)
        energy = found.energy.sum()
        (gradient,) = torch.autograd.grad(energy, positions)
        value, forces = float(energy.detach()), -gradient.numpy()
        if self._base is not None:
            value += float(np.asarray(self._base.get_potential_energy(self.atoms)))
            forces = forces + self._base.get_forces(self.atoms)
        self.results = {
            "energy": value, "free_energy": value, "forces": forces,
            "charges": found.charges.detach().numpy(),
        }  # fmt: skip

    def electrode_charges(self, atoms: ase.Atoms) -> tuple[float, float]:
        """Charge of the first and the second electrode, e."""
        charges = np.asarray(self.get_property("charges", atoms))
        return float(charges[self.first].sum()), float(charges[self.second].sum())

    def capacitance(self, atoms: ase.Atoms) -> float:
        """``dQ/dV`` at fixed atoms, e/V: exact, charges are linear in the voltage."""
        graph, fixed = self._prepared(atoms)
        with torch.no_grad():
            charges = [
                float(self._solved(graph, fixed, v).charges[torch.as_tensor(self.first)].sum())
                for v in (0.0, 1.0)
            ]
        return charges[1] - charges[0]

    def _prepared(self, atoms: ase.Atoms) -> tuple[AtomGraph, torch.Tensor]:
        """Graph in float64, and fixed charges (n_atoms,)."""
        n_atoms = len(atoms)
        electrode = np.concatenate([self.first, self.second])
        if electrode.max() >= n_atoms or electrode.min() < 0:
            raise DataError(f"`first` and `second` must be indices below {n_atoms}, the atoms")
        given = atoms.get_initial_charges() if self._fixed is None else self._fixed
        if given.shape != (n_atoms,):
            raise DataError(f"`charges` must be ({n_atoms},), one an atom, got {given.shape}")
        fixed = given.copy()
        if self._fixed is None:
            fixed[electrode] = 0.0  # what a file says about electrodes is no fixed charge
        total = float(fixed.sum())
        if abs(total - round(total)) > 1e-4:
            raise DataError(f"`charges` must sum to a whole number of e, got {total:g}")
        bare = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        # the spin has no meaning here
        spin = 1 + (int(atoms.numbers.sum()) - round(total)) % 2
        structure = to_structure(bare, total_charge=round(total), spin_multiplicity=spin)
        graph = build_graph(structure, _NO_EDGES).to(dtype=torch.float64)
        return graph, torch.as_tensor(fixed, dtype=torch.float64)

    def _solved(self, graph: AtomGraph, fixed: torch.Tensor, voltage: float) -> Any:
        first, second = torch.as_tensor(self.first), torch.as_tensor(self.second)
        potentials = torch.zeros_like(fixed)
        potentials[first], potentials[second] = 0.5 * voltage, -0.5 * voltage
        is_electrode = torch.zeros(len(fixed), dtype=torch.bool)
        is_electrode[first] = is_electrode[second] = True
        return constant_potential(
            fixed, potentials, is_electrode, graph, self._settings,
            hardness=torch.full_like(fixed, self._hardness),
        )  # fmt: skip


class ChargeRecord:
    """Charge of the first electrode along a run: ``dynamics.attach(record, interval=10)``.

    Args:
        atoms: Atoms whose calculator is an :class:`ElectrodeCalculator`.

    Attributes:
        charges: Of the first electrode so far, e.
        frozen: Capacitance at fixed atoms at each record, e/V.
    """

    def __init__(self, atoms: ase.Atoms) -> None:
        if not isinstance(atoms.calc, ElectrodeCalculator):
            raise ConfigError("the calculator of `atoms` must be an ElectrodeCalculator")
        self._atoms, self._calculator = atoms, atoms.calc
        self._last: tuple[np.ndarray, float] | None = None
        self.charges: list[float] = []
        self.frozen: list[float] = []

    def __call__(self) -> None:
        """Add the present charge."""
        calculator, atoms = self._calculator, self._atoms
        self.charges.append(calculator.electrode_charges(atoms)[0])
        # at fixed atoms it depends on the electrodes only
        which = np.concatenate([calculator.first, calculator.second])
        where = np.concatenate([atoms.positions[which], np.array(atoms.cell)])
        if self._last is None or not np.array_equal(self._last[0], where):
            self._last = where, calculator.capacitance(atoms)
        self.frozen.append(self._last[1])

    def capacitance(self, temperature: float, *, n_blocks: int = 5) -> tuple[float, float]:
        """See :func:`fluctuation_capacitance`."""
        return fluctuation_capacitance(
            np.array(self.charges), np.array(self.frozen), temperature, n_blocks=n_blocks
        )


def fluctuation_capacitance(
    charges: np.ndarray, frozen: np.ndarray, temperature: float, *, n_blocks: int = 5
) -> tuple[float, float]:
    """Differential capacitance ``<dQ/dV> + var Q / kT`` at constant voltage, and its error, e/V.

    Args:
        charges: (n,) of the first electrode in e, in equilibrium.
        frozen: (n,) capacitance at fixed atoms, e/V.
        temperature: K.
        n_blocks: Blocks for the error, the jackknife; blocks must be longer than charges remember.

    Raises:
        DataError: for too few values or a bad temperature.
    """
    if not (np.isfinite(temperature) and temperature > 0.0):
        raise DataError(f"`temperature` must be positive, got {temperature!r}")
    # of e and V: kT in eV is kT/e in V
    thermal = BOLTZMANN * temperature
    rows = np.stack([charges, frozen], 1)
    blocks = split(rows, n_blocks)

    def value(part: np.ndarray) -> float:
        return float(part[:, 1].mean() + part[:, 0].var() / thermal)

    whole = value(np.concatenate(blocks))
    if n_blocks == 1:
        return whole, float("nan")
    left_out = np.array([
        value(np.concatenate([b for j, b in enumerate(blocks) if j != i])) for i in range(n_blocks)
    ])  # fmt: skip
    spread = float(((left_out - left_out.mean()) ** 2).sum())
    return whole, float(np.sqrt((n_blocks - 1) / n_blocks * spread))


def _indices(group: Sequence[int] | np.ndarray) -> np.ndarray:
    array = np.asarray(group)
    if array.dtype == bool:
        return np.flatnonzero(array)
    return np.unique(array.astype(int)) if array.size else np.empty(0, int)
