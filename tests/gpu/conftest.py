"""Tests of what a CUDA card does otherwise than a CPU; `pytest -m gpu tests/gpu`."""

import pytest
import torch

# What torch's compiler says of itself and of the machine, and no test can mend: errors elsewhere, not here.
COMPILER = (
    "ignore:TensorFloat32 tensor cores:UserWarning",
    "ignore::DeprecationWarning:torch",
    "ignore::DeprecationWarning:triton",
    "ignore::FutureWarning:torch",
    "ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of this folder compile without failing by the compiler's own warnings."""
    for item in items:
        if item.path.parent.name == "gpu":
            for warning in COMPILER:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(autouse=True)
def card():
    """The card; without one a test is skipped."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")
