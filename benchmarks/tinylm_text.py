"""Makes the text that the packaged tiny language model learns from: passages, and passages worth looking back for.

A small model that reads plain text alone sees too few reasons to look back, so it neither copies nor holds a number in
mind. Here about two fifths of the words give it one: a passage that comes again, shuffled words twice, a list of pairs with
a question, a number to remember among other sentences, names passed on from one to the next. These fit a window of 256
tokens; between them stand longer pieces of the books, with their line breaks (`--join` 15% of them without), since a model
that has never seen a wrapped line is surprised by every one.

    python benchmarks/tinylm_text.py TEXT... -o tinylm.jsonl --words 20000000 --seed 1
"""

import argparse
import gzip
import json
import lzma
import random
import re
from pathlib import Path

CONSONANTS, VOWELS = "bcdfghjklmnprstvz", "aeiou"
NOUNS = (
    "anchor apple arrow barrel basket bell bridge candle castle chain clock cloud copper crown desk door drum engine "
    "feather field flag flute forest garden gate glass hammer harbor horse island jacket kettle key ladder lamp letter "
    "lion map mirror moon needle ocean orange paper pencil piano pillow pocket rabbit ring river rope saddle sail salt "
    "shelf ship silver snow spoon stone table thread tiger tower train valley violin wagon wheel window winter wolf"
).split()


ASCII = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})


def passages_of(path):
    """Yield pieces of some 4,000 characters that end with a paragraph, or with a line where that is far."""
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(Path(path).suffix, open)
    with opener(path, "rt", encoding="utf-8", errors="replace") as lines:
        piece, size = [], 0
        for line in lines:
            piece.append(line.translate(ASCII).rstrip() + "\n")
            size += len(line)
            if size > 4000 and (not line.strip() or size > 5000):
                yield "".join(piece).strip("\n")
                piece, size = [], 0
        if "".join(piece).strip():
            yield "".join(piece).strip("\n")


def joined(text):
    """Join the lines of a paragraph."""
    return re.sub(r"(?<=\S)\n(?=\S)", " ", text)


def some_words(rng, text, fewest, most):
    """Cut a run of words out of a passage, with the line breaks between them."""
    words = list(re.finditer(r"\S+", text))
    count = min(len(words), rng.randint(fewest, most))
    start = rng.randint(0, len(words) - count)
    return text[words[start].start() : words[start + count - 1].end()] if count else ""


def number(rng):
    """Draw a number of one to five digits, more often a long one."""
    return "".join(rng.choice("0123456789") for _ in range(rng.choice((2, 3, 4, 5, 5))))


def name(rng):
    """Make up a word."""
    return "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 3)))


def repeated(rng, passage, other):
    """Write a passage two or three times, with or without other words in between."""
    size = rng.choice((12, 25, 50, 80))
    part = some_words(rng, passage, max(5, size // 2), size)
    between = rng.choice((" ", "\n", "\n\n", f"\n{some_words(rng, other, 3, 40)}\n"))
    return between.join([part] * (2 if size > 25 else rng.randint(2, 4)))


def shuffled(rng, passage, other):
    """Write words of two passages, shuffled, twice: each follows what it followed, and nothing else tells."""
    words = (some_words(rng, passage, 4, 40) + " " + some_words(rng, other, 4, 40)).split()
    rng.shuffle(words)
    part = " ".join(words[: rng.randint(8, 70)])
    between = rng.choice((" ", "\n", f"\n{some_words(rng, other, 1, 20)}\n"))
    return between.join([part] * (2 if len(words) > 25 else 3))


def gibberish(rng, passage, other):
    """Write made-up words twice: nothing but looking back predicts them."""
    part = " ".join(name(rng) if rng.random() < 0.7 else number(rng) for _ in range(rng.randint(6, 24)))
    return f"{part} {some_words(rng, other, 1, 30)} {part}" if rng.random() < 0.3 else f"{part} {part}"


def passkey(rng, passage, other):
    """Hide a number in a passage and ask for it."""
    key = number(rng)
    say, ask = rng.choice((
        (f"The pass key is {key}. Remember it. {key} is the pass key.", f"What is the pass key? The pass key is {key}."),
        (f"The pass key is {key}.", f"What is the pass key? The pass key is {key}."),
        (f"The secret number is {key}.", f"Question: what is the secret number? Answer: {key}."),
        (f"Remember the number {key}.", f"The number to remember is {key}."),
    ))  # fmt: skip
    before, after = some_words(rng, passage, 0, 50), some_words(rng, other, 0, 60)
    return f"{before} {say} {after} {ask}".strip()


def pairs(rng, passage, other):
    """List pairs and ask for some of them."""
    count = rng.randint(2, 7)
    keys = rng.sample(NOUNS, count) if rng.random() < 0.6 else [name(rng) for _ in range(count)]
    values = [number(rng) if rng.random() < 0.7 else name(rng) for _ in keys]
    table = list(zip(keys, values, strict=True))
    asked = rng.sample(table, min(count, rng.randint(1, 3)))
    form = rng.choice(
        ("{0}: {1}\n", "The number of {0} is {1}. ", "{0} = {1}; ", "The special number for {0} is {1}. ")
    )
    filler = some_words(rng, other, 0, 40) + "\n" if rng.random() < 0.4 else ""
    said = "".join(form.format(*pair) for pair in table)
    return said + filler + "".join(form.format(*pair) for pair in asked).rstrip()


def chain(rng, passage, other):
    """Pass a value on from name to name and ask which names have it."""
    value, names = number(rng), rng.sample("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 4)
    lines = [f"VAR {names[0]} = {value}."] + [
        f"VAR {new} = VAR {old}." for old, new in zip(names, names[1:3], strict=False)
    ]
    lines.insert(rng.randint(0, 3), f"VAR {names[3]} = {number(rng)}.")
    return " ".join(
        [*lines, some_words(rng, other, 0, 20), f"{value} is the value of {' '.join(names[:3])}."]
    )


# What documents are, and their share of all words; None: a passage as it stands.
KINDS = (
    (None, 0.6),
    (repeated, 0.13),
    (shuffled, 0.09),
    (gibberish, 0.05),
    (passkey, 0.05),
    (pairs, 0.06),
    (chain, 0.02),
)


def documents(passages, words, rng, join=0.15):
    """Yield documents until there are so many words; every kind keeps its share of them."""
    written = dict.fromkeys([kind for kind, _ in KINDS], 0)
    order = []
    while sum(written.values()) < words:
        kind = max(KINDS, key=lambda item: item[1] - written[item[0]] / max(1, sum(written.values())))[0]
        if kind is None:
            order = order or rng.sample(passages, len(passages))
            passage = order.pop()
            text = joined(passage) if rng.random() < join else passage
        else:
            text = kind(rng, rng.choice(passages), rng.choice(passages))
        written[kind] += len(text.split())
        yield text


def main() -> None:
    """Write the documents."""
    parser = argparse.ArgumentParser()
    parser.add_argument("texts", nargs="+")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--words", type=int, default=20_000_000)
    parser.add_argument(
        "--join", type=float, default=0.15, help="share of the passages whose lines are joined"
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    passages = [passage for path in args.texts for passage in passages_of(path)]
    with open(args.output, "w", encoding="utf-8") as file:
        for text in documents(passages, args.words, random.Random(args.seed), args.join):
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
