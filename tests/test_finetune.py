"""Finetuning: strategies, splits, checks of the data, resume, several processes, the report."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from click.testing import CliRunner
from helpers import tiny_potential, triclinic_ice, two_waters, water

import lesff
from lesff.cli.finetune import parse_settings
from lesff.cli.main import main
from lesff.disk import UNFINISHED
from lesff.errors import ConfigError, DataError, IntegrityError
from lesff.finetune import FinetuneOptions
from lesff.finetune.options import options_from, read_options
from lesff.finetune.rehearsal import probe_structures, replay_structures
from lesff.finetune.start import EnergyShift, make_trainables, part_of, with_shift
from lesff.heads import MultipoleConfig
from lesff.model_folder.folder import load_model, save_model
from lesff.model_folder.verify import verify_parity
from lesff.train.batches import make_batch
from lesff.train.data import read_labelled
from lesff.train.splits import SplitConfig, make_split, structure_hash

TINY = {
    "optimizer": {"max_steps": 12, "validate_every": 4, "warmup_steps": 1, "ema_decay": 0.5},
    "max_atoms": 9,
    "checks_units": False,
    "returns": "trained",
}
"""A run of a second; one validation frame cannot tell whether it helped."""
JUDGED = TINY | {"returns": "better", "split": {"validation": 0.5}}
"""The same with frames to judge by."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folder of a tiny random model of H and O."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    card = "---\nname: tiny\nlicense: CC-BY-4.0\n---\nTiny.\n"
    save_model(tiny_potential(head="shifted"), folder, card=card, license_text="Yours.\n")
    return folder


def labelled_frames(count, *, seed=3, shift=0.0, spread=0.05):
    """Waters and dimers labelled by another random model, with moved reference energies."""
    teacher = tiny_potential(head="shifted", seed=seed)
    rng = np.random.default_rng(1)
    frames = []
    for index in range(count):
        atoms = (water() if index % 2 else two_waters()).copy()
        atoms.positions += rng.normal(scale=spread, size=atoms.positions.shape)
        frame = read_labelled([with_zeros(atoms)])[0]
        batch = make_batch(frame, teacher.architecture.cutoff, torch.float64)
        out = teacher(batch.graph, ["energy", "forces", "dipole"])
        energy = float(out["energy"][0]) + shift * len(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=out["forces"].numpy())
        atoms.info["REF_dipole"] = out["dipole"][0].numpy()
        frames.append(atoms)
    return frames


def with_zeros(atoms):
    """The atoms with labels that say nothing."""
    atoms = atoms.copy()
    atoms.info["energy"] = 0.0
    return atoms


def weights(folder):
    return load_model(folder).state_dict()


def test_a_run_gives_a_better_model_and_a_report(base, tmp_path):
    lines = []
    model = lesff.load(base)
    better = model.finetune(
        labelled_frames(16), tmp_path / "run", say=lines.append, progress=False,
        **{**JUDGED, "optimizer": TINY["optimizer"] | {"max_steps": 40, "validate_every": 10}},
    )  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    table = report["errors"]["validation"]["all"]
    assert report["improved"]
    assert report["score"] < 1.0
    assert table["finetuned"]["forces_rmse"] < table["base"]["forces_rmse"]
    assert report["start_difference"]["energy"] < 1e-8
    assert report["forgetting"]["probe"]["forces_rmse"] > 0.0
    assert "errors" in report
    assert set(report["charges"]["finetuned"]["by_element"]) == {"H", "O"}
    assert verify_parity(tmp_path / "run" / "model").ok
    assert "license: CC-BY-4.0" in better.card
    assert report["split"]["data_sha256"] in better.card
    text = "\n".join(lines)
    assert "energy from key `energy`, 16 frames, in eV" in text
    assert "dipole labels are trained on (`loss.dipole` = 1; 0 only compares them)" in text
    assert "better than the base model on 8 validation frames (mean verdict +" in text
    assert report["returned"] == "finetuned"
    for name in ("energy", "forces", "dipole"):
        row = report["verdicts"]["validation"][name]["against_base"]
        assert 0.0 < row["low"] <= row["ratio"] <= row["high"]
        assert f"| {name}, " in better.card
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png;base64") == 3
    assert 'class="better"' in page
    assert not re.search(r"(src|href)=\"http", page)
    p = better.predict(water(), ["energy", "charges"])
    assert p.charges.sum() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("head", ["qeq", "fukui"])
