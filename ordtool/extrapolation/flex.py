"""Attention by region for GPUs: a fused kernel a region, where `blockwise` has a loop of small ones.

FlexAttention (Dong et al., "Flex Attention: A Programming Model for Generating Optimized Attention Kernels", 2024) is
plain attention within the blocks that a mask lists, compiled for it by torch. A region shows each query a run of keys, so
its blocks follow from the bounds of the runs: no mask of all pairs is ever made, and memory is linear in the length. As in
`blockwise`, regions are merged by their log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention
from torch.nn.functional import pad

from ordtool.extrapolation.blockwise import Rotate
from ordtool.extrapolation.kernel import NOTHING, Partial, merge, needs_gradient
from ordtool.extrapolation.methods import ScaleRule
from ordtool.extrapolation.regions import PLAIN, Region, Regions
from ordtool.models.compiling import quiet_compiler

BLOCK = 128
WORTH_COMPILING = 2048
"""Queries from which on the kernels are worth the wait until they are compiled, tens of seconds."""


def suits(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, regions: Regions) -> bool:
    """Say whether a GPU should attend by `FlexRegions`: many queries, and no gradients."""
    plain = regions == PLAIN and query.shape[2] == key.shape[2]  # which torch has a kernel for
    long = query.device.type == "cuda" and query.shape[2] >= WORTH_COMPILING
    return long and not plain and not needs_gradient(query, key, value)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a region shows to some queries.

    Attributes:
        region: The region.
        blocks: For the kernel.
        blind: Queries that it shows nothing, `(queries,)`; None: there are none.
    """

    region: Region
    blocks: BlockMask
    blind: torch.Tensor | None


class FlexRegions:
    """Attention by region; what it does is what `blockwise.region_attention` does.

    Args:
        regions: Disjoint; together they show each query at least itself.
        compiled: Let torch compile the kernels; False, for tests, makes the matrix of all pairs.
    """

    def __init__(self, regions: Regions, *, compiled: bool = True) -> None:
        self._regions = regions
        self._compiled = compiled
        self._shown: tuple[tuple[int, int, torch.device], list[_Shown]] | None = None

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rotate: Rotate,
        *,
        scaling: float,
        scale: ScaleRule | None = None,
    ) -> torch.Tensor:
        """Attend causally, at the distances that the regions give; see `blockwise.region_attention`.

        Args:
            query: `(batch, heads, queries, dim)`, not rotated; the last `queries` of the `keys` tokens.
            key: `(batch, key_heads, keys, dim)`, not rotated.
            value: `(batch, key_heads, keys, value_dim)`.
            rotate: The model's rotation.
            scaling: On the scores, as the model has it.
            scale: A factor on each query by the number of tokens it may see.

        Returns:
            `(batch, heads, queries, value_dim)`, of the query's dtype.
        """
        count, total = query.shape[2], key.shape[2]
        index = torch.arange(total - count, total, device=query.device)
        if scale is not None:
            query = query * scale(index + 1).to(query.dtype).unsqueeze(-1)
        attend: Any = _compiled_attention() if self._compiled else flex_attention
        every = torch.arange(total, device=query.device)
        padded_value = _padded(value)
        merged: Partial | None = None
        for shown in self._plan(index, total):
            region = shown.region
            keys = rotate(key, region.key(every) if region.key else None)
            with quiet_compiler():
                output, aux = attend(
                    _padded(rotate(query, region.query(index))),
                    _padded(keys),
                    padded_value,
                    block_mask=shown.blocks,
                    scale=scaling,
                    enable_gqa=query.shape[1] != key.shape[1],
                    return_aux=AuxRequest(lse=True),
                )
            lse = aux.lse[:, :, :count]
            output = output[:, :, :count].to(lse.dtype)
            if shown.blind is not None:
                output = output.masked_fill(shown.blind[:, None], 0.0)
                lse = lse.masked_fill(shown.blind, NOTHING)
            merged = merge(merged, Partial(output, lse))
        assert merged is not None
        return merged.output.to(query.dtype)

    def _plan(self, index: torch.Tensor, total: int) -> list[_Shown]:
        """Return what each region shows, worked out once for all layers; regions that show nothing are left out."""
        key = len(index), total, index.device
        if self._shown is None or self._shown[0] != key:
            plans = [_show(region, index, total) for region in self._regions]
            self._shown = key, [plan for plan in plans if plan is not None]
        return self._shown[1]


def _show(region: Region, index: torch.Tensor, total: int) -> _Shown | None:
    start, stop = region.bounds(index)
    blind = start >= stop
    if bool(blind.all()):
        return None
    return _Shown(region, region_blocks(start, stop, total), blind if bool(blind.any()) else None)


def region_blocks(start: torch.Tensor, stop: torch.Tensor, total: int) -> BlockMask:
    """List the blocks of queries and keys that runs of keys touch: those seen whole, and those with a border in them.

    Args:
        start: The first key of each query, `(queries,)`.
        stop: One past the last.
        total: How many keys there are.

    Returns:
        The blocks of queries and keys, both filled up to whole blocks; the queries added see what the last one sees.
    """
    start, stop = (_filled(bound) for bound in (start, stop))
    rows, columns = len(start) // BLOCK, -(-total // BLOCK)
    first = torch.arange(columns, device=start.device) * BLOCK
    seeing = (start < stop).view(rows, BLOCK)
    by_block = start.view(rows, BLOCK), stop.view(rows, BLOCK)
    low = by_block[0].masked_fill(~seeing, total).amin(1, keepdim=True)
    high = by_block[1].masked_fill(~seeing, 0).amax(1, keepdim=True)
    touched = (first < high) & (first + BLOCK > low)
    whole = (first >= by_block[0].amax(1, keepdim=True)) & (
        first + BLOCK <= by_block[1].amin(1, keepdim=True)
    )
    whole = whole & seeing.all(1, keepdim=True)
    first_key, past_last = start.int(), stop.int()

    def visible(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (key >= first_key[query]) & (key < past_last[query])

    return BlockMask.from_kv_blocks(
        *_listed(touched & ~whole),
        *_listed(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=(rows * BLOCK, columns * BLOCK),
    )


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn `(rows, columns)` into the number of columns of each row, and their numbers first."""
    order = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1).int()[None, None], order.int()[None, None].contiguous()


def _filled(bound: torch.Tensor) -> torch.Tensor:
    return torch.cat([bound, bound[-1:].expand(-len(bound) % BLOCK)])


def _padded(states: torch.Tensor) -> torch.Tensor:
    """Fill the third dimension up to whole blocks, in one layout: every other shape or layout would be compiled for."""
    missing = -states.shape[2] % BLOCK
    return pad(states, (0, 0, 0, missing)) if missing else states.contiguous()


@cache
def _compiled_attention() -> Callable[..., Any]:
    # The second length that comes is compiled for any length.
    compiled: Callable[..., Any] = torch.compile(flex_attention, fullgraph=True)
    return compiled
