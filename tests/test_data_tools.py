"""Tools that make structures and labels: chunks that go on, thermal amplitudes, contacts, zeros."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import lesff
from lesff.atoms.files import read_npz
from lesff.files import sha256_of
from lesff.train.shards import read_shard

TOOLS = Path(__file__).parents[1] / "tools" / "data"


@pytest.fixture
def tool(monkeypatch):
    """A tool as its names; ``main`` runs it with arguments."""
    monkeypatch.syspath_prepend(str(TOOLS))

    def opened(name):
        return runpy.run_path(str(TOOLS / f"{name}.py"))

    return opened


@pytest.fixture
def run(tool, monkeypatch):
    """Run a tool with arguments."""

    def called(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        tool(name)["main"]()

    return called


def test_a_killed_run_makes_only_what_is_missing(tool, tmp_path):
    write, made = tool("chunks")["written_in_chunks"], []

    def make(chunk):
        if chunk == 2 and not made.count("killed"):
            made.append("killed")
            raise KeyboardInterrupt
        made.append(chunk)
        return None if chunk == 1 else {"n": np.full(2, chunk)}

    output = tmp_path / "a.npz"
    with pytest.raises(KeyboardInterrupt):
        write(output, {"seed": 1}, 4, make)
    assert not output.exists()
    with pytest.raises(SystemExit, match="is of a run with other options"):
        write(output, {"seed": 2}, 4, make)
    digest = write(output, {"seed": 1}, 4, make)
    assert made == [0, 1, "killed", 2, 3]
    assert read_npz(output)["n"].tolist() == [0, 0, 2, 2, 3, 3]
    assert digest == sha256_of(output)
    assert (tmp_path / "a.sha256").read_text() == f"{digest}  a.npz\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "a.sha256"]
    with pytest.raises(SystemExit, match="is there already"):
        write(output, {"seed": 1}, 4, make)


@pytest.mark.parametrize("is_quantum", [False, True])
def test_displacements_have_the_energy_of_harmonic_oscillators(tool, is_quantum):
    """Mean potential energy of a mode: kT / 2, or hbar w / 4 coth(hbar w / 2 kT).

    Landau, Lifshitz, Statistical Physics, 49. Three atoms on three springs.
    """
    displaced = tool("structures")["displaced"]
    rng = np.random.default_rng(0)
    numbers = np.array([8, 1, 1])
    positions = molecule("H2O").positions
    # springs of 30 eV/A^2 between all pairs
    hessian = np.zeros((9, 9))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        way = positions[j] - positions[i]
        block = 30.0 * np.outer(way, way) / (way @ way)
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            hessian[3 * a : 3 * a + 3, 3 * b : 3 * b + 3] += sign * block
    root = np.sqrt(np.repeat(Atoms(numbers).get_masses(), 3))
    squares = np.linalg.eigvalsh(hessian / np.outer(root, root))[6:]
    quantum = units._hbar / units._e * np.sqrt(squares * units._e / units._amu) * 1e10
    temperature = 300.0
    thermal = units.kB * temperature
    expected = (
        (quantum / 4.0 / np.tanh(quantum / (2.0 * thermal))).sum()
        if is_quantum
        else len(squares) * thermal / 2.0
    )
    found = []
    for _ in range(4000):
        moved = displaced(numbers, hessian, temperature, rng, is_quantum=is_quantum).ravel()
        found.append(0.5 * moved @ hessian @ moved)
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(expected, abs=4.0 * error)
    assert 4.0 * error < 0.1 * expected


def test_hessians_are_second_differences_of_the_energy(tool):
    """RDKit's gradients are those of the positions before, unless the energy is asked for first."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    conformer, hessian = tool("structures")["embedded"]("CC(=O)O", "acid", 1)
    acid = Chem.AddHs(Chem.MolFromSmiles("CC(=O)O"))
    assert AllChem.EmbedMolecule(acid, randomSeed=1) == 0
    field = AllChem.MMFFGetMoleculeForceField(acid, AllChem.MMFFGetMoleculeProperties(acid))
    field.Initialize()
    move = np.random.default_rng(0).normal(size=conformer.positions.size)
    move *= 1e-3 / np.linalg.norm(move)
    energies = [
        field.CalcEnergy((conformer.positions.ravel() + k * move).tolist()) for k in (-1, 0, 1)
    ]
    second = (energies[0] - 2.0 * energies[1] + energies[2]) * units.kcal / units.mol
    assert move @ hessian @ move == pytest.approx(second, rel=1e-4)


