"""Frames that commands write: each says its charge, spin and field as every reader knows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lesff.errors import ConfigError
from lesff.quantities import INFO_CHARGE, INFO_FIELD, INFO_SPIN

if TYPE_CHECKING:
    import ase

    from lesff.atoms.structure import Structure


def with_state(atoms: ase.Atoms, structure: Structure) -> ase.Atoms:
    """The atoms, labels and all, with the charge, spin and field that were used in ``info``.

    Other keys for the same are removed, so that no two can contradict each other.
    """
    copy = atoms.copy()
    copy.calc = atoms.calc
    for key in (*INFO_CHARGE, *INFO_SPIN, INFO_FIELD):
        copy.info.pop(key, None)
    copy.info[INFO_CHARGE[0]] = structure.total_charge
    copy.info[INFO_SPIN[0]] = structure.spin_multiplicity
    if structure.external_field is not None:
        copy.info[INFO_FIELD] = structure.external_field
    return copy


def parse_labels(pairs: Iterable[str]) -> dict[str, str]:
    """``energy=REF_energy`` as ``{"energy": "REF_energy"}``.

    Raises:
        ConfigError: for text without ``=``.
    """
    found = {}
    for pair in pairs:
        name, equals, key = pair.partition("=")
        if not equals:
            raise ConfigError(f"`--label` must be NAME=KEY, got {pair!r}")
        found[name] = key
    return found
