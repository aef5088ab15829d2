"""Uncertainty: its algebra, its file, calibration, out-of-domain reasons, selection."""

import json
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from click.testing import CliRunner
from helpers import (
    make_graph,
    random_rotation,
    tiny_potential,
    transformed,
    triclinic_ice,
    two_waters,
    water,
)

import lesff
from lesff.atoms.structure import to_structure
from lesff.cli.main import main
from lesff.errors import (
    ConfigError,
    DataError,
    ExtrapolationWarning,
    IntegrityError,
    PropertyError,
)
from lesff.hub.signatures import digest_of
from lesff.model_folder.folder import load_model, save_model
from lesff.model_folder.layout import UNCERTAINTY_FILE
from lesff.model_folder.verify import verify_parity
from lesff.potential.edit import with_head
from lesff.train.data import Frame, read_labelled, unlabelled
from lesff.uncertainty.agreement import rank_correlation
from lesff.uncertainty.calibration import calibrate, frame_features
from lesff.uncertainty.selection import select_frames

ORGANIC = Path(__file__).parents[1] / "docs" / "examples" / "acetamide_water.xyz"


def frames_of(potential, count, *, seed=0, spread=0.06, noise=0.05):
    """Waters and dimers labelled by the model itself, with noise."""
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(count):
        atoms = (water() if index % 2 else two_waters()).copy()
        atoms.positions += rng.normal(scale=spread, size=atoms.positions.shape)
        out = potential(make_graph(atoms), ["energy", "forces"])
        frames.append(
            Frame(
                structure=to_structure(atoms),
                energy=float(out["energy"][0]) + noise * rng.normal() * len(atoms) ** 0.5,
                forces=out["forces"].numpy() + noise * rng.normal(size=(len(atoms), 3)),
            )
        )
    return frames


@pytest.fixture(scope="module")
def calibrated():
    """Tiny potential with exact force uncertainties."""
    potential = tiny_potential(head="shifted")
    train, validation = frames_of(potential, 40), frames_of(potential, 20, seed=1)
    potential.uncertainty, _ = calibrate(potential, train, validation, directions=10**6)
    return potential


@pytest.fixture(scope="module")
def folder(calibrated, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "calibrated"
    card = "---\nname: tiny\nlicense: MIT\n---\nTiny.\n"
    save_model(calibrated, path, card=card, license_text="Yours.\n")
    return path


def test_the_energy_is_linear_in_the_features():
    potential = tiny_potential(head=None)
    rows = torch.stack([
        potential.architecture.last_layer_features(
            potential.energy_terms(make_graph(atoms)).invariants
        ).sum(0)
        for atoms in (water(), two_waters(), triclinic_ice())
    ])  # fmt: skip
    first, last = list(potential.architecture.readouts.layers)  # pyright: ignore[reportGeneralTypeIssues]
    weights = torch.cat([
        first.weight[:, 0] * first.weight.shape[0] ** -0.5, last.weight_2[:, 0] * last.scale
    ])  # fmt: skip
    energy = potential.config.energy_scale * rows @ weights
    for value, atoms in zip(energy, (water(), two_waters(), triclinic_ice()), strict=True):
        reference = sum(-1.5 * z for z in atoms.numbers)
        found = potential(make_graph(atoms), ["energy"])["energy"]
        assert float(value) + reference == pytest.approx(float(found), abs=1e-10)


def test_uncertainties_are_those_of_bayesian_linear_regression(calibrated):
    """sigma^2 = alpha^2 x^T (X^T X + ridge)^-1 x, forces with x the finite-difference gradient."""
    train = frames_of(calibrated, 40)
    rows = frame_features(calibrated, train).numpy()
    covariance = rows.T @ rows
    ridge = 1e-6 * np.linalg.eigvalsh(covariance)[-1]
    inverse = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
    alpha = float(calibrated.uncertainty.energy_scale)

    def summed(atoms):
        frame = unlabelled(to_structure(atoms))
        return frame_features(calibrated, [frame])[0].numpy() * len(atoms) ** 0.5

    atoms = two_waters()
    out = calibrated(make_graph(atoms), ["energy_uncertainty", "forces_uncertainty"])
    x = summed(atoms)
    assert float(out["energy_uncertainty"][0]) == pytest.approx(
        alpha * np.sqrt(x @ inverse @ x), rel=1e-6
    )
    ratios = []
    for a in (0, 4):
        variance = 0.0
        for k in range(3):
            ends = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[a, k] += sign * 1e-4
                ends.append(summed(moved))
            slope = (ends[0] - ends[1]) / 2e-4
            variance += slope @ inverse @ slope / 3
        ratios.append(float(out["forces_uncertainty"][a]) / np.sqrt(variance))
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-5)  # the scale of forces


