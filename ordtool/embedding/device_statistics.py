"""Moments and maps of vectors on a GPU, chunk by chunk, by the same arithmetic as on a CPU: see `statistics`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ordtool.embedding.statistics import (
    TOO_LARGE,
    Chunk,
    DataError,
    FloatArray,
    Moments,
    check_finite_rows,
    in_safe_range,
    release_pages,
)

Chunks = Iterable[Chunk]


def exact_copy(chunk: NDArray[Any], dtype: np.dtype[Any], device: torch.device) -> torch.Tensor:
    """Copy rows to a device, in another dtype."""
    return torch.from_numpy(np.ascontiguousarray(chunk, dtype=dtype)).to(device)


@torch.inference_mode()
def device_moments(chunks: Chunks, dtype: np.dtype[Any], device: torch.device) -> Moments:
    """Return the moments of chunks of rows: products in `dtype`, merged in float64 on the device.

    Args:
        chunks: Index of the first row, and rows `(n, dim)`; one chunk or more.
        dtype: float32 or float64.
        device: Where to compute.

    Raises:
        DataError: As `statistics.accumulate`.
    """
    count = 0
    mean, scatter = torch.zeros(2, 0)
    for first, chunk in chunks:
        rows = exact_copy(chunk, dtype, device)
        if not count:
            mean = torch.zeros(rows.shape[1], dtype=torch.float64, device=device)
            scatter = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=device)
        centre = rows.mean(0)
        if not bool(centre.isfinite().all()):
            check_finite_rows(np.asarray(chunk), first)
            raise DataError(*TOO_LARGE)
        rows = rows - centre
        offset = rows.mean(0).double()
        product = rows.T @ rows
        if rows.dtype == torch.float32 and not in_safe_range(float(product.diagonal().max())):
            wide = rows.double()
            product = wide.T @ wide
        if not bool(product.diagonal().isfinite().all()):
            raise DataError(*TOO_LARGE)
        release_pages(chunk)
        here, total = len(rows), count + len(rows)
        delta = centre.double() + offset - mean
        scatter += product.double()
        scatter -= torch.outer(offset, offset * here)
        if count:
            step = delta * (count * (here / total)) ** 0.5
            scatter += torch.outer(step, step)
        mean += delta * (here / total)
        count = total
    return Moments(count, mean.cpu().numpy(), scatter.cpu().numpy())


@torch.inference_mode()
def device_rows(
    chunks: Chunks,
    parts: tuple[FloatArray, FloatArray, FloatArray],
    dtype: np.dtype[Any],
    device: torch.device,
    *,
    normalize: bool,
) -> Iterator[FloatArray]:
    """Yield `(rows - shift) @ kernel + correction` for chunks of rows.

    Args:
        chunks: Index of the first row, and rows `(n, dim)`.
        parts: Kernel `(dim, width)`, shift `(dim,)` and correction `(width,)`, of the dtype to compute in.
        dtype: Of the result.
        device: Where to compute.
        normalize: Scale rows to length 1; rows of zeros stay.

    Raises:
        DataError: A row has a NaN or an infinity.
    """
    exact = parts[0].dtype
    kernel, shift, correction = (exact_copy(part, exact, device) for part in parts)
    for first, chunk in chunks:
        rows = torch.addmm(correction, exact_copy(chunk, exact, device) - shift, kernel)
        if not bool(rows.sum().isfinite()):
            check_finite_rows(np.asarray(chunk), first)
        release_pages(chunk)
        if normalize:
            lengths = rows.norm(dim=1, keepdim=True)
            rows = torch.where(lengths > 0, rows / lengths, rows)
        yield rows.cpu().numpy().astype(dtype, copy=False)
