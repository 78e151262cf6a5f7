"""How much each pair of coordinates can bring to the scores of a model's attention."""

from __future__ import annotations

from typing import Any

import torch

from ordtool.extrapolation.attention import RegionAttention
from ordtool.extrapolation.blockwise import Rotate
from ordtool.extrapolation.methods import Part
from ordtool.extrapolation.replacement import replaced_attention
from ordtool.extrapolation.rotary import Rotary, check_attention, find_rotary


@torch.no_grad()
def pair_products(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return |q_m| |k_m| of each pair m of coordinates, the most that it can bring to a score; a mean over the tokens.

    Args:
        model: A transformers model with one rotary module.
        tokens: `(batch, n)`.

    Returns:
        `(layers, heads, pairs)`.

    Raises:
        OrdtoolError: If the model's attention can't be replaced.
    """
    rotary = find_rotary(model)
    check_attention(model, rotary)
    watch = _Watch(rotary)
    with replaced_attention(model, rotary, watch):
        model(input_ids=tokens, use_cache=False)
    return torch.stack(watch.products)


class _Watch(RegionAttention):
    """The model's own attention, which notes how much each pair of coordinates can bring to the scores."""

    def __init__(self, rotary: Rotary) -> None:
        super().__init__(rotary, Part())
        _, self._pairs = self._rotation.pairs()
        self.products: list[torch.Tensor] = []

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rotate: Rotate, scaling: float
    ) -> torch.Tensor:
        norms = []
        for states in (query, key):
            turning = states[..., : len(self._pairs)].float().square()
            sums = turning.new_zeros(*turning.shape[:-1], len(self._pairs) // 2)
            norms.append(sums.index_add_(-1, self._pairs, turning).sqrt())
        keys = norms[1].repeat_interleave(query.shape[1] // key.shape[1], 1)
        self.products.append((norms[0] * keys).mean((0, 2)))
        return super()._attend(query, key, value, rotate, scaling)
