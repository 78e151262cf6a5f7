"""Training the small Transformer, through transformers' Trainer and accelerate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

from ordtool.arguments import as_many, with_options
from ordtool.distributed import Ranks, join_ranks
from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.atomic import check_directory
from ordtool.io.inputs import check_read_twice
from ordtool.io.runs import RunConfig, RunOptions, partial_folder, run_folder, run_metadata
from ordtool.lm.position_schemes import BOTH_WAYS, SCHEMES, TWO_TABLES, parse_scheme
from ordtool.progress import SILENT, Progress
from ordtool.runtime import quiet_libraries, resolve_device, seed_everything
from ordtool.trainer import (
    has_checkpoint,
    last_checkpoint,
    make_trainer,
    save_trained,
    train_and_measure,
    trainer_arguments,
)

TALKING = ("both", "before", "after")
# What a model to start from brings with it.
_SHAPE = (
    "objective", "vocab_size", "tokenizer", "layers", "hidden", "heads", "kv_heads", "key_size", "intermediate",
    "talking_heads", "logn", "logn_trained", "positions", "rope_base",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LMTrainingConfig:
    """What `train_lm` does.

    Attributes:
        objective: `causal`, `prefix`, `permutation` or `masked`.
        vocab_size: Of the BPE vocabulary trained on the text.
        tokenizer: A model folder whose tokenizer is taken instead; None: train one.
        start: A model whose weights, shape and tokenizer training goes on from; None: begin with random weights.
        context: Tokens a block: the length trained on.
        layers: Blocks of the model.
        hidden: Size of hidden states.
        heads: Attention heads.
        kv_heads: Heads of keys and values; None: as many.
        key_size: Size of a head's queries and keys; None: hidden / heads.
        intermediate: Inner size of the feed-forward blocks; None: 8/3 of hidden.
        talking_heads: Mix across heads: `before` the softmax the scores, `after` it the weights, `both` (or True) both.
        logn: Scale scores by the logarithm of the length, beyond the context alone.
        logn_trained: The same within the context too, so that training is with it.
        positions: A scheme of `ordtool.lm.position_schemes`, with parameters if wanted: `hwfa:window=64`.
        rope_base: Base of the rotary frequencies, base^(-2m/D); None: 10,000.
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
    start: str | None = None
    context: int = 256
    layers: int = 6
    hidden: int = 256
    heads: int = 8
    kv_heads: int | None = None
    key_size: int | None = None
    intermediate: int | None = None
    talking_heads: bool | str = False
    logn: bool = False
    logn_trained: bool = False
    positions: str = "rope"
    rope_base: float | None = None
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
        objectives = ("causal", "prefix", "permutation", "masked")
        if self.objective not in objectives:
            raise UsageError(
                f"unknown `objective` {self.objective!r}", close_match_hint(self.objective, objectives)
            )
        if self.talking_heads not in (True, False, *TALKING):
            raise UsageError(
                f"unknown `talking_heads` {self.talking_heads!r}",
                close_match_hint(str(self.talking_heads), TALKING),
            )
        self._check_positions()
        if self.start is not None:
            usual = LMTrainingConfig()
            if given := [name for name in _SHAPE if getattr(self, name) != getattr(usual, name)]:
                raise UsageError(
                    f"`start` brings its own `{given[0]}`", f"leave out `{given[0]}`, or `start`"
                )
        if self.hidden % self.heads:
            raise UsageError(
                f"`hidden` {self.hidden} is no multiple of `heads` {self.heads}", "for example 256 and 8"
            )
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise UsageError(
                f"`heads` {self.heads} can't share `kv_heads` {self.kv_heads}", "it must divide them"
            )
        least = 259 if self.objective == "masked" else 258
        if self.tokenizer is None and self.vocab_size < least:
            raise UsageError(
                f"`vocab_size` {self.vocab_size} is too small", f"{least} holds the bytes and special tokens"
            )
        if self.context < 2:
            raise UsageError("`context` must be 2 or more", "256 is usual for small models")

    def _check_positions(self) -> None:
        name, values = parse_scheme(self.positions)
        if SCHEMES[name].rotary and (self.key_size or self.hidden // self.heads) % 2:
            raise UsageError("rotary positions need an even head size", "choose an even `key_size`")
        if self.objective == "masked" and name not in BOTH_WAYS:
            raise UsageError(
                f"{name} positions don't go with `objective` masked, which reads both ways",
                "`positions` is one of " + ", ".join(BOTH_WAYS),
            )
        if self.logn and self.logn_trained:
            raise UsageError("`logn` and `logn_trained` contradict each other", "choose one")
        if name in TWO_TABLES and self.talking_heads:
            raise UsageError(f"{name} positions don't go with `talking_heads`", "choose one")
        if self.rope_base is not None and not SCHEMES[name].rotary:
            raise UsageError(
                f"{name} positions turn nothing, so that there is no `rope_base`", "leave it out"
            )
        if self.rope_base is not None and not 1 < self.rope_base < 1e15:
            raise UsageError(f"`rope_base` {self.rope_base:g} must be a number above 1", "10000 is usual")
        if name == "random":
            if self.objective == "permutation":
                raise UsageError(
                    "random positions don't go with `objective` permutation", "`positions` rope does"
                )
            longest = values.get("longest", 8 * self.context)
            if longest < self.context:
                raise UsageError(
                    f"random: {self.context} positions can't be drawn below {longest:g}",
                    "longest is the context at least",
                )


class LMTrainingOptions(RunOptions, total=False):
    """The fields of `LMTrainingConfig` and of a run, as keywords of `train_lm`."""

    objective: str
    vocab_size: int
    tokenizer: str | None
    start: str | None
    context: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int | None
    key_size: int | None
    intermediate: int | None
    talking_heads: bool | str
    logn: bool
    logn_trained: bool
    positions: str
    rope_base: float | None
    steps: int
    batch_size: int
    accumulate: int
    learning_rate: float
    warmup: float
    weight_decay: float
    eval_every: int
    patience: int | None
    seed: int
    bf16: bool


@dataclass(frozen=True, slots=True)
class LMTrainingReport:
    """What came of the training.

    Attributes:
        parameters: Of the model, the tied table once.
        steps: Updates made.
        tokens: Of the training text.
        dev_loss: Nats a token, for `masked` a hidden token; None if nothing was measured.
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
    config: LMTrainingConfig | None = None,
    *,
    dev: str | Path | Sequence[str | Path] = (),
    field: str = "text",
    progress: Progress = SILENT,
    **options: Unpack[LMTrainingOptions],
) -> LMTrainingReport:
    """Train a language model on text and save it with its tokenizer.

    Checkpoints gather in `<output>.partial`; the model folder appears when it is complete.

    Args:
        texts: Files; a text file is one document, a JSONL record too.
        output: The model folder to make; the Auto classes and `ordtool generate` take it.
        config: See `LMTrainingConfig`.
        dev: Held-out text; none: the last 2% of the tokens.
        field: The key of JSONL records.
        progress: Told of steps with the loss.
        **options: Fields of `LMTrainingConfig`, on top of `config`, and of `RunConfig`: `device`, `resume`, `force`.

    Returns:
        The report, which is also `training.json` in the folder.

    Raises:
        OrdtoolError: If the text is shorter than a block, the output exists, or the
            interrupted run had another input or other settings.
    """
    texts, dev = tuple(as_many(texts)), tuple(as_many(dev))
    config, given = with_options(config or LMTrainingConfig(), options, RunOptions.__annotations__)
    machine = RunConfig(**given)
    quiet_libraries()
    check_read_twice([*texts, *dev])
    with join_ranks(resolve_device(machine.device)) as ranks:
        progress = ranks.heard(progress)
        ranks.on_main(lambda: check_directory(output, force=machine.force))
        partial = partial_folder(output)
        with run_folder(
            partial, has_checkpoint, resume=machine.resume, force=machine.force, ranks=ranks
        ) as folder:
            metadata = ranks.on_main(lambda: run_metadata([*texts, *dev], asdict(config)))
            resume = folder.start(metadata, progress)
            seed_everything(config.seed)
            tokenizer = ranks.main_first(lambda: _tokenizer(texts, field, config, folder.path, progress))
            rows = _tokens(texts, dev, field, tokenizer, config, progress)
            checkpoint = last_checkpoint(folder.path) if resume else None
            run = _Run(config, machine.device, folder.path, checkpoint, ranks, progress)
            report, model = _train(rows, tokenizer, run)
            if ranks.is_main:
                facts = {
                    **asdict(report),
                    "settings": asdict(config),
                    "texts": [Path(text).name for text in texts],
                }
                save_trained(output, model, tokenizer, facts, force=machine.force)
    return report


@dataclass(frozen=True, slots=True)
class _Run:
    """How, where and with whom a model is trained."""

    config: LMTrainingConfig
    device: str
    partial: Path
    checkpoint: Path | None
    ranks: Ranks
    progress: Progress


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A text in tokens `(n,)`, and its size in bytes."""

    ids: Any
    size: int


def _tokens(
    texts: Sequence[str | Path],
    dev_files: Sequence[str | Path],
    field: str,
    tokenizer: Any,
    config: LMTrainingConfig,
    progress: Progress,
) -> tuple[_Tokens, _Tokens]:
    """Read the training text and the held-out one.

    Raises:
        OrdtoolError: If one of them is shorter than a block.
    """
    from ordtool.io.text import read_documents
    from ordtool.lm.corpus import tokenize

    train = _Tokens(*tokenize(read_documents(texts, field), tokenizer, progress))
    if dev_files:
        dev = _Tokens(*tokenize(read_documents(dev_files, field), tokenizer, progress))
    else:
        held = max(len(train.ids) // 50, config.context)
        rest = train.ids[-held:]
        text = tokenizer.decode(rest.tolist(), skip_special_tokens=True)
        dev = _Tokens(rest, len(text.encode("utf-8", "replace")))
        train = _Tokens(train.ids[:-held], train.size)
    for name, row in (("training", train.ids), ("held-out", dev.ids)):
        if len(row) < config.context:
            raise OrdtoolError(
                f"the {name} text has {len(row)} tokens, fewer than one block of {config.context}",
                "give more text, or a smaller `context`",
            )
    return train, dev


def _train(texts: tuple[_Tokens, _Tokens], tokenizer: Any, run: _Run) -> tuple[LMTrainingReport, Any]:
    from ordtool.lm.corpus import Blocks, Masking

    (train, dev), config = texts, run.config
    masking = Masking.of(tokenizer) if config.objective == "masked" else None
    model = _model(tokenizer, config)
    rows, dev_rows = (
        Blocks(train.ids, config.context, config.objective, config.seed, _longest(model.config), masking),
        Blocks(dev.ids, config.context, config.objective, config.seed + 1, masking=masking),
    )
    trainer = _trainer(model, rows, dev_rows, run)
    run.progress.note(
        f"{model.num_parameters():,} parameters, {len(train.ids):,} tokens, {config.steps:,} steps"
    )
    loss = train_and_measure(trainer, config.steps, run.checkpoint, run.progress)
    bits = loss * len(dev.ids) / max(dev.size, 1) / math.log(2) if config.objective == "causal" else None
    return LMTrainingReport(
        model.num_parameters(), trainer.state.global_step, len(train.ids), loss, math.exp(loss), bits
    ), trainer.model


def _tokenizer(
    texts: Sequence[str | Path], field: str, config: LMTrainingConfig, partial: Path, progress: Progress
) -> Any:
    from ordtool.io.text import read_documents
    from ordtool.lm.corpus import train_tokenizer
    from ordtool.models.loading import load_tokenizer

    folder = partial / "tokenizer"
    if (given := config.start or config.tokenizer) is not None:
        return load_tokenizer(Path(given))
    if not folder.exists():
        progress.note(f"training a vocabulary of {config.vocab_size:,} pieces")
        tokenizer = train_tokenizer(
            read_documents(texts, field), config.vocab_size, masks=config.objective == "masked"
        )
        tokenizer.save_pretrained(folder)
    return load_tokenizer(folder)  # as a run that is gone on with does, so that both save the same


def _model(tokenizer: Any, config: LMTrainingConfig) -> Any:
    from ordtool.lm.model import OrdtoolLMConfig, OrdtoolLMForCausalLM, OrdtoolLMForMaskedLM

    if config.start is not None:
        return _started(Path(config.start), config.context)
    name, values = parse_scheme(config.positions)
    shape = OrdtoolLMConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        # A gated block of 8/3 has the parameters of a plain one of 4.
        intermediate_size=config.intermediate or max(16, round(config.hidden * 8 / 3 / 16) * 16),
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        key_size=config.key_size,
        talking_heads=config.talking_heads,
        logn="trained" if config.logn_trained else config.logn,
        positions=name,
        position_parameters=values,
        rope_theta=config.rope_base or 10000.0,
        max_position_embeddings=config.context,
        objective=config.objective,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (OrdtoolLMForMaskedLM if config.objective == "masked" else OrdtoolLMForCausalLM)(shape)


def _started(folder: Path, context: int) -> Any:
    """Load the model that training goes on from."""
    from ordtool.models.loading import check_causal, load_config, load_model

    shape = load_config(folder)
    check_causal(folder, shape)
    if (objective := getattr(shape, "objective", "causal")) != "causal":
        raise OrdtoolError(f"{folder}: its objective is {objective}", "`start` goes on from causal models")
    if hasattr(shape, "max_position_embeddings") and getattr(shape, "rope_parameters", None):
        shape.max_position_embeddings = context
    return load_model(folder, "causal", config=shape).model.train()


def _longest(config: Any) -> int | None:
    """Return the number that random positions stay below, if the model is trained with such."""
    drawn = getattr(config, "positions", None) == "random"
    return int(config.position_parameters["longest"]) if drawn else None


def _trainer(model: Any, train: Any, dev: Any, run: _Run) -> Any:
    config = run.config
    arguments = trainer_arguments(
        run.partial,
        config,
        resolve_device(run.device),
        steps=config.steps,
        every=min(config.eval_every, config.steps),
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        lr_scheduler_type="cosine",
        adam_beta2=0.95,
        bf16=config.bf16,
        remove_unused_columns=False,
    )
    return make_trainer(
        config,
        run.progress,
        run.ranks,
        weigh=lambda batch: len(batch["labels"]),
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=dev,
    )
