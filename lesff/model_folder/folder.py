"""A model is a folder: configuration, weights, card, golden values and licence; never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from ase.data import covalent_radii
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save_file
from torch import Tensor

from lesff.atoms.graph import build_graph
from lesff.atoms.structure import Structure, to_structure
from lesff.errors import ConfigError, IntegrityError, ModelNotFoundError
from lesff.model_folder.layout import (
    CARD_FILE,
    CONFIG_FILE,
    LICENSE_FILE,
    MODEL_FILES,
    OPTIONAL_FILES,
    PARITY_FILE,
    SIGNATURE_FILE,
    UNCERTAINTY_FILE,
    WEIGHTS_FILE,
)
from lesff.plain_data import from_dict, read_json
from lesff.potential.potential import RADIAL_MODES, ModelConfig, Potential, RadialMode
from lesff.potential.uncertainty import Uncertainty
from lesff.potential.upgrade import upgraded

PARITY_TOLERANCE = 1e-7
"""Allowed error of replayed float64 values, in eV per atom, eV/A and e.

Other processors and thread counts change the order of sums, which moves results by less than 1e-9.
"""

_MAX_HEADER_BYTES = 25_000_000
_MAX_FILE_BYTES = 8 * 2**30
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.bool: "BOOL",
    torch.uint8: "U8",
}
"""How a safetensors header spells a type."""
_REPLACE_ADVICE = "fetch or copy the model again"

_GOLDEN_UNCERTAINTIES = ("energy_uncertainty", "forces_uncertainty")

_WATER = ase.Atoms("OHH", [(0.0, 0.0, 0.119), (0.0, 0.763, -0.477), (0.0, -0.763, -0.477)])


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """Agreement of a model with the golden values stored beside it.

    Attributes:
        energy_error: Largest error of an energy, in eV per atom.
        force_error: Largest error of a force component, in eV/A.
        charge_error: Largest error of a charge in e, or None for a model without charges.
        uncertainty_error: Largest error of an uncertainty (eV, eV/A), relative to it where it is
            above 1, or None for a model without.
        n_structures: Number of structures replayed.
        tolerance: Largest error allowed, same units.
    """

    energy_error: float
    force_error: float
    charge_error: float | None
    n_structures: int
    tolerance: float
    uncertainty_error: float | None = None

    @property
    def ok(self) -> bool:
        """Whether every error is within the tolerance; False for errors that are not numbers."""
        errors = [self.energy_error, self.force_error]
        errors += [self.charge_error or 0.0, self.uncertainty_error or 0.0]
        return all(error <= self.tolerance for error in errors)


def save_model(
    potential: Potential,
    folder: Path,
    *,
    card: str,
    license_text: str,
    overwrite: bool = False,
) -> None:
    """Write a model folder; it appears complete or not at all.

    Weights are stored in the configuration's dtype. Golden values come from the stored weights,
    evaluated in float64.

    Args:
        potential: The model.
        folder: Where to write; its parent is made if need be.
        card: Model card, Markdown.
        license_text: Full text of the licence.
        overwrite: Replace a model folder that is already there.

    Raises:
        ConfigError: if ``folder`` exists and may not be replaced, or the configuration has values
            that JSON cannot hold, or the uncertainty was calibrated for other weights.
        IntegrityError: if weights or predictions are not finite.
    """
    folder = Path(folder).resolve()
    _check_target(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    new = work / "new"
    try:
        new.mkdir(parents=True)
        _write_files(potential, new, card=card, license_text=license_text)
        _swap(new, folder, work / "old")
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
            the configuration asks for.
    """
    folder = Path(folder)
    if dtype is not None and dtype not in _DTYPES.values():
        raise ConfigError(f"`dtype` must be torch.float32 or torch.float64, got {dtype}")
    if radial is not None and radial not in RADIAL_MODES:
        raise ConfigError(f"`radial` must be one of {', '.join(RADIAL_MODES)}, got {radial!r}")
    config = _read_config(folder)
    with torch.random.fork_rng(devices=[]):  # the random initial weights are not kept
        potential = Potential(config)
    # only weights have the model's type: tables and reference energies stay in float64
    potential.cast_parameters(_DTYPES[config.dtype])
    expected = {
        name: (value.dtype, tuple(value.shape)) for name, value in potential.state_dict().items()
    }
    potential.load_state_dict(
        _read_tensors(folder / WEIGHTS_FILE, expected), strict=True, assign=True
    )
    if (folder / UNCERTAINTY_FILE).exists():
        potential.uncertainty = _read_uncertainty(folder / UNCERTAINTY_FILE, potential)
    if dtype is not None:
        potential.cast_parameters(dtype)
    potential.radial = radial or ("table" if potential.dtype == torch.float32 else "exact")
    return potential.to(device=device).requires_grad_(False).eval()


