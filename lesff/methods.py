"""Methods: a model of lesff, an ASE calculator or GFN2-xTB, asked in one way.

What evaluates, labels or compares takes a :class:`Method`; :func:`open_method` makes one from text.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any

import ase
from ase.calculators.calculator import BaseCalculator, CalculatorError
from ase.data import chemical_symbols
from tqdm.auto import tqdm

from lesff.atoms.elements import symbols
from lesff.atoms.structure import Structure, lowest_spin
from lesff.errors import ConfigError, MissingDependencyError, UnsupportedInputError
from lesff.hub.spec import has_model_scheme
from lesff.model import Model, load
from lesff.model_folder.card import license_of
from lesff.model_folder.layout import LICENSE_FILE
from lesff.potential.domain import check_domain
from lesff.train.data import Frame
from lesff.train.metrics import FramePrediction, predict_frames

XTB = "gfn2-xtb"
"""Name of GFN2-xTB, Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019), computed
with tblite."""

FAILURES = (CalculatorError, RuntimeError, ValueError, ArithmeticError, NotImplementedError,
            KeyError, IndexError)  # fmt: skip
"""What calculators of other packages raise when they fail."""

_SPEC = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_][\w.]*)(?:\?(?P<options>.*))?")
_CHARGE, _SPIN = "{charge}", "{spin}"


class Method(ABC):
    """Something that gives energies and forces.

    Attributes:
        name: Name in results, reports and tables.
        elements: Atomic numbers covered.
        model: The model in double precision, or None for another method.
        level_of_theory: What it stands for.
        license: Identifier of the licence of its weights, or ``"unknown"``.
        license_text: That licence in full, if it is a model of lesff.
    """

    name: str
    elements: frozenset[int]
    level_of_theory: str
    license: str = "unknown"
    license_text: str | None = None

    @property
    @abstractmethod
    def model(self) -> Model | None:
        """The model in double precision, or None for another method."""

    @abstractmethod
    def lacks(self, numbers: Sequence[int], charge: int = 0, spin: int | None = None) -> str:
        """Why a system is not covered; empty if it is.

        Args:
            numbers: Atomic numbers.
            charge: Total charge, e.
            spin: 2S+1; the lowest by parity if not given.
        """

    @abstractmethod
    def check(self, structures: Sequence[Structure]) -> None:
        """Refuse structures that it cannot label.

        Raises:
            UnsupportedInputError: naming the first one and the reason.
        """

    @abstractmethod
    def calculator(self, charge: int = 0, spin: int | None = None) -> BaseCalculator:
        """ASE calculator in double precision; spin is 2S+1, the lowest if not given."""

    @abstractmethod
    def fast_calculator(self, charge: int = 0, spin: int | None = None) -> BaseCalculator:
        """ASE calculator in the precision of daily use, for dynamics and labels."""

    @abstractmethod
    def predict(self, frames: Sequence[Frame]) -> list[FramePrediction]:
        """Energies and forces of labelled frames."""


class ModelMethod(Method):
    """A model of lesff.

    Args:
        name: Name, folder or address of the model.
        label: Name in results and tables; the model's own if not given.
        accept_license: Accept its licence.
    """

    def __init__(
        self, name: str, *, label: str | None = None, accept_license: bool = False
    ) -> None:
        self._given, self._accepts = name, accept_license
        self.fast = load(name, accept_license=accept_license)
        self.name = label or self.fast.name
        config = self.fast.config
        self.elements = frozenset(config.elements)
        self.level_of_theory = f"{config.level_of_theory} (by {self.fast.name})"
        self.license = license_of(self.fast.card)
        license_file = self.fast.source.folder / LICENSE_FILE
        self.license_text = license_file.read_text(encoding="utf-8")

    @cached_property
    def precise(self) -> Model:
        """The model in float64."""
        return load(self._given, dtype="float64", accept_license=self._accepts)

    @property
    def model(self) -> Model:
        """The model in float64."""
        return self.precise

    def lacks(self, numbers: Sequence[int], charge: int = 0, spin: int | None = None) -> str:
        """Why a system is not covered; see :class:`Method`."""
        config = self.fast.config
        unknown = sorted(set(map(int, numbers)) - self.elements)
        if unknown:
            return f"no {symbols(unknown)}"
        spin = lowest_spin(sum(map(int, numbers)) - charge) if spin is None else spin
        for what, value, (low, high) in (
            ("total charge", charge, config.total_charge),
            ("spin multiplicity", spin, config.spin_multiplicity),
        ):
            if not low <= value <= high:
                return f"{what} {value} is outside {low}..{high}"
        return ""

    def check(self, structures: Sequence[Structure]) -> None:
        """Refuse elements, charges and spins that the model was not trained on."""
        check_domain(self.fast.config, structures, strict=True)

    def calculator(self, charge: int = 0, spin: int | None = None) -> BaseCalculator:
        """Calculator in float64; distances and domain are for the caller to judge."""
        return self._calculator(self.precise, charge, spin)

    def fast_calculator(self, charge: int = 0, spin: int | None = None) -> BaseCalculator:
        """Calculator in the model's own precision; distances and domain likewise."""
        return self._calculator(self.fast, charge, spin)

    @staticmethod
    def _calculator(model: Model, charge: int, spin: int | None) -> BaseCalculator:
        return model.calculator(
            total_charge=charge,
            spin_multiplicity=spin,
            allow_close=True,
            on_out_of_domain="ignore",
        )

    def predict(self, frames: Sequence[Frame]) -> list[FramePrediction]:
        """Energies and forces, batch by batch, in the model's own precision."""
        return predict_frames(self.fast.potential, frames, progress=True)


