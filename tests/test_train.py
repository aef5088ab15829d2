"""Training: parameter gradients, overfit, resume."""

import json
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from helpers import make_graph, tiny_potential, triclinic_ice, two_waters, water
from labelled_frames import RECIPE, labelled, write_frames

from lesff.atoms.graph import collate
from lesff.atoms.molecules import find_molecules
from lesff.electrostatics.dispersion import DispersionConfig
from lesff.errors import ConfigError, DataError, IntegrityError, UnsupportedInputError
from lesff.heads import LongRangeConfig
from lesff.model_folder.folder import load_model
from lesff.potential.edit import with_dispersion
from lesff.potential.potential import Potential
from lesff.train.batches import make_batch
from lesff.train.data import read_frames
from lesff.train.gradients import accumulate_gradients
from lesff.train.loss import LossConfig
from lesff.train.metrics import predict_frames
from lesff.train.recipe import OptimizerConfig, read_recipe
from lesff.train.run import _with_energies_of, run_recipe
from lesff.train.trainer import Trainer, learning_rate_factor
from lesff.train.training_data import model_config, read_training_data


@pytest.fixture
def batch(tmp_path):
    """Labelled molecules as one float64 batch."""
    frames = read_frames(write_frames(tmp_path / "train.xyz"))
    return make_batch(frames, 3.0, torch.float64)


def gradient(potential, batch, loss, method):
    """Loss and parameter gradients by name."""
    potential.requires_grad_(True)
    potential.zero_grad()
    value = accumulate_gradients(potential, batch, loss, method)
    return value, {n: p.grad.clone() for n, p in potential.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dispersion", [None, DispersionConfig()])
@pytest.mark.parametrize("kind", ["mse", "huber"])
def test_central_difference_gradient_equals_double_backward(batch, kind, dispersion):
    """Two routes to one number; the difference is O(h^2) of a displacement of 0.01 A."""
    potential = tiny_potential(head="shifted", hidden_irreps="4x0e+4x1o")
    if dispersion is not None:
        potential = with_dispersion(potential, dispersion)
    loss = LossConfig(kind=kind, energy=2.0, forces=1.0, dipole=0.5, total_charge=0.3)
    exact_loss, exact = gradient(potential, batch, loss, "double_backward")
    loss_value, approximate = gradient(potential, batch, loss, "central_difference")
    assert loss_value == pytest.approx(exact_loss, abs=1e-12)
    flat = [torch.cat([g[n].flatten() for n in sorted(exact)]) for g in (exact, approximate)]
    assert float((flat[0] - flat[1]).norm() / flat[0].norm()) < 5e-3


@pytest.mark.parametrize("periodic", [False, True])
def test_molecules_and_net_forces(periodic):
    """Three waters, one cut by the cell: net forces are the sums over each."""
    atoms = two_waters()
    third = water()
    third.translate([0.0, 0.0, 6.0])
    atoms += third
    if periodic:
        atoms.set_cell([9.0, 9.0, 11.0])
        atoms.pbc = True
        atoms.positions -= atoms.positions[0]  # the oxygen of the first sits on a corner
        atoms.wrap()
        assert np.linalg.norm(atoms.positions[0] - atoms.positions[1:3], axis=1).max() > 8.0
    graph = collate([make_graph(water(), 3.0), make_graph(atoms, 3.0)])
    found = find_molecules(graph)
    forces = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.net(forces), forces.view(4, 3, 3).sum(1))
    assert found.system.tolist() == [0, 1, 1, 1]
    assert found.has_others.tolist() == [False, True, True, True]


