"""Embedding beside sentence-transformers: throughput, agreement, peak memory.

    python benchmarks/embed.py [--texts 2000] [--rounds 3] [--model minilm]

Each system has a process of its own and they run in turn, round after round, so that what else the machine does
meets all of them. Rates are medians over the rounds: texts a second of the clock, and texts a CPU second times the
cores, which a busy machine disturbs less. Agreement is the smallest cosine to sentence-transformers' float32
vectors. Needs ORDTOOL_DATA (text/) and, for the peers, sentence-transformers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(os.environ.get("ORDTOOL_DATA", "data"))
THEIRS, THEIRS_BF16 = "sentence-transformers float32", "sentence-transformers bfloat16"
OURS, OURS_BF16 = "ordtool float32", "ordtool bfloat16"
SYSTEMS = (THEIRS, OURS, THEIRS_BF16, OURS_BF16)


def mixed_texts(count: int, shortest: int = 4, longest: int = 200, seed: int = 0) -> list[str]:
    """Cut running text into pieces whose length is uniform between two numbers of words."""
    words = " ".join(
        (DATA / "text" / name).read_text(encoding="utf-8") for name in ("state_union.txt", "ewt.txt")
    ).split()
    generator = random.Random(seed)
    texts = []
    for _ in range(count):
        length = generator.randint(shortest, longest)
        start = generator.randrange(len(words) - length)
        texts.append(" ".join(words[start : start + length]))
    return texts


def load(system: str, model: str) -> Callable[[list[str]], np.ndarray]:
    """Load one system; gives its function from texts to vectors."""
    dtype = system.rpartition(" ")[2]
    if system.startswith("ordtool"):
        from ordtool.embedding.encoder import EncoderConfig, encode
        from ordtool.embedding.loading import load_encoder

        encoder = load_encoder(EncoderConfig(model=model, dtype=dtype))
        return lambda texts: encode(encoder, texts)
    import torch
    from sentence_transformers import SentenceTransformer

    from ordtool.models.resolve import resolve_model

    options = {} if dtype == "float32" else {"model_kwargs": {"dtype": getattr(torch, dtype)}}
    folder = str(resolve_model(model))
    peer = SentenceTransformer(folder, device="cpu", trust_remote_code=False, **options)
    return lambda texts: peer.encode(texts, show_progress_bar=False).astype(np.float32)


def serve(system: str, model: str, pipe: Any) -> None:
    """Run in a process: embed whatever comes, until None does."""
    run = load(system, model)
    pipe.send("ready")
    while (texts := pipe.recv()) is not None:
        cpu, clock = time.process_time(), time.perf_counter()
        vectors = run(texts)
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        pipe.send((vectors, clock, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    """Measure and print a table, and one JSON line a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="minilm")
    args = parser.parse_args()
    texts = mixed_texts(args.texts)
    context = multiprocessing.get_context("spawn")
    workers = {}
    for system in SYSTEMS:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(system, args.model, theirs), daemon=True)
        process.start()
        ours.recv()
        ours.send(texts[: max(32, args.texts // 50)])  # what the first call does once
        ours.recv()
        workers[system] = (ours, process)
    results: dict[str, list[tuple[Any, float, float, float]]] = {system: [] for system in SYSTEMS}
    for _ in range(args.rounds):
        for system, (pipe, _process) in workers.items():
            pipe.send(texts)
            results[system].append(pipe.recv())
            print(f"{system}: {len(texts) / results[system][-1][1]:.1f} texts/s", file=sys.stderr, flush=True)
    for pipe, process in workers.values():
        pipe.send(None)
        process.join()
    report(results, texts, args)


def report(results: dict[str, list[tuple[Any, float, float, float]]], texts: list[str], args: Any) -> None:
    """Print what was measured."""
    cores = len(os.sched_getaffinity(0))
    print(f"{args.model}, {len(texts):,} texts of 4-200 words, {args.rounds} rounds in turn")
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "sentence-transformers", "numpy")
    )
    print(f"{cpu_name()}, {cores} cores; Python {platform.python_version()}, {packages}\n")
    print(
        "| system | texts/s | ratio | texts/s by CPU time | ratio | min cosine | peak MB |\n|---|---|---|---|---|---|---|"
    )
    base = results[THEIRS]
    rows = []
    for system, runs in results.items():
        clock = [len(texts) / run[1] for run in runs]
        cpu = [cores * len(texts) / run[2] for run in runs]
        row = {
            "system": system,
            "texts_per_second": statistics.median(clock),
            "ratio": statistics.median(b[1] / r[1] for b, r in zip(base, runs, strict=True)),
            "texts_per_cpu_second": statistics.median(cpu),
            "cpu_ratio": statistics.median(b[2] / r[2] for b, r in zip(base, runs, strict=True)),
            "min_cosine": smallest_cosine(runs[-1][0], base[-1][0]),
            "peak_mb": max(run[3] for run in runs),
        }
        rows.append(row)
        print(
            f"| {system} | {row['texts_per_second']:.1f} | {row['ratio']:.2f} | {row['texts_per_cpu_second']:.1f} "
            f"| {row['cpu_ratio']:.2f} | {row['min_cosine']:.6f} | {row['peak_mb']:.0f} |"
        )
    print()
    for row in rows:
        print(json.dumps(row))


def smallest_cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Compare row by row."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    products = np.einsum("ij,ij->i", left, right)
    return float((products / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)).min())


def cpu_name() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


if __name__ == "__main__":
    main()
