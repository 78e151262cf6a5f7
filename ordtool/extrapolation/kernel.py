"""Attention of some queries to some keys, with the log-sum-exp by which such pieces are merged.

Softmax over a set of keys is the average of the softmaxes over its parts, weighted by
`exp(lse)` of each part, so attention can be computed piece by piece (Rabe and Staats,
"Self-attention Does Not Need O(n^2) Memory", 2021). On a CPU torch's own fused kernel gives the
log-sum-exp; elsewhere, and where gradients are wanted, a plain one does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ordtool.models.releases import attention_with_lse, has_attention_with_lse

TILE = 2048  # keys at a time in the plain kernel
NOTHING = -1e30  # the log-sum-exp of no keys; -inf would make NaN of the merge of two such


class Partial(NamedTuple):
    """Attention over some of the keys.

    Attributes:
        output: `(batch, heads, queries, value_dim)`, at least float32.
        lse: `(batch, heads, queries)`, log of the sum of exponentials; `NOTHING` where a
            query sees none of the keys.
    """

    output: torch.Tensor
    lse: torch.Tensor


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    visible: torch.Tensor | None,
    scaling: float,
) -> Partial:
    """Attend to some keys.

    Args:
        query: `(batch, heads, queries, dim)`.
        key: `(batch, key_heads, keys, dim)`; `key_heads` divides `heads`.
        value: `(batch, key_heads, keys, value_dim)`.
        visible: `(queries, keys)`, True where a query sees a key; None: all.
        scaling: On the scores.
    """
    if (
        query.device.type == "cpu"
        and has_attention_with_lse()
        and not needs_gradient(query, key, value)
        and query.shape[-1] == value.shape[-1]
    ):
        return _fused(query, key, value, visible, scaling)
    parts = None
    for low in range(0, key.shape[2], TILE):
        tile = slice(low, low + TILE)
        seen = None if visible is None else visible[:, tile]
        parts = merge(parts, _plain(query, key[:, :, tile], value[:, :, tile], seen, scaling))
    assert parts is not None
    return parts


def merge(first: Partial | None, second: Partial) -> Partial:
    """Merge attention over two disjoint sets of keys."""
    if first is None:
        return second
    share = torch.sigmoid(second.lse - first.lse).unsqueeze(-1)
    return Partial(torch.lerp(first.output, second.output, share), torch.logaddexp(first.lse, second.lse))


def needs_gradient(*tensors: torch.Tensor) -> bool:
    """Say whether gradients of any of them will be asked for."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor | None, scaling: float
) -> Partial:
    bias = None
    if visible is not None:
        bias = query.new_zeros(visible.shape).masked_fill_(~visible, -torch.inf)[None, None]
    output, lse = attention_with_lse(query, key, value, bias, scaling)
    output = output.to(lse.dtype)
    return Partial(output, lse) if visible is None else _blank(output, lse, visible)


def _plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor | None, scaling: float
) -> Partial:
    batch, heads, count, dim = query.shape
    groups = heads // key.shape[1]
    # The queries that share a key head are so many more queries of that head.
    folded = query.reshape(batch, key.shape[1], groups * count, dim)
    scores = (folded @ key.transpose(-1, -2)).to(torch.promote_types(query.dtype, torch.float32)) * scaling
    scores = scores.view(batch, heads, count, key.shape[2])
    if visible is not None:
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    lse = scores.logsumexp(-1)
    weights = (scores - lse.unsqueeze(-1)).exp().view(batch, key.shape[1], groups * count, -1)
    output = (weights.to(value.dtype) @ value).to(scores.dtype).view(batch, heads, count, -1)
    return Partial(output, lse) if visible is None else _blank(output, lse, visible)


def _blank(output: torch.Tensor, lse: torch.Tensor, visible: torch.Tensor) -> Partial:
    """Set the log-sum-exp right where a query sees no key; kernels differ in what they give there."""
    blind = ~visible.any(-1)
    return Partial(
        output.masked_fill(blind[:, None], 0.0),
        lse.masked_fill(blind, NOTHING),
    )
