"""Training a model to write targets for sources, through transformers' Trainer and accelerate."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordtool.arguments import as_many
from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.atomic import atomic_directory, check_directory
from ordtool.io.inputs import check_read_twice
from ordtool.io.runs import partial_folder, run_folder, run_metadata
from ordtool.models.releases import one_device_a_process
from ordtool.progress import SILENT, Progress
from ordtool.runtime import quiet_libraries, resolve_device, resolve_dtype, seed_everything
from ordtool.trainer import (
    has_checkpoint,
    last_checkpoint,
    make_trainer,
    trainer_arguments,
)

if TYPE_CHECKING:
    from ordtool.seq2seq.data import PairBatches, Row

OVERLONG = ("truncate", "drop")
VOCABULARIES = ("full", "seen")


@dataclass(frozen=True, slots=True)
class Seq2SeqSettings:
    """What `train_seq2seq` does.

    Attributes:
        source_field: The key or column of the source.
        target_field: That of the target.
        max_source: Tokens of a source at most, special ones among them; None: what the target leaves, up to 384.
        max_target: Tokens of a target at most; None: 128, or half of a shorter context.
        overlong: `truncate` or `drop` longer pairs.
        together: Targets of one source that share a row, so that it is read once (encoders).
        vocabulary: `seen`: the softmax ranges over tokens of the training pairs alone, for good.
        lossless: Extend a WordPiece vocabulary so that targets come back as written; None: if needed.
        valid_share: Share of the sources held out where no dev file is given.
        epochs: Passes over the pairs.
        batch_size: Pairs a batch, about.
        accumulate: Batches an update.
        learning_rate: At its peak; warm-up over `warmup` of the steps, then linearly to 0.
        warmup: Share of the steps.
        weight_decay: Of AdamW.
        dropout: Of hidden states; None: the checkpoint's own.
        eval_every: Updates between dev losses, and checkpoints; None: an epoch's, but at most ten in all.
        patience: Dev losses without a better one before it stops; None: never.
        seed: Of everything.
        dtype: Of matrix products: `auto` is bfloat16 where that is faster.
    """

    source_field: str = "source"
    target_field: str = "target"
    max_source: int | None = None
    max_target: int | None = None
    overlong: str = "truncate"
    together: int = 8
    vocabulary: str = "full"
    lossless: bool | None = None
    valid_share: float = 0.02
    epochs: float = 3.0
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-4
    warmup: float = 0.06
    weight_decay: float = 0.01
    dropout: float | None = None
    eval_every: int | None = None
    patience: int | None = None
    seed: int = 0
    dtype: str = "auto"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("overlong", self.overlong, OVERLONG),
            ("vocabulary", self.vocabulary, VOCABULARIES),
        ):
            if value not in known:
                raise UsageError(f"unknown --{name} {value!r}", close_match_hint(value, known))
        if not 0 < self.valid_share < 1:
            raise UsageError(f"--valid-share {self.valid_share} is out of range", "0.02 is 2% of the sources")
        if not self.epochs > 0:
            raise UsageError(f"--epochs {self.epochs} is not possible", "give a number above 0")
        for name, size in (("max-source", self.max_source), ("max-target", self.max_target)):
            if size is not None and size < 3:
                raise UsageError(f"--{name} {size} is too small", "two special tokens are among them")


@dataclass(frozen=True, slots=True)
class Seq2SeqReport:
    """What came of the training.

    Attributes:
        kind: `unilm` or `encoder-decoder`.
        parameters: Of the model.
        sources: Distinct sources trained on.
        pairs: Pairs trained on.
        dev_pairs: Pairs that the dev loss is measured on.
        truncated: Pairs that were cut.
        dropped: Pairs that were left out as too long.
        steps: Updates made.
        dev_loss: Nats a token of the targets, their end included.
        perplexity: exp(dev_loss).
    """

    kind: str
    parameters: int
    sources: int
    pairs: int
    dev_pairs: int
    truncated: int
    dropped: int
    steps: int
    dev_loss: float
    perplexity: float


def train_seq2seq(
    pairs: str | Path | Sequence[str | Path],
    model: str | Path,
    output: str | Path,
    settings: Seq2SeqSettings,
    *,
    valid: str | Path | Sequence[str | Path] = (),
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> Seq2SeqReport:
    """Train an encoder under the sequence-to-sequence mask, or an encoder-decoder, on pairs.

    Checkpoints gather in `<output>.partial`; the model folder appears when it is complete.

    Args:
        pairs: JSONL, CSV or TSV files; see `read_pairs`.
        model: The folder of an encoder, an encoder-decoder or a model trained here before.
        output: The model folder to make, for `ordtool generate`.
        settings: See `Seq2SeqSettings`.
        valid: Files of held-out pairs; none: `valid_share` of the sources.
        device: Where to compute.
        resume: Go on from the last checkpoint.
        force: Replace an existing folder, or an interrupted run.
        progress: Told of steps with the loss.

    Returns:
        The report, which is also in the folder's `training.json`.

    Raises:
        OrdtoolError: For bad pairs (`file:line`) or a model of another kind, or if the
            output exists or the interrupted run was another.
    """
    pairs, valid = tuple(as_many(pairs)), tuple(as_many(valid))
    quiet_libraries()
    check_directory(output, force=force)
    check_read_twice([*pairs, *valid], "a file of pairs")
    facts = {**asdict(settings), "model": str(Path(model).name)}
    with run_folder(partial_folder(output), has_checkpoint, resume=resume, force=force) as run:
        resume = run.start(run_metadata([*pairs, *valid], facts), progress)
        report, trained, tokenizer = _train(
            pairs, Path(model), settings, valid, device, resume, run.path, progress
        )
        with atomic_directory(output, force=force) as folder:
            trained.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            facts = {**asdict(report), "settings": facts, "pairs_from": [Path(path).name for path in pairs]}
            (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return report


def _train(
    pairs: Sequence[str | Path],
    model_folder: Path,
    settings: Seq2SeqSettings,
    valid: Sequence[str | Path],
    device: str,
    resume: bool,
    partial: Path,
    progress: Progress,
) -> tuple[Seq2SeqReport, Any, Any]:
    seed_everything(settings.seed)
    train_groups, dev_groups = _read(pairs, valid, settings)
    from ordtool.seq2seq.models import load_reader
    from ordtool.seq2seq.pair_encoder import PairEncoder

    model, tokenizer = load_reader(model_folder, settings.dropout)
    unilm = not model.config.is_encoder_decoder
    if unilm:
        tokenizer = _fit_vocabulary(model, tokenizer, train_groups, settings, progress)
    encoder = PairEncoder(model, tokenizer, settings)
    train_rows, dev_rows = encoder.rows(train_groups), encoder.rows(dev_groups)
    encoder.tell(progress)
    for name, rows in (("training", train_rows), ("held-out", dev_rows)):
        if not rows:
            raise OrdtoolError(f"no {name} pairs are left", "raise --max-source and --max-target")
    if unilm:
        _set_ends(model, tokenizer, encoder.eos)
        if settings.vocabulary == "seen":
            model.restrict(_seen([*train_rows, *dev_rows], encoder.eos, progress, model.config.vocab_size))
    batches = [
        _batches(rows, settings, model, tokenizer, shuffle=rows is train_rows)
        for rows in (train_rows, dev_rows)
    ]
    trainer = _trainer(model, partial, settings, device, batches[0], batches[1], progress)
    count, dev_count = (sum(len(targets) for _, targets in rows) for rows in (train_rows, dev_rows))
    steps = _steps(batches[0], settings)
    progress.note(
        f"{model.num_parameters():,} parameters, {count:,} pairs of {len(train_rows):,} sources, {steps:,} steps"
    )
    checkpoint = last_checkpoint(partial) if resume else None
    if checkpoint is not None:
        progress.note(f"going on from {checkpoint.name}")
    progress.start("training", steps, "steps")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    progress.close()
    loss = float(trainer.evaluate()["eval_loss"])
    report = Seq2SeqReport(
        "unilm" if unilm else "encoder-decoder",
        model.num_parameters(),
        len(train_rows),
        count,
        dev_count,
        encoder.truncated,
        encoder.dropped,
        trainer.state.global_step,
        loss,
        math.exp(loss),
    )
    return report, trainer.model, tokenizer


def _read(
    pairs: Sequence[str | Path], valid: Sequence[str | Path], settings: Seq2SeqSettings
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    from ordtool.seq2seq.data import group, hold_out, read_pairs

    fields = (settings.source_field, settings.target_field)
    train = [pair for path in pairs for pair in read_pairs(path, *fields)]
    if not train:
        raise OrdtoolError(
            f"{', '.join(map(str, pairs))}: no pairs in it", "a line has a source and a target"
        )
    if not valid:
        return hold_out(group(train), settings.valid_share, settings.seed)
    dev = [pair for path in valid for pair in read_pairs(path, *fields)]
    if not dev:
        raise OrdtoolError(
            f"{', '.join(map(str, valid))}: no pairs in it", "a line has a source and a target"
        )
    return group(train), group(dev)


def _fit_vocabulary(
    model: Any, tokenizer: Any, groups: dict[str, list[str]], settings: Seq2SeqSettings, progress: Progress
) -> Any:
    """Extend the vocabulary if targets wouldn't come back as they were written."""
    from ordtool.seq2seq.models import grow
    from ordtool.seq2seq.wordpieces import extend, is_wordpiece, keeps

    if settings.lossless is False or not is_wordpiece(tokenizer):
        return tokenizer
    some = [target for targets in list(groups.values())[:1000] for target in targets[:1]]
    if settings.lossless is None and keeps(tokenizer, some):
        return tokenizer
    made, added = extend(tokenizer, (text for source, ts in groups.items() for text in (source, *ts)))
    grow(model, len(made) - len(added), added)
    progress.note(
        f"the vocabulary gets {len(added):,} pieces more, so that case, accents and spaces of targets are kept "
        "(--no-lossless leaves it as it is)"
    )
    return made


