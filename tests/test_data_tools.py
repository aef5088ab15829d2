"""Tools that make structures and labels: chunks that go on, thermal amplitudes, contacts, zeros."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule

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
