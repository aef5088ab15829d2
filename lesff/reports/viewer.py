"""A structure with its charges and dipole, to turn with the mouse: in notebooks and as a page.

The page holds its scripts, those of the playground of ``lesff serve``, and fetches nothing.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from lesff.atoms.structure import Structure, to_structure
from lesff.disk import write_atomically
from lesff.errors import ConfigError, PropertyError
from lesff.prediction import Prediction

_SCRIPTS = Path(__file__).parents[1] / "service" / "static"
_SIZE = (120, 4000)
_IMPORT = re.compile(r"^import .*\n", re.MULTILINE)
MOST_SURFACE_ATOMS = 200
"""As in surface.js: the potential is summed over all atoms at each point of the surface."""
_MOST_ROWS = 500
"""Atoms of the table below the picture."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>{title}</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 0; color: #1c2430; background: #fff; }}
#view {{ position: relative; width: 100%; height: {height}px; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .1rem .7rem; text-align: right; border-bottom: 1px solid #d8dee6; }}
p, details {{ margin: .3rem .6rem; }}
</style>
</head>
<body>
<div id="view" role="img" tabindex="0"></div>
<p>{caption}</p>
<p id="potential"></p>
{numbers}
<script>{library}</script>
<script type="module">
{code}
const shown = {row};
const view = new View(document.getElementById("view"));
view.options.labels = {labels};
view.options.arrow = {dipole};
const sigma = {surface};
if (sigma !== null) {{
  view.options.surface = (viewer, row) => drawSurface(viewer, row, sigma);
  document.getElementById("potential").textContent = surfaceText(shown, sigma);
}}
view.show(shown);
document.body.dataset.ready = "yes";
</script>
</body>
</html>
"""


class StructureView:
    """A picture of one structure that notebooks show; :meth:`save` writes it as a page.

    Attributes:
        page: The page, HTML that needs no other file and no network.
    """

    def __init__(self, page: str, height: int) -> None:
        self.page = page
        self._height = height

    def save(self, path: str | Path) -> Path:
        """Write the page; returns where it is.

        Raises:
            OSError: if the file cannot be written.
        """
        target = Path(path)
        write_atomically(target, self.page.encode())
        return target

    def _repr_html_(self) -> str:
        """A frame of its own, which cannot reach the notebook around it."""
        return (
            f'<iframe sandbox="allow-scripts" width="100%" height="{self._height + 60}" '
            f'style="border:0" title="structure" srcdoc="{html.escape(self.page)}"></iframe>'
        )

    def __repr__(self) -> str:
        return f"StructureView({len(self.page)} characters of HTML; save(path) writes them)"


def view(
    prediction: Prediction,
    structure: Any = None,
    *,
    height: int = 420,
    labels: bool = True,
    dipole: bool = True,
    surface: bool = False,
) -> StructureView:
    """Show one predicted structure: charges as colours and labels, dipole, cell.

    Red is negative, blue positive; the arrow of the dipole goes from minus to plus. What was not
    predicted is not shown: without charges, atoms have the colours of their elements.

    Args:
        prediction: Of one structure; of a list take one, ``prediction[0]``.
        structure: What to show in place of the structure that was predicted, such as the same
            molecule wrapped into its cell.
        height: Of the picture, in pixels.
        labels: Write charges, or symbols without charges, beside atoms (up to 60 atoms).
        dipole: Draw the dipole.
        surface: Draw the van der Waals surface of a molecule, coloured by the electrostatic
            potential of its charges in V, and name the ends of the scale; up to
            :data:`MOST_SURFACE_ATOMS` atoms. It needs ``charges``.

    Returns:
        What notebooks show, and ``save(path)`` writes.

    Raises:
        PropertyError: for several structures, and without one; for a surface of a periodic or a
            large structure, or without charges.
        StructureError: for a structure of another number of atoms.
        ConfigError: for a bad height.
    """
    if not (isinstance(height, int) and _SIZE[0] <= height <= _SIZE[1]):
        raise ConfigError(f"`height` must be {_SIZE[0]} to {_SIZE[1]} pixels, got {height!r}")
    state = _state(prediction, structure)
    values = _values(prediction, state)
    row = {
        "symbols": [chemical_symbols[z] for z in state.numbers.tolist()],
        "positions": state.positions.tolist(),
        "cell": state.cell.tolist() if state.pbc.any() else None,
        "values": values,
    }
    page = _PAGE.format(
        title=html.escape(f"Prediction of {prediction.model}"),
        height=height,
        caption=html.escape(_caption(prediction, state)),
        numbers=_numbers(row),
        library=(_SCRIPTS / "3Dmol-min.js").read_text(encoding="utf-8"),
        code=_code(),
        # text in a script must not end it
        row=json.dumps(row, allow_nan=False).replace("<", "\\u003c"),
        labels=json.dumps(labels),
        dipole=json.dumps(dipole),
        surface=json.dumps(_surface_width(prediction, state, values) if surface else None),
    )
    return StructureView(page, height)


def _code() -> str:
    """The playground's modules as one, in which nothing is imported."""
    texts = [(_SCRIPTS / name).read_text(encoding="utf-8") for name in ("view.js", "surface.js")]
    return "\n".join(_IMPORT.sub("", text) for text in texts)


