"""What models think of every span, and trees that several of them agree on."""

import json

import numpy as np
import pytest

from ordtool.errors import UsageError
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.parser import Parser, parse
from ordtool.parsing.trees.builders import unbiased_spans
from ordtool.parsing.trees.chart import best_distances, chart_spans, soft_scores
from ordtool.parsing.voting import mean_tables, probable_spans

TEXTS = ["The old cat sat on the mat, and the dog ran.", "She said not.", "The cat, a dog.", "Ran"]


def every_tree(start, end):
    """All binary trees, as sets of spans."""
    if end - start < 2:
        yield frozenset()
    for middle in range(start + 1, end):
        for left in every_tree(start, middle):
            for right in every_tree(middle, end):
                yield left | right | {(start, end)}


def test_soft_scores_agree_with_the_tree_and_lie_between_0_and_1():
    distances = np.random.default_rng(0).random(9)
    spans = unbiased_spans(distances)
    scores = soft_scores(distances, spans)
    assert chart_spans(scores) == spans
    inside = [scores[span] for span in spans if span != (0, 9)]
    outside = [scores[i, j] for i in range(9) for j in range(i + 2, 10) if (i, j) not in spans]
    assert max(outside) < 0.5 < min(inside) and scores[0, 9] == 1 and scores.min() == 0 and scores.max() == 1


def test_best_distances_are_those_of_each_table_alone():
    random = np.random.default_rng(1)
    tables = [random.random((n, n + 1)) for n in (5, 1, 8, 5, 2, 8)]
    for table, distances in zip(tables, best_distances(tables), strict=True):
        assert unbiased_spans(distances) == chart_spans(table)


def test_the_tree_of_a_vote_has_the_largest_weighted_sum():
    random = np.random.default_rng(2)
    tables = [[random.random((6, 7))] for _ in range(3)]
    weights = [3.0, 0.5, 1.0]
    [mean] = mean_tables(tables, weights)
    total = {
        tree: sum(w * t[0][i, j] for w, t in zip(weights, tables, strict=True) for i, j in tree)
        for tree in every_tree(0, 6)
    }
    assert len(total) == 42
    assert frozenset(chart_spans(mean)) == max(total, key=lambda tree: total[tree])


def test_probable_spans_are_counted_in_tokens():
    table = np.zeros((3, 4))
    table[0, 2], table[1, 3], table[0, 3], table[0, 1] = 0.0499, 0.12345, 1.0, 1.0
    assert probable_spans(table, [False, True, False, False, True]) == [(0, 4, 1.0), (2, 4, 0.123)]


def folders(parsers, *seeds):
    return [str(parsers(seed=seed)) for seed in seeds]


def test_one_weight_that_counts_gives_that_models_tree(parsers):
    one, two = folders(parsers, 0, 1)
    options = {"vote": "posteriors", "builder": "unbiased", "dtype": "float32"}
    alone = [result.tree for result in parse(TEXTS, model=two, builder="unbiased", dtype="float32")]
    found = [result.tree for result in parse(TEXTS, model=[one, two], weights=[0, 1], **options)]
    assert found == alone


def test_posteriors_stand_in_the_output_and_change_no_tree(parsers):
    model = folders(parsers, 0, 1)
    plain = list(parse(TEXTS, model=model))
    for bare, result in zip(plain, parse(TEXTS, model=model, posteriors=True), strict=True):
        assert (result.tree, bare.posteriors) == (bare.tree, None)
        assert json.loads(json.dumps(result.to_dict()))["posteriors"] == [list(x) for x in result.posteriors]
        assert "posteriors" not in bare.to_dict()
        count = len(result.tokens)
        assert all(0 <= i < j - 1 < count and 0.05 <= p <= 1 for i, j, p in result.posteriors)


def test_a_packaged_span_scorer_votes_with_its_probabilities():
    model = ["english", "english-onlstm"]
    [found] = Parser(ParseConfig(model=model, vote="posteriors", posteriors=True, dtype="float32")).parse(
        TEXTS[:1]
    )
    probability = {(i, j): p for i, j, p in found.posteriors}
    assert probability[0, 3] > 0.5  # The old cat
    assert {(0, 3), (4, 7)} <= set(found.spans)
    [alone] = parse(TEXTS[:1], model="english", dtype="float32")
    [table] = parse(TEXTS[:1], model="english", dtype="float32", posteriors=True)
    assert table.tree == alone.tree


def test_a_line_that_is_too_long_is_parsed_without_them(parsers):
    [result] = parse(["the cat sat " * 70], model=folders(parsers, 0, 1), posteriors=True, vote="posteriors")
    assert result.posteriors is None and len(result.spans) == 209


@pytest.mark.parametrize(
    "wrong", [{"weights": [1]}, {"weights": [1, -1]}, {"weights": [0, 0]}, {"vote": "x"}], ids=str
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError):
        ParseConfig(model=["a", "b"], **wrong)


def test_the_options_of_the_command(run_in_process, fails_in_process, parsers):
    models = [word for folder in folders(parsers, 0, 1) for word in ("-m", folder)]
    options = ["--vote", "posteriors", "--weights", "2,1", "--posteriors"]
    done = run_in_process("parse", *models, *options, stdin=b"The old cat sat.\n")
    assert done.returncode == 0, done.stderr
    assert [0, 5, 1.0] not in json.loads(done.stdout)["posteriors"]  # the full stop is no word
    assert [0, 4, 1.0] in json.loads(done.stdout)["posteriors"]
    assert "are no numbers" in fails_in_process("parse", *models, "--weights", "a,b", status=2)
