"""`ordtool score`: the group of metrics."""

from __future__ import annotations

from ordtool.cli._lazy import lazy_group, typer_app

COMMANDS = {
    "trees": "ordtool.cli.score_trees:trees",
    "similarity": "ordtool.cli.score_similarity:similarity",
    "text": "ordtool.cli.score_text:text",
    "agreement": "ordtool.cli.score_agreement:agreement",
}

app = typer_app(cls=lazy_group(COMMANDS), no_args_is_help=True)


@app.callback()
def score() -> None:
    """Score predictions against gold: trees, sentence similarity, written text; or a language model by minimal pairs."""
