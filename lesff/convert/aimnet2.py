"""Published AIMNet2 archives (TorchScript) -> configuration and weights.

The code of an archive is never read: sizes come from the shapes of its tensors, options from the
numbers that its modules carry, and what is computed with them from the paper (Anstine, Zubatyuk,
Isayev, Chem. Sci. 2025). Modules and options that are not known are refused, and so is every tensor
that nothing here uses.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lesff.convert.ledger import Tensors
from lesff.convert.record import Record
from lesff.convert.script import SCRIPT
from lesff.electrostatics.d3 import D3Config
from lesff.errors import UnsupportedInputError
from lesff.heads import LongRangeConfig
from lesff.potential.config import ModelConfig
from lesff.potential.ensemble import Ensemble
from lesff.potential.potential import Potential

ALL = "all"
"""Head that stands for the ensemble of all members."""
SIGMA, DL = 0.9, 0.9
"""A. Gaussian charges of the sums under :mod:`lesff.electrostatics.onset`: at a cutoff of 5 A their
interaction is that of point charges to 3e-8; the smooth cutoff of waves leaves out as little."""
_CHARGES = (-10, 10)
"""Total charges that a network without a table is taken to cover."""
_COULOMB = 2.0 * 7.1998226
"""eV A / e^2, the constant of the published models: half of it stands in front of their sums."""
_MANY = 1000.0
"""More neighbours than any atom has."""
_OUTPUTS = ("energy_mlp", "atomic_shift", "atomic_sum", "lrcoulomb", "d3bj")

State = dict[str, Tensor]


def is_aimnet2(root: Record) -> bool:
    """Whether a file holds an AIMNet2 model, or an ensemble of such."""
    return _kind(root) == "AIMNet2" or bool(_members(root))


def aimnet2_heads(root: Record) -> list[str]:
    """Names of the members of an ensemble, ``"0"``, ``"1"``, ...; ``"default"`` for one model.

    :data:`ALL` stands for all of them together.
    """
    return list(_members(root)) or ["default"]


def _kind(root: Record) -> str:
    """Name of a scripted class without its module."""
    return root.path.rsplit(".", 1)[-1] if root.path.startswith(SCRIPT) else ""


def _members(root: Record) -> dict[str, Record]:
    """Models of an ensemble by their names, none for other files."""
    if _kind(root) != "EnsembledModel":
        return {}
    # each inside a module that makes forces of its energy, which we have no use for
    found = {name: dict(_children(part)) for name, part in _children(root.module("models"))}
    members = {name: parts["module"] for name, parts in found.items() if list(parts) == ["module"]}
    is_known = len(members) == len(found) and all(_kind(m) == "AIMNet2" for m in members.values())
    return members if is_known else {}


def _chosen(root: Record, head: str | None) -> Record:
    """The model to convert."""
    members = _members(root) or {"default": root}
    if head is None and len(members) == 1:
        return next(iter(members.values()))
    if head not in members:
        whole = f", or {ALL!r} for the ensemble" if len(members) > 1 else ""
        raise UnsupportedInputError(
            f"`head` must be one of the members of the archive, {', '.join(members)}{whole}, "
            f"got {head!r}"
        )
    return members[head]


def convert_aimnet2(
    root: Record, *, head: str | None = None, provenance: dict[str, str] | None = None
) -> Potential:
    """Rebuild an archive as a :class:`Potential`, weights and constants from the file.

    Args:
        root: The archive, from :func:`lesff.convert.reader.read_checkpoint`.
        head: Which member of an ensemble to take, or :data:`ALL`; needed where there are several.
        provenance: Level of theory, training data and software to write into the configuration
            (keys ``level_of_theory``, ``training_data``, ``source``).

    Raises:
        UnsupportedInputError: naming what this version cannot represent.
    """
    members = _members(root)
    if head == ALL and len(members) > 1:
        return Ensemble(
            [convert_aimnet2(root, head=name, provenance=provenance) for name in members]
        )
    path, root = root.path, _chosen(root, head)
    tensors = Tensors(root)
    _check_parts(root)
    shifts = tensors.take("outputs.atomic_shift.shifts.weight").double().reshape(-1)
    elements = tuple(torch.nonzero(shifts).flatten().tolist())
    architecture, state = _architecture(root, tensors, elements)
    d3, tables = _dispersion(root, tensors, elements)
    known = provenance or {}
    config = ModelConfig(
        architecture=architecture,
        elements=elements,
        reference_energies=tuple(shifts[list(elements)].tolist()),
        long_range=LongRangeConfig(
            head="carried",
            sigma=SIGMA,
            dl=DL,
            cutoff="smooth",
            prefactor=2.0 * math.pi * _COULOMB,
            onset=float(tensors.take("outputs.lrcoulomb.rc")),
        ),
        d3=d3,
        total_charge=_CHARGES,
        energy_reference="total energy of the published model",
        level_of_theory=known.get("level_of_theory", "see the publication of the model"),
        training_data=known.get("training_data", "see the publication of the model"),
        software={"source": known.get("source", path)},
    )
    tensors.finish()
    potential = Potential(config)
    potential.cast_parameters(torch.float32)
    potential.load_state_dict(state | tables)
    return potential.requires_grad_(requires_grad=False).eval()


def _check_parts(root: Record) -> None:
    """Refuse modules and options that change the forward pass and that we do not have."""
    expected: dict[str, dict[str, Any]] = {
        "": {"d2features": True},
        "aev": {"_dual_basis": False},
        "conv_a": {"do_vector": True, "d2features": True},
        "conv_q": {"do_vector": True, "d2features": False},
        "outputs.energy_mlp": {"key_in": "aim", "key_out": "energy", "apply_fn": "none"},
        "outputs.atomic_shift": {"key_in": "energy", "key_out": "energy", "reduce_sum": False},
        "outputs.atomic_sum": {"key_in": "energy", "key_out": "energy"},
        "outputs.lrcoulomb": {"key_in": "charges", "key_out": "energy"},
        "outputs.d3bj": {"key_out": "energy", "k1": -16.0, "k3": -4.0},
    }
    for name, options in expected.items():
        module = root.submodule(name)
        for key, wanted in options.items():
            found = module.attribute(key)
            if found != wanted:
                raise UnsupportedInputError(
                    f"`{name}.{key}` of the archive must be {wanted!r}, got {found!r}"
                )
    names = tuple(name for name, _ in _children(root.module("outputs")))
    if names != _OUTPUTS:
        raise UnsupportedInputError(
            f"the outputs of the archive must be {', '.join(_OUTPUTS)}, got {', '.join(names)}"
        )


def _children(record: Record) -> list[tuple[str, Record]]:
    return [(name, module) for name, module in record.named_modules() if name and "." not in name]


def _architecture(
    root: Record, tensors: Tensors, elements: tuple[int, ...]
) -> tuple[dict[str, Any], State]:
    """Hyper-parameters and weights of the short-range model."""
    found = root.parameters_and_buffers()
    n_features, n_radial = int(root.attribute("nfeature")), int(root.attribute("nshifts_s"))
    a, g, h = found["conv_a.agh"].shape
    if (a, g) != (n_features, n_radial):
        raise UnsupportedInputError(f"conv_a.agh must be of {n_features} x {n_radial}, got {a}x{g}")
    channels = a * g
    rows = tensors.take("afv.weight")
    if rows.shape[1] != channels or len(rows) <= elements[-1]:
        raise UnsupportedInputError(f"afv.weight must have {channels} columns, got {rows.shape}")
    state = {
        "architecture.embedding": rows[list(elements)],
        "architecture.feature_mixing.weight": tensors.take("conv_a.agh", a, g, h),
        "architecture.charge_mixing.weight": tensors.take("conv_q.agh", 1, g, h),
    }
    # radial functions of vectors are those of scalars: the second set says the same
    for key in ("rc", "eta", "shifts"):
        if not torch.equal(tensors.take(f"aev.{key}_v"), found[f"aev.{key}_s"]):
            raise UnsupportedInputError(f"`aev.{key}_v` must be `aev.{key}_s` of the archive")
    hidden, active = [], []
    for name, module in _children(root.module("mlps")):
        key = f"architecture.passes.{name}"
        units, is_active, weights = _network(module, f"mlps.{name}", key, tensors)
        hidden.append(units)
        active.append(is_active)
        state |= weights
    units, is_active, weights = _network(
        root.submodule("outputs.energy_mlp.mlp"),
        "outputs.energy_mlp.mlp",
        "architecture.energy",
        tensors,
    )
    if is_active:
        raise UnsupportedInputError("`outputs.energy_mlp.mlp` must end with a linear map")
    architecture = {
        "type": "aimnet2",
        "cutoff": float(tensors.take("aev.rc_s")),
        "n_features": a,
        "n_radial": g,
        "n_vectors": h,
        "radial_centers": tensors.take("aev.shifts_s", g).double().tolist(),
        "radial_exponent": float(tensors.take("aev.eta_s")),
        "hidden": hidden,
        "active_outputs": active,
        "energy_hidden": units,
        "share_floor": 1e-6,
    }
    return architecture, state | weights


def _network(
    module: Record, source: str, target: str, tensors: Tensors
) -> tuple[list[int], bool, State]:
    """Hidden units, whether the output has the activation, and weights of one network."""
    kinds = [child.path.rsplit(".", 1)[-1] for _, child in _children(module)]
    pattern = ["Linear", "GELU"] * (len(kinds) // 2 + 1)
    if len(kinds) < 3 or kinds != pattern[: len(kinds)]:
        raise UnsupportedInputError(
            f"`{source}` of the archive must be linear maps with GELU between, got "
            f"{', '.join(kinds)}"
        )
    state: State = {}
    units = []
    for index in range(0, len(kinds), 2):
        weight = tensors.take(f"{source}.{index}.weight")
        key = f"{target}.linears.{index // 2}"
        state[f"{key}.weight"] = weight
        state[f"{key}.bias"] = tensors.take(f"{source}.{index}.bias", len(weight))
        units.append(len(weight))
    return units[:-1], len(kinds) % 2 == 0, state


def _dispersion(
    root: Record, tensors: Tensors, elements: tuple[int, ...]
) -> tuple[D3Config, State]:
    """Constants of D3 and its tables for the elements of the model."""
    module, rows = root.submodule("outputs.d3bj"), list(elements)
    table = tensors.take("outputs.d3bj.c6ab").double()[rows][:, rows]
    # [z, z', A, B, (C6, count of A, count of B)]; a count must not depend on the partner
    c6, counts = table[..., 0], table[:, :1, :, :1, 1]
    if not bool((table[..., 1] == counts).all()) or not bool(
        (table[..., 2] == table[..., 1].permute(1, 0, 3, 2)).all()
    ):
        raise UnsupportedInputError(
            "`outputs.d3bj.c6ab` of the archive must have counts that do not depend on the partner"
        )
    state = {"d3.c6": c6, "d3.counts": counts[:, 0, :, 0]}
    for ours, theirs in {"radius": "rcov", "size": "r4r2", "most": "cnmax"}.items():
        name = f"outputs.d3bj.{theirs}"
        if ours == "most" and name not in tensors:  # some archives count without limit
            state["d3.most"] = torch.full((len(rows),), _MANY, dtype=torch.float64)
        else:
            state[f"d3.{ours}"] = tensors.take(name).double()[rows]
    constants = {key: float(module.attribute(key)) for key in ("s6", "s8", "a1", "a2")}
    return D3Config(**constants, n_references=c6.shape[-1]), state
