"""Training data: shards, labels, sources of recipes."""

import hashlib
import json
import runpy
import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from helpers import two_waters, water
from labelled_frames import RECIPE, labelled, write_frames

from lesff.atoms.batching import shuffled_batches
from lesff.errors import ConfigError, DataError
from lesff.train.data import read_frames, read_labelled
from lesff.train.recipe import SourceConfig, identity, read_recipe
from lesff.train.reference_energies import fit_reference_energies
from lesff.train.run import dry_run, run_recipe
from lesff.train.stages import read_stages
from lesff.train.training_data import TrainingData, read_training_data

TOOLS = Path(__file__).parents[1] / "tools"


def test_npz_shard_round_trip(tmp_path):
    path = tmp_path / "shard.npz"
    numbers = np.array([8, 1, 1, 1, 9], dtype=np.uint8)
    np.savez(
        path,
        n=np.array([3, 2], dtype=np.uint16),
        numbers=numbers,
        positions=np.arange(15, dtype=np.float32).reshape(5, 3),
        forces=np.ones((5, 3), dtype=np.float32),
        energy=np.array([-1.5, 2.0]),
        charge=np.array([0, -1], dtype=np.int8),
        valid=np.array([False, True]),
        group=np.array([b"water", b"hf"]),
    )
    first, second = read_frames(path)
    assert (first.energy, first.group, first.is_validation) == (-1.5, "water", False)
    assert (second.structure.total_charge, second.is_validation) == (-1, True)
    np.testing.assert_array_equal(second.structure.positions, [[9, 10, 11], [12, 13, 14]])


def shard_with_weights(path, weights):
    """Two atoms on their own, with weights."""
    np.savez(
        path,
        n=np.ones(2, dtype=np.uint16),
        numbers=np.ones(2, dtype=np.uint8),
        positions=np.zeros((2, 3)),
        forces=np.zeros((2, 3)),
        energy=np.zeros(2),
        spin_multiplicity=np.full(2, 2, dtype=np.uint8),
        weight=np.array(weights),
    )
    return path


def test_frames_of_a_shard_have_weights(tmp_path):
    path = shard_with_weights(tmp_path / "shard.npz", [0.25, 2.0])
    assert [frame.weight for frame in read_frames(path, weight=4.0)] == [1.0, 8.0]
    shard_with_weights(path, [0.25, -1.0])
    with pytest.raises(DataError, match=r"frame 1: `weight` must be a number of at least 0"):
        read_frames(path)


def test_merged_shards_have_weights_by_spread(tmp_path):
    """Half at a spread of 0.12 eV/A, one without a spread; shares thin at random."""
    tool = runpy.run_path(str(TOOLS / "data" / "merged.py"))
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 4, size=1000)
    arrays = {
        "n": counts.astype(np.uint16),
        "numbers": np.repeat(np.arange(1000) % 8 + 1, counts).astype(np.uint8),
        "positions": rng.normal(size=(counts.sum(), 3)),
        "forces": rng.normal(size=(counts.sum(), 3)),
        "energy": np.arange(1000.0),
    }
    np.savez(tmp_path / "one.npz", **arrays)
    np.savez(tmp_path / "two.npz", spread=np.full(1000, 0.12), **arrays)
    found = tool["thinned"](tmp_path / "one.npz", 0.3, rng, 3)
    # 1000 draws: six standard errors
    assert len(found["n"]) == pytest.approx(300, abs=87)
    starts = np.cumsum(counts) - counts
    for energy, stop, n in zip(found["energy"], np.cumsum(found["n"]), found["n"], strict=True):
        i = int(energy)
        rows = slice(starts[i], starts[i] + counts[i])
        np.testing.assert_array_equal(found["forces"][stop - n : stop], arrays["forces"][rows])
    np.testing.assert_array_equal(found["weight"], 1.0)
    found = tool["thinned"](tmp_path / "two.npz", 1.0, rng, 2)
    np.testing.assert_array_equal(found["energy"], np.flatnonzero(counts <= 2))
    assert len(found["positions"]) == found["n"].sum() == counts[counts <= 2].sum()
    found = tool["thinned"](tmp_path / "two.npz", 1.0, rng, 3)
    assert len(found["n"]) == 1000
    np.testing.assert_allclose(found["weight"], 0.5, rtol=1e-6)


