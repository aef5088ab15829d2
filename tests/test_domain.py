"""Out of domain by default: predictions warn or refuse, calculators warn or stop a run."""

import argparse
import hashlib
import json
import runpy
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase import units
from ase.calculators.calculator import CalculatorSetupError, InputError
from ase.md.verlet import VelocityVerlet
from click.testing import CliRunner
from helpers import make_graph, tiny_potential, two_waters, water
from test_uncertainty import frames_of, labelled_file

import lesff
from lesff.calculator import LesffCalculator
from lesff.cli.main import main
from lesff.errors import (
    ExtrapolationWarning,
    OutOfDomainError,
    PropertyError,
    TwinFramesWarning,
)
from lesff.evaluation.card_pages import two_parts
from lesff.methods import open_method
from lesff.model_folder.folder import save_model
from lesff.model_folder.layout import UNCERTAINTY_FILE
from lesff.potential.edit import INNER_CUTOFF
from lesff.potential.replay import RepeatedStep
from lesff.train.calibration_data import calibration_frames
from lesff.train.data import read_frames, structure_hash
from lesff.train.frame_stream import FrameStream, StreamedFile, sample_of
from lesff.train.shards import write_npz
from lesff.train.stages import read_stages
from lesff.train.training_data import read_training_data
from lesff.uncertainty.calibration import calibrate
from lesff.uncertainty.statistics import _Histogram

ROOT = Path(__file__).parents[1]
ROUNDING = 1e-9
"""Other order of float64 sums, relative."""
FIRST_WITHOUT = {
    *(f"off-medium@{v}" for v in ("0.1.0", "0.2.0", "1.0.0", "1.1.0", "1.2.0")),
    *(f"off-small@{v}" for v in ("0.1.0", "1.0.0", "1.1.0", "1.2.0")),
    "mat-small@0.1.0",
    "mat-medium@0.1.0",
    "mat-small@0.2.0",
    "mat-medium@0.2.0",
    "mat-large@1.0.0",
    "mat-large@1.1.0",
}
"""Bundled versions from before every release carried its calibration, whose bytes stay, and those
whose card says why they carry none (``tools/release.py --uncalibrated``)."""


def atoms_of(frame):
    return ase.Atoms(frame.structure.numbers, frame.structure.positions)


def broken():
    """Water with one O-H at half its length."""
    atoms = water()
    atoms.positions[1] = 0.5 * (atoms.positions[0] + atoms.positions[1])
    return atoms


@pytest.fixture(scope="module")
def data():
    potential = tiny_potential(head="shifted")
    return frames_of(potential, 60), frames_of(potential, 30, seed=1)


@pytest.fixture(scope="module")
def potential(data):
    potential = tiny_potential(head="shifted")
    potential.uncertainty, _ = calibrate(potential, *data)
    return potential


