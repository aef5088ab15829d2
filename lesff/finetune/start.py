"""From the base model to the model to train: elements, reference energies, what is frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import nn

from lesff.atoms.elements import elements_of
from lesff.errors import ConfigError, DataError
from lesff.finetune.options import FinetuneOptions, Strategy
from lesff.potential.edit import with_reference_energies
from lesff.potential.potential import Potential
from lesff.train.data import Frame
from lesff.train.metrics import FramePrediction, predict_frames
from lesff.train.reference_energies import composition, explain_by_elements
from lesff.train.trainables import DirectTrainables, LowRankTrainables, Trainables

_ENERGY_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-8}
_FORCE_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-7}


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that is trained further.

    Attributes:
        potential: Its weights.
        name: Full name, ``name@version`` for models of the manifest.
        short_name: Name without the version.
        card: Its card, Markdown.
        license_text: Its licence in full.
    """

    potential: Potential
    name: str
    short_name: str
    card: str
    license_text: str


def check_elements(potential: Potential, frames: Sequence[Frame]) -> None:
    """Refuse frames with elements that the model does not cover.

    Raises:
        DataError: naming elements and frames.
    """
    known = set(potential.config.elements)
    bad = [i for i, f in enumerate(frames) if not elements_of(f.structure) <= known]
    if bad:
        z = sorted(elements_of(*(frames[i].structure for i in bad)) - known)
        names, covered = (
            " ".join(chemical_symbols[i] for i in part) for part in (z, sorted(known))
        )
        raise DataError(
            f"{len(bad)} of {len(frames)} frames (the first is frame {bad[0]}) have element(s) "
            f"{names}, which the base model does not know (it covers {covered}): leave these "
            "frames out or choose a base with these elements (`lesff list`)"
        )


@dataclass(frozen=True, kw_only=True)
class EnergyShift:
    """Change of the reference energies.

    Attributes:
        by_element: eV per atom, by atomic number.
    """

    by_element: dict[int, float]

    def of(self, numbers: np.ndarray) -> float:
        """Change of the energy of a structure, eV."""
        return float(sum(self.by_element.get(int(z), 0.0) for z in numbers))

    def text(self) -> str:
        """For people."""
        moved = [f"{chemical_symbols[z]} {v:+.4f}" for z, v in self.by_element.items() if v]
        return ", ".join(moved) + " eV" if moved else "none"


def energy_shift(
    potential: Potential, base: Sequence[FramePrediction], options: FinetuneOptions
) -> EnergyShift:
    """Change of the reference energies that the options ask for.

    A refit explains the difference of labels and base model by composition, with every frame
    counting alike per atom; of the many solutions for few compositions it is the smallest.

    Args:
        potential: The base model.
        base: Its predictions for the training frames.
        options: The options.

    Raises:
        ConfigError: for given energies of unknown elements.
        DataError: for a refit without energies.
    """
    elements = potential.config.elements
    if options.energies == "keep":
        return EnergyShift(by_element=dict.fromkeys(elements, 0.0))
    if options.energies == "given":
        return _given_shift(potential, options)
    known = [p for p in base if np.isfinite(p.frame.energy)]
    if not known:
        return EnergyShift(by_element=dict.fromkeys(elements, 0.0))
    return _refit(elements, known)


def _refit(elements: Sequence[int], known: Sequence[FramePrediction]) -> EnergyShift:
    counts = composition([p.frame for p in known], elements)
    difference = np.array([p.frame.energy - p.energy for p in known])
    shift, _ = explain_by_elements(counts, difference, rcond=1e-6)
    return EnergyShift(by_element={z: float(v) for z, v in zip(elements, shift, strict=True)})


def _given_shift(potential: Potential, options: FinetuneOptions) -> EnergyShift:
    given = {}
    for symbol, value in options.given_energies.items():
        z = atomic_numbers.get(symbol)
        if z not in potential.config.elements:
            covered = " ".join(chemical_symbols[i] for i in potential.config.elements)
            raise ConfigError(f"`given_energies` must name elements of {covered}, got {symbol!r}")
        given[z] = value
    now = dict(zip(potential.config.elements, potential.config.reference_energies, strict=True))
    return EnergyShift(by_element={z: given.get(z, old) - old for z, old in now.items()})


def with_shift(potential: Potential, shift: EnergyShift) -> Potential:
    """The same weights with moved reference energies, ready to train."""
    config = potential.config
    energies = [
        old + shift.by_element[z]
        for z, old in zip(config.elements, config.reference_energies, strict=True)
    ]
    return with_reference_energies(potential, energies).train()