def verify_parity(folder: Path) -> ParityReport:
    """Replay the golden values of a model folder in float64 and report the largest errors.

    Args:
        folder: The model folder.

    Raises:
        IntegrityError: if a file is missing or damaged.
        ConfigError: for a bad ``config.json``.
    """
    folder = Path(folder)
    potential = load_model(folder, dtype=torch.float64)
    golden = _read_parity(
        folder / PARITY_FILE,
        has_charges=potential.charge_head is not None,
        has_uncertainty=potential.uncertainty is not None,
    )
    counts = golden["n_atoms"]
    now = _evaluate(potential, _parity_structures(golden, folder / PARITY_FILE))

    def largest(name: str) -> float:
        return float((now[name] - golden[name]).abs().max())

    energy_error = (now["energy"] - golden["energy"]).abs() / counts
    return ParityReport(
        energy_error=float(energy_error.max()),
        force_error=largest("forces"),
        charge_error=largest("charges") if "charges" in golden else None,
        n_structures=len(counts),
        tolerance=PARITY_TOLERANCE,
        uncertainty_error=_uncertainty_error(now, golden),
    )


def weights_digest(potential: Potential) -> bytes:
    """SHA-256 of the weights as they are stored, 32 bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(_stored_weights(potential).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _stored_weights(potential: Potential) -> dict[str, Tensor]:
    stored, parameters = _DTYPES[potential.config.dtype], dict(potential.named_parameters())
    return {
        name: value.detach().to("cpu", stored if name in parameters else value.dtype).clone()
        for name, value in potential.state_dict().items()
    }


def _uncertainty_error(now: Mapping[str, Tensor], golden: Mapping[str, Tensor]) -> float | None:
    errors = [
        float(((now[name] - golden[name]) / golden[name].clamp(min=1.0)).abs().max())
        for name in _GOLDEN_UNCERTAINTIES
        if name in golden
    ]
    return max(errors, default=None)


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


def _write_files(potential: Potential, folder: Path, *, card: str, license_text: str) -> None:
    config = potential.config
    try:
        text = json.dumps(config.to_dict(), indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`config` must hold finite plain data only: {error}") from error
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8", newline="\n")
    (folder / CARD_FILE).write_text(card, encoding="utf-8", newline="\n")
    (folder / LICENSE_FILE).write_text(license_text, encoding="utf-8", newline="\n")
    weights = _stored_weights(potential)
    bad = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if bad:
        raise IntegrityError(
            f"weights must be finite in {config.dtype} to be saved, {bad[0]} is not"
        )
    _write_tensors(weights, folder / WEIGHTS_FILE)
    if potential.uncertainty is not None:
        _check_belongs(potential.uncertainty, potential)
        _write_tensors(potential.uncertainty.tensors(), folder / UNCERTAINTY_FILE)
    _write_tensors(_golden_values(load_model(folder, dtype=torch.float64)), folder / PARITY_FILE)


def _check_belongs(uncertainty: Uncertainty, potential: Potential) -> None:
    if bytes(uncertainty.weights.tolist()) != weights_digest(potential):
        raise ConfigError(
            "`uncertainty` must belong to these weights, but was calibrated for others: calibrate "
            "again, or set `potential.uncertainty = None`"
        )


def _write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)  # save_file makes it private


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Put ``new`` in the place of ``folder``; what was there goes to ``old``."""
    if not folder.exists():
        os.replace(new, folder)
        return
    os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        os.replace(old, folder)
        raise


def _read_config(folder: Path) -> ModelConfig:
    if not folder.is_dir():
        raise ModelNotFoundError(f"model folder {folder} does not exist; check the path")
    path = folder / CONFIG_FILE
    _check_present(path)
    return from_dict(ModelConfig, upgraded(read_json(path), CONFIG_FILE), CONFIG_FILE)


def _check_present(path: Path) -> None:
    if not path.is_file():
        raise IntegrityError(f"{path} is missing; {_REPLACE_ADVICE}")


