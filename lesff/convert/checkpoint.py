"""From a foreign checkpoint file to a model folder."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from lesff.convert.aimnet2 import aimnet2_heads, convert_aimnet2, is_aimnet2
from lesff.convert.mace.model import convert_mace, mace_heads
from lesff.convert.nequix.model import convert_nequix
from lesff.convert.nequix.reader import is_nqx, read_nqx
from lesff.convert.reader import read_checkpoint
from lesff.errors import ModelNotFoundError, UnsupportedInputError
from lesff.model_folder.folder import save_model
from lesff.potential.config import ModelConfig
from lesff.potential.potential import Potential

_CARD = """# {title}

Converted from `{filename}` (class `{kind}`, {size} bytes, sha256 `{digest}`) by lesff, without
executing the file. Weights, coupling coefficients and electrostatic constants are those of the
file.

{facts}
"""
_UNKNOWN_FACTS = """Level of theory, training data, accuracy and licence are those of the original
model: see its publication. The licence of the original applies to this folder."""
_UNKNOWN_LICENSE = "The licence of the original model applies; see its publication.\n"
_ORIGINAL_LICENSE = """Licence of the original model, which applies to this folder: {license}
{terms}
Full text: {url}
"""


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Whose model a checkpoint is, for the card and the licence file.

    Attributes:
        title: Name of the model.
        filename: What its authors call the file.
        url: Where the file comes from.
        home: Web page of the model.
        level_of_theory: Reference method.
        license: SPDX expression.
        license_terms: What the licence asks for, in plain words.
        license_url: Where the licence is written down.
        citation: What to cite.
    """

    title: str
    filename: str
    url: str
    home: str
    level_of_theory: str
    license: str
    license_terms: str
    license_url: str
    citation: str

    def facts(self) -> str:
        """Paragraphs of the card."""
        rows = {
            "Home": self.home,
            "File": self.url,
            "Level of theory": self.level_of_theory,
            "Licence": f"{self.license} ({self.license_url})" if self.license_url else self.license,
            "Terms": self.license_terms,
            "Cite": self.citation,
        }
        return "\n".join(f"- {key}: {value}" for key, value in rows.items() if value)

    def license_text(self) -> str:
        """Content of the licence file."""
        return _ORIGINAL_LICENSE.format(
            license=self.license, terms=self.license_terms, url=self.license_url or self.home
        )


def convert_checkpoint(
    source: Path,
    folder: Path,
    *,
    overwrite: bool = False,
    head: str | None = None,
    attribution: Attribution | None = None,
) -> ModelConfig:
    """Convert a published MACE, ScaleShiftMACE, MACELES, AIMNet2 or Nequix file to a model folder.

    Args:
        source: The file: ``.model`` of MACE, ``.jpt`` of AIMNet2, ``.nqx`` of Nequix.
        folder: Model folder to write.
        overwrite: Replace a model folder that is already there.
        head: Which output head to convert, for files with several.
        attribution: Whose model it is, if known; for the card and the licence file.

    Returns:
        The configuration that was written.

    Raises:
        ModelNotFoundError: if there is no such file.
        IntegrityError: if the file is not a checkpoint or damaged.
        UnsupportedInputError: naming what this version cannot represent.
    """
    if not source.is_file():
        raise ModelNotFoundError(f"checkpoint {source} does not exist; check the path")
    with source.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    filename = source.name if attribution is None else attribution.filename
    origin = filename if attribution is None else attribution.url
    provenance = {"source": f"{origin} sha256:{digest}"}
    if attribution is not None:
        provenance["level_of_theory"] = attribution.level_of_theory
    potential, kind = _converted(source, head, provenance)
    card = _CARD.format(
        title=filename if attribution is None else attribution.title,
        filename=filename,
        kind=kind,
        size=source.stat().st_size,
        digest=digest,
        facts=_UNKNOWN_FACTS if attribution is None else attribution.facts(),
    )
    if head is not None:
        card += f"\nOf the heads of the file, this folder holds `{head}`.\n"
    text = _UNKNOWN_LICENSE if attribution is None else attribution.license_text()
    save_model(potential, folder, card=card, license_text=text, overwrite=overwrite)
    return potential.config


def _converted(source: Path, head: str | None, provenance: dict[str, str]) -> tuple[Potential, str]:
    """The potential of a file, and the class that the file is of."""
    if is_nqx(source):
        if head is not None:
            raise UnsupportedInputError(f"a Nequix file has no heads, got head {head!r}")
        return convert_nequix(read_nqx(source), provenance=provenance), "Nequix"
    root = read_checkpoint(source)
    convert = convert_aimnet2 if is_aimnet2(root) else convert_mace
    return convert(root, head=head, provenance=provenance), root.path


def checkpoint_heads(source: Path) -> list[str]:
    """Names of the output heads of a checkpoint; none for a kind of file without heads.

    Raises:
        ModelNotFoundError: if there is no such file.
        IntegrityError: if the file is not a checkpoint or damaged.
    """
    if source.is_file() and is_nqx(source):
        return []
    root = read_checkpoint(source)
    return aimnet2_heads(root) if is_aimnet2(root) else mace_heads(root)


def head_folder(head: str) -> str:
    """Name of the folder of one of several heads.

    Raises:
        UnsupportedInputError: for a name that is not a plain file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", head):
        raise UnsupportedInputError(
            f"the head {head!r} of the checkpoint is no plain name for a folder; "
            "convert it alone with --head"
        )
    return head
