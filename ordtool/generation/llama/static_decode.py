"""Decoding in buffers of fixed shapes, so that on a GPU a step is one CUDA graph that is captured once and replayed.

A step of a small model is over a thousand small kernels, and a host launches them more slowly than a card runs them.
In a graph they cost one launch. That asks for shapes that never change: a batch has always the same number of
rows, and the cache holds a number of slots taken from a short list. Each row stands in its cache from slot 0 on, with
its padding behind it, and what stands behind a row's newest token is masked.

Fixed shapes also keep a text from depending on its neighbours: a row's arithmetic is the same, bit for bit, alone and
in a full batch, so near ties need no second look (see `processors`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ordtool.generation import warping
from ordtool.generation.config import Decoding
from ordtool.generation.llama.llama import Llama
from ordtool.generation.processors import draw
from ordtool.runtime import steady_attention

READ_TOKENS = 4096
"""Tokens of prompts that are read at a time."""
CHECK_EVERY = 8
"""Steps between two looks at which texts have ended: each look makes the host wait for the card."""
MOST_ROWS = 256
_SHORTEST = 64
_MOST_GRAPHS = 8
_PLANNED_LENGTH = 2048  # tokens of a text for which rows are counted


def bucket_of(length: int) -> int:
    """Return the least of 64, 96, 128, 192, 256, 384, ... that is not below `length`."""
    size = _SHORTEST
    while size < length:
        half = size * 3 // 2
        if length <= half:
            return half
        size *= 2
    return size


def is_static(decoding: Decoding) -> bool:
    """Say whether a choice of tokens is torch alone, on shapes that stay."""
    return decoding.beams == 1 and not decoding.no_repeat_ngram


def rows_that_fit(model: Llama, context: int | None) -> int:
    """Return how many texts are written at once on a GPU: a power of two, by the memory that is free."""
    shape = model.shape
    free, _ = torch.cuda.mem_get_info(model.device)
    length = min(context or _PLANNED_LENGTH, _PLANNED_LENGTH)
    number = 2 * shape.layers * shape.groups * shape.head_dim * length
    a_row = number * model.dtype.itemsize + 40 * shape.vocabulary
    rows = MOST_ROWS
    while rows > 1 and rows * a_row > free * 0.4:
        rows //= 2
    return rows


@dataclass(frozen=True, slots=True)
class _State:
    """The buffers of a batch: what a step reads and changes in place.

    Attributes:
        keys: For each layer `(rows, groups, slots, head_dim)`.
        values: The same.
        token: The newest token of each row, `(rows, 1)`.
        length: Tokens of each row so far, `(rows,)`.
        going: Rows that have not ended, `(rows,)`.
        step: Steps done, `(1, 1)`.
        written: The tokens written, `(rows, slots)`.
        uniform: Numbers for the draws, `(rows, slots)`.
        seen: Which tokens a row has, `(rows, vocabulary + 1)`.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    token: Tensor
    length: Tensor
    going: Tensor
    step: Tensor
    written: Tensor
    uniform: Tensor
    seen: Tensor

    @property
    def rows(self) -> int:
        return len(self.token)

    @property
    def slots(self) -> int:
        return self.written.shape[1]


