"""`ordtool score text`: BLEU, chrF and ROUGE-L."""

from __future__ import annotations

from typing import Annotated

import typer

from ordtool.cli.options import Force, Json, Output, Quiet, field_options, option


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
    output: Output = None,
    json: Json = False,
    quiet: Quiet = False,
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
    from ordtool.io.atomic import atomic_output, check_output
    from ordtool.io.formats import RowLines, output_format

    table = RowLines(output_format(output, ("jsonl", "csv"), "jsonl" if json else None))
    check_output(output, force=force)
    scores = score_text(
        read_predictions(predicted, field),
        read_references(references, reference_field),
        tokenizer=tokenize,
        lowercase=lowercase,
        progress=console.RichProgress(quiet),
    )
    if output is None and not json and console.stdout_is_terminal():
        row = [f"{scores.bleu:.2f}", f"{scores.chrf:.2f}", f"{scores.rouge_l:.2f}", f"{scores.segments:,}"]
        console.print_table(None, ["BLEU", "chrF", "ROUGE-L", "segments"], [row], to_stderr=False)
        console.note(scores.protocol)
        return
    with atomic_output(output, force=force) as file:
        file.writelines(line.encode() + b"\n" for line in table.lines(scores.to_dict()))
