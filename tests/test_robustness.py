"""Robustness: every check passes a calculator that is right and fails one that has the fault."""

import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import ase
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.data import covalent_radii
from ase.io import read
from click.testing import CliRunner
from helpers import tiny_potential
from scipy.interpolate import CubicSpline

from lesff.atoms.neighbors import find_neighbors
from lesff.cli import main
from lesff.evaluation.molecules import molecules_of
from lesff.evaluation.results import NotCoveredError, Value
from lesff.evaluation.robustness import chapter
from lesff.evaluation.robustness.chapter import ROBUSTNESS, reference_values, run_chapter
from lesff.evaluation.robustness.dissociation import SMOOTH
from lesff.evaluation.robustness.hunt import found_atoms
from lesff.evaluation.robustness.page import page_of
from lesff.evaluation.robustness.probe import Options, Probe, System
from lesff.evaluation.robustness.scans import largest_fall
from lesff.evaluation.robustness.solvated_ions import in_water
from lesff.evaluation.robustness.structures import (
    ORGANIC,
    acetate,
    ammonium,
    closest_share,
    cluster,
    distinct_bonds,
    hydronium,
    methylammonium,
    neutral,
    pressed,
    random_turn,
    stretched,
)
from lesff.evaluation.suite import CHECKS, run_suite
from lesff.evaluation.tables import limit_text
from lesff.methods import CalculatorMethod, ModelMethod
from lesff.model_folder.folder import save_model
from lesff.train.data import read_frames
from lesff.units import COULOMB_CONSTANT

QUICK = Options(quick=True)
CHECK = {check.name: check for check in ROBUSTNESS}
ELEMENTS = frozenset({1, 6, 7, 8, 9, 11, 15, 16, 17})
CHARGES = {"Cl": -1, "Na": 1, "H4N": 1, "H3O": 1, "HO": -1, "CH6N": 1, "C2H3O2": -1}
"""Charged fragments by formula, where the total charge is not zero."""
_REACH, _STEEP = 7.0, 4.0


class Toy(Calculator):
    """Morse pairs in units of covalent radii, and integer charges of molecules.

    Everything that a check asks is right, unless a fault is named.
    """

    implemented_properties = ["energy", "forces", "charges"]

    def __init__(self, charge=0, spin=None, depth=0.1, fault=None, has_ions=False):
        super().__init__()
        self.total, self.spin, self.depth, self.fault = charge, spin or 1, depth, fault
        self.has_ions = has_ions

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        found = find_neighbors(atoms.positions, np.array(atoms.cell), atoms.pbc, _REACH)
        sender, receiver = found.edge_index
        radii = covalent_radii[atoms.numbers]
        scale = radii[sender] + radii[receiver]
        x = found.lengths / scale
        wave = np.exp(-_STEEP * (x - 1.0))
        # salts repel only: what holds them together is not asked for
        bound = 0.0 if atoms.pbc.any() and 11 in atoms.numbers else 2.0
        energy = self.depth * (wave**2 - bound * wave)
        slope = self.depth * _STEEP * (bound * wave - 2.0 * wave**2)
        if self.fault == "collapse":  # beyond a barrier, as latent charges without bounds
            hole = np.exp(-10.0 * (x - 1.0))
            energy, slope = energy - 0.05 * hole, slope + 0.5 * hole
        if self.fault == "not a number":
            energy = np.where(x < 0.7, np.nan, energy)
        # an edge is counted from both of its ends
        vectors = atoms.positions[receiver] - atoms.positions[sender]
        vectors += found.cell_shifts @ np.array(atoms.cell)
        pull = (slope / scale / np.maximum(found.lengths, 1e-9))[:, None] * vectors
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, sender, pull)
        charges = self._charges(atoms)
        total = 0.5 * energy.sum() + _coulomb(atoms, charges) + self._wrong(atoms)
        total += self._above_ground_state(atoms)
        self.results = {"energy": float(total), "forces": forces, "charges": charges}

    def _charges(self, atoms):
        charges = np.zeros(len(atoms))
        if self.fault == "spread":
            return np.full(len(atoms), self.total / len(atoms))
        # two ions of opposite charge are charged, too, though their sum is zero
        for members in molecules_of(atoms) if self.has_ions else ():
            formula = atoms.symbols[members].get_chemical_formula()
            is_alone = len(members) == len(atoms)
            charge = CHARGES.get(formula, 0) if not is_alone or self.total else 0
            charges[members] = charge / len(members)
        rest = self.total - charges.sum()
        return charges + rest * _first(atoms) if abs(rest) > 1e-9 else charges

    def _above_ground_state(self, atoms):
        """Of triplets only; a part that is one makes all of it one."""
        if self.spin != 3 or self.fault == "singlets":
            return 0.0
        names = {atoms.symbols[part].get_chemical_formula() for part in molecules_of(atoms)}
        return -0.5 if names & {"O2", "CH2", "HN", "S2", "OS"} else 2.0

    def _wrong(self, atoms):
        if self.fault == "spin on all":
            return 0.1 * (self.spin - 1) * len(atoms)
        if self.fault == "step":
            return 0.5 * float(np.ptp(atoms.positions, axis=0).max() > 4.0)
        if self.fault == "joined":
            return 0.5 * float(self.total != 0 and len(molecules_of(atoms)) == 1)
        if self.fault == "slope":
            return 0.3 * float(np.ptp(atoms.positions, axis=0).max())
        if self.fault == "box":
            return 1e-3 * len(atoms) * float(atoms.pbc.all())
        if self.fault == "sharp" and atoms.pbc.all():
            # wave vectors within a radius, as a sum without a smooth edge
            grid = np.array(list(product(range(-9, 10), repeat=3)))
            vectors = grid @ np.linalg.inv(np.array(atoms.cell)).T
            return 1e-4 * int((np.linalg.norm(vectors, axis=1) < 0.8).sum())
        return 0.0


