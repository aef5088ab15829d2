"""Pictures of predictions: pages that need nothing else, in a real browser, too."""

import html.parser
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from ase.build import bulk, molecule

import lesff
from lesff.errors import ConfigError, PropertyError
from lesff.prediction import Prediction
from lesff.reports.viewer import MOST_SURFACE_ATOMS
from lesff.units import COULOMB_CONSTANT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
VOID = ("meta", "link", "br", "img")
NAMES = ["energy", "charges", "dipole"]


class Page(html.parser.HTMLParser):
    """Tags in order, their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "script"):
            (self.cells if tag == "td" else self.scripts).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] == "td":
            self.cells[-1] += data


@pytest.fixture(scope="module")
def model() -> lesff.Model:
    return lesff.load("off-small")


def shown(page: str) -> dict:
    """What a page was given to show."""
    found = re.search(r"^const shown = (.*);$", page, re.MULTILINE)
    assert found is not None
    return json.loads(found[1])


def test_a_page_is_whole_and_names_nothing_else(model, tmp_path):
    p = model.predict(molecule("CH3OH"), NAMES)
    made = lesff.view(p)
    path = made.save(tmp_path / "methanol.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert all(not {"src", "href"} & attributes.keys() for _, attributes in page.found)
    package = Path(lesff.__file__).parent
    library = (package / "service" / "static" / "3Dmol-min.js").read_text(encoding="utf-8")
    assert page.scripts[0] == library
    row = shown(made.page)
    assert row["symbols"] == list(molecule("CH3OH").symbols)
    np.testing.assert_allclose(row["values"]["charges"], p.charges)
    np.testing.assert_allclose(row["values"]["dipole"], p.dipole)
    assert row["cell"] is None
    assert [float(cell) for cell in page.cells[1::2]] == pytest.approx(p.charges, abs=6e-4)
    # a notebook shows the same page in a frame
    (frame,) = Page(made._repr_html_()).found
    assert frame[1]["srcdoc"] == made.page
    assert frame[1]["sandbox"] == "allow-scripts"


def test_units_cells_and_parts_of_lists(model):
    p = model.predict([molecule("H2O"), molecule("NH3")], NAMES)
    in_debye = shown(lesff.view(p.to("debye")[1]).page)
    np.testing.assert_allclose(in_debye["values"]["dipole"], p[1].dipole, rtol=1e-6)
    assert in_debye["symbols"] == ["N", "H", "H", "H"]
    salt = lesff.load("mat-small").predict(bulk("NaCl", "rocksalt", a=5.64), ["energy"])
    row = shown(lesff.view(salt).page)
    np.testing.assert_allclose(row["cell"], bulk("NaCl", "rocksalt", a=5.64).cell)
    (mapped,) = model.map([molecule("H2O")], ["charges"])
    assert mapped is not None
    assert shown(lesff.view(mapped).page)["symbols"] == ["O", "H", "H"]


def test_names_are_no_markup():
    p = Prediction({"energy": [1.0]}, is_single=True, model="</title><script>")
    page = Page(lesff.view(p, molecule("H2O")).page)
    assert [tag for tag, _ in page.found].count("script") == 2


def test_what_cannot_be_shown_is_refused(model):
    p = model.predict([molecule("H2O"), molecule("NH3")], ["charges"])
    with pytest.raises(PropertyError, match=r"got a prediction of 2: take one, `view\(pred"):
        lesff.view(p)
    with pytest.raises(PropertyError, match="must have the 3 atoms that were predicted, got 4"):
        lesff.view(p[0], molecule("NH3"))
    with pytest.raises(PropertyError, match="does not know its structure: give it"):
        lesff.view(Prediction({"energy": [1.0]}, is_single=True, model="m"))
    for height in (0, 1e3, 10**6):
        with pytest.raises(ConfigError, match="`height` must be 120 to 4000 pixels"):
            lesff.view(p[0], height=height)  # pyright: ignore[reportArgumentType]


def surface_width(page: str) -> float | None:
    """Width of the charges whose potential a page colours a surface by, A."""
    found = re.search(r"^const sigma = (.*);$", page, re.MULTILINE)
    assert found is not None
    return json.loads(found[1])


def test_the_surface_has_the_width_of_the_models_charges(model):
    """Of a prediction of one or many, in other units, and of `map`."""
    long_range = model.config.long_range
    assert long_range is not None
    p = model.predict([molecule("H2O"), molecule("NH3")], NAMES)
    (mapped,) = model.map([molecule("H2O")], ["charges"])
    assert mapped is not None
    for one in (p[0], p.to("debye")[1], p[:1][0], mapped, model.predict(molecule("H2O"), NAMES)):
        assert surface_width(lesff.view(one, surface=True).page) == long_range.sigma
        assert surface_width(lesff.view(one).page) is None


def test_the_page_has_the_scripts_of_the_playground(model):
    """One module, with nothing left to import, and the limits of the script itself."""
    static = Path(lesff.__file__).parent / "service" / "static"
    page = Page(lesff.view(model.predict(molecule("H2O"), NAMES), surface=True).page)
    code = page.scripts[1]
    assert not re.search(r"^import ", code, re.MULTILINE)
    surface = (static / "surface.js").read_text(encoding="utf-8")
    body = [line for line in surface.splitlines() if not line.startswith("import ")]
    assert "\n".join(body) in code
    assert f"MOST_ATOMS = {MOST_SURFACE_ATOMS};" in surface


def test_surfaces_that_cannot_be_shown_are_refused(model):
    p = model.predict(molecule("H2O"), NAMES)
    with pytest.raises(PropertyError, match="`surface` needs charges: predict them"):
        lesff.view(model.predict(molecule("H2O"), ["energy"]), surface=True)
    crystal = molecule("H2O", cell=[8.0] * 3, pbc=True)
    with pytest.raises(PropertyError, match="must be False for a periodic structure"):
        lesff.view(model.predict(crystal, ["charges"]), surface=True)
    with pytest.raises(PropertyError, match="must be False for a periodic structure"):
        lesff.view(p, crystal, surface=True)
    many = molecule("H2O")
    for k in range(1, 67):
        many += molecule("H2O", positions=molecule("H2O").positions + [6.0 * k, 0.0, 0.0])
    with pytest.raises(PropertyError, match="for more than 200 atoms, got 201"):
        lesff.view(model.predict(many, NAMES), surface=True)
    unknown = Prediction({"charges": [p.charges]}, is_single=True, model="m")
    with pytest.raises(PropertyError, match="how wide the charges are: set `prediction.charge_w"):
        lesff.view(unknown, molecule("H2O"), surface=True)
    unknown.charge_width = 1.0
    assert surface_width(lesff.view(unknown, molecule("H2O"), surface=True).page) == 1.0


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_a_browser_draws_the_surface(model, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    p = model.predict(molecule("H2O"), NAMES)
    plain = lesff.view(p, labels=False, dipole=False).save(tmp_path / "plain.html")
    covered = lesff.view(p, labels=False, dipole=False, surface=True).save(tmp_path / "s.html")
    said: list[str] = []
    pictures, texts = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 700, "height": 560})
        page.set_default_timeout(120_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        for path in (plain, covered):
            page.goto(path.as_uri())
            page.wait_for_selector("body[data-ready]")
            texts.append(page.inner_text("#potential").replace("\u2212", "-"))
            pictures.append(page.locator("#view").screenshot())
        browser.close()
    assert said == []
    assert pictures[0] != pictures[1]
    assert texts[0] == ""
    low, high = (float(text) for text in re.findall(r"([-+][0-9.]+) V", texts[1]))
    # between hydrogens and lone pairs, the ends of the scale: above oxygen, along the dipole
    water, sigma = molecule("H2O"), p.charge_width
    assert sigma is not None
    at = water.positions[0] - 1.52 * p.dipole / np.linalg.norm(p.dipole)
    r = np.linalg.norm(water.positions - at, axis=1)
    above = COULOMB_CONSTANT * float((p.charges * scipy.special.erf(r / sigma) / r).sum())
    assert low - 0.03 <= above < 0.0
    assert "V at O 1 (red)" in texts[1]
    assert high > 0.5


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_a_browser_draws_it_from_the_page_and_in_a_notebook_frame(model, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    p = model.predict(molecule("H2O"), NAMES)
    made = lesff.view(p)
    saved = made.save(tmp_path / "water.html")
    bare = lesff.view(p, labels=False, dipole=False).save(tmp_path / "bare.html")
    frame = tmp_path / "notebook.html"
    frame.write_text(f"<!doctype html><title>n</title>{made._repr_html_()}", encoding="utf-8")
    said: list[str] = []
    pictures = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 700, "height": 560})
        page.set_default_timeout(120_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        addresses = [path.as_uri() for path in (saved, bare, frame)]
        for address in addresses:
            page.goto(address)
            inside = page.frames[-1]
            inside.wait_for_selector("body[data-ready]")
            label = inside.get_attribute("#view", "aria-label")
            assert "Structure of 3 atoms: 1 O, 2 H." in label
            # water's dipole by the model, in the words for those who do not see it
            assert f"Dipole {np.linalg.norm(p.to('debye').dipole):.2f} debye" in label
            pictures.append(inside.locator("#view").screenshot())
        browser.close()
    # nothing but the pages themselves was asked for, and nothing went wrong
    assert [line for line in said if line not in (*addresses, "about:srcdoc")] == []
    assert pictures[0] != pictures[1]
    assert min(map(len, pictures)) > 2000  # an empty white picture has fewer bytes
