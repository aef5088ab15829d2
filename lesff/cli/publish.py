"""Publishing of model folders."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from lesff.files import FileSet
from lesff.hub.spec import HubSpec
from lesff.plain_data import write_json


@click.command("publish")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--repo", help="Repository, organisation/name.")
@click.option("--version", help="major.minor.patch")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where to write the manifest entry."
)
@click.option("--check", "only_check", is_flag=True, help="Only say whether it may be published.")
def publish_command(
    folder: Path,
    repo: str | None,
    version: str | None,
    output: Path | None,
    *,
    private: bool,
    only_check: bool,
) -> None:
    """Check a model folder and upload it to the hub, with the token of `hf auth login`."""
    # start-up: help needs nothing that computes
    from lesff.hub.publish import check_publication, publish_folder

    if only_check:
        publication = check_publication(folder)
        n_bytes = FileSet(publication.files).size
        click.echo(f"{folder} may be published: {n_bytes / 1e6:.1f} MB, {publication.license}")
        return
    if repo is None or version is None:
        raise click.UsageError("give --repo and --version, or --check")
    entry = publish_folder(folder, repo, version=version, private=private)
    source = entry.versions[0].sources.hub
    revision = source.commit if source else version
    if output is not None:
        write_json(output, asdict(entry))
    click.echo(
        f"{entry.name}@{version} is published; load it with lesff.load('{HubSpec(repo, revision)}')"
    )