def _set_ends(model: Any, tokenizer: Any, eos: int) -> None:
    pad = tokenizer.pad_token_id
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = eos, 0 if pad is None else pad


def _seen(rows: list[Row], eos: int, progress: Progress, size: int) -> Any:
    import torch

    tokens = {eos}.union(*(set(ids) for source, targets in rows for ids in (source, *targets)))
    progress.note(f"the softmax ranges over the {len(tokens):,} tokens of the pairs, of {size:,}")
    return torch.tensor(sorted(tokens))


def _batches(
    rows: list[Row], settings: Seq2SeqSettings, model: Any, tokenizer: Any, *, shuffle: bool
) -> PairBatches:
    from ordtool.seq2seq.data import PairBatches

    pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return PairBatches(
        rows,
        settings.batch_size,
        settings.together,
        pad,
        settings.seed,
        encoder_decoder=model.config.is_encoder_decoder,
        shuffle=shuffle,
    )


def _steps(batches: PairBatches, settings: Seq2SeqSettings) -> int:
    an_epoch = max(1, -(-len(batches) // settings.accumulate))
    return max(1, math.ceil(settings.epochs * an_epoch))


def _trainer(
    model: Any,
    partial: Path,
    settings: Seq2SeqSettings,
    device: str,
    train: PairBatches,
    dev: PairBatches,
    progress: Progress,
) -> Any:
    import torch
    import transformers

    class PairTrainer(transformers.Trainer):
        """The Trainer, with a dev loss that counts every token alike."""

        def evaluate(
            self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
        ) -> dict[str, float]:
            self.model.eval()
            total, count = 0.0, 0
            for batch in self.get_eval_dataloader(eval_dataset):
                loss, _, _ = self.prediction_step(self.model, batch, prediction_loss_only=True)
                tokens = int((batch["labels"] != -100).sum())
                total, count = total + float(loss) * tokens, count + tokens
            metrics = {f"{metric_key_prefix}_loss": total / max(count, 1)}
            self.log(metrics)
            self.control: Any = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
            return metrics

    place = resolve_device(device)
    steps = _steps(train, settings)
    # A checkpoint is four times the weights on the disk: ten are enough for a run of many short epochs.
    every = settings.eval_every or max(_steps(train, _one_epoch(settings)), math.ceil(steps / 10))
    dtype = resolve_dtype(settings.dtype, place)
    arguments = trainer_arguments(
        partial,
        settings,
        place,
        steps=steps,
        every=min(every, steps),
        per_device_train_batch_size=1,  # an item is a batch
        per_device_eval_batch_size=1,
        lr_scheduler_type="linear",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        remove_unused_columns=False,
    )
    if place.type == "cuda":
        # A batch is rows and places in them, which can't be cut in two: one device a process.
        one_device_a_process(arguments)
    return make_trainer(
        PairTrainer,
        settings,
        progress,
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=dev,
        data_collator=_only,
    )


def _only(items: list[dict[str, Any]]) -> dict[str, Any]:
    (item,) = items
    return item


def _one_epoch(settings: Seq2SeqSettings) -> Seq2SeqSettings:
    from dataclasses import replace

    return replace(settings, epochs=1.0)
