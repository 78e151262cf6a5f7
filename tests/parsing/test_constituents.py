import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordtool.parsing.text.tokenize import tokenize
from ordtool.parsing.trees.builders import left_branching, random_tree, right_branching
from ordtool.parsing.trees.labels import label_tokens
from ordtool.parsing.trees.punctuation import attach_punctuation, is_punctuation
from ordtool.parsing.trees.recognition import is_unlabelled
from ordtool.parsing.trees.treebank import (
    Constituent,
    to_tree,
    to_unlabelled_tree,
    write_brackets,
    write_penn,
)


def drawn(text, words):
    """The brackets of a text, given the spans over its words."""
    tokens = text.split()
    return write_brackets(
        tokens, attach_punctuation(words, tokens, [is_punctuation(token) for token in tokens])
    )


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        # A mark at the edge hangs from the whole, one between two words from the smallest constituent of both.
        ("The cat sat .", [(0, 3), (0, 2)], "((The cat) sat .)"),
        ("The cat , it sat .", [(0, 4), (0, 2), (2, 4)], "((The cat) , (it sat) .)"),
        ("The red , old cat", [(0, 4), (1, 4), (1, 3)], "(The ((red , old) cat))"),
        ("“ Go home , ” she said .", [(0, 4), (0, 2), (2, 4)], "((“ Go home , ”) (she said) .)"),
        # Brackets and quotes around one constituent or word belong to it.
        ("pressure ( IOP ) rose", [(0, 3), (0, 2)], "((pressure (-LRB- IOP -RRB-)) rose)"),
        ("a ( b c ) d", [(0, 4), (0, 3), (1, 3)], "((a (-LRB- b c -RRB-)) d)"),
        ("a ( b c ) d", [(0, 4), (0, 2), (2, 4)], "((a -LRB- b) (c -RRB- d))"),
        ('he said " why ? "', [(0, 3), (0, 2)], '((he said) (" why ? "))'),
        ("x ( “ y ” ) z", [(0, 3), (1, 3)], "(x ((-LRB- “ y ” -RRB-) z))"),
        # Both marks of a pair hang from the constituent in which one of them stands, if the other one is at its edge.
        ("x costs 3 ( or 4 ) now", [(0, 6), (1, 5)], "(x (costs 3 -LRB- or 4 -RRB-) now)"),
        ("x ( often y ) z now", [(0, 5), (1, 4)], "(x (-LRB- often y -RRB- z) now)"),
        # Every constituent that ends where the bracket closes ends behind it.
        ("a b ( c )", [(0, 3), (1, 3)], "(a (b (-LRB- c -RRB-)))"),
        ("( a b )", [(0, 2)], "(-LRB- a b -RRB-)"),
        ("( a", [], "(-LRB- a)"),
        ("a ( ... ) b", [(0, 2)], "(a (-LRB- ... -RRB-) b)"),
        ("Yes !", [], "(Yes !)"),
        ("Yes", [], "(Yes)"),
        ("... !", [], "(... !)"),
        (".", [], "(.)"),
        ("", [], "()"),
    ],
)
def test_where_punctuation_hangs(text, words, expected):
    assert drawn(text, words) == expected


def offsets_of(text):
    tokens = tokenize(text)
    return [token.text for token in tokens], [(token.start, token.end) for token in tokens]


def test_a_straight_single_quote_is_a_quote_where_it_touches_one_side():
    tokens, offsets = offsets_of("the dogs' 'old plan' x")
    marks = [is_punctuation(token) for token in tokens]
    spans = attach_punctuation([(0, 5), (2, 4)], tokens, marks, offsets)
    assert write_brackets(tokens, spans) == "(the dogs ' (' old plan ') x)"
    assert (3, 7) not in attach_punctuation([(0, 5), (2, 4)], tokens, marks)


def labelled(text, nodes):
    tokens, offsets = offsets_of(text)
    marks = [is_punctuation(token) for token in tokens]
    constituents, tags = label_tokens(
        [Constituent(*node) for node in nodes], ["W"] * marks.count(False), tokens, marks, offsets
    )
    return write_penn(tokens, [], tags, constituents)


