"""What notebooks show of predictions, models and the list of models."""

import html.parser

import numpy as np
from ase import Atoms
from ase.build import molecule

import lesff
from lesff.prediction import Prediction


class Cells(html.parser.HTMLParser):
    """Text of the cells of tables; tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.cells[-1] += data


def test_a_prediction_shows_numbers_shapes_and_units():
    model = lesff.load("off-small")
    p = model.predict(molecule("H2O"), ["energy", "forces", "born_effective_charges"])
    cells = Cells(p._repr_html_()).cells
    assert cells[:1] + cells[2:4] == ["energy", "eV", "forces"]
    assert abs(float(cells[1]) - p.energy) < 1e-3
    assert cells[5:] == ["eV/A", "born_effective_charges", "(n_atoms, 3, 3)", "e"]
    many = model.predict([molecule("H2O"), Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])], ["energy"])
    assert Cells(many._repr_html_()).cells == ["energy", "()", "eV"]
    assert Cells(p.to("kcal/mol")._repr_html_()).cells[2] == "kcal/mol"


def test_reasons_and_names_are_no_markup():
    p = Prediction(
        {"energy": [np.float64(1.0)]}, is_single=True, model="<b>", reasons=[("geometry <i>",)]
    )
    text = p._repr_html_()
    assert "<b>" not in text
    assert Cells(text).cells[-2] == "geometry <i>"


def test_a_model_and_the_list_of_models():
    cells = Cells(lesff.load("off-small")._repr_html_()).cells
    assert "H C N O F P S Cl" in cells
    assert "born_effective_charges" in cells[-1]
    listed = Cells(lesff.list_models()._repr_html_()).cells
    assert [listed[i] for i in range(0, len(listed), 3)] == [m.name for m in lesff.list_models()]