def _read_tensors(
    path: Path, expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> dict[str, Tensor]:
    """Tensors of a file that must hold exactly the expected names, types and shapes, finite."""
    data = _read_checked_bytes(path)
    found = {name: (row["dtype"], tuple(row["shape"])) for name, row in _header(data, path).items()}
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        parts = [f"lacks {', '.join(missing[:5])}"] if missing else []
        parts += [f"has unexpected {', '.join(extra[:5])}"] if extra else []
        raise IntegrityError(
            f"{path} {' and '.join(parts)}: it does not belong to this {CONFIG_FILE}; "
            f"{_REPLACE_ADVICE}"
        )
    for name, (dtype, shape) in expected.items():
        if found[name] != (_DTYPE_NAMES[dtype], shape):
            raise IntegrityError(
                f"{path}: {name} must be {_DTYPE_NAMES[dtype]} of shape {shape}, "
                f"got {found[name][0]} of shape {found[name][1]}; {_REPLACE_ADVICE}"
            )
    tensors = _parse(data, path)
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise IntegrityError(f"{path}: {bad[0]} must be finite, but is not; {_REPLACE_ADVICE}")
    return tensors


def _read_checked_bytes(path: Path) -> bytes:
    """Content of a safetensors file whose size and header length make sense."""
    _check_present(path)
    size = path.stat().st_size
    if not 8 < size <= _MAX_FILE_BYTES:
        raise IntegrityError(
            f"{path} must have 9..{_MAX_FILE_BYTES} bytes, got {size}; {_REPLACE_ADVICE}"
        )
    with path.open("rb") as stream:
        n_header = int.from_bytes(stream.read(8), "little")
    if not 2 <= n_header < min(_MAX_HEADER_BYTES, size - 7):
        raise IntegrityError(
            f"{path} says its header has {n_header} bytes, in a file of {size} bytes: it is cut "
            f"short or damaged; {_REPLACE_ADVICE}"
        )
    return path.read_bytes()


def _read_uncertainty(path: Path, potential: Potential) -> Uncertainty:
    rows = _header(_read_checked_bytes(path), path)
    shapes = {name: tuple(row["shape"]) for name, row in rows.items()}
    tensors = _read_tensors(path, Uncertainty.shapes(shapes))
    elements = set(tensors["elements"].tolist())
    fits = tensors["energy_root"].shape[0] == potential.architecture.n_features
    if not (fits and elements and elements <= set(potential.config.elements)):
        raise IntegrityError(f"{path} does not belong to this {CONFIG_FILE}; {_REPLACE_ADVICE}")
    uncertainty = Uncertainty(tensors)
    try:
        _check_belongs(uncertainty, potential)
    except ConfigError as error:
        raise IntegrityError(
            f"{path} was calibrated for other weights than those beside it: {_REPLACE_ADVICE}, or "
            "calibrate again"
        ) from error
    return uncertainty


def _header(data: bytes, path: Path) -> dict[str, dict[str, Any]]:
    """Types and shapes by tensor name; refuses duplicate names, which the format allows."""
    n_header = int.from_bytes(data[:8], "little")
    try:
        rows = json.loads(data[8 : 8 + n_header], object_pairs_hook=_unique)
        rows.pop("__metadata__", None)
        if not all(
            isinstance(row["dtype"], str) and all(type(n) is int and n >= 0 for n in row["shape"])
            for row in rows.values()
        ):
            raise ValueError("types must be names and shapes whole numbers")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"{path} has no readable header ({error}): it is damaged; {_REPLACE_ADVICE}"
        ) from error
    return rows


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate name")
    return result


def _parse(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return {name: value.clone() for name, value in parse_safetensors(data).items()}
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise IntegrityError(
            f"{path} is cut short or damaged ({error}); {_REPLACE_ADVICE}"
        ) from error


def _golden_values(potential: Potential) -> dict[str, Tensor]:
    """Inputs and float64 outputs of the built-in structures, concatenated over structures."""
    structures = _built_in_structures(potential.config, potential.architecture.cutoff)
    outputs = _evaluate(potential, structures)
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


def _evaluate(potential: Potential, structures: list[Structure]) -> dict[str, Tensor]:
    """Energies (n_structures,) eV, forces (n_atoms, 3) eV/A, charges (n_atoms,) e, float64."""
    names = ["energy", "forces"] + (["charges"] if potential.charge_head is not None else [])
    names += [] if potential.uncertainty is None else _GOLDEN_UNCERTAINTIES
    cutoff = potential.architecture.cutoff
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


def _read_parity(path: Path, *, has_charges: bool, has_uncertainty: bool) -> dict[str, Tensor]:
    header = _header(_read_checked_bytes(path), path)
    shapes = [tuple(header.get(name, {}).get("shape", ())) for name in ("n_atoms", "numbers")]
    if any(len(shape) != 1 or shape[0] < 1 for shape in shapes):
        raise IntegrityError(f"{path} holds no structures; {_REPLACE_ADVICE}")
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
    return _read_tensors(path, expected)


def _parity_structures(golden: Mapping[str, Tensor], path: Path) -> list[Structure]:
    """Structures of a parity file, checked like any input."""
    counts = golden["n_atoms"].tolist()
    if min(counts) < 1 or sum(counts) != len(golden["numbers"]):
        raise IntegrityError(f"{path}: n_atoms must add up to the atoms; {_REPLACE_ADVICE}")
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
