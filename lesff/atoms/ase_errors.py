"""lesff's errors that are also ASE's, so that code written for ASE's calculators catches them.

Apart from :mod:`lesff.errors`, which must not import ASE: that takes longer than the whole command
line may take to start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ase.calculators.calculator import (
    CalculationFailed,
    CalculatorSetupError,
    InputError,
    PropertyNotImplementedError,
)

from lesff.errors import (
    ChargeSpinError,
    ConfigError,
    ConvergenceError,
    LesffError,
    NotPositiveDefiniteError,
    OutOfDomainError,
    PropertyError,
    StructureError,
    UnsupportedInputError,
)


class AsePropertyError(PropertyError, PropertyNotImplementedError):
    """A property that the model cannot give, at all or for these boundaries."""


class AseStructureError(StructureError, InputError):
    """Atoms that cannot be used."""


class AseUnsupportedInputError(UnsupportedInputError, InputError):
    """Atoms that the model does not cover."""


class AseOutOfDomainError(OutOfDomainError, InputError):
    """Atoms unlike everything that the model was calibrated on."""


class AseChargeSpinError(ChargeSpinError, InputError):
    """Total charge and spin multiplicity that are contradictory or not integers."""


class AseConvergenceError(ConvergenceError, CalculationFailed):
    """An iterative solver that did not reach its tolerance."""


class AseNotPositiveDefiniteError(NotPositiveDefiniteError, CalculationFailed):
    """Charges without a stable equilibrium."""


class AseSetupError(PropertyError, CalculatorSetupError):
    """An option of a calculator that the model does not have or that is out of range."""


class AseConfigError(ConfigError, CalculatorSetupError):
    """An option of a calculator that does not exist."""


_OF_A_CALCULATION: dict[type[LesffError], type[LesffError]] = {
    PropertyError: AsePropertyError,
    StructureError: AseStructureError,
    UnsupportedInputError: AseUnsupportedInputError,
    OutOfDomainError: AseOutOfDomainError,
    ChargeSpinError: AseChargeSpinError,
    ConvergenceError: AseConvergenceError,
    NotPositiveDefiniteError: AseNotPositiveDefiniteError,
}
_OF_THE_SETUP: dict[type[LesffError], type[LesffError]] = {
    PropertyError: AseSetupError,
    ConfigError: AseConfigError,
}


@contextmanager
def ase_errors(*, setup: bool = False) -> Iterator[None]:
    """Errors of the block as classes that are ASE's, too; with the same text and base.

    Args:
        setup: Whether the block makes or changes a calculator, instead of running it.
    """
    table = _OF_THE_SETUP if setup else _OF_A_CALCULATION
    try:
        yield
    except tuple(table) as error:
        kind = table.get(type(error))
        if kind is None:
            raise  # it is ASE's already
        raise kind(*error.args).with_traceback(error.__traceback__) from error.__cause__
