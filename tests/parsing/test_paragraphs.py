"""Where lines are joined: one rule for parsing and for training."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordtool.io.text import Record
from ordtool.parsing.text.paragraphs import blocks, paragraphs
from ordtool.parsing.text.reader import InputConfig, TextConfig, read_inputs, read_sentences

PROSE = (
    "It was a bright cold day in April, and the clocks were striking thirteen. Winston Smith, his chin nuzzled into "
    "his breast in an effort to escape the vile wind, slipped quickly through the glass doors of Victory Mansions, "
    "though not quickly enough to prevent a swirl of gritty dust from entering along with him."
)


def join(*lines):
    return [r.text for r in paragraphs(Record("a", k, line) for k, line in enumerate(lines, start=1))]


@pytest.mark.parametrize("width", [24, 30, 44, 60, 72, 84, 100])
def test_wrapped_text_is_joined_at_any_custom_width(width):
    assert join(*textwrap.wrap(PROSE, width), "", *textwrap.wrap(PROSE, width)) == [PROSE, PROSE]


def test_wider_lines_are_paragraphs():
    lines = textwrap.wrap(PROSE, 104)
    assert join(*lines) == lines


def test_paragraphs_without_blank_lines_end_at_their_short_last_lines():
    lines = textwrap.wrap(PROSE, 72)
    assert len(lines[-1]) < 60
    assert join(*lines, *lines) == [PROSE, PROSE]


def test_sentences_a_line_are_not_joined():
    sentences = [
        "The company said on Monday that it would close two of its plants.",
        "About 1,200 people work there, most of them since the nineties.",
        "Its shares fell by three percent.",
        "A spokeswoman declined to say what would become of the sites in the long run.",
        "Unions were told an hour before.",
    ]
    assert join(*sentences) == sentences
    bare = [sentence.lower().rstrip(".") for sentence in sentences]
    assert join(*bare) == bare


def test_headings_lists_and_verse_keep_their_lines():
    verse = ["Whose woods these are I think I know.", "His house is in the village though;"]
    assert join("Contents", "I. A Scandal in Bohemia", "II. The Red-headed League", "", *verse) == [
        "Contents", "I. A Scandal in Bohemia", "II. The Red-headed League", *verse,
    ]  # fmt: skip
    words = ["apples", "a pear", "plums and nuts", "two kinds of sugar", "flour"]
    assert join(*words) == words
    heading = join("CHAPTER ONE", *textwrap.wrap(PROSE, 72))
    assert heading == ["CHAPTER ONE", PROSE]


def test_two_lines_of_speech_in_a_wrapped_book():
    """Alone they would say nothing: the first ends with a quotation mark."""
    speech = ["'It is only four hours a day, and I should not think of leaving,'", "said I."]
    assert join(*speech) == speech
    assert join(*textwrap.wrap(PROSE, 70), "", *speech) == [PROSE, " ".join(speech)]


def test_a_paragraph_a_line_stays_whole():
    assert join(PROSE, PROSE) == [PROSE, PROSE]


def test_places_and_records_with_data_are_kept():
    lines = ["", *textwrap.wrap(PROSE, 72), "", "Short."]
    records = [Record("a", k, line) for k, line in enumerate(lines, start=1)]
    given_data = Record("b.jsonl", 1, "one\ntwo", {"text": "one\ntwo"})
    found = list(paragraphs([*records, given_data, *records]))
    assert [(r.source, r.line) for r in found] == [
        ("a", 2), ("a", len(lines)), ("b.jsonl", 1), ("a", 2), ("a", len(lines)),
    ]  # fmt: skip
    assert found[2] is given_data


def test_text_without_blank_lines_is_not_held():
    taken = []

    def lines():
        for k in range(10_000):
            taken.append(k)
            yield Record("a", k + 1, "The cat sat on the mat and looked at the dog." if k % 2 else "It ran.")

    next(paragraphs(lines()))
    assert len(taken) < 300


@given(st.lists(st.text("ab .,", max_size=60), max_size=30))
def test_no_word_is_lost(lines):
    words = " ".join(lines).split()
    assert " ".join(join(*lines)).split() == words
    found = blocks(Record("a", k, line) for k, line in enumerate(lines))
    assert " ".join(record.text for record in found).split() == words


def test_parsing_and_training_read_alike(tmp_path):
    path = tmp_path / "a.txt"
    lines = textwrap.wrap(PROSE, 72)
    path.write_text("\n".join([*lines, "", "A list", "Item one", "", *lines]) + "\n")
    parsed = [sentence.text for sentence in read_inputs(path, InputConfig(split=True))]
    trained = read_sentences(path, TextConfig(punctuation=True))
    assert [sentence.replace(" ", "") for sentence in parsed] == ["".join(words) for words in trained]
    assert len(parsed) == 6
