"""Structures that stand for what the base model knows: replay against forgetting, and a probe.

They are made from ASE's table of G2 molecules: the molecules, larger ones grown from several of
them, pairs, and simple crystals, displaced at random, so nothing has to be downloaded; their labels
are the base model's own. Replay and probe never share a molecule or crystal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import ase
import numpy as np
from ase.data import chemical_symbols, covalent_radii, reference_states

from lesff.atoms.elements import elements_of
from lesff.atoms.graph import build_graph
from lesff.atoms.structure import Structure, lowest_spin, to_structure
from lesff.errors import StructureError
from lesff.finetune.start import EnergyShift
from lesff.potential.config import ModelConfig
from lesff.potential.potential import Potential
from lesff.train.data import Frame, unlabelled
from lesff.train.metrics import FramePrediction, predict_frames

PROBE_FRAMES = 60
"""Structures of the probe set."""
_NOISE = (0.03, 0.08)
"""Smallest and largest standard deviation of the displacements in A."""
_MAX_FORCE = 30.0
"""Structures with larger forces (eV/A) are left out."""
_LARGEST = 5
"""Molecules that grow together, at most."""
_HYDROGEN_BOND = 1.9
"""A hydrogen is bonded to atoms within this multiple of their covalent radius."""
_ROOM = 1.9
"""Atoms of molecules that grow together keep this distance in A, but for those of the bond."""
_TURNS = 12


def replay_structures(config: ModelConfig, count: int, seed: int) -> list[Structure]:
    """Structures to train on, from the even half of the seeds."""
    return _structures(config, count, seed, half=0)


def probe_structures(config: ModelConfig) -> list[Structure]:
    """The probe set of a model: always the same, from the odd half of the seeds."""
    return _structures(config, PROBE_FRAMES, 1, half=1)


def _structures(config: ModelConfig, count: int, seed: int, *, half: int) -> list[Structure]:
    from ase.collections import g2  # start-up: reads its database of molecules

    known = set(config.elements)
    molecules = [g2[name] for name in sorted(g2.names)]
    molecules = [m for m in molecules if elements_of(m) <= known][half::2]
    seeds = [m for m in molecules if len(m) > 1] + _crystals(config, half)
    if not seeds:
        return []
    parts = [m for m in seeds if not m.pbc.any() and _free_hydrogens(m)]
    rng = np.random.default_rng([seed, half])
    found: list[Structure] = []
    for attempt in range(20 * count):
        if len(found) == count:
            break
        atoms = _pick(seeds, rng).copy()
        if attempt % 4 and parts and not atoms.pbc.any():
            atoms = _grown(_pick(parts, rng), parts, int(rng.integers(1, _LARGEST)), rng)
            if attempt % 4 == 3:
                atoms = _pair(atoms, _pick(parts, rng), rng)
        atoms.positions += rng.normal(scale=rng.uniform(*_NOISE), size=(len(atoms), 3))
        structure = _checked(atoms, config, rng)
        if structure is not None:
            found.append(structure)
    return found


def _pick(seeds: Sequence[ase.Atoms], rng: np.random.Generator) -> ase.Atoms:
    return seeds[int(rng.integers(len(seeds)))]


def _grown(
    atoms: ase.Atoms, others: Sequence[ase.Atoms], count: int, rng: np.random.Generator
) -> ase.Atoms:
    """A molecule with some of its hydrogens replaced by other molecules less a hydrogen.

    New bonds are as long as the sum of covalent radii; of several turns about a bond the one with
    most room is taken, and none if atoms would come too close.
    """
    for _ in range(count):
        here = _free_hydrogens(atoms)
        other = _pick(others, rng)
        there = _free_hydrogens(other)
        if not here or not there:
            break
        joined = _bonded(
            atoms, here[int(rng.integers(len(here)))], other, there[int(rng.integers(len(there)))],
            rng,
        )  # fmt: skip
        atoms = atoms if joined is None else joined
    return atoms


def _free_hydrogens(atoms: ase.Atoms) -> list[tuple[int, int]]:
    """Hydrogens with the one heavy atom that they are bonded to."""
    found = []
    distances = atoms.get_all_distances()
    for h in np.flatnonzero(atoms.numbers == 1):
        near = np.flatnonzero(distances[h] < _HYDROGEN_BOND * covalent_radii[atoms.numbers])
        near = near[near != h]
        if len(near) == 1 and atoms.numbers[near[0]] != 1:
            found.append((int(h), int(near[0])))
    return found


def _bonded(
    first: ase.Atoms,
    here: tuple[int, int],
    second: ase.Atoms,
    there: tuple[int, int],
    rng: np.random.Generator,
) -> ase.Atoms | None:
    """Two molecules with a bond in the place of a hydrogen of each; None if there is no room."""
    (h1, a1), (h2, a2) = here, there
    axis = first.positions[h1] - first.positions[a1]
    axis /= np.linalg.norm(axis)
    length = covalent_radii[first.numbers[a1]] + covalent_radii[second.numbers[a2]]
    part = second.copy()
    part.rotate(part.positions[h2] - part.positions[a2], -axis)
    part.positions += first.positions[a1] + length * axis - part.positions[a2]
    kept = np.delete(np.arange(len(first)), h1)
    far = kept[kept != a1]
    best, room = None, _ROOM
    for _ in range(_TURNS):
        part.rotate(rng.uniform(0.0, 360.0), axis, center=part.positions[a2])
        moved = np.delete(np.arange(len(part)), [h2, a2])
        gaps = np.linalg.norm(part.positions[moved][:, None] - first.positions[far], axis=-1)
        nearest = gaps.min() if gaps.size else np.inf
        if nearest > room:
            best, room = part.copy(), nearest
    if best is None:
        return None
    del best[h2]
    joined = first[kept] + best
    joined.info.clear()
    return joined


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
    from ase.build import bulk  # start-up: imports scipy, 0.4 s of CPU

    if len(config.elements) < 20:
        return []
    found = []
    for z in config.elements:
        state = reference_states[z] or {}
        is_simple = state.get("symmetry") in ("fcc", "bcc", "hcp", "diamond")
        if is_simple and "basis" not in state:  # Se and Te need more than a lattice
            found.append(bulk(chemical_symbols[z]))
    return [atoms.repeat(2) for atoms in found][half::2]


def _checked(atoms: ase.Atoms, config: ModelConfig, rng: np.random.Generator) -> Structure | None:
    """The structure in a charge state that the model was trained on, or None."""
    low, high = config.total_charge
    charge = int(rng.integers(low, high + 1)) if rng.random() < 0.25 else min(max(0, low), high)
    if atoms.pbc.any():
        charge = 0
    try:
        bare = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        # the lowest multiplicity, and no notice where a ground state has another
        spin = lowest_spin(int(atoms.numbers.sum()) - charge)
        structure = to_structure(bare, total_charge=charge, spin_multiplicity=spin)
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
    """Structures labelled by a model, without those that it takes to be about to fly apart."""
    blank = [unlabelled(structure, subset=subset, weight=weight) for structure in structures]
    frames = [labelled_by(prediction) for prediction in predict_frames(potential, blank)]
    return [f for f in frames if np.linalg.norm(f.forces, axis=1).max() < _MAX_FORCE]


def labelled_by(prediction: FramePrediction) -> Frame:
    """The frame with the predictions as labels."""
    return replace(prediction.frame, energy=prediction.energy, forces=prediction.forces)


def shifted(frames: Sequence[Frame], shift: EnergyShift) -> list[Frame]:
    """Frames with the reference energies of their labels moved."""
    return [replace(f, energy=f.energy + shift.of(f.structure.numbers)) for f in frames]
