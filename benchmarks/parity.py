"""Converted checkpoints against reference values of their original code, as a Markdown table.

    python benchmarks/parity.py FOLDER --peer-python PEER/bin/python -o docs/parity.md

FOLDER holds ``*.model`` files, the frames ``water_rpbe-d3_test.xyz`` and ``dipeptides_val.xyz``,
and ``reference/<model>.npz`` with ``<frame>.energy|forces|les_energy|latent_charges|
born_effective_charges`` computed in float64 with the original code.
"""

import argparse
import tempfile
from pathlib import Path

import ase.io
import numpy as np
import torch
from workers import compare

from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.autograd import jacobian_rows
from lesff.convert.mace.model import convert_mace
from lesff.convert.reader import read_checkpoint
from lesff.electrostatics.moments.born import sine_born_charges
from lesff.train.data import read_frames
from lesff.train.metrics import evaluate_frames

HEADER = """# Parity of converted checkpoints

Largest differences to the original code (float64 reference values), for published MACE and
MACELES models of water and dipeptides: energy in eV/atom, forces in eV/A, latent charges in e, Born
effective charges (published stencil, mean charge removed) in e. "exact - stencil" is the root mean
square difference between the image-exact Born charges of lesff and the published sine stencil, a
property of the stencil.

DFT errors: mean absolute errors against the labels, energy in meV/atom and forces in meV/A, over
all frames of the test files; "F, ours" and "F, original" are over the frames for which there are
reference values, so that the two can be compared.

"speed" is the CPU time of mace-torch over ours: energy and forces of the first frame, float32, one
thread, neighbour list included, alternating runs, medians. Ours includes the long-range term, which
mace-torch is timed without.

The conversion of every other block and of the exact sizes of MACE-OFF23, MACELES-OFF, MACE-MP-0 and
MPA-0 is compared with mace-torch in `tests/test_convert_references.py`. Stress: see
[published models](published-models.md).

Written by `python benchmarks/parity.py FOLDER --peer-python PEER/bin/python -o docs/parity.md`.

"""
COLUMNS = (
    "model", "dtype", "energy", "forces", "charges", "Z*", "exact - stencil", "DFT E", "DFT F",
    "F, ours", "F, original", "speed",
)  # fmt: skip


def born(potential, graph) -> tuple[np.ndarray, float]:
    """Born charges in the published form, and the deviation of the exact ones in cells."""
    positions = graph.positions.clone().requires_grad_()
    moved = graph.replace(positions=positions)
    charges = potential.energy_terms(moved).charges
    charges = charges - charges.mean()
    if not bool(graph.pbc.all()):
        return jacobian_rows((charges[:, None] * positions).sum(0)[None], positions).numpy(), np.nan
    stencil = sine_born_charges(charges, positions, graph.cell, graph.batch).numpy()
    exact = potential(graph, ["born_effective_charges"])["born_effective_charges"].numpy()
    return stencil, float(np.sqrt(np.mean((exact - stencil) ** 2)))


def speed_ratio(path: Path, peer_python: str | None) -> str:
    """CPU time of mace-torch over ours for the first frame, or a dash."""
    if peer_python is None:
        return "-"
    with tempfile.TemporaryDirectory() as folder:
        structure = str(Path(folder) / "frame.xyz")
        frame = ase.io.read(path.parent / frames_name(path), 0)
        ase.io.write(
            structure, ase.Atoms(frame.symbols, frame.positions, cell=frame.cell, pbc=frame.pbc)
        )
        arguments = [structure, str(path)]
        found = compare(("own.py", "peer.py"), arguments, peer_python, repeats=5)
    return f"{found.speedup:.1f}"


def frames_name(path: Path) -> str:
    """File of the labelled frames of a model."""
    return "water_rpbe-d3_test.xyz" if path.stem.startswith("water") else "dipeptides_val.xyz"


def row(path: Path, dtype: torch.dtype, n_frames: int, speed: str) -> str:
    """Table row of one checkpoint in one precision."""
    potential = convert_mace(read_checkpoint(path))
    potential.cast_parameters(dtype)
    has_charges = potential.charge_head is not None
    frames_file = path.parent / frames_name(path)
    frames = ase.io.read(frames_file, ":")
    dft = read_frames(frames_file)
    labels: dict[str, list[np.ndarray]] = {"ours": [], "original": []}
    worst = {"energy": 0.0, "forces": 0.0, "charges": np.nan, "z": np.nan, "stencil": np.nan}

    def update(key: str, error: np.ndarray) -> None:
        worst[key] = float(np.nanmax([worst[key], np.abs(error).max()]))

    with np.load(path.parent / "reference" / f"{path.stem}.npz") as reference:
        for k in sorted({int(key.split(".")[0]) for key in reference.files})[:n_frames]:
            graph = build_graph(to_structure(frames[k]), potential.architecture.cutoff)
            graph = graph.to(dtype=dtype)
            out = potential(graph, ["energy", "forces"] + ["latent_charges"] * has_charges)
            update("energy", (out["energy"].numpy() - reference[f"{k}.energy"]) / graph.n_atoms)
            update("forces", out["forces"].numpy() - reference[f"{k}.forces"])
            target = dft[k].forces
            labels["ours"].append(np.abs(out["forces"].numpy() - target).ravel())
            labels["original"].append(np.abs(reference[f"{k}.forces"] - target).ravel())
            if has_charges:
                q = reference[f"{k}.latent_charges"].ravel()
                update("charges", out["latent_charges"].numpy() - q)
                z, worst["stencil"] = born(potential, graph)
                update("z", z - reference[f"{k}.born_effective_charges"].squeeze())
    errors = evaluate_frames(potential, dft)["all"]
    cells = [f"{value:.1e}" for value in list(worst.values())[:4]]
    cells += [f"{worst['stencil']:.3f}", f"{errors.energy_mae:.2f}", f"{errors.forces_mae:.1f}"]
    cells += [f"{1e3 * np.concatenate(labels[key]).mean():.3f}" for key in ("ours", "original")]
    cells.append(speed)
    name = str(dtype).split(".")[-1]
    return f"| {path.stem} | {name} | " + " | ".join(c.replace("nan", "-") for c in cells) + " |"


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--peer-python", help="Python of an environment with mace-torch")
    parser.add_argument("--frames", type=int, default=3, help="reference frames per model")
    options = parser.parse_args()
    rows = []
    for path in sorted(options.folder.glob("*.model")):
        for dtype in (torch.float64, torch.float32):
            is_timed = dtype == torch.float32
            speed = speed_ratio(path, options.peer_python if is_timed else None)
            rows.append(row(path, dtype, options.frames, speed))
            print(rows[-1], flush=True)
    if options.output:
        head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
        options.output.write_text(HEADER + head + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