def test_a_run_with_another_charge_head(base, tmp_path, head):
    options = TINY | {"optimizer": TINY["optimizer"] | {"max_steps": 10, "validate_every": 5}}
    better = lesff.load(base).finetune(
        labelled_frames(8), tmp_path / "run", progress=False, say=lambda line: None,
        head=head, **options,
    )  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["start_difference"]["energy"] < 1e-8
    assert report["best_step"] > 0
    long_range = better.potential.config.long_range
    assert long_range is not None
    assert long_range.head == head
    key = {"qeq": "electronegativity", "fukui": "weights.0"}[head]
    state = better.potential.state_dict()
    assert float(state[f"charge_head.{key}.layers.1.weight_2"].abs().max()) > 0


def test_a_run_with_further_moments(base, tmp_path):
    options = TINY | {"optimizer": TINY["optimizer"] | {"max_steps": 10, "validate_every": 5}}
    chosen = {"dipoles": True, "induced": "both"}
    better = lesff.load(base).finetune(
        labelled_frames(8), tmp_path / "run", progress=False, say=lambda line: None,
        multipoles=chosen, **options,
    )  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["start_difference"]["energy"] < 1e-8
    assert report["best_step"] > 0
    assert better.potential.config.long_range.multipoles == MultipoleConfig(**chosen)
    for name in ("dipoles.weight", "softness.gate", "polarizability.gate"):
        assert float(better.potential.state_dict()[f"multipole_head.{name}"].abs().max()) > 0
    assert better.predict(water(), "polarizability").polarizability.shape == (3, 3)


def test_a_run_that_does_not_help_returns_the_base_model(base, tmp_path):
    """Labels are the base's own, shifted: refitted energies are all that helps, no training."""
    frames = labelled_frames(8, seed=0, shift=0.3)
    options = JUDGED | {"optimizer": TINY["optimizer"] | {"lr": 0.5}}
    lines = []
    lesff.load(base).finetune(frames, tmp_path / "run", progress=False, say=lines.append, **options)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["best_step"] == 0
    assert "no step of the training was better than the base model" in "\n".join(lines)
    for name, value in weights(base).items():
        torch.testing.assert_close(weights(tmp_path / "run" / "model")[name], value)
    # the base is untouched; what refitted reference energies alone would give is in the table
    assert report["returned"] == "base"
    assert not report["improved"]
    base_energies = lesff.load(base).config.reference_energies
    assert lesff.load(tmp_path / "run" / "model").config.reference_energies == base_energies
    row = report["verdicts"]["validation"]["energy"]
    assert row["against_base"]["verdict"] == "better"
    assert row["verdict"] == row["against_refitted"]["verdict"] == "no difference"
    assert "not better after training" in lesff.load(tmp_path / "run" / "model").card
    table = report["errors"]["validation"]["all"]
    assert table["base"]["energy_rmse"] == pytest.approx(300.0, rel=1e-6)
    assert table["finetuned"]["energy_rmse"] < 1e-6


@pytest.mark.parametrize(
    ("strategy", "moved"),
    [
        ("full", {"embedding", "trunk", "readout", "charges"}),
        ("last_layer", {"trunk", "readout", "charges"}),
        ("head", {"readout", "charges"}),
        ("lora", {"trunk", "readout", "charges"}),
    ],
)
def test_strategies_move_their_parts_only(base, tmp_path, strategy, moved):
    options = TINY | {"strategy": strategy, "lora_rank": 2, "energies": "keep"}
    lesff.load(base).finetune(labelled_frames(8), tmp_path / "run", progress=False, **options)
    before, after = weights(base), weights(tmp_path / "run" / "model")
    changed = {n for n, v in before.items() if not torch.equal(v, after[n])}
    assert {part_of(name) for name in changed} == moved
    if strategy == "last_layer":
        assert not any(name.startswith("architecture.layers.0.") for name in changed)


