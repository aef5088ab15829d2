"""Architectures from outside: registered in a process or by an installed package."""

import importlib
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from labelled_frames import write_frames

from lesff.architectures import ARCHITECTURES, Architecture, find_architecture
from lesff.architectures.registry import ENTRY_POINTS, register_architecture
from lesff.atoms.graph import build_graph
from lesff.errors import ConfigError, ContractError
from lesff.finetune import FinetuneOptions
from lesff.finetune.start import make_trainables, part_of
from lesff.model_folder.folder import load_model, save_model
from lesff.potential.config import ModelConfig
from lesff.potential.potential import Potential
from lesff.testing import check_architecture
from lesff.train.data import read_frames
from lesff.train.recipe import RecipeModel
from lesff.train.training_data import TrainingData, model_config

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture(autouse=True)
def clean_table():
    before = dict(ARCHITECTURES)
    yield
    ARCHITECTURES.clear()
    ARCHITECTURES.update(before)
    # the next to import it registers it again
    sys.modules.pop("toy_architecture", None)


@pytest.fixture
def toy(monkeypatch):
    """Module of the tutorial, its architecture registered."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("toy_architecture")
    register_architecture("toy", module.ToyConfig)(module.Toy)
    return module


@dataclass(frozen=True, kw_only=True)
class SmallConfig:
    cutoff: float = 3.0
    channels: int = 4


class Small(Architecture):
    pass


def small_model(**architecture):
    return ModelConfig(architecture=architecture, elements=(1, 8), reference_energies=(0.0, 0.0))


def saved_toy(folder):
    potential = Potential(small_model(type="toy", channels=4))
    save_model(potential, folder, card="# Toy\n", license_text="MIT\n")
    return folder


@pytest.mark.parametrize("options", [{}, {"n_layers": 1, "channels": 3}, {"n_layers": 3}])
def test_the_toy_keeps_the_contract(toy, options):
    found = check_architecture(toy.ToyConfig, toy.Toy, {"cutoff": 3.2, "channels": 5} | options)
    assert all(f.error < 0.2 * f.tolerance for f in found)
    assert {"edges beyond the cutoff", "node state", "planned steps"} <= {f.promise for f in found}


def test_a_registered_architecture_is_saved_and_loaded(toy, tmp_path):
    folder = saved_toy(tmp_path / "model")
    assert isinstance(load_model(folder).architecture, toy.Toy)


def test_a_class_may_be_registered_again(toy):
    again = importlib.reload(toy)
    assert find_architecture("toy") == (again.ToyConfig, again.Toy)


@pytest.mark.parametrize("name", ["", "Toy", "a b", "../x", "1st", "x" * 65, None, 3])
def test_names_are_names(name):
    with pytest.raises(ConfigError, match="`name` must be lower-case letters"):
        register_architecture(name, SmallConfig)


@pytest.mark.parametrize("name", ["mace", "nequip", "aimnet2", "toy"])
def test_names_are_not_taken_from_others(toy, name):
    with pytest.raises(ConfigError, match=f"must be one that is free, got '{name}'"):
        register_architecture(name, SmallConfig)(Small)
    assert find_architecture(name)[1] is not Small


def test_configurations_are_frozen_dataclasses_with_cutoff_and_channels():
    @dataclass
    class Thawed:
        cutoff: float = 3.0
        channels: int = 4

    @dataclass(frozen=True)
    class Narrow:
        cutoff: float = 3.0

    for bad in (Thawed, dict, 3, SmallConfig()):
        with pytest.raises(ConfigError, match="must be a frozen dataclass, got"):
            register_architecture("small", bad)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="without channels: add a field or a property"):
        register_architecture("small", Narrow)
    with pytest.raises(ContractError, match="without channels"):
        check_architecture(Narrow, Small)


@pytest.mark.parametrize("bad", [dict, torch.nn.Linear, lambda config, elements: None])
def test_only_architectures_are_registered(bad):
    with pytest.raises(ConfigError, match="must be a subclass of"):
        register_architecture("small", SmallConfig)(bad)


@pytest.mark.parametrize("name", ["toys", None, 3, ["mace"]])
def test_unknown_types_say_what_to_do(name):
    with pytest.raises(ConfigError, match="must be one of aimnet2, .*install the package"):
        small_model(type=name)


def test_strategies_train_the_parts_that_the_class_names(toy):
    potential = Potential(small_model(type="toy", channels=4))
    for strategy, moved in (
        ("head", {"readouts"}),
        ("last_layer", {"readouts", "layers.1"}),
        ("full", {"readouts", "layers.0", "layers.1", "embedding"}),
    ):
        names = make_trainables(potential, FinetuneOptions(strategy=strategy)).named()
        rest = {name.removeprefix("architecture.") for name in names}
        assert all(any(name.startswith(part) for part in moved) for name in rest)
        assert all(any(name.startswith(part) for name in rest) for part in moved)


@pytest.mark.parametrize(
    ("attribute", "value", "strategy"),
    [
        ("readout_names", ("outputs",), "head"),
        ("readout_names", ("readout",), "lora"),
        ("layers_name", "blocks", "last_layer"),
    ],
)
def test_strategies_refuse_parts_that_are_not_there(toy, monkeypatch, attribute, value, strategy):
    potential = Potential(small_model(type="toy", channels=4))
    monkeypatch.setattr(toy.Toy, attribute, value)
    with pytest.raises(ConfigError, match=f"no weights named .*; set `{attribute}` of the class"):
        make_trainables(potential, FinetuneOptions(strategy=strategy))
    assert make_trainables(potential, FinetuneOptions()).named()


def test_readouts_of_our_architectures_are_readouts():
    """The last weights of AIMNet2 are a network `energy`, its layers are `passes`."""
    aimnet2, mace = (ARCHITECTURES[name][1] for name in ("aimnet2", "mace"))
    name = "architecture.energy.layers.0.weight"
    assert part_of(name, aimnet2.readout_names) == "readout"  # pyright: ignore[reportFunctionMemberAccess]
    assert part_of(name, mace.readout_names) == "trunk"  # pyright: ignore[reportFunctionMemberAccess]


def test_recipes_fill_in_what_the_configuration_has(toy, tmp_path):
    """`cutoff` may be left to its default, and nothing is filled in that there is no field for."""

    @dataclass(frozen=True, kw_only=True)
    class PlainConfig:
        cutoff: float = 3.0
        channels: int = 4

    write_frames(tmp_path / "train.xyz")
    data = TrainingData(train=read_frames(tmp_path / "train.xyz"), validation=[], recipe_hash="")
    made = model_config(RecipeModel(architecture={"type": "toy"}), data, {})
    edges, atoms = 0, 0
    for frame in data.train:
        edges += build_graph(frame.structure, toy.ToyConfig().cutoff).n_edges
        atoms += len(frame.structure)
    assert made.architecture["avg_num_neighbors"] == pytest.approx(edges / atoms, abs=1e-3)
    register_architecture("plain", PlainConfig)(Small)
    made = model_config(RecipeModel(architecture={"type": "plain"}), data, {})
    assert made.architecture == {"type": "plain"}


# --- packages ----------------------------------------------------------------------------------


def install(folder, value="toy_architecture", module=None, name="toy"):
    """What pip leaves behind: metadata with an entry point, and a module."""
    info = folder / "lesff_toy-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lesff-toy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{name} = {value}\n")
    text = (EXAMPLES / "toy_architecture.py").read_text() if module is None else module
    (folder / f"{value.partition(':')[0]}.py").write_text(text)
    return folder


def run_python(code, *path):
    """Output of a new process, which has registered nothing."""
    places = [str(p) for p in path] + [os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    return done.stdout + done.stderr


LOAD = """
import sys, lesff
from lesff.cli import main
lesff.load("off-small")
print("toy_architecture" in sys.modules)
try:
    print(type(lesff.load({folder!r}).potential.architecture))