def test_dimers_stand_at_the_contact_asked_for(tool):
    names = tool("structures")
    rng = np.random.default_rng(1)
    for contact in (0.6, 1.0, 2.6):
        parts = [
            names["turned"](names["embedded"](smiles, "polar", 1)[0], rng) for smiles in ("CO", "N")
        ]
        both = names["placed"](parts, contact, rng)
        first = len(parts[0].numbers)
        radii = names["vdw_alvarez"].vdw_radii[both.numbers]
        sums = radii[:first, None] + radii[None, first:]
        found = names["closest"](both.positions[:first], both.positions[first:], sums)
        assert found == pytest.approx(contact, abs=1e-2)
        assert both.name == "CO.N"


def test_lines_that_are_no_smiles_are_named_before_anything_is_made(tool, tmp_path):
    path = tmp_path / "list.tsv"
    path.write_text("small\tCO\nsmall\tC(O\nsmall\tN=N=N\n")
    with pytest.raises(SystemExit, match=r"must hold SMILES, got 'C\(O', 'N=N=N'"):
        tool("structures")["read_list"](path)


def test_structures_and_labels_make_a_shard(run, tmp_path, capsys):
    """Labels are those of the model, energies relative to the atoms that are given."""
    molecules = tmp_path / "molecules.tsv"
    molecules.write_text("small\tCO\nion\t[NH4+]\nsmall\tC\n", encoding="utf-8")
    structures, labelled = tmp_path / "s.npz", tmp_path / "l.npz"
    run("structures", "thermal", "--molecules", molecules, "-o", structures, "--relax", "off-small")
    isolated = tmp_path / "atoms.json"
    zero = {"1": -13.0, "6": -1030.0, "7": -1486.0, "8": -2043.0}
    isolated.write_text(json.dumps(zero), encoding="utf-8")
    run(
        "labels", structures, "-o", labelled, "--teacher", "off-small@1.3.0",
        "--isolated", isolated,
    )  # fmt: skip
    made, data = read_npz(structures), read_shard(labelled)
    assert sorted(set(made["charge"].tolist())) == [0, 1]
    assert len(data["n"]) >= 9
    model = lesff.load("off-small@1.3.0")
    stop = int(data["n"][0])
    atoms = Atoms(data["numbers"][:stop], data["positions"][:stop])
    atoms.info["charge"] = int(data["charge"][0])
    p = model.predict(atoms, ["energy", "forces", "charges"])
    relative = p.energy - sum(zero[str(z)] for z in atoms.numbers)
    assert data["energy"][0] == pytest.approx(relative, abs=1e-3)
    assert data["forces"][:stop] == pytest.approx(p.forces, abs=1e-3)
    assert data["charges"][:stop] == pytest.approx(p.charges, abs=1e-4)
    isolated.write_text(json.dumps({"1": -13.0}), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"must have the energies of \[6, "):
        run(
            "labels", structures, "-o", tmp_path / "n.npz", "--teacher", "off-small",
            "--isolated", isolated,
        )  # fmt: skip
    assert sha256_of(structures) in capsys.readouterr().out


def test_ensembles_say_where_they_are_unsure(run, tmp_path):
    molecules = tmp_path / "ions.tsv"
    molecules.write_text("anion\t[OH-]\npolar\tCO\n", encoding="utf-8")
    structures, labelled = tmp_path / "s.npz", tmp_path / "l.npz"
    run(
        "structures", "solvated", "--molecules", molecules, "--count", "4", "-o", structures,
        "--relax", "off-small",
    )  # fmt: skip
    made = read_npz(structures)
    waters = (made["n"].astype(int) - np.where(made["group"] == b"CO", 6, 2)) / 3
    assert ((waters >= 2) & (waters <= 20) & (waters % 1 == 0)).all()
    folder = tmp_path / "both"
    lesff.load_ensemble(["off-small@1.0.0", "off-small@1.3.0"]).save(folder)
    run(
        "labels", structures, "-o", labelled, "--teacher", folder, "--largest-force", "1000",
    )  # fmt: skip
    data = read_shard(labelled)
    assert len(data["spread"]) == len(data["n"]) == 4
    assert (data["spread"] > 0.0).all()


