"""Families of inputs: each gives a command line with files that are almost right.

A family is called with a generator and the folders of models (by the names in `MODELS`) and returns an example.
"""

import csv
import io
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from children import Example
from mutators import (
    ODD_NUMBERS,
    ODD_WORDS,
    WORDS,
    change_bytes,
    change_json,
    change_safetensors,
    json_bytes,
    npy_bytes,
    odd_text,
)

Models = Mapping[str, Path]
FAMILIES: dict[str, Callable[[Random, Models], Example]] = {}


def family(make: Callable[[Random, Models], Example]) -> Callable[[Random, Models], Example]:
    """Enter a family under its function's name."""
    FAMILIES[make.__name__] = make
    return make


def _reading(rng: Random, models: Models) -> list[str]:
    """A command that reads texts."""
    return rng.choice(
        [
            [
                "parse",
                "-m",
                str(models["parser"]),
                *rng.choice(
                    [[], ["--split"], ["--tokenized"], ["-f", "svg"], ["-f", "tree"], ["-f", "penn"]]
                ),
            ],
            ["parse", *rng.choice([["--json"], ["-f", "csv"], ["-f", "html"], ["--posteriors", "--json"]])],
            ["embed", "-m", str(models["bert"]), *rng.choice([["--json"], ["-o", "x.npy"], ["-o", "x.csv"]])],
            [
                "embed",
                "-m",
                "static",
                *rng.choice([["--json"], ["-o", "x.npy"], ["--whiten", "--dims", "2", "-o", "x.npy"]]),
            ],
            ["generate", "-m", str(models["llama"]), "--max-new-tokens", "2", "--json"],
            [
                "generate",
                "-m",
                str(models["own"]),
                *rng.choice([["--max-new-tokens", "2"], ["--choices", "a cat,a dog"]]),
            ],
            [
                "predict",
                "-m",
                str(models["texts"]),
                "--embed-model",
                "static",
                *rng.choice([["--json"], ["-o", "p.csv"]]),
            ],
            ["extrapolate", "-m", str(models["own"]), "--lengths", "8,16", "--methods", "none"],
        ]
    )


def _skip(rng: Random) -> list[str]:
    return rng.choice([[], ["--on-error", "skip"]])


@family
def text(rng: Random, models: Models) -> Example:
    """Lines of text, in a file or a pipe."""
    data = "\n".join(odd_text(rng) for _ in range(rng.randint(0, 6))).encode("utf-8", "surrogatepass")
    if rng.random() < 0.5:
        data = change_bytes(rng, data)
    name = rng.choice(["a.txt", "a", "a.txt.gz", "-", "a\x1b[31m.txt", "a.conllu"])
    args = [*_reading(rng, models), *_skip(rng), name]
    return Example(args, data, {} if name == "-" else {name: data})


@family
def jsonl(rng: Random, models: Models) -> Example:
    """Objects a line, or an array of them."""
    rows = [
        {"id": k, "text": odd_text(rng), "label": rng.choice(["a", 1, None])}
        for k in range(rng.randint(0, 5))
    ]
    lines = [json_bytes(rng, change_json(rng, row) if rng.random() < 0.3 else row) for row in rows]
    data = b"[" + b",\n".join(lines) + b"]" if rng.random() < 0.2 else b"\n".join(lines) + b"\n"
    if rng.random() < 0.2:
        data = change_bytes(rng, data)
    name = rng.choice(["a.jsonl", "a.json", "a", "-", "a.ndjson.gz"])
    field = rng.choice([[], [], [], ["--field", "id"], ["--field", ""], ["--field", "x"]])
    return Example(
        [*_reading(rng, models), *_skip(rng), *field, name], data, {} if name == "-" else {name: data}
    )


