"""`ordtool score text`: BLEU, chrF and ROUGE-L."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ordtool.cli.options import (
    RAY,
    Force,
    GpusPerWorker,
    Json,
    Output,
    Quiet,
    Ray,
    Resume,
    RowFormat,
    Workers,
    field_options,
    option,
    usual_values,
)

if TYPE_CHECKING:
    from ordtool.generation.scoring import TextScores


@usual_values(RAY)
@field_options(tokenizer="tokenize")
def text(
    predicted: Annotated[
        str,
        typer.Argument(metavar="PRED", help="A text a line, or JSONL of `ordtool generate`; `-` is stdin."),
    ],
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="REF...", help="A reference a line, or JSONL; several files are several each."
        ),
    ],
    field: Annotated[str, option("The key of the predictions in JSONL.")] = "output",
    reference_field: Annotated[
        str, option("The key of the references in JSONL: a string or a list of strings.")
    ] = "references",
    tokenize: Annotated[
        str,
        option(
            "BLEU's tokenizer: 13a, intl, zh, char or none; ROUGE-L takes characters for zh and char.",
            autocompletion=lambda: ["13a", "intl", "zh", "char", "none"],
        ),
    ] = "13a",
    lowercase: Annotated[
        bool, option("BLEU and chrF take A for a, as some shared tasks do.", names="--lowercase")
    ] = False,
    workers: Workers = None,
    ray: Ray = None,
    gpus_per_worker: GpusPerWorker = 0.0,
    output: Output = None,
    format: RowFormat = None,
    json: Json = False,
    quiet: Quiet = False,
    resume: Resume = False,
    force: Force = False,
) -> None:
    r"""Score written texts against references: BLEU, chrF and ROUGE-L, in percent.

    Examples:
        printf 'the cat sat on the mat\n' > predictions.txt
        printf 'the cat sat on a mat\n' > references.txt
        ordtool score text predictions.txt references.txt
    """
    from ordtool import console
    from ordtool.generation.scoring import read_predictions, read_references, score_text
    from ordtool.generation.scoring_job import ScoreConfig, score_files
    from ordtool.io import arrow
    from ordtool.io.formats import output_format
    from ordtool.io.inputs import read_again
    from ordtool.sharding.records import FORMATS, write_all
    from ordtool.sharding.run import Scale, Target

    chosen = output_format(output, FORMATS, "jsonl" if json else format)
    arrow.check_format(chosen)
    progress = console.RichProgress(quiet)
    config = ScoreConfig(tokenize, lowercase, Scale(workers, ray, gpus_per_worker, threads=1))
    files = [predicted, *references]
    settings = {
        "field": field,
        "reference_field": reference_field,
        "tokenizer": tokenize,
        "lowercase": lowercase,
        "format": chosen,
    }
    target = Target(output, read_again(files), settings, resume, force)
    target.check()
    texts = read_predictions(predicted, field)
    known = read_references(references, reference_field)
    if output is None and not json and format is None and console.stdout_is_terminal():
        scores = score_text(texts, known, tokenizer=tokenize, lowercase=lowercase, progress=progress)
        row = [f"{scores.bleu:.2f}", f"{scores.chrf:.2f}", f"{scores.rouge_l:.2f}", f"{scores.segments:,}"]
        console.print_table(None, ["BLEU", "chrF", "ROUGE-L", "segments"], [row], to_stderr=False)
        console.note(scores.protocol)
        return

    def write(scores: TextScores, file: BinaryIO) -> None:
        write_all([scores.to_dict()], chosen, file)

    score_files(texts, known, config, target, write, progress)
