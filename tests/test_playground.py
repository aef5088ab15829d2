"""The page of the service in a real browser: a person predicts, looks, turns knobs, downloads."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import scipy.special
from PIL import Image

from lesff.units import COULOMB_CONSTANT

pytest.importorskip("fastapi")
pytest.importorskip("rdkit")
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
]
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE = 180_000
"""ms; pages are drawn without a graphics card, on machines that others use."""
WATER = "O 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The command in a process of its own, with two models."""
    words = ["serve", "-m", "off-small", "-m", "mat-small", "--port", "0"]
    process = subprocess.Popen(  # noqa: S603 - ours
        [sys.executable, "-m", "lesff", *words],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """The page; at the end, its console must be empty, and nothing was asked of others."""
    said: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1360, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, "blob:", "data:"))
                else said.append(request.url)
            ),
        )
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        yield page
        with contextlib.suppress(Exception):
            browser.close()
    assert said == []


def press(page: Any, button: str) -> None:
    page.click(button)
    page.wait_for_selector('#status:has-text("Done")')


def dark_pixels(page: Any) -> bytes:
    """The picture of the structure as bytes: two are equal if nothing moved."""
    return page.locator("#view").screenshot()


def coloured(picture: bytes) -> int:
    """Pixels of a picture that are not its background."""
    with Image.open(io.BytesIO(picture)) as image:
        values = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(values - values[5, values.shape[1] // 2]).max(2) > 40).sum())


def test_a_molecule_of_a_smiles(page, tmp_path):
    page.fill("#text", "CC(=O)N")
    press(page, "#predict")
    # charges, in the table for those who do not see the picture, and the dipole
    assert page.locator("#atoms tbody tr").count() == 9
    charges = [
        float(text.replace("\u2212", "-"))
        for text in page.locator("#atoms tbody tr td:nth-child(2)").all_inner_texts()
    ]
    assert abs(sum(charges)) < 0.05
    assert min(charges) == charges[2]  # oxygen
    row = page.locator("#summary tbody tr", has_text="Dipole (D)").inner_text()
    # acetamide, 3.76 D: W. W. Kurland, E. B. Wilson, J. Chem. Phys. 27, 585 (1957)
    assert float(row.split()[-1]) == pytest.approx(3.76, rel=0.1)
    assert "Dipole" in page.get_attribute("#view", "aria-label")
    assert "9 atoms" in page.get_attribute("#view", "aria-label")
    # the arrow and the colours are drawn
    with_all = dark_pixels(page)
    page.uncheck("#arrow")
    without_arrow = dark_pixels(page)
    assert without_arrow != with_all
    page.check('input[name="colour"][value="element"]')
    assert dark_pixels(page) != without_arrow
    # Python lines reproduce the numbers
    with page.expect_download() as saved:
        page.click("#get-python")
    code = Path(saved.value.path()).read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(compile(code, "page", "exec"), names)  # noqa: S102 - ours
    with page.expect_download() as saved:
        page.click("#get-json")
    (told,) = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))["results"]
    assert names["prediction"].energy == pytest.approx(told["values"]["energy"], abs=1e-5)
    with page.expect_download() as saved:
        page.click("#get-xyz")
    path = tmp_path / "result.extxyz"
    shutil.copy(saved.value.path(), path)
    atoms: Any = ase.io.read(path)
    assert atoms.get_potential_energy() == pytest.approx(told["values"]["energy"], abs=1e-5)


def test_the_potential_on_the_surface(page):
    """Picture, words, and the formula: erf(r / sigma) / r of each charge (docs/openmm.md)."""
    page.fill("#text", WATER)
    press(page, "#predict")
    plain = dark_pixels(page)
    page.check("#surface")
    page.wait_for_selector("#potential:not(:empty)")
    with_surface = dark_pixels(page)
    assert with_surface != plain
    told = page.inner_text("#potential").replace("\u2212", "-")
    low, high = (float(text) for text in re.findall(r"([-+][0-9.]+) V", told))
    assert "V at O 1 (red)" in told
    assert "(blue)" in told
    # the surface as the page has it, from its own numbers
    row, sigma = page.evaluate(
        """async (xyz) => {
          const body = JSON.stringify({ xyz, properties: ["charges"] });
          const headers = { "Content-Type": "application/json" };
          const answer = await (await fetch("/predict", { method: "POST", body, headers })).json();
          const info = await (await fetch("/info")).json();
          return [answer.results[0], info.models[0].charge_width];
        }""",
        f"3\n\n{WATER}\n",
    )
    points = [[0.0, 0.0, 1.7], [1.4, 1.9, -1.0], [30.0, 0.0, 0.0], row["positions"][0]]
    found = page.evaluate(
        """async ([row, sigma, points]) => {
          const { potentialAt } = await import("/static/surface.js");
          return points.map((at) => potentialAt(at, row, sigma));
        }""",
        [row, sigma, points],
    )
    positions, charges = np.array(row["positions"]), np.array(row["values"]["charges"])

    def potential(at: np.ndarray) -> float:
        r = np.maximum(np.linalg.norm(positions - at, axis=1), 1e-9)
        return float(COULOMB_CONSTANT * (charges * scipy.special.erf(r / sigma) / r).sum())

    assert found == pytest.approx([potential(np.array(at)) for at in points], abs=1e-5)
    # the ends of the scale are those of the surface, which above oxygen is 1.52 A away (Bondi); its
    # sample has a point within 0.2 A of any other
    above = potential(positions[0] + [0.0, 0.0, 1.52])
    assert low - 0.03 <= above < 0.0
    assert high > 0.5
    # it does not stay where there is none: while atoms move, and in crystals
    page.uncheck("#surface")
    assert page.inner_text("#potential") == ""
    assert coloured(dark_pixels(page)) < 0.5 * coloured(with_surface)
    page.check("#surface")
    page.fill("#cell", "8 8 8")
    press(page, "#predict")
    assert page.inner_text("#potential") == ""
    assert page.is_disabled("#surface")


