"""What any potential promises, whatever its parts; small potentials with random weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import ase
import numpy as np
import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph, build_graph, collate
from lesff.atoms.structure import to_structure
from lesff.heads import ChargeModel, HeadSizes, LongRangeConfig
from lesff.potential.config import ModelConfig
from lesff.potential.potential import Potential
from lesff.potential.verify import check_physics
from lesff.quantities import QUANTITIES
from lesff.testing.contract import DIFFERENCE, EXACT, SINGLE, SMOOTH, Contract

STEP = 1e-4
"""A, of differences of forces; the error is h^4 f5 / 30."""
CROSSING = 1e-8
"""A, from the cutoff: forces change by a Hessian, up to 100 eV/A^2, times twice this."""

Build = Callable[[int], Potential]
"""Makes the potential under check with the random weights of a seed."""
HeadFactory = Callable[[LongRangeConfig, HeadSizes], ChargeModel]


def model_config(
    architecture: dict[str, object], elements: tuple[int, ...], long_range: LongRangeConfig | None
) -> ModelConfig:
    """Configuration of a small potential in float64.

    Args:
        architecture: ``type`` and hyper-parameters.
        elements: Atomic numbers, ascending.
        long_range: Latent electrostatics, or None.
    """
    return ModelConfig(
        architecture=architecture,
        elements=elements,
        reference_energies=tuple(-1.5 * z for z in elements),
        energy_scale=0.7,
        long_range=long_range,
        total_charge=(-2, 2),
        spin_multiplicity=(1, 3),
        dtype="float64",
    )


def random_potential(
    config: ModelConfig, seed: int, head_factory: HeadFactory | None = None
) -> Potential:
    """A potential in float64 whose weights are all away from their start.

    Args:
        config: The model's configuration.
        seed: Of the weights.
        head_factory: Makes the charge head, instead of the one that the configuration names.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        potential = Potential(config)
        if head_factory is not None and config.long_range is not None:
            architecture = potential.architecture
            sizes = HeadSizes(
                channels=architecture.channels,
                n_layers=architecture.n_layers,
                n_elements=len(config.elements),
                cutoff=architecture.cutoff,
                equivariant_layers=architecture.equivariant_layers,
                equivariant_channels=architecture.equivariant_channels,
                carries_charges=architecture.carries_charges,
            )
            potential.charge_head = head_factory(config.long_range, sizes)
        potential = potential.to(torch.float64)
        for parameter in potential.parameters():
            parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)
    return potential.requires_grad_(False).eval()


def graph_of(
    potential: Potential,
    atoms: ase.Atoms,
    *,
    total_charge: int | None = None,
    spin_multiplicity: int | None = None,
) -> AtomGraph:
    """Graph of one structure with the potential's cutoff, float64.

    Args:
        potential: The potential.
        atoms: The structure.
        total_charge: In e; neutral if not given.
        spin_multiplicity: 2S+1; the lowest possible if not given.
    """
    structure = to_structure(atoms, total_charge=total_charge, spin_multiplicity=spin_multiplicity)
    return build_graph(structure, potential.architecture.cutoff)


