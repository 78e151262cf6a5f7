"""`ordtool train parser`: a parser from plain text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer

from ordtool.cli._training_options import TRAINING, Half, MatmulDtype, ModelFolder
from ordtool.cli.options import (
    Device,
    Field,
    Force,
    Quiet,
    Resume,
    Seed,
    Threads,
    field_options,
    renamed_options,
)

MODEL = "Model"
TEXT = "Text"


@renamed_options({"--valid": "--dev"})
@field_options(num_hidden_layers="layers", num_nonterminals="nonterminals", num_preterminals="preterminals")
def parser(
    text: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT...", help="Text, JSONL or bracketed trees; a folder stands for its trees."
        ),
    ],
    output: ModelFolder,
    dev: Annotated[
        list[str] | None,
        typer.Option("--dev", help="Held-out text for the perplexity.  [default: --holdout]"),
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            "--holdout", help="Share of the sentences held out where there is no --dev.  [default: 0.01]"
        ),
    ] = None,
    treebank: Annotated[
        list[str] | None,
        typer.Option("--treebank", help="Trees to score each epoch against; reported, never used to choose."),
    ] = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            "--tune", help="Development trees: the model's layers and builder are chosen on them at the end."
        ),
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="`onlstm`, or `pcfg`: a neural probabilistic grammar.")
    ] = "onlstm",
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", help="`small`, or `paper`: the paper's sizes, SGD and averaging.  [default: small]"
        ),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens", help="`words` (Penn-style), `chars` or `jieba` for Chinese.", rich_help_panel=TEXT
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            help="Lines are `sentences`, `paragraphs` or `wrapped`; `auto` looks.",
            rich_help_panel=TEXT,
        ),
    ] = None,
    field: Field = "text",
    lowercase: Annotated[
        bool | None,
        typer.Option("--lowercase/--cased", help="Look words up in lower case.", rich_help_panel=TEXT),
    ] = None,
    punctuation: Annotated[
        bool | None,
        typer.Option("--punctuation/--no-punctuation", help="Keep punctuation.", rich_help_panel=TEXT),
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option("--vocab-size", min=3, help="Words and shape classes.", rich_help_panel=TEXT)
    ] = None,
    embedding_size: Annotated[
        int | None,
        typer.Option(
            "--embedding", min=1, help="Size of word vectors and the last layer.", rich_help_panel=MODEL
        ),
    ] = None,
    hidden_size: Annotated[
        int | None, typer.Option("--hidden", min=1, help="Size of the other layers.", rich_help_panel=MODEL)
    ] = None,
    layers: Annotated[
        int | None, typer.Option("--layers", min=1, help="Number of layers.", rich_help_panel=MODEL)
    ] = None,
    chunk_size: Annotated[
        int | None, typer.Option("--chunk", min=1, help="Neurons a master gate unit.", rich_help_panel=MODEL)
    ] = None,
    nonterminals: Annotated[
        int | None,
        typer.Option(
            "--nonterminals", min=1, help="Symbols with two children (`pcfg`).", rich_help_panel=MODEL
        ),
    ] = None,
    preterminals: Annotated[
        int | None,
        typer.Option("--preterminals", min=1, help="Symbols with a word (`pcfg`).", rich_help_panel=MODEL),
    ] = None,
    state_size: Annotated[
        int | None,
        typer.Option(
            "--state-size", min=1, help="Size of a symbol's vector (`pcfg`).", rich_help_panel=MODEL
        ),
    ] = None,
    input_dropout: Annotated[float | None, typer.Option("--input-dropout", rich_help_panel=MODEL)] = None,
    layer_dropout: Annotated[float | None, typer.Option("--layer-dropout", rich_help_panel=MODEL)] = None,
    output_dropout: Annotated[float | None, typer.Option("--output-dropout", rich_help_panel=MODEL)] = None,
    weight_dropout: Annotated[float | None, typer.Option("--weight-dropout", rich_help_panel=MODEL)] = None,
    word_dropout: Annotated[float | None, typer.Option("--word-dropout", rich_help_panel=MODEL)] = None,
    epochs: Annotated[
        float | None,
        typer.Option("--epochs", help="Passes over the text, 2.5 too.", rich_help_panel=TRAINING),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="Parallel streams; for `pcfg` sentences a step.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length", min=2, help="Words of the longest sentence (`pcfg`).", rich_help_panel=TRAINING
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option("--window", min=1, help="Steps of back-propagation.", rich_help_panel=TRAINING),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", rich_help_panel=TRAINING)
    ] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight-decay", rich_help_panel=TRAINING)] = None,
    clip: Annotated[
        float | None, typer.Option("--clip", help="Largest gradient norm.", rich_help_panel=TRAINING)
    ] = None,
    warmup: Annotated[
        int | None, typer.Option("--warmup", min=0, help="Steps.", rich_help_panel=TRAINING)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            min=1,
            help="Evaluations without improvement before averaging (`paper`).",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option("--shards", min=1, help="Parts of a batch, a thread each.", rich_help_panel=TRAINING),
    ] = None,
    checkpoint_minutes: Annotated[
        float,
        typer.Option(
            "--checkpoint-minutes", min=0, help="Minutes between checkpoints.", rich_help_panel=TRAINING
        ),
    ] = 10.0,
    half: Half = False,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: MatmulDtype = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    force: Force = False,
    resume: Resume = False,
) -> None:
    """Train an ON-LSTM, whose master gates parse, or a probabilistic grammar on plain text.

    A killed run goes on with the same command and `--resume`.

    Examples:
        ordtool train parser examples/story.txt -o my-parser --epochs 1
        echo "The old house stood by the sea." | ordtool parse -m my-parser
    """
    from ordtool.cli._training_options import say_trained
    from ordtool.console import RichProgress
    from ordtool.runtime import quiet_libraries, set_threads

    common = {
        "tokens": tokens,
        "layout": layout,
        "field": field,
        "lowercase": lowercase,
        "punctuation": punctuation,
        "vocab_size": vocab_size,
        "holdout": holdout,
        "learning_rate": learning_rate,
        "clip": clip,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "dtype": dtype,
    }
    own: dict[str, dict[str, tuple[str, Any]]] = {
        "onlstm": {
            "--recipe": ("name", recipe),
            "--embedding": ("embedding_size", embedding_size),
            "--hidden": ("hidden_size", hidden_size),
            "--layers": ("num_hidden_layers", layers),
            "--chunk": ("chunk_size", chunk_size),
            "--input-dropout": ("input_dropout", input_dropout),
            "--layer-dropout": ("layer_dropout", layer_dropout),
            "--output-dropout": ("output_dropout", output_dropout),
            "--weight-dropout": ("weight_dropout", weight_dropout),
            "--word-dropout": ("word_dropout", word_dropout),
            "--window": ("window", window),
            "--weight-decay": ("weight_decay", weight_decay),
            "--warmup": ("warmup", warmup),
            "--patience": ("patience", patience),
            "--shards": ("shards", shards),
        },
        "pcfg": {
            "--nonterminals": ("num_nonterminals", nonterminals),
            "--preterminals": ("num_preterminals", preterminals),
            "--state-size": ("state_size", state_size),
            "--max-length": ("max_length", max_length),
        },
    }
    settings = _settings_of(kind, common, own)
    quiet_libraries()
    set_threads(threads)
    progress = RichProgress(quiet)
    train = _training(kind, settings)
    history = train(
        text,
        output,
        dev=dev or (),
        treebank=treebank or (),
        tune=tune or (),
        progress=progress,
        checkpoint_minutes=checkpoint_minutes,
        threads=threads,
        half=half,
        device=device,
        resume=resume,
        force=force,
    )
    last = history[-1] if history else {}
    name = "dev_perplexity" if "dev_perplexity" in last else "train_perplexity"
    figures = f"{name.replace('_', ' ')} {last[name]:,}" if last else "not trained"
    say_trained(output, figures, "ordtool parse -m MODEL FILE", progress)


def _settings_of(
    kind: str, common: dict[str, Any], own: dict[str, dict[str, tuple[str, Any]]]
) -> dict[str, Any]:
    """Return the fields of a kind's configuration that were given.

    Args:
        kind: `onlstm` or `pcfg`.
        common: Fields of both.
        own: Of each kind its options, with field and value.

    Raises:
        UsageError: For an unknown kind, or an option of the other one.
    """
    from ordtool.errors import UsageError, close_match_hint

    if kind not in own:
        raise UsageError(f"unknown --kind {kind!r}", close_match_hint(kind, tuple(own)))
    for other, options in own.items():
        given = [option for option, (_, value) in options.items() if value is not None]
        if other != kind and given:
            raise UsageError(f"{', '.join(given)} goes with --kind {other}, and this is {kind}")
    return {name: value for name, value in (*common.items(), *own[kind].values()) if value is not None}


def _training(kind: str, settings: dict[str, Any]) -> Callable[..., list[dict[str, Any]]]:
    """Return the training of a kind of parser with its configuration."""
    if kind == "pcfg":
        from ordtool.parsing.pcfg.config import PcfgTrainingConfig
        from ordtool.parsing.pcfg.training import train_pcfg

        return partial(train_pcfg, config=PcfgTrainingConfig(**settings))
    from ordtool.parsing.training.recipes import recipe
    from ordtool.parsing.training.trainer import train_parser

    return partial(train_parser, config=recipe(**settings))
