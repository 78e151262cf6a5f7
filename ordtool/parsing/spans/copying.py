"""Arrays of a batch to a device: to a card all of them in one copy, which the host doesn't wait for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["copy_together", "pack", "unpack"]

# Where an array may begin: a multiple of the size of every element type.
_ALIGNMENT = 16

Layout = list[tuple[int, tuple[int, ...], np.dtype]]
"""Of each array where it begins, in bytes, its shape and its element type."""


def copy_together(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Copy arrays to a device.

    A card gets them as one block of memory that it reads by itself (pinned), so that a batch costs one transfer, however
    many arrays it has. On other devices each goes by itself; on the CPU nothing is copied.
    """
    if device.type != "cuda":
        return [torch.from_numpy(array).to(device) for array in arrays]
    block, layout = pack(arrays, pinned=True)
    return unpack(block.to(device, non_blocking=True), layout)


def pack(arrays: Sequence[np.ndarray], *, pinned: bool = False) -> tuple[Tensor, Layout]:
    """Put arrays into one block of bytes, `(bytes,)`.

    Args:
        arrays: Of any shapes and element types that torch has.
        pinned: In memory that a card reads by itself.

    Returns:
        The block, and where each array is.
    """
    layout: Layout = []
    end = 0
    for array in arrays:
        layout.append((end, array.shape, array.dtype))
        end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    block = torch.empty(end, dtype=torch.uint8, pin_memory=pinned)
    filled = block.numpy()
    for array, (start, _, _) in zip(arrays, layout, strict=True):
        filled[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return block, layout


def unpack(block: Tensor, layout: Layout) -> list[Tensor]:
    """Return the arrays of a block, on its device, without a copy."""
    found = []
    for start, shape, dtype in layout:
        size = int(np.prod(shape)) * dtype.itemsize
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        found.append(block[start : start + size].view(kind).view(shape))
    return found
