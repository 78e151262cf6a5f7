"""`ordtool train parser`: a parser from plain text."""

from __future__ import annotations

from typing import Annotated

import typer

from ordtool.cli._training_options import TRAINING, Half, MatmulDtype, ModelFolder
from ordtool.cli.options import Device, Field, Force, Quiet, Resume, Seed, Threads, renamed_options

MODEL = "Model"
TEXT = "Text"


@renamed_options({"--valid": "--dev"})
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
        typer.Option("--dev", help="Held-out text for the perplexity.  [default: 1% of the text]"),
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
    recipe: Annotated[
        str, typer.Option("--recipe", help="`small`, or `paper`: the paper's sizes, SGD and averaging.")
    ] = "small",
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
        int | None, typer.Option("--batch-size", min=1, help="Parallel streams.", rich_help_panel=TRAINING)
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
    """Train an ON-LSTM on plain text; its master gates parse.

    **Example:** `ordtool train parser books/*.txt -o my-parser && ordtool parse -m my-parser notes.txt`

    A killed run goes on with the same command and `--resume`.
    """
    from ordtool.cli._training_options import say_trained
    from ordtool.console import RichProgress
    from ordtool.parsing.training.recipes import recipe as make_recipe
    from ordtool.parsing.training.trainer import TrainingRun, train_parser
    from ordtool.runtime import quiet_libraries, set_threads

    quiet_libraries()
    config = make_recipe(
        recipe,
        tokens=tokens,
        layout=layout,
        field=field,
        lowercase=lowercase,
        punctuation=punctuation,
        vocab_size=vocab_size,
        embedding_size=embedding_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        chunk_size=chunk_size,
        input_dropout=input_dropout,
        layer_dropout=layer_dropout,
        output_dropout=output_dropout,
        weight_dropout=weight_dropout,
        word_dropout=word_dropout,
        epochs=epochs,
        batch_size=batch_size,
        window=window,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        clip=clip,
        warmup=warmup,
        patience=patience,
        shards=shards,
        seed=seed,
        dtype=dtype,
    )
    set_threads(threads)
    run = TrainingRun(
        text=text,
        output=output,
        valid=dev or (),
        treebank=treebank or (),
        tune=tune or (),
        force=force,
        resume=resume,
        checkpoint_minutes=checkpoint_minutes,
        device=device,
        threads=threads,
        half=half,
    )
    progress = RichProgress(quiet)
    history = train_parser(run, config, progress=progress)
    last = history[-1] if history else {}
    name = "valid_perplexity" if "valid_perplexity" in last else "train_perplexity"
    figures = f"{name.replace('_', ' ')} {last[name]:,}" if last else "not trained"
    say_trained(output, figures, "ordtool parse -m MODEL FILE", progress)
