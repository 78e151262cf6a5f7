"""Punctuation between words: its names, and what it does to distances."""

import numpy as np
import pytest

from ordtool.parsing.text.tokenize import tokenize
from ordtool.parsing.trees.punctuation import (
    PUNCTUATION_KINDS,
    add_punctuation_bonus,
    check_punctuation_bonus,
    is_punctuation,
    punctuation_between,
    punctuation_kind,
)


def named(bits):
    return [
        {kind for place, kind in enumerate(PUNCTUATION_KINDS) if number >> place & 1}
        for number in bits.tolist()
    ]


def between(text, **options):
    tokens = tokenize(text)
    offsets = [(token.start, token.end) for token in tokens]
    surfaces = [token.text for token in tokens]
    return named(
        punctuation_between(surfaces, [is_punctuation(t) for t in surfaces], offsets=offsets, **options)
    )


def test_marks_are_named_at_the_boundary_where_they_stand():
    assert between("Yes, (so he said) it ran; twice!") == [
        set(), {"comma", "open"}, set(), set(), {"close"}, set(), {"colon"}, {"stop"},
    ]  # fmt: skip


def test_without_punctuation_there_are_no_marks():
    assert between("It ran home") == [set()] * 4
    assert punctuation_between([], []).tolist() == [0]
    assert named(punctuation_between([".", ".."], [True, True])) == [{"stop"}]


def test_chinese_marks():
    tokens = "约翰 · 史密斯 说 ： 苹果 、 梨 《 红楼梦 》 ， 走 —— 好 ……".split()
    marks = [is_punctuation(token) for token in tokens]
    tags = ["PUNCT" if mark else "X" for mark in marks]
    wanted = [
        set(), {"hyphen"}, set(), {"colon"}, {"other"}, {"open"}, {"close", "comma"}, {"dash"}, {"stop"},
    ]  # fmt: skip
    assert named(punctuation_between(tokens, marks, tags=tags)) == wanted
    assert named(punctuation_between(tokens, marks)) == wanted


def test_a_hyphen_is_told_from_a_dash_by_its_tag_or_by_what_it_touches():
    tokens, marks = ["wild", "-", "type", "mice"], [False, True, False, False]
    assert punctuation_kind("-", "HYPH") == "hyphen" and punctuation_kind("-", ":") == "dash"
    assert named(punctuation_between(tokens, marks, tags=("JJ", "HYPH", "NN", "NNS")))[1] == {"hyphen"}
    assert named(punctuation_between(tokens, marks))[1] == {"dash"}
    touching, apart = [(0, 4), (4, 5), (5, 9), (10, 14)], [(0, 4), (5, 6), (7, 11), (12, 16)]
    assert named(punctuation_between(tokens, marks, offsets=touching))[1] == {"hyphen"}
    assert named(punctuation_between(tokens, marks, offsets=apart))[1] == {"dash"}


def test_distances_rise_by_the_weights_of_the_marks_before_a_word():
    distances = np.array([0.9, 0.2, 0.5, 0.4])
    bits = punctuation_between(
        ["a", ",", "(", "b", "c", "-", "d"], [False, True, True, False, False, True, False]
    )
    raised = add_punctuation_bonus(distances, bits, {"comma": 2.0, "open": 0.5, "dash": -1.0})
    np.testing.assert_allclose(raised - distances, np.std(distances) * np.array([0, 2.5, 0, -1.0]))
    assert add_punctuation_bonus(distances, bits, {}) == pytest.approx(distances)


def test_what_stands_at_the_edges_changes_nothing():
    distances = np.array([0.9, 0.2])
    bits = punctuation_between(["“", "a", "b", "."], [True, False, False, True])
    assert named(bits) == [{"quote"}, set(), {"stop"}]
    np.testing.assert_array_equal(
        add_punctuation_bonus(distances, bits, dict.fromkeys(PUNCTUATION_KINDS, 5.0)), distances
    )


def test_weights_of_a_configuration_are_checked():
    assert check_punctuation_bonus({"comma": 2, "hyphen": -3}) == {"comma": 2.0, "hyphen": -3.0}
    with pytest.raises(ValueError, match="comma_s"):
        check_punctuation_bonus({"comma_s": 1})
    with pytest.raises(ValueError, match="no number"):
        check_punctuation_bonus({"comma": "high"})
