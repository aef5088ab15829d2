"""The contract of engines: each gives what ``predict`` gives, whatever its units and cells.

Skips where an engine is not installed. Every right value is that of ``predict`` in float64, or a
finite difference of the engine's own energies.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.calculators.socketio import SocketClient, SocketIOCalculator
from engine_adapters import ENGINES, is_installed
from helpers import left_handed, tiny_aimnet2, triclinic_ice, two_waters, water

import lesff
from lesff.convert.checkpoint import convert_checkpoint
from lesff.engines.cells import lower_triangular, reduced

# some systems are unlike what off-small was calibrated on, and it says so
pytestmark = pytest.mark.filterwarnings("ignore::lesff.errors.ExtrapolationWarning")

RELATIVE = 1e-6
"""Of energies and of the largest force: what the contract promises."""
STRAIN = 1e-4
SOCKET_EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "ase_socket.py"


@pytest.fixture(
    scope="module", params=["off-small", pytest.param("aimnet2", marks=pytest.mark.slow)]
)
def model(request, tmp_path_factory):
    if request.param == "off-small":
        return lesff.load("off-small", dtype="float64")
    # charges between the layers, D3, and nothing that steps can be planned with
    folder = tmp_path_factory.mktemp("aimnet2")
    convert_checkpoint(tiny_aimnet2(folder), folder / "model")
    return lesff.load(folder / "model", dtype="float64")


@pytest.fixture(params=ENGINES)
def engine(request, model, tmp_path):
    kind = ENGINES[request.param]
    if not is_installed(kind):
        pytest.skip(f'{kind.package} is not installed: pip install "lesff[{kind.extra}]"')
    return lambda **options: kind(model, tmp_path, **options)


def rotated():
    """Triclinic, turned in space."""
    atoms = triclinic_ice()
    atoms.rotate(70, (1, -2, 3), rotate_cell=True)
    return atoms


def hydronium():
    """H3O+ of its own gas-phase shape, roughly."""
    atoms = ase.Atoms(
        "OH3", [[0, 0, 0.1], [0.94, 0, -0.2], [-0.47, 0.81, -0.2], [-0.47, -0.81, -0.2]]
    )
    atoms.info["charge"] = 1
    return atoms


def slab():
    atoms = triclinic_ice()
    atoms.cell[2] = [0, 0, 15.0]
    atoms.pbc = (True, True, False)
    return atoms


def shuffled():
    """Another order of atoms, images in other cells."""
    atoms = triclinic_ice()
    atoms = atoms[[3, 1, 5, 0, 4, 2]]
    atoms.positions[2] += atoms.cell[1] - 2 * atoms.cell[0]
    return atoms


SYSTEMS = {
    "molecule": water,
    "dimer": two_waters,
    "ion": hydronium,
    "triclinic": triclinic_ice,
    "left-handed": lambda: left_handed(triclinic_ice()),
    "rotated": rotated,
    "shuffled": shuffled,
    "slab": slab,
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_engine_gives_what_predict_gives(system, engine, model):
    atoms = SYSTEMS[system]()
    mine = engine()
    if system == "slab" and not mine.takes_slabs:
        pytest.skip("has no slabs of its own")
    if atoms.pbc.any() and not mine.takes_crystals:
        pytest.skip("has molecules only")
    names = ["energy", "forces", "charges"] + (["stress"] if atoms.pbc.all() else [])
    expected = model.predict(atoms, names)
    got = mine.evaluate(atoms)
    assert got["energy"] == pytest.approx(expected.energy, rel=RELATIVE)
    largest = np.abs(expected.forces).max()
    np.testing.assert_allclose(got["forces"], expected.forces, rtol=0, atol=RELATIVE * largest)
    if "charges" in got:
        np.testing.assert_allclose(got["charges"], expected.charges, rtol=0, atol=1e-6)
    if atoms.pbc.all():
        virial = -expected.stress * atoms.get_volume()
        np.testing.assert_allclose(got["virial"], virial, atol=1e-5 * np.abs(virial).max())


@pytest.mark.parametrize("system", ["triclinic", "left-handed"])
def test_virial_is_the_slope_of_the_engines_energy(system, engine):
    atoms = SYSTEMS[system]()
    mine = engine()
    if not mine.takes_crystals:
        pytest.skip("has molecules only")
    virial = mine.evaluate(atoms)["virial"]
    for i, j in ((0, 0), (1, 2), (2, 0)):
        energies = []
        for sign in (1.0, -1.0):
            deformed = np.eye(3)
            deformed[i, j] += 0.5 * sign * STRAIN
            deformed[j, i] += 0.5 * sign * STRAIN
            other = atoms.copy()
            other.set_cell(atoms.cell[:] @ deformed, scale_atoms=True)
            energies.append(mine.evaluate(other)["energy"])
        slope = -(energies[0] - energies[1]) / (2.0 * STRAIN)
        # i-PI keeps positions in bohr, LAMMPS prints no more than it has: 1e-5 of the virial
        assert virial[i, j] == pytest.approx(slope, abs=2e-5 * np.abs(virial).max())


def test_the_order_of_atoms_does_not_matter(engine):
    atoms = triclinic_ice() if engine().takes_crystals else two_waters()
    order = np.array([4, 2, 0, 5, 1, 3])
    first, second = engine().evaluate(atoms), engine().evaluate(atoms[order])
    assert second["energy"] == pytest.approx(first["energy"], rel=1e-9)
    np.testing.assert_allclose(second["forces"], first["forces"][order], atol=1e-7)


def test_a_field_acts(engine, model):
    atoms, field = water(), np.array([0.1, -0.2, 0.3])
    mine = engine(external_field=field.tolist())
    if not mine.takes_field:
        pytest.skip("takes no field")
    expected = model.predict(atoms, ["energy", "forces"], external_field=field)
    assert abs(expected.energy - model.predict(atoms).energy) > 1e-3
    got = mine.evaluate(atoms)
    assert got["energy"] == pytest.approx(expected.energy, rel=RELATIVE)
    np.testing.assert_allclose(got["forces"], expected.forces, atol=1e-6)


def test_an_unknown_element_is_named(engine):
    atoms = water()
    atoms.symbols[0] = "Au"
    with pytest.raises(lesff.LesffError, match="Au|'Au'"):
        engine().evaluate(atoms)


def test_the_calculator_serves_the_socket_protocol(model):
    """ASE's client with lesff's calculator, its server on the other side: i-PI's protocol."""
    atoms, name = triclinic_ice(), f"lesff_test_{os.getpid()}"
    # the protocol has cells as LAMMPS and i-PI store them
    atoms.set_cell(lower_triangular(atoms.cell)[0], scale_atoms=True)
    expected = model.predict(atoms, ["energy", "forces", "stress"])

    def client():
        served = atoms.copy()
        served.calc = model.calculator()
        SocketClient(unixsocket=name).run(served, use_stress=True)

    with SocketIOCalculator(unixsocket=name) as server:
        thread = threading.Thread(target=client, daemon=True)
        thread.start()
        asked = atoms.copy()
        asked.calc = server
        assert asked.get_potential_energy() == pytest.approx(expected.energy, rel=RELATIVE)
        np.testing.assert_allclose(asked.get_forces(), expected.forces, atol=RELATIVE)
        stress = asked.get_stress(voigt=False)
        np.testing.assert_allclose(stress, expected.stress, atol=RELATIVE)
    thread.join(timeout=30)
    assert not thread.is_alive()


