"""Training the small Transformer, through transformers' Trainer and accelerate."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.atomic import atomic_directory, check_directory, file_fingerprint
from ordtool.io.text import open_input
from ordtool.progress import SILENT, Progress
from ordtool.runtime import quiet_libraries, resolve_device, seed_everything


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
        logn: Scale scores by the logarithm of the length.
        positions: `rope`, `nope` or `alibi`.
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
        objectives, positions = ("causal", "prefix", "permutation"), ("rope", "nope", "alibi")
        for name, value, known in (
            ("objective", self.objective, objectives),
            ("positions", self.positions, positions),
        ):
            if value not in known:
                raise UsageError(f"unknown --{name} {value!r}", close_match_hint(value, known))
        if self.hidden % self.heads:
            raise UsageError(
                f"--hidden {self.hidden} is no multiple of --heads {self.heads}", "for example 256 and 8"
            )
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise UsageError(
                f"--heads {self.heads} can't share --kv-heads {self.kv_heads}", "it must divide them"
            )
        if self.positions == "rope" and (self.key_size or self.hidden // self.heads) % 2:
            raise UsageError("rotary positions need an even head size", "choose an even --key-size")
        if self.tokenizer is None and self.vocab_size < 258:
            raise UsageError(
                f"--vocab-size {self.vocab_size} is too small", "258 holds the bytes and two special tokens"
            )
        if self.context < 2:
            raise UsageError("--context must be 2 or more", "256 is usual for small models")


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
    texts: Sequence[str | Path],
    output: str | Path,
    settings: LmSettings,
    *,
    valid: Sequence[str | Path] = (),
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
    quiet_libraries()
    check_directory(output, force=force)
    _check_texts([*texts, *valid])
    partial = Path(f"{output}.partial")
    _check_partial(partial, texts, valid, settings, resume, force)
    try:
        return _train(texts, output, settings, valid, field, device, resume, force, partial, progress)
    except BaseException:
        if _last_checkpoint(partial) is None:  # nothing to go on from
            shutil.rmtree(partial, ignore_errors=True)
        raise


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
    from ordtool.transformer.corpus import Blocks, read_documents, tokenize

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
        Blocks(tokens, settings.context, settings.objective, settings.seed),
        Blocks(dev, settings.context, settings.objective, settings.seed + 1),
        progress,
    )
    progress.note(f"{model.num_parameters():,} parameters, {len(tokens):,} tokens, {settings.steps:,} steps")
    progress.start("training", settings.steps, "steps")
    checkpoint = _last_checkpoint(partial) if resume else None
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
    shutil.rmtree(partial)
    return report


def _check_texts(paths: Sequence[str | Path]) -> None:
    for path in paths:
        if str(path) == "-":
            raise UsageError(
                "the text is read more than once, so it can't come from a pipe", "save it in a file"
            )
        with open_input(path):
            pass


def _check_partial(
    partial: Path,
    texts: Sequence[str | Path],
    valid: Sequence[str | Path],
    settings: LmSettings,
    resume: bool,
    force: bool,
) -> None:
    """Hold a resumed run to its input and settings; write them down for a new one."""
    chosen: dict[str, Any] = asdict(settings)
    facts = {"input": file_fingerprint([*texts, *valid]), "settings": chosen}
    file = partial / "run.json"
    if partial.exists() and resume:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise OrdtoolError(f"{file}: missing or damaged", "--force begins anew") from None
        changed = [name for name, value in chosen.items() if found["settings"].get(name) != value]
        if found["input"] != facts["input"] or changed:
            what = f"settings ({', '.join(changed)})" if changed else "input"
            raise OrdtoolError(f"{partial}: the interrupted run had other {what}", "--force begins anew")
        return
    if partial.exists():
        if not force:
            raise OrdtoolError(
                f"{partial}: an interrupted run left this", "--resume goes on with it, --force begins anew"
            )
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    file.write_text(json.dumps(facts), encoding="utf-8")


def _tokenizer(
    texts: Sequence[str | Path], field: str, settings: LmSettings, partial: Path, progress: Progress
) -> Any:
    from transformers import AutoTokenizer

    from ordtool.transformer.corpus import read_documents, train_tokenizer

    folder = partial / "tokenizer"
    if settings.tokenizer is not None:
        try:
            return AutoTokenizer.from_pretrained(settings.tokenizer, local_files_only=True)
        except (OSError, ValueError) as error:
            raise OrdtoolError(
                f"{settings.tokenizer}: no tokenizer in it", "--tokenizer is a model folder"
            ) from error
    if folder.exists():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    progress.note(f"training a vocabulary of {settings.vocab_size:,} pieces")
    tokenizer = train_tokenizer(read_documents(texts, field), settings.vocab_size)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _model(tokenizer: Any, settings: LmSettings) -> Any:
    from ordtool.transformer.model import OrdtoolLMConfig, OrdtoolLMForCausalLM

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
        logn=settings.logn,
        positions=settings.positions,
        max_position_embeddings=settings.context,
        objective=settings.objective,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return OrdtoolLMForCausalLM(config)


def _last_checkpoint(partial: Path) -> Path | None:
    found = sorted(partial.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return found[-1] if found else None


def _trainer(
    model: Any, partial: Path, settings: LmSettings, device: str, train: Any, dev: Any, progress: Progress
) -> Any:
    import transformers

    place = resolve_device(device)
    every = min(settings.eval_every, settings.steps)
    arguments = transformers.TrainingArguments(
        output_dir=str(partial),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup * settings.steps),
        weight_decay=settings.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        bf16=settings.bf16,
        use_cpu=place.type == "cpu",
        seed=settings.seed,
        data_seed=settings.seed,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=every,
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=min(10, every),
        disable_tqdm=True,
        report_to=[],
        dataloader_pin_memory=place.type == "cuda",
    )
    callbacks: list[Any] = [_listener(progress)]
    if settings.patience is not None:
        callbacks.append(transformers.EarlyStoppingCallback(settings.patience))
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=train, eval_dataset=dev, callbacks=callbacks
    )
    # It prints to stdout, which is for data.
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _listener(progress: Progress) -> Any:
    """Make a callback that hands the Trainer's news to a Progress."""
    from transformers import TrainerCallback

    class Listener(TrainerCallback):
        done = 0
        loss = ""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                self.loss = f"{float(logs['loss']):.3f}"

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress.advance(state.global_step - self.done, loss=self.loss)
            self.done = state.global_step

        def on_evaluate(
            self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
        ) -> None:
            loss = float((metrics or {}).get("eval_loss", math.nan))
            progress.note(f"step {state.global_step:,}: dev loss {loss:.4f}, perplexity {math.exp(loss):.2f}")

    return Listener()
