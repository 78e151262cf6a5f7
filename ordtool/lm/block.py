"""A block of the small Transformer: attention, which `positions` may bend, and a gated feed-forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ordtool.lm import masks
from ordtool.lm.attention import attend, attend_two_tables, logn_scale, talking_heads_attention
from ordtool.lm.config import OrdtoolLMConfig
from ordtool.lm.positions import make_positions
from ordtool.lm.rotary import RotaryEmbedding

BLOCK = 512
"""Queries whose masks and biases are made at a time."""

MaskFunction = Callable[[Tensor, Tensor], Tensor]
"""From places of queries and keys, which broadcast, to whether the query sees the key."""


class TalkingHeads(nn.Module):
    """Lambda and M of talking heads, the identity at first; None is the one that a model does without.

    Args:
        heads: That talk.
        where: `before` the softmax, `after` it; anything else is both.
    """

    def __init__(self, heads: int, where: bool | str = True) -> None:
        super().__init__()
        self.before = None if where == "after" else nn.Parameter(torch.eye(heads))
        self.after = None if where == "before" else nn.Parameter(torch.eye(heads))


class Attention(nn.Module):
    """Self-attention of one block; see `ordtool.lm.attention` and `.positions`."""

    is_causal = True  # said by transformers' decoders, for attentions that are put in this one's place

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.key_size, self.value_size = config.key_size, config.value_size
        self.trained, self.logn = config.max_position_embeddings, config.logn
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.key_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.groups * self.key_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.groups * self.value_size, bias=False)
        self.o_proj = nn.Linear(self.heads * self.value_size, config.hidden_size, bias=False)
        self.talking = TalkingHeads(self.heads, config.talking_heads) if config.talking_heads else None
        self.positions = make_positions(config, layer)

    def forward(self, hidden_states: Tensor, context: AttentionContext, cache: Any) -> Tensor:
        """Map `(batch, seq, hidden)` to the same shape."""
        batch, length, _ = hidden_states.shape

        def split(x: Tensor, heads: int) -> Tensor:
            return x.view(batch, length, heads, -1).transpose(1, 2)

        query = split(self.q_proj(hidden_states), self.heads)
        key = split(self.k_proj(hidden_states), self.groups)
        value = split(self.v_proj(hidden_states), self.groups)
        query, key = self.positions.encode(query, key, context.cos_sin)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        if context.other is not None:
            if self.logn:
                query = self._scale_logn(query, context.keys_seen())
            out, weights = context.other(
                self, query, key, value, context.padding, scaling=self.positions.scale
            )[:2]
        else:
            out = self._attend(query, key, value, context).transpose(1, 2)
            weights = None if context.weights is None else self._weights(query, key, context)
        if context.weights is not None:
            context.weights.append(weights)
        result: Tensor = self.o_proj(out.reshape(batch, length, -1))
        return result

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, context: AttentionContext) -> Tensor:
        """Attend with all queries, some at a time: `(batch, heads, queries, value_size)`."""
        blocks = [self._block(query, key, value, context, rows) for rows in context.blocks()]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 2)

    def _weights(self, query: Tensor, key: Tensor, context: AttentionContext) -> Tensor:
        """Return what each query takes of each key's value, `(batch, heads, queries, keys)`.

        It is what attention gives where the values are the rows of the identity, in whatever form it is computed.
        """
        batch, groups, keys, _ = key.shape
        return self._attend(query, key, torch.eye(keys).to(key).expand(batch, groups, keys, keys), context)

    def _block(
        self, query: Tensor, key: Tensor, value: Tensor, context: AttentionContext, rows: range
    ) -> Tensor:
        """Attend with some of the queries: `(batch, heads, rows, value_size)`."""
        columns = context.columns(rows, self.positions.window)
        row_places = torch.arange(rows.start, rows.stop, device=query.device)
        column_places = torch.arange(columns.start, columns.stop, device=query.device)
        query = query[:, :, rows.start - context.past : rows.stop - context.past]
        key, value = key[:, :, columns.start : columns.stop], value[:, :, columns.start : columns.stop]
        query, key = self.positions.meet(query, key, row_places, column_places)
        distance = row_places[:, None] - column_places[None, :]
        mask = context.attention_mask(row_places, column_places, self.positions.window)
        if self.logn or self.positions.logn:
            seen = (distance >= 0).sum(-1)[None] if mask is None else mask.sum(-1)
            query = self._scale_logn(query, seen)
        if context.rotary is not None:
            tables = self.positions.tables(query, key, row_places, column_places, context.rotary)
            if tables is not None:
                seen_keys = ((distance >= 0)[None] if mask is None else mask)[:, None]
                near, far, border = tables
                return attend_two_tables(near, far, value, seen_keys, distance < border, self.positions.scale)
        bias = self.positions.bias(distance)
        plain = mask is None and bias is None and self.talking is None
        if plain and len(rows) in (1, len(columns)):  # one sees all; or all, each its past: no mask is needed
            return attend(query, key, value, None, self.positions.scale, causal=len(rows) > 1)
        mask = ((distance >= 0)[None] if mask is None else mask)[:, None]
        if bias is not None:
            mask = bias.to(query.dtype)[None].masked_fill(~mask, torch.finfo(query.dtype).min)
        if self.talking is None:
            return attend(query, key, value, mask, self.positions.scale)
        talking = self.talking.before, self.talking.after
        return talking_heads_attention(query, key, value, mask, self.positions.scale, *talking)

    def _scale_logn(self, query: Tensor, seen: Tensor) -> Tensor:
        """Multiply by log-length factors for `(batch or 1, queries)` keys seen."""
        least = 0.0 if self.positions.logn or self.logn == "trained" else 1.0
        factor = logn_scale(seen, self.trained, least)
        return query * factor.to(query.dtype)[:, None, :, None]


class Block(nn.Module):
    """x + attention(norm(x)), then x + GLU(norm(x)) with GLU(x) = down(silu(gate(x)) * up(x))."""

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, context: AttentionContext, cache: Any) -> Tensor:
        """Map `(batch, seq, hidden)` to the same shape."""
        hidden_states = hidden_states + self.attention(self.attention_norm(hidden_states), context, cache)
        x = self.mlp_norm(hidden_states)
        result: Tensor = hidden_states + self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))
        return result


class AttentionContext:
    """What every layer's attention needs to know: who sees whom, and where everyone stands.

    Queries are taken `BLOCK` at a time, so that no mask of all queries and keys is made.

    Args:
        rotary: Gives the cosines and sines of positions; None: nothing is rotated.
        states: Embeddings, `(batch, queries, hidden)`.
        past: How many tokens the cache holds.
        position_ids: `(batch, queries)`.
        mask_function: From places of queries `(q, 1)` and keys `(1, k)` to booleans `(batch or 1, q, k)`; None: causal.
        padding: `(batch, keys)`, 0 where there is padding; None: nowhere.

    Attributes:
        cos_sin: Rotary cosines and sines `(batch, 1, queries, key_size)`, or None.
        other: An attention of transformers' table that has been put in the place of this one, or None.
        weights: Where each layer puts its weights `(batch, heads, queries, keys)`, or None where another attention doesn't
            tell them; None: nobody asks.
    """

    def __init__(
        self,
        rotary: RotaryEmbedding | None,
        states: Tensor,
        past: int,
        position_ids: Tensor,
        mask_function: MaskFunction | None,
        padding: Tensor | None,
    ) -> None:
        self.past, self.queries = past, states.shape[1]
        self.position_ids, self.padding = position_ids, padding
        self.rotary = rotary
        self.cos_sin = None if rotary is None else _for_heads(rotary, position_ids, states)
        self.other: Any = None
        self.weights: list[Tensor | None] | None = None
        self._mask_function = mask_function

    def blocks(self) -> list[range]:
        """Return the places of queries that are taken together."""
        stop = self.past + self.queries
        return [range(low, min(low + BLOCK, stop)) for low in range(self.past, stop, BLOCK)]

    def columns(self, rows: range, window: int | None) -> range:
        """Return the places of keys that any of these queries may see."""
        if self._mask_function is not None:
            return range(self.past + self.queries)
        return range(0 if window is None else max(0, rows.start - window + 1), rows.stop)

    def attention_mask(self, rows: Tensor, columns: Tensor, window: int | None) -> Tensor | None:
        """Return who sees whom, booleans `(batch or 1, rows, columns)`; None: everyone itself and its past."""
        query, key = rows[:, None], columns[None, :]
        if self._mask_function is None and self.padding is None and window is None:
            return None
        seen = (
            masks.causal(query, key)[None] if self._mask_function is None else self._mask_function(query, key)
        )
        if window is not None:
            seen = seen & (query - key < window)
        if self.padding is not None:
            # A padded query sees itself: a softmax over nothing would be no number.
            seen = (seen & self.padding[:, None, columns].bool()) | (query == key)
        return seen

    def keys_seen(self) -> Tensor:
        """Return how many keys each query sees where all see their past, `(batch or 1, queries)`."""
        if self.padding is not None:
            return self.padding.long().cumsum(-1)[:, -self.queries :].clamp(min=1)
        return torch.arange(self.past + 1, self.past + self.queries + 1, device=self.position_ids.device)[
            None
        ]


def _for_heads(rotary: Any, positions: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Call a rotary module, which may have been put in the place of the model's own."""
    cosine, sine = rotary(states, positions)
    return cosine[:, None], sine[:, None]
