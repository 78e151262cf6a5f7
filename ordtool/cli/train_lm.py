"""`ordtool train lm`."""

from __future__ import annotations

from pathlib import Path
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
    Field,
    Force,
    Quiet,
    Seed,
    Threads,
    options_for_fields,
    renamed_options,
)

TEXT = "The text"
MODEL = "The model"


def _schemes() -> list[str]:
    from ordtool.lm.position_schemes import SCHEMES

    return list(SCHEMES)


@renamed_options({"--valid": "--dev"})
def lm(
    text: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help="Text files (a document each) or JSONL.")
    ],
    output: ModelFolder,
    dev: Annotated[
        list[str] | None,
        typer.Option(
            "--dev", help="Held-out text.  [default: the last 2% of the tokens]", rich_help_panel=TEXT
        ),
    ] = None,
    field: Field = "text",
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", help="Pieces of the BPE vocabulary to train.", rich_help_panel=TEXT)
    ] = 4096,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            metavar="MODEL",
            help="A model, or a folder with a tokenizer.json, whose tokenizer to take.",
            rich_help_panel=TEXT,
        ),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            help="causal, prefix (reads a source in both directions) or permutation (any order).",
            rich_help_panel=MODEL,
            autocompletion=lambda: ["causal", "prefix", "permutation"],
        ),
    ] = "causal",
    context: Annotated[
        int, typer.Option("--context", help="Tokens trained on at once.", rich_help_panel=MODEL)
    ] = 256,
    layers: Annotated[int, typer.Option("--layers", min=1, help="Blocks.", rich_help_panel=MODEL)] = 6,
    hidden: Annotated[
        int, typer.Option("--hidden", min=2, help="Size of hidden states.", rich_help_panel=MODEL)
    ] = 256,
    heads: Annotated[int, typer.Option("--heads", min=1, help="Attention heads.", rich_help_panel=MODEL)] = 8,
    kv_heads: Annotated[
        int | None,
        typer.Option(
            "--kv-heads",
            min=1,
            help="Heads of keys and values, shared in groups.  [default: as heads]",
            rich_help_panel=MODEL,
        ),
    ] = None,
    key_size: Annotated[
        int | None,
        typer.Option(
            "--key-size",
            min=1,
            help="Size of a head's queries and keys.  [default: hidden / heads]",
            rich_help_panel=MODEL,
        ),
    ] = None,
    intermediate: Annotated[
        int | None,
        typer.Option(
            "--intermediate",
            min=1,
            help="Inner size of the feed-forward blocks.  [default: 8/3 of hidden]",
            rich_help_panel=MODEL,
        ),
    ] = None,
    talking_heads: Annotated[
        bool,
        typer.Option("--talking-heads", help="Mix scores and weights across heads.", rich_help_panel=MODEL),
    ] = False,
    logn: Annotated[
        bool,
        typer.Option(
            "--logn",
            help="Scale scores by the logarithm of the length, beyond the context.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    logn_trained: Annotated[
        bool,
        typer.Option(
            "--logn-trained", help="The same within the context too: train with it.", rich_help_panel=MODEL
        ),
    ] = False,
    positions: Annotated[
        str,
        typer.Option(
            "--positions",
            metavar="SCHEME",
            help="rope, alibi, kerple, kerple-power, sandwich, xpos, nope (none), keynorm, querynorm, cosine, hwfa, "
            "hwfa2, rerope, random or inverse-leaky; with parameters such as hwfa2:window=64.",
            rich_help_panel=MODEL,
            autocompletion=_schemes,
        ),
    ] = "rope",
    rope_base: Annotated[
        float | None,
        typer.Option(
            "--rope-base",
            metavar="B",
            help="Base of the rotary frequencies.  [default: 10000]",
            rich_help_panel=MODEL,
        ),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Updates.", rich_help_panel=TRAINING)] = 2000,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Blocks a batch.", rich_help_panel=TRAINING)
    ] = 16,
    accumulate: Accumulate = 1,
    learning_rate: LearningRate = 1e-3,
    eval_every: Annotated[
        int,
        typer.Option(
            "--eval-every",
            min=1,
            help="Updates between dev losses and checkpoints.",
            rich_help_panel=TRAINING,
        ),
    ] = 200,
    patience: Patience = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Multiply in bfloat16.", rich_help_panel=RUN)] = False,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    resume: ResumeTraining = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Train a small Transformer language model on text, with a vocabulary of its own.

    The folder is a Hugging Face model: `ordtool generate -m MODEL` and the Auto classes take it.

    Examples:
        ordtool train lm examples/story.txt -o mylm --steps 20 --context 64 --batch-size 4
        ordtool generate -m mylm -p 'It was' --max-new-tokens 8
    """
    from ordtool.console import RichProgress
    from ordtool.lm.training import LMTrainingConfig, train_lm
    from ordtool.runtime import set_threads

    set_threads(threads)
    progress = RichProgress(quiet)
    with options_for_fields(LMTrainingConfig):
        config = LMTrainingConfig(
            objective=objective,
            vocab_size=vocab_size,
            tokenizer=_folder(tokenizer),
            context=context,
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            key_size=key_size,
            intermediate=intermediate,
            talking_heads=talking_heads,
            logn=logn,
            logn_trained=logn_trained,
            positions=positions,
            rope_base=rope_base,
            steps=steps,
            batch_size=batch_size,
            accumulate=accumulate,
            learning_rate=learning_rate,
            eval_every=eval_every,
            patience=patience,
            seed=seed,
            bf16=bf16,
        )
        try:
            report = train_lm(
                text,
                output,
                config,
                dev=dev or [],
                field=field,
                device=device,
                resume=resume,
                force=force,
                progress=progress,
            )
        finally:
            progress.close()
    bits = "" if report.bits_per_byte is None else f", {report.bits_per_byte:.3f} bits a byte"
    figures = f"dev loss {report.dev_loss:.4f} nats a token, perplexity {report.perplexity:.2f}{bits}"
    say_trained(output, figures, "ordtool generate -m MODEL -p 'It was'", progress)


def _folder(tokenizer: str | None) -> str | None:
    from ordtool.models.resolve import resolve_model

    if tokenizer is None or (Path(tokenizer) / "tokenizer.json").is_file():
        return tokenizer  # a folder with a tokenizer alone will do
    return str(resolve_model(tokenizer))
