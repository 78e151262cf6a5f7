"""Moments and maps as a GPU computes them, by torch on the CPU, against float64 over all rows."""

import numpy as np
import pytest
import torch

from ordtool.embedding.affine_map import AffineMap
from ordtool.embedding.device_statistics import device_moments, device_rows
from ordtool.embedding.statistics import DataError, accumulate
from ordtool.embedding.whitening import Whitening

CPU = torch.device("cpu")


def chunks(rows, size=100):
    return ((start, rows[start : start + size]) for start in range(0, len(rows), size))


def float32_map(whitening):
    shift = whitening.beta * whitening.mean_
    return AffineMap.of(whitening.kernel_, shift, np.dtype(np.float32), normalize=whitening.normalize)


def mapped(affine, rows):
    parts = affine.kernel, affine.shift, affine.correction
    return device_rows(chunks(rows), parts, np.dtype(np.float32), CPU, normalize=affine.normalize)


@pytest.fixture
def rows():
    draw = np.random.default_rng(0)
    mixed = draw.standard_normal((1010, 7)) @ draw.standard_normal((7, 7)) + 30 * draw.standard_normal(7)
    return mixed.astype(np.float32)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_moments(rows, dtype, tolerance):
    found = device_moments(chunks(rows), np.dtype(dtype), CPU)
    wide = rows.astype(np.float64)
    centred = wide - wide.mean(0)
    scatter = centred.T @ centred
    assert found.count == 1010
    np.testing.assert_allclose(found.mean, wide.mean(0), rtol=tolerance)
    assert np.abs(found.scatter - scatter).max() < tolerance * np.linalg.norm(scatter)


@pytest.mark.parametrize("scale", [1e-12, 1e17])
def test_numbers_whose_squares_float32_does_not_hold(rows, scale):
    found = device_moments(chunks(rows * np.float32(scale)), np.dtype(np.float32), CPU)
    wanted = accumulate(rows.astype(np.float64)).scatter * scale**2
    np.testing.assert_allclose(found.scatter, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("normalize", [False, True])
def test_rows_under_a_map(rows, normalize):
    whitening = Whitening(normalize=normalize, dims=4).fit(rows)
    affine = float32_map(whitening)
    found = np.concatenate(list(mapped(affine, rows)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, whitening.transform(rows), rtol=1e-4, atol=1e-5)


def test_a_bad_row_is_named(rows):
    rows[345, 2] = np.nan
    with pytest.raises(DataError, match="row 345"):
        device_moments(chunks(rows), np.dtype(np.float32), CPU)
    affine = float32_map(Whitening().fit(rows[:300]))
    with pytest.raises(DataError, match="row 345"):
        list(mapped(affine, rows))
