"""`ordtool score similarity`: correlation of cosines with people's scores, raw and whitened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ordtool.cli.embed import POOLINGS, VECTOR
from ordtool.cli.options import (
    OUT,
    Device,
    Force,
    Json,
    OnError,
    Output,
    Quiet,
    Threads,
    field_options,
    option,
)

if TYPE_CHECKING:
    from ordtool.embedding.similarity import SimilarityRow

WHITENED = "Whitening"


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
    output: Output = None,
    json: Json = False,
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
    from ordtool.embedding.similarity import OPTIONAL
    from ordtool.embedding.similarity_job import SimilarityConfig, score_pairs
    from ordtool.errors import UsageError
    from ordtool.io.atomic import atomic_output, check_output
    from ordtool.io.formats import RowLines, output_format
    from ordtool.plotting import check_plot

    if model is not None and vectors:
        raise UsageError(
            "--model and --vectors contradict each other", "vectors are there already: leave out --model"
        )
    if plot is not None and dims is None:
        raise UsageError("--plot draws a curve by --dims", "--dims 16,32,64,128")
    table = RowLines(output_format(output, ("jsonl", "csv"), "jsonl" if json else None))
    plot_format = check_plot(plot) if plot is not None else None
    for path in (output, plot):
        check_output(path, force=force)
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
    )
    rows = score_pairs(config, console.RichProgress(quiet))
    optional = [name for name in OPTIONAL if any(getattr(row, name) is not None for row in rows)]
    if output is None and not json and console.stdout_is_terminal():
        _print(rows, optional)
    else:
        with atomic_output(output, force=force) as file:
            for row in rows:
                lines = table.lines(row.to_dict(optional))
                file.writelines(line.encode() + b"\n" for line in lines)
    if plot is not None and plot_format is not None:
        from ordtool.embedding.similarity_plot import draw_dims

        with atomic_output(plot, force=force) as file:
            draw_dims(rows, file, plot_format)


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