def _first(atoms):
    mark = np.zeros(len(atoms))
    mark[0] = 1.0
    return mark


def _coulomb(atoms, charges):
    """Between molecules, from the centre of mass of one to that of another."""
    if atoms.pbc.any() or not charges.any():
        return 0.0
    parts = molecules_of(atoms)
    q = np.array([charges[members].sum() for members in parts])
    centers = np.array([atoms[members].get_center_of_mass() for members in parts])
    i, j = np.triu_indices(len(parts), 1)
    r = np.linalg.norm(centers[i] - centers[j], axis=1)
    return COULOMB_CONSTANT * float((q[i] * q[j] / r).sum())


def _method(fault=None, depth=0.1, elements=ELEMENTS, has_ions=False):
    def make(charge, spin):
        return Toy(charge, spin, depth, fault, has_ions)

    return CalculatorMethod("toy", frozenset(elements), make)


def _failed(name, fault=None, depth=0.1, options=QUICK):
    method = _method(fault, depth, has_ions=name in ("size-consistency", "ions-in-water"))
    result = CHECK[name].run(method, options)
    return [value.name for value in result.quantities if value.passes is False], result


DEPTHS = {"dissociation": 1.0}
"""eV, where a bond must be one."""


@pytest.mark.parametrize("name", CHECK)
def test_what_is_right_passes(name):
    failed, result = _failed(name, depth=DEPTHS.get(name, 0.1))
    assert not failed, [(v.name, v.value) for v in result.quantities]
    assert all(row["ok"] for row in result.rows)
    assert all(value.limits for value in result.quantities)


@pytest.mark.parametrize("name", [name for name in CHECK if name != "pairs"])
def test_what_nothing_covers_is_said(name):
    with pytest.raises(NotCoveredError, match="no "):
        CHECK[name].run(_method(elements=(2,)), QUICK)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("pairs", "collapse"),
        ("pairs", "not a number"),
        ("approaches", "collapse"),
        ("approaches", "not a number"),
        ("compression", "collapse"),
        ("dissociation", "step"),
        ("dissociation", "slope"),
        ("size-consistency", "spread"),
        ("size-consistency", "spin on all"),
        ("ions-in-water", "spread"),
        ("ion-contacts", "joined"),
        ("spin-order", "singlets"),
        ("converged-sums", "box"),
        ("converged-sums", "sharp"),
        ("clashes", "collapse"),
        ("clashes", "not a number"),
        ("proton-runs", "slope"),
        ("hunt", "collapse"),
    ],
)
def test_every_fault_is_seen(name, fault):
    failed, result = _failed(name, fault, DEPTHS.get(name, 0.1))
    assert failed, [(v.name, v.value) for v in result.quantities]
    assert not all(row["ok"] for row in result.rows)


