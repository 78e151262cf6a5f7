"""CPM's real vocabulary, where it is at hand (`ORDTOOL_DATA`): poems and mixed text there and back."""

import json
import os
import re
import unicodedata
import warnings
from pathlib import Path

import pytest

from ordtool.models.cpm_tokenizer import CpmTokenizer

pytest.importorskip("sentencepiece")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # jieba's own source has old escapes
    jieba = pytest.importorskip("jieba")

DATA = Path(os.environ.get("ORDTOOL_DATA", "no-data")) / "chinese"
VOCABULARY, POEMS = DATA / "cpm_chinese_vocab.model", DATA / "tang_poems.jsonl"
pytestmark = pytest.mark.skipif(
    not (VOCABULARY.is_file() and POEMS.is_file()), reason="ORDTOOL_DATA has no CPM vocabulary"
)

UNKNOWN = "\u2047"  # what sentencepiece writes for it

MIXED = [
    "清华大学\n位于 北京,建于 1911 年。\n",
    "他说: Hello, world!\n\n  两个空格  和 tab-free text ",
    "def f(x):\n    return x + 1\n中文注释 # comment\n",
    "GPT-2 有 1,024 个位置;CPM 的词表有 30,000 个词。",
    "\n\n\n",
    "   ",
    "love: 爱\nsun: 太阳\nmoon:",
]


@pytest.fixture(scope="module")
def tokenizer():
    return CpmTokenizer(VOCABULARY)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """The same vocabulary as it was published first: piece 3 is `<cls>`."""

    def entry(piece):  # a field of the file's protocol buffer: the piece's length and its text
        return b"\x0a" + bytes([len(piece.encode())]) + piece.encode()

    data = VOCABULARY.read_bytes()
    place = data.index(entry("▃"))
    longer = data[place - 1] + len(entry("<cls>")) - len(entry("▃"))
    file = tmp_path_factory.mktemp("old") / "chinese_vocab.model"
    rest = data[place + len(entry("▃")) :]
    file.write_bytes(data[: place - 1] + bytes([longer]) + entry("<cls>") + rest)
    return CpmTokenizer(file)


@pytest.fixture(scope="module")
def poems():
    with POEMS.open(encoding="utf-8") as file:
        return [json.loads(next(file))["text"].replace("。", "。\n") for _ in range(1000)]


def official(tokenizer, text):
    table = str.maketrans(" \n", "\u2582\u2583")
    return tokenizer.pieces.encode(" ".join(word.translate(table) for word in jieba.cut(text, cut_all=False)))


def known(tokenizer, text):
    """The text as it can come back: NFKC, and a sign for each run of characters that no piece has."""
    text = unicodedata.normalize("NFKC", text)
    held = {c: tokenizer.pieces.unk_id() not in tokenizer.pieces.encode(c) for c in set(text) - set(" \n")}
    return re.sub(f"{UNKNOWN}+", UNKNOWN, "".join(c if held.get(c, True) else UNKNOWN for c in text))


def test_ids_of_a_text_with_a_line_feed(tokenizer, old):
    assert (tokenizer.old, old.old) == (False, True)
    for each in (tokenizer, old):
        assert each.encode("清华大学\n位于北京") == [7324, 8, 3, 954, 520]


def test_the_old_vocabulary_gives_the_official_ids(tokenizer, old, poems):
    assert len(poems) == 1000
    for text in [*poems, *MIXED]:
        assert "\n" in text or text in MIXED
        assert old.encode(text) == official(tokenizer, text)
        assert old.decode(old.encode(text)) == tokenizer.decode(tokenizer.encode(text))


@pytest.mark.parametrize("text", MIXED)
def test_mixed_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids == official(tokenizer, text)
    assert tokenizer.decode(ids) == text


def test_poems_come_back_but_for_characters_that_no_piece_has(tokenizer, poems):
    whole = 0
    for text in poems:
        ids = tokenizer.encode(text)
        assert ids == official(tokenizer, text)
        back = tokenizer.decode(ids)
        assert back.count("\n") == text.count("\n")
        assert re.sub(f"{UNKNOWN}+", UNKNOWN, back) == known(tokenizer, text)
        whole += back == unicodedata.normalize("NFKC", text)
    # The poems are in traditional characters, the vocabulary in simplified ones.
    assert whole == sum(UNKNOWN not in known(tokenizer, text) for text in poems) > 0
