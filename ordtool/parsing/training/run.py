"""What the trainings of parsers on text share: files, machine and folder, the text as numbers, trees to score."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ordtool.arguments import as_many
from ordtool.distributed import ALONE, Ranks
from ordtool.errors import OrdtoolError
from ordtool.io.atomic import atomic_directory, check_directory
from ordtool.io.checkpoint import has_checkpoint
from ordtool.io.inputs import check_read_twice
from ordtool.io.runs import RunConfig, RunOptions, partial_folder, run_folder, run_metadata
from ordtool.parsing.text.reader import text_files
from ordtool.parsing.training.data import TrainingData, load_data
from ordtool.parsing.training.recipes import TextTrainingConfig
from ordtool.parsing.training.selection import sample_trees
from ordtool.parsing.trees.treebank import Tree, read_trees
from ordtool.progress import Progress

__all__ = [
    "ParserFiles",
    "ParserRun",
    "ParserRunConfig",
    "ParserRunOptions",
    "describe_epoch",
    "open_run",
    "write_weights",
]

Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class ParserRunConfig(RunConfig):
    """Where and over what a training runs; nothing in it changes the result.

    Attributes:
        tree_sample: Most trees that `treebank` and `tune` use.
        checkpoint_minutes: Minutes between checkpoints.
        threads: CPU threads; None: all.
        half: Save weights as float16.
        keep_checkpoints: Leave the working folder in place at the end.
    """

    tree_sample: int = 2000
    checkpoint_minutes: float = 10.0
    threads: int | None = None
    half: bool = False
    keep_checkpoints: bool = False


class ParserRunOptions(RunOptions, total=False):
    """The fields of `ParserRunConfig`, as keywords."""

    tree_sample: int
    checkpoint_minutes: float
    threads: int | None
    half: bool
    keep_checkpoints: bool


@dataclass(frozen=True, slots=True)
class ParserFiles:
    """What a training reads, and the model folder that it makes; each a path or several, but for the output.

    Attributes:
        text: Training files or folders.
        output: The model folder.
        dev: Held-out files; empty: a part of the text.
        treebank: Trees to score after each epoch.
        tune: Development trees.
    """

    text: Paths
    output: str | Path
    dev: Paths = ()
    treebank: Paths = ()
    tune: Paths = ()

    def many(self, name: str) -> tuple[str | Path, ...]:
        """Return the paths of a field."""
        return tuple(as_many(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class ParserRun:
    """A training under way.

    Attributes:
        files: What is read and made.
        machine: Where it runs.
        folder: Its working folder.
        resumed: There is a checkpoint to go on from.
        data: The text.
        fingerprint: The SHA-256 of the text's files.
        treebank: Trees to score after each epoch.
        development: Trees to choose settings on.
        progress: Told of everything.
        ranks: Those that train.
    """

    files: ParserFiles
    machine: ParserRunConfig
    folder: Path
    resumed: bool
    data: TrainingData
    fingerprint: str | None
    treebank: list[Tree]
    development: list[Tree]
    progress: Progress
    ranks: Ranks = ALONE

    def save(
        self, config: TextTrainingConfig, history: list[dict[str, Any]], write: Callable[[Path], None]
    ) -> None:
        """Make the model folder: what `write` writes into it, and the record of the training."""
        with atomic_directory(self.files.output, force=self.machine.force or self.machine.resume) as folder:
            write(folder)
            record = {"config": asdict(config), "history": history, "data": self.fingerprint}
            (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")


@contextmanager
def open_run(
    files: ParserFiles,
    config: TextTrainingConfig,
    fixed: dict[str, Any],
    machine: ParserRunConfig,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> Iterator[ParserRun]:
    """Open a training: its folder is held while it lasts, and gone at the end.

    Args:
        files: What is read and made.
        config: How the text is read.
        fixed: What a resumed run must have in common with the interrupted one, beside its text.
        machine: Where it runs.
        progress: Told of everything.
        ranks: Those that train; the main one reads the text, and the others read what it has made of it.

    Raises:
        OrdtoolError: Unreadable or empty text or treebank, an output that exists, a checkpoint of another run.
    """
    ranks.on_main(lambda: check_directory(files.output, force=machine.force or machine.resume))
    text, dev = files.many("text"), files.many("dev")
    sources = [file for path in (*text, *dev) for file in text_files(path)]
    check_read_twice(sources)
    treebank, development = (
        _read_treebank(files.many(name), machine.tree_sample) for name in ("treebank", "tune")
    )
    with run_folder(
        partial_folder(files.output, ".training"),
        has_checkpoint,
        resume=machine.resume,
        force=machine.force,
        keep=machine.keep_checkpoints,
        ranks=ranks,
    ) as folder:
        metadata = ranks.on_main(lambda: run_metadata(sources, {**fixed, "dev": len(dev)}))
        resumed = folder.start(metadata, progress)
        there = resumed or not ranks.is_main
        data = ranks.main_first(
            lambda: load_data(text, dev, config, folder.path, resume=there, progress=progress)
        )
        found = metadata["input"]
        yield ParserRun(
            files, machine, folder.path, resumed, data, found, treebank, development, progress, ranks
        )


def _read_treebank(paths: Sequence[str | Path], count: int) -> list[Tree]:
    """A sample of trees of two words or more; read before the training, so that a wrong folder is told at once."""
    if not paths:
        return []
    trees = sample_trees((tree for tree in read_trees(paths) if len(tree.tokens) > 1), count)
    if not trees:
        raise OrdtoolError(
            f"{', '.join(map(str, paths))}: no tree of two words or more", "name Penn-style trees"
        )
    return trees


def write_weights(tensors: Mapping[str, Tensor], folder: Path, *, half: bool) -> None:
    """Write the weights of a model into its folder, which has a config.json, as float16 or float32."""
    dtype = torch.float16 if half else torch.float32
    plain = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    # safetensors makes files that only their owner can read.
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)


def describe_epoch(record: dict[str, Any]) -> str:
    """Say how an epoch ended, from its record in the history."""
    said = [record["direction"]] if "direction" in record else []
    said += [f"epoch {record['epoch']:g}", f"step {record['step']:,}"]
    said += [
        f"{part} perplexity {record[key]}"
        for part in ("train", "dev")
        if (key := f"{part}_perplexity") in record
    ]
    if "train_loss" in record:
        said.append(f"train loss {record['train_loss']}")
    if "agreement" in record:
        said.append(f"agreement {record['agreement']}%")
    if "f1" in record:
        layers = record["f1"]
        shown = " ".join(f"{score}%" for score in as_many(layers, float))
        said.append(f"F1 {'by layer ' if isinstance(layers, list) else ''}{shown}")
    return ", ".join([*said, f"{record['seconds']} s"])
