import numpy as np
import pytest

from ordtool.errors import OrdtoolError, UsageError
from ordtool.independence.features import random_features
from ordtool.independence.hsic import hsic
from ordtool.independence.kernels import fit_kernel


@pytest.mark.parametrize("name", ["gaussian", "laplacian"])
def test_many_features_come_near_the_kernel(name, pair):
    x = pair(60)[0]
    exact = fit_kernel(x, name)
    near = random_features(x, name, None, 16000, seed=0)
    h = np.eye(60) - 1 / 60
    everything = slice(0, 60)
    k, l_ = (h @ kernel.block(everything, everything) @ h for kernel in (exact, near))
    assert near.bandwidth == exact.bandwidth
    assert np.abs(k - l_).max() < 5 / np.sqrt(16000)


def test_statistic_comes_near_the_exact_one(pair):
    x, y = pair(400)
    exact = hsic(x, y, test="gamma")
    near = hsic(x, y, test="gamma", random_features=4000)
    assert near.statistic == pytest.approx(exact.statistic, rel=0.05)
    assert near.random_features == 4000
    assert near.record()["random_features"] == 4000
    assert "random_features" not in exact.record()


def test_seed_and_variable_choose_the_frequencies(pair):
    x = pair(60)[0]
    first = random_features(x, "gaussian", 1.0, 8, seed=0)
    assert np.array_equal(first.features, random_features(x, "gaussian", 1.0, 8, seed=0).features)
    assert not np.allclose(first.features, random_features(x, "gaussian", 1.0, 8, seed=1).features)
    assert not np.allclose(
        first.features, random_features(x, "gaussian", 1.0, 8, seed=0, variable=1).features
    )


def test_impossible_requests(pair):
    x = pair(60)[0]
    with pytest.raises(UsageError, match="linear kernel has no random features"):
        random_features(x, "linear", None, 10, seed=0)
    for count in (0, 1, 10**12):
        with pytest.raises(OrdtoolError, match="random features are not possible"):
            random_features(x, "gaussian", None, count, seed=0)
