"""Training a ladder: data, backbone, hidden states, and the ladder saved alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.atomic import atomic_directory, check_directory, file_fingerprint
from ordtool.io.jsonl import dumps
from ordtool.models.catalog import cache_folder
from ordtool.progress import SILENT, Progress
from ordtool.runtime import resolve_device, seed_everything
from ordtool.tuning.backbone import Backbone, load_backbone
from ordtool.tuning.cache import CachedStates, LiveStates, StateSource, build_cache, cache_bytes
from ordtool.tuning.data import (
    Example,
    Fields,
    check_task,
    class_indices,
    class_names,
    read_examples,
    scores,
)
from ordtool.tuning.encoding import Encoded, encode_blocks, encode_labelled, encode_pairs
from ordtool.tuning.fisher import squared_gradients
from ordtool.tuning.fitting import Fitted, Schedule, fit
from ordtool.tuning.ladder import KINDS, POOLINGS, Ladder, LadderConfig
from ordtool.tuning.laddered import save_ladder
from ordtool.tuning.learners import LadderLearner, Measure
from ordtool.tuning.pruning import INITIALISATIONS, initialise
from ordtool.tuning.side import choose_layers

TEXT_TASKS = ("lm", "seq2seq")
MIN_DEV = 2


@dataclass(frozen=True, slots=True)
class LadderSettings:
    """What `train_ladder` does.

    Attributes:
        task: `classify`, `regress`, `pairs`, `lm` or `seq2seq`.
        kind: `gated` or `additive`.
        reduction: r.
        layers: See `choose_layers`.
        residual: Add the ladder's output to the backbone's.
        initialisation: `random`, `magnitude` or `fisher`.
        pooling: `mean`, `cls`, `last`; None: the last token of causal models, else the mean.
        dropout: Within the ladder's layers.
        max_length: Tokens of a text; of a block, for `lm`.
        schedule: How long and how fast.
        holdout: Share of the data held out where no dev data is given.
        cache: Keep hidden states on disk.
        cache_dir: Where; None: in ordtool's cache folder.
        device: `auto`, `cpu`, `cuda`, `mps`.
    """

    task: str = "classify"
    kind: str = "gated"
    reduction: int = 8
    layers: str | None = None
    residual: bool = True
    initialisation: str = "magnitude"
    pooling: str | None = None
    dropout: float = 0.0
    max_length: int = 128
    schedule: Schedule = field(default_factory=Schedule)
    holdout: float = 0.1
    cache: bool = True
    cache_dir: str | None = None
    device: str = "auto"

    def check(self) -> None:
        """Raise a UsageError for settings that make no sense."""
        check_task(self.task)
        self.schedule.check()
        for name, value, choices in (
            ("ladder", self.kind, KINDS),
            ("initialisation", self.initialisation, INITIALISATIONS),
            ("pooling", self.pooling or "mean", POOLINGS),
        ):
            if value not in choices:
                raise UsageError(f"unknown {name} {value!r}", close_match_hint(value, choices))
        if self.reduction < 1:
            raise UsageError(
                f"a reduction by {self.reduction} is not possible", "1 keeps the width, 8 is usual"
            )
        if self.max_length < 2:
            raise UsageError("--max-length must be at least 2")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout {self.dropout:g} is not a share below 1")


@dataclass(frozen=True, slots=True)
class LadderData:
    """Encoded data and what its labels are.

    Attributes:
        train: To train on.
        dev: Held out.
        names: Of the classes; empty where there are none.
        mean: Of the training scores.
        scale: Their standard deviation.
        test: Measured once, after the training, by comparisons; None: there is none.
    """

    train: Encoded
    dev: Encoded
    names: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    test: Encoded | None = None

    @property
    def parts(self) -> tuple[Encoded, ...]:
        """All texts whose hidden states are needed."""
        return (self.train, self.dev) if self.test is None else (self.train, self.dev, self.test)


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained ladder.

    Attributes:
        ladder: The ladder, with the best epoch's weights.
        fitted: Its history.
        parameters: How many were trained.
        state_seconds: What computing the hidden states took; 0 where they were there already.
        cache: Bytes of hidden states on disk; 0 without a cache.
        test: The figure on the test data, if there is some.
    """

    ladder: Ladder
    fitted: Fitted
    parameters: int
    state_seconds: float
    cache: int
    test: Measure | None = None

    def record(self) -> dict[str, Any]:
        """Give the figures as a JSON object."""
        best = self.fitted.best
        assert best is not None
        return {
            "method": "ladder",
            "metric": best.name,
            best.name: best.value,
            **best.more,
            "best_epoch": self.fitted.epoch,
            "epochs": len(self.fitted.history),
            "trained_parameters": self.parameters,
            "seconds_a_step": self.fitted.seconds_a_step,
            "state_seconds": self.state_seconds,
            "seconds": self.fitted.seconds + self.state_seconds,
            "cache_bytes": self.cache,
        }


