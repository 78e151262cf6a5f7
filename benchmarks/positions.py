r"""The article's table again: train short, test long, for every position scheme and every method.

    python benchmarks/positions.py --work /tmp/positions                  # goes on where it was
    python benchmarks/positions.py --work /tmp/positions --table          # only print what is there
    python benchmarks/positions.py --work /tmp/smoke --steps 2 --hidden 16 --layers 2 --context 16 --texts A --held-out B

Small models are trained on the books at 256 tokens, one for each scheme of `ordtool train lm --positions`, with the same
text, seed and updates. They read a held-out book at 256 and at 2,048 tokens, and so does the rope model with every
training-free method. The last 128 tokens of each window are scored, once as they stand, once with the window's last 256
tokens repeated before them; at 256 tokens with these 128 before them, which tells whether a model copies at all. Beside
them: Su's figures (100M parameters, 512 to 4,096 tokens; kexue.fm/9708, 9728, 9731, 9859).

The check of HWFA2, with and without its ReRoPE, on three seeds:

    python benchmarks/positions.py --work /tmp/hwfa2 --only 'hwfa2;hwfa;rope' --tested none --seeds 3 \
        --context 64 --hidden 64 --layers 4 --steps 600 --batch-size 32

Schemes on a model that copies: each begins with the weights of tinylm and learns its scheme in some updates more.

    python benchmarks/positions.py --work /tmp/started --start tinylm --only 'rope;rope, log-n;hwfa;hwfa2;rerope' \
        --tested 'none;rerope:window=0.5x' --steps 300 --learning-rate 1e-3

Models this small don't learn to copy from two million tokens of a book, and the repeated column would say nothing. So every
other passage of the training text comes twice in a row. Needs ORDTOOL_DATA (books/), or --texts and --held-out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("ORDTOOL_DATA", "data"))
METHODS = (
    "none,pi,ntk,ntk-fixed,ntk-mixed,dynamic-ntk,yarn,yarn-unscaled,window,lambda,rerope:window=0.25x,rerope:window=0.5x,"
    "rerope:window=1x,leaky-rerope:window=0.25x:leak=16,self-extend,dca,logn,rerope:window=0.5x+logn"
).split(",")
PLAIN = "none, plain rope"  # a model of hwfa2 without its ReRoPE
LOGN = ("none", "rerope:window=0.5x", "leaky-rerope:window=0.25x:leak=16")
# What is trained: options of LMTrainingConfig, and the methods it is tested with.
RUNS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "rope": ({}, tuple(METHODS)),
    "rope, log-n": ({"logn_trained": True}, LOGN),
    "hwfa": ({"positions": "hwfa"}, ("none",)),
    "hwfa2": ({"positions": "hwfa2:window=L/8:middle=2"}, ("none", PLAIN)),  # the article's w64-f2
    "rerope": ({"positions": "rerope"}, ("none",)),
    "querynorm": ({"positions": "querynorm"}, ("none",)),
    "cosine": ({"positions": "cosine"}, ("none",)),
    "keynorm": ({"positions": "keynorm"}, ("none",)),
    "inverse-leaky": ({"positions": "inverse-leaky"}, ("none",)),
    "alibi": ({"positions": "alibi"}, ("none",)),
    "kerple": ({"positions": "kerple"}, ("none",)),
    "sandwich": ({"positions": "sandwich"}, ("none",)),
    "xpos": ({"positions": "xpos"}, ("none",)),
    "nope": ({"positions": "nope"}, ("none",)),
    "random": ({"positions": "random"}, ("none",)),
    "inverse-leaky, log-n": ({"positions": "inverse-leaky", "logn_trained": True}, ("none",)),
}
# Accuracy in percent at eight times the trained length: repeated, not repeated.
SU: dict[tuple[str, str], tuple[float, float]] = {
    ("rope", "none"): (24.2, 23.2),
    ("rope", "pi"): (15.0, 13.5),
    ("rope", "ntk"): (51.3, 39.3),
    ("rope", "ntk-fixed"): (51.9, 39.6),
    ("rope", "ntk-mixed"): (53.1, 40.1),
    ("rope", "yarn"): (80.1, 47.5),
    ("rope", "rerope:window=0.5x"): (77.9, 48.5),
    ("rope", "rerope:window=0.5x+logn"): (82.4, 48.9),
    ("rope", "rerope:window=1x"): (7.1, 8.3),
    ("rope, log-n", "rerope:window=0.5x"): (85.1, 49.1),
    ("rope, log-n", "leaky-rerope:window=0.25x:leak=16"): (85.2, 49.1),
    ("keynorm", "none"): (61.1, 47.7),
    ("querynorm", "none"): (22.5, 22.2),
    ("cosine", "none"): (58.9, 47.0),
    ("hwfa", "none"): (80.8, 48.2),
    ("hwfa2", "none"): (84.4, 49.4),
    ("inverse-leaky, log-n", "none"): (82.3, 48.3),
}


def with_repeats(text: str, seed: int, context: int = 256) -> str:
    """Write every other passage, of 100 to 350 characters at a context of 256 tokens, twice in a row."""
    draw, at, parts = random.Random(seed), 0, []
    while at < len(text):
        end = text.find(" ", at + draw.randrange(100, 350) * context // 256)
        end = len(text) if end < 0 else end + 1
        parts += [text[at:end]] * (1 if len(parts) % 3 else 2)
        at = end
    return "".join(parts)


def prepare(options: argparse.Namespace) -> Path:
    """Write the training text and the vocabulary, once."""
    from ordtool.lm.corpus import train_tokenizer

    folder = options.work / "tokenizer"
    options.work.mkdir(parents=True, exist_ok=True)
    if not (options.work / "train.txt").exists():
        # As much of each text as the updates need, at four characters a token: no more is tokenised.
        needed = 4 * options.steps * options.batch_size * options.context // len(options.texts) + 4096
        texts = [Path(file).read_text(encoding="utf-8")[:needed] for file in options.texts]
        draft = options.work / "train.draft"
        draft.write_text(
            "\n".join(with_repeats(text, options.seed, options.context) for text in texts), encoding="utf-8"
        )
        draft.rename(options.work / "train.txt")
        held_out = Path(options.held_out).read_text(encoding="utf-8")
        (options.work / "valid.txt").write_text(held_out[:60_000], encoding="utf-8")  # for the dev loss
    if not folder.exists():
        text = (options.work / "train.txt").read_text(encoding="utf-8")
        train_tokenizer([text], options.vocab_size).save_pretrained(folder)
    return folder


def begin(name: str, chosen: dict[str, Any], options: argparse.Namespace) -> Path:
    """Write a model of a scheme that has the weights of `--start`, a Llama without biases."""
    from ordtool.lm.config import OrdtoolLMConfig
    from ordtool.lm.model import OrdtoolLMForCausalLM
    from ordtool.lm.position_schemes import parse_scheme
    from ordtool.models.loading import load_model, load_tokenizer
    from ordtool.models.resolve import resolve_model

    source, output = resolve_model(options.start), options.work / f"{name.replace(', ', '-')}-start"
    if output.exists():
        return output
    given = load_model(source, "causal").model
    scheme, parameters = parse_scheme(chosen.get("positions", "rope"))
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    names += ("vocab_size", "eos_token_id", "pad_token_id", "rms_norm_eps", "max_position_embeddings")
    shape = OrdtoolLMConfig(
        **{field: getattr(given.config, field) for field in names},
        rope_theta=given.config.rope_parameters["rope_theta"],
        logn="trained" if chosen.get("logn_trained") else False,
        positions=scheme,
        position_parameters=parameters,
    )
    model = OrdtoolLMForCausalLM(shape)
    other = {
        "self_attn.": "attention.",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "mlp_norm",
    }
    weights = {}
    for given_name, tensor in given.float().state_dict().items():
        key = given_name
        for theirs, ours in (other | {"mlp.": ""}).items():
            key = key.replace(theirs, ours)
        weights[key] = tensor
    model.load_state_dict(weights)
    model.save_pretrained(output)
    load_tokenizer(source).save_pretrained(output)
    return output


def train(name: str, chosen: dict[str, Any], options: argparse.Namespace) -> Path:
    """Train a model, or go on with it, or find it done."""
    from ordtool.lm.training import LMTrainingConfig, train_lm

    output: Path = options.work / name.replace(", ", "-")
    if output.exists():
        return output
    if "positions" in chosen:
        positions = chosen["positions"].replace("L/8", str(max(2, options.context // 8)))
        chosen = {**chosen, "positions": positions}
    vocabulary = str(prepare(options))
    if options.start:
        shape: dict[str, Any] = {"start": str(begin(name, chosen, options))}
    else:
        shape = {
            "tokenizer": vocabulary, "layers": options.layers, "hidden": options.hidden, "heads": options.heads, **chosen
        }  # fmt: skip
    settings = LMTrainingConfig(
        context=options.context, steps=options.steps, batch_size=options.batch_size, learning_rate=options.learning_rate,
        eval_every=max(options.steps // 3, 1), seed=options.seed, bf16=options.bf16, **shape,
    )  # fmt: skip
    started = time.perf_counter()
    report = train_lm(
        [options.work / "train.txt"], output, settings, dev=[options.work / "valid.txt"], device="cpu",
        resume=Path(f"{output}.partial").exists(),
    )  # fmt: skip
    seconds = time.perf_counter() - started
    print(
        f"{name}: {report.parameters:,} parameters, dev loss {report.dev_loss:.4f}, {seconds:.0f} s",
        flush=True,
    )
    return output


def without_rerope(folder: Path) -> Path:
    """Copy a model of hwfa2, with plain rope in the layers that see all."""
    plain = folder.with_name(f"{folder.name}-plain")
    if not plain.exists():
        shutil.copytree(folder, plain)
        config = json.loads((plain / "config.json").read_text())
        config["position_parameters"]["rerope"] = 0
        (plain / "config.json").write_text(json.dumps(config))
    return plain


def measure(name: str, folder: Path, methods: tuple[str, ...], options: argparse.Namespace) -> None:
    """Test a model on ordinary and on repeated text, and write each figure down at once."""
    import ordtool.lm.model  # noqa: F401 (the Auto classes then know it)
    from ordtool.extrapolation.evaluation import Grid, evaluate
    from ordtool.extrapolation.texts import Text, cut_windows, repeat_windows
    from ordtool.models.loading import load_model, load_tokenizer

    done = {(row["trained"], row["method"], row["repeated"], row["length"]) for row in rows(options)}
    tokenizer = load_tokenizer(folder)
    models: dict[bool, Any] = {}
    context, longest = options.context, options.context * options.times
    text = Text("held out", Path(options.held_out).read_text(encoding="utf-8"))
    windows = cut_windows(
        [text], lambda part: tokenizer.encode(part, add_special_tokens=False), longest, options.windows
    )
    within = repeat_windows(windows, context // 2)  # does it copy at all?
    parts = (
        (False, windows, (context, longest)),
        (True, within, (context,)),
        (True, repeat_windows(windows, context), (longest,)),
    )
    with (options.work / "rows.jsonl").open("a", encoding="utf-8") as file:
        for repeated, inputs, lengths in parts:
            for method in methods:
                plain = method == PLAIN
                grid = Grid(
                    ("none" if plain else method,),
                    lengths,
                    context,
                    last=context // 2,
                    factor=float(options.times),
                    batch_size=4,
                )
                if all((name, method, repeated, length) in done for length in lengths):
                    continue
                if plain not in models:  # a method leaves a model as it was
                    models[plain] = load_model(without_rerope(folder) if plain else folder, "causal").model
                model = models[plain]
                for (row,) in evaluate(model, inputs, grid):
                    fields = {"trained": name, "repeated": repeated, **row.to_dict(), "method": method}
                    fields["windows"] = len(windows)
                    file.write(json.dumps(fields) + "\n")
                    file.flush()


def rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Read what has been measured."""
    path = options.work / "rows.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(options: argparse.Namespace) -> str:
    """Set the figures beside Su's, in Markdown."""
    found = {(row["trained"], row["method"], row["repeated"], row["length"]): row for row in rows(options)}
    context, longest = options.context, options.context * options.times
    lines = [
        f"| trained | tested | loss {context:,} | loss {longest:,} | accuracy {longest:,} | repeated {context:,} "
        f"| repeated {longest:,} | Su | Su, repeated |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, (_, methods) in RUNS.items():
        for method in tested(methods, options):
            keys = [
                (name, method, False, context),
                (name, method, False, longest),
                (name, method, True, context),
                (name, method, True, longest),
            ]
            if not all(key in found for key in keys):
                continue
            short, long, *again = (found[key] for key in keys)
            theirs = SU.get((name, method), (None, None))
            cells = [f"{short['loss']:.3f}", f"{long['loss']:.3f}"]
            cells += [f"{100 * row['accuracy']:.1f}" for row in (long, *again)]
            cells += ["" if value is None else f"{value:.1f}" for value in reversed(theirs)]
            lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tested(methods: tuple[str, ...], options: argparse.Namespace) -> tuple[str, ...]:
    """Return the methods that a model is tested with."""
    wanted = options.tested.split(";") if options.tested else methods
    return tuple(method for method in methods if method in wanted or method == PLAIN)


def summary(works: list[Path], options: argparse.Namespace) -> str:
    """Set losses and accuracies of several seeds beside each other, in Markdown: means, and the least and the most."""
    found: dict[tuple[str, str], dict[tuple[bool, int], list[dict[str, Any]]]] = {}
    for work in works:
        for row in rows(argparse.Namespace(work=work)):
            cell = found.setdefault((row["trained"], row["method"]), {})
            cell.setdefault((row["repeated"], row["length"]), []).append(row)
    context, longest = options.context, options.context * options.times
    lines = [
        f"| trained | tested | loss {context:,} | loss {longest:,} | accuracy {longest:,} | repeated {context:,} "
        f"| repeated {longest:,} |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for (name, method), cell in found.items():
        columns = [(False, context, "loss"), (False, longest, "loss"), (False, longest, "accuracy")]
        cells = []
        for repeated, length, figure in [*columns, (True, context, "accuracy"), (True, longest, "accuracy")]:
            values = [row[figure] * (100 if figure == "accuracy" else 1) for row in cell[repeated, length]]
            mean = sum(values) / len(values)
            digits = 1 if figure == "accuracy" else 3
            cells.append(f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})")
        lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="where models and figures are kept")
    parser.add_argument("--only", help="of what is trained, comma-free names joined by ';'")
    parser.add_argument("--tested", help="the methods alone that these names, joined by ';', name")
    parser.add_argument("--seeds", type=int, default=1, help="0 .. N-1, each in a folder of its own")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--texts", nargs="*")
    parser.add_argument("--held-out")
    parser.add_argument("--start", help="a model whose weights every scheme begins with, such as tinylm")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--times", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16")
    options = parser.parse_args(arguments)
    books = sorted((DATA / "books").glob("*.txt"))
    options.held_out = options.held_out or DATA / "books" / "sherlock.txt"
    options.texts = options.texts or [book for book in books if book.name != "sherlock.txt"]
    if not options.texts or not Path(options.held_out).exists():
        parser.error(f"{DATA / 'books'} is missing: set ORDTOOL_DATA, or give --texts and --held-out")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Train, test and print."""
    from ordtool.runtime import quiet_libraries

    quiet_libraries()
    options = parse(arguments)
    works = [options.work]
    if options.seeds > 1:
        works = [options.work / f"seed-{seed}" for seed in range(options.seeds)]
    chosen = options.only.split(";") if options.only else list(RUNS)
    for seed, work in enumerate(works):
        options.work, options.seed = work, seed if options.seeds > 1 else options.seed
        for name in chosen if not options.table else ():
            settings, methods = RUNS[name]
            measure(name, train(name, settings, options), tested(methods, options), options)
    print(table(options) if options.seeds == 1 else summary(works, options))


if __name__ == "__main__":
    main()
