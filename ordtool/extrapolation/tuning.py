"""The parameters of a method that read a text best: window, group, factor and the like, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

from ordtool.arguments import as_many
from ordtool.errors import OrdtoolError, UsageError
from ordtool.extrapolation.comparison import Comparison, ExtrapolateConfig, ExtrapolateOptions
from ordtool.extrapolation.evaluation import Grid, evaluate
from ordtool.extrapolation.methods import METHODS, Parameter, Value
from ordtool.extrapolation.plan import parse_spec
from ordtool.extrapolation.task_evaluation import evaluate_task
from ordtool.extrapolation.tasks import TaskTexts
from ordtool.extrapolation.texts import Text
from ordtool.progress import SILENT, Progress
from ordtool.runtime import use_threads

_SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)  # of the trained length
_MULTIPLES = (1 / 2, 2)  # of a default
_VALUES = {"turns": (8, 16, 64), "exponent": (0.5, 0.75, 1.0), "share": (0.25, 0.5, 0.9), "sinks": (1, 16)}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A method with parameters, and what it is worth.

    Attributes:
        method: As `--methods` and `generate --context` take it.
        loss: Nats a token, the mean of all lengths; of a task, of its answer.
        found: Of a task: the share of texts whose answer was found; None without one.
    """

    method: str
    loss: float
    found: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Return what is smaller for the better one."""
        return (-(self.found or 0.0), self.loss)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of a search.

    Attributes:
        method: The best, in a form that `--methods` and `generate --context` take.
        tried: Everything that was tried, on the windows to choose by; the defaults first.
        default: The defaults on the windows to check by.
        checked: The best of those tried on the same; where it is worse than the defaults there, they are the answer.
    """

    method: str
    tried: tuple[Candidate, ...]
    default: Candidate
    checked: Candidate


def tune(
    texts: str | Sequence[str],
    method: str,
    config: ExtrapolateConfig | None = None,
    *,
    progress: Progress = SILENT,
    **options: Unpack[ExtrapolateOptions],
) -> Tuned:
    """Choose the parameters of a method on a text, by its loss or by a task.

    From the defaults on each parameter in turn takes the value that does best, the others being held. Every other window
    of the text is left out; on those the winner must do better than the defaults, or else the defaults are the answer.

    Args:
        texts: A long text, or several.
        method: Such as `self-extend` or `rerope+logn`; what is set in it, as in `rerope:window=64`, stays.
        config: How, as for `extrapolate`; its `methods` are passed over.
        progress: Told of what is tried.
        **options: Fields of `ExtrapolateConfig`, instead of or on top of `config`.

    Raises:
        UsageError: For a method without parameters to choose, and options that make no sense.
        OrdtoolError: If a text is too short, or the method doesn't fit the model.
    """
    config = replace(config or ExtrapolateConfig(), **options)
    named = [Text(f"text {number}", text) for number, text in enumerate(as_many(texts), start=1)]
    return tune_on(named, method, config, progress)


def tune_on(texts: Sequence[Text], method: str, config: ExtrapolateConfig, progress: Progress) -> Tuned:
    """Do what `tune` does, with texts that have names."""
    parse_spec(method)
    if config.bins is not None:
        raise UsageError("`bins` and tuning don't go together", "leave out `bins`")
    comparison = Comparison(replace(config, methods=(method,)), texts, progress)
    search = _Search(comparison, method)
    if not search.free:
        raise UsageError(
            f"{method} has no parameters to choose", "for example rerope, self-extend or ntk-mixed"
        )
    with use_threads(config.threads):
        search.model = comparison.load()
        progress.start("tuning", None, "candidates")
        try:
            return search.run(progress)
        finally:
            progress.close()


class _Search:
    """One search: the model, what is read, and what is known already."""

    model: Any

    def __init__(self, comparison: Comparison, method: str) -> None:
        self._comparison = comparison
        self._parsed = parse_spec(method)
        grid = comparison.grid
        self._grid: Grid = grid
        plan = grid.plan(method, max(grid.lengths))
        self._defaults = plan.values
        self.free = [
            (name, parameter)
            for name, given in self._parsed
            for parameter in METHODS[name].parameters
            if parameter.name not in given and not parameter.file and not parameter.choices
        ]
        if comparison.windows is not None and len(comparison.windows) < 2:
            raise OrdtoolError(
                f"the text has one window of {max(grid.lengths):,} tokens, and half of them is to check by",
                "give a longer text, or ask for shorter lengths",
            )

    def run(self, progress: Progress) -> Tuned:
        chosen: dict[tuple[str, str], Value] = {}
        best = self._measure(chosen, check=False)
        tried = [best]
        for name, parameter in self.free:
            at_start = dict(chosen)
            for value in self._values(name, parameter):
                here = {**at_start, (name, parameter.name): value}
                try:
                    candidate = self._measure(here, check=False)
                except UsageError:  # a chunk over the context, a window over the shift
                    continue
                tried.append(candidate)
                progress.advance(1, loss=f"{candidate.loss:.3f}")
                if candidate.rank < best.rank:
                    best, chosen = candidate, here
        default, checked = self._measure({}, check=True), self._measure(chosen, check=True)
        answer = checked if checked.rank < default.rank else default
        return Tuned(answer.method, tuple(tried), default, checked)

    def _values(self, name: str, parameter: Parameter) -> Iterator[Value]:
        """Yield other values than the default: shares of the trained length, or multiples of the default."""
        default = self._defaults[name][parameter.name]
        assert not isinstance(default, str)
        values: list[float] = [share * self._grid.train_length for share in _SHARES]
        if not parameter.tokens:
            values = list(_VALUES.get(parameter.name) or [times * default for times in _MULTIPLES])
        for value in values:
            value = round(value) if parameter.whole else value
            if value != default and value >= parameter.least:
                yield value

    def _measure(self, chosen: dict[tuple[str, str], Value], *, check: bool) -> Candidate:
        method = self._spell(chosen)
        grid = replace(self._grid, methods=(method,))
        for length in grid.lengths:
            grid.plan(method, length)  # values that don't go together end here
        comparison = self._comparison
        if comparison.task is not None:
            task = comparison.task.task
            # The texts to check by are drawn anew.
            texts: TaskTexts = comparison.task.of(replace(task, seed=task.seed + check))
            rows = [row for cell in evaluate_task(self.model, texts, grid, comparison.count) for row in cell]
            return Candidate(method, _mean([row.loss for row in rows]), _mean([row.accuracy for row in rows]))
        assert comparison.windows is not None
        cells = evaluate(self.model, comparison.windows[int(check) :: 2], grid)
        return Candidate(method, _mean([row.loss for cell in cells for row in cell]))

    def _spell(self, chosen: dict[tuple[str, str], Value]) -> str:
        parts = []
        for name, given in self._parsed:
            own = {
                key: value if isinstance(value, str) else f"{value:.12g}"
                for (owner, key), value in chosen.items()
                if owner == name
            }
            parts.append(":".join([name, *(f"{key}={value}" for key, value in {**given, **own}.items())]))
        return "+".join(parts)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
