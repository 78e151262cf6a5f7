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
            metavar="FILE", help="Texts, JSONL, TSV, CSV, or vectors (NPY, JSONL); none or `-` is stdin."
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
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", metavar="MODEL", help="Where a ladder's backbone is, if it has moved."),
    ] = None,
    field: Field = "text",
    label_field: Annotated[
        str, typer.Option("--label-field", metavar="KEY", help="A label that is known: the accuracy is told.")
    ] = "label",
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Write the `vector` that each label is read from.")
    ] = False,
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
    """Label texts or vectors with a trained ladder, network or classifier.

    A terminal gets the label and its probability, a pipe or `-o` a JSON object a record: the input's keys, `label` and
    `probabilities` (null where the model gives a score). Where the input has a `label`, the accuracy is told at the end.

    Examples: `echo 'Who was Galileo?' | ordtool predict -m model` ·
    `ordtool predict v.npy -m model -o out.jsonl`
    """
    from ordtool.cli._predicting import Predicting, PredictOptions, load_predictor
    from ordtool.cli._predicting_input import Reader
    from ordtool.console import RichProgress, stdout_is_terminal
    from ordtool.errors import UsageError
    from ordtool.io.atomic import check_output
    from ordtool.io.inputs import check_inputs, read_again
    from ordtool.io.resumable import resumable_lines

    if on_error not in ("stop", "skip"):
        raise UsageError(f"unknown --on-error {on_error!r}", "choices: stop, skip")
    check_output(output, force=force or resume)
    check_inputs(
        inputs or [],
        missing="no input: give a file, or pipe texts or vectors in",
        hint="echo 'Who was Galileo?' | ordtool predict -m MODEL",
    )
    progress = RichProgress(quiet)
    options = PredictOptions(embed, device, threads, batch_size, backbone, vectors)
    predictor = load_predictor(model, options, progress)
    reader = Reader(
        inputs or [],
        field,
        predictor.takes_vectors,
        on_error == "skip",
        predictor.pair_field,
        label_field,
        predictor.labels,
    )
    job = Predicting(predictor, reader, progress)
    if stdout_is_terminal() and output is None and not json:
        _show(job)
        return
    files = read_again(inputs or [])
    settings = {"model": model, "embed": embed, "field": field, "vectors": vectors, "backbone": backbone}
    with resumable_lines(output, inputs=files, settings=settings, resume=resume, force=force) as lines:
        job.write(lines)


def _show(job: Predicting) -> None:
    """Show a person the labels as they come."""
    from ordtool.console import flush, write_line

    for _, item, fields in job.results():
        label, shares = fields["label"], fields["probabilities"]
        share = f"{shares[label]:6.1%}" if shares else ""
        pair = f"  |  {item.pair}" if item.pair is not None else ""
        write_line(f"{label:<16} {share}  {item.text or item.where}{pair}")
        flush()
    job.tell()