@pytest.mark.parametrize("kind", ["mse", "huber"])
def test_net_forces_count_and_have_gradients(tmp_path, kind):
    frames = read_frames(write_frames(tmp_path / "train.xyz", 3))
    batch = make_batch(frames, 3.0, torch.float64)
    potential = tiny_potential(head="shifted")
    loss = LossConfig(kind=kind, energy=1.0, forces=1.0, net_forces=3.0)
    exact_loss, exact = gradient(potential, batch, loss, "double_backward")
    loss_value, approximate = gradient(potential, batch, loss, "central_difference")
    assert loss_value == pytest.approx(exact_loss, abs=1e-12)
    flat = [torch.cat([g[n].flatten() for n in sorted(exact)]) for g in (exact, approximate)]
    assert float((flat[0] - flat[1]).norm() / flat[0].norm()) < 5e-3
    without, _ = gradient(potential, batch, replace(loss, net_forces=0.0), "central_difference")
    predicted = potential(batch.graph, ["forces"])["forces"]
    error = predicted - batch.forces
    # two waters, then one, whose net force does not count, then two
    assert batch.graph.atoms_per_system().tolist() == [6, 3, 6]
    net = torch.cat([error[:6], error[9:]]).view(4, 3, 3).sum(1)
    if kind == "mse":
        assert loss_value - without == pytest.approx(3.0 * float(net.square().mean()), rel=1e-9)
    else:
        huber = torch.nn.functional.huber_loss(net, torch.zeros_like(net), delta=0.01) / 0.01
        assert loss_value - without == pytest.approx(3.0 * float(huber), rel=1e-9)


def test_large_forces_count_relative_to_their_size(tmp_path):
    """Residuals are divided by 1 + |F| / scale, of net forces with that of the molecule."""
    frames = read_frames(write_frames(tmp_path / "train.xyz", 3))
    batch = make_batch(frames, 3.0, torch.float64)
    potential = tiny_potential(head="shifted")
    loss = LossConfig(kind="mse", energy=0.0, forces=2.0, net_forces=3.0, forces_scale=0.7)
    exact_loss, exact = gradient(potential, batch, loss, "double_backward")
    found, approximate = gradient(potential, batch, loss, "central_difference")
    assert found == pytest.approx(exact_loss, abs=1e-12)
    flat = [torch.cat([g[n].flatten() for n in sorted(exact)]) for g in (exact, approximate)]
    assert float((flat[0] - flat[1]).norm() / flat[0].norm()) < 5e-3
    error = potential(batch.graph, ["forces"])["forces"] - batch.forces

    def net(forces):  # of two waters, then one, whose net force does not count, then two
        return torch.cat([forces[:6], forces[9:]]).view(4, 3, 3).sum(1)

    pairs = [(2.0, error, batch.forces), (3.0, net(error), net(batch.forces))]
    expected = sum(
        w * float((e / (1.0 + f.norm(dim=1, keepdim=True) / 0.7)).square().mean())
        for w, e, f in pairs
    )
    assert found == pytest.approx(expected, rel=1e-9)
    batch.forces[:6] = float("nan")  # frames without forces drop out, and their gradients with them
    for method in ("double_backward", "central_difference"):
        _, found = gradient(potential, batch, loss, method)
        assert all(bool(g.isfinite().all()) for g in found.values())
    with pytest.raises(ConfigError, match="`loss.forces_scale` must be at least 0, got -1"):
        LossConfig(forces_scale=-1.0)


