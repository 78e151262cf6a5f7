import numpy as np
import pytest

from ordtool.errors import UsageError
from ordtool.independence.hsic import hsic


def ripple(rng, n, frequency=4):
    x = rng.uniform(-np.pi, np.pi, (n, 1))
    return x, np.sin(frequency * x) + 0.3 * rng.standard_normal((n, 1))


def test_narrow_bandwidths_see_what_the_median_does_not():
    found = {"permutation": 0, "aggregated": 0}
    for seed in range(20):
        x, y = ripple(np.random.default_rng(seed), 120)
        for test in found:
            found[test] += hsic(x, y, test=test, permutations=199, seed=seed).p_value <= 0.05
    assert found["aggregated"] >= 18
    assert found["permutation"] <= 10


def test_the_bandwidths_that_stood_out_are_told():
    x, y = ripple(np.random.default_rng(0), 300)
    result = hsic(x, y, test="aggregated")
    median = hsic(x, y, test="none")
    assert result.bandwidth_x == pytest.approx(median.bandwidth_x / 4)
    alone = hsic(x, y, bandwidth=(result.bandwidth_x, result.bandwidth_y), test="none")
    assert result.statistic == pytest.approx(alone.statistic)


def test_a_grid_of_one_is_the_plain_test_by_rank():
    # With one kernel the tail curve is monotone, so the rank is the permutation test's.
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((90, 2)), rng.standard_normal((90, 2))
    one = hsic(x, y, test="aggregated", grid=(1.0,), permutations=300, seed=5)
    assert one.p_value == pytest.approx(hsic(x, y, permutations=300, seed=5).p_value)


def test_labels_need_no_grid():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((150, 2))
    y = np.eye(2)[(x[:, 0] > 0).astype(int)]
    assert hsic(x, y, test="aggregated", kernel=("gaussian", "linear"), permutations=199).p_value == 0.005


@pytest.mark.parametrize(
    "options",
    [{"kernel": "linear"}, {"bandwidth": 1.0}, {"grid": ()}, {"grid": (0.0,)}, {"estimator": "normalized"}],
)
def test_contradictions(options, pair):
    with pytest.raises(UsageError):
        hsic(*pair(50), test="aggregated", **options)
