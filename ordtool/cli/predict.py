"""`ordtool predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ordtool.cli.options import (
    OUT,
    RAY,
    BatchSize,
    Device,
    Force,
    GpusPerWorker,
    Json,
    Model,
    OnError,
    Output,
    Quiet,
    Ray,
    Resume,
    RowFormat,
    Threads,
    Workers,
    option,
    renamed_options,
    usual_values,
)

if TYPE_CHECKING:
    from ordtool.prediction.evaluation import Evaluation
    from ordtool.prediction.predict_files import PredictionRun
    from ordtool.progress import Progress


@usual_values(RAY)
@renamed_options({"--embed": "--embed-model"})
def predict(
    model: Model,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help="Texts, JSONL, TSV, CSV, Parquet, or vectors (NPY, JSONL); none or `-` is stdin.",
        ),
    ] = None,
    embed_model: Annotated[
        str | None,
        option(
            "What embeds texts for a model of vectors.  [default: what it was trained with]", metavar="MODEL"
        ),
    ] = None,
    backbone: Annotated[
        str | None, option("Where a ladder's backbone is, if it has moved.", metavar="MODEL")
    ] = None,
    field: Annotated[
        str | None,
        option(
            "The key, or column, of the text.  [default: text; by the model also tokens, question]",
            metavar="KEY",
        ),
    ] = None,
    label_field: Annotated[
        str | None,
        option(
            "A label that is known, to measure with.  [default: label; by the model also labels, answer]",
            metavar="KEY",
        ),
    ] = None,
    vectors: Annotated[
        bool, option("Write the `vector` that each label is read from.", names="--vectors")
    ] = False,
    output: Output = None,
    metrics: Annotated[
        Path | None,
        option("Write the figures here too, as JSON, where labels are known.", OUT, metavar="FILE"),
    ] = None,
    format: RowFormat = None,
    json: Json = False,
    resume: Resume = False,
    force: Force = False,
    on_error: OnError = "stop",
    quiet: Quiet = False,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    threads: Threads = None,
    workers: Workers = None,
    ray: Ray = None,
    gpus_per_worker: GpusPerWorker = 0.0,
) -> None:
    """Label texts or vectors with a trained ladder, network or classifier.

    A terminal gets the label and its probability, a pipe or `-o` a JSON object a record: the input's keys, `prediction` and
    `probabilities` (null where the model gives a score). Where the input has a `label`, accuracy, macro F1, the figures of
    each class and a confusion table come at the end, on stderr.

    Examples:
        ordtool train bottleneck examples/questions.jsonl --embed-model static --epochs 5 --runs 1 -o sorter
        echo 'Who was Galileo?' | ordtool predict -m sorter
        ordtool predict examples/questions.jsonl -m sorter -o out.jsonl --metrics figures.json
    """
    from ordtool.console import RichProgress, stdout_is_terminal
    from ordtool.io.atomic import check_output
    from ordtool.io.formats import output_format
    from ordtool.io.inputs import check_inputs
    from ordtool.prediction.config import PredictConfig
    from ordtool.prediction.predict_files import FORMATS, PredictionRun
    from ordtool.sharding.plan import input_paths
    from ordtool.sharding.records import ENDINGS
    from ordtool.sharding.run import Scale

    shown = stdout_is_terminal() and output is None and format is None and not json
    format = output_format(output, FORMATS, "jsonl" if json else format)
    check_output(output, force=force or resume)
    check_output(metrics, force=force or resume)
    check_inputs(
        input_paths(inputs or [], (*ENDINGS, ".npy")),
        missing="no input: give a file, or pipe texts or vectors in",
        hint="echo 'Who was Galileo?' | ordtool predict -m MODEL",
    )
    progress = RichProgress(quiet)
    config = PredictConfig(
        model=model,
        field=field,
        label_field=label_field,
        embed_model=embed_model,
        backbone=backbone,
        vectors=vectors,
        on_error=on_error,
        batch_size=batch_size,
        device=device,
        threads=threads,
    )
    run = PredictionRun(inputs or [], config, progress)
    try:
        if shown:
            _show(run)
        else:
            scale = Scale(workers, ray, gpus_per_worker, threads)
            run.write(output, format=format, scale=scale, resume=resume, force=force)
    finally:
        run.tell_skipped()
    if run.evaluation.records:
        _tell(run.evaluation, progress, quiet)
    elif metrics is not None:
        progress.warn(f"no record had a label under {run.fields.label!r}, so there is nothing to measure")
    if metrics is not None:
        _write_metrics(run.evaluation, metrics, force=force or resume)


def _show(run: PredictionRun) -> None:
    """Show a person the labels as they come."""
    from ordtool.console import flush, show

    for item, prediction in run.results():
        pair = f"  |  {item.pair}" if item.pair is not None else ""
        show(prediction.line(f"{item.text or item.where}{pair}"))
        flush()


def _tell(evaluation: Evaluation, progress: Progress, quiet: bool) -> None:
    """Tell a person the figures, on stderr."""
    from ordtool.console import print_table
    from ordtool.prediction.evaluation import summary, tables

    record = evaluation.record()
    progress.note(summary(record))
    for title, columns, rows in [] if quiet else tables(record):
        print_table(title, columns, rows)


def _write_metrics(evaluation: Evaluation, path: Path, *, force: bool) -> None:
    from ordtool.io.atomic import atomic_output
    from ordtool.io.jsonl import dumps

    with atomic_output(path, force=force) as stream:
        stream.write(dumps(evaluation.record()).encode() + b"\n")