def _tree(rng: Random, depth: int = 0) -> str:
    if depth > 4 or rng.random() < 0.3:
        word = rng.choice(ODD_WORDS) if rng.random() < 0.05 else rng.choice(WORDS)
        return f"({rng.choice(['NN', 'DT', 'VB', ',', '-NONE-', '.', ''])} {word})"
    label = rng.choice(["S", "NP", "VP", "NP-SBJ", "NP=1", "TOP", "", "-NONE-"])
    return f"({label} " + " ".join(_tree(rng, depth + 1) for _ in range(rng.randint(0, 3))) + ")"


def _treebank(rng: Random) -> bytes:
    data = rng.choice(["\n", "\n\n", " "]).join(f"({_tree(rng)})" for _ in range(rng.randint(0, 4))).encode()
    if rng.random() < 0.5:
        data = change_bytes(rng, data)
    return b"(" * 50_000 + data if rng.random() < 0.01 else data


@family
def brackets(rng: Random, models: Models) -> Example:
    """Treebanks to parse, to score and to learn from."""
    files = {"a.mrg": _treebank(rng), "b.mrg": _treebank(rng)}
    args = rng.choice(
        [
            [
                "score",
                "trees",
                "a.mrg",
                "b.mrg",
                *rng.choice([[], ["--labels"], ["--json"], ["--protocol", "evalb"], ["--baselines"]]),
            ],
            [
                "score",
                "trees",
                "a.mrg",
                "a.mrg",
                *rng.choice([["--labels"], ["--binarize-gold", "left"], ["--min-length", "3"]]),
            ],
            ["score", "trees", "right", "b.mrg"],
            [
                "parse",
                "a.mrg",
                "-m",
                str(models["parser"]),
                *rng.choice([[], ["-f", "penn"], ["--input", "trees"], ["-f", "brackets"]]),
            ],
            ["parse", "a.mrg", "-f", "jsonl", "-o", "p.jsonl"],
        ]
    )
    return Example(args, b"", files)


@family
def predictions(rng: Random, models: Models) -> Example:
    """What `parse` writes, changed, scored against trees."""
    words = [rng.choice(WORDS) for _ in range(rng.randint(1, 5))]
    row = {
        "text": " ".join(words),
        "tokens": words,
        "distances": [0.5] * len(words),
        "spans": [[0, len(words)]],
    }
    row["tree"] = "(" + " ".join(words) + ")"
    lines = [
        json_bytes(rng, change_json(rng, row) if rng.random() < 0.6 else row)
        for _ in range(rng.randint(1, 3))
    ]
    gold = "\n".join("(S " + " ".join(f"(NN {word})" for word in words) + ")" for _ in lines).encode()
    args = ["score", "trees", "p.jsonl", "g.mrg", *rng.choice([[], ["--labels"], ["--punctuation", "keep"]])]
    return Example(args, b"", {"p.jsonl": b"\n".join(lines), "g.mrg": gold})


