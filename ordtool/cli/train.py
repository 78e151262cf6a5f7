"""`ordtool train`: the group of trainers."""

from __future__ import annotations

from ordtool.cli._lazy import lazy_group, typer_app

COMMANDS = {
    "parser": "ordtool.cli.train_parser:parser",
    "spans": "ordtool.cli.train_spans:spans",
    "lm": "ordtool.cli.train_lm:lm",
    "seq2seq": "ordtool.cli.train_seq2seq:seq2seq",
    "ladder": "ordtool.cli.train_ladder:ladder",
    "bottleneck": "ordtool.cli.train_bottleneck:bottleneck",
}

app = typer_app(cls=lazy_group(COMMANDS), no_args_is_help=True)


@app.callback()
def train() -> None:
    """Train a model: a parser, a span scorer, a language model, a ladder, or a network by the HSIC bottleneck."""
