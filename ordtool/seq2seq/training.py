"""Training a model to write targets for sources, through transformers' Trainer and accelerate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ordtool.arguments import as_many, with_options
from ordtool.distributed import ALONE, Ranks, join_ranks
from ordtool.errors import OrdtoolError
from ordtool.io.atomic import check_directory
from ordtool.io.inputs import check_read_twice
from ordtool.io.runs import RunConfig, RunOptions, partial_folder, run_folder, run_metadata
from ordtool.models.releases import one_device_a_process
from ordtool.models.resolve import resolve_model
from ordtool.progress import SILENT, Progress
from ordtool.runtime import quiet_libraries, resolve_device, resolve_dtype, seed_everything
from ordtool.seq2seq.config import Seq2SeqTrainingConfig, Seq2SeqTrainingOptions
from ordtool.trainer import (
    has_checkpoint,
    last_checkpoint,
    make_trainer,
    save_trained,
    train_and_measure,
    trainer_arguments,
)

if TYPE_CHECKING:
    from ordtool.seq2seq.data import PairBatches, Row
    from ordtool.seq2seq.pair_encoder import PairEncoder

Groups = dict[str, list[str]]
"""The targets of each source."""


@dataclass(frozen=True, slots=True)
class Seq2SeqTrainingReport:
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
    output: str | Path,
    config: Seq2SeqTrainingConfig | None = None,
    *,
    model: str | Path,
    dev: str | Path | Sequence[str | Path] = (),
    progress: Progress = SILENT,
    **options: Unpack[Seq2SeqTrainingOptions],
) -> Seq2SeqTrainingReport:
    """Train an encoder under the sequence-to-sequence mask, or an encoder-decoder, on pairs.

    Checkpoints gather in `<output>.partial`; the model folder appears when it is complete.

    Args:
        pairs: JSONL, CSV or TSV files; see `read_pairs`.
        output: The model folder to make, for `ordtool generate`.
        config: See `Seq2SeqTrainingConfig`.
        model: An encoder, an encoder-decoder or a model trained here before: a folder, a name or a hub id.
        dev: Files of held-out pairs; none: `holdout` of the sources.
        progress: Told of steps with the loss.
        **options: Fields of `Seq2SeqTrainingConfig`, on top of `config`, and of `RunConfig`: `device`, `resume`, `force`.

    Returns:
        The report, which is also in the folder's `training.json`.

    Raises:
        OrdtoolError: For bad pairs (`file:line`) or a model of another kind, or if the
            output exists or the interrupted run was another.
    """
    pairs, dev = tuple(as_many(pairs)), tuple(as_many(dev))
    config, given = with_options(config or Seq2SeqTrainingConfig(), options, RunOptions.__annotations__)
    machine = RunConfig(**given)
    quiet_libraries()
    check_read_twice([*pairs, *dev], "a file of pairs")
    with join_ranks(resolve_device(machine.device)) as ranks:
        progress = ranks.heard(progress)
        ranks.on_main(lambda: check_directory(output, force=machine.force))
        source = ranks.main_first(lambda: resolve_model(str(model), progress))
        settings = {**asdict(config), "model": source.name}
        partial = partial_folder(output)
        with run_folder(
            partial, has_checkpoint, resume=machine.resume, force=machine.force, ranks=ranks
        ) as folder:
            metadata = ranks.on_main(lambda: run_metadata([*pairs, *dev], settings))
            resume = folder.start(metadata, progress)
            seed_everything(config.seed)
            train, held_out = _read(pairs, dev, config)
            checkpoint = last_checkpoint(folder.path) if resume else None
            prepared = _prepare(source, train, held_out, config, progress)
            run = _Run(config, machine.device, folder.path, checkpoint, ranks, progress)
            report, trained = _train(prepared, run)
            if ranks.is_main:
                names = [Path(path).name for path in pairs]
                facts = {**asdict(report), "settings": settings, "pairs_from": names}
                save_trained(output, trained, prepared.tokenizer, facts, force=machine.force)
    return report


@dataclass(frozen=True, slots=True)
class _Run:
    """How, where and with whom a model is trained."""

    config: Seq2SeqTrainingConfig
    device: str
    partial: Path
    checkpoint: Path | None
    ranks: Ranks
    progress: Progress


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A model that has learnt nothing yet, and the pairs in its tokens."""

    model: Any
    tokenizer: Any
    encoder: PairEncoder
    train: list[Row]
    dev: list[Row]


def _prepare(
    folder: Path, train: Groups, dev: Groups, config: Seq2SeqTrainingConfig, progress: Progress
) -> _Prepared:
    """Load the model, fit its vocabulary to the pairs, and turn them into tokens.

    Raises:
        OrdtoolError: If the model is of another kind, or no pairs are short enough.
    """
    from ordtool.seq2seq.models import load_seq2seq_model
    from ordtool.seq2seq.pair_encoder import PairEncoder

    model, tokenizer = load_seq2seq_model(folder, config.dropout)
    unilm = not model.config.is_encoder_decoder
    if unilm:
        tokenizer = _fit_vocabulary(model, tokenizer, train, config, progress)
    encoder = PairEncoder(model, tokenizer, config)
    rows, dev_rows = encoder.rows(train), encoder.rows(dev)
    encoder.report(progress)
    for name, some in (("training", rows), ("held-out", dev_rows)):
        if not some:
            raise OrdtoolError(f"no {name} pairs are left", "raise `max_source` and `max_target`")
    if unilm:
        _set_ends(model, tokenizer, encoder.eos)
        if config.vocabulary == "seen":
            model.restrict(_seen([*rows, *dev_rows], encoder.eos, progress, model.config.vocab_size))
    return _Prepared(model, tokenizer, encoder, rows, dev_rows)


