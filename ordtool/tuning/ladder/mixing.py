"""What a ladder computes around its layers: what enters each, and one vector of a text's tokens."""

from __future__ import annotations

import torch
from torch import Tensor

GATE_TEMPERATURE = 0.1


def mix(below: Tensor, beside: Tensor, gate: Tensor | None) -> Tensor:
    """Join what comes from the layer below with what comes from the backbone: gated, or added where there is no gate."""
    if gate is None:
        return below + beside
    return torch.lerp(beside, below, torch.sigmoid(gate / GATE_TEMPERATURE))


def pool(hidden: Tensor, mask: Tensor | None, how: str | None) -> Tensor:
    """Make one vector of a text's tokens: `(batch, seq, hidden)` to `(batch, hidden)`; None leaves every token its own."""
    if how is None:
        return hidden
    if how == "cls":
        return hidden[:, 0]
    if mask is None:
        return hidden[:, -1] if how == "last" else hidden.mean(dim=1)
    if how == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(dim=1) - 1]
    weights = mask.to(hidden.dtype)
    return torch.einsum("bsh,bs->bh", hidden, weights / weights.sum(dim=1, keepdim=True))
