"""Ladder Side-Tuning beside full fine-tuning, LoRA, BitFit and a head.

    python benchmarks/ladder.py scores [--texts 1500] [--tasks sst2,trec]     accuracy, memory and time, three seeds
    python benchmarks/ladder.py steps [--length 26 | --task trec]             seconds a step, measured in turn
    python benchmarks/ladder.py memory [--lengths 64,128,256,512]             peak extra memory by length
    python benchmarks/ladder.py lm [--book FILE]                              a language model on one book
    python benchmarks/ladder.py tasks --log tasks.jsonl                       labels of texts, of words, and answers

`tasks` trains ladders, ladders of MLPs, full fine-tuning, LoRA and a head on the same few records: TREC's questions; Penn
tags of words; and questions made of trees, who or what does what a verb says, or to whom, whose answers are the subjects and
objects. Words and trees are MASC's odd ones, of 4 to 30 words; what is tested are other sentences, of the same documents in
part. A run that is in the log already isn't made again.

Data are read from the folder ORDTOOL_DATA (default data). Full fine-tuning of whole SST-2 takes hours on two
cores, so `scores` trains every method on the same random texts of the training part, a tenth of which choose the epoch, and
measures once on SST-2's dev part and TREC's test part.
"""

import argparse
import gzip
import json
import os
import platform
import re
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers

from ordtool.console import RichProgress
from ordtool.parsing.trees.treebank import unescape_token
from ordtool.tuning.comparison import RATES, compare_tuning, time_steps
from ordtool.tuning.config import ComparisonConfig, LadderTrainingConfig, ScheduleConfig
from ordtool.tuning.dataset import LadderData, read_data
from ordtool.tuning.encoding import Encoded
from ordtool.tuning.ladder.side_network import choose_layers
from ordtool.tuning.loading import load_backbone
from ordtool.tuning.methods import make_baseline
from ordtool.tuning.train_loop import train
from ordtool.tuning.training import fit_ladder, ladder_method, new_ladder, state_sources, train_ladder

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


def masc_trees():
    """Gives the odd trees of MASC as nested lists: `[label, child...]`, where a leaf is `[tag, word]`; without traces."""
    path = DATA / "treebanks" / "masc" / "masc.mrg.gz"
    if not path.is_file():
        sys.exit(f"{path}: missing; name the data's folder with ORDTOOL_DATA")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = [line for line in file if line.strip()]
    return [
        tree for line in lines[::2] if (tree := pruned(nested(line)[-1])) and 4 <= len(leaves(tree)) <= 30
    ]


def nested(line):
    """Reads brackets."""
    stack = [[]]
    for atom in re.findall(r"[()]|[^\s()]+", line):
        if atom == "(":
            stack.append([])
        elif atom == ")":
            node = stack.pop()
            stack[-1].append(node if node and isinstance(node[0], str) else node[0] if node else ["", ""])
        else:
            stack[-1].append(atom)
    return stack[0]


def pruned(node):
    """Gives a tree without traces and what is empty without them; None if nothing is left."""
    if isinstance(node[1], str):
        return None if node[0] in ("-NONE-", "") else [node[0], unescape_token(node[1])]
    children = [kept for child in node[1:] if (kept := pruned(child))]
    return [node[0], *children] if children else None


def leaves(node):
    """Gives `(tag, word)` of each word."""
    return (
        [tuple(node)] if isinstance(node[1], str) else [leaf for child in node[1:] for leaf in leaves(child)]
    )


def head_verb(node):
    """Gives the last verb that a verb phrase begins with, `sharing` of `am sharing it`; None without one."""
    own = [child for child in node[1:] if not isinstance(child, str)]
    inner = next((child for child in own if child[0].split("-")[0] == "VP"), None)
    verbs = [child[1] for child in own if isinstance(child[1], str) and child[0].startswith("VB")]
    return (head_verb(inner) if inner else None) or (verbs[-1] if verbs else None)


def questions_of(tree):
    """Yields `(question, context, answer, start)` for subjects and objects."""
    words = [word for _, word in leaves(tree)]
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    context = " ".join(words)

    def walk(node, place):
        if isinstance(node[1], str):
            return
        places, at = [], place
        for child in node[1:]:
            places.append(at)
            at += len(leaves(child))
        for child, begin in zip(node[1:], places, strict=True):
            end = begin + len(leaves(child))
            span = (context[starts[begin] : starts[end] - 1], int(starts[begin]))
            phrase = next((other for other in node[1:] if other[0].split("-")[0] == "VP"), None)
            if child[0].startswith("NP-SBJ") and phrase and (verb := head_verb(phrase)):
                yield (f"Who or what {verb}?", context, *span)
            if child[0] == "NP" and node[0].split("-")[0] == "VP" and (verb := head_verb(node)):
                yield (f"{verb} whom or what?", context, *span)
            yield from walk(child, begin)

    yield from walk(tree, 0)


