"""Dispersion: kernel, sums, coefficients, and the energy of a model with it."""

from __future__ import annotations

import math

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from helpers import make_graph, tiny_potential, triclinic_ice, two_waters
from scipy.integrate import quad

from lesff.atoms.graph import collate
from lesff.electrostatics.dispersion import C6_D2, DispersionConfig, dispersion_energy
from lesff.errors import ConfigError, PropertyError, UnsupportedInputError
from lesff.model_folder.folder import load_model, save_model
from lesff.potential.edit import with_dispersion
from lesff.units import JOULE_NM6_PER_MOL

CONFIG = DispersionConfig()
HARTREE_BOHR6 = 27.211386245988 * 0.529177210903**6
"""One atomic unit of C6 in eV A^6."""


def energy(atoms: ase.Atoms, config: DispersionConfig = CONFIG) -> float:
    """Energy with the coefficients of the elements."""
    graph = make_graph(atoms, 0.1)  # no edges
    c = config.of_elements(atoms.numbers)
    return float(dispersion_energy(c, graph, config)[0])


@pytest.mark.parametrize("sigma", [0.7, 1.4])
def test_kernel_is_one_over_r6_far_out_and_finite_at_zero(sigma):
    config = DispersionConfig(sigma=sigma)
    far = torch.tensor([(12.0 * sigma) ** 2], dtype=torch.float64)
    assert float(config.kernel(far, 0)[0]) == pytest.approx(float(far) ** -3, rel=1e-12)
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(config.kernel(zero, 0)[0]) == pytest.approx(1 / (48 * sigma**6), rel=1e-14)
    r2 = torch.tensor([2.3126 * sigma], dtype=torch.float64) ** 2
    assert float(config.kernel(r2, 0)[0]) * float(r2) ** 3 == pytest.approx(0.5, abs=1e-3)


def test_kernel_derivatives_are_those_of_the_kernel_on_both_sides_of_the_seam():
    r2 = torch.tensor([0.0, 0.3, 7.8, 7.9, 20.0, 300.0], dtype=torch.float64, requires_grad=True)
    value = CONFIG.kernel(r2, 0)[0]
    for hand in CONFIG.kernel(r2.detach(), 4):
        torch.testing.assert_close(hand, value.detach(), rtol=1e-9, atol=0)
        (value,) = torch.autograd.grad(value.sum(), r2, create_graph=True)


def test_weights_are_the_fourier_transform_of_the_kernel():
    """Half of ``-4 pi int r^2 K(r) sin(kr)/(kr) dr``."""
    for k in (0.0, 0.4, 1.3):

        def integrand(r: float, k: float = k) -> float:
            value = float(CONFIG.kernel(torch.tensor([r * r], dtype=torch.float64), 0)[0])
            return 4 * math.pi * r * r * value * np.sinc(k * r / math.pi)

        transform = quad(integrand, 0, 120, limit=2000, epsabs=1e-11)[0]
        got = CONFIG.prefactor * float(CONFIG.weight(torch.tensor([k * k], dtype=torch.float64)))
        assert got == pytest.approx(-0.5 * transform, rel=2e-5)


def test_lattice_sum_of_fcc():
    """14.45392 / d^6 per atom: Lennard-Jones, Ingham, Proc. R. Soc. A 107, 636 (1925)."""
    config = DispersionConfig(sigma=0.45, dl=0.25)
    d = 3.755
    argon = bulk("Ar", a=d * math.sqrt(2.0))
    c6 = C6_D2[17] * JOULE_NM6_PER_MOL
    assert energy(argon, config) == pytest.approx(-0.5 * c6 * 14.45392 / d**6, rel=1e-6)
    assert energy(argon.repeat((2, 1, 1)), config) == pytest.approx(2 * energy(argon, config))


def test_a_molecule_in_a_large_cell_is_a_molecule_in_open_space():
    benzene = molecule("C6H6")
    box = benzene.copy()
    box.set_cell([45.0] * 3)
    box.pbc = True
    c = CONFIG.of_elements(benzene.numbers)
    images = -0.5 * float(c.sum()) ** 2 * 8.40 / 45.0**6  # simple cubic sum of r^-6
    assert energy(box) - images == pytest.approx(energy(benzene), abs=2e-5)
    assert abs(energy(benzene)) > 0.1