def random_rotation(seed: int, sign: float) -> Tensor:
    """A rotation, with an inversion for ``sign = -1``, (3, 3) float64."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    return sign * q * torch.linalg.det(q).sign()


def turned(atoms: ase.Atoms, matrix: Tensor) -> ase.Atoms:
    """Positions and lattice vectors r -> R r."""
    new = atoms.copy()
    new.set_cell(np.array(atoms.cell) @ matrix.numpy().T)
    new.positions = atoms.positions @ matrix.numpy().T
    return new


def three_atoms(potential: Potential, shift: float) -> ase.Atoms:
    """The third atom is ``shift`` A beyond the cutoff of the first; the second sees both."""
    cutoff, elements = potential.architecture.cutoff, potential.config.elements
    angle = math.radians(40.0)
    third = (cutoff + shift) * np.array([math.cos(angle), math.sin(angle), 0.0])
    positions = np.array([[0.0, 0.0, 0.0], [0.6 * cutoff, 0.0, 0.0], third])
    return ase.Atoms(np.resize(elements, 3), positions=positions)


def chains(potential: Potential, hops: int) -> tuple[ase.Atoms, ase.Atoms]:
    """Atoms 0.8 cutoffs apart, before and after the one that is ``hops + 1`` edges off moves."""
    spacing, n = 0.8 * potential.architecture.cutoff, hops + 2
    chain = ase.Atoms(
        np.resize(potential.config.elements, n),
        positions=spacing * np.arange(n)[:, None] * np.array([[1.0, 0.0, 0.0]]),
    )
    moved = chain.copy()
    moved.positions[-1] += [-0.02 * spacing, 0.1 * spacing, 0.0]
    return chain, moved


def check_potential(
    contract: Contract, potential: Potential, build: Build, structures: Mapping[str, ase.Atoms]
) -> None:
    """Symmetries, batches, size, cutoff, plans, derivatives, weights and single precision.

    Args:
        contract: Where findings go.
        potential: The potential with the part under check.
        build: Makes others like it.
        structures: From :func:`lesff.potential.verify.check_structures`.
    """
    for name in ("molecule", "triclinic"):
        _check_symmetries(contract, potential, name, structures[name])
    _check_batch(contract, potential, structures)
    _check_size(contract, potential, structures["triclinic"])
    _check_cutoff(contract, potential)
    _check_plan(contract, potential, structures["molecule"])
    for found in check_physics(potential):
        if not found.note:
            where = f"{found.quantity} of the {found.structure}"
            contract.require("derivatives", where, found.error, found.tolerance, found.unit)
    _check_second_derivatives(contract, potential, structures["molecule"])
    _check_weights(contract, potential, build, structures["molecule"])
    _check_single_precision(contract, potential, build, structures)


def _names(potential: Potential, atoms: ase.Atoms) -> list[str]:
    """Quantities that are compared."""
    known = set(potential.available_properties())
    wanted = ["energy", "node_energy", "forces", "latent_charges", "charges"]
    wanted += ["stress"] if atoms.pbc.all() else []
    wanted += [] if atoms.pbc.any() else ["dipole"]
    return [name for name in wanted if name in known]


def _turned_value(name: str, value: Tensor, matrix: Tensor) -> Tensor:
    """A quantity after r -> R r."""
    rank = len(QUANTITIES[name].shape)
    if rank == 0:
        return value
    if rank == 1:
        return value @ matrix.T  # v_i -> R_ij v_j
    return matrix @ value @ matrix.T  # t_ij -> R_ik R_jl t_kl


def _check_symmetries(
    contract: Contract, potential: Potential, name: str, atoms: ase.Atoms
) -> None:
    names = _names(potential, atoms)
    state = {"total_charge": 1, "spin_multiplicity": 2}
    out = potential(graph_of(potential, atoms, **state), names)
    contract.require_effect("effect", f"forces of the {name}", float(out["forces"].abs().max()))
    excess = out["node_energy"].sum() - out["energy"][0]
    scale = max(1.0, float(out["energy"].abs().max()))
    where = f"node_energy of the {name}"
    contract.require("atomic energies", where, abs(float(excess)), EXACT * scale, "eV")

    for sign in (1.0, -1.0):
        matrix = random_rotation(3, sign)
        after = potential(graph_of(potential, turned(atoms, matrix), **state), names)
        expected = {key: _turned_value(key, value, matrix) for key, value in out.items()}
        contract.same("rotation and inversion", name, after, expected)

    order = np.random.default_rng(1).permutation(len(atoms))
    swapped = potential(graph_of(potential, atoms[order], **state), names)
    expected = {
        key: value[order] if QUANTITIES[key].level == "atom" else value
        for key, value in out.items()
    }
    contract.same("permutation", name, swapped, expected)

    moved = atoms.copy()
    moved.positions += [13.0, -7.5, 2.25]
    if atoms.pbc.all():  # another image of each atom, too
        images = np.random.default_rng(5).integers(-2, 3, size=(len(atoms), 3))
        moved.positions += images @ np.array(moved.cell)
    # positions of order 10 instead of 1 lose one digit in distances
    shifted = potential(graph_of(potential, moved, **state), names)
    contract.same("translation", name, shifted, out, 10 * EXACT)


def _check_batch(
    contract: Contract, potential: Potential, structures: Mapping[str, ase.Atoms]
) -> None:
    single = ase.Atoms([potential.config.elements[-1]])  # an atom without any edge
    graphs = [
        graph_of(potential, structures["molecule"], total_charge=1, spin_multiplicity=2),
        graph_of(potential, structures["triclinic"]),
        graph_of(potential, single),
        graph_of(potential, structures["left-handed"]),
    ]
    names = _names(potential, structures["slab"])
    together = potential(collate(graphs), names)
    start = 0
    for row, graph in enumerate(graphs):
        part = {
            name: value[start : start + graph.n_atoms]
            if QUANTITIES[name].level == "atom"
            else value[row : row + 1]
            for name, value in together.items()
        }
        alone = potential(graph, names)
        contract.same("batch equals single", f"structure {row + 1} of 4", part, alone)
        start += graph.n_atoms


def _check_size(contract: Contract, potential: Potential, crystal: ase.Atoms) -> None:
    one, two = (
        float(potential(graph_of(potential, atoms), ["energy"])["energy"])
        for atoms in (crystal, crystal.repeat((2, 1, 1)))
    )
    tolerance = EXACT * max(1.0, abs(two))
    contract.require("extensive energy", "two triclinic cells", abs(two - 2 * one), tolerance, "eV")


def _check_cutoff(contract: Contract, potential: Potential) -> None:
    inside, outside = (
        potential(graph_of(potential, three_atoms(potential, shift)), ["energy", "forces"])
        for shift in (-CROSSING, CROSSING)
    )
    contract.same("cutoff", "three atoms", inside, outside, SMOOTH)


def _check_plan(contract: Contract, potential: Potential, molecule: ase.Atoms) -> None:
    if not potential.can_plan:
        return
    graph = graph_of(potential, molecule)
    plan = potential.plan(graph)
    noise = torch.randn(graph.positions.shape, generator=torch.Generator().manual_seed(2))
    moved = graph.replace(positions=graph.positions + 1e-3 * noise.double())
    planned, plain = (potential(moved, ["energy", "forces"], plan=p) for p in (plan, None))
    contract.same("planned steps", "molecule", planned, plain)


def _check_second_derivatives(
    contract: Contract, potential: Potential, molecule: ase.Atoms
) -> None:
    """``d (F . v) / dr`` against the difference of forces along v."""
    graph = graph_of(potential, molecule)
    generator = torch.Generator().manual_seed(4)
    direction = torch.randn(graph.positions.shape, generator=generator, dtype=torch.float64)
    positions = graph.positions.clone().requires_grad_()

    def forces(at: Tensor, *, create_graph: bool = False) -> Tensor:
        moved = graph.replace(positions=at)
        return potential(moved, ["forces"], create_graph=create_graph)["forces"]

    along = (forces(positions, create_graph=True) * direction).sum()
    (found,) = torch.autograd.grad(along, positions)
    step = STEP * direction
    near = forces(graph.positions + step) - forces(graph.positions - step)
    far = forces(graph.positions + 2 * step) - forces(graph.positions - 2 * step)
    numeric = (8.0 * near - far) / (12.0 * STEP)
    contract.same(
        "second derivatives", "molecule", {"Hessian": found}, {"Hessian": numeric}, DIFFERENCE
    )


def _copied(contract: Contract, potential: Potential, build: Build) -> Potential:
    """The same weights in a potential that had others."""
    other = build(991)
    try:
        other.load_state_dict(potential.state_dict(), strict=True)
    except RuntimeError as error:
        contract.fail("state dict", f"it must fit a new module, got: {error}")
    return other


def _check_weights(
    contract: Contract, potential: Potential, build: Build, molecule: ase.Atoms
) -> None:
    other, names = _copied(contract, potential, build), _names(potential, molecule)
    graph = graph_of(potential, molecule)
    contract.same("state dict", "molecule", other(graph, names), potential(graph, names))


def _check_single_precision(
    contract: Contract, potential: Potential, build: Build, structures: Mapping[str, ase.Atoms]
) -> None:
    single = _copied(contract, potential, build)
    single.cast_parameters(torch.float32)
    for name in ("molecule", "triclinic"):
        graph = graph_of(potential, structures[name]).to(dtype=torch.float32)
        out, terms = single.architecture(graph, None), single.energy_terms(graph)
        tensors = {"node_energy": out.node_energy}
        tensors |= {f"invariants[{k}]": x for k, x in enumerate(out.invariants)}
        tensors |= {} if terms.charges is None else {"charges": terms.charges}
        for key, tensor in tensors.items():
            where, shape = f"{key} of the {name}", tuple(tensor.shape)
            contract.require_tensor("single precision", where, tensor, shape, torch.float32)
        names = _names(potential, structures[name])
        # both see the rounded coordinates
        expected = potential(graph.to(dtype=torch.float64), names)
        contract.same("single precision", name, single(graph, names), expected, SINGLE)
