import gzip
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordtool.errors import OrdtoolError
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.text.reader import TextConfig, read_sentences
from ordtool.parsing.text.vocabulary import EOS, UNKNOWN
from ordtool.parsing.training.data import (
    Encoded,
    count_words,
    encode_sentences,
    load_data,
    load_sentences,
    streams,
)
from ordtool.parsing.training.recipes import recipe

TREES = "(TOP (S (NP (DT The) (NN dog)) (VP (VBZ is) (NP (-NONE- *T*)) (ADJP (JJ old))) (. .)))\n"


def read(tmp_path, text, name="a.txt", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [" ".join(words) for words in read_sentences([path], TextConfig(**options))]


def test_paragraphs_are_split_into_sentences(tmp_path):
    text = "Mr. Smith came, saw. He didn't win!\n\nIt rained.\n"
    assert read(tmp_path, text) == ["Mr. Smith came saw", "He did n't win", "It rained"]
    assert read(tmp_path, text, punctuation=True)[0] == "Mr. Smith came , saw ."
    assert len(read(tmp_path, text, layout="sentences")) == 2


def test_a_language_has_abbreviations_of_its_own(tmp_path):
    (tmp_path / "de.txt").write_text("Am 3. Mai kam er, vgl. Müller. Sie ging fort.\n" * 4)
    words = {}
    for language in ("de", "en"):
        config = recipe("small", language=language, layout="paragraphs", holdout=0)
        words[language] = load_data([tmp_path / "de.txt"], [], config, tmp_path).train
    assert len(words["de"].starts) - 1 == 8
    assert len(words["en"].starts) > len(words["de"].starts)


def test_wrapped_books(tmp_path):
    paragraph = "The old dog that lived\nby the river was called\nRover by all of us. He\nnever _once_ came home\nearly.\n\n"
    sentences = [
        "The old dog that lived by the river was called Rover by all of us",
        "He never once came home early",
    ]
    assert read(tmp_path, paragraph * 10) == sentences * 10
    assert read(tmp_path, paragraph, layout="wrapped") == sentences
    assert len(read(tmp_path, paragraph, layout="sentences")) == 5


def test_short_lines_of_sentences_are_not_a_wrapped_book(tmp_path):
    text = "The dog came home.\nNobody saw it.\nIt rained all day.\n\n" * 20
    assert read(tmp_path, text) == ["The dog came home", "Nobody saw it", "It rained all day"] * 20


def test_sentences_inside_quotes_come_apart(tmp_path):
    assert read(tmp_path, "“I never saw him again. He went away.”") == [
        "I never saw him again",
        "He went away",
    ]


def test_wikitext_marks(tmp_path):
    text = " = = Heading = = \nThe well @-@ known <unk> sold 1 @,@ 500 and 2 @.@ 5 .\n"
    assert read(tmp_path, text) == ["The well known <unk> sold 1,500 and 2.5"]


def test_hidden_words_are_unknown_and_not_counted(tmp_path):
    tokenizer = OnlstmTokenizer.from_tokens([EOS, UNKNOWN, "the"])
    sentences = [sentence.split() for sentence in read(tmp_path, "the <unk> the\n")]
    assert count_words(sentences) == Counter({"the": 2})
    assert encode_sentences(sentences, tokenizer).ids.tolist() == [2, 1, 2]


def test_trees_give_their_leaves(tmp_path):
    assert read(tmp_path, TREES * 2, "a.tree") == ["The dog is old"] * 2
    assert read(tmp_path, TREES, "a.txt") == ["The dog is old"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.mrg").write_text(TREES)
    (tmp_path / "folder" / "a.mrg").write_text(TREES * 2)
    assert len(list(read_sentences([tmp_path / "folder"]))) == 3


def test_text_in_brackets_is_not_trees(tmp_path):
    assert read(tmp_path, "(He agreed.) She did not.\n") == ["He agreed", "She did not"]
    assert read(tmp_path, "(NASA, too.) She did not.\n") == ["NASA too", "She did not"]


def test_jsonl_gz_and_characters(tmp_path):
    assert read(tmp_path, '{"text": "A dog."}\n', "a.jsonl") == ["A dog"]
    assert read(tmp_path, '{"body": "A dog."}\n', "a.jsonl", field="body") == ["A dog"]
    assert read(tmp_path, gzip.compress(b"A dog.\n"), "a.txt.gz") == ["A dog"]
    assert read(tmp_path, "床前明月光，疑是地上霜。\n", tokens="chars", language="zh") == [
        "床 前 明 月 光 疑 是 地 上 霜"
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "no words"),
        (b"\n \n", "no words"),
        (b"...\n?!\n", "no words"),
        (b"ok\n\xff\n", r"a\.txt:2: invalid UTF-8"),
    ],
)
def test_bad_text(tmp_path, text, words):
    path = tmp_path / "a.txt"
    path.write_bytes(text)
    with pytest.raises(OrdtoolError, match=words):
        load_sentences([path], TextConfig())


def test_a_missing_file_and_an_empty_folder(tmp_path):
    with pytest.raises(OrdtoolError, match="none.txt"):
        load_sentences([tmp_path / "none.txt"], TextConfig())
    with pytest.raises(OrdtoolError, match="without treebank files"):
        load_sentences([tmp_path], TextConfig())


def encoded(*sentences: list[int]) -> Encoded:
    starts = np.cumsum([0] + [len(s) for s in sentences])
    return Encoded(np.array([i for s in sentences for i in s], np.int32), starts)


def test_streams_by_hand():
    data = encoded([1, 2], [3], [4, 5, 6])
    assert data.tokens == 9
    assert streams(data, 1, 0).tokens.tolist() == [[0, 1, 2, 0, 3, 0, 4, 5, 6, 0]]
    assert streams(data, 2, 0).tokens.tolist() == [[0, 1, 2, 0, 3], [3, 0, 4, 5, 6]]
    assert streams(data, 1, 0, np.array([2, 0, 1])).tokens.tolist() == [[0, 4, 5, 6, 0, 1, 2, 0, 3, 0]]
    with pytest.raises(OrdtoolError, match="too few"):
        streams(data, 10, 0)


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=20),
    st.integers(1, 5),
    st.data(),
)
def test_streams_predict_every_token_once(sentences, batch, data):
    whole = encoded(*sentences)
    if whole.tokens < batch:
        return
    order = np.array(data.draw(st.permutations(range(len(sentences)))))
    laid = streams(whole, batch, 0, order).tokens
    expected = [token for k in order for token in [*sentences[k], 0]]
    targets = laid[:, 1:].reshape(-1).tolist()
    assert targets == expected[: len(targets)]
    assert len(expected) - len(targets) < batch
    assert laid[:, :-1].reshape(-1).tolist() == [0, *expected][: len(targets)]
