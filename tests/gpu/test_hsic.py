"""On a card statistics and p-values are those of the CPU."""

import numpy as np
import pytest
import torch

from ordtool.independence.hsic import hsic

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "linear"])
def test_statistics_of_the_cpu(kernel, dtype):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((1500, 8)).astype(dtype)
    y = (0.2 * x[:, :5] + draw.standard_normal((1500, 5))).astype(dtype)
    here, there = (hsic(x, y, kernel=kernel, permutations=2000, device=device) for device in ("cpu", "cuda"))
    tolerance = 1e-9 if dtype == "float64" else 1e-4
    assert there.statistic == pytest.approx(here.statistic, rel=tolerance)
    assert there.cka == pytest.approx(here.cka, rel=tolerance)
    assert there.p_value == pytest.approx(here.p_value, abs=0.002)


def test_what_is_left_once_z_is_known():
    draw = np.random.default_rng(0)
    z = draw.standard_normal((900, 2))
    x = np.sin(z[:, :1]) + 0.5 * draw.standard_normal((900, 1))
    y = z[:, :1] ** 2 + 0.1 * x + 0.5 * draw.standard_normal((900, 1))
    here, there = (hsic(x, y, given=z, permutations=500, device=device) for device in ("cpu", "cuda"))
    assert there.statistic == pytest.approx(here.statistic, rel=1e-8)
    assert there.p_value == here.p_value
