"""`ordtool extrapolate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ordtool.cli.options import (
    OUT,
    Device,
    Dtype,
    Field,
    Force,
    Inputs,
    Json,
    OnError,
    Output,
    Quiet,
    Resume,
    Threads,
)

WHAT = "What is compared"
SCORED = "What is scored"
PARAMETERS = "Parameters of the methods"


def _method_names() -> list[str]:
    from ordtool.extrapolation.methods import METHODS

    return [*METHODS, "all"]


def extrapolate(
    inputs: Inputs = None,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="A causal LM with rotary positions: a folder, a name or a hub id."
        ),
    ] = "tinylm",
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            metavar="A,B,...",
            help="Names, joined by + to combine, with parameters: `rerope:window=128+logn`; `all` is every one.",
            rich_help_panel=WHAT,
            autocompletion=_method_names,
        ),
    ] = "none,ntk,yarn,rerope",
    lengths: Annotated[
        str | None,
        typer.Option(
            "--lengths",
            metavar="A,B,...",
            help="Of the context: tokens, or `2x` the trained length.  [default: 1x,2x,4x,8x]",
            rich_help_panel=WHAT,
        ),
    ] = None,
    train_length: Annotated[
        int | None,
        typer.Option(
            "--train-length",
            min=2,
            help="What the model was trained at.  [default: its configuration's]",
            rich_help_panel=WHAT,
        ),
    ] = None,
    last: Annotated[
        str | None,
        typer.Option(
            "--last",
            metavar="TOKENS",
            help="Score the last ones of each window.  [default: half the shortest length]",
            rich_help_panel=SCORED,
        ),
    ] = None,
    windows: Annotated[
        int,
        typer.Option(
            "--windows", min=1, help="Stretches of text, one after the other.", rich_help_panel=SCORED
        ),
    ] = 8,
    by_position: Annotated[
        bool,
        typer.Option(
            "--by-position",
            help="The loss along the text, in --bins parts, at the longest length.",
            rich_help_panel=SCORED,
        ),
    ] = False,
    bins: Annotated[
        int, typer.Option("--bins", min=1, help="Parts of --by-position.", rich_help_panel=SCORED)
    ] = 16,
    repeat: Annotated[
        bool,
        typer.Option("--repeat", help="Score a text that repeats: far memory shows.", rich_help_panel=SCORED),
    ] = False,
    period: Annotated[
        str,
        typer.Option("--period", metavar="TOKENS", help="After which it repeats.", rich_help_panel=SCORED),
    ] = "1x",
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            metavar="TOKENS",
            help="w of window, lambda, rerope, leaky-rerope and self-extend.  [default: 1x, 0.75x, 0.25x, "
            "0.25x, 0.5x]",
            rich_help_panel=PARAMETERS,
        ),
    ] = None,
    factor: Annotated[
        str | None,
        typer.Option(
            "--factor",
            metavar="S",
            help="s, by which texts get longer: a number, or `each` length's own.  [default: the longest's]",
            rich_help_panel=PARAMETERS,
        ),
    ] = None,
    field: Field = "text",
    on_error: OnError = "stop",
    output: Output = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw the curves: .svg, .png or .pdf.", rich_help_panel=OUT
        ),
    ] = None,
    json: Json = False,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Windows a batch.", rich_help_panel="Running")
    ] = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
) -> None:
    """Compare how methods let a model read beyond its trained length.

    The same last tokens of each window of the text are scored with more and more of the text before them. A
    terminal gets a table and a chart, a pipe or `-o` a JSON object a method and length. A file is one text,
    and so is a line of JSONL.

    For example: `ordtool extrapolate book.txt` or
    `ordtool extrapolate book.txt -m MODEL --methods all --plot lengths.svg -o lengths.jsonl`.
    """
    from ordtool.cli._extrapolating import Job, Options
    from ordtool.console import RichProgress

    options = Options(
        inputs=tuple(inputs or ()),
        model=model,
        methods=methods,
        lengths=lengths,
        train_length=train_length,
        last=last,
        windows=windows,
        bins=bins if by_position else None,
        period=period if repeat else None,
        window=window,
        factor=factor,
        field=field,
        on_error=on_error,
        output=output,
        plot=plot,
        json=json,
        resume=resume,
        force=force,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        threads=threads,
    )
    Job(options, RichProgress(quiet), quiet).run()
