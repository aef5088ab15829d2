"""A model is a folder: configuration, weights, card, golden values and licence; never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lesff.disk import replaced_folder
from lesff.errors import ConfigError, IntegrityError, ModelNotFoundError
from lesff.model_folder.digests import check_digests, digest_metadata
from lesff.model_folder.golden import golden_values
from lesff.model_folder.layout import (
    CARD_FILE,
    CONFIG_FILE,
    EVALUATION_FILE,
    LICENSE_FILE,
    MODEL_FILES,
    OPTIONAL_FILES,
    PARITY_FILE,
    SIGNATURE_FILE,
    UNCERTAINTY_FILE,
    WEIGHTS_FILE,
)
from lesff.model_folder.tensor_file import (
    REPLACE_ADVICE,
    check_expected,
    check_present,
    read_header,
    read_tensors,
    write_tensors,
)
from lesff.plain_data import from_dict, read_json
from lesff.potential.config import DTYPES, ModelConfig
from lesff.potential.ensemble import Ensemble, members_of
from lesff.potential.potential import RADIAL_MODES, Potential, RadialMode
from lesff.potential.uncertainty import Uncertainty
from lesff.potential.upgrade import upgraded

_MODEST = 256
"""Largest size in a configuration that is built at once: at most 10^8 weights."""
MEMBERS = "members"
"""Key of the configurations of an ensemble; its weights are named ``members.0.`` and so on."""
MAX_MEMBERS = 64
MAX_VALUES = 10**9
"""Numbers in the weights of a model; the largest published ones have a tenth of it."""


def save_model(
    potential: Potential,
    folder: Path,
    *,
    card: str,
    license_text: str,
    evaluation: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model folder; it appears complete or not at all.

    Weights are stored in the configuration's dtype; an ensemble is one folder, too. Golden values
    come from the stored weights, evaluated in float64.

    Args:
        potential: The model.
        folder: Where to write; its parent is made if need be.
        card: Model card, Markdown.
        license_text: Full text of the licence.
        evaluation: Second part of the card, Markdown; none if it has one part.
        overwrite: Replace a model folder that is already there.

    Raises:
        ConfigError: if ``folder`` exists and may not be replaced, or the configuration has values
            that JSON cannot hold, or the uncertainty was calibrated for other weights.
        IntegrityError: if weights or predictions are not finite.
    """
    folder = Path(folder).resolve()
    _check_target(folder, overwrite=overwrite)
    with replaced_folder(folder) as new:
        new.mkdir()
        texts = {CARD_FILE: card, LICENSE_FILE: license_text}
        if evaluation is not None:
            texts[EVALUATION_FILE] = evaluation
        _write_files(potential, new, texts)


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    radial: RadialMode | None = None,
) -> Potential:
    """Read a model folder; parameters come back frozen, in evaluation mode.

    Args:
        folder: The model folder.
        dtype: Type to compute in, float32 or float64; the configuration's if not given.
        device: Where to put the model.
        radial: Whether radial functions come from tables; if not given, in float32 only.

    Raises:
        ModelNotFoundError: if the folder does not exist.
        ConfigError: for an unknown key or a bad value in ``config.json``, or a bad ``dtype`` or
            ``radial``.
        IntegrityError: if a file is missing or damaged, or the weights are not exactly those that
            the configuration asks for, or not those that were saved with the golden values.
    """
    folder = Path(folder)
    potential = load_unchecked(folder, dtype=dtype, device=device, radial=radial)
    check_digests(folder)
    return potential


def load_unchecked(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    radial: RadialMode | None = None,
) -> Potential:
    """As :func:`load_model`, without a look at the digests that the folder carries."""
    if dtype is not None and dtype not in DTYPES.values():
        raise ConfigError(f"`dtype` must be torch.float32 or torch.float64, got {dtype}")
    if radial is not None and radial not in RADIAL_MODES:
        raise ConfigError(f"`radial` must be one of {', '.join(RADIAL_MODES)}, got {radial!r}")
    configs = _read_configs(folder)
    header = read_header(folder / WEIGHTS_FILE)
    # nothing large is allocated for a configuration whose weights are not there
    if len(configs) > 1 or not _is_modest(configs[0]):
        check_expected(header, expected_weights(*configs), folder / WEIGHTS_FILE)
    with torch.random.fork_rng(devices=[]):  # the random initial weights are not kept
        potential = _build(configs)
    expected = _expected(potential)
    check_expected(header, expected, folder / WEIGHTS_FILE)
    # only weights have the model's type: tables and reference energies stay in float64
    potential.cast_parameters(DTYPES[configs[0].dtype])
    potential.load_state_dict(
        read_tensors(folder / WEIGHTS_FILE, expected), strict=True, assign=True
    )
    if (folder / UNCERTAINTY_FILE).exists():
        if len(configs) > 1:
            raise IntegrityError(
                f"{folder / UNCERTAINTY_FILE} must not be there: an ensemble has no calibration"
            )
        potential.uncertainty = _read_uncertainty(folder / UNCERTAINTY_FILE, potential)
    if dtype is not None:
        potential.cast_parameters(dtype)
    potential.radial = radial or ("table" if potential.dtype == torch.float32 else "exact")
    return potential.to(device=device).requires_grad_(False).eval()


def expected_weights(*configs: ModelConfig) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every weight of a configuration; takes no memory for them.

    Args:
        *configs: That of a model, or those of the members of an ensemble.

    Raises:
        ConfigError: for more than :data:`MAX_VALUES` values.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        skeleton = _build(configs)
    n_values = sum(value.numel() for value in skeleton.state_dict().values())
    if n_values > MAX_VALUES:
        raise ConfigError(
            f"`{CONFIG_FILE}` must describe at most {MAX_VALUES:,} weights, got {n_values:,}"
        )
    return _expected(skeleton)