@pytest.fixture(scope="module")
def folder(potential, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "known"
    save_model(potential, path, card="---\nname: tiny\n---\n", license_text="Yours.\n")
    return path


@pytest.fixture(scope="module")
def model(folder):
    return lesff.load(folder)


# predictions


def test_what_was_calibrated_on_is_inside(model, data):
    """Training frames by construction, the others because they set the limit: not one warning."""
    train, validation = data
    found = model.predict([atoms_of(f) for f in (*train, *validation)], "energy")
    assert not any(found.out_of_domain)
    assert list(found) == ["energy"]


def test_one_warning_names_the_worst(model):
    worse = broken()
    many = [water(), broken(), two_waters(), worse, broken()]
    worse.positions[1] = 0.55 * worse.positions[0] + 0.45 * worse.positions[1]
    with pytest.warns(ExtrapolationWarning) as caught:
        found = model.predict(many, ["energy", "novelty"], allow_close=True)
    assert len(caught) == 1
    worst = int(found.novelty[3].argmax())
    text = str(caught[0].message)
    assert text.startswith("3 of 5 structures (1, 3, 4) are outside of what known was calibrated")
    symbol = many[3].symbols[worst]
    assert f"structure 3: atom {worst} ({symbol}) has novelty {found.novelty[3].max():.3g}" in text
    assert "known ones up to 1" in text
    assert [bool(reasons) for reasons in found.out_of_domain] == [False, True, False, True, True]


def test_results_do_not_change_and_nothing_is_computed_twice(model, monkeypatch):
    names = ["energy", "forces", "charges"]
    calls = []
    forward = type(model.potential.architecture).forward
    monkeypatch.setattr(
        type(model.potential.architecture),
        "forward",
        lambda self, *args, **options: calls.append(1) or forward(self, *args, **options),
    )
    known = model.predict(two_waters(), names)
    assert calls == [1]
    bare = model.potential(make_graph(two_waters()), names)
    assert known.energy == float(bare["energy"][0])
    np.testing.assert_array_equal(known.forces, bare["forces"].numpy())


def test_strict_refuses_before_any_result(model):
    with pytest.raises(OutOfDomainError, match=r"structure 1 is outside.*atom \d \([HO]\) has nov"):
        model.predict([water(), broken()], strict=True, allow_close=True)
    with pytest.raises(OutOfDomainError, match=r"the structure is outside.*lesff finetune"):
        model.predict(broken(), strict=True, allow_close=True)
    with pytest.raises(OutOfDomainError, match=r"total charge 2 never seen \(seen: 0\)"):
        model.predict(water(), total_charge=2, strict=True)
    assert model.predict(water(), strict=True).out_of_domain == ()


def test_an_atom_that_is_no_number_is_outside(potential, data):
    structure = data[0][0].structure
    distance = np.zeros(len(structure))
    assert potential.uncertainty.reasons(structure, distance) == ()
    for value in (np.nan, np.inf, 1.0 + 1e-6):
        distance[2] = value
        assert "most those of atom 2" in potential.uncertainty.reasons(structure, distance)[0]


def test_the_command_says_it_once(folder, tmp_path):
    path = tmp_path / "in.xyz"
    ase.io.write(path, [water(), broken(), broken()])
    arguments = ["predict", str(path), "-m", str(folder), "-p", "energy", "--allow-close"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert result.output.count("2 of 3 structures (1, 2) are outside") == 1
    result = CliRunner().invoke(main, [*arguments, "--strict"])
    assert result.exit_code == 1
    assert "2 of 3 structures (1, 2) are outside" in result.output
    assert "energy" not in result.stdout


# calculators


def calculator(model, mode, **options):
    return model.calculator(on_out_of_domain=mode, allow_close=True, **options)


@pytest.mark.parametrize("replay", [False, True])
def test_a_calculator_warns_once(model, replay):
    atoms = water()
    atoms.calc = calculator(model, "warn", replay=replay)
    atoms.get_potential_energy()
    assert atoms.calc.outside is None
    atoms.positions = broken().positions
    with pytest.warns(ExtrapolationWarning, match="outside of what this model was calibrated on"):
        warned = atoms.get_potential_energy()
    assert atoms.calc.outside.novelty > 1.0
    atoms.positions *= 1.001
    atoms.get_potential_energy()  # a second warning would be an error here
    atoms.calc = calculator(model, "ignore", replay=replay)
    atoms.positions = broken().positions
    assert atoms.get_potential_energy() == pytest.approx(warned, abs=1e-9)


def test_ignored_charges_are_not_warned_of(model):
    atoms = water()
    atoms.calc = calculator(model, "ignore", total_charge=2)
    atoms.get_potential_energy()
    atoms.calc = calculator(model, "warn", total_charge=2)
    with pytest.warns(ExtrapolationWarning, match="total charge 2 never seen"):
        atoms.get_potential_energy()


@pytest.mark.parametrize("replay", [False, True])
def test_a_run_stops_and_the_last_good_step_is_there(model, replay):
    """Two atoms that fly at each other."""
    atoms = water()
    atoms.calc = calculator(model, "stop", replay=replay)
    toward = atoms.positions[0] - atoms.positions[1]
    momenta = np.zeros((3, 3))
    momenta[1] = 8.0 * toward
    atoms.set_momenta(momenta)
    good = []
    dynamics = VelocityVerlet(atoms, 0.2 * units.fs)
    dynamics.attach(lambda: good.append((atoms.positions.copy(), atoms.get_potential_energy())))
    with pytest.raises(OutOfDomainError, match=r"atom \d \([HO]\) has novelty .*last good step"):
        dynamics.run(200)
    assert 1 < len(good) < 200
    calc = atoms.calc
    positions, energy = good[-1]
    np.testing.assert_array_equal(calc.atoms.positions, positions)
    assert calc.results["energy"] == energy
    with pytest.raises(InputError):  # not the results of another step
        atoms.get_forces()
    assert calc.get_property("energy") == energy
    atoms.positions = calc.atoms.positions
    assert atoms.get_potential_energy() == energy
    calc.set(on_out_of_domain="ignore")
    atoms.positions = broken().positions
    atoms.get_forces()


def test_strict_stops_where_warn_would_warn(model):
    atoms = broken()
    atoms.calc = calculator(model, "warn", strict=True)
    with pytest.raises(OutOfDomainError, match="outside of what"):
        atoms.get_potential_energy()
    atoms.calc = calculator(model, "ignore", strict=True)
    atoms.get_potential_energy()


def test_a_model_without_calibration_cannot_stop():
    bare = tiny_potential(head="shifted")
    with pytest.raises(CalculatorSetupError, match="lesff calibrate NAME --train"):
        LesffCalculator(bare, on_out_of_domain="stop")
    with pytest.raises(PropertyError, match="must be one of warn, stop, ignore, got 'raise'"):
        LesffCalculator(bare, on_out_of_domain="raise")
    calc = LesffCalculator(bare, allow_close=True)
    with pytest.raises(PropertyError, match="lesff calibrate"):
        calc.set(on_out_of_domain="stop")
    atoms = broken()
    atoms.calc = calc
    atoms.get_potential_energy()  # as before: no warning


def test_evaluations_judge_for_themselves(folder):
    atoms = broken()
    atoms.calc = open_method(str(folder)).calculator()
    atoms.get_potential_energy()


def test_planned_steps_have_novelty(potential):
    atoms = two_waters()
    step = RepeatedStep(potential, 0.5)
    rng = np.random.default_rng(0)
    for _ in range(3):
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        planned = step(lesff.atoms.structure.to_structure(atoms), ["energy", "forces", "novelty"])
        plain = potential(make_graph(atoms), ["novelty"])
        torch.testing.assert_close(planned["novelty"], plain["novelty"], rtol=1e-8, atol=1e-10)
    assert step.n_plans == 1


# calibration in pieces


def shard(path, frames, held=()):
    """An npz shard of molecules; ``held`` frames are marked as validation."""
    every = [*frames, *held]
    write_npz(path, {
        "n": np.array([len(f.structure) for f in every]),
        "numbers": np.concatenate([f.structure.numbers for f in every]),
        "positions": np.concatenate([f.structure.positions for f in every]),
        "energy": np.array([f.energy for f in every]),
        "forces": np.concatenate([f.forces for f in every]),
        "valid": np.arange(len(every)) >= len(frames),
    })  # fmt: skip
    return path


def test_pieces_give_the_same_calibration(data, tmp_path):
    """Sums do not depend on how frames are cut; no more than a piece is handed out."""
    train, validation = data
    files = [shard(tmp_path / f"{i}.npz", train[30 * i : 30 * i + 30]) for i in range(2)]
    stream = FrameStream([StreamedFile(path=path) for path in files], size=7)
    assert max(len(piece) for piece in stream.pieces()) == 7
    assert len(stream) == 60
    potential = tiny_potential(head="shifted")
    whole, _ = calibrate(potential, train, validation)
    cut, _ = calibrate(potential, stream, validation)
    for name, value in whole.tensors().items():
        if name == "weights":
            assert torch.equal(cut.tensors()[name], value)
            continue
        # inverse roots: signs and rotations of vectors cancel
        torch.testing.assert_close(cut.tensors()[name], value, rtol=1e-5, atol=1e-6)


def test_streams_filter_and_draw_the_same_frames_each_time(data, tmp_path):
    train, validation = data
    path = shard(tmp_path / "s.npz", train, validation)
    file = StreamedFile(path=path, keep=lambda f: not f.is_validation, fraction=0.5)
    stream = FrameStream([file], size=11)
    once, again = ([f.energy for p in stream.pieces() for f in p] for _ in range(2))
    assert once == again
    assert 15 < len(once) < 45  # 30 expected, 4 standard deviations of a binomial
    assert set(once) < {f.energy for f in train}


def test_reservoirs_draw_every_frame_alike(data):
    """Each of 60 frames in 10 of 60 draws; 5 standard deviations of a binomial."""
    train = data[0]
    place = {id(frame): i for i, frame in enumerate(train)}
    counts = np.zeros(60)
    for seed in range(600):
        drawn = [place[id(frame)] for frame in sample_of(train, 10, seed=seed)]
        assert drawn == sorted(set(drawn))
        counts[drawn] += 1
    assert len(sample_of(train, 100)) == 60
    assert np.abs(counts - 100.0).max() < 5.0 * np.sqrt(600 * (1 / 6) * (5 / 6))


def test_histograms_know_quantiles():
    """Against numpy, to the 1 % of a step; few values: the largest."""
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=50_000))
    rows = rng.integers(0, 2, size=50_000)
    histogram = _Histogram(3)
    for part in np.array_split(np.arange(50_000), 9):
        histogram.add(torch.from_numpy(rows[part]), torch.from_numpy(values[part]))
    histogram.add(torch.tensor([2, 2]), torch.tensor([0.3, 4.0], dtype=torch.float64))
    found = histogram.within(1e-3)
    for row in (0, 1):
        expected = np.quantile(values[rows == row], 1.0 - 1e-3)
        assert float(found[row]) == pytest.approx(expected, rel=0.02)
        assert (values[rows == row] > float(found[row])).mean() <= 1e-3
    assert float(found[2]) == 4.0


