"""ON-LSTM training: the paper's cell as a loop over time, cuDNN's LSTM of the same shape, and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gpu_sections.measure import Bench, Row
from ordtool.parsing.onlstm.model import OnlstmConfig, OnlstmForCausalLM
from ordtool.parsing.training.loss import ShardedLoss
from ordtool.parsing.training.optimizers import make_optimizer
from ordtool.parsing.training.recipes import TrainingConfig

DROPOUT = 0.3


@dataclass(frozen=True)
class Shape:
    """A network and its batches."""

    name: str
    embedding: int
    hidden: int
    chunk: int
    batch: int
    window: int
    vocabulary: int = 10_000
    layers: int = 3

    @property
    def sizes(self) -> list[int]:
        """Sizes of the embedding and of the layers."""
        return [self.embedding, *[self.hidden] * (self.layers - 1), self.embedding]


SHAPES = (
    Shape("the paper's shape, batch 20", 400, 1150, 10, 20, 70),
    Shape("the paper's shape, batch 80", 400, 1150, 10, 80, 70),
    Shape("small shape, batch 32", 256, 512, 16, 32, 35),
    Shape("small shape, batch 128", 256, 512, 16, 128, 35),
    Shape("small shape, batch 256", 256, 512, 16, 256, 35),
)
TOYS = (Shape("toy", 12, 20, 4, 3, 5, vocabulary=50),)
# The reference takes a quarter of a second a step, whatever the batch.
SLOW = {"the paper's shape, batch 20", "the paper's shape, batch 80", "small shape, batch 128"}


def rows(bench: Bench) -> Iterator[Row]:
    """Tokens a second of whole training steps: forward, backward, clipping, the optimiser."""
    for shape in bench.pick(SHAPES, TOYS):
        makers: dict[str, Callable[[Bench, Shape], Callable[[], object]]] = {}
        if bench.toy or shape.name in SLOW:
            makers["reference, float32"] = reference_step
        makers |= {
            "cuDNN LSTM, float32": lstm_step,
            "cuDNN LSTM, bfloat16": lambda b, s: lstm_step(b, s, torch.bfloat16),
            "ordtool, float32": lambda b, s: own_step(b, s, "float32"),
            "ordtool, bfloat16": lambda b, s: own_step(b, s, "bfloat16"),
        }
        works = {name: make(bench, shape) for name, make in makers.items()}
        # The loop over time is so slow that a few steps of it say enough.
        for name, seconds in bench.in_turn(works, budget=0.8).items():
            yield Row("onlstm", shape.name, name, shape.batch * shape.window / seconds, "tokens/s")
        del works
        bench.free()


def own_step(bench: Bench, shape: Shape, dtype: str) -> Callable[[], object]:
    """A step as the trainer makes it."""
    torch.manual_seed(0)
    config = TrainingConfig(
        batch_size=shape.batch, window=shape.window, shards=1, dtype=dtype, chunk_size=shape.chunk,
        embedding_size=shape.embedding, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
    )  # fmt: skip
    model = OnlstmForCausalLM(
        OnlstmConfig(
            vocab_size=shape.vocabulary, embedding_size=shape.embedding, hidden_size=shape.hidden,
            chunk_size=shape.chunk, num_hidden_layers=shape.layers, word_dropout=0.0,
            input_dropout=DROPOUT, layer_dropout=DROPOUT, output_dropout=DROPOUT, weight_dropout=DROPOUT,
        )
    ).to(bench.device)  # fmt: skip
    model.use_matmul_dtype(torch.bfloat16 if dtype == "bfloat16" else None)
    parameters = list(model.parameters())
    optimiser = make_optimizer(parameters, config, 10_000)
    loss = ShardedLoss(model.train(), config)
    tokens = random_tokens(bench, shape)

    def step() -> None:
        loss(tokens[:, :-1], tokens[:, 1:])
        nn.utils.clip_grad_norm_(parameters, config.clip)
        optimiser.step(1)

    return step


def random_tokens(bench: Bench, shape: Shape) -> Tensor:
    """Ids `(batch, window + 1)`."""
    generator = torch.Generator().manual_seed(0)
    size = (shape.batch, shape.window + 1)
    return torch.randint(shape.vocabulary, size, generator=generator).to(bench.device)


class ReferenceLayer(nn.Module):
    """The ON-LSTM cell of Shen et al. 2019, equations 1-14, written as one writes a cell: a loop of torch operations."""

    def __init__(self, inputs: int, size: int, chunk: int) -> None:
        super().__init__()
        self.size, self.chunk = size, chunk
        self.gates = 4 * size + 2 * (size // chunk)
        self.from_input = nn.Linear(inputs, self.gates)
        self.from_hidden = nn.Linear(size, self.gates)

    def forward(self, inputs: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs `(seq, batch, size)` and the last state."""
        kept = self.from_hidden.weight.new_ones(self.from_hidden.weight.shape)
        weight = self.from_hidden.weight * F.dropout(kept, DROPOUT)
        projected = self.from_input(inputs)
        hidden, cell = state
        units, size = self.size // self.chunk, self.size
        outputs = []
        for step in projected:
            gates = step + F.linear(hidden, weight, self.from_hidden.bias)
            master_in, master_forget, out, new, keep_in, forget = gates.split(
                [units, units, size, size, size, size], dim=1
            )
            master_in = 1 - torch.cumsum(torch.softmax(master_in, -1), -1)
            master_forget = torch.cumsum(torch.softmax(master_forget, -1), -1)
            master_in = master_in.repeat_interleave(self.chunk, 1)
            master_forget = master_forget.repeat_interleave(self.chunk, 1)
            overlap = master_in * master_forget
            forget = torch.sigmoid(forget) * overlap + (master_forget - overlap)
            write = torch.sigmoid(keep_in) * overlap + (master_in - overlap)
            cell = forget * cell + write * torch.tanh(new)
            hidden = torch.sigmoid(out) * torch.tanh(cell)
            outputs.append(hidden)
        return torch.stack(outputs), (hidden, cell)


