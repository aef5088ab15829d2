"""Charge head on a frozen trunk, trained on Born effective charges of crystals.

    python tools/born_features.py TRUNK born_charges.npz CACHE
    python tools/born_head.py TRUNK born_charges.npz CACHE -o MODEL [--minutes 10]

Polarisation is that of the model: reference charges of the elements, transfers along edges (head
``"edge"``) and dipoles of the atoms, ``P = sum_i N_i r_i + sum_pairs t d + sum_i u_i``. All of it is
a function of features and pair vectors, so ``Z* = dP/dr`` follows from the slopes of the features
in CACHE, exactly and without the trunk. Labels are ``Z* / sqrt(eps_inf)``, eps_inf the mean of the
diagonal: charges of the model are screened as everywhere in lesff. Its charges do not interact
(``in_energy = false``), since the energy of the trunk holds all of their interaction.

A tenth of the compositions (reduced formulas, by sha256), NaCl and MgO are never trained on or looked
at before the end; another twentieth chooses the step whose weights are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from born_features import digest, read_crystals
from torch import Tensor

import lesff
from lesff.atoms.graph import AtomGraph, build_graph, collate, edge_vectors, first_edges
from lesff.atoms.structure import to_structure
from lesff.heads import HeadInput, LongRangeConfig, MultipoleConfig
from lesff.heads.config import charge_limits_of
from lesff.heads.edge import EdgeHead, limited_transfers
from lesff.model_folder.folder import save_model
from lesff.nn.contacts import ClosePairs
from lesff.potential.potential import Potential

SEED = 0
BATCH = 24
"""Crystals of a step."""
RATE = 5e-3
DELTA = 0.3
"""e, Huber threshold of the components of Z* / sqrt(eps_inf)."""
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
        graph: Atoms and edges.
        features: (n_atoms, n).
        slopes: (n_columns, n_atoms, n) in 1/A.
        atoms: (n_columns,) displaced atom.
        directions: (n_columns,) Cartesian direction of its displacement.
        labels: (n_columns, 3), columns of Z* / sqrt(eps_inf) in e.
        weights: (n_columns,) columns of the cell that each stands for.
        scale: sqrt(eps_inf).
    """

    graph: AtomGraph
    features: Tensor
    slopes: Tensor
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
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--dipoles", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--decay", type=float, default=1e-3)
    parser.add_argument("--test", action="store_true")
    chosen = parser.parse_args()
    torch.manual_seed(SEED)
    trunk = lesff.load(str(chosen.trunk)).potential
    crystals = read_crystals(chosen.data)
    parts: dict[str, list[int]] = {"train": [], "choice": [], "test": []}
    for path in sorted(chosen.cache.glob("[0-9]*[0-9].npz")):
        index = int(path.stem)
        parts[part_of(crystals[index].info["formula"])].append(index)
    samples = {
        name: [sample(trunk, crystals[i], chosen.cache / f"{i:04d}.npz") for i in rows]
        for name, rows in parts.items()
        if name != "test" or chosen.test
    }
    charges = reference_charges([crystals[i] for i in parts["train"]], trunk.config.elements)
    potential = with_born_head(trunk, charges, dipoles=chosen.dipoles)
    print({name: len(rows) for name, rows in parts.items()})
    best = train(potential, samples, chosen.minutes, chosen.decay)
    if chosen.test:
        best["test"] = relative_error(potential, samples["test"])
    print(json.dumps(best))
    (chosen.output.parent / f"{chosen.output.name}.json").write_text(json.dumps(best))
    license_text = "The licence of the trunk applies.\n"
    save_model(potential, chosen.output, card="", license_text=license_text, overwrite=True)


def part_of(formula: str) -> str:
    """Part of the data that a composition is in."""
    number = int(digest(formula), 16) % 20
    if formula in ALWAYS_TEST:
        return "test"
    return {1: "test", 11: "test", 2: "choice"}.get(number, "train")


def sqrt_epsilon(atoms: Atoms) -> float:
    """Root of the mean dielectric constant of the electrons."""
    return float(np.sqrt(np.trace(atoms.info["epsilon"]) / 3.0))


def sample(trunk: Potential, atoms: Atoms, path: Path) -> Sample:
    """A crystal with its features."""
    found = np.load(path)
    scale = sqrt_epsilon(atoms)
    displaced, direction = found["columns"].T
    labels = atoms.arrays["born"][displaced, :, direction] / scale
    graph = build_graph(to_structure(atoms), trunk.architecture.cutoff)
    return Sample(
        graph=graph.to(dtype=torch.float32),
        features=torch.from_numpy(found["features"]),
        slopes=torch.from_numpy(found["slopes"]),
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
        charge_limits=charge_limits_of(trunk.config.elements),
        multipoles=MultipoleConfig(dipoles=True) if dipoles else None,
        in_energy=False,
    )
    result = Potential(replace(trunk.config, long_range=long_range))
    result.load_state_dict(trunk.state_dict(), strict=False)
    return result


