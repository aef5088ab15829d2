"""Recipes of several stages: reading, lock of the data, running, resuming."""

import hashlib
import json
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from helpers import tiny_potential
from labelled_frames import RECIPE, write_frames

from lesff.cli.main import main
from lesff.errors import ConfigError, DataError, IntegrityError
from lesff.files import sha256_of
from lesff.model_folder.folder import load_model, save_model
from lesff.train.average import average_weights
from lesff.train.chain import ChainRun, run_stages
from lesff.train.data_lock import read_data_lock
from lesff.train.recipe import read_recipe
from lesff.train.run import run_recipe
from lesff.train.stages import read_stages, select_stages
from lesff.train.trainer import Trainer

RECIPES = Path(__file__).parents[1] / "recipes"
FOLDERS = sorted(path.parent for path in RECIPES.glob("*/stages"))

SECOND = """
from = "01-first"
extends = "01-first.toml"
why = "Slower."
name = "second"
seed = 1
[optimizer]
lr = 0.01
max_steps = 6
"""


INHERITS = 'from = "01-first"\nextends = "01-first.toml"\n'
"""What the second stage takes from the first."""


@pytest.fixture
def folder(tmp_path):
    """Recipe folder `tiny` of two stages beside its data folder `data`."""
    recipe = tmp_path / "tiny"
    (recipe / "stages").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    data = write_frames(tmp_path / "data" / "train.xyz", 4)
    table = '[data.sources]\n"train.xyz" = {}\n"later.xyz" = false\n'
    text = RECIPE.format(max_steps=4, validate_every=2).replace('name = "tiny"', "")
    text = text.replace('sources = [{ path = "train.xyz" }]', "")
    (recipe / "base.toml").write_text(text + table)
    first = 'extends = "../base.toml"\nwhy = "Fresh."\nname = "first"\n'
    (recipe / "stages" / "01-first.toml").write_text(first)
    (recipe / "stages" / "02-second.toml").write_text(SECOND)
    write_lock(recipe, train=data)
    return recipe


def write_lock(recipe, **files):
    rows = ""
    for path in files.values():
        rows += (
            f'[[file]]\nname = "{path.name}"\nbytes = {path.stat().st_size}\n'
            f'sha256 = "{sha256_of(path)}"\norigin = "a test"\nlicense = "none"\n'
        )
    (recipe / "data.lock.toml").write_text(rows)


def chain(recipe, output, **options):
    """Run of the tiny recipe, and the lines that it reports."""
    lines = []
    run = ChainRun(
        recipe=recipe,
        data=recipe.parent / "data",
        output=output,
        find_model=options.pop("find_model", None),
        report=lines.append,
        progress=False,
        **options,
    )
    return run, lines


def weights(model):
    return load_model(model).state_dict()


def assert_same_weights(one, other):
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, rtol=0, atol=0)


def edit(folder, stage, old, new):
    path = folder / "stages" / f"{stage}.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_only_what_differs_is_written_down(folder):
    """The second stage has the data of the first, and neither its model nor its name."""
    first, second = read_stages(folder)
    assert (first.start, second.start) == (None, "01-first")
    assert first.recipe.model is not None
    assert second.recipe.model is None
    assert second.recipe.data == first.recipe.data
    assert (first.recipe.seed, second.recipe.seed) == (0, 1)
    assert (second.recipe.optimizer.lr, second.recipe.optimizer.warmup_steps) == (0.01, 1)
    assert read_recipe(folder / "stages" / "02-second.toml") == second.recipe


def test_files_keep_the_order_of_the_base(folder):
    base = (folder / "base.toml").read_text()
    more = '"a.xyz" = { fraction = 0.5 }\n"b.xyz" = { weight = 2.0 }\n'
    (folder / "base.toml").write_text(base + more)
    changes = '[data.sources]\n"later.xyz" = {}\n"a.xyz" = { weight = 3.0 }\n"b.xyz" = false\n'
    edit(folder, "02-second", "[optimizer]", changes + "[optimizer]")
    first, second = (stage.recipe.data.sources for stage in read_stages(folder))
    assert [source.path for source in first] == ["train.xyz", "a.xyz", "b.xyz"]
    assert [source.path for source in second] == ["train.xyz", "later.xyz", "a.xyz"]
    assert (second[2].weight, second[2].fraction) == (3.0, 0.5)


