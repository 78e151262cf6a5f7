"""`ordtool train seq2seq`."""

from __future__ import annotations

from typing import Annotated

import typer

from ordtool.cli._training_options import (
    TRAINING,
    Accumulate,
    LearningRate,
    ModelFolder,
    Patience,
    ResumeTraining,
    say_trained,
)
from ordtool.cli.options import (
    RUN,
    Device,
    Force,
    Model,
    Quiet,
    Seed,
    Threads,
    option,
    renamed_options,
    takes_ranks,
)

PAIRS = "The pairs"


@takes_ranks
@renamed_options({"--valid": "--dev", "--valid-share": "--holdout"})
def seq2seq(
    pairs: Annotated[
        list[str],
        typer.Argument(
            metavar="PAIRS...", help="JSONL, CSV or TSV of sources and targets; a target may be a list."
        ),
    ],
    model: Model,
    output: ModelFolder,
    source_field: Annotated[str, option("Key or column of the source.", PAIRS)] = "source",
    target_field: Annotated[str, option("Key or column of the target.", PAIRS)] = "target",
    dev: Annotated[list[str] | None, option("Held-out pairs.  [default: --holdout]", PAIRS)] = None,
    holdout: Annotated[float, option("Share of the sources held out.", PAIRS)] = 0.02,
    max_source: Annotated[
        int | None, option("Tokens of a source at most.  [default: what the target leaves, up to 384]", PAIRS)
    ] = None,
    max_target: Annotated[int | None, option("Tokens of a target at most.  [default: 128]", PAIRS)] = None,
    overlong: Annotated[
        str,
        option(
            "`truncate` or `drop` longer pairs; they are counted.",
            PAIRS,
            autocompletion=lambda: ["truncate", "drop"],
        ),
    ] = "truncate",
    lossless: Annotated[
        bool | None,
        option(
            "Extend BERT's vocabulary so that case, accents and spaces are written.  [default: if needed]",
            PAIRS,
            "--lossless/--no-lossless",
        ),
    ] = None,
    vocabulary: Annotated[
        str,
        option(
            "What can be written: `full`, or tokens `seen` in the pairs (faster).",
            PAIRS,
            autocompletion=lambda: ["full", "seen"],
        ),
    ] = "full",
    epochs: Annotated[float, option("Passes over the pairs, 2.5 too.", TRAINING)] = 3.0,
    batch_size: Annotated[int, option("Pairs a batch.", TRAINING, min=1)] = 32,
    together: Annotated[int, option("Targets of one source read in one row.", TRAINING, min=1)] = 8,
    accumulate: Accumulate = 1,
    learning_rate: LearningRate = 1e-4,
    weight_decay: Annotated[float, option("Of AdamW.", TRAINING, min=0)] = 0.01,
    dropout: Annotated[
        float | None, option("Of hidden states.  [default: the checkpoint's]", TRAINING, min=0, max=0.9)
    ] = None,
    eval_every: Annotated[
        int | None,
        option(
            "Updates between dev losses and checkpoints.  [default: an epoch's, ten at most]", TRAINING, min=1
        ),
    ] = None,
    patience: Patience = None,
    dtype: Annotated[
        str, option("Of matrix products: auto, float32 or bfloat16.", RUN, envvar="ORDTOOL_DTYPE")
    ] = "auto",
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    resume: ResumeTraining = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    r"""Train an encoder, or an encoder-decoder, to write targets for sources.

    BERT, RoBERTa, XLM-R, MiniLM and their like become writers by the sequence-to-sequence mask (UniLM).

    Examples:
        printf 'one two\ttwo one\nred blue\tblue red\n' > pairs.tsv
        ordtool train seq2seq pairs.tsv -m minilm -o reverser --epochs 1
        ordtool generate -m reverser -p 'black white' --max-new-tokens 8
    """
    from ordtool.console import RichProgress
    from ordtool.progress import counted
    from ordtool.runtime import set_threads
    from ordtool.seq2seq.config import Seq2SeqTrainingConfig
    from ordtool.seq2seq.training import train_seq2seq

    set_threads(threads)
    progress = RichProgress(quiet)
    config = Seq2SeqTrainingConfig(
        source_field=source_field,
        target_field=target_field,
        max_source=max_source,
        max_target=max_target,
        overlong=overlong,
        together=together,
        vocabulary=vocabulary,
        lossless=lossless,
        holdout=holdout,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        dropout=dropout,
        eval_every=eval_every,
        patience=patience,
        seed=seed,
        dtype=dtype,
    )
    try:
        report = train_seq2seq(
            pairs,
            output,
            config,
            model=model,
            dev=dev or [],
            device=device,
            resume=resume,
            force=force,
            progress=progress,
        )
    finally:
        progress.close()
    figures = (
        f"dev loss {report.dev_loss:.4f} nats a token, perplexity {report.perplexity:.2f} "
        f"({counted(report.dev_pairs, 'held-out pair')})"
    )
    say_trained(output, figures, "ordtool generate -m MODEL FILE", progress)