def read_data(
    paths: Sequence[str | Path],
    dev: Sequence[str | Path],
    fields: Fields,
    settings: LadderSettings,
    backbone: Backbone,
    test: Sequence[str | Path] = (),
) -> LadderData:
    """Read, split and encode the data of any task.

    Raises:
        OrdtoolError: For bad records, one class only, an unknown dev label, an empty dev set.
        UsageError: For a share that leaves nothing on one side.
    """
    length = _length(settings, backbone)
    tokenizer = backbone.tokenizer
    if settings.task == "lm":
        return _read_lm(paths, dev, test, fields, settings, tokenizer, length)
    examples = read_examples(paths, fields)
    # One class only is said before the data is split.
    names = class_names(examples) if settings.task in ("classify", "pairs") else []
    if dev:
        held_out = _read_dev(dev, fields)
    else:
        examples, held_out = _split(examples, settings.holdout, settings.schedule.seed)
    rows = [examples, held_out, *([_read_dev(test, fields, "test")] if test else [])]
    if settings.task == "seq2seq":
        return _parts([encode_pairs(tokenizer, part, length) for part in rows])
    if settings.task == "regress":
        numbers = [scores(part) for part in rows]
        mean, scale = float(np.mean(numbers[0])), float(np.std(numbers[0]))
        if scale == 0:
            raise OrdtoolError(
                f"{examples[0].where}: all scores are {mean:g}: there is nothing to tell apart"
            )
        encoded = [
            encode_labelled(tokenizer, part, [(value - mean) / scale for value in values], length)
            for part, values in zip(rows, numbers, strict=True)
        ]
        return _parts(encoded, mean=mean, scale=scale)
    encoded = [encode_labelled(tokenizer, part, class_indices(part, names), length) for part in rows]
    return _parts(encoded, names=tuple(names))


def _parts(parts: list[Encoded], **more: Any) -> LadderData:
    return LadderData(parts[0], parts[1], test=parts[2] if len(parts) > 2 else None, **more)


def _read_dev(dev: Sequence[str | Path], fields: Fields, name: str = "dev") -> list[Example]:
    try:
        return read_examples(dev, fields)
    except OrdtoolError as error:
        if "holds no records" in error.message:
            raise OrdtoolError(
                f"the {name} set is empty: {error.message}",
                f"without --{name}, a share of the data is held out" if name == "dev" else None,
            ) from None
        raise


def _split(examples: list[Example], holdout: float, seed: int) -> tuple[list[Example], list[Example]]:
    count = round(len(examples) * holdout) if 0 < holdout < 1 else 0
    if count < MIN_DEV or len(examples) - count < MIN_DEV:
        raise UsageError(
            f"holding out {holdout:g} of {len(examples)} records leaves the dev set empty, or nothing to train on",
            "a larger --holdout, or --dev FILE",
        )
    order = np.random.default_rng([seed, 0x53504C]).permutation(len(examples))
    held = set(order[:count].tolist())
    kept = [example for index, example in enumerate(examples) if index not in held]
    return kept, [examples[index] for index in sorted(held)]


