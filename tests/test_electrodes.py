"""Electrodes at constant potential (T40)."""

import math

import ase
import numpy as np
import pytest
import torch
from helpers import make_graph

from lesff.electrostatics.charges.electrodes import constant_potential
from lesff.electrostatics.charges.qeq import coulomb_potential
from lesff.electrostatics.sums.settings import EwaldSettings
from lesff.errors import UnsupportedInputError
from lesff.units import COULOMB_CONSTANT, EWALD_PREFACTOR

SETTINGS = EwaldSettings(dl=0.8)
"""Truncation e^(-sigma^2 kc^2 / 2) = 4e-14."""
SPACING, N = 1.6, 5
AREA = (SPACING * N) ** 2
EPS0 = 0.005526349
"""e / (V A): the CODATA constant, see test_units.py."""


def sheets(heights, ions=()):
    """Square sheets, then ions above the origin; a slab open along z."""
    axis = SPACING * np.arange(N)
    x, y = (v.ravel() for v in np.meshgrid(axis, axis))
    rows = [np.stack([x, y, np.full_like(x, z)], 1) for z in heights]
    rows += [np.array([[0.3, 0.2, z]]) for z in ions]
    positions = np.concatenate(rows)
    atoms = ase.Atoms(f"H{len(positions)}", positions=positions, pbc=[True, True, False])
    atoms.cell = [[SPACING * N, 0, 0], [0, SPACING * N, 0], [0, 0, 0]]
    return atoms


def plates(distance, voltage=1.0):
    graph = make_graph(sheets([0.0, distance]), 0.1)
    sign = torch.tensor([0.5] * N * N + [-0.5] * N * N, dtype=torch.float64)
    metal = torch.ones(graph.n_atoms, dtype=torch.bool)
    zero = torch.zeros(graph.n_atoms, dtype=torch.float64)
    return graph, constant_potential(zero, voltage * sign, metal, graph, SETTINGS)


def test_plate_capacitor():
    """T40: 1 / C grows by exactly d / (eps0 A), whatever the width and the sheet density."""
    assert pytest.approx(1 / (2 * EWALD_PREFACTOR), rel=1e-6) == EPS0
    inverse = []
    for distance in (12.0, 20.0):
        _, found = plates(distance)
        charge = float(found.charges[: N * N].sum())
        assert charge > 0
        assert float(found.charges.sum()) == pytest.approx(0.0, abs=1e-10)
        # F = -C U^2 / 2 at constant potential
        assert float(found.energy[0]) == pytest.approx(-0.5 * charge, rel=1e-9)
        inverse.append(1.0 / charge)
    capacitance = 8.0 / (inverse[1] - inverse[0])
    assert capacitance == pytest.approx(EPS0 * AREA, rel=1e-6)


def test_electrodes_are_equipotential():
    graph, found = plates(12.0, voltage=2.0)
    full = EwaldSettings(dl=0.8, remove_self_interaction=False)
    potential = coulomb_potential(found.charges, graph, full)
    first, second = potential[: N * N], potential[N * N :]
    assert float(first.std() + second.std()) < 1e-10
    assert float(first[0] - second[0]) == pytest.approx(2.0, abs=1e-10)


def ion_energy(height):
    graph = make_graph(sheets([0.0], [height]), 0.1, total_charge=0)
    fixed = torch.zeros(graph.n_atoms, dtype=torch.float64)
    fixed[-1] = 1.0
    metal = fixed == 0
    return constant_potential(fixed, torch.zeros_like(fixed), metal, graph, SETTINGS, neutral=False)


def image_energy(height):
    """A lattice of unit ions above a sheet of Gaussians, one per cell.

    Plane wave by plane wave: the sheet's response to 2 pi ke / (A k) e^{-k z} is its inverse
    kernel, 2 pi ke / (A k) erfc(sigma k / sqrt 2), for k > 0: images for sigma = 0. k = 0: a
    charged plane of the opposite charge.
    """
    total = 2 * math.pi * COULOMB_CONSTANT / AREA * height
    for m in range(-8, 9):
        for n in range(-8, 9):
            if (m, n) != (0, 0):
                k = 2 * math.pi / (SPACING * N) * math.hypot(m, n)
                wave = math.exp(-2 * k * height) / math.erfc(SETTINGS.sigma * k / math.sqrt(2))
                total -= math.pi * COULOMB_CONSTANT / (AREA * k) * wave
    return total


def test_image_charge():
    low, high = ion_energy(4.0), ion_energy(6.5)
    assert float(low.charges[:-1].sum()) == pytest.approx(-1.0, abs=1e-10)
    found = float(low.energy[0] - high.energy[0])
    # 5e-5 from the Gaussian tail at 4 sigma (4e-6 for 5.0 and 8.0 A)
    assert found == pytest.approx(image_energy(4.0) - image_energy(6.5), abs=1e-4)
    response = image_energy(4.0) - 2 * math.pi * COULOMB_CONSTANT / AREA * 4.0
    assert response < -0.01  # more than the plane of k = 0