def test_merged_shards_leave_groups_out(tmp_path, monkeypatch, capsys):
    shard = shard_with_weights(tmp_path / "shard.npz", [1.0, 1.0])
    arrays = dict(np.load(shard))
    np.savez(shard, **arrays | {"group": np.array([b"CO2", b"N2"]), "energy": np.arange(2.0)})
    tool = runpy.run_path(str(TOOLS / "data" / "merged.py"))
    command = ["merged.py", str(shard), "-o", str(tmp_path / "out.npz"), "--without-groups"]
    monkeypatch.setattr("sys.argv", [*command, "CO2"])
    tool["main"]()
    assert [frame.group for frame in read_frames(tmp_path / "out.npz")] == ["N2"]
    monkeypatch.setattr("sys.argv", [*command, "CO"])
    with pytest.raises(SystemExit):
        tool["main"]()
    assert "must name groups of the files, got CO" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"n": np.array([1])}, r"lacks the array\(s\) numbers, positions, energy, forces"),
        (
            {
                "n": np.array([2]),
                "numbers": np.ones(1),
                "positions": np.zeros((1, 3)),
                "energy": np.zeros(1),
                "forces": np.zeros((1, 3)),
            },
            "`n` sums to 2, but there are 1 atoms",
        ),
    ],
)
def test_bad_shards_are_named(tmp_path, content, text):
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(DataError, match=text):
        read_frames(tmp_path / "bad.npz")


def test_frames_without_labels_are_named(tmp_path):
    ase.io.write(tmp_path / "plain.xyz", water())
    with pytest.raises(DataError, match="frame 0: no energy and no forces"):
        read_frames(tmp_path / "plain.xyz")
    with pytest.raises(DataError, match="does not exist"):
        read_frames(tmp_path / "none.xyz")


def test_reference_energies_are_recovered(tmp_path):
    """Energies made of atomic ones are explained exactly."""
    frames = read_frames(write_frames(tmp_path / "train.xyz", 2))
    single = {1: -0.5, 8: -75.0}
    exact = [replace(f, energy=sum(single[z] for z in f.structure.numbers)) for f in frames]
    hydrogen = replace(
        exact[0],
        structure=replace(exact[0].structure, numbers=np.array([1, 1, 1, 1, 1, 1])),
        energy=-3.0,
    )
    fitted = fit_reference_energies([*exact, hydrogen], (1, 8))
    np.testing.assert_allclose(fitted, (-0.5, -75.0), atol=1e-5)


