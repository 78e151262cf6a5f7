"""E2E NLG: meanings to sentences by an encoder (minilm) trained under the sequence-to-sequence mask.

python benchmarks/e2e.py prepare OUT              train.jsonl and dev.jsonl from ORDTOOL_DATA/seq2seq
python benchmarks/e2e.py run OUT [OPTION...]      prepare, train, generate and score; options go to the training
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

NAMES = {
    "eatType": "type",
    "priceRange": "price",
    "customer rating": "rating",
    "familyFriendly": "family friendly",
}
TRAINING = [
    *("--vocabulary", "seen", "--epochs", "1.1", "--batch-size", "32"),
    *("--learning-rate", "5e-4", "--holdout", "0.01", "--eval-every", "200"),
]


def linearise(meaning: str) -> str:
    """`name[The Vaults], eatType[pub]` to `name: The Vaults; type: pub`."""
    parts = re.findall(r"([^,\[\]]+)\[([^\]]*)\]", meaning)
    return "; ".join(f"{NAMES.get(name.strip(), name.strip())}: {value}" for name, value in parts)


def data_folder() -> Path:
    """ORDTOOL_DATA, or data beside the project."""
    root = Path(__file__).parent.parent
    folder = Path(os.environ.get("ORDTOOL_DATA", root / "data")) / "seq2seq"
    if not (folder / "e2e-trainset.csv").is_file():
        sys.exit(f"{folder}/e2e-trainset.csv is missing: set ORDTOOL_DATA to a folder with seq2seq/ in it")
    return folder


def prepare(out: Path) -> None:
    """Write a meaning a line with all its sentences, as JSONL."""
    out.mkdir(parents=True, exist_ok=True)
    for name, file in (("train", "e2e-trainset.csv"), ("dev", "e2e-devset.csv")):
        groups: dict[str, list[str]] = {}
        with open(data_folder() / file, encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                text = " ".join(row["ref"].split())
                groups.setdefault(linearise(row["mr"]), []).append(text)
        with open(out / f"{name}.jsonl", "w", encoding="utf-8") as stream:
            for source, references in groups.items():
                fields = {"source": source, "references": references}
                stream.write(json.dumps(fields, ensure_ascii=False) + "\n")
        print(f"{name}: {len(groups)} meanings, {sum(map(len, groups.values()))} sentences")


def ordtool(*args: object) -> None:
    """Run a command of ordtool, showing it."""
    print("$ ordtool", *args, flush=True)
    subprocess.run([sys.executable, "-m", "ordtool", *map(str, args)], check=True)


def run(out: Path, options: list[str]) -> None:
    """Train on the training meanings, write for the dev ones and score."""
    prepare(out)
    ordtool(
        "train", "seq2seq", out / "train.jsonl", "--target-field", "references", "--model", "minilm",
        "-o", out / "model", *TRAINING, *options,
    )  # fmt: skip
    for beams in (1, 4):
        file = out / f"beams{beams}.jsonl"
        ordtool(
            "generate", out / "dev.jsonl", "--field", "source", "-m", out / "model", "--beams", beams,
            "--max-new-tokens", "90", "-o", file, "--force",
        )  # fmt: skip
        for case in ([], ["--lowercase"]):
            ordtool("score", "text", file, out / "dev.jsonl", "--json", *case)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["prepare", "run"])
    parser.add_argument("out", type=Path)
    known, options = parser.parse_known_args()
    if known.what == "prepare":
        prepare(known.out)
    else:
        run(known.out, options)


if __name__ == "__main__":
    main()
