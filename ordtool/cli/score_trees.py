"""`ordtool score trees`: F1 of trees, with its protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ordtool.cli.options import OUT, Force, Json, Output, Quiet, option

if TYPE_CHECKING:
    from ordtool.parsing.trees.scoring import Protocol, Row

PROTOCOL = "Protocol"
LABELS_SHOWN = 5


def trees(
    predicted: Annotated[
        str,
        typer.Argument(metavar="PRED", help="JSONL of `ordtool parse`, or bracketed trees; `-` is stdin."),
    ],
    gold: Annotated[
        list[str], typer.Argument(metavar="GOLD...", help="Files or folders of Penn-style trees.")
    ],
    protocol: Annotated[
        str, option("default, kim, wsj10 or wsj40; the options below change it.", PROTOCOL)
    ] = "default",
    punctuation: Annotated[
        str | None,
        option(
            "`remove` (by tag, and tokens without a letter or digit), `tags` (by tag alone) or `keep`.",
            PROTOCOL,
        ),
    ] = None,
    whole_span: Annotated[
        bool | None, option("Count the span of the whole sentence.", PROTOCOL, "--whole-span/--no-whole-span")
    ] = None,
    unary_roots: Annotated[
        bool | None,
        option(
            "Keep a second node over the whole sentence in the gold, as Kim et al. do.",
            PROTOCOL,
            "--unary-roots/--no-unary-roots",
        ),
    ] = None,
    min_length: Annotated[int | None, option("Shortest sentence, in words.", PROTOCOL, min=1)] = None,
    max_length: Annotated[int | None, option("Longest sentence, in words.", PROTOCOL, min=1)] = None,
    empty_gold: Annotated[
        str | None, option("A gold tree without spans: `one` (recall 1) or `skip`.", PROTOCOL)
    ] = None,
    binarize_gold: Annotated[str | None, option("Binarise the gold: none, left or right.", PROTOCOL)] = None,
    labels: Annotated[
        bool,
        option(
            "Score labels too, as EVALB does: precision, recall and F1 of labelled nodes.", names="--labels"
        ),
    ] = False,
    baselines: Annotated[
        bool, option("Score left, right, balanced and random trees too.", names="--baselines/--no-baselines")
    ] = True,
    seed: Annotated[int, option("Of the random trees.", envvar="ORDTOOL_SEED", min=0, max=2**32 - 1)] = 0,
    plot: Annotated[
        Path | None, option("Draw F1 by length: .png, .svg or .pdf.", OUT, metavar="FILE")
    ] = None,
    output: Output = None,
    json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Score predicted trees against a treebank: sentence and corpus F1, recall by label, F1 by length.

    Left-, right-branching, balanced and random trees go through the same scorer, because a figure means little without
    them. A pipe or `--json` gets one JSON object a row.

    Examples:
        ordtool parse examples/sentences.txt --format brackets -o gold.mrg
        ordtool parse gold.mrg -m english-onlstm -o pred.jsonl
        ordtool score trees pred.jsonl gold.mrg --plot f1.svg
    """
    from ordtool import console
    from ordtool.io.atomic import atomic_output, check_output
    from ordtool.io.formats import RowLines, output_format
    from ordtool.parsing.trees.predictions import align_constituents, align_predictions, read_predictions
    from ordtool.parsing.trees.scoring import score_pairs
    from ordtool.parsing.trees.treebank import read_trees
    from ordtool.plotting import check_plot, save_figure

    changes = {
        "punctuation": punctuation,
        "whole_span": whole_span,
        "unary_roots": unary_roots,
        "min_length": min_length,
        "max_length": max_length,
        "empty_gold": empty_gold,
        "binarize_gold": binarize_gold,
    }
    chosen = _protocol(protocol, changes)
    table = RowLines(output_format(output, ("jsonl", "csv"), "jsonl" if json else None))
    plot_format = None if plot is None else check_plot(plot)
    for path in (output, plot):
        check_output(path, force=force)
    progress = console.RichProgress(quiet)
    progress.start("scoring", None, "trees")
    align = align_constituents if labels else align_predictions
    rows = score_pairs(
        align(read_predictions(predicted), read_trees(gold)),
        chosen,
        system=predicted,
        baselines=baselines,
        labels=labels,
        seed=seed,
        on_sentence=progress.advance,
    )
    progress.close()
    if rows[0].sentences == 0:
        progress.warn(f"no sentence was counted (protocol: {chosen.name})")
    if plot is not None and plot_format is not None:
        from ordtool.parsing.trees.score_plot import draw_f1_by_length

        figure = draw_f1_by_length(rows)
        with atomic_output(plot, force=force) as file:
            save_figure(figure, file, plot_format)
    if output is None and not json and console.stdout_is_terminal():
        _print(rows)
    else:
        with atomic_output(output, force=force) as file:
            for row in rows:
                file.writelines(line.encode() + b"\n" for line in table.lines(row.to_dict()))


def _protocol(name: str, changes: dict[str, Any]) -> Protocol:
    """A named protocol with the options given changed."""
    from dataclasses import replace

    from ordtool.errors import UsageError, close_match_hint
    from ordtool.parsing.trees.scoring import PROTOCOLS

    choices = {
        "protocol": tuple(PROTOCOLS),
        "punctuation": ("remove", "tags", "keep"),
        "empty-gold": ("one", "skip"),
        "binarize-gold": ("none", "left", "right"),
    }
    given = {"protocol": name} | {key.replace("_", "-"): value for key, value in changes.items()}
    for asked, values in choices.items():
        value = given[asked]
        if value is not None and value not in values:
            raise UsageError(f"unknown --{asked} {value!r}", close_match_hint(str(value), values))
    return replace(PROTOCOLS[name], **{key: value for key, value in changes.items() if value is not None})


def _print(rows: list[Row]) -> None:
    from ordtool import console
    from ordtool.parsing.trees.scoring import LABELLED

    labels = [label for label in rows[0].label_recall if label][:LABELS_SHOWN]  # trees may have none
    lengths = list(rows[0].length_f1)
    labelled = rows[0].labelled is not None
    columns = [
        "trees",
        "S-F1",
        "C-F1",
        *(["LP", "LR", "L-F1"] if labelled else []),
        *labels,
        *(f"{name} words" for name in lengths),
    ]
    cells = [
        [
            row.system,
            f"{row.sentence_f1:.1f}",
            f"{row.corpus_f1:.1f}",
            *(_labelled_cells(row) if labelled else []),
            *(f"{row.label_recall[label]:.0f}" for label in labels),
            *(f"{row.length_f1[name]:.1f}" for name in lengths),
        ]
        for row in rows
    ]
    title = f"{rows[0].sentences:,} sentences; {rows[0].protocol}"
    console.print_table(title, columns, cells, to_stderr=False)
    recall = "then recall of the commonest labels, and S-F1 by length" if labels else "then S-F1 by length"
    console.note(f"S-F1, C-F1: sentence and corpus F1; {recall}; all in percent")
    if labelled:
        console.note(f"LP, LR, L-F1: labelled precision, recall and F1 of all sentences together; {LABELLED}")


def _labelled_cells(row: Row) -> list[str]:
    """Labelled precision, recall and F1, for the row that has them."""
    found = row.labelled
    return ["", "", ""] if found is None else [f"{found[name]:.1f}" for name in ("precision", "recall", "f1")]