def test_a_hot_run_that_falls_together_is_seen():
    """Deep wells of the collapse lie within thermal reach when barriers are 0.1 eV."""
    failed, _ = _failed("hot-runs", "collapse", 0.02)
    assert "hot runs, closest contact" in failed


def test_bonds_without_depth_are_seen():
    failed, _ = _failed("dissociation", depth=0.05)
    assert "bonds pulled apart, smallest depth" in failed


def test_a_charge_that_runs_away_is_seen():
    failed, result = _failed("size-consistency", "spread")
    assert "charge of a part, largest error" in failed
    # of Cl- and four benzenes, 49 atoms, one part in 49 stays on the ion
    row = next(row for row in result.rows if row["item"] == "Cl- and 4 C6H6")
    assert row["charge_error_e"] == pytest.approx(48.0 / 49.0)


def test_spin_that_acts_on_all_is_the_error():
    _, result = _failed("size-consistency", "spin on all")
    errors = {row["item"]: row["error_ev"] for row in result.rows}
    # triplet: 0.1 eV x 2 on each of the three atoms of water that a closed shell does not have
    assert errors["O2 and H2O"] == pytest.approx(0.6, abs=1e-6)
    assert errors["H2O and C6H6"] == pytest.approx(0.0, abs=1e-6)


def test_how_far_a_curve_falls():
    assert largest_fall(np.array([0.0, 1.0, 3.0, 2.5, 4.0, 1.0])) == 3.0
    assert largest_fall(np.array([-2.0, 0.0, 5.0])) == 0.0
    assert np.isnan(largest_fall(np.array([0.0, np.nan, 1.0])))


def test_pass_marks():
    def passes(value, limits):
        return Value(name="x", unit="e", value=value, limits=limits).passes

    assert passes(0.9, (0.8, 1.0)) is True
    assert passes(0.7, (0.8, 1.0)) is False
    assert passes(-1.0, (-1.0, None)) is True
    assert passes(np.nan, (None, 1.0)) is False
    assert passes(1.0, None) is None
    assert [limit_text(x) for x in ((None, 2.0), (0.5, None), (0.8, 1.0), None)] == [
        "<= 2", ">= 0.5", "0.8 to 1", "",
    ]  # fmt: skip


def test_charged_molecules_have_their_hydrogens():
    for system, formula, charge in (
        (ammonium(), "H4N", 1),
        (hydronium(), "H3O", 1),
        (methylammonium(), "CH6N", 1),
        (acetate(), "C2H3O2", -1),
    ):
        assert system.atoms.get_chemical_formula() == formula
        assert system.charge == charge
        assert len(molecules_of(system.atoms)) == 1
        assert (system.atoms.numbers.sum() - system.charge) % 2 == 0


def test_molecules_are_pressed_to_the_contact_asked_for():
    rng = np.random.default_rng(1)
    fixed, moving = (random_turn(neutral(n).atoms, rng) for n in ("CH4", "H2O"))
    found = pressed(fixed, moving, np.array([1.0, 0.0, 0.0]), [1.0, 0.75, 0.5])
    for atoms, share in zip(found, (1.0, 0.75, 0.5), strict=True):
        radii = covalent_radii[atoms.numbers]
        between = atoms.get_all_distances()[:5, 5:] / (radii[:5, None] + radii[5:])
        assert between.min() == pytest.approx(share, abs=0.01)


def test_bonds_of_a_kind_are_pulled_once():
    assert len(distinct_bonds(molecule("CH4"))) == 1
    ethanol = neutral("CH3CH2OH").atoms
    assert len(distinct_bonds(ethanol)) == 5  # C-C, C-O, O-H, and C-H of two kinds
    assert len(distinct_bonds(neutral("C6H6").atoms)) == 1  # C-C are in the ring
    i, j = distinct_bonds(ethanol)[0]
    apart = stretched(ethanol, (i, j), 5.0)
    assert apart.get_distance(i, j) == pytest.approx(5.0)
    for members in molecules_of(apart):
        before, after = (a.get_all_distances()[np.ix_(members, members)] for a in (ethanol, apart))
        np.testing.assert_allclose(before, after, atol=1e-12)


