import itertools

import numpy as np
import pytest

from ordtool.independence.bandwidth import MEDIAN_ROWS, median_distance


@pytest.mark.parametrize("metric", ["euclidean", "cityblock"])
@pytest.mark.parametrize("n", [5, 6, 31])
def test_median_of_all_pairs(metric, n):
    x = np.random.default_rng(n).standard_normal((n, 4))
    order = 2 if metric == "euclidean" else 1
    distances = [np.linalg.norm(a - b, ord=order) for a, b in itertools.combinations(x, 2)]
    assert median_distance(x, metric) == pytest.approx(np.median(distances), rel=1e-12)


def test_repeated_rows_leave_the_other_distances():
    labels = np.repeat(np.eye(3, dtype=np.float32), [40, 5, 5], axis=0)
    assert median_distance(labels) == pytest.approx(np.sqrt(2), rel=1e-12)
    assert median_distance(np.zeros((9, 2))) == 0


def test_many_rows_are_sampled_the_same_way_in_any_order_and_unit():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((MEDIAN_ROWS + 700, 3))
    found = median_distance(x)
    assert median_distance(x[rng.permutation(len(x))]) == found
    assert median_distance(x * 1024) == found * 1024
    exact = np.median(np.concatenate([np.linalg.norm(x[i + 1 :] - x[i], axis=1) for i in range(len(x) - 1)]))
    assert found == pytest.approx(exact, rel=0.02)
