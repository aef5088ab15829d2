"""The catalogue as one page for a browser: every model of the manifest, to search and to filter.

Nothing is fetched when it is read and nothing is counted: data, style and script are inside, so
that it opens from the file system, too. Without a script the page is a plain list.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lesff.disk import write_atomically
from lesff.hub.manifest.entries import ModelEntry, VersionEntry

TABLE_ROWS = (
    (1, 2), (3, 4, 5, 6, 7, 8, 9, 10), (11, 12, 13, 14, 15, 16, 17, 18), tuple(range(19, 37)),
    tuple(range(37, 55)), (55, 56, *range(72, 87)), (87, 88, *range(104, 119)),
    tuple(range(57, 72)), tuple(range(89, 104)),
)  # fmt: skip
"""Periods of the periodic table, lanthanides and actinides last."""


def write_catalogue(models: Sequence[ModelEntry], folder: Path) -> Path:
    """Write ``index.html`` into a folder, which is made if it is not there.

    Args:
        models: Entries of the manifest.
        folder: Where.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    write_atomically(path, catalogue_html(models))
    return path


def catalogue_html(models: Sequence[ModelEntry], note: str = "") -> str:
    """The page.

    Filters may stand in the address: ``index.html#element=Na&element=Cl&license=permissive``.

    Args:
        models: Entries of the manifest.
        note: Plain text to show above, such as how to reach a mirror.
    """
    # ours and what is free for any use first
    order = sorted(models, key=lambda m: (m.is_published, not m.is_permissive, m.name))
    rows = [row_of(model) for model in order]
    # "<" cannot end the script element early
    data = json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c")
    from ase.data import chemical_symbols  # start-up: imports numpy

    periods = "".join(
        f"<div>{''.join(_element(chemical_symbols[z]) for z in row)}</div>" for row in TABLE_ROWS
    )
    cards = "\n".join(map(_card, rows))
    shown = f"<pre>{html.escape(note)}</pre>" if note else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>lesff models</title>\n"
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head><body>\n<header><h1>lesff models</h1>"
        f"<p>Choose the elements of your system; what is left knows all of them. "
        f"<code>lesff.load(NAME)</code> loads a model.</p>{shown}</header>\n"
        f'<form id="filters" aria-label="filters">{_FIELDS}'
        "<fieldset><legend>elements</legend>"
        f'<div class="periods">{periods}</div></fieldset></form>\n'
        f'<p id="count" role="status" aria-live="polite">{len(rows)} models</p>\n'
        f'<main id="models">{cards}</main>\n'
        f'<script id="data" type="application/json">{data}</script>\n<script>{_SCRIPT}</script>\n'
        f"</body></html>\n"
    )


def row_of(model: ModelEntry) -> dict[str, Any]:
    """What the page says of a model, as plain data."""
    from ase.data import chemical_symbols  # start-up: imports numpy

    newest = model.newest()
    if newest is None:  # an entry has a version
        raise AssertionError(model.name)
    return {
        "name": model.name,
        "aliases": list(model.aliases),
        "description": model.description,
        "license": model.license,
        "license_terms": model.license_terms,
        "license_url": model.license_url,
        "is_permissive": model.is_permissive,
        "is_ours": not model.is_published,
        "elements": [chemical_symbols[z] for z in model.elements],
        "level_of_theory": newest.level_of_theory,
        "total_charge": list(newest.total_charge),
        "spin_multiplicity": list(newest.spin_multiplicity),
        "size": _size(newest),
        "citation": model.citation,
        "caveats": newest.caveats,
        "versions": [
            _version(version)
            for version in sorted(model.versions, key=lambda v: v.order, reverse=True)
        ],
    }


def _version(version: VersionEntry) -> dict[str, Any]:
    published = version.sources.published
    digests = {file.path: file.sha256 for file in version.files}
    if published is not None:
        sha256 = published.sha256 or (published.git_blob and f"git blob {published.git_blob}")
        digests = {published.filename: sha256 or "not published"}
    return {
        "version": version.version,
        "date": version.date,
        "status": version.status,
        "note": version.status_note,
        "successor": version.successor,
        "home": None if published is None else published.home,
        "digests": digests,
    }


def _size(version: VersionEntry) -> int | None:
    """Bytes to keep or to fetch; None if nobody says."""
    if version.sources.published is not None:
        return version.sources.published.size
    return sum(file.size for file in version.files)


def _element(symbol: str) -> str:
    return f'<label><input type="checkbox" name="element" value="{symbol}">{symbol}</label>'


