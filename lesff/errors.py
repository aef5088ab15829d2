"""Every exception lesff raises on purpose: one cause each, each with a built-in base."""

from __future__ import annotations

import math
import os
import sys
import warnings

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class LesffError(Exception):
    """Base of all lesff errors; catch it to catch them all."""


class StructureError(LesffError, ValueError):
    """An input structure cannot be used: bad positions, cell, file or type."""


class UnsupportedInputError(LesffError, ValueError):
    """The model does not cover the input: element, charge, spin, field or periodicity."""


class OutOfDomainError(UnsupportedInputError):
    """A structure is unlike everything that the model was calibrated on."""


class ChargeSpinError(LesffError, ValueError):
    """Total charge and spin multiplicity are contradictory or not integers."""


class PropertyError(LesffError, ValueError):
    """A property was asked for that does not exist or that the model cannot give."""


class ConfigError(LesffError, ValueError):
    """A configuration (model, recipe) has an unknown key or a bad value."""


class ModelNotFoundError(LesffError, LookupError):
    """No model has this name, version or path."""


class ManifestError(LesffError, ValueError):
    """A manifest file is malformed or contradicts itself."""


class IntegrityError(LesffError, OSError):
    """Bytes of a model file differ from what the manifest or the format promises."""


class PhysicsError(LesffError, ArithmeticError):
    """Derivatives of a model disagree with finite differences."""


class RobustnessError(LesffError, ArithmeticError):
    """A model fails a check of robustness: a figure is outside its limits."""


class ContractError(LesffError, AssertionError):
    """An architecture or charge head breaks a promise that potentials rely on.

    Args:
        message: The text.
        promise: Key of :data:`lesff.testing.PROMISES`.
        error: Size of the violation, where there is one.
        tolerance: Largest that is allowed.
    """

    def __init__(
        self, message: str, *, promise: str, error: float = math.nan, tolerance: float = math.nan
    ) -> None:
        super().__init__(message)
        self.promise, self.error, self.tolerance = promise, error, tolerance


class OfflineError(LesffError, OSError):
    """A download is needed, but the session is offline."""


class LicenseError(LesffError, PermissionError):
    """The licence of a model has not been accepted."""


class CacheError(LesffError, OSError):
    """The cache cannot be written."""


class SignatureError(LesffError, ValueError):
    """A signature is missing or does not fit what it should vouch for."""


class PublishError(LesffError, ValueError):
    """A model folder may not be published, or the hub did not take it."""


class MissingDependencyError(LesffError, ImportError):
    """An optional library is not installed."""


class DeviceError(LesffError, RuntimeError):
    """A device was asked for that is not there."""


class ExecutorError(LesffError, RuntimeError):
    """Workers of an executor are lost and cannot be replaced, or die whatever they are given."""


class NotPositiveDefiniteError(LesffError, ArithmeticError):
    """Charges have no stable equilibrium: the energy is not convex in them."""


class ConvergenceError(LesffError, ArithmeticError):
    """An iterative solver did not reach its tolerance."""


class DataError(LesffError, ValueError):
    """A training or evaluation data set cannot be used."""


class ExtrapolationWarning(UserWarning):
    """The input lies outside the range the model was trained on."""


class CaveatWarning(UserWarning):
    """A quantity was asked for that this model gives but that is not to be trusted."""


class ChargedCellWarning(UserWarning):
    """A periodic cell has a total charge: its energy contains that of a neutralising background."""


class StateWarning(UserWarning):
    """Atoms say something about charge, spin or results that is not used."""


class CloseContactWarning(UserWarning):
    """Atoms are closer to each other, or further apart, than in any known compound."""


class TwinFramesWarning(UserWarning):
    """Frames that were to be held out are trained on, too; they are not used to validate."""


class LeftOutWarning(UserWarning):
    """Structures of which no frame could be used are not in the data that was made."""


class UnverifiedWarning(UserWarning):
    """No digest is published for a file that was fetched."""


class KernelError(LesffError, RuntimeError):
    """Compiled kernels are asked for but not there, or cannot do what is asked."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called lesff, however deep inside lesff the cause is.

    Args:
        message: What is the matter.
        category: Class of the warning.
    """
    # level 1 is the line below, level 2 the caller of this function
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
