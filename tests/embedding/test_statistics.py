"""Moments in chunks against numpy's float64 in one go."""

import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ordtool.embedding import statistics
from ordtool.embedding.statistics import DataError, Moments, accumulate


def correlated(
    rows: int, dim: int, *, mean: float = 0.0, seed: int = 0, dtype: str = "float32"
) -> np.ndarray:
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((dim, dim)) * np.geomspace(1, 0.05, dim)
    return (rng.standard_normal((rows, dim)) @ basis + mean * rng.standard_normal(dim)).astype(dtype)


def oracle(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wide = array.astype(np.float64)
    return wide.mean(axis=0), np.cov(wide.T).reshape(array.shape[1], array.shape[1])


def assert_moments(moments: Moments, array: np.ndarray, tolerance: float) -> None:
    mean, covariance = oracle(array)
    # Of numbers that are all equal, even the oracle leaves the square of a rounded mean's last digit.
    scale = np.abs(covariance).max() + (1e-8 * np.abs(mean).max()) ** 2 + 1e-300
    assert moments.count == len(array)
    np.testing.assert_allclose(moments.mean, mean, atol=tolerance * np.sqrt(scale), rtol=1e-7)
    np.testing.assert_allclose(moments.covariance(), covariance, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "bool"])
def test_every_dtype(dtype):
    array = correlated(5000, 11, mean=2)
    array = array > 0 if dtype == "bool" else (array * 3).astype(dtype)
    assert_moments(accumulate(array), array, 1e-13 if dtype in {"float64", "int64"} else 2e-7)


@pytest.mark.parametrize("rows", [2, 3, 4095, 4096, 4097, 20_000])
def test_every_size_around_a_chunk(rows):
    array = correlated(rows, 7, mean=3)
    assert_moments(accumulate(array), array, 2e-7)


def test_well_conditioned_chunks_are_multiplied_in_float32():
    array = np.random.default_rng(0).standard_normal((20_000, 16), dtype="float32") * np.float32(3) + 5
    moments = accumulate(array)
    assert not moments.needs_float64()
    assert_moments(moments, array, 2e-7)
    assert accumulate(correlated(20_000, 16)).needs_float64()


def test_a_mean_a_thousand_times_the_spread_costs_no_digits():
    """The trap of E[xx^T] - mu mu^T, which is off by more than the variance itself here."""
    array = correlated(20_000, 16, mean=1000)
    naive = (array.T @ array) / len(array) - np.outer(array.mean(0), array.mean(0))
    _, covariance = oracle(array)
    assert np.abs(naive - covariance).max() > 0.01 * np.abs(covariance).max()
    assert_moments(accumulate(array), array, 3e-7)


def test_a_direction_that_does_not_vary_is_seen_through_the_noise_of_float32():
    """Rows that sum to 0, as after a LayerNorm: the dead direction's share must stay far below the rank cut."""
    array = correlated(30_000, 64, mean=0.5)
    array -= array.mean(axis=1, keepdims=True)
    moments = accumulate(array)
    assert moments.needs_float64()
    values = np.linalg.eigvalsh(moments.covariance())
    assert abs(values[0]) < 1e-13 * values[-1]
    assert values[1] > 1e-6 * values[-1]


@pytest.mark.parametrize("scale", [1e-22, 1e-12, 1e12, 1e18])
def test_sums_of_squares_beyond_float32(scale):
    array = correlated(20_000, 8) * np.float32(scale)
    moments = accumulate(array.astype(np.float32))
    mean, covariance = oracle(array)
    np.testing.assert_allclose(moments.covariance() / scale**2, covariance / scale**2, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(2, 60), st.integers(1, 6)), elements=st.floats(-1e3, 1e3)),
    st.integers(1, 59),
)
def test_parts_merge_into_the_whole(array, cut):
    cut = min(cut, len(array) - 1)
    left, right = (
        Moments.empty(array.shape[1]).update(array[:cut]),
        Moments.empty(array.shape[1]).update(array[cut:]),
    )
    assert_moments(left.copy().merge(right), array, 1e-12)
    swapped = right.copy().merge(left)
    np.testing.assert_allclose(swapped.scatter, left.merge(right).scatter, atol=1e-7, rtol=1e-10)