def test_a_slab_is_a_sum_over_its_plane():
    slab = fcc111("Ar", (1, 1, 2), a=5.31)
    slab.pbc = [True, True, False]
    wide = slab.repeat((61, 61, 1))
    centre = [i for i in range(len(wide)) if i // 2 == 61 * 30 + 30]
    c6 = C6_D2[17] * JOULE_NM6_PER_MOL
    r2 = ((wide.positions[centre][:, None] - wide.positions[None]) ** 2).sum(-1)
    kernel = CONFIG.kernel(torch.from_numpy(r2), 0)[0].numpy()
    kernel[r2 == 0] = 0.0
    area = np.linalg.norm(np.cross(slab.cell[0], slab.cell[1]))
    got, direct = energy(slab), -0.5 * c6 * kernel.sum()
    assert got == pytest.approx(direct, abs=1e-5 * area)
    assert abs(direct) > 0.05


@pytest.mark.parametrize(
    ("name", "expected"),
    [("C6H6", 1723.0), ("H2O", 45.3), ("CH4", 129.6)],
)
def test_c6_of_molecules(name, expected):
    """Dipole oscillator strengths, hartree bohr^6.

    Kumar, Meath, Mol. Phys. 75, 311 (1992); Zeiss, Meath, Mol. Phys. 33, 1155 (1977);
    Margoliash, Meath, J. Chem. Phys. 68, 1426 (1978).
    """
    c = CONFIG.of_elements(molecule(name).numbers)
    assert float(c.sum()) ** 2 / HARTREE_BOHR6 == pytest.approx(expected, rel=0.08)


# --- models ------------------------------------------------------------------------------------

SYSTEMS = {"molecule": two_waters, "crystal": triclinic_ice}
STEP = 1e-4


def potential_with(head: str | None = "latent"):
    return with_dispersion(tiny_potential(head=head), CONFIG)


@pytest.mark.parametrize("head", [None, "latent", "shifted"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_energies_are_those_without_and_the_dispersion(system, head):
    atoms = SYSTEMS[system]()
    names = ["energy", "energy_sr", "energy_lr", "energy_dispersion", "node_energy"]
    out = potential_with(head)(make_graph(atoms), names)
    before = tiny_potential(head=head)(make_graph(atoms), ["energy", "energy_sr", "node_energy"])
    attraction = energy(atoms)
    assert attraction < -1e-3
    assert float(out["energy_dispersion"]) == pytest.approx(attraction, abs=1e-12)
    assert float(out["energy"] - before["energy"]) == pytest.approx(attraction, abs=1e-12)
    assert float(out["energy_sr"] - before["energy_sr"]) == 0.0
    assert float(out["energy_sr"] + out["energy_lr"] - out["energy"]) == pytest.approx(0, abs=1e-12)
    assert float(out["node_energy"].sum() - out["energy"]) == pytest.approx(0, abs=1e-12)
    share = out["node_energy"] - before["node_energy"]
    assert float(share.max()) < 0.0


@pytest.mark.parametrize("head", [None, "latent"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_forces_and_stress_are_energy_derivatives(system, head):
    atoms, potential = SYSTEMS[system](), potential_with(head)

    def value(moved: ase.Atoms) -> float:
        return float(potential(make_graph(moved), ["energy"])["energy"])

    forces = potential(make_graph(atoms), ["forces"])["forces"].numpy()
    without = tiny_potential(head=head)(make_graph(atoms), ["forces"])["forces"].numpy()
    assert abs(forces - without).max() > 1e-3
    for atom, axis in ((0, 0), (4, 2)):
        moved = [atoms.copy(), atoms.copy()]
        for sign, m in zip((1, -1), moved, strict=True):
            m.positions[atom, axis] += sign * STEP
        slope = (value(moved[0]) - value(moved[1])) / (2 * STEP)
        assert forces[atom, axis] == pytest.approx(-slope, abs=5e-7)
    if not atoms.pbc.any():
        return
    stress = potential(make_graph(atoms), ["stress"])["stress"][0].numpy()
    moved = []
    for sign in (1, -1):
        strain = np.eye(3)
        strain[0, 0] += sign * STEP
        m = atoms.copy()
        m.set_cell(np.array(atoms.cell) @ strain, scale_atoms=True)
        moved.append(value(m))
    slope = (moved[0] - moved[1]) / (2 * STEP) / atoms.get_volume()
    assert stress[0, 0] == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("system", SYSTEMS)
def test_planned_steps_give_the_same(system):
    potential = potential_with()
    graph = make_graph(SYSTEMS[system]())
    names = ["energy", "energy_dispersion", "forces"]
    got = potential(graph, names, plan=potential.plan(graph))
    expected = potential(graph, names)
    for name in names:
        torch.testing.assert_close(got[name], expected[name], rtol=0, atol=1e-12)


def test_float32_agrees_with_float64():
    atoms = triclinic_ice().repeat((3, 3, 3))
    graph = make_graph(atoms, 0.1)
    c = CONFIG.of_elements(atoms.numbers)
    exact = float(dispersion_energy(c, graph, CONFIG)[0])
    got = float(dispersion_energy(c.float(), graph.to(dtype=torch.float32), CONFIG)[0])
    assert got == pytest.approx(exact, rel=1e-6)


def test_batches_of_crystals_and_molecules_are_the_systems_one_by_one():
    both = collate([make_graph(triclinic_ice(), 0.1), make_graph(two_waters(), 0.1)])
    c = CONFIG.of_elements([*triclinic_ice().numbers, *two_waters().numbers])
    got = dispersion_energy(c, both, CONFIG).tolist()
    assert got == pytest.approx([energy(triclinic_ice()), energy(two_waters())], abs=1e-12)


def test_a_saved_model_keeps_its_dispersion(tmp_path):
    potential = potential_with()
    save_model(potential, tmp_path / "m", card="# m\n", license_text="x")
    loaded = load_model(tmp_path / "m")
    assert loaded.config.dispersion == CONFIG
    graph = make_graph(two_waters())
    same = potential(graph, ["energy"])["energy"]
    assert float(loaded(graph, ["energy"])["energy"]) == pytest.approx(float(same), abs=1e-12)


def test_what_is_not_there_is_named():
    graph = make_graph(two_waters())
    for head in (None, "latent"):
        with pytest.raises(PropertyError, match="energy_dispersion"):
            tiny_potential(head=head)(graph, ["energy_dispersion"])
        assert "energy_dispersion" not in tiny_potential(head=head).available_properties()
        assert "energy_dispersion" in potential_with(head).available_properties()
    with pytest.raises(ConfigError, match="Cs"):
        CONFIG.of_elements([55])
    with pytest.raises(ConfigError, match=r"dispersion\.sigma"):
        DispersionConfig(sigma=0.0)
    with pytest.raises(ConfigError, match="cannot change"):
        with_dispersion(potential_with(), DispersionConfig(sigma=1.0))
    wire = two_waters()
    wire.set_cell([9.0, 9.0, 9.0])
    wire.pbc = [True, False, False]
    with pytest.raises(UnsupportedInputError, match="wire"):
        potential_with(None)(make_graph(wire), ["energy"])
