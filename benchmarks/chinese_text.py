"""Chinese sentences for the pupil of train_chinese.sh: a sentence a line, its words (jieba's) between spaces.

    python benchmarks/chinese_text.py DATA [--without TREEBANK.conllu ...]

DATA has `open/chinese`. Sentences of 4 to 45 words are drawn by a seed; none that stands in a treebank named by `--without`.
"""

import argparse
import gzip
import random
from collections.abc import Iterator
from pathlib import Path

from ordtool.parsing.text.chinese import is_han, simplify
from ordtool.parsing.text.tokenize import tokenize

THOUSANDS = {"wikipedia": 42, "wikipedia-drcd-cmrc": 12, "prc-law": 5}
"""Thousands of sentences of each file."""
WORDS = range(4, 46)


def key(text: str) -> str:
    """What tells two sentences apart: their Chinese characters, simplified."""
    return "".join(filter(is_han, simplify(text)))


def conllu_texts(path: Path) -> Iterator[str]:
    """The sentences of a treebank in CoNLL-U."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# text = "):
            yield line.removeprefix("# text = ")


def main() -> None:
    """Write the sentences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--without", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    seen = {key(text) for path in options.without for text in conllu_texts(path)}
    rng = random.Random(1)
    for name, thousands in THOUSANDS.items():
        with gzip.open(options.data / f"open/chinese/{name}.txt.gz", "rt", encoding="utf-8") as file:
            lines = [line.strip() for line in file]
        rng.shuffle(lines)
        count = 0
        for line in lines:
            tokens = [token.text for token in tokenize(line, "jieba")]
            if len(tokens) in WORDS and key(line) not in seen:
                seen.add(key(line))
                print(" ".join(tokens))
                count += 1
            if count == thousands * 1000:
                break


if __name__ == "__main__":
    main()
