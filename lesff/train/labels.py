"""Labels of training data: which keys are recognised, what they mean, what a data set holds.

Units are never guessed: a key means the unit of the table, and values in other units must be
converted before. Keys count without regard to case and with the prefixes of ``PREFIXES``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ase
import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from lesff.errors import ConfigError, DataError
from lesff.quantities import INFO_CHARGE, INFO_SPIN

PREFIXES = ("ref_", "dft_", "qm_", "target_", "true_")
"""Prefixes that a key may have, such as ``REF_energy``."""


@dataclass(frozen=True, kw_only=True)
class LabelKind:
    """One kind of label.

    Attributes:
        name: Name in lesff.
        stems: Keys that mean it, without prefix, lower case.
        shape: Shape per system or per atom.
        level: ``"system"`` or ``"atom"``.
        unit: Unit of the values.
        convention: Sign and order, where a reader can go wrong.
    """

    name: str
    stems: tuple[str, ...]
    shape: tuple[int, ...]
    level: str
    unit: str
    convention: str = ""


_KINDS = (
    LabelKind(name="energy", stems=("energy", "total_energy"), shape=(), level="system", unit="eV"),
    LabelKind(
        name="forces", stems=("forces", "force"), shape=(3,), level="atom", unit="eV/A",
        convention="minus the gradient",
    ),
    LabelKind(
        name="stress", stems=("stress",), shape=(3, 3), level="system", unit="eV/A^3",
        convention="(1/V) dE/dstrain, positive under tension; 6 values are xx yy zz yz xz xy",
    ),
    LabelKind(
        name="virial", stems=("virial", "virials"), shape=(3, 3), level="system", unit="eV",
        convention="-dE/dstrain = -V stress; read as stress",
    ),
    LabelKind(
        name="dipole", stems=("dipole", "dipoles", "dipole_moment"), shape=(3,), level="system",
        unit="e A", convention="about the coordinate origin",
    ),
    LabelKind(name="charges", stems=("charges", "partial_charges"), shape=(), level="atom",
              unit="e"),
    LabelKind(
        name="born_effective_charges", stems=("born_effective_charges", "bec", "becs", "zstar"),
        shape=(3, 3), level="atom", unit="e", convention="[a, i, j] = dP_i / dr_aj",
    ),
    LabelKind(name="polarizability", stems=("polarizability",), shape=(3, 3), level="system",
              unit="e A^2/V"),
)  # fmt: skip

LABELS: dict[str, LabelKind] = {kind.name: kind for kind in _KINDS}
"""Every kind of label, by name."""

_STEMS = {stem: kind.name for kind in _KINDS for stem in kind.stems}
_STATE_KEYS = {*INFO_CHARGE, *INFO_SPIN}
_HARMLESS = {
    "free_energy", "numbers", "positions", "key_value_pairs", "data", "unique_id", "weight",
    "molecule", "subset",
}  # fmt: skip


def kind_of_key(key: str) -> str | None:
    """Name of the label that a key means, or None.

    >>> kind_of_key("REF_energy"), kind_of_key("force"), kind_of_key("mbis_charges")
    ('energy', 'forces', None)
    """
    lower = key.lower()
    for prefix in PREFIXES:
        lower = lower.removeprefix(prefix)
    return _STEMS.get(lower)


@dataclass
class LabelSummary:
    """What was found in a data set.

    Attributes:
        n_frames: Frames read.
        found: Number of frames per (label, key).
        unused: Number of frames per key that means nothing to lesff.
        charges: Number of frames per total charge.
        spins: Number of frames per spin multiplicity.
        notes: Sentences about frames that look like mistakes.
    """

    n_frames: int = 0
    found: dict[tuple[str, str], int] = field(default_factory=dict)
    unused: dict[str, int] = field(default_factory=dict)
    charges: dict[int, int] = field(default_factory=dict)
    spins: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def count_state(self, total_charge: int, spin_multiplicity: int) -> None:
        """Count one frame."""
        self.n_frames += 1
        self.charges[total_charge] = self.charges.get(total_charge, 0) + 1
        self.spins[spin_multiplicity] = self.spins.get(spin_multiplicity, 0) + 1

    def leave_out(self, what: str) -> None:
        """Count one frame of which ``what`` is not used."""
        self.unused[what] = self.unused.get(what, 0) + 1

    def names(self) -> set[str]:
        """Labels that at least one frame has."""
        return {"stress" if name == "virial" else name for name, _ in self.found}

    def lines(self) -> list[str]:
        """Text for people, one line per label, units stated."""
        rows = [f"{self.n_frames} frames"]
        for (name, key), count in sorted(self.found.items()):
            kind = LABELS[name]
            note = f"; {kind.convention}" if kind.convention else ""
            rows.append(f"  {name} from key `{key}`, {count} frames, in {kind.unit}{note}")
        for title, counts in (("total charge", self.charges), ("spin 2S+1", self.spins)):
            values = ", ".join(f"{value} ({n})" for value, n in sorted(counts.items()))
            rows.append(f"  {title}: {values}")
        if self.unused:
            rows.append(f"  not used: {', '.join(sorted(self.unused))}")
        return rows + [f"  {note}" for note in self.notes]


class LabelReader:
    """Reads the labels of atoms and counts what it finds.

    Args:
        keys: Key to read a label from, by label name; ``""`` leaves the label out. Labels that are
            not named are found by the table.

    Raises:
        ConfigError: for a label that does not exist.
    """

    def __init__(self, keys: Mapping[str, str] | None = None) -> None:
        self.keys = dict(keys or {})
        self.summary = LabelSummary()
        unknown = sorted(set(self.keys) - set(LABELS))
        if unknown:
            raise ConfigError(
                f"`labels` must name {', '.join(LABELS)}; got {', '.join(map(repr, unknown))}"
            )

    def read(self, atoms: ase.Atoms, where: str) -> dict[str, np.ndarray]:
        """Labels of one structure by name, checked, float64; a virial comes back as stress.

        Args:
            atoms: The structure, with labels in its calculator, ``info`` or ``arrays``.
            where: Name of the structure in errors.

        Raises:
            DataError: for two keys that mean the same label with different values, a wrong shape,
                values that are not finite, or a key of ``keys`` that is not there.
        """
        candidates = _candidates(atoms)
        labels: dict[str, np.ndarray] = {}
        for name, options in self._by_label(candidates, where).items():
            values = {
                key: _shaped(LABELS[name], value, len(atoms), f"{where}, `{key}`")
                for key, value in options.items()
            }
            key, value = next(iter(values.items()))
            clash = [k for k, v in values.items() if not np.allclose(v, value, rtol=1e-6)]
            if clash:
                raise DataError(
                    f"{where}: `{key}` and `{clash[0]}` both mean {name} and differ; say which one "
                    f"to use, such as labels={{{name!r}: {clash[0]!r}}}"
                )
            labels[name] = value
            found = (name, key)
            self.summary.found[found] = self.summary.found.get(found, 0) + 1
        if "virial" in labels:
            self._virial_to_stress(labels, atoms, where)
        return labels

    def _by_label(self, candidates: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name, key in self.keys.items():
            if key and key in candidates:
                found[name] = {key: candidates[key]}
            elif key:
                raise DataError(
                    f"{where}: key `{key}` for {name} is not there; keys: {', '.join(candidates)}"
                )
        named = set(self.keys.values())
        for key, value in candidates.items():
            name = kind_of_key(key)
            if name is None and key not in named:
                if key.lower() not in _HARMLESS | _STATE_KEYS:
                    self.summary.leave_out(key)
            elif name is not None and name not in self.keys and key not in named:
                found.setdefault(name, {})[key] = value
        return found

    @staticmethod
    def _virial_to_stress(labels: dict[str, np.ndarray], atoms: ase.Atoms, where: str) -> None:
        virial = labels.pop("virial")
        if not atoms.pbc.all():
            return  # a molecule's virial has no volume to divide by
        stress = -virial / atoms.get_volume()
        if "stress" in labels and not np.allclose(labels["stress"], stress, atol=1e-5):
            raise DataError(
                f"{where}: `stress` must be minus the virial over the volume, and it is not; leave "
                "one out with labels={'virial': ''} or labels={'stress': ''}"
            )
        labels.setdefault("stress", stress)


def _candidates(atoms: ase.Atoms) -> dict[str, Any]:
    """Everything that could be a label, by key: calculator, info, database rows, arrays."""
    found: dict[str, Any] = {}
    if atoms.calc is not None:
        found |= {k: v for k, v in atoms.calc.results.items() if v is not None}
    found |= atoms.info
    for nested in ("key_value_pairs", "data"):  # rows of an ASE database
        if isinstance(atoms.info.get(nested), Mapping):
            found |= atoms.info[nested]
    return found | {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")}


def _shaped(kind: LabelKind, value: Any, n_atoms: int, where: str) -> np.ndarray:
    """The label as float64 of its shape."""
    expected = ((n_atoms,) if kind.level == "atom" else ()) + kind.shape
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} must be numbers of shape {expected}, got {value!r}") from error
    if kind.shape == (3, 3) and kind.level == "system" and array.size == 6:
        array = voigt_6_to_full_3x3_stress(array.ravel())
    bare = array.squeeze() if array.size == int(np.prod(expected)) else array
    if bare.size != int(np.prod(expected)) or not _same_axes(array.shape, expected):
        raise DataError(f"{where} must have shape {expected} ({kind.unit}), got {array.shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{where}: labels must be finite, got NaN or infinity")
    return array.reshape(expected)


def _same_axes(shape: Iterable[int], expected: tuple[int, ...]) -> bool:
    """Whether shapes agree up to axes of length one and flattened 3 x 3 blocks."""
    bare, wanted = [n for n in shape if n != 1], [n for n in expected if n != 1]
    if bare == wanted:
        return True
    return expected[-2:] == (3, 3) and bare == [*wanted[:-2], 9]