def test_a_chain_is_its_runs_one_by_one(folder, tmp_path):
    """Same weights as two runs by hand; a second time nothing is trained."""
    run, lines = chain(folder, tmp_path / "run")
    stages = read_stages(folder)
    model = run_stages(stages, run)
    assert lines == ["[1/2] 01-first: Fresh.", "[2/2] 02-second: Slower."]
    data = tmp_path / "data"
    first = run_recipe(stages[0].recipe, data, tmp_path / "one", progress=False)
    second = run_recipe(stages[1].recipe, data, tmp_path / "two", start=first, progress=False)
    assert_same_weights(model, second)
    record = json.loads((tmp_path / "run" / "02-second" / "stage.json").read_text())
    assert record["data"] == {"train.xyz": sha256_of(data / "train.xyz")}
    assert record["start"] == [sha256_of(first / "model.safetensors")]
    assert record["model"] == sha256_of(second / "model.safetensors")
    assert record["unlocked"] == []
    before = (model / "model.safetensors").stat().st_mtime_ns
    run, lines = chain(folder, tmp_path / "run")
    run_stages(stages, run)
    assert [line.startswith("  done before") for line in lines] == [False, True] * 2
    assert (model / "model.safetensors").stat().st_mtime_ns == before


def test_an_interrupted_chain_goes_on(folder, tmp_path, monkeypatch):
    """Stopped in the second stage: the first is not trained again, the end is the same."""
    stages = read_stages(folder)
    straight = run_stages(stages, chain(folder, tmp_path / "straight")[0])
    step = Trainer._step

    def interrupted(trainer, batches):
        if trainer.recipe.name == "second" and trainer.progress.step == 3:
            raise KeyboardInterrupt
        return step(trainer, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_stages(stages, chain(folder, tmp_path / "run")[0])
    assert not (tmp_path / "run" / "02-second" / "model").exists()
    run, lines = chain(folder, tmp_path / "run")
    resumed = run_stages(stages, run)
    assert lines[1].startswith("  done before")
    assert len(lines) == 3
    assert_same_weights(straight, resumed)


def test_a_finished_stage_whose_model_is_damaged_is_made_again(folder, tmp_path):
    """From its resume point, without a step more."""
    stages = select_stages(read_stages(folder), until="01-first")
    model = run_stages(stages, chain(folder, tmp_path / "run")[0]) / "model.safetensors"
    content = model.read_bytes()
    model.write_bytes(content[:-8])
    run, lines = chain(folder, tmp_path / "run")
    run_stages(stages, run)
    assert lines == ["[1/1] 01-first: Fresh."]
    assert model.read_bytes() == content


def test_stages_are_chosen(folder, tmp_path):
    stages = read_stages(folder)
    run, _ = chain(folder, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"stage 02-second needs 01-first, which .* not hold fin"):
        run_stages(select_stages(stages, only="02-second"), run)
    run_stages(select_stages(stages, until="01-first"), run)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["01-first"]
    run_stages(select_stages(stages, only="02-second"), run)
    assert (tmp_path / "run" / "02-second" / "model").is_dir()
    with pytest.raises(ConfigError, match="must be one of 01-first, 02-second, got 03-third"):
        select_stages(stages, until="03-third")
    with pytest.raises(ConfigError, match="exclude each other"):
        select_stages(stages, until="01-first", only="01-first")


def test_changed_data_are_refused_or_recorded(folder, tmp_path):
    stages = select_stages(read_stages(folder), until="01-first")
    data = tmp_path / "data" / "train.xyz"
    expected = sha256_of(data)
    write_frames(data, 3)
    run, _ = chain(folder, tmp_path / "run")
    with pytest.raises(IntegrityError, match=f"train.xyz must have sha256 {expected}") as caught:
        run_stages(stages, run)
    assert sha256_of(data) in str(caught.value)
    assert not (tmp_path / "run").exists()
    run, lines = chain(folder, tmp_path / "run", unlocked=True)
    run_stages(stages, run)
    assert lines[0].startswith(f"not as locked: {data} must have sha256 {expected}")
    record = json.loads((tmp_path / "run" / "01-first" / "stage.json").read_text())
    assert record["unlocked"] == ["train.xyz"]
    assert record["data"] == {"train.xyz": sha256_of(data)}
    write_frames(data, 4)
    with pytest.raises(IntegrityError, match=r"was made with another data \(train.xyz\)"):
        run_stages(stages, chain(folder, tmp_path / "run")[0])


def test_a_changed_recipe_is_not_mixed_with_an_older_run(folder, tmp_path):
    run, _ = chain(folder, tmp_path / "run")
    run_stages(read_stages(folder), run)
    edit(folder, "02-second", "lr = 0.01", "lr = 0.005")
    with pytest.raises(IntegrityError, match="02-second was made with another recipe"):
        run_stages(read_stages(folder), run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[file]]\nname = "a"\nsha256 = "12"\norigin = ""\nlicense = ""', "64 lower-case hex"),
        ('[[file]]\nname = "a"\nsha256 = "unknown"\norigin = ""\nlicense = ""', "say `made_by`"),
        ('[[file]]\nname = "a"\n', r"lacks the key\(s\)"),
        ("[[file]\n", "data.lock.toml"),
    ],
)
def test_bad_locks_are_named(folder, text, message):
    (folder / "data.lock.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_data_lock(folder / "data.lock.toml")


def test_files_without_a_hash_are_said_to_be(folder, tmp_path):
    """Unknown is not the same as equal: a line says so, and the run records the bytes."""
    row = '[[file]]\nname = "train.xyz"\nsha256 = "unknown"\norigin = "a"\nlicense = "b"\n'
    (folder / "data.lock.toml").write_text(row + 'made_by = "make frames"\n')
    stages = select_stages(read_stages(folder), until="01-first")
    run, lines = chain(folder, tmp_path / "run")
    run_stages(stages, run)
    assert "train.xyz: the lock has no sha256; that of this file is recorded" in lines
    (tmp_path / "data" / "train.xyz").unlink()
    with pytest.raises(DataError, match=r"train.xyz does not exist; it is made by: make frames"):
        run_stages(stages, run)


def test_a_recipe_without_lock_is_refused(folder, tmp_path):
    (folder / "data.lock.toml").unlink()
    with pytest.raises(ConfigError, match=r"data\.lock\.toml is missing"):
        run_stages(read_stages(folder), chain(folder, tmp_path / "run")[0])
    (folder / "data.lock.toml").write_text("file = []\n")
    with pytest.raises(IntegrityError, match=r"train.xyz must have a row in the lock, got none"):
        run_stages(read_stages(folder), chain(folder, tmp_path / "run")[0])


@pytest.mark.parametrize(
    ("stage", "old", "new", "message"),
    [
        ("02-second", INHERITS, "", "must have a `model` section for fresh weights"),
        ("02-second", '"01-first"', '"03-third"', r"earlier stage \(01-first\) or a model NAME@V"),
        ("02-second", '"01-first.toml"', '"02-second.toml"', "02-second.toml -> 02-second.toml"),
        ("01-first", '"../base.toml"', '"02-second.toml"', "02-second.toml -> 01-first.toml"),
        ("01-first", '"../base.toml"', '"none.toml"', r"none.toml, which .* extends, does n"),
        ("02-second", "lr = 0.01", "rate = 0.01", r"02-second.toml: .*unknown key\(s\) rate"),
        ("02-second", 'why = "Slower."', 'because = "x"', r"lacks the key\(s\) why"),
        ("02-second", 'why = "Slower."', 'why = " "', "`why` must say in a sentence"),
        ("02-second", "seed = 1", "seed = 1\nspeed = 1", r"unknown key\(s\) speed"),
        ("02-second", "seed = 1", "seed = 1\nprocesses = 0", "`processes` must be at least 1"),
        ("02-second", "[optim", '[data.sources]\n"train.xyz" = 1\n[optim', "or false to leave the"),
        ("01-first", "why", 'from = "a@1.0.0"\nmodel = {}\nwhy', "must not have a `model` section"),
    ],
)  # fmt: skip
def test_bad_stages_are_named(folder, stage, old, new, message):
    edit(folder, stage, old, new)
    with pytest.raises(ConfigError, match=message):
        read_stages(folder)


def test_a_folder_without_stages_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"must hold stages/\*\.toml"):
        read_stages(tmp_path)


