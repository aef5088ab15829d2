"""Inputs of docs/workflows.md: python docs/examples/workflow_inputs.py FOLDER."""

import sys
from pathlib import Path

from ase import Atoms
from ase.build import bulk, molecule
from ase.collections import g2
from ase.io import write
from ase.spacegroup import crystal

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)

# closed shells of the G2 set of H, C, N, O, F and Cl, shaken
shaken = []
for name in g2.names:
    atoms = molecule(name)
    known = set(atoms.symbols) <= {"H", "C", "N", "O", "F", "Cl"}
    if len(atoms) >= 5 and known and not atoms.get_initial_magnetic_moments().any():
        atoms.rattle(0.05, seed=len(shaken))
        shaken.append(atoms)
write(folder / "molecules.extxyz", shaken[:64])

write(folder / "water.extxyz", molecule("H2O"))
write(folder / "methanol.extxyz", molecule("CH3OH"))
write(folder / "nacl.extxyz", bulk("NaCl", "rocksalt", a=5.64))
write(folder / "nacl-64.extxyz", bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(2))
write(folder / "mgo.extxyz", bulk("MgO", "rocksalt", a=4.21))

# ammonia and its mirror image
first = molecule("NH3")
last = first.copy()
last.positions[0, 2] = 2.0 * first.positions[1:, 2].mean() - first.positions[0, 2]
write(folder / "ammonia.extxyz", [first, last])


# crystals with lithium, measured lattice constants
def write_crystal(name, symbols, sites, group, cell):
    """Write a crystal of a space group, without what ASE notes about it."""
    atoms = crystal(symbols, sites, spacegroup=group, cellpar=cell)
    write(folder / name, Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True))


cube = [90, 90, 90]
sites = [(0, 0, 0), (0.25, 0.25, 0.25)]
write_crystal("li2s.extxyz", ["S", "Li"], sites, 225, [5.71] * 3 + cube)
sites = [(0, 0, 0), (0.5, 0.5, 0.5)]
write_crystal("lif.extxyz", ["Li", "F"], sites, 225, [4.02] * 3 + cube)
write(folder / "lithium.extxyz", bulk("Li", "bcc", a=3.44, cubic=True))

# a vacancy in LiF (lattice constant of mat-small), before and after a neighbour hops into it
salt = bulk("LiF", "rocksalt", a=3.998, cubic=True).repeat(2)
lithium = [atom.index for atom in salt if atom.symbol == "Li"]
gone = lithium[0]
hops = sorted(lithium, key=lambda i: salt.get_distance(gone, i, mic=True))[1]
first, last = salt.copy(), salt.copy()
last.positions[hops] += salt.get_distance(hops, gone, mic=True, vector=True)
for atoms in (first, last):
    del atoms[gone]
write(folder / "lif-vacancy.extxyz", [first, last])

# an interstitial in LiF: it takes the place of a neighbour, which goes on to the next cavity
cavity = salt.positions[gone] + 0.25 * 3.998
hops = next(i for i in lithium if abs(salt.positions[i] - [1.999, 1.999, 0.0]).max() < 1e-6)
first = salt + Atoms("Li", [cavity])
last = first.copy()
last.positions[-1] = salt.positions[hops]
last.positions[hops] += [0.9995, 0.9995, -0.9995]
for atoms, centre in ((first, len(salt)), (last, hops)):
    # the four Li around it make room
    for i in atoms.symbols.search("Li"):
        vector = atoms.get_distance(centre, i, mic=True, vector=True)
        if i != centre and (vector**2).sum() < 3.3:
            atoms.positions[i] += 0.35 * vector / (vector**2).sum() ** 0.5
write(folder / "lif-interstitial.extxyz", [first, last])
nitride = [[3.648, 0, 0], [-1.824, 3.159, 0], [0, 0, 3.875]]
sites = [(1 / 3, 2 / 3, 0), (2 / 3, 1 / 3, 0), (0, 0, 0.5), (0, 0, 0)]
write(folder / "li3n.extxyz", Atoms("Li3N", scaled_positions=sites, cell=nitride, pbc=True))
# alpha-AgI: I body-centred, a silver on every sixth of the tetrahedral sites
sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.25, 0, 0.5), (0.75, 0.5, 0)]
iodide = Atoms("I2Ag2", scaled_positions=sites, cell=[5.06, 5.06, 5.06], pbc=True)
write(folder / "agi.extxyz", iodide * (3, 3, 3))
sites = [(0, 0, 0), (0.2822, 0.25, 0.9747), (0.0948, 0.25, 0.4182),
         (0.0968, 0.25, 0.7428), (0.4571, 0.25, 0.2060), (0.1656, 0.0465, 0.2848)]  # fmt: skip
symbols = ["Li", "Fe", "P", "O", "O", "O"]
write_crystal("lifepo4.extxyz", symbols, sites, 62, [10.332, 6.010, 4.692] + cube)
print(f"{len(shaken[:64])} molecules and 14 other files in {folder}")