class CalculatorMethod(Method):
    """An ASE calculator of any package.

    Args:
        name: Name in results and tables.
        elements: Atomic numbers covered.
        make: Calculator for a total charge and 2S+1 (None: the lowest).
        takes_charge: Whether ``make`` tells the calculator the charge.
        takes_spin: Whether it tells the spin.
    """

    def __init__(
        self,
        name: str,
        elements: frozenset[int],
        make: Callable[[int, int | None], BaseCalculator],
        *,
        takes_charge: bool = True,
        takes_spin: bool = True,
    ) -> None:
        self.name, self.elements, self.level_of_theory = name, elements, name
        self._make = make
        self._takes_charge, self._takes_spin = takes_charge, takes_spin

    @property
    def model(self) -> None:
        """None: it is not a model of lesff."""

    def lacks(self, numbers: Sequence[int], charge: int = 0, spin: int | None = None) -> str:
        """Why a system is not covered; see :class:`Method`."""
        unknown = sorted(set(map(int, numbers)) - self.elements)
        return f"no {symbols(unknown)}" if unknown else ""

    def check(self, structures: Sequence[Structure]) -> None:
        """Refuse charges and spins that the calculator would not be told."""
        for index, structure in enumerate(structures):
            self._check_state(
                structure.total_charge, structure.spin_multiplicity, f"structure {index} has "
            )

    def calculator(self, charge: int = 0, spin: int | None = None) -> BaseCalculator:
        """The calculator.

        Raises:
            UnsupportedInputError: for a charge or spin that it would not be told.
        """
        self._check_state(charge, spin, "")
        return self._make(charge, spin)

    def fast_calculator(self, charge: int = 0, spin: int | None = None) -> BaseCalculator:
        """The same calculator; it has one precision."""
        return self.calculator(charge, spin)

    def predict(self, frames: Sequence[Frame]) -> list[FramePrediction]:
        """Energies (about an energy zero of its own) and forces, frame by frame."""
        results = []
        for frame in tqdm(frames, unit="frame", desc=self.name, leave=False):
            s = frame.structure
            if s.external_field is not None:
                raise UnsupportedInputError(
                    f"{self.name!r} would not be told the external field "
                    f"{s.external_field.tolist()} of a frame: leave such frames out"
                )
            atoms = ase.Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc)
            atoms.calc = self.calculator(s.total_charge, s.spin_multiplicity)
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            results.append(FramePrediction(frame=frame, energy=float(energy), forces=forces))
        return results

    def _check_state(self, charge: int, spin: int | None, where: str) -> None:
        is_told = self._takes_charge or not charge
        is_told &= self._takes_spin or spin is None or spin <= 2
        if not is_told:
            raise UnsupportedInputError(
                f"{where}total charge {charge} and spin multiplicity {spin}, which {self.name!r} "
                "would not be told: pass them on, such as ?charge={charge}&multiplicity={spin}"
            )


