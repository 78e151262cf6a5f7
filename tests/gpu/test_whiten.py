"""On a card a whitening is that of the CPU."""

import numpy as np
import pytest
import torch

from ordtool.embedding.whitening import Whitening

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_whitening_of_the_cpu(dtype):
    draw = np.random.default_rng(0)
    rows = (draw.standard_normal((20_000, 24)) @ draw.standard_normal((24, 24)) + 5).astype(dtype)
    here, there = (Whitening().fit(rows, device=device) for device in ("cpu", "cuda"))
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(there.mean_, here.mean_, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(there.eigenvalues_, here.eigenvalues_, rtol=tolerance)
    moved = np.concatenate(list(here.iter_transform(rows, device="cuda")))
    np.testing.assert_allclose(moved, here.transform(rows), rtol=1e-4, atol=1e-4)
