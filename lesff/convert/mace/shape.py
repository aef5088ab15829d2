"""What a MACE checkpoint is: sizes, kinds of blocks and heads, read off the file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lesff.convert.ledger import Tensors
from lesff.convert.record import Record
from lesff.errors import UnsupportedInputError

CONTRACTIONS = "symmetric_contractions.contractions"


@dataclass(frozen=True)
class Block:
    """Kind of an interaction block.

    Attributes:
        interaction: ``MACEConfig.interaction``.
        is_residual: Whether it adds a self-connection.
        normalization: ``MACEConfig.message_normalization``.
    """

    interaction: str
    is_residual: bool
    normalization: str = "neighbors"


BLOCKS = {
    "RealAgnosticInteractionBlock": Block("linear", False),
    "RealAgnosticResidualInteractionBlock": Block("linear", True),
    "RealAgnosticDensityInteractionBlock": Block("linear", False, "density"),
    "RealAgnosticDensityResidualInteractionBlock": Block("linear", True, "density"),
    "RealAgnosticAttResidualInteractionBlock": Block("attention", True),
    "RealAgnosticResidualNonLinearInteractionBlock": Block("gated", True),
}
"""Interaction blocks by class name."""


@dataclass(frozen=True, kw_only=True)
class MACEShape:
    """Sizes and kinds.

    Attributes:
        channels: Channels of the node features.
        feature_l: Highest order of the node features.
        max_ell: Highest order of the harmonics.
        correlation: Degree of the contraction.
        n_layers: Layers.
        n_elements: Elements.
        first: First interaction block; the others are residual blocks of the same kind.
        edge_channels: Channels of the convolution of each layer.
        edge_l: Highest order of the convolution's features in the file, of each layer.
        is_agnostic: Whether all elements share the contraction's weights.
        head: Index of the head to read.
        n_heads: Heads of the file.
    """

    channels: int
    feature_l: int
    max_ell: int
    correlation: int
    n_layers: int
    n_elements: int
    first: Block
    edge_channels: tuple[int, ...]
    edge_l: tuple[int, ...]
    is_agnostic: bool
    head: int
    n_heads: int

    def l_in(self, index: int) -> int:
        """Highest order of the features that enter a layer."""
        return self.feature_l if index else 0

    def l_out(self, index: int) -> int:
        """Highest order of the features that leave a layer and are used."""
        return self.feature_l if index < self.n_layers - 1 else 0

    def is_residual(self, index: int) -> bool:
        """Whether a layer adds a self-connection."""
        return index > 0 or self.first.is_residual


def mace_heads(root: Record) -> list[str]:
    """Names of the heads of a checkpoint; old files have one without a name."""
    heads = root.attribute("heads", None) or ["default"]
    if not isinstance(heads, (list, tuple)) or not all(isinstance(name, str) for name in heads):
        raise UnsupportedInputError("`heads` of the checkpoint must be a list of names")
    return list(heads)


def class_name(record: Record) -> str:
    """Last part of a record's class path."""
    return record.path.rsplit(".", 1)[-1]


def read_shape(root: Record, tensors: Tensors, head: str | None) -> MACEShape:
    """Sizes and kinds of a checkpoint.

    Raises:
        UnsupportedInputError: for a head that is not there or not named where it must be, blocks
            that this version does not have, and layers that do not fit together.
    """
    n_elements = tensors.size("atomic_numbers")
    n_layers = int(root.attribute("num_interactions"))
    channels = tensors.size("node_embedding.linear.weight") // n_elements
    prefix = f"products.0.{CONTRACTIONS}"
    n_contractions = sum(f"{prefix}.{order}.weights_max" in tensors for order in range(5))
    contraction = root.submodule(f"{prefix}.0")
    n_lm = contraction.attribute("U_matrix_1").shape[-2]
    rows = contraction.attribute("weights_max").shape[0]
    edges = [edge_irreps(root, index) for index in range(n_layers)]
    heads = mace_heads(root)
    return MACEShape(
        channels=channels,
        feature_l=n_contractions - 1 if n_layers > 1 else 0,
        max_ell=math.isqrt(n_lm) - 1,
        correlation=1 + sum(f"{prefix}.0.weights.{k}" in tensors for k in range(4)),
        n_layers=n_layers,
        n_elements=n_elements,
        first=_first_block(root, n_layers),
        edge_channels=tuple(mul for mul, _ in edges),
        edge_l=tuple(l for _, l in edges),
        is_agnostic=rows == 1 and n_elements > 1,
        head=_head_index(heads, head),
        n_heads=len(heads),
    )


def _head_index(heads: list[str], head: str | None) -> int:
    if head is None and len(heads) > 1:
        raise UnsupportedInputError(
            f"the checkpoint has the heads {', '.join(heads)}; choose one (head=..., --head NAME) "
            "or convert all of them (--all-heads)"
        )
    if head is None:
        return 0
    if head not in heads:
        raise UnsupportedInputError(f"`head` must be one of {', '.join(heads)}, got {head!r}")
    return heads.index(head)


def _first_block(root: Record, n_layers: int) -> Block:
    names = [class_name(root.submodule(f"interactions.{index}")) for index in range(n_layers)]
    unknown = sorted(set(names) - set(BLOCKS))
    if unknown:
        raise UnsupportedInputError(
            f"interaction blocks {', '.join(unknown)} are not supported; those that are: "
            f"{', '.join(BLOCKS)}"
        )
    first, *others = [BLOCKS[name] for name in names]
    wanted = Block(first.interaction, True, first.normalization)
    if any(block != wanted for block in others):
        raise UnsupportedInputError(f"interaction blocks {', '.join(names)} do not go together")
    return first


def edge_irreps(root: Record, index: int) -> tuple[int, int]:
    """Multiplicity and highest order of the convolution's features of a layer."""
    name = f"interactions.{index}.linear_up"
    irreps = parse_irreps(root.submodule(name).attribute("irreps_out"))
    muls = {mul for mul, _, _ in irreps}
    orders = [(l, p) for _, l, p in irreps]
    if len(muls) != 1 or orders != [(l, (-1) ** l) for l in range(len(orders))]:
        raise UnsupportedInputError(
            f"irreps of {name} must be orders 0..L of natural parity with one multiplicity, "
            f"got {irreps}"
        )
    return muls.pop(), len(orders) - 1


def parse_irreps(value: Any) -> list[tuple[int, int, int]]:
    """(multiplicity, order, parity) of irreps as text or as pickled by e3nn."""
    if isinstance(value, str):
        parts = [part.strip().split("x") for part in value.split("+")]
        return [(int(mul), int(ir[:-1]), 1 if ir[-1] == "e" else -1) for mul, ir in parts]
    try:
        found = []
        for item in value.args[0]:
            mul, irrep = item.args[0]
            order, parity = irrep.args[0]
            found.append((int(mul), int(order), int(parity)))
    except (AttributeError, IndexError, TypeError, ValueError):
        raise UnsupportedInputError("irreps of the checkpoint are not in a known form") from None
    return found
