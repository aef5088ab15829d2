"""MACE models with pseudo-random weights, and their energies and forces, made with mace-torch.

    peer/bin/python tests/references/make_mace_references.py [NAME ...]

Run in an environment with mace-torch 0.3.16 (see ``benchmarks/README.md``). For each case writes
``<name>.model.xz``, the checkpoint with its large parameters set to zero so that it is small, and
``<name>.npz``: energies (eV), forces (eV/A) and for latent-charge models the charges (e), in
float64, with the large parameters of :mod:`synthetic` instead. The sizes of the cases named after
published models are those of the publications (MACE-OFF23, arXiv 2312.15211; MACELES-OFF, arXiv
2507.14302; MACE-MP-0, arXiv 2401.00096), MPA-0 likewise; the cases with gated interactions have
the options of MACE-OMOL and MACE-MH-1 but fewer channels.
"""

import lzma
import math
import sys
import types
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from synthetic import MIN_SIZE, structures, weights

HERE = Path(__file__).parent


class Ewald(torch.nn.Module):
    """Constants of a latent Coulomb energy, as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.sigma, self.dl, self.norm_factor = 1.0, 2.0, 90.0474
        self.remove_self_interaction = False


class Les(torch.nn.Module):
    """Stand-in for the package of that name: open boundaries, written from its paper's formula.

    ``E = ke / 2 sum_ij q_i q_j erf(r_ij / sqrt(2)) / r_ij``, self terms included (LES, arXiv
    2412.15455); ``ke = norm_factor / (2 pi)``.
    """

    def __init__(self, les_arguments: dict) -> None:
        super().__init__()
        self.ewald = Ewald()
        self.use_atomwise = les_arguments["use_atomwise"]

    def forward(self, latent_charges, positions, **_):
        """Energy and nothing else."""
        n = len(positions)
        first, second = torch.triu_indices(n, n, 1)
        r = (positions[first] - positions[second]).norm(dim=1)
        q = latent_charges
        pairs = (q[first] * q[second] * torch.erf(r / math.sqrt(2.0)) / r).sum()
        energy = pairs + (q * q).sum() / math.sqrt(2.0 * math.pi)
        return {"E_lr": energy[None] * self.ewald.norm_factor / (2.0 * math.pi), "BEC": None}


stand_in = types.ModuleType("les")
stand_in.Les = Les
Les.__module__ = "les.les"
Ewald.__module__ = "les.module.ewald"
for module in ("les", "les.les", "les.module", "les.module.ewald"):
    sys.modules[module] = stand_in
stand_in.Ewald = Ewald

from mace import data, modules  # noqa: E402 - before e3nn: allows it to read its own constants
from mace.modules.extensions import MACELES  # noqa: E402

from e3nn import o3  # noqa: E402  isort: skip
from mace.tools import AtomicNumberTable, torch_geometric  # noqa: E402

RESIDUAL = "RealAgnosticResidualInteractionBlock"
AGNOSTIC = "RealAgnosticInteractionBlock"
DENSITY = "RealAgnosticDensityInteractionBlock"
DENSITY_RESIDUAL = "RealAgnosticDensityResidualInteractionBlock"
GATED = "RealAgnosticResidualNonLinearInteractionBlock"
ATTENTION = "RealAgnosticAttResidualInteractionBlock"
ORGANIC = [1, 6, 7, 8, 9, 15, 16, 17, 35, 53]
SOLIDS = [*range(1, 84), *range(89, 95)]
SMALL = {"max_ell": 2, "correlation": 2, "radial_MLP": [8], "num_bessel": 4, "r_max": 4.0}
TRANSFORMED = {"distance_transform": "Agnesi", "pair_repulsion": True}
CHARGE = {"total_charge": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 8}}
STATES = {
    "total_spin": {
        "type": "categorical", "per": "graph", "num_classes": 101, "emb_dim": 16, "offset": 0,
    },
    "total_charge": {
        "type": "categorical", "per": "graph", "num_classes": 201, "emb_dim": 16, "offset": 100,
    },
}  # fmt: skip
HEADS = ["omat", "omol", "spice"]
CASES = {
    # every block and option, small
    "residual_l1": ("4x0e+4x1o", RESIDUAL, RESIDUAL, SMALL),
    "agnostic_l2": ("3x0e+3x1o+3x2e", AGNOSTIC, RESIDUAL, SMALL),
    "density_agnesi_zbl": ("4x0e+4x1o", DENSITY, DENSITY_RESIDUAL, SMALL | TRANSFORMED),
    "density_gaussian_soft": (
        "4x0e+4x1o", DENSITY_RESIDUAL, DENSITY_RESIDUAL,
        SMALL | {"radial_type": "gaussian", "distance_transform": "Soft", "apply_cutoff": False},
    ),
    "attention": ("4x0e+4x1o", ATTENTION, ATTENTION, SMALL),
    "edges_above_features": (
        "8x0e+8x1o", RESIDUAL, RESIDUAL,
        SMALL | {"edge_irreps": o3.Irreps("4x0e+4x1o+4x2e"), "use_edge_irreps_first": True,
                 "keep_last_layer_irreps": True, "use_last_readout_only": True,
                 "use_agnostic_product": True},
    ),
    "continuous_charge": ("4x0e+4x1o", RESIDUAL, RESIDUAL, SMALL | {"embedding_specs": CHARGE}),
    "heads": ("4x0e+4x1o", RESIDUAL, RESIDUAL, SMALL | {"heads": HEADS}),
    # the sizes of published models
    "off23_small": ("96x0e", RESIDUAL, RESIDUAL, {"r_max": 4.5, "elements": ORGANIC}),
    "off23_medium": ("128x0e+128x1o", RESIDUAL, RESIDUAL, {"r_max": 5.0, "elements": ORGANIC}),
    "off23_large": (
        "192x0e+192x1o+192x2e", RESIDUAL, RESIDUAL, {"r_max": 5.0, "elements": ORGANIC},
    ),
    "maceles_off_small": (
        "192x0e+192x1o", RESIDUAL, RESIDUAL, {"r_max": 4.5, "elements": ORGANIC, "les": True},
    ),
    "mp_0_medium": (
        "128x0e+128x1o", RESIDUAL, RESIDUAL,
        {"r_max": 6.0, "elements": SOLIDS, "num_bessel": 10},
    ),
    "mpa_0_medium": (
        "128x0e+128x1o", DENSITY, DENSITY_RESIDUAL,
        {"r_max": 6.0, "elements": SOLIDS, "num_bessel": 10, **TRANSFORMED},
    ),
    # the options of MACE-OMOL and MACE-MH-1, fewer channels
    "omol": (
        "32x0e+32x1o+32x2e", GATED, GATED,
        {"r_max": 6.0, "elements": ORGANIC, "num_interactions": 3, "correlation": 2,
         "edge_irreps": o3.Irreps("8x0e+8x1o+8x2e+8x3o"), "apply_cutoff": False,
         "embedding_specs": STATES, "use_embedding_readout": True,
         "readout_cls": modules.blocks.NonLinearBiasReadoutBlock},
    ),
    "mh_1": (
        "32x0e+32x1o", GATED, GATED,
        {"r_max": 6.0, "elements": SOLIDS, "num_bessel": 10, "apply_cutoff": False,
         "edge_irreps": o3.Irreps("8x0e+8x1o"), "use_edge_irreps_first": True, "heads": HEADS,
         "use_agnostic_product": True, "readout_cls": modules.blocks.NonLinearBiasReadoutBlock,
         **TRANSFORMED},
    ),
}  # fmt: skip


def make(hidden: str, first: str, others: str, options: dict) -> torch.nn.Module:
    """A model in float32."""
    options = dict(options)
    elements = options.pop("elements", [1, 6, 7, 8])
    heads = options.get("heads", ["Default"])
    has_charges = options.pop("les", False)
    kind = MACELES if has_charges else modules.ScaleShiftMACE
    energies = -np.linspace(1.0, 5.0, len(elements) * len(heads)).reshape(len(heads), -1)
    torch.manual_seed(0)
    defaults = {
        "num_bessel": 8,
        "max_ell": 3,
        "correlation": 3,
        "num_interactions": 2,
        "radial_type": "bessel",
        "radial_MLP": [64, 64, 64],
        "MLP_irreps": o3.Irreps("4x0e" if options.get("r_max") == 4.0 else "16x0e"),
        **({"les_arguments": {"use_atomwise": False}} if has_charges else {}),
    }
    return kind(
        num_polynomial_cutoff=5,
        interaction_cls=modules.interaction_classes[others],
        interaction_cls_first=modules.interaction_classes[first],
        num_elements=len(elements),
        hidden_irreps=o3.Irreps(hidden),
        gate=torch.nn.functional.silu,
        atomic_energies=energies if len(heads) > 1 else energies[0],
        avg_num_neighbors=19.0,
        atomic_numbers=elements,
        atomic_inter_scale=list(np.linspace(1.3, 0.9, len(heads))) if len(heads) > 1 else 1.3,
        atomic_inter_shift=list(np.linspace(0.1, 0.3, len(heads))) if len(heads) > 1 else 0.1,
        **(defaults | options),
    )


def references(model: torch.nn.Module, case: dict) -> dict[str, np.ndarray]:
    """Energies and forces of the structures, of every head."""
    elements = case.get("elements", [1, 6, 7, 8])
    heads = case.get("heads", ["Default"])
    keys = data.KeySpecification(
        info_keys={"total_charge": "total_charge", "total_spin": "total_spin"}
    )
    result = {}
    images = structures(elements, has_state="embedding_specs" in case)
    for head in heads:
        for index, atoms in enumerate(images):
            atoms.info["head"] = head
            config = data.config_from_atoms(atoms, key_specification=keys, head_name=head)
            graph = data.AtomicData.from_config(
                config, z_table=AtomicNumberTable(elements), cutoff=float(model.r_max), heads=heads
            )
            batch = next(iter(torch_geometric.dataloader.DataLoader([graph], batch_size=1)))
            out = model(batch.to_dict(), compute_force=True)
            prefix = f"{head}.{index}" if len(heads) > 1 else str(index)
            result[f"{prefix}.energy"] = out["energy"].detach().numpy()
            result[f"{prefix}.forces"] = out["forces"].detach().numpy()
            if "latent_charges" in out:
                result[f"{prefix}.latent_charges"] = out["latent_charges"].detach().numpy()
    return result


def main() -> None:
    """Write checkpoints and references."""
    for name in sys.argv[1:] or CASES:
        case = CASES[name]
        torch.set_default_dtype(torch.float32)
        model = make(*case)
        large = {k: p for k, p in model.named_parameters() if p.numel() >= MIN_SIZE}
        for parameter in large.values():
            parameter.data.zero_()
        stream = BytesIO()
        torch.save(model, stream)
        packed = lzma.compress(stream.getvalue(), preset=9)
        (HERE / f"{name}.model.xz").write_bytes(packed)
        for key, parameter in large.items():
            parameter.data.copy_(torch.from_numpy(weights(key, tuple(parameter.shape))))
        torch.set_default_dtype(torch.float64)
        values = references(model.double(), case[3])
        np.savez_compressed(HERE / f"{name}.npz", **values)
        energy = values[next(iter(values))]
        print(f"{name}: {len(packed) / 1000:.0f} kB, energy {energy} eV", flush=True)


if __name__ == "__main__":
    main()