@given(
    st.lists(st.sampled_from(["w", "w", "(", ")", '"', ",", "[", "]"]), max_size=14),
    st.integers(0, 2**32 - 1),
)
def test_labelled_nodes_never_cross(tokens, seed):
    marks = [is_punctuation(token) for token in tokens]
    words = random_tree(marks.count(False), np.random.default_rng(seed))
    nodes = [Constituent(label, *span) for span in words for label in ("S", "PRN", "NP")]
    constituents, _ = label_tokens(nodes, None, tokens, marks)
    for _, a, b in constituents:
        assert not any(a < c < b < d for _, c, d in constituents)


def test_nodes_over_the_same_words_hold_the_brackets_within():
    nodes = [("S", 0, 2), ("VP", 0, 2), ("NP", 1, 2)]
    assert labelled("- see [it].", nodes) == ("(S (: -) (VP (W see) (NP (-LRB- [) (W it) (-RRB- ]))) (. .))")


def test_tags_of_punctuation_follow_its_partner_and_what_it_touches():
    assert labelled("\"so\" - on-line 'ok'", [("S", 0, 3)]).replace("PRN", "X") == (
        "(S (X (`` \") (W so) ('' \")) (: -) (W on-line) (X (`` ') (W ok) ('' ')))"
    )


marks = st.sampled_from(["w", "w", "w", "(", ")", "“", "”", '"', ",", ".", "``", "''", "[", "]"])


@given(st.lists(marks, max_size=16), st.integers(0, 2**32 - 1))
def test_taking_punctuation_out_gives_the_tree_again(tokens, seed):
    punctuation = [is_punctuation(token) for token in tokens]
    length = punctuation.count(False)
    words = random_tree(length, np.random.default_rng(seed))
    spans = attach_punctuation(words, tokens, punctuation)
    assert spans == sorted(set(spans), key=lambda span: (span[0], -span[1]))
    assert len(tokens) < 2 or spans[0] == (0, len(tokens))
    for a, b in spans:  # no two constituents cross
        assert b - a > 1 and not any(a < c < b < d for c, d in spans)
    position = [0, *np.cumsum([not mark for mark in punctuation]).tolist()]
    left = {(position[a], position[b]) for a, b in spans}
    assert {span for span in left if span[1] - span[0] > 1} == set(words)
    read = to_unlabelled_tree(write_brackets(tokens, spans).replace("(", " ( ").replace(")", " ) ").split())
    shown = tuple({"-LRB-": "(", "-RRB-": ")"}.get(token, token) for token in tokens)
    assert read.tokens == shown
    assert [(c.start, c.end) for c in read.constituents] == (
        spans if len(tokens) > 1 else [(0, 1)] * len(tokens)
    )


@given(st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_penn_brackets_are_read_back(length, seed):
    spans = random_tree(length, np.random.default_rng(seed))
    tokens = [f"w{k}" if k % 3 else "a)b" for k in range(length)]
    atoms = write_penn(tokens, spans).replace("(", " ( ").replace(")", " ) ").split()
    tree = to_tree(atoms)
    assert list(tree.tokens) == tokens and not is_unlabelled(atoms)
    assert [(c.start, c.end) for c in tree.constituents if c.end - c.start > 1] == spans


def test_tags_are_kept_where_they_are_known():
    assert write_penn(["The", "cat"], [(0, 2)], ["DT", ""]) == "(X (DT The) (X cat))"


@pytest.mark.parametrize("build", [left_branching, right_branching])
def test_long_texts_take_linear_time(build):
    tokens = ["a", "(", "b", ")", ",", "c"] * 8_000 + ["."]
    punctuation = [is_punctuation(token) for token in tokens]
    spans = attach_punctuation(build(24_000), tokens, punctuation)
    assert len(spans) == 24_000 - 1 + 8_000
