"""Chinese titles: abstracts of CSL to titles by an encoder under the sequence-to-sequence mask, ROUGE-L by characters.

python benchmarks/titles.py baselines OUT                          two rules that need no training
python benchmarks/titles.py run OUT [--model M] [OPTION...]        train, write and score; options go to the training

The 1,000 pairs of ORDTOOL_DATA/seq2seq/csl-title-dev.tsv are cut at random (seed 0): the last `--test` (100) are measured,
the others trained on, of which 2% choose the checkpoint. ROUGE-L is the F1 of the longest common subsequence of characters.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

from ordtool.generation.scoring import score_text

TRAINING = [
    *("--vocabulary", "seen", "--max-source", "128", "--max-target", "40", "--batch-size", "8"),
    *("--learning-rate", "5e-4", "--epochs", "2", "--eval-every", "100"),
]


def pairs() -> list[tuple[str, str]]:
    """Abstracts and titles."""
    path = Path(os.environ.get("ORDTOOL_DATA", "data")) / "seq2seq" / "csl-title-dev.tsv"
    if not path.is_file():
        sys.exit(f"{path} is missing: name the data's folder with ORDTOOL_DATA")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row[1], row[2]) for row in rows]


def prepare(out: Path, test: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Write train.jsonl and test.jsonl; give both parts."""
    out.mkdir(parents=True, exist_ok=True)
    rows = pairs()
    random.Random(0).shuffle(rows)
    parts = rows[:-test], rows[-test:]
    for name, part in zip(("train", "test"), parts, strict=True):
        with open(out / f"{name}.jsonl", "w", encoding="utf-8") as stream:
            for source, target in part:
                stream.write(json.dumps({"source": source, "target": target}, ensure_ascii=False) + "\n")
    return parts


def rouge(written: list[str], test: list[tuple[str, str]]) -> float:
    """ROUGE-L by characters, in percent."""
    return score_text(written, [title for _, title in test], tokenizer="char").rouge_l


def baselines(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> None:
    """Print what the beginning of an abstract is worth as its title."""
    size = round(sum(len(title) for _, title in train) / len(train))
    rules = {
        "first sentence": [re.split(r"[。；;！？]|\.(?=\D|$)", text, maxsplit=1)[0] for text, _ in test],
        f"first {size} characters": [text[:size] for text, _ in test],
        f"last {size} characters": [text[-size:] for text, _ in test],
    }
    for name, written in rules.items():
        print(json.dumps({"what": name, "rouge_l": round(rouge(written, test), 2)}), flush=True)


def ordtool(*args: object) -> None:
    """Run a command of ordtool, showing it."""
    print("$ ordtool", *args, flush=True)
    subprocess.run([sys.executable, "-m", "ordtool", *map(str, args)], check=True)


def run(out: Path, model: str, test: list[tuple[str, str]], options: list[str]) -> None:
    """Train, write the test titles, and print their score and a few of them."""
    ordtool(
        "train", "seq2seq", out / "train.jsonl", "--model", model, "-o", out / "model", *TRAINING, *options
    )
    for beams in (1, 4):
        file = out / f"beams{beams}.jsonl"
        ordtool(
            "generate", out / "test.jsonl", "--field", "source", "-m", out / "model", "--beams", beams,
            "--max-new-tokens", "40", "-o", file, "--force",
        )  # fmt: skip
        written = [json.loads(line)["output"] for line in open(file, encoding="utf-8")]
        figures = {"what": f"{model}, beams {beams}", "rouge_l": round(rouge(written, test), 2)}
        print(json.dumps(figures, ensure_ascii=False), flush=True)
    for title, (_, wanted) in list(zip(written, test, strict=True))[:5]:
        print(f"{title}\n    {wanted}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["baselines", "run"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="e5-multilingual")
    parser.add_argument("--test", type=int, default=100)
    known, options = parser.parse_known_args()
    train, test = prepare(known.out, known.test)
    baselines(train, test)
    if known.what == "run":
        run(known.out, known.model, test, options)


if __name__ == "__main__":
    main()