def test_a_stage_goes_on_from_a_named_model(folder, tmp_path):
    """Its folder is asked for by name, and its hash is recorded."""
    base = tmp_path / "base"
    save_model(tiny_potential(head="shifted"), base, card="# Base\n", license_text="none\n")
    edit(folder, "02-second", '"01-first"', '"base@1.0.0"')
    asked = []

    def find_model(name):
        asked.append(name)
        return base

    run, _ = chain(folder, tmp_path / "run", find_model=find_model)
    run_stages(select_stages(read_stages(folder), only="02-second"), run)
    assert set(asked) == {"base@1.0.0"}
    record = json.loads((tmp_path / "run" / "02-second" / "stage.json").read_text())
    assert record["start"] == [sha256_of(base / "model.safetensors")]


AVERAGE = """
from = "02-second"
why = "Both."
[average]
earlier = "01-first"
share = 0.25
"""


def test_a_stage_averages_two_others(folder, tmp_path):
    path = folder / "stages" / "03-average.toml"
    path.write_text(AVERAGE)
    model = run_stages(read_stages(folder), chain(folder, tmp_path / "run")[0])
    one, two = (weights(tmp_path / "run" / n / "model") for n in ("01-first", "02-second"))
    for name, value in weights(model).items():
        torch.testing.assert_close(value, torch.lerp(one[name], two[name], 0.25))
    for old, new, message in (
        ("share = 0.25", "share = 1.5", "must be between 0 and 1, got 1.5"),
        ('earlier = "01-first"', 'earlier = "09-none"', "must be earlier stages"),
        ('why = "Both."', 'why = "Both."\nseed = 3', "trains nothing and must not have seed"),
    ):
        path.write_text(AVERAGE.replace(old, new))
        with pytest.raises(ConfigError, match=message):
            read_stages(folder)


