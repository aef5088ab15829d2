"""Batches: every structure once, within the limit, one kind at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesff.atoms.batching import batches_by_kind, shuffled_batches

SIZES = st.lists(st.integers(1, 40), max_size=60)


@given(sizes=SIZES, seed=st.integers(0, 9), max_atoms=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_batches_of_one_kind_hold_every_structure_once(sizes, seed, max_atoms):
    rng = np.random.default_rng(seed)
    sizes = np.array(sizes, dtype=np.int64)
    kinds = [rng.random(len(sizes)) < 0.5, rng.random(len(sizes)) < 0.3]
    batches = batches_by_kind(sizes, kinds, max_atoms=max_atoms)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or sizes[batch].sum() <= max_atoms
        assert all(len(set(kind[batch].tolist())) == 1 for kind in kinds)
        assert (np.diff(sizes[batch]) >= 0).all()


def test_neighbouring_batches_of_a_kind_could_not_be_one():
    """Greedy: the first structure of a batch did not fit into the one before it."""
    sizes = np.random.default_rng(1).integers(1, 12, 200)
    batches = batches_by_kind(sizes, [np.zeros(200, dtype=bool)], max_atoms=30)
    for first, second in zip(batches, batches[1:], strict=False):
        assert sizes[first].sum() + sizes[second[0]] > 30


@pytest.mark.parametrize("max_atoms", [5, 40])
def test_shuffled_batches_depend_on_the_seed_only(max_atoms):
    sizes = np.random.default_rng(0).integers(1, 12, 3000)  # more than one pool

    def draw(seed):
        rng = np.random.default_rng(seed)
        return [b.tolist() for b in shuffled_batches(sizes, max_atoms=max_atoms, rng=rng)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert sorted(i for batch in draw(3) for i in batch) == list(range(3000))
