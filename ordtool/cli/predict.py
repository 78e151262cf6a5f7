"""`ordtool predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ordtool.cli.options import (
    BatchSize,
    Device,
    Field,
    Force,
    Json,
    Model,
    OnError,
    Output,
    Quiet,
    Resume,
    Threads,
)

if TYPE_CHECKING:
    from ordtool.cli._predicting import Predicting


def predict(
    model: Model,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE", help="Texts, JSONL (a `vector` or a text), or NPY vectors; none or `-` is stdin."
        ),
    ] = None,
    embed: Annotated[
        str | None,
        typer.Option(
            "--embed",
            metavar="MODEL",
            help="What embeds texts for a model of vectors.  [default: what it was trained with]",
        ),
    ] = None,
    field: Field = "text",
    output: Output = None,
    json: Json = False,
    resume: Resume = False,
    force: Force = False,
    on_error: OnError = "stop",
    quiet: Quiet = False,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Label texts or vectors with a trained classifier.

    A terminal gets the label and its probability, a pipe or `-o` a JSON object a record: the input's keys, `label` and
    `probabilities`. Where the input has a `label`, the accuracy is told at the end.

    Examples: `echo 'Who was Galileo?' | ordtool predict -m model` ·
    `ordtool predict v.npy -m model -o out.jsonl`
    """
    from ordtool.cli._predicting import Predicting, PredictOptions, Reader, load_predictor
    from ordtool.console import RichProgress, stdout_is_terminal
    from ordtool.errors import UsageError
    from ordtool.io.atomic import check_output
    from ordtool.io.resumable import resumable_lines

    if on_error not in ("stop", "skip"):
        raise UsageError(f"unknown --on-error {on_error!r}", "choices: stop, skip")
    check_output(output, force=force or resume)
    _check_inputs(inputs or ["-"])
    progress = RichProgress(quiet)
    options = PredictOptions(embed, device, threads, batch_size)
    predictor = load_predictor(model, options, progress)
    reader = Reader(inputs or [], field, predictor.takes_vectors, on_error == "skip")
    job = Predicting(predictor, reader, progress)
    if stdout_is_terminal() and output is None and not json:
        _show(job)
        return
    files = [] if "-" in (inputs or ["-"]) else list(inputs or [])
    settings = {"model": model, "embed": embed, "field": field}
    with resumable_lines(output, inputs=files, settings=settings, resume=resume, force=force) as lines:
        job.write(lines)


def _check_inputs(inputs: list[str]) -> None:
    """Find missing files, and a keyboard on stdin, before a model loads."""
    from ordtool.cli._predicting import is_npy

    for path in inputs:
        is_npy(path)


def _show(job: Predicting) -> None:
    """Show a person the labels as they come."""
    from ordtool.console import flush, write_line

    for _, item, fields in job.results():
        label = fields["label"]
        write_line(f"{label:<16} {fields['probabilities'][label]:6.1%}  {item.text or item.where}")
        flush()
    job.tell()
