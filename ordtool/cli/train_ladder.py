"""`ordtool train ladder`: a narrow network beside a frozen one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ordtool.cli._training_options import COMPARISON, TRAINING, Epochs, Runs
from ordtool.cli.options import (
    OUT,
    Device,
    Dtype,
    Force,
    Json,
    Model,
    Quiet,
    Seed,
    Threads,
    options_for_fields,
)

if TYPE_CHECKING:
    from ordtool.progress import Progress
    from ordtool.tuning.comparison import ComparisonRow
    from ordtool.tuning.config import ComparisonConfig, LadderTrainingConfig
    from ordtool.tuning.training import TrainedLadder

READ = "What is read"
LADDER = "The ladder"
STATES = "Hidden states"


def ladder(
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA...", help="JSONL, TSV or CSV with labels; text for `--task lm`."),
    ],
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="LADDER", help="The folder to make.", rich_help_panel=OUT),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="classify, regress, pairs (of texts, with classes), lm or seq2seq.",
            autocompletion=lambda: ["classify", "regress", "pairs", "lm", "seq2seq"],
        ),
    ] = "classify",
    dev: Annotated[
        list[str] | None,
        typer.Option("--dev", metavar="FILE", help="Held-out data.", rich_help_panel=READ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            "--test", metavar="FILE", help="Measured once, at the end, by --compare.", rich_help_panel=READ
        ),
    ] = None,
    holdout: Annotated[
        float,
        typer.Option("--holdout", help="Share held out where there is no --dev.", rich_help_panel=READ),
    ] = 0.1,
    field: Annotated[
        str | None,
        typer.Option(
            "--field",
            metavar="KEY",
            help="The text: a key, or a column's name or number.",
            rich_help_panel=READ,
        ),
    ] = None,
    pair_field: Annotated[
        str | None,
        typer.Option(
            "--pair-field",
            metavar="KEY",
            help="The second text.  [default: text2 for pairs]",
            rich_help_panel=READ,
        ),
    ] = None,
    label_field: Annotated[
        str | None,
        typer.Option(
            "--label-field",
            metavar="KEY",
            help="The label.  [default: label; score for regress, target for seq2seq]",
            rich_help_panel=READ,
        ),
    ] = None,
    max_length: Annotated[
        int,
        typer.Option(
            "--max-length", help="Tokens of a text that are read; of a block, for lm.", rich_help_panel=READ
        ),
    ] = 128,
    reduction: Annotated[
        int,
        typer.Option(
            "--reduction", "-r", min=1, help="Hidden size over the ladder's.", rich_help_panel=LADDER
        ),
    ] = 8,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="LAYERS",
            help="Layers with one of the ladder's: a number, or a list as 2,4,6.  [default: every second, at most 12]",
            rich_help_panel=LADDER,
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            "--ladder",
            help="gated (as in the paper) or additive.",
            rich_help_panel=LADDER,
            autocompletion=lambda: ["gated", "additive"],
        ),
    ] = "gated",
    residual: Annotated[
        bool,
        typer.Option(
            "--residual/--no-residual",
            help="Add the ladder's output to the backbone's, or use it alone (the paper).",
            rich_help_panel=LADDER,
        ),
    ] = True,
    initialisation: Annotated[
        str,
        typer.Option(
            "--init",
            help="magnitude or fisher (the backbone's layers, pruned), or random.",
            rich_help_panel=LADDER,
            autocompletion=lambda: ["magnitude", "fisher", "random"],
        ),
    ] = "magnitude",
    pooling: Annotated[
        str | None,
        typer.Option(
            "--pooling",
            help="mean, cls or last.  [default: last for causal models, else mean]",
            rich_help_panel=LADDER,
        ),
    ] = None,
    dropout: Annotated[
        float, typer.Option("--dropout", help="In the ladder's layers.", rich_help_panel=LADDER)
    ] = 0.0,
    epochs: Epochs = 10,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Steps at most.", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Records a step.", rich_help_panel=TRAINING)
    ] = 32,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            "--lr",
            min=0,
            help="At its peak.  [default: 3e-3; for labels less beyond 200 steps]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    optimizer: Annotated[
        str, typer.Option("--optimizer", help="adamw or adafactor.", rich_help_panel=TRAINING)
    ] = "adamw",
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            min=1,
            help="Epochs without a better dev figure before it stops.  [default: never]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache", help="Keep the backbone's hidden states on disk.", rich_help_panel=STATES
        ),
    ] = True,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            "--cache-dir", metavar="FOLDER", help="Where.  [default: ordtool's cache]", rich_help_panel=STATES
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="METHODS",
            help="Train these too: full,lora,bitfit,head.",
            rich_help_panel=COMPARISON,
        ),
    ] = None,
    runs: Runs = 3,
    compare_epochs: Annotated[
        int,
        typer.Option("--compare-epochs", min=1, help="Of full, lora and bitfit.", rich_help_panel=COMPARISON),
    ] = 3,
    json: Json = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the last epoch in LADDER.partial.", rich_help_panel=OUT),
    ] = False,
    force: Force = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
) -> None:
    """Train a narrow network beside a frozen model: Ladder Side-Tuning.

    No gradient passes through the model, its hidden states are computed once, and what is saved is the ladder alone, a
    megabyte or two. `ordtool predict -m LADDER` labels with it; with one of `lm` or `seq2seq`,
    `ordtool generate -m LADDER` writes.

    Examples:
        ordtool train ladder examples/questions.jsonl -m tinylm -o sorter --epochs 2
        echo 'Who was Galileo?' | ordtool predict -m sorter
        ordtool train ladder examples/questions.jsonl -m tinylm --epochs 2 --compare lora,head
    """
    from ordtool.console import RichProgress
    from ordtool.errors import UsageError
    from ordtool.runtime import set_threads
    from ordtool.tuning.config import ComparisonConfig, LadderTrainingConfig, ScheduleConfig
    from ordtool.tuning.data import Fields, check_task, default_fields

    check_task(task)
    if test and compare is None:
        raise UsageError("--test is for --compare", "ordtool predict tells the accuracy on labelled data")
    usual = default_fields(task)
    with options_for_fields(ScheduleConfig), options_for_fields(LadderTrainingConfig):
        config = LadderTrainingConfig(
            task=task,
            fields=Fields(field or usual.text, pair_field or usual.pair, label_field or usual.label),
            kind=kind,
            reduction=reduction,
            layers=layers,
            residual=residual,
            initialisation=initialisation,
            pooling=pooling,
            dropout=dropout,
            max_length=max_length,
            schedule=ScheduleConfig(
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                optimizer=optimizer,
                patience=patience,
                max_steps=max_steps,
                seed=seed,
            ),
            holdout=holdout,
            cache=cache,
            cache_dir=None if cache_dir is None else str(cache_dir),
            device=device,
            dtype=dtype,
        )
    comparison = None
    if compare is not None:
        methods = tuple(name.strip() for name in compare.split(",") if name.strip())
        with options_for_fields(ComparisonConfig, epochs="--compare-epochs"):
            comparison = ComparisonConfig(methods, runs, compare_epochs)
    set_threads(threads)
    progress = RichProgress(quiet)
    job = _Job(data, output, model, config, dev or [], test or [], resume, force, progress)
    try:
        job.train(json) if comparison is None else job.compare(comparison, json)
    finally:
        progress.close()


@dataclass(frozen=True)
class _Job:
    """What a training reads, writes and is."""

    data: list[str]
    output: Path | None
    model: str
    config: LadderTrainingConfig
    dev: list[str]
    test: list[str]
    resume: bool
    force: bool
    progress: Progress

    def train(self, json: bool) -> None:
        """Train the ladder alone, save it, and say what it is worth."""
        from ordtool.console import stdout_is_terminal, write_line
        from ordtool.errors import UsageError
        from ordtool.io.jsonl import dumps
        from ordtool.tuning.training import train_ladder

        if self.output is None:
            raise UsageError("nowhere to save the ladder", "-o LADDER names a folder; --compare needs none")
        trained = train_ladder(
            self.data,
            self.output,
            self.model,
            self.config,
            dev=self.dev,
            resume=self.resume,
            force=self.force,
            progress=self.progress,
        )
        record = trained.record()
        if json or not stdout_is_terminal():
            write_line(dumps(record))
        self._say_trained(trained)

    def compare(self, comparison: ComparisonConfig, json: bool) -> None:
        """Train it and other methods, and write what each is worth."""
        from ordtool.console import stdout_is_terminal, write_line
        from ordtool.errors import UsageError
        from ordtool.io.atomic import check_directory
        from ordtool.io.jsonl import dumps
        from ordtool.runtime import resolve_device
        from ordtool.tuning.comparison import compare_tuning
        from ordtool.tuning.dataset import read_data
        from ordtool.tuning.loading import load_backbone
        from ordtool.tuning.methods import check_baselines
        from ordtool.tuning.training import save_trained

        if self.resume:
            raise UsageError("a comparison can't be resumed", "train the ladder alone, without --compare")
        config, progress = self.config, self.progress
        check_baselines(comparison.methods, config)
        if self.output is not None:
            check_directory(self.output, force=self.force)
        device = resolve_device(config.device)
        backbone = load_backbone(self.model, writes=config.writes, device=device, progress=progress)
        read = read_data(self.data, self.dev, config, backbone, self.test, progress)
        found, first = compare_tuning(backbone, read, config, comparison, progress=progress)
        if self.output is not None:
            save_trained(first, backbone, config, self.output, force=self.force)
        if stdout_is_terminal() and not json:
            _show(found, "test" if self.test else "dev", comparison.runs)
        else:
            for row in found:
                write_line(dumps(row.record()))
        self._say_trained(first)

    def _say_trained(self, trained: TrainedLadder) -> None:
        from ordtool.cli._training_options import say_trained

        if self.output is not None:
            figures = f"dev {trained.history.best}, {trained.parameters:,} trained parameters"
            following = "generate -m MODEL -p TEXT" if self.config.writes else "predict -m MODEL FILE"
            say_trained(self.output, figures, f"ordtool {following}", self.progress)


def _show(found: list[ComparisonRow], part: str, runs: int) -> None:
    from ordtool.console import print_table
    from ordtool.progress import counted

    rows = []
    for row in (comparison.record() for comparison in found):
        rows.append(
            (
                row["method"],
                "-" if row["score"] is None else f"{row['score']:.2f}",
                "-" if row["deviation"] is None else f"{row['deviation']:.2f}",
                f"{row['trained_parameters']:,}",
                "-" if row["peak_extra_memory_mb"] is None else f"{row['peak_extra_memory_mb']:.0f}",
                f"{row['seconds_a_step']:.4f}",
                f"{row['seconds']:.1f}",
            )
        )
    metric = found[0].metric
    head = metric if metric == "loss" else f"{metric} %"
    columns = ["method", head, "deviation", "trained", "extra MB", "s/step", "seconds"]
    print_table(f"{part} {metric} over {counted(runs, 'seed')}", columns, rows, to_stderr=False)
