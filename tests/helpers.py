"""Crystals with known Madelung constants, molecules, graphs and tiny random potentials."""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ase
import ase.build
import numpy as np
import torch
from torch import Tensor

from lesff.atoms.graph import AtomGraph, build_graph, strained
from lesff.atoms.structure import to_structure
from lesff.electrostatics.coulomb import WaveSum, latent_energy
from lesff.electrostatics.sums.direct import DirectTransform
from lesff.electrostatics.sums.ewald import periodic_energy
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.heads import HEAD_NAMES, LongRangeConfig
from lesff.potential.config import ModelConfig
from lesff.potential.potential import Potential

ANY_HEADS = tuple(name for name in HEAD_NAMES if name != "carried")
"""Heads for any architecture, one that carries no charges itself among them."""
CUTOFF = 3.2
"""Edge cutoff of the tiny potentials in A."""


@dataclass(frozen=True)
class Crystal:
    """A crystal, its formal charges, and -E * length / ke per formula unit of point charges."""

    atoms: ase.Atoms
    charges: np.ndarray
    formula_units: int
    madelung: float
    length: float


def nacl(a: float = 5.64) -> Crystal:
    """Conventional cell. Madelung 1.7475645946 (OEIS A085469)."""
    atoms = ase.build.bulk("NaCl", "rocksalt", a=a, cubic=True)
    return _crystal(atoms, {"Na": 1, "Cl": -1}, 4, 1.7475645946, a / 2)


def cscl(a: float = 4.12) -> Crystal:
    """Madelung 1.7626747731 for the nearest distance (OEIS A181152)."""
    atoms = ase.build.bulk("CsCl", "cesiumchloride", a=a)
    return _crystal(atoms, {"Cs": 1, "Cl": -1}, 1, 1.7626747731, math.sqrt(3) / 2 * a)


def zincblende(a: float = 5.41) -> Crystal:
    """Primitive cell, skewed. Madelung 1.6380550534 (OEIS A182566)."""
    atoms = ase.build.bulk("ZnS", "zincblende", a=a)
    return _crystal(atoms, {"Zn": 1, "S": -1}, 1, 1.6380550534, math.sqrt(3) / 4 * a)


def wurtzite(a: float = 3.82) -> Crystal:
    """Ideal, hexagonal cell. Madelung 1.6413216274 for r0 = 3/8 c (OEIS A182567)."""
    c = a * math.sqrt(8 / 3)
    atoms = ase.build.bulk("ZnS", "wurtzite", a=a, c=c, u=3 / 8)
    return _crystal(atoms, {"Zn": 1, "S": -1}, 2, 1.6413216274, 3 / 8 * c)


def fluorite(a: float = 5.46) -> Crystal:
    """Charges +2, -1, -1: 2 x 2.5193924399, nearest distance (T5)."""
    atoms = ase.build.bulk("CaF2", "fluorite", a=a)
    return _crystal(atoms, {"Ca": 2, "F": -1}, 1, 5.0387848799, math.sqrt(3) / 4 * a)


def perovskite(a: float = 3.905) -> Crystal:
    """Charges +2, +4, -2: 49.509872113 for the lattice constant (T6)."""
    fractional = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    atoms = ase.Atoms("SrTiO3", scaled_positions=fractional, cell=[a] * 3, pbc=True)
    return _crystal(atoms, {"Sr": 2, "Ti": 4, "O": -2}, 1, 49.509872113, a)


def _crystal(
    atoms: ase.Atoms, charge: dict[str, int], formula_units: int, madelung: float, length: float
) -> Crystal:
    charges = np.array([float(charge[symbol]) for symbol in atoms.symbols])
    return Crystal(atoms, charges, formula_units, madelung, length)


CRYSTALS: dict[str, Callable[[], Crystal]] = {
    "nacl": nacl,
    "cscl": cscl,
    "zincblende": zincblende,
    "wurtzite": wurtzite,
    "fluorite": fluorite,
    "perovskite": perovskite,
}


def water() -> ase.Atoms:
    """One molecule without symmetry, away from the origin."""
    positions = [[0.1, -0.2, 0.3], [0.95, 0.35, 0.25], [-0.65, 0.45, 0.1]]
    return ase.Atoms("OHH", positions=np.array(positions) + [0.4, 0.7, -0.3])


def two_waters() -> ase.Atoms:
    """A dimer without symmetry."""
    second = water()
    second.rotate(50, (1, 2, 3))
    second.translate([2.1, 1.3, 0.6])
    return water() + second


def triclinic_ice() -> ase.Atoms:
    """Two waters in a skewed right-handed cell."""
    atoms = two_waters()
    atoms.cell = [[5.2, 0.3, -0.2], [1.1, 5.6, 0.4], [-0.7, 0.9, 4.9]]
    atoms.pbc = True
    assert np.linalg.det(atoms.cell) > 0
    return atoms


def left_handed(atoms: ase.Atoms) -> ase.Atoms:
    """The same crystal with the first two lattice vectors swapped."""
    twin = atoms.copy()
    twin.cell = np.array(atoms.cell)[[1, 0, 2]]
    twin.pbc = np.array(atoms.pbc)[[1, 0, 2]]
    return twin


