"""Structures that stand for what the base model knows: replay against forgetting, and a probe.

They are made from ASE's table of G2 molecules, pairs of them and simple crystals, displaced at
random, so nothing has to be downloaded; their labels are the base model's own. Replay and probe
never share a molecule or crystal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import ase
import ase.build
import numpy as np
from ase.collections import g2
from ase.data import chemical_symbols, reference_states

from lesff.errors import StructureError
from lesff.finetune.base import EnergyShift
from lesff.potential import ModelConfig, Potential
from lesff.structures import Structure, build_graph, to_structure
from lesff.train.data import Frame, unlabelled
from lesff.train.metrics import FramePrediction, predict_frames

PROBE_FRAMES = 60
"""Structures of the probe set."""
_MOLECULES = tuple(sorted(g2.names))
_NOISE = (0.03, 0.08)
"""Smallest and largest standard deviation of the displacements in A."""
_CLOSEST = 0.7
"""Displaced atoms keep this distance (A), or this share of the bond at rest."""


def replay_structures(config: ModelConfig, count: int, seed: int) -> list[Structure]:
    """Structures to train on, from the even half of the seeds."""
    return _structures(config, count, seed, half=0)


def probe_structures(config: ModelConfig) -> list[Structure]:
    """The probe set of a model: always the same, from the odd half of the seeds."""
    return _structures(config, PROBE_FRAMES, 1, half=1)


def _structures(config: ModelConfig, count: int, seed: int, *, half: int) -> list[Structure]:
    known = set(config.elements)
    molecules = [g2[name] for name in _MOLECULES]
    molecules = [m for m in molecules if set(m.numbers.tolist()) <= known][half::2]
    seeds = [m for m in molecules if len(m) > 1] + _crystals(config, half)
    if not seeds:
        return []
    rng = np.random.default_rng([seed, half])
    found: list[Structure] = []
    for attempt in range(20 * count):
        if len(found) == count:
            break
        atoms = seeds[int(rng.integers(len(seeds)))].copy()
        if attempt % 2 and not atoms.pbc.any():
            other = seeds[int(rng.integers(len(seeds)))]
            atoms = atoms if other.pbc.any() else _pair(atoms, other, rng)
        atoms.positions += rng.normal(scale=rng.uniform(*_NOISE), size=(len(atoms), 3))
        structure = _checked(atoms, config, rng)
        if structure is not None:
            found.append(structure)
    return found


def _pair(first: ase.Atoms, second: ase.Atoms, rng: np.random.Generator) -> ase.Atoms:
    """Two molecules, turned at random, in contact."""
    second = second.copy()
    direction = rng.normal(size=3)
    second.rotate(rng.uniform(0.0, 360.0), rng.normal(size=3))
    direction /= np.linalg.norm(direction)
    reach = (first.positions @ direction).max() - (second.positions @ direction).min()
    second.positions += (reach + rng.uniform(2.0, 3.5)) * direction
    joined = first + second
    joined.info.clear()
    return joined


def _crystals(config: ModelConfig, half: int) -> list[ase.Atoms]:
    """Elemental crystals of models that cover most of the periodic table."""
    if len(config.elements) < 20:
        return []
    found = []
    for z in config.elements:
        state = reference_states[z] or {}
        if state.get("symmetry") in ("fcc", "bcc", "hcp", "diamond"):
            found.append(ase.build.bulk(chemical_symbols[z]))
    return [atoms.repeat(2) for atoms in found][half::2]


def _checked(atoms: ase.Atoms, config: ModelConfig, rng: np.random.Generator) -> Structure | None:
    """The structure in a charge state that the model was trained on, or None."""
    low, high = config.total_charge
    charge = int(rng.integers(low, high + 1)) if rng.random() < 0.25 else min(max(0, low), high)
    if atoms.pbc.any():
        charge = 0
    try:
        bare = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        structure = to_structure(bare, total_charge=charge)
        build_graph(structure, 1.0)
    except (StructureError, ValueError):
        return None
    lowest, highest = config.spin_multiplicity
    if not lowest <= structure.spin_multiplicity <= max(highest, 1):
        return None
    return structure


def own_frames(
    potential: Potential, structures: Sequence[Structure], *, subset: str, weight: float = 1.0
) -> list[Frame]:
    """Structures labelled by a model."""
    blank = [unlabelled(structure, subset=subset, weight=weight) for structure in structures]
    return [labelled_by(prediction) for prediction in predict_frames(potential, blank)]


def labelled_by(prediction: FramePrediction) -> Frame:
    """The frame with the predictions as labels."""
    return replace(prediction.frame, energy=prediction.energy, forces=prediction.forces)


def shifted(frames: Sequence[Frame], shift: EnergyShift) -> list[Frame]:
    """Frames with the reference energies of their labels moved."""
    return [replace(f, energy=f.energy + shift.of(f.structure.numbers)) for f in frames]
