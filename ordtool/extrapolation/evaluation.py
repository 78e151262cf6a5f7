"""How well a model reads texts of growing length: the same last tokens, with more before them.

At every length the last N tokens of the same windows are scored. A longer context should
lower their loss; a model that can't read it loses even what is near.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ordtool.errors import UsageError
from ordtool.extrapolation.methods import METHODS
from ordtool.extrapolation.patch import apply_plan, check_plan
from ordtool.extrapolation.plan import Plan, make_plan, parse_spec
from ordtool.extrapolation.rotary import check_long, find_rotary
from ordtool.memory import PeakMemory
from ordtool.models.releases import cache_argument, cache_of
from ordtool.progress import SILENT, Progress

LOGITS = 2**28  # at most so many numbers of logits at once: 1 GB in float32
TIMINGS = ("tokens_per_second", "peak_memory_mb")
_ROWS = 256  # of logits, whose losses are computed together


@dataclass(frozen=True, slots=True)
class Grid:
    """What is measured.

    Attributes:
        methods: Specs, such as `rerope:window=128+logn`.
        lengths: Of the context, in tokens.
        train_length: What the model was trained at.
        last: Tokens scored at the end of a window; None: half the shortest length, or
            with `bins` all of them.
        bins: Parts by position that are reported apart; None: one figure a length.
        factor: s of every method: a number; `each`: every length's own; None: the longest
            length's, as a method that is set once has it.
        parameters: For all methods that take them.
        batch_size: Windows at a time.
    """

    methods: tuple[str, ...]
    lengths: tuple[int, ...]
    train_length: int
    last: int | None = None
    bins: int | None = None
    factor: float | str | None = None
    parameters: dict[str, float] = field(default_factory=dict)
    batch_size: int = 1

    def __post_init__(self) -> None:
        shortest = min(self.lengths)
        if shortest < 2:
            raise UsageError(f"a length of {shortest} leaves nothing to predict", "take 2 tokens or more")
        if self.last is not None and not 1 <= self.last < shortest:
            raise UsageError(
                f"the last {self.last:,} tokens can't be scored with {shortest:,} tokens of context",
                "`last` must be below the shortest length",
            )

    def scored(self, length: int) -> int:
        """Return how many tokens at the end of a context are scored."""
        if self.last is not None:
            return self.last
        return length - 1 if self.bins else max(1, min(self.lengths) // 2)

    def plan(self, method: str, length: int) -> Plan:
        """Work out a method for a length."""
        parameters = dict(self.parameters)
        target = length if self.factor == "each" else max(self.lengths)
        if isinstance(self.factor, int | float):
            parameters["factor"] = float(self.factor)
            target = round(self.factor * self.train_length)
        if any(METHODS[name].dynamic for name, _ in parse_spec(method)):
            target = length
        return make_plan(
            method, train_length=self.train_length, length=target, parameters=parameters, lenient=True
        )

    def cells(self) -> list[tuple[str, int]]:
        """Return every length with every method, the shortest first: what takes longest comes last."""
        return [(method, length) for length in sorted(self.lengths) for method in self.methods]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a method is worth at a length, or at a part of its text.

    Attributes:
        method: As it was asked for.
        length: Tokens of context, those scored included.
        factor: The length over the trained length.
        position: By position: the last token of the part, counted from 1.
        loss: Nats a token.
        perplexity: exp of the loss.
        accuracy: Share of tokens that are the model's first guess.
        tokens_per_second: Read, all of the context.
        peak_memory_mb: Of the process, or of the device; None where unknown.
    """

    method: str
    length: int
    factor: float
    position: int | None
    loss: float
    perplexity: float
    accuracy: float
    tokens_per_second: float
    peak_memory_mb: float | None

    def to_dict(self, *, timings: bool = True) -> dict[str, Any]:
        """Return the fields of a JSON line; `position` only where there is one.

        Args:
            timings: Whether to have `tokens_per_second` and `peak_memory_mb`, which differ from run to run.
        """
        return {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in asdict(self).items()
            if (name != "position" or value is not None) and (timings or name not in TIMINGS)
        }


def check_grid(model: Any, grid: Grid, progress: Progress = SILENT) -> None:
    """Check every method against the model before anything is computed, and tell of warnings once.

    Raises:
        OrdtoolError: If a method doesn't fit the model.
        UsageError: For unknown methods or parameters.
    """
    if all(grid.plan(method, length).does_nothing for method, length in grid.cells()):
        check_long(model, max(grid.lengths))  # any model can be measured as it is
        return
    find_rotary(model)
    plans = [grid.plan(method, length) for method, length in grid.cells()]
    warnings = [warning for plan in plans for warning in (*plan.warnings, *check_plan(model, plan))]
    for warning in dict.fromkeys(warnings):
        progress.warn(warning)


