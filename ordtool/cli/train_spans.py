"""`ordtool train spans`: a fast parser from trees."""

from __future__ import annotations

from typing import Annotated

import typer

from ordtool.cli._training_options import TRAINING, Half, MatmulDtype, ModelFolder
from ordtool.cli.options import Device, Force, Quiet, Resume, Seed, Threads, field_options

MODEL = "Model"
TEXT = "Text"


@field_options(num_hidden_layers="layers", num_attention_heads="heads")
def spans(
    trees: Annotated[
        list[str],
        typer.Argument(
            metavar="TREES...",
            help="JSONL from `ordtool parse`, or bracketed trees; a folder stands for its trees.",
        ),
    ],
    output: ModelFolder,
    tokens: Annotated[
        str,
        typer.Option(
            "--tokens", help="What the trees' tokens are: `words`, `chars` or `jieba`.", rich_help_panel=TEXT
        ),
    ] = "words",
    lowercase: Annotated[
        bool, typer.Option("--lowercase/--cased", help="Look words up in lower case.", rich_help_panel=TEXT)
    ] = True,
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", min=3, help="Words and shape classes.", rich_help_panel=TEXT)
    ] = 12_000,
    holdout: Annotated[
        float,
        typer.Option("--holdout", help="Share of the trees that is held out.", rich_help_panel=TEXT),
    ] = 0.02,
    embedding_size: Annotated[
        int, typer.Option("--embedding", min=1, help="Size of word vectors.", rich_help_panel=MODEL)
    ] = 128,
    hidden_size: Annotated[
        int, typer.Option("--hidden", min=1, help="Size of the blocks.", rich_help_panel=MODEL)
    ] = 192,
    layers: Annotated[
        int, typer.Option("--layers", min=1, help="Number of blocks.", rich_help_panel=MODEL)
    ] = 3,
    heads: Annotated[int, typer.Option("--heads", min=1, help="Attention heads.", rich_help_panel=MODEL)] = 4,
    span_size: Annotated[
        int, typer.Option("--span-size", min=1, help="Of a boundary's two vectors.", rich_help_panel=MODEL)
    ] = 128,
    affixes: Annotated[
        bool,
        typer.Option(
            "--affixes/--no-affixes", help="Read the shapes and affixes of words.", rich_help_panel=MODEL
        ),
    ] = False,
    binary: Annotated[
        bool | None,
        typer.Option(
            "--binary/--flat",
            help="Draw binary trees, or leave out spans less likely than not.  [default: flat if the trees have labels]",
            rich_help_panel=MODEL,
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            help="A pre-trained encoder that gives the word vectors, such as `minilm`; it is trained along.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", help="A span scorer that parses `--text` for this one.", rich_help_panel=TEXT
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Text for the teacher, a sentence a line.", rich_help_panel=TEXT),
    ] = None,
    text_tokens: Annotated[
        str | None,
        typer.Option(
            "--text-tokens",
            help="How that text is split: as `--tokens`, or `whitespace`.  [default: as the trees]",
            rich_help_panel=TEXT,
        ),
    ] = None,
    dropout: Annotated[float, typer.Option("--dropout", rich_help_panel=MODEL)] = 0.1,
    word_dropout: Annotated[
        float,
        typer.Option("--word-dropout", help="Share of words read as unknown ones.", rich_help_panel=MODEL),
    ] = 0.1,
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, help="Passes over the trees.", rich_help_panel=TRAINING)
    ] = 4,
    batch_words: Annotated[
        int, typer.Option("--batch-words", min=1, help="Words of a batch, about.", rich_help_panel=TRAINING)
    ] = 1024,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr", rich_help_panel=TRAINING)] = 1e-3,
    encoder_learning_rate: Annotated[
        float, typer.Option("--encoder-learning-rate", rich_help_panel=TRAINING)
    ] = 1e-4,
    label_weight: Annotated[
        float,
        typer.Option(
            "--label-weight",
            help="Of labels and parts of speech in the loss, beside spans.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.2,
    weight_decay: Annotated[float, typer.Option("--weight-decay", rich_help_panel=TRAINING)] = 0.01,
    clip: Annotated[
        float, typer.Option("--clip", help="Largest gradient norm.", rich_help_panel=TRAINING)
    ] = 1.0,
    half: Half = False,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: MatmulDtype = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    force: Force = False,
    resume: Resume = False,
) -> None:
    """Train a span scorer on trees: a fast parser out of the votes of slow ones, or of a treebank with its labels.

    It reads punctuation as well as words. A killed run goes on from its last epoch with the same command and `--resume`.

    Examples:
        ordtool parse --split examples/story.txt -o trees.jsonl
        ordtool train spans trees.jsonl -o fast --epochs 1
        echo "The old house stood by the sea." | ordtool parse -m fast
    """
    from ordtool.cli._training_options import say_trained
    from ordtool.console import RichProgress
    from ordtool.parsing.spans.config import SpanTrainingConfig
    from ordtool.parsing.spans.training import train_spans
    from ordtool.runtime import quiet_libraries, set_threads

    quiet_libraries()
    config = SpanTrainingConfig(
        tokens=tokens,
        encoder=encoder,
        teacher=teacher,
        text=tuple(text or ()),
        text_tokens=text_tokens,
        lowercase=lowercase,
        vocab_size=vocab_size,
        embedding_size=embedding_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        span_size=span_size,
        affixes=affixes,
        binary=binary,
        dropout=dropout,
        word_dropout=word_dropout,
        learning_rate=learning_rate,
        encoder_learning_rate=encoder_learning_rate,
        label_weight=label_weight,
        weight_decay=weight_decay,
        clip=clip,
        epochs=epochs,
        batch_words=batch_words,
        holdout=holdout,
        seed=seed,
        dtype=dtype,
    )
    set_threads(threads)
    progress = RichProgress(quiet)
    last = train_spans(
        trees, output, config, half=half, progress=progress, device=device, resume=resume, force=force
    )[-1]
    figures = (
        f"agreement {last['agreement']}% on held-out trees"
        if "agreement" in last
        else f"train loss {last['train_loss']}"
    )
    say_trained(output, figures, "ordtool parse -m MODEL FILE", progress)