def test_double_backward_gradient_equals_finite_difference(batch):
    """d(loss)/d(parameter) by central differences of the loss itself."""
    potential = tiny_potential(head="latent")
    loss = LossConfig(kind="mse", energy=1.0, forces=1.0, dipole=1.0, total_charge=1.0)
    _, grads = gradient(potential, batch, loss, "double_backward")
    parameters = dict(potential.named_parameters())
    for name in ("architecture.embedding", "charge_head.readouts.layers.0.weight"):
        parameter = parameters[name]
        values = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                parameter.view(-1)[1] += sign * 1e-5
            values.append(gradient(potential, batch, loss, "double_backward")[0])
            with torch.no_grad():
                parameter.view(-1)[1] -= sign * 1e-5
        expected = (values[0] - values[1]) / 2e-5
        assert float(grads[name].view(-1)[1]) == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_charge_transfer_is_a_term_of_the_loss(batch):
    """Mean square of the charges beyond those of the elements; gradients both ways."""
    config = tiny_potential(head="edge").config
    references = LongRangeConfig(head="edge", reference_charges=(0.4, -0.8))
    potential = Potential(replace(config, long_range=references)).to(torch.float64)
    torch.nn.init.normal_(potential.charge_head.transfers.out)
    loss = LossConfig(kind="mse", energy=0.1, charge_transfer=3.0)
    loss_value, exact = gradient(potential, batch, loss, "double_backward")
    without, _ = gradient(potential, batch, replace(loss, charge_transfer=0.0), "double_backward")
    change = potential(batch.graph, ["charges"])["charges"].detach()
    change = (
        change
        - torch.tensor([0.4, -0.8], dtype=torch.float64)[(batch.graph.atomic_numbers == 8).long()]
    )
    assert float(change.abs().max()) > 1e-3
    assert loss_value - without == pytest.approx(3.0 * float(change.square().mean()), rel=1e-9)
    _, approximate = gradient(potential, batch, loss, "central_difference")
    flat = [torch.cat([g[n].flatten() for n in sorted(exact)]) for g in (exact, approximate)]
    assert float((flat[0] - flat[1]).norm() / flat[0].norm()) < 5e-3
    free = tiny_potential(head="edge").requires_grad_(True)
    with pytest.raises(ConfigError, match="must be 0 for a model without `long_range.reference"):
        accumulate_gradients(free, batch, loss, "central_difference")


@pytest.mark.parametrize("forces", [0.0, 1.0])
def test_stress_gradients_agree_and_count(forces, tmp_path):
    """A crystal with a stress label and a molecule without, both ways."""
    ase.io.write(tmp_path / "train.xyz", [labelled(triclinic_ice(), 0), labelled(water(), 1)])
    crystal, molecule = read_frames(tmp_path / "train.xyz")
    stress = np.diag([0.01, -0.02, 0.03]) + 0.005
    batch = make_batch([replace(crystal, stress=stress), molecule], 3.0, torch.float64)
    potential = tiny_potential(head="shifted")
    loss = LossConfig(kind="mse", energy=0.1, forces=forces, stress=1e4)
    exact_loss, exact = gradient(potential, batch, loss, "double_backward")
    loss_value, approximate = gradient(potential, batch, loss, "central_difference")
    assert loss_value == pytest.approx(exact_loss, rel=1e-12)
    flat = [torch.cat([g[n].flatten() for n in sorted(exact)]) for g in (exact, approximate)]
    assert float((flat[0] - flat[1]).norm() / flat[0].norm()) < 5e-3
    without, _ = gradient(potential, batch, replace(loss, stress=0.0), "central_difference")
    assert loss_value > without