def test_batches_visit_every_frame_once_within_the_limit():
    sizes = np.array([3, 50, 4, 9, 30, 2, 8, 7])
    batches = list(shuffled_batches(sizes, max_atoms=20, rng=np.random.default_rng(0)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(8))
    assert all(sizes[b].sum() <= 20 or len(b) == 1 for b in batches)


def test_labels_that_are_not_finite_are_named(tmp_path):
    ase.io.write(tmp_path / "bad.xyz", [labelled(water(), 0), labelled(water(), 1, energy=np.nan)])
    with pytest.raises(DataError, match="frame 1, `energy`: labels must be finite"):
        read_frames(tmp_path / "bad.xyz")


def write_recipe(tmp_path, source, *, is_second_stage=False):
    """A recipe of one step with a source."""
    path = tmp_path / "recipe.toml"
    text = RECIPE.format(max_steps=1, validate_every=1).replace('{ path = "train.xyz" }', source)
    if is_second_stage:
        text = text[: text.index("[model]")] + text[text.index("[data]") :]
    path.write_text(text)
    return path


def run_source(tmp_path, source, **options):
    """One step with a source; what the run says it came from."""
    path = write_recipe(tmp_path, source, is_second_stage="start" in options)
    run_recipe(read_recipe(path), tmp_path, tmp_path / "run", progress=False, **options)
    return json.loads((tmp_path / "run" / "origin.json").read_text())


def test_sources_are_filtered_and_recorded(tmp_path):
    frames = [labelled(water(), 0), labelled(two_waters(), 1)]
    frames.append(labelled(ase.Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]), 2))
    ase.io.write(tmp_path / "train.xyz", frames)
    ase.io.write(tmp_path / "held.xyz", [labelled(water()[[2, 0, 1]], 3)])
    source = '{ path = "train.xyz", elements = ["H", "O"], without = "held.xyz" }'
    origin = run_source(tmp_path, source)
    digest = hashlib.sha256((tmp_path / "train.xyz").read_bytes()).hexdigest()
    assert origin["data"] == [{"path": "train.xyz", "sha256": digest, "frames": 1, "left_out": 2}]
    assert origin["recipe"]["seed"] == 0
    assert origin["software"]["torch"] == version("torch")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ('elements = ["Q"]', "`elements` of train.xyz must be chemical symbols, got Q"),
        ('elements = ["Fe"]', "leave no frame"),
        ('without = "train.xyz"', "leave no frame"),
        ('without = "absent.xyz"', "absent.xyz does not exist"),
        ("energy_states = [[0, 1], [1, 1]]", r"got \(1, 1\) \(total charge, spin multiplicity\)"),
    ],
)
def test_bad_filters_are_named(options, text, tmp_path):
    write_frames(tmp_path / "train.xyz")
    with pytest.raises(DataError, match=text):
        run_source(tmp_path, f'{{ path = "train.xyz", {options} }}')


def test_energies_of_other_states_do_not_count(tmp_path):
    """A wrong zero of charged frames changes nothing: not the atomic terms, not the loss."""
    neutral, ion = labelled(two_waters(), 0), labelled(two_waters(), 1)
    ion.info["charge"] = 1
    found = []
    for shift in (0.0, 10.0):
        energy = ion.get_potential_energy() + shift
        ion.calc = SinglePointCalculator(ion, energy=energy, forces=ion.get_forces())
        ase.io.write(tmp_path / "train.xyz", [neutral, ion])
        source = '{ path = "train.xyz", energy_states = [[0, 1]] }'
        path = write_recipe(tmp_path, source)
        data = read_training_data(read_recipe(path), tmp_path)
        assert [np.isnan(frame.energy) for frame in data.train] == [False, True]
        assert np.isfinite(data.train[1].forces).all()
        found.append(dry_run(read_recipe(path), tmp_path))
    assert found[0]["loss_of_a_batch"] == found[1]["loss_of_a_batch"]
    # each term of the loss alone
    assert {n for n in found[0] if n.startswith("gradient_")} == {
        "gradient_energy",
        "gradient_forces",
    }
    assert all(found[0][f"gradient_{n}"] > 0.0 for n in ("energy", "forces"))


def test_sources_without_energies(tmp_path):
    frames = read_frames(write_frames(tmp_path / "train.xyz", 3))
    path = write_recipe(tmp_path, '{ path = "train.xyz", energies = false }')
    data = read_training_data(read_recipe(path), tmp_path)
    assert all(np.isnan(frame.energy) for frame in data.train)
    for frame, label in zip(data.train, frames, strict=True):
        np.testing.assert_array_equal(frame.forces, label.forces)
    write_recipe(tmp_path, '{ path = "train.xyz", energies = false, energy_states = [[0, 1]] }')
    with pytest.raises(ConfigError, match="`energy_states` of train.xyz must be left out where"):
        read_recipe(path)