def test_memory_does_not_grow_with_the_frames(data, tmp_path, monkeypatch):
    """Frames alive at any time: a piece being made and one being used."""
    import lesff.train.data as reading

    alive, most = [0], [0]
    frame = reading.Frame

    class Counted(frame):
        def __init__(self, **fields):
            super().__init__(**fields)
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= 1

    train, validation = data
    path = shard(tmp_path / "s.npz", train)
    monkeypatch.setattr(reading, "Frame", Counted)
    stream = FrameStream([StreamedFile(path=path)], size=5)
    calibrate(tiny_potential(head="shifted"), stream, validation)
    assert 5 <= most[0] <= 2 * 5 + 1


# recipes and releases


@pytest.fixture
def recipe(tmp_path):
    """A chain of two stages on a shard of 40 waters and 14 held-out ones."""
    from labelled_frames import RECIPE
    from test_train_stages import write_lock

    (tmp_path / "data").mkdir()
    (tmp_path / "tiny" / "stages").mkdir(parents=True)
    frames = frames_of(tiny_potential(head="shifted"), 54, noise=0.3)
    data = shard(tmp_path / "data" / "train.npz", frames[:40], frames[40:])
    text = RECIPE.format(max_steps=2, validate_every=2).replace('name = "tiny"', "")
    text = text.replace('[{ path = "train.xyz" }]', '[{ path = "train.npz" }]')
    calibration = "[calibration]\nfraction = 0.9\nvalidation_frames = 12\n"
    (tmp_path / "tiny" / "base.toml").write_text(text + calibration)
    stages = tmp_path / "tiny" / "stages"
    stages.joinpath("01-a.toml").write_text('extends = "../base.toml"\nwhy = "A."\nname = "a"\n')
    stages.joinpath("02-b.toml").write_text(
        'extends = "../base.toml"\nfrom = "01-a"\nwhy = "B."\nname = "b"\n'
    )
    write_lock(tmp_path / "tiny", train=data)
    return tmp_path / "tiny"


