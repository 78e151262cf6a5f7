"""ON-LSTM, training and parsing: tokens and sentences a second beside the paper's own code.

    ORDERED_NEURONS=~/Ordered-Neurons ORDTOOL_DATA=data python benchmarks/parser_speed.py train [--steps 500]
    ORDERED_NEURONS=~/Ordered-Neurons ORDTOOL_DATA=data python benchmarks/parser_speed.py parse [--sentences 10000]

ORDERED_NEURONS is a checkout of github.com/yikangshen/Ordered-Neurons; of it one line is replaced here, a mask whose
type PyTorch no longer takes. All systems train from the same tokens of real text at the same shape, batch and window,
by SGD with the paper's learning rate and clipping; each is a process of its own, and they take turns. `lstm` is
torch's nn.LSTM at the same shape with the same softmax: it has no ordered gates and no weight-drop, and is what a
recurrent layer can hope for. The mean loss over the last fifth of the steps shows that the same thing is learned.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("ORDTOOL_DATA", "data"))
SYSTEMS = ("reference", "lstm", "ordtool float32", "ordtool bfloat16")
CLIP, RATE = 0.25, 30.0


def main() -> None:
    """Read what is asked, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["train", "parse", "worker"])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--embedding", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--window", type=int, default=70)
    parser.add_argument("--vocabulary", type=int, default=10_000)
    parser.add_argument("--models", nargs="+", default=["english", "english-onlstm"], help="A+B votes.")
    parser.add_argument("--sentences", type=int, default=10_000)
    parser.add_argument("--system", choices=SYSTEMS)
    options = parser.parse_args()
    if options.part == "worker":
        print(json.dumps(train_worker(options)))
    elif options.part == "train":
        train(options)
    else:
        parse(options)


def words(count: int, vocabulary: int) -> list[int]:
    """Ids of running words of real text, the most frequent ones named."""
    text = " ".join((DATA / "text" / name).read_text("utf-8") for name in ("masc.txt", "state_union.txt"))
    found = re.findall(r"[a-z']+", text.lower())[:count]
    common = [word for word, _ in Counter(found).most_common(vocabulary - 1)]
    ids = {word: number + 1 for number, word in enumerate(common)}
    return [ids.get(word, 0) for word in found]


