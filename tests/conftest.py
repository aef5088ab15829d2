"""One thread (the systems are tiny); seeds and state that do not leak from test to test."""

import os
import sys
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# versions that are too large to come with lesff; for the commands that tests start, too
OLDER = str(Path(__file__).parents[1] / "older_weights")
sys.path.append(OLDER)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), OLDER]))
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton


EXAMPLES = 12
"""Examples of each test of invariances in CI, always the same ones."""


def pytest_addoption(parser):
    parser.addoption(
        "--examples",
        type=int,
        default=EXAMPLES,
        help="structures of each test of test_invariances.py; new ones if it is not the default",
    )


def pytest_configure(config):
    count = config.getoption("--examples")
    settings.register_profile(
        "invariances",
        max_examples=count,
        deadline=None,
        derandomize=count == EXAMPLES,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


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
