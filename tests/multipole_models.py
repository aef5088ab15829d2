"""Models with dipoles, quadrupoles and induction that several test files share."""

import ase
import torch
from helpers import make_graph, tiny_potential, triclinic_ice

from lesff.atoms.graph import AtomGraph
from lesff.heads import MultipoleConfig
from lesff.potential.edit import with_multipoles
from lesff.potential.potential import Potential

STEP = 2e-4
"""A, V/A and strain of central differences: h^2 f''' / 6 with f''' up to 1, rounding 1e-14 / h."""
DIFFERENCE = 1e-6
ROUNDING = 1e-10
FP64 = 1e-11
"""T29."""
NO_OP = 1e-12
"""eV: new moments must not change a pretrained model by more."""
BEC = "born_effective_charges"
OFF_DIAGONAL = ((0, 1), (0, 2), (1, 2))

KINDS: dict[str, dict] = {
    "dipoles": {"dipoles": True},
    "quadrupoles": {"quadrupoles": True},
    "induced-charges": {"induced": "charges"},
    "induced-dipoles": {"dipoles": True, "induced": "dipoles"},
    "anisotropic": {"induced": "dipoles", "polarizability": "anisotropic"},
    "all": {
        "dipoles": True, "quadrupoles": True, "induced": "both", "polarizability": "anisotropic",
    },
}  # fmt: skip
INDUCED = [name for name, kind in KINDS.items() if "induced" in kind]
HIDDEN = "4x0e+4x1o+4x2e"


def bare(head: str = "latent", *, n_layers: int = 2, hidden: str = HIDDEN) -> Potential:
    return tiny_potential(head=head, hidden_irreps=hidden, n_layers=n_layers)


def make(kind: str, head: str = "latent") -> Potential:
    """A potential whose moments are far from their start."""
    return filled(with_multipoles(bare(head), MultipoleConfig(**KINDS[kind])))


def filled(potential: Potential) -> Potential:
    torch.manual_seed(5)
    for name, parameter in potential.multipole_head.named_parameters():
        parameter.data = 0.3 * torch.randn_like(parameter) + 0.1
        if name.endswith("gate"):
            parameter.data.fill_(0.3)
    return potential


def slab() -> ase.Atoms:
    atoms = triclinic_ice()
    atoms.pbc = [True, True, False]
    return atoms


def in_field(atoms: ase.Atoms, field: torch.Tensor, **state) -> AtomGraph:
    return make_graph(atoms, **state).replace(external_field=field[None])


FIELD = torch.tensor([0.12, -0.07, 0.09], dtype=torch.float64)


def differences(function, argument: torch.Tensor) -> torch.Tensor:
    """[..., j] = d function / d argument_j."""
    columns = []
    for unit in torch.eye(len(argument), dtype=torch.float64):
        plus, minus = (function(argument + s * STEP * unit) for s in (1, -1))
        columns.append((plus - minus) / (2 * STEP))
    return torch.stack(columns, -1)
