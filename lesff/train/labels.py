"""Labels of training data: which keys are recognised, what they mean, what a data set holds.

Units are never guessed: a key means the unit of the table, and values in other units must be
converted before. Keys count without regard to case and with the prefixes of ``PREFIXES``. All
places count alike: a label that stands in the calculator and in ``info`` must be the same in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import BaseCalculator
from ase.data import atomic_masses
from ase.stress import voigt_6_to_full_3x3_stress

from lesff.errors import ConfigError, DataError, StateWarning, warn
from lesff.quantities import (
    DIPOLE_ORIGINS,
    INFO_CHARGE,
    INFO_DIPOLE_ORIGIN,
    INFO_FIELD,
    INFO_MODEL,
    INFO_SPIN,
)

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
        unit="e A",
        convention="of ions about the centre of nuclear charge or info['dipole_origin']",
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
_STATE_KEYS = {*INFO_CHARGE, *INFO_SPIN, INFO_FIELD, INFO_MODEL, INFO_DIPOLE_ORIGIN}
_HARMLESS = {
    "free_energy", "numbers", "positions", "key_value_pairs", "data", "unique_id", "weight",
    "molecule", "subset", "selected_frame",
}  # fmt: skip

SAME_RTOL, SAME_ATOL = 2e-7, 1e-6
"""Two values of one label are the same if they differ by no more than the rounding of float32 and
of text with six decimals."""


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
        refused: Frames whose calculator has results that are not theirs, and why.
        notes: Sentences about frames that look like mistakes.
    """

    n_frames: int = 0
    found: dict[tuple[str, str], int] = field(default_factory=dict)
    unused: dict[str, int] = field(default_factory=dict)
    charges: dict[int, int] = field(default_factory=dict)
    spins: dict[int, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count_state(self, total_charge: int, spin_multiplicity: int) -> None:
        """Count one frame."""
        self.n_frames += 1
        self.charges[total_charge] = self.charges.get(total_charge, 0) + 1
        self.spins[spin_multiplicity] = self.spins.get(spin_multiplicity, 0) + 1

    def leave_out(self, what: str) -> None:
        """Count one frame of which ``what`` is not used."""
        self.unused[what] = self.unused.get(what, 0) + 1

    def check_results(self) -> None:
        """Refuse frames whose calculator has results of another structure.

        Raises:
            DataError: naming the first frame.
        """
        if self.refused:
            raise DataError(
                f"the results of the calculators of {len(self.refused)} frame(s) are not theirs: "
                f"{self.refused[0]}; compute each frame and store its results in a "
                "SinglePointCalculator of its own"
            )

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
        keys: Key to read a label from, by label name, if need be with its place (``calculator``,
            ``info``, ``arrays``), such as ``"info.energy"``; ``""`` leaves the label out. Labels
            that are not named are found by the table.

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

        Labels that mean nothing for the structure (stress of a molecule, dipole of a crystal) are
        left out whatever their value. So are results of a calculator that belong to another
        structure; that warns, and they are listed in the summary.

        Args:
            atoms: The structure, with labels in its calculator, ``info`` or ``arrays``.
            where: Name of the structure in errors.

        Raises:
            DataError: for two sources of the same label with different values, a wrong shape,
                values that are not finite, or a key of ``keys`` that is not there.
        """
        labels: dict[str, np.ndarray] = {}
        results, reason = _results(atoms)
        if reason:
            self._refuse_results(reason, where)
        for name, options in self._by_label(_candidates(atoms, results), where).items():
            reason = _meaningless(name, atoms)
            if reason is not None:
                self.summary.leave_out(reason)
                continue
            values = [
                (one, _shaped(LABELS[name], one.value, len(atoms), f"{where}, `{one.key}`"))
                for one in options
            ]
            chosen, value = values[0]
            for other, found in values[1:]:
                if not np.allclose(found, value, rtol=SAME_RTOL, atol=SAME_ATOL):
                    raise _clash(name, chosen, other, where)
            labels[name] = value
            pair = (name, chosen.key)
            self.summary.found[pair] = self.summary.found.get(pair, 0) + 1
        if "virial" in labels:
            self._virial_to_stress(labels, atoms, where)
        return labels

    def _refuse_results(self, reason: str, where: str) -> None:
        if not self.summary.refused:
            warn(
                f"{where}: the results of its calculator are not used: {reason}; compute the frame "
                "and store its results in a SinglePointCalculator of its own", StateWarning,
            )  # fmt: skip
        self.summary.refused.append(f"{where}: {reason}")
        self.summary.leave_out("results of calculators that are not those of their frame")

    def _by_label(
        self, candidates: Sequence[_Candidate], where: str
    ) -> dict[str, list[_Candidate]]:
        found: dict[str, list[_Candidate]] = {}
        for name, key in self.keys.items():
            chosen = [one for one in candidates if one.is_named(key)]
            if chosen:
                found[name] = chosen
            elif key:
                there = ", ".join(dict.fromkeys(one.key for one in candidates))
                raise DataError(f"{where}: key `{key}` for {name} is not there; keys: {there}")
        named = [key for key in self.keys.values() if key]
        for one in candidates:
            name = kind_of_key(one.key)
            if any(one.is_named(key) for key in named):
                continue
            if name is None:
                if one.key.lower() not in _HARMLESS | _STATE_KEYS:
                    self.summary.leave_out(one.key)
            elif name not in self.keys:
                found.setdefault(name, []).append(one)
        return found

    @staticmethod
    def _virial_to_stress(labels: dict[str, np.ndarray], atoms: ase.Atoms, where: str) -> None:
        stress = -labels.pop("virial") / atoms.get_volume()
        if "stress" in labels and not np.allclose(labels["stress"], stress, atol=1e-5):
            raise DataError(
                f"{where}: `stress` must be minus the virial over the volume, and it is not; leave "
                "one out with labels={'virial': ''} or labels={'stress': ''}"
            )
        labels.setdefault("stress", stress)


@dataclass(frozen=True)
class _Candidate:
    """Something that could be a label: its key, where it is, its value."""

    key: str
    place: str
    value: Any

    def is_named(self, name: str) -> bool:
        """Whether a user's key means this one."""
        return name in (self.key, f"{self.place}.{self.key}")


def _clash(name: str, one: _Candidate, other: _Candidate, where: str) -> DataError:
    same_key = one.key == other.key
    key = f"{other.place}.{other.key}" if same_key else other.key
    places = (f" ({one.place})", f" ({other.place})") if same_key else ("", "")
    return DataError(
        f"{where}: `{one.key}`{places[0]} and `{other.key}`{places[1]} both mean {name} and "
        f"differ; say which one to use, such as labels={{{name!r}: {key!r}}}"
    )


def _meaningless(name: str, atoms: ase.Atoms) -> str | None:
    """Why a label says nothing about the structure; None if it does."""
    if name in ("stress", "virial") and not atoms.pbc.all():
        return "stress of frames that are not periodic in three directions"
    if name == "dipole" and atoms.pbc.any():
        return "dipole of periodic frames (it depends on the choice of cell)"
    if name == "polarizability":
        return "polarizability (no response to fields to train)"
    return None


def _candidates(atoms: ase.Atoms, results: Mapping[str, Any]) -> list[_Candidate]:
    """Everything that could be a label: calculator, info, database rows, arrays."""
    found = [_Candidate(key, "calculator", value) for key, value in results.items()]
    found += [_Candidate(str(key), "info", value) for key, value in atoms.info.items()]
    for nested in ("key_value_pairs", "data"):  # rows of an ASE database
        if isinstance(atoms.info.get(nested), Mapping):
            found += [_Candidate(str(k), "data", v) for k, v in atoms.info[nested].items()]
    arrays = {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")}
    return [
        one
        for one in (*found, *(_Candidate(k, "arrays", v) for k, v in arrays.items()))
        if one.value is not None
    ]


def _results(atoms: ase.Atoms) -> tuple[Mapping[str, Any], str]:
    """Results of the calculator if they are those of these atoms, by ASE's own rule; else why not.

    Reading never computes: a calculator that several frames share has results for one of them.
    """
    results = getattr(atoms.calc, "results", None)
    if not results:
        return {}, ""
    if not isinstance(atoms.calc, BaseCalculator):
        return {}, f"{type(atoms.calc).__name__} does not say which atoms they belong to"
    changes = atoms.calc.check_state(atoms)
    if changes:
        return {}, f"they belong to another structure (different: {', '.join(changes)})"
    return results, ""


def dipole_about_nuclear_charge(
    dipole: np.ndarray,
    *,
    numbers: np.ndarray,
    positions: np.ndarray,
    total_charge: int,
    origin: Any,
    where: str,
) -> np.ndarray:
    """The dipole moved to the centre of nuclear charge: mu - Q (R - r_0), (3,) in e A.

    Args:
        dipole: (3,) label, e A.
        numbers: (n_atoms,) atomic numbers.
        positions: (n_atoms, 3) in A.
        total_charge: Q in e; without charge the dipole does not depend on the origin.
        origin: r_0: one of ``DIPOLE_ORIGINS`` or three numbers in A.
        where: Name of the structure in errors.

    Raises:
        DataError: for an origin that is none of these.
    """
    point = _origin_point(origin, numbers, positions, where)
    if total_charge == 0 or point is None:
        return dipole
    centre = np.average(positions, axis=0, weights=numbers)
    return dipole - total_charge * (centre - point)


def _origin_point(
    origin: Any, numbers: np.ndarray, positions: np.ndarray, where: str
) -> np.ndarray | None:
    """The point in A; None for the centre of nuclear charge."""
    if isinstance(origin, (bytes, np.bytes_)):
        origin = origin.decode()
    if isinstance(origin, str) and origin in DIPOLE_ORIGINS:
        if origin == "nuclear_charge":
            return None
        if origin == "coordinates":
            return np.zeros(3)
        return np.average(positions, axis=0, weights=atomic_masses[numbers])
    try:
        point = np.asarray(origin, dtype=np.float64)
    except (TypeError, ValueError):
        point = np.array(np.nan)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise DataError(
            f"{where}: `{INFO_DIPOLE_ORIGIN}` must be {', '.join(DIPOLE_ORIGINS)} or three numbers "
            f"in A, got {origin!r}"
        )
    return point


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
