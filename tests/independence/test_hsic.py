import numpy as np
import pytest

from ordtool.errors import OrdtoolError, UsageError
from ordtool.independence.hsic import HsicConfig, compare, hsic

TESTS = [
    {"test": "permutation"},
    {"test": "permutation", "scheme": "independent"},
    {"test": "gamma"},
    {"test": "gamma", "estimator": "biased"},
    {"test": "block", "group_rows": 10},
    {"test": "aggregated", "permutations": 199},
    {"test": "gamma", "random_features": 50},
    {"test": "permutation", "random_features": 50},
    {"test": "permutation", "estimator": "normalized", "epsilon": 0.1},
    {"test": "permutation", "kernel": "linear"},
    {"test": "permutation", "kernel": "laplacian"},
    {"test": "gamma", "kernel": ("cosine", "gaussian")},
    {"test": "gamma", "estimator": "gretton"},
    {"test": "permutation", "multiples": (0.5, 1.0, 2.0)},
]


def ids(options):
    return "-".join(str(value) for value in options.values())


@pytest.mark.parametrize("options", TESTS, ids=ids)
def test_the_same_seed_gives_the_same_p_value_on_any_threads(options, pair):
    x, y = pair(150, dtype="float32")
    y = y[::-1]
    first = hsic(x, y, seed=3, **options)
    again = hsic(x, y, seed=3, threads=2, **options)
    assert (first.statistic, first.p_value) == (again.statistic, again.p_value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", TESTS, ids=ids)
def test_units_change_nothing(options, dtype, pair):
    x, y = pair(150, dtype=dtype)
    y = np.roll(y, 1, axis=0)
    first = hsic(x, y, seed=3, **options)
    other = hsic(x, (y * 1000).astype(dtype), seed=3, **options)
    tolerance = 1e-3 if dtype == "float32" else 1e-8
    if options["test"] in ("permutation", "aggregated"):
        assert other.p_value == first.p_value
    assert other.p_value == pytest.approx(first.p_value, rel=tolerance)
    assert other.cka == pytest.approx(first.cka, rel=tolerance, abs=1e-6)
    if other.bandwidth_y is not None:
        assert other.bandwidth_y == pytest.approx(1000 * first.bandwidth_y, rel=1e-6)


@pytest.mark.parametrize("options", TESTS, ids=ids)
def test_dependence_is_found(options, pair):
    x, y = pair(200)
    assert hsic(x, y, **options).p_value < 0.02


@pytest.mark.parametrize("options", TESTS, ids=ids)
def test_constants_have_a_defined_answer_and_a_warning(options, pair):
    class Listener:
        warnings: list[str] = []

        def __getattr__(self, name):
            return lambda *args, **kwargs: None

        def warn(self, message):
            self.warnings.append(message)

    listener = Listener()
    result = hsic(pair(150)[0], np.full((150, 2), 0.1), progress=listener, **options)
    assert (result.statistic, result.cka, result.p_value) == (0, None, 1)
    assert listener.warnings == [
        "y: all rows are the same, and a constant depends on nothing (statistic 0, p 1)"
    ]


@pytest.mark.parametrize("options", TESTS, ids=ids)
def test_order_of_the_rows_matters_little(options, pair):
    # Another order draws other permutations, but asks about the same data.
    x, y = pair(150)
    order = np.random.default_rng(0).permutation(150)
    first, other = hsic(x, y, **options), hsic(x[order], y[order], **options)
    if options["test"] != "block":
        assert other.statistic == pytest.approx(first.statistic, rel=1e-9)


def test_fields_are_those_of_the_contract(pair):
    record = hsic(*pair(30)).record()
    assert list(record) == [
        "x",
        "y",
        "n",
        "kernel",
        "bandwidth_x",
        "bandwidth_y",
        "estimator",
        "statistic",
        "cka",
        "test",
        "p_value",
        "permutations",
        "seed",
        "seconds",
    ]
    assert list(hsic(*pair(200), test="block").record())[-1] == "interval"


def test_pairs_of_several_are_those_of_two(pair):
    x, y = pair(90)
    z = np.random.default_rng(1).standard_normal((90, 5))
    variables = [("x", x), ("y", y), ("z", z)]
    for options in ({}, {"kernel": ("gaussian", "linear")}, {"test": "gamma", "bandwidth": (1.0, None)}):
        results = compare(variables, [(0, 1), (2, 1), (0, 2)], HsicConfig(**options))
        for result, (a, b) in zip(results, [(x, y), (z, y), (x, z)], strict=True):
            alone = hsic(a, b, **options)
            assert result.statistic == pytest.approx(alone.statistic, rel=1e-11)
            assert result.p_value == pytest.approx(alone.p_value, rel=1e-9)
            assert result.cka == pytest.approx(alone.cka, rel=1e-11)


def test_normalized_is_the_trace(oracle, pair):
    x, y = pair(40)
    result = hsic(x, y, estimator="normalized", epsilon=1e-3)
    h = np.eye(40) - 1 / 40
    parts = []
    for v, sigma in ((x, result.bandwidth_x), (y, result.bandwidth_y)):
        k = h @ oracle.kernel(v, "gaussian", sigma) @ h
        parts.append(k @ np.linalg.inv(k + 1e-3 * 40 * np.eye(40)))
    assert result.statistic == pytest.approx(np.trace(parts[0] @ parts[1]), rel=1e-8)


def article(x: np.ndarray, y: np.ndarray, sigma: float) -> float:
    """HSIC as kexue.fm/6910 writes it: exp(-d^2 / sigma^2), over (n - 1)^2."""
    n = len(x)
    k, l_ = (np.exp(-np.square(v[:, None] - v).sum(axis=2) / sigma**2) for v in (x, y))
    j = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(k @ j @ l_ @ j)) / (n - 1) ** 2


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_gretton_with_a_smaller_bandwidth_is_the_articles(sigma, pair):
    x, y = pair(60)
    options = {"bandwidth": sigma / np.sqrt(2), "permutations": 99}
    ours = hsic(x, y, estimator="gretton", **options)
    assert ours.statistic == pytest.approx(article(x, y, sigma), rel=1e-10)
    assert ours.estimator == "gretton"
    biased = hsic(x, y, estimator="biased", **options)
    assert (ours.p_value, ours.cka) == (biased.p_value, biased.cka)
    aggregated = hsic(x, y, test="aggregated", estimator="gretton", permutations=99)
    plain = hsic(x, y, test="aggregated", estimator="biased", permutations=99)
    assert aggregated.statistic == pytest.approx(plain.statistic * (60 / 59) ** 2, rel=1e-12)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian"])
