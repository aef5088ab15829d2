"""The configuration in front of a Nequix file, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from lesff.architectures.nequip.config import NequIPConfig
from lesff.errors import ConfigError, UnsupportedInputError
from lesff.nn.activations import QUANTILE_SILU_NORM

_TRAINING = re.compile(
    r".*_(path|weight|epochs?|factor|every|steps?|scale|dir|frac|norm|decay|from)|"
    r"avg_n_(edges|nodes)|max_n_(edges|nodes)|optimizer|learning_rate|batch_size|loss_type|n_graph|"
    r"readout_initialization|kernel|checkpoint_grad_energy|seed|atom_energies|sigma_.*|p_clean"
)
"""Entries that say how a model was trained, or repeat an array of the file."""

_WAVES = tuple((np.arange(1, 65, dtype=np.float32) * np.float32(np.pi)).tolist())
"""n pi of the Bessel functions in single precision, as Nequix computes them."""


@dataclass(frozen=True)
class NequixOptions:
    """What of a configuration defines the model.

    Attributes:
        architecture: Hyper-parameters.
        elements: Atomic numbers, ascending.
        scale: Factor of the interaction energy, eV.
        shift: Added to the energy of every atom, eV.
    """

    architecture: NequIPConfig
    elements: tuple[int, ...]
    scale: float
    shift: float

    @staticmethod
    def of(config: dict[str, Any]) -> NequixOptions:
        """Checked configuration of a file.

        Raises:
            UnsupportedInputError: naming the entry that is missing, of another type or unknown.
        """
        left = _Entries(config)
        elements = left.take("atomic_numbers", list)
        if not elements or any(type(z) is not int for z in elements):
            raise _unsupported("atomic_numbers", "a list of atomic numbers", elements)
        # rows of the embedding stand in ascending order of the atomic numbers
        if elements != sorted(set(elements)):
            raise _unsupported("atomic_numbers", "ascending", elements)
        if left.take("index_weights", bool):
            raise _unsupported("index_weights", "false: self-connections by element", True)
        power = left.number("radial_polynomial_p")
        if power != int(power):
            raise _unsupported("radial_polynomial_p", "a whole number", power)
        cutoff, n_radial = left.number("cutoff"), left.take("radial_basis_size", int)
        try:
            architecture = NequIPConfig(
                cutoff=cutoff,
                hidden_irreps=left.take("hidden_irreps", str).replace(" ", ""),
                n_layers=left.take("n_layers", int),
                max_ell=left.take("lmax", int),
                n_radial=n_radial,
                radial_frequencies=tuple(w / cutoff for w in _WAVES[:n_radial]),
                cutoff_power=int(power),
                radial_mlp=(left.take("radial_mlp_size", int),)
                * min(left.take("radial_mlp_layers", int), 9),
                layer_norm=left.take("layer_norm", bool),
                gate_norm=QUANTILE_SILU_NORM,
                avg_num_neighbors=left.number("avg_n_neighbors"),
            )
        except ConfigError as error:
            raise UnsupportedInputError(f"this Nequix model cannot be converted: {error}") from None
        options = NequixOptions(
            architecture=architecture,
            elements=tuple(elements),
            scale=left.number("scale"),
            shift=left.number("shift"),
        )
        left.finish()
        return options


class _Entries:
    """Entries of a configuration, each to be taken once."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._left = dict(config)

    def take(self, name: str, kind: type) -> Any:
        """The entry; UnsupportedInputError if it is not there or of another type."""
        if name not in self._left:
            raise UnsupportedInputError(f"the configuration of the file lacks `{name}`")
        value = self._left.pop(name)
        # bool is an int in Python, but not here
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise _unsupported(name, f"a {kind.__name__}", value)
        return value

    def number(self, name: str) -> float:
        """A number."""
        if type(self._left.get(name)) is int:
            return float(self.take(name, int))
        return self.take(name, float)

    def finish(self) -> None:
        """Fail if an entry is left that may change the model."""
        # what is switched off changes nothing
        left = [
            k for k, v in self._left.items() if not (_TRAINING.fullmatch(k) or v in (False, None))
        ]
        if left:
            raise UnsupportedInputError(
                "the configuration of the file has entries that this version does not know: "
                + ", ".join(left)
            )


def _unsupported(name: str, expected: str, got: object) -> UnsupportedInputError:
    return UnsupportedInputError(f"`{name}` of the file must be {expected}, got {str(got)[:80]}")