def test_scale_makes_the_mean_square_ratio_one():
    potential = tiny_potential(head="shifted")
    _, result = calibrate(potential, frames_of(potential, 30), frames_of(potential, 30, seed=1))
    assert result.energy_z == pytest.approx(1.0, abs=1e-9)
    assert result.forces_z == pytest.approx(1.0, abs=1e-9)
    assert result.energy_rmse == pytest.approx(0.05 * 4.5**0.5, rel=0.35)
    assert result.n_unknown <= 1


def test_uncertainties_do_not_change_under_rotation(calibrated, generator):
    names = ["energy_uncertainty", "forces_uncertainty", "novelty"]
    before = calibrated(make_graph(two_waters()), names)
    turned = transformed(two_waters(), random_rotation(generator))
    after = calibrated(make_graph(turned), names)
    for name in names:
        torch.testing.assert_close(before[name], after[name], rtol=1e-7, atol=1e-9)


def test_file_round_trip_and_parity(folder, calibrated, tmp_path):
    model = lesff.load(folder)
    report = verify_parity(folder)
    assert report.ok
    assert report.uncertainty_error == 0.0
    p = model.predict(two_waters(), ["energy", "uncertainty"])
    expected = calibrated(make_graph(two_waters()), ["energy_uncertainty"])
    assert p.energy_uncertainty == float(expected["energy_uncertainty"][0])
    assert p.forces_uncertainty.shape == (6,)
    again = model.save(tmp_path / "again")
    for file in (UNCERTAINTY_FILE, "parity.safetensors"):
        assert (again / file).read_bytes() == (folder / file).read_bytes()
    assert digest_of(again) == digest_of(folder)
    (again / UNCERTAINTY_FILE).unlink()
    assert digest_of(again) != digest_of(folder)


def test_an_uncertainty_of_other_weights_is_refused(folder, tmp_path):
    other = lesff.load(folder).save(tmp_path / "other")
    save_model(tiny_potential(head="shifted", seed=5), tmp_path / "new", card="", license_text="")
    (other / "model.safetensors").write_bytes((tmp_path / "new/model.safetensors").read_bytes())
    with pytest.raises(IntegrityError, match="calibrated for other weights"):
        load_model(other)
    potential = load_model(folder)
    next(potential.parameters()).data += 1.0
    with pytest.raises(ConfigError, match="must belong to these weights"):
        save_model(potential, tmp_path / "changed", card="", license_text="")


def test_another_head_has_no_uncertainty_yet(calibrated):
    assert with_head(calibrated, "qeq").uncertainty is None
    assert calibrated.uncertainty is not None


def test_a_model_without_uncertainty_says_how_to_get_one(tmp_path):
    save_model(tiny_potential(), tmp_path / "m", card="", license_text="")
    model = lesff.load(tmp_path / "m")
    with pytest.raises(PropertyError, match="lesff calibrate NAME --train FILE"):
        model.predict(water(), "uncertainty")
    p = model.predict(water())
    with pytest.raises(PropertyError, match="out_of_domain"):
        _ = p.out_of_domain


def test_out_of_domain_reasons(folder):
    model = lesff.load(folder)
    assert model.predict(two_waters(), "novelty").out_of_domain == ()
    stretched = water()
    stretched.positions[1] = stretched.positions[0] + [1.6, 0.0, 0.0]
    with pytest.warns(ExtrapolationWarning, match="structure 1 is outside"):
        known, broken = model.predict([two_waters(), stretched], "uncertainty").out_of_domain
    assert known == ()
    assert broken[0].startswith("geometry: the surroundings of")
    with pytest.warns(ExtrapolationWarning, match="total charge 1 never seen"):
        ion = model.predict(water(), "novelty", total_charge=1).out_of_domain
    assert ion[0] == "total charge 1 never seen (seen: 0)"
    assert ion[1] == "spin multiplicity 2 never seen (seen: 1)"
    # molecules in a box are known by their surroundings; what ends where crystals go on is not
    uncertainty = model.potential.uncertainty
    ice = to_structure(triclinic_ice())
    assert uncertainty.state_reasons(ice) == ()
    uncertainty.seen = uncertainty.seen | {"periodic_directions": (3,)}
    assert uncertainty.state_reasons(ice) == ()
    reasons = uncertainty.state_reasons(to_structure(water()))
    assert reasons == ("pbc: molecules never seen (seen: crystals)",)