@family
def npy(rng: Random, models: Models) -> Example:
    """Arrays, half of them damaged or strange, in every command that takes vectors."""
    rows, columns = rng.choice([0, 1, 2, 5, 12, 30]), rng.choice([0, 1, 2, 4, 9])
    files = {"a.npy": npy_bytes(rng, rows, columns)}
    files["b.npy"] = npy_bytes(rng, rows, rng.choice([1, 3])) if rng.random() < 0.7 else files["a.npy"]
    piped = rng.random() < 0.15
    first = "-" if piped else "a.npy"
    args = rng.choice(
        [
            [
                "hsic",
                first,
                "b.npy",
                *rng.choice(
                    [[], ["--kernel", "linear"], ["--test", "gamma"], ["--cka"], ["--estimator", "biased"]]
                ),
            ],
            [
                "hsic",
                first,
                "b.npy",
                *rng.choice(
                    [
                        ["--random-features", "8"],
                        ["--kernel", "cosine"],
                        ["--permutations", "20"],
                        ["--given", "b.npy"],
                    ]
                ),
            ],
            [
                "hsic",
                first,
                "b.npy",
                "--json",
                *rng.choice(
                    [
                        ["--group-rows", "3"],
                        ["--test", "aggregated"],
                        ["--bandwidth", "0.1,1"],
                        ["--confidence", "0.9"],
                    ]
                ),
            ],
            [
                "whiten",
                first,
                *rng.choice(
                    [
                        [],
                        ["--dims", "2"],
                        ["--method", "zca"],
                        ["--standardize"],
                        ["--beta", "0.5", "--gamma", "1"],
                        ["--remove", "1"],
                    ]
                ),
            ],
            [
                "whiten",
                first,
                "--save",
                "t",
                "-o",
                "w.npy",
                *rng.choice([[], ["--shrinkage", "auto"], ["--ridge", "0.1"], ["--precision", "float16"]]),
            ],
            ["predict", "-m", str(models["vectors"]), first, "--json", *_skip(rng)],
            ["predict", "-m", str(models["vectors"]), "--vectors", first],
            [
                "train",
                "bottleneck",
                first,
                "b.npy",
                "-o",
                "m",
                "--layers",
                "4",
                "--epochs",
                "1",
                "--runs",
                "1",
            ],
            ["score", "similarity", "p.tsv", "--vectors", "a.npy", "--vectors", "b.npy"],
        ]
    )
    files["p.tsv"] = "".join(f"a\tb\t{k}\n" for k in range(rows)).encode()
    return Example(args, files["a.npy"] if piped else b"", files)


@family
def vectors_in_json(rng: Random, models: Models) -> Example:
    """Vectors and labels as JSON lines."""
    rows = [
        {
            "id": k,
            "vector": [
                rng.choice(ODD_NUMBERS[:16]) if rng.random() < 0.05 else rng.gauss(0, 1) for _ in range(4)
            ],
            "label": rng.choice(["x", "y", 1, 2.5]),
        }
        for k in range(rng.choice([0, 1, 4, 9, 20]))
    ]
    lines = [json_bytes(rng, change_json(rng, row) if rng.random() < 0.1 else row) for row in rows]
    data = b"\n".join(lines)
    if rng.random() < 0.2:
        data = change_bytes(rng, data)
    args = rng.choice(
        [
            [
                "hsic",
                "a.jsonl",
                "b.npy",
                *rng.choice([[], ["--precision", "float64"], ["--test", "none"], ["--id-field", "id"]]),
            ],
            ["hsic", "a.jsonl", "a.jsonl", *rng.choice([["--label-field", "label"], ["--kernel", "delta"]])],
            ["predict", "-m", str(models["vectors"]), "a.jsonl", "--json", *_skip(rng)],
            [
                "train",
                "bottleneck",
                "a.jsonl",
                "a.jsonl",
                "-o",
                "m",
                "--layers",
                "4",
                "--epochs",
                "1",
                "--runs",
                "1",
            ],
        ]
    )
    return Example(args, b"", {"a.jsonl": data, "b.npy": npy_bytes(rng, len(rows), 2)})


