"""Nequix models with pseudo-random weights, and their energies, forces and stress, made with e3nn.

    python tests/references/make_nequix_references.py

Run in an environment with e3nn 0.6. A second implementation, written for clarity from the papers
(NequIP, Nat. Commun. 13, 2453; Nequix, arXiv 2508.16067): one e3nn tensor product per edge, no
shared code with lesff. For each case writes ``<name>.nqx`` as Nequix writes a model, and
``<name>.npz``: energy (eV), forces (eV/A) and stress (eV/A^3) in float64.
"""

import json
import math
from io import BytesIO
from pathlib import Path

import ase
import numpy as np
import torch
from e3nn import o3
from scipy.special import erfinv
from synthetic import strained_oxide, weights

HERE = Path(__file__).parent
COMMON = {
    "cutoff": 4.0, "atomic_numbers": [8, 12, 22, 38], "avg_n_neighbors": 14.2, "scale": 0.8,
    "shift": -4.3, "radial_basis_size": 5, "radial_mlp_size": 8, "radial_mlp_layers": 2,
    "radial_polynomial_p": 6.0, "mlp_init_scale": 4.0, "index_weights": False, "kernel": True,
    "optimizer": "muon", "energy_weight": 20.0,
}  # fmt: skip
CASES = {
    "nequix_l3": {
        "hidden_irreps": "6x0e + 4x1o + 2x2e + 2x3o", "lmax": 3, "n_layers": 3, "layer_norm": True,
    },
    "nequix_l1": {"hidden_irreps": "5x0e + 5x1o", "lmax": 2, "n_layers": 2, "layer_norm": False},
}  # fmt: skip


