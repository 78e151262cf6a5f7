"""What trainings through transformers' Trainer share: runs that can be resumed, and progress."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordtool.errors import OrdtoolError
from ordtool.io.atomic import file_fingerprint
from ordtool.progress import Progress

if TYPE_CHECKING:
    import torch


def hold_to_run(
    partial: Path, inputs: Sequence[str | Path], settings: dict[str, Any], *, resume: bool, force: bool
) -> None:
    """Hold a resumed run to its input and settings; write them down for a new one.

    Args:
        partial: The folder of an unfinished run, made if it is a new one.
        inputs: The files whose contents must not change.
        settings: Plain values.
        resume: Go on with a run that is there.
        force: Remove it instead.

    Raises:
        OrdtoolError: If there is a run and neither is asked for, or if it was another.
    """
    facts = {"input": file_fingerprint(inputs), "settings": settings}
    file = partial / "run.json"
    if partial.exists() and resume:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise OrdtoolError(f"{file}: missing or damaged", "--force begins anew") from None
        changed = [name for name, value in settings.items() if found["settings"].get(name) != value]
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


def last_checkpoint(partial: Path) -> Path | None:
    """Give the newest checkpoint of an unfinished run, or None."""
    found = sorted(partial.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return found[-1] if found else None


def trainer_arguments(
    partial: Path, settings: Any, place: torch.device, *, steps: int, every: int, **own: Any
) -> Any:
    """Give the TrainingArguments that all trainings here have in common.

    Args:
        partial: The folder of the run's checkpoints.
        settings: With `accumulate`, `learning_rate`, `warmup`, `weight_decay` and `seed`.
        place: The device.
        steps: Updates.
        every: Updates between dev losses and checkpoints.
        own: What is a training's own; it goes before.
    """
    from transformers import TrainingArguments

    common = {
        "output_dir": str(partial),
        "max_steps": steps,
        "gradient_accumulation_steps": settings.accumulate,
        "learning_rate": settings.learning_rate,
        "warmup_steps": round(settings.warmup * steps),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": 1.0,
        "use_cpu": place.type == "cpu",
        "seed": settings.seed,
        "data_seed": settings.seed,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": every,
        "save_steps": every,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "logging_steps": min(10, every),
        "disable_tqdm": True,
        "report_to": [],
        "dataloader_pin_memory": place.type == "cuda",
    }
    return TrainingArguments(**{**common, **own})


def make_trainer(kind: Any, settings: Any, progress: Progress, **parts: Any) -> Any:
    """Make a Trainer of a kind that reports to `progress`, stops early if asked to, and leaves stdout to data.

    Args:
        kind: transformers' Trainer, or a class of it.
        settings: With `patience`.
        progress: Told of steps and dev losses.
        parts: Model, arguments and datasets.
    """
    from transformers import EarlyStoppingCallback, PrinterCallback

    callbacks: list[Any] = [listener(progress)]
    if settings.patience is not None:
        callbacks.append(EarlyStoppingCallback(settings.patience))
    trainer = kind(callbacks=callbacks, **parts)
    trainer.remove_callback(PrinterCallback)
    return trainer


def listener(progress: Progress) -> Any:
    """Make a callback that hands the Trainer's news to a Progress."""
    from transformers import TrainerCallback

    class Listener(TrainerCallback):
        done = 0
        loss = ""

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # accelerate tells the dataset of an epoch, but not when it resumes in the middle of one.
            dataset: Any = getattr(kwargs.get("train_dataloader"), "dataset", None)
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(int((state.epoch or 0) + 1e-6))

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
