import dataclasses
from collections import Counter

import nltk
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordtool.errors import OrdtoolError
from ordtool.parsing.trees.builders import left_branching, random_tree, right_branching
from ordtool.parsing.trees.predictions import align_constituents, read_predictions
from ordtool.parsing.trees.scoring import (
    PROTOCOLS,
    Protocol,
    prepare_gold,
    score_pairs,
    score_trees,
)
from ordtool.parsing.trees.treebank import PUNCTUATION_TAGS, read_trees, to_tree


def tree(text):
    return to_tree(text.replace("(", " ( ").replace(")", " ) ").split())


CAT = tree("(S (NP (DT The) (JJ old) (NN cat)) (VP (VBD sat) (PP (IN on) (NP (DT the) (NN mat)))) (. .))")
QUOTED = tree("(S (`` ``) (S (VP (VB Go) (NP (NN home)))) ('' '') (NP (PRP she)) (VP (VBD said)) (. .))")
NO = tree("(INTJ (UH No) (. .))")
TWO = tree("(NP (JJ Cold) (NN War))")


def only(rows):
    return rows[0]


def test_a_sentence_by_hand():
    # Words 0-6: gold (0,3) (3,7) (4,7) (5,7); predicted (1,7) (3,7) (4,6), the whole span (0,7) dropped.
    row = only(score_trees([[(0, 8), (0, 7), (1, 7), (3, 7), (4, 6)]], [CAT], baselines=False))
    precision, recall = 1 / 3, 1 / 4
    assert row.sentence_f1 == pytest.approx(100 * 2 * precision * recall / (precision + recall), abs=1e-4)
    assert row.corpus_f1 == pytest.approx(100 * 2 * 1 / (3 + 4))
    assert row.label_recall == {"NP": 0.0, "VP": 100.0, "PP": 0.0}
    assert row.length_f1.keys() == {"1-10"}


def test_punctuation_goes_out_of_both_trees():
    # Quotes and the period are not scored; a span that holds one word and a quote is no span.
    row = only(score_trees([[(0, 6), (0, 4), (1, 3), (3, 6), (2, 4)]], [QUOTED], baselines=False))
    gold = prepare_gold(QUOTED, Protocol())
    assert gold.length == 4 and gold.spans == {(0, 2)}
    assert row.corpus_f1 == pytest.approx(100 * 2 / (1 + 2))  # predicted (0,2) and (2,4)


@pytest.mark.parametrize(
    ("changes", "length", "spans"),
    [
        ({}, 7, {(0, 3), (3, 7), (4, 7), (5, 7)}),
        ({"whole_span": True}, 7, {(0, 7), (0, 3), (3, 7), (4, 7), (5, 7)}),
        ({"punctuation": "keep"}, 8, {(0, 3), (3, 7), (4, 7), (5, 7)}),
        ({"binarize_gold": "left"}, 7, {(0, 3), (0, 2), (3, 7), (4, 7), (5, 7)}),
        ({"binarize_gold": "right"}, 7, {(0, 3), (1, 3), (3, 7), (4, 7), (5, 7)}),
    ],
)
def test_protocols_on_one_tree(changes, length, spans):
    gold = prepare_gold(CAT, dataclasses.replace(Protocol(), **changes))
    assert gold.length == length and gold.spans == spans


def test_kim_keeps_the_double_root_and_symbols():
    root = tree("(S (VP (VB Pay) (NP ($ $) (CD 5) (NN %))) (. .))")
    assert prepare_gold(root, Protocol()).spans == set()  # two words are left: Pay 5
    assert prepare_gold(root, PROTOCOLS["kim"]).spans == {(0, 4), (1, 4)}
    [row] = score_trees([[(0, 5), (0, 4), (1, 4), (2, 4)]], [root], PROTOCOLS["kim"], baselines=False)
    assert row.corpus_f1 == pytest.approx(100 * 2 * 1 / (2 + 2))  # the prediction's own root is dropped


