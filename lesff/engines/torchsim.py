"""TorchSim: a model for its batched dynamics and relaxations.

::

    import torch_sim
    from lesff.engines.torchsim import LesffModel

    model = LesffModel("off-medium", device="cuda")
    final = torch_sim.optimize(system=atoms, model=model, optimizer=torch_sim.Optimizer.fire)

All systems of a state are one call of the model; each place in the batch keeps its own neighbours.
Charge and spin multiplicity of each system come from ``state.charge`` and ``state.spin``
(``system_extras``); where there is none, or a spin of 0, neutral and the lowest multiplicity.
TorchSim needs Python 3.12 or newer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from torch import Tensor

from lesff.atoms.structure import Structure, to_structure
from lesff.errors import MissingDependencyError, PropertyError
from lesff.model import Model, load

try:
    from torch_sim.models.interface import ModelInterface  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise MissingDependencyError(
        "TorchSim is not installed; it needs Python 3.12 or newer and `pip install "
        '"lesff[torchsim]"`'
    ) from error


class LesffModel(ModelInterface):
    """A model behind TorchSim's interface.

    Args:
        model: A model or its name.
        device: Where a model given by name computes.
        model_dtype: Its precision, its own if not given. TorchSim's states are float64 whatever
            the model computes in.
        compute_stress: Give stresses, too; zero for systems that are not periodic in three
            directions.
        **options: Of :class:`lesff.potential.evaluator.Evaluator`, such as ``external_field``
            (V/A), ``on_out_of_domain``; charge and spin are those of the state.

    Attributes:
        evaluator: What computes.

    Raises:
        PropertyError: for ``total_charge`` and ``spin_multiplicity`` among the options.
    """

    def __init__(
        self,
        model: Model | str | Path,
        *,
        device: str | torch.device = "cpu",
        model_dtype: Any = None,
        compute_stress: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        for name in ("total_charge", "spin_multiplicity"):
            if name in options:
                raise PropertyError(f"`{name}` must be given by the state of each system")
        if isinstance(model, (str, Path)):
            model = load(model, dtype=model_dtype, device=device)
        self.evaluator = model.evaluator(**options)
        self._device = model.potential.device
        self._dtype = torch.float64
        self._compute_stress, self._compute_forces = compute_stress, True
        self._memory_scales_with = "n_atoms_x_density"
        # what was checked of the system in each place: atoms, charge and spin do not change
        self._starts: list[Structure] = []

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Energy (n_systems,), forces (n_atoms, 3) and stress (n_systems, 3, 3) in eV and A.

        Args:
            state: A ``SimState``.
            **_: TorchSim's; not used.

        Raises:
            StructureError, ChargeSpinError, UnsupportedInputError: as
                :meth:`lesff.Model.predict`.
        """
        structures = self._structures(state)
        has_stress = self._compute_stress and all(s.pbc.all() for s in structures)
        names = ["energy", "forces", *(["stress"] if has_stress else [])]
        rows = self.evaluator.evaluate_batch(structures, names)
        results = {
            "energy": np.array([row["energy"] for row in rows]),
            "forces": np.concatenate([row["forces"] for row in rows]),
        }
        if self._compute_stress:
            results["stress"] = np.array([row.get("stress", np.zeros((3, 3))) for row in rows])
        like = state.positions
        return {
            name: torch.from_numpy(value).to(device=like.device, dtype=like.dtype)
            for name, value in results.items()
        }

    def _structures(self, state: Any) -> list[Structure]:
        """The systems of a state, in order."""
        system = state.system_idx.cpu().numpy()
        counts = np.bincount(system, minlength=state.cell.shape[0])
        ends = np.cumsum(counts)[:-1]
        positions = np.split(_array(state.positions), ends)
        numbers = np.split(state.atomic_numbers.cpu().numpy(), ends)
        # TorchSim's cells have lattice vectors as columns
        cells = _array(state.cell).transpose(0, 2, 1)
        pbc = np.broadcast_to(torch.as_tensor(state.pbc).cpu().numpy().reshape(-1), 3)
        charges = _per_system(state, "charge", len(counts))
        spins = _per_system(state, "spin", len(counts))
        found = []
        for i in range(len(counts)):
            spin = int(spins[i]) or None
            start = self._starts[i] if i < len(self._starts) else None
            is_known = (
                start is not None
                and np.array_equal(start.numbers, numbers[i])
                and np.array_equal(start.pbc, pbc)
                and start.total_charge == charges[i]
                and (spin is None or start.spin_multiplicity == spin)
            )
            if start is None or not is_known:
                start = to_structure(
                    ase.Atoms(numbers[i], positions[i], cell=cells[i], pbc=pbc),
                    total_charge=charges[i],
                    spin_multiplicity=spin,
                    external_field=self.evaluator.external_field,
                    where=f"system {i}",
                )
                self._starts[i : i + 1] = [start]
            found.append(self.evaluator.moved(start, positions[i], cells[i]))
        return found


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor as float64 on the host."""
    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()


def _per_system(state: Any, name: str, n_systems: int) -> np.ndarray:
    """A number of each system, zero where the state has none."""
    value = getattr(state, name, None)
    if value is None:
        return np.zeros(n_systems)
    return np.broadcast_to(_array(torch.as_tensor(value)).reshape(-1), n_systems)
