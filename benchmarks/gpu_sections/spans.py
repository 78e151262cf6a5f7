"""Span scorers: training steps and trees, on the card and, as the peer, on this machine's processor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from gpu_sections.measure import Bench, Row
from ordtool.parsing.spans.config import SpanTrainingConfig
from ordtool.parsing.spans.inference import SpanParser
from ordtool.parsing.spans.model import SpanConfig, SpanModel
from ordtool.parsing.spans.training import train_spans
from ordtool.parsing.text.vocabulary import Vocabulary


def rows(bench: Bench) -> Iterator[Row]:
    """Sentences a second, 25 words on average."""
    yield from training_rows(bench)
    yield from parsing_rows(bench)


def random_trees(count: int, words: int, vocabulary: int) -> Iterator[str]:
    """Bracketed right-branching trees of random words."""
    random = np.random.default_rng(0)
    for _ in range(count):
        length = int(random.integers(max(3, words // 2), words + words // 2 + 1))
        found = [f"w{k}" for k in random.integers(vocabulary, size=length)]
        yield "(S " + "".join(f"(X (W {w}) " for w in found[:-1]) + f"(W {found[-1]})" + ")" * length + "\n"


def training_rows(bench: Bench) -> Iterator[Row]:
    """Words a second of a whole training, but for its first epoch."""
    words = bench.pick(25, 6)
    with TemporaryDirectory() as folder:
        trees = Path(folder) / "trees.mrg"
        trees.write_text("".join(random_trees(bench.pick(20_000, 30), words, 1000)))
        config = SpanTrainingConfig(epochs=bench.pick(2, 1), holdout=0.0, embedding_size=64)
        start = time.perf_counter()
        history = train_spans(trees, Path(folder) / "model", config, device=str(bench.device))
        seconds = time.perf_counter() - start
        steps = history[-1]["step"]
        yield Row(
            "spans", "training, 1,024 words a step", "ordtool", steps / seconds, "steps/s", "with reading"
        )


def parsing_rows(bench: Bench) -> Iterator[Row]:
    """Sentences a second, scores and chart."""
    size, sentences = bench.pick((12_000, 8192), (50, 6))
    torch.manual_seed(0)
    config = SpanConfig(vocab_size=size, embedding_size=64)
    vocabulary = Vocabulary([f"w{k}" if k > 1 else ("<eos>", "<unk>")[k] for k in range(size)])
    random = np.random.default_rng(0)
    ids = [random.integers(size, size=int(n)).tolist() for n in sorted(random.integers(12, 38, sentences))]
    tensors = {name: tensor.clone() for name, tensor in SpanModel(config).state_dict().items()}
    systems = {"CPU": ("cpu", None, ids[:: bench.pick(16, 1)])}
    if bench.cuda:
        systems |= {
            "ordtool, float32": ("cuda", None, ids),
            "ordtool, bfloat16": ("cuda", torch.bfloat16, ids),
        }
    for name, (device, dtype, chosen) in systems.items():
        parser = SpanParser.from_parts(asdict(config), dict(tensors), vocabulary, device, dtype)
        seconds = bench.seconds(lambda p=parser, c=chosen: p.distances(c), budget=1.5, warmup=1)
        yield Row("spans", "trees of 25 words", name, len(chosen) / seconds, "sentences/s")