def _card(row: dict[str, Any]) -> str:
    text = html.escape
    low, high = row["total_charge"]
    charge = f"{low:+d} to {high:+d} e" if low < high else "neutral" if low == 0 else f"{low:+d} e"
    spins = "-".join(str(s) for s in sorted(set(row["spin_multiplicity"])))
    size = "size unknown" if row["size"] is None else f"{row['size'] / 1e6:.1f} MB"
    accept = "" if row["is_permissive"] else ", accept_license=True"
    load = f'lesff.load("{row["name"]}"{accept})'
    terms = f" <p>{text(row['license_terms'])}</p>" if row["license_terms"] else ""
    caveats = "".join(f"<li>{text(k)}: {text(v)}</li>" for k, v in row["caveats"].items())
    versions = "".join(map(_lineage, row["versions"]))
    return (
        f'<article data-name="{text(row["name"])}"><h2>{text(row["name"])}</h2>'
        f"<p>{text(row['description'])}</p>"
        f'<p class="load"><code>{text(load)}</code>'
        f'<button type="button" hidden data-copy="{text(load)}">copy</button></p>'
        f"<dl><dt>level of theory</dt><dd>{text(row['level_of_theory'])}</dd>"
        f"<dt>elements</dt><dd>{' '.join(row['elements'])}</dd>"
        f"<dt>charge</dt><dd>{charge}</dd><dt>multiplicity</dt><dd>{spins}</dd>"
        f"<dt>licence</dt><dd>{text(row['license'])}{terms}</dd><dt>size</dt><dd>{size}</dd>"
        f"<dt>cite</dt><dd>{text(row['citation'])}</dd></dl>"
        + (f"<h3>not to be trusted</h3><ul>{caveats}</ul>" if caveats else "")
        + f"<details><summary>versions and digests</summary>{versions}</details></article>"
    )


def _lineage(version: dict[str, Any]) -> str:
    text = html.escape
    notes = [version["date"], version["status"]]
    if version["note"]:
        notes.append(version["note"])
    if version["successor"]:
        notes.append(f"use {version['successor']}")
    home = "" if version["home"] is None else f"<p>{text(version['home'])}</p>"
    digests = "".join(
        f"<tr><td>{text(name)}</td><td><code>{text(str(digest))}</code></td></tr>"
        for name, digest in version["digests"].items()
    )
    return (
        f"<h3>{text(version['version'])}</h3><p>{text(', '.join(notes))}</p>{home}"
        f"<table>{digests}</table>"
    )


_FIELDS = (
    '<label>search <input type="search" name="text" placeholder="water, MACE, r2SCAN"></label>'
    '<label>licence <select name="license"><option value="">any</option>'
    '<option value="permissive">free for any use</option></select></label>'
    '<label>total charge <input type="number" name="charge" step="1"></label>'
    '<label>multiplicity <input type="number" name="spin" min="1" step="1"></label>'
    '<label>at most <input type="number" name="megabytes" min="0" step="1"> MB</label>'
    '<button type="reset">reset</button>'
)

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --accent: #2563a8; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 1.5rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 0; }
h3 { font-size: .95rem; margin: .7rem 0 0; }
form { display: flex; flex-wrap: wrap; gap: .6rem 1.2rem; align-items: end; }
fieldset { flex-basis: 100%; border: 1px solid var(--line); border-radius: .4rem; }
.periods div { display: flex; flex-wrap: wrap; gap: 2px; margin-bottom: 2px; }
.periods label { min-width: 2.3rem; text-align: center; border: 1px solid var(--line);
  border-radius: .25rem; font-size: .85rem; cursor: pointer; }
.periods input { position: absolute; opacity: 0; }
.periods label:has(:checked) { background: var(--accent); color: white; }
.periods label:has(:focus-visible) { outline: 3px solid var(--accent); outline-offset: 1px; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: .9rem; }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; min-width: 0; }
article[hidden] { display: none; }
.load code { background: #8882; padding: .2rem .4rem; border-radius: .25rem; user-select: all; }
.load button { margin-left: .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin: .4rem 0; }
dt { opacity: .75; } dd { margin: 0; overflow-wrap: anywhere; } dd p { margin: 0; }
details table { font-size: .8rem; } td code { overflow-wrap: anywhere; }
"""

_SCRIPT = """
"use strict";
const models = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const cards = new Map([...document.querySelectorAll("article")].map(a => [a.dataset.name, a]));
const words = m => [m.name, ...m.aliases, m.description, m.license, m.level_of_theory, m.citation]
  .join(" ").toLowerCase();
function fits(m, data) {
  const elements = data.getAll("element");
  const number = key => data.get(key) === "" ? null : +data.get(key);
  const charge = number("charge"), spin = number("spin"), most = number("megabytes");
  return elements.every(e => m.elements.includes(e))
    && data.get("text").toLowerCase().split(/\\s+/).every(w => words(m).includes(w))
    && (data.get("license") === "" || m.is_permissive)
    && (charge === null || (m.total_charge[0] <= charge && charge <= m.total_charge[1]))
    && (spin === null || (m.spin_multiplicity[0] <= spin && spin <= m.spin_multiplicity[1]))
    && (most === null || (m.size !== null && m.size <= most * 1e6));
}
function show() {
  const data = new FormData(form);
  let count = 0;
  for (const m of models) {
    const is = fits(m, data);
    cards.get(m.name).hidden = !is;
    count += is;
  }
  document.getElementById("count").textContent = `${count} of ${models.length} models`;
}
form.addEventListener("input", show);
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("reset", () => setTimeout(show));
for (const button of document.querySelectorAll("button[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", () => navigator.clipboard.writeText(button.dataset.copy));
}
for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
  for (const field of form.elements) {
    if (field.name !== key) continue;
    if (field.type === "checkbox") field.checked ||= field.value === value;
    else field.value = value;
  }
}
show();
"""