def _read_lm(
    paths: Sequence[str | Path],
    dev: Sequence[str | Path],
    test: Sequence[str | Path],
    fields: Fields,
    settings: LadderSettings,
    tokenizer: Any,
    length: int,
) -> LadderData:
    train = encode_blocks(tokenizer, _documents(paths, fields), length)
    last = encode_blocks(tokenizer, _documents(test, fields), length) if test else None
    if dev:
        return LadderData(train, encode_blocks(tokenizer, _documents(dev, fields), length), test=last)
    count = max(1, round(len(train) * settings.holdout))
    if not 0 < settings.holdout < 1 or count >= len(train):
        raise UsageError(
            f"holding out {settings.holdout:g} of {len(train)} block(s) leaves nothing to train on",
            "more text, a shorter --max-length, or --dev FILE",
        )
    # The end of the text, not blocks out of its middle, which would share sentences with their neighbours.
    parts = [Encoded(ids, starts=[1] * len(ids)) for ids in (train.ids[:-count], train.ids[-count:])]
    return LadderData(parts[0], parts[1], test=last)


def _documents(paths: Sequence[str | Path], fields: Fields) -> list[str]:
    """Read texts: a file is one, and so is a JSONL record."""
    from ordtool.io.text import has_jsonl_suffix, read_records

    documents = []
    for path in paths:
        records = [record.text for record in read_records([path], fields.text)]
        documents += records if has_jsonl_suffix(path) else ["\n".join(records)]
    if not any(document.strip() for document in documents):
        raise OrdtoolError(f"{', '.join(map(str, paths))}: holds no text")
    return documents


def _length(settings: LadderSettings, backbone: Backbone) -> int:
    limit = backbone.context
    return settings.max_length if limit is None else min(settings.max_length, limit)


def new_ladder(backbone: Backbone, data: LadderData, fields: Fields, settings: LadderSettings) -> Ladder:
    """Make a ladder for a backbone and data, with its first weights.

    Raises:
        UsageError: For layers that the backbone doesn't have.
    """
    seed_everything(settings.schedule.seed)
    labels = {"id2label": dict(enumerate(data.names)), "label2id": {n: i for i, n in enumerate(data.names)}}
    if settings.task in ("regress", *TEXT_TASKS):
        labels = {"id2label": {0: "score"}, "label2id": {"score": 0}}
    ladder = Ladder(
        LadderConfig(
            backbone=backbone.name,
            backbone_hash=backbone.hash,
            backbone_config=backbone.config.to_dict(),
            task=settings.task,
            kind=settings.kind,
            reduction=settings.reduction,
            layers=choose_layers(settings.layers, backbone.depth),
            residual=settings.residual,
            pooling=settings.pooling or ("last" if backbone.causal else "mean"),
            dropout=settings.dropout,
            text_length=_length(settings, backbone),
            pair_field=fields.pair,
            target_mean=data.mean,
            target_scale=data.scale,
            **labels,
        )
    ).to(backbone.model.device)
    initialise(
        ladder,
        backbone,
        settings.initialisation,
        lambda: squared_gradients(backbone, data.train, settings.task, ladder.config.pooling),
    )
    return ladder