@pytest.mark.parametrize("kind", ["mse", "huber"])
@pytest.mark.parametrize("head", ["edge", "shifted"])
def test_born_charges_are_trained_both_ways(head, kind, tmp_path):
    """A molecule with labels, one without, and a crystal: only transfers are trained on one."""
    ase.io.write(tmp_path / "train.xyz", [labelled(a, 0) for a in (water(), triclinic_ice())])
    molecule, crystal = read_frames(tmp_path / "train.xyz")
    rng = np.random.default_rng(0)
    born = [rng.normal(size=(len(f.structure), 3, 3)) for f in (molecule, crystal)]
    known = [replace(molecule, born_effective_charges=born[0]), molecule]
    if head == "edge":
        known.append(replace(crystal, born_effective_charges=born[1]))
    potential = tiny_potential(head=head)
    cutoff = potential.architecture.cutoff
    batch = make_batch(known, cutoff, torch.float64)
    weights = {"energy": 0.0, "forces": 0.0}
    loss = LossConfig(kind=kind, born_effective_charges=3.0, charges_delta=0.5, **weights)
    exact_loss, exact = gradient(potential, batch, loss, "double_backward")
    loss_value, approximate = gradient(potential, batch, loss, "central_difference")
    assert loss_value == pytest.approx(exact_loss, rel=1e-12)
    flat = [torch.cat([g[n].flatten() for n in sorted(exact)]) for g in (exact, approximate)]
    assert float((flat[0] - flat[1]).norm() / flat[0].norm()) < 5e-3
    # the loss is that of what the model predicts: over crystals the image-exact form
    name = "born_effective_charges"
    errors = [
        make_batch([frame], cutoff, torch.float64).born_effective_charges
        - potential(make_batch([frame], cutoff, torch.float64).graph, [name])[name]
        for frame in known
        if frame.born_effective_charges is not None
    ]
    error = torch.cat(errors).detach()
    if kind == "mse":
        assert loss_value == pytest.approx(3.0 * float(error.square().mean()), rel=1e-9)
    if head == "edge":
        return
    crystals = make_batch([replace(crystal, born_effective_charges=born[1])], cutoff, torch.float64)
    for method in ("double_backward", "central_difference"):
        with pytest.raises(ConfigError, match="only charges that neighbours transfer"):
            accumulate_gradients(potential, crystals, loss, method)


def test_wires_are_refused(tmp_path):
    """By a model with charges; a short-range model has nothing against them."""
    atoms = labelled(triclinic_ice(), 0)
    atoms.pbc = [True, False, False]
    ase.io.write(tmp_path / "train.xyz", [atoms])
    batch = make_batch(read_frames(tmp_path / "train.xyz"), 3.0, torch.float64)
    for method in ("double_backward", "central_difference"):
        with pytest.raises(UnsupportedInputError, match="`pbc` must be True in three directions"):
            accumulate_gradients(tiny_potential().requires_grad_(True), batch, LossConfig(), method)
    short = tiny_potential(head=None).requires_grad_(True)
    assert accumulate_gradients(short, batch, LossConfig(), "double_backward") > 0


def test_missing_labels_do_not_count(batch):
    no_dipole = replace(batch, dipole=torch.full_like(batch.dipole, torch.nan))
    potential = tiny_potential(head="latent").requires_grad_(True)
    with_weight = accumulate_gradients(
        potential, no_dipole, LossConfig(dipole=5.0), "central_difference"
    )
    without = accumulate_gradients(potential, no_dipole, LossConfig(), "central_difference")
    assert with_weight == pytest.approx(without, abs=1e-12)


@pytest.mark.slow
def test_tiny_model_overfits(tmp_path):
    """Four frames of consistent labels (another random model's) are learned."""
    teacher = tiny_potential(head="latent", seed=3)
    frames = []
    for index in range(4):
        atoms = labelled(two_waters(), index)
        batch = make_batch(_frames_of(atoms, tmp_path), teacher.architecture.cutoff, torch.float64)
        out = teacher(batch.graph, ["energy", "forces"])
        atoms.calc = SinglePointCalculator(
            atoms, energy=float(out["energy"][0]), forces=out["forces"].numpy()
        )
        frames.append(atoms)
    ase.io.write(tmp_path / "train.xyz", frames)
    recipe_file = tmp_path / "tiny.toml"
    recipe_file.write_text(RECIPE.format(max_steps=300, validate_every=300))
    run_recipe(read_recipe(recipe_file), tmp_path, tmp_path / "run", progress=False)
    fitted = load_model(tmp_path / "run" / "model")
    batch = make_batch(read_frames(tmp_path / "train.xyz"), 3.0, torch.float64)
    error = fitted(batch.graph, ["forces"])["forces"] - batch.forces
    assert float(error.square().mean().sqrt()) < 0.2 * float(batch.forces.square().mean().sqrt())
    assert (tmp_path / "run" / "training.png").stat().st_size > 1000