def test_sources_of_which_only_electrons_count(tmp_path):
    """Wrong labels change nothing; the flags reach the frames."""
    losses = []
    for factor in (1.0, 50.0):
        wrong = labelled(two_waters(), 1)
        results = {
            "energy": factor * wrong.get_potential_energy(), "forces": factor * wrong.get_forces(),
        }  # fmt: skip
        wrong.calc = SinglePointCalculator(wrong, **results)
        ase.io.write(tmp_path / "wrong.xyz", [wrong])
        ase.io.write(tmp_path / "train.xyz", [labelled(two_waters(), 0)])
        path = write_recipe(
            tmp_path,
            '{ path = "train.xyz", closed_shells = false }, '
            '{ path = "wrong.xyz", only_counts = true }',
        )
        with pytest.raises(ConfigError, match="of wrong.xyz needs `loss.charge_guess`"):
            read_recipe(path)
        text = path.read_text() + "\n[loss]\ncharge_guess = 1.0\n"
        path.write_text(text.replace("[model]", "[model]\nlocal_state = true"))
        data = read_training_data(read_recipe(path), tmp_path)
        assert [frame.labels() for frame in data.train] == [("energy", "forces", "dipole"), ()]
        assert [frame.is_closed for frame in data.train] == [False, True]
        losses.append(dry_run(read_recipe(path), tmp_path)["loss_of_a_batch"])
    assert losses[0] == losses[1]
    write_recipe(tmp_path, '{ path = "train.xyz", only_counts = true, energies = false }')
    with pytest.raises(ConfigError, match="of train.xyz must be left out where `only_counts`"):
        read_recipe(path)


def test_bonds_on_their_way_apart_count_as_closed_shells(tmp_path):
    """O-H of water at 1.4, 2.0 and 2.3 sums of covalent radii (0.97 A); 2.2 is asked for."""
    frames = []
    for share in (1.4, 2.0, 2.3):
        atoms = labelled(water(), 0)
        atoms.set_distance(0, 1, 0.97 * share, fix=0)
        frames.append(labelled(atoms, 1))
    ase.io.write(tmp_path / "train.xyz", frames)
    within = '{ path = "train.xyz", closed_shells = false, closed_within = 2.2 }'
    path = write_recipe(tmp_path, within)
    data = read_training_data(read_recipe(path), tmp_path)
    assert [frame.is_closed for frame in data.train] == [True, True, False]
    path = write_recipe(tmp_path, '{ path = "train.xyz", closed_shells = false }')
    data = read_training_data(read_recipe(path), tmp_path)
    assert not any(frame.is_closed for frame in data.train)
    for bad in ("closed_within = 2.2", "closed_shells = false, closed_within = -1.0"):
        write_recipe(tmp_path, f'{{ path = "train.xyz", {bad} }}')
        with pytest.raises(ConfigError, match="`closed_within` of train.xyz"):
            read_recipe(path)


def test_options_that_a_recipe_lacks_do_not_change_its_hash(tmp_path):
    """A new option with its default leaves runs resumable; a value that differs does not."""
    said = read_recipe(write_recipe(tmp_path, '{ path = "train.xyz", fraction = 1.0 }'))
    left = read_recipe(write_recipe(tmp_path, '{ path = "train.xyz" }'))
    other = read_recipe(write_recipe(tmp_path, '{ path = "train.xyz", fraction = 2.0 }'))
    assert identity(said) == identity(left) != identity(other)

    @dataclass(frozen=True, kw_only=True)
    class Later(SourceConfig):
        added: tuple[int, ...] = ()

    source = left.data.sources[0]
    assert identity(Later(path="train.xyz")) == identity(source)
    assert identity(Later(path="train.xyz", added=(1,))) != identity(source)


def test_parts_are_those_of_composites(tmp_path):
    path = write_recipe(tmp_path, '{ path = "train.xyz" }')
    path.write_text(path.read_text() + "\n[loss]\npart_states = 1.0\n")
    with pytest.raises(ConfigError, match="`loss.part_states` needs `data.composites`"):
        read_recipe(path)


def test_fractions_are_mean_visits_of_an_epoch(tmp_path):
    frames = read_frames(write_frames(tmp_path / "train.xyz", 2))
    data = TrainingData(
        train=frames * 500, validation=[], recipe_hash="", fractions=[2.5, 0.25] * 500
    )
    visits = np.bincount(np.concatenate(data.epoch(0, 1, 100)), minlength=1000)
    assert set(visits[::2]) == {2, 3}
    assert set(visits[1::2]) == {0, 1}
    # means of 500 draws: six standard errors
    assert visits[::2].mean() == pytest.approx(2.5, abs=0.14)
    assert visits[1::2].mean() == pytest.approx(0.25, abs=0.12)


