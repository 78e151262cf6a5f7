"""What trainings through transformers' Trainer share: runs that can be resumed, and progress."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordtool.errors import OrdtoolError
from ordtool.io.atomic import atomic_directory, flush_folder
from ordtool.progress import Progress

if TYPE_CHECKING:
    import torch

_COMPLETE = "complete"  # the file that is written last into a checkpoint


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of an unfinished run, or None."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{_COMPLETE}")]
    return max(found, key=_step_of, default=None)


def has_checkpoint(folder: Path) -> bool:
    """Return whether the folder of a training holds a checkpoint to go on from."""
    return last_checkpoint(folder) is not None


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _finish_checkpoint(folder: Path, newest: int, best: str | None) -> None:
    """Mark the newest checkpoint as complete, then remove those that aren't needed any more.

    The Trainer writes a checkpoint's files in place, one after the other.

    Args:
        folder: Of the run.
        newest: The step of the checkpoint that was just written.
        best: The checkpoint with the best dev loss, which is loaded at the end.
    """
    made = folder / f"checkpoint-{newest}"
    flush_folder(made)
    (made / _COMPLETE).touch()
    for old in folder.glob("checkpoint-*"):
        if old != made and (best is None or old.name != Path(best).name):
            (old / _COMPLETE).unlink(missing_ok=True)  # first: from here on it isn't whole
            shutil.rmtree(old)


def trainer_arguments(
    partial: Path, config: Any, place: torch.device, *, steps: int, every: int, **own: Any
) -> Any:
    """Return the TrainingArguments that all trainings here have in common.

    Args:
        partial: The folder of the run's checkpoints.
        config: With `accumulate`, `learning_rate`, `warmup`, `weight_decay` and `seed`.
        place: The device.
        steps: Updates.
        every: Updates between dev losses and checkpoints.
        own: What is a training's own; it goes before.
    """
    from transformers import TrainingArguments

    common = {
        "output_dir": str(partial),
        "max_steps": steps,
        "gradient_accumulation_steps": config.accumulate,
        "learning_rate": config.learning_rate,
        "warmup_steps": round(config.warmup * steps),
        "weight_decay": config.weight_decay,
        "max_grad_norm": 1.0,
        "use_cpu": place.type == "cpu",
        "seed": config.seed,
        "data_seed": config.seed,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": every,
        "save_steps": every,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "logging_steps": min(10, every),
        "disable_tqdm": True,
        "report_to": [],
        "dataloader_pin_memory": place.type == "cuda",
    }
    return TrainingArguments(**{**common, **own})


def make_trainer(kind: Any, config: Any, progress: Progress, **parts: Any) -> Any:
    """Make a Trainer of a kind that reports to `progress`, stops early if asked to, and leaves stdout to data.

    Args:
        kind: transformers' Trainer, or a class of it.
        config: With `patience`.
        progress: Told of steps and dev losses.
        parts: Model, arguments and datasets.
    """
    from transformers import EarlyStoppingCallback, PrinterCallback

    callbacks: list[Any] = [listener(progress)]
    if config.patience is not None:
        callbacks.append(EarlyStoppingCallback(config.patience))
    trainer = kind(callbacks=callbacks, **parts)
    trainer.remove_callback(PrinterCallback)
    return trainer


def train_and_measure(trainer: Any, steps: int, checkpoint: Path | None, progress: Progress) -> float:
    """Train, and measure the dev loss of the best checkpoint.

    Args:
        trainer: From `make_trainer`.
        steps: Updates, for the time left.
        checkpoint: Where to go on from.
        progress: Told of steps.

    Returns:
        The dev loss in nats a token.

    Raises:
        OrdtoolError: If the checkpoint is damaged.
    """
    if checkpoint is not None:
        progress.note(f"going on from {checkpoint.name}")
    progress.start("training", steps, "steps")
    steps_begun: list[int] = []
    trainer.add_callback(_step_counter(steps_begun))
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Exception as error:  # json's, torch's and safetensors' own, of a file that is damaged
        if checkpoint is None or steps_begun or isinstance(error, OrdtoolError):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise OrdtoolError(f"{checkpoint}: damaged: {reason}", "`force` begins anew") from error
    progress.close()
    return float(trainer.evaluate()["eval_loss"])


def _step_counter(begun: list[int]) -> Any:
    """Make a callback that notes the steps that begin."""
    from transformers import TrainerCallback

    class StepCounter(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not begun:
                begun.append(state.global_step)

    return StepCounter()


def save_trained(
    output: str | Path, model: Any, tokenizer: Any, facts: dict[str, Any], *, force: bool
) -> None:
    """Save a model with its tokenizer, and `facts` as `training.json`, whole or not at all."""
    with atomic_directory(output, force=force) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def listener(progress: Progress) -> Any:
    """Make a callback that hands the Trainer's news to a Progress, and marks complete checkpoints."""
    from transformers import TrainerCallback

    class Listener(TrainerCallback):
        done = 0
        measured = -1
        loss = ""

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            _finish_checkpoint(Path(args.output_dir), state.global_step, state.best_model_checkpoint)

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
            if state.global_step == self.measured:
                return  # the best model, measured once more at the end
            self.measured = state.global_step
            loss = float((metrics or {}).get("eval_loss", math.nan))
            progress.note(f"step {state.global_step:,}: dev loss {loss:.4f}, perplexity {math.exp(loss):.2f}")

    return Listener()