def test_chunked_is_one_shot(monkeypatch):
    array = correlated(3000, 9, mean=5, dtype="float64")
    whole = accumulate(array)
    monkeypatch.setattr(statistics, "CHUNK_ROWS", 100)
    chunked = accumulate(array)
    np.testing.assert_allclose(chunked.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(chunked.scatter, whole.scatter, rtol=1e-9, atol=1e-9 * whole.scatter.max())


def test_nothing_is_added_by_no_rows():
    moments = Moments.empty(3).update(np.zeros((0, 3))).merge(Moments.empty(3))
    assert moments.count == 0
    assert moments.merge(accumulate(correlated(10, 3))).count == 10


@pytest.mark.parametrize("spread", [1.0, 0.01], ids=["float32", "float64"])
def test_any_number_of_threads_gives_the_same_bytes(spread):
    array = np.random.default_rng(0).standard_normal((50_000, 24), dtype="float32")
    array *= np.geomspace(1, spread, 24).astype("float32")
    assert accumulate(array).needs_float64() == (spread < 1)
    one, *others = (accumulate(array, threads=threads) for threads in (1, 2, 5))
    for other in others:
        assert other.scatter.tobytes() == one.scatter.tobytes()
        assert other.mean.tobytes() == one.mean.tobytes()


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_bad_rows_are_named_by_index(bad, word):
    array = correlated(9000, 5)
    array[8123, 2] = bad
    with pytest.raises(DataError, match=rf"row 8123 .*NaN or inf \({word} in row 8123\)"):
        accumulate(array)
    with pytest.raises(DataError, match="row 8223 "):
        accumulate(array, moments=accumulate(array[:100]))


def test_many_bad_rows_are_counted_not_listed():
    array = correlated(50, 5)
    array[10:30] = np.nan
    with pytest.raises(DataError, match="rows 10, 11, 12, 13, 14 and 15 more nearby .* contain "):
        accumulate(array)


@pytest.mark.parametrize(("size", "dtype"), [(1e200, "float64"), (1.7e308, "float64")])
def test_numbers_too_large_to_square(size, dtype):
    array = np.where(np.arange(100) % 2, size, -size)[:, None].astype(dtype)
    with pytest.raises(DataError, match="too large"):
        accumulate(array)


def test_widths_must_agree():
    with pytest.raises(DataError, match="rows of 3 numbers"):
        Moments.empty(3).update(np.zeros((2, 4)))
    with pytest.raises(DataError, match="width 3 and 4"):
        Moments.empty(3).merge(Moments.empty(4))


def test_one_row_has_no_covariance():
    with pytest.raises(DataError, match="n_samples = 1"):
        Moments.empty(3).update(np.ones((1, 3))).covariance()


class Peak:
    """A listener that looks at the memory."""

    def __init__(self):
        self.start, self.peak = resident_file_bytes(), 0

    def advance(self, amount=1, **stats):
        self.peak = max(self.peak, resident_file_bytes() - self.start)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_memory_map_gives_its_pages_back(tmp_path, order):
    """The mapped file must not pile up in memory: of 80 MB, only the pieces at hand may be resident."""
    path = tmp_path / "x.npy"
    np.save(path, np.asarray(correlated(40_000, 512, seed=1), order=order))
    peak = Peak()
    accumulate(np.load(path, mmap_mode="r"), threads=2, progress=peak)
    assert peak.peak < (45e6 if order == "C" else 90e6), f"{peak.peak / 1e6:.0f} MB"
    assert resident_file_bytes() - peak.start < 5e6


def resident_file_bytes() -> int:
    if not hasattr(mmap, "MADV_DONTNEED"):
        pytest.skip("this system has no madvise")
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        pytest.skip("no /proc")
    return int(status.split("RssFile:")[1].split()[0]) * 1024


def test_private_changes_of_a_map_survive(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((10_000, 64), dtype=np.float32))
    private = np.load(path, mmap_mode="c")
    private[:] = correlated(10_000, 64)
    expected = np.array(private)
    accumulate(private)
    assert (private == expected).all()
