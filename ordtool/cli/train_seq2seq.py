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
    options_for_fields,
    renamed_options,
)

PAIRS = "The pairs"


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
    source_field: Annotated[
        str, typer.Option("--source-field", help="Key or column of the source.", rich_help_panel=PAIRS)
    ] = "source",
    target_field: Annotated[
        str, typer.Option("--target-field", help="Key or column of the target.", rich_help_panel=PAIRS)
    ] = "target",
    dev: Annotated[
        list[str] | None,
        typer.Option("--dev", help="Held-out pairs.  [default: --holdout]", rich_help_panel=PAIRS),
    ] = None,
    holdout: Annotated[
        float,
        typer.Option("--holdout", help="Share of the sources held out.", rich_help_panel=PAIRS),
    ] = 0.02,
    max_source: Annotated[
        int | None,
        typer.Option(
            "--max-source",
            help="Tokens of a source at most.  [default: what the target leaves, up to 384]",
            rich_help_panel=PAIRS,
        ),
    ] = None,
    max_target: Annotated[
        int | None,
        typer.Option(
            "--max-target", help="Tokens of a target at most.  [default: 128]", rich_help_panel=PAIRS
        ),
    ] = None,
    overlong: Annotated[
        str,
        typer.Option(
            "--overlong",
            help="`truncate` or `drop` longer pairs; they are counted.",
            rich_help_panel=PAIRS,
            autocompletion=lambda: ["truncate", "drop"],
        ),
    ] = "truncate",
    lossless: Annotated[
        bool | None,
        typer.Option(
            "--lossless/--no-lossless",
            help="Extend BERT's vocabulary so that case, accents and spaces are written.  [default: if needed]",
            rich_help_panel=PAIRS,
        ),
    ] = None,
    vocabulary: Annotated[
        str,
        typer.Option(
            "--vocabulary",
            help="What can be written: `full`, or tokens `seen` in the pairs (faster).",
            rich_help_panel=PAIRS,
            autocompletion=lambda: ["full", "seen"],
        ),
    ] = "full",
    epochs: Annotated[
        float, typer.Option("--epochs", help="Passes over the pairs, 2.5 too.", rich_help_panel=TRAINING)
    ] = 3.0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Pairs a batch.", rich_help_panel=TRAINING)
    ] = 32,
    together: Annotated[
        int,
        typer.Option(
            "--together",
            min=1,
            help="Targets of one source read in one row.",
            rich_help_panel=TRAINING,
        ),
    ] = 8,
    accumulate: Accumulate = 1,
    learning_rate: LearningRate = 1e-4,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", min=0, help="Of AdamW.", rich_help_panel=TRAINING)
    ] = 0.01,
    dropout: Annotated[
        float | None,
        typer.Option(
            "--dropout",
            min=0,
            max=0.9,
            help="Of hidden states.  [default: the checkpoint's]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    eval_every: Annotated[
        int | None,
        typer.Option(
            "--eval-every",
            min=1,
            help="Updates between dev losses and checkpoints.  [default: an epoch's, ten at most]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    patience: Patience = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            envvar="ORDTOOL_DTYPE",
            help="Of matrix products: auto, float32 or bfloat16.",
            rich_help_panel=RUN,
        ),
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
    from ordtool.models.resolve import resolve_model
    from ordtool.progress import counted
    from ordtool.runtime import set_threads
    from ordtool.seq2seq.config import Seq2SeqTrainingConfig
    from ordtool.seq2seq.training import train_seq2seq

    set_threads(threads)
    progress = RichProgress(quiet)
    with options_for_fields(Seq2SeqTrainingConfig, dev="--dev"):
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
                resolve_model(model, progress),
                output,
                config,
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
