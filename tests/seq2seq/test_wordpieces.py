"""Extended WordPiece vocabularies: texts come back, old ids stay, new ones know where they come from."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordtool.seq2seq.wordpieces import extend, is_wordpiece, round_trips

TEXTS = ["The Café is near the river, and it's old.", "THE CAT sat - red-tree 3.5 (old)"] * 12 + [
    "Bird? bird!",
    "猫 dog。 the 犬",
]


@pytest.fixture(scope="module")
def tokenizers(encoders):
    from transformers import AutoTokenizer

    old = AutoTokenizer.from_pretrained(encoders("bert"))
    return old, *extend(old, TEXTS)


def test_texts_come_back(tokenizers):
    old, new, _ = tokenizers
    assert not round_trips(old, TEXTS[:1])
    assert round_trips(new, TEXTS[:-1])
    ids = new(TEXTS[-1], add_special_tokens=False)["input_ids"]
    assert new.decode(ids) == "猫 dog。 the犬"  # no space is written before characters of such scripts


ALPHABET = sorted({character for text in TEXTS[:-1] for character in text} - {" "})


@given(st.lists(st.text(ALPHABET, min_size=1, max_size=8), max_size=6).map(" ".join))
@settings(max_examples=100, deadline=None)
def test_any_text_of_known_characters_comes_back(tokenizers, text):
    _, new, _ = tokenizers
    ids = new(text, add_special_tokens=False)["input_ids"]
    assert new.unk_token_id not in ids
    assert new.decode(ids, skip_special_tokens=True) == text


def test_old_ids_stay_and_new_ones_have_parents(tokenizers):
    old, new, added = tokenizers
    before, after = old.get_vocab(), new.get_vocab()
    assert all(after[token] == number for token, number in before.items())
    assert len(after) == len(before) + len(added)
    names = {number: token for token, number in after.items()}
    for number, ids in enumerate(added, start=len(before)):
        assert all(token < len(before) and token != old.unk_token_id for token in ids)
        if names[number] == "The":
            assert ids == [before["the"]]
    assert "The" in after and "##tree" in after  # frequent units, as they stand in words
    assert "Bird" not in after  # twice is not frequent; its letters are there
    assert {"B", "##B"} <= set(after)


def test_the_form_of_a_sequence_stays(tokenizers, tmp_path):
    from transformers import AutoTokenizer

    old, new, _ = tokenizers
    ids = new("the cat")["input_ids"]
    assert (ids[0], ids[-1]) == (old.cls_token_id, old.sep_token_id)
    new.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert again(text)["input_ids"] == new(text)["input_ids"]
    assert again.decode(again(TEXTS[0])["input_ids"], skip_special_tokens=True) == TEXTS[0]
    assert again.sep_token_id == old.sep_token_id and again.pad_token_id == old.pad_token_id


def test_other_tokenizers_are_left_alone(writers, encoders):
    from transformers import AutoTokenizer

    byte_level = AutoTokenizer.from_pretrained(writers("gpt2"))
    assert not is_wordpiece(byte_level)
    assert round_trips(byte_level, TEXTS)
    assert is_wordpiece(AutoTokenizer.from_pretrained(encoders("bert")))