def open_method(spec: str, *, label: str | None = None, accept_license: bool = False) -> Method:
    """Method of a specification.

    Args:
        spec: Name of a lesff model as for :func:`lesff.load`; :data:`XTB`; or
            ``"module:callable"`` that gives an ASE calculator, with arguments behind a question
            mark: ``"tblite.ase:TBLite?method=GFN2-xTB&charge={charge}&multiplicity={spin}"``.
            Values are TOML, bare words text; ``{charge}`` and ``{spin}`` (2S+1) are the
            structure's.
        label: Name in results and tables.
        accept_license: Accept the licence of a lesff model.

    Raises:
        ModelNotFoundError: if there is no such model.
        ConfigError: for a specification that cannot be imported or called, or a calculator
            without energy or forces.
        MissingDependencyError: for GFN2-xTB without tblite.
    """
    if spec == XTB:
        return _xtb()
    match = None if has_model_scheme(spec) else _SPEC.fullmatch(spec)
    if match is None:
        return ModelMethod(spec, label=label, accept_license=accept_license)
    factory = _import(match["module"], match["name"], spec)
    options = _options(match["options"] or "", spec)

    def make(charge: int, spin: int | None) -> BaseCalculator:
        values = {_CHARGE: charge, _SPIN: spin}
        given = {k: values.get(v, v) if isinstance(v, str) else v for k, v in options.items()}
        try:
            calculator = factory(**given)
        except (*FAILURES, TypeError) as error:
            raise ConfigError(f"{spec!r} cannot be made: {error}") from error
        _check_calculator(calculator, spec)
        _check_options(factory, calculator, options, spec)
        return calculator

    method = CalculatorMethod(
        label or spec,
        frozenset(range(1, len(chemical_symbols))),
        make,
        takes_charge=_CHARGE in options.values(),
        takes_spin=_SPIN in options.values(),
    )
    if not {_CHARGE, _SPIN} & {v for v in options.values() if isinstance(v, str)}:
        make(0, 1)  # fails before any work is done
    return method


def open_baseline(spec: str, *, accept_license: bool = False) -> Method:
    """What a model is compared with: as :func:`open_method`, or ``NAME=module:callable``.

    Raises:
        ConfigError: for a calculator that asks for the spin, which checks leave to the method.
    """
    named = re.fullmatch(rf"(?P<label>[^=/:]+)=(?P<calculator>{_SPEC.pattern})", spec)
    label, inner = (named["label"], named["calculator"]) if named else (None, spec)
    if _SPIN in inner:
        raise ConfigError(f"baseline {inner!r} must leave the spin to the calculator: drop {_SPIN}")
    return open_method(inner, label=label, accept_license=accept_license)


def _xtb() -> CalculatorMethod:
    """GFN2-xTB through tblite, for molecules, silent."""
    try:
        method: Any = import_module("tblite.ase").TBLite
    except ImportError as error:
        raise MissingDependencyError(
            f"the baseline {XTB} needs the tblite library; install it with "
            '`pip install "lesff[evaluate]"`'
        ) from error

    def make(charge: int, spin: int | None) -> BaseCalculator:
        options = {} if spin is None else {"multiplicity": spin}
        return method(method="GFN2-xTB", charge=charge, verbosity=0, **options)

    return CalculatorMethod(XTB, frozenset(range(1, 87)), make)


def _import(module: str, name: str, spec: str) -> Callable[..., Any]:
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{spec!r} cannot be imported: {error}; it must be a lesff model or "
            "'module:callable' of an installed package, such as 'ase.calculators.emt:EMT'"
        ) from error
    if not callable(found):
        raise ConfigError(f"{spec!r} must name something callable, got {found!r}")
    return found


def _options(text: str, spec: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(None, text.split("&")):
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier() or key in options:
            raise ConfigError(f"{spec!r}: {part!r} must be KEY=VALUE, each key once")
        try:
            options[key] = (
                value if value in (_CHARGE, _SPIN) else tomllib.loads(f"v = {value}")["v"]
            )
        except tomllib.TOMLDecodeError:
            options[key] = value
    return options


def _check_calculator(calculator: Any, spec: str) -> None:
    if not isinstance(calculator, BaseCalculator):
        raise ConfigError(f"{spec!r} must give an ASE calculator, got {type(calculator).__name__}")
    absent = [n for n in ("energy", "forces") if n not in calculator.implemented_properties]
    if absent:
        raise ConfigError(
            f"{spec!r} must have energy and forces, but has no {' and no '.join(absent)}"
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
        raise ConfigError(f"{spec!r} has no option {', '.join(unknown)}; it has {names}")
