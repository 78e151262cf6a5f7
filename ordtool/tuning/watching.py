"""What a frozen model's layers give, kept while it runs, in one thread or in several side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ordtool.tuning.ladder import standardise


class Kept:
    """Hidden states by layer, each thread's own.

    Args:
        dtype: Of what is kept.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._own = threading.local()

    def keep(self, place: int, hidden: Tensor) -> None:
        """Keep a hidden state of this thread's pass, standardised."""
        if not hasattr(self._own, "states"):
            self._own.states = {}
        self._own.states[place] = standardise(hidden).to(self.dtype)

    def take(self, places: Sequence[int]) -> Tensor:
        """Give this thread's, one above the other, and forget them: `(places, batch, seq, hidden)`."""
        states = self._own.states
        self._own.states = {}
        return torch.stack([states[place] for place in places])


@contextmanager
def watched(modules: nn.ModuleList, layers: Sequence[int], dtype: torch.dtype) -> Iterator[Kept]:
    """Keep, while a model runs, what enters its first layer (at 0) and what leaves some others, but the last.

    Args:
        modules: The model's layers.
        layers: Which, from 1.
        dtype: Of what is kept.
    """
    kept = Kept(dtype)

    def keep(place: int) -> Any:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            kept.keep(place, args[0] if args else kwargs["hidden_states"])

        return enter

    hooks = [
        modules[place].register_forward_pre_hook(keep(place), with_kwargs=True)
        for place in (0, *layers)
        if place < len(modules)
    ]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