def test_elements_that_the_start_lacks_are_named(tmp_path):
    write_frames(tmp_path / "train.xyz")
    run_source(tmp_path, '{ path = "train.xyz" }')
    (tmp_path / "run" / "model").rename(tmp_path / "start")
    shutil.rmtree(tmp_path / "run")
    ase.io.write(tmp_path / "train.xyz", [labelled(ase.Atoms("CH", [[0, 0, 0], [0, 0, 1]]), 2)])
    with pytest.raises(DataError, match="elements C, which the model to go on from lacks"):
        run_source(tmp_path, '{ path = "train.xyz" }', start=tmp_path / "start")


RECIPES = Path(__file__).parents[1] / "recipes"
FRESH = [
    stage
    for path in sorted(RECIPES.glob("*/stages"))
    for stage in read_stages(path.parent)
    if stage.start is None
]
"""Stages that start a model."""


@pytest.mark.parametrize("stage", FRESH, ids=lambda stage: stage.recipe.name)
def test_recipes_run_dry(stage, tmp_path):
    """Every stage that starts a model, with two frames for each of its files."""
    recipe = stage.recipe
    frames = [labelled(water(), 0), labelled(two_waters(), 1)]
    for source in recipe.data.sources:
        write_shard(tmp_path / source.path, frames, has_cells=recipe.loss.stress > 0.0)
    found = dry_run(recipe, tmp_path)
    assert found["frames"] == 2 * len(recipe.data.sources)
    assert found["elements"] == "H O"
    assert found["parameters"] > 1000
    assert np.isfinite(found["loss_of_a_batch"])
    assert {p.name for p in tmp_path.iterdir()} == {s.path for s in recipe.data.sources}


def write_shard(path, frames, *, has_cells=False):
    """Frames with all labels that the loss of a molecular or a crystalline model may ask for."""
    n = [len(atoms) for atoms in frames]
    arrays = {
        "n": n,
        "energy": [atoms.get_potential_energy() for atoms in frames],
        "numbers": np.concatenate([atoms.numbers for atoms in frames]),
        "positions": np.concatenate([atoms.positions for atoms in frames]),
        "forces": np.concatenate([atoms.get_forces() for atoms in frames]),
    }
    if has_cells:
        cells = np.tile(9.0 * np.eye(3), (len(n), 1, 1))
        arrays |= {"cell": cells, "stress": 1e-3 * cells}
        arrays |= {"born_effective_charges": np.zeros((sum(n), 3, 3))}
    else:
        arrays |= {"dipole": np.full((len(n), 3), 0.2)}
    np.savez(path, **arrays)


def test_a_loss_without_labels_is_refused(tmp_path):
    """As in finetuning: a misspelt key of a label would otherwise train nothing, in silence."""
    write_frames(tmp_path / "train.xyz")
    path = write_recipe(tmp_path, '{ path = "train.xyz" }')
    path.write_text(path.read_text() + "\n[loss]\nborn_effective_charges = 0.5\n")
    text = (
        r"`loss.born_effective_charges` is 0\.5, but no training frame has born_effective_charges"
    )
    with pytest.raises(DataError, match=text):
        dry_run(read_recipe(path), tmp_path)


def test_a_label_of_nan_throughout_is_none(tmp_path):
    """A shard may have systems with and without a label; part of a label is an error."""
    frames = [labelled(water(), 0), labelled(two_waters(), 1)]
    write_shard(tmp_path / "a.npz", frames)
    data = dict(np.load(tmp_path / "a.npz"))
    data["dipole"] = np.array([[np.nan] * 3, [0.1, 0.2, 0.3]])
    np.savez(tmp_path / "a.npz", **data)
    found, summary = read_labelled(tmp_path / "a.npz")
    assert [frame.dipole is None for frame in found] == [True, False]
    assert summary.found["dipole", "dipole"] == 1
    data["dipole"][0, 0] = 0.1
    np.savez(tmp_path / "a.npz", **data)
    with pytest.raises(DataError, match="frame 0: labels must be finite, got NaN"):
        read_labelled(tmp_path / "a.npz")
