"""NequIP with everything around it: charges, Born charges, finetuning, the calculator."""

import json
from pathlib import Path

import ase.calculators.fd
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from references.synthetic import strained_oxide

import lesff
from lesff.architectures import NequIP, NequIPConfig
from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.convert.checkpoint import convert_checkpoint
from lesff.errors import ConfigError
from lesff.model_folder.folder import load_model, save_model
from lesff.nn.grouped_convolution import ChannelGroup, channel_groups
from lesff.potential.edit import with_head
from lesff.potential.verify import check_physics

REFERENCES = Path(__file__).parent / "references"
NO_OP = 1e-8
"""eV and eV/A: a new head must not change a pretrained model by more."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model of four elements with features up to order 3."""
    path = tmp_path_factory.mktemp("nequip") / "model"
    convert_checkpoint(REFERENCES / "nequix_l3.nqx", path)
    return path


@pytest.fixture
def potential(folder):
    """The model in float64."""
    return load_model(folder, dtype=torch.float64)


def oxide_graph(potential):
    """A crystal of the model's elements."""
    return build_graph(to_structure(strained_oxide()), potential.architecture.cutoff)


def test_channels_with_the_same_orders_form_groups():
    """The irreps of Nequix, arXiv 2508.16067."""
    assert channel_groups((128, 64, 32, 32)) == (
        ChannelGroup(0, 32, 3), ChannelGroup(32, 64, 1), ChannelGroup(64, 128, 0),
    )  # fmt: skip
    with pytest.raises(ValueError, match="must not grow"):
        channel_groups((4, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_irreps": "4x0e+4x2e"}, "must list orders 0..L"),
        ({"hidden_irreps": "4x0e+8x1o"}, "do not grow with the order"),
        ({"hidden_irreps": "4x0e+3x1o+2x2e+1x3o+1x4e"}, "must list orders 0..L"),
        ({"hidden_irreps": "4xe"}, "must be e3nn irreps, got '4xe'"),
        ({"hidden_irreps": "4x0e+2x1o", "max_ell": 0}, "`architecture.max_ell` must be from 1"),
        ({"cutoff": 0.0}, "`architecture.cutoff` must be in"),
        ({"radial_frequencies": (1.0,)}, "`architecture.radial_frequencies` must be null or 8"),
        ({"radial_mlp": ()}, "`architecture.radial_mlp` must be 1 to 8 sizes"),
        ({"norm_epsilon": 0.0}, "`architecture.norm_epsilon` must be in"),
        ({"avg_num_neighbors": -1.0}, "`architecture.avg_num_neighbors` must be positive"),
    ],
)
def test_bad_options_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        NequIPConfig(**({"cutoff": 4.0, "hidden_irreps": "4x0e"} | change))


def test_the_calculator_gives_derivatives_of_its_energy(folder):
    atoms = strained_oxide()
    atoms.calc = lesff.load(folder, dtype="float64").calculator()
    numeric = ase.calculators.fd.calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0, 3])
    # second order in the step
    assert np.abs(atoms.get_forces()[[0, 3]] - numeric).max() < 1e-6
    stress = ase.calculators.fd.calculate_numerical_stress(atoms, eps=1e-5)
    assert np.abs(atoms.get_stress() - stress).max() < 1e-7


@pytest.mark.parametrize("head", ["latent", "shifted"])
def test_a_first_charge_head_changes_nothing_and_can_be_trained(potential, head):
    graph = oxide_graph(potential)
    new = with_head(potential, head)
    assert potential.charge_head is None
    before, after = (p(graph, ["energy", "forces", "stress"]) for p in (potential, new))
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=NO_OP)
    # the charges are there, and forces depend on them: training can leave the start
    charges = new(graph, ["latent_charges"])["latent_charges"]
    assert 1e-9 < float(charges.abs().max()) < 1e-4
    new.requires_grad_(requires_grad=True)
    loss = new(graph, ["forces"], create_graph=True)["forces"].square().sum()
    loss.backward()
    slopes = [p.grad.abs().max() for p in new.charge_head.parameters() if p.grad is not None]
    assert max(slopes) > 1e-9


def test_other_first_heads_are_refused(potential):
    with pytest.raises(ConfigError, match="must be one of latent, shifted"):
        with_head(potential, "qeq")
    # they follow a free head
    assert with_head(with_head(potential, "shifted"), "qeq").config.long_range.head == "qeq"


@pytest.mark.slow
def test_born_charges_follow_from_a_charge_head(potential, tmp_path):
    torch.manual_seed(1)
    new = with_head(potential, "shifted")
    for parameter in new.charge_head.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    checks = list(check_physics(new))
    assert {check.quantity for check in checks} >= {"forces", "stress", "Born charges"}
    assert [check for check in checks if not check.ok] == []
    graph = oxide_graph(new)
    out = new(graph, ["born_effective_charges", "charges"])
    assert out["charges"].abs().max() > 0.01
    save_model(new, tmp_path / "model", card="test\n", license_text="test\n")
    again = lesff.load(tmp_path / "model", dtype="float64")
    found = again.predict(strained_oxide(), ["energy", "born_effective_charges"])
    error = found.born_effective_charges - out["born_effective_charges"].numpy()
    assert np.abs(error).max() < 1e-5  # weights are stored in float32


def test_born_charges_layer_by_layer_are_the_same(potential, monkeypatch):
    """Images that take their features from home atoms, and a cluster of the whole reach."""
    torch.manual_seed(1)
    new = with_head(potential, "latent")
    for parameter in new.charge_head.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    atoms = bulk("MgO", "rocksalt", a=4.2)
    atoms.rattle(0.05, seed=2)
    graph = build_graph(to_structure(atoms), new.architecture.cutoff)
    fast = new(graph, ["born_effective_charges"])["born_effective_charges"]
    monkeypatch.setattr(NequIP, "has_layer_features", False)
    slow = new(graph, ["born_effective_charges"])["born_effective_charges"]
    assert float(fast.abs().max()) > 0.01
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "head"), [("last_layer", None), ("full", "shifted")])
def test_a_short_finetuning_run(folder, tmp_path, strategy, head):
    model = lesff.load(folder)
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(10):
        atoms = strained_oxide()
        atoms.set_cell(1.15 * atoms.cell[:], scale_atoms=True)  # strontium needs room
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        found = model.predict(atoms, ["energy", "forces"])
        # another energy surface: all forces twice as large
        energy, forces = 2.0 * float(found.energy), 2.0 * found.forces
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    optimizer = {"max_steps": 24, "validate_every": 8, "warmup_steps": 1, "ema_decay": 0.5}
    optimizer["lr"] = 1e-3
    better = model.finetune(
        frames, tmp_path / "run", progress=False, optimizer=optimizer, max_atoms=24,
        checks_units=False, returns="trained", strategy=strategy, head=head,
        split={"validation": 0.3},
    )  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    table = report["errors"]["validation"]["all"]
    assert table["finetuned"]["forces_rmse"] < table["base"]["forces_rmse"]
    assert report["start_difference"]["energy"] < 1e-5  # float32
    before, after = model.potential.state_dict(), better.potential.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "architecture.readouts.layers.0.weight" in changed
    first = {name for name in changed if name.startswith("architecture.layers.0.")}
    assert bool(first) is (strategy == "full")
    assert (better.potential.charge_head is None) is (head is None)