def test_a_stage_that_tools_make_says_how_and_is_not_trained(tmp_path):
    """What is in the repository: mat-large, of which `lesff train` names the commands."""
    stages = read_stages(RECIPES / "mat-large")
    for stage in stages:
        assert stage.recipe is None
        assert stage.start == "nequix-oam-1-pft@1.0.0"
    assert [s.notes.released for s in stages] == ["mat-large@1.0.0", "mat-large@1.1.0"]
    command = ["train", str(RECIPES / "mat-large"), "--data", str(tmp_path), "-o"]
    for more in ([], ["--dry-run"]):
        result = CliRunner().invoke(main, [*command, str(tmp_path / "run"), *more])
        assert result.exit_code == 1
        assert "stage 01-born-head must be made by its tools" in result.output
        assert "python tools/born_head.py TRUNK" in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('why = "W."\n', "`from` of a stage with `made_by` must be a model NAME@VERSION"),
        ('why = "W."\nfrom = "01-first"\n', "must be a model NAME@VERSION, got '01-first'"),
        ('why = "W."\nfrom = "a@1.0.0"\nseed = 1\n', "trains nothing and must not have seed"),
        (
            'why = "W."\nfrom = "a@1.0.0"\n[calibration]\nfraction = 0.5\n',
            "must have no `average` or `calibration`",
        ),
    ],
)
def test_a_stage_of_tools_that_says_more_is_refused(folder, text, message):
    path = folder / "stages" / "03-tools.toml"
    path.write_text('made_by = ["python tool.py"]\n' + text)
    with pytest.raises(ConfigError, match=message):
        read_stages(folder)


