"""The conditional test against whole matrices, refitted regressions and drawn signs, none of which it shares."""

import numpy as np
import pytest
import torch
from scipy.stats import binom

from ordtool.errors import OrdtoolError, UsageError
from ordtool.independence import conditional, conditional_device
from ordtool.independence.conditional import (
    GROUP_ROWS,
    conditional_sums,
    gamma_p_value,
    incomplete_cholesky,
    neighbours,
)
from ordtool.independence.conditional_device import permuted_statistics
from ordtool.independence.hsic import compare, hsic
from ordtool.independence.kernels import fit_kernel


def chain(n: int, seed: int = 0, direct: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x <- z -> y, and with `direct` also x -> y."""
    rng = np.random.default_rng([n, seed])
    z = rng.standard_normal((n, 1))
    noise = rng.standard_normal((n, 1))
    x = np.sin(2 * z) + z + 0.5 * noise
    return x, np.tanh(2 * z) + direct * noise + 0.5 * rng.standard_normal((n, 1)), z


@pytest.fixture
def sums():
    """The sums of a chain of 40 rows, and its variables."""
    x, y, z = chain(40)
    return conditional_sums(fit_kernel(x), fit_kernel(y), z), (x, y, z)


def residual_matrix(z, sigma, ridge, oracle):
    """R of kernel ridge regression with an intercept, by inverting whole matrices."""
    n = len(z)
    h = np.eye(n) - 1 / n
    k = h @ oracle.kernel(z, "gaussian", sigma) @ h
    return h - k @ np.linalg.inv(k + ridge * np.eye(n))


def test_the_statistic_is_the_sum_over_residuals_of_whole_matrices(monkeypatch, oracle):
    monkeypatch.setattr(conditional, "TOLERANCE", 1e-14)
    x, y, z = chain(40)
    sums = conditional_sums(fit_kernel(x, bandwidth=1.0), fit_kernel(y, bandwidth=0.7), z)
    unit = (z - z.mean()) / z.std()
    median = fit_kernel(unit).bandwidth
    r, s = (
        residual_matrix(unit, regression.width * median, regression.ridge, oracle)
        for regression in sums.regressions
    )
    weights = oracle.kernel(unit, "gaussian", median)
    a = r @ oracle.kernel(x, "gaussian", 1.0) @ r * weights
    b = s @ oracle.kernel(y, "gaussian", 0.7) @ s
    stretch = (weights * (r @ r) * (s @ s)).sum() / np.diag((r @ r) * (s @ s)).sum()
    assert sums.total == pytest.approx((a * b).sum(), rel=1e-6)
    assert sums.trace == pytest.approx(np.trace(a * b), rel=1e-6)
    assert sums.stretch == pytest.approx(stretch, rel=1e-6)
    apart = (a * b)[~np.eye(40, dtype=bool)]
    assert sums.square == pytest.approx(apart @ apart, rel=1e-6)
    assert sums.statistic("biased") == pytest.approx((a * b).sum() / 1600, rel=1e-6)


def test_the_chosen_ridge_has_the_least_error_of_regressions_without_the_row(monkeypatch):
    x, _, z = chain(25)
    features, target = conditional._kernel_features(fit_kernel(z)), np.hstack([x, x**2])
    features, target = features - features.mean(axis=0), target - target.mean(axis=0)
    basis, roots, _ = np.linalg.svd(features, full_matrices=False)

    def left_out(ridge):
        total = 0.0
        for row in range(25):
            others = np.arange(25) != row
            design = np.hstack([np.ones((25, 1)), features])
            penalty = ridge * np.diag([0.0] + [1.0] * features.shape[1])
            weights = np.linalg.solve(
                design[others].T @ design[others] + penalty, design[others].T @ target[others]
            )
            total += np.square(target[row] - design[row] @ weights).sum()
        return total / 25

    errors = [left_out(ridge) for ridge in conditional.RIDGES]
    ridge, error = conditional._best_ridge(basis, roots**2, target)
    assert ridge == conditional.RIDGES[int(np.argmin(errors))]
    assert error == pytest.approx(min(errors), rel=1e-6)


def test_without_anything_to_know_it_is_hsic(pair):
    x, y = pair(60)
    plain = hsic(x, y, estimator="biased", test="none")
    known = hsic(x, y, given=np.zeros(60), estimator="biased", test="none")
    assert known.statistic == pytest.approx(plain.statistic, rel=1e-3)
    assert known.given == "given"
    assert known.cka is None


def test_the_curve_is_that_of_signs_drawn_at_random(sums):
    found, _ = sums
    left, right, everything = found.left, found.right, slice(0, 40)
    products = (left @ left.T) * (right @ right.T) * found.given.block(everything, everything)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (20_000, 40))
    drawn = found.stretch * np.einsum("bi,bi->b", signs @ products, signs)
    assert gamma_p_value(found) == pytest.approx((drawn >= found.total).mean(), abs=0.02)


def test_features_are_the_matrix():
    rows = np.random.default_rng(0).standard_normal((30, 2))
    matrix = np.exp(-np.square(rows[:, None] - rows).sum(axis=2) / 2)
    exact = incomplete_cholesky(np.diag(matrix), lambda j: matrix[j], 0.0, 30)
    np.testing.assert_allclose(exact @ exact.T, matrix, atol=1e-7)
    few = incomplete_cholesky(np.diag(matrix), lambda j: matrix[j], 0.01, 30)
    assert few.shape[1] < 25
    assert 0 < np.trace(matrix - few @ few.T) <= 0.01 * 30


def test_groups_are_neighbours():
    z = np.random.default_rng(0).standard_normal((333, 2))
    groups = neighbours(z)
    sizes = np.bincount(groups)
    assert sizes.min() >= GROUP_ROWS
    assert sizes.max() < 2 * GROUP_ROWS
    spread = sum(z[groups == group].var(axis=0) for group in range(len(sizes))) / len(sizes)
    assert (spread < z.var(axis=0) / 3).all()


@pytest.mark.parametrize("test", ["gamma", "permutation"])
def test_the_level_holds_and_a_direct_link_is_found(test):
    options = {"test": test, "permutations": 99}
    hits = sum(
        hsic(*chain(100, i)[:2], given=chain(100, i)[2], **options).p_value <= 0.05 for i in range(120)
    )
    assert hits <= binom.ppf(0.995, 120, 0.05)
    found = 0
    for i in range(10):
        x, y, z = chain(150, i, direct=0.3)
        found += hsic(x, y, given=z, seed=i, **options).p_value <= 0.05
    assert found >= 9


def test_labels_can_be_given_and_units_change_nothing():
    x, y, z = chain(120)
    labels = ["low" if value < 0 else "high" for value in z[:, 0]]
    assert hsic(x, y, given=labels, test="gamma").p_value < 0.01  # two classes tell little of z
    first = hsic(x, y, given=z, test="gamma")
    other = hsic(1000 * x, y, given=0.01 * z + 3, test="gamma")
    assert other.p_value == pytest.approx(first.p_value, rel=1e-6)
    assert hsic(x, y, given=z).p_value == hsic(x, y, given=z).p_value


def test_what_is_known_leaves_nothing():
    x, y, z = chain(60)
    assert hsic(np.ones(60), y, given=z).p_value == 1
    assert hsic(x, z**2, given=z, test="gamma").p_value > 0.05


def test_several_pairs_share_what_is_known():
    x, y, z = chain(60)
    results = compare([("a", x), ("b", y), ("c", x + y)], [(0, 1), (0, 2)], _config(), given=("z", z))
    assert [result.given for result in results] == ["z", "z"]
    assert results[1].p_value < 0.05 < results[0].p_value
    assert results[0].record()["given"] == "z"


def _config():
    from ordtool.independence.config import HsicConfig

    return HsicConfig(test="gamma")


@pytest.mark.parametrize(
    "options",
    [
        {"test": "block"},
        {"test": "aggregated"},
        {"estimator": "normalized"},
        {"random_features": 16, "test": "gamma"},
    ],
)
def test_impossible_options(options):
    x, y, z = chain(60)
    with pytest.raises(UsageError, match="with `given`"):
        hsic(x, y, given=z, **options)


def test_lengths_must_match():
    x, y, z = chain(30)
    with pytest.raises(OrdtoolError, match="x has 30 rows and given has 29"):
        hsic(x, y, given=z[1:])


@pytest.mark.parametrize("block", [1 << 26, 90])
@pytest.mark.parametrize("dim", [1, 3])
def test_a_device_adds_up_the_same(monkeypatch, block, dim):
    """The sums and the statistics of permutations in torch, on the CPU's device, in one block and in many."""
    x, y, z = chain(45, seed=3, direct=0.5)
    z = np.hstack([z, np.random.default_rng(1).standard_normal((45, dim - 1))])
    here = conditional_sums(fit_kernel(x), fit_kernel(y), z)
    p_here = conditional.local_permutations(here, z, 200, seed=5)
    cpu = torch.device("cpu")
    monkeypatch.setattr(conditional_device, "_NUMBERS", block)
    monkeypatch.setattr(conditional, "on_device", lambda kernels, device: [k.on_device(cpu) for k in kernels])
    there = conditional_sums(fit_kernel(x), fit_kernel(y), z)
    for name in ("total", "trace", "square", "stretch"):
        assert getattr(there, name) == pytest.approx(getattr(here, name), rel=1e-10)
    monkeypatch.setattr(
        conditional, "_permuted", lambda left, right, _: permuted_statistics(left, right, cpu)
    )
    assert conditional.local_permutations(there, z, 200, seed=5) == p_here


def test_statistics_of_permutations_are_those_of_whole_matrices():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((12, 3)), rng.standard_normal((12, 5))
    orders = np.array([rng.permutation(12) for _ in range(4)])
    expected = [((left @ left.T) * (right[order] @ right[order].T)).sum() for order in orders]
    found = permuted_statistics(left, right, torch.device("cpu"))(orders)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_device_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    x, y, z = chain(30)
    with pytest.raises(UsageError, match="cuda"):
        hsic(x, y, given=z, device="cuda")
