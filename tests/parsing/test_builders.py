from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordtool.errors import UsageError
from ordtool.parsing.trees.builders import (
    balanced_tree,
    build_spans,
    left_branching,
    mix_distances,
    paper_spans,
    random_tree,
    right_branching,
    unbiased_spans,
)
from ordtool.parsing.trees.chart import chart_spans, margin_scores, vote_scores

# Few distinct heights, so that ties happen.
heights = st.lists(st.one_of(st.integers(0, 3).map(float), st.floats(0, 1)), max_size=12)


@cache
def all_trees(start, end):
    """Every binary tree over the words from start to end, as sets of spans wider than one word."""
    if end - start < 2:
        return (frozenset(),)
    return tuple(
        left | right | {(start, end)}
        for middle in range(start + 1, end)
        for left in all_trees(start, middle)
        for right in all_trees(middle, end)
    )


def paper_by_definition(distances, start=0):
    """The rule of the paper, written as it is said: split at the largest into (left, (word, right))."""
    if len(distances) < 2:
        return []
    k = max(range(len(distances)), key=lambda i: (distances[i], -i))
    spans = [(start, start + len(distances))]
    if 0 < k < len(distances) - 1:
        spans.append((start + k, start + len(distances)))
    return (
        spans
        + paper_by_definition(distances[:k], start)
        + paper_by_definition(distances[k + 1 :], start + k + 1)
    )


def unbiased_by_definition(distances, start=0):
    if len(distances) < 2:
        return []
    k = max(range(1, len(distances)), key=lambda i: (distances[i], -i))
    return [
        (start, start + len(distances)),
        *unbiased_by_definition(distances[:k], start),
        *unbiased_by_definition(distances[k:], start + k),
    ]


def is_preorder(spans):
    return spans == sorted(spans, key=lambda span: (span[0], -span[1])) and len(set(spans)) == len(spans)


@given(heights)
def test_paper_builder_is_its_definition(distances):
    spans = paper_spans(distances)
    assert sorted(spans) == sorted(paper_by_definition(distances)) and is_preorder(spans)
    assert len(distances) > 7 or frozenset(spans) in all_trees(0, len(distances))


@given(heights)
def test_unbiased_builder_is_its_definition(distances):
    spans = unbiased_spans(distances)
    assert sorted(spans) == sorted(unbiased_by_definition(distances)) and is_preorder(spans)
    assert len(distances) > 7 or frozenset(spans) in all_trees(0, len(distances))


def test_the_unbiased_builder_reaches_every_tree_and_the_paper_one_does_not():
    generator = np.random.default_rng(0)
    for length in (5, 6):
        draws = generator.random((4_000, length))
        assert {frozenset(unbiased_spans(draw)) for draw in draws} == set(all_trees(0, length))
        reached = {frozenset(paper_spans(draw)) for draw in draws}
        assert len(reached) < len(all_trees(0, length))
        assert frozenset({(0, length), (0, 2), (2, length), (2, length - 1), (2, 4)}) not in reached


@given(st.integers(0, 7), st.randoms(use_true_random=False))
def test_chart_finds_the_best_of_all_trees(length, random):
    table = np.array(
        [[random.choice([-1.0, 0.0, 0.5, random.random()]) for _ in range(length + 1)] for _ in range(length)]
    )
    table = table.reshape(length, length + 1)
    spans = chart_spans(table)
    assert frozenset(spans) in all_trees(0, length) and is_preorder(spans)
    best = max(sum(table[span] for span in tree) for tree in all_trees(0, length))
    assert sum(table[span] for span in spans) == pytest.approx(best, abs=1e-12)


def test_chart_of_ties_is_right_branching():
    assert chart_spans(np.zeros((6, 7))) == right_branching(6)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=10, unique=True))
def test_margins_are_positive_for_the_unbiased_tree_alone(distances):
    table = margin_scores(distances)
    length = len(distances)
    positive = {(i, j) for i in range(length) for j in range(i + 2, length + 1) if table[i, j] > 0}
    assert positive == set(unbiased_spans(distances)) - {(0, length)}
    assert chart_spans(table) == unbiased_spans(distances) == build_spans(distances, "chart")