def test_low_rank_updates_have_low_rank_and_exact_gradients(base):
    potential = with_shift(load_model(base), EnergyShift(by_element={1: 0.0, 8: 0.0}))
    before = {n: p.detach().clone() for n, p in potential.named_parameters()}
    options = FinetuneOptions(strategy="lora", lora_rank=2)
    trainables = make_trainables(potential, options)
    named = trainables.named()
    name = "architecture.layers.1.linear.weights.0"
    trainables.write()
    torch.testing.assert_close(dict(potential.named_parameters())[name], before[name])
    with torch.no_grad():
        named[f"{name}/b"].normal_()
    trainables.write()
    weight = dict(potential.named_parameters())[name]
    update = weight.detach() - before[name]
    assert torch.linalg.matrix_rank(update, rtol=1e-10) == 2
    # gradient of sum(W^2) with respect to the factors by autograd
    a, b = named[f"{name}/a"], named[f"{name}/b"]
    expected = torch.autograd.grad(((before[name] + a @ b) ** 2).sum(), [a, b])
    weight.grad = 2.0 * weight.detach()
    trainables.collect_gradients()
    torch.testing.assert_close((a.grad, b.grad), expected)


@pytest.mark.slow
def test_part_rates_and_the_anchor_hold_weights_back(base, tmp_path):
    longer = TINY["optimizer"] | {"max_steps": 60, "validate_every": 20}

    def distance(run, **options):
        options = TINY | {"optimizer": longer} | options
        lesff.load(base).finetune(labelled_frames(12), tmp_path / run, progress=False, **options)
        before, after = weights(base), weights(tmp_path / run / "model")
        return {
            part: sum(float((before[n] - after[n]).norm()) for n in before if part_of(n) == part)
            for part in ("embedding", "trunk", "readout")
        }

    free = distance("free")
    held = distance("held", rates={"trunk": 0.1, "embedding": 0.0})
    assert held["embedding"] == 0.0
    assert 0.0 < held["trunk"] < 0.5 * free["trunk"]
    anchored = distance("anchored", anchor=100.0)
    assert anchored["trunk"] < free["trunk"]


def test_replay_and_probe_cover_the_model_and_do_not_overlap():
    config = tiny_potential(elements=(1, 6, 8), state_embedding=True).config
    replay = replay_structures(config, 40, seed=5)
    probe = probe_structures(config)
    assert len(replay) == 40
    assert len(probe) == 60
    assert all(set(s.numbers.tolist()) <= {1, 6, 8} for s in replay + probe)
    low, high = config.total_charge
    assert all(low <= s.total_charge <= high for s in replay + probe)
    again = replay_structures(config, 40, seed=5)
    np.testing.assert_array_equal(replay[-1].positions, again[-1].positions)
    formulas = [{tuple(sorted(s.numbers.tolist())) for s in part} for part in (replay, probe)]
    assert len(formulas[0] - formulas[1]) > 5


def test_replay_of_a_model_of_many_elements_holds_crystals():
    """Those that ASE builds from the element alone; Se and Te are not among them."""
    config = tiny_potential(elements=tuple(range(1, 87))).config
    structures = replay_structures(config, 60, seed=5) + probe_structures(config)
    crystals = [s for s in structures if s.pbc.all()]
    assert len({int(s.numbers[0]) for s in crystals}) > 5
    assert all(len(set(s.numbers.tolist())) == 1 for s in crystals)