def train(
    potential: Potential, samples: dict[str, list[Sample]], minutes: float, decay: float
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
    start, step, epoch = time.process_time(), 0, 0
    rows = samples["train"]
    while (done := (time.process_time() - start) / (60.0 * minutes)) < 1.0:
        order = generator.permutation(len(rows))
        for group in np.array_split(order, -(-len(rows) // BATCH)):
            # 1 to 0, half a cosine over the time
            rate = RATE * 0.5 * (1.0 + np.cos(np.pi * min(done, 1.0)))
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 50)
            batch = [rows[i] for i in group]
            labels = torch.cat([s.labels for s in batch])
            weights = torch.cat([s.weights for s in batch])
            errors = born_columns(potential, batch, create_graph=True) - labels
            sizes = torch.nn.functional.huber_loss(
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
            done = (time.process_time() - start) / (60.0 * minutes)
            if done >= 1.0:
                break
        epoch += 1
        if epoch % 5 == 0 or done >= 1.0:
            now = [p.detach().clone() for p in parameters]
            _set(parameters, average)
            found = relative_error(potential, samples["choice"])
            if found < best["choice"]:
                best = {"epoch": epoch, "choice": found}
                kept = [a.clone() for a in average]
            trained = relative_error(potential, rows[:200])
            print(
                f"epoch {epoch} share {done:.2f} train {trained:.3f} choice {found:.3f}", flush=True
            )
            _set(parameters, now)
    _set(parameters, kept)
    return best | {"epochs": epoch, "train": relative_error(potential, rows)}


def _set(parameters: list[torch.nn.Parameter], values: list[Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(parameters, values, strict=True):
            p.copy_(value)


def relative_error(potential: Potential, samples: list[Sample]) -> float:
    """``sqrt(sum |Z - Zref|^2 / sum |Zref|^2)`` in e, of all atoms and components."""
    wrong = total = 0.0
    for i in range(0, len(samples), BATCH):
        batch = samples[i : i + BATCH]
        found = born_columns(potential, batch, create_graph=False)
        counts = [len(s.labels) for s in batch]
        for s, z in zip(batch, found.split(counts), strict=True):
            w = s.weights[:, None] * s.scale**2
            wrong += float((w * (z - s.labels).square()).sum())
            total += float((w * s.labels.square()).sum())
    return (wrong / total) ** 0.5


def born_columns(potential: Potential, batch: list[Sample], *, create_graph: bool) -> Tensor:
    """Columns of the Born charges of the model, (n_columns, 3) in e."""
    graph = collate([s.graph for s in batch])
    head = potential.charge_head
    assert isinstance(head, EdgeHead)
    features = torch.cat([s.features for s in batch]).requires_grad_()
    along = first_edges(graph)
    first, second = graph.edge_index[:, along]
    vectors = edge_vectors(graph)[along].detach().requires_grad_()
    distance = vectors.norm(dim=1)
    pairs = ClosePairs(distance=distance, first=first, second=second, z=graph.atomic_numbers)
    x = _input(potential, graph, features, pairs)
    transfers = limited_transfers(
        head.transfers.of_pairs(x, pairs), distance, pairs, head.limits(x), head.elements
    )
    polarisation = (transfers[:, None] * vectors).sum(0)
    if potential.multipole_head is not None:
        dipoles = potential.multipole_head.latent_dipoles(x)
        assert dipoles is not None
        polarisation = polarisation + dipoles.sum(0)
    # by vectors and features, for each component i of P; crystals do not see each other
    by_vectors, by_features = [], []
    for component in polarisation:
        g_vectors, g_features = torch.autograd.grad(
            component, [vectors, features], create_graph=create_graph, retain_graph=True
        )
        by_vectors.append(g_vectors)
        by_features.append(g_features)
    # Z[a, i, j] of fixed features: N_a, and what the pairs of the atom say
    fixed = torch.stack(by_vectors, dim=1)
    born = torch.zeros(graph.n_atoms, 3, 3).index_add(0, second, fixed)
    born = born.index_add(0, first, fixed, alpha=-1)
    born = born + head.references(x)[:, None, None] * torch.eye(3)
    # and of features that change: sum_nf dP_i/dx_nf dx_nf/dr_aj
    slopes = torch.stack(by_features, dim=1)
    columns, start = [], 0
    for s in batch:
        atoms = slice(start, start + s.graph.n_atoms)
        own = born[atoms][s.atoms, :, s.directions]
        columns.append(own + torch.einsum("cnf,nif->ci", s.slopes, slopes[atoms]))
        start += s.graph.n_atoms
    return torch.cat(columns)


def _input(
    potential: Potential, graph: AtomGraph, features: Tensor, pairs: ClosePairs
) -> HeadInput:
    """What the heads read, from features as ``born_features.py`` orders them."""
    architecture = potential.architecture
    channels, n_layers = architecture.channels, architecture.n_layers
    split = channels * n_layers
    invariants = list(features[:, :split].split(channels, dim=1))
    n_vectors = architecture.equivariant_layers[0]
    vectors = features[:, split:].reshape(len(features), n_vectors, -1, 3)
    element = potential.element_row[graph.atomic_numbers]
    assert potential.ewald is not None
    assert potential.charge_limits is not None
    return HeadInput(
        invariants=invariants,
        element=element,
        graph=graph,
        settings=potential.ewald,
        equivariants=[[v.transpose(1, 2) for v in vectors.unbind(1)]],
        pairs=pairs,
        limits=potential.charge_limits.index_select(0, element).float(),
    )


if __name__ == "__main__":
    main()