def untrained(potential: Potential, seed: int) -> Potential:
    """A model of the same configuration with weights drawn anew."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = Potential(potential.config)
    fresh.cast_parameters(potential.dtype)
    return fresh.to(device=potential.device).requires_grad_(requires_grad=False).eval()


def check_start(
    base: Sequence[FramePrediction], potential: Potential, shift: EnergyShift
) -> dict[str, float]:
    """Largest differences between the base model and the model to train, before training.

    Args:
        base: Predictions of the base model for some frames.
        potential: The model to train.
        shift: Change of the reference energies, which is taken off.

    Returns:
        ``energy`` in eV/atom and ``forces`` in eV/A.

    Raises:
        ConfigError: if they exceed rounding.
    """
    start = predict_frames(potential, [p.frame for p in base])
    energy = max(
        abs(s.energy - b.energy - shift.of(b.frame.structure.numbers)) / len(b.frame.structure)
        for s, b in zip(start, base, strict=True)
    )
    forces = max(float(np.abs(s.forces - b.forces).max()) for s, b in zip(start, base, strict=True))
    allowed = _ENERGY_TOLERANCE[potential.dtype], _FORCE_TOLERANCE[potential.dtype]
    if not (energy <= allowed[0] and forces <= allowed[1]):
        raise ConfigError(
            "the model to train must give the base model's answers before training, but differs by "
            f"{energy:.1e} eV/atom and {forces:.1e} eV/A (allowed: {allowed[0]:.0e} and "
            f"{allowed[1]:.0e})"
        )
    return {"energy": energy, "forces": forces}


_EMBEDDINGS = ("architecture.embedding", "state_embedding", "joint_embedding", "local_state")


def part_of(name: str, readout_names: Sequence[str] = ("readouts", "state_readout")) -> str:
    """Part of the model that a parameter belongs to; one of ``PARTS``.

    >>> part_of("architecture.readouts.layers.0.weight")
    'readout'

    Args:
        name: Of the parameter, as in the state dict.
        readout_names: See :class:`lesff.architectures.base.Architecture`.
    """
    if name.startswith(("charge_head", "multipole_head")):
        return "charges"
    if any(_is_in(name, f"architecture.{readout}") for readout in readout_names):
        return "readout"
    if name.startswith(_EMBEDDINGS):
        return "embedding"
    return "trunk"


def _is_in(name: str, module: str) -> bool:
    """Whether a parameter is this one, or of this module."""
    return name == module or name.startswith(f"{module}.")


def make_trainables(potential: Potential, options: FinetuneOptions) -> Trainables:
    """Freeze what the strategy freezes; returns what the optimiser moves.

    Raises:
        ConfigError: for a strategy that trains parts which the architecture does not name.
    """
    architecture = potential.architecture
    last = f"architecture.{architecture.layers_name}.{architecture.n_layers - 1}"
    _check_parts(potential, options.strategy, last)
    adapted: dict[str, nn.Parameter] = {}
    for name, parameter in potential.named_parameters():
        part = part_of(name, architecture.readout_names)
        is_head = part in ("readout", "charges")
        trained = {
            "full": True,
            "head": is_head,
            "last_layer": is_head or _is_in(name, last),
            "lora": is_head,
        }[options.strategy]
        if options.strategy == "lora" and not is_head and _can_adapt(parameter, options.lora_rank):
            adapted[name] = parameter
            trained = True
        parameter.requires_grad_(trained)
    if options.strategy == "lora":
        return LowRankTrainables(potential, adapted, options.lora_rank, options.seed)
    return DirectTrainables(potential)


def _check_parts(potential: Potential, strategy: Strategy, last: str) -> None:
    """Raise ConfigError if a strategy would leave out a part that it is named after."""
    names = [name for name, _ in potential.named_parameters()]
    wanted = {"readout_names": [f"architecture.{x}" for x in potential.architecture.readout_names]}
    if strategy == "last_layer":
        wanted["layers_name"] = [last]
    for attribute, modules in wanted.items():
        found = any(_is_in(name, module) for name in names for module in modules)
        if strategy != "full" and not found:
            kind = type(potential.architecture).__name__
            raise ConfigError(
                f"`strategy` must be 'full' for {kind}, got {strategy!r}: it has no weights named "
                f"{' or '.join(modules)}; set `{attribute}` of the class"
            )


def _can_adapt(weight: nn.Parameter, rank: int) -> bool:
    return weight.ndim in (2, 3) and min(weight.shape[0], weight.shape[-1]) > rank