def test_short_sentences_and_empty_gold():
    gold, predicted = [CAT, NO, TWO], [right_branching(8), [(0, 2)], [(0, 2)]]
    by_default = only(score_trees(predicted, gold))
    assert by_default.sentences == 2  # one word is no tree
    alone = only(score_trees(predicted[:1], gold[:1]))
    assert by_default.sentence_f1 == pytest.approx((alone.sentence_f1 + 100) / 2, abs=1e-4)
    for protocol in (Protocol(empty_gold="skip"), Protocol(min_length=3), Protocol(max_length=1)):
        row = only(score_trees(predicted, gold, protocol))
        assert row.sentences == (0 if protocol.max_length else 1)
        assert row.sentence_f1 == pytest.approx(0.0 if protocol.max_length else alone.sentence_f1)


def test_trivial_rows_are_the_trivial_trees():
    gold = [CAT, QUOTED, NO, TWO]
    rows = {row.system: row for row in score_trees([[]] * 4, gold)}
    assert list(rows) == ["prediction", "left", "right", "balanced", "random"]
    assert {row.sentences for row in rows.values()} == {3}
    for name, builder in (("left", left_branching), ("right", right_branching)):
        lengths = [prepare_gold(one, Protocol()).length for one in gold]
        bare = [
            dataclasses.replace(
                one,
                tokens=("w",) * length,
                tags=("NN",) * length,
                constituents=tuple(
                    node._replace(start=prepare_gold(one, Protocol()).position[node.start],
                                  end=prepare_gold(one, Protocol()).position[node.end])
                    for node in one.constituents
                ),
            )
            for one, length in zip(gold, lengths, strict=True)
        ]  # fmt: skip
        mine = only(score_trees([builder(length) for length in lengths], bare))
        assert mine.sentence_f1 == pytest.approx(rows[name].sentence_f1)
    again = {row.system: row.sentence_f1 for row in score_trees([[]] * 4, gold)}
    assert again["random"] == rows["random"].sentence_f1


@settings(max_examples=50)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_f1_is_that_of_sets(length, seed):
    generator = np.random.default_rng(seed)
    gold_spans, predicted = random_tree(length, generator), random_tree(length, generator)

    def write(start, end, spans):
        if end - start == 1:
            return f"(NN w{start})"
        split = next(
            b
            for a, b in [*spans, (start, start + 1)]
            if a == start and b < end and (b, end) in {*spans, (end - 1, end)}
        )
        return f"(X {write(start, split, spans)} {write(split, end, spans)})"

    gold = tree(write(0, length, gold_spans))
    assert {(node.start, node.end) for node in gold.constituents} == set(gold_spans)
    row = only(score_trees([predicted], [gold], baselines=False))
    inner = (
        {span for span in gold_spans if span != (0, length)},
        {span for span in predicted if span != (0, length)},
    )
    expected = 100.0 if length == 2 else 100 * len(inner[0] & inner[1]) / (length - 2)
    assert row.sentence_f1 == pytest.approx(expected, abs=1e-4) and row.corpus_f1 == pytest.approx(
        expected if length > 2 else 0.0
    )


def test_a_row_names_its_protocol_and_counts_must_agree():
    row = only(score_trees([[]], [CAT], Protocol(max_length=10), system="mine", baselines=False)).to_dict()
    assert row["protocol"] == "no punctuation, no whole span, 2-10 words" and row["system"] == "mine"
    assert list(row) == [
        "system",
        "sentence_f1",
        "corpus_f1",
        "sentences",
        "protocol",
        "label_recall",
        "length_f1",
    ]
    with pytest.raises(ValueError, match="longer"):
        score_trees([[]], [CAT, CAT])


@pytest.mark.parametrize("name", ["left", "right", "balanced", "random"])
def test_a_file_named_like_a_baseline_is_not_one(name):
    prediction = [(0, 8), (0, 3), (3, 7)]
    mine = score_trees([prediction] * 2, [CAT] * 2, system="mine")
    named = score_trees([prediction] * 2, [CAT] * 2, system=name)
    assert [row.system for row in named] == [name, "left", "right", "balanced", "random"]
    for one, other in zip(mine, named, strict=True):
        assert one.to_dict() | {"system": name} == other.to_dict() | {"system": name}