class Peer(nn.Module):
    """An embedding, recurrent layers, and a softmax tied to the embedding."""

    def __init__(self, shape: Shape, layer: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.embedding)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.layers = nn.ModuleList(layer(a, b) for a, b in pairwise(shape.sizes))
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))

    def loss(self, tokens: Tensor, states: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Mean cross-entropy; `states` are carried."""
        hidden = F.dropout(self.embedding(tokens[:, :-1].t()), DROPOUT)
        for number, layer in enumerate(self.layers):
            hidden, state = layer(hidden, states[number])
            states[number] = (state[0].detach(), state[1].detach())
            hidden = F.dropout(hidden, DROPOUT)
        scores = F.linear(hidden.flatten(0, 1), self.embedding.weight, self.bias)
        return F.cross_entropy(scores, tokens[:, 1:].t().reshape(-1))


def peer_step(
    bench: Bench, shape: Shape, model: Peer, states: list[tuple[Tensor, Tensor]], dtype: torch.dtype
) -> Callable[[], object]:
    """A training step of a peer."""
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    tokens = random_tokens(bench, shape)

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(bench.device.type, dtype, enabled=dtype != torch.float32):
            loss = model.loss(tokens, states)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    return step


def reference_step(bench: Bench, shape: Shape) -> Callable[[], object]:
    """A step of the paper's cell."""
    torch.manual_seed(0)
    model = Peer(shape, lambda a, b: ReferenceLayer(a, b, shape.chunk)).to(bench.device)
    states = [
        (torch.zeros(shape.batch, n, device=bench.device), torch.zeros(shape.batch, n, device=bench.device))
        for n in shape.sizes[1:]
    ]
    return peer_step(bench, shape, model, states, torch.float32)


def lstm_step(bench: Bench, shape: Shape, dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """A step of torch's LSTM, which is cuDNN's on a card: no ordered gates, no dropout of its weights."""
    torch.manual_seed(0)
    model = Peer(shape, nn.LSTM).to(bench.device)
    states = [
        (
            torch.zeros(1, shape.batch, n, device=bench.device),
            torch.zeros(1, shape.batch, n, device=bench.device),
        )
        for n in shape.sizes[1:]
    ]
    return peer_step(bench, shape, model, states, dtype)
