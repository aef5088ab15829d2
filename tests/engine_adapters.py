"""Every engine behind one face: atoms in, energy, forces and virial of the engine out.

Positions, forces and virials are in the orientation of the atoms, units in eV and A, whatever the
engine stores. A new engine is one more class in ``ENGINES``.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import torch
from ase.stress import voigt_6_to_full_3x3_stress

from lesff.engines import lammps
from lesff.engines.cells import lower_triangular
from lesff.engines.scanner import Scanner
from lesff.engines.units import UNITS
from lesff.errors import LesffError
from lesff.model import Model

EV_PER_A3_TO_BAR = 1.602176634e6
"""Exact."""
ATM_TO_BAR = 1.01325
"""Exact."""
ELEMENTS = ["O", "H"]


class Engine:
    """A model in an engine.

    Attributes:
        package: Package that must be installed.
        extra: Extra of lesff that installs it.
        takes_crystals: Whether there are periodic boundaries at all.
        takes_slabs: Whether there are boundaries with two periodic directions.
        takes_field: Whether an external field can be given.
    """

    package, extra = "ase", ""
    takes_crystals = takes_slabs = takes_field = True

    def __init__(self, model: Model, folder: Path, **options: Any) -> None:
        self.model, self.folder, self.options = model, folder, options

    def evaluate(self, atoms: ase.Atoms) -> dict[str, Any]:
        """energy, forces, virial (3, 3) of crystals, charges."""
        raise NotImplementedError


class AseEngine(Engine):
    """The calculator."""

    def evaluate(self, atoms: ase.Atoms) -> dict[str, Any]:
        atoms = atoms.copy()
        atoms.calc = self.model.calculator(**self.options)
        out = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        out["charges"] = atoms.get_charges()
        if atoms.pbc.all():
            stress = voigt_6_to_full_3x3_stress(atoms.get_stress())
            out["virial"] = -atoms.get_volume() * stress
        return out


class LammpsEngine(Engine):
    """``run 0`` of a fresh LAMMPS; what its thermo and its arrays say."""

    package, extra = "lammps", "lammps"
    units = "metal"

    def open(self, atoms: ase.Atoms) -> tuple[Any, np.ndarray]:
        lmp = lammps.start("-log", str(self.folder / "log.lammps"), "-screen", "none")
        lmp.commands_string(f"units {self.units}\natom_style charge\natom_modify map array")
        rotation = lammps.add_atoms(lmp, atoms, ELEMENTS)
        lmp.commands_string("pair_style zero 4.0\npair_coeff * *\nthermo_modify norm no")
        return lmp, rotation

    def evaluate(self, atoms: ase.Atoms) -> dict[str, Any]:
        lmp, rotation = self.open(atoms)
        options = {"charges": True, **self.options}
        if "charge" in atoms.info:
            options["total_charge"] = atoms.info["charge"]
        if "external_field" in options:
            options["external_field"] = np.array(options["external_field"]) @ rotation
        lammps.attach(lmp, self.model, **options)
        lmp.command("run 0")
        units = UNITS[f"lammps {self.units}"]
        # LAMMPS' own arrays, in its own order
        order = np.argsort(lmp.numpy.extract_atom("id")[: len(atoms)])
        forces = lmp.numpy.extract_atom("f")[: len(atoms)][order] * units.force @ rotation.T
        out = {"energy": lmp.get_thermo("pe") * units.energy, "forces": forces}
        out["charges"] = lmp.numpy.extract_atom("q")[: len(atoms)][order].copy()
        if atoms.pbc.all():
            # no velocities: the pressure is the virial
            rows = (("xx", "xy", "xz"), ("xy", "yy", "yz"), ("xz", "yz", "zz"))
            pressure = np.array([[lmp.get_thermo(f"p{x}") for x in row] for row in rows])
            pressure *= {"metal": 1.0, "real": ATM_TO_BAR}[self.units] / EV_PER_A3_TO_BAR
            out["virial"] = rotation @ pressure @ rotation.T * atoms.get_volume()
        lmp.close()
        return out


class LammpsRealEngine(LammpsEngine):
    """In kcal/mol and atmospheres."""

    units = "real"


class IpiEngine(Engine):
    """The driver as i-PI calls it, in a batch of one or with a second bead."""

    package, extra = "ipi", "ipi"
    batch = 1

    def evaluate(self, atoms: ase.Atoms) -> dict[str, Any]:
        from lesff.engines import ipi_driver  # imports i-PI

        template = self.folder / "template.extxyz"
        ase.io.write(template, atoms)
        options = dict(self.options)
        rotation = np.eye(3)
        cell = np.zeros((3, 3))
        if atoms.pbc.any():
            cell, rotation = lower_triangular(np.array(atoms.cell))
        driver = ipi_driver.LesffDriver(
            template=str(template),
            model=str(self.model.source.folder),
            dtype="float64",
            extras="charges",
            **options,
        )
        bohr, hartree = 1.0 / ipi_driver._ANGSTROM, 1.0 / ipi_driver._EV
        positions = atoms.positions @ rotation / bohr
        if self.batch == 1:
            energy, forces, virial, extras = driver(cell.T / bohr, positions)
        else:
            other = positions + 0.01 * np.sin(np.arange(positions.size)).reshape(-1, 3)
            results = driver([cell.T / bohr] * self.batch, [other, positions])
            energy, forces, virial, extras = results[1]
        return {
            "energy": energy * hartree,
            "forces": forces * hartree / bohr @ rotation.T,
            "virial": rotation @ virial @ rotation.T * hartree,
            "charges": np.array(json.loads(extras)["charges"]),
        }


class IpiBatchEngine(IpiEngine):
    """Two beads at once."""

    batch = 2


class ScannerEngine(Engine):
    """Symbols and coordinates in bohr."""

    takes_crystals = takes_slabs = False

    def evaluate(self, atoms: ase.Atoms) -> dict[str, Any]:
        units = UNITS["atomic"]
        options = dict(self.options)
        if "charge" in atoms.info:
            options["total_charge"] = atoms.info["charge"]
        scanner = Scanner(self.model, **options)
        energy, gradient = scanner(list(atoms.symbols), atoms.positions / units.length)
        return {"energy": energy * units.energy, "forces": -gradient * units.force}


class QCEngineEngine(Engine):
    """``qcengine.compute`` of QCSchema."""

    package, extra = "qcengine", "qcengine"
    takes_crystals = takes_slabs = False

    def evaluate(self, atoms: ase.Atoms) -> dict[str, Any]:
        import qcengine

        from lesff.engines.qcengine import register

        register()
        units = UNITS["atomic"]
        molecule = {
            "symbols": list(atoms.symbols),
            "geometry": (atoms.positions / units.length).ravel(),
            "molecular_charge": atoms.info.get("charge", 0),
            "fix_com": True,
            "fix_orientation": True,
        }
        task = {"molecule": molecule, "model": {"method": str(self.model.source.folder)}}
        task["keywords"] = {"dtype": "float64", **self.options}
        results = {}
        for driver in ("gradient", "properties"):
            found = qcengine.compute({**task, "driver": driver}, "lesff")
            if not found.success:
                raise LesffError(found.error.error_message)
            results[driver] = found.return_result
        return {
            "energy": results["properties"]["energy"] * units.energy,
            "forces": -np.reshape(results["gradient"], (-1, 3)) * units.force,
            "charges": np.array(results["properties"]["charges"]),
        }


class TorchSimEngine(Engine):
    """Two systems in one state; the second is asked about."""

    package, extra = "torch_sim", "torchsim"

    def evaluate(self, atoms: ase.Atoms) -> dict[str, Any]:
        import torch_sim  # pyright: ignore[reportMissingImports]

        from lesff.engines.torchsim import LesffModel

        other = atoms.copy()
        other.positions += 0.01 * np.sin(np.arange(3 * len(atoms))).reshape(-1, 3)
        model = LesffModel(self.model, compute_stress=bool(atoms.pbc.all()), **self.options)
        state = torch_sim.io.atoms_to_state(
            [other, atoms],
            device=torch.device("cpu"),
            dtype=torch.float64,
            system_extras_map={"charge": "charge"} if "charge" in atoms.info else None,
        )
        out = {name: value.numpy() for name, value in model(state).items()}
        results = {"energy": float(out["energy"][1]), "forces": out["forces"][len(atoms) :]}
        if atoms.pbc.all():
            results["virial"] = -atoms.get_volume() * out["stress"][1]
        return results


ENGINES: dict[str, type[Engine]] = {
    "ase": AseEngine,
    "lammps": LammpsEngine,
    "lammps-real": LammpsRealEngine,
    "ipi": IpiEngine,
    "ipi-batch": IpiBatchEngine,
    "scanner": ScannerEngine,
    "qcengine": QCEngineEngine,
    "torchsim": TorchSimEngine,
}


def is_installed(engine: type[Engine]) -> bool:
    """Whether the engine's package is there."""
    return find_spec(engine.package) is not None
