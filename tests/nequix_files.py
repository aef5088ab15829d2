"""Nequix files with pseudo-random weights."""

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

CONFIG: dict[str, Any] = {
    "cutoff": 3.5, "avg_n_neighbors": 6.5, "scale": 0.8, "shift": -1.5,
    "hidden_irreps": "4x0e + 3x1o + 2x2e", "lmax": 3, "n_layers": 2, "radial_basis_size": 4,
    "radial_mlp_size": 5, "radial_mlp_layers": 1, "radial_polynomial_p": 6.0,
    "mlp_init_scale": 4.0, "index_weights": False, "layer_norm": True, "kernel": True,
    "batch_size": 4,
}  # fmt: skip


def nequix_file(elements: Sequence[int] = (1, 8), dtype: type = np.float32) -> bytes:
    """A small model, as Nequix writes it.

    Args:
        elements: Atomic numbers, ascending.
        dtype: Of the arrays.
    """
    n = len(elements)
    # as the irreps say: 2 layers of (radial, linear_1, linear_2, skip, norm), readout
    shapes = [
        (n,), (4, 5), (5, 3 * n), (n, n), (n, 9), (n, 3), (n, 2), (n, 9), (9,), (3,), (2,),
        (4, 5), (5, 9), (4, 4), (3, 3), (2, 2), (9, 4), (4, 4), (4,), (4, 1),
    ]  # fmt: skip
    handle, random = io.BytesIO(), np.random.default_rng(0)
    config = CONFIG | {"atomic_numbers": list(elements)}
    handle.write(json.dumps(config).encode() + b"\n")
    for shape in shapes:
        np.save(handle, random.standard_normal(shape).astype(dtype))
    return handle.getvalue()
