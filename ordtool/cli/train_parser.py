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
    option,
    renamed_options,
    takes_ranks,
)

MODEL = "Model"
TEXT = "Text"


@takes_ranks
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
        list[str] | None, option("Held-out text for the perplexity.  [default: --holdout]")
    ] = None,
    holdout: Annotated[
        float | None, option("Share of the sentences held out where there is no --dev.  [default: 0.01]")
    ] = None,
    treebank: Annotated[
        list[str] | None, option("Trees to score each epoch against; reported, never used to choose.")
    ] = None,
    tune: Annotated[
        list[str] | None,
        option("Development trees: the model's layers and builder are chosen on them at the end."),
    ] = None,
    kind: Annotated[str, option("`onlstm`, or `pcfg`: a neural probabilistic grammar.")] = "onlstm",
    recipe: Annotated[
        str | None, option("`small`, or `paper`: the paper's sizes, SGD and averaging.  [default: small]")
    ] = None,
    tokens: Annotated[
        str | None, option("`words` (Penn-style), `chars` or `jieba` for Chinese.", TEXT)
    ] = None,
    layout: Annotated[
        str | None, option("Lines are `sentences`, `paragraphs` or `wrapped`; `auto` looks.", TEXT)
    ] = None,
    language: Annotated[
        str | None, option("Of the text, for its abbreviations: `de`, `fr`.  [default: en]", TEXT)
    ] = None,
    field: Field = "text",
    lowercase: Annotated[
        bool | None, option("Look words up in lower case.", TEXT, "--lowercase/--cased")
    ] = None,
    punctuation: Annotated[
        bool | None, option("Keep punctuation.", TEXT, "--punctuation/--no-punctuation")
    ] = None,
    vocab_size: Annotated[int | None, option("Words and shape classes.", TEXT, min=3)] = None,
    embedding_size: Annotated[
        int | None, option("Size of word vectors and the last layer.", MODEL, "--embedding", min=1)
    ] = None,
    hidden_size: Annotated[int | None, option("Size of the other layers.", MODEL, "--hidden", min=1)] = None,
    layers: Annotated[int | None, option("Number of layers.", MODEL, min=1)] = None,
    chunk_size: Annotated[int | None, option("Neurons a master gate unit.", MODEL, "--chunk", min=1)] = None,
    input_gate: Annotated[
        str | None,
        option(
            "The master input gate: the `paper`'s, or `reversed`, its mirror image.  [default: paper]", MODEL
        ),
    ] = None,
    bidirectional: Annotated[
        bool,
        option("Train a second model that reads from right to left; both parse.", MODEL, "--bidirectional"),
    ] = False,
    nonterminals: Annotated[int | None, option("Symbols with two children (`pcfg`).", MODEL, min=1)] = None,
    preterminals: Annotated[int | None, option("Symbols with a word (`pcfg`).", MODEL, min=1)] = None,
    state_size: Annotated[int | None, option("Size of a symbol's vector (`pcfg`).", MODEL, min=1)] = None,
    input_dropout: Annotated[float | None, option(panel=MODEL)] = None,
    layer_dropout: Annotated[float | None, option(panel=MODEL)] = None,
    output_dropout: Annotated[float | None, option(panel=MODEL)] = None,
    weight_dropout: Annotated[float | None, option(panel=MODEL)] = None,
    word_dropout: Annotated[float | None, option(panel=MODEL)] = None,
    epochs: Annotated[float | None, option("Passes over the text, 2.5 too.", TRAINING)] = None,
    batch_size: Annotated[
        int | None, option("Parallel streams; for `pcfg` sentences a step.", TRAINING, min=1)
    ] = None,
    max_length: Annotated[
        int | None, option("Words of the longest sentence (`pcfg`).", TRAINING, min=2)
    ] = None,
    window: Annotated[int | None, option("Steps of back-propagation.", TRAINING, min=1)] = None,
    learning_rate: Annotated[float | None, option(panel=TRAINING, names="--learning-rate --lr")] = None,
    weight_decay: Annotated[float | None, option(panel=TRAINING)] = None,
    clip: Annotated[float | None, option("Largest gradient norm.", TRAINING)] = None,
    warmup: Annotated[int | None, option("Steps.", TRAINING, min=0)] = None,
    patience: Annotated[
        int | None, option("Evaluations without improvement before averaging (`paper`).", TRAINING, min=1)
    ] = None,
    shards: Annotated[int | None, option("Parts of a batch, a thread each.", TRAINING, min=1)] = None,
    checkpoint_minutes: Annotated[float, option("Minutes between checkpoints.", TRAINING, min=0)] = 10.0,
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
        "language": language,
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
            "--input-gate": ("input_gate", input_gate),
            "--bidirectional": ("bidirectional", bidirectional or None),
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
    say_trained(output, _figures(history), "ordtool parse -m MODEL FILE", progress)


def _figures(history: list[dict[str, Any]]) -> str:
    """Say how a training ended, in both directions if there are two."""
    ends = list({record.get("direction"): record for record in history}.values())
    if not ends:
        return "not trained"
    name = "dev_perplexity" if "dev_perplexity" in ends[0] else "train_perplexity"
    return f"{name.replace('_', ' ')} {' and '.join(f'{record[name]:,}' for record in ends)}"


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