class Weights:
    """Arrays in the order in which they are asked for, which is the order of the file."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []

    def __call__(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        """The next array."""
        array = weights(f"nequix.{len(self.arrays)}", shape) * np.float32(scale)
        self.arrays.append(array)
        return torch.from_numpy(array).double()


def silu(x: torch.Tensor) -> torch.Tensor:
    """Scaled to unit second moment on a million quantiles of the normal distribution."""
    quantiles = np.sqrt(2) * erfinv(np.linspace(-1, 1, 1_000_003)[1:-1])
    second_moment = np.mean((quantiles / (1 + np.exp(-quantiles))) ** 2)
    return torch.nn.functional.silu(x) / math.sqrt(second_moment)


def linear(parts: dict[int, torch.Tensor], mixing: dict[int, torch.Tensor]) -> dict:
    """One channel mix per order, (n, channels, m) each."""
    return {
        l: torch.einsum("ncm,cd->ndm", parts[l], w) / math.sqrt(len(w))
        for l, w in mixing.items()
        if l in parts
    }


class Layer:
    """Weights of a layer, in the order of the file, and what they do."""

    def __init__(self, config: dict, muls: dict[int, int], is_last: bool, draw: Weights) -> None:
        hidden = {ir.l: mul for mul, ir in o3.Irreps(config["hidden_irreps"])}
        self.out = {0: hidden[0]} if is_last else hidden
        self.gates = sum(mul for l, mul in self.out.items() if l)
        self.average = config["avg_n_neighbors"]
        # paths sorted by the order of the message, then by that of the sender and the harmonic
        found = [
            (l3, l1, l2)
            for l1 in muls
            for l2 in range(config["lmax"] + 1)
            for l3 in range(abs(l1 - l2), l1 + l2 + 1)
            if l3 in self.out and (l1 + l2 + l3) % 2 == 0
        ]
        self.paths = [(l1, l2, l3, muls[l1]) for l3, l1, l2 in sorted(found)]
        widths = [config["radial_basis_size"]]
        widths += [config["radial_mlp_size"]] * config["radial_mlp_layers"]
        widths += [sum(path[3] for path in self.paths)]
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.radial = [draw(a, b, scale=1.5 / math.sqrt(a)) for a, b in pairs]
        after = {l: mul + (self.gates if l == 0 else 0) for l, mul in self.out.items()}
        messages = {l: sum(p[3] for p in self.paths if p[2] == l) for l in self.out}
        self.linear_1 = {l: draw(mul, mul) for l, mul in muls.items()}
        self.linear_2 = {l: draw(messages[l], after[l]) for l in self.out}
        self.skip = {l: draw(muls[l], after[l]) for l in self.out if l in muls}
        self.norm = {l: draw(after[l], scale=3.0) for l in self.out if config["layer_norm"]}

    def __call__(self, h: dict, harmonics: torch.Tensor, basis: torch.Tensor, i, j) -> dict:
        """Features (n, channels, m) by order to those after the layer; edges run from j to i."""
        x = basis
        for w in self.radial[:-1]:
            x = torch.nn.functional.silu(x @ w)
        x = x @ self.radial[-1]
        up, n = linear(h, self.linear_1), len(h[0])
        collected = {l: [] for l in self.out}
        for l1, l2, l3, mul in self.paths:
            r, x = x[:, :mul], x[:, mul:]
            y = harmonics[:, l2**2 : (l2 + 1) ** 2]
            # e3nn's "uvu" in component normalisation
            c = o3.wigner_3j(l1, l2, l3, dtype=torch.float64) * math.sqrt(2 * l3 + 1)
            edge = torch.einsum("abm,eca,eb->ecm", c, up[l1][j], y)
            message = torch.zeros(n, mul, 2 * l3 + 1, dtype=torch.float64)
            collected[l3].append(message.index_add(0, i, edge * r[:, :, None]))
        sums = {l: torch.cat(parts, 1) / math.sqrt(self.average) for l, parts in collected.items()}
        out, own = linear(sums, self.linear_2), linear(h, self.skip)
        out = {l: value + own.get(l, 0.0) for l, value in out.items()}
        if self.norm:
            size = sum((out[l] ** 2).sum((1, 2)) / (2 * l + 1) ** 2 for l in out) / len(out)
            factor = (size + 1e-12) ** -0.5
            out = {
                l: value * factor[:, None, None] * self.norm[l][None, :, None]
                for l, value in out.items()
            }
        active, place = silu(out[0]), self.out[0]
        result = {0: active[:, :place]}
        for l, mul in self.out.items():
            if l:
                result[l] = out[l] * active[:, place : place + mul]
                place += mul
        return result


def reference(config: dict, atoms: ase.Atoms) -> tuple[bytes, dict[str, np.ndarray]]:
    """The file of a model, and what it says of a structure."""
    draw, numbers = Weights(), config["atomic_numbers"]
    energies = draw(len(numbers))
    muls, layers = {0: len(numbers)}, []
    for index in range(config["n_layers"]):
        layers.append(Layer(config, muls, index == config["n_layers"] - 1, draw))
        muls = layers[-1].out
    readout = draw(muls[0], 1)

    # edges from neighbours j to atoms i, all images within the cutoff
    cutoff = config["cutoff"]
    reach = [
        int(np.ceil(cutoff / h)) + 1 for h in 1 / np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    ]
    edges = []
    for shift in np.ndindex(*(2 * k + 1 for k in reach)):
        offset = np.array(shift) - reach
        moved = atoms.positions + offset @ atoms.cell[:]
        distance = np.linalg.norm(moved[None] - atoms.positions[:, None], axis=2)
        edges += [(i, j, *offset) for i, j in np.argwhere((distance < cutoff) & (distance > 1e-6))]
    table = torch.tensor(np.array(edges))
    i, j, shifts = table[:, 0], table[:, 1], table[:, 2:].double()

    positions = torch.tensor(atoms.positions, requires_grad=True)
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deform = torch.eye(3, dtype=torch.float64) + 0.5 * (strain + strain.T)
    cell = torch.tensor(atoms.cell[:]) @ deform
    moved = positions @ deform
    vectors = moved[j] + shifts @ cell - moved[i]
    r = vectors.norm(dim=1)
    harmonics = o3.spherical_harmonics(
        list(range(config["lmax"] + 1)), vectors, normalize=True, normalization="component"
    )
    waves = torch.arange(1, config["radial_basis_size"] + 1, dtype=torch.float32) * np.pi
    u, p = r / cutoff, config["radial_polynomial_p"]
    envelope = (
        1 - (p + 1) * (p + 2) / 2 * u**p + p * (p + 2) * u ** (p + 1)
        - p * (p + 1) / 2 * u ** (p + 2)
    )  # fmt: skip
    basis = 2 / cutoff * torch.sin(waves.double() * u[:, None]) / r[:, None] * envelope[:, None]

    species = torch.tensor([numbers.index(z) for z in atoms.numbers])
    h = {0: torch.nn.functional.one_hot(species, len(numbers)).double()[:, :, None]}
    for layer in layers:
        h = layer(h, harmonics, basis, i, j)
    atomic = h[0][:, :, 0] @ readout[:, 0] / math.sqrt(len(readout))
    total = (atomic * config["scale"] + config["shift"] + energies[species]).sum()
    forces, virial = torch.autograd.grad(total, [positions, strain])
    handle = BytesIO()
    handle.write(json.dumps(config).encode() + b"\n")
    for array in draw.arrays:
        np.save(handle, array)
    return handle.getvalue(), {
        "energy": total.detach().numpy(),
        "forces": -forces.numpy(),
        "stress": virial.numpy() / atoms.get_volume(),
    }


if __name__ == "__main__":
    for name, options in CASES.items():
        content, values = reference(COMMON | options, strained_oxide())
        (HERE / f"{name}.nqx").write_bytes(content)
        np.savez_compressed(HERE / f"{name}.npz", **values)
        print(name, len(content), values["energy"], np.abs(values["forces"]).max())
