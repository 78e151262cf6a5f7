"""`ordtool hsic`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ordtool.cli.options import (
    OUT,
    RUN,
    Device,
    Force,
    Json,
    Output,
    Quiet,
    Resume,
    Seed,
    Threads,
    field_options,
    option,
    renamed_options,
)

if TYPE_CHECKING:
    from ordtool.independence.hsic import HsicConfig
    from ordtool.io.runs import RunFolder
    from ordtool.progress import Progress

MEASURE = "What is measured"
TEST = "How chance is ruled out"
READ = "What is read"
MANY_ROWS = 20_000


@field_options(dtype="precision")
@renamed_options({"--embed": "--embed-model"})
def hsic(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="X Y...", help="NPY, JSONL or text files, or folders of layers (NPY)."),
    ],
    given: Annotated[
        str | None,
        option(
            "Measure and test what dependence is left once these are known: NPY, JSONL or texts.",
            MEASURE,
            metavar="Z",
        ),
    ] = None,
    kernel: Annotated[
        str,
        option(
            "gaussian, linear, laplacian or cosine; `gaussian,linear` for left and right.",
            MEASURE,
            autocompletion=lambda: ["gaussian", "linear", "laplacian", "cosine"],
        ),
    ] = "gaussian",
    bandwidth: Annotated[
        str | None,
        option(
            "In the units of the vectors; `1.5,median` for left and right.  [default: median heuristic]",
            MEASURE,
            metavar="SIGMA",
        ),
    ] = None,
    multiples: Annotated[
        str, option("Of the bandwidth; the kernels of several are added up.", MEASURE, metavar="0.5,1,2")
    ] = "1",
    estimator: Annotated[
        str,
        option(
            "unbiased, biased, gretton (biased, over (n-1)^2), or normalized (nHSIC).",
            MEASURE,
            autocompletion=lambda: ["unbiased", "biased", "gretton", "normalized"],
        ),
    ] = "unbiased",
    cka: Annotated[bool, option("Show CKA in the table and the plot.", MEASURE, "--cka")] = False,
    random_features: Annotated[
        int | None, option("Approximate the kernels by D random Fourier features.", MEASURE, metavar="D")
    ] = None,
    test: Annotated[
        str,
        option(
            "permutation, gamma, aggregated (many bandwidths), block (an interval too), or none.",
            TEST,
            autocompletion=lambda: ["permutation", "gamma", "aggregated", "block", "none"],
        ),
    ] = "permutation",
    permutations: Annotated[int, option("How many are drawn.", TEST)] = 1000,
    scheme: Annotated[
        str,
        option(
            "How: cyclic (thousands at once), independent, or auto.",
            TEST,
            autocompletion=lambda: ["auto", "cyclic", "independent"],
        ),
    ] = "auto",
    grid: Annotated[
        str, option("Multiples of the median that the aggregated test looks at.", TEST)
    ] = "0.25,0.5,1,2,4",
    group_rows: Annotated[
        int | None, option("Rows a group of the block test.  [default: the root of their number]", TEST)
    ] = None,
    confidence: Annotated[float, option("Of the block test's interval.", TEST)] = 0.95,
    label_field: Annotated[
        str | None, option("Take this key of the last JSONL file as class labels.", READ, metavar="KEY")
    ] = None,
    embed_model: Annotated[str | None, option("Embed texts with this model.", READ, metavar="MODEL")] = None,
    field: Annotated[str, option("The key of a JSONL file's texts.", READ)] = "text",
    id_field: Annotated[
        str, option("The key of its ids, which must agree where files have them.", READ)
    ] = "id",
    plot: Annotated[Path | None, option("Draw a heat-map: .png, .svg or .pdf.", OUT, metavar="FILE")] = None,
    output: Output = None,
    json: Json = False,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    precision: Annotated[
        str,
        option(
            "float32, float64, or auto: as the vectors are.",
            RUN,
            autocompletion=lambda: ["auto", "float32", "float64"],
        ),
    ] = "auto",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Measure and test whether two sets of vectors depend on each other: HSIC, CKA, a p-value.

    Row i of each file belongs to the same item. Several files are compared pairwise; a folder stands for its layers,
    and two folders give a matrix. A terminal gets a table, a pipe or `-o` a JSON object a pair.

    Examples:
        ordtool hsic examples/questions.jsonl --embed-model static --label-field label
        ordtool embed examples/questions.jsonl -m static -o x.npy
        ordtool embed examples/questions.jsonl -m tinylm -o y.npy
        ordtool hsic x.npy y.npy --cka --kernel linear --test none --plot cka.png
    """
    from ordtool.cli._hsic_view import show
    from ordtool.cli._text_encoder import text_encoder
    from ordtool.console import RichProgress, stdout_is_terminal
    from ordtool.independence.hsic import HsicConfig, compare
    from ordtool.independence.variables import (
        VariablesConfig,
        check_ids,
        read_variable,
        read_variables,
        with_vectors,
    )
    from ordtool.io.atomic import atomic_output, check_output
    from ordtool.io.formats import RowLines, output_format
    from ordtool.io.stages import keeping
    from ordtool.plotting import check_plot

    config = HsicConfig(
        kernel=_one_or_two(kernel),
        bandwidth=_bandwidths(bandwidth),
        multiples=_numbers(multiples, "--multiples"),
        estimator=estimator,
        test=test,
        permutations=permutations,
        scheme=scheme,
        grid=_numbers(grid, "--grid"),
        random_features=random_features,
        group_rows=group_rows,
        confidence=confidence,
        seed=seed,
        dtype=precision,
        threads=threads,
        device=device if device.startswith("cuda") else "cpu",
    )
    if given is not None:
        config.check_given()
    table = RowLines(output_format(output, ("jsonl", "csv"), "jsonl" if json else None))
    plot_format = check_plot(plot) if plot is not None else None
    check_output(output, force=force)
    check_output(plot, force=force or resume)
    progress = RichProgress(quiet)
    encode = text_encoder(embed_model, device, threads, progress)
    sources = [*inputs, *([] if given is None else [given])]
    with _unfinished(output, sources, resume, force) as unfinished:
        variables, pairs = read_variables(inputs, VariablesConfig(label_field, field, id_field), encode)
        known = []
        if given is not None:
            known = [with_vectors(read_variable(given, VariablesConfig(None, field, id_field)), encode)]
            check_ids([*variables, *known])
        else:
            _advise(config, len(variables[0]), progress)
        arrays = [
            (variable.name, variable.rows) for variable in [*variables, *known] if variable.rows is not None
        ]
        reading = {"label_field": label_field, "field": field, "embed_model": embed_model}
        with keeping(_begin(unfinished, sources, {**asdict(config), **reading}, progress)):
            results = compare(
                arrays[: len(variables)],
                pairs,
                config,
                given=arrays[-1] if known else None,
                progress=progress,
            )
        if plot is not None and plot_format is not None:
            from ordtool.independence.alignment import plot_matrix, to_matrix

            matrix = to_matrix(results, "cka" if cka else "statistic")
            with atomic_output(plot, force=force or resume) as file:
                plot_matrix(matrix, file, plot_format, subtitle=_title(config, results[0].n))
        if stdout_is_terminal() and output is None and not json:
            show(results, cka=cka)
        else:
            with atomic_output(output, force=force) as file:
                for result in results:
                    file.writelines(line.encode("utf-8") + b"\n" for line in table.lines(result.record()))


