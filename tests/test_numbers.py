"""HSIC, whitening and similarity of numbers of any size: the answer of the same numbers at a usual size, or one clear error.

The oracles are plain sums in float64 over the numbers brought to size by exact arithmetic (fractions).
"""

from fractions import Fraction

import numpy as np
import pytest

import ordtool
from ordtool.embedding.similarity import cosine_similarities, score_similarity
from ordtool.embedding.whitening import Whitening
from ordtool.errors import OrdtoolError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3))
Y = np.c_[X[:, 0] + 0.3 * RNG.standard_normal(40), RNG.standard_normal(40)]

KINDS = {
    "duplicate": lambda a: np.repeat(a[:10], 4, axis=0),
    "huge": lambda a: a * 1e300,
    "large": lambda a: a * 1e150,
    "tiny": lambda a: a * 1e-300,
    "offset": lambda a: a + 1e12,
    "denormal": lambda a: a * 1e-320,
    "denormal float32": lambda a: (a * 1e-43).astype(np.float32),
    "huge float32": lambda a: (a * 1e37).astype(np.float32),
    "half": lambda a: a.astype(np.float16),
    "integer": lambda a: np.round(a * 5).astype(np.int64),
    "int8": lambda a: np.round(a * 20).astype(np.int8),
    "uint64": lambda a: (np.round(a * 5) + 20).astype(np.uint64) + np.uint64(2**63),
    "int64": lambda a: np.round(a * 5).astype(np.int64) - np.int64(2**62),
    "bool": lambda a: a > 0,
}
CONSTANT = {"constant": 3.7, "huge": 1e300, "tiny": 1e-300, "denormal": 5e-324, "zero": 0.0, "far": 1e12 + 1}


def sized(array) -> np.ndarray:
    """The numbers, centred on their mean and divided by the largest, exactly, in float64."""
    exact = [[Fraction(value.item()) for value in row] for row in array]
    means = [sum(column) / len(exact) for column in zip(*exact, strict=True)]
    moved = [[value - mean for value, mean in zip(row, means, strict=True)] for row in exact]
    largest = max(abs(value) for row in moved for value in row)
    return np.array([[float(value / largest) for value in row] for row in moved])


def gram(rows: np.ndarray, kernel: str) -> np.ndarray:
    if kernel == "linear":
        return rows @ rows.T
    distances = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1))
    pairs = distances[np.triu_indices(len(rows), 1)]
    bandwidth = np.median(pairs) or np.median(pairs[pairs > 0])
    return np.exp(-((distances / bandwidth) ** 2) / 2)


def hsic_biased(x: np.ndarray, y: np.ndarray, kernel: str) -> tuple[float, float]:
    """The biased statistic and CKA, as n x n matrices."""
    n = len(x)
    centre = np.eye(n) - 1 / n
    left, right = (centre @ gram(rows, kernel) @ centre for rows in (x, y))
    product = (left * right).sum()
    return product / n**2, product / np.sqrt(np.square(left).sum() * np.square(right).sum())


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("kind", KINDS)
def test_hsic_of_numbers_of_any_size(kind, kernel):
    x, y = KINDS[kind](X), KINDS[kind](Y)
    statistic, cka = hsic_biased(sized(x), sized(y), kernel)
    options = {"kernel": kernel, "estimator": "biased", "test": "none"}
    try:
        found = ordtool.hsic(x, y, **options)
    except OrdtoolError as error:
        # The linear kernel's statistic has the fourth power of the numbers' unit.
        assert kernel == "linear" and kind in ("huge", "large", "tiny", "denormal")
        assert "for a float" in str(error) and "by a constant" in error.hint
        return
    tolerance = 1e-4 if x.dtype == np.float32 else 1e-6
    assert found.cka == pytest.approx(cka, rel=tolerance)
    if kernel == "gaussian":
        assert found.statistic == pytest.approx(statistic, rel=tolerance)


@pytest.mark.parametrize("value", CONSTANT.values(), ids=CONSTANT)
def test_constants_depend_on_nothing_and_cannot_be_whitened(value):
    rows = np.full((40, 3), value)
    for kernel in ("gaussian", "linear"):
        found = ordtool.hsic(rows, Y, kernel=kernel, permutations=19)
        assert (found.statistic, found.cka, found.p_value) == (0, None, 1)
    with pytest.raises(OrdtoolError, match="all 40 rows are equal"):
        Whitening().fit(rows)


@pytest.mark.filterwarnings("ignore::ordtool.embedding.whitening.WhiteningWarning")
@pytest.mark.parametrize("method", ["pca", "zca"])
@pytest.mark.parametrize("kind", KINDS)
def test_whitening_of_numbers_of_any_size(kind, method):
    rows = KINDS[kind](X)
    try:
        white = Whitening(method=method).fit_transform(rows).astype(np.float64)
    except OrdtoolError as error:
        assert kind in ("huge", "tiny", "denormal", "uint64", "int64")
        assert "by a constant" in str(error) or "subtract a constant" in str(error)
        return
    np.testing.assert_allclose(np.cov(white.T), np.eye(3), atol=1e-5)
    # Distances between whitened rows are Mahalanobis distances, which no unit changes.
    exact = sized(rows)
    inverse = np.linalg.inv(np.cov(exact.T))
    differences = exact[1:] - exact[:-1]
    expected = np.einsum("ij,jk,ik->i", differences, inverse, differences)
    np.testing.assert_allclose(np.square(np.diff(white, axis=0)).sum(1), expected, rtol=1e-3, atol=1e-6)


def cosine(left, right) -> float:
    """By exact arithmetic, but for the square root."""
    a, b = ([Fraction(value.item()) for value in row] for row in (left, right))
    product, squares = sum(map(Fraction.__mul__, a, b)), sum(v * v for v in a) * sum(v * v for v in b)
    return 0.0 if not squares else float(np.sign(product)) * float(product**2 / squares) ** 0.5


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
def test_cosines_of_numbers_of_any_size(kind):
    change = KINDS.get(kind, lambda a: a * np.logspace(-300, 300, len(a))[:, None])
    left, right = change(X), change(np.roll(X, 1, axis=0))
    expected = [cosine(*pair) for pair in zip(left, right, strict=True)]
    np.testing.assert_allclose(cosine_similarities(left, right), expected, rtol=1e-12, atol=1e-15)
    # A zero row is like nothing.
    assert cosine_similarities(np.zeros((2, 3)), X[:2]).tolist() == [0, 0]


@pytest.mark.filterwarnings("ignore::ordtool.embedding.whitening.WhiteningWarning")
@pytest.mark.parametrize("kind", ["large", "duplicate", "offset", "denormal float32", "integer"])
def test_scores_of_similarity_of_numbers_of_any_size(kind):
    gold = np.arange(20.0)
    (raw, *_) = score_similarity(KINDS[kind](X)[:20], KINDS[kind](X)[20:], gold)
    expected = [cosine(*pair) for pair in zip(KINDS[kind](X)[:20], KINDS[kind](X)[20:], strict=True)]
    if np.ptp(expected) == 0:  # far from zero all directions are the same
        assert raw.pearson is None and raw.spearman is None
    else:
        assert raw.pearson == pytest.approx(100 * np.corrcoef(expected, gold)[0, 1], rel=1e-6)
    for constant in (np.zeros(20), np.full(20, 1e300)):
        (raw, *_) = score_similarity(X[:20], X[20:], constant)
        assert raw.pearson is None and raw.spearman is None