def train(recipe, run):
    arguments = ["train", str(recipe), "--data", str(recipe.parent / "data"), "-o", str(run)]
    return CliRunner().invoke(main, arguments)


def test_a_chain_calibrates_what_is_for_use(recipe, tmp_path, monkeypatch):
    run = tmp_path / "run"
    # an interruption loses the calibration only
    with monkeypatch.context() as patch:
        patch.setattr("lesff.uncertainty.calibration.calibrate_folder", interrupted)
        assert train(recipe, run).exit_code != 0
    weights = (run / "02-b" / "model" / "model.safetensors").read_bytes()
    assert not (run / "02-b" / "model" / UNCERTAINTY_FILE).exists()
    result = train(recipe, run)
    assert result.exit_code == 0, result.output
    assert result.output.count("done before") == 2
    assert not (run / "01-a" / "model" / UNCERTAINTY_FILE).exists()
    folder = run / "02-b" / "model"
    assert (folder / UNCERTAINTY_FILE).is_file()
    assert (folder / "model.safetensors").read_bytes() == weights
    assert "12 validation frames" in (folder / "README.md").read_text()
    record = json.loads((run / "02-b" / "stage.json").read_text())["calibration"]
    assert record["options"]["fraction"] == 0.9
    assert record["result"]["n_frames"] == 12
    model = lesff.load(folder)
    used = read_frames(recipe.parent / "data" / "train.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)
        inside = model.predict([atoms_of(f) for f in used], "energy").out_of_domain
    assert sum(map(bool, inside)) <= 2  # a tenth of them was not looked at
    with pytest.raises(OutOfDomainError, match="outside of what"):
        model.predict(broken(), strict=True, allow_close=True)
    # the same again does nothing, another choice is made anew
    assert "02-b: calibrated before" in train(recipe, run).output
    base = recipe / "base.toml"
    base.write_text(base.read_text().replace("validation_frames = 12", "validation_frames = 11"))
    assert "11 validation frames" in train(recipe, run).output
    assert (folder / "model.safetensors").read_bytes() == weights


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_held_out_frames_that_another_file_trains_on_do_not_validate(recipe, tmp_path):
    """Nine twins of 14: five that are really held out, fewer than a calibration needs."""
    from test_train_stages import write_lock

    data = recipe.parent / "data"
    held = [frame for frame in read_frames(data / "train.npz") if frame.is_validation]
    twins = shard(data / "twins.npz", held[5:])
    write_lock(recipe, train=data / "train.npz", twins=twins)
    base = recipe / "base.toml"
    both = 'sources = [{ path = "train.npz" }, { path = "twins.npz" }]'
    base.write_text(base.read_text().replace('sources = [{ path = "train.npz" }]', both))
    stage = read_stages(recipe)[-1]
    with pytest.warns(TwinFramesWarning, match="9 of 14 held-out frames are training frames"):
        trained = read_training_data(stage.recipe, data)
    assert len(trained.train) == 40 + 9
    assert [frame.energy for frame in trained.validation] == [frame.energy for frame in held[:5]]
    config = replace(stage.calibration, fraction=1.0)
    with pytest.warns(TwinFramesWarning, match="of 12 held-out frames"):
        stream, validation = calibration_frames(stage, config, data, elements=[1, 8])
    assert len(stream) == 40 + 9
    names = {structure_hash(frame) for frame in validation}
    assert names <= {structure_hash(frame) for frame in held[:5]}
    assert len(validation) >= 12 - 9


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fraction = 0.9", "fraction = 0.0", "`calibration.fraction` must be above 0"),
        ("fraction = 0.9", 'train = ["none.npz"]', "must be files that it trains on, got none.npz"),
        ("fraction = 0.9", "share = 0.9", "share"),
    ],
)
def test_bad_calibrations_are_named(recipe, tmp_path, old, new, message):
    base = recipe / "base.toml"
    base.write_text(base.read_text().replace(old, new))
    result = train(recipe, tmp_path / "run")
    assert result.exit_code == 1
    assert message in result.output


