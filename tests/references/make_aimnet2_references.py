"""Small AIMNet2 models with pseudo-random weights, and their results by the published code.

    python tests/references/make_aimnet2_references.py aimnet2_wb97m-d3_0.jpt [--frames FILE]

The archive is that of the AIMNet2 authors (MIT licence). Its TorchScript is run here, in float64
(published, it rounds positions and charges to float32), with smaller tensors of pseudo-random
numbers in place of its own. Writes ``aimnet2.jpt.xz``, the archive without its code and with the
dispersion tables of a few elements, and ``aimnet2.npz``: energies (eV), forces (eV/A) and charges
(e) of :data:`MOLECULES`. With ``--frames`` prints how far those of the published weights in float64
are from lesff's, for the document on published models, and writes nothing.
"""

import argparse
import io
import lzma
import re
import zipfile
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import molecule

HERE = Path(__file__).parent
FEATURES, RADIAL, VECTORS, HIDDEN = 4, 6, 3, (10, 9)
ELEMENTS = (1, 6, 8, 17)
WATER = molecule("H2O")
MOLECULES: list[tuple[Atoms, int]] = [
    (molecule("CH3OH"), 0),
    (molecule("CH3Cl"), 1),
    (Atoms("OH", positions=[[0.0, 0.0, 0.0], [0.0, 0.0, 0.97]]), -1),
    (Atoms("OH2OH2", positions=np.concatenate([WATER.positions, WATER.positions + 2.9])), 0),
    (Atoms("Cl"), -1),
]
"""Structures and total charges: atoms in and out of each other's reach, ions, a single atom."""


def in_float64(source: Path) -> io.BytesIO:
    """The archive with a code that does not round its inputs."""
    out = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("models/aimnet2.py"):
                text, count = re.subn(
                    r'torch\.to\(data\["(coord|charge)"\], 6\)',
                    r'torch.to(data["\1"], 7)',
                    data.decode(),
                )
                assert count == 2, "the code of the archive is another one"
                data = text.encode()
            if info.filename.endswith(".debug_pkl"):
                continue
            new.writestr(info.filename, data)
    out.seek(0)
    return out


def results(model, atoms: Atoms, charge: int) -> dict[str, np.ndarray]:
    """Energy in eV, forces in eV/A and charges in e."""
    positions = torch.tensor(atoms.positions[None], requires_grad=True)
    data = {
        "coord": positions,
        "numbers": torch.tensor(atoms.numbers[None]),
        "charge": torch.tensor([float(charge)], dtype=torch.float64),
    }
    out = model(data)
    (gradient,) = torch.autograd.grad(out["energy"].sum(), positions)
    return {
        "energy": out["energy"].detach().numpy()[0],
        "forces": -gradient[0].numpy(),
        "charges": out["charges"].detach().numpy()[0],
    }


def shrink(model) -> None:
    """Smaller tensors of pseudo-random numbers, as float32 holds them."""
    generator = torch.Generator().manual_seed(2)
    channels = FEATURES * RADIAL
    first = FEATURES * (2 * RADIAL + VECTORS)
    later = first + 1 + RADIAL + VECTORS

    def put(module, name: str, *shape: int, scale: float = 1.0) -> None:
        value = scale * torch.randn(shape, generator=generator)
        setattr(module, name, torch.nn.Parameter(value.float().double(), requires_grad=False))

    model.nfeature, model.nshifts_s = FEATURES, RADIAL
    centers = torch.linspace(0.8, 4.3, RADIAL)
    for kind in "sv":
        setattr(model.aev, f"shifts_{kind}", torch.nn.Parameter(centers.double(), False))
        eta = torch.nn.Parameter(torch.tensor(2.25, dtype=torch.float64), False)
        setattr(model.aev, f"eta_{kind}", eta)
    put(model.afv, "weight", 64, channels)
    put(model.conv_a, "agh", FEATURES, RADIAL, VECTORS, scale=0.5)
    put(model.conv_q, "agh", 1, RADIAL, VECTORS, scale=0.5)
    networks = [
        (getattr(model.mlps, "0"), first, channels + 2),
        (getattr(model.mlps, "1"), later, channels + 2),
        (getattr(model.mlps, "2"), later, channels),
        (model.outputs.energy_mlp.mlp, channels, 1),
    ]
    for network, inputs, outputs in networks:
        linears = [m for m in network.children() if hasattr(m, "weight")]
        sizes = [inputs, *HIDDEN[:1] * (len(linears) - 2), HIDDEN[1], outputs]
        for linear, a, b in zip(linears, sizes, sizes[1:], strict=False):
            put(linear, "weight", b, a, scale=a**-0.5)
            put(linear, "bias", b, scale=0.1)
    known = torch.zeros(95, dtype=torch.bool)
    known[list(ELEMENTS)] = True
    d3 = model.outputs.d3bj
    d3.c6ab = torch.nn.Parameter(d3.c6ab * (known[:, None] & known)[:, :, None, None, None], False)
    shifts = model.outputs.atomic_shift.shifts
    shifts.weight = torch.nn.Parameter(shifts.weight * known[:64, None], False)


def without_code(model) -> bytes:
    """The archive with float32 tensors, as published, and no code."""
    saved, out = io.BytesIO(), io.BytesIO()
    torch.jit.save(model.float(), saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            if "/code/" not in info.filename:
                new.writestr(info.filename, old.read(info))
    return out.getvalue()


def compare(model, frames: Path) -> None:
    """Largest differences to lesff of the published weights, both in float64."""
    from lesff.atoms.graph import build_graph
    from lesff.atoms.structure import to_structure
    from lesff.convert.aimnet2 import convert_aimnet2
    from lesff.convert.reader import read_checkpoint

    potential = convert_aimnet2(read_checkpoint(parsed.archive))
    potential.cast_parameters(torch.float64)
    worst: dict[str, float] = {}
    for atoms in ase.io.read(frames, ":"):
        charge = int(atoms.info["charge"])
        graph = build_graph(to_structure(atoms, total_charge=charge), 5.0)
        expected, found = results(model, atoms, charge), potential(graph, list(RESULTS))
        for name in RESULTS:
            error = np.abs(found[name].numpy() - expected[name]).max()
            scale = len(atoms) if name == "energy" else 1
            worst[name] = max(worst.get(name, 0.0), float(error) / scale)
    print(worst)


RESULTS = ("energy", "forces", "charges")

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", type=Path)
    parser.add_argument("--frames", type=Path)
    parsed = parser.parse_args()
    network = torch.jit.load(in_float64(parsed.archive)).double()
    if parsed.frames is not None:
        compare(network, parsed.frames)
    else:
        shrink(network)
        found = {
            f"{index}.{name}": value
            for index, (atoms, charge) in enumerate(MOLECULES)
            for name, value in results(network, atoms, charge).items()
        }
        np.savez(HERE / "aimnet2.npz", **found)
        (HERE / "aimnet2.jpt.xz").write_bytes(lzma.compress(without_code(network), preset=9))
        print({name: value for name, value in found.items() if name.endswith("energy")})