def test_models_with_other_weights_are_not_averaged():
    small, large = tiny_potential(head="shifted"), tiny_potential(head=None)
    with pytest.raises(ConfigError, match="must have the same weights, got charge_head"):
        average_weights(small, large, 0.5)


def test_the_command_runs_a_chain(folder, tmp_path):
    """Dry run, one stage, the rest; options of the other kind of recipe are refused."""

    def train(*arguments):
        result = CliRunner().invoke(
            main, ["train", str(folder), "--data", str(tmp_path / "data"), *arguments]
        )
        return result.exit_code, result.output

    run = ["-o", str(tmp_path / "run")]
    code, text = train("--dry-run")
    assert code == 0
    assert "frames: 4" in text
    assert "not tried: 01-first, which it goes on from, is not trained yet" in text
    assert train("--until", "01-first", *run)[0] == 0
    code, text = train(*run)
    assert code == 0
    assert "[2/2] 02-second: Slower." in text
    assert "done before" in text
    code, text = train("--from", "model", *run)
    assert code == 2
    assert "stages say what they go on from" in text
    file = str(folder / "stages" / "01-first.toml")
    arguments = ["train", file, "--data", "x", "--only", "a", *run]
    assert "are for a recipe folder" in CliRunner().invoke(main, arguments).output
    code, text = train("--only", "05-none", *run)
    assert code == 1
    assert "Error: the stage must be one of 01-first, 02-second, got 05-none" in text


def said(value):
    """A configuration as plain data without what equals the default."""
    if is_dataclass(value):
        given = {}
        for field in fields(value):
            default = field.default
            if field.default_factory is not MISSING:
                default = field.default_factory()
            if getattr(value, field.name) != default:
                given[field.name] = said(getattr(value, field.name))
        return given
    if isinstance(value, (tuple, list)):
        return [said(item) for item in value]
    if isinstance(value, dict):
        return {key: said(item) for key, item in value.items()}
    return value


def test_recipes_are_those_that_the_models_were_trained_with():
    """Hashes of the flat recipe files that stages replaced: what was run does not change."""
    found = {}
    for folder in FOLDERS:
        for stage in read_stages(folder):
            if stage.recipe is not None:
                text = json.dumps(said(stage.recipe), sort_keys=True)
                found[f"{folder.name}/{stage.name}"] = hashlib.sha256(text.encode()).hexdigest()
    assert found == json.loads((Path(__file__).parent / "recipes.json").read_text())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_lock_has_every_file_of_a_recipe(folder):
    lock = read_data_lock(folder / "data.lock.toml")
    stages = read_stages(folder)
    files = {n for stage in stages for n in (*stage.data_files(), *stage.calibration_files())}
    assert files <= set(lock)


@pytest.mark.parametrize(
    "name", ["off-small", "off-medium", "spice-cluster", "mat-small", "mat-medium"]
)
def test_the_last_model_of_a_recipe_is_calibrated(name):
    """On the files that it was trained on; an average on those of the stage it averages."""
    stages = read_stages(RECIPES / name)
    last = stages[-1]
    assert last.calibration is not None
    trained = last if last.recipe is not None else next(s for s in stages if s.name == last.start)
    assert set(last.calibration_files()) == set(trained.data_files())
    for stage in stages[:-1]:
        assert (stage.calibration is not None) == (stage.notes.released is not None)


def test_frames_of_the_repository_are_as_locked():
    for folder in FOLDERS:
        for row in read_data_lock(folder / "data.lock.toml").values():
            path = RECIPES / "frames" / row.name
            if path.exists():
                assert (row.sha256, row.bytes) == (sha256_of(path), path.stat().st_size)
