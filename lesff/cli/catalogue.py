"""Commands on the manifest and on models that others publish: list, pull, cite."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lesff.cli.options import accept_license_option
from lesff.errors import ModelNotFoundError
from lesff.files import FileSet
from lesff.hub.manifest.citations import bibtex
from lesff.hub.manifest.entries import ModelEntry, VersionEntry
from lesff.hub.manifest.names import find_model, list_models
from lesff.hub.resolve import is_here, pull
from lesff.hub.spec import RegistrySpec, parse

_COLUMNS = ("model", "by", "licence", "elements", "size", "level of theory")


@click.command("list")
@click.option(
    "--license", "wanted", type=click.Choice(["permissive", "any"]), default="any",
    show_default=True, help="Only models that are free for any use, commercial use included.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a table for documentation.")
def list_command(wanted: str, *, as_json: bool, as_markdown: bool) -> None:
    """List the models that can be loaded by name."""
    entries = [entry for entry in list_models() if wanted == "any" or entry.is_permissive]
    entries.sort(key=lambda entry: (entry.is_published, entry.name))
    if as_json:
        click.echo(json.dumps([entry.to_dict() for entry in entries], indent=1))
    elif as_markdown:
        click.echo(markdown_table(entries))
    else:
        click.echo(_text_table([_row(entry) for entry in entries]))


@click.command("pull")
@click.argument("name")
@click.option(
    "--from", "checkpoint", type=click.Path(path_type=Path),
    help="Checkpoint file to use instead of a download, for models of others.",
)  # fmt: skip
@accept_license_option
def pull_command(name: str, checkpoint: Path | None, *, accept_license: bool) -> None:
    """Fetch a model into the cache, so that it loads offline."""
    found = pull(name, checkpoint=checkpoint, accept_license=accept_license)
    click.echo(f"{found.name}@{found.version} is at {found.folder} ({found.origin})")


@click.command("cite")
@click.argument("name")
def cite_command(name: str) -> None:
    """Print the BibTeX of what to cite for a model."""
    click.echo(bibtex(find_model(name)[0]))


def find_unfetched(name: str) -> tuple[ModelEntry, VersionEntry] | None:
    """Model and version if it is published by others and not on this machine, else None."""
    try:
        spec = parse(name)
        if not isinstance(spec, RegistrySpec):
            return None
        entry, version = find_model(spec)
    except ModelNotFoundError:  # a name for `load` to refuse
        return None
    if version.sources.published is None or is_here(entry, version):
        return None
    return entry, version


def show_unfetched(entry: ModelEntry, version: VersionEntry, *, as_json: bool) -> str:
    """What the manifest says about a model that others publish."""
    # here, because it takes seconds that the other commands need not spend
    from lesff.atoms.elements import symbols

    source = version.sources.published
    if as_json or source is None:
        return json.dumps(entry.to_dict(), indent=1)
    hashes = {"git blob": source.git_blob, "sha256": source.sha256}
    known = [f"{key} {value}" for key, value in hashes.items() if value is not None]
    rows = {
        "model": f"{entry.name}@{version.version}",
        "from": f"not on this machine; `lesff pull {entry.name}` fetches and converts it",
        "description": entry.description,
        "elements": symbols(entry.elements),
        "total charge": "{} to {}".format(*version.total_charge),
        "spin multiplicity": "{} to {}".format(*version.spin_multiplicity),
        "level of theory": version.level_of_theory,
        "licence": f"{entry.license}, {entry.license_url}",
        "terms": entry.license_terms,
        "home": source.home,
        "file": source.url,
        "size": _size(version),
        "hash": ", ".join(known) or "none known: the first fetch records it",
        "inside": source.member or "",
        "head": source.head or "",
        "citation": entry.citation,
    }
    return "\n".join(f"{key + ':':20}{value}" for key, value in rows.items() if value)


def markdown_table(entries: list[ModelEntry]) -> str:
    """Table of models for documentation, Markdown."""
    columns = (*_COLUMNS, "hash", "file", "address from")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for entry in entries:
        source = _version(entry).sources.published
        cells = list(_row(entry))
        cells[0] = f"`{cells[0]}`"
        if entry.license_url:
            cells[2] = f"[{entry.license}]({entry.license_url})"
        if source is None:
            cells += ["sha256", "bundled", ""]
        else:
            known = "sha256" if source.sha256 else "git blob" if source.git_blob else "first fetch"
            cells += [known, f"[{source.filename}]({source.url})", source.url_from]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _version(entry: ModelEntry) -> VersionEntry:
    return entry.newest() or entry.versions[-1]


def _size(version: VersionEntry) -> str:
    source = version.sources.published
    n_bytes = FileSet(version.files).size if source is None else source.size
    return "unknown" if n_bytes is None else f"{n_bytes / 1e6:.1f} MB"


def _row(entry: ModelEntry) -> tuple[str, ...]:
    version = _version(entry)
    return (
        f"{entry.name}@{version.version}",
        "others" if entry.is_published else "lesff",
        entry.license,
        str(len(entry.elements)),
        _size(version),
        version.level_of_theory,
    )


def _text_table(rows: list[tuple[str, ...]]) -> str:
    table = [_COLUMNS, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(_COLUMNS) - 1)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]])
        for row in table
    )
