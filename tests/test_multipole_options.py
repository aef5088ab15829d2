"""Models with dipoles, quadrupoles and induction: files, configuration, bad input."""

import pytest
import torch
from helpers import make_graph, tiny_potential, triclinic_ice, two_waters, water
from multipole_models import BEC, FIELD, HIDDEN, KINDS, bare, filled, in_field, make

from lesff.calculator import LesffCalculator
from lesff.errors import ConfigError, PropertyError, UnsupportedInputError
from lesff.heads import LongRangeConfig, MultipoleConfig
from lesff.model_folder.folder import load_model, save_model
from lesff.model_folder.verify import verify_parity
from lesff.plain_data import from_dict
from lesff.potential.edit import with_head, with_multipoles
from lesff.potential.response import BornOptions

# --- files, configuration, bad input -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["dipoles", "all"])
def test_saved_and_loaded(kind, tmp_path):
    potential = make(kind, "shifted")
    save_model(potential, tmp_path / "m", card="---\nname: m\n---\n", license_text="Yours.\n")
    loaded = load_model(tmp_path / "m")
    assert loaded.config.long_range == potential.config.long_range
    assert loaded.config.long_range.multipoles == MultipoleConfig(**KINDS[kind])
    assert verify_parity(tmp_path / "m").ok
    for atoms in (two_waters(), triclinic_ice()):
        one, two = (p(make_graph(atoms), ["energy", "forces"]) for p in (potential, loaded))
        torch.testing.assert_close(two["energy"], one["energy"], rtol=0, atol=0)
        torch.testing.assert_close(two["forces"], one["forces"], rtol=0, atol=0)


def test_single_precision_with_tables():
    """As used: float32, radial functions from tables, compiled kernels where there are any."""
    exact = make("all", "shifted")
    fast = with_multipoles(bare("shifted"), exact.config.long_range.multipoles)
    fast.load_state_dict(exact.state_dict())
    fast.cast_parameters(torch.float32)
    fast.radial = "table"
    for atoms in (two_waters(), triclinic_ice()):
        graph = make_graph(atoms)
        one = exact(graph, ["energy", "forces"])
        two = fast(graph.to(dtype=torch.float32), ["energy", "forces"])
        scale = float(one["forces"].abs().max())
        assert float((two["forces"] - one["forces"]).abs().max()) < 2e-5 * scale
        assert float((two["energy"] - one["energy"]).abs()) < 1e-4 * len(atoms)


def test_options_from_a_table():
    table = {"head": "shifted", "multipoles": {"dipoles": True, "induced": "both"}}
    found = from_dict(LongRangeConfig, table, "model.long_range").multipoles
    assert found == MultipoleConfig(dipoles=True, induced="both")
    with pytest.raises(ConfigError, match="`x.multipoles` has unknown key"):
        from_dict(LongRangeConfig, {"multipoles": {"octupoles": True}}, "x")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "`long_range.multipoles` must select dipoles"),
        ({"induced": "fields"}, "`long_range.multipoles.induced` must be one of none, charges"),
        (
            {"induced": "dipoles", "polarizability": "tensor"},
            "`long_range.multipoles.polarizability` must be one of isotropic, anisotropic",
        ),
        (
            {"induced": "charges", "polarizability": "anisotropic"},
            "must be 'isotropic' without induced dipoles",
        ),
    ],
)
def test_bad_options_raise(options, text):
    with pytest.raises(ConfigError, match=text):
        MultipoleConfig(**options)


@pytest.mark.parametrize(
    ("hidden", "n_layers", "kind", "text"),
    [
        ("4x0e", 2, "dipoles", "must leave out dipoles for .* order 0 .*'4x0e\\+4x1o' and"),
        ("4x0e+4x1o", 2, "quadrupoles", "leave out quadrupoles .* order 1 .*4x1o\\+4x2e'"),
        ("4x0e+4x1o", 2, "anisotropic", "leave out an anisotropic polarizability for"),
        (HIDDEN, 1, "all", "dipoles and quadrupoles and an anisotropic .* `architecture.n_layers`"),
    ],
)
def test_missing_features_raise(hidden, n_layers, kind, text):
    with pytest.raises(ConfigError, match=text):
        with_multipoles(bare(hidden=hidden, n_layers=n_layers), MultipoleConfig(**KINDS[kind]))


def test_induction_needs_invariants_only():
    potential = bare("shifted", hidden="4x0e", n_layers=1)
    potential = filled(with_multipoles(potential, MultipoleConfig(induced="dipoles")))
    for atoms in (water(), triclinic_ice()):
        out = potential(make_graph(atoms), ["polarizability", "atomic_dipoles"])
        assert float(torch.linalg.eigvalsh(out["polarizability"][0]).min()) > 1e-3
        assert float(out["atomic_dipoles"].norm(dim=1).max()) > 1e-3


def test_what_cannot_be_combined_raises():
    selected = MultipoleConfig(induced="both")
    with pytest.raises(ConfigError, match="must be null for the head 'qeq'"):
        with_multipoles(bare("qeq"), selected)
    with pytest.raises(ConfigError, match="must be null for the head 'qeq'"):
        with_head(with_multipoles(bare(), selected), "qeq")
    with pytest.raises(ConfigError, match="must not be given for a model without `long_range`"):
        with_multipoles(tiny_potential(head=None), selected)
    with pytest.raises(ConfigError, match="`multipoles` cannot change from"):
        with_multipoles(with_multipoles(bare(), selected), MultipoleConfig(dipoles=True))
    again = with_multipoles(with_multipoles(bare(), selected), selected)
    assert again.config.long_range.multipoles == selected


def test_undefined_answers_raise():
    crystal = make_graph(triclinic_ice())
    both = make("all", "shifted")
    with pytest.raises(PropertyError, match=r"`born_effective_charges` are not defined .*induced"):
        both(crystal, [BEC])
    with pytest.raises(UnsupportedInputError, match="forces of an `external_field` are not"):
        both(in_field(triclinic_ice(), FIELD), ["forces"])
    with pytest.raises(PropertyError, match="polarizability of a periodic structure"):
        both(crystal, ["polarizability"])
    dipoles = make("dipoles", "shifted")
    with pytest.raises(PropertyError, match="`born.mode` must be 'exact' for a crystal and a"):
        dipoles(crystal, [BEC], born=BornOptions(mode="sine"))
    with pytest.raises(PropertyError, match="this model has no atomic_quadrupoles"):
        dipoles(crystal, ["atomic_quadrupoles"])
    with pytest.raises(PropertyError, match="this model has no atomic_dipoles"):
        bare()(crystal, ["atomic_dipoles"])


def test_another_head_keeps_the_moments():
    """Charges of another head on a model with moments: the energy stays."""
    before = make("all")
    after = with_head(before, "fukui")
    graph = make_graph(two_waters())
    one, two = (p(graph, ["energy"])["energy"] for p in (before, after))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-9)


def test_steps_cannot_be_planned():
    """Multipole sums have no plan: a calculator computes every step anew, on GPUs too."""
    potential = make("dipoles")
    assert not potential.can_plan
    with pytest.raises(PropertyError, match="multipoles or the joint embedding"):
        potential.plan(make_graph(two_waters()))
    with pytest.raises(PropertyError, match="`replay` must be False or None for a model with"):
        LesffCalculator(potential, replay=True)
