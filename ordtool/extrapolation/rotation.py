"""A model's own rotation of queries and keys, with a method's frequencies, by positions of the method's own."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import torch

from ordtool.extrapolation.blockwise import Rotate
from ordtool.extrapolation.frequencies import own_frequencies
from ordtool.extrapolation.methods import Part
from ordtool.extrapolation.rotary import Rotary


def changed_module(rotary: Rotary, part: Part) -> Any:
    """Copy a rotary module, with a method's frequencies if it has any."""
    module: Any = copy.deepcopy(rotary.module)
    if part.frequencies is not None:
        module.inv_freq, module.attention_scaling = part.frequencies(rotary.config, rotary.inv_freq)
    return module


class Rotation:
    """The rotation of one model.

    Args:
        rotary: The model's rotary embedding.
        part: What a method is made of: its frequencies, and columns of positions.
    """

    def __init__(self, rotary: Rotary, part: Part) -> None:
        self._rotary = rotary
        self._grows = part.grows
        self._chosen = part.columns
        self._columns: dict[int, torch.Tensor] = {}
        self._module: Any = changed_module(rotary, part)
        self._scaling = float(getattr(self._module, "attention_scaling", 1.0))
        self._scales = self._scaling != 1.0

    def set_length(self, length: int) -> bool:
        """Let the frequencies follow the text's length, if the method wants that.

        Returns:
            Whether they do, and are the model's own at this length.
        """
        if self._grows is None:
            return False
        rule = self._grows(length)
        inv_freq, scaling = rule(self._rotary.config, self._rotary.inv_freq)
        self._module.inv_freq = inv_freq
        self._module.attention_scaling = self._scaling * scaling
        self._scales = self._module.attention_scaling != 1.0
        return rule is own_frequencies

    @property
    def differs_by_head(self) -> bool:
        """Whether heads of a layer are rotated differently, so that none can share a key."""
        return self._chosen is not None and self._chosen.key_pairs is not None

    def in_layer(self, layer: int) -> Rotate:
        """Return the rotation of a layer, by columns of positions too."""
        if self._chosen is None:
            return self._rotate
        if layer not in self._columns:
            columns = self._chosen.of(len(self._rotary.inv_freq), layer)
            pairs, _ = self.pairs()
            self._columns[layer] = columns.to(pairs.device)[:, pairs]
        return partial(self._rotate, columns=self._columns[layer])

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the pair of each coordinate of cos and sin, and of each coordinate of the states that turns, `(dim,)`.

        Families lay pairs out in several ways: one pair is given half a turn, and what changes sign is of it.
        """
        own = self._module.inv_freq
        ones = own.new_ones(1, 1, 1, 2 * len(own))
        of_cos, of_states = (torch.zeros(2 * len(own), dtype=torch.long, device=own.device) for _ in range(2))
        for pair in range(len(own)):
            self._module.inv_freq = torch.zeros_like(own)
            self._module.inv_freq[pair] = math.pi
            cos, sin = self._module(ones, own.new_ones(1, 1))
            of_cos[cos[0, 0] < 0] = pair
            of_states[self._turn(ones, cos, sin)[0, 0, 0] < 0] = pair
        self._module.inv_freq = own
        return of_cos, of_states

    def _rotate(
        self, states: torch.Tensor, positions: torch.Tensor | None, columns: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Rotate `(batch, heads, n, dim)` by `(n,)`; None: by 0, which only scales.

        With `columns`, `(1 or heads, dim)`, positions may be `(n, columns)`, and each coordinate takes its own.
        """
        if positions is None:
            if not self._scales:
                return states
            positions = torch.zeros(1, device=states.device)
        if positions.ndim == 1:
            cos, sin = self._module(states, positions[None])
            return self._turn(states, cos, sin)
        assert columns is not None
        at = torch.arange(len(positions), device=states.device)
        cos, sin = (
            # From (columns, n, dim) to (1 or heads, n, dim).
            one[columns[:, None], at[:, None], torch.arange(one.shape[-1], device=one.device)]
            for one in self._module(states, positions.T)
        )
        # Heads take the place of the batch, for which the function lets cos and sin differ.
        return self._turn(states.transpose(0, 1), cos, sin).transpose(0, 1)

    def _turn(self, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        # Some families cut off the part that isn't rotated in the attention layer, some in the function.
        turning, passing = states.split([cos.shape[-1], states.shape[-1] - cos.shape[-1]], dim=-1)
        # The function rotates a pair; one of what cos holds for many is enough of a companion.
        turned = self._rotary.apply(turning, turning[: len(cos), :1], cos, sin)[0]
        return torch.cat([turned, passing], dim=-1) if passing.shape[-1] else turned
