"""Attention with a head size of its own for queries and keys, talking heads, and log-length scaling.

- `key_size` (the papers' d_k) is the size of a head's queries and keys, apart from that of its
  values: with hidden / heads = 32 a head's n x n scores have rank 32 at most, however long the
  text (the low-rank bottleneck: Bhojanapalli et al. 2020; widening q and k only: kexue.fm/7325).
- Talking heads mix scores and weights across heads (Shazeer et al. 2020):
  J = Lambda Q K^T, P = softmax(J), O = (M P) V, with two (heads, heads) matrices a layer.
- `logn` multiplies the scores by ln(n) / ln(trained length), n = how many keys are seen
  (kexue.fm/8823), so that attention stays as sharp over longer texts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

FUSED_FROM = 1024
"""Keys from which the fused form of talking heads wins on a CPU; eager below."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, causal: bool = False
) -> Tensor:
    """Softmax attention by torch's fused kernel.

    Args:
        query: `(batch, heads, queries, key_size)`.
        key: `(batch, heads or fewer, keys, key_size)`; fewer heads are shared by groups.
        value: `(batch, as key, keys, value_size)`.
        mask: Booleans or additive floats that broadcast to `(batch, heads, queries, keys)`; None: all see all.
        scale: Multiplies the scores, usually key_size ** -0.5.
        causal: As many queries as keys, and each sees itself and the past; then there is no mask.

    Returns:
        `(batch, heads, queries, value_size)`.
    """
    heads = query.shape[1]
    return scaled_dot_product_attention(
        query, repeat_kv(key, heads), repeat_kv(value, heads), attn_mask=mask, scale=scale, is_causal=causal
    )


def attend_two_tables(
    near: tuple[Tensor, Tensor],
    far: tuple[Tensor, Tensor],
    value: Tensor,
    mask: Tensor,
    is_near: Tensor,
    scale: float,
) -> Tensor:
    """Softmax attention whose scores come from one of two pairs of queries and keys, by where a pair stands.

    Args:
        near: Queries `(batch, heads, queries, key_size)` and keys `(batch, heads or fewer, keys, key_size)`.
        far: The same.
        value: `(batch, as the keys, keys, value_size)`.
        mask: Booleans that broadcast to `(batch, heads, queries, keys)`.
        is_near: Booleans `(queries, keys)`.
        scale: Multiplies the scores.

    Returns:
        `(batch, heads, queries, value_size)`.
    """
    heads = near[0].shape[1]
    close, distant = (query @ repeat_kv(key, heads).transpose(-1, -2) for query, key in (near, far))
    scores = (torch.where(is_near, close, distant) * scale).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ repeat_kv(value, heads)


def repeat_kv(x: Tensor, heads: int) -> Tensor:
    """Repeat grouped heads: `(batch, groups, n, d)` to `(batch, heads, n, d)`."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def talking_heads_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    before: Tensor | None,
    after: Tensor | None,
    fused: bool | None = None,
) -> Tensor:
    """Talking-heads attention in the form that is faster for the length; both are exact.

    Args:
        query: `(batch, heads, queries, key_size)`.
        key: `(batch, heads or fewer, keys, key_size)`.
        value: `(batch, as key, keys, value_size)`.
        mask: As in `attend`.
        scale: Multiplies the scores.
        before: Lambda `(heads, heads)`: mixes scores, row = the head that hears. None: they stay apart.
        after: M `(heads, heads)`: mixes weights. None: they stay apart.
        fused: Which form; None: by the number of keys.

    Returns:
        `(batch, heads, queries, value_size)`.
    """
    if fused is None:
        fused = key.shape[2] >= FUSED_FROM
    return (talking_heads_fused if fused else talking_heads_eager)(
        query, key, value, mask, scale, before, after
    )


def talking_heads_eager(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    before: Tensor | None,
    after: Tensor | None,
) -> Tensor:
    """Talking heads as defined, through `(batch, heads, queries, keys)` scores; see `talking_heads_attention`."""
    heads = query.shape[1]
    scores = query @ repeat_kv(key, heads).transpose(-1, -2) * scale
    if before is not None:
        scores = torch.einsum("ij,bjqk->biqk", before, scores)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1)
    if after is not None:
        weights = torch.einsum("ij,bjqk->biqk", after, weights)
    return weights @ repeat_kv(value, heads)


def talking_heads_fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    before: Tensor | None,
    after: Tensor | None,
) -> Tensor:
    """Talking heads through the fused kernel, without a tensor of queries times keys; see `talking_heads_attention`.

    sum_j Lambda_ij <q_j, k_j> = <concat_j(Lambda_ij q_j), concat_j(k_j)>, so head i is ordinary
    attention with a query of heads * key_size; then O_i = sum_j M_ij P_j V_i needs every head's
    weights on every head's values: the values are concatenated too.
    """
    batch, heads, queries, size = query.shape
    keys = key.shape[2]
    key, value = repeat_kv(key, heads), repeat_kv(value, heads)
    if before is not None:
        query = torch.einsum("ij,bjqd->biqjd", before, query).reshape(batch, heads, queries, heads * size)
        key = key.transpose(1, 2).reshape(batch, 1, keys, heads * size).expand(-1, heads, -1, -1)
    if after is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    wide_value = value.transpose(1, 2).reshape(batch, 1, keys, -1).expand(-1, heads, -1, -1)
    every = scaled_dot_product_attention(query, key, wide_value, attn_mask=mask, scale=scale)
    every = every.view(batch, heads, queries, heads, -1)
    return torch.einsum("ij,bjqid->biqd", after, every)


def logn_scale(seen: Tensor, trained: int, least: float = 1.0) -> Tensor:
    """Return ln(n) / ln(trained) for n keys seen, at least 1.

    Training at up to `trained` positions is unchanged, so a model without it can be
    given it afterwards (kexue.fm/8823 clips it likewise). With `least` 0 it is in training too.

    Args:
        seen: How many keys each query sees, oneself included, `(...,)`.
        trained: The length trained on.
        least: The smallest factor.

    Returns:
        Factors of the shape of `seen`, in float32.
    """
    return (seen.float().clamp(min=1).log() / math.log(max(trained, 2))).clamp(min=least)


def alibi_slopes(heads: int) -> Tensor:
    """Return ALiBi's slopes 2 ** (-8 i / heads), i = 1..heads (Press et al. 2022, section 3).

    Deviation: for a number of heads that is no power of two the paper's code interleaves
    two sequences; here the one formula is used for all.
    """
    return 2 ** (-8 * torch.arange(1, heads + 1, dtype=torch.float32) / heads)
