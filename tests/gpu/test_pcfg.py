"""On a card a grammar's sums over splits are kernels and its steps recorded graphs, which give what PyTorch gives."""

import numpy as np
import pytest
import torch

from ordtool.parsing.pcfg.config import PcfgTrainingConfig
from ordtool.parsing.pcfg.inference import merger_for
from ordtool.parsing.pcfg.inside import inside, span_posteriors
from ordtool.parsing.pcfg.model import PcfgConfig, PcfgModel
from ordtool.parsing.pcfg.steps import EagerSteps, GraphSteps

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def model(nonterminals, preterminals):
    torch.manual_seed(0)
    return PcfgModel(PcfgConfig(500, nonterminals, preterminals, 64)).to("cuda")


@pytest.mark.parametrize("nonterminals", [48, 256, 1000])
def test_kernels_are_those_of_the_cpu(nonterminals):
    made = model(nonterminals, 300)
    ids = torch.randint(0, 500, (5, 23), generator=torch.Generator().manual_seed(1))
    results = []
    for device in ("cpu", "cuda"):
        made.to(device).zero_grad()
        words = made.word_scores(ids.to(device), *made.emission_vectors())
        likelihood = inside(words, made.grammar(), merger_for(torch.device(device)))
        likelihood.sum().backward()
        table = span_posteriors(words.detach(), made.grammar(), None, merger_for(torch.device(device)))
        gradients = [p.grad.cpu().clone() for p in made.parameters()]
        results.append([likelihood.detach().cpu(), table.cpu(), *gradients])
    for expected, found in zip(*results, strict=True):
        assert float((found - expected).norm()) <= 1e-4 * float(expected.norm())


def test_recorded_steps_are_those_of_pytorch():
    ids = np.random.default_rng(0).integers(0, 500, 4000).astype(np.int32)
    config = PcfgTrainingConfig(batch_size=4, num_nonterminals=48, num_preterminals=80, dtype="float32")
    ends = []
    for kind in (EagerSteps, GraphSteps):
        made = model(48, 80)
        steps = kind(made, ids, config, merger_for(torch.device("cuda")))
        losses = []
        for number in range(12):
            length = (7, 12)[number % 2]
            starts = np.arange(number, number + 4 - (number == 9)) * length
            steps.take(length, starts, 2e-3 / (1 + number // 4))
            losses.append(steps.collect_loss())
        ends.append((losses, [p.detach().clone() for p in made.parameters()]))
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-3)
    for plain, recorded in zip(ends[0][1], ends[1][1], strict=True):
        assert float((plain - recorded).norm()) <= 1e-2 * float(plain.norm())
