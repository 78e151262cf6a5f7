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
    option,
    renamed_options,
    takes_ranks,
    usual_values,
)

TEXT = "The text"
MODEL = "The model"
_TALKING = ("both", "before", "after")


def _schemes() -> list[str]:
    from ordtool.lm.position_schemes import SCHEMES

    return list(SCHEMES)


@takes_ranks
@usual_values({"--talking-heads": _TALKING})
@renamed_options({"--valid": "--dev"})
def lm(
    text: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help="Text files (a document each) or JSONL.")
    ],
    output: ModelFolder,
    dev: Annotated[
        list[str] | None, option("Held-out text.  [default: the last 2% of the tokens]", TEXT)
    ] = None,
    field: Field = "text",
    vocab_size: Annotated[int, option("Pieces of the BPE vocabulary to train.", TEXT)] = 4096,
    tokenizer: Annotated[
        str | None,
        option("A model, or a folder with a tokenizer.json, whose tokenizer to take.", TEXT, metavar="MODEL"),
    ] = None,
    start: Annotated[
        str | None,
        option("Go on from this causal model: its weights, shape and tokenizer.", MODEL, metavar="MODEL"),
    ] = None,
    objective: Annotated[
        str,
        option(
            "causal, prefix (reads a source in both directions), permutation (any order) or masked (an encoder).",
            MODEL,
            autocompletion=lambda: ["causal", "prefix", "permutation", "masked"],
        ),
    ] = "causal",
    context: Annotated[int, option("Tokens trained on at once.", MODEL)] = 256,
    layers: Annotated[int, option("Blocks.", MODEL, min=1)] = 6,
    hidden: Annotated[int, option("Size of hidden states.", MODEL, min=2)] = 256,
    heads: Annotated[int, option("Attention heads.", MODEL, min=1)] = 8,
    kv_heads: Annotated[
        int | None, option("Heads of keys and values, shared in groups.  [default: as heads]", MODEL, min=1)
    ] = None,
    key_size: Annotated[
        int | None, option("Size of a head's queries and keys.  [default: hidden / heads]", MODEL, min=1)
    ] = None,
    intermediate: Annotated[
        int | None, option("Inner size of the feed-forward blocks.  [default: 8/3 of hidden]", MODEL, min=1)
    ] = None,
    talking_heads: Annotated[
        str | None,
        option(
            "Mix across heads: before the softmax the scores, after it the weights, or both.  [alone: both]",
            MODEL,
            metavar="WHERE",
            autocompletion=lambda: list(_TALKING),
        ),
    ] = None,
    logn: Annotated[
        bool, option("Scale scores by the logarithm of the length, beyond the context.", MODEL, "--logn")
    ] = False,
    logn_trained: Annotated[
        bool, option("The same within the context too: train with it.", MODEL, "--logn-trained")
    ] = False,
    positions: Annotated[
        str,
        option(
            "rope, alibi, kerple, kerple-power, sandwich, xpos, nope (none), keynorm, querynorm, cosine, hwfa, "
            "hwfa2, rnope-swa, rerope, p-rope, partial, random or inverse-leaky; with parameters such as hwfa2:window=64.",
            MODEL,
            metavar="SCHEME",
            autocompletion=_schemes,
        ),
    ] = "rope",
    rope_base: Annotated[
        float | None, option("Base of the rotary frequencies.  [default: 10000]", MODEL, metavar="B")
    ] = None,
    steps: Annotated[int, option("Updates.", TRAINING, min=1)] = 2000,
    batch_size: Annotated[int, option("Blocks a batch.", TRAINING, min=1)] = 16,
    accumulate: Accumulate = 1,
    learning_rate: LearningRate = 1e-3,
    eval_every: Annotated[int, option("Updates between dev losses and checkpoints.", TRAINING, min=1)] = 200,
    patience: Patience = None,
    bf16: Annotated[bool, option("Multiply in bfloat16.", RUN, "--bf16")] = False,
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
    config = LMTrainingConfig(
        objective=objective,
        vocab_size=vocab_size,
        tokenizer=_folder(tokenizer),
        start=_folder(start),
        context=context,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        key_size=key_size,
        intermediate=intermediate,
        talking_heads=_talks(talking_heads),
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
    token = "hidden token" if objective == "masked" else "token"
    figures = f"dev loss {report.dev_loss:.4f} nats a {token}, perplexity {report.perplexity:.2f}{bits}"
    use = "embed FILE -m MODEL" if objective == "masked" else "generate -m MODEL -p 'It was'"
    say_trained(output, figures, f"ordtool {use}", progress)


def _talks(where: str | None) -> bool | str:
    """Read `--talking-heads`, which was a switch; configuration files may still say true or false."""
    if where is None or where == "false":
        return False
    return True if where in ("both", "true") else where


def _folder(tokenizer: str | None) -> str | None:
    from ordtool.models.resolve import resolve_model

    if tokenizer is None or (Path(tokenizer) / "tokenizer.json").is_file():
        return tokenizer  # a folder with a tokenizer alone will do
    return str(resolve_model(tokenizer))