def test_a_release_without_calibration_is_refused(tmp_path, data, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = runpy.run_path(str(ROOT / "tools" / "release.py"))
    bare = tiny_potential(head="shifted")
    with pytest.raises(SystemExit, match="carries no calibration, and every release must"):
        tool["calibrated"](bare, "# Tiny\n", [], [])
    with pytest.raises(SystemExit, match="must be given together"):
        tool["calibrated"](bare, "# Tiny\n", [tmp_path / "t.npz"], [])
    path = shard(tmp_path / "s.npz", *data)
    section = tool["calibrated"](bare, "# Tiny\n", [path], [path])
    assert section.startswith("Last-layer uncertainty (LLPR) from 60 training frames, scaled on 30")
    assert tool["with_sums"](bare, "smooth", 1.0, None).uncertainty is bare.uncertainty
    card = f"# Tiny\n\n## Uncertainty\n\n{section}\n\n## Licence\n\nYours.\n"
    assert tool["calibrated"](bare, card, [], []) == section


def test_a_release_gets_the_wall_that_the_command_line_says(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    walled = runpy.run_path(str(ROOT / "tools" / "release.py"))["walled_as_told"]
    bare = tiny_potential(head="shifted")

    def told(**options):
        given = {
            "walled": True,
            "wall_stiffness": 0.0,
            "energy_floor": None,
            "charge_limits": None,
            "no_crowding": False,
            "inner_cutoff": None,
        }
        return walled(bare, argparse.Namespace(**(given | options))).config

    assert told(walled=False) == bare.config
    for part in (
        {"wall_stiffness": 1.0},
        {"energy_floor": "5"},
        {"no_crowding": True},
        {"inner_cutoff": 0.6},
        {"charge_limits": tmp_path},
    ):
        with pytest.raises(SystemExit, match="is a part of the wall: give `--walled`, too"):
            told(walled=False, **part)
    config = told(wall_stiffness=200.0, energy_floor="5")
    assert (config.wall, config.wall_stiffness, config.energy_floor, config.crowding) == (
        "zbl-inner",
        200.0,
        5.0,
        True,
    )
    assert config.architecture["inner_cutoff"] == INNER_CUTOFF
    assert told(inner_cutoff=0.6).architecture["inner_cutoff"] == 0.6
    assert not told().crowding
    floors = tmp_path / "floors.json"
    floors.write_text('{"O": 7.0, "H": 4.0, "Na": 1.0}', encoding="utf-8")
    config = told(energy_floor=str(floors), no_crowding=True)
    assert config.energy_floor == (4.0, 7.0)
    assert not config.crowding
    assert told(charge_limits=floors).long_range.charge_limits == (4.0, 7.0)
    floors.write_text('{"O": 7.0}', encoding="utf-8")
    with pytest.raises(SystemExit, match="a number for every element, and has none for H"):
        told(energy_floor=str(floors))


def test_a_release_has_its_card_in_two_parts(tmp_path, data, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    release = runpy.run_path(str(ROOT / "tools" / "release.py"))["main"]
    # a project of one model, which is another than its card says
    root = tmp_path / "project"
    for name in ("model_cards", "tests", "lesff/weights"):
        (root / name).mkdir(parents=True)
    for path in (ROOT / "model_cards").glob("off-small.*"):
        shutil.copy(path, root / "model_cards")
    shutil.copy(ROOT / "LICENSE", root)
    (root / "tests" / "released.json").write_text("{}")
    monkeypatch.setitem(release.__globals__, "ROOT", root)
    monkeypatch.setitem(release.__globals__, "RELEASED", root / "tests" / "released.json")
    save_model(
        tiny_potential(head="shifted"), tmp_path / "m", card="# T\n", license_text="Yours.\n"
    )
    frames = str(shard(tmp_path / "s.npz", *data))
    words = [str(tmp_path / "m"), "off-small", "9.0.0", "--train", frames, "--validation", frames]
    monkeypatch.setattr("sys.argv", ["release.py", *words])
    release()
    folder = root / "lesff" / "weights" / "off-small" / "9.0.0"
    card = (root / "model_cards" / "off-small.md").read_text(encoding="utf-8")
    suite = json.loads((root / "model_cards" / "off-small.suite.json").read_text(encoding="utf-8"))
    readme, evaluation = two_parts(card, "off-small", suite, back="README.md")
    assert (folder / "README.md").read_text(encoding="utf-8") == readme
    assert (folder / "EVALUATION.md").read_text(encoding="utf-8") == evaluation
    assert "## Uncertainty" in evaluation
    (row,) = json.loads((root / "tests" / "released.json").read_text()).values()
    assert row["EVALUATION.md"] == hashlib.sha256(evaluation.encode()).hexdigest()


def test_every_release_from_now_on_carries_its_calibration():
    found = set()
    for path in (ROOT / "checkpoints_manifest").glob("*.json"):
        for version in json.loads(path.read_text()).get("versions", []):
            if not version.get("sources", {}).get("bundled"):
                continue
            name = f"{path.stem}@{version['version']}"
            files = {row["path"] for row in version["files"]}
            if UNCERTAINTY_FILE not in files:
                found.add(name)
    assert found == FIRST_WITHOUT


def test_frames_files_and_labels_give_one_calibration(tmp_path, data):
    """The command streams an npz shard and reads extxyz: same frames, same numbers to rounding."""
    train_frames, validation = data
    base = tiny_potential(head="shifted")
    save_model(base, tmp_path / "base", card="# Tiny\n", license_text="Yours.\n")
    labelled_file(tmp_path / "val.xyz", validation)
    labelled_file(tmp_path / "train.xyz", train_frames)
    shard(tmp_path / "train.npz", train_frames)
    scales = []
    for name in ("train.xyz", "train.npz"):
        out = tmp_path / name.replace(".", "-")
        arguments = ["calibrate", str(tmp_path / "base"), "--train", str(tmp_path / name)]
        arguments += ["--validation", str(tmp_path / "val.xyz"), "-o", str(out)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        assert "60 training, 30 validation frames" in result.output
        scales.append(float(lesff.load(out).potential.uncertainty.energy_scale))
    assert scales[0] == pytest.approx(scales[1], rel=1e-4)  # positions in a file: 8 digits
