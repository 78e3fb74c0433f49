"""Tests of the ONNX graphs run on one thread; without the extra `onnx` they are skipped."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "ops"))  # wild_calls


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread for a test; what was set before comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
