"""How variables are compared, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypedDict

from ordtool.errors import UsageError, close_match_hint
from ordtool.independence.aggregation import GRID
from ordtool.independence.features import check_feature_count
from ordtool.independence.kernels import KERNELS, WITH_BANDWIDTH
from ordtool.independence.permutation import check_permutations, check_scheme

ESTIMATORS = ("unbiased", "biased", "gretton", "normalized")
TESTS = ("permutation", "gamma", "block", "aggregated", "none")
DRAWN = ("permutation", "aggregated")


@dataclass(frozen=True, slots=True)
class HsicConfig:
    """How variables are compared.

    Attributes:
        kernel: One for both sides, or a pair; see `fit_kernel`.
        bandwidth: One for both sides, or a pair, in the units of the vectors; None is the median heuristic of each
            variable on its own.
        multiples: Of the bandwidths; the kernels of several are added up, which sees structure of several sizes.
        estimator: `unbiased` (U-statistic), `biased` (V-statistic, over $n^2$), `gretton` (the same over $(n-1)^2$, as
            Gretton et al. 2005 have it, which is biased too), or `normalized` (nHSIC, at most 5,000 rows).
        test: `permutation`, `gamma` (moments of the permutations, none drawn), `block` (random groups of rows: an
            estimate with a confidence interval), `aggregated` (over a grid of bandwidths), or `none`.
        permutations: How many, where they are drawn.
        scheme: How: `cyclic`, `independent`, or `auto`; see `permutation`.
        grid: Multiples of the median heuristic for the aggregated test.
        random_features: Approximate the kernels by so many random Fourier features.
        group_rows: Rows a group of the block test; None is the root of their number.
        confidence: Of the block test's interval.
        epsilon: Of nHSIC.
        seed: Of every draw.
        dtype: `float32`, `float64`, or `auto`: float64 data in float64, all else in float32.
        threads: Threads to use; None is one a core.
        device: `cpu`, or a CUDA device, which takes sums over pairs of rows and rotations of them (not the gamma, block and
            aggregated tests, nor nHSIC), and with a third variable given local permutations.

    Raises:
        UsageError: For unknown names and fields that contradict each other.
        OrdtoolError: For numbers that are not possible.
    """

    kernel: str | tuple[str, str] = "gaussian"
    bandwidth: float | tuple[float | None, float | None] | None = None
    multiples: tuple[float, ...] = (1.0,)
    estimator: str = "unbiased"
    test: str = "permutation"
    permutations: int = 1000
    scheme: str = "auto"
    grid: tuple[float, ...] = GRID
    random_features: int | None = None
    group_rows: int | None = None
    confidence: float = 0.95
    epsilon: float = 1e-5
    seed: int = 0
    dtype: str = "auto"
    threads: int | None = None
    device: str = "cpu"

    def kernels(self) -> tuple[str, str]:
        """Return the kernels of the left and the right variable."""
        return (self.kernel, self.kernel) if isinstance(self.kernel, str) else self.kernel

    def bandwidths(self) -> tuple[float | None, float | None]:
        """Return the bandwidths of the left and the right variable."""
        return self.bandwidth if isinstance(self.bandwidth, tuple) else (self.bandwidth, self.bandwidth)

    def __post_init__(self) -> None:
        for value, choices, what in (
            (self.kernels()[0], KERNELS, "kernel"),
            (self.kernels()[1], KERNELS, "kernel"),
            (self.estimator, ESTIMATORS, "estimator"),
            (self.test, TESTS, "test"),
            (self.dtype, ("auto", "float32", "float64"), "dtype"),
        ):
            if value not in choices:
                raise UsageError(f"unknown {what} {value!r}", close_match_hint(value, choices))
        check_scheme(self.scheme)
        if self.test in DRAWN:
            check_permutations(self.permutations)
        if self.random_features is not None:
            check_feature_count(self.random_features)
        if self.test == "block" and self.estimator != "unbiased":
            raise UsageError(
                f"the block test takes the unbiased estimator, not the {self.estimator} one",
                "a mean of biased statistics over small groups would be far off",
            )
        self._check_multiples()
        if self.test == "aggregated":
            self._check_aggregated()
        if self.estimator == "normalized" and self.random_features is not None:
            raise UsageError("nHSIC inverts whole matrices, so random features don't help it")

    def check_given(self) -> None:
        """Check that the test can be made with a third variable given.

        Raises:
            UsageError: If it can't.
        """
        if self.test not in ("permutation", "gamma", "none"):
            raise UsageError(f"with `given` there is no {self.test} test", "permutation, gamma or none")
        if self.estimator not in ("unbiased", "biased") or self.random_features is not None:
            raise UsageError("with `given` the estimator is unbiased or biased, without `random_features`")

    def _check_multiples(self) -> None:
        if not self.multiples or not all(0 < multiple < 1e6 for multiple in self.multiples):
            raise UsageError("the `multiples` of the bandwidths must be positive numbers", "0.5,1,2")
        if tuple(self.multiples) == (1.0,):
            return
        if self.test == "aggregated" or self.random_features is not None:
            raise UsageError(
                "several `multiples` go with exact kernels and single tests",
                "the aggregated test looks at the bandwidths of its `grid` one by one",
            )
        if not any(name in WITH_BANDWIDTH for name in self.kernels()):
            raise UsageError("`multiples` need a kernel with a bandwidth", "gaussian or laplacian")

    def _check_aggregated(self) -> None:
        if self.estimator == "normalized" or self.random_features is not None:
            raise UsageError("the aggregated test takes the biased or unbiased estimator and exact kernels")
        if self.bandwidths() != (None, None):
            raise UsageError(
                "the aggregated test looks at a grid of bandwidths, so `bandwidth` has no meaning",
                "its `grid` is in multiples of the median heuristic",
            )
        if not any(name in WITH_BANDWIDTH for name in self.kernels()):
            raise UsageError("the aggregated test needs a kernel with a bandwidth", "gaussian or laplacian")
        if not self.grid or not all(0 < multiple < 1e6 for multiple in self.grid):
            raise UsageError("the `grid` of the aggregated test must be positive numbers", "0.25,0.5,1,2,4")


class CkaOptions(TypedDict, total=False):
    """The fields of `HsicConfig` that `cka` takes as keywords, beside its own."""

    bandwidth: float | tuple[float | None, float | None] | None
    random_features: int | None
    seed: int
    dtype: str
    threads: int | None


class HsicOptions(CkaOptions, total=False):
    """The fields of `HsicConfig`, as keywords of `hsic`."""

    kernel: str | tuple[str, str]
    multiples: tuple[float, ...]
    estimator: str
    test: str
    permutations: int
    scheme: str
    grid: tuple[float, ...]
    group_rows: int | None
    confidence: float
    epsilon: float
    device: str


@dataclass(frozen=True, slots=True)
class HsicResult:
    r"""HSIC of two variables, and how likely so much of it is under independence.

    Attributes:
        x: Name of the one variable.
        y: Name of the other.
        n: Rows.
        kernel: Its name, `left,right` if they differ.
        bandwidth_x: In the units of `x`; None where the kernel has none, or `x` is constant.
        bandwidth_y: In the units of `y`.
        estimator: `unbiased`, `biased`, `gretton` or `normalized`.
        statistic: HSIC.
        cka: $HSIC_{xy} / \sqrt{HSIC_{xx} HSIC_{yy}}$ by the same estimator; None if undefined.
        test: The test's name.
        p_value: None without a test.
        permutations: How many were drawn; None if none were.
        seed: Of every draw.
        seconds: Time of the whole computation that this pair was part of.
        interval: Confidence interval of the population's HSIC; block test only.
        random_features: Features a kernel was approximated with, if it was.
        p_adjusted: By Holm's correction, where several pairs were tested together.
        multiples: Of the bandwidths, where kernels of several were added up.
        given: Name of what was known, where something was.
    """

    x: str
    y: str
    n: int
    kernel: str
    bandwidth_x: float | None
    bandwidth_y: float | None
    estimator: str
    statistic: float
    cka: float | None
    test: str
    p_value: float | None
    permutations: int | None
    seed: int
    seconds: float
    interval: tuple[float, float] | None = None
    random_features: int | None = None
    p_adjusted: float | None = None
    multiples: tuple[float, ...] | None = None
    given: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the fields as a JSON object: the last five only where there is something to say."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        optional = ("interval", "random_features", "p_adjusted", "multiples", "given")
        return {key: value for key, value in values.items() if key not in optional or value is not None}
