"""How often a model finds the answer of a task, by method, length and depth."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ordtool.extrapolation.evaluation import Grid
from ordtool.extrapolation.patch import apply_plan
from ordtool.extrapolation.tasks import CHOICES, Example, TaskTexts
from ordtool.models.releases import cache_argument, cache_of
from ordtool.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class TaskMeasurement:
    """What a method finds at a length and a depth.

    Attributes:
        task: Its name.
        method: As it was asked for.
        length: Tokens of context, question and answer included.
        factor: The length over the trained length.
        depth: Where the fact that is asked for stands: 0 at the begin, 1 right before the question.
        texts: Of which this is the mean.
        accuracy: Share of texts whose answer was more likely than each of the wrong ones; `chance` by guessing.
        exact: Share of texts whose answer was the first guess at every token, which is what greedy decoding writes.
        loss: Nats a token of the answer.
        chance: One over the number of answers to choose from.
    """

    task: str
    method: str
    length: int
    factor: float
    depth: float
    texts: int
    accuracy: float
    exact: float
    loss: float
    chance: float

    def to_dict(self, *, timings: bool = True) -> dict[str, Any]:
        """Return the fields of a JSON line."""
        return {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def evaluate_task(
    model: Any, texts: TaskTexts, grid: Grid, count: int, *, start: int = 0, progress: Progress = SILENT
) -> Iterator[list[TaskMeasurement]]:
    """Measure methods over lengths and depths.

    Args:
        model: A causal language model in evaluation mode.
        texts: The task.
        grid: Methods and lengths.
        count: Texts at each depth.
        start: Cells of the grid to pass over.
        progress: Told of the tokens read.

    Yields:
        The rows of each cell, one a depth, in the order of `grid.cells()`.

    Raises:
        OrdtoolError: If a method doesn't fit the model, or a length is too short for the task.
    """
    cells, depths = grid.cells(), texts.task.depths
    each = count * len(depths)
    progress.start("reading", sum(length for _, length in cells) * each, "tokens")
    progress.advance(sum(length for _, length in cells[:start]) * each)
    made: tuple[int, list[list[Example]]] = (0, [])
    try:
        for method, length in cells[start:]:
            if made[0] != length:  # all methods of a length read the same texts
                made = length, [[texts.example(length, depth, n) for n in range(count)] for depth in depths]
            rows = []
            with apply_plan(model, grid.plan(method, length), SILENT):
                for depth, examples in zip(depths, made[1], strict=True):
                    scores = []
                    for example in examples:
                        scores.append(score_choices(model, example))
                        progress.advance(length, method=method, length=length)
                    rows.append(_row(texts.task.name, method, length, grid, depth, scores, examples))
            yield rows
    finally:
        progress.close()


def _row(
    task: str, method: str, length: int, grid: Grid, depth: float, scores: Sequence[Any], examples: Any
) -> TaskMeasurement:
    found = [sums[0] > max(sums[1:], default=-torch.inf) for sums, _ in scores]
    tokens = sum(len(example.choices[0]) for example in examples)
    choices = min(len(example.choices) for example in examples)
    return TaskMeasurement(
        task,
        method,
        length,
        length / grid.train_length,
        depth,
        len(scores),
        sum(found) / len(scores),
        sum(exact for _, exact in scores) / len(scores),
        -sum(sums[0] for sums, _ in scores) / tokens,
        1 / choices if choices else 1 / CHOICES,
    )


@torch.inference_mode()
def score_choices(model: Any, example: Example) -> tuple[list[float], bool]:
    """Score the answers to choose from, the text being read once.

    Args:
        model: A causal language model.
        example: A text and its answers.

    Returns:
        The log-probability of each answer in nats, and whether the first one is the model's first guess at every token.
    """
    device = next(model.parameters()).device
    keep = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    prompt = torch.tensor([example.prompt], device=device)
    read = model(input_ids=prompt, use_cache=True, **keep)
    cache, first = cache_of(read), read.logits[:, -1:].float()
    # A cache of a window has lost what it would have to go back to.
    goes_back = hasattr(cache, "crop") and not getattr(model.config.get_text_config(), "sliding_window", None)
    sums, exact = [], False
    for number, choice in enumerate(example.choices):
        tokens, logits = torch.tensor([choice], device=device), first
        if len(choice) > 1 and goes_back:
            more = model(input_ids=tokens[:, :-1], use_cache=True, **cache_argument(cache)).logits
            logits = torch.cat([first, more.float()], 1)
            cache.crop(1 - len(choice))  # so many tokens are forgotten
        elif len(choice) > 1:
            whole = model(input_ids=torch.cat([prompt, tokens[:, :-1]], 1), use_cache=False).logits
            logits = whole[:, -len(choice) :].float()
        sums.append(float(logits.log_softmax(-1).gather(-1, tokens[..., None]).double().sum()))
        exact = exact or (number == 0 and bool((logits.argmax(-1) == tokens).all()))
    return sums, exact
