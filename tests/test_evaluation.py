"""The evaluation suite: its pure parts on cases solved by hand, one check end to end."""

import json
from collections import Counter
from types import SimpleNamespace

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data.s22 import s22
from ase.io import read, write
from click.testing import CliRunner
from helpers import tiny_potential

import lesff
from lesff.atoms.structure import to_structure
from lesff.cli import main
from lesff.errors import (
    ConfigError,
    ConvergenceError,
    DataError,
    MissingDependencyError,
    UnsupportedInputError,
)
from lesff.evaluation.checks import reactions
from lesff.evaluation.checks.dynamics import density_of, liquid_box
from lesff.evaluation.checks.frames import relative_errors
from lesff.evaluation.checks.interactions import complex_of
from lesff.evaluation.checks.long_range import aligned_pair, tail_exponent
from lesff.evaluation.checks.reactions import REACTIONS, balance, reference
from lesff.evaluation.checks.solids import (
    SOLIDS,
    check_born,
    compare_solids,
    crystal,
    equation_of_state,
)
from lesff.evaluation.checks.states import at_donor, formate
from lesff.evaluation.checks.torsions import TORSIONS, roughness
from lesff.evaluation.checks.water_clusters import HEXAMERS, build, dimer, hydrogen_bonds
from lesff.evaluation.molecules import add_proton, molecules_of
from lesff.evaluation.relaxation import relaxed, zero_point_energy
from lesff.evaluation.results import CheckResult, NotCoveredError, SuiteFile
from lesff.evaluation.suite import CHECKS, Check, find_checks, run_suite
from lesff.methods import ModelMethod, open_baseline
from lesff.model_folder.folder import save_model
from lesff.train.data import Frame
from lesff.train.metrics import FramePrediction
from lesff.train.splits import split_by_molecule
from lesff.units import COULOMB_CONSTANT, DALTON, EV_PER_A3_TO_GPA, EV_TO_KCAL_PER_MOL, HBAR

LABELS = [("a", f"a{i}") for i in range(10)] * 2 + [("b", f"b{i}") for i in range(5)]


def test_the_same_share_of_every_subset_is_held_out():
    split = split_by_molecule(LABELS, 0.4)
    assert split.counts["a"] == {
        "train_molecules": 6,
        "validation_molecules": 4,
        "train_frames": 12,
        "validation_frames": 8,
    }
    assert split.counts["b"]["validation_molecules"] == 2


def test_shards_are_divided_by_reduced_formula(tmp_path):
    """NaCl and Na2Cl2 stay together, in both files; other arrays stay as they are."""
    cells = {"a": ["NaCl", "Na2Cl2", "MgO", "KBr"], "b": ["Cl2Na2", "LiF", "CaO"]}
    for name, formulas in cells.items():
        numbers = [ase.Atoms(f).numbers for f in formulas]
        n = sum(map(len, numbers))
        np.savez(
            tmp_path / f"{name}.npz",
            n=[len(z) for z in numbers], numbers=np.concatenate(numbers),
            energy=np.zeros(len(numbers)), positions=np.ones((n, 3)), forces=np.full((n, 3), 2.0),
        )  # fmt: skip
    files = [str(tmp_path / f"{name}.npz") for name in cells]
    out = CliRunner().invoke(
        main,
        ["split", *files, "--by", "composition", "--validation", "0.4", "-o", str(tmp_path / "o")],
    )
    assert out.exit_code == 0, out.output
    held = {}
    for name, formulas in cells.items():
        with np.load(tmp_path / "o" / f"{name}.npz") as file:
            np.testing.assert_array_equal(file["forces"], 2.0)
            for formula, valid in zip(formulas, file["valid"], strict=True):
                held.setdefault("".join(sorted(set(formula) - set("2"))), set()).add(bool(valid))
    assert all(len(marks) == 1 for marks in held.values())
    assert sum(marks == {True} for marks in held.values()) == 2  # 40 % of five formulas
    record = json.loads((tmp_path / "o" / "split.json").read_text())
    assert record["file"] == ["a.npz", "b.npz"]
    assert len(record["validation"]) == 2
    again = CliRunner().invoke(
        main, ["split", *files, "--by", "prototype", "-o", str(tmp_path / "p")]
    )
    assert "has no array 'prototype'" in again.output
    assert not (tmp_path / "p").exists()