def test_closest_share_counts_images():
    # two hydrogens 0.62 A apart: the sum of their radii (Cordero et al. 2008), through the border
    atoms = ase.Atoms("H2", [(0.0, 0.0, 0.0), (4.38, 0.0, 0.0)], cell=[5.0] * 3)
    assert closest_share(atoms) == np.inf
    atoms.pbc = True
    assert closest_share(atoms) == pytest.approx(1.0)


@pytest.mark.parametrize("count", [1, 4, 16, 63])
def test_ions_are_in_water(count):
    system = in_water("Cl", -1, count)
    parts = molecules_of(system.atoms)
    assert [len(part) for part in parts] == [1] + [3] * count
    distances = np.linalg.norm(system.atoms.positions[1::3] - system.atoms.positions[0], axis=1)
    np.testing.assert_allclose(distances[:6], 3.15)
    # a hydrogen points at the anion, 2.2 A away if straight and 3.1 A if turned by 90 degrees
    towards = np.linalg.norm(system.atoms.positions[2:4] - system.atoms.positions[0], axis=1)
    assert towards.min() < 2.6


def test_random_items_depend_on_the_seed_only():
    small = CHECK["approaches"].run(_method(elements=(1, 6, 7, 8)), QUICK)
    large = CHECK["approaches"].run(_method(), QUICK)
    names = {row["item"]: row["fall_ev"] for row in large.rows}
    assert {row["item"] for row in small.rows} < set(names)
    assert "no F" in " ".join(small.left_out.values())
    again = CHECK["approaches"].run(_method(), Options(quick=True, seed=7))
    assert {row["item"] for row in again.rows} != set(names)
    parts, whole = cluster(ORGANIC, 3, 0.5, np.random.default_rng(5))
    assert len(whole.atoms) == sum(len(part.atoms) for part in parts)
    assert closest_share(whole.atoms) == pytest.approx(0.5, abs=0.02)


def test_the_hunt_gives_the_atoms_of_its_find():
    _, result = _failed("hunt", "collapse")
    atoms = found_atoms(result.rows)
    assert atoms.info["ev_per_atom_below_start"] > 1.0
    assert closest_share(atoms) < 0.6
    assert atoms.info["hunt"] in [row["item"] for row in result.rows]


def test_nothing_covered_is_said():
    found = list(run_chapter(_method(elements=(26,)), QUICK, [CHECK["approaches"]]))
    assert found[0].result is None
    assert "no" in found[0].reason
    with pytest.raises(NotCoveredError, match="no H"):
        CHECK["hot-runs"].run(_method(elements=(26,)), QUICK)


def test_other_methods_are_summed_up_for_the_same_items(monkeypatch):
    result = CHECK["pairs"].run(_method(elements=(1, 8)), QUICK)
    row = {"fall_ev": 2.0, "ok": False, "largest_charge_e": None}
    stored = {"seed": 0, "rows": {"pairs": [{"item": n, **row} for n in ("H O", "O O", "C C")]}}
    monkeypatch.setattr(chapter, "stored_references", lambda: {"other": stored})
    found = reference_values(CHECK["pairs"], result, Options(seed=3))
    assert found["other"]["pairs of atoms that fall"] == 2.0  # C C is not of the model
    approaches = CHECK["approaches"].run(_method(), QUICK)
    stored["rows"]["approaches"] = approaches.rows
    assert reference_values(CHECK["approaches"], approaches, Options(seed=3)) == {}
    assert reference_values(CHECK["approaches"], approaches, QUICK)


def test_a_method_that_raises_fails():
    class Refuses(Toy):
        def calculate(self, *args, **kwargs):
            raise RuntimeError("no")

    method = CalculatorMethod("refuses", ELEMENTS, lambda charge, spin: Refuses(charge, spin))
    assert np.isnan(Probe(method).energies([neutral("H2O")])[0])
    for name in ("pairs", "clashes", "size-consistency"):
        result = CHECK[name].run(method, QUICK)
        assert result.quantities[0].value == len(result.rows)
        assert not any(value.passes for value in result.quantities)


