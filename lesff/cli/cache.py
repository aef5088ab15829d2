"""Commands on the cache: list, verify, prune."""

from __future__ import annotations

import click

from lesff.environment import cache_folder
from lesff.errors import IntegrityError
from lesff.hub.cache_contents import CacheEntry, find_cache_damage, list_cache, prune_cache


@click.group("cache")
def cache_group() -> None:
    """List, verify and clean the cache."""


@cache_group.command("list")
def cache_list_command() -> None:
    """List what is in the cache."""
    rows = list_cache()
    for row in rows:
        click.echo(_line(row))
    click.echo(f"{sum(row.size for row in rows) / 1e6:.1f} MB in {cache_folder()}")


@cache_group.command("verify")
def cache_verify_command() -> None:
    """Read and hash every file of every model in the cache."""
    rows = [row for row in list_cache() if row.kind != "leftover"]
    damages = {row.label: find_cache_damage(row) for row in rows}
    for label, damage in damages.items():
        click.echo(f"{label}: {damage or 'intact'}")
    n_damaged = sum(damage is not None for damage in damages.values())
    if n_damaged:
        raise IntegrityError(
            f"{n_damaged} of {len(rows)} entries cannot be used; load them again to replace them, "
            "or remove them with `lesff cache prune`"
        )


@cache_group.command("prune")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def cache_prune_command(*, dry_run: bool) -> None:
    """Remove damaged entries and leftovers of unfinished downloads that are a day old."""
    rows = prune_cache(dry_run=dry_run)
    for row in rows:
        click.echo(_line(row))
    verb = "would be removed" if dry_run else "removed"
    click.echo(f"{len(rows)} entries, {sum(row.size for row in rows) / 1e6:.1f} MB {verb}")


def _line(row: CacheEntry) -> str:
    return f"{row.size / 1e6:9.1f} MB  {row.kind:10}  {row.label}"
