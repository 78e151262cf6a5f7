"""Training a ladder: backbone, hidden states, and the ladder saved alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ordtool.arguments import as_many
from ordtool.errors import UsageError
from ordtool.io.atomic import atomic_directory, check_directory
from ordtool.io.checkpoint import has_checkpoint
from ordtool.io.inputs import reads_once
from ordtool.io.jsonl import dumps
from ordtool.io.runs import RunFolder, partial_folder, run_folder, run_metadata
from ordtool.models.entries import cache_folder
from ordtool.progress import SILENT, Progress
from ordtool.runtime import resolve_device, resolve_dtype, seed_everything
from ordtool.tuning.backbone import Backbone, load_backbone
from ordtool.tuning.cache import CachedStates, LiveStates, StateSource, build_cache, cache_bytes
from ordtool.tuning.data import Fields
from ordtool.tuning.fisher import squared_gradients
from ordtool.tuning.fitting import Fitted, fit, label_rate
from ordtool.tuning.ladder import Ladder, LadderConfig
from ordtool.tuning.learners import LadderLearner, Measure
from ordtool.tuning.pruning import initialise
from ordtool.tuning.reading import LadderData, default_fields, read_data, text_length
from ordtool.tuning.saving import save_ladder
from ordtool.tuning.settings import TEXT_TASKS, LadderSettings
from ordtool.tuning.side import choose_layers
from ordtool.tuning.threads import ladder_threads


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
            text_length=text_length(settings, backbone),
            pair_field=fields.pair,
            target_mean=data.mean,
            target_scale=data.scale,
            is_encoder_decoder=backbone.decodes,
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
    learner = make_learner(ladder, backbone, data, settings, sources)
    schedule = settings.schedule
    if schedule.learning_rate is None and ladder.config.labels:
        schedule = replace(schedule, learning_rate=label_rate(schedule.steps(len(data.train))))
    fitted = fit(
        learner,
        data.train.lengths,
        schedule,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )
    count = sum(parameter.numel() for parameter in ladder.trained_parameters())
    test = None if data.test is None else learner.measure((data.test, sources[2]))
    return Trained(ladder, fitted, count, seconds, size, test)


def make_learner(
    ladder: Ladder,
    backbone: Backbone,
    data: LadderData,
    settings: LadderSettings,
    sources: Sequence[StateSource],
) -> LadderLearner:
    """Put a ladder, its data and their hidden states together, and choose its threads.

    Text tasks have all: their products with the vocabulary are large.
    """
    threads = None
    if ladder.config.labels:
        tokens = float(data.train.lengths.mean()) * settings.schedule.batch_size
        threads = ladder_threads(tokens, ladder.width)
    return LadderLearner(
        ladder, settings.task, data.train, data.dev, sources[0], sources[1], backbone.head, threads
    )


def state_sources(
    backbone: Backbone,
    data: LadderData,
    layers: Sequence[int],
    settings: LadderSettings,
    progress: Progress = SILENT,
) -> tuple[StateSource, ...]:
    """Give the hidden states of all parts of the data, cached if the settings say so."""
    backbone = backbone.in_dtype(resolve_dtype(settings.dtype, backbone.model.device))
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
    paths: str | Path | Sequence[str | Path],
    output: str | Path | None,
    model: str,
    settings: LadderSettings | None = None,
    *,
    dev: str | Path | Sequence[str | Path] = (),
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
    paths, dev = tuple(as_many(paths)), tuple(as_many(dev))
    settings = settings or LadderSettings()
    settings.check()
    fields = fields or default_fields(settings.task)
    if output is None:
        if resume:
            raise UsageError("--resume needs the folder to go on with", "name it with -o")
        return _train(paths, None, model, settings, dev, fields, progress)[0]
    check_directory(output, force=force or resume)
    with run_folder(partial_folder(output), has_checkpoint, resume=resume, force=force) as run:
        trained, backbone = _train(paths, run, model, settings, dev, fields, progress)
        save_trained(trained, backbone, settings, output, force=force)
    return trained


def _train(
    paths: Sequence[str | Path],
    run: RunFolder | None,
    model: str,
    settings: LadderSettings,
    dev: Sequence[str | Path],
    fields: Fields,
    progress: Progress,
) -> tuple[Trained, Backbone]:
    backbone = load_backbone(
        model, writes=settings.task in TEXT_TASKS, device=resolve_device(settings.device), progress=progress
    )
    data = read_data(paths, dev, fields, settings, backbone, progress=progress)
    progress.note(_summary(data, settings))
    ladder = new_ladder(backbone, data, fields, settings)
    # The float32 weights were for the ladder's first ones; from here on they only take memory.
    backbone = backbone.in_dtype(resolve_dtype(settings.dtype, backbone.model.device))
    resume = False
    if run is not None:
        decides = {**_plain(settings), **asdict(settings.schedule), **asdict(fields)}
        decides |= {"backbone": backbone.hash, "dtype": str(backbone.model.dtype)}
        del decides["schedule"]
        files = [path for path in (*paths, *dev) if not reads_once(path)]
        resume = run.start(run_metadata(files, decides), progress)
    checkpoint = run.path if run is not None else None
    return fit_ladder(
        ladder, backbone, data, settings, checkpoint=checkpoint, resume=resume, progress=progress
    ), backbone


def save_trained(
    trained: Trained, backbone: Backbone, settings: LadderSettings, output: str | Path, *, force: bool = False
) -> None:
    """Save the ladder, the backbone's tokenizer and the history."""
    with atomic_directory(output, force=force) as folder:
        save_ladder(trained.ladder, backbone, folder)
        record = {**trained.record(), "settings": _plain(settings), "history": trained.fitted.history}
        (folder / "training.json").write_text(dumps(record) + "\n", encoding="utf-8")


def _plain(settings: LadderSettings) -> dict[str, Any]:
    """Give the settings that decide the result."""
    found = asdict(replace(settings, cache_dir=None, device="auto"))
    return found


def _summary(data: LadderData, settings: LadderSettings) -> str:
    kind = "blocks" if settings.task == "lm" else "records"
    classes = f", {len(data.names)} classes" if data.names else ""
    return f"{len(data.train)} {kind} to train on, {len(data.dev)} held out{classes}"