@given(st.lists(st.integers(0, 10**6), min_size=3, max_size=8, unique=True))
def test_mixed_trees_hold_the_most_of_the_papers_spans_and_of_the_margins(distances):
    margins, paper = margin_scores(distances), set(paper_spans(distances))

    def value(tree):
        return sum((span in paper) + 0.4 * min(max(margins[span], -2), 2) for span in tree)

    spans = build_spans(distances, "mixed")
    best = max(value(tree) for tree in all_trees(0, len(distances)))
    assert value(spans) == pytest.approx(best, abs=1e-9)


def test_a_vote_follows_the_majority_and_the_first_in_doubt():
    trees = [right_branching(5), left_branching(5), left_branching(5)]
    assert chart_spans(vote_scores(trees, 5)) == left_branching(5)
    for first, second in [(left_branching(6), right_branching(6)), (right_branching(6), left_branching(6))]:
        assert chart_spans(vote_scores([first, second], 6)) == first


@given(st.lists(st.integers(0, 41), min_size=1, max_size=5))
def test_votes_are_the_best_tree_by_count(picks):
    trees = [list(all_trees(0, 5)[pick % 14]) for pick in picks]
    counts = [sum(len(tree & frozenset(vote)) for vote in trees) for tree in all_trees(0, 5)]
    chosen = frozenset(chart_spans(vote_scores(trees, 5)))
    assert sum(len(chosen & frozenset(vote)) for vote in trees) == max(counts)


def test_thousands_of_words():
    generator = np.random.default_rng(0)
    for distances in (
        generator.random(100_000),
        np.arange(100_000.0),
        -np.arange(100_000.0),
        np.zeros(100_000),
    ):
        for builder in ("paper", "unbiased"):
            assert len(build_spans(distances, builder)) == 99_999  # quadratic work would take hours


def test_chart_of_a_long_sentence():
    assert len(chart_spans(margin_scores(np.random.default_rng(0).random(700)))) == 699


def test_trivial_trees():
    assert right_branching(4) == [(0, 4), (1, 4), (2, 4)]
    assert left_branching(4) == [(0, 4), (0, 3), (0, 2)]
    assert balanced_tree(5) == [(0, 5), (0, 3), (0, 2), (3, 5)]
    for length in range(8):
        for spans in (right_branching(length), left_branching(length), balanced_tree(length)):
            assert frozenset(spans) in all_trees(0, length) and is_preorder(spans)
    assert random_tree(9, np.random.default_rng(3)) == random_tree(9, np.random.default_rng(3))


@settings(max_examples=30)
@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_mixing_one_layer_changes_nothing_and_scale_does_not_matter(length, seed):
    layers = np.random.default_rng(seed).random((3, length))
    assert (mix_distances(layers, [0, 2, 0]) == layers[1]).all()
    mixed = mix_distances(layers, [1, 0, 3])
    scaled = mix_distances(layers * np.array([[5.0], [1.0], [0.1]]) + 7, [1, 0, 3])
    assert unbiased_spans(mixed) == unbiased_spans(scaled)
    by_hand = sum(w * (layers[k] - layers[k].mean()) / layers[k].std() for k, w in ((0, 1), (2, 3)))
    assert np.corrcoef(mixed, by_hand)[0, 1] == pytest.approx(1)


def test_refusals():
    with pytest.raises(UsageError, match="unknown builder 'papr'") as caught:
        build_spans([0.1, 0.2], "papr")
    assert "did you mean 'paper'" in caught.value.hint
    with pytest.raises(ValueError, match="finite"):
        build_spans([0.1, float("nan"), 0.3], "paper")
    with pytest.raises(ValueError, match="weights"):
        mix_distances(np.zeros((2, 3)), [1.0])
    with pytest.raises(ValueError, match="NaN"):
        chart_spans(np.full((3, 4), np.nan))
