"""Minimal pairs, against a plain loop over tokens, for an ON-LSTM and a Transformer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ordtool import OrdtoolError
from ordtool.generation.agreement import Pair, read_pairs, score_agreement, summarize
from ordtool.models.resolve import resolve_model

ROOT = Path(__file__).parent.parent.parent
PAIRS = [
    {
        "good": "The old house near the trees is empty.",
        "bad": "The old house near the trees are empty.",
        "type": "pp",
    },
    {"good": "The dogs run.", "bad": "The dogs runs."},
    {
        "good": "The men that saw the boy were here.",
        "bad": "The men that saw the boy was here.",
        "type": "rc",
    },
]


def plain(name, text, start=None):
    """Log-probabilities token by token, each from its own prefix, in float64."""
    from ordtool.models.loading import load_model, load_tokenizer

    folder = resolve_model(name)
    model, tokenizer = load_model(folder, "causal").model.double(), load_tokenizer(folder)
    tokens = tokenizer.tokenize(text)
    ids = tokenizer.convert_tokens_to_ids(tokens)
    # Neither has a token that begins a text.
    begin = tokenizer.eos_token_id if start is None else tokenizer.convert_tokens_to_ids(start)
    with torch.inference_mode():
        return [
            float(model(torch.tensor([[begin, *ids[:k]]])).logits[0, -1].log_softmax(-1)[ids[k]])
            for k in range(len(ids))
        ]


@pytest.mark.parametrize("name", ["english-onlstm", "tinylm"])
def test_scores_are_sums_over_tokens(name):
    found = score_agreement(PAIRS, name, device="cpu")
    assert [score.pair.good for score in found] == [pair["good"] for pair in PAIRS]
    for score in found[:2]:
        for scored in (score.good, score.bad):
            expected = plain(name, scored.text)
            assert scored.score == pytest.approx(sum(expected), abs=2e-3)
            assert sum(scored.word_scores) == pytest.approx(scored.score, abs=1e-6)
            if name == "tinylm":
                assert scored.words == scored.text.split()
            else:
                np.testing.assert_allclose(scored.word_scores, expected, atol=1e-3)


def test_another_token_to_stand_behind():
    scored = score_agreement(PAIRS[1:2], "tinylm", start=".")[0].good
    np.testing.assert_allclose(scored.score, sum(plain("tinylm", scored.text, ".")), rtol=0, atol=1e-4)
    with pytest.raises(OrdtoolError, match="no token '<start>'"):
        score_agreement(PAIRS, "tinylm", start="<start>")


def test_accuracy_by_type():
    found = score_agreement(PAIRS, "tinylm", device="cpu")
    rows = summarize(found)
    assert [(row.type, row.pairs) for row in rows] == [("all", 3), ("pp", 1), ("rc", 1)]
    right = [score.good.score > score.bad.score for score in found]
    assert rows[0].right == sum(right) and rows[0].accuracy == pytest.approx(100 * sum(right) / 3)
    assert [row.right for row in rows[1:]] == [right[0], right[2]]


def test_what_a_vocabulary_cannot_tell_apart_is_wrong():
    [found] = score_agreement([Pair("The zorbled cat sat.", "The quibled cat sat.")], device="cpu")
    assert found.same and not found.right


def test_a_prefix_and_a_bad_line(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"prefix": "The dogs", "good": "run.", "bad": "runs.", "type": "x"}\n{"good": "a", "bad": "b"}\n'
    )
    assert read_pairs(file) == [Pair("The dogs run.", "The dogs runs.", "x"), Pair("a", "b")]
    for text, message in (
        ('{"good": "a"}\n', "bad"),
        ('{"good": 1, "bad": "b"}\n', "of texts"),
        ("", "no pairs"),
    ):
        file.write_text(text)
        with pytest.raises(OrdtoolError, match=message):
            read_pairs(file)


def test_the_shell(run_in_process, tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    done = run_in_process("score", "agreement", "a.jsonl", "-m", "tinylm", "--details", "d.jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    details = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert rows[0]["pairs"] == 3 and rows[0]["right"] == sum(line["right"] for line in details)
    assert [word for word, _ in details[1]["bad_words"]] == ["The", "dogs", "runs."]
    refused = run_in_process("score", "agreement", "a.jsonl", "-m", "static")
    assert refused.returncode in (1, 2) and "Traceback" not in refused.stderr


def test_the_examples_are_what_the_script_writes():
    made = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "agreement_pairs.py"],
        capture_output=True,
        env={**os.environ},
        check=True,
    )
    assert made.stdout.decode() == (ROOT / "examples" / "agreement.jsonl").read_text()
    assert len({pair.good for pair in read_pairs(ROOT / "examples" / "agreement.jsonl")}) == 200
