"""Rejection at 5% under independence, over 1,000 draws: inside the binomial 99% interval for every test."""

import numpy as np
import pytest

from ordtool.independence.hsic import hsic

DRAWS = 1000
# scipy.stats.binom.ppf([0.005, 0.995], 1000, 0.05)
INTERVAL = (33, 69)


def rejections(n, draw, **options):
    count = 0
    for index in range(DRAWS):
        x, y = draw(np.random.default_rng([17, index]), n)
        p_value = hsic(x, y, seed=index, threads=1, **options).p_value
        assert 0 < p_value <= 1
        count += p_value <= 0.05
    return count


def normal(rng, n):
    return rng.standard_normal((n, 2)), rng.standard_normal((n, 3))


def labels(rng, n):
    return rng.standard_normal((n, 4)), np.eye(3)[rng.integers(0, 3, n)]


def heavy(rng, n):
    return rng.standard_t(2, (n, 2)), rng.standard_t(2, (n, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "draw", "options"),
    [
        (30, normal, {"test": "gamma"}),
        (30, normal, {"test": "gamma", "estimator": "biased"}),
        (30, labels, {"test": "gamma"}),
        (40, heavy, {"test": "gamma", "kernel": "linear"}),
        (30, normal, {"test": "gamma", "random_features": 40}),
        (64, normal, {"test": "block", "group_rows": 8}),
        (30, normal, {"permutations": 59}),
        (64, labels, {"permutations": 59, "scheme": "cyclic"}),
        (48, normal, {"permutations": 39, "scheme": "cyclic", "estimator": "biased"}),
        (20, normal, {"test": "aggregated", "permutations": 39, "grid": (0.5, 2.0)}),
    ],
    ids=lambda value: (
        getattr(value, "__name__", None) or "-".join(map(str, getattr(value, "values", lambda: [value])()))
    ),
)
def test_level(n, draw, options):
    low, high = INTERVAL
    assert low <= rejections(n, draw, **options) <= high