def _frames_of(atoms, tmp_path):
    ase.io.write(tmp_path / "one.xyz", atoms)
    return read_frames(tmp_path / "one.xyz")


def trained_weights(tmp_path, run, *, stops, options=""):
    """Weights after 12 steps, interrupted at the given steps; more options of the data."""
    recipe_file = tmp_path / "tiny.toml"
    text = RECIPE.format(max_steps=12, validate_every=2)
    recipe_file.write_text(text.replace("max_atoms", options + "max_atoms"))
    recipe = read_recipe(recipe_file)
    data = read_training_data(recipe, tmp_path)
    for stop in [*stops, None]:
        torch.manual_seed(recipe.seed)
        potential = _potential(recipe, data)
        trainer = Trainer(recipe, data, potential, run, progress=False)
        if stop is not None:
            step = trainer._step

            def interrupted(batch, step=step, stop=stop, trainer=trainer):
                if trainer.progress.step == stop:
                    raise KeyboardInterrupt
                return step(batch)

            trainer._step = interrupted
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        else:
            trainer.train()
    weights = potential.named_parameters()  # pyright: ignore[reportPossiblyUnboundVariable]
    return {n: p.detach().clone() for n, p in weights}


def _potential(recipe, data):
    from lesff.potential.potential import Potential

    return Potential(model_config(recipe.model, data, {})).double()


@pytest.mark.parametrize("options", ["", "composites = { fraction = 0.5 }\n"])
def test_interrupted_run_resumes_exactly(tmp_path, options):
    write_frames(tmp_path / "train.xyz", 6)
    straight = trained_weights(tmp_path, tmp_path / "a", stops=[], options=options)
    resumed = trained_weights(tmp_path, tmp_path / "b", stops=[3, 5, 8], options=options)
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0)
    log = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 12


def test_a_second_stage_goes_on_from_a_model(tmp_path):
    write_frames(tmp_path / "train.xyz", 4)
    text = RECIPE.format(max_steps=4, validate_every=4)
    (tmp_path / "one.toml").write_text(text)
    first = run_recipe(
        read_recipe(tmp_path / "one.toml"), tmp_path, tmp_path / "one", progress=False
    )
    head, _, tail = text.partition("[model]")
    (tmp_path / "two.toml").write_text(head + "[data]" + tail.partition("[data]")[2])
    second = read_recipe(tmp_path / "two.toml")
    with pytest.raises(ConfigError, match="must have a `model` section or be given a model"):
        run_recipe(second, tmp_path, tmp_path / "two", progress=False)
    third = run_recipe(second, tmp_path, tmp_path / "two", start=first, progress=False)
    before, after = (load_model(folder).state_dict() for folder in (first, third))
    name = "architecture.embedding"
    step = (before[name] - after[name]).abs().max()
    assert 0 < step < 4 * 0.02 * 1.5  # Adam moves a weight by about the rate per step


def test_the_trunk_has_a_rate_of_its_own(tmp_path):
    """Adam's first step moves every weight by its rate, whatever the gradient."""
    write_frames(tmp_path / "train.xyz", 4)
    text = RECIPE.format(max_steps=1, validate_every=1)
    (tmp_path / "first.toml").write_text(text)
    first = run_recipe(read_recipe(tmp_path / "first.toml"), tmp_path, tmp_path / "first")
    top, _, tail = text.partition("[model]")
    stage = top + "[data]" + tail.partition("[data]")[2]
    stage = stage.replace("[optimizer]\n", "[optimizer]\ntrunk_rate = 0.1\n")
    (tmp_path / "second.toml").write_text(stage)
    recipe = read_recipe(tmp_path / "second.toml")
    second = run_recipe(recipe, tmp_path, tmp_path / "second", start=first)
    before, after = (load_model(folder).state_dict() for folder in (first, second))
    moved = {"architecture.": 0.0, "charge_head.": 0.0}
    for part in moved:
        for name in before:
            if name.startswith(part) and before[name].is_floating_point():
                step = float((after[name] - before[name]).abs().max())
                moved[part] = max(moved[part], step)
    assert moved["charge_head."] > 0.0
    assert moved["architecture."] == pytest.approx(0.1 * moved["charge_head."], rel=0.02)