except lesff.ConfigError as error:
    print("refused:", error)
main(["info", {folder!r}])
"""


@pytest.mark.slow
def test_an_installed_package_is_found_when_its_name_is_asked_for(toy, tmp_path):
    code = LOAD.format(folder=str(saved_toy(tmp_path / "model")))
    without = run_python(code)
    assert "refused: `architecture.type` must be one of aimnet2" in without
    assert "error: `architecture.type` must be one of aimnet2" in without.lower()
    assert "Traceback" not in without
    with_package = run_python(code, install(tmp_path / "site"))
    # nothing is imported before the name is asked for
    assert with_package.startswith("False\n<class 'toy_architecture.Toy'>")
    assert "forces, stress" in with_package


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("1 / 0", "must be imported, but entry point toy = toy_broken of the package "
         "lesff-toy 0.1 fails with ZeroDivisionError"),
        ("import no_such_module", "fails with ModuleNotFoundError: No module named"),
        ("x = 1", r"must be registered by entry point toy = toy_broken .*"
         r"needs @register_architecture\('toy'"),
    ],
)  # fmt: skip
def test_packages_that_bring_nothing_are_named(tmp_path, monkeypatch, module, message):
    monkeypatch.syspath_prepend(str(install(tmp_path, "toy_broken", module)))
    monkeypatch.delitem(sys.modules, "toy_broken", raising=False)
    with pytest.raises(ConfigError, match=message):
        find_architecture("toy")


def test_names_of_packages_are_listed_for_an_unknown_one(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(install(tmp_path, "toy_other", "x = 1", name="other")))
    with pytest.raises(ConfigError, match="must be one of aimnet2, mace, nequip, other"):
        find_architecture("toys")


def test_the_tutorial_says_the_entry_point():
    page = (EXAMPLES.parent / "tutorials" / "architecture.md").read_text()
    table = page.split("```toml\n")[1].split("```")[0]
    entries = tomllib.loads(table)["project"]["entry-points"]
    assert entries == {ENTRY_POINTS: {"toy": "toy_architecture"}}
