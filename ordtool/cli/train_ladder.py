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
    option,
    takes_ranks,
)

if TYPE_CHECKING:
    from ordtool.progress import Progress
    from ordtool.tuning.comparison import ComparisonRow
    from ordtool.tuning.config import ComparisonConfig, LadderTrainingConfig
    from ordtool.tuning.training import TrainedLadder

READ = "What is read"
LADDER = "The ladder"
STATES = "Hidden states"


@takes_ranks
def ladder(
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA...", help="JSONL, TSV or CSV with labels; text for `--task lm`."),
    ],
    model: Model,
    output: Annotated[
        Path | None, option("The folder to make.", OUT, "--output -o", metavar="LADDER")
    ] = None,
    task: Annotated[
        str,
        option(
            "classify, regress, pairs (of texts, with classes), tokens (labels of words), span (answers), lm or seq2seq.",
            autocompletion=lambda: ["classify", "regress", "pairs", "tokens", "span", "lm", "seq2seq"],
        ),
    ] = "classify",
    dev: Annotated[list[str] | None, option("Held-out data.", READ, metavar="FILE")] = None,
    test: Annotated[
        list[str] | None, option("Measured once, at the end, by --compare.", READ, metavar="FILE")
    ] = None,
    holdout: Annotated[float, option("Share held out where there is no --dev.", READ)] = 0.1,
    field: Annotated[
        str | None, option("The text: a key, or a column's name or number.", READ, metavar="KEY")
    ] = None,
    pair_field: Annotated[
        str | None,
        option("The second text.  [default: text2 for pairs, context for span]", READ, metavar="KEY"),
    ] = None,
    label_field: Annotated[
        str | None,
        option(
            "The label.  [default: label; score for regress, labels for tokens, answer for span, target for seq2seq]",
            READ,
            metavar="KEY",
        ),
    ] = None,
    max_length: Annotated[int, option("Tokens of a text that are read; of a block, for lm.", READ)] = 128,
    reduction: Annotated[int, option("Hidden size over the ladder's.", LADDER, "--reduction -r", min=1)] = 8,
    layers: Annotated[
        str | None,
        option(
            "Layers with one of the ladder's: a number, or a list as 2,4,6.  [default: every second, at most 12]",
            LADDER,
            metavar="LAYERS",
        ),
    ] = None,
    kind: Annotated[
        str,
        option(
            "gated (as in the paper) or additive.",
            LADDER,
            "--ladder",
            autocompletion=lambda: ["gated", "additive"],
        ),
    ] = "gated",
    block: Annotated[
        str,
        option(
            "What the ladder's layers are: transformer (the backbone's kind) or mlp (no attention).",
            LADDER,
            autocompletion=lambda: ["transformer", "mlp"],
        ),
    ] = "transformer",
    residual: Annotated[
        bool,
        option(
            "Add the ladder's output to the backbone's, or use it alone (the paper).",
            LADDER,
            "--residual/--no-residual",
        ),
    ] = True,
    initialisation: Annotated[
        str,
        option(
            "magnitude or fisher (the backbone's layers, pruned), or random.",
            LADDER,
            "--init",
            autocompletion=lambda: ["magnitude", "fisher", "random"],
        ),
    ] = "magnitude",
    pooling: Annotated[
        str | None, option("mean, cls or last.  [default: last for causal models, else mean]", LADDER)
    ] = None,
    dropout: Annotated[float, option("In the ladder's layers.", LADDER)] = 0.0,
    epochs: Epochs = 10,
    max_steps: Annotated[int | None, option("Steps at most.", TRAINING, min=1)] = None,
    batch_size: Annotated[int, option("Records a step.", TRAINING, min=1)] = 32,
    learning_rate: Annotated[
        float | None,
        option(
            "At its peak.  [default: 3e-3; for labels less beyond 200 steps]",
            TRAINING,
            "--learning-rate --lr",
            min=0,
        ),
    ] = None,
    optimizer: Annotated[str, option("adamw or adafactor.", TRAINING)] = "adamw",
    patience: Annotated[
        int | None,
        option("Epochs without a better dev figure before it stops.  [default: never]", TRAINING, min=1),
    ] = None,
    cache: Annotated[
        bool, option("Keep the backbone's hidden states on disk.", STATES, "--cache/--no-cache")
    ] = True,
    cache_dir: Annotated[
        Path | None, option("Where.  [default: ordtool's cache]", STATES, metavar="FOLDER")
    ] = None,
    compare: Annotated[
        str | None, option("Train these too: full,lora,bitfit,head.", COMPARISON, metavar="METHODS")
    ] = None,
    runs: Runs = 3,
    compare_epochs: Annotated[int, option("Of full, lora and bitfit.", COMPARISON, min=1)] = 3,
    json: Json = False,
    resume: Annotated[bool, option("Go on from the last epoch in LADDER.partial.", OUT, "--resume")] = False,
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
    from ordtool.distributed import check_one_rank
    from ordtool.errors import UsageError
    from ordtool.runtime import set_threads
    from ordtool.tuning.config import ComparisonConfig, LadderTrainingConfig, ScheduleConfig
    from ordtool.tuning.data import Fields, check_task, default_fields

    check_task(task)
    if test and compare is None:
        raise UsageError("--test is for --compare", "ordtool predict tells the accuracy on labelled data")
    usual = default_fields(task)
    config = LadderTrainingConfig(
        task=task,
        fields=Fields(field or usual.text, pair_field or usual.pair, label_field or usual.label),
        kind=kind,
        block=block,
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
        check_one_rank("--compare")
        methods = tuple(name.strip() for name in compare.split(",") if name.strip())
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
            self.config,
            model=self.model,
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