def _build(configs: Sequence[ModelConfig]) -> Potential:
    """A potential, or an ensemble of several, with initial weights."""
    members = [Potential(config) for config in configs]
    return members[0] if len(members) == 1 else Ensemble(members)


def _expected(potential: Potential) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every weight as it is stored."""
    stored, parameters = DTYPES[potential.config.dtype], dict(potential.named_parameters())
    return {
        name: (stored if name in parameters else value.dtype, tuple(value.shape))
        for name, value in potential.state_dict().items()
    }


def _is_modest(config: ModelConfig) -> bool:
    """Whether a configuration takes less than half a GB whatever its weights are.

    Such ones need no skeleton on the meta device, whose arithmetic imports sympy and
    torch._dynamo: a second of CPU at every start.
    """
    data = config.to_dict()
    sizes = [*_whole_numbers(data["architecture"]), *_whole_numbers(data["long_range"])]
    return max((config.architecture_config().channels, *sizes)) <= _MODEST


def _whole_numbers(data: Any) -> Iterator[int]:
    """All whole numbers in plain data, lengths of its lists among them."""
    if isinstance(data, dict):
        data = list(data.values())
    if isinstance(data, list | tuple):
        yield len(data)
        for part in data:
            yield from _whole_numbers(part)
    elif isinstance(data, int) and not isinstance(data, bool):
        yield data


def weights_digest(potential: Potential) -> bytes:
    """SHA-256 of the weights as they are stored, 32 bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(_stored_weights(potential).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _stored_weights(potential: Potential) -> dict[str, Tensor]:
    stored, parameters = DTYPES[potential.config.dtype], dict(potential.named_parameters())
    return {
        name: value.detach().to("cpu", stored if name in parameters else value.dtype).clone()
        for name, value in potential.state_dict().items()
    }


def _check_target(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not overwrite:
        raise ConfigError(f"`folder` must not exist, got {folder}; pass overwrite=True to replace")
    foreign = (
        sorted(
            {entry.name for entry in folder.iterdir()}
            - {*MODEL_FILES, *OPTIONAL_FILES, SIGNATURE_FILE}
        )
        if folder.is_dir()
        else [folder.name]
    )
    if foreign:
        raise ConfigError(
            f"`folder` must be a model folder to be replaced, but {folder} has other files: "
            f"{', '.join(foreign[:5])}; choose another folder"
        )


def _write_files(potential: Potential, folder: Path, texts: Mapping[str, str]) -> None:
    config = potential.config
    members = [member.config.to_dict() for member in members_of(potential)]
    data = members[0] if len(members) == 1 else {MEMBERS: members}
    try:
        text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`config` must hold finite plain data only: {error}") from error
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8", newline="\n")
    for name, content in texts.items():
        (folder / name).write_text(content, encoding="utf-8", newline="\n")
    weights = _stored_weights(potential)
    bad = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if bad:
        raise IntegrityError(
            f"weights must be finite in {config.dtype} to be saved, {bad[0]} is not"
        )
    write_tensors(weights, folder / WEIGHTS_FILE)
    if potential.uncertainty is not None:
        _check_belongs(potential.uncertainty, potential)
        write_tensors(potential.uncertainty.tensors(), folder / UNCERTAINTY_FILE)
    golden = golden_values(load_model(folder, dtype=torch.float64))
    write_tensors(golden, folder / PARITY_FILE, metadata=digest_metadata(folder))


def _check_belongs(uncertainty: Uncertainty, potential: Potential) -> None:
    if bytes(uncertainty.weights.tolist()) != weights_digest(potential):
        raise ConfigError(
            "`uncertainty` must belong to these weights, but was calibrated for others: calibrate "
            "again, or set `potential.uncertainty = None`"
        )


def _read_configs(folder: Path) -> list[ModelConfig]:
    """Configuration of a model, or those of all members of an ensemble."""
    if not folder.is_dir():
        raise ModelNotFoundError(f"model folder {folder} does not exist; check the path")
    path = folder / CONFIG_FILE
    check_present(path)
    data = read_json(path)
    if not isinstance(data, dict) or MEMBERS not in data:
        return [from_dict(ModelConfig, upgraded(data, CONFIG_FILE), CONFIG_FILE)]
    rows = data[MEMBERS]
    is_list = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    if len(data) > 1 or not is_list or not 2 <= len(rows) <= MAX_MEMBERS:
        raise ConfigError(
            f"`{MEMBERS}` of {path} must be alone there, a list of 2 to {MAX_MEMBERS} "
            "configurations"
        )
    names = [f"{CONFIG_FILE}, member {i}" for i in range(len(rows))]
    return [
        from_dict(ModelConfig, upgraded(row, name), name)
        for row, name in zip(rows, names, strict=True)
    ]


def _read_uncertainty(path: Path, potential: Potential) -> Uncertainty:
    shapes = {name: shape for name, (_, shape) in read_header(path).rows.items()}
    tensors = read_tensors(path, Uncertainty.shapes(shapes))
    elements = set(tensors["elements"].tolist())
    fits = tensors["energy_root"].shape[0] == potential.architecture.n_features
    if not (fits and elements and elements <= set(potential.config.elements)):
        raise IntegrityError(f"{path} does not belong to this {CONFIG_FILE}; {REPLACE_ADVICE}")
    uncertainty = Uncertainty(tensors)
    try:
        _check_belongs(uncertainty, potential)
    except ConfigError as error:
        raise IntegrityError(
            f"{path} was calibrated for other weights than those beside it: {REPLACE_ADVICE}, or "
            "calibrate again"
        ) from error
    return uncertainty
