"""Attention by region for a model: layer by layer, text by text where there is padding, compiled where that is possible."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ordtool.extrapolation.blockwise import Rotate, region_attention
from ordtool.extrapolation.flex import FlexRegions, suits
from ordtool.extrapolation.methods import Part
from ordtool.extrapolation.regions import PLAIN
from ordtool.extrapolation.rotary import Rotary
from ordtool.extrapolation.rotation import Rotation
from ordtool.progress import SILENT, Progress


class RegionAttention:
    """Attention by region for one model.

    Args:
        rotary: The model's rotary embedding.
        part: What a method is made of.
        progress: Warned if attention can't be compiled.
    """

    def __init__(self, rotary: Rotary, part: Part, progress: Progress = SILENT) -> None:
        self._progress = progress
        self._rotation = Rotation(rotary, part)
        self._layers: dict[nn.Module, int] = {}
        self._regions = part.regions or PLAIN
        self._scale = part.scale
        self._flex: FlexRegions | None = FlexRegions(self._regions)

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        present: torch.Tensor | None,
        scaling: float,
        module: nn.Module,
    ) -> torch.Tensor:
        """Attend; `present`, `(batch, keys)`, is False where there is padding; `module` is the layer at hand."""
        # The first pass goes through all layers in their order.
        layer = self._layers.setdefault(module, len(self._layers))
        rotate = self._rotation.in_layer(layer)
        if self._rotation.differs_by_head and query.shape[1] != key.shape[1]:
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        attend = partial(self._attend, rotate=rotate, scaling=scaling)
        if present is None:
            return attend(query, key, value)
        output = value.new_zeros(*query.shape[:3], value.shape[3])
        first = key.shape[2] - query.shape[2]
        patterns, pattern_of_row = present.unique(dim=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            rows = (pattern_of_row == number).nonzero().squeeze(-1)
            keys = pattern.nonzero().squeeze(-1)
            queries = keys[keys >= first] - first
            if len(queries):
                # Without its padding a text is a text of its own, with positions from 0.
                attended = attend(
                    _pick(query, rows, queries), _pick(key, rows, keys), _pick(value, rows, keys)
                )
                output[rows[:, None], :, queries] = attended.transpose(1, 2)
        return output

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rotate: Rotate, scaling: float
    ) -> torch.Tensor:
        own = self._rotation.set_length(key.shape[2])
        if own and self._regions is PLAIN and self._scale is None:
            return _attend_as_trained(query, key, value, rotate, scaling)
        if self._flex is not None and suits(query, key, value, self._regions):
            try:
                return self._flex(query, key, value, rotate, scaling=scaling, scale=self._scale)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # compilers raise anything
                self._flex = None
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                self._progress.warn(
                    f"attention by regions can't be compiled here, and is slower without: {reason}"
                )
        return region_attention(query, key, value, self._regions, rotate, scaling=scaling, scale=self._scale)


def _attend_as_trained(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rotate: Rotate, scaling: float
) -> torch.Tensor:
    """Attend as the model itself does, to the last bit: with a mask where a cache is continued by several tokens."""
    count, total = query.shape[2], key.shape[2]
    index = torch.arange(total, device=query.device)
    mask = None if count in (1, total) else index <= index[-count:, None]
    return scaled_dot_product_attention(
        rotate(query, index[-count:]),
        rotate(key, index),
        value,
        attn_mask=mask,
        is_causal=count == total > 1,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _pick(states: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Take rows of the first dimension and columns of the third, as a view where they are runs."""
    if len(columns) and int(columns[-1] - columns[0]) == len(columns) - 1:
        states = states[:, :, int(columns[0]) : int(columns[-1]) + 1]
    else:
        states = states[:, :, columns]
    if len(rows) == states.shape[0]:
        return states
    return states[int(rows[0]) : int(rows[0]) + 1] if len(rows) == 1 else states[rows]