def task_files(task, texts, folder):
    """Writes the training and test records of a task; gives their paths and the name of the task to train."""
    rng = np.random.default_rng(1)
    if task == "trec":
        rows = rows_of("trec-train.txt")
        kept = [rows[i] for i in rng.permutation(len(rows))[:texts]]
        return (
            [write(folder, "train.tsv", kept)],
            [write(folder, "test.tsv", rows_of("trec-test.txt"))],
            "classify",
        )
    trees = masc_trees()
    order = rng.permutation(len(trees))
    parts = []
    for name, chosen in (("train", order[:texts]), ("test", order[-400:])):
        records = []
        for tree in (trees[i] for i in chosen):
            if task == "tags":
                tags, words = zip(*leaves(tree), strict=True)
                records.append({"tokens": words, "labels": [tag.split("|")[0] for tag in tags]})
            elif found := list(questions_of(tree)):
                picked = found[int(rng.integers(len(found)))]
                records.append(dict(zip(("question", "context", "answer", "start"), picked, strict=True)))
        parts.append(folder / f"{name}.jsonl")
        parts[-1].write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    if task == "tags":
        keep_known_tags(*parts)
    return parts[:1], parts[1:], "tokens" if task == "tags" else "span"


def keep_known_tags(train, test):
    """Leaves out test sentences with a tag that no training sentence has."""
    known = {tag for line in train.open() for tag in json.loads(line)["labels"]}
    lines = [line for line in test.open() if known.issuperset(json.loads(line)["labels"])]
    test.write_text("".join(lines), encoding="utf-8")


TASK_METHODS = ("ladder", "ladder, mlp", "full", "lora", "head")


def one_run(name, backbone, data, config, full_epochs):
    """Trains a method once; gives its figures on the test records."""
    started = time.perf_counter()
    if name.startswith("ladder"):
        config = replace(config, block="mlp" if "mlp" in name else "transformer")
        trained = fit_ladder(new_ladder(backbone, data, config), backbone, data, config)
        found, dev, count = trained.test, trained.history.best, trained.parameters
    else:
        epochs = config.schedule.epochs if name == "head" else full_epochs
        config = replace(config, schedule=replace(config.schedule, epochs=epochs, learning_rate=RATES[name]))
        layers = choose_layers(None, backbone.depth)
        sources = state_sources(backbone, data, layers, config) if name == "head" else None
        method = make_baseline(name, backbone, data, config, sources)
        dev = train(method, data.train.lengths, config.schedule).best
        found = method.measure((data.test, sources[-1] if sources else None))
        count = sum(parameter.numel() for parameter in method.parameters())
    seconds = round(time.perf_counter() - started, 1)
    figures = {"score": round(found.value, 2), **{key: round(value, 2) for key, value in found.more.items()}}
    return {"metric": found.name, **figures, "dev": round(dev.value, 2), "trained": count, "seconds": seconds}


def task_data(task, backbone, folder, args):
    """Reads what a task is trained and tested with; gives it and the ladder's configuration."""
    folder.mkdir()
    paths, test, kind = task_files(task, args.texts, folder)
    schedule = ScheduleConfig(epochs=args.epochs, batch_size=args.batch_size)
    config = LadderTrainingConfig(task=kind, cache_dir=str(folder), schedule=schedule, dtype="float32")
    return read_data(paths, [], config, backbone, test), config


def tasks(args):
    log = Path(args.log)
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    seen = {(row["task"], row["method"], row["seed"]) for row in done}
    backbone = load_backbone("minilm")
    with tempfile.TemporaryDirectory() as name, open(log, "a", encoding="utf-8") as file:
        prepared = {
            task: task_data(task, backbone, Path(name) / task, args) for task in args.tasks.split(",")
        }
        for seed in range(args.runs):
            for task, (data, config) in prepared.items():
                for method in args.methods.split("|"):
                    if (task, method, seed) in seen:
                        continue
                    own = replace(config, schedule=replace(config.schedule, seed=seed))
                    row = {"task": task, "texts": len(data.train), "method": method, "seed": seed}
                    done.append(row | one_run(method, backbone, data, own, args.full_epochs))
                    print(json.dumps(done[-1]), file=file, flush=True)
    show_tasks(done)


def show_tasks(rows):
    """Prints a table: mean and deviation over seeds of each method and task."""
    names = list(dict.fromkeys(row["task"] for row in rows))
    print(f"| method | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for name in names:
            values = [row["score"] for row in rows if (row["task"], row["method"]) == (name, method)]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}" if values else "-")
        print(f"| {method} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["scores", "steps", "memory", "lm", "tasks"])
    parser.add_argument("--texts", type=int, default=1500)
    parser.add_argument("--tasks", help="sst2,trec of `scores`, trec,tags,spans of `tasks`.")
    parser.add_argument("--methods", help="full,lora,bitfit,head of `scores`; of `tasks` with | between.")
    parser.add_argument("--log", default="tasks.jsonl", help="Of `tasks`: the runs so far.")
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
    every = args.what == "tasks"
    args.tasks = args.tasks or ("trec,tags,spans" if every else "sst2,trec")
    args.methods = args.methods or ("|".join(TASK_METHODS) if every else "full,lora,bitfit,head")
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
