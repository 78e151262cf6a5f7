"""Training a ladder: backbone, hidden states, and the ladder saved alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import torch

from ordtool.arguments import as_many
from ordtool.distributed import ALONE, Ranks, join_ranks
from ordtool.errors import UsageError
from ordtool.io.atomic import atomic_directory, check_directory
from ordtool.io.checkpoint import has_checkpoint
from ordtool.io.inputs import check_read_twice, reads_once
from ordtool.io.jsonl import dumps
from ordtool.io.runs import RunFolder, partial_folder, run_folder, run_metadata
from ordtool.models.entries import cache_folder
from ordtool.progress import SILENT, Progress, counted
from ordtool.runtime import resolve_device, resolve_dtype, seed_everything
from ordtool.tuning.backbone.model import Backbone
from ordtool.tuning.cache import CachedStates, LiveStates, StateSource, build_cache, cache_bytes
from ordtool.tuning.config import LadderTrainingConfig, LadderTrainingOptions, with_ladder_options
from ordtool.tuning.dataset import LadderData, read_data, text_length
from ordtool.tuning.fisher import squared_gradients
from ordtool.tuning.ladder.config import LadderConfig
from ordtool.tuning.ladder.model import Ladder
from ordtool.tuning.ladder.side_network import choose_layers
from ordtool.tuning.loading import load_backbone
from ordtool.tuning.methods import LadderTuning, ladder_threads
from ordtool.tuning.metrics import Metric
from ordtool.tuning.pruning import initialise
from ordtool.tuning.questions import longest_answer
from ordtool.tuning.saving import save_ladder
from ordtool.tuning.train_loop import TrainHistory, train


@dataclass(frozen=True, slots=True)
class TrainedLadder:
    """A trained ladder.

    Attributes:
        ladder: The ladder, with the best epoch's weights.
        history: Of its training.
        parameters: How many were trained.
        state_seconds: What computing the hidden states took; 0 where they were there already.
        cache: Bytes of hidden states on disk; 0 without a cache.
        test: The figure on the test data, if there is some.
    """

    ladder: Ladder
    history: TrainHistory
    parameters: int
    state_seconds: float
    cache: int
    test: Metric | None = None

    def record(self) -> dict[str, Any]:
        """Return the figures as a JSON object."""
        best = self.history.best
        assert best is not None
        return {
            "method": "ladder",
            "metric": best.name,
            best.name: best.value,
            **best.more,
            "best_epoch": self.history.epoch,
            "epochs": len(self.history.epochs),
            "trained_parameters": self.parameters,
            "seconds_a_step": self.history.seconds_a_step,
            "state_seconds": self.state_seconds,
            "seconds": self.history.seconds + self.state_seconds,
            "cache_bytes": self.cache,
        }


def new_ladder(backbone: Backbone, data: LadderData, config: LadderTrainingConfig) -> Ladder:
    """Make a ladder for a backbone and data, with its first weights.

    Raises:
        UsageError: For layers that the backbone doesn't have.
    """
    seed_everything(config.schedule.seed)
    names = data.names or ("score",)
    ladder = Ladder(
        LadderConfig(
            backbone=backbone.name,
            backbone_hash=backbone.hash,
            backbone_config=backbone.config.to_dict(),
            task=config.task,
            kind=config.kind,
            block=config.block,
            adds_after=config.kind == "additive",
            reduction=config.reduction,
            layers=choose_layers(config.layers, backbone.depth),
            residual=config.residual,
            pooling=config.pooling_of(backbone.causal),
            dropout=config.dropout,
            text_length=text_length(config, backbone),
            pair_field=config.data_fields.pair,
            target_mean=data.mean,
            target_scale=data.scale,
            longest_answer=0 if data.train.windows is None else longest_answer(data.train),
            unanswerable=data.train.windows is not None and data.train.windows.unanswerable,
            is_encoder_decoder=backbone.decodes,
            id2label=dict(enumerate(names)),
            label2id={name: index for index, name in enumerate(names)},
        )
    ).to(backbone.model.device)
    initialise(
        ladder,
        backbone,
        config.initialisation,
        lambda: squared_gradients(backbone, data.train, config.task, ladder.config.pooling),
    )
    return ladder


def fit_ladder(
    ladder: Ladder,
    backbone: Backbone,
    data: LadderData,
    config: LadderTrainingConfig,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
    ranks: Ranks = ALONE,
) -> TrainedLadder:
    """Compute the hidden states and train the ladder on them."""
    layers = ladder.config.layers
    started = time.perf_counter()
    sources = state_sources(backbone, data, layers, config, progress)
    seconds = time.perf_counter() - started if config.cache else 0.0
    size = sum(cache_bytes(backbone, part, layers) for part in (data.train, data.dev)) if config.cache else 0
    method = ladder_method(ladder, backbone, data, config, sources)
    history = train(
        method,
        data.train.lengths,
        config.schedule_for(len(data.train)),
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
        ranks=ranks,
    )
    count = sum(parameter.numel() for parameter in ladder.trained_parameters())
    test = None if data.test is None else method.measure((data.test, sources[2]))
    return TrainedLadder(ladder, history, count, seconds, size, test)


def ladder_method(
    ladder: Ladder,
    backbone: Backbone,
    data: LadderData,
    config: LadderTrainingConfig,
    sources: Sequence[StateSource],
) -> LadderTuning:
    """Put a ladder, its data and their hidden states together, and choose its threads.

    Text tasks have all: their products with the vocabulary are large.
    """
    threads = None
    if ladder.config.labels:
        tokens = float(data.train.lengths.mean()) * config.schedule.batch_size
        threads = ladder_threads(tokens, ladder.width)
    return LadderTuning(
        ladder, config.task, data.train, data.dev, sources[0], sources[1], backbone.head, threads
    )


def state_sources(
    backbone: Backbone,
    data: LadderData,
    layers: Sequence[int],
    config: LadderTrainingConfig,
    progress: Progress = SILENT,
) -> tuple[StateSource, ...]:
    """Return the hidden states of all parts of the data, cached if the config say so."""
    backbone = backbone.in_dtype(resolve_dtype(config.dtype, backbone.model.device))
    if not config.cache:
        return tuple(LiveStates(backbone, part, layers, torch.float32) for part in data.parts)
    parent = Path(config.cache_dir) if config.cache_dir else cache_folder() / "states"
    started = time.perf_counter()
    folders = [build_cache(backbone, part, layers, parent, progress=progress) for part in data.parts]
    seconds = time.perf_counter() - started
    if seconds > 1:
        size = sum(cache_bytes(backbone, part, layers) for part in data.parts) / 1e6
        progress.note(f"hidden states: {size:.0f} MB in {parent}, {seconds:.1f} s; the folder may be deleted")
    return tuple(CachedStates(folder, backbone.model.device) for folder in folders)


def train_ladder(
    data: str | Path | Sequence[str | Path],
    output: str | Path | None,
    config: LadderTrainingConfig | None = None,
    *,
    model: str | Path,
    dev: str | Path | Sequence[str | Path] = (),
    resume: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
    **options: Unpack[LadderTrainingOptions],
) -> TrainedLadder:
    """Train a ladder beside a frozen model and save it.

    Args:
        data: Training files: JSONL, TSV or CSV; text for `lm`.
        output: The folder to make; None saves nothing.
        config: How.
        model: The backbone: a folder, a catalogue name or a hub id.
        dev: Held-out data; without it a share of the training data is held out.
        resume: Go on from `output.partial`.
        force: Replace an existing folder.
        progress: Told of everything.
        **options: Fields of `LadderTrainingConfig` and of its schedule, on top of `config`: `epochs`, `reduction`, ...

    Returns:
        The ladder and its figures.

    Raises:
        UsageError: For a run that is to be resumed and has no folder.
        OrdtoolError: For bad data, or a backbone that can't be used.
    """
    config = with_ladder_options(config or LadderTrainingConfig(), options)
    if output is None and resume:
        raise UsageError("`resume` needs the folder to go on with", "name it with `output`")
    paths, dev_paths = tuple(as_many(data)), tuple(as_many(dev))
    with join_ranks(resolve_device(config.device)) as ranks:
        progress = ranks.heard(progress)
        if ranks.size > 1:
            check_read_twice([*paths, *dev_paths], "what every rank reads")
        job = _Job(paths, dev_paths, str(model), config, progress, ranks)
        if output is None:
            return job.run(None)[0]
        ranks.on_main(lambda: check_directory(output, force=force or resume))
        with run_folder(
            partial_folder(output), has_checkpoint, resume=resume, force=force, ranks=ranks
        ) as folder:
            trained, backbone = job.run(folder)
            if ranks.is_main:
                save_trained(trained, backbone, job.config, output, force=force)
    return trained


@dataclass(frozen=True, slots=True)
class _Job:
    """What a training reads, and how it trains."""

    paths: Sequence[str | Path]
    dev: Sequence[str | Path]
    model: str
    config: LadderTrainingConfig
    progress: Progress
    ranks: Ranks = ALONE

    def run(self, folder: RunFolder | None) -> tuple[TrainedLadder, Backbone]:
        """Load, read and train; where there is a folder, with a checkpoint in it after every epoch."""
        config, progress = self.config, self.progress
        device = resolve_device(config.device)
        backbone = self.ranks.main_first(
            lambda: load_backbone(self.model, writes=config.writes, device=device, progress=progress)
        )
        data = read_data(self.paths, self.dev, config, backbone, progress=progress)
        progress.note(_summary(data, config))
        ladder = new_ladder(backbone, data, config)
        # The float32 weights were for the ladder's first ones; from here on they only take memory.
        backbone = backbone.in_dtype(resolve_dtype(config.dtype, backbone.model.device))
        resume = folder is not None and folder.start(self._metadata(backbone), progress)
        checkpoint = folder.path if folder is not None else None
        trained = fit_ladder(
            ladder,
            backbone,
            data,
            config,
            checkpoint=checkpoint,
            resume=resume,
            progress=progress,
            ranks=self.ranks,
        )
        return trained, backbone

    def _metadata(self, backbone: Backbone) -> dict[str, Any]:
        """Return what a resumed run must have in common with the interrupted one."""
        decides = {**_plain(self.config), **asdict(self.config.schedule), **asdict(self.config.data_fields)}
        decides |= {"backbone": backbone.hash, "dtype": str(backbone.model.dtype)}
        del decides["schedule"], decides["fields"]
        files = [path for path in (*self.paths, *self.dev) if not reads_once(path)]
        return run_metadata(files, decides)


def save_trained(
    trained: TrainedLadder,
    backbone: Backbone,
    config: LadderTrainingConfig,
    output: str | Path,
    *,
    force: bool = False,
) -> None:
    """Save the ladder, the backbone's tokenizer and the history."""
    with atomic_directory(output, force=force) as folder:
        save_ladder(trained.ladder, backbone, folder)
        record = {**trained.record(), "settings": _plain(config), "history": trained.history.epochs}
        (folder / "training.json").write_text(dumps(record) + "\n", encoding="utf-8")


def _plain(config: LadderTrainingConfig) -> dict[str, Any]:
    """Return what decides the result."""
    return asdict(replace(config, cache_dir=None, device="auto"))


def _summary(data: LadderData, config: LadderTrainingConfig) -> str:
    kind = "block" if config.task == "lm" else "window" if config.task == "span" else "record"
    classes = f", {counted(len(data.names), 'class', 'classes')}" if data.names and kind == "record" else ""
    return f"{counted(len(data.train), kind)} to train on, {len(data.dev):,} held out{classes}"
