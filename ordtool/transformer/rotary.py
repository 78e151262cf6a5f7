"""Rotary position embedding (Su et al. 2021, RoFormer, equation 34)."""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_frequencies(head_dim: int, base: float = 10000.0) -> Tensor:
    """Give theta_i = base ** (-2i / head_dim) for i < head_dim / 2.

    Args:
        head_dim: Even size of a head; the paper's d.
        base: 10,000 in the paper.

    Returns:
        Angles a position, in radians, `(head_dim / 2,)`.

    Raises:
        ValueError: If `head_dim` is odd.
    """
    if head_dim % 2:
        raise ValueError(f"rotary positions need an even head size, not {head_dim}")
    return base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)


def rotation(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Give the cosines and sines of every position's angles.

    Angles are computed in float64 and rounded once, because float32 loses the fast
    angles' fraction from some ten thousand positions on.

    Args:
        positions: Integers `(..., seq)`.
        frequencies: `(head_dim / 2,)`, radians a position.
        dtype: Of the result.

    Returns:
        Two tensors `(..., seq, head_dim)`; both halves of the last dimension are equal.
    """
    # Where a device has no float64 (MPS), its best is taken.
    wide = torch.float32 if positions.device.type == "mps" else torch.float64
    angles = positions.to(wide)[..., None] * frequencies.to(positions.device, wide)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn queries or keys by their positions' angles.

    The pairs that turn together are (i, i + head_dim / 2), the layout of Llama's
    checkpoints, rather than the paper's (2i, 2i + 1): a fixed permutation of the columns.

    Args:
        x: `(batch, heads, seq, head_dim)`.
        cosine: `(batch, 1, seq, head_dim)` or broadcastable.
        sine: The same shape.

    Returns:
        The shape of `x`; <rotate(q, m), rotate(k, n)> depends on m - n alone.
    """
    low, high = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-high, low], dim=-1) * sine