@pytest.mark.slow
def test_the_example_of_a_socket_runs(tmp_path):
    model = lesff.load("off-small")
    path = tmp_path / "two_waters.xyz"
    ase.io.write(path, two_waters())
    arguments = [str(SOCKET_EXAMPLE), str(model.source.folder), str(path), "--steps", "3"]
    done = subprocess.run(  # noqa: S603 - this repository's example
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=True
    )
    relaxed = float(done.stdout.split()[-2])
    start = model.predict(two_waters()).energy
    # downhill, and not far: three steps
    assert start - 1.0 < relaxed < start


def test_cells_of_engines():
    """Lower triangular with positive diagonal, the same lattice, distances kept."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        cell = rng.normal(size=(3, 3)) * 5
        box, rotation = lower_triangular(cell)
        np.testing.assert_allclose(cell @ rotation, box, atol=1e-12)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(np.sign(np.linalg.det(cell)))
        assert (np.diagonal(box) > 0).all()
        assert np.triu(box, 1).max() == 0.0
        short = reduced(box)
        steps = short @ np.linalg.inv(box)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)
        assert abs(np.linalg.det(steps)) == pytest.approx(1.0)
        assert (np.abs(short[1:, 0]) <= short[0, 0] / 2 + 1e-12).all()
        assert abs(short[2, 1]) <= short[1, 1] / 2 + 1e-12
