"""What `ordtool extrapolate` does: from options to a grid, its rows to lines, tables and plots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ordtool.errors import OrdtoolError
    from ordtool.extrapolation.evaluation import Grid
    from ordtool.io.resumable import Lines
    from ordtool.progress import Progress

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    inputs: tuple[str, ...]
    model: str
    methods: str
    lengths: str | None
    train_length: int | None
    last: str | None
    windows: int
    bins: int | None
    period: str | None
    window: str | None
    factor: str | None
    field: str
    on_error: str
    output: Path | None
    plot: Path | None
    json: bool
    resume: bool
    force: bool
    batch_size: int
    device: str
    dtype: str
    threads: int | None


class Job:
    """One run: checks first, in the order of their cost, then the grid."""

    def __init__(self, options: Options, progress: Progress, quiet: bool) -> None:
        self.options = options
        self.progress = progress
        self.quiet = quiet
        self.skipped: list[OrdtoolError] = []

    def run(self) -> None:
        """Do it all."""
        from ordtool.console import stdout_is_terminal
        from ordtool.io.inputs import read_again
        from ordtool.io.resumable import resumable_lines
        from ordtool.models.catalog import resolve_model

        options = self.options
        name = self._check()
        folder = resolve_model(name, self.progress, kind="causal")
        grid = self._grid(folder)
        shown = stdout_is_terminal() and options.output is None and not options.json
        if shown:
            self._run(folder, grid, None)
            return
        files = read_again(options.inputs)
        with resumable_lines(
            options.output,
            inputs=files,
            settings=self._settings(name, grid),
            resume=options.resume,
            force=options.force,
        ) as lines:
            self._run(folder, grid, lines)

    def _check(self) -> str:
        """Check what can be checked without a model."""
        from ordtool.errors import UsageError
        from ordtool.extrapolation.plot import check_plot
        from ordtool.io.atomic import check_output
        from ordtool.io.inputs import check_inputs

        options = self.options
        if options.on_error not in ("stop", "skip"):
            raise UsageError(f"unknown --on-error {options.on_error!r}", "choices: stop, skip")
        check_inputs(
            options.inputs,
            missing="no input: give a long text, or pipe one in",
            hint="for example: ordtool extrapolate book.txt",
        )
        if options.plot is not None:
            check_plot(options.plot)
            check_output(options.plot, force=options.force or options.resume)
        return options.model

    def _grid(self, folder: Path) -> Grid:
        """Make the grid, from the options and the trained length."""
        import ordtool.transformer.model  # noqa: F401 (the Auto classes then know the small Transformer)
        from ordtool.errors import UsageError
        from ordtool.extrapolation.evaluation import Grid
        from ordtool.extrapolation.plan import parse_tokens
        from ordtool.extrapolation.rotary import trained_length
        from ordtool.models.causal import load_config

        options = self.options
        train_length = options.train_length or trained_length(load_config(folder))
        if train_length is None:
            raise UsageError(
                f"{folder}: its configuration doesn't say how long its training texts were",
                "say it with --train-length",
            )
        wanted = options.lengths or ("8x" if options.bins else "1x,2x,4x,8x")
        lengths = sorted({parse_tokens(text.strip(), train_length) for text in wanted.split(",")})
        window = parse_tokens(options.window, train_length) if options.window else None
        grid = Grid(
            methods=_split_methods(options.methods),
            lengths=tuple(lengths),
            train_length=train_length,
            last=parse_tokens(options.last, train_length) if options.last else None,
            bins=options.bins,
            factor=_parse_factor(options.factor),
            parameters={"window": window} if window else {},
            batch_size=options.batch_size,
        )
        for method, length in grid.cells():
            grid.plan(method, length)  # unknown names and values end here
        return grid

    def _settings(self, name: str, grid: Grid) -> dict[str, Any]:
        """Give what a resumed run must have in common with the interrupted one."""
        from dataclasses import asdict

        options = self.options
        return {
            **{key: value for key, value in asdict(grid).items() if key != "batch_size"},
            "model": name,
            "windows": options.windows,
            "repeat": options.period,
            "field": options.field,
            "dtype": options.dtype,
        }

    def _run(self, folder: Path, grid: Grid, lines: Lines | None) -> None:
        """Measure, and hand the rows on as they come."""
        from ordtool import console
        from ordtool.extrapolation.evaluation import check_grid, evaluate
        from ordtool.io.jsonl import dumps

        windows = self._windows(folder, grid)
        model = self._load(folder)
        check_grid(model, grid, self.progress)
        self._tell(grid)
        rows = self._earlier() if lines is not None and lines.done else []
        done = lines.done if lines is not None else 0
        try:
            for cell in evaluate(model, windows, grid, start=done, progress=self.progress):
                done += 1
                fresh = [row.to_dict() for row in cell]
                rows += fresh
                if lines is not None:
                    for row in fresh:
                        lines.write(dumps(row))
                    lines.save(done)
        finally:
            if rows and (lines is None or (self.options.output is not None and not self.quiet)):
                from ordtool.cli._extrapolation_view import show

                show(rows, self._title(folder, len(windows), grid), to_stderr=lines is not None)
            if self.skipped:
                self.progress.warn(f"{len(self.skipped)} bad record(s) skipped")
        if self.options.plot is not None:
            self._plot(rows, self._title(folder, len(windows), grid), grid)
            if not self.quiet:
                console.note(f"drawn: {self.options.plot}")

    def _windows(self, folder: Path, grid: Grid) -> torch.Tensor:
        from ordtool.errors import UsageError
        from ordtool.extrapolation.plan import parse_tokens
        from ordtool.extrapolation.texts import cut_windows, gather_texts, repeat_windows
        from ordtool.io.text import read_records
        from ordtool.models.causal import load_tokenizer

        options = self.options
        on_error = self.skipped.append if options.on_error == "skip" else None
        records = list(read_records(list(options.inputs), options.field, on_error=on_error))
        texts = gather_texts(records)
        tokenizer = load_tokenizer(folder)
        length = max(grid.lengths)
        if options.period is not None:
            period = parse_tokens(options.period, grid.train_length)
            if period > length:
                raise UsageError(
                    f"--period of {period:,} tokens is over the longest length of {length:,}",
                    "then nothing repeats",
                )
        windows = cut_windows(
            texts, lambda text: tokenizer.encode(text, add_special_tokens=False), length, options.windows
        )
        if len(windows) < options.windows:
            self.progress.note(
                f"the text gives {len(windows)} of {options.windows} windows of {length:,} tokens"
            )
        return windows if options.period is None else repeat_windows(windows, period)

    def _load(self, folder: Path) -> Any:
        from ordtool.models.causal import load_causal_model
        from ordtool.runtime import resolve_device, resolve_dtype, set_threads

        set_threads(self.options.threads)
        place = resolve_device(self.options.device)
        # Losses are compared to the third decimal, so a CPU computes in float32 unless told otherwise.
        wanted = "float32" if self.options.dtype == "auto" and place.type == "cpu" else self.options.dtype
        return load_causal_model(folder, place, resolve_dtype(wanted, place))

    def _tell(self, grid: Grid) -> None:
        """Say which parameters were taken."""
        told = dict.fromkeys(grid.plan(method, max(grid.lengths)).describe() for method in grid.methods)
        parameters = "; ".join(text for text in told if text)
        if parameters:
            self.progress.note(f"parameters: {parameters}")

    def _title(self, folder: Path, windows: int, grid: Grid) -> str:
        names = ", ".join(
            Path(path).name if path != "-" else "stdin" for path in self.options.inputs or ("-",)
        )
        scored = grid.scored(max(grid.lengths))
        what = "all tokens by position" if grid.bins and grid.last is None else f"the last {scored:,} tokens"
        repeated = f", repeated after {self.options.period}" if self.options.period else ""
        stretches = "1 window" if windows == 1 else f"{windows} windows"
        trained = f"trained length {grid.train_length:,}"
        return f"{folder.name} on {names}{repeated}: {what} of {stretches}, {trained}"

    def _earlier(self) -> Rows:
        """Read what the interrupted run left."""
        import json

        partial = Path(f"{self.options.output}.partial")
        return [json.loads(line) for line in partial.read_text(encoding="utf-8").splitlines()]

    def _plot(self, rows: Rows, title: str, grid: Grid) -> None:
        from ordtool.cli._extrapolation_view import curves
        from ordtool.extrapolation.plot import check_plot, draw_plot
        from ordtool.io.atomic import atomic_output

        assert self.options.plot is not None
        with atomic_output(self.options.plot, force=self.options.force or self.options.resume) as file:
            draw_plot(
                file,
                check_plot(self.options.plot),
                curves(rows),
                train_length=grid.train_length,
                title=title,
                by_position=grid.bins is not None,
            )


def _split_methods(text: str) -> tuple[str, ...]:
    from ordtool.extrapolation.methods import METHODS

    names = [name.strip() for name in text.split(",") if name.strip()]
    found = [one for name in names for one in (METHODS if name == "all" else [name])]
    return tuple(dict.fromkeys(found)) or ("none",)


def _parse_factor(text: str | None) -> float | str | None:
    from ordtool.errors import UsageError

    if text is None or text == "each":
        return text
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = 0.0
    if not 1 <= value < 1e6:
        raise UsageError(f"--factor {text} is no number of 1 or more", "or `each`: every length's own")
    return value