@pytest.mark.slow
def test_replay_frames_take_part_and_keep_the_probe_nearer(base, tmp_path):
    drift = {}
    for count in (0, 30):
        options = TINY | {
            "optimizer": TINY["optimizer"] | {"max_steps": 60, "validate_every": 20},
            "replay": {"frames": count, "weight": 3.0}, "max_atoms": 30,
        }  # fmt: skip
        run = tmp_path / str(count)
        lesff.load(base).finetune(labelled_frames(8), run, progress=False, **options)
        report = json.loads((run / "report.json").read_text())
        drift[count] = report["forgetting"]["probe"]["forces_rmse"]
    assert drift[30] < drift[0]


def test_grown_molecules_keep_their_bonds_and_room(base):
    """Every atom of a grown molecule has a neighbour; no two are closer than hydrogen's bond."""
    config = tiny_potential(elements=(1, 6, 7, 8)).config
    largest = 0
    for structure in replay_structures(config, 60, seed=2):
        atoms = ase.Atoms(structure.numbers, structure.positions)
        distances = atoms.get_all_distances() + 10.0 * np.eye(len(atoms))
        radii = covalent_radii[atoms.numbers]
        ratio = distances / (radii[:, None] + radii)
        assert ratio.min(axis=1).min() > 0.6
        assert ratio.min(axis=1).max() < 1.6
        largest = max(largest, len(atoms))
    assert largest > 25


@pytest.mark.slow
def test_a_random_start_forgets_the_base_model(base, tmp_path):
    """Weights are drawn anew, the same for the same seed, and frames in other units pass."""
    frames = labelled_frames(8)
    options = TINY | {"random_start": True, "seed": 3}
    first = lesff.load(base).finetune(frames, tmp_path / "a", progress=False, **options)
    again = lesff.load(base).finetune(frames, tmp_path / "b", progress=False, **options)
    kept = lesff.load(base).finetune(frames, tmp_path / "c", progress=False, **TINY)
    assert "weights drawn anew" in first.card
    assert "weights drawn anew" not in kept.card
    start, one, two, three = (
        lesff.load(base).potential.state_dict()["architecture.readouts.layers.0.weight"],
        *(m.potential.state_dict()["architecture.readouts.layers.0.weight"]
          for m in (first, again, kept)),
    )  # fmt: skip
    assert torch.equal(one, two)
    assert (one - start).abs().max() > 3 * (three - start).abs().max()


def test_splits_are_fixed_grouped_and_saved(base, tmp_path):
    frames, _ = read_labelled([*labelled_frames(10), *labelled_frames(10, spread=0.1)])
    split = make_split(frames, SplitConfig(validation=0.2, test=0.2), 4)
    again = make_split(frames, SplitConfig(validation=0.2, test=0.2), 4)
    assert split.indices == again.indices
    assert [len(split.indices[k]) for k in ("train", "validation", "test")] == [12, 4, 4]
    other = make_split(frames, SplitConfig(validation=0.2, test=0.2), 5)
    assert split.indices != other.indices
    grouped = make_split(frames, SplitConfig(kind="group", validation=0.2), 4)
    groups = [{f.group for f in part} for part in (grouped.train, grouped.validation)]
    assert not groups[0] & groups[1]
    few = make_split(frames, SplitConfig(max_train=3), 4)
    assert len(few.train) == 3
    path = tmp_path / "split.json"
    path.write_text(json.dumps(split.to_dict(SplitConfig(), 4)))
    same = make_split(frames, SplitConfig(file=str(path)), 99)
    assert same.indices == split.indices
    with pytest.raises(DataError, match="belongs to other data"):
        make_split(frames[:-1], SplitConfig(file=str(path)), 4)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"must be the split\.json of a run"):
        make_split(frames, SplitConfig(file=str(path)), 4)


def test_equal_structures_stay_on_one_side():
    frames, _ = read_labelled(labelled_frames(4) * 3)
    split = make_split(frames, SplitConfig(validation=0.3), 0)
    train, validation = ({structure_hash(f) for f in p} for p in (split.train, split.validation))
    assert not train & validation
    with pytest.raises(DataError, match="validation frame 1 is the same structure as training"):
        make_split(frames[:3], SplitConfig(), 0, validation=[frames[3], frames[0]])