def _train(prepared: _Prepared, run: _Run) -> tuple[Seq2SeqTrainingReport, Any]:
    config = run.config
    model, encoder = prepared.model, prepared.encoder
    batches = _batches(prepared, prepared.train, config, shuffle=True, ranks=run.ranks)
    dev_batches = _batches(prepared, prepared.dev, config, shuffle=False)
    trainer = _trainer(model, batches, dev_batches, run)
    count, dev_count = (sum(len(targets) for _, targets in rows) for rows in (prepared.train, prepared.dev))
    steps = _steps(batches, config)
    run.progress.note(
        f"{model.num_parameters():,} parameters, {count:,} pairs of {len(prepared.train):,} sources, {steps:,} steps"
    )
    loss = train_and_measure(trainer, steps, run.checkpoint, run.progress)
    report = Seq2SeqTrainingReport(
        "encoder-decoder" if model.config.is_encoder_decoder else "unilm",
        model.num_parameters(),
        len(prepared.train),
        count,
        dev_count,
        encoder.truncated,
        encoder.dropped,
        trainer.state.global_step,
        loss,
        math.exp(loss),
    )
    return report, trainer.model


def _read(
    pairs: Sequence[str | Path], dev_files: Sequence[str | Path], config: Seq2SeqTrainingConfig
) -> tuple[Groups, Groups]:
    from ordtool.seq2seq.data import group, hold_out_sources, read_pairs

    fields = (config.source_field, config.target_field)
    train = [pair for path in pairs for pair in read_pairs(path, *fields)]
    if not train:
        raise OrdtoolError(
            f"{', '.join(map(str, pairs))}: no pairs in it", "a line has a source and a target"
        )
    if not dev_files:
        return hold_out_sources(group(train), config.holdout, config.seed)
    dev = [pair for path in dev_files for pair in read_pairs(path, *fields)]
    if not dev:
        raise OrdtoolError(
            f"{', '.join(map(str, dev_files))}: no pairs in it", "a line has a source and a target"
        )
    return group(train), group(dev)


def _fit_vocabulary(
    model: Any,
    tokenizer: Any,
    groups: Groups,
    config: Seq2SeqTrainingConfig,
    progress: Progress,
) -> Any:
    """Extend the vocabulary if targets wouldn't come back as they were written."""
    from ordtool.seq2seq.models import resize_embeddings
    from ordtool.seq2seq.wordpieces import extend, is_wordpiece, round_trips

    if config.lossless is False or not is_wordpiece(tokenizer):
        return tokenizer
    some = [target for targets in list(groups.values())[:1000] for target in targets[:1]]
    if config.lossless is None and round_trips(tokenizer, some):
        return tokenizer
    made, added = extend(tokenizer, (text for source, ts in groups.items() for text in (source, *ts)))
    resize_embeddings(model, len(made) - len(added), added)
    progress.note(
        f"the vocabulary gets {len(added):,} pieces more, so that case, accents and spaces of targets are kept "
        "(`lossless=False` leaves it as it is)"
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
    prepared: _Prepared,
    rows: list[Row],
    config: Seq2SeqTrainingConfig,
    *,
    shuffle: bool,
    ranks: Ranks = ALONE,
) -> PairBatches:
    from ordtool.seq2seq.data import PairBatches

    pad = prepared.tokenizer.pad_token_id
    return PairBatches(
        rows,
        config.batch_size,
        config.together,
        0 if pad is None else pad,
        config.seed,
        encoder_decoder=prepared.model.config.is_encoder_decoder,
        shuffle=shuffle,
        ranks=ranks,
    )


def _steps(batches: PairBatches, config: Seq2SeqTrainingConfig) -> int:
    an_epoch = max(1, -(-len(batches) // config.accumulate))
    return max(1, math.ceil(config.epochs * an_epoch))


def _trainer(model: Any, train: PairBatches, dev: PairBatches, run: _Run) -> Any:
    import torch

    config, place = run.config, resolve_device(run.device)
    steps = _steps(train, config)
    # A checkpoint is four times the weights on the disk: ten are enough for a run of many short epochs.
    every = config.eval_every or max(_steps(train, replace(config, epochs=1.0)), math.ceil(steps / 10))
    dtype = resolve_dtype(config.dtype, place)
    arguments = trainer_arguments(
        run.partial,
        config,
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
        config,
        run.progress,
        run.ranks,
        weigh=lambda batch: int((batch["labels"] != -100).sum()),
        share=list,  # the training set gives each rank its part of a batch
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=dev,
        data_collator=_only,
    )


def _only(items: list[dict[str, Any]]) -> dict[str, Any]:
    (item,) = items
    return item