def test_the_chapter_is_in_the_suite(tmp_path):
    check = next(c for c in CHECKS if c.name == "robustness-pairs")
    other = _method("collapse", elements=(1, 8, 9))
    other.name = "other"
    file = SimpleNamespace(data={"results": {}}, get=lambda s, c: kept.get((s, c)))
    kept = {}
    file.put = lambda s, c, result: kept.__setitem__((s, c), result)
    first = _method(elements=(1, 8))
    list(run_suite([first, other], [check], file, suite="standard"))
    ours, theirs = (kept[name, check.name]["quantities"][0] for name in ("toy", "other"))
    assert (ours["value"], ours["unit"], ours["limits"]) == (0.0, "of 3", [None, 0.0])
    assert (theirs["value"], theirs["unit"]) == (3.0, "of 3")  # three of the six that it covers


@pytest.mark.slow
def test_a_page_shows_figures_and_pictures():
    names = ("pairs", "size-consistency", "ions-in-water", "clashes")
    method = _method("spread", elements=(1, 6, 8, 17))
    found = list(run_chapter(method, QUICK, [CHECK[n] for n in names]))
    page = page_of("toy", found)
    assert page.count('<img alt="') == 3
    assert "Cl- in 4 waters" in page
    assert "FAIL" in page


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(
        tiny_potential(elements=(1, 8), state_embedding=True), folder, card="# tiny\n",
        license_text="none",
    )  # fmt: skip
    return folder


@pytest.mark.slow
def test_the_command(tiny_folder, tmp_path):
    """A tiny random model: no walls, and its state acts on all atoms."""
    result = CliRunner().invoke(
        main,
        [
            "verify", str(tiny_folder), "--robustness", "--quick", "--json",
            str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html"), "--found",
            str(tmp_path / "f.extxyz"),
        ],
    )  # fmt: skip
    assert result.exit_code == 1
    assert "are outside their limits" in result.output
    data = json.loads((tmp_path / "r.json").read_text())
    assert set(data["checks"]) == set(CHECK)
    pairs = data["checks"]["pairs"]
    assert pairs["quantities"][0]["unit"] == "of 3"
    assert pairs["quantities"][0]["passes"] == (pairs["quantities"][0]["value"] == 0)
    assert data["checks"]["approaches"]["status"] == "not covered"
    assert data["checks"]["compression"]["left_out"]
    assert "<img" in (tmp_path / "r.html").read_text()
    assert set(read(tmp_path / "f.extxyz").symbols) <= {"H", "O"}


def test_options_of_robustness_need_it():
    result = CliRunner().invoke(main, ["verify", "off-small", "--quick"])
    assert result.exit_code == 2
    assert "need --robustness" in result.output


def test_answers_of_a_batch_are_those_of_the_calculator(tiny_folder):
    method = ModelMethod(str(tiny_folder))
    radical = System(name="OH", atoms=ase.Atoms("OH", [(0, 0, 0), (0.9, 0, 0)]))
    systems = [neutral("H2O"), hydronium(), radical]
    for system, answer in zip(systems, Probe(method).ask(systems), strict=True):
        atoms = system.atoms.copy()
        atoms.calc = method.calculator(system.charge, system.spin)
        assert answer.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(answer.charges, atoms.get_charges(), atol=1e-10)
        assert answer.largest_charge == pytest.approx(np.abs(atoms.get_charges()).max())


def test_the_mark_of_bonds_pulled_apart_lets_unrestricted_dft_through():
    """Curves of 16 double and triple bonds, `tools/data/multiple_bonds.py` (PBE0/def2-TZVP)."""
    frames = {}
    for frame in read_frames(
        Path(__file__).parents[1] / "recipes" / "frames" / "multiple_bonds_17.npz"
    ):
        frames.setdefault(frame.group, []).append(frame)
    assert len(frames) == 16
    bends = {}
    for name, curve in frames.items():
        first, second = (int(i) for i in name[name.index("(") + 1 : -1].split(","))
        apart = [f.structure.positions[second] - f.structure.positions[first] for f in curve]
        pulls = np.linalg.norm(apart, axis=1)
        spline = CubicSpline(pulls - pulls[0], [f.energy for f in curve])
        bends[name] = np.abs(np.diff(spline(np.arange(0.7, 3.01, 0.1)), 2)).max()
    assert max(bends, key=bends.get) == "OC=O (1, 2)"
    assert max(bends.values()) == pytest.approx(0.151, abs=0.005)  # docs/evaluation.md
    assert 1.2 * max(bends.values()) < SMOOTH
