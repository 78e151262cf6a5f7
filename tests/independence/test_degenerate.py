"""Numbers that centring leaves little of: large offsets, large integers, kernels that centring makes zero."""

import json

import numpy as np
import pytest

from ordtool.independence.hsic import hsic

OTHER = np.random.default_rng(1).standard_normal((60, 2))


@pytest.mark.parametrize("dtype", ["auto", "float32", "float64"])
@pytest.mark.parametrize(
    "numbers",
    [
        1_700_000_000 + np.arange(60),
        2**53 - np.arange(60) ** 2,
        np.random.default_rng(2).permutation(60).astype(np.int8) + 60,
        np.random.default_rng(2).integers(0, 2, (60, 3)).astype(bool),
        1e12 + np.random.default_rng(3).standard_normal((60, 2)),
        -1e9 + np.random.default_rng(3).standard_normal((60, 2)),
    ],
    ids=["seconds", "2^53", "int8", "bool", "1e12", "-1e9"],
)
def test_large_offsets_and_integers_keep_their_digits(numbers, dtype, oracle):
    exact = numbers.astype(np.float64)
    exact = exact - exact[0]
    found = hsic(numbers, OTHER, bandwidth=(20.0, 1.0), test="none", dtype=dtype)
    k, l_ = (
        oracle.kernel(rows.reshape(60, -1), "gaussian", sigma)
        for rows, sigma in ((exact, 20.0), (OTHER, 1.0))
    )
    scale = np.sqrt(oracle.unbiased(k, k) * oracle.unbiased(l_, l_))
    assert found.statistic == pytest.approx(oracle.unbiased(k, l_), abs=1e-6 * scale)
    assert found.cka == pytest.approx(
        oracle.unbiased(k, l_) / scale, abs=1e-6 if dtype == "float64" else 1e-5
    )


def test_time_stamps_depend_on_their_order(run_in_process, tmp_path):
    stamps = 1_700_000_000 + np.arange(60)
    np.save(tmp_path / "stamps.npy", stamps[:, None])
    np.save(tmp_path / "order.npy", np.arange(60.0)[:, None])
    lines = [json.dumps({"vector": [int(stamp)]}) + "\n" for stamp in stamps]
    (tmp_path / "stamps.jsonl").write_text("".join(lines))
    for arguments in (["stamps.npy"], ["stamps.jsonl"], ["stamps.jsonl", "--precision", "float64"]):
        done = run_in_process("hsic", *arguments[:1], "order.npy", *arguments[1:])
        record = json.loads(done.stdout)
        assert record["statistic"] == pytest.approx(0.0983223, rel=1e-6)
        assert record["cka"] == pytest.approx(1)
        assert record["p_value"] == pytest.approx(1 / 1001)


DEGENERATE = {
    "ids": np.eye(150)[np.random.default_rng(0).permutation(150)],
    "lone label": np.eye(2)[(np.arange(150) == 7).astype(int)],
    "lone label far away": 1e5 + 1e3 * np.eye(2)[(np.arange(150) == 7).astype(int)],
}


class Listener:
    def __init__(self):
        self.warnings = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: None

    def warn(self, message):
        self.warnings.append(message)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "linear"])
@pytest.mark.parametrize("test", ["gamma", "permutation", "aggregated", "block"])
@pytest.mark.parametrize("name", DEGENERATE)
def test_rows_that_centring_makes_zero_depend_on_nothing(name, test, kernel, dtype):
    if test == "aggregated" and kernel == "linear":
        kernel = ("linear", "gaussian")
    listener = Listener()
    other = np.random.default_rng(1).standard_normal((150, 4))
    options = {"test": test, "kernel": kernel, "dtype": dtype, "permutations": 99, "group_rows": 15}
    found = hsic(DEGENERATE[name], other, progress=listener, **options)
    assert (found.statistic, found.cka, found.p_value) == (0, None, 1)
    if test != "block":
        assert len(listener.warnings) == 1
        assert listener.warnings[0].startswith("x: to this kernel all rows are equally far from each other")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("test", ["gamma", "permutation"])
def test_equidistant_rows_tell_nothing_to_the_biased_statistic_either(test, dtype, oracle):
    other = np.random.default_rng(1).standard_normal((150, 4))
    found = hsic(DEGENERATE["ids"], other, test=test, dtype=dtype, estimator="biased", permutations=99)
    k = oracle.kernel(DEGENERATE["ids"], "gaussian", found.bandwidth_x)
    expected = oracle.biased(k, oracle.kernel(other, "gaussian", found.bandwidth_y))
    assert found.statistic == pytest.approx(expected, rel=1e-5)
    assert found.p_value == 1


def test_a_lone_label_can_depend_by_the_biased_statistic():
    # The lone row's own place counts there, and it is the other variable's farthest.
    other = np.random.default_rng(1).standard_normal((150, 2))
    other[7] = 9
    found = hsic(DEGENERATE["lone label"], other, estimator="biased", kernel="linear")
    assert found.p_value < 0.02


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_one_direction_are_constant_to_the_cosine_kernel(dtype):
    rng = np.random.default_rng(0)
    rows = np.outer(rng.uniform(1, 2, 60), [0.1, 0.3, 0.7])
    found = hsic(rows, OTHER, kernel="cosine", test="gamma", dtype=dtype)
    assert (found.statistic, found.cka, found.p_value) == (0, None, 1)


@pytest.mark.parametrize("sigma", [1.0, 10.0, 100.0])
def test_wide_bandwidths_are_not_taken_for_nothing(sigma, oracle):
    k = oracle.kernel(OTHER, "gaussian", sigma)
    for dtype, tolerance in (("float32", 1e-4), ("float64", 1e-7)):
        found = hsic(OTHER, OTHER, bandwidth=sigma, test="gamma", dtype=dtype)
        assert found.statistic == pytest.approx(oracle.unbiased(k, k), rel=tolerance)
        assert found.p_value < 1e-6
