"""What trainings through transformers' Trainer share: runs that can be resumed, progress, and several ranks.

The Trainer knows of ranks itself, but its batch is one rank's: twice the ranks would be another training. Here a batch is
that of all ranks. Every rank draws the same ones in the same order and takes its share of the items of each, so that what
is learnt, and where a resumed run goes on, doesn't depend on their number.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordtool.distributed import ALONE, Ranks
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

    The batch sizes in them are those of all ranks together.

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
        "log_level_replica": "passive",
        "dataloader_pin_memory": place.type == "cuda",
    }
    return TrainingArguments(**{**common, **own})


def make_trainer(
    config: Any,
    progress: Progress,
    ranks: Ranks = ALONE,
    *,
    weigh: Callable[[dict[str, Any]], int],
    share: Callable[[list[Any]], list[Any]] | None = None,
    **parts: Any,
) -> Any:
    """Make a Trainer that reports to `progress`, stops early if asked to, and leaves stdout to data.

    Args:
        config: With `patience`.
        progress: Told of steps and dev losses.
        ranks: Those that train.
        weigh: What a batch counts in the dev loss: its rows, or its tokens.
        share: Gives a rank's part of the items of a batch, at least one; None: every so many'th.
        parts: Model, arguments, datasets and `data_collator`.
    """
    from transformers import EarlyStoppingCallback, PrinterCallback, default_data_collator

    callbacks: list[Any] = [listener(progress, ranks)]
    if config.patience is not None:
        callbacks.append(EarlyStoppingCallback(config.patience))
    parts.setdefault("data_collator", default_data_collator)
    kind = _shared_trainer(ranks, weigh, share or (lambda items: _share_rows(ranks, items)))
    trainer = kind(callbacks=callbacks, **parts)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _share_rows(ranks: Ranks, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give a rank its part of the rows of a batch; where there is none, a row that doesn't count."""
    own = list(ranks.share(items))
    return own or [{**items[0], "labels": items[0]["labels"].new_full(items[0]["labels"].shape, -100)}]


def _shared_trainer(
    ranks: Ranks, weigh: Callable[[dict[str, Any]], int], share: Callable[[list[Any]], list[Any]]
) -> Any:
    """Make the class of Trainer whose batches all ranks share, and whose dev loss is one mean over all held-out items."""
    import torch
    import transformers
    from torch.utils.data import DataLoader

    class SharedTrainer(transformers.Trainer):
        """The Trainer, with batches and a dev loss that don't depend on the number of ranks."""

        def get_train_dataloader(self) -> Any:
            if ranks.size == 1:
                return super().get_train_dataloader()
            return _shared_batches(self.train_dataset, self.data_collator, share, self.args)

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            loss, outputs = super().compute_loss(
                model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
            )
            if ranks.size > 1 and model.training and num_items_in_batch is None:
                # A mean over this rank's tokens; the mean of all ranks' is to be that over all tokens.
                counted = int((inputs["labels"] != -100).sum())
                [total] = ranks.sum_numbers([counted])
                loss = loss * (counted * ranks.size / max(total, 1))
            return (loss, outputs) if return_outputs else loss

        def evaluate(
            self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
        ) -> dict[str, float]:
            # Not the Trainer's own step, in which all ranks meet: some have a batch more.
            self.model.eval()
            data = self.eval_dataset if eval_dataset is None else eval_dataset
            size = self.args.per_device_eval_batch_size
            batches = ranks.share(
                [list(range(k, min(k + size, len(data)))) for k in range(0, len(data), size)]
            )
            total, count = 0.0, 0
            for batch in DataLoader(data, batch_sampler=batches, collate_fn=self.data_collator):
                inputs = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
                with torch.no_grad(), self.compute_loss_context_manager():
                    loss = self.compute_loss(self.model, inputs)
                weight = weigh(batch)
                total, count = total + float(loss) * weight, count + weight
            total, counts = ranks.sum_numbers([total, count])
            metrics = {f"{metric_key_prefix}_loss": total / max(counts, 1)}
            self.log(metrics)
            callbacks = self.callback_handler
            self.control: Any = callbacks.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    return SharedTrainer


def _shared_batches(data: Any, collate: Any, share: Callable[[list[Any]], list[Any]], args: Any) -> Any:
    """Load a rank's part of every batch, in the order in which the Trainer goes through them in one process."""
    from accelerate.data_loader import prepare_data_loader
    from torch.utils.data import DataLoader, RandomSampler

    loader = DataLoader(
        data,
        batch_size=args.train_batch_size,
        sampler=RandomSampler(data),
        collate_fn=lambda items: collate(share(items)),
    )
    # One process as far as accelerate can see, so every rank draws the same permutation of an epoch.
    return prepare_data_loader(
        loader,
        args.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        use_seedable_sampler=True,
        data_seed=args.data_seed,
    )


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


def listener(progress: Progress, ranks: Ranks = ALONE) -> Any:
    """Make a callback that hands the Trainer's news to a Progress, and marks complete checkpoints."""
    from transformers import TrainerCallback

    class Listener(TrainerCallback):
        done = 0
        measured = -1
        loss = ""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not ranks.is_main:  # other dropout for other rows
                import torch

                torch.manual_seed(args.seed + 1_000_003 * ranks.rank)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # Every rank writes a file; the checkpoint is whole when all have.
            ranks.barrier()
            ranks.on_main(
                lambda: _finish_checkpoint(
                    Path(args.output_dir), state.global_step, state.best_model_checkpoint
                )
            )

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