def test_an_element_whose_frames_fit_badly_gets_its_energy_all_the_same(tmp_path):
    """Frames of a rare element are unusual among all, but not among its own."""
    rng, shifts = np.random.default_rng(0), {1: 2.0, 8: -3.0, 16: 1000.0}
    potential = tiny_potential(elements=tuple(shifts))
    frames = []
    for noise, numbers, count in ((1e-4, [8, 1, 1], 40), (0.3, [16, 1, 1], 7), (1e-4, [1, 1], 20)):
        for _ in range(count):
            atoms = Atoms(numbers, 1.1 * np.eye(3)[: len(numbers)])
            atoms.rattle(0.05, rng=rng)
            energy = sum(shifts[z] for z in numbers) + rng.normal(scale=noise)
            atoms.calc = SinglePointCalculator(
                atoms, energy=energy, forces=np.zeros((len(atoms), 3))
            )
            frames.append(atoms)
    ase.io.write(tmp_path / "frames.xyz", frames)
    read = list(read_frames(tmp_path / "frames.xyz"))
    labels = [
        replace(frame, energy=frame.energy + prediction.energy)
        for frame, prediction in zip(read, predict_frames(potential, read), strict=True)
    ]
    found = _with_energies_of(labels, potential).config.reference_energies
    moved = np.subtract(found, potential.config.reference_energies)
    assert moved == pytest.approx(list(shifts.values()), abs=0.5)


def test_a_recipe_moves_the_energy_zero(tmp_path):
    """Labels that differ from the model by so much per element: exactly that is taken over."""
    write_frames(tmp_path / "train.xyz", 8)
    text = RECIPE.format(max_steps=1, validate_every=1)
    (tmp_path / "first.toml").write_text(text)
    first = run_recipe(read_recipe(tmp_path / "first.toml"), tmp_path, tmp_path / "first")
    old = load_model(first).config
    frames = ase.io.read(tmp_path / "train.xyz", index=":")
    found = predict_frames(load_model(first), read_frames(tmp_path / "train.xyz"))
    shift = dict(zip(old.elements, (2.5 + np.arange(len(old.elements))), strict=True))
    for atoms, prediction in zip(frames, found, strict=True):
        forces = atoms.get_forces()
        energy = prediction.energy + sum(shift[z] for z in atoms.numbers)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    ase.io.write(tmp_path / "train.xyz", frames)
    top, _, tail = text.partition("[model]")
    top += 'energies = "refit"\nenergy_reference = "another"\n'
    stage = top + "[data]" + tail.partition("[data]")[2]
    (tmp_path / "second.toml").write_text(stage)
    second = run_recipe(
        read_recipe(tmp_path / "second.toml"), tmp_path, tmp_path / "second", start=first
    )
    new = load_model(second).config
    assert new.energy_reference == "another"
    moved = np.subtract(new.reference_energies, old.reference_energies)
    # compositions of one file may be too alike to tell elements apart: what counts are structures
    counts = np.array([[(a.numbers == z).sum() for z in old.elements] for a in frames])
    assert counts @ moved == pytest.approx(counts @ np.array(list(shift.values())), abs=1e-4)
    for config, message in (
        ('energies = "refit"\n' + text, "`energies` is for a model to go on from"),
        (stage.replace("refit", "fit"), "energies` must be 'keep' or 'refit', got 'fit'"),
    ):
        (tmp_path / "bad.toml").write_text(config)
        with pytest.raises(ConfigError, match=message):
            read_recipe(tmp_path / "bad.toml")