@family
def tables(rng: Random, models: Models) -> Example:
    """CSV and TSV, with heads, quotes and cells that are none."""
    name = rng.choice(["a.csv", "a.tsv", "a.csv.gz", "a.tab"])
    buffer = io.StringIO()
    writer = csv.writer(
        buffer,
        delimiter="," if ".csv" in name else "\t",
        quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    )
    columns = rng.choice(
        [
            ["text", "label"],
            ["text"],
            ["sentence1", "sentence2", "score"],
            ["good", "bad"],
            ["source", "target"],
        ]
    )
    rows = [columns] if rng.random() < 0.7 else []
    for _ in range(rng.randint(0, 12)):
        last = rng.choice([odd_text(rng, 3), "a", "b", str(rng.choice(ODD_NUMBERS))])
        rows.append([odd_text(rng, 4) for _ in columns[:-1]] + [last])
    writer.writerows([row for row in rows if len(row) > 0])
    data = buffer.getvalue().encode("utf-8", "surrogatepass")
    if rng.random() < 0.5:
        data = change_bytes(rng, data)
    args = rng.choice(
        [
            [
                "predict",
                "-m",
                str(models["texts"]),
                "--embed-model",
                "static",
                name,
                *rng.choice([["--json"], ["--metrics", "m.json"], ["--label-field", "label"]]),
                *_skip(rng),
            ],
            [
                "embed",
                "-m",
                str(models["bert"]),
                name,
                "--json",
                *_skip(rng),
                *rng.choice([[], ["--field", "1"], ["--field", "label"]]),
            ],
            [
                "generate",
                "-m",
                str(models["own"]),
                name,
                "--max-new-tokens",
                "1",
                *rng.choice([[], ["--template", "{text} {label}"]]),
            ],
            [
                "score",
                "similarity",
                name,
                "-m",
                "static",
                *_skip(rng),
                *rng.choice([[], ["--columns", "1,2,3"], ["--dims", "2,4"]]),
            ],
            ["score", "agreement", name, "-m", str(models["own"])],
            ["score", "text", name, name],
            ["hsic", name, name, "--embed-model", "static"],
            ["train", "ladder", name, "-m", str(models["bert"]), "-o", "m", "--max-steps", "1", "-r", "2"],
            ["train", "seq2seq", name, "-m", str(models["bert"]), "-o", "m", "--epochs", "0.01"],
        ]
    )
    return Example(args, b"", {name: data})


_FIELDS = [
    "text",
    "id",
    "",
    "0",
    "text!r",
    "text!x",
    "text:>9",
    "text:>99999999999",
    "text.__class__",
    "text[0]",
    "x",
    " ",
    "text:{id}",
]


@family
def templates(rng: Random, models: Models) -> Example:
    """Templates, choices, examples and systems of `generate`; patterns of prompts of `embed`."""
    pieces = [
        "{" + rng.choice(_FIELDS) + "}"
        if rng.random() < 0.6
        else rng.choice(["{", "}", "{{", "}}", *ODD_WORDS])
        for _ in range(4)
    ]
    template = " ".join(pieces).replace("\x00", "")
    data = json_bytes(rng, {"text": odd_text(rng), "id": rng.choice(ODD_NUMBERS[:10]), "": 1}) + b"\n"
    examples = json_bytes(rng, change_json(rng, {"text": "a", "output": "b", "id": 1})) + b"\n"
    model = str(models[rng.choice(["llama", "own", "chat", "gpt2", "t5"])])
    options = rng.choice(
        [
            ["--template", template],
            [
                "--template",
                template,
                "--choices",
                rng.choice(["a,b", "[]", '["a"', '["a", 1]', ",", "a" * 3000, template]),
            ],
            ["--system", template],
            ["--template", template, "--examples", "e.jsonl"],
            ["--stop", template],
            ["--context", "c.txt"],
            ["--contexts", "text"],
            ["--show-mask", "-"],
            ["--no-chat", "--template", template],
            ["-n", "2", "--temperature", "1"],
        ]
    )
    files = {"a.jsonl": data, "e.jsonl": examples, "c.txt": change_bytes(rng, b"{text} and the cat")}
    args = ["generate", "-m", model, "a.jsonl", "--max-new-tokens", "2", *options, *_skip(rng)]
    if rng.random() < 0.15:
        args = ["embed", "-m", str(models["bert"]), "a.jsonl", "--json", "--prompt", template]
    return Example(args, b"", files)


