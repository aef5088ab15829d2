"""Charge head on a frozen trunk, trained on Born effective charges of crystals.

    python tools/born_features.py TRUNK born_charges.npz CACHE
    python tools/born_head.py TRUNK born_charges.npz CACHE -o MODEL [--epochs 55] [--test]

Polarisation is that of the model: reference charges of the elements, transfers along edges (head
``"edge"``) and dipoles of the atoms, ``P = sum_i N_i r_i + sum_pairs t d + sum_i u_i``. It is a
function of features and pair vectors, so ``Z* = dP/dr`` follows from the slopes of the features in
CACHE, exactly and without the trunk. Labels are ``Z* / sqrt(eps_inf)``, eps_inf the mean of the
diagonal: charges of the model are screened as everywhere in lesff. Its charges do not interact
(``in_energy = false``), since the energy of the trunk holds all of their interaction.

A tenth of the compositions (reduced formulas, by sha256), NaCl and MgO are never trained on or
looked at before the end; another twentieth chooses the step whose weights are kept.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import click
import numpy as np
import torch
from ase import Atoms
from born_features import digest, read_crystals
from torch import Tensor
from torch.nn import functional

import lesff
from lesff.atoms.graph import build_graph, edge_vectors, first_edges
from lesff.atoms.structure import to_structure
from lesff.heads import LongRangeConfig, MultipoleConfig
from lesff.heads.edge import EdgeTransfers
from lesff.heads.multipoles import OrderReadout
from lesff.model_folder.folder import save_model
from lesff.potential.potential import Potential

SEED = 0
BATCH = 24
"""Crystals of a step."""
RATE = 5e-3
DELTA = 0.66
"""e, Huber threshold of the components of Z*."""
AVERAGE = 0.995
"""Of weights, per step."""
ALWAYS_TEST = ("ClNa", "MgO")
"""Compositions that models are compared with experiment on."""
RIDGE = 0.3
"""Atoms without charge added to every element in the fit of reference charges."""


@dataclass(frozen=True)
class Sample:
    """A crystal, ready for the head.

    Attributes:
        features: (n_atoms, channels) invariants of the last layer.
        vectors: (n_atoms, n, 3) features of order 1 of all layers.
        slopes: (n_columns, n_atoms, channels) in 1/A.
        vector_slopes: (n_columns, n_atoms, n, 3) in 1/A.
        references: (n_atoms,) charges that transfers start from, e.
        ends: (2, n_pairs) atoms of every pair of neighbours.
        along: (n_pairs, 3) from the first to the second, A.
        basis: (n_pairs, n_radial) radial functions of the head.
        basis_slopes: Their derivatives by the distance, 1/A.
        atoms: (n_columns,) displaced atom.
        directions: (n_columns,) Cartesian direction of its displacement.
        labels: (n_columns, 3), columns of Z* / sqrt(eps_inf) in e.
        weights: (n_columns,) columns of the cell that each stands for.
        scale: sqrt(eps_inf).
    """

    features: Tensor
    vectors: Tensor
    slopes: Tensor
    vector_slopes: Tensor
    references: Tensor
    ends: Tensor
    along: Tensor
    basis: Tensor
    basis_slopes: Tensor
    atoms: Tensor
    directions: Tensor
    labels: Tensor
    weights: Tensor
    scale: float


def main() -> None:
    """Train, and write the model folder and the errors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("trunk", "data", "cache"):
        parser.add_argument(name, type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=55)
    parser.add_argument("--card", type=Path, help="model card to put into the folder")
    parser.add_argument("--license", type=Path, help="full text of the licence")
    parser.add_argument("--dipoles", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--decay", type=float, default=1e-3)
    parser.add_argument("--test", action="store_true")
    chosen = parser.parse_args()
    torch.manual_seed(SEED)
    trunk = lesff.load(chosen.trunk).potential
    crystals = read_crystals(chosen.data)
    parts: dict[str, list[int]] = {"train": [], "choice": [], "test": []}
    for path in sorted(chosen.cache.glob("[0-9]*[0-9].npz")):
        index = int(path.stem)
        parts[part_of(crystals[index].info["formula"])].append(index)
    charges = reference_charges([crystals[i] for i in parts["train"]], trunk.config.elements)
    potential = with_born_head(trunk, charges, dipoles=chosen.dipoles)
    samples = {
        name: [sample(potential, crystals[i], chosen.cache / f"{i:04d}.npz") for i in rows]
        for name, rows in parts.items()
        if name != "test" or chosen.test
    }
    click.echo(str({name: len(rows) for name, rows in parts.items()}))
    best = train(potential, samples, chosen.epochs, chosen.decay)
    if chosen.test:
        best["test"] = relative_error(potential, samples["test"])
    click.echo(json.dumps(best))
    (chosen.output.parent / f"{chosen.output.name}.json").write_text(json.dumps(best))
    card, license_text = (
        "" if path is None else path.read_text(encoding="utf-8")
        for path in (chosen.card, chosen.license)
    )
    save_model(potential, chosen.output, card=card, license_text=license_text, overwrite=True)


def part_of(formula: str) -> str:
    """Part of the data that a composition is in."""
    number = int(digest(formula), 16) % 20
    if formula in ALWAYS_TEST:
        return "test"
    return {1: "test", 11: "test", 2: "choice"}.get(number, "train")


def sqrt_epsilon(atoms: Atoms) -> float:
    """Root of the mean dielectric constant of the electrons."""
    return float(np.sqrt(np.trace(atoms.info["epsilon"]) / 3.0))


def sample(potential: Potential, atoms: Atoms, path: Path) -> Sample:
    """A crystal with its features, for a potential with the head."""
    found = np.load(path)
    scale = sqrt_epsilon(atoms)
    displaced, direction = found["columns"].T
    labels = atoms.arrays["born"][displaced, :, direction] / scale
    architecture = potential.architecture
    graph = build_graph(to_structure(atoms), architecture.cutoff)
    first = first_edges(graph)
    along = edge_vectors(graph)[first]
    basis = cast("EdgeTransfers", potential.charge_head.transfers).basis
    distance = along.norm(dim=1).requires_grad_()
    radial = basis(distance, distance)
    slopes = [
        torch.autograd.grad(column.sum(), distance, retain_graph=True)[0]
        for column in radial.unbind(1)
    ]
    references = potential.reference_charges(graph)
    channels, n_layers = architecture.channels, architecture.n_layers
    last, end = channels * (n_layers - 1), channels * n_layers

    def split(name: str) -> tuple[Tensor, Tensor]:
        values = torch.from_numpy(found[name])
        return values[..., last:end].clone(), values[..., end:].unflatten(-1, (-1, 3)).clone()

    (features, vectors), (by_atoms, vectors_by_atoms) = split("features"), split("slopes")
    return Sample(
        features=features,
        vectors=vectors,
        slopes=by_atoms,
        vector_slopes=vectors_by_atoms,
        references=(references - references.mean()).float(),
        ends=graph.edge_index[:, first],
        along=along.float(),
        basis=radial.detach().float(),
        basis_slopes=torch.stack(slopes, dim=1).float(),
        atoms=torch.from_numpy(displaced),
        directions=torch.from_numpy(direction),
        labels=torch.from_numpy(labels).float(),
        weights=torch.from_numpy(found["weights"]).float(),
        scale=scale,
    )


def reference_charges(crystals: list[Atoms], elements: tuple[int, ...]) -> tuple[float, ...]:
    """Charges of elements that, shifted to neutrality, come nearest to ``tr Z* / 3 sqrt(eps)``.

    Least squares over the atoms; elements without data get zero.
    """
    column = {z: i for i, z in enumerate(elements)}
    matrix, rhs = np.zeros((len(elements), len(elements))), np.zeros(len(elements))
    for atoms in crystals:
        rows = np.zeros((len(atoms), len(elements)))
        rows[np.arange(len(atoms)), [column[z] for z in atoms.numbers]] = 1.0
        rows -= rows.mean(0)
        labels = np.trace(atoms.arrays["born"], axis1=1, axis2=2) / (3.0 * sqrt_epsilon(atoms))
        matrix += rows.T @ rows
        rhs += rows.T @ labels
    found = np.linalg.solve(matrix + RIDGE * np.eye(len(elements)), rhs)
    return tuple(round(float(q), 3) for q in found)


def with_born_head(trunk: Potential, charges: tuple[float, ...], *, dipoles: bool) -> Potential:
    """A copy of a potential without charges with some that do not interact."""
    long_range = LongRangeConfig(
        head="edge",
        cutoff="smooth",
        reference_charges=charges,
        multipoles=MultipoleConfig(dipoles=True) if dipoles else None,
        in_energy=False,
        # others start from no charge, and stay there
        charge_elements=tuple(z for z, q in zip(trunk.config.elements, charges, strict=True) if q),
    )
    config = replace(
        trunk.config,
        long_range=long_range,
        training_data=f"{trunk.config.training_data}; charges: Born effective charges of crystals",
        software={**trunk.config.software, "charges": "lesff tools/born_head.py"},
    )
    result = Potential(config)
    result.load_state_dict(trunk.state_dict(), strict=False)
    result.architecture.requires_grad_(requires_grad=False)
    return result


def train(
    potential: Potential, samples: dict[str, list[Sample]], epochs: int, decay: float
) -> dict[str, float]:
    """Minimise the error; the weights that are kept are averages over the last steps."""
    parameters = [
        p for n, p in potential.named_parameters() if n.startswith(("charge_head", "multipole"))
    ]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=decay)
    average = [p.detach().clone() for p in parameters]
    best: dict[str, float] = {"choice": float("inf")}
    kept = average
    generator = np.random.default_rng(SEED)
    rows, step = samples["train"], 0
    n_batches = -(-len(rows) // BATCH)
    for epoch in range(1, epochs + 1):
        order = generator.permutation(len(rows))
        for group in np.array_split(order, n_batches):
            # 1 to 0, half a cosine over all steps
            rate = RATE * 0.5 * (1.0 + np.cos(np.pi * step / (epochs * n_batches)))
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 50)
            batch = [rows[i] for i in group]
            labels = torch.cat([s.labels for s in batch])
            weights = torch.cat([s.weights for s in batch])
            # those of Z* itself, sqrt(eps_inf) times those of the labels
            scales = torch.cat([torch.full((len(s.labels), 1), s.scale) for s in batch])
            errors = scales * (born_columns(potential, batch) - labels)
            sizes = functional.huber_loss(
                errors, torch.zeros_like(errors), delta=DELTA, reduction="none"
            )
            loss = (weights[:, None] * sizes).sum() / weights.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step += 1
            share = min(AVERAGE, step / (step + 10.0))
            for a, p in zip(average, parameters, strict=True):
                a.lerp_(p.detach(), 1.0 - share)
        if epoch % 5 == 0 or epoch == epochs:
            now = [p.detach().clone() for p in parameters]
            _set(parameters, average)
            found = relative_error(potential, samples["choice"])
            if found < best["choice"]:
                best = {"epoch": epoch, "choice": found}
                kept = [a.clone() for a in average]
            trained = relative_error(potential, rows[:200])
            click.echo(f"epoch {epoch} train {trained:.3f} choice {found:.3f}")
            _set(parameters, now)
    _set(parameters, kept)
    return best | {"epochs": epochs, "train": relative_error(potential, rows)}