def train(options: argparse.Namespace) -> None:
    """Tokens a second of whole training steps."""
    runs: dict[str, list[dict[str, Any]]] = {}
    systems = [name for name in SYSTEMS if name != "reference" or "ORDERED_NEURONS" in os.environ]
    for _ in range(options.rounds):
        for name in systems:
            arguments = [*sys.argv[2:], "--system", name]
            done = subprocess.run(
                [sys.executable, __file__, "worker", *arguments], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            runs.setdefault(name, []).append(json.loads(done.stdout.strip().split("\n")[-1]))
            print(json.dumps({"system": name, **runs[name][-1]}), flush=True)
    print(
        f"\n{options.layers} layers {options.embedding}-{options.hidden}, chunk {options.chunk}, batch {options.batch}, "
        f"window {options.window}, {options.vocabulary:,} words, {options.steps} steps\n"
    )
    base = statistics.median(run["tokens_per_second"] for run in runs[systems[0]])
    print(f"| system | tokens/s | beside {systems[0]} | loss, last fifth | peak MB |\n|---|---|---|---|---|")
    for name, found in runs.items():
        rate = statistics.median(run["tokens_per_second"] for run in found)
        print(
            f"| {name} | {rate:,.0f} | {rate / base:.2f} | {found[0]['loss']:.3f} | {found[0]['peak_mb']:.0f} |"
        )


def train_worker(options: argparse.Namespace) -> dict[str, Any]:
    """Train one system in this process."""
    import torch

    torch.manual_seed(0)
    ids = torch.tensor(words((options.steps + 3) * options.batch * options.window + 1, options.vocabulary))
    length = len(ids) // options.batch
    streams = ids[: length * options.batch].view(options.batch, length)
    makers: dict[str, Callable[..., Any]] = {"reference": reference_step, "lstm": lstm_step}
    step = makers.get(options.system, ordtool_step)(options)
    losses, seconds = [], []
    for number in range(options.steps):
        first = number * options.window % (length - options.window - 1)
        window = streams[:, first : first + options.window + 1]
        start = time.perf_counter()
        losses.append(step(window[:, :-1], window[:, 1:]))
        seconds.append(time.perf_counter() - start)
    tail = losses[-max(1, options.steps // 5) :]
    part = max(1, options.steps // 10)
    if not all(map(math.isfinite, losses)):
        raise SystemExit("the loss is not finite")
    return {
        "tokens_per_second": options.batch * options.window / statistics.median(seconds),
        "loss": statistics.fmean(tail),
        "curve": [round(statistics.fmean(losses[k : k + part]), 3) for k in range(0, len(losses), part)],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def updated(parameters: list[Any], optimiser: Any) -> None:
    """Clip and step, as the paper's code does."""
    import torch

    torch.nn.utils.clip_grad_norm_(parameters, CLIP)
    optimiser.step()


def reference_model(options: argparse.Namespace) -> Any:
    """The paper's model."""
    sys.path.insert(0, os.environ["ORDERED_NEURONS"])
    import ON_LSTM
    from model import RNNModel

    def sample_mask(layer: Any) -> None:
        dropped = layer.weight.new_empty(layer.weight.size()).bernoulli_(layer.dropout).bool()
        layer._weight = layer.weight.masked_fill(dropped, 0.0)

    ON_LSTM.LinearDropConnect.sample_mask = sample_mask
    shape = (options.vocabulary, options.embedding, options.hidden, options.chunk, options.layers)
    return RNNModel("LSTM", *shape, 0.3, 0.2, 0.3, 0.0, 0.3, True)


def reference_step(options: argparse.Namespace) -> Callable[..., float]:
    """A step of the paper's code."""
    import torch

    model = reference_model(options).train()
    parameters = list(model.parameters())
    optimiser = torch.optim.SGD(parameters, lr=RATE)
    hidden = model.init_hidden(options.batch)

    def step(inputs: Any, targets: Any) -> float:
        nonlocal hidden
        hidden = [tuple(part.detach() for part in state) for state in hidden]
        optimiser.zero_grad()
        output, hidden = model(inputs.t().contiguous(), hidden)
        scores = torch.nn.functional.linear(output, model.decoder.weight, model.decoder.bias)
        loss = torch.nn.functional.cross_entropy(scores, targets.t().reshape(-1))
        loss.backward()
        updated(parameters, optimiser)
        return float(loss)

    return step


def lstm_step(options: argparse.Namespace) -> Callable[..., float]:
    """A step of torch's LSTM at the same shape."""
    import torch
    from torch import nn

    sizes = [options.embedding] + [options.hidden] * (options.layers - 1) + [options.embedding]
    embedding = nn.Embedding(options.vocabulary, options.embedding)
    nn.init.uniform_(embedding.weight, -0.1, 0.1)
    layers = nn.ModuleList(nn.LSTM(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
    bias = nn.Parameter(torch.zeros(options.vocabulary))
    parameters = [*embedding.parameters(), *layers.parameters(), bias]
    optimiser = torch.optim.SGD(parameters, lr=RATE)
    states: list[Any] = [None] * options.layers
    dropout = nn.Dropout(0.3)

    def step(inputs: Any, targets: Any) -> float:
        optimiser.zero_grad()
        hidden = dropout(embedding(inputs.t()))
        for number, layer in enumerate(layers):
            hidden, state = layer(hidden, states[number])
            states[number] = tuple(part.detach() for part in state)
            hidden = dropout(hidden)
        scores = torch.nn.functional.linear(hidden.flatten(0, 1), embedding.weight, bias)
        loss = torch.nn.functional.cross_entropy(scores, targets.t().reshape(-1))
        loss.backward()
        updated(parameters, optimiser)
        return float(loss)

    return step


def ordtool_step(options: argparse.Namespace) -> Callable[..., float]:
    """A step of ordtool's trainer: two shards, a thread each."""
    import torch

    from ordtool.parsing.onlstm.model import OnlstmConfig, OnlstmForCausalLM
    from ordtool.parsing.training.loss import ShardedLoss
    from ordtool.parsing.training.recipes import TrainingConfig

    shape = {
        "embedding_size": options.embedding,
        "hidden_size": options.hidden,
        "num_hidden_layers": options.layers,
        "chunk_size": options.chunk,
    }
    dropouts = {"input_dropout": 0.3, "layer_dropout": 0.2, "output_dropout": 0.3, "weight_dropout": 0.3}
    config = OnlstmConfig(vocab_size=options.vocabulary, word_dropout=0.0, **shape, **dropouts)
    model = OnlstmForCausalLM(config).train()
    model.use_matmul_dtype(torch.bfloat16 if options.system.endswith("bfloat16") else None)
    torch.set_float32_matmul_precision("medium")
    training = TrainingConfig(
        batch_size=options.batch, shards=2, activation_penalty=0.0, temporal_penalty=0.0
    )
    loss = ShardedLoss(model, training)
    parameters = list(model.parameters())
    optimiser = torch.optim.SGD(parameters, lr=RATE)

    def step(inputs: Any, targets: Any) -> float:
        value = loss(inputs, targets)
        updated(parameters, optimiser)
        return value

    return step


# ---------------------------------------------------------------- parsing


def parse(options: argparse.Namespace) -> None:
    """Sentences a second of the packaged models on sentences of 18 to 26 tokens."""
    import tempfile

    lines = [
        line
        for line in (DATA / "text" / "ewt.txt").read_text("utf-8").split("\n")
        if 18 <= len(line.split()) <= 26
    ]
    lines = (lines * (options.sentences // len(lines) + 1))[: options.sentences]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text("\n".join(lines) + "\n", "utf-8")
        empty = Path(folder) / "one.txt"
        empty.write_text(lines[0] + "\n", "utf-8")
        rows = []
        for model, workers in itertools.product(options.models, sorted({1, os.cpu_count() or 1})):
            command = [sys.executable, "-m", "ordtool", "parse", "--format", "brackets", "-q"]
            command += [part for name in model.split("+") for part in ("-m", name)]
            command += ["--workers", str(workers), "--force", "-o", str(Path(folder) / "out")]
            whole, peak = median_of(options.rounds, [*command, str(text)])
            start, _ = median_of(options.rounds, [*command, str(empty)])
            row = {"model": model, "workers": workers, "seconds": whole, "start": start, "peak_mb": peak}
            rows.append(row | {"rate": len(lines) / (whole - start)})
            print(json.dumps(rows[-1]), flush=True)
    print(f"\n{len(lines):,} sentences of 18 to 26 tokens\n")
    print(
        "| model | workers | seconds, whole | seconds, one sentence | sentences/s between | largest process, MB |"
    )
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['model']} | {row['workers']} | {row['seconds']:.1f} | {row['start']:.1f} | {row['rate']:,.0f} "
            f"| {row['peak_mb']:.0f} |"
        )
    if "ORDERED_NEURONS" in os.environ:
        print(f"\nreference, one at a time: {reference_parsing(options, lines[:200]):,.0f} sentences/s")


def median_of(rounds: int, command: list[str]) -> tuple[float, float]:
    """Median seconds of a process, and the memory of the largest process it started or was, in MB."""
    seconds, peaks = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - start)
        peaks.append(usage.ru_maxrss / 1024)
        if status:
            raise SystemExit(f"failed: {' '.join(command)}")
    return statistics.median(seconds), max(peaks)


def reference_parsing(options: argparse.Namespace, lines: list[str]) -> float:
    """Sentences a second of the paper's model, as its test script runs it, at the packaged model's shape."""
    import torch

    model = reference_model(options).eval()
    hidden = model.init_hidden(1)

    def measure(line: str) -> None:
        ids = torch.randint(1, options.vocabulary, (len(line.split()) + 2, 1))
        with torch.no_grad():
            model(ids, hidden)

    measure(lines[0])
    start = time.perf_counter()
    for line in lines:
        measure(line)
    return len(lines) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
