"""Bands, density of states and page of phonons."""

from __future__ import annotations

from typing import Any

import numpy as np

from lesff.disk import written_atomically
from lesff.reports.figures import new_figure
from lesff.train.shards import write_npz
from lesff.workflows.folder import WorkFolder
from lesff.workflows.phonons import THZ_TO_PER_CM, PhononResult

IMAGINARY = -0.05
"""THz: below it a mode counts as imaginary; above, as the rounding of an acoustic one."""


def report_phonons(
    folder: WorkFolder, result: PhononResult, *, command_line: str | None = None
) -> dict[str, Any]:
    """Write ``phonons.json``, ``.html``, ``bands.png``, ``bands.npz`` and phonopy's parameters.

    ``phonopy_params.yaml`` has cell, displacements, forces, Born charges and force constants:
    phonopy goes on from there.

    Args:
        folder: Where.
        result: The phonons.
        command_line: For the page.

    Returns:
        Content of the JSON.
    """
    with written_atomically(folder.path / "phonopy_params.yaml") as new:
        result.phonon.save(new, settings={"force_constants": True})
    folder.write_atoms("minimum.extxyz", result.atoms)
    write_npz(folder.path / "bands.npz", {
        "distances": np.array(result.distances), "frequencies_thz": np.array(result.bands),
        "segments": np.array(result.segments), "dos": result.dos,
    })  # fmt: skip
    stable = result.minimum_frequency > IMAGINARY
    longitudinal = result.longitudinal
    report = {
        "supercell": list(result.supercell), "n_displacements": result.n_displacements,
        "lattice_constants_a": result.atoms.cell.cellpar().tolist(),
        "gamma_per_cm": (THZ_TO_PER_CM * result.gamma).tolist(),
        "gamma_with_field_per_cm":
            None if longitudinal is None else (THZ_TO_PER_CM * longitudinal).tolist(),
        "born_charges_e": None if result.born is None else result.born.tolist(),
        "dielectric": None if result.dielectric is None else result.dielectric.tolist(),
        "smallest_frequency_thz": result.minimum_frequency, "is_stable": stable,
        "path": result.path,
        "thermal": {name: values.tolist() for name, values in result.thermal.items()},
    }  # fmt: skip
    word = "no imaginary modes" if stable else "imaginary modes: not a minimum"
    rows = [
        [i + 1, float(THZ_TO_PER_CM * f),
         "" if longitudinal is None else float(THZ_TO_PER_CM * longitudinal[i])]
        for i, f in enumerate(result.gamma)
    ]  # fmt: skip
    columns = zip(*(result.thermal[name] for name in
                    ("temperatures", "free_energy", "entropy", "heat_capacity")),
                  strict=True)  # fmt: skip
    folder.finish(
        report,
        title=f"Phonons of {result.atoms.get_chemical_formula()}",
        summary=[
            f"model {folder.settings['model']}: {word} (smallest frequency on the mesh "
            f"{result.minimum_frequency:.3f} THz)",
            f"supercell {result.supercell}, {result.n_displacements} displacements by phonopy",
        ],
        tables={
            "Zone centre": (
                ["mode", "without the field 1/cm", "along the first axis, with it 1/cm"],
                rows,
            ),
            "Thermal properties, primitive cell": (
                ["T K", "free energy kJ/mol", "entropy J/(K mol)", "heat capacity J/(K mol)"],
                [[float(value) for value in row] for row in columns],
            ),
        },
        figures={"bands": _figure(result)},
        command_line=command_line,
    )
    return report


def _figure(result: PhononResult) -> Any:
    """Bands along the path beside the density of states."""
    figure = new_figure(8.0, 4.0)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    marks: list[tuple[float, str]] = []
    for distance, band, (first, second) in zip(
        result.distances, result.bands, result.segments, strict=True
    ):
        left.plot(distance, band, color="#1f6fb2", lw=0.9)
        for x, name in ((distance[0], first), (distance[-1], second)):
            if marks and abs(marks[-1][0] - x) < 1e-9:
                old = marks[-1][1]
                marks[-1] = (x, old if old == name else f"{old}|{name}")
            else:
                marks.append((x, name))
    for x, _ in marks:
        left.axvline(x, color="#9aa4af", lw=0.5)
    left.axhline(0.0, color="#9aa4af", lw=0.5)
    names = ["\u0393" if name == "G" else name for _, name in marks]
    left.set_xticks([x for x, _ in marks], names, fontsize=7)
    left.set_xlim(marks[0][0], marks[-1][0])
    left.set_ylabel("frequency (THz)")
    right.plot(result.dos[:, 1], result.dos[:, 0], color="#1f6fb2", lw=0.9)
    right.set_xlabel("states per THz")
    right.set_xlim(left=0.0)
    return figure
