"""The loss: of one training step over a batch cut into shards, each on its own thread, and of held-out text.

An ON-LSTM step is a small matrix product between two barriers. Splitting every product over the cores
makes all cores wait at every barrier, hundreds of times a window; splitting the batch lets each
core run through its whole window alone, and they meet once. Each shard has its own random generator, so
that the result doesn't depend on how the threads interleave.

On a card the launches of thousands of small kernels take longer than the kernels, so a window, from its
embedding to its gradients, is recorded once in a CUDA graph and then played again for every window as long.
The shards stand one after the other in it and draw from the card's own generator.

Several ranks deal the shards out: rank r has shards r, r + ranks, ..., and the gradients are summed over all.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ordtool.distributed import ALONE, Ranks
from ordtool.parsing.onlstm.kernels_torch import triton_fits
from ordtool.parsing.onlstm.model import OnlstmForCausalLM, State
from ordtool.parsing.training.data import Encoded, streams
from ordtool.parsing.training.recipes import TrainingConfig

__all__ = ["ShardedLoss", "perplexity"]


class ShardedLoss:
    """Loss and gradient of a window, with the state carried from window to window.

    Args:
        model: The model, in training mode.
        config: Batch size, shards, penalties and seed.
        threads: Cores to use; None: torch's number.
        ranks: Those that train: this one has every so many'th shard.
        shards: Their number; None: what `config` has for the device.

    Attributes:
        numbers: This rank's shards.
    """

    def __init__(
        self,
        model: OnlstmForCausalLM,
        config: TrainingConfig,
        threads: int | None = None,
        ranks: Ranks = ALONE,
        shards: int | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.device = next(model.parameters()).device
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.ranks, self.shards = ranks, shards or config.shards_on(self.device.type, ranks.size)
        self.numbers = ranks.share(range(self.shards))
        bounds = [config.batch_size * k // self.shards for k in range(self.shards + 1)]
        self.rows = [slice(bounds[k], bounds[k + 1]) for k in self.numbers]
        self.on_card = self.device.type == "cuda"
        # A graph can draw from the card's own generator alone, which the trainer has seeded.
        self.generators = [] if self.on_card else [torch.Generator(self.device) for _ in self.rows]
        for shard, generator in zip(self.numbers, self.generators, strict=False):
            generator.manual_seed(config.seed * 1_000_003 + shard)
        if self.on_card and not ranks.is_main:
            torch.cuda.manual_seed(config.seed * 1_000_003 + ranks.rank)
        self.states: list[State] = [model.model.zero_state(rows.stop - rows.start) for rows in self.rows]
        self.graphs = WindowGraphs(self) if self.on_card and triton_fits(self.parameters[0]) else None
        threads = threads or torch.get_num_threads()
        own = len(self.numbers)
        self.inner_threads = max(1, threads // own)
        parallel = own > 1 and threads > 1 and self.device.type == "cpu"
        self.pool = ThreadPoolExecutor(min(threads, own)) if parallel else None

    def reset(self) -> None:
        """Begin with a state of zeros."""
        for tensor in self._state_tensors().values():
            tensor.zero_()

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown()

    def __call__(self, inputs: Tensor, targets: Tensor) -> float | Tensor:
        """Set the gradients of the parameters for a window `(batch, seq)` and return its loss in nats a token.

        The gradients are those of all ranks; of the loss every rank gets the part of its own shards, and the sum of
        the parts is the loss. On a card it is a tensor, so that nothing waits for it.
        """
        if self.graphs is not None:
            loss, gradients = self.graphs.run(inputs, targets)
        else:
            loss, gradients = self.window(inputs, targets)
        self.ranks.sum_(gradients)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss

    def window(self, inputs: Tensor, targets: Tensor) -> tuple[float | Tensor, list[Tensor]]:
        """Loss and gradients of a window; carries the states on."""
        shards = range(len(self.rows))
        if self.pool is None:
            results = [self._shard(k, inputs, targets) for k in shards]
        else:
            results = list(self.pool.map(lambda k: self._shard(k, inputs, targets), shards))
        gradients = []
        for number in range(len(self.parameters)):
            # A new tensor: parameters that enter as a sum (the biases) get one and the same from autograd, and
            # whatever works in place, such as clipping, would work on it twice.
            shares = [found[number] for _, found in results]
            gradients.append(functools.reduce(torch.add, shares) if len(shares) > 1 else shares[0].clone())
        return sum(loss for loss, _ in results), gradients

    def _shard(self, number: int, inputs: Tensor, targets: Tensor) -> tuple[float | Tensor, list[Tensor]]:
        if self.pool is not None and torch.get_num_threads() != self.inner_threads:
            torch.set_num_threads(self.inner_threads)  # the setting belongs to the thread that makes it
        rows, config = self.rows[number], self.config
        weight = (rows.stop - rows.start) / config.batch_size
        loss, output, dropped = self.model.window_loss(
            inputs[rows].to(self.device, non_blocking=True),
            targets[rows].to(self.device, non_blocking=True),
            self.states[number],
            self.generators[number] if self.generators else None,
        )
        raw, state = output.last_hidden_state, output.state
        assert raw is not None and state is not None  # the stack always fills them
        total = loss
        if config.activation_penalty:
            total = total + config.activation_penalty * dropped.pow(2).mean()
        if config.temporal_penalty and raw.shape[1] > 1:
            total = total + config.temporal_penalty * (raw[:, 1:] - raw[:, :-1]).pow(2).mean()
        gradients = torch.autograd.grad(total * weight, self.parameters)
        with torch.no_grad():
            for kept, new in zip(self.states[number], state, strict=True):
                kept[0].copy_(new[0])
                kept[1].copy_(new[1])
        value = loss.detach() if self.on_card else float(loss.detach())
        return value * weight, list(gradients)

    def _state_tensors(self) -> dict[str, Tensor]:
        """Carried states of this rank's shards by their names in a checkpoint."""
        named: dict[str, Tensor] = {}
        for shard, state in zip(self.numbers, self.states, strict=True):
            for layer, (h, c) in enumerate(state):
                named |= {f"h.{shard}.{layer}": h, f"c.{shard}.{layer}": c}
        return named

    def tensors(self) -> dict[str, Tensor]:
        """Generator states and carried states of this rank, for a checkpoint."""
        saved = {
            f"generator.{k}": generator.get_state()
            for k, generator in zip(self.numbers, self.generators, strict=False)
        }
        if self.on_card:
            saved[self._card_generator(self.ranks.rank)] = torch.cuda.get_rng_state(self.device)
        return saved | self._state_tensors()

    def tensors_of_all(self) -> dict[str, Tensor]:
        """Return `tensors()` of all ranks; every rank must ask, and every rank gets them."""
        own = self.tensors()
        if self.ranks.size == 1:
            return own
        found: dict[str, Tensor] = {}
        shapes = self.ranks.gather({name: list(tensor.shape) for name, tensor in own.items()})
        for source, shape_of in enumerate(shapes):
            for name, shape in shape_of.items():
                byte = name.startswith("generator.")
                kind, place = (torch.uint8, "cpu") if byte else (torch.float32, self.device)
                tensor = own[name].clone() if name in own else torch.empty(shape, dtype=kind, device=place)
                self.ranks.copy_main([tensor], source)
                found[name] = tensor
        return found

    @staticmethod
    def _card_generator(rank: int) -> str:
        return f"generator.cuda.{rank}" if rank else "generator.cuda"

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from `tensors()`, of this rank or of all, also of another number of ranks."""
        for k, generator in zip(self.numbers, self.generators, strict=False):
            generator.set_state(tensors[f"generator.{k}"])
        # A card that had no part in the interrupted run keeps the generator that it has.
        if self.on_card and (name := self._card_generator(self.ranks.rank)) in tensors:
            torch.cuda.set_rng_state(tensors[name].cpu(), self.device)
        for name, tensor in self._state_tensors().items():
            tensor.copy_(tensors[name])


class WindowGraphs:
    """Windows of a `ShardedLoss` in CUDA graphs, one a length that has come before.

    Args:
        loss: Whose windows they are.
    """

    def __init__(self, loss: ShardedLoss) -> None:
        self.loss = loss
        self.seen: set[int] = set()
        self.recorded: dict[int, _Recorded] = {}
        self.memory: Any = None

    def run(self, inputs: Tensor, targets: Tensor) -> tuple[float | Tensor, list[Tensor]]:
        """Loss and gradients of a window; both are overwritten by the next."""
        length = inputs.shape[1]
        if length not in self.seen:
            # Most lengths of a last window never come again. This also loads what a recording must find loaded.
            self.seen.add(length)
            return self.loss.window(inputs, targets)
        if length not in self.recorded:
            self.recorded[length] = self._record(inputs, targets)
        found = self.recorded[length]
        found.inputs.copy_(inputs, non_blocking=True)
        found.targets.copy_(targets, non_blocking=True)
        found.graph.replay()
        return found.loss.clone(), found.gradients

    def _record(self, inputs: Tensor, targets: Tensor) -> _Recorded:
        """Record a window; states and random numbers stay as they are."""
        device = self.loss.device
        static = [torch.empty(t.shape, dtype=t.dtype, device=device).copy_(t) for t in (inputs, targets)]
        before = {name: tensor.clone() for name, tensor in self.loss.tensors().items()}
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # as it will be recorded, once for what is made at first use
            self.loss.window(*static)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.memory, stream=stream):
            loss, gradients = self.loss.window(*static)
        assert isinstance(loss, Tensor)
        self.memory = graph.pool()
        self.loss.load(before)
        return _Recorded(graph, static[0], static[1], loss, gradients)


class _Recorded(NamedTuple):
    """A graph, where it reads and where it writes."""

    graph: Any
    inputs: Tensor
    targets: Tensor
    loss: Tensor
    gradients: list[Tensor]


@torch.no_grad()
def perplexity(
    model: OnlstmForCausalLM, encoded: Encoded, *, batch_size: int = 16, window: int = 128
) -> float:
    """Perplexity a token, `<eos>` and shape classes counted as tokens.

    Args:
        model: The language model.
        encoded: Sentences, read in their order in `batch_size` parallel streams with carried state.
        batch_size: Streams; fewer for a short text.
        window: Steps at a time; doesn't change the result.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    batch = max(1, min(batch_size, encoded.tokens // 20))
    data = streams(encoded, batch, model.config.eos_token_id)
    total, state = 0.0, None
    for start in range(0, data.steps, window):
        piece = torch.from_numpy(data.tokens[:, start : start + window + 1]).to(device)
        loss, output, _ = model.window_loss(piece[:, :-1], piece[:, 1:], state)
        state = output.state
        total += float(loss) * (piece.shape[1] - 1)
    model.train(training)
    return math.exp(min(total / data.steps, 700.0))
