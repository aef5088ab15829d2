"""One thread (the systems are tiny) and seeds that do not leak from test to test."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(20260401)


@pytest.fixture
def generator():
    """Random numbers of one test."""
    return torch.Generator().manual_seed(7)