def _surface_width(prediction: Prediction, state: Structure, values: dict[str, Any]) -> float:
    """Sigma in A of the charges whose potential colours a surface.

    Raises:
        PropertyError: saying why there is none to show.
    """
    if "charges" not in values:
        raise PropertyError(
            "`surface` needs charges: predict them, `predict(atoms, ['energy', 'charges'])`"
        )
    if state.pbc.any():
        raise PropertyError(
            "`surface` must be False for a periodic structure, whose potential is not that of one "
            "molecule: cut the molecule out and set `pbc = False`"
        )
    if len(state) > MOST_SURFACE_ATOMS:
        raise PropertyError(
            f"`surface` must be False for more than {MOST_SURFACE_ATOMS} atoms, got {len(state)}"
        )
    if prediction.charge_width is None:
        raise PropertyError(
            "`surface` needs to know how wide the charges are: set `prediction.charge_width` in A"
        )
    return prediction.charge_width


def _state(prediction: Prediction, structure: Any) -> Structure:
    """The structure to show."""
    if prediction.n_structures != 1:
        raise PropertyError(
            f"`view` shows one structure, got a prediction of {prediction.n_structures}: take one, "
            "`view(prediction[0])`"
        )
    if structure is not None:
        return structure if isinstance(structure, Structure) else to_structure(structure)
    if prediction.structures is None:
        raise PropertyError(
            "this prediction does not know its structure: give it, `view(prediction, atoms)`"
        )
    return prediction.structures[0]


def _values(prediction: Prediction, state: Structure) -> dict[str, Any]:
    """Charges (e) and dipole (e A) that were predicted."""
    found: dict[str, Any] = {}
    for name, unit in (("charges", "e"), ("dipole", "e*A")):
        if name not in prediction:
            continue
        value = np.asarray(prediction.to(**{name: unit}).per_structure()[0][name], dtype=np.float64)
        if name == "charges" and len(value) != len(state):
            raise PropertyError(
                f"`structure` must have the {len(value)} atoms that were predicted, got "
                f"{len(state)}"
            )
        found[name] = value.tolist()
    return found


def _caption(prediction: Prediction, state: Structure) -> str:
    parts = [prediction.model]
    if state.total_charge:
        parts.append(f"total charge {state.total_charge:+d}")
    if state.spin_multiplicity > 1:
        parts.append(f"multiplicity {state.spin_multiplicity}")
    energy = prediction.per_structure()[0].get("energy")
    if energy is not None:
        parts.append(f"energy {float(energy):.4f} {prediction.units['energy']}")
    return "; ".join(parts)


def _numbers(row: dict[str, Any]) -> str:
    """The same in a table, for those who do not see the picture."""
    charges = row["values"].get("charges")
    if charges is None or len(charges) > _MOST_ROWS:
        return ""
    lines = "".join(
        f"<tr><td>{symbol} {i + 1}</td><td>{charge:+.3f}</td></tr>"
        for i, (symbol, charge) in enumerate(zip(row["symbols"], charges, strict=True))
    )
    return (
        "<details><summary>Charges</summary><table><tr><th>atom</th><th>charge (e)</th></tr>"
        f"{lines}</table></details>"
    )
