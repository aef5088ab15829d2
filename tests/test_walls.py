"""The stiffness of inner walls and floors of elements, in float64."""

from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from helpers import make_graph, tiny_potential

from lesff.errors import ConfigError
from lesff.model_folder.folder import load_model, save_model
from lesff.potential.edit import with_elements, with_wall

ELEMENTS = (1, 6, 7, 8, 17)


def test_a_stiff_wall_changes_nothing_above_the_inner_cutoff_and_is_saved(tmp_path):
    old = tiny_potential(head="latent", elements=ELEMENTS)
    soft = with_wall(old, wall="zbl-inner", energy_floor=None)
    stiff = with_wall(soft, wall="zbl-inner", energy_floor=None, wall_stiffness=200.0)
    graph = make_graph(molecule("CH3CONH2"))
    for key, value in soft(graph, ["energy", "forces"]).items():
        assert torch.equal(stiff(graph, [key])[key], value)
    # O-Cl at 0.6 of the radii: 200 (0.08 (u - u (1 + u^4)^(-1/4)))^2 with u = 0.15 / 0.08
    pair = make_graph(Atoms("OCl", [[0, 0, 0], [0, 0, 0.6 * (0.66 + 1.02)]]))
    soft_energy, stiff_energy = (p(pair, ["energy"])["energy"] for p in (soft, stiff))
    u = 0.15 / 0.08
    expected = 200.0 * (0.08 * (u - u * (1.0 + u**4) ** -0.25)) ** 2
    assert float(stiff_energy - soft_energy) == pytest.approx(expected, rel=1e-6)
    save_model(stiff, tmp_path / "m", card="# T\n", license_text="Yours.\n")
    assert load_model(tmp_path / "m").contacts.wall_stiffness == 200.0
    assert "wall_stiffness" not in soft.config.to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wall_stiffness": -1.0}, r"`wall_stiffness` must be in \[0, 100000\] eV, got -1.0"),
        ({"wall_stiffness": float("nan")}, "`wall_stiffness` must be in"),
        ({"wall_stiffness": float("inf")}, "`wall_stiffness` must be in"),
        ({"wall": "zbl", "wall_stiffness": 1.0}, "without `wall` = 'zbl-inner', .* 'zbl'"),
        ({"wall": None, "wall_stiffness": 1.0}, "without `wall` = 'zbl-inner', .* None"),
        ({"energy_floor": (1.0, 2.0)}, r"one value per element \(5\), got 2"),
        ({"energy_floor": ()}, r"one value per element \(5\), got 0"),
        ({"energy_floor": (5.0, 5.0, 0.0, 5.0, 5.0)}, "must be null or in"),
        ({"energy_floor": (5.0, 5.0, 2000.0, 5.0, 5.0)}, "must be null or in"),
        ({"energy_floor": 0.0}, "must be null or in"),
    ],
)
def test_walls_that_are_none_are_refused(changes, message):
    config = with_wall(tiny_potential(elements=ELEMENTS), wall="zbl-inner").config
    with pytest.raises(ConfigError, match=message):
        replace(config, **changes)


def test_energies_of_all_pairs_of_elements_rise_below_the_inner_cutoff():
    """Of untrained weights, whose energies of pairs change by meV just below it."""
    elements = tuple(z for z in range(1, 95))
    old = tiny_potential(head=None, elements=elements, n_layers=1)
    new = with_wall(
        old, wall="zbl-inner", energy_floor=None, crowding=False, wall_stiffness=200.0
    ).eval()
    radius = torch.tensor(covalent_radii)
    pairs = torch.combinations(torch.tensor(elements), with_replacement=True)
    # one structure, its pairs 20 A apart
    k = torch.arange(len(pairs))
    places = 20.0 * torch.stack([k % 17, k // 17 % 17, k // 289], dim=1).double()
    energies = []
    for share in (0.6, 0.55, 0.5, 0.45, 0.42):
        second = places.clone()
        second[:, 2] += share * radius[pairs].sum(1)
        positions = torch.stack([places, second], dim=1).reshape(-1, 3)
        atoms = Atoms(numbers=pairs.flatten().tolist(), positions=positions.numpy())
        energies.append(new.energy_terms(make_graph(atoms)).node_energy.reshape(-1, 2).sum(1))
    assert bool((torch.stack(energies).diff(dim=0) > 0.0).all())


def test_elements_have_floors_of_their_own(tmp_path):
    base = tiny_potential(local_state=True, wall=True, elements=ELEMENTS)
    base.config = replace(base.config, energy_scale=1e4)
    floors = (1.0, 2.0, 3.0, 4.0, 5.0)
    graph = make_graph(molecule("CH3CONH2"), base.architecture.cutoff)
    row = base.element_row[graph.atomic_numbers]

    def learned(floor):
        model = with_wall(base, energy_floor=floor)
        return model.energy_terms(graph).node_energy - model.reference_energies[row]

    # the same number for all is that number
    assert torch.equal(learned((5.0,) * 5), learned(5.0))
    free, found = learned(None), learned(floors)
    least = -torch.tensor(floors, dtype=torch.float64)[row]
    assert bool((free < least - 1.0).any())
    assert bool((found >= least - 1.0 - 1e-9).all())
    inside = free >= least
    assert bool(inside.any())
    torch.testing.assert_close(found[inside], free[inside], rtol=0.0, atol=0.0)
    # in a folder, and where elements are added
    model = with_wall(base, energy_floor=floors)
    save_model(model, tmp_path / "m", card="# T\n", license_text="Yours.\n")
    read = load_model(tmp_path / "m")
    assert read.config.energy_floor == floors
    wider = with_elements(model, {"F": "Cl"})
    assert wider.config.energy_floor == (1.0, 2.0, 3.0, 4.0, 5.0, 5.0)
    assert wider.energy_floors.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 5.0]
