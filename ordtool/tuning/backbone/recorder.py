"""The hidden states of a frozen model's layers, recorded by hooks while it runs, in one thread or several."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ordtool.tuning.backbone.layers import standardise


class HiddenStateRecorder:
    """Hidden states by layer, each thread's own.

    Args:
        dtype: Of what is recorded.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._local = threading.local()

    def record(self, layer: int, hidden: Tensor) -> None:
        """Record a hidden state of this thread's pass, standardised."""
        if not hasattr(self._local, "states"):
            self._local.states = {}
        self._local.states[layer] = standardise(hidden).to(self.dtype)

    def take(self, layers: Sequence[int]) -> Tensor:
        """Return this thread's, one above the other, and forget them: `(layers, batch, seq, hidden)`."""
        states = self._local.states
        self._local.states = {}
        return torch.stack([states[layer] for layer in layers])


@contextmanager
def recording(
    modules: nn.ModuleList, layers: Sequence[int], dtype: torch.dtype
) -> Iterator[HiddenStateRecorder]:
    """Record, while a model runs, what enters its first layer (at 0) and what leaves some others, but the last.

    Args:
        modules: The model's layers.
        layers: Which, from 1.
        dtype: Of what is recorded.
    """
    recorder = HiddenStateRecorder(dtype)

    def hook_of(layer: int) -> Any:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            recorder.record(layer, args[0] if args else kwargs["hidden_states"])

        return enter

    hooks = [
        modules[layer].register_forward_pre_hook(hook_of(layer), with_kwargs=True)
        for layer in (0, *layers)
        if layer < len(modules)
    ]
    try:
        yield recorder
    finally:
        for hook in hooks:
            hook.remove()
