"""`ordtool parse`: trees of sentences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ordtool.cli.options import (
    OUT,
    RAY,
    SCALE,
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
    Threads,
    option,
    renamed_options,
    usual_values,
)

if TYPE_CHECKING:
    from ordtool.parsing.result import Parse

TREES = "The trees"
INPUT = "Input"
FORMATS = ("jsonl", "csv", "parquet", "arrow", "brackets", "penn", "tree", "svg", "html")


def _model_names() -> list[str]:
    from ordtool.models.entries import names_of_kind

    return names_of_kind("parser")


@usual_values(RAY)
@renamed_options(
    {
        "--tilt": "--right-branching-bias",
        "--marks": "--punctuation",
        "--no-marks": "--no-punctuation",
    }
)
def parse(
    inputs: Inputs = None,
    model: Annotated[
        list[str] | None,
        option(
            "A folder, or a name from `ordtool models list`; given several times, the models vote."
            "  [default: english]",
            TREES,
            "--model -m",
            autocompletion=_model_names,
        ),
    ] = None,
    builder: Annotated[
        str | None,
        option(
            "`paper`, `unbiased`, `chart` or `mixed`.  [default: the model's]",
            TREES,
            "--builder -b",
            autocompletion=lambda: ["paper", "unbiased", "chart", "mixed"],
        ),
    ] = None,
    layer: Annotated[
        str | None, option("`2`, or a mixture: `2,3` or `2:0.25,3:0.75`.  [default: the model's]", TREES)
    ] = None,
    distance: Annotated[
        str | None,
        option(
            "An ON-LSTM's master gate that measures: `forget`, or `input`.  [default: the model's]",
            TREES,
            autocompletion=lambda: ["forget", "input"],
        ),
    ] = None,
    right_branching_bias: Annotated[
        float | None,
        option(
            "How far trees lean to the right where distances leave it open; 0 not at all.  [default: the model's]",
            TREES,
        ),
    ] = None,
    vote: Annotated[
        str,
        option(
            "Several models agree by their `trees`, or by their `posteriors` of all spans.",
            TREES,
            autocompletion=lambda: ["trees", "posteriors"],
        ),
    ] = "trees",
    weights: Annotated[
        str | None, option("What each model's posteriors count, such as `2,1,1`.  [default: the same]", TREES)
    ] = None,
    binary: Annotated[
        bool,
        option("Draw a binary tree also where a model with labels would leave out spans.", TREES, "--binary"),
    ] = False,
    punctuation: Annotated[
        bool,
        option(
            "Let commas, brackets and other punctuation say where phrases end.",
            TREES,
            "--punctuation/--no-punctuation",
        ),
    ] = True,
    tokenized: Annotated[
        bool, option("Take the tokens between spaces as they stand.", INPUT, "--tokenized")
    ] = False,
    split: Annotated[bool, option("Split running text into sentences.", INPUT, "--split")] = False,
    language: Annotated[str, option("Of running text, for its abbreviations.", INPUT)] = "en",
    input_format: Annotated[
        str, option("auto, text, jsonl, conllu, trees (bracketed) or arrow (Parquet too).", INPUT, "--input")
    ] = "auto",
    field: Field = "text",
    on_error: OnError = "stop",
    batch_size: Annotated[int, option("Sentences a batch, at most.", "Running", min=1)] = 128,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    workers: Annotated[
        int | None,
        option(
            "Processes that parse; with --ray its actors.  [default: one a core for files over 1 MB on the CPU, else 1]",
            SCALE,
            min=1,
        ),
    ] = None,
    ray: Ray = None,
    gpus_per_worker: GpusPerWorker = 0.0,
    output: Output = None,
    output_format: Annotated[
        str,
        option(
            "jsonl, csv, parquet, arrow, brackets, penn (labelled), tree (drawn), svg, html.  "
            "[default: jsonl, drawn on a terminal]",
            OUT,
            "--format -f",
            show_default=False,
            autocompletion=lambda: list(FORMATS),
        ),
    ] = "auto",
    width: Annotated[
        int | None, option("Columns of a drawn tree.  [default: the terminal's]", OUT, min=20)
    ] = None,
    gates: Annotated[
        Path | None,
        option(
            "Instead of trees: an ON-LSTM's master gates over one sentence, .svg, .png, .pdf or .json.",
            OUT,
            metavar="FILE",
        ),
    ] = None,
    json: Json = False,
    posteriors: Annotated[
        bool, option("Add the probabilities of spans to the JSON.", OUT, "--posteriors")
    ] = False,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Draw the trees of sentences.

    Reads a sentence a line, JSON, CoNLL-U, or bracketed trees (files or folders), and finds a tree over each
    sentence's own tokens. A terminal gets drawn trees, a pipe JSON lines: `text, tokens, offsets, distances, spans, tree`.

    The default model, `english`, was never shown a tree: what it knows of phrases it has from raw text. `english-gold`
    learned from treebanks: its phrases may have any number of parts, and it gives labels and parts of speech.

    Examples:
        echo "The children played in the garden." | ordtool parse
        ordtool parse --split examples/story.txt -o story.html
        ordtool parse examples/sentences.jsonl | head -1
    """
    from ordtool import console
    from ordtool.errors import UsageError, close_match_hint
    from ordtool.io.atomic import check_output
    from ordtool.parsing.text.reader import InputConfig, check_inputs
    from ordtool.sharding.run import Scale

    chosen = _output_format(output_format, json, output)
    if on_error not in ("stop", "skip"):
        raise UsageError(f"unknown --on-error {on_error!r}", close_match_hint(on_error, ("stop", "skip")))
    paths = tuple(inputs or ())
    reading = InputConfig(input_format, field, split, language)
    for path in (output, gates):
        check_output(path, force=force)
    if gates is not None and output is not None:
        raise UsageError("--gates writes gates instead of trees, and --output trees", "leave one of them out")
    check_inputs(paths, reading)
    from ordtool.parsing.config import ParseConfig
    from ordtool.parsing.files import ParseFilesConfig, gates_file, parse_files

    how = ParseConfig(
        model=tuple(model or ["english"]),
        layer=layer,
        distance=distance,
        builder=builder,
        right_branching_bias=right_branching_bias,
        vote=vote,
        weights=None if weights is None else _numbers(weights),
        posteriors=posteriors,
        binary=binary,
        punctuation=punctuation,
        tokens="whitespace" if tokenized else None,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )
    config = ParseFilesConfig(
        inputs=paths,
        output=output,
        format=chosen,
        parse=how,
        reading=reading,
        scale=Scale(workers, ray, gpus_per_worker, threads),
        skip_errors=on_error == "skip",
        resume=resume,
        force=force,
    )
    progress = console.RichProgress(quiet)
    if gates is not None:
        gates_file(config, gates, progress)
        return
    if model is None and output is None and console.stdout_is_terminal():
        progress.note(
            "english was never shown a tree; -m english-gold draws labelled ones, as treebanks have them"
        )
    parse_files(
        config,
        progress,
        bar=output is not None or not console.stdout_is_terminal(),  # it would run through what is shown
        draw=_drawing(width, output is None),
    )


def _numbers(text: str) -> tuple[float, ...]:
    from ordtool.errors import UsageError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--weights {text!r} are no numbers", "for example 2,1,1") from None


def _output_format(name: str, json: bool, output: Path | None) -> str:
    from ordtool import console
    from ordtool.errors import UsageError
    from ordtool.io.formats import output_format

    if json and name not in ("auto", "jsonl"):
        raise UsageError(f"--json and --format {name} contradict each other", "leave one of them out")
    asked = "jsonl" if json else None if name == "auto" else name
    if asked is None and output is None and console.stdout_is_terminal():
        return "tree"
    return output_format(output, FORMATS, asked)


def _drawing(width: int | None, terminal: bool) -> Callable[[Parse], str]:
    """Return what draws a tree with lines, in colour where stdout has any."""
    import shutil

    from ordtool import console
    from ordtool.parsing.trees.draw import draw_tree, to_ansi

    colour = terminal and console.stdout_has_colour()

    def draw(parse: Parse) -> str:
        columns = width or shutil.get_terminal_size().columns
        return to_ansi(draw_tree(parse.tokens, parse.spans, columns), colour)

    return draw