GOLD = "(S (NP (NNP Ann)) (VP (VBD gave) (NP (PRP him)) (NP (DT the) (NN book)) (PRT (RP up))) (. .))"
FOUND = "(S (NP (NNP Ann)) (VP (VBD gave) (NP (PRP him) (DT the)) (NP (NN book)) (ADVP (RP up)) (. .)))"


def labelled(predicted, gold, tmp_path, **options):
    """Scores of trees in brackets, through files."""
    for name, text in (("pred.mrg", predicted), ("gold.mrg", gold)):
        (tmp_path / name).write_text(text)
    pairs = align_constituents(read_predictions(tmp_path / "pred.mrg"), read_trees(tmp_path / "gold.mrg"))
    return score_pairs(pairs, Protocol(**options), labels=True, baselines=False)[0].labelled


def test_labelled_f1_of_a_hand_counted_pair(tmp_path):
    """Gold: S NP VP NP(him) NP(the book) PRT. Found: S NP VP and PRT = ADVP are right, NP NP are not: 4 of 6."""
    found = labelled(FOUND, GOLD, tmp_path)
    assert found == pytest.approx({"precision": 400 / 6, "recall": 400 / 6, "f1": 400 / 6, "exact": 0})
    # With the punctuation the VP ends elsewhere.
    assert labelled(FOUND, GOLD, tmp_path, punctuation="keep")["f1"] == pytest.approx(300 / 6)
    assert labelled(GOLD, GOLD, tmp_path)["exact"] == 100


def nltk_nodes(text):
    """Labelled spans by nltk's trees: an independent count of what EVALB counts."""
    tree = nltk.Tree.fromstring(text)
    for place in reversed(tree.treepositions("leaves")):
        if tree[place[:-1]].label() in PUNCTUATION_TAGS:
            del tree[place[:-1]]
    places = {position: k for k, position in enumerate(tree.treepositions("leaves"))}
    nodes = Counter()
    for position in tree.treepositions():
        node = tree[position]
        if isinstance(node, nltk.Tree) and node.height() > 2:
            inside = [k for leaf, k in places.items() if leaf[: len(position)] == position]
            if inside:
                nodes[node.label().replace("PRT", "ADVP"), min(inside), max(inside) + 1] += 1
    return nodes


def test_labelled_counts_are_those_of_nltk_trees(tmp_path):
    gold = [
        GOLD,
        "(S (NP (NP (NNS dogs)) (, ,) (CC and) (NP (NN cat) (-LRB- -LRB-) (NP (NP (NN pet))) (-RRB- -RRB-)))"
        " (VP (VBP run)))",
        "(FRAG (NP (NP (DT the) (NN end))) (. .))",
    ]
    found = [
        FOUND,
        "(S (NP (NNS dogs) (, ,) (CC and) (NN cat)) (VP (-LRB- -LRB-) (NP (NN pet)) (-RRB- -RRB-) (VBP run)))",
        gold[2],
    ]
    shared = predicted = wanted = 0
    for mine, theirs in zip(found, gold, strict=True):
        a, b = nltk_nodes(mine), nltk_nodes(theirs)
        shared, predicted, wanted = shared + (a & b).total(), predicted + a.total(), wanted + b.total()
    figures = labelled("\n".join(found), "\n".join(gold), tmp_path)
    assert figures["precision"] == pytest.approx(100 * shared / predicted)
    assert figures["recall"] == pytest.approx(100 * shared / wanted)
    assert figures["exact"] == pytest.approx(100 / 3)


def test_trees_without_labels_have_no_labelled_f1(tmp_path):
    (tmp_path / "pred.jsonl").write_text('{"tokens": ["a", "b"], "spans": [[0, 2]]}')
    (tmp_path / "gold.mrg").write_text("(S (NP (DT a)) (VP (VB b)))")
    pairs = align_constituents(read_predictions(tmp_path / "pred.jsonl"), read_trees(tmp_path / "gold.mrg"))
    with pytest.raises(OrdtoolError, match=r"pred.jsonl:1: a tree without labels"):
        score_pairs(pairs, labels=True)
