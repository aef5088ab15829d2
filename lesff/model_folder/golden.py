"""Golden values: what a model must give on every machine, stored beside its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import ase
import numpy as np
import torch
from ase.data import covalent_radii
from torch import Tensor

from lesff.atoms.graph import build_graph
from lesff.atoms.structure import Structure, to_structure
from lesff.errors import IntegrityError
from lesff.model_folder.tensor_file import (
    REPLACE_ADVICE,
    read_header,
    read_tensors,
)
from lesff.potential.config import ModelConfig
from lesff.potential.potential import Potential

GOLDEN_UNCERTAINTIES = ("energy_uncertainty", "forces_uncertainty")


_WATER = ase.Atoms("OHH", [(0.0, 0.0, 0.119), (0.0, 0.763, -0.477), (0.0, -0.763, -0.477)])


def golden_values(potential: Potential) -> dict[str, Tensor]:
    """Inputs and float64 outputs of the built-in structures, concatenated over structures."""
    structures = _built_in_structures(potential.config, potential.cutoff)
    outputs = evaluate(potential, structures)
    bad = [name for name, value in outputs.items() if not torch.isfinite(value).all()]
    if bad:
        raise IntegrityError(f"a model must predict finite {bad[0]} to be saved, this one does not")

    def stack(arrays: Iterable[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(list(arrays)))

    return {
        "n_atoms": torch.tensor([len(s) for s in structures]),
        "numbers": torch.from_numpy(np.concatenate([s.numbers for s in structures])),
        "positions": torch.from_numpy(np.concatenate([s.positions for s in structures])),
        "cell": stack(s.cell for s in structures),
        "pbc": stack(s.pbc for s in structures),
        "total_charge": torch.tensor([s.total_charge for s in structures]),
        "spin_multiplicity": torch.tensor([s.spin_multiplicity for s in structures]),
        **outputs,
    }


def evaluate(potential: Potential, structures: list[Structure]) -> dict[str, Tensor]:
    """Energies (n_structures,) eV, forces (n_atoms, 3) eV/A, charges (n_atoms,) e, float64."""
    names = ["energy", "forces"] + (["charges"] if potential.traits.has_charges else [])
    names += [] if potential.uncertainty is None else GOLDEN_UNCERTAINTIES
    cutoff = potential.cutoff
    rows = [potential(build_graph(structure, cutoff), names) for structure in structures]
    return {name: torch.cat([row[name] for row in rows]).to(torch.float64) for name in names}


def _built_in_structures(config: ModelConfig, cutoff: float) -> list[Structure]:
    """A chain of all elements, alone in every charge state and in a cell; water if covered."""
    seeds = [_chain(config.elements, cutoff)]
    if {1, 8} <= set(config.elements):
        seeds.append(_WATER)
    low, high = config.total_charge
    neutral = min(max(0, low), high)
    structures = []
    for seed in seeds:
        n_protons = int(seed.numbers.sum())
        charges = sorted({min(charge, n_protons) for charge in (low, neutral, high)})
        structures += [to_structure(seed, total_charge=charge) for charge in charges]
        if config.spin_multiplicity[1] >= 3 and n_protons - charges[0] >= 4:
            spin = to_structure(seed, total_charge=charges[0]).spin_multiplicity + 2
            structures.append(to_structure(seed, total_charge=charges[0], spin_multiplicity=spin))
        structures.append(to_structure(_periodic(seed), total_charge=min(neutral, n_protons)))
    return structures


def _chain(elements: tuple[int, ...], cutoff: float) -> ase.Atoms:
    """Zigzag of one atom per element (two of a lone one), neighbours within the cutoff."""
    numbers = elements if len(elements) > 1 else elements * 2
    positions = [np.zeros(3)]
    for i in range(1, len(numbers)):
        bond = 1.1 * float(covalent_radii[numbers[i - 1]] + covalent_radii[numbers[i]])
        bond = min(max(bond, 0.7), 0.8 * cutoff)
        direction = np.array([0.8, 0.6 * (-1) ** i, 0.1])
        positions.append(positions[-1] + bond * direction / np.linalg.norm(direction))
    return ase.Atoms(numbers, positions)


def _periodic(seed: ase.Atoms) -> ase.Atoms:
    """The same atoms in a triclinic cell that leaves about 2 A to the images."""
    extent = np.ptp(seed.positions, axis=0) + 2.0
    cell = np.diag(extent) + np.array([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.2, -0.4, 0.0]])
    return ase.Atoms(seed.numbers, seed.positions, cell=cell, pbc=True)


def read_golden(path: Path, *, has_charges: bool, has_uncertainty: bool) -> dict[str, Tensor]:
    """Content of a file of golden values, as :func:`golden_values` makes it.

    Raises:
        IntegrityError: if it is missing, damaged, empty or of another kind of model.
    """
    rows = read_header(path).rows
    shapes = [rows.get(name, ("", ()))[1] for name in ("n_atoms", "numbers")]
    if any(len(shape) != 1 or shape[0] < 1 for shape in shapes):
        raise IntegrityError(f"{path} holds no structures; {REPLACE_ADVICE}")
    (n_systems,), (n_atoms,) = shapes
    real, whole = torch.float64, torch.int64
    expected = {
        "n_atoms": (whole, (n_systems,)),
        "numbers": (whole, (n_atoms,)),
        "positions": (real, (n_atoms, 3)),
        "cell": (real, (n_systems, 3, 3)),
        "pbc": (torch.bool, (n_systems, 3)),
        "total_charge": (whole, (n_systems,)),
        "spin_multiplicity": (whole, (n_systems,)),
        "energy": (real, (n_systems,)),
        "forces": (real, (n_atoms, 3)),
    }
    if has_charges:
        expected["charges"] = (real, (n_atoms,))
    if has_uncertainty:
        expected["energy_uncertainty"] = (real, (n_systems,))
        expected["forces_uncertainty"] = (real, (n_atoms,))
    return read_tensors(path, expected)


def golden_structures(golden: Mapping[str, Tensor], path: Path) -> list[Structure]:
    """Structures of a parity file, checked like any input."""
    counts = golden["n_atoms"].tolist()
    if min(counts) < 1 or sum(counts) != len(golden["numbers"]):
        raise IntegrityError(f"{path}: n_atoms must add up to the atoms; {REPLACE_ADVICE}")
    numbers = torch.split(golden["numbers"], counts)
    positions = torch.split(golden["positions"], counts)
    return [
        to_structure(
            ase.Atoms(
                numbers[i].numpy(),
                positions[i].numpy(),
                cell=golden["cell"][i].numpy(),
                pbc=golden["pbc"][i].numpy(),
            ),
            total_charge=int(golden["total_charge"][i]),
            spin_multiplicity=int(golden["spin_multiplicity"][i]),
            where=f"{path.name}, structure {i}",
        )
        for i in range(len(counts))
    ]
