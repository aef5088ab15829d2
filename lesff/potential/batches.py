"""Prediction of many structures: batches of about equal cost, domain checks, results in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, SupportsIndex

import numpy as np
from tqdm.auto import tqdm

from lesff.atoms.batching import plan_batches
from lesff.atoms.contacts import ContactRule
from lesff.atoms.graph import AtomGraph, build_graph, collate
from lesff.atoms.structure import Structure
from lesff.autograd import plain_arithmetic
from lesff.errors import PropertyError
from lesff.potential.domain import (
    DomainCheck,
    check_caveats,
    check_charge_elements,
    check_domain,
    warn_of_background,
)
from lesff.potential.potential import Potential
from lesff.potential.predict import predict_graph
from lesff.potential.properties import properties_in_order
from lesff.potential.response import BornOptions
from lesff.prediction import Prediction
from lesff.quantities import QUANTITIES, UNCERTAINTIES

_PROGRESS_ATOMS = 20_000
"""From this many atoms on, predict shows a progress bar unless told otherwise."""


def predict_structures(
    potential: Potential,
    structures: Sequence[Structure],
    names: Sequence[str],
    *,
    is_single: bool = False,
    model: str,
    caveats: Mapping[str, str],
    born: BornOptions | None = None,
    batch_size: SupportsIndex | Literal["auto"] = "auto",
    strict: bool = False,
    allow_close: bool = False,
    progress: bool | None = None,
) -> Prediction:
    """Properties of checked structures; see :meth:`lesff.model.Model.predict` for the options.

    Args:
        potential: The model.
        structures: What :func:`lesff.atoms.structure.to_structures` returns.
        names: Properties, see :func:`property_names`.
        is_single: Whether one structure was asked for, not a list of one.
        model: Resolved name of the model, for messages and the result.
        caveats: Quantities that are not to be trusted, and why.
        born: Options of Born effective charges.
        batch_size: Structures per batch, or ``"auto"``.
        strict: Refuse what is outside of the domain.
        allow_close: Compute also where atoms overlap.
        progress: Show a progress bar; by default for long work only.

    Raises:
        UnsupportedInputError: for what the model does not cover.
        OutOfDomainError: with ``strict``, for a structure unlike those of the calibration.
        PropertyError: for an unknown property or one the model cannot give here.
    """
    uncertainty, config = potential.uncertainty, potential.config
    check_domain(config, structures, strict=strict, quiet=uncertainty is not None)
    domain = None
    if uncertainty is not None:
        domain = DomainCheck(
            uncertainty, structures, model=model, strict=strict, is_single=is_single
        )
        domain.check_states()
    warn_of_background(config, structures)
    check_caveats(model, caveats, names, strict=strict)
    check_charge_elements(config, structures, names, strict=strict)
    sizes = np.array([len(structure) for structure in structures])
    results: list[dict[str, np.ndarray]] = [{} for _ in structures]
    # novelty needs what the energy needs, and next to nothing more
    evaluated = names if domain is None else [*names, "novelty"]
    show = progress if progress is not None else int(sizes.sum()) > _PROGRESS_ATOMS
    bar = tqdm(total=len(structures), disable=not show, unit="structure", desc="predict")
    names_of = ["structure" if is_single else f"structure {i}" for i in range(len(structures))]
    cutoff = potential.cutoff

    def graph_of(i: int) -> AtomGraph:
        rule = ContactRule(allow_close=allow_close)
        return build_graph(structures[i], cutoff, contacts=rule, where=names_of[i])

    for chosen in plan_batches(sizes, batch_size):
        with plain_arithmetic(potential.device):
            graph = collate([graph_of(i) for i in chosen])
            found = predict_graph(potential, graph, evaluated, born)
        for index, row in zip(chosen, found, strict=True):
            results[index] = row
        if domain is not None:
            domain.add({i: np.asarray(results[i]["novelty"]) for i in chosen.tolist()})
        bar.update(len(chosen))
    bar.close()
    columns = {name: [_plain(row[name]) for row in results] for name in properties_in_order(names)}
    if domain is not None:
        domain.warn()
    reasons = None if domain is None else domain.reasons()
    return Prediction(
        columns,
        is_single=is_single,
        model=model,
        reasons=reasons,
        structures=structures,
        charge_width=config.charge_width,
    )


def property_names(properties: Sequence[str] | str) -> list[str]:
    """Names asked for, in order; ``"uncertainty"`` stands for all uncertainties.

    Args:
        properties: Names, or text with commas between them.

    Raises:
        PropertyError: for something that is no text, and for no names at all.
    """
    given = [properties] if isinstance(properties, str) else list(properties)
    names: list[str] = []
    for item in given:
        if not isinstance(item, str):
            raise PropertyError(f"`properties` must be names, got {item!r}")
        parts = [part.strip() for part in item.split(",")]
        names += [name for part in parts if part for name in _expanded(part)]
    if not names:
        raise PropertyError(f"`properties` must name at least one of {', '.join(QUANTITIES)}")
    return names


def _expanded(name: str) -> Sequence[str]:
    return UNCERTAINTIES if name == "uncertainty" else (name,)


def _plain(value: np.ndarray) -> Any:
    return float(value) if value.ndim == 0 else value
