import numpy as np
import pytest

from ordtool.independence.adjustment import holm
from ordtool.independence.hsic import HsicConfig, compare


def rejected(p_values, level):
    """Holm's procedure as he wrote it: step down until one isn't small enough."""
    order = np.argsort(p_values)
    found = set()
    for step, index in enumerate(order):
        if p_values[index] > level / (len(p_values) - step):
            break
        found.add(int(index))
    return found


def test_adjusted_p_values_are_the_levels_of_the_procedure():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p_values = rng.random(rng.integers(1, 9)) ** 3
        adjusted = holm(p_values)
        for level in [*rng.random(20), 0.05, 0.01]:
            assert rejected(p_values, level) == {i for i, p in enumerate(adjusted) if p <= level}


def test_several_pairs_get_adjusted_p_values_and_one_pair_none():
    rng = np.random.default_rng(0)
    variables = [(name, rng.standard_normal((30, 2))) for name in "abc"]
    variables.append(("d", variables[0][1] ** 2))
    pairs = [(0, 1), (0, 2), (0, 3)]
    config = HsicConfig(permutations=200)
    results = compare(variables, pairs, config)
    assert [result.p_adjusted for result in results] == holm([result.p_value for result in results])
    assert results[2].record()["p_adjusted"] == pytest.approx(3 * results[2].p_value)
    (alone,) = compare(variables, pairs[:1], config)
    assert alone.p_adjusted is None and "p_adjusted" not in alone.record()
    assert compare(variables, pairs, HsicConfig(test="none"))[0].p_adjusted is None
