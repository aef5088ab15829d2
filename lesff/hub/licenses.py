"""Licences of models that are not free for any use: shown, accepted once, remembered."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from pathlib import Path
from typing import Literal, get_args

from lesff.environment import state_folder
from lesff.errors import ConfigError, LicenseError
from lesff.hub.manifest.entries import ModelEntry
from lesff.hub.spdx import is_permissive_license
from lesff.model_folder.card import front_matter
from lesff.plain_data import read_json, write_json

LicensePolicy = Literal["any", "permissive"]
"""Which licences a user or a site accepts."""

_LICENSE_LINE = re.compile(r"[\s{,-]*[\"']?licen[sc]es?[\"']?\s*:", re.IGNORECASE)


def require_license(entry: ModelEntry, *, accept: bool = False) -> None:
    """Make sure that the licence of a model is permissive or has been accepted.

    An acceptance is recorded in the state folder of the user and counts until the model's licence
    changes.

    Args:
        entry: The model.
        accept: Whether the caller accepts the licence; names in ``LESFF_ACCEPT_LICENSE``
            (separated by commas) are accepted as well.

    Raises:
        LicenseError: with the licence, its terms and how to accept it.
    """
    if entry.is_permissive or _is_recorded(entry):
        return
    listed = {name.strip() for name in os.environ.get("LESFF_ACCEPT_LICENSE", "").split(",")}
    if not accept and not listed & {entry.name, *entry.aliases}:
        raise LicenseError(
            f"{entry.name} is under the licence {entry.license}: {entry.license_terms} "
            f"Read it at {entry.license_url}; if you accept it, run "
            f"`lesff pull {entry.name} --accept-license`, or use "
            f"lesff.load({entry.name!r}, accept_license=True), or set "
            f"LESFF_ACCEPT_LICENSE={entry.name} in scripts"
        )
    # a folder that cannot be written only means that the next call must accept again
    with contextlib.suppress(OSError):
        write_json(
            _record(entry),
            {
                "name": entry.name,
                "license": entry.license,
                "license_url": entry.license_url,
                "date": datetime.date.today().isoformat(),
            },
        )


def check_policy(license_id: str, what: str, policy: LicensePolicy | None) -> None:
    """Make sure that a licence is one that this user or site accepts at all.

    Args:
        license_id: SPDX expression; empty if nothing says what it is.
        what: Name of the model, for messages.
        policy: ``"any"`` or ``"permissive"``; from ``LESFF_LICENSES`` if None, else any.

    Raises:
        LicenseError: with the licence and who refuses it.
        ConfigError: for a policy that does not exist.
    """
    chosen = policy or os.environ.get("LESFF_LICENSES", "").strip() or "any"
    if chosen not in get_args(LicensePolicy):
        raise ConfigError(
            f"`licenses` (or LESFF_LICENSES) must be 'any' or 'permissive', got {chosen!r}"
        )
    if chosen == "any" or (license_id and is_permissive_license(license_id, ignore_case=True)):
        return
    origin = "`licenses`" if policy else "LESFF_LICENSES"
    stated = f"is under {license_id}, which is not" if license_id else "does not say that it is"
    raise LicenseError(
        f"{what} {stated} free for any use, and {origin} allows 'permissive' licences only; see "
        "`lesff list --license permissive`"
    )


def stated_license(card: str) -> str:
    """Licence that the top of a card states; empty if it states none, or more than one.

    Args:
        card: Text of the card.
    """
    stated = front_matter(card).get("license", "")
    top = card.split("---\n", 2)
    # a second one, whatever its spelling, contradicts the first: nobody can say which one counts
    lines = [line for line in "".join(top[1:2]).splitlines() if _LICENSE_LINE.match(line)]
    return stated if len(lines) == 1 else ""


def _record(entry: ModelEntry) -> Path:
    return state_folder() / "licenses" / f"{entry.name}.json"


def _is_recorded(entry: ModelEntry) -> bool:
    try:
        record = read_json(_record(entry))
    except (OSError, ConfigError):  # absent or damaged: ask again
        return False
    return record.get("name") == entry.name and record.get("license") == entry.license
