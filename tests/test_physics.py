"""``lesff verify --physics``: right models pass, wrong ones are found."""

import dataclasses

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import tiny_potential

from lesff.cli import main
from lesff.model_folder.folder import save_model
from lesff.potential import properties
from lesff.potential.verify import TOLERANCE, check_physics, check_structures


def results(potential):
    return {(c.structure, c.quantity): c for c in check_physics(potential)}


@pytest.mark.parametrize("head", ["latent", "shifted", None])
def test_right_models_pass(head):
    found = results(tiny_potential(head=head, n_layers=1, state_embedding=head == "shifted"))
    assert all(check.ok for check in found.values())
    # far below the tolerance: a failure is not a matter of rounding
    assert max(c.error for c in found.values() if not c.note) < 0.1 * TOLERANCE
    assert (("triclinic", "Born charges") in found) is (head is not None)
    assert found["triclinic", "stress"].error > 0
    assert not any(structure == "slab" and "stress" in q for structure, q in found)


@pytest.mark.parametrize("head", ["qeq", "qeq-local", "edge", "fukui"])
def test_every_charge_head_passes(head):
    potential = tiny_potential(head=head, n_layers=1)
    found = results(potential)
    assert all(check.ok for check in found.values())
    polarizability = found["molecule", "polarizability"]
    assert bool(polarizability.note) is not potential.traits.responds_to_field
    is_local = potential.charge_head.is_local
    assert (("triclinic", "Born charges") in found) is is_local


def test_structures_are_what_they_are_called():
    made = check_structures(tiny_potential())
    assert np.linalg.det(made["triclinic"].cell) > 0
    assert np.linalg.det(made["left-handed"].cell) < 0
    assert not made["molecule"].pbc.any()
    assert made["slab"].pbc.tolist() == [True, True, False]
    for atoms in made.values():
        assert set(atoms.numbers) == {1, 8}
        distances = atoms.get_all_distances(mic=True)[~np.eye(8, dtype=bool)]
        assert 0.8 < distances.min() < 3.0


def without_field_energy(charges, graph):
    """A field that pushes the atoms but costs no energy."""
    energy = torch.zeros_like(charges)
    return (energy + 0.0 * charges).double()


def test_a_field_without_its_energy_is_found(monkeypatch):
    monkeypatch.setattr(properties, "field_energy", without_field_energy)
    found = results(tiny_potential(n_layers=1))
    assert not found["molecule", "dipole from field"].ok
    assert found["molecule", "forces"].ok


def test_a_stress_without_the_long_range_part_is_found(monkeypatch):
    stress = properties.PROPERTIES["stress"]
    broken = dataclasses.replace(stress, compute=lambda x: 1.01 * stress.compute(x))
    monkeypatch.setitem(properties.PROPERTIES, "stress", broken)
    found = results(tiny_potential(n_layers=1))
    assert not found["triclinic", "stress"].ok
    assert not found["left-handed", "stress"].ok
    assert found["triclinic", "forces"].ok


def verify(model):
    return CliRunner().invoke(main, ["verify", str(model), "--physics"])


def rows_ok(result):
    return len([line for line in result.output.splitlines() if line.endswith("  ok")])


def test_command_prints_a_table_and_exits_with_1_on_failure(monkeypatch, tmp_path):
    save_model(tiny_potential(n_layers=1), tmp_path / "m", card="card", license_text="text")
    result = verify(tmp_path / "m")
    assert result.exit_code == 0, result.output
    assert rows_ok(result) == 14  # 4 of the molecule, 2 of the slab, 4 of each crystal
    monkeypatch.setattr(properties, "field_energy", without_field_energy)
    result = verify(tmp_path / "m")
    assert result.exit_code == 1
    assert "disagrees with finite differences in dipole from field of the molecule" in result.output


@pytest.mark.slow
def test_a_released_model_passes():
    result = verify("off-small")
    assert result.exit_code == 0, result.output
    assert rows_ok(result) == 14