def fit_ladder(
    ladder: Ladder,
    backbone: Backbone,
    data: LadderData,
    settings: LadderSettings,
    *,
    checkpoint: Path | None = None,
    facts: dict[str, Any] | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> Trained:
    """Compute the hidden states and train the ladder on them."""
    layers = ladder.config.layers
    started = time.perf_counter()
    sources = state_sources(backbone, data, layers, settings, progress)
    seconds = time.perf_counter() - started if settings.cache else 0.0
    size = (
        sum(cache_bytes(backbone, part, layers) for part in (data.train, data.dev)) if settings.cache else 0
    )
    learner = LadderLearner(
        ladder, settings.task, data.train, data.dev, sources[0], sources[1], backbone.head
    )
    fitted = fit(
        learner,
        data.train.lengths,
        settings.schedule,
        checkpoint=checkpoint,
        facts=facts,
        resume=resume,
        progress=progress,
    )
    count = sum(parameter.numel() for parameter in ladder.trained_parameters())
    test = None if data.test is None else learner.measure((data.test, sources[2]))
    return Trained(ladder, fitted, count, seconds, size, test)


def state_sources(
    backbone: Backbone,
    data: LadderData,
    layers: Sequence[int],
    settings: LadderSettings,
    progress: Progress = SILENT,
) -> tuple[StateSource, ...]:
    """Give the hidden states of all parts of the data, cached if the settings say so."""
    if not settings.cache:
        return tuple(LiveStates(backbone, part, layers, torch.float32) for part in data.parts)
    parent = Path(settings.cache_dir) if settings.cache_dir else cache_folder() / "states"
    started = time.perf_counter()
    folders = [build_cache(backbone, part, layers, parent, progress=progress) for part in data.parts]
    seconds = time.perf_counter() - started
    if seconds > 1:
        size = sum(cache_bytes(backbone, part, layers) for part in data.parts) / 1e6
        progress.note(f"hidden states: {size:.0f} MB in {parent}, {seconds:.1f} s; the folder may be deleted")
    return tuple(CachedStates(folder, backbone.model.device) for folder in folders)


def train_ladder(
    paths: Sequence[str | Path],
    output: str | Path | None,
    model: str,
    settings: LadderSettings | None = None,
    *,
    dev: Sequence[str | Path] = (),
    fields: Fields | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> Trained:
    """Train a ladder beside a frozen model and save it.

    Args:
        paths: Training data: JSONL, TSV or CSV; text for `lm`.
        output: The folder to make; None saves nothing.
        model: The backbone: a folder, a catalogue name or a hub id.
        settings: How.
        dev: Held-out data; without it a share of the training data is held out.
        fields: Where texts and labels are.
        resume: Go on from `output.partial`.
        force: Replace an existing folder.
        progress: Told of everything.

    Returns:
        The ladder and its figures.

    Raises:
        UsageError: For settings that make no sense.
        OrdtoolError: For bad data, or a backbone that can't be used.
    """
    settings = settings or LadderSettings()
    settings.check()
    fields = fields or default_fields(settings.task)
    checkpoint = _checkpoint(output, resume, force)
    backbone = load_backbone(
        model, writes=settings.task in TEXT_TASKS, device=resolve_device(settings.device), progress=progress
    )
    data = read_data(paths, dev, fields, settings, backbone)
    progress.note(_summary(data, settings))
    ladder = new_ladder(backbone, data, fields, settings)
    facts = {"settings": _plain(settings), "fields": asdict(fields), "backbone": backbone.hash}
    facts["data"] = file_fingerprint([path for path in (*paths, *dev) if str(path) != "-"])
    trained = fit_ladder(
        ladder, backbone, data, settings, checkpoint=checkpoint, facts=facts, resume=resume, progress=progress
    )
    if output is not None:
        save_trained(trained, backbone, settings, output, force=force)
    return trained


def save_trained(
    trained: Trained, backbone: Backbone, settings: LadderSettings, output: str | Path, *, force: bool = False
) -> None:
    """Save the ladder, the backbone's tokenizer and the history, and remove the checkpoint."""
    import shutil

    with atomic_directory(output, force=force) as folder:
        save_ladder(trained.ladder, backbone, folder)
        record = {**trained.record(), "settings": _plain(settings), "history": trained.fitted.history}
        (folder / "training.json").write_text(dumps(record) + "\n", encoding="utf-8")
    shutil.rmtree(partial_folder(output), ignore_errors=True)


def partial_folder(output: str | Path) -> Path:
    """Give the folder of an unfinished training's checkpoint."""
    path = Path(output)
    return path.with_name(path.name + ".partial")


def _checkpoint(output: str | Path | None, resume: bool, force: bool) -> Path | None:
    if output is None:
        if resume:
            raise UsageError("--resume needs the folder to go on with", "name it with -o")
        return None
    check_directory(output, force=force or resume)
    folder = partial_folder(output)
    if folder.exists() and not (resume or force):
        raise OrdtoolError(
            f"{folder}: an interrupted run left this", "--resume goes on with it, --force begins anew"
        )
    return folder


def _plain(settings: LadderSettings) -> dict[str, Any]:
    """Give the settings that decide the result."""
    found = asdict(replace(settings, cache_dir=None, device="auto"))
    return found


def _summary(data: LadderData, settings: LadderSettings) -> str:
    kind = "blocks" if settings.task == "lm" else "records"
    classes = f", {len(data.names)} classes" if data.names else ""
    return f"{len(data.train)} {kind} to train on, {len(data.dev)} held out{classes}"


def default_fields(task: str) -> Fields:
    """Give the fields of a task."""
    return {
        "pairs": Fields("text", "text2", "label"),
        "regress": Fields("text", None, "score"),
        "seq2seq": Fields("text", None, "target"),
    }.get(task, Fields())