def test_kernels_of_several_bandwidths_are_added_up(kernel, oracle, pair):
    x, y = pair(40)
    multiples = (0.5, 1.0, 3.0)
    k, l_ = (sum(oracle.kernel(v, kernel, 1.5 * m) for m in multiples) for v in (x, y))
    ours = hsic(x, y, kernel=kernel, bandwidth=1.5, multiples=multiples, test="none")
    assert ours.statistic == pytest.approx(oracle.unbiased(k, l_), rel=1e-9)
    assert ours.record()["multiples"] == multiples
    biased = hsic(x, y, kernel=kernel, bandwidth=1.5, multiples=multiples, test="none", estimator="biased")
    assert biased.statistic == pytest.approx(oracle.biased(k, l_), rel=1e-9)
    assert "multiples" not in hsic(x, y, test="none").record()


def test_float64_data_is_measured_in_float64(oracle, pair):
    x, y = pair(60)
    result = hsic(x, y, bandwidth=(1.3, 0.7), test="none")
    exact = oracle.unbiased(oracle.kernel(x, "gaussian", 1.3), oracle.kernel(y, "gaussian", 0.7))
    assert result.statistic == pytest.approx(exact, rel=1e-11)
    rough = hsic(x, y, bandwidth=(1.3, 0.7), test="none", dtype="float32")
    assert rough.statistic != result.statistic
    assert rough.statistic == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"estimator": "unbaised"}, UsageError),
        ({"test": "permutations"}, UsageError),
        ({"dtype": "float16"}, UsageError),
        ({"kernel": "rbf"}, UsageError),
        ({"test": "block", "estimator": "biased"}, UsageError),
        ({"estimator": "normalized", "random_features": 10}, UsageError),
        ({"permutations": 0}, OrdtoolError),
        ({"random_features": 10**18}, OrdtoolError),
        ({"bandwidth": 0.0}, OrdtoolError),
        ({"estimator": "normalized", "epsilon": 0.0}, OrdtoolError),
        ({"threads": 0}, UsageError),
    ],
)
def test_impossible_options(options, error, pair):
    with pytest.raises(error) as caught:
        hsic(*pair(600), **options)
    assert caught.value.exit_code == (2 if error is UsageError else 1)


def test_lengths_must_match(pair):
    with pytest.raises(OrdtoolError, match="x has 30 rows and y has 29"):
        hsic(pair(30)[0], pair(30)[1][:-1])


def test_a_linear_statistic_that_overflows_says_so():
    x = np.random.default_rng(0).standard_normal((20, 2)) * 1e200
    with pytest.raises(OrdtoolError, match="too large"):
        hsic(x, x, kernel="linear")
    assert hsic(x, x, kernel="gaussian").p_value < 0.01


def test_too_many_rows_for_nhsic(monkeypatch, pair):
    from ordtool.independence import normalized

    monkeypatch.setattr(normalized, "MAX_ROWS", 20)
    with pytest.raises(OrdtoolError, match="would invert a matrix of 30 by 30"):
        hsic(*pair(30), estimator="normalized")