def test_a_recipe_adds_dispersion(tmp_path):
    """To a new model and to one that it goes on from; a stage that names none keeps it."""
    write_frames(tmp_path / "train.xyz", 4)
    text = RECIPE.format(max_steps=2, validate_every=2)
    head, _, tail = text.partition("[model]")
    rest = "[data]" + tail.partition("[data]")[2]
    asked = "[dispersion]\nsigma = 1.2\n"
    words = 'training_data = "more"\nlevel_of_theory = "higher"\n'
    recipes = {
        "bare": text,
        "new": text.replace("[model]", asked + "[model]"),
        "added": words + head + asked + rest,
        "kept": head + rest,
    }
    starts = {"added": "bare", "kept": "added"}
    for name, content in recipes.items():
        (tmp_path / f"{name}.toml").write_text(content)
        start = tmp_path / starts[name] / "model" if name in starts else None
        recipe = read_recipe(tmp_path / f"{name}.toml")
        folder = run_recipe(recipe, tmp_path, tmp_path / name, start=start, progress=False)
        expected = None if name == "bare" else DispersionConfig(sigma=1.2)
        config = load_model(folder).config
        assert config.dispersion == expected
        told = name in ("added", "kept")
        assert config.training_data == ("more" if told else "unspecified")
        assert config.level_of_theory == ("higher" if told else "unspecified")
    for line in words.splitlines():
        (tmp_path / "bad.toml").write_text(f"{line}\n{text}")
        with pytest.raises(ConfigError, match=rf"`{line.split()[0]}` of a new model belongs into"):
            read_recipe(tmp_path / "bad.toml")


def test_a_recipe_changes_the_charge_head(tmp_path):
    """Of a model that it goes on from; a stage that names none keeps it."""
    write_frames(tmp_path / "train.xyz", 4)
    text = RECIPE.format(max_steps=2, validate_every=2)
    top, _, tail = text.partition("[model]")
    stage = top + "[data]" + tail.partition("[data]")[2]
    start = None
    for name, content, head in (
        ("first", text, "shifted"),
        ("second", 'head = "fukui"\n' + stage, "fukui"),
        ("third", stage, "fukui"),
    ):
        path = tmp_path / f"{name}.toml"
        path.write_text(content)
        folder = run_recipe(
            read_recipe(path), tmp_path, tmp_path / name, start=start, progress=False
        )
        assert load_model(folder).config.long_range.head == head
        start = folder
    weights = "charge_head.weights.0.layers.1.weight_2"
    assert float(load_model(start).state_dict()[weights].abs().max()) > 0
    for head, config, message in (
        ("fukui", text, r"`head` of a new model belongs into the `model.long_range` section"),
        ("fuki", stage, r"head"),
    ):
        (tmp_path / "bad.toml").write_text(f'head = "{head}"\n{config}')
        with pytest.raises(ConfigError, match=message):
            read_recipe(tmp_path / "bad.toml")


