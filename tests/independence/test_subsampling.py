import numpy as np
import pytest

from ordtool.errors import OrdtoolError
from ordtool.independence.kernel_sums import kernel_sums
from ordtool.independence.kernels import fit_kernel
from ordtool.independence.subsampling import subsampled_hsic


def test_one_group_mean_is_the_mean_of_unbiased_statistics(oracle, pair):
    x, y = pair(83)
    left, right = fit_kernel(x), fit_kernel(y)
    found = subsampled_hsic(left, right, group_rows=9, seed=4)
    order = np.random.default_rng([4, 0x424C4B]).permutation(83)
    groups = [order[start : start + 9] for start in range(0, 81, 9)]
    k, l_ = oracle.kernel(x, "gaussian", left.bandwidth), oracle.kernel(y, "gaussian", right.bandwidth)
    values = [oracle.unbiased(k[np.ix_(g, g)], l_[np.ix_(g, g)]) for g in groups]
    assert (found.groups, found.group_rows) == (9, 9)
    assert found.statistic == pytest.approx(np.mean(values), rel=1e-10)
    from scipy.stats import t

    low, high = t.interval(0.95, 8, np.mean(values), np.std(values, ddof=1) / 3)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-8)


def test_interval_covers_the_population():
    # The truth: HSIC of 3,000 rows, beside which 128 rows are few.
    def draw(rng, n):
        x = rng.standard_normal((n, 1))
        return x, x + rng.standard_normal((n, 1))

    x, y = draw(np.random.default_rng(0), 3000)
    truth = kernel_sums([fit_kernel(x, "gaussian", 1.0), fit_kernel(y, "gaussian", 1.0)], [(0, 1)]).unbiased(
        0, 1
    )
    covered = 0
    for seed in range(300):
        x, y = draw(np.random.default_rng([1, seed]), 128)
        kernels = fit_kernel(x, "gaussian", 1.0), fit_kernel(y, "gaussian", 1.0)
        found = subsampled_hsic(*kernels, group_rows=8, confidence=0.9, threads=1)
        covered += found.low <= truth <= found.high
    assert 0.84 <= covered / 300 <= 0.95


def test_units_of_a_linear_kernel(pair):
    x, y = pair(200)
    one = subsampled_hsic(fit_kernel(x, "linear"), fit_kernel(y, "linear"))
    other = subsampled_hsic(fit_kernel(x, "linear"), fit_kernel(1000 * y, "linear"))
    assert other.statistic == pytest.approx(1e6 * one.statistic)
    assert (other.low, other.high) == pytest.approx((1e6 * one.low, 1e6 * one.high))
    assert other.p_value == pytest.approx(one.p_value)


def test_constants_depend_on_nothing(pair):
    x, _ = pair(200)
    found = subsampled_hsic(fit_kernel(x), fit_kernel(np.ones((200, 2))))
    assert (found.statistic, found.p_value, found.cka) == (0, 1, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_rows": 3}, "too small"),
        ({"group_rows": 60}, "200 rows make 3 groups of 60, and 8 are needed"),
        ({"confidence": 1.0}, "confidence of 1"),
        ({"confidence": float("nan")}, "confidence of nan"),
    ],
)
def test_impossible_requests(options, message, pair):
    x, y = pair(200)
    with pytest.raises(OrdtoolError, match=message):
        subsampled_hsic(fit_kernel(x), fit_kernel(y), **options)