def evaluate(
    model: Any, windows: torch.Tensor, grid: Grid, *, start: int = 0, progress: Progress = SILENT
) -> Iterator[list[Measurement]]:
    """Measure methods over lengths.

    Args:
        model: A causal language model in evaluation mode.
        windows: `(windows, tokens)`, at least as long as the longest length.
        grid: What is measured.
        start: Cells of the grid to pass over.
        progress: Told of the tokens read.

    Yields:
        The rows of each cell, in the order of `grid.cells()`.

    Raises:
        OrdtoolError: If a method doesn't fit the model.
    """
    cells = grid.cells()
    total = sum(length for _, length in cells) * len(windows)
    progress.start("reading", total, "tokens")
    progress.advance(sum(length for _, length in cells[:start]) * len(windows))
    try:
        for method, length in cells[start:]:

            def tell(tokens: int, method: str = method, length: int = length) -> None:
                progress.advance(tokens, method=method, length=length)

            plan = grid.plan(method, length)
            with apply_plan(model, plan, SILENT):
                yield _cell(model, windows[:, -length:], method, grid, tell)
    finally:
        progress.close()


def _cell(
    model: Any, inputs: torch.Tensor, method: str, grid: Grid, tell: Callable[[int], None]
) -> list[Measurement]:
    length, scored = inputs.shape[1], grid.scored(inputs.shape[1])
    device = next(model.parameters()).device
    losses, hits, seconds = [], [], 0.0
    with PeakMemory(device) as memory:
        for batch in inputs.split(grid.batch_size):
            began = time.perf_counter()
            loss, hit = score_last(model, batch.to(device), scored)
            seconds += time.perf_counter() - began
            losses.append(loss.double().cpu())
            hits.append(hit.double().cpu())
            tell(batch.numel())
    loss, hit = torch.cat(losses).mean(0), torch.cat(hits).mean(0)
    rows = []
    for part in _parts(scored, grid.bins):
        mean = float(loss[part].mean())
        rows.append(
            Measurement(
                method,
                length,
                length / grid.train_length,
                length - scored + part.stop if grid.bins else None,
                mean,
                float(torch.tensor(mean, dtype=torch.float64).exp()),
                float(hit[part].mean()),
                inputs.numel() / seconds,
                memory.megabytes,
            )
        )
    return rows


def _parts(scored: int, bins: int | None) -> Sequence[slice]:
    """Cut the scored tokens into parts that differ by at most one token."""
    count = min(bins or 1, scored)
    edges = [scored * part // count for part in range(count + 1)]
    return [slice(low, high) for low, high in zip(edges, edges[1:], strict=False)]


@torch.inference_mode()
def score_last(model: Any, inputs: torch.Tensor, scored: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Score the last tokens of some texts.

    Args:
        model: A causal language model.
        inputs: `(batch, tokens)`.
        scored: How many at the end; below `tokens`.

    Returns:
        The loss in nats and whether the token was the first guess, `(batch, scored)` each.
    """
    batch, length = inputs.shape
    vocabulary = model.config.get_text_config().vocab_size
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return _judge(
            model(input_ids=inputs, use_cache=False).logits[:, -scored - 1 : -1], inputs[:, -scored:]
        )
    if batch * scored * vocabulary <= LOGITS:
        logits = model(input_ids=inputs, use_cache=False, logits_to_keep=scored + 1).logits
        return _judge(logits[:, :-1], inputs[:, -scored:])
    # Logits of all positions would take too much memory: go on piece by piece, with a cache.
    piece = max(1, LOGITS // (batch * vocabulary))
    first = length - scored - 1
    cache, pieces = None, []
    for low in [0, *range(first + piece, length - 1, piece)]:
        high = min(length - 1, first + piece if low == 0 else low + piece)
        keep = high - max(low, first)
        read = inputs[:, low:high]
        out = model(input_ids=read, use_cache=True, logits_to_keep=keep, **cache_argument(cache))
        cache = cache_of(out)
        pieces.append(_judge(out.logits, inputs[:, high - keep + 1 : high + 1]))
    return torch.cat([loss for loss, _ in pieces], 1), torch.cat([hit for _, hit in pieces], 1)


def _judge(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    losses = []
    for rows, tokens in zip(logits.split(_ROWS, dim=1), targets.split(_ROWS, dim=1), strict=True):
        losses.append(cross_entropy(rows.float().transpose(1, 2), tokens, reduction="none"))
    return torch.cat(losses, 1), logits.argmax(-1) == targets
