import json

import pytest

from ordtool.errors import OrdtoolError
from ordtool.parsing.trees.predictions import align_predictions, read_predictions
from ordtool.parsing.trees.treebank import read_trees

GOLD = "(S (NP (DT The) (CD 30,000) (NNS cats)) (VP (VBD sat) (-LRB- -LRB-) (ADVP (RB down)) (-RRB- -RRB-)) (. .))\n"
SPANS = [(0, 8), (0, 3), (3, 7)]


@pytest.fixture
def aligned(tmp_path):
    (tmp_path / "gold.mrg").write_text(GOLD)

    def call(text, name="pred.jsonl"):
        (tmp_path / name).write_text(text)
        return list(align_predictions(read_predictions(tmp_path / name), read_trees([tmp_path / "gold.mrg"])))

    return call


def line(tokens, spans):
    return json.dumps({"id": 1, "tokens": tokens.split(), "spans": spans}) + "\n"


@pytest.mark.parametrize(
    ("text", "name", "spans"),
    [
        (line("The 30,000 cats sat ( down ) .", SPANS), "p.jsonl", SPANS),
        (line("the N cats sat -LRB- down -RRB- .", SPANS), "p.jsonl", SPANS),
        (line("The 30,000 cats sat down", [(0, 5), (0, 3), (3, 5)]), "p.jsonl", [(0, 6), (0, 3), (3, 6)]),
        (line("the <unk> cats sat down", [(0, 5)]), "p.jsonl", [(0, 6)]),
        ("(((The 30,000) cats) (sat -LRB- down -RRB-) .)", "p.txt", [(0, 8), (0, 3), (0, 2), (3, 7)]),
        ("(The (30,000 (cats (sat down))))", "p.txt", [(0, 6), (1, 6), (2, 6), (3, 6)]),
        (
            "(X (X (D The) (X (C 30,000) (N cats))) (X (V sat) (A down)))",
            "p.mrg",
            [(0, 6), (0, 3), (1, 3), (3, 6)],
        ),
    ],
)
def test_predictions_are_laid_over_the_gold_tokens(aligned, text, name, spans):
    [(found, tree)] = aligned(text, name)
    assert sorted(set(found)) == sorted(spans) and len(tree.tokens) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (line("The 30,000 dogs sat ( down ) .", SPANS), "pred.jsonl:1: the tokens are not those of"),
        (line("The cats sat down", []), "expected '30,000'"),
        ("", "gold tree 1 has no prediction: there are only 0"),
        (
            line("The 30,000 cats sat down", []) * 2,
            "pred.jsonl:2: prediction 2 has no gold tree: there are only 1",
        ),
        ('{"tokens": ["a"]}\n', "pred.jsonl:1: no list 'spans'"),
        (
            line("The 30,000 cats sat down", [(0, 9)]),
            "pred.jsonl:1: a span is no pair of places among its 5 tokens",
        ),
        (line("The 30,000 cats sat down", [(2, 2)]), "a span is no pair"),
        ('{"tokens": [\n', "pred.jsonl:1: malformed JSON"),
    ],
)
def test_what_does_not_fit_is_named(aligned, text, message):
    with pytest.raises(OrdtoolError) as caught:
        aligned(text)
    assert message in caught.value.message and caught.value.hint
