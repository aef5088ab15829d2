"""More elements on a trained potential."""

import pytest
import torch
from ase.build import molecule
from helpers import make_graph, tiny_potential

from lesff.errors import ConfigError
from lesff.heads import HEAD_NAMES
from lesff.heads.config import charge_limits_of
from lesff.potential.edit import Redesign, with_elements

ELEMENTS = (1, 6, 8, 17)
LIKE = {"B": "C", "Si": "C", "Br": "Cl"}
QUANTITIES = ("energy", "forces", "charges", "latent_charges")


def found(potential, atoms, **state):
    return potential(make_graph(atoms, potential.architecture.cutoff, **state), list(QUANTITIES))


@pytest.mark.parametrize("head", [head for head in HEAD_NAMES if head != "carried"])
def test_structures_of_known_elements_keep_their_energies(head):
    potential = tiny_potential(
        head=head, elements=ELEMENTS, local_state=True, wall=True, limits=charge_limits_of(ELEMENTS)
    )
    wider = with_elements(potential, LIKE)
    assert wider.config.elements == (1, 5, 6, 8, 14, 17, 35)
    for name, state in (("CH3COCl", {}), ("CH3OH", {}), ("CH3O", {"total_charge": -1})):
        atoms = molecule(name)
        atoms.set_initial_magnetic_moments(None)  # those of the radical
        old, new = found(potential, atoms, **state), found(wider, atoms, **state)
        for key in QUANTITIES:
            torch.testing.assert_close(new[key], old[key], rtol=1e-10, atol=1e-10)


def test_a_new_element_starts_out_like_its_neighbour():
    """All but facts of the element itself: limits, dispersion, radii of walls and bonds."""
    potential = tiny_potential(head="shifted", elements=ELEMENTS)
    wider = with_elements(potential, {"Br": "Cl"})
    atoms = molecule("CH3Cl")
    other = atoms.copy()
    other.numbers[other.numbers == 17] = 35
    old, new = found(potential, atoms), found(wider, other)
    for key in QUANTITIES:
        torch.testing.assert_close(new[key], old[key], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"C": "H"}, "elements that the model does not know .* got C like H"),
        ({"Br": "F"}, "to some of H C O Cl, got Br like F"),
        ({"Brom": "Cl"}, "chemical symbols, got 'Brom'"),
        ({"X": "Cl"}, "chemical symbols, got 'X'"),
    ],
)
def test_what_cannot_be_added_is_refused(like, message):
    with pytest.raises(ConfigError, match=message):
        with_elements(tiny_potential(elements=ELEMENTS), like)


def test_a_recipe_may_ask_for_it():
    potential = tiny_potential(elements=ELEMENTS)
    assert Redesign(elements={"Br": "Cl"}).of(potential).config.elements == (*ELEMENTS, 35)
