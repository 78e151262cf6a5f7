"""`ordtool score similarity`: correlation of cosines with people's scores, raw and whitened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ordtool.cli.embed import POOLINGS, VECTOR
from ordtool.cli.options import (
    OUT,
    RAY,
    Device,
    Force,
    GpusPerWorker,
    Json,
    OnError,
    Output,
    Quiet,
    Ray,
    Resume,
    RowFormat,
    Threads,
    Workers,
    field_options,
    option,
    usual_values,
)

if TYPE_CHECKING:
    from ordtool.embedding.similarity import SimilarityRow

WHITENED = "Whitening"


@usual_values(RAY)
@field_options(settings="setting")
def similarity(
    pairs: Annotated[
        str,
        typer.Argument(
            metavar="PAIRS",
            help="CSV, TSV or JSONL with two sentences and a score, or a folder of tasks (STS12, SICK, ATEC, ...); "
            "none or `-` is stdin.",
            show_default=False,
        ),
    ] = "-",
    model: Annotated[
        str | None,
        option(
            "A folder, a name from `ordtool models list`, or a hub id.  [default: minilm]",
            VECTOR,
            "--model -m",
        ),
    ] = None,
    vectors: Annotated[
        list[str] | None,
        option(
            "Vectors instead of a model: a file with both sentences of each pair in turn, or (given twice) the "
            "first sentences and the second ones.",
            VECTOR,
            metavar="NPY",
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        option(
            f"{', '.join(POOLINGS)}.  [default: the model's own, or mean]",
            VECTOR,
            autocompletion=lambda: POOLINGS,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        option(
            "Average these layers (0: the embeddings, -1: the last); `all` scores each.",
            VECTOR,
            metavar="1,-1",
        ),
    ] = None,
    skip_first: Annotated[
        int | None,
        option("Tokens at the start that aren't pooled.  [default: 1 for causal LMs, else 0]", VECTOR, min=0),
    ] = None,
    prompt: Annotated[
        str | None, option("One of the model's prompts by name, or a text to put first.", VECTOR)
    ] = None,
    setting: Annotated[
        list[str] | None,
        option(
            "One more row, whitened with these options; may be given several times.",
            WHITENED,
            metavar="beta=0,gamma=0,dims=128",
        ),
    ] = None,
    dims: Annotated[
        str | None,
        option(
            "More rows: the plain whitening and each setting cut to so many columns.",
            WHITENED,
            metavar="16,32,64",
        ),
    ] = None,
    transform: Annotated[
        Path | None, option("Whiten with what `ordtool whiten --save` fitted.", WHITENED, metavar="FILE")
    ] = None,
    fit_on: Annotated[
        str | None,
        option(
            "Fit on these: pairs, texts, a folder of tasks, or with --vectors an NPY file.  "
            "[default: the sentences scored]",
            WHITENED,
            metavar="FILE",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        option(
            "Columns by name or position from 1.  [default: sentence1,sentence2,score or the first three]",
            metavar="A,B,SCORE",
        ),
    ] = None,
    on_error: OnError = "stop",
    device: Device = "auto",
    dtype: Annotated[
        str,
        option(
            "float32, so that scores are the same on every machine; auto, bfloat16 or float16.",
            "Running",
            envvar="ORDTOOL_DTYPE",
        ),
    ] = "float32",
    threads: Threads = None,
    plot: Annotated[
        Path | None, option("Draw Spearman's correlation by --dims: .png, .svg or .pdf.", OUT, metavar="FILE")
    ] = None,
    workers: Workers = None,
    ray: Ray = None,
    gpus_per_worker: GpusPerWorker = 0.0,
    output: Output = None,
    format: RowFormat = None,
    json: Json = False,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    r"""Score sentence vectors on pairs with a similarity: Spearman's and Pearson's correlation in percent.

    A row for the raw vectors, one for the whitened ones, one for each `--setting`; each says what the transform was
    fitted on. A pipe or `--json` gets one JSON object a row.

    Examples:
        printf 'A man sings.\tA man is singing.\t5\nIt rains.\tIt is wet.\t3\nA dog runs.\tPrices rose.\t0\n' > pairs.tsv
        ordtool score similarity pairs.tsv -m static
        ordtool score similarity pairs.tsv -m static --setting beta=0,gamma=0,dims=2
    """
    from ordtool import console
    from ordtool.embedding.encoder import EncoderConfig
    from ordtool.embedding.similarity_job import SimilarityConfig, score_pairs
    from ordtool.errors import UsageError
    from ordtool.io import arrow
    from ordtool.io.atomic import atomic_output, check_output
    from ordtool.io.formats import output_format
    from ordtool.plotting import check_plot
    from ordtool.sharding.records import FORMATS, write_all
    from ordtool.sharding.run import Scale, Target

    if model is not None and vectors:
        raise UsageError(
            "--model and --vectors contradict each other", "vectors are there already: leave out --model"
        )
    if plot is not None and dims is None:
        raise UsageError("--plot draws a curve by --dims", "--dims 16,32,64,128")
    chosen = output_format(output, FORMATS, "jsonl" if json else format)
    arrow.check_format(chosen)
    plot_format = check_plot(plot) if plot is not None else None
    check_output(output, force=force)
    check_output(plot, force=force or resume)
    encoder = EncoderConfig(
        model=model or "minilm",
        pooling=pooling,
        layers=layers,
        skip_first=skip_first,
        prompt=prompt,
        device=device,
        dtype=dtype,
        threads=threads,
    )
    config = SimilarityConfig(
        pairs,
        encoder,
        vectors=tuple(vectors or ()),
        columns=tuple(name.strip() for name in columns.split(",")) if columns else None,
        settings=tuple(setting or ()),
        dims=_counts(dims),
        transform=transform,
        fit_on=fit_on,
        on_error=on_error,
        scale=Scale(workers, ray, gpus_per_worker, threads),
    )
    progress = console.RichProgress(quiet)
    target = Target(
        output, _inputs(pairs, fit_on), config.settings_of_run() | {"format": chosen}, resume, force
    )

    def write(rows: list[SimilarityRow], file: BinaryIO) -> None:
        optional = _optional(rows)
        write_all((row.to_dict(optional) for row in rows), chosen, file)

    if output is None and not json and format is None and console.stdout_is_terminal():
        rows = score_pairs(config, progress)
        _print(rows, _optional(rows))
    else:
        rows = score_pairs(config, progress, target=target, write=write)
    if plot is not None and plot_format is not None:
        from ordtool.embedding.similarity_plot import draw_dims

        with atomic_output(plot, force=force or resume) as file:
            draw_dims(rows, file, plot_format)


def _inputs(pairs: str, fit_on: str | None) -> list[str]:
    """List the files that a resumed run must find unchanged; none where one can be read once only."""
    from ordtool.io.inputs import read_again

    found = []
    for path in filter(None, (pairs, fit_on)):
        folder = Path(path)
        found += sorted(str(one) for one in folder.rglob("*") if one.is_file()) if folder.is_dir() else [path]
    return read_again(found)


def _optional(rows: list[SimilarityRow]) -> list[str]:
    from ordtool.embedding.similarity import OPTIONAL

    return [name for name in OPTIONAL if any(getattr(row, name) is not None for row in rows)]


def _counts(text: str | None) -> tuple[int, ...]:
    from ordtool.errors import UsageError

    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"--dims {text}: numbers with commas are expected", "16,32,64") from None


def _print(rows: list[SimilarityRow], optional: list[str]) -> None:
    from ordtool import console

    cells = [
        [
            *([row.task or "", row.part or ""] if "task" in optional else []),
            row.vectors,
            row.transform,
            "-" if row.spearman is None else f"{row.spearman:.2f}",
            "-" if row.pearson is None else f"{row.pearson:.2f}",
            row.fitted_on or "",
        ]
        for row in rows
    ]
    columns = ["vectors", "transform", "Spearman", "Pearson", "fitted on"]
    if "task" in optional:
        columns = ["task", "part", *columns]
    title = "percent" if "task" in optional else f"{rows[0].pairs:,} pairs, percent"
    console.print_table(title, columns, cells, to_stderr=False)