@family
def transforms(rng: Random, models: Models) -> Example:
    """Fitted whitenings, damaged, applied and merged."""
    whole = (models["transform"]).read_bytes()
    data = change_safetensors(rng, whole)
    if rng.random() < 0.5:  # the JSON in the header of the header
        size = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + size])
        inner = change_json(rng, json.loads(header["__metadata__"]["ordtool"]), 3)
        header["__metadata__"]["ordtool"] = rng.choice(
            [json.dumps(inner), json_bytes(rng, inner).decode("latin-1")]
        )
        raw = json.dumps(header).encode()
        data = len(raw).to_bytes(8, "little") + raw + whole[8 + size :]
    args = rng.choice(
        [
            [
                "whiten",
                "a.npy",
                "--transform",
                "t",
                *rng.choice([[], ["--dims", "2"], ["--dims", "0"], ["-o", "w.npy"], ["--device", "cpu"]]),
            ],
            ["embed", "-m", str(models["bert"]), "a.txt", "--transform", "t", "--json"],
            ["score", "similarity", "p.tsv", "-m", "static", "--transform", "t"],
            ["whiten", "merge", "t", "t", "--save", "u"],
        ]
    )
    files = {
        "t": data,
        "a.npy": npy_bytes(random.Random(1), 12, 4),
        "a.txt": b"the cat sat\n",
        "p.tsv": b"a cat\ta dog\t3\nx\ty\t1\nz\tw\t2\n",
    }
    return Example(args, b"", files)


def _changed_file(rng: Random, file: Path) -> bytes:
    data = file.read_bytes()
    if file.suffix == ".json" and rng.random() < 0.85:
        return json_bytes(rng, change_json(rng, json.loads(data)))
    if file.suffix == ".safetensors":
        return change_safetensors(rng, data)
    return change_bytes(rng, data)


_USES = {
    "parser": ["parse", "a.txt"], "english": ["parse", "a.txt"], "spans": ["parse", "a.txt", "-f", "penn"],
    "bert": ["embed", "a.txt", "--json"], "static": ["embed", "a.txt", "--json"],
    "llama": ["generate", "a.txt", "--max-new-tokens", "2"], "tinylm": ["generate", "a.txt", "--max-new-tokens", "2"],
    "own": ["generate", "a.txt", "--max-new-tokens", "2"], "chat": ["generate", "a.txt", "--max-new-tokens", "2"],
    "gpt2": ["generate", "a.txt", "--max-new-tokens", "2"], "t5": ["generate", "a.txt", "--max-new-tokens", "2"],
    "unilm": ["generate", "a.txt", "--max-new-tokens", "2"], "vectors": ["predict", "v.npy"], "texts": ["predict",
    "a.txt", "--embed-model", "static"],
    "ladder": ["predict", "a.txt"],
}  # fmt: skip


@family
def model_folders(rng: Random, models: Models) -> Example:
    """A folder of a model with one of its files changed, or lost."""
    name = rng.choice(list(_USES))
    folder = models[name]
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".md", ".bin")
    )
    weights = [
        0.2 if path.stat().st_size > 2_000_000 else 3 if path.name == "config.json" else 1 for path in files
    ]
    (changed,) = rng.choices(files, weights)
    links = {f"m/{path.relative_to(folder)}": path for path in files if path != changed}
    written = {"a.txt": b"the cat sat on\n\na dog ran\n", "v.npy": npy_bytes(random.Random(1), 12, 4)}
    if rng.random() < 0.95:
        written[f"m/{changed.relative_to(folder)}"] = _changed_file(rng, changed)
    args = list(_USES[name])
    if rng.random() < 0.1 and name in ("bert", "llama", "own", "gpt2"):
        args = rng.choice(
            [
                ["extrapolate", "a.txt", "--lengths", "4", "--methods", "none"],
                ["score", "agreement", "pairs.jsonl"],
                ["models", "show", "m"],
            ]
        )
        written["pairs.jsonl"] = b'{"good": "the cat sat", "bad": "the cat sang"}\n'
    args = [*args, "-m", "m"] if args[0] != "models" else args
    return Example(args, b"", written, links)


