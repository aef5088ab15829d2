"""Tensors of a checkpoint, each to be used once: nothing is lost without a word."""

from __future__ import annotations

import math
import re

from torch import Tensor

from lesff.convert.record import Record
from lesff.errors import UnsupportedInputError

_NO_INFORMATION = re.compile(r".*\.(output_mask|bias)|.*\.conv_tp\.weight|.*_zeroed")


class Tensors:
    """Tensors of a file, each to be taken once.

    Args:
        source: The checkpoint, or its tensors by name.
    """

    def __init__(self, source: Record | dict[str, Tensor]) -> None:
        is_record = isinstance(source, Record)
        self._left = source.parameters_and_buffers() if is_record else dict(source)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def size(self, name: str) -> int:
        """Number of values of a tensor that stays there."""
        return self._get(name).numel()

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor, reshaped; UnsupportedInputError if it is not there or of another size."""
        tensor = self._get(name)
        del self._left[name]
        if shape and -1 not in shape and math.prod(shape) != tensor.numel():
            raise UnsupportedInputError(
                f"tensor {name} must have {math.prod(shape)} values for shape {shape}, "
                f"got shape {tuple(tensor.shape)}"
            )
        return tensor.reshape(shape) if shape else tensor

    def _get(self, name: str) -> Tensor:
        if name not in self._left:
            raise UnsupportedInputError(f"the checkpoint lacks the tensor {name}")
        return self._left[name]

    def drop(self, pattern: str) -> None:
        """Leave out tensors by name."""
        self._left = {k: v for k, v in self._left.items() if not re.fullmatch(pattern, k)}

    def finish(self) -> None:
        """Fail if a tensor with content was not used."""
        left = [
            name
            for name, value in self._left.items()
            if not (_NO_INFORMATION.fullmatch(name) and _is_void(name, value))
        ]
        if left:
            raise UnsupportedInputError(
                f"the checkpoint has tensors that this version cannot represent: {', '.join(left)}"
            )


def _is_void(name: str, value: Tensor) -> bool:
    return value.numel() == 0 or name.endswith(("output_mask", "_zeroed"))
