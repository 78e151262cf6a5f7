"""Open Chinese text for `train parser --tokens jieba`: a sentence a line, from copies of the sources below.

    python benchmarks/chinese_text.py SOURCES OUTPUT [--without TREEBANK.conllu ...]

SOURCES holds a folder for each source that `SOURCES_READ` names (the model's card says what they are); what is missing
is left out and said. Kept are sentences of 6 to 160 characters, seven tenths of them Chinese, each once; none that
stands in a treebank named by `--without`.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ordtool.parsing.text.chinese import is_han, simplify
from ordtool.parsing.text.tokenize import split_sentences

BOOK_OF_KINGS = 12
_MARKUP = re.compile(r"```.*?```|<!--.*?-->|<[^>\n]{1,200}>|\$\$.*?\$\$|:\w+:`[^`]*`|\{[^}\n]*\}", re.DOTALL)
_LINK = re.compile(r"!?\[([^\]\n]*)\](\([^)\n]*\)|\[[^\]\n]*\])?")
_NOT_PROSE = re.compile(r"[`|$\\{}<>=]|https?:|\w/\w|:[a-z]+:")
_LIST_MARK = re.compile(r"^\s*(?:[-*+>#]+|\d+[.)、])\s*")
_FOOTNOTE = re.compile(r"\[\d+\]|（）|\(\)")
_CHAPTER = re.compile(r"^第\d+章 (.*)$")
SENTENCE = range(6, 161)


def question_contexts(path: Path) -> Iterator[str]:
    """The paragraphs, from Wikipedia, of a set of questions in SQuAD's format."""
    for article in json.loads(path.read_text(encoding="utf-8-sig"))["data"]:
        for paragraph in article["paragraphs"]:
            yield from paragraph["context"].split("\n")


def chapters(path: Path, left_out: str) -> Iterator[str]:
    """The lines of a book by chapters, but for those whose title begins with `left_out` (a regular expression)."""
    kept = False
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if title := _CHAPTER.match(line.strip()):
            kept = not re.match(left_out, title[1])
        elif kept:
            yield line


def whole(path: Path) -> Iterator[str]:
    """The lines of a book."""
    yield from path.read_text(encoding="utf-8-sig").splitlines()


def verses(path: Path) -> Iterator[str]:
    """The Union Version from Genesis to Kings, a chapter a paragraph."""
    for book in json.loads(path.read_text(encoding="utf-8-sig"))[:BOOK_OF_KINGS]:
        yield from ("".join(chapter).replace(" ", "") for chapter in book["chapters"])


def markdown(path: Path) -> Iterator[str]:
    """The prose of a page: no code, tables, headings or list items without a full stop."""
    text = _LINK.sub(r"\1", _MARKUP.sub("", path.read_text(encoding="utf-8", errors="ignore")))
    for line in text.splitlines():
        if not line.lstrip().startswith(("#", "|", "import ", "title", "summary")):
            yield _LIST_MARK.sub("", line).replace("**", "").replace("*", "")


def pages(folder: Path) -> Iterator[str]:
    """All pages of a folder of documentation."""
    for path in sorted(folder.rglob("*.md")):
        yield from markdown(path)


def conllu_texts(path: Path) -> Iterator[str]:
    """The sentences of a treebank in CoNLL-U."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# text = "):
            yield line.removeprefix("# text = ")


# Folder, file or folder in it, how it is read, characters taken at most.
SOURCES_READ = (
    ("DRCD", "DRCD_dev.json", question_contexts, None),
    ("DRCD", "DRCD_test.json", question_contexts, None),
    ("cmrc2018", "squad-style-data/cmrc2018_dev.json", question_contexts, None),
    ("cmrc2018", "squad-style-data/cmrc2018_trial.json", question_contexts, None),
    ("xquad", "xquad.zh.json", question_contexts, None),
    ("hk", "zh_hk-ud-test.conllu", conllu_texts, None),
    ("cfl", "zh_cfl-ud-test.conllu", conllu_texts, None),
    ("gutenberg", "Project_Gutenberg/吶喊.txt", whole, None),
    ("gutenberg", "Project_Gutenberg/徬徨.txt", whole, None),
    ("gutenberg", "Project_Gutenberg/朝花夕拾.txt", whole, None),
    ("books", "郁达夫大全集.txt", lambda path: chapters(path, "前言|诗词|附录"), None),
    ("books", "萧红经典全集.txt", lambda path: chapters(path, "春曲|沙粒|可纪念|附录|后记"), None),
    ("gutenberg", "Project_Gutenberg/老殘遊記.txt", whole, None),
    ("gutenberg", "Project_Gutenberg/兒女英雄傳.txt", whole, 400_000),
    ("bible", "zh_cuv.json", verses, 250_000),
    ("d2l", ".", pages, 500_000),
    ("react", "src/content", pages, 400_000),
    ("docs-cn", ".", pages, 500_000),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sources", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--without", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    seen = {key(text) for path in options.without for text in conllu_texts(path)}
    options.output.mkdir(parents=True, exist_ok=True)
    for folder, name, read, limit in SOURCES_READ:
        path = options.sources / folder / name
        if not path.exists():
            print(f"{path}: not there, left out", file=sys.stderr)
            continue
        target = options.output / f"{folder}-{path.stem if path.is_file() else 'pages'}.txt"
        kept = list(within(prose(read(path), seen), limit))
        target.write_text("".join(f"{sentence}\n" for sentence in kept), encoding="utf-8")
        print(f"{target.name}: {len(kept):,} sentences, {sum(map(len, kept)):,} characters")


def prose(paragraphs: Iterator[str], seen: set[str]) -> Iterator[str]:
    """The sentences of paragraphs that are prose and new."""
    for paragraph in paragraphs:
        for sentence in split_sentences(_FOOTNOTE.sub("", paragraph.strip()), "zh"):
            text = " ".join(sentence.text.split())
            if is_prose(text) and key(text) not in seen:
                seen.add(key(text))
                yield text


def is_prose(text: str) -> bool:
    """Whether a sentence is of a good length, mostly Chinese, ended, and free of markup."""
    if len(text) not in SENTENCE or _NOT_PROSE.search(text):
        return False
    han = sum(map(is_han, text))
    return han >= 0.7 * len(text.replace(" ", "")) and text.rstrip('”」』）"’')[-1:] in (
        "。",
        "！",
        "？",
        "…",
        "；",
    )


def key(text: str) -> str:
    """What tells two sentences apart: their Chinese characters, simplified."""
    return "".join(filter(is_han, simplify(text)))


def within(sentences: Iterator[str], limit: int | None) -> Iterator[str]:
    """The first sentences, up to a number of characters."""
    taken = 0
    for sentence in sentences:
        if limit is not None and taken >= limit:
            return
        taken += len(sentence)
        yield sentence


if __name__ == "__main__":
    main()
