import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordtool.parsing.trees.builders import left_branching, random_tree, right_branching
from ordtool.parsing.trees.draw import (
    build_nodes,
    display_width,
    draw_tree,
    to_ansi,
)
from ordtool.parsing.trees.svg import draw_svg

SENTENCE = "The cat sat on the mat .".split()
SPANS = [(0, 7), (0, 2), (2, 6), (3, 6), (4, 6)]


def drawn(tokens, spans, width=80):
    return to_ansi(draw_tree(tokens, spans, width), colour=False).split("\n")


def test_upright():
    assert drawn(SENTENCE, SPANS) == [
        "   ┌────────┬──────────┐",
        "   │     ┌──┴──┐       │",
        "   │     │  ┌──┴──┐    │",
        " ┌─┴─┐   │  │   ┌─┴─┐  │",
        "The cat sat on the mat .",
    ]


def test_sideways_when_it_does_not_fit():
    assert drawn(SENTENCE, SPANS, width=20) == [
        "┬─┬─ The",
        "│ └─ cat",
        "├─┬─ sat",
        "│ └─┬─ on",
        "│   └─┬─ the",
        "│     └─ mat",
        "└─ .",
    ]
    assert drawn(SENTENCE, SPANS, width=9)[:3] == ["┬┬ The", "│└ cat", "├┬ sat"]


def test_brackets_when_it_is_deeper_than_the_screen():
    lines = drawn([f"w{k}" for k in range(60)], right_branching(60), width=40)
    assert lines[0].startswith("(w0 (w1") and all(len(line) <= 40 for line in lines[:-4])


def test_no_words_and_one():
    assert drawn([], []) == ["()"] and drawn(["Yes"], []) == ["Yes"]


def test_colours_by_depth_and_dim_punctuation():
    text = to_ansi(draw_tree(SENTENCE, SPANS, 80))
    assert "\x1b[36m" in text and "\x1b[34m" in text and "\x1b[2m.\x1b[0m" in text
    assert re.sub(r"\x1b\[\d+m", "", text).split("\n") == drawn(SENTENCE, SPANS)
    assert "\x1b[31m" not in "".join(drawn(["a\x1b[31m", "b"], [(0, 2)]))


def test_wide_characters_take_two_columns():
    assert [display_width(text) for text in ("ab", "我们", "é", "e\u0301", "ａ")] == [2, 4, 1, 1, 2]
    lines = drawn(["我们", "喜欢", "北京"], [(0, 3), (1, 3)])
    assert lines == [" ┌──────┐", " │    ┌─┴──┐", "我们 喜欢 北京"]


@given(st.integers(2, 14), st.integers(0, 2**32 - 1), st.integers(5, 100))
def test_every_tree_can_be_drawn_and_fits(length, seed, width):
    generator = np.random.default_rng(seed)
    tokens = ["w" * int(n) for n in generator.integers(1, 5, length)]
    spans = random_tree(length, generator)
    lines = drawn(tokens, spans, width)
    words = re.sub(r"[^w]+", " ", " ".join(lines)).split()
    assert words == tokens
    if len(lines) != length and "┌" in lines[0]:  # upright: every stroke that goes down arrives somewhere
        assert max(map(len, lines)) <= width
        for above, below in zip(lines, lines[1:-1], strict=False):
            for column, stroke in enumerate(above):
                if stroke in "│┌┐┬┼":
                    assert below[column] in "│┴┼┌┐┬─", (column, lines)


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_nodes_are_the_spans(length, seed):
    spans = random_tree(length, np.random.default_rng(seed))
    nodes = build_nodes(spans, length)
    assert [(node.start, node.end) for node in nodes if node.children] == spans
    assert [node.start for node in nodes if not node.children] == list(range(length))
    for node in nodes:
        assert not node.children or (node.children[0].start, node.children[-1].end) == (node.start, node.end)
        assert all(child.depth == node.depth + 1 for child in node.children)


@pytest.mark.parametrize("build", [left_branching, right_branching])
def test_svg_is_well_formed_and_escaped(build):
    tokens = ["<b>", "&", '"', "我们", "a\x00b", "]]>"]
    root = ET.fromstring(draw_svg([(tokens, build(6)), ([], []), (["Yes"], [])]))
    names = [element.tag.split("}")[1] for element in root.iter()]
    texts = [element.text for element in root.iter() if element.tag.endswith("}text")]
    assert names.count("path") == 5 and texts == ["<b>", "&", '"', "我们", "a\ufffdb", "]]>", "()", "Yes"]
    width, height = float(root.get("width")), float(root.get("height"))
    for element in root.iter():
        if element.tag.endswith("}text"):
            assert 0 < float(element.get("x")) < width and float(element.get("y")) < height