@pytest.mark.parametrize(
    ("count", "text"), [(1, "at least two different frames"), (0, "at least one|holds no frames")]
)
def test_too_few_frames_are_refused(base, tmp_path, count, text):
    with pytest.raises(DataError, match=text):
        lesff.load(base).finetune(labelled_frames(count), tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()


def test_unknown_elements_are_named(base, tmp_path):
    bad = water()
    bad.numbers[1] = 9
    bad.calc = SinglePointCalculator(bad, energy=0.0, forces=np.zeros((3, 3)))
    with pytest.raises(DataError, match=r"1 of 5 frames \(the first is frame 4\) have element.* F"):
        lesff.load(base).finetune([*labelled_frames(4), bad], tmp_path / "run", **TINY)


@pytest.mark.parametrize(
    ("factor", "force_factor", "text"),
    [
        (1 / 27.211386, 1.0, "energy labels must be in eV, but .* read as Hartree"),
        (1 / 0.0433641, 1.0, "read as kcal/mol"),
        (None, 1.0, "read as eV per atom"),
        (1.0, 1 / 51.42207, "forces labels must be in eV/A, but .* Hartree/bohr"),
        (1.0, -1.0, "gradients"),
    ],
)
def test_other_units_are_recognised(base, tmp_path, factor, force_factor, text):
    """Labels of a model much like the base, in units that they should not have."""
    frames = labelled_frames(16, seed=0, shift=0.01, spread=0.1)
    for atoms in frames:
        share = 1 / len(atoms) if factor is None else factor
        atoms.calc.results["energy"] *= share
        atoms.calc.results["forces"] = force_factor * atoms.calc.results["forces"]
    with pytest.raises(DataError, match=text):
        lesff.load(base).finetune(frames, tmp_path / "run", **(TINY | {"checks_units": True}))


def test_right_units_pass(base, tmp_path):
    frames = labelled_frames(16, seed=0, shift=100.0, spread=0.1)
    options = TINY | {"checks_units": True}
    lesff.load(base).finetune(frames, tmp_path / "run", progress=False, **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"strategy": "magic"}, "must be 'full' or 'head'"),
        ({"head": "qeqq"}, "`head` must be one of latent, shifted"),
        ({"energies": "given"}, "`given_energies` must name the energies"),
        ({"given_energies": {"H": 1.0}}, "`energies` must be 'given'"),
        ({"energies": "given", "given_energies": {"F": 1.0}}, "must name elements of H O"),
        ({"rates": {"tail": 1.0}}, "`rates` must name embedding, trunk"),
        ({"anchor": 1.0, "strategy": "lora"}, "`anchor` must be 0 for strategy 'lora'"),
        ({"split": {"validation": 1.0}}, "must be shares that leave frames"),
        ({"replay": {"frames": -1}}, "must be at least 0"),
        ({"random_start": True, "strategy": "head"}, "`random_start` must be false"),
        ({"loss": {"stress": 1.0}}, "no training frame has stress labels"),
        ({"learning_rate": 1.0}, r"unknown key\(s\) learning_rate"),
    ],
)
def test_bad_options_are_named(base, tmp_path, options, text):
    with pytest.raises((ConfigError, DataError), match=text):
        lesff.load(base).finetune(labelled_frames(6), tmp_path / "run", **(TINY | options))