def test_protons_go_between_what_is_asked(run, tmp_path):
    """A shared proton is within reach of both its atoms; chloride and water are held out."""
    molecules, structures = tmp_path / "anions.tsv", tmp_path / "s.npz"
    molecules.write_text("anion\t[Cl-]\nanion\t[F-]\npolar\tO\npolar\tC\n", encoding="utf-8")
    asked = ["structures", "transfers", "--molecules", molecules, "--count", "12", "--charge", "-1"]
    run(*asked, "-o", structures, "--relax", "none")
    made = read_npz(structures)
    assert made["charge"].tolist() == [-1] * 12
    assert set(made["group"]) == {b"O.[F-]"}
    for x in made["positions"].reshape(12, 4, 3):
        oxygen, hydrogens, fluoride = x[0], x[1:3], x[3]
        to_fluoride = np.linalg.norm(hydrogens - fluoride, axis=1)
        moved = hydrogens[to_fluoride.argmin()]
        # A: covalent radii are 0.31 (H), 0.66 (O) and 0.57 (F) in ASE; 0.03 A of noise on all atoms
        assert 1.5 < np.linalg.norm(fluoride - oxygen) < 3.4
        assert 0.7 < np.linalg.norm(moved - oxygen) < 2.6
        assert 0.6 < to_fluoride.min() < 2.5
    with pytest.raises(SystemExit, match="no hydrogen that could go"):
        run(*asked[:-1], "1", "-o", tmp_path / "none.npz", "--relax", "none")


def test_a_pair_correction_is_a_potential(tool):
    """Forces are minus the derivatives of the energy (differences), and it ends at its cutoff."""
    names, rng = tool("pair_correction"), np.random.default_rng(4)
    size = names["design"]((1, 8), np.array([8]), np.zeros((1, 3)))[0].size
    found = names["PairCorrection"]((1, 8), rng.normal(size=size))
    numbers, positions = np.array([8, 1, 1, 8]), rng.normal(scale=1.5, size=(4, 3))
    _, forces = found.labels(numbers, positions)
    for atom, axis in ((0, 0), (2, 1), (3, 2)):
        moved = [positions.copy(), positions.copy()]
        for one, step in zip(moved, (1e-5, -1e-5), strict=True):
            one[atom, axis] += step
        up, down = (found.labels(numbers, one)[0] for one in moved)
        assert forces[atom, axis] == pytest.approx(-(up - down) / 2e-5, abs=1e-6)
    pair = np.array([[0.0, 0, 0], [0, 0, 3.7999]])
    assert found.labels(np.array([8, 1]), pair)[0] == pytest.approx(
        found.coefficients[-2:].sum(), abs=1e-6
    )