def make_graph(
    atoms: ase.Atoms,
    cutoff: float = CUTOFF,
    *,
    total_charge: int | None = None,
    spin_multiplicity: int | None = None,
) -> AtomGraph:
    """Graph of one structure, float64."""
    structure = to_structure(atoms, total_charge=total_charge, spin_multiplicity=spin_multiplicity)
    return build_graph(structure, cutoff)


def tiny_potential(
    *,
    head: str | None = "latent",
    hidden_irreps: str = "4x0e+4x1o",
    elements: tuple[int, ...] = (1, 8),
    state_embedding: bool = False,
    local_state: bool = False,
    wall: bool = False,
    limits: tuple[float, ...] | None = None,
    n_layers: int = 2,
    seed: int = 0,
) -> Potential:
    """Random float64 potential; the states, zero at the start, are filled too."""
    long_range = None
    if head is not None:
        long_range = LongRangeConfig(head=head, readout_hidden=4, charge_limits=limits)  # type: ignore[arg-type]
    config = ModelConfig(
        architecture={
            "type": "mace",
            "cutoff": CUTOFF,
            "hidden_irreps": hidden_irreps,
            "n_layers": n_layers,
            "max_ell": 2,
            "correlation": 3,
            "n_radial": 4,
            "radial_mlp": (8,),
            "readout_hidden": 4,
            "avg_num_neighbors": 4.0,
            "inner_cutoff": 0.75 if wall else None,
        },
        elements=elements,
        reference_energies=tuple(-1.5 * z for z in elements),
        energy_scale=0.7,
        long_range=long_range,
        total_charge=(-2, 2),
        spin_multiplicity=(1, 3),
        state_embedding=state_embedding,
        local_state=local_state,
        wall="zbl" if wall else None,
        dtype="float64",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        potential = Potential(config).to(torch.float64)
        if potential.state_embedding is not None:
            for parameter in potential.state_embedding.parameters():
                torch.nn.init.normal_(parameter, std=0.5)
        if potential.local_state is not None:
            for parameter in potential.local_state.parameters():
                torch.nn.init.normal_(parameter, std=0.5)
    return potential.requires_grad_(False).eval()


def tiny_aimnet2(folder: Path) -> Path:
    """Archive of a small AIMNet2 model, see ``references/make_aimnet2_references.py``."""
    packed = Path(__file__).parent / "references" / "aimnet2.jpt.xz"
    path = folder / "tiny.jpt"
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    return path


def latent_sum(
    crystal: Crystal, *, sigma: float = 1.0, dl: float = 2.0, remove_self: bool = True
) -> float:
    """Gaussian (k-space) energy of the crystal's formal charges per cell in eV."""
    settings = EwaldSettings(sigma=sigma, dl=dl, remove_self_interaction=remove_self)
    return float(atoms_energy(crystal.atoms, crystal.charges, settings))


def atoms_energy(atoms: ase.Atoms, charges: np.ndarray, settings: EwaldSettings) -> Tensor:
    """``periodic_energy`` of one structure."""
    return periodic_energy(
        torch.as_tensor(charges, dtype=torch.float64),
        torch.as_tensor(atoms.positions),
        torch.as_tensor(np.array(atoms.cell))[None],
        torch.zeros(len(atoms), dtype=torch.int64),
        settings,
        DirectTransform(),
    )[0]


def random_crystal(n_atoms: int = 6, seed: int = 3) -> tuple[ase.Atoms, np.ndarray]:
    """Skewed cell, charges with a net charge; a generic structure for symmetry tests."""
    rng = np.random.default_rng(seed)
    cell = np.array([[6.1, 0.4, -0.3], [1.7, 5.3, 0.6], [-0.9, 1.2, 6.7]])
    atoms = ase.Atoms(["H"] * n_atoms, scaled_positions=rng.random((n_atoms, 3)), cell=cell)
    atoms.pbc = True
    return atoms, rng.normal(size=n_atoms)


def full_result(
    atoms: ase.Atoms,
    charges: np.ndarray,
    settings: EwaldSettings,
    evaluator: WaveSum = "direct",
    dtype: torch.dtype = torch.float64,
    rounded: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Energy, forces and stress at fixed charges of a crystal, from ``rounded`` input."""
    q = torch.as_tensor(charges).to(rounded or dtype).to(dtype)
    graph = make_graph(atoms, 0.1).to(dtype=rounded or dtype).to(dtype=dtype)  # no edges
    r = graph.positions.clone().requires_grad_()
    strain = torch.zeros(1, 3, 3, dtype=dtype, requires_grad=True)
    moved = strained(graph.replace(positions=r), strain)
    energy = latent_energy(q, moved, settings, evaluator)[0]
    d_r, d_strain = torch.autograd.grad(energy, [r, strain])
    return energy.detach(), -d_r, d_strain[0] / torch.linalg.det(graph.cell[0]).abs()


def random_rotation(generator: torch.Generator) -> Tensor:
    """Proper rotation, float64."""
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    return q * torch.linalg.det(q).sign()


def transformed(atoms: ase.Atoms, matrix: Tensor) -> ase.Atoms:
    """Positions and cell rows times ``matrix`` transposed: r -> matrix r."""
    new = atoms.copy()
    new.cell = np.array(atoms.cell) @ matrix.numpy().T
    new.positions = atoms.positions @ matrix.numpy().T
    return new


@contextmanager
def double_default() -> Iterator[None]:
    """e3nn builds its coefficient tables in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