def test_vibrations_move_and_a_field_changes_the_energy(page):
    page.fill("#text", WATER)
    press(page, "#vibrate")
    assert page.locator("#mode option").count() == 3
    assert page.locator("#spectrum .stick").count() == 3
    assert page.locator("#spectrum .chosen").count() == 1
    assert "strongest" in page.get_attribute("#spectrum", "aria-label")
    # a mode is chosen by key, moves, and stops
    page.focus("#mode")
    page.keyboard.press("End")
    assert page.locator("#mode option").nth(2).evaluate("option => option.selected")
    pictures = set()
    end = time.monotonic() + 30
    while len(pictures) < 2 and time.monotonic() < end:
        pictures.add(dark_pixels(page))
    assert len(pictures) == 2
    page.click("#play")
    assert page.inner_text("#play") == "Animate"
    # Python lines give the same modes
    names: dict[str, Any] = {}
    exec(compile(page.text_content("#python"), "page", "exec"), names)  # noqa: S102 - ours
    listed = [int(text.split()[0]) for text in page.locator("#mode option").all_inner_texts()]
    np.testing.assert_allclose(names["modes"].wavenumbers, listed, atol=1.0)
    # a field of 0.1 V/A along z changes the energy by -E mu, the charges being fixed
    dipole = names["prediction"].dipole[2]
    page.locator("#field").fill("0.1")
    page.wait_for_selector('#field-effect:has-text("against no field")')
    words = page.inner_text("#field-effect").replace("\u2212", "-").split()
    assert abs(dipole) > 0.3
    assert float(words[words.index("Energy") + 1]) == pytest.approx(-0.1 * dipole, abs=2e-4)


def test_a_crystal_of_a_cif_and_two_models(page, tmp_path):
    from ase.build import bulk

    ase.io.write(tmp_path / "a.cif", bulk("NaCl", "rocksalt", a=5.64, cubic=True))
    page.set_input_files("#file", tmp_path / "a.cif")
    page.wait_for_selector('#kind:has-text("CIF")')
    page.select_option("#model", "mat-small")
    press(page, "#predict")
    assert page.locator("#atoms tbody tr").count() == 8
    page.fill("#text", "O")
    page.select_option("#model", "off-small")
    page.select_option("#compare", "mat-small")
    press(page, "#predict")
    assert page.locator("#summary thead th").count() == 3
    assert "Forces differ" in page.inner_text("#summary")


def test_by_keyboard_alone_and_in_both_lights(page):
    page.focus("#text")
    page.keyboard.press("Control+A")
    page.keyboard.type("CO")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector('#status:has-text("Done")')
    before = dark_pixels(page)
    page.focus("#view")
    page.keyboard.press("ArrowLeft")
    assert dark_pixels(page) != before
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(251, 251, 249)"
    page.focus("#theme")
    page.keyboard.press("Enter")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    # every control has a name
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button")]
        .filter((e) => !(e.labels && e.labels.length) && !e.textContent.trim()
            && !e.getAttribute("aria-label")).map((e) => e.id)"""
    )
    assert unnamed == []


def test_warnings_and_errors_are_told(page):
    page.fill("#text", "2\n\nO 0 0 0\nO 0 0 1.21\n")
    press(page, "#predict")
    assert "ground state of O2" in page.inner_text("#warnings")
    page.fill("#cell", "1 2")
    page.click("#predict")
    page.wait_for_selector("#alert:not([hidden])")
    assert "three or nine numbers" in page.inner_text("#alert")
