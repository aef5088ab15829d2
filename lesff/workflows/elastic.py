"""Elastic constants: stresses of strained cells in one batch, fitted by pymatgen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ase
import numpy as np

from lesff.errors import ConfigError, ConvergenceError
from lesff.model import Model
from lesff.reports.figures import new_figure
from lesff.units import EV_PER_A3_TO_GPA
from lesff.workflows.crystals import SYMMETRY_TOLERANCE, Start, kept_minimum
from lesff.workflows.extras import require
from lesff.workflows.folder import WorkFolder, staged
from lesff.workflows.relax import RelaxOptions, relax

_VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")


@dataclass(frozen=True, kw_only=True)
class ElasticOptions:
    """How elastic constants are computed.

    Attributes:
        start: What is relaxed first, see :func:`lesff.workflows.crystals.minimum`.
        fmax: Largest force of a minimum, eV/A.
        strain: Largest strain; each of the six is applied by plus and minus this and its half.
        relaxes_atoms: Whether atoms are relaxed in each strained cell; else the constants are those
            of clamped ions.

    Raises:
        ConfigError: for a bad value.
    """

    start: Start = "cell"
    fmax: float = 1e-3
    strain: float = 0.01
    relaxes_atoms: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        if self.start not in ("cell", "atoms", "none"):
            raise ConfigError(f"`start` must be of cell, atoms, none, got {self.start!r}")
        if not 0.0 < self.strain <= 0.1:
            raise ConfigError(f"`strain` must be above 0 and at most 0.1, got {self.strain!r}")
        if not (np.isfinite(self.fmax) and self.fmax > 0.0):
            raise ConfigError(f"`fmax` must be positive, got {self.fmax!r}")


@dataclass(frozen=True, kw_only=True)
class ElasticResult:
    """Elastic constants of a crystal, GPa, in the Cartesian axes of its cell.

    Attributes:
        atoms: The crystal at its minimum.
        constants: (6, 6) in Voigt order (xx, yy, zz, yz, xz, xy), with the symmetry of the crystal.
        fitted: (6, 6) before symmetry was imposed: what differs is noise of the fit.
        bulk: Voigt, Reuss and Hill averages of the bulk modulus.
        shear: Likewise, of the shear modulus.
        young: Young's modulus of the Hill averages.
        poisson: Poisson's ratio of the Hill averages.
        anisotropy: Universal index ``5 Gv/Gr + Kv/Kr - 6``, 0 if isotropic.
        eigenvalues: (6,) of the matrix in Mandel's form; all positive if stable (Born).
    """

    atoms: ase.Atoms
    constants: np.ndarray
    fitted: np.ndarray
    bulk: tuple[float, float, float]
    shear: tuple[float, float, float]
    young: float
    poisson: float
    anisotropy: float
    eigenvalues: np.ndarray

    @property
    def is_stable(self) -> bool:
        """Born's criterion: every strain costs energy (Mouhat, Coudert, PRB 90, 224104 (2014))."""
        return bool(self.eigenvalues.min() > 0.0)


def elastic_constants(
    model: Model,
    atoms: ase.Atoms,
    options: ElasticOptions | None = None,
    *,
    folder: WorkFolder | None = None,
) -> ElasticResult:
    """Elastic constants of a crystal from stresses of strained cells.

    Args:
        model: The model.
        atoms: The crystal.
        options: How.
        folder: Where minimum and stresses are kept.

    Raises:
        MissingDependencyError: without pymatgen.
        ConvergenceError: if a relaxation fails.
    """
    elasticity = require("pymatgen.analysis.elasticity", "pymatgen")
    core = require("pymatgen.core", "pymatgen")
    options = options or ElasticOptions()

    crystal = kept_minimum(model, atoms, options.start, fmax=options.fmax, folder=folder)
    structure = core.Structure(
        crystal.cell.array, crystal.get_chemical_symbols(), crystal.get_scaled_positions()
    )
    amounts = [factor * options.strain for factor in (-1.0, -0.5, 0.5, 1.0)]
    deformations = elasticity.strain.DeformedStructureSet(
        structure, norm_strains=amounts, shear_strains=amounts
    ).deformations
    arrays = staged(folder, "stresses", lambda: _stresses(model, crystal, deformations, options))
    strains = [elasticity.strain.Strain.from_deformation(d) for d in deformations]
    # Green's strain goes with the second Piola-Kirchhoff stress
    stresses = [
        elasticity.stress.Stress(stress).piola_kirchoff_2(deformation)
        for stress, deformation in zip(arrays["stresses"], deformations, strict=True)
    ]
    rest = elasticity.stress.Stress(arrays["rest"])
    raw = elasticity.elastic.ElasticTensor.from_independent_strains(
        strains, stresses, eq_stress=rest, vasp=False
    )
    tensor = raw.voigt_symmetrized.fit_to_structure(structure, symprec=SYMMETRY_TOLERANCE)
    constants = np.array(tensor.voigt)
    # Mandel: shear rows and columns times sqrt(2)
    weight = np.array([1.0, 1.0, 1.0, *[np.sqrt(2.0)] * 3])
    return ElasticResult(
        atoms=crystal,
        constants=constants,
        fitted=np.array(raw.voigt),
        bulk=(float(tensor.k_voigt), float(tensor.k_reuss), float(tensor.k_vrh)),
        shear=(float(tensor.g_voigt), float(tensor.g_reuss), float(tensor.g_vrh)),
        young=float(9.0 * tensor.k_vrh * tensor.g_vrh / (3.0 * tensor.k_vrh + tensor.g_vrh)),
        poisson=float(tensor.homogeneous_poisson),
        anisotropy=float(tensor.universal_anisotropy),
        eigenvalues=np.linalg.eigvalsh(constants * np.outer(weight, weight)),
    )