@family
def interrupted(rng: Random, models: Models) -> Example:
    """What an interrupted run left, damaged: its record, its lines, its checkpoint, its settings."""
    place = rng.choice(sorted(models["interrupted"].iterdir()))
    command = json.loads((place / "command.json").read_text())
    files = sorted(path for path in (place / "work").rglob("*") if path.is_file())
    ours = [path for path in files if ".partial" in str(path) or "m.training" in path.parts]
    changed = rng.choice(ours)
    written = {str(path.relative_to(place / "work")): path.read_bytes() for path in files}
    name = str(changed.relative_to(place / "work"))
    if rng.random() < 0.1:
        del written[name]
    else:
        written[name] = _changed_file(rng, changed)
        if rng.random() < 0.3:
            written[name] = change_bytes(rng, written[name])
    return Example([*command, "--resume"], b"", written)


@family
def settings(rng: Random, models: Models) -> Example:
    """Configuration files in TOML."""
    keys = ["model", "batch-size", "device", "normalize", "prompt", "x", "", "seed", "layers"]
    values = (
        '1|-1|true|nan|inf|[]|[1, 2]|{a = 1}|static|""|1979-05-27|1e400|0xffffffffffffffffffffffffffff'.split(
            "|"
        )
    )
    lines = [f"{rng.choice(keys)} = {rng.choice(values)}" for _ in range(rng.randint(0, 4))]
    data = "\n".join(lines).encode()
    if rng.random() < 0.4:
        data = change_bytes(rng, data)
    if rng.random() < 0.02:
        data = b"a = " + b"[" * 100_000
    small = {"embed": ["-m", str(models["bert"])], "generate": ["-m", str(models["llama"])]}
    command = rng.choice(["embed", "parse", "generate", "hsic", "whiten", "predict"])
    return Example(
        [command, *small.get(command, []), "--config", rng.choice(["c.toml", "c.toml", "no", "."]), "a.txt"],
        b"",
        {"c.toml": data, "a.txt": b"the cat\n"},
    )


_BASE = {
    "parse": ["a.txt", "-m", "PARSER"], "embed": ["a.txt", "-m", "BERT"], "whiten": ["v.npy"], "hsic": ["v.npy",
    "w.npy"],
    "extrapolate": ["a.txt", "-m", "OWN", "--lengths", "4,8", "--methods", "none"], "generate": ["a.txt", "-m",
    "LLAMA", "--max-new-tokens", "2"],
    "predict": ["v.npy", "-m", "VECTORS"], "score trees": ["g.mrg", "g.mrg"], "score similarity": ["p.tsv", "-m",
    "static"],
    "score text": ["a.txt", "a.txt"], "score agreement": ["g.jsonl", "-m", "OWN"], "models list": [],
    "models show": ["static"],
    "train bottleneck": ["v.npy", "l.npy", "-o", "m", "--epochs", "1", "--runs", "1", "--layers", "4"],
    "train ladder": ["l.tsv", "-m", "BERT", "-o", "m", "--max-steps", "1", "-r", "2"],
    "train lm": ["a.txt", "-o", "m", "--steps", "1", "--layers", "1", "--hidden", "8", "--heads", "1", "--context",
    "8", "--vocab-size", "300"],
    "train parser": ["a.txt", "-o", "m", "--epochs", "0.01", "--hidden", "8", "--embedding", "8", "--chunk", "4",
    "--layers", "2", "--kind", "onlstm"],
    "train spans": ["g.mrg", "-o", "m", "--epochs", "1", "--hidden", "8", "--embedding", "8", "--layers", "1",
    "--heads", "1", "--span-size", "4"],
}  # fmt: skip
# What such an option is given is work asked for: a large number is no fault.
_WORK = {
    "--permutations", "--max-new-tokens", "--epochs", "--steps", "--max-steps", "--runs", "--workers", "--threads",
    "-n", "--beams", "--layers",
    "--hidden", "--heads", "--embedding", "--span-size", "--vocab-size", "--context", "--windows", "--accumulate",
    "--batch-size", "--lengths",
    "--compare-epochs", "--state-size", "--nonterminals", "--preterminals", "--intermediate", "--key-size",
    "--kv-heads", "--chunk", "--warmup",
    "--random-features", "--bins", "--width", "--max-tokens", "--grid", "--repeat", "--methods", "--compare",
    "--teacher", "--encoder",
}  # fmt: skip
_TEXTS = [
    "", "auto", "x", "a,b", "1,2", "-1", "0", "nan", "inf", "1e999", ",", "all", "none", "median", "a.txt", "v.npy",
    ".", "../x", "é", "\x1b[2J", "a\nb", "x" * 400,
    "cpu", "cuda:9", "float16", "bfloat16", "json", "zca", "left", "1:0.5,2", "0/1", "1/2", "3/2", "0.5", "a=b",
    "beta=nan", "beta=0.5", "{text}", "first-last",
    "static", "vote", "linear", "gaussian", "delta",
]  # fmt: skip
_FILES = [
    "o.npy",
    "o.jsonl",
    "o.csv",
    "o.svg",
    "o.png",
    "o",
    ".",
    "no/o",
    "a.txt",
    "v.npy",
    "/dev/full",
    "/dev/null",
    "o" * 250,
    "x.pdf",
    "o.parquet",
    "-",
    "é\x1b",
]


