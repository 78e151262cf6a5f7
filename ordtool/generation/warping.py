"""What penalties and sampling options do to scores: functions of torch alone, so that a start needs nothing else.

`ids` is what was written so far with the prompt, `(rows, length)`; `scores` are logits `(rows, vocabulary)`. A token
that is not to be written gets minus infinity. The results are those of transformers' processors of these names.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def repetition_penalty(ids: Tensor, scores: Tensor, penalty: float) -> Tensor:
    """Divide positive scores of tokens seen before, multiply negative ones (Keskar et al. 2019, section 4.1)."""
    rows, size = scores.shape
    # A table of embeddings can be longer than the last layer: those ids fall into one column more.
    seen = torch.zeros(rows, size + 1, dtype=torch.bool, device=scores.device)
    seen = seen.scatter(1, ids.clamp(max=size), True)[:, :size]
    return penalise(seen, scores, penalty)


def penalise(seen: Tensor, scores: Tensor, penalty: float) -> Tensor:
    """Do what `repetition_penalty` does, where `(rows, vocabulary)` says which tokens were seen."""
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def no_repeat_ngram(ids: Tensor, scores: Tensor, size: int) -> Tensor:
    """Forbid what would end an n-gram that was there before (Paulus et al. 2018, section 2.5)."""
    scores = scores.clone()
    for row, seen in enumerate(ids.tolist()):
        last = seen[len(seen) - size + 1 :]
        ends = [seen[i + size - 1] for i in range(len(seen) - size + 1) if seen[i : i + size - 1] == last]
        if ends:
            scores[row, ends] = -math.inf
    return scores


def top_k(scores: Tensor, k: int) -> Tensor:
    """Keep the k best, and what is as good as the last of them (Fan et al. 2018)."""
    least = scores.topk(min(k, scores.shape[1])).values[:, -1:]
    return scores.masked_fill(scores < least, -math.inf)


def top_p(scores: Tensor, mass: float) -> Tensor:
    """Keep the fewest tokens that hold `mass` of the probability together (Holtzman et al. 2020, section 3.1)."""
    rising, places = scores.sort()
    drop = rising.softmax(-1).cumsum(-1) <= 1 - mass
    drop[:, -1] = False
    return scores.masked_fill(torch.zeros_like(drop).scatter(1, places, drop), -math.inf)


def min_p(scores: Tensor, share: float) -> Tensor:
    """Keep tokens at least `share` times as probable as the best (Nguyen et al. 2024)."""
    probabilities = scores.softmax(-1)
    best = probabilities.max(-1, keepdim=True)
    drop = (probabilities < share * best.values).scatter(1, best.indices, False)
    return scores.masked_fill(drop, -math.inf)


def typical(scores: Tensor, mass: float) -> Tensor:
    """Keep the mass of tokens whose surprise is nearest to the entropy (Meister et al. 2022)."""
    logs = scores.log_softmax(-1)
    entropy = -(logs * logs.exp()).nansum(-1, keepdim=True)
    away, places = (-logs - entropy).abs().sort()
    held = scores.gather(1, places).softmax(-1).cumsum(-1)
    count = (held < mass).sum(1, keepdim=True).clamp(max=scores.shape[1] - 1)
    drop = away > away.gather(1, count)
    drop[:, 0] = False
    return scores.masked_fill(torch.zeros_like(drop).scatter(1, places, drop), -math.inf)
