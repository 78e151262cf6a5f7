"""Methods compared on a model and texts: from what a person asks for to a grid, and to what each method is worth."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from ordtool.arguments import as_many
from ordtool.errors import UsageError, close_match_hint
from ordtool.extrapolation.evaluation import Grid, Measurement, check_grid, evaluate, score_last
from ordtool.extrapolation.methods import METHODS
from ordtool.extrapolation.plan import parse_spec, parse_tokens
from ordtool.extrapolation.rotary import trained_length
from ordtool.extrapolation.task_evaluation import TaskMeasurement, evaluate_task
from ordtool.extrapolation.tasks import TaskSettings, TaskTexts
from ordtool.extrapolation.texts import Text, cut_windows, longest_text, repeat_windows
from ordtool.models.loading import check_causal, load_config, load_model, load_tokenizer
from ordtool.models.resolve import resolve_model
from ordtool.progress import SILENT, Progress
from ordtool.runtime import resolve_device, resolve_dtype, use_threads

if TYPE_CHECKING:
    import torch

DEFAULT_LENGTHS = ("1x", "2x", "4x", "8x")
TASK_LENGTHS = ("1x", "2x", "4x")
SCORES = ("choice", "exact")
_PROBE = 256  # tokens that are read to tell how long all will take
_WORTH_TELLING = 60.0  # seconds: shorter runs need no estimate

Tokens = int | str
"""A number of tokens, or as `4k` (4,096) or `2x` (twice the trained length)."""


@dataclass(frozen=True, slots=True)
class ExtrapolateConfig:
    """How methods of length extrapolation are compared.

    Attributes:
        model: A causal language model: a folder, a name or a hub id.
        methods: Specs, such as `rerope:window=128+logn`; `all` stands for every method.
        lengths: Of the context; None: 1, 2, 4 and 8 times the trained length, as far as the text reaches (with
            `bins` the longest of them alone).
        train_length: What the model was trained at, in tokens; None: its configuration's.
        last: Tokens scored at the end of each window; None: half the shortest length, or with `bins` all.
        windows: Stretches of text of the longest length, one after the other, at most; of a task, texts at each depth.
        bins: Parts by position that are reported apart; None: one figure a length.
        period: Score a text that repeats after so many tokens; None: the text as it is.
        window: w of all methods that take one; None: each one's own.
        factor: s of every method: a number, or `each`: every length's own; None: the longest length's.
        task: Ask for something in the text instead of its loss: `passkey`, `niah`, `kv`, `vt` or `copy`.
        depths: Of a task: where what is asked for stands, 0 (the begin) to 1 (right before the question).
        needles: Of `niah` the facts of a kind, of `vt` the chains besides the one asked for.
        values: Of `niah`: numbers of the needle that is asked for.
        examples: Of a task: solved ones at the text's begin.
        score: Of a task, what a table shows: `choice`, the answer among wrong ones, or `exact`, the greedy answer.
        seed: Of a task's texts.
        max_tokens: Read no more than so many tokens in all: fewer windows, then fewer lengths, are taken.
        batch_size: Windows a batch.
        device: `auto`, `cpu`, `cuda`, `mps`.
        dtype: `auto` (float32 on a CPU), `float32`, `bfloat16` or `float16`.
        threads: CPU threads; None: one a core.

    Raises:
        UsageError: For unknown methods and numbers that make no sense.
    """

    model: str = "tinylm"
    methods: tuple[str, ...] = ("none", "ntk", "yarn", "rerope")
    lengths: tuple[Tokens, ...] | None = None
    train_length: int | None = None
    last: Tokens | None = None
    windows: int = 8
    bins: int | None = None
    period: Tokens | None = None
    window: Tokens | None = None
    factor: float | str | None = None
    task: str | None = None
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    needles: int = 1
    values: int = 1
    examples: int = 0
    score: str = "choice"
    seed: int = 0
    max_tokens: int | None = None
    batch_size: int = 1
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("windows", "bins", "max_tokens", "batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"`{name}` {value} is not possible", "a number of 1 or more")
        if self.train_length is not None and self.train_length < 2:
            raise UsageError(f"`train_length` {self.train_length} is not possible", "a number of 2 or more")
        if isinstance(self.factor, str) and self.factor != "each":
            raise UsageError(
                f"`factor` {self.factor} is no number of 1 or more", "or `each`: every length's own"
            )
        if isinstance(self.factor, int | float) and not 1 <= self.factor < 1e6:
            raise UsageError(
                f"`factor` {self.factor:g} is no number of 1 or more", "or `each`: every length's own"
            )
        for spec in self.specs():
            parse_spec(spec)
        self._check_task()

    def _check_task(self) -> None:
        if self.score not in SCORES:
            raise UsageError(f"unknown `score` {self.score!r}", close_match_hint(self.score, SCORES))
        if self.task is None:
            return
        self.task_settings()
        for name in ("bins", "period", "last"):
            if getattr(self, name) is not None:
                raise UsageError(
                    f"`{name}` is for losses, and `task` {self.task} has none", f"leave out `{name}`"
                )

    def task_settings(self) -> TaskSettings:
        """Return what the texts of the task are like.

        Raises:
            UsageError: For unknown tasks and numbers that make no sense.
        """
        return TaskSettings(self.task or "", self.depths, self.needles, self.values, self.examples, self.seed)

    def specs(self) -> tuple[str, ...]:
        """Return the methods, each once, `all` spelled out but for those that need a file; `none` where there are none."""
        every = [name for name, method in METHODS.items() if not method.needs_file]
        names = [name for given in self.methods for name in (every if given == "all" else [given])]
        return tuple(dict.fromkeys(names)) or ("none",)


class ExtrapolateOptions(TypedDict, total=False):
    """The fields of `ExtrapolateConfig`, as keywords of `extrapolate`."""

    model: str
    methods: tuple[str, ...]
    lengths: tuple[Tokens, ...] | None
    train_length: int | None
    last: Tokens | None
    windows: int
    bins: int | None
    period: Tokens | None
    window: Tokens | None
    factor: float | str | None
    task: str | None
    depths: tuple[float, ...]
    needles: int
    values: int
    examples: int
    score: str
    seed: int
    max_tokens: int | None
    batch_size: int
    device: str
    dtype: str
    threads: int | None


def extrapolate(
    texts: str | Sequence[str],
    config: ExtrapolateConfig | None = None,
    *,
    progress: Progress = SILENT,
    **options: Unpack[ExtrapolateOptions],
) -> list[Measurement] | list[TaskMeasurement]:
    """Compare how methods let a model read beyond its trained length.

    The same last tokens of windows of the text are scored with more and more of the text before them; with `task` it is
    asked for what stands in the text.
    To let a model of your own read and write long texts, see `context_extension`.

    Args:
        texts: A long text, or several; windows don't cross them. With `task` there may be none: a packaged filler is taken.
        config: How; None is the default.
        progress: Told of the tokens read.
        **options: Fields of `ExtrapolateConfig`, instead of or on top of `config`.

    Returns:
        What each method is worth, the shortest length first.

    Raises:
        UsageError: For options that make no sense.
        OrdtoolError: If a text is too short, or a method doesn't fit the model.
    """
    if not isinstance(texts, str | Sequence):
        raise UsageError(
            f"texts are read, and this is a {type(texts).__name__}",
            "to let a model read further: with ordtool.context_extension(model, 'rerope')",
        )
    config = replace(config or ExtrapolateConfig(), **options)
    named = [Text(f"text {number}", text) for number, text in enumerate(as_many(texts), start=1)]
    comparison = Comparison(config, named, progress)
    found: list[Any] = [measurement for cell in comparison.measure() for measurement in cell]
    return found


class Comparison:
    """Methods, lengths and windows of text, worked out for a model; the model itself is loaded to measure.

    Args:
        config: How.
        texts: What is read.
        progress: Told of what was taken, and of the tokens read.

    Attributes:
        folder: The model's.
        grid: What is measured.
        windows: `(windows, longest length)`, token ids; None with a task.
        task: Its texts; None: losses are measured.

    Raises:
        UsageError: For options that make no sense.
        OrdtoolError: If no text is long enough.
    """

    def __init__(self, config: ExtrapolateConfig, texts: Sequence[Text], progress: Progress = SILENT) -> None:
        self.config = config
        self._progress = progress
        self.folder = resolve_model(config.model, progress, kind="causal")
        model_config = load_config(self.folder)
        check_causal(self.folder, model_config)
        train_length = config.train_length or trained_length(model_config)
        if train_length is None:
            raise UsageError(
                f"{self.folder}: its configuration doesn't say how long its training texts were",
                "say it: `train_length`",
            )
        tokenizer = load_tokenizer(self.folder)

        def encode(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False))

        self.task = None if config.task is None else TaskTexts(config.task_settings(), texts, encode)
        lengths = self._lengths(texts, encode, train_length)
        self.count = config.windows
        if config.max_tokens is not None:
            lengths, self.count = self._within(config.max_tokens, lengths)
        self.grid = self._grid(lengths, train_length)
        self.windows = None
        if self.task is None:
            self.windows = self._cut(texts, encode, self.count)
        else:
            self._check_lengths(self.task)

    def _lengths(self, texts: Sequence[Text], encode: Any, train_length: int) -> tuple[int, ...]:
        """Return the lengths of the context, ascending; where none are asked for, those that the text reaches."""
        if self.config.lengths is not None:
            return tuple(sorted({_parse(length, train_length) for length in self.config.lengths}))
        if self.config.task is not None:
            return tuple(parse_tokens(length, train_length) for length in TASK_LENGTHS)
        lengths = [parse_tokens(length, train_length) for length in DEFAULT_LENGTHS]
        reached = longest_text(texts, encode, lengths[-1])
        fitting = [length for length in lengths if length <= reached] or lengths[:1]
        if len(fitting) < len(lengths) and reached >= fitting[0]:
            self._progress.note(
                f"the text has {reached:,} tokens, so the longest length is {fitting[-1]:,} "
                f"({lengths[len(fitting)]:,} would need a longer one)"
            )
        return tuple(fitting[-1:] if self.config.bins else fitting)

    def _within(self, limit: int, lengths: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Return lengths and a number of windows of which no more than `limit` tokens are read."""
        methods = len(self.config.specs()) * (len(self.config.depths) if self.config.task else 1)
        if lengths[0] * methods > limit:
            each = "methods and depths" if self.config.task else "methods"
            raise UsageError(
                f"`max_tokens` {limit:,} are too few: one window of {lengths[0]:,} tokens by {methods} {each} "
                f"is {lengths[0] * methods:,}",
                "ask for shorter lengths, or for fewer methods",
            )
        fitting = lengths
        while sum(fitting) * methods > limit:
            fitting = fitting[:-1]
        count = min(self.config.windows, limit // (sum(fitting) * methods))
        if (fitting, count) != (lengths, self.config.windows):
            left_out = ", ".join(f"{length:,}" for length in lengths[len(fitting) :])
            self._progress.note(
                f"within {limit:,} tokens: {count} of {self.config.windows} windows"
                + (f", without the length(s) {left_out}" if left_out else "")
            )
        return fitting, count

    def _grid(self, lengths: tuple[int, ...], train_length: int) -> Grid:
        config = self.config
        grid = Grid(
            methods=config.specs(),
            lengths=lengths,
            train_length=train_length,
            last=None if config.last is None else _parse(config.last, train_length),
            bins=config.bins,
            factor=config.factor,
            parameters={} if config.window is None else {"window": _parse(config.window, train_length)},
            batch_size=config.batch_size,
        )
        for method, length in grid.cells():
            grid.plan(method, length)  # values that make no sense end here
        return grid

    def _cut(self, texts: Sequence[Text], encode: Any, count: int) -> torch.Tensor:
        length, period = max(self.grid.lengths), None
        if self.config.period is not None:
            period = _parse(self.config.period, self.grid.train_length)
            if period > length:
                raise UsageError(
                    f"`period` of {period:,} tokens is over the longest length of {length:,}",
                    "then nothing repeats",
                )
        windows = cut_windows(texts, encode, length, count)
        if len(windows) < count:
            self._progress.note(f"the text gives {len(windows)} of {count} windows of {length:,} tokens")
        return windows if period is None else repeat_windows(windows, period)

    def _check_lengths(self, task: TaskTexts) -> None:
        """Make one text of each depth at the shortest and the longest length: what can't be asked for ends here."""
        for length in {min(self.grid.lengths), max(self.grid.lengths)}:
            for depth in self.config.depths:
                task.example(length, depth, 0)

    def measure(self, start: int = 0) -> Generator[list[Measurement] | list[TaskMeasurement]]:
        """Load the model and measure.

        Args:
            start: Cells of the grid to pass over.

        Yields:
            The measurements of each cell, in the order of `grid.cells()`.

        Raises:
            OrdtoolError: If a method doesn't fit the model.
        """
        with use_threads(self.config.threads):
            model = self.load()
            self._tell_parameters()
            self._tell_time(model, start)
            if self.task is not None:
                yield from evaluate_task(
                    model, self.task, self.grid, self.count, start=start, progress=self._progress
                )
            elif self.windows is not None:
                yield from evaluate(model, self.windows, self.grid, start=start, progress=self._progress)

    def load(self) -> Any:
        """Load the model, and check that every method fits it.

        Raises:
            OrdtoolError: If one doesn't.
        """
        device = resolve_device(self.config.device)
        # Losses are compared to the third decimal, so a CPU computes in float32 unless told otherwise.
        dtype = "float32" if self.config.dtype == "auto" and device.type == "cpu" else self.config.dtype
        model = load_model(self.folder, "causal", dtype=resolve_dtype(dtype, device), device=device).model
        check_grid(model, self.grid, self._progress)
        return model

    def measure_cell(self, number: int) -> list[Measurement] | list[TaskMeasurement]:
        """Load the model and measure one cell alone: a task, which needs nothing of the other cells.

        Args:
            number: Of the cell, in the order of `grid.cells()`.

        Returns:
            Its measurements, as `measure` gives them.
        """
        with closing(self.measure(number)) as cells:
            return next(cells)

    def _tell_parameters(self) -> None:
        longest = max(self.grid.lengths)
        texts = dict.fromkeys(self.grid.plan(method, longest).describe() for method in self.grid.methods)
        if parameters := "; ".join(text for text in texts if text):
            self._progress.note(f"parameters: {parameters}")

    def _tell_time(self, model: Any, start: int) -> None:
        """Note how long it will take, if that is long, by the time of a few tokens."""
        times = len(self.windows) if self.windows is not None else self.count * len(self.config.depths)
        total = sum(length for _, length in self.grid.cells()[start:]) * times
        if total < 100 * _PROBE:
            return
        tokens = self._some_tokens().to(next(model.parameters()).device)
        score_last(model, tokens, 1)  # the first pass is slower than others
        began = time.perf_counter()
        score_last(model, tokens, 1)
        seconds = (time.perf_counter() - began) / tokens.numel() * total
        if seconds > _WORTH_TELLING:
            self._progress.note(
                f"{total:,} tokens to read, {_duration(seconds)} or more (long contexts take longer), the shortest "
                "length first; a limit on tokens, fewer windows, methods or lengths make it shorter"
            )

    def _some_tokens(self) -> torch.Tensor:
        """Return a short text, `(1, tokens)`, to tell the time of reading by."""
        if self.task is None:
            assert self.windows is not None
            return self.windows[:1, :_PROBE]
        import torch

        prompt = self.task.example(min(self.grid.lengths), self.config.depths[0], 0).prompt
        return torch.tensor([prompt[:_PROBE]])

    def settings(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with the interrupted one."""
        grid = asdict(self.grid)
        del grid["batch_size"]
        return {
            **grid,
            "model": self.config.model,
            "windows": self.config.windows,
            "repeat": self.config.period,
            "dtype": self.config.dtype,
            "max_tokens": self.config.max_tokens,
            **({} if self.task is None else {"task": asdict(self.task.task)}),
        }

    def title(self, sources: Sequence[str]) -> str:
        """Return a line that says what is measured, on texts from `sources`."""
        grid = self.grid
        names = ", ".join(Path(path).name if path != "-" else "stdin" for path in sources)
        if self.task is not None or self.windows is None:
            task = self.config.task
            return (
                f"{self.folder.name}: {task} in {names or 'the packaged filler'}, {self.count} texts at each of "
                f"{len(self.config.depths)} depths, trained length {grid.train_length:,}"
            )
        windows = len(self.windows)
        scored = grid.scored(max(grid.lengths))
        what = "all tokens by position" if grid.bins and grid.last is None else f"the last {scored:,} tokens"
        repeated = f", repeated after {self.config.period}" if self.config.period else ""
        stretches = "1 window" if windows == 1 else f"{windows} windows"
        return (
            f"{self.folder.name} on {names}{repeated}: {what} of {stretches}, "
            f"trained length {grid.train_length:,}"
        )


def _parse(tokens: Tokens, train_length: int) -> int:
    return parse_tokens(str(tokens), train_length)


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
