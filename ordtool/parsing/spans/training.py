"""Training of span scorers on trees that something else has drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import torch

from ordtool.arguments import as_many, with_options
from ordtool.distributed import join_ranks
from ordtool.io.atomic import atomic_directory, check_directory
from ordtool.io.checkpoint import has_checkpoint
from ordtool.io.inputs import check_read_twice
from ordtool.io.runs import RunConfig, RunOptions, partial_folder, run_folder, run_metadata
from ordtool.models.resolve import resolve_model
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.spans.config import SpanTrainingConfig, SpanTrainingOptions
from ordtool.parsing.spans.encoder import ENCODER_FOLDER, PieceEncoder
from ordtool.parsing.spans.lessons import Words, make_model, read_lessons
from ordtool.parsing.spans.model import MODEL_TYPE, SpanConfig, SpanModel
from ordtool.parsing.spans.trainer import SpanTrainer
from ordtool.parsing.spans.words import PieceVocabulary
from ordtool.parsing.training.run import write_weights
from ordtool.parsing.trees.treebank import tree_files
from ordtool.progress import SILENT, Progress, counted
from ordtool.runtime import resolve_device

__all__ = ["train_spans"]


def train_spans(
    trees: str | Path | Sequence[str | Path],
    output: str | Path,
    config: SpanTrainingConfig | None = None,
    *,
    half: bool = False,
    progress: Progress = SILENT,
    **options: Unpack[SpanTrainingOptions],
) -> list[dict[str, Any]]:
    """Train a span scorer on trees and save it as a model folder.

    Every span wider than a word is a question of its own, phrase or not (binary cross-entropy), and so is its label where
    the trees have labels. What is held out is scored by its agreement: the share of the spans of the trees that the scorer
    finds again; F1, where it doesn't draw binary trees.

    Args:
        trees: JSONL as `ordtool parse` writes it, or bracketed trees: files and folders.
        output: The model folder to make.
        config: What is trained and how.
        half: Save weights as float16.
        progress: Told of everything.
        **options: Fields of `SpanTrainingConfig`, on top of `config`, and of `RunConfig`: `device`, `resume`, `force`.

    Returns:
        A record an epoch: `epoch`, `step`, `train_loss`, `agreement` (in percent), `seconds`; and `threshold` where trees
        need not be binary, the last of which the model gets.

    Raises:
        OrdtoolError: Unreadable trees, none of three words or more, an output that exists, a checkpoint of another run.
        UsageError: A share held out that leaves nothing.
    """
    trees = tuple(as_many(trees))
    config, run = with_options(config or SpanTrainingConfig(), options, RunOptions.__annotations__)
    machine = RunConfig(**run)
    device = resolve_device(machine.device)
    with join_ranks(device) as ranks:
        progress = ranks.heard(progress)
        ranks.on_main(lambda: check_directory(output, force=machine.force or machine.resume))
        files = [*tree_files(trees), *config.text]
        check_read_twice(files, "a file of trees")
        names = [name for name in (config.encoder, config.teacher) if name]
        folders = ranks.main_first(lambda: {name: resolve_model(name, progress) for name in names})
        weights = [file for folder in folders.values() for file in sorted(folder.rglob("*.safetensors"))]
        partial = partial_folder(output, ".training")
        with run_folder(
            partial, has_checkpoint, resume=machine.resume, force=machine.force, ranks=ranks
        ) as folder:
            metadata = ranks.on_main(lambda: run_metadata([*files, *weights], asdict(config)))
            resumed = folder.start(metadata, progress)
            lessons = read_lessons(trees, config, folders, device, progress)
            torch.manual_seed(config.seed)
            encoder = folders.get(config.encoder or "")
            model, vocabulary = make_model(config, lessons, encoder, progress)
            trainer = SpanTrainer(model.to(device), vocabulary, lessons, config, folder, progress)
            _train(trainer, resumed)
            if ranks.is_main:
                with atomic_directory(output, force=machine.force or machine.resume) as made:
                    _save(trainer.model, trainer.best_config(), vocabulary, made, half=half)
                    _write_record(made, trainer, metadata["input"])
    return trainer.at.history


def _train(trainer: SpanTrainer, resumed: bool) -> None:
    """Train to the end, from the checkpoint where there is one."""
    if resumed:
        trainer.restore()
    lessons = trainer.lessons
    text = f"{len(lessons.text.starts) - 1:,} sentences of text, " if lessons.text else ""
    trainer.progress.note(
        f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters, {len(lessons.train):,} trees to train on, "
        f"{text}{len(lessons.held_out):,} held out, {counted(trainer.total_steps, 'step')}"
    )
    try:
        trainer.run_epochs()
    finally:
        trainer.progress.close()


def _save(model: SpanModel, shape: SpanConfig, vocabulary: Words, folder: Path, *, half: bool) -> None:
    config = {"model_type": MODEL_TYPE, "architectures": ["SpanModel"], **asdict(shape)}
    if isinstance(vocabulary, PieceVocabulary):
        config["token_kind"] = vocabulary.token_kind
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    write_weights(own, folder, half=half)
    if isinstance(model.encoder, PieceEncoder):
        model.encoder.model.to(torch.float16 if half else torch.float32).save_pretrained(
            folder / ENCODER_FOLDER
        )
    if isinstance(vocabulary, PieceVocabulary):
        vocabulary.save(folder / ENCODER_FOLDER / "tokenizer.json")
        return
    OnlstmTokenizer.from_tokens(
        vocabulary.tokens,
        lowercase=vocabulary.lowercase,
        digits=vocabulary.digits,
        drop_punctuation=vocabulary.drop_punctuation,
        token_kind=vocabulary.token_kind,
        simplified=vocabulary.simplified,
    ).save_pretrained(folder)


def _write_record(folder: Path, trainer: SpanTrainer, data: str | None) -> None:
    record = {"config": asdict(trainer.config), "history": trainer.at.history, "data": data}
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