def test_reference_charges_are_given_by_element(tmp_path):
    """The charges that a new model starts from; the data hold H and O."""
    write_frames(tmp_path / "train.xyz", 4)
    text = RECIPE.format(max_steps=1, validate_every=2).replace('"shifted"', '"edge"')
    where = "[model.reference_charges]\n{}\n[data]"

    def run(charges, name):
        path = tmp_path / f"{name}.toml"
        path.write_text(text.replace("[data]", where.format(charges)))
        return run_recipe(read_recipe(path), tmp_path, tmp_path / name, progress=False)

    model = load_model(run("O = -1.2\nNa = 0.6\nH = 0.6", "run"))
    assert model.config.long_range.reference_charges == (0.6, -1.2)
    for charges, message in (
        ("H = 0.6", "must hold all elements of the data; add O"),
        ("H = 0.6\nXy = 1.0", "chemical symbols as keys, got Xy"),
        ("H = nan\nO = -1.2", "must be finite numbers"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(charges, "bad")
    text = text.replace('long_range = {{ head = "edge" }}'.format(), "")
    with pytest.raises(ConfigError, match="need a section `model.long_range`"):
        run("H = 0.6\nO = -1.2", "bad")


def test_resume_with_another_recipe_is_refused(tmp_path):
    write_frames(tmp_path / "train.xyz", 4)
    for max_steps in (2, 3):
        recipe_file = tmp_path / "tiny.toml"
        recipe_file.write_text(RECIPE.format(max_steps=max_steps, validate_every=2))
        if max_steps == 3:
            with pytest.raises(IntegrityError, match="written by another recipe"):
                run_recipe(read_recipe(recipe_file), tmp_path, tmp_path / "run", progress=False)
        else:
            run_recipe(read_recipe(recipe_file), tmp_path, tmp_path / "run", progress=False)


def test_learning_rate_schedule():
    options = OptimizerConfig(warmup_steps=10, final_lr=0.1)
    assert learning_rate_factor(0, 0.0, options) == pytest.approx(0.1)
    assert learning_rate_factor(10, 0.0, options) == pytest.approx(1.0)
    assert learning_rate_factor(10, 0.5, options) == pytest.approx(0.55)
    assert learning_rate_factor(10, 1.0, options) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("lr = 0.02", "learning_rate = 0.02"), r"unknown key\(s\) learning_rate"),
        (('name = "tiny"', ""), r"lacks the key\(s\) name"),
        (("lr = 0.02", "lr = 'fast'"), "must be float, got 'fast'"),
        (("[data]", "[data"), "must be TOML"),
        (('"train.xyz" }', '"train.xyz", fraction = 0 }'), "`fraction` of train.xyz must be above"),
    ],
)
def test_bad_recipes_are_named(tmp_path, change, text):
    path = tmp_path / "bad.toml"
    path.write_text(RECIPE.format(max_steps=1, validate_every=1).replace(*change))
    with pytest.raises(ConfigError, match=text):
        read_recipe(path)
    with pytest.raises(ConfigError, match="does not exist"):
        read_recipe(tmp_path / "none.toml")


def test_loss_on_charges_needs_a_model_with_charges(batch):
    potential = tiny_potential(head=None).requires_grad_(True)
    with pytest.raises(ConfigError, match="must be 0 for a model without `long_range`"):
        accumulate_gradients(potential, batch, LossConfig(dipole=1.0), "central_difference")


def test_stress_of_extxyz_is_read_and_trained_beside_molecules(tmp_path):
    crystal, molecule = labelled(triclinic_ice(), 0), labelled(water(), 1)
    voigt = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])  # xx yy zz yz xz xy
    crystal.calc.results["stress"] = voigt
    ase.io.write(tmp_path / "both.xyz", [crystal, molecule])
    frames = read_frames(tmp_path / "both.xyz")
    np.testing.assert_allclose(frames[0].stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], voigt)
    assert frames[1].stress is None
    potential = tiny_potential(head="shifted")
    both = make_batch(frames, 3.0, torch.float64)
    _, grads = gradient(potential, both, LossConfig(stress=1.0), "double_backward")
    assert all(bool(torch.isfinite(g).all()) for g in grads.values())


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    write_frames(tmp_path / "train.xyz", 2)
    (tmp_path / "tiny.toml").write_text(RECIPE.format(max_steps=2, validate_every=2))
    recipe = read_recipe(tmp_path / "tiny.toml")
    data = read_training_data(recipe, tmp_path)
    potential = tiny_potential(head="shifted").requires_grad_(True)
    with torch.no_grad():
        potential.architecture.embedding.fill_(torch.nan)
    trainer = Trainer(recipe, data, potential, tmp_path / "run", progress=False)
    with pytest.raises(DataError, match="gradient is not finite at step 1"):
        trainer.train()
