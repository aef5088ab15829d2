"""QCEngine: a model as the program ``lesff`` of QCSchema.

::

    import qcengine
    from lesff.engines.qcengine import register

    register()
    water = {"symbols": ["O", "H", "H"], "geometry": [...]}  # bohr
    method = {"method": "off-medium"}
    task = {"molecule": water, "driver": "gradient", "model": method}
    result = qcengine.compute(task, "lesff")

The method is the model's name. Keywords: ``dtype`` and ``device`` of :func:`lesff.load`,
``external_field`` (V/A), ``strict`` and ``allow_close`` of :meth:`lesff.Model.predict`. Energies,
gradients, Hessians and properties (dipole, charges) are in atomic units.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, ClassVar

import ase
import numpy as np

from lesff.engines.units import UNITS
from lesff.errors import LesffError, MissingDependencyError
from lesff.model import load

try:
    from qcelemental.models.v2 import AtomicResult, Provenance
    from qcengine import list_all_programs, register_program
    from qcengine.exceptions import InputError
    from qcengine.programs.model import ProgramHarness
except ImportError as error:
    raise MissingDependencyError(
        'QCEngine is not installed; install it with `pip install "lesff[qcengine]"`'
    ) from error

_UNITS = UNITS["atomic"]
_ASKED = {
    "energy": ("energy",),
    "gradient": ("energy", "forces"),
    "hessian": ("energy", "forces", "hessian"),
    "properties": ("energy", "dipole", "charges"),
}
"""Quantities of each driver."""
_LOADING = ("dtype", "device")
_PREDICTING = ("external_field", "strict", "allow_close")


class LesffHarness(ProgramHarness):
    """What QCEngine calls; molecules only, as QCSchema has no cells."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "lesff",
        "scratch": False,
        "thread_safe": False,
        "thread_parallel": True,
        "node_parallel": False,
        "managed_memory": False,
    }

    @staticmethod
    def found(raise_error: bool = False) -> bool:
        """Always: this module is part of lesff.

        Args:
            raise_error: QCEngine's.
        """
        return True

    def get_version(self) -> str:
        """Version of lesff."""
        return version("lesff")

    def compute(self, input_data: Any, config: Any) -> AtomicResult:
        """Run one task.

        Args:
            input_data: ``AtomicInput`` of QCSchema 2.
            config: QCEngine's settings of the machine; not used.

        Raises:
            InputError: for what lesff refuses, with its reason; QCEngine makes it a
                ``FailedOperation``.
        """
        task = input_data.specification
        try:
            model, found = _predicted(input_data.molecule, task)
        except LesffError as error:
            raise InputError(f"lesff: {error}") from error
        results = _atomic_units(found)
        driver = task.driver.value
        properties = {
            "calcinfo_natom": len(input_data.molecule.symbols),
            "return_energy": results["energy"],
            **{f"return_{n}": results[n] for n in ("gradient", "hessian") if n in results},
        }
        if "dipole" in results:
            properties["scf_dipole_moment"] = results["dipole"]
        fields = {
            "input_data": input_data,
            "molecule": input_data.molecule,
            "success": True,
            "return_result": results if driver == "properties" else results[driver],
            "properties": properties,
            "provenance": Provenance(creator="lesff", version=self.get_version(), routine=model),
        }
        return AtomicResult(**fields)


def _predicted(molecule: Any, task: Any) -> tuple[str, dict[str, Any]]:
    """Name of the model, and its results in eV and A."""
    keywords = dict(task.keywords)
    unknown = sorted(keywords.keys() - {*_LOADING, *_PREDICTING})
    if unknown:
        raise InputError(
            f"lesff: unknown keyword {', '.join(unknown)}; there are "
            f"{', '.join((*_LOADING, *_PREDICTING))}"
        )
    if not np.all(molecule.real):
        raise InputError("lesff: the molecule must be without ghost atoms")
    atoms = ase.Atoms(np.array(molecule.atomic_numbers), _UNITS.length * molecule.geometry)
    model = load(task.model.method, **{n: keywords[n] for n in _LOADING if n in keywords})
    names = _ASKED[task.driver.value]
    found = model.predict(
        atoms,
        names,
        total_charge=molecule.molecular_charge,
        spin_multiplicity=molecule.molecular_multiplicity,
        **{name: keywords[name] for name in _PREDICTING if name in keywords},
    )
    return model.name, {name: getattr(found, name) for name in names}


def _atomic_units(found: dict[str, Any]) -> dict[str, Any]:
    """Results in hartree, bohr and e; a gradient instead of forces, a Hessian as a matrix."""
    results: dict[str, Any] = {"energy": float(found["energy"]) / _UNITS.energy}
    if "forces" in found:
        results["gradient"] = -np.asarray(found["forces"]) / _UNITS.force
    if "hessian" in found:
        size = 3 * len(found["hessian"])
        matrix = np.asarray(found["hessian"]).reshape(size, size)
        results["hessian"] = matrix * _UNITS.length / _UNITS.force
    if "dipole" in found:
        results["dipole"] = np.asarray(found["dipole"]) / _UNITS.length
        results["charges"] = np.asarray(found["charges"])
    return results


def register() -> None:
    """Make ``lesff`` a program of QCEngine in this process; again does nothing.

    Raises:
        MissingDependencyError: on import of this module, if QCEngine is not installed.
    """
    if "lesff" not in list_all_programs():
        # all fields have their defaults
        register_program(LesffHarness(**LesffHarness._defaults))