def images(height, period, offset):
    """The same lattice by images in real space: -ke / (4 z) of each ion and image dipoles.

    The sheet's Gaussians put the image plane sigma / sqrt(2 pi) above its atoms: 1 / erfc(sigma k /
    sqrt 2) = 1 + k sigma sqrt(2 / pi) + ... = exp(2 k sigma / sqrt(2 pi)) up to terms of order k^2,
    a relative error of sigma^2 / (2 pi z^2).
    """
    z, n = height - offset, 400
    x = period * np.arange(-n, n + 1)
    distance = np.hypot(*np.meshgrid(x, x)).ravel()
    distance = distance[(distance > 0) & (distance < period * n)]
    pairs = (1 / distance - 1 / np.hypot(distance, 2 * z)).sum()
    # the rest of the plane of image dipoles: 2 z^2 / R^3 each
    rest = 2 * np.pi / period**2 * 2 * z**2 / (period * n)
    return -COULOMB_CONSTANT / (4 * z) + 0.5 * COULOMB_CONSTANT * (pairs + rest)


def test_one_ion_sees_its_image():
    """T40: -ke / (4 z), z from the image plane."""
    period, heights = 14.4, (4.5, 6.0)
    settings = EwaldSettings(dl=1.2)  # truncation 1e-6
    axis = period / 7 * np.arange(7)
    x, y = (v.ravel() for v in np.meshgrid(axis, axis))
    found = []
    for height in heights:
        positions = np.append(np.stack([x, y, 0 * x], 1), [[0.3, 0.2, height]], axis=0)
        atoms = ase.Atoms(f"H{len(positions)}", positions=positions, pbc=[True, True, False])
        atoms.cell = [period, period, 0.0]
        fixed = torch.zeros(len(atoms), dtype=torch.float64)
        fixed[-1] = 1.0
        result = constant_potential(
            fixed, torch.zeros_like(fixed), fixed == 0, make_graph(atoms, 0.1), settings,
            neutral=False,
        )  # fmt: skip
        found.append(float(result.energy[0]))
    work = found[1] - found[0]
    offset = settings.sigma / math.sqrt(2 * math.pi)
    low, high = (images(z, period, offset) for z in heights)
    # a third of the work is that of one ion against its own image
    alone = COULOMB_CONSTANT / 4 * (1 / (heights[0] - offset) - 1 / (heights[1] - offset))
    assert alone > 0.3 * work > 0
    # left out: ke sigma^2 / (8 pi z^3), 0.7 % of the work
    assert work == pytest.approx(high - low, rel=0.01)
    at_the_atoms = images(heights[1], period, 0.0) - images(heights[0], period, 0.0)
    assert at_the_atoms != pytest.approx(work, rel=0.02)


def test_forces_at_constant_potential():
    atoms = sheets([0.0, 9.0], [4.0])
    voltage = torch.tensor([0.5] * N * N + [-0.5] * N * N + [0.0], dtype=torch.float64)
    fixed = torch.zeros(len(atoms), dtype=torch.float64)
    fixed[-1] = 0.7
    metal = fixed == 0

    def energy(r):
        graph = make_graph(atoms, 0.1).replace(positions=r)
        found = constant_potential(fixed, voltage, metal, graph, SETTINGS, neutral=False)
        return found.energy[0]

    r = torch.tensor(atoms.positions, requires_grad=True)
    (slope,) = torch.autograd.grad(energy(r), r)
    for atom, axis in ((len(atoms) - 1, 2), (3, 0)):
        shift = torch.zeros_like(r)
        shift[atom, axis] = 1e-4
        numeric = float(energy(r.detach() + shift) - energy(r.detach() - shift)) / 2e-4
        assert float(slope[atom, axis]) == pytest.approx(numeric, abs=1e-6)


def test_bad_input_raises():
    graph = make_graph(sheets([0.0], [4.0]), 0.1)
    fixed = torch.zeros(graph.n_atoms, dtype=torch.float64)
    fixed[-1] = 1.0
    metal, zero = fixed == 0, torch.zeros_like(fixed)
    with pytest.raises(UnsupportedInputError, match="must sum to its total charge 0 for neutral"):
        constant_potential(fixed, zero, metal, graph, SETTINGS)
    with pytest.raises(UnsupportedInputError, match="`fixed_charges` of electrode atoms must be"):
        constant_potential(fixed, zero, metal | True, graph, SETTINGS)
    with pytest.raises(UnsupportedInputError, match="structure 0 has no electrode atoms"):
        constant_potential(zero, zero, metal & False, graph, SETTINGS)