class StaticDecoder:
    """Writes batches of one size after prompts; on a GPU by CUDA graphs, elsewhere by the same steps one by one.

    Args:
        model: The model.
        pad: What follows the end of a text.
        stops: The tokens that end a text.

    Attributes:
        notes: What a person should know: that graphs can't be had, and why.
    """

    def __init__(self, model: Llama, pad: int, stops: Sequence[int]) -> None:
        self.notes: list[str] = []
        self._model = model
        self._pad = pad
        self._stops = torch.tensor(list(stops), dtype=torch.long, device=model.device)
        self._state: _State | None = None
        self._graphs: dict[tuple[object, ...], torch.cuda.CUDAGraph] = {}
        self._captures = model.device.type == "cuda"

    @torch.inference_mode()
    def write(
        self,
        prompts: Sequence[Sequence[int]],
        steps: int,
        decoding: Decoding,
        rows: int,
        uniform: Tensor | None = None,
        ended: Callable[[Tensor], Sequence[bool]] | None = None,
        check_every: int = CHECK_EVERY,
    ) -> Tensor:
        """Write after prompts.

        Args:
            prompts: Token ids of each, one token or more.
            steps: Tokens to write at most.
            decoding: How they are chosen; see `is_static`.
            rows: The size of the batch, which shorter ones are filled up to.
            uniform: For draws, `(prompts, steps)` numbers from 0 to 1, float64.
            ended: Is given what was written, `(prompts, so far)`, from time to time, and says which texts may end.
            check_every: Steps between two such looks.

        Returns:
            `(prompts, written)`; what follows the end of a text means nothing.
        """
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        inverse = torch.tensor(order, device=self._model.device).argsort()
        bucket = bucket_of(max(map(len, prompts)) + steps)
        state = self._buffers(max(rows, len(prompts)), bucket)
        advance = self._advance(state, bucket, decoding)
        self._fill(state, [prompts[number] for number in order], steps, decoding)
        if uniform is not None:
            state.uniform[: len(prompts), :steps] = uniform[order].to(state.uniform.device)
        done = 0
        written = state.written
        while done < steps:
            for _ in range(min(check_every, steps - done)):
                advance()
                done += 1
            written = state.written[: len(prompts), :done][inverse]
            going = state.going[: len(prompts)][inverse].tolist()
            stopped = ended(written) if ended is not None else [False] * len(prompts)
            if not any(row and not stop for row, stop in zip(going, stopped, strict=True)):
                break
        return written

    def _buffers(self, rows: int, slots: int) -> _State:
        """Return buffers of `rows` rows and `slots` slots or more; larger ones take the place of smaller ones."""
        if self._state is not None and self._state.rows == rows and self._state.slots >= slots:
            return self._state
        self._graphs.clear()
        self._state = None
        shape, device = self._model.shape, self._model.device

        def zeros(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        def cache() -> tuple[Tensor, ...]:
            size = (rows, shape.groups, slots, shape.head_dim)
            return tuple(zeros(*size, dtype=self._model.dtype) for _ in range(shape.layers))

        self._state = _State(
            keys=cache(),
            values=cache(),
            token=zeros(rows, 1, dtype=torch.long),
            length=torch.ones(rows, dtype=torch.long, device=device),
            going=zeros(rows, dtype=torch.bool),
            step=zeros(1, 1, dtype=torch.long),
            written=zeros(rows, slots, dtype=torch.long),
            uniform=zeros(rows, slots, dtype=torch.float64),
            seen=zeros(rows, shape.vocabulary + 1, dtype=torch.bool),
        )
        return self._state

    # ------------------------------------------------------------------ reading the prompts

    def _fill(self, state: _State, prompts: Sequence[Sequence[int]], steps: int, decoding: Decoding) -> None:
        """Begin a batch: its prompts, longest first, are read into the cache."""
        device = self._model.device
        lengths = [len(prompt) for prompt in prompts] + [1] * (state.rows - len(prompts))
        last = [prompt[-1] for prompt in prompts] + [self._pad] * (state.rows - len(prompts))
        state.length.copy_(torch.tensor(lengths))
        state.token.copy_(torch.tensor(last)[:, None])
        state.going.copy_(torch.arange(state.rows) < len(prompts))
        state.step.zero_()
        state.written.fill_(self._pad)
        low = 0
        while low < len(prompts):
            bucket = bucket_of(lengths[low])
            size = max(1, READ_TOKENS // bucket)
            high = low
            while high < min(len(prompts), low + size) and bucket_of(lengths[high]) == bucket:
                high += 1
            ids = torch.full((size, bucket), self._pad)
            for row, prompt in enumerate(prompts[low:high]):
                ids[row, : len(prompt)] = torch.tensor(list(prompt))
            self._read(state, ids.to(device), low, high)
            low = high
        if decoding.repetition_penalty != 1:
            state.seen.zero_()
            # A table of embeddings can be longer than the last layer: those ids fall into one column more.
            for row, prompt in enumerate(prompts):
                state.seen[
                    row, torch.tensor(list(prompt), device=device).clamp(max=state.seen.shape[1] - 1)
                ] = True

    def _read(self, state: _State, ids: Tensor, low: int, high: int) -> None:
        """Read a block of prompts, `(size, bucket)`, into the cache of rows `low` to `high`.

        Padding stands behind, where causality hides it; the block has one shape however many prompts it holds.
        """
        count, length = high - low, ids.shape[1]
        share = self._model.shape.heads // self._model.shape.groups
        # Grouped heads are known to the kernel for halves alone; another would write out all scores.
        copied = self._model.dtype in (torch.float32, torch.float64)

        def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            state.keys[layer][low:high, :, :length] = key[:count]
            state.values[layer][low:high, :, :length] = value[:count]
            if copied and share > 1:
                key, value = (x.repeat_interleave(share, dim=1) for x in (key, value))
            grouped = share > 1 and not copied
            return scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=query.shape[-1] ** -0.5, enable_gqa=grouped
            )

        positions = torch.arange(length, device=ids.device)[None]
        with steady_attention(self._model.device):
            self._model.states(ids, positions, attention)

    # ------------------------------------------------------------------ a step

    def _step(self, state: _State, bucket: int, decoding: Decoding) -> None:
        """Write one token in every row: a fixed sequence of kernels, on the buffers alone."""
        shape = self._model.shape
        share, rows = shape.heads // shape.groups, state.rows
        place = state.length - 1
        slot = place[:, None, None, None].expand(-1, shape.groups, 1, shape.head_dim)
        visible = torch.arange(bucket, device=place.device) <= place[:, None]
        bias = torch.zeros(rows, bucket, dtype=self._model.dtype, device=place.device)
        bias = bias.masked_fill(~visible, -math.inf)[:, None, None].expand(-1, 1, share, -1).contiguous()

        def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = state.keys[layer][:, :, :bucket], state.values[layer][:, :, :bucket]
            keys.scatter_(2, slot, key)
            values.scatter_(2, slot, value)
            # The queries of a group stand in one head, and no key is copied.
            packed = query.reshape(rows, shape.groups, share, shape.head_dim)
            found = scaled_dot_product_attention(
                packed, keys, values, attn_mask=bias, scale=shape.head_dim**-0.5
            )
            return found.reshape(rows, shape.heads, 1, shape.head_dim)

        with steady_attention(self._model.device):
            states = self._model.states(state.token, place[:, None], attention)
        scores = self._model.logits(states)[:, -1].float()
        if decoding.repetition_penalty != 1:
            scores = warping.penalise(state.seen[:, :-1], scores, decoding.repetition_penalty)
        if decoding.sampling:
            tokens = draw(decoding, scores, state.uniform.gather(1, state.step.expand(rows, 1)))
        else:
            tokens = scores.argmax(-1)
        tokens = torch.where(state.going, tokens, self._pad)[:, None]
        state.going.logical_and_((tokens != self._stops).all(-1))
        state.written.scatter_(1, state.step.expand(rows, 1), tokens)
        state.seen.scatter_(1, tokens.clamp(max=state.seen.shape[1] - 1), True)
        state.token.copy_(tokens)
        state.length.add_(1)
        state.step.add_(1)

    def _advance(self, state: _State, bucket: int, decoding: Decoding) -> Callable[[], None]:
        """Return what does a step: a graph's replay, or the step itself where none can be had."""

        def step() -> None:
            self._step(state, bucket, decoding)

        if not self._captures:
            return step
        key = (bucket, decoding.temperature, *decoding.warps.items(), decoding.repetition_penalty)
        graph = self._graphs.get(key)
        if graph is None:
            try:
                graph = self._capture(state, step)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._captures = False
                reason = " ".join(str(error).split())[:200]
                self.notes.append(f"no CUDA graph, so tokens come more slowly: {reason}")
                return step
            if len(self._graphs) >= _MOST_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[key] = graph
        return graph.replay

    def _capture(self, state: _State, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Record a step; what the buffers hold is of no account, and is not kept."""
        device = self._model.device
        with torch.cuda.device(device):
            state.length.fill_(1)
            state.step.zero_()
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):  # libraries set themselves up in the first calls
                step()
                step()
            torch.cuda.current_stream(device).wait_stream(side)
            torch.cuda.synchronize(device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
        return graph