def _set(parameters: list[torch.nn.Parameter], values: list[Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(parameters, values, strict=True):
            p.copy_(value)


@torch.no_grad()
def relative_error(potential: Potential, samples: list[Sample]) -> float:
    """``sqrt(sum |Z - Zref|^2 / sum |Zref|^2)`` in e, of all atoms and components."""
    wrong = total = 0.0
    for i in range(0, len(samples), BATCH):
        batch = samples[i : i + BATCH]
        found = born_columns(potential, batch)
        counts = [len(s.labels) for s in batch]
        for s, z in zip(batch, found.split(counts), strict=True):
            w = s.weights[:, None] * s.scale**2
            wrong += float((w * (z - s.labels).square()).sum())
            total += float((w * s.labels.square()).sum())
    return (wrong / total) ** 0.5


def born_columns(potential: Potential, batch: list[Sample]) -> Tensor:
    """Columns of the Born charges of the model, (n_columns, 3) in e."""
    counts = [len(s.features) for s in batch]
    starts = np.cumsum([0, *counts[:-1]]).tolist()
    features, vectors = (torch.cat([getattr(s, x) for s in batch]) for x in ("features", "vectors"))
    first, second = (
        torch.cat([s.ends[end] + start for s, start in zip(batch, starts, strict=True)])
        for end in (0, 1)
    )
    along, basis, slopes = (
        torch.cat([getattr(s, x) for s in batch]) for x in ("along", "basis", "basis_slopes")
    )
    # Z[n, i, j] of fixed features, and dP_i/dx[n, i, c] by the invariants of the last layer
    fixed, by_features = _of_transfers(
        potential.charge_head.transfers, features, (first, second), along, basis, slopes
    )
    born = torch.cat([s.references for s in batch])[:, None, None] * torch.eye(3) + fixed
    factors = None
    if potential.multipole_head is not None:
        factors, more = _of_dipoles(potential.multipole_head.dipoles, features, vectors)
        by_features = by_features + more
    # and of features that change with the displacement: sum_nc dP_i/dx_nc dx_nc/dr_aj
    columns = []
    for s, start, count in zip(batch, starts, counts, strict=True):
        atoms = slice(start, start + count)
        own = born[atoms][s.atoms, :, s.directions]
        own = own + torch.einsum("knc,nic->ki", s.slopes, by_features[atoms])
        if factors is not None:
            own = own + torch.einsum("knci,nc->ki", s.vector_slopes, factors[atoms])
        columns.append(own)
    return torch.cat(columns)


def _of_transfers(
    transfers: EdgeTransfers,
    x: Tensor,
    ends: tuple[Tensor, Tensor],
    along: Tensor,
    basis: Tensor,
    basis_slopes: Tensor,
) -> tuple[Tensor, Tensor]:
    """Derivatives of ``P = sum_p t_p d_p`` by positions and invariants.

    Args:
        transfers: ``t = g.[silu(a b) - silu(a' b)]``, see the class.
        x: (n_atoms, channels) invariants.
        ends: (n_pairs,) first and second atom of every pair.
        along: (n_pairs, 3) d, from the first to the second, in A.
        basis: (n_pairs, n_radial) radial functions.
        basis_slopes: Their derivatives by the distance, 1/A.

    Returns:
        (n_atoms, 3, 3) with [n, i, j] = dP_i / dr_nj in e, and (n_atoms, 3, channels).
    """
    first, second = ends
    n_atoms, width = len(x), len(transfers.out)
    radial, radial_slope = transfers.radial(basis), transfers.radial(basis_slopes)
    sender, receiver = transfers.sender(x), transfers.receiver(x)
    ahead = sender[first] + receiver[second]
    back = sender[second] + receiver[first]
    g = transfers.out * width**-0.5
    # silu(z) = z s(z), slope s (1 + z (1 - s))
    z_ahead, z_back = ahead * radial, back * radial
    s_ahead, s_back = torch.sigmoid(z_ahead), torch.sigmoid(z_back)
    moved = (z_ahead * s_ahead - z_back * s_back) @ g
    by_ahead = s_ahead * (1.0 + z_ahead * (1.0 - s_ahead)) * g
    by_back = -s_back * (1.0 + z_back * (1.0 - s_back)) * g
    # d(t d_i)/dd_j = t delta_ij + dt/dr d_i d_j / r
    slope = ((by_ahead * ahead + by_back * back) * radial_slope).sum(1) / along.norm(dim=1)
    by_pair = moved[:, None, None] * torch.eye(3)
    by_pair = by_pair + slope[:, None, None] * along[:, :, None] * along[:, None, :]
    fixed = along.new_zeros(n_atoms, 3, 3).index_add(0, second, by_pair)
    fixed = fixed.index_add(0, first, by_pair, alpha=-1)
    # by A x and B x of both ends, each for every component i of d; [p, i, (h of a, h of a')]
    by_units = torch.cat([by_ahead * radial, by_back * radial], dim=1)
    by_units = by_units[:, None] * along[:, :, None]
    at_first = along.new_zeros(n_atoms, 3, 2 * width).index_add(0, first, by_units)
    at_second = along.new_zeros(n_atoms, 3, 2 * width).index_add(0, second, by_units)
    by_sender = at_first[..., :width] + at_second[..., width:]
    by_receiver = at_second[..., :width] + at_first[..., width:]
    return fixed, by_sender @ transfers.sender.weight + by_receiver @ transfers.receiver.weight


def _of_dipoles(readout: OrderReadout, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of ``P = sum_nc f_nc(x_n) v_nc``, ``f`` linear in the invariants.

    Args:
        readout: The dipoles.
        x: (n_atoms, channels) invariants.
        v: (n_atoms, n, 3) features of order 1 of all layers.

    Returns:
        f, (n_atoms, n), and (n_atoms, 3, channels).
    """
    n_invariants, channels = readout.mix.shape[1:]
    # [d, (layer, c)]
    mix = readout.mix.transpose(0, 1).flatten(1) * (n_invariants * channels) ** -0.5
    factors = readout.weight.flatten() * channels**-0.5 + x @ mix
    return factors, torch.einsum("nci,dc->nid", v, mix)


if __name__ == "__main__":
    main()