def test_unseen_element_is_infinitely_novel():
    potential = tiny_potential(head="shifted", elements=(1, 6, 8))
    potential.uncertainty, _ = calibrate(
        potential, frames_of(potential, 20), frames_of(potential, 12, seed=1)
    )
    atoms = water()
    atoms.numbers[0] = 6
    novelty = potential(make_graph(atoms), ["novelty"])["novelty"].numpy()
    assert np.isinf(novelty[0])
    reasons = potential.uncertainty.reasons(to_structure(atoms), novelty)
    assert reasons[0] == "element C never seen"


def test_stretched_molecules_are_less_certain_with_a_released_model():
    """On off-small: the further from equilibrium, the larger both uncertainties and novelty."""
    model = lesff.load("off-small")
    start = ase.io.read(ORGANIC)
    rng = np.random.default_rng(2)

    def near(count, spread):
        frames = []
        for _ in range(count):
            atoms = start.copy()
            atoms.positions += rng.normal(scale=spread, size=atoms.positions.shape)
            frames.append(atoms)
        return frames

    atoms = near(40, 0.03)
    labels = model.predict(atoms, ["energy", "forces"])
    frames = [
        Frame(
            structure=to_structure(a),
            energy=e + rng.normal(scale=0.01),
            forces=f + rng.normal(scale=0.03, size=f.shape),
        )
        for a, e, f in zip(atoms, labels.energy, labels.forces, strict=True)
    ]
    model.potential.uncertainty, _ = calibrate(model.potential, frames[:25], frames[25:])
    with warnings.catch_warnings():  # 25 frames do not show all that is usual
        warnings.simplefilter("ignore", ExtrapolationWarning)
        known = model.predict(near(6, 0.03), "uncertainty")
    with pytest.warns(ExtrapolationWarning, match="6 of 6 structures"):
        far = model.predict(near(6, 0.25), "uncertainty")
    assert np.median(far.energy_uncertainty) > 2.0 * np.median(known.energy_uncertainty)
    assert np.median([f.max() for f in far.forces_uncertainty]) > 2.0 * np.median(
        [f.max() for f in known.forces_uncertainty]
    )
    assert all(far.out_of_domain)
    assert sum(bool(reasons) for reasons in known.out_of_domain) <= 2


def test_bad_calibration_data():
    potential = tiny_potential(head="shifted")
    train, validation = frames_of(potential, 12), frames_of(potential, 12, seed=1)
    with pytest.raises(DataError, match="at least 10 validation frames"):
        calibrate(potential, train, validation[:3])
    with pytest.raises(DataError, match="training frames must be given"):
        calibrate(potential, [], validation)
    with pytest.raises(DataError, match="are training frames too"):
        calibrate(potential, train, [*validation, train[2]])
    moved = [
        Frame(structure=f.structure, energy=f.energy + 50.0 * len(f.structure), forces=f.forces)
        for f in validation
    ]
    with pytest.raises(DataError, match="another energy zero"):
        calibrate(potential, train, moved)
    with pytest.raises(DataError, match="must have energy and forces"):
        calibrate(potential, train, [unlabelled(f.structure) for f in validation])
    with pytest.raises(DataError, match="were they labelled by it"):
        calibrate(potential, train, frames_of(potential, 12, seed=1, noise=0.0))


def test_rank_correlation_against_scipy():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 40).astype(float), rng.normal(size=40)
    assert rank_correlation(a, b) == pytest.approx(float(spearmanr(a, b)[0]), abs=1e-12)
    assert np.isnan(rank_correlation(a, np.ones(40)))


def test_selection_never_takes_copies_and_beats_random(calibrated):
    rng = np.random.default_rng(4)
    frames = [
        unlabelled(f.structure)
        for spread in (0.05, 0.1, 0.2)
        for f in frames_of(calibrated, 14, seed=9, spread=spread)
    ]
    copies = []
    for i in range(10):  # turned and shifted copies of the first frame
        atoms = transformed(
            ase.Atoms(frames[0].structure.numbers, frames[0].structure.positions),
            random_rotation(torch.Generator().manual_seed(i)),
        )
        atoms.positions += rng.normal(size=3)
        copies.append(unlabelled(to_structure(atoms)))
    every = frames + copies
    found = select_frames(calibrated, every, 12)
    assert found == select_frames(calibrated, every, 12)
    same = {0, *range(len(frames), len(every))}
    assert len(same & set(found.chosen)) <= 1
    assert len(set(found.chosen)) == 12
    assert found.n_different == len(frames)
    rows = frame_features(calibrated, every).numpy()
    uncertainty = calibrated.uncertainty
    rows = rows @ (uncertainty.energy_root / uncertainty.energy_scale).numpy()

    def remaining(chosen):
        information = np.eye(rows.shape[1]) + rows[chosen].T @ rows[chosen]
        return np.mean(np.einsum("si,ij,sj->s", rows, np.linalg.inv(information), rows))

    random = [remaining(rng.permutation(len(every))[:12]) for _ in range(50)]
    assert found.mean_after == pytest.approx(remaining(list(found.chosen)), rel=1e-6)
    assert found.mean_after < np.min(random)


