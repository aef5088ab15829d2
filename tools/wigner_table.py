"""Write the table of Wigner 3j tensors that lesff reads instead of importing e3nn.

    python tools/wigner_table.py [-o lesff/nn/wigner_3j.safetensors]

The values are those of ``e3nn.o3.wigner_3j`` in float64, bit for bit, for all orders up to
``lesff.nn.coupling.TABLE_ORDER``; only what is not zero is stored. Importing e3nn imports
torch._dynamo, which is two seconds of CPU at every start.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from e3nn import o3
from safetensors.numpy import save_file

from lesff.nn.coupling import TABLE, TABLE_ORDER


def table() -> dict[str, np.ndarray]:
    """Orders of every tensor, the number of its entries, and their places and values in turn."""
    orders, counts, places, values = [], [], [], []
    for l1 in range(TABLE_ORDER + 1):
        for l2 in range(TABLE_ORDER + 1):
            for l3 in range(abs(l1 - l2), min(l1 + l2, TABLE_ORDER) + 1):
                tensor = o3.wigner_3j(l1, l2, l3, dtype=torch.float64).numpy()
                place = np.argwhere(tensor != 0.0)
                orders.append((l1, l2, l3))
                counts.append(len(place))
                places.append(place)
                values.append(tensor[tuple(place.T)])
    return {
        "orders": np.array(orders, dtype=np.uint8),
        "counts": np.array(counts, dtype=np.int64),
        "places": np.concatenate(places).astype(np.uint8),
        "values": np.concatenate(values),
    }


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=TABLE)
    options = parser.parse_args()
    found = table()
    # the format holds rows in order, whatever strides an array has
    save_file({name: np.ascontiguousarray(a) for name, a in found.items()}, options.output)
    count = f"{len(found['orders'])} tensors, {len(found['values'])} entries"
    sys.stdout.write(f"{count}: {options.output}\n")


if __name__ == "__main__":
    main()
