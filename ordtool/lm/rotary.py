"""Rotary position embedding (Su et al. 2021, RoFormer, equation 34)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ordtool.models.releases import fill


def inverse_frequencies(head_dim: int, base: float = 10000.0) -> Tensor:
    """Return theta_i = base ** (-2i / head_dim) for i < head_dim / 2.

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


def partial_frequencies(head_dim: int, base: float, share: float, *, narrow: bool) -> Tensor:
    """Return frequencies of which the first `share` turn, and 0 for the others.

    Args:
        head_dim: Even size of a head; D.
        base: b.
        share: p; of the D/2 pairs, pD/2 turn, rounded, one at least.
        narrow: `b^(-2m/pD)`: all wavelengths in the pairs that turn (partial rotation, as in GPT-NeoX). Else `b^(-2m/D)`:
            the slowest wavelengths are left out (p-RoPE).

    Returns:
        Angles a position, in radians, `(head_dim / 2,)`.
    """
    turning = max(1, round(share * head_dim / 2))
    found = inverse_frequencies(2 * turning if narrow else head_dim, base)[:turning]
    return torch.cat([found, found.new_zeros(head_dim // 2 - turning)])


def rotary_cos_sin(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of every position's angles.

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


def apply_rotary(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn queries or keys by their positions' angles.

    The pairs that turn together are (i, i + head_dim / 2), the layout of Llama's
    checkpoints, rather than the paper's (2i, 2i + 1): a fixed permutation of the columns.

    Args:
        x: `(batch, heads, seq, head_dim)`.
        cosine: `(batch, 1, seq, head_dim)` or broadcastable.
        sine: The same shape.

    Returns:
        The shape of `x`; <apply_rotary(q, m), apply_rotary(k, n)> depends on m - n alone.
    """
    low, high = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-high, low], dim=-1) * sine


def apply_rotary_pos_emb(
    query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """Turn both, in the form that transformers' modelling files have.

    Args:
        query: `(batch, heads, seq, head_dim)`.
        key: The same.
        cosine: `(batch, seq, head_dim)`.
        sine: The same.
        unsqueeze_dim: Where the heads are.
    """
    cosine, sine = cosine.unsqueeze(unsqueeze_dim), sine.unsqueeze(unsqueeze_dim)
    return apply_rotary(query, cosine, sine), apply_rotary(key, cosine, sine)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of positions, as the decoders of transformers have them.

    Args:
        head_dim: Even size of a head.
        base: Of the frequencies.
        share: Of the pairs that turn.
        narrow: See `partial_frequencies`.

    Attributes:
        attention_scaling: Multiplies cosines and sines.
    """

    bits: Tensor
    """The frequencies' bits as integers: `model.half()` would make halves of a buffer of floats."""

    def __init__(self, head_dim: int, base: float, share: float = 1.0, *, narrow: bool = False) -> None:
        super().__init__()
        self.head_dim, self.base, self.share, self.narrow = head_dim, base, share, narrow
        self.attention_scaling = 1.0
        self.register_buffer("bits", self._initial().view(torch.int64), persistent=False)

    def _initial(self) -> Tensor:
        if self.share == 1:
            return inverse_frequencies(self.head_dim, self.base)
        return partial_frequencies(self.head_dim, self.base, self.share, narrow=self.narrow)

    @property
    def inv_freq(self) -> Tensor:
        """Angles a position, `(head_dim / 2,)`, in float64 whatever the model's dtype; MPS has float32 at most."""
        if self.bits.device.type == "mps":
            return self.bits.cpu().view(torch.float64).float().to(self.bits.device)
        return self.bits.view(torch.float64)

    @inv_freq.setter
    def inv_freq(self, values: Tensor) -> None:
        wide = values.cpu().double() if values.device.type == "mps" else values.double()
        self.bits = wide.view(torch.int64).to(values.device)

    def reset(self) -> None:
        """Compute the frequencies anew: checkpoints don't hold them."""
        fill(self.bits, self._initial().view(torch.int64))

    @torch.no_grad()
    def forward(self, states: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines `(batch, seq, head_dim)` of positions `(batch, seq)`, in the dtype of `states`."""
        cosine, sine = rotary_cos_sin(position_ids, self.inv_freq, states.dtype)
        return cosine * self.attention_scaling, sine * self.attention_scaling

    def for_heads(self, positions: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same with a dimension for the heads, `(batch, 1, seq, head_dim)`."""
        cosine, sine = self(states, positions)
        return cosine[:, None], sine[:, None]
