"""Calibration of uncertainty: passes over training frames, a scale from held-out ones.

Training frames may be a :class:`lesff.train.frame_stream.FrameStream`: memory then does not grow
with their number. They are read three times: to look at them, for covariances, and for how far
their atoms are from the mean. Nothing is written, so that an interruption leaves nothing behind.
See :mod:`lesff.potential.uncertainty` for the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lesff.atoms.elements import elements_of
from lesff.atoms.segments import segment_sum
from lesff.atoms.structure import Structure
from lesff.errors import DataError
from lesff.model_folder.card import read_evaluation, with_section
from lesff.model_folder.folder import load_model, save_model, weights_digest
from lesff.model_folder.layout import CARD_FILE, LICENSE_FILE
from lesff.potential.potential import Potential
from lesff.potential.uncertainty import Uncertainty
from lesff.train.data import Frame, structure_hash
from lesff.train.frame_stream import Frames, pieces_of
from lesff.train.reference_energies import composition, explain_by_elements
from lesff.uncertainty.agreement import (
    Calibration,
    Observations,
    batches_of,
    check_labels,
    observe,
    rms,
)
from lesff.uncertainty.statistics import Statistics, inverse_root, last_features

DIRECTIONS = 16
"""Backward passes of a force uncertainty."""
MIN_VALIDATION = 10
"""Fewest validation frames that set a scale."""
_KNOWN_SHARE = 0.99
"""Share of the validation frames whose farthest atom counts as known."""
_MARGIN = 1.1
"""What is known reaches this much further than the farthest known atom."""
_NO_ERROR = 1e-5
"""Force errors (eV/A) that only labels made by the model itself can have."""


def calibrate(
    potential: Potential,
    train: Frames,
    validation: Sequence[Frame],
    *,
    directions: int = DIRECTIONS,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Uncertainty, Calibration]:
    """Uncertainty of a model, and how it agrees with the errors that set its scale.

    Args:
        potential: The model; it is not changed.
        train: Frames like those that it was trained on, in memory or from files; labels are not
            used.
        validation: Frames with energies and forces that it was not trained on.
        directions: Backward passes that a force uncertainty takes; from the number of last-layer
            features on it is exact, else its variance is estimated along as many random, equally
            weighted orthogonal directions.
        seed: Seed of the directions.
        progress: Whether to show progress bars.

    Raises:
        DataError: for no training frames, too few validation frames, missing labels, labels with
            another energy zero, elements that the model does not cover or frames on both sides.
    """
    if directions < 1:
        raise DataError(f"`directions` must be at least 1, got {directions}")
    scan = _scan(potential, train, validation, progress=progress)
    passes = {"total": scan.n_frames, "progress": progress}
    statistics = Statistics.of(potential, train, **passes)
    root = inverse_root(statistics.covariance)
    first = Uncertainty(
        {
            "energy_root": root,
            "energy_scale": torch.ones((), dtype=torch.float64),
            "force_root": root @ _mixing(len(root), directions, seed),
            **statistics.environments(),
            **scan.seen(),
            "weights": torch.tensor(list(weights_digest(potential)), dtype=torch.uint8),
        }
    )
    # an atom as far as the known ones of its element reach is at distance 1
    reach = statistics.reach(potential, first, train, **passes)
    tensors = first.tensors()
    tensors["whitening"] = tensors["whitening"] / reach[:, None, None]
    raw = observe(potential, Uncertainty(tensors), validation, progress=progress)
    _check_zero(raw)
    if not rms(raw.force_error) > _NO_ERROR:
        raise DataError(
            "validation frames must have errors to set the scale of the uncertainty, but agree "
            "with the model exactly (were they labelled by it?)"
        )
    alpha = raw.energy_z()
    tensors["energy_root"] = tensors["energy_root"] * alpha
    tensors["energy_scale"] = tensors["energy_scale"] * alpha
    tensors["force_root"] = tensors["force_root"] * raw.forces_z()
    # held-out frames of the same kind count as known, too
    further = float(np.quantile(raw.farthest[np.isfinite(raw.farthest)], _KNOWN_SHARE))
    limit = _MARGIN * max(1.0, further)
    tensors["whitening"] = tensors["whitening"] / limit
    final = Uncertainty(tensors)
    return final, observe(potential, final, validation, progress=False).summary()


def calibrate_folder(
    folder: Path,
    train: Frames,
    validation: Sequence[Frame],
    *,
    output: Path | None = None,
    directions: int = DIRECTIONS,
    device: str | torch.device = "cpu",
    overwrite: bool = False,
    progress: bool = False,
) -> Calibration:
    """Calibrate the model of a folder; its card gets a section about it.

    Args:
        folder: The model folder.
        train: As ``validation``, ``directions`` and ``progress``, see :func:`calibrate`.
        validation: See there.
        output: Folder to write; ``folder`` is replaced if not given.
        directions: See there.
        device: Where to compute.
        overwrite: Replace a model folder that is at ``output``.
        progress: See there.

    Raises:
        DataError: as :func:`calibrate`.
        ConfigError: if ``output`` exists.
    """
    # the stored weights: rounding of another dtype is not theirs to answer for
    potential = load_model(folder, device=device)
    potential.uncertainty, result = calibrate(
        potential, train, validation, directions=directions, progress=progress
    )
    card = (folder / CARD_FILE).read_text(encoding="utf-8")
    save_model(
        potential,
        folder if output is None else output,
        card=with_section(card, "Uncertainty", card_section(len(train), result)),
        license_text=(folder / LICENSE_FILE).read_text(encoding="utf-8"),
        evaluation=read_evaluation(folder),
        overwrite=overwrite or output is None,
    )
    return result


def _mixing(size: int, directions: int, seed: int) -> Tensor:
    """Directions along which force uncertainties are estimated, (size, m)."""
    if directions >= size:
        return torch.eye(size, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(size, size, dtype=torch.float64, generator=generator)
    return (size / directions) ** 0.5 * torch.linalg.qr(random)[0][:, :directions]


def card_section(n_train: int, result: Calibration) -> str:
    """What a card says about the uncertainty of its model, Markdown."""
    lines = "\n".join(f"- {line}" for line in result.lines())
    return (
        f"Last-layer uncertainty (LLPR) from {n_train} training frames, scaled on "
        f"{result.n_frames} validation frames, on which:\n\n{lines}"
    )


def frame_features(
    potential: Potential, frames: Sequence[Frame], *, progress: bool = False
) -> Tensor:
    """Last-layer features summed over atoms, over the square root of their number.

    Returns:
        (n_frames, n_features), float64.
    """
    rows: list[Tensor] = [torch.empty(0)] * len(frames)
    read = batches_of(potential, frames, "features", total=len(frames), progress=progress)
    for chosen, batch in read:
        graph = batch.graph
        summed = segment_sum(last_features(potential, graph), graph.batch, graph.n_systems)
        scaled = summed / graph.atoms_per_system().to(torch.float64).sqrt()[:, None]
        for index, row in zip(chosen, scaled.cpu(), strict=True):
            rows[index] = row
    return torch.stack(rows)


@dataclass
class _Scan:
    """What a first look at the training frames finds; no model is evaluated.

    Attributes:
        n_frames: Their number.
        total_charge: Total charges, e.
        spin_multiplicity: Spin multiplicities.
        periodic_directions: Numbers of periodic directions.
    """

    n_frames: int = 0
    total_charge: set[int] = field(default_factory=set)
    spin_multiplicity: set[int] = field(default_factory=set)
    periodic_directions: set[int] = field(default_factory=set)

    def add(self, structure: Structure) -> None:
        """One more."""
        self.n_frames += 1
        self.total_charge.add(structure.total_charge)
        self.spin_multiplicity.add(structure.spin_multiplicity)
        self.periodic_directions.add(int(structure.pbc.sum()))

    def seen(self) -> dict[str, Tensor]:
        """States and boundaries as tensors."""
        names = ("total_charge", "spin_multiplicity", "periodic_directions")
        return {name: torch.tensor(sorted(getattr(self, name))) for name in names}


def _scan(
    potential: Potential, train: Frames, validation: Sequence[Frame], *, progress: bool
) -> _Scan:
    """Look at all frames before anything is computed.

    Raises:
        DataError: for frames that cannot be used, and for validation frames among the others.
    """
    if len(validation) < MIN_VALIDATION:
        raise DataError(
            f"at least {MIN_VALIDATION} validation frames must be given to set the scale of the "
            f"uncertainty, got {len(validation)}"
        )
    check_labels(validation, "validation")
    known = set(potential.config.elements)
    held = {}
    for index, frame in enumerate(validation):
        _check_covered(frame, known, f"validation frame {index}")
        held.setdefault(structure_hash(frame), index)
    found, both = _Scan(), set()
    with tqdm(disable=not progress, unit="frame", desc="read") as bar:
        for piece in pieces_of(train):
            for frame in piece:
                _check_covered(frame, known, f"training frame {found.n_frames}")
                found.add(frame.structure)
                both |= {held[name] for name in (structure_hash(frame),) if name in held}
            bar.update(len(piece))
    if not found.n_frames:
        raise DataError("training frames must be given to calibrate on, got none")
    if both:
        raise DataError(
            f"{len(both)} validation frames (the first is frame {min(both)}) are training frames "
            "too: the scale would be too small; remove them from one of the files"
        )
    return found


def _check_covered(frame: Frame, known: set[int], where: str) -> None:
    if not elements_of(frame.structure) <= known:
        raise DataError(
            f"{where} has elements that the model does not cover; leave such frames out"
        )


def _check_zero(raw: Observations) -> None:
    """Refuse labels whose energies differ from the model's by a sum over atoms."""
    elements = sorted(elements_of(*(frame.structure for frame in raw.frames)))
    if len(raw.frames) < len(elements) + 5:
        return
    counts = composition(raw.frames, elements)
    per_atom = raw.energy_error / counts.sum(1)
    rest = rms(explain_by_elements(counts, raw.energy_error)[1])
    if rest < 0.1 * rms(per_atom) and rms(per_atom) > 0.1:
        raise DataError(
            f"energies of the validation frames differ from the model's by {rms(per_atom):.3g} "
            f"eV/atom, of which reference energies of atoms explain all but {rest:.2g}: they have "
            "another energy zero; finetune the model on such frames first (`lesff finetune` refits "
            "reference energies)"
        )
