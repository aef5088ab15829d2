"""One thread (the systems are tiny); seeds and state that do not leak from test to test."""

import os
from uuid import uuid4

import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(20260401)


@pytest.fixture(autouse=True)
def _state(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LESFF_STATE", str(tmp_path_factory.getbasetemp() / "state" / uuid4().hex))


@pytest.fixture
def generator():
    """Random numbers of one test."""
    return torch.Generator().manual_seed(7)
