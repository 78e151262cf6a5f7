"""Training the small Transformer, through transformers' Trainer and accelerate."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ordtool.arguments import as_many
from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.atomic import atomic_directory, check_directory
from ordtool.io.inputs import check_read_twice
from ordtool.io.runs import partial_folder, run_folder, run_metadata
from ordtool.lm.position_schemes import SCHEMES, parse_scheme
from ordtool.progress import SILENT, Progress
from ordtool.runtime import quiet_libraries, resolve_device, seed_everything
from ordtool.trainer import (
    has_checkpoint,
    last_checkpoint,
    make_trainer,
    trainer_arguments,
)


@dataclass(frozen=True, slots=True)
class LmSettings:
    """What `train_lm` does.

    Attributes:
        objective: `causal`, `prefix` or `permutation`.
        vocab_size: Of the BPE vocabulary trained on the text.
        tokenizer: A model folder whose tokenizer is taken instead; None: train one.
        context: Tokens a block: the length trained on.
        layers: Blocks of the model.
        hidden: Size of hidden states.
        heads: Attention heads.
        kv_heads: Heads of keys and values; None: as many.
        key_size: Size of a head's queries and keys; None: hidden / heads.
        intermediate: Inner size of the feed-forward blocks; None: 8/3 of hidden.
        talking_heads: Mix scores and weights across heads.
        logn: Scale scores by the logarithm of the length, beyond the context alone.
        logn_trained: The same within the context too, so that training is with it.
        positions: A scheme of `ordtool.lm.position_schemes`, with parameters if wanted: `hwfa2:window=64`.
        steps: Updates.
        batch_size: Blocks a batch.
        accumulate: Batches an update.
        learning_rate: At its peak; warm-up over `warmup` of the steps, then a cosine to 0.
        warmup: Share of the steps.
        weight_decay: Of AdamW.
        eval_every: Updates between measurements of the dev loss, and checkpoints.
        patience: Measurements without a better dev loss before it stops; None: never.
        seed: Of everything.
        bf16: Multiply in bfloat16.
    """

    objective: str = "causal"
    vocab_size: int = 4096
    tokenizer: str | None = None
    context: int = 256
    layers: int = 6
    hidden: int = 256
    heads: int = 8
    kv_heads: int | None = None
    key_size: int | None = None
    intermediate: int | None = None
    talking_heads: bool = False
    logn: bool = False
    logn_trained: bool = False
    positions: str = "rope"
    steps: int = 2000
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.1
    eval_every: int = 200
    patience: int | None = None
    seed: int = 0
    bf16: bool = False

    def __post_init__(self) -> None:
        objectives = ("causal", "prefix", "permutation")
        if self.objective not in objectives:
            raise UsageError(
                f"unknown --objective {self.objective!r}", close_match_hint(self.objective, objectives)
            )
        self._check_positions()
        if self.hidden % self.heads:
            raise UsageError(
                f"--hidden {self.hidden} is no multiple of --heads {self.heads}", "for example 256 and 8"
            )
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise UsageError(
                f"--heads {self.heads} can't share --kv-heads {self.kv_heads}", "it must divide them"
            )
        if self.tokenizer is None and self.vocab_size < 258:
            raise UsageError(
                f"--vocab-size {self.vocab_size} is too small", "258 holds the bytes and two special tokens"
            )
        if self.context < 2:
            raise UsageError("--context must be 2 or more", "256 is usual for small models")

    def _check_positions(self) -> None:
        name, values = parse_scheme(self.positions)
        if SCHEMES[name].rotary and (self.key_size or self.hidden // self.heads) % 2:
            raise UsageError("rotary positions need an even head size", "choose an even --key-size")
        if self.logn and self.logn_trained:
            raise UsageError("--logn and --logn-trained contradict each other", "choose one")
        if name == "inverse-leaky" and self.talking_heads:
            raise UsageError("inverse-leaky positions don't go with --talking-heads", "choose one")
        if name == "random":
            if self.objective == "permutation":
                raise UsageError(
                    "random positions don't go with --objective permutation", "--positions rope does"
                )
            longest = values.get("longest", 8 * self.context)
            if longest < self.context:
                raise UsageError(
                    f"random: {self.context} positions can't be drawn below {longest:g}",
                    "longest is the context at least",
                )


@dataclass(frozen=True, slots=True)
class LmReport:
    """What came of the training.

    Attributes:
        parameters: Of the model, the tied table once.
        steps: Updates made.
        tokens: Of the training text.
        dev_loss: Nats a token; None if nothing was measured.
        perplexity: exp(dev_loss).
        bits_per_byte: Of the dev text, comparable across vocabularies; for `causal` alone.
    """

    parameters: int
    steps: int
    tokens: int
    dev_loss: float | None
    perplexity: float | None
    bits_per_byte: float | None


def train_lm(
    texts: str | Path | Sequence[str | Path],
    output: str | Path,
    settings: LmSettings | None = None,
    *,
    valid: str | Path | Sequence[str | Path] = (),
    field: str = "text",
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> LmReport:
    """Train a language model on text and save it with its tokenizer.

    Checkpoints gather in `<output>.partial`; the model folder appears when it is complete.

    Args:
        texts: Files; a text file is one document, a JSONL record too.
        output: The model folder to make; the Auto classes and `ordtool generate` take it.
        settings: See `LmSettings`.
        valid: Held-out text; none: the last 2% of the tokens.
        field: The key of JSONL records.
        device: Where to compute.
        resume: Go on from the last checkpoint.
        force: Replace an existing folder, or an interrupted run.
        progress: Told of steps with the loss.

    Returns:
        The report, which is also `training.json` in the folder.

    Raises:
        OrdtoolError: If the text is shorter than a block, the output exists, or the
            interrupted run had another input or other settings.
    """
    texts, valid = tuple(as_many(texts)), tuple(as_many(valid))
    settings = settings or LmSettings()
    quiet_libraries()
    check_directory(output, force=force)
    check_read_twice([*texts, *valid])
    with run_folder(partial_folder(output), has_checkpoint, resume=resume, force=force) as run:
        resume = run.start(run_metadata([*texts, *valid], asdict(settings)), progress)
        return _train(texts, output, settings, valid, field, device, resume, force, run.path, progress)


def _train(
    texts: Sequence[str | Path],
    output: str | Path,
    settings: LmSettings,
    valid: Sequence[str | Path],
    field: str,
    device: str,
    resume: bool,
    force: bool,
    partial: Path,
    progress: Progress,
) -> LmReport:
    seed_everything(settings.seed)
    from ordtool.io.text import read_documents
    from ordtool.lm.corpus import Blocks, tokenize

    tokenizer = _tokenizer(texts, field, settings, partial, progress)
    tokens, _ = tokenize(read_documents(texts, field), tokenizer, progress)
    if valid:
        dev, dev_size = tokenize(read_documents(valid, field), tokenizer, progress)
    else:
        held = max(len(tokens) // 50, settings.context)
        tokens, dev = tokens[:-held], tokens[-held:]
        dev_size = len(tokenizer.decode(dev.tolist(), skip_special_tokens=True).encode("utf-8", "replace"))
    for name, row in (("training", tokens), ("held-out", dev)):
        if len(row) < settings.context:
            raise OrdtoolError(
                f"the {name} text has {len(row)} tokens, fewer than one block of {settings.context}",
                "give more text, or a smaller --context",
            )
    model = _model(tokenizer, settings)
    trainer = _trainer(
        model,
        partial,
        settings,
        device,
        Blocks(tokens, settings.context, settings.objective, settings.seed, _longest(model.config)),
        Blocks(dev, settings.context, settings.objective, settings.seed + 1),
        progress,
    )
    progress.note(f"{model.num_parameters():,} parameters, {len(tokens):,} tokens, {settings.steps:,} steps")
    progress.start("training", settings.steps, "steps")
    checkpoint = last_checkpoint(partial) if resume else None
    if checkpoint is not None:
        progress.note(f"going on from {checkpoint.name}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    progress.close()
    loss = float(trainer.evaluate()["eval_loss"])
    bits = loss * len(dev) / max(dev_size, 1) / math.log(2) if settings.objective == "causal" else None
    report = LmReport(
        model.num_parameters(), trainer.state.global_step, len(tokens), loss, math.exp(loss), bits
    )
    with atomic_directory(output, force=force) as folder:
        trainer.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        facts = {**asdict(report), "settings": asdict(settings), "texts": [Path(text).name for text in texts]}
        (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return report


def _tokenizer(
    texts: Sequence[str | Path], field: str, settings: LmSettings, partial: Path, progress: Progress
) -> Any:
    from ordtool.io.text import read_documents
    from ordtool.lm.corpus import train_tokenizer
    from ordtool.models.loading import load_tokenizer

    folder = partial / "tokenizer"
    if settings.tokenizer is not None:
        return load_tokenizer(Path(settings.tokenizer))
    if folder.exists():
        return load_tokenizer(folder)
    progress.note(f"training a vocabulary of {settings.vocab_size:,} pieces")
    tokenizer = train_tokenizer(read_documents(texts, field), settings.vocab_size)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _model(tokenizer: Any, settings: LmSettings) -> Any:
    from ordtool.lm.model import OrdtoolLMConfig, OrdtoolLMForCausalLM

    name, values = parse_scheme(settings.positions)
    config = OrdtoolLMConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        # A gated block of 8/3 has the parameters of a plain one of 4.
        intermediate_size=settings.intermediate or max(16, round(settings.hidden * 8 / 3 / 16) * 16),
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        key_size=settings.key_size,
        talking_heads=settings.talking_heads,
        logn="trained" if settings.logn_trained else settings.logn,
        positions=name,
        position_parameters=values,
        max_position_embeddings=settings.context,
        objective=settings.objective,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return OrdtoolLMForCausalLM(config)


def _longest(config: Any) -> int | None:
    """Give the number that random positions stay below, if the model is trained with such."""
    return int(config.position_parameters["longest"]) if config.positions == "random" else None


def _trainer(
    model: Any, partial: Path, settings: LmSettings, device: str, train: Any, dev: Any, progress: Progress
) -> Any:
    import transformers

    place = resolve_device(device)
    arguments = trainer_arguments(
        partial,
        settings,
        place,
        steps=settings.steps,
        every=min(settings.eval_every, settings.steps),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        lr_scheduler_type="cosine",
        adam_beta2=0.95,
        bf16=settings.bf16,
        remove_unused_columns=False,
    )
    return make_trainer(
        transformers.Trainer,
        settings,
        progress,
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=dev,
    )
