"""Steps of a grammar's training: one after the other, or on a GPU as recorded graphs, a graph a sentence length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ordtool.parsing.pcfg.config import PcfgTrainingConfig
from ordtool.parsing.pcfg.inference import merger_for
from ordtool.parsing.pcfg.inside import inside
from ordtool.parsing.pcfg.merging import Merger
from ordtool.parsing.pcfg.model import PcfgModel
from ordtool.runtime import resolve_dtype

__all__ = ["Steps", "make_steps"]

_BETAS = (0.75, 0.999)


class Steps(Protocol):
    """Takes steps.

    Attributes:
        optimizer: Adam.
    """

    optimizer: torch.optim.Optimizer

    def take(self, length: int, starts: np.ndarray, rate: float) -> None:
        """Take one step.

        Args:
            length: Words of each sentence.
            starts: Where each begins.
            rate: The learning rate.
        """

    def collect_loss(self) -> float:
        """Return the sum of -log P of all sentences since the last call, in nats."""


def make_steps(model: PcfgModel, ids: np.ndarray, config: PcfgTrainingConfig) -> Steps:
    """Return what takes steps on the model's device.

    Args:
        model: The grammar.
        ids: All sentences one after the other.
        config: Learning rate, clipping and batch size.
    """
    device = model.words.device
    merger = merger_for(device)
    if device.type == "cuda" and merger is not None:
        return GraphSteps(model, ids, config, merger)
    return EagerSteps(model, ids, config, merger)


def _rounding(dtype: str, device: torch.device) -> tuple[str, torch.dtype | None]:
    """Return how float32 products are rounded, and the element type of those with the rules; None: float32.

    Tensor cores multiply TF32, and some CPUs bfloat16, many times as fast as float32.
    """
    if device.type == "cuda":
        return ("highest" if dtype == "float32" else "high"), None
    if resolve_dtype(dtype, device) == torch.bfloat16:
        return "medium", torch.bfloat16
    return "highest", None


@contextmanager
def rounded_products(precision: str) -> Iterator[None]:
    """Let the factors of float32 products be rounded meanwhile; see `torch.set_float32_matmul_precision`."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class EagerSteps:
    """Steps as PyTorch takes them.

    Args:
        model: See `make_steps`.
        ids: Likewise.
        config: Likewise.
        merger: What sums over splits.
    """

    def __init__(
        self, model: PcfgModel, ids: np.ndarray, config: PcfgTrainingConfig, merger: Merger | None
    ) -> None:
        device = model.words.device
        self._model, self._merger, self._clip = model, merger, config.clip
        self._precision, self._dtype = _rounding(config.dtype, device)
        self._parameters = list(model.parameters())
        self._ids = torch.from_numpy(ids.astype(np.int32)).to(device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            self._parameters, lr=config.learning_rate, betas=_BETAS
        )

    def take(self, length: int, starts: np.ndarray, rate: float) -> None:
        """See `Steps`."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._step(self._batch(length, starts))

    def collect_loss(self) -> float:
        """See `Steps`."""
        loss = float(self._loss)
        self._loss.zero_()
        return loss

    def _batch(self, length: int, starts: np.ndarray) -> Tensor:
        device = self._ids.device
        first = torch.from_numpy(starts).to(device, non_blocking=True)
        return self._ids[first[:, None] + torch.arange(length, device=device)].long()

    def _step(self, ids: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=False)
        with rounded_products(self._precision):
            emission = self._model.emission_vectors()
            words = self._model.word_scores(ids, *emission)
            likelihood = inside(words, self._model.grammar(), self._merger, self._dtype)
            (-likelihood.mean()).backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        self.optimizer.step()
        self._loss -= likelihood.detach().sum()


class GraphSteps(EagerSteps):
    """Steps on CUDA: the first of a length runs as it is, the second is recorded, and replayed from then on.

    A step is some hundred small kernels, which take the card less time than their launches take the host. Batches that are
    smaller than the others run as they are.

    Args:
        model: See `make_steps`.
        ids: Likewise.
        config: Likewise.
        merger: What sums over splits; it may hold no tensors of its own.
    """

    def __init__(self, model: PcfgModel, ids: np.ndarray, config: PcfgTrainingConfig, merger: Merger) -> None:
        super().__init__(model, ids, config, merger)
        self._size = config.batch_size
        self._rate = torch.tensor(config.learning_rate, device=self._ids.device)
        self.optimizer = torch.optim.Adam(
            self._parameters, lr=self._rate, betas=_BETAS, capturable=True, fused=True
        )
        self._seen: set[int] = set()
        self._graphs: dict[int, tuple[Any, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()
        self._last_rate = config.learning_rate

    def take(self, length: int, starts: np.ndarray, rate: float) -> None:
        """See `Steps`."""
        # Whatever the caller did to the weights is done before the step.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            if rate != self._last_rate:
                for group in self.optimizer.param_groups:
                    group["lr"].fill_(rate)
                self._last_rate = rate
            ids = self._batch(length, starts)
            if len(starts) < self._size:
                self._step(ids)
            elif length not in self._seen:
                self._seen.add(length)
                self._step(ids)
            else:
                if length not in self._graphs:
                    self._graphs[length] = self._record(ids)
                graph, held = self._graphs[length]
                held.copy_(ids)
                graph.replay()

    def collect_loss(self) -> float:
        """See `Steps`."""
        with torch.cuda.stream(self._stream):
            return super().collect_loss()

    def _record(self, ids: Tensor) -> tuple[Any, Tensor]:
        held = ids.clone()
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            self._step(held)
        return graph, held
