"""Penalties and sampling options against transformers' processors, and by their definitions."""

import pytest
import torch
from transformers.generation import logits_process as theirs

from ordtool.generation import warping
from ordtool.generation.config import Decoding
from ordtool.generation.processors import penalised, warped

IDS = torch.tensor([[3, 7, 3, 7, 3], [9, 9, 9, 1, 9], [0, 1, 2, 3, 4]])


@pytest.fixture(params=["usual", "flat", "ties", "peaked", "forbidden"])
def scores(request):
    draw = torch.Generator().manual_seed(4)
    found = torch.randn(3, 40, generator=draw) * 3
    if request.param == "flat":
        found = torch.zeros(3, 40)
    elif request.param == "ties":
        found = found.round()
    elif request.param == "peaked":
        found[:, 5] = 90
    elif request.param == "forbidden":
        found[:, 10:] = -torch.inf
    return found


@pytest.mark.parametrize(
    "ours, processor, values",
    [
        (warping.top_k, theirs.TopKLogitsWarper, [1, 2, 7, 40, 99]),
        (warping.top_p, theirs.TopPLogitsWarper, [1e-6, 0.3, 0.9, 0.999]),
        (warping.min_p, theirs.MinPLogitsWarper, [0.0, 0.05, 0.5, 1.0]),
        (warping.typical, theirs.TypicalLogitsWarper, [0.01, 0.5, 0.95]),
    ],
)
def test_what_is_drawn_from(scores, ours, processor, values):
    for value in values:
        found = ours(scores, value)
        assert torch.equal(found, processor(value)(IDS, scores.clone()))
        assert (found > -torch.inf).any(-1).all()


@pytest.mark.parametrize(
    "ours, processor, values",
    [
        (warping.repetition_penalty, theirs.RepetitionPenaltyLogitsProcessor, [0.5, 1.7]),
        (warping.no_repeat_ngram, theirs.NoRepeatNGramLogitsProcessor, [1, 2, 3, 5, 6, 9]),
    ],
)
def test_penalties(scores, ours, processor, values):
    for value in values:
        for length in range(1, IDS.shape[1] + 1):
            kept = scores.clone()
            found = ours(IDS[:, :length], scores, value)
            assert torch.equal(found, processor(value)(IDS[:, :length], scores.clone()))
            assert torch.equal(scores, kept)


def test_tokens_that_the_last_layer_does_not_have():
    ids, scores = torch.tensor([[50, 2, 40, 1]]), torch.linspace(-2, 3, 40)[None]
    found = warping.repetition_penalty(ids, scores, 1.5)
    assert (found != scores).nonzero()[:, 1].tolist() == [1, 2]


def test_in_the_usual_order():
    draw = torch.Generator().manual_seed(5)
    scores = torch.randn(3, 40, generator=draw) * 3
    decoding = Decoding(
        temperature=0.8,
        top_k=30,
        top_p=0.9,
        min_p=0.01,
        typical=0.8,
        repetition_penalty=1.3,
        no_repeat_ngram=2,
    )
    chain = theirs.LogitsProcessorList(
        [
            theirs.RepetitionPenaltyLogitsProcessor(1.3),
            theirs.NoRepeatNGramLogitsProcessor(2),
            theirs.TemperatureLogitsWarper(0.8),
            theirs.TopKLogitsWarper(30),
            theirs.TopPLogitsWarper(0.9),
            theirs.MinPLogitsWarper(0.01),
            theirs.TypicalLogitsWarper(0.8),
        ]
    )
    assert torch.equal(warped(decoding, penalised(decoding, IDS, scores)), chain(IDS, scores.clone()))
