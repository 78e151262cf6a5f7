"""Attention masks as boolean functions of positions: who may look at whom.

A mask is a function `(query, key) -> bool`, here over tensors of positions that broadcast,
so one definition serves a whole matrix, one row of a cache, or a batch. With the same
weights the mask alone makes a model an encoder, a language model, a sequence-to-sequence
model or a language model of any order (Su Jianlin, "From language models to Seq2Seq: it is
all in the mask", kexue.fm/6933; UniLM, Dong et al. 2019; XLNet, Yang et al. 2019).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ordtool.errors import UsageError, close_match_hint

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("bidirectional", "causal", "reversed", "prefix", "permutation", "window", "lambda")


def bidirectional(query: Tensor, key: Tensor) -> Tensor:
    """Everyone sees everyone: an encoder.

    Args:
        query: Positions of the queries, such as `(n, 1)`.
        key: Positions of the keys, such as `(1, m)`.

    Returns:
        Booleans of the broadcast shape: True where the key is visible.
    """
    return (query == query) & (key == key)


def causal(query: Tensor, key: Tensor) -> Tensor:
    """Everyone sees itself and the past, key <= query: a language model."""
    return key <= query


def reversed_order(query: Tensor, key: Tensor) -> Tensor:
    """Everyone sees itself and what comes after, key >= query: a language model that writes from right to left."""
    return key >= query


def prefix(query: Tensor, key: Tensor, query_segment: Tensor, key_segment: Tensor) -> Tensor:
    """The source sees the source, the target sees the source and its own past: UniLM.

    Args:
        query: Positions of the queries.
        key: Positions of the keys.
        query_segment: 0 for the source, 1 for the target, shaped as the queries. Several targets
            of one source, numbered from 1, don't see each other.
        key_segment: The same for the keys.
    """
    return (key_segment == 0) | ((query_segment == key_segment) & (key <= query))


def permutation(query_rank: Tensor, key_rank: Tensor) -> Tensor:
    """The lower triangle of another order: who comes earlier in it is seen.

    Args:
        query_rank: The place of each query in the order, from 0.
        key_rank: The place of each key in the order.
    """
    return key_rank <= query_rank


def window(query: Tensor, key: Tensor, size: int) -> Tensor:
    """The last `size` positions are seen, oneself among them."""
    return (key <= query) & (query - key < size)


def lambda_shaped(query: Tensor, key: Tensor, size: int, first: int) -> Tensor:
    """The window, and the first tokens of all: LM-Infinite (Han et al. 2023)."""
    return (key <= query) & ((query - key < size) | (key < first))


def mask_matrix(
    kind: str,
    length: int,
    *,
    segments: Tensor | None = None,
    ranks: Tensor | None = None,
    size: int = 4,
    first: int = 2,
) -> Tensor:
    """Make the whole mask of a sequence.

    Args:
        kind: One of `KINDS`.
        length: The number of positions n.
        segments: For `prefix`: `(n,)` or `(batch, n)`, 0 for source and 1 for target.
        ranks: For `permutation`: `(n,)` or `(batch, n)`, places in the order.
        size: Of the window.
        first: The first tokens that `lambda` keeps.

    Returns:
        Booleans `(n, n)` or `(batch, n, n)`, row = query, column = key.

    Raises:
        UsageError: For an unknown kind.
        ValueError: If a tensor that the kind needs is missing.
    """
    import torch

    if kind not in KINDS:
        raise UsageError(f"unknown mask {kind!r}", close_match_hint(kind, KINDS))
    places = torch.arange(length)
    query, key = places[:, None], places[None, :]
    if kind == "prefix":
        if segments is None:
            raise ValueError("prefix needs segments")
        return prefix(query, key, segments[..., :, None], segments[..., None, :])
    if kind == "permutation":
        if ranks is None:
            raise ValueError("permutation needs ranks")
        return permutation(ranks[..., :, None], ranks[..., None, :])
    if kind == "window":
        return window(query, key, size)
    if kind == "lambda":
        return lambda_shaped(query, key, size, first)
    if kind == "reversed":
        return reversed_order(query, key)
    return bidirectional(query, key) if kind == "bidirectional" else causal(query, key)


def additive(mask: Tensor, dtype: object = None) -> Tensor:
    """Turn booleans into what is added to logits: 0 where visible, the lowest number elsewhere.

    Eager attention adds its mask, so a boolean one would be added as 0 and 1.
    """
    import torch

    kind = dtype if isinstance(dtype, torch.dtype) else torch.float32
    zero = torch.zeros((), dtype=kind, device=mask.device)
    return torch.where(mask, zero, torch.finfo(kind).min)


def example(kind: str, length: int = 8) -> Tensor:
    """Make a small mask of a kind to look at: half source for `prefix`, a fixed order for `permutation`.

    Raises:
        UsageError: For an unknown kind.
    """
    import torch

    segments = (torch.arange(length) >= length // 2).long()
    order = torch.randperm(length, generator=torch.Generator().manual_seed(0))
    return mask_matrix(kind, length, segments=segments, ranks=order.argsort(), size=3, first=1)


def draw(mask: Tensor) -> str:
    """Draw a mask `(n, n)` with characters: a row a query, a column a key, ■ where it is seen."""
    count = len(mask)
    width = len(str(count))
    head = " " * (width + 1) + " ".join(str(place)[-1] for place in range(1, count + 1))
    rows = [
        f"{number:>{width}} " + " ".join("■" if seen else "·" for seen in row)
        for number, row in enumerate(mask.tolist(), start=1)
    ]
    return "\n".join([head, *rows])
