"""Inputs of docs/workflows.md: python docs/examples/workflow_inputs.py FOLDER."""

import sys
from pathlib import Path

from ase.build import bulk, molecule
from ase.collections import g2
from ase.io import write

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
print(f"{len(shaken[:64])} molecules and 6 other files in {folder}")
