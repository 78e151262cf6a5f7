"""Ladder Side-Tuning beside full fine-tuning, LoRA, BitFit and a head.

    python benchmarks/ladder.py scores [--texts 1500] [--tasks sst2,trec]     accuracy, memory and time, three seeds
    python benchmarks/ladder.py steps [--length 26 | --task trec]             seconds a step, measured in turn
    python benchmarks/ladder.py memory [--lengths 64,128,256,512]             peak extra memory by length
    python benchmarks/ladder.py lm [--book FILE]                              a language model on one book

Data are read from the folder ORDTOOL_DATA (default data). Full fine-tuning of whole SST-2 takes hours on two
cores, so `scores` trains every method on the same random texts of the training part, a tenth of which choose the epoch, and
measures once on SST-2's dev part and TREC's test part.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers

from ordtool.console import RichProgress
from ordtool.tuning.comparison import compare_tuning, time_steps
from ordtool.tuning.config import ComparisonConfig, LadderTrainingConfig, ScheduleConfig
from ordtool.tuning.dataset import LadderData, read_data
from ordtool.tuning.encoding import Encoded
from ordtool.tuning.loading import load_backbone
from ordtool.tuning.methods import make_baseline
from ordtool.tuning.training import ladder_method, new_ladder, state_sources, train_ladder

DATA = Path(os.environ.get("ORDTOOL_DATA", "data"))
METHODS = ("full", "lora", "bitfit", "head")


def rows_of(name):
    """Gives `(text, label)` of a file of SST-2 or TREC."""
    path = DATA / "classification" / name
    if not path.is_file():
        sys.exit(f"{path}: missing; name the data's folder with ORDTOOL_DATA")
    lines = path.read_text(encoding="utf-8" if name.endswith(".tsv") else "latin-1").splitlines()
    if name.endswith(".tsv"):
        return [tuple(line.split("\t")) for line in lines]
    return [tuple(reversed(line.split(" ", 1))) for line in lines]


def write(folder, name, rows):
    """Writes a TSV; gives its path."""
    path = folder / name
    path.write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    return path


def say(record):
    """Prints one JSON line at once, so that an interrupted run leaves what it had."""
    print(json.dumps(record), flush=True)


def scores(args):
    parts = {"sst2": ("sst2-train.tsv", "sst2-dev.tsv"), "trec": ("trec-train.txt", "trec-test.txt")}
    backbone = load_backbone("minilm")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for task in args.tasks.split(","):
            train, test = map(rows_of, parts[task])
            order = np.random.default_rng(1).permutation(len(train))[: args.texts]
            paths = [
                write(folder, "train.tsv", [train[i] for i in order]),
                write(folder, "test.tsv", test),
            ]
            config = LadderTrainingConfig(
                schedule=ScheduleConfig(epochs=args.epochs),
                cache_dir=str(folder / "states"),
                pooling=args.pooling,
            )
            data = read_data(paths[:1], [], config, backbone, paths[1:])
            methods = tuple(name for name in args.methods.split(",") if name)
            compare_tuning(
                backbone, data, config, ComparisonConfig(methods, args.runs, args.full_epochs), progress=RichProgress(),
                done=lambda row, task=task, data=data: say({"task": task, "texts": len(data.train), **row.record()}),
            )  # fmt: skip


def synthetic(backbone, texts, length):
    """Random tokens of one length, two classes."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(1000, backbone.config.vocab_size, length) for _ in range(texts)]
    return Encoded(ids, None, rng.integers(0, 2, texts))


class Autocast:
    """A method whose products are in bfloat16 by autocast, its weights in float32."""

    def __init__(self, learner):
        self._learner = learner
        self.threads = learner.threads
        self.module = learner.module
        self.parameters = learner.parameters

    def loss(self, index):
        """Gives the loss; the backward pass follows the dtypes of the forward one."""
        with torch.autocast("cpu", torch.bfloat16):
            return self._learner.loss(index)


def learner_of(name, backbone, data, folder):
    """Gives a method on some data, which it is also measured with."""
    config = LadderTrainingConfig(initialisation="random", cache_dir=str(folder))
    both = LadderData(data, data, tuple(map(str, range(int(data.targets.max()) + 1))))
    if name in METHODS[:3]:
        return make_baseline(name, backbone, both, config)
    if name == "full, bfloat16":
        return Autocast(make_baseline("full", backbone, both, config))
    ladder = new_ladder(backbone, both, config)
    if "float32" in name:
        config = replace(config, dtype="float32")
    own = replace(config, cache="no cache" not in name)
    sources = state_sources(backbone, both, ladder.config.layers, own)
    if name == "head":
        return make_baseline("head", backbone, both, config, sources)
    return ladder_method(ladder, backbone, both, own, sources)


