"""`ordtool score`: the group of metrics."""

from __future__ import annotations

import typer

from ordtool.cli._lazy import CONTEXT, lazy_group

COMMANDS = {
    "trees": "ordtool.cli.score_trees:trees",
    "similarity": "ordtool.cli.score_similarity:similarity",
    "text": "ordtool.cli.score_text:text",
}

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings=CONTEXT,
)


@app.callback()
def score() -> None:
    """Score predictions against gold: trees, sentence similarity, or written text."""