def _value(rng: Random, param: Any) -> list[str]:
    kind = getattr(param.type_descriptor.annotation, "__name__", "str")
    if param.is_flag:
        return []
    if kind in ("int", "float"):
        small = param.opts[0] in _WORK
        value = rng.choice(
            [0, -1, 1, 2, 3, 5, "x", "", "1.5", "nan"]
            if small
            else [*ODD_NUMBERS, 1, 2, 3, 0.3, "", "x", "1_000"]
        )
        return [str(value)]
    if kind == "Path":
        return [rng.choice(_FILES)]
    return [rng.choice([*_TEXTS, odd_text(rng, 2).replace("\x00", "")])]


@family
def options(rng: Random, models: Models) -> Example:
    """Options of every command, with values that are often none of theirs."""
    name = rng.choice(list(_BASE))
    params = [
        param
        for param in _commands()[name].params
        if param.opts[0].startswith("-")
        and param.opts[0] not in ("--debug", "--device", "--backbone", "--workers", "--ray")
    ]
    args = [str(models[word.lower()]) if word.lower() in models else word for word in _BASE[name]]
    for param in rng.sample(params, min(len(params), rng.choice([1, 1, 2, 3, 5]))):
        args += [rng.choice([*param.opts, *param.secondary_opts]), *_value(rng, param)]
    files = {
        "a.txt": b"the cat sat on the red river\na dog ran under it\n\nthe bird sang\n" * 3,
        "v.npy": npy_bytes(random.Random(1), 12, 4),
        "w.npy": npy_bytes(random.Random(1), 12, 4),
        "l.npy": npy_bytes(random.Random(1), 12, 4),
        "g.mrg": b"(S (NP (DT the) (NN cat)) (VP (VBD sat) (RB then)))\n" * 4,
        "p.tsv": b"a cat\ta dog\t3\nthe bird\tit sang\t1\nred\tsmall\t2\n",
        "l.tsv": b"the cat\ta\nthe dog\tb\n" * 6,
        "g.jsonl": b'{"good": "the cat sat", "bad": "the cat sang"}\n',
    }
    return Example([*name.split(), *args], b"the cat\n", files)


_found: dict[str, Any] = {}


def _commands() -> dict[str, Any]:
    if not _found:
        import typer
        from typer.main import get_command

        from ordtool.cli.app import app

        def walk(command: Any, path: tuple[str, ...]) -> None:
            if not hasattr(command, "list_commands"):
                _found[" ".join(path)] = command
                return
            context = typer.Context(command)
            for name in command.list_commands(context):
                walk(command.get_command(context, name), (*path, name))

        walk(get_command(app), ())
    return _found