def _stresses(
    model: Model, crystal: ase.Atoms, deformations: Any, options: ElasticOptions
) -> dict[str, np.ndarray]:
    """Cauchy stresses in GPa, (n, 3, 3), and that of the crystal at rest."""
    strained = []
    for deformation in deformations:
        copy = crystal.copy()
        # rows of the cell are lattice vectors
        copy.set_cell(crystal.cell.array @ np.array(deformation).T, scale_atoms=True)
        strained.append(copy)
    if options.relaxes_atoms and len(crystal) > 1:
        how = RelaxOptions(method="lbfgs", fmax=options.fmax, steps=1000)
        rows = relax(model, strained, how).relaxed
        bad = next((row for row in rows if not row.converged), None)
        if bad is not None:
            raise ConvergenceError(
                "atoms must relax in each strained cell, but in one "
                f"{bad.error or f'the largest force stays {bad.fmax:.2g} eV/A'}"
            )
        strained = [row.atoms for row in rows]
    found = model.predict([*strained, crystal], "stress", progress=False).stress
    stresses = EV_PER_A3_TO_GPA * np.array(found)
    return {"stresses": stresses[:-1], "rest": stresses[-1]}


def report_elastic(
    folder: WorkFolder, result: ElasticResult, *, command_line: str | None = None
) -> None:
    """Write ``elastic.json``, ``.html`` and ``elastic.png``.

    Args:
        folder: Where.
        result: The constants.
        command_line: For the page.
    """
    names = ("Voigt", "Reuss", "Hill")
    noise = float(np.abs(result.fitted - result.constants).max())
    figure = new_figure(4.6, 3.8)
    panel = figure.subplots()
    limit = float(np.abs(result.constants).max())
    shown = panel.imshow(result.constants, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for i, row in enumerate(result.constants):
        for j, value in enumerate(row):
            panel.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7)
    panel.set_xticks(range(6), _VOIGT)
    panel.set_yticks(range(6), _VOIGT)
    figure.colorbar(shown, label="GPa")
    word = "stable" if result.is_stable else "not stable"
    rows = [[name, result.bulk[i], result.shear[i]] for i, name in enumerate(names)]
    folder.finish(
        {
            "constants_gpa": result.constants.tolist(), "fitted_gpa": result.fitted.tolist(),
            "largest_change_by_symmetry_gpa": noise,
            "bulk_modulus_gpa": dict(zip(names, result.bulk, strict=True)),
            "shear_modulus_gpa": dict(zip(names, result.shear, strict=True)),
            "young_modulus_gpa": result.young, "poisson_ratio": result.poisson,
            "universal_anisotropy": result.anisotropy,
            "eigenvalues_gpa": result.eigenvalues.tolist(), "is_stable": result.is_stable,
            "cell_a_deg": result.atoms.cell.cellpar().tolist(),
        },
        title=f"Elastic constants of {result.atoms.get_chemical_formula()}",
        summary=[
            f"model {folder.settings['model']}: {word} (Born), smallest eigenvalue "
            f"{result.eigenvalues.min():.2f} GPa",
            f"bulk modulus {result.bulk[2]:.1f} GPa, shear modulus {result.shear[2]:.1f} GPa, "
            f"Poisson's ratio {result.poisson:.3f} (Hill)",
            f"symmetry changed the fit by at most {noise:.2g} GPa",
        ],
        tables={"Averages": (["", "bulk modulus GPa", "shear modulus GPa"], rows)},
        figures={"elastic": figure},
        command_line=command_line,
    )  # fmt: skip