def test_the_split_depends_on_names_only():
    split = split_by_molecule(LABELS, 0.4)
    assert split_by_molecule(list(reversed(LABELS)), 0.4) == split
    # first ranks of the SHA-256 of b0 ... b4, from coreutils' sha256sum
    assert [name for name in split.validation if name[0] == "b"] == ["b2", "b4"]


def test_a_molecule_of_two_subsets_stays_on_one_side():
    both = [("a", "shared"), ("b", "shared"), ("a", "x"), ("b", "y"), ("b", "z")]
    counts = split_by_molecule(both, 0.5).counts
    assert counts["b"]["train_molecules"] + counts["b"]["validation_molecules"] == 3
    n_a, n_b = counts["a"]["validation_frames"], counts["b"]["validation_frames"]
    assert n_a + n_b == (3 if split_by_molecule(both, 0.5).holds_out("shared") else 2)


def test_a_split_that_leaves_nothing_is_refused():
    with pytest.raises(DataError, match="between 0 and 1"):
        split_by_molecule(LABELS, 1.0)
    with pytest.raises(DataError, match="1 molecules cannot be divided"):
        split_by_molecule([("a", "a0")], 0.4)


def test_split_command_keeps_labels_and_molecules_apart(tmp_path):
    frames = []
    for index in range(10):
        atoms = molecule("H2O")
        atoms.rattle(0.01, seed=index)
        atoms.info |= {"molecule": f"m{index // 2}", "subset": "water", "charge": 0}
        atoms.calc = SinglePointCalculator(atoms, energy=-float(index), forces=atoms.positions)
        frames.append(atoms)
    write(tmp_path / "data.extxyz", frames)
    command = ["split", str(tmp_path / "data.extxyz"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    parts = [read(tmp_path / "out" / f"{n}.extxyz", ":") for n in ("train", "validation")]
    names = [{a.info["molecule"] for a in part} for part in parts]
    assert (len(parts[0]), len(parts[1])) == (6, 4)
    assert not names[0] & names[1]
    energies = sorted(a.get_potential_energy() for part in parts for a in part)
    assert energies == [-float(index) for index in reversed(range(10))]
    record = json.loads((tmp_path / "out" / "split.json").read_text())
    assert set(record["validation"]) == names[1]


def test_split_command_names_the_missing_key(tmp_path):
    write(tmp_path / "data.extxyz", [molecule("H2O")])
    result = CliRunner().invoke(main, ["split", str(tmp_path / "data.extxyz"), "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert "frame 0: no info['molecule']" in result.output


def _prediction(name, label, value, charge=0):
    atoms = molecule("H2O")
    structure = to_structure(atoms, total_charge=charge, spin_multiplicity=1 + charge % 2)
    frame = Frame(structure=structure, energy=label, forces=atoms.positions, group=name, subset="s")
    return FramePrediction(frame=frame, energy=value, forces=atoms.positions)


def test_relative_energies_are_paired_within_a_molecule():
    predictions = [
        _prediction("a", 0.0, 5.0),
        _prediction("b", 1.0, 7.0),
        _prediction("a", 1.0, 6.2),
        _prediction("a", 2.0, 7.0),
        _prediction("b", 1.0, 9.0, charge=2),  # another state: not a conformer of b
    ]
    (row,) = relative_errors(predictions)
    # differences of a: labels 1, 2, 1; values 1.2, 2.0, 0.8
    assert row["molecule"] == "a"
    assert row["n_frames"] == 3
    assert row["mae_kcal_per_mol"] == pytest.approx(0.4 / 3 * EV_TO_KCAL_PER_MOL)
    assert row["mean_difference_kcal_per_mol"] == pytest.approx(4.0 / 3 * EV_TO_KCAL_PER_MOL)


@pytest.mark.parametrize("name", s22)
def test_fragments_of_s22_are_its_molecules(name):
    atoms, parts, energy = complex_of(name)
    assert [len(part) for part in parts] == [len(members) for members in molecules_of(atoms)]
    assert energy < 0.0


def test_energies_of_s22_are_those_of_the_revision():
    # kcal/mol, Takatani et al., J. Chem. Phys. 132, 144104 (2010), to the digits that ASE keeps
    for name, expected in (
        ("Water_dimer", -5.02),
        ("Formic_acid_dimer", -18.80),
        ("Benzene_dimer_parallel_displaced", -2.62),
    ):
        assert complex_of(name)[2] * EV_TO_KCAL_PER_MOL == pytest.approx(expected, abs=0.01)


ALL_REACTIONS = [reaction for group in REACTIONS.values() for reaction in group]


@pytest.mark.parametrize("reaction", ALL_REACTIONS)
def test_reactions_keep_their_atoms(reaction):
    atoms = Counter()
    for name, n in balance(reaction).items():
        for z in molecule(name).numbers:
            atoms[int(z)] += n
    assert not any(atoms.values())
    assert len(set(ALL_REACTIONS)) == len(ALL_REACTIONS) == 49


def test_energies_of_reactions_are_those_of_theory_near_experiment():
    """Atomisation energies of W4 theory in kcal/mol (Karton, Daon, Martin, Chem. Phys. Lett. 510,
    165 (2011)): experiment and B3LYP's zero-point energies are within 1 kcal/mol."""
    w4 = {"CO": 259.73, "H2O": 232.97, "CO2": 390.14, "H2": 109.49, "C2H4": 564.10, "C2H6": 713.08}
    for reaction in ("CO + H2O -> CO2 + H2", "C2H4 + H2 -> C2H6"):
        expected = -sum(n * w4[name] for name, n in balance(reaction).items())
        assert reference(reaction) == pytest.approx(expected, abs=1.0)


def test_reactions_of_what_is_covered(monkeypatch):
    """Means are those of the rows; a reaction with an element that the model lacks is named."""
    chosen = {"some": ("C2H2 + H2 -> C2H4", "SiH4 + 2 H2O -> SiO + 4 H2"), "none": ("SiH4 -> Si",)}
    monkeypatch.setattr(reactions, "REACTIONS", chosen)
    result = reactions.check_reactions(ModelMethod("off-small"))
    assert result.left_out == dict.fromkeys(("SiH4 + 2 H2O -> SiO + 4 H2", "SiH4 -> Si"), "no Si")
    (row,), (quantity,) = result.rows, result.quantities
    assert row["item"] == "C2H2 + H2 -> C2H4"
    assert quantity.value == pytest.approx(abs(row["value"] - row["reference"]))
    assert quantity.name == "reactions, some, MAE (1)"
    model = lesff.load("off-small")
    energies = [
        relaxed(molecule(name), model.calculator()).get_potential_energy()
        for name in ("C2H4", "C2H2", "H2")
    ]
    expected = (energies[0] - energies[1] - energies[2]) * EV_TO_KCAL_PER_MOL
    assert row["value"] == pytest.approx(expected, abs=1e-3)
    monkeypatch.setattr(reactions, "REACTIONS", {"none": ("SiH4 -> Si",)})
    with pytest.raises(NotCoveredError, match="no Si"):
        reactions.check_reactions(ModelMethod("off-small"))


@pytest.mark.parametrize("name", HEXAMERS)
def test_hexamers_have_the_hydrogen_bonds_of_their_family(name):
    atoms = build(HEXAMERS[name])
    bonds = {frozenset(bond) for bond in HEXAMERS[name].bonds}
    assert hydrogen_bonds(atoms) == bonds
    assert len(bonds) == {"prism": 9, "cage": 8, "book": 7, "ring": 6}[name]
    assert [atoms.symbols[m].get_chemical_formula() for m in molecules_of(atoms)] == ["H2O"] * 6
    for i in range(6):  # ice rules: at most two bonds given, two taken
        assert 1 <= sum(a == i for a, _ in HEXAMERS[name].bonds) <= 2
        assert 1 <= sum(b == i for _, b in HEXAMERS[name].bonds) <= 2


def test_water_dimer_has_one_hydrogen_bond():
    assert hydrogen_bonds(dimer()) == {frozenset((0, 1))}


@pytest.mark.parametrize(("name", "formula"), [("butane", "C4H10"), ("biphenyl", "C12H10")])
def test_molecules_of_torsions(name, formula):
    atoms = TORSIONS[name].build()
    assert atoms.get_chemical_formula() == formula
    assert len(molecules_of(atoms)) == 1
    start = atoms.get_dihedral(*TORSIONS[name].atoms)
    assert start % 180.0 == pytest.approx(TORSIONS[name].first % 180.0, abs=1.0)


def test_methylacetamide_is_trans():
    torsion = TORSIONS["N-methylacetamide"]
    atoms = torsion.build()
    assert atoms.get_chemical_formula() == "C3H7NO"
    assert len(molecules_of(atoms)) == 1
    assert atoms.symbols[list(torsion.atoms)].get_chemical_formula(mode="reduce") == "C2NC"
    assert atoms.get_dihedral(*torsion.atoms) == pytest.approx(180.0, abs=15.0)


def test_roughness_sees_a_step():
    angles = np.deg2rad(np.arange(0.0, 181.0, 5.0))
    smooth = 1.5 * (1.0 + np.cos(3.0 * angles))
    assert roughness(smooth) == pytest.approx(1.5 * (3.0 * np.deg2rad(5.0)) ** 3, rel=0.02)
    smooth[20:] += 0.3
    assert roughness(smooth) > 0.55


def test_tail_exponent_of_two_dipoles():
    # point charges +-1 e, 0.2 A apart: -2 ke mu^2 / R^3 and R^-5 beyond
    distances = np.linspace(10.0, 15.0, 6)
    pairs = [aligned_pair(ase.Atoms("H2", [(0, 0, 0), (0.2, 0, 0)]), np.array([1.0, 0, 0]), d)
             for d in distances]  # fmt: skip
    q = np.array([-1.0, 1.0])
    energies = np.array(
        [COULOMB_CONSTANT * (q[:, None] * q / p.get_all_distances()[:2, 2:]).sum() for p in pairs]
    )
    assert tail_exponent(distances, energies) == pytest.approx(-3.0, abs=2e-3)
    limit = -2.0 * COULOMB_CONSTANT * 0.2**2 / distances[-1] ** 3
    assert energies[-1] / limit == pytest.approx(1.0, rel=1e-3)


class _Spring(Calculator):
    """Two atoms on a spring of 30 eV/A^2, 1 A long."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        vector = self.atoms.positions[1] - self.atoms.positions[0]
        stretch = np.linalg.norm(vector) - 1.0
        pull = 30.0 * stretch * vector / np.linalg.norm(vector)
        self.results = {"energy": 15.0 * stretch**2, "forces": np.array([pull, -pull])}


def test_zero_point_energy_of_a_diatomic():
    atoms = relaxed(ase.Atoms("OH", [(0, 0, 0), (0.9, 0, 0)]), _Spring())
    assert atoms.get_distance(0, 1) == pytest.approx(1.0, abs=1e-3)
    masses = atoms.get_masses()
    reduced = masses.prod() / masses.sum()
    expected = 0.5 * HBAR * np.sqrt(30.0 / (reduced * DALTON))
    assert zero_point_energy(atoms) == pytest.approx(expected, rel=1e-3)


def test_relaxation_that_does_not_converge_says_so():
    with pytest.raises(ConvergenceError, match=r"relaxation of HO must reach 0.005 eV/A within 1"):
        relaxed(ase.Atoms("OH", [(0, 0, 0), (0.7, 0, 0)]), _Spring(), steps=1)


def test_protons_are_put_on_free_places():
    for name, site, coordination in (("NH3", 0, 4), ("H2CO", 0, 2), ("CH3CN", 2, 2)):
        atoms = add_proton(molecule(name), site)
        distances = atoms.get_all_distances()
        assert (distances[site] < 1.6).sum() - 1 == coordination
        assert distances[-1, [i for i in range(len(atoms) - 1) if i != site]].min() > 1.4


def test_anions_are_at_the_donor():
    for anion in (ase.Atoms("Cl"), formate()):
        atoms = at_donor(anion)
        gap = atoms.get_all_distances()[0, len(anion) :]
        assert 1.7 < gap.min() < 2.4
        assert atoms.symbols[len(anion) + int(gap.argmin())] == "H"


def test_density_of_a_box():
    box = liquid_box(molecule("H2O"), (2, 2, 2), 3.104)
    assert len(box) == 24
    # 18.015 u in (3.104 A)^3, 1 u = 1.66053907e-24 g
    assert density_of(box) == pytest.approx(18.015 * 1.66053907 / 3.104**3, rel=1e-4)


class _BirchMurnaghan(Calculator):
    """Third-order equation of state with a given volume and bulk modulus per cell."""

    implemented_properties = ["energy"]

    def __init__(self, volume, modulus):
        super().__init__()
        self.volume, self.modulus = volume, modulus

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x = (self.volume / self.atoms.get_volume()) ** (2 / 3)
        terms = (x - 1.0) ** 3 * 4.5 + (x - 1.0) ** 2 * (6.0 - 4.0 * x)
        self.results = {"energy": 9.0 / 16.0 * self.volume * self.modulus * terms}


@pytest.mark.parametrize("name", ["NaCl", "CaF2", "SrTiO3"])
def test_equation_of_state_gives_back_what_it_is_made_of(name):
    solid = SOLIDS[name]
    volume = crystal(solid, 1.013 * solid.a).get_volume()
    calculator = _BirchMurnaghan(volume, 50.0 / EV_PER_A3_TO_GPA)
    a, modulus = equation_of_state(solid, calculator)
    assert a == pytest.approx(1.013 * solid.a, rel=1e-5)
    assert modulus == pytest.approx(50.0, rel=1e-3)


def test_a_solid_without_minimum_is_left_out():
    solid = SOLIDS["NaCl"]
    calculator = _BirchMurnaghan(crystal(solid, 2.0 * solid.a).get_volume(), 0.1)
    with pytest.raises(ConvergenceError, match="no minimum within 12 %"):
        equation_of_state(solid, calculator)


def test_crystals_have_the_neighbours_of_their_structure():
    # nearest distance in units of a, and coordination of the first species
    expected = {"rocksalt": (0.5, 6), "zincblende": (0.4330, 4), "fluorite": (0.4330, 8),
                "CsCl": (0.8660, 8), "perovskite": (0.7071, 12)}  # fmt: skip
    for solid in SOLIDS.values():
        cells = [crystal(solid), crystal(solid, conventional=True)]
        densities = [len(atoms) / atoms.get_volume() for atoms in cells]
        assert densities[0] == pytest.approx(densities[1])
        big = cells[1].repeat(3)
        distances = np.sort(big.get_distances(0, range(len(big)), mic=True))[1:] / solid.a
        nearest, count = expected[solid.structure]
        assert distances[0] == pytest.approx(nearest, abs=1e-3)
        assert (distances < nearest + 0.01).sum() == count


def test_born_charges_before_and_after_the_sum_rule(tmp_path):
    potential = tiny_potential(elements=(8, 11, 12, 17))
    save_model(potential, tmp_path / "tiny", card="card", license_text="text")
    result = check_born(ModelMethod(str(tmp_path / "tiny")))
    values = {q.name: q.value for q in result.quantities}
    assert values["NaCl, sum of Z* before the sum rule"] > 1e-6
    assert values["NaCl, sum of Z* after the sum rule"] < 1e-9
    ratio = values["MgO, Z*(Mg) x sqrt(eps_inf)"] / values["MgO, Z*(Mg) of the model"]
    assert ratio == pytest.approx(np.sqrt(2.95))
    tensor = np.array(result.rows[0]["tensor"])
    np.testing.assert_allclose(tensor, tensor[0, 0] * np.eye(3), atol=1e-9)  # cubic site


def _subject(name, elements):
    return SimpleNamespace(
        name=name,
        elements=frozenset(elements),
        model=object(),
        lacks=lambda numbers, charge=0, spin=None: "" if set(numbers) <= set(elements) else "lacks",
    )


def test_checks_go_by_the_elements():
    organic, inorganic = _subject("o", (1, 6, 7, 8)), _subject("i", (8, 12))
    reasons = {check.name: check.why_not(organic, None, "standard") for check in CHECKS}
    assert reasons["s22"] == ""
    assert "15 ionic solids" in reasons["solids"]
    assert "--data" in reasons["frames"]
    assert "--suite full" in reasons["liquids"]
    reasons = {check.name: check.why_not(inorganic, None, "full") for check in CHECKS}
    assert reasons["water"] == "organic checks need H C N O; no H C N"
    assert reasons["solids"] == ""


def test_unknown_checks_are_refused():
    with pytest.raises(ConfigError, match="no check 'watr'.*did you mean water"):
        find_checks(["watr"])
    assert [check.name for check in find_checks(["water", "s22"])] == ["s22", "water"]


def test_runs_go_on_where_they_stopped(tmp_path):
    path = tmp_path / "m.suite.json"
    calls = []

    def run(value):
        def check(subject):
            calls.append(value)
            result = CheckResult(rows=[{"x": np.float64(1.23456789), "y": float("nan")}])
            result.add("value", "eV", value, 1.0)
            return result

        return check

    def crash(subject):
        raise KeyboardInterrupt

    def checks(second):
        return [Check(name=n, family="organic", run=f, sources=("source",))
                for n, f in (("one", run(1.0)), ("two", second))]  # fmt: skip

    subject = _subject("m@1", (1, 6, 7, 8))
    file = SuiteFile.open(path, "m@1", "hash", restart=False)
    with pytest.raises(KeyboardInterrupt):
        list(run_suite([subject], checks(crash), file, suite="standard"))
    assert set(json.loads(path.read_text())["results"]["m@1"]) == {"one"}
    file = SuiteFile.open(path, "m@1", "hash", restart=False)
    found = list(run_suite([subject], checks(run(2.0)), file, suite="standard"))
    assert calls == [1.0, 2.0]
    assert [check for _, check, _ in found] == ["one", "two"]
    assert found[0][2]["rows"] == [{"x": 1.23457, "y": None}]
    list(run_suite([subject], checks(run(3.0)), file, suite="standard", again=True))
    assert calls == [1.0, 2.0, 1.0, 3.0]
    with pytest.raises(DataError, match="other weights"):
        SuiteFile.open(path, "m@2", "other", restart=False)
    assert SuiteFile.open(path, "m@2", "other", restart=True).data["results"] == {}


def test_other_files_are_not_taken_for_results(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"errors": {}}))
    with pytest.raises(DataError, match="must be a result file of the evaluation suite"):
        SuiteFile.open(path, "m", "hash", restart=False)


def test_the_baseline_says_what_to_install(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr("lesff.methods.import_module", absent)
    with pytest.raises(MissingDependencyError, match=r'pip install "lesff\[evaluate\]"'):
        open_baseline("gfn2-xtb")


def test_s22_end_to_end(tmp_path):
    card = tmp_path / "off-small.md"
    card.write_text("# card\n<!-- begin suite -->\n<!-- end suite -->\ntext\n")
    command = ["evaluate", "off-small", "--suite", "standard", "--only", "s22", "--card", str(card)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "off-small.suite.json").read_text())
    stored = data["results"][lesff.load("off-small").name]["s22"]
    rows = {row["complex"]: row for row in stored["rows"]}
    assert len(rows) == 22
    atoms, parts, _ = complex_of("Water_dimer")
    energies = lesff.load("off-small", dtype="float64").predict([atoms, *parts], "energy").energy
    expected = (energies[0] - energies[1] - energies[2]) * EV_TO_KCAL_PER_MOL
    assert rows["Water_dimer"]["kcal_per_mol"] == pytest.approx(expected, abs=1e-4)
    mae = np.mean([abs(row["kcal_per_mol"] - row["reference"]) for row in rows.values()])
    assert stored["quantities"][0]["value"] == pytest.approx(mae, rel=1e-4)
    assert f"| s22 | MAE (22 complexes) | kcal/mol | {mae:.3f} |  |" in card.read_text()
    assert card.read_text().endswith("<!-- end suite -->\ntext\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "s22"], "need --suite"),
        ([], "give labelled FRAMES, or --suite standard"),
        (["x.extxyz", "--suite", "standard"], "labelled frames are given by --data"),
        (
            ["--suite", "standard", "--baseline", "off-small"],
            "more than one model is called off-sm",
        ),
        (["--suite", "standard", "--energy-state", "0", "1"], "frames are given by --data"),
        (["--suite", "standard", "--without", "x.xyz"], "frames are given by --data"),
        (["x.extxyz", "--fragments", "--energy-state", "0", "1"], "leave out --energy-state"),
        (["--suite", "standard", "--only", "s2"], "no check 's2'"),
        (["--suite", "standard", "--card", "card.md"], "has no place for the table"),
    ],
)
def test_commands_that_make_no_sense(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "card.md").write_text("no marks")
    result = CliRunner().invoke(main, ["evaluate", "off-small", *arguments])
    assert result.exit_code != 0
    assert message in result.output


def test_a_calculator_is_a_baseline():
    """A crystal through a subject gives the calculator's own energy."""
    emt = open_baseline("emt=ase.calculators.emt:EMT")
    assert emt.name == "emt"
    atoms = bulk("Cu", a=3.6)
    frame = Frame(
        structure=to_structure(atoms), energy=0.0, forces=np.zeros((1, 3)), subset="", group=""
    )
    atoms.calc = emt.calculator()
    assert emt.predict([frame])[0].energy == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
    with pytest.raises(ConfigError, match="cannot be imported"):
        open_baseline("emt=ase.calculators.emt:Emt")
    with pytest.raises(UnsupportedInputError, match="would not be told"):
        emt.calculator(1)
    with pytest.raises(UnsupportedInputError, match="would not be told"):
        emt.calculator(0, 3)
    with pytest.raises(ConfigError, match="must leave the spin to the calculator"):
        open_baseline("emt=ase.calculators.emt:EMT?asap_cutoff={spin}")


def test_lattice_constants_are_compared_with_the_baseline():
    """Differences of 1 % and 3 % of two solids that both have: 2 %."""
    ours = [{"solid": "NaCl", "a": 5.05}, {"solid": "MgO", "a": 3.88}, {"solid": "LiF", "a": 1.0}]
    theirs = [{"solid": "NaCl", "a": 5.0}, {"solid": "MgO", "a": 4.0}, {"solid": "KCl", "a": 6.0}]
    (quantity,) = compare_solids("m", ours, theirs)
    assert quantity["value"] == pytest.approx(2.0)
    assert "against these, MAE (2 solids)" in quantity["name"]
    assert compare_solids("m", ours, theirs[2:]) == []
