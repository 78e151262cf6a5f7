"""Tests of what a CUDA card does otherwise than a CPU; `pytest -m gpu tests/gpu`."""

import pytest
import torch


@pytest.fixture(autouse=True)
def card():
    """The card; without one a test is skipped."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")
