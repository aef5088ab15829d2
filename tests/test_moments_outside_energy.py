"""``long_range.in_energy = false``: moments are read out, energies are those of the trunk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from references.synthetic import strained_oxide

from lesff.atoms.graph import build_graph
from lesff.atoms.structure import to_structure
from lesff.convert.checkpoint import convert_checkpoint
from lesff.errors import ConfigError
from lesff.heads import LongRangeConfig, MultipoleConfig
from lesff.model_folder.folder import load_model, save_model
from lesff.potential.potential import Potential

REFERENCES = Path(__file__).parent / "references"
TOOLS = Path(__file__).parents[1] / "tools"
SUM_RULE = 1e-10
"""e, rounding of sums over edges in float64."""
SINGLE = 1e-4
"""e, features and slopes are kept in float32, heads of random weights have slopes up to 100."""


@pytest.fixture(scope="module")
def trunk_folder(tmp_path_factory):
    """A small model without charges, features up to order 3."""
    path = tmp_path_factory.mktemp("nequip") / "model"
    convert_checkpoint(REFERENCES / "nequix_l3.nqx", path)
    return path


@pytest.fixture
def trunk(trunk_folder):
    return load_model(trunk_folder, dtype=torch.float64)


def charged(trunk, *, in_energy=False, dipoles=True):
    """The trunk with charges and dipoles of random weights."""
    n = len(trunk.config.elements)
    long_range = LongRangeConfig(
        head="edge",
        reference_charges=tuple(np.linspace(-1.0, 1.0, n).tolist()),
        multipoles=MultipoleConfig(dipoles=True) if dipoles else None,
        in_energy=in_energy,
    )
    result = Potential(replace(trunk.config, long_range=long_range)).double()
    result.load_state_dict(trunk.state_dict(), strict=False)
    torch.manual_seed(3)
    for name, parameter in result.named_parameters():
        if name.startswith(("charge_head", "multipole_head")):
            parameter.data = 0.3 * torch.randn_like(parameter)
    return result.eval()


def oxide(trunk):
    return build_graph(to_structure(strained_oxide()), trunk.architecture.cutoff)


@pytest.mark.parametrize("dipoles", [False, True])
def test_energies_are_those_of_the_trunk(trunk, dipoles):
    graph = oxide(trunk)
    asked = ("energy", "forces", "stress", "node_energy")
    found = charged(trunk, dipoles=dipoles)(graph, (*asked, "energy_lr", "charges"))
    for name, value in trunk(graph, asked).items():
        assert torch.equal(found[name], value), name
    assert torch.equal(found["energy_lr"], torch.zeros(1, dtype=torch.float64))
    # charges there are, and they interact where they are meant to
    assert float(found["charges"].abs().max()) > 0.1
    interacting = charged(trunk, in_energy=True, dipoles=dipoles)(graph, ("energy_lr",))
    assert abs(float(interacting["energy_lr"])) > 0.1


def test_planned_steps_leave_charges_out(trunk):
    graph, model = oxide(trunk), charged(trunk, dipoles=False)
    plan = model.plan(graph)
    assert plan.coulomb is None
    assert torch.equal(model(graph, plan=plan)["energy"], trunk(graph)["energy"])


def test_born_charges_do_not_depend_on_it(trunk):
    graph, model = oxide(trunk), charged(trunk)
    born = model.born_effective_charges(graph)
    assert torch.equal(born, charged(trunk, in_energy=True).born_effective_charges(graph))
    # the acoustic sum rule; and charges that are not those of the start only
    assert float(born.sum(0).abs().max()) < SUM_RULE
    assert float((born - born.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]).abs().max()) > 0.1


def test_the_tool_trains_on_the_born_charges_of_the_model(trunk, tmp_path, monkeypatch):
    """``tools/born_head.py`` has them from features and their slopes, without the trunk."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import born_features  # pyright: ignore[reportMissingImports]
    import born_head  # pyright: ignore[reportMissingImports]

    atoms = strained_oxide()
    model = charged(trunk)
    born = model.born_effective_charges(oxide(trunk))
    atoms.set_array("born", born.numpy())
    atoms.info["epsilon"] = np.diag([3.0, 4.0, 5.0])
    path = tmp_path / "0000.npz"
    np.savez(path, **born_features.features_of(trunk, atoms))
    sample = born_head.sample(model, atoms, path)
    assert float(sample.weights.sum()) == 3 * len(atoms)
    found = born_head.born_columns(model.float(), [sample, sample])
    # labels are divided by the root of the mean of 3, 4 and 5
    expected = 2.0 * torch.cat([sample.labels, sample.labels])
    assert torch.allclose(found, expected, rtol=0, atol=SINGLE)


def test_symmetry_leaves_out_columns_that_others_give(monkeypatch):
    """In rock salt one direction of each element gives all, in a strained crystal none is given."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import born_features  # pyright: ignore[reportMissingImports]

    columns, weights = born_features.columns_of(bulk("MgO", "rocksalt", a=4.2, cubic=True))
    assert columns.tolist() == [[0, 0], [1, 0]]
    assert weights.tolist() == [12.0, 12.0]
    columns, weights = born_features.columns_of(strained_oxide())
    assert len(columns) == 24
    assert set(weights) == {1.0}


@pytest.mark.parametrize(
    "options", [{"head": "qeq"}, {"multipoles": MultipoleConfig(induced="charges")}]
)
def test_what_minimises_an_energy_needs_it(options):
    with pytest.raises(ConfigError, match="`long_range.in_energy` must be true"):
        LongRangeConfig(in_energy=False, **options)


def test_the_folder_says_so_only_where_it_is_so(trunk, tmp_path):
    model = charged(trunk)
    save_model(model, tmp_path / "model", card="", license_text="None.\n")
    read = load_model(tmp_path / "model", dtype=torch.float64)
    assert read.config.long_range == model.config.long_range
    # earlier versions read folders of models whose charges interact
    plain = charged(trunk, in_energy=True).config.to_dict()
    assert "in_energy" not in plain["long_range"]