ORDER = (
    "full", "full, bfloat16", "lora", "bitfit", "ladder, no cache", "ladder, no cache, float32", "ladder", "head",
)  # fmt: skip
QUICK = ("ladder", "head")


def texts_of(task, backbone, count):
    """Random training texts of a task, encoded as `scores` does."""
    rows = rows_of({"sst2": "sst2-train.tsv", "trec": "trec-train.txt"}[task])
    order = np.random.default_rng(1).permutation(len(rows))
    with tempfile.TemporaryDirectory() as name:
        path = write(Path(name), "train.tsv", [rows[i] for i in order[: 2 * count + 20]])
        data = read_data([path], [], LadderTrainingConfig(), backbone).train
    return Encoded(data.ids[:count], None, data.targets[:count])


def steps(args, lengths=None, batch=None):
    """Seconds a step and peak extra memory of each method on the same batches, method after method, in rounds.

    A round's figure is a mean over its batches, what is written the median of the rounds: a machine that
    is slower for a while is so for all of them.
    """
    backbone = load_backbone("minilm")
    for length in lengths or [args.length]:
        size = batch or args.batch_size
        count = args.steps * size
        data = texts_of(args.task, backbone, count) if args.task else synthetic(backbone, count, length)
        both, schedule = LadderData(data, data, ("a", "b")), ScheduleConfig(batch_size=size)
        with tempfile.TemporaryDirectory() as folder:
            methods = {
                name: learner_of(name, backbone, data, Path(folder))
                for name in (args.order.split("|") if args.order else ORDER)
            }
            found = {name: [] for name in methods}
            for _ in range(args.rounds):
                for name, learner in methods.items():
                    times = 8 if name in QUICK else 1
                    found[name].append(time_steps(learner, both, schedule, backbone, times * args.steps))
        for name, rounds in found.items():
            seconds = [step for step, _ in rounds]
            extra = [megabytes for _, megabytes in rounds if megabytes is not None]
            say(
                {
                    "length": round(float(data.lengths.mean()), 1) if args.task else length,
                    "task": args.task, "batch": size, "method": name, "steps": args.steps,
                    "seconds_a_step": round(float(np.median(seconds)), 5),
                    "rounds": [round(step, 5) for step in seconds],
                    "peak_extra_memory_mb": round(max(extra), 1) if extra else None,
                }
            )  # fmt: skip


def memory(args):
    steps(args, [int(n) for n in args.lengths.split(",")], args.batch_size)


def lm(args):
    book = Path(args.book) if args.book else sorted((DATA / "books").glob("*.txt"))[0]
    with tempfile.TemporaryDirectory() as name:
        text = book.read_text(encoding="utf-8")
        part = Path(name) / "part.txt"
        part.write_text(text[: args.characters], encoding="utf-8")
        dev = Path(name) / "dev.txt"
        dev.write_text(text[-args.characters // 8 :], encoding="utf-8")
        config = LadderTrainingConfig(
            task="lm", max_length=args.length, layers=args.layers, cache_dir=name,
            schedule=ScheduleConfig(epochs=args.epochs, batch_size=4, learning_rate=args.rate),
        )  # fmt: skip
        for rate in ("start", "trained"):
            if rate == "start":
                # One step at a rate of nearly 0: U is 0, so this is the backbone's own loss.
                still = replace(config, schedule=replace(config.schedule, max_steps=1, learning_rate=1e-12))
                found = train_ladder([part], None, still, model="smollm2", dev=[dev])
            else:
                found = train_ladder(
                    [part], args.keep, config, model="smollm2", dev=[dev], force=True, progress=RichProgress()
                )
            say({"book": book.name, "characters": args.characters, "what": rate, **found.record()})


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["scores", "steps", "memory", "lm"])
    parser.add_argument("--texts", type=int, default=1500)
    parser.add_argument("--tasks", default="sst2,trec")
    parser.add_argument("--methods", default="full,lora,bitfit,head")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--full-epochs", type=int, default=3)
    parser.add_argument("--pooling", default="mean")
    parser.add_argument("--length", type=int, default=26)
    parser.add_argument("--lengths", default="64,128,256,512")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--task", choices=["sst2", "trec"], help="Real texts for `steps`.")
    parser.add_argument("--order", help="Methods of `steps`, with | between them.")
    parser.add_argument("--book")
    parser.add_argument("--keep", help="Save the language model's ladder here.")
    parser.add_argument("--characters", type=int, default=200_000)
    parser.add_argument("--layers", default="10")
    parser.add_argument("--rate", type=float, default=2e-3)
    args = parser.parse_args()
    say(
        {
            "machine": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.machine()}",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
    )
    globals()[args.what](args)


if __name__ == "__main__":
    main()
