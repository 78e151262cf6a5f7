"""`ordtool extrapolate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ordtool.cli.options import (
    OUT,
    RAY,
    Device,
    Dtype,
    Field,
    Force,
    GpusPerWorker,
    Inputs,
    Json,
    OnError,
    Output,
    Quiet,
    Ray,
    Resume,
    Seed,
    Threads,
    Workers,
    option,
    usual_values,
)

if TYPE_CHECKING:
    from ordtool.errors import BadRecords
    from ordtool.extrapolation.texts import Text
    from ordtool.io.resumable import Lines

Rows = list[dict[str, Any]]
Cells = Iterator[Any]

WHAT = "What is compared"
SCORED = "What is scored"
PARAMETERS = "Parameters of the methods"
TASK = "What is asked for, instead of the loss"


def _method_names() -> list[str]:
    from ordtool.extrapolation.methods import METHODS

    return [*METHODS, "all"]


def _task_names() -> list[str]:
    from ordtool.extrapolation.tasks import TASKS

    return list(TASKS)


@usual_values(RAY)
def extrapolate(
    inputs: Inputs = None,
    model: Annotated[
        str, option("A causal LM with rotary positions: a folder, a name or a hub id.", names="--model -m")
    ] = "tinylm",
    methods: Annotated[
        str,
        option(
            "Names, joined by + to combine, with parameters: `rerope:window=128+logn`; `all` is every one.",
            WHAT,
            metavar="A,B,...",
            autocompletion=_method_names,
        ),
    ] = "none,ntk,yarn,rerope",
    lengths: Annotated[
        str | None,
        option(
            "Of the context: tokens, or `2x` the trained length.  [default: 1x,2x,4x,8x, as far as the text reaches]",
            WHAT,
            metavar="A,B,...",
        ),
    ] = None,
    train_length: Annotated[
        int | None, option("What the model was trained at.  [default: its configuration's]", WHAT, min=2)
    ] = None,
    last: Annotated[
        str | None,
        option(
            "Score the last ones of each window.  [default: half the shortest length]",
            SCORED,
            metavar="TOKENS",
        ),
    ] = None,
    windows: Annotated[
        int, option("Stretches of text, one after the other; of --task, texts at each depth.", SCORED, min=1)
    ] = 8,
    by_position: Annotated[
        bool,
        option("The loss along the text, in --bins parts, at the longest length.", SCORED, "--by-position"),
    ] = False,
    bins: Annotated[int, option("Parts of --by-position.", SCORED, min=1)] = 16,
    repeat: Annotated[
        bool, option("Score a text that repeats: far memory shows.", SCORED, "--repeat")
    ] = False,
    period: Annotated[str, option("After which it repeats.", SCORED, metavar="TOKENS")] = "1x",
    task: Annotated[
        str | None,
        option(
            "passkey, niah (needles among the text), kv (a key's value), vt (variables that share a value) or copy. "
            "Without a file a packaged text is taken.",
            TASK,
            autocompletion=_task_names,
        ),
    ] = None,
    depths: Annotated[
        str, option("Where it stands: 0 is the begin, 1 right before the question.", TASK, metavar="A,B,...")
    ] = "0,0.25,0.5,0.75,1",
    needles: Annotated[
        int, option("niah: facts of a kind; vt: chains besides the one asked for.", TASK, min=1)
    ] = 1,
    values: Annotated[int, option("niah: numbers of the needle that is asked for.", TASK, min=1)] = 1,
    examples: Annotated[int, option("Solved ones at the begin of the text.", TASK, min=0)] = 0,
    score: Annotated[
        str,
        option(
            "What the table shows: choice (the answer is likelier than nine wrong ones) or exact (the greedy answer).",
            TASK,
            autocompletion=lambda: ["choice", "exact"],
        ),
    ] = "choice",
    seed: Seed = 0,
    window: Annotated[
        str | None,
        option(
            "w of window, lambda, rerope, leaky-rerope and self-extend.  [default: 1x, 0.75x, 0.25x, "
            "0.25x, 0.5x]",
            PARAMETERS,
            metavar="TOKENS",
        ),
    ] = None,
    factor: Annotated[
        str | None,
        option(
            "s, by which texts get longer: a number, or `each` length's own.  [default: the longest's]",
            PARAMETERS,
            metavar="S",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        option("Read no more in all: fewer windows, then fewer lengths, are taken.", SCORED, min=1),
    ] = None,
    field: Field = "text",
    on_error: OnError = "stop",
    output: Output = None,
    plot: Annotated[Path | None, option("Draw the curves: .svg, .png or .pdf.", OUT, metavar="FILE")] = None,
    timings: Annotated[
        bool, option("Write tokens a second and memory too, which differ from run to run.", OUT, "--timings")
    ] = False,
    explain: Annotated[
        bool,
        option(
            "Read nothing: tell the turns of every frequency, what methods make of them at the longest of --lengths [8x], "
            "the least base, and what the context costs.",
            WHAT,
            "--explain",
        ),
    ] = False,
    tune: Annotated[
        str | None,
        option(
            "Choose this method's parameters on the text, by its loss or by --task, and write it as --methods and "
            "`generate --context` take it. -o is for all that was tried.",
            WHAT,
            metavar="METHOD",
        ),
    ] = None,
    factors: Annotated[
        Path | None,
        option("Of --tune longrope and dpe: where what a search finds goes.", WHAT, metavar="FILE"),
    ] = None,
    json: Json = False,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    batch_size: Annotated[int, option("Windows a batch.", "Running", min=1)] = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    workers: Workers = None,
    ray: Ray = None,
    gpus_per_worker: GpusPerWorker = 0.0,
) -> None:
    """Compare how methods let a model read beyond its trained length.

    The same last tokens of each window of the text are scored with more and more of the text before them. A
    terminal gets a table and a chart, a pipe or `-o` a JSON object a method and length. A file is one text,
    and so is a line of JSONL.

    Examples:
        ordtool extrapolate examples/story.txt
        ordtool extrapolate examples/story.txt --methods none,rerope --lengths 1x,4x --plot lengths.svg
        ordtool extrapolate examples/story.txt --tune rerope --lengths 1x,2x
        ordtool extrapolate --task passkey --methods none,rerope --lengths 2x --depths 0,1 --windows 1 --plot passkey.svg
    """
    from ordtool.cli._explanation_view import write_explanation
    from ordtool.cli._extrapolation_tuning import is_searched, tune_parameters, tune_to_file
    from ordtool.cli._extrapolation_view import draw_rows, show, show_task
    from ordtool.console import RichProgress, stdout_is_terminal
    from ordtool.errors import BadRecords, UsageError
    from ordtool.io.atomic import check_output
    from ordtool.io.formats import output_format
    from ordtool.io.inputs import check_inputs, read_again
    from ordtool.io.resumable import resumable_lines
    from ordtool.plotting import check_plot
    from ordtool.progress import warn_each
    from ordtool.runtime import importing

    with importing():
        from ordtool.extrapolation.cells import measure_cells
        from ordtool.extrapolation.comparison import Comparison, ExtrapolateConfig
        from ordtool.sharding.run import Scale

    scale = Scale(workers, ray, gpus_per_worker, threads)
    if not scale.alone and (explain or tune is not None):
        raise UsageError("workers share the cells of a comparison", "without --explain and --tune")
    if tune is not None and (plot is not None or resume):
        raise UsageError(f"--{'plot' if plot else 'resume'} doesn't go with --tune", "leave one of them out")
    if factors is not None and not is_searched(tune or ""):
        raise UsageError("--factors is of --tune longrope and dpe", "leave it out")
    if tune is not None and is_searched(tune) and output is not None:
        raise UsageError(f"--tune {tune} writes its --factors alone", "leave out -o")
    progress = RichProgress(quiet)
    config = ExtrapolateConfig(
        model=model,
        methods=tuple(name.strip() for name in methods.split(",") if name.strip()),
        lengths=tuple(part.strip() for part in lengths.split(",")) if lengths else None,
        train_length=train_length,
        last=last,
        windows=windows,
        bins=bins if by_position else None,
        period=period if repeat else None,
        window=window,
        factor=_parse_factor(factor),
        task=task,
        depths=_parse_depths(depths),
        needles=needles,
        values=values,
        examples=examples,
        score=score,
        seed=seed,
        max_tokens=max_tokens,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        threads=threads,
    )
    if explain:
        write_explanation(config, inputs, output, plot, json=json, force=force, progress=progress)
        return
    if task is None or inputs:
        check_inputs(
            inputs or (),
            missing="no input: give a long text, or pipe one in",
            hint="for example: ordtool extrapolate book.txt",
        )
    if plot is not None:
        check_plot(plot)
        check_output(plot, force=force or resume)
    output_format(output, ("jsonl",), "jsonl" if json else None)
    check_output(output, force=force)
    skipped = BadRecords()
    texts = [] if task is not None and not inputs else _read_texts(inputs or (), field, on_error, skipped)
    if tune is not None:
        if is_searched(tune):
            tune_to_file(tune, config, texts, factors, force=force, progress=progress)
        else:
            tune_parameters(tune, config, texts, output, force=force, progress=progress)
        warn_each(skipped.report(), progress)
        return
    comparison = Comparison(config, texts, progress)

    def cells(start: int = 0) -> Cells:
        return measure_cells(comparison, texts, scale, progress, start)

    title = comparison.title(inputs or (() if task is not None else ("-",)))
    rows: Rows = []
    to_terminal = stdout_is_terminal() and output is None and not json
    try:
        if to_terminal:
            for cell in cells():
                rows += [measurement.to_dict() for measurement in cell]
        else:
            with resumable_lines(
                output,
                inputs=read_again(inputs or _packaged(task)),
                settings={**comparison.settings(), "field": field, "timings": timings},
                resume=resume,
                force=force,
            ) as lines:
                _write(cells, lines, rows, timings=timings)
    finally:
        if rows and (to_terminal or (output is not None and not quiet)):
            if task is not None:
                show_task(rows, title, score, to_stderr=not to_terminal)
            else:
                show(rows, title, to_stderr=not to_terminal)
        warn_each(skipped.report(), progress)
    if plot is not None:
        draw_rows(plot, rows, title, comparison, force=force or resume)
        progress.note(f"drawn: {plot}")


def _read_texts(inputs: Sequence[str], field: str, on_error: str, skipped: BadRecords) -> list[Text]:
    from ordtool.errors import UsageError
    from ordtool.extrapolation.texts import gather_texts
    from ordtool.io.text import read_records

    if on_error not in ("stop", "skip"):
        raise UsageError(f"unknown --on-error {on_error!r}", "choices: stop, skip")
    records = read_records(list(inputs), field, on_error=skipped.append if on_error == "skip" else None)
    return gather_texts(list(records))


def _write(cells: Callable[[int], Cells], lines: Lines, rows: Rows, *, timings: bool) -> None:
    """Write a line a measurement, and add to `rows` what there is: of an interrupted run too."""
    from json import loads

    from ordtool.io.jsonl import dumps
    from ordtool.io.resumable import reading_back

    done = lines.done
    if done:
        with reading_back(lines.file.name):
            rows += [dict(loads(line)) for line in lines.earlier()]
    for cell in cells(done):
        done += 1
        rows += [measurement.to_dict() for measurement in cell]
        for measurement in cell:
            lines.write(dumps(measurement.to_dict(timings=timings)))
        lines.save(done)


def _parse_factor(text: str | None) -> float | str | None:
    """Return a number, or the text where it is none: the config then refuses it, but for `each`."""
    try:
        return None if text is None else float(text.removesuffix("x"))
    except ValueError:
        return text


def _packaged(task: str | None) -> list[str]:
    """Return the file of the packaged filler where a task has no other text: a resumed run must find it unchanged."""
    from ordtool.extrapolation import filler

    return [] if task is None else [str(filler.__file__)]


def _parse_depths(text: str) -> tuple[float, ...]:
    from ordtool.errors import UsageError

    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"depths are numbers, found {text!r}", "for example --depths 0,0.5,1") from None