@pytest.mark.filterwarnings("ignore::lesff.errors.ExtrapolationWarning")
def test_a_pair_correction_finds_what_a_teacher_lacks(tool, run, tmp_path, capsys):
    """The teacher is a model, its error a pair potential and an energy of each element."""
    names, rng = tool("pair_correction"), np.random.default_rng(5)
    size = names["design"]((1, 8), np.array([8]), np.zeros((1, 3)))[0].size
    smooth = 0.02 * rng.normal(size=size)
    smooth[-2:] = (0.3, -0.2)
    truth = names["PairCorrection"]((1, 8), smooth)
    teacher, frames = lesff.load("off-small@1.3.0"), []
    for i in range(24):
        atoms = molecule(("H2O", "H2O2")[i % 2])
        atoms.rattle(0.05, seed=i)
        p = teacher.predict(atoms, ["energy", "forces"])
        energy, forces = truth.labels(atoms.numbers, atoms.positions)
        atoms.calc = SinglePointCalculator(
            atoms, energy=p.energy + energy, forces=p.forces + forces
        )
        atoms.info["molecule"] = f"m{i % 8}"
        frames.append(atoms)
    write(tmp_path / "dft.xyz", frames, format="extxyz")
    path = tmp_path / "c.json"
    run("pair_correction", "fit", tmp_path / "dft.xyz", "-o", path, "--teacher", "off-small@1.3.0")
    told = capsys.readouterr().out
    before, after = (float(told.split(key)[1].split()[0]) for key in ("forces", "validation"))
    assert told.startswith("24 frames")
    assert after < 0.1 * before
    shard = {
        "n": np.array([3]), "numbers": np.array([8, 1, 1]), "energy": np.array([-9.0]),
        "positions": frames[0].positions, "forces": np.zeros((3, 3)),
    }  # fmt: skip
    np.savez(tmp_path / "l.npz", **shard)
    run(
        "pair_correction", "add", tmp_path / "l.npz", "--correction", path, "-o", tmp_path / "b.npz"
    )
    better = read_npz(tmp_path / "b.npz")
    energy, forces = truth.labels(shard["numbers"], shard["positions"])
    assert better["energy"][0] + 9.0 == pytest.approx(energy, abs=0.02)
    np.testing.assert_allclose(better["forces"], forces, atol=0.05)
    np.savez(tmp_path / "l.npz", **(shard | {"numbers": np.array([7, 1, 1])}))
    with pytest.raises(SystemExit, match=r"must know the elements of the shard, and lacks \[7\]"):
        run("pair_correction", "add", tmp_path / "l.npz", "--correction", path, "-o", path)


def test_labels_of_two_teachers_are_mixed(run, tmp_path):
    """Shares by charge; energies after the mean difference of each group, in any order."""
    rng, n = np.random.default_rng(6), np.array([2, 1, 2])
    first = {
        "n": n, "numbers": np.array([1, 1, 17, 1, 1]), "positions": rng.normal(size=(5, 3)),
        "forces": rng.normal(size=(5, 3)), "energy": np.array([1.0, 2.0, 5.0]),
        "charge": np.array([0, -1, 0]), "group": np.array([b"H2", b"Cl", b"H2"]),
        "valid": np.zeros(3, bool),
    }  # fmt: skip
    # the second has them backwards, and one more
    second = {key: value[::-1] for key, value in first.items()}
    second["positions"] = first["positions"][[3, 4, 2, 0, 1]]
    forces = rng.normal(size=(5, 3))
    second |= {"forces": forces[[3, 4, 2, 0, 1]], "energy": np.array([9.0, 12.0, 4.0])}
    np.savez(tmp_path / "a.npz", **first)
    np.savez(tmp_path / "b.npz", **second)
    out = tmp_path / "m.npz"
    words = [tmp_path / "a.npz", tmp_path / "b.npz", "-o", out]
    run("mixed", *words, "--share", "0.25", "--charged-share", "0.75")
    found = read_shard(out)
    w = np.array([0.25, 0.25, 0.75, 0.25, 0.25])[:, None]
    np.testing.assert_allclose(found["forces"], w * first["forces"] + (1 - w) * forces, atol=1e-6)
    # of H2 the second is 3.5 too high on average: 0.5 and 5.5; of Cl by 10
    np.testing.assert_allclose(found["energy"], [0.25 + 0.75 * 0.5, 2.0, 1.25 + 0.75 * 5.5])
    d = first["forces"] - forces
    np.testing.assert_allclose(
        found["spread"], [np.sqrt((d[a:b] ** 2).mean()) for a, b in ((0, 2), (2, 3), (3, 5))],
        rtol=1e-6,
    )  # fmt: skip
    with pytest.raises(SystemExit, match="shares must be from 0 to 1, got 1.5"):
        run("mixed", *words, "--share", "1.5")
    second["positions"] = second["positions"] + 1.0
    np.savez(tmp_path / "b.npz", **second)
    with pytest.raises(SystemExit, match="no structure in common"):
        run("mixed", *words, "--share", "0.5")
