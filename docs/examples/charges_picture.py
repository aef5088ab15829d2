"""Picture of the README: latent charges and dipole of a molecule, and its infrared lines.

python docs/examples/charges_picture.py off-medium CH3CONH2 docs/charges.png
"""

import sys

import matplotlib as mpl
import numpy as np
from ase.build import molecule
from ase.data import covalent_radii

import lesff
from lesff.workflows.vibrations import vibrations

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 - after the choice of what draws

name, formula, output = sys.argv[1:]
model = lesff.load(name)
found = vibrations(model, molecule(formula))
atoms = found.atoms
p = model.predict(atoms, ["charges", "dipole"])

figure, (left, right) = plt.subplots(
    1, 2, figsize=(9.6, 3.6), width_ratios=(1.0, 1.4), layout="constrained"
)
# the plane of the heavy atoms is that of the paper
centred = atoms.positions - atoms.positions.mean(0)
heavy = centred[atoms.numbers > 1]
axes = np.linalg.svd(heavy - heavy.mean(0))[2]
flat = centred @ axes.T
for i in range(len(atoms)):
    for j in range(i):
        reach = covalent_radii[atoms.numbers[[i, j]]].sum()
        if np.linalg.norm(centred[i] - centred[j]) < 1.25 * reach:
            left.plot(*flat[[i, j], :2].T, color="0.6", lw=4, zorder=0)
order = np.argsort(flat[:, 2])
dots = left.scatter(
    *flat[order, :2].T, c=p.charges[order], s=900 * covalent_radii[atoms.numbers[order]],
    cmap="coolwarm_r", vmin=-0.8, vmax=0.8, edgecolors="0.3", zorder=1,
)  # fmt: skip
for i in order:
    above = (flat[:, 2] > flat[i, 2]) & (np.linalg.norm(flat[:, :2] - flat[i, :2], axis=1) < 0.4)
    if above.any():
        continue
    left.annotate(
        f"{atoms.symbols[i]}\n{p.charges[i]:+.2f}", flat[i, :2], ha="center", va="center", size=8
    )
arrow = p.dipole @ axes.T
left.annotate(
    "", arrow[:2], -arrow[:2], arrowprops={"arrowstyle": "-|>", "lw": 2.5, "color": "#1a7f37"}
)
left.set(aspect="equal", title=f"charges and dipole, {np.linalg.norm(p.dipole) * 4.803:.2f} D")
left.margins(0.25)
left.axis("off")
figure.colorbar(dots, ax=left, label="charge (e)", shrink=0.7)

grid = np.linspace(300, 4000, 3000)
lines = [
    strength * 10 / np.pi / ((grid - frequency) ** 2 + 100)
    for frequency, strength in zip(found.frequencies, found.intensities, strict=True)
    if frequency > 100
]
right.plot(grid, np.sum(lines, axis=0), color="#2563a8")
right.set(
    xlabel="wavenumber (1/cm)", ylabel="IR intensity (km/mol per 1/cm)",
    title=f"{formula}, {model.name}", xlim=(4000, 300), ylim=(0, None),
)  # fmt: skip
figure.savefig(output, dpi=130)
