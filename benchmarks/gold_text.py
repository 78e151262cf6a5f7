"""Sentences of open text for the pupil of train_english_gold.sh: a sentence a line, its tokens between spaces.

Usage: python benchmarks/gold_text.py DATA, where DATA has `open/english`, `text/ewt.txt` and `books`.
"""

from __future__ import annotations

import gzip
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ordtool.parsing.text.tokenize import split_sentences, tokenize

MILLIONS = {
    "oanc-slate": 1.7,
    "wikipedia-business-politics": 1.1,
    "senate-releases": 0.4,
    "oanc-government": 0.4,
    "voa-gmb": 0.5,
    "fed-speeches": 0.2,
    "wikipedia-general": 0.4,
    "oanc-berlitz": 0.15,
    "oanc-plos": 0.2,
    "presidential-speeches": 0.25,
    "gov-blogs": 0.15,
    "congress-releases-2023": 0.1,
}
"""Millions of tokens of each file of `open/english`."""
BOOKS = ("sherlock", "greatexp", "pride")


def sources(data: Path, rng: random.Random) -> Iterator[tuple[float, list[str]]]:
    """Yield millions of tokens wanted, and sentences to take them from."""
    yield 0.25, [line.strip() for line in open(data / "text/ewt.txt", encoding="utf-8")]
    for name, millions in MILLIONS.items():
        with gzip.open(data / f"open/english/{name}.txt.gz", "rt", encoding="utf-8") as file:
            yield millions, [line.strip() for line in file]
    for name in BOOKS:
        text = (data / f"books/{name}.txt").read_text(encoding="utf-8")
        paragraphs = [re.sub(r"\s+", " ", part).replace("_", "") for part in text.split("\n\n")]
        rng.shuffle(paragraphs)
        yield 0.06, [sentence.text for part in paragraphs[:900] for sentence in split_sentences(part)]


def main() -> None:
    """Write sentences of 2 to 45 words between spaces, drawn by a seed."""
    rng = random.Random(1)
    for millions, lines in sources(Path(sys.argv[1]), rng):
        rng.shuffle(lines)
        count = 0
        for line in lines:
            if 2 <= line.count(" ") + 1 <= 45:
                tokens = [token.text for token in tokenize(line)]
                print(" ".join(tokens))
                count += len(tokens)
                if count > millions * 1e6:
                    break


if __name__ == "__main__":
    main()
