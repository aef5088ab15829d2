"""Frames that the model of a stage is calibrated on: those that it was trained on, as a stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

from ase.data import atomic_numbers

from lesff.atoms.elements import elements_of
from lesff.errors import DataError
from lesff.train.data import Frame
from lesff.train.frame_stream import FrameStream, StreamedFile, sample_of, without_twins
from lesff.train.recipe import SourceConfig
from lesff.train.stages import CalibrationConfig, Stage
from lesff.train.training_data import compositions_of, has_composition_of


def calibration_frames(
    stage: Stage, config: CalibrationConfig, folder: Path, elements: Iterable[int]
) -> tuple[FrameStream, list[Frame]]:
    """Training frames, read when they are gone through, and held-out frames of a calibration.

    The filters of the sources hold (``elements``, ``without``). Held-out frames whose energies do
    not count in training (``energies``, ``energy_states``) are left out: their zero is another one.
    Sources without any label (``only_counts``) teach nothing that could be known. Held-out frames
    that another file trains on are left out, with a warning.

    Args:
        stage: The stage.
        config: Its calibration.
        folder: Data folder.
        elements: Atomic numbers that the model covers; other frames are left out.

    Raises:
        ConfigError: for files that the stage does not train on.
        DataError: if a file cannot be used, or nothing was held out.
    """
    covered = frozenset(elements)
    train, held = stage.calibration_sources()
    own = {source.path for source in stage.trained_on}
    parts = [
        StreamedFile(
            path=folder / source.path,
            keep=_filter(source, folder, covered, is_validation=False),
            fraction=config.fraction,
        )
        for source in train
        if not source.only_counts
    ]
    rest = [
        StreamedFile(
            path=folder / source.path,
            keep=_filter(
                source, folder, covered, is_validation=True if source.path in own else None
            ),
        )
        for source in held
        if source.energies and not source.only_counts
    ]
    stream = FrameStream(parts)
    validation = without_twins(sample_of(FrameStream(rest), config.validation_frames), stream)
    if not validation:
        raise DataError(
            f"no frame of the files of stage {stage.name} is held out, so that nothing can set the "
            "scale of the uncertainty; name files with `calibration.validation`"
        )
    return stream, validation


def _filter(
    source: SourceConfig, folder: Path, covered: frozenset[int], *, is_validation: bool | None
) -> Callable[[Frame], bool]:
    """Which frames of a source count; those of both parts if ``is_validation`` is None."""
    allowed = covered
    if source.elements:
        allowed &= {atomic_numbers[symbol] for symbol in source.elements}
    left_out = set() if source.without is None else compositions_of(folder / source.without)

    def keep(frame: Frame) -> bool:
        structure = frame.structure
        if is_validation is not None and frame.is_validation != is_validation:
            return False
        if not elements_of(structure) <= allowed or has_composition_of(frame, left_out):
            return False
        if is_validation is False:
            return True
        state = (structure.total_charge, structure.spin_multiplicity)
        counts = not source.energy_states or state in source.energy_states
        return counts and not math.isnan(frame.energy)

    return keep
