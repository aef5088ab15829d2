"""From a foreign checkpoint file to a model folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lesff.checkpoint import save_model
from lesff.convert.mace import convert_mace
from lesff.convert.reader import read_checkpoint
from lesff.errors import ModelNotFoundError

_CARD = """# {name}

Converted from `{name}` (class `{kind}`, sha256 `{digest}`) by lesff, without executing the file.
Weights, coupling coefficients and electrostatic constants are those of the file.

Level of theory, training data, accuracy and licence are those of the original model: see its
publication. The licence of the original applies to this folder.
"""
_LICENSE = "The licence of the original model applies; see its publication.\n"


def convert_checkpoint(source: Path, folder: Path, *, overwrite: bool = False) -> None:
    """Convert a published MACE, ScaleShiftMACE or MACELES checkpoint to a model folder.

    Args:
        source: The ``.model`` file.
        folder: Model folder to write.
        overwrite: Replace a model folder that is already there.

    Raises:
        ModelNotFoundError: if there is no such file.
        IntegrityError: if the file is not a checkpoint or damaged.
        UnsupportedInputError: naming what this version cannot represent.
    """
    if not source.is_file():
        raise ModelNotFoundError(f"checkpoint {source} does not exist; check the path")
    root = read_checkpoint(source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    potential = convert_mace(root, provenance={"source": f"{source.name} sha256:{digest}"})
    card = _CARD.format(name=source.name, kind=root.path, digest=digest)
    save_model(potential, folder, card=card, license_text=_LICENSE, overwrite=overwrite)