def test_selection_says_what_is_wrong(calibrated):
    frames = [unlabelled(f.structure) for f in frames_of(calibrated, 4)]
    with pytest.raises(DataError, match="at most the number of frames \\(4\\)"):
        select_frames(calibrated, frames, 5)
    with pytest.raises(DataError, match="different frames, which is 4 of 8"):
        select_frames(calibrated, frames * 2, 5)
    bare = tiny_potential(head="shifted")
    with pytest.raises(PropertyError, match="without-calibration"):
        select_frames(bare, frames, 2)
    assert len(select_frames(bare, frames, 2, without_calibration=True).chosen) == 2


def labelled_file(path, frames):
    images = []
    for frame in frames:
        atoms = ase.Atoms(frame.structure.numbers, frame.structure.positions)
        atoms.info["my_tag"] = f"frame {len(images)}"
        atoms.info["REF_dipole"] = np.array([0.1, 0.2, 0.3 * len(images)])
        atoms.calc = SinglePointCalculator(atoms, energy=frame.energy, forces=frame.forces)
        images.append(atoms)
    ase.io.write(path, images, format="extxyz")
    return images


def test_commands(tmp_path):
    base = tiny_potential(head="shifted")
    save_model(base, tmp_path / "base", card="# Tiny\n", license_text="Yours.\n")
    labelled_file(tmp_path / "train.xyz", frames_of(base, 16))
    labelled_file(tmp_path / "val.xyz", frames_of(base, 12, seed=1))
    run = CliRunner().invoke
    train, validation = str(tmp_path / "train.xyz"), str(tmp_path / "val.xyz")
    out = run(main, [
        "calibrate", str(tmp_path / "base"), "--train", train, "--validation", validation,
        "--test", validation, "-o", str(tmp_path / "cal"), "--json", str(tmp_path / "c.json"),
    ])  # fmt: skip
    assert out.exit_code == 0, out.output
    assert "rank correlation" in out.output
    table = json.loads((tmp_path / "c.json").read_text())
    assert table["test"] == table["validation"]
    assert "## Uncertainty" in lesff.load(tmp_path / "cal").card
    select = ["select", train, "-n", "5", "-m", str(tmp_path / "cal"), "-o"]
    out = run(main, [*select, str(tmp_path / "s.extxyz")])
    assert out.exit_code == 0, out.output
    chosen, whole = (ase.io.read(p, ":") for p in (tmp_path / "s.extxyz", train))
    assert len(chosen) == 5
    for atoms in chosen:
        twin = whole[atoms.info["selected_frame"]]
        assert atoms.info["my_tag"] == twin.info["my_tag"]
        assert atoms.get_potential_energy() == twin.get_potential_energy()
        np.testing.assert_array_equal(atoms.get_forces(), twin.get_forces())
        np.testing.assert_array_equal(atoms.info["REF_dipole"], twin.info["REF_dipole"])
    out = run(main, [*select, str(tmp_path / "s.npz")])
    assert "must end in .extxyz" in out.output


def test_finetuning_with_uncertainty(tmp_path):
    base = tiny_potential(head="shifted")
    save_model(base, tmp_path / "base", card="# Tiny\n", license_text="Yours.\n")
    images = labelled_file(
        tmp_path / "t.xyz", frames_of(tiny_potential(head="shifted", seed=3), 30)
    )
    assert len(read_labelled(images)[0]) == 30
    model = lesff.load(tmp_path / "base").finetune(images, tmp_path / "run", progress=False,
        optimizer={"max_steps": 4, "validate_every": 2}, split={"validation": 0.4},
        checks_units=False, uncertainty=True,
    )  # fmt: skip
    assert model.predict(water(), "uncertainty").energy_uncertainty > 0.0
    assert verify_parity(tmp_path / "run" / "model").ok