def test_options_come_from_toml_and_settings(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('strategy = "head"\n[optimizer]\nlr = 0.5\n[labels]\nforces = "f"\n')
    options = read_options(path, parse_settings(("optimizer.patience=3", "labels.energy=E")))
    assert options.strategy == "head"
    assert (options.optimizer.lr, options.optimizer.patience) == (0.5, 3)
    assert options.optimizer.ema_decay == FinetuneOptions().optimizer.ema_decay
    assert options.labels == {"forces": "f", "energy": "E"}
    assert options_from(options.changed()) == options
    with pytest.raises(ConfigError, match="must be KEY=VALUE"):
        parse_settings(("lr",))
    with pytest.raises(ConfigError, match="does not exist"):
        read_options(tmp_path / "none.toml", {})


def test_given_energies_are_used(base, tmp_path):
    given = {"H": -13.0, "O": -430.0}
    options = TINY | {"energies": "given", "given_energies": given}
    better = lesff.load(base).finetune(
        labelled_frames(6), tmp_path / "run", progress=False, **options
    )
    assert better.config.reference_energies == pytest.approx((-13.0, -430.0), abs=1e-9)


def test_frames_without_forces_or_energies_are_masked(base, tmp_path):
    frames = labelled_frames(8)
    del frames[0].calc.results["forces"]
    del frames[1].calc.results["energy"]
    crystal = triclinic_ice()
    crystal.calc = SinglePointCalculator(crystal, energy=-1.0)
    lesff.load(base).finetune([*frames, crystal], tmp_path / "run", progress=False, **TINY)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["steps"] == 12


def test_early_stopping_counts_validations(base, tmp_path):
    """Labels are the base model's own: nothing can become better."""
    options = TINY | {
        "optimizer": TINY["optimizer"] | {"patience": 2, "validate_every": 1, "lr": 0.5}
    }
    lesff.load(base).finetune(labelled_frames(6, seed=0), tmp_path / "run", progress=False,
             **options)  # fmt: skip
    assert json.loads((tmp_path / "run" / "report.json").read_text())["steps"] == 2


def test_another_run_in_the_same_folder_is_refused(base, tmp_path):
    frames = labelled_frames(6)
    lesff.load(base).finetune(frames, tmp_path / "run", progress=False, **TINY)
    with pytest.raises(IntegrityError, match="written by another recipe or data set"):
        lesff.load(base).finetune(frames[:-1], tmp_path / "run", progress=False, **TINY)


def test_the_command_prints_what_was_found(base, tmp_path):
    ase.io.write(tmp_path / "data.xyz", labelled_frames(8))
    settings = [f"--set=optimizer.{k}={v}" for k, v in TINY["optimizer"].items()]
    result = CliRunner().invoke(
        main,
        ["finetune", str(tmp_path / "data.xyz"), "-m", str(base), "-o", str(tmp_path / "run"),
         "--strategy", "head", "--set", "checks_units=false", "--set", "max_atoms=9", *settings],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "forces from key `forces`, 8 frames, in eV/A" in result.output
    assert "split: 7 train, 1 validation, 0 test" in result.output
    assert "report.html" in result.output


def launch(base, folder, *, max_steps, processes=1, accumulate=2):
    """The command of a small run."""
    options = TINY["optimizer"] | {"max_steps": max_steps, "accumulate": accumulate}
    arguments = [
        "finetune", str(folder.parent / "data.xyz"), "-m", str(base), "-o", str(folder),
        "--threads", "1", "--set", "checks_units=false", "--set", "max_atoms=9",
        *(f"--set=optimizer.{k}={v}" for k, v in options.items()),
    ]  # fmt: skip
    python = "from lesff.cli import main; main()"
    if processes == 1:
        return [sys.executable, "-c", python, *arguments]
    script = folder.parent / "launch.py"
    script.write_text(python + "\n")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *torchrun, str(script), *arguments]


def environment():
    root = Path(lesff.__file__).parents[1]
    return os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


def finish(command):
    """Run a command to its end."""
    done = subprocess.run(  # noqa: S603 - our own command
        command, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_killed_runs_end_with_the_same_weights(base, tmp_path):
    """Three kills at any moment; the weights equal those of a run that was left alone."""
    ase.io.write(tmp_path / "data.xyz", labelled_frames(10))
    finish(launch(base, tmp_path / "straight", max_steps=60))
    command = launch(base, tmp_path / "killed", max_steps=60)
    state = tmp_path / "killed" / "state.safetensors"
    for kill in range(3):
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before = state.stat().st_mtime_ns if state.exists() else 0
        for _ in range(6000):
            if process.poll() is not None:
                break
            if state.exists() and state.stat().st_mtime_ns > before:
                time.sleep(0.05 * kill)
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert state.exists()
    finish(command)
    straight, killed = (weights(tmp_path / name / "model") for name in ("straight", "killed"))
    for name, value in straight.items():
        torch.testing.assert_close(killed[name], value, rtol=0, atol=0)
    logs = [(tmp_path / n / "log.jsonl").read_text().splitlines() for n in ("straight", "killed")]
    steps = [[json.loads(line)["step"] for line in log] for log in logs]
    assert steps[0] == steps[1]


@pytest.mark.slow
def test_two_processes_equal_one(base, tmp_path):
    ase.io.write(tmp_path / "data.xyz", labelled_frames(10))
    for name, processes in (("one", 1), ("two", 2)):
        finish(launch(base, tmp_path / name, max_steps=8, processes=processes))
    one, two = (weights(tmp_path / name / "model") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-9, atol=1e-12)


def test_accumulation_must_fit_the_processes(base, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    options = TINY | {"optimizer": TINY["optimizer"] | {"accumulate": 3}}
    with pytest.raises(ConfigError, match=r"multiple of the number of processes \(2\), got 3"):
        lesff.load(base).finetune(labelled_frames(6), tmp_path / "run", **options)


def test_a_full_disk_keeps_the_last_resume_point(base, tmp_path, monkeypatch):
    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lesff.train.resume.save_file", no_space)
    with pytest.raises(DataError, match="resume point .* cannot be written .*No space left"):
        lesff.load(base).finetune(labelled_frames(6), tmp_path / "run", progress=False, **TINY)
    assert not (tmp_path / "run" / "model").exists()
    assert not list((tmp_path / "run").glob(f".*{UNFINISHED}"))


@pytest.mark.slow
def test_charge_labels_are_learned(base, tmp_path):
    """With a loss on charges the charges of the teacher are approached."""
    frames = labelled_frames(10)
    for atoms in frames:
        q = np.where(atoms.numbers == 8, -0.4, 0.2)
        atoms.arrays["charges"] = q
    options = TINY | {"loss": {"charges": 10.0, "dipole": 1.0}}
    options["optimizer"] = options["optimizer"] | {"max_steps": 60, "validate_every": 20}
    lesff.load(base).finetune(frames, tmp_path / "run", progress=False, **options)
    table = json.loads((tmp_path / "run" / "report.json").read_text())["errors"]["validation"][
        "all"
    ]
    assert table["finetuned"]["charges_rmse"] < 0.5 * table["base"]["charges_rmse"]


def test_born_charges_train_with_double_backward(base):
    """The gradient of a loss on Born charges by finite differences."""
    from lesff.train.gradients import accumulate_gradients
    from lesff.train.loss import LossConfig

    frames, _ = read_labelled(labelled_frames(2))
    rng = np.random.default_rng(0)
    frames = [
        replace(f, born_effective_charges=rng.normal(size=(len(f.structure), 3, 3))) for f in frames
    ]
    potential = load_model(base).requires_grad_(requires_grad=True)
    batch = make_batch(frames, potential.architecture.cutoff, torch.float64)
    loss = LossConfig(kind="mse", energy=0.0, forces=0.0, born_effective_charges=1.0)
    parameter = potential.architecture.embedding
    accumulate_gradients(potential, batch, loss, "double_backward")
    slope = float(parameter.grad.view(-1)[1])
    values = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            parameter.view(-1)[1] += sign * 1e-5
        values.append(accumulate_gradients(potential, batch, loss, "double_backward"))
        with torch.no_grad():
            parameter.view(-1)[1] -= sign * 1e-5
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-9)
