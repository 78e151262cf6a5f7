"""`ordtool train spans`: a fast parser from trees."""

from __future__ import annotations

from typing import Annotated

import typer

from ordtool.cli._training_options import TRAINING, Half, MatmulDtype, ModelFolder
from ordtool.cli.options import (
    Device,
    Force,
    Quiet,
    Resume,
    Seed,
    Threads,
    field_options,
    option,
    takes_ranks,
)

MODEL = "Model"
TEXT = "Text"


@takes_ranks
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
        str, option("What the trees' tokens are: `words`, `chars` or `jieba`.", TEXT)
    ] = "words",
    lowercase: Annotated[bool, option("Look words up in lower case.", TEXT, "--lowercase/--cased")] = True,
    vocab_size: Annotated[int, option("Words and shape classes.", TEXT, min=3)] = 12_000,
    holdout: Annotated[float, option("Share of the trees that is held out.", TEXT)] = 0.02,
    embedding_size: Annotated[int, option("Size of word vectors.", MODEL, "--embedding", min=1)] = 128,
    hidden_size: Annotated[int, option("Size of the blocks.", MODEL, "--hidden", min=1)] = 192,
    layers: Annotated[int, option("Number of blocks.", MODEL, min=1)] = 3,
    heads: Annotated[int, option("Attention heads.", MODEL, min=1)] = 4,
    span_size: Annotated[int, option("Of a boundary's two vectors.", MODEL, min=1)] = 128,
    affixes: Annotated[
        bool, option("Read the shapes and affixes of words.", MODEL, "--affixes/--no-affixes")
    ] = False,
    binary: Annotated[
        bool | None,
        option(
            "Draw binary trees, or leave out spans less likely than not.  [default: flat if the trees have labels]",
            MODEL,
            "--binary/--flat",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        option(
            "A pre-trained encoder that gives the word vectors, such as `minilm`; it is trained along.", MODEL
        ),
    ] = None,
    teacher: Annotated[str | None, option("A span scorer that parses `--text` for this one.", TEXT)] = None,
    text: Annotated[list[str] | None, option("Text for the teacher, a sentence a line.", TEXT)] = None,
    text_tokens: Annotated[
        str | None,
        option("How that text is split: as `--tokens`, or `whitespace`.  [default: as the trees]", TEXT),
    ] = None,
    dropout: Annotated[float, option(panel=MODEL)] = 0.1,
    word_dropout: Annotated[float, option("Share of words read as unknown ones.", MODEL)] = 0.1,
    epochs: Annotated[int, option("Passes over the trees.", TRAINING, min=1)] = 4,
    batch_words: Annotated[int, option("Words of a batch, about.", TRAINING, min=1)] = 1024,
    learning_rate: Annotated[float, option(panel=TRAINING, names="--learning-rate --lr")] = 1e-3,
    encoder_learning_rate: Annotated[float, option(panel=TRAINING)] = 1e-4,
    frozen_layers: Annotated[
        int | None,
        option("Keep the encoder's embeddings and its first N layers as they are.", TRAINING, min=0),
    ] = None,
    label_weight: Annotated[
        float, option("Of labels and parts of speech in the loss, beside spans.", TRAINING)
    ] = 0.2,
    weight_decay: Annotated[float, option(panel=TRAINING)] = 0.01,
    clip: Annotated[float, option("Largest gradient norm.", TRAINING)] = 1.0,
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
        frozen_layers=frozen_layers,
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
