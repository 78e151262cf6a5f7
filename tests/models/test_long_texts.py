"""Of texts far longer than a model reads only the beginning is tokenized, and the tokens are those of the whole."""

import numpy as np
import pytest

from ordtool.embedding.tokenizing import TextTokenizer
from ordtool.models.loading import load_tokenizer
from ordtool.models.long_texts import PIECE, beginning_of, pieces_of
from ordtool.tuning.encoding import encode_texts

PROSE = "the cat sat on a small tree and saw old dogs "
TEXTS = {
    "prose": PROSE * 2000,
    "no spaces": "cat" * 30_000,
    "spaces": " " * 90_000 + "cat",
    "unknown": "\u0378 " * 40_000 + "cat",
    "one long word first": "x" * 60_000 + " " + PROSE * 2000,
    "lines": "the cat\n" * 12_000,
    "short": "the cat",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("kind", ["plain-bert", "bert"])
def test_the_tokens_are_those_of_the_whole(kind, text, encoders):
    expected = load_tokenizer(encoders(kind))(text, truncation=True, max_length=32)["input_ids"]
    found = TextTokenizer(encoders(kind), 32)(["the cat", text, "a dog"])
    assert found.ids[1] == expected
    assert found.cut[1] == (len(load_tokenizer(encoders(kind))(text)["input_ids"]) > 32)
    (ids, _), _ = encode_texts(load_tokenizer(encoders(kind)), [text, "a"], None, 32)
    assert ids.tolist() == expected


def test_a_beginning_is_of_whole_words():
    assert beginning_of(PROSE, 8) == PROSE and beginning_of(TEXTS["prose"], None) == TEXTS["prose"]
    beginning = beginning_of(TEXTS["prose"], 8)
    assert len(beginning) <= 20_000 and TEXTS["prose"].startswith(beginning + " ")


@pytest.mark.parametrize("text", ["", "cat", PROSE * 60_000, "x" * (2 * PIECE + 7), "\u3000猫" * PIECE])
def test_pieces_are_the_text(text):
    pieces = list(pieces_of(text))
    assert "".join(pieces) == text and max(map(len, pieces)) <= PIECE


def test_static_vectors_of_a_text_in_pieces_are_those_of_the_whole(monkeypatch):
    import ordtool
    from ordtool.embedding import static

    text = PROSE * 500
    whole = ordtool.embed([text, "a dog"], model="static")
    monkeypatch.setattr(static, "PIECE", 1000)
    monkeypatch.setattr("ordtool.models.long_texts.PIECE", 1000)
    np.testing.assert_allclose(ordtool.embed([text, "a dog"], model="static"), whole, atol=1e-6)


def test_a_prompt_of_megabytes_is_refused_by_its_beginning(writers, tmp_path, fails_in_process):
    (tmp_path / "p.txt").write_text(PROSE * 2000)
    said = fails_in_process("generate", "p.txt", "-m", writers("llama"), "--max-new-tokens", "1")
    assert "p.txt:1: the prompt has more than 64 tokens, and the model's context is 64" in said
