"""`ordtool score agreement`: minimal pairs by a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ordtool.cli.options import OUT, Device, Dtype, Force, Json, Output, Quiet, Threads, option


def agreement(
    pairs: Annotated[
        str,
        typer.Argument(metavar="PAIRS", help="JSONL or a table with `good` and `bad`; `-` is stdin."),
    ],
    model: Annotated[
        str, option("A causal model: an ON-LSTM, a folder, a name or a hub id.", names="--model -m")
    ] = "english-onlstm",
    start: Annotated[
        str | None,
        option(
            "The token that sentences stand behind.  [default: the one that begins a text]", metavar="TOKEN"
        ),
    ] = None,
    details: Annotated[
        Path | None, option("Write each pair with the scores of its words as JSONL.", OUT, metavar="FILE")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    output: Output = None,
    json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Score minimal pairs: how often a language model finds the good sentence more probable.

    Examples:
        ordtool score agreement examples/agreement.jsonl
        ordtool score agreement examples/agreement.jsonl -m tinylm --details pairs.jsonl
    """
    from ordtool import console
    from ordtool.generation.agreement import read_pairs, score_agreement, summarize
    from ordtool.io.atomic import atomic_output, check_output
    from ordtool.io.formats import RowLines, output_format
    from ordtool.io.inputs import check_inputs
    from ordtool.runtime import set_threads

    table = RowLines(output_format(output, ("jsonl", "csv"), "jsonl" if json else None))
    for path in (output, details):
        check_output(path, force=force)
    check_inputs([pairs])
    set_threads(threads)
    progress = console.RichProgress(quiet)
    try:
        scores = score_agreement(
            read_pairs(pairs), model, start=start, device=device, dtype=dtype, progress=progress
        )
    finally:
        progress.close()
    if details is not None:
        lines = RowLines("jsonl")
        with atomic_output(details, force=force) as file:
            for score in scores:
                file.writelines(line.encode() + b"\n" for line in lines.lines(score.to_dict()))
    rows = summarize(scores)
    if output is None and not json and console.stdout_is_terminal():
        cells = [[row.type, f"{row.accuracy:.1f}", f"{row.pairs:,}", f"{row.same:,}"] for row in rows]
        console.print_table(None, ["type", "accuracy (%)", "pairs", "same"], cells, to_stderr=False)
        console.note("chance is 50; same: the vocabulary lacks what differs, counted as wrong")
        return
    with atomic_output(output, force=force) as file:
        for row in rows:
            file.writelines(line.encode() + b"\n" for line in table.lines(row.to_dict()))
