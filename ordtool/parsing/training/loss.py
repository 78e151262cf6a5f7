"""The loss: of one training step over a batch cut into shards, each on its own thread, and of held-out text.

An ON-LSTM step is a small matrix product between two barriers. Splitting every product over the cores
makes all cores wait at every barrier, hundreds of times a window; splitting the batch lets each
core run through its whole window alone, and they meet once. Each shard has its own random generator, so
that the result doesn't depend on how the threads interleave.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

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
    """

    def __init__(self, model: OnlstmForCausalLM, config: TrainingConfig, threads: int | None = None) -> None:
        self.model = model
        self.config = config
        self.device = next(model.parameters()).device
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        bounds = [config.batch_size * k // config.shards for k in range(config.shards + 1)]
        self.rows = [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
        self.generators = []
        for shard in range(config.shards):
            generator = torch.Generator(self.device)
            self.generators.append(generator.manual_seed(config.seed * 1_000_003 + shard))
        self.states: list[State] = []
        self.reset()
        threads = threads or torch.get_num_threads()
        self.inner_threads = max(1, threads // config.shards)
        parallel = config.shards > 1 and threads > 1 and self.device.type == "cpu"
        self.pool = ThreadPoolExecutor(min(threads, config.shards)) if parallel else None

    def reset(self) -> None:
        """Begin with a state of zeros."""
        self.states = [self.model.model.zero_state(rows.stop - rows.start) for rows in self.rows]

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown()

    def __call__(self, inputs: Tensor, targets: Tensor) -> float:
        """Set the gradients of the parameters for a window `(batch, seq)` and return its loss in nats a token."""
        shards = range(len(self.rows))
        if self.pool is None:
            results = [self._shard(k, inputs, targets) for k in shards]
        else:
            results = list(self.pool.map(lambda k: self._shard(k, inputs, targets), shards))
        for number, parameter in enumerate(self.parameters):
            # A new tensor: parameters that enter as a sum (the biases) get one and the same from autograd, and
            # whatever works in place, such as clipping, would work on it twice.
            shares = [gradients[number] for _, gradients in results]
            parameter.grad = functools.reduce(torch.add, shares) if len(shares) > 1 else shares[0].clone()
        return sum(loss for loss, _ in results)

    def _shard(self, number: int, inputs: Tensor, targets: Tensor) -> tuple[float, list[Tensor]]:
        if self.pool is not None and torch.get_num_threads() != self.inner_threads:
            torch.set_num_threads(self.inner_threads)  # the setting belongs to the thread that makes it
        rows, config = self.rows[number], self.config
        weight = (rows.stop - rows.start) / config.batch_size
        loss, output, dropped = self.model.window_loss(
            inputs[rows].to(self.device, non_blocking=True),
            targets[rows].to(self.device, non_blocking=True),
            self.states[number],
            self.generators[number],
        )
        raw, state = output.last_hidden_state, output.state
        assert raw is not None and state is not None  # the stack always fills them
        total = loss
        if config.activation_penalty:
            total = total + config.activation_penalty * dropped.pow(2).mean()
        if config.temporal_penalty and raw.shape[1] > 1:
            total = total + config.temporal_penalty * (raw[:, 1:] - raw[:, :-1]).pow(2).mean()
        gradients = torch.autograd.grad(total * weight, self.parameters)
        self.states[number] = [(h.detach(), c.detach()) for h, c in state]
        return float(loss.detach()) * weight, list(gradients)

    def tensors(self) -> dict[str, Tensor]:
        """Generator states and carried states, for a checkpoint."""
        saved = {f"generator.{k}": generator.get_state() for k, generator in enumerate(self.generators)}
        for shard, state in enumerate(self.states):
            for layer, (h, c) in enumerate(state):
                saved |= {f"h.{shard}.{layer}": h, f"c.{shard}.{layer}": c}
        return saved

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from `tensors()`."""
        for k, generator in enumerate(self.generators):
            generator.set_state(tensors[f"generator.{k}"])
        layers = range(self.model.config.num_hidden_layers)
        self.states = [
            [(tensors[f"h.{k}.{n}"].to(self.device), tensors[f"c.{k}.{n}"].to(self.device)) for n in layers]
            for k in range(len(self.rows))
        ]


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
