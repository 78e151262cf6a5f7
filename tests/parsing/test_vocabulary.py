import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ordtool.errors import OrdtoolError
from ordtool.parsing.onlstm.model import OnlstmConfig
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.text.vocabulary import (
    EOS,
    UNKNOWN,
    Vocabulary,
    build_vocabulary,
    shape_classes,
)

WORDS = [EOS, UNKNOWN, "<unk:Aa>", "<unk:N>", "<unk:ing>", "the", "dog", "N", "N%"]


@pytest.fixture
def tokenizer() -> OnlstmTokenizer:
    return OnlstmTokenizer.from_tokens(WORDS)


@pytest.mark.parametrize(
    ("word", "classes"),
    [
        ("running", ["<unk:ing>"]),
        ("Nations", ["<unk:Aa:tions>", "<unk:Aa>"]),
        ("NASA", ["<unk:AA>"]),
        ("B-52s", ["<unk:N:->", "<unk:N>"]),
        ("well-known", ["<unk:->"]),
        ("hastily", ["<unk:ly>"]),
        ("ing", []),
        ("zzz", []),
        ("A", ["<unk:Aa>"]),
        ("½", []),
        ("北京市", ["<unk:Han:市>", "<unk:Han>"]),
        ("市", ["<unk:Han>"]),
        ("N年", ["<unk:Han:年>", "<unk:Han>"]),
    ],
)
def test_shapes(word, classes):
    if word == "hastily":
        assert shape_classes(word)[0] in ("<unk:ly>", "<unk:y>")
    else:
        assert shape_classes(word) == [*classes, UNKNOWN]


@given(st.text(min_size=1, max_size=30))
def test_every_word_has_an_id(word):
    lookup = Vocabulary(WORDS)
    assert 0 <= lookup.word_id(word) < len(WORDS)
    assert shape_classes(word)[-1] == UNKNOWN


def test_lookup(tokenizer):
    ids = tokenizer.encode_words(
        [["The", "dog", "Rover", "singing", "17", "1,000.5", "3%", "x9x", "qqq", "<unk>"], []]
    )
    names = [tokenizer.convert_ids_to_tokens(numbers) for numbers in ids]
    wanted = ["the", "dog", "<unk:Aa>", "<unk:ing>", "N", "N", "N%", "<unk:N>", "<unk>", "<unk>"]
    assert names == [wanted, []]
    assert [tokenizer.is_unknown(k) for k in ids[0][:3]] == [False, False, True]


def test_a_chinese_vocabulary_reads_both_kinds_of_characters():
    counts = Counter({"汉语": 3, "漢語": 4, "著": 5, "桃花源": 20, "一": 30, "果汁": 1, "菜汁": 1})
    words = build_vocabulary(counts, 8, simplified=True, minimum_class_count=2)
    assert words == [EOS, UNKNOWN, "<unk:Han:汁>", "<unk:Han>", "一", "桃花源", "汉语", "着"]
    lookup = Vocabulary([EOS, UNKNOWN, "<unk:Han>", "<unk:Han:语>", "汉语"], simplified=True)
    assert lookup.encode_words([["漢語", "汉语", "華語", "詞"]]) == [[4, 4, 3, 2]]
    plain = Vocabulary([EOS, UNKNOWN, "<unk:Han>", "<unk:Han:语>", "汉语"])
    assert plain.encode_words([["漢語", "汉语", "華語"]]) == [[2, 4, 2]]


def test_options_change_the_lookup():
    cased = OnlstmTokenizer.from_tokens([*WORDS, "The"], lowercase=False, digits=False)
    assert cased.convert_ids_to_tokens(cased.encode_words([["The", "the", "17"]])[0]) == [
        "The",
        "the",
        "<unk:N>",
    ]
    assert cased.keeps("dog") and not cased.keeps(",")
    assert OnlstmTokenizer.from_tokens(WORDS, drop_punctuation=False).keeps(",")


def test_a_round_trip_through_a_folder(tokenizer, tmp_path):
    changed = OnlstmTokenizer.from_tokens(WORDS, lowercase=False, drop_punctuation=False)
    changed.save_pretrained(tmp_path)
    OnlstmConfig(vocab_size=len(WORDS)).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is OnlstmTokenizer
    assert loaded.get_vocab() == changed.get_vocab()
    assert (loaded.vocabulary.lowercase, loaded.vocabulary.drop_punctuation) == (False, False)
    assert loaded.eos_token_id == loaded.pad_token_id == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".txt"}


def test_as_any_other_tokenizer(tokenizer):
    encoded = tokenizer(["The dog, singing.", "Rover"], padding=True)
    assert encoded["input_ids"] == [[0, 5, 6, 4, 0], [0, 2, 0, 0, 0]]
    assert tokenizer.decode([5, 6], skip_special_tokens=True) == "the dog"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no <eos>"), (b"<eos>\nthe\n", "no <unk>"), (b"<eos>\n<unk>\na\na\n", "'a' is there twice")],
)
def test_bad_vocabulary_files(tmp_path, content, words):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(OrdtoolError, match=words):
        OnlstmTokenizer(str(path))
    with pytest.raises(OrdtoolError, match="can't read"):
        OnlstmTokenizer(str(tmp_path / "none.txt"))


def test_building():
    counts = Counter({"The": 9, "the": 5, "dog": 3, "17": 2, "18": 2, "Rex": 2, "Fido": 2, "once": 1})
    vocabulary = build_vocabulary(counts, 100, minimum_class_count=2)
    assert vocabulary[:2] == [EOS, UNKNOWN]
    assert vocabulary[2:] == [
        "the",
        "N",
        "dog",
        "fido",
        "rex",
    ]  # `once` is seen once, and no class often enough
    small = build_vocabulary(counts, 5, minimum_class_count=2)
    assert small == [EOS, UNKNOWN, "<unk:Aa>", "the", "N"]
    assert build_vocabulary(Counter(dict(reversed(counts.items()))), 5, minimum_class_count=2) == small


@given(
    st.dictionaries(st.text("abAB1-", min_size=1, max_size=6), st.integers(1, 50), max_size=30),
    st.integers(3, 40),
)
def test_a_vocabulary_is_never_too_large(counts, size):
    vocabulary = build_vocabulary(Counter(counts), size, minimum_class_count=3)
    assert len(vocabulary) <= size
    assert len(set(vocabulary)) == len(vocabulary)
    OnlstmTokenizer.from_tokens(vocabulary)


def test_too_small_a_vocabulary():
    with pytest.raises(OrdtoolError, match="holds no word"):
        build_vocabulary(Counter("a"), 2)


def test_words_that_never_come_again_take_no_memory():
    vocabulary = Vocabulary(WORDS)
    vocabulary.encode_words([[f"w{k:x}" for k in range(70_000)]])
    tracemalloc.start()
    try:
        vocabulary.encode_words(
            [[f"v{k:x}" for k in range(start, start + 100)] for start in range(0, 3_000, 100)]
        )
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000 < peak


@pytest.mark.parametrize("kind", ["letters", 2**31 - 1, None, []])
def test_unknown_kinds_of_tokens_are_refused(kind):
    with pytest.raises(OrdtoolError, match="vocabulary: unknown kind of tokens"):
        Vocabulary(WORDS, token_kind=kind)