@contextmanager
def _unfinished(
    output: Path | None, sources: list[str], resume: bool, force: bool
) -> Iterator[RunFolder | None]:
    """Hold the folder for what is computed until the output is there; None for a pipe, in or out."""
    from ordtool.io.resumable import check_read_again
    from ordtool.io.runs import partial_folder, run_folder
    from ordtool.io.stages import holds_stages
    from ordtool.io.streams import is_stream, refuse_resume

    files = _files(sources)
    if resume:
        refuse_resume(output)
        check_read_again(files, resume)
    if output is None or is_stream(output) or not files:
        yield None
        return
    with run_folder(partial_folder(output), holds_stages, resume=resume, force=force) as folder:
        yield folder


def _begin(
    folder: RunFolder | None, sources: list[str], settings: dict[str, Any], progress: Progress
) -> Path | None:
    """Begin in the folder, or go on in it; return where stages are kept."""
    from ordtool.io.runs import run_metadata

    if folder is None:
        return None
    decides = {name: value for name, value in settings.items() if name != "threads"}
    folder.start(run_metadata(_files(sources), decides), progress)
    return folder.path


def _files(sources: list[str]) -> list[str]:
    """List the files that inputs stand for; none if one can be read once only."""
    from ordtool.independence.variables import layer_files
    from ordtool.io.inputs import read_again

    return read_again(
        [file for path in sources for file in (layer_files(path) if Path(path).is_dir() else [path])]
    )


def _one_or_two(kernel: str) -> str | tuple[str, str]:
    from ordtool.errors import UsageError

    names = [name.strip() for name in kernel.split(",")]
    if len(names) > 2:
        raise UsageError(f"--kernel {kernel}: one kernel, or two for left and right")
    return (names[0], names[1]) if len(names) == 2 else names[0]


def _bandwidths(text: str | None) -> float | tuple[float | None, float | None] | None:
    from ordtool.errors import OrdtoolError, UsageError

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 2:
        raise UsageError(f"--bandwidth {text}: one number, or two for left and right")
    try:
        values = [None if part == "median" else float(part) for part in parts]
    except ValueError:
        raise UsageError(f"--bandwidth {text}: not a number", "a number, or `median`") from None
    for value in values:
        if value is not None and not 0 < value < float("inf"):
            raise OrdtoolError(f"bandwidth {value:g} is not possible", "a bandwidth is a positive number")
    return (values[0], values[1]) if len(values) == 2 else values[0]


def _numbers(text: str, option: str) -> tuple[float, ...]:
    from ordtool.errors import UsageError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: numbers with commas are expected", "0.25,0.5,1,2,4") from None


def _advise(config: HsicConfig, rows: int, progress: Progress) -> None:
    """Offer what is faster where the exact answer takes a while; never take it."""
    if rows > MANY_ROWS and config.random_features is None and config.test in ("permutation", "aggregated"):
        progress.note(
            f"{rows} rows: an exact test over all pairs takes a while; "
            "--test gamma is exact in the statistic and faster, --random-features 200 approximates"
        )


def _title(config: HsicConfig, rows: int) -> str:
    kernels = config.kernels()
    name = kernels[0] if kernels[0] == kernels[1] else ", ".join(kernels)
    return f"{name} kernel, {config.estimator}, n = {rows:,}"
