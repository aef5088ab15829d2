"""Teachers: lesff models by name, ASE calculators by import path; what they say, checked."""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import BaseCalculator, CalculatorError
from ase.stress import voigt_6_to_full_3x3_stress

from lesff.atoms.structure import Structure
from lesff.errors import ConfigError, DataError, LesffError, UnsupportedInputError
from lesff.hub.spec import has_model_scheme
from lesff.model import load
from lesff.potential.domain import check_domain

_SPEC = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_][\w.]*)(?:\?(?P<options>.*))?")
_PLACES = ("{charge}", "{spin}")
_FAILURES = (CalculatorError, RuntimeError, ValueError, ArithmeticError, NotImplementedError,
             KeyError, IndexError)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Something that labels.

    Attributes:
        name: Resolved name, for reports.
        make: Calculator for a structure.
        check: Raises for structures that it cannot label.
        license_text: Licence of its weights, if it is a lesff model.
        license: Its identifier, or ``"unknown"``.
        level_of_theory: What it stands for.
    """

    name: str
    make: Callable[[Structure], BaseCalculator]
    check: Callable[[list[Structure]], None]
    license_text: str | None = None
    license: str = "unknown"
    level_of_theory: str = "unspecified"


def open_teacher(spec: str, *, accept_license: bool = False) -> Teacher:
    """Teacher of a specification.

    Args:
        spec: Name of a lesff model as for :func:`lesff.load`, or ``"module:callable"`` that gives
            an ASE calculator, with arguments behind a question mark:
            ``"tblite.ase:TBLite?method=GFN2-xTB&charge={charge}&multiplicity={spin}"``. Values
            are TOML, bare words text; ``{charge}`` and ``{spin}`` (2S+1) are the structure's.
        accept_license: Accept the licence of a lesff model.

    Raises:
        ConfigError: for a specification that cannot be imported or called, or a calculator
            without energy or forces.
    """
    match = None if has_model_scheme(spec) else _SPEC.fullmatch(spec)
    if match is None:
        return _lesff_teacher(spec, accept_license=accept_license)
    factory = _import(match["module"], match["name"], spec)
    options = _options(match["options"] or "", spec)

    def make(structure: Structure) -> BaseCalculator:
        values = {
            "{charge}": structure.total_charge, "{spin}": structure.spin_multiplicity
        }  # fmt: skip
        given = {k: values.get(v, v) if isinstance(v, str) else v for k, v in options.items()}
        try:
            calculator = factory(**given)
        except (*_FAILURES, TypeError) as error:
            raise ConfigError(f"teacher {spec!r} cannot be made: {error}") from error
        _check_calculator(calculator, spec)
        _check_options(factory, calculator, options, spec)
        return calculator

    def check(structures: list[Structure]) -> None:
        states = [(s.total_charge, s.spin_multiplicity) for s in structures]
        told = [place in options.values() for place in _PLACES]
        odd = [
            i for i, (q, m) in enumerate(states) if (q and not told[0]) or (m > 2 and not told[1])
        ]
        if odd:
            raise UnsupportedInputError(
                f"structure {odd[0]} has total charge {states[odd[0]][0]} and spin multiplicity "
                f"{states[odd[0]][1]}, which teacher {spec!r} would not be told: pass them on, "
                "such as ?charge={charge}&multiplicity={spin}"
            )

    if "{charge}" not in options.values() and "{spin}" not in options.values():
        make(_HYDROGEN)  # fails before any sampling
    return Teacher(name=spec, make=make, check=check, level_of_theory=spec)


_HYDROGEN = Structure(
    numbers=np.array([1, 1]), positions=np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]),
    cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool), total_charge=0, spin_multiplicity=1,
)  # fmt: skip


def _lesff_teacher(spec: str, *, accept_license: bool) -> Teacher:
    model = load(spec, accept_license=accept_license)
    license_file = model.source.folder / "LICENSE"
    found = re.search(r"^license:\s*(.+)$", model.card, flags=re.MULTILINE)
    return Teacher(
        name=model.name,
        make=lambda structure: model.calculator(
            total_charge=structure.total_charge, spin_multiplicity=structure.spin_multiplicity
        ),
        check=lambda structures: check_domain(model.config, structures, strict=True),
        license_text=license_file.read_text(encoding="utf-8"),
        license=found.group(1).strip() if found else "unknown",
        level_of_theory=f"{model.config.level_of_theory} (by {model.name})",
    )


def _import(module: str, name: str, spec: str) -> Callable[..., Any]:
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"teacher {spec!r} cannot be imported: {error}; it must be a lesff model or "
            "'module:callable' of an installed package, such as 'ase.calculators.emt:EMT'"
        ) from error
    if not callable(found):
        raise ConfigError(f"teacher {spec!r} must name something callable, got {found!r}")
    return found


def _options(text: str, spec: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(None, text.split("&")):
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier() or key in options:
            raise ConfigError(f"teacher {spec!r}: {part!r} must be KEY=VALUE, each key once")
        try:
            options[key] = value if value in _PLACES else tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            options[key] = value
    return options


def _check_calculator(calculator: Any, spec: str) -> None:
    if not isinstance(calculator, BaseCalculator):
        raise ConfigError(
            f"teacher {spec!r} must give an ASE calculator, got {type(calculator).__name__}"
        )
    absent = [n for n in ("energy", "forces") if n not in calculator.implemented_properties]
    if absent:
        raise ConfigError(
            f"teacher {spec!r} must have energy and forces, but has no {' and no '.join(absent)}"
        )


def _check_options(
    factory: Callable[..., Any], calculator: BaseCalculator, options: dict[str, Any], spec: str
) -> None:
    """ASE's calculators take any keyword and ignore it: compare with those they know."""
    defaults = getattr(calculator, "default_parameters", None)
    if not defaults:
        return
    known = {*inspect.signature(factory).parameters, *defaults} - {"kwargs", "args", "self"}
    unknown = sorted(set(options) - known)
    if unknown:
        names = ", ".join(sorted(known))
        raise ConfigError(f"teacher {spec!r} has no option {', '.join(unknown)}; it has {names}")


def label(atoms: ase.Atoms, calculator: BaseCalculator, where: str) -> dict[str, np.ndarray]:
    """Labels of a structure by its teacher.

    Energy (eV) and forces (eV/A); stress of crystals (eV/A^3) and dipole of neutral molecules (e A)
    where the teacher has them.

    Args:
        atoms: The structure, with ``charge`` in ``info``.
        calculator: The teacher.
        where: Name of the structure in errors.

    Raises:
        DataError: if it fails, or a label is not finite.
    """
    names = ["energy", "forces"]
    if atoms.pbc.all() and "stress" in calculator.implemented_properties:
        names.append("stress")
    is_neutral = atoms.info.get("charge", 0) == 0
    if not atoms.pbc.any() and is_neutral and "dipole" in calculator.implemented_properties:
        names.append("dipole")
    try:
        found = {n: np.array(calculator.get_property(n, atoms), dtype=np.float64) for n in names}
    except LesffError:
        raise
    except _FAILURES as error:
        raise DataError(
            f"{where}: the teacher failed ({type(error).__name__}: {error}); leave this structure "
            "out or sample closer to it"
        ) from error
    bad = [name for name, value in found.items() if not np.isfinite(value).all()]
    if bad:
        raise DataError(f"{where}: the teacher's {bad[0]} must be finite, got NaN or infinity")
    if "stress" in found and found["stress"].shape == (6,):
        found["stress"] = voigt_6_to_full_3x3_stress(found["stress"])
    return found
