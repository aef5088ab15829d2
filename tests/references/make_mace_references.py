"""Random-weight MACE models and their energies and forces, made with mace-torch.

    peer/bin/python tests/references/make_mace_references.py

Run in an environment with mace-torch 0.3.16 (see ``benchmarks/README.md``). Writes ``<name>.model``
and ``references.npz`` beside this script: energies (eV) and forces (eV/A) in float64 of an
acetamide-water dimer for small models of every supported kind of block.
"""

from pathlib import Path

import ase.io
import numpy as np
import torch
from mace import data, modules  # before e3nn: it allows e3nn 0.4.4 to read its own constants

from e3nn import o3  # isort: skip
from mace.tools import AtomicNumberTable, torch_geometric

HERE = Path(__file__).parent
RESIDUAL = "RealAgnosticResidualInteractionBlock"
DENSITY = "RealAgnosticDensityResidualInteractionBlock"
CASES = {
    "residual_l1": ("4x0e+4x1o", RESIDUAL, RESIDUAL, {}),
    "agnostic_l2": ("3x0e+3x1o+3x2e", "RealAgnosticInteractionBlock", RESIDUAL, {}),
    "density_agnesi_zbl": (
        "4x0e+4x1o",
        "RealAgnosticDensityInteractionBlock",
        DENSITY,
        {"distance_transform": "Agnesi", "pair_repulsion": True},
    ),
}


def make(hidden: str, first: str, others: str, options: dict) -> torch.nn.Module:
    """A small model with random weights in float32."""
    torch.manual_seed(0)
    return modules.ScaleShiftMACE(
        r_max=4.0,
        num_bessel=4,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=modules.interaction_classes[others],
        interaction_cls_first=modules.interaction_classes[first],
        num_interactions=2,
        num_elements=4,
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps("4x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.array([-1.0, -2.0, -3.0, -4.0]),
        avg_num_neighbors=9.0,
        atomic_numbers=[1, 6, 7, 8],
        correlation=2,
        radial_type="bessel",
        radial_MLP=[8],
        atomic_inter_scale=1.3,
        atomic_inter_shift=0.1,
        **options,
    )


def main() -> None:
    """Write models and references."""
    atoms = ase.io.read(HERE.parents[1] / "docs" / "examples" / "acetamide_water.xyz")
    table = AtomicNumberTable([1, 6, 7, 8])
    results = {}
    for name, case in CASES.items():
        torch.set_default_dtype(torch.float32)
        model = make(*case)
        torch.save(model, HERE / f"{name}.model")
        torch.set_default_dtype(torch.float64)
        config = data.config_from_atoms(atoms)
        graph = data.AtomicData.from_config(config, z_table=table, cutoff=4.0)
        batch = next(iter(torch_geometric.dataloader.DataLoader([graph], batch_size=1)))
        out = model.double()(batch.to_dict(), compute_force=True)
        results[f"{name}.energy"] = out["energy"].detach().numpy()
        results[f"{name}.forces"] = out["forces"].detach().numpy()
    np.savez(HERE / "references.npz", **results)


if __name__ == "__main__":
    main()
