"""The choice of the next token, the same alone and in a batch.

Floating-point sums depend on the shape of a batch in their last bits, so the same
prompt's logits differ by some 1e-5 between batches, and two tokens that are nearly as
probable can change places. Here such near ties are decided by logits that don't
depend on the batch: those of the row alone, without padding and without a cache.
Penalties look at a row without its padding, and draws come from a generator of the
row's own, so sampled texts don't depend on the neighbours either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import torch

from ordtool.generation import warping
from ordtool.generation.config import Decoding

UnbatchedLogits = Callable[[int, torch.Tensor], torch.Tensor]
"""(prompt's number, its generated ids) -> logits (vocabulary,) of the row by itself."""

MARGIN = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 0.25}
"""Nearer than this, two logits of size up to 8 are a near tie: some 30 times the noise measured."""


# Tokens between two looks at how long a text has become.
_WATCHED = 64


def penalised(decoding: Decoding, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Apply the options that look at the tokens so far, `(rows, length)`, to scores `(rows, vocabulary)`."""
    if decoding.repetition_penalty != 1:
        scores = warping.repetition_penalty(ids, scores, decoding.repetition_penalty)
    if decoding.no_repeat_ngram:
        scores = warping.no_repeat_ngram(ids, scores, decoding.no_repeat_ngram)
    return scores


def warped(decoding: Decoding, scores: torch.Tensor) -> torch.Tensor:
    """Apply the options that reshape the distribution before a draw, in the usual order."""
    if decoding.temperature not in (None, 0, 1):
        scores = scores / float(decoding.temperature or 1)
    if decoding.top_k is not None:
        scores = warping.top_k(scores, decoding.top_k)
    if decoding.top_p is not None and decoding.top_p < 1:
        scores = warping.top_p(scores, decoding.top_p)
    if decoding.min_p is not None:
        scores = warping.min_p(scores, decoding.min_p)
    if decoding.typical is not None:
        scores = warping.typical(scores, decoding.typical)
    return scores


def draw(decoding: Decoding, scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw by inversion: the first token at which the cumulated probability passes u.

    Args:
        decoding: The options that reshape the distribution.
        scores: `(rows, vocabulary)`.
        uniform: u of each row, `(rows, 1)`, float64.

    Returns:
        Tokens, `(rows,)`.
    """
    probabilities = warped(decoding, scores).double().softmax(-1)
    cumulated = probabilities.cumsum(-1)
    drawn = torch.searchsorted(cumulated, uniform * cumulated[:, -1:], right=True).squeeze(1)
    # u times the total can round up to the total itself.
    last = probabilities.shape[1] - 1 - (probabilities.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(drawn, last)


def row_generator(seed: int, index: int, sample: int) -> np.random.Generator:
    """Return the generator of one sample of one record: a function of these numbers alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, sample])))


class TokenSelector:
    """The last logits processor: leaves exactly the chosen token, or penalised scores for beams.

    Args:
        decoding: The options.
        pads: How many padding tokens stand before each prompt.
        columns: How many columns of a sequence are prompt, padding included.
        unbatched_logits: The row's own logits, for near ties.
        indices: The records' numbers in the stream, for draws.
        ended: Says of a generated row whether it has ended (its logits don't matter).
        dtype: Of the model's arithmetic.
        watch: Called with the number of tokens that a row has, now and then.
    """

    def __init__(
        self,
        decoding: Decoding,
        *,
        pads: Sequence[int],
        columns: int,
        unbatched_logits: UnbatchedLogits,
        indices: Sequence[int],
        ended: Callable[[Sequence[int]], bool],
        dtype: torch.dtype,
        watch: Callable[[int], None] | None = None,
    ) -> None:
        self.pads = list(pads)
        self.columns = columns
        self.unbatched_logits = unbatched_logits
        self.ended = ended
        self.margin = MARGIN.get(dtype, 1e-3)
        self.decoding = decoding
        self.penalising = decoding.repetition_penalty != 1 or decoding.no_repeat_ngram > 0
        self.beams = decoding.beams > 1
        self.generators = (
            [row_generator(decoding.seed, i, s) for i in indices for s in range(decoding.n)]
            if decoding.sampling
            else []
        )
        self.near_ties = 0
        self._watch = watch

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map logits (rows, vocabulary) to scores of the same shape."""
        written = input_ids.shape[1] - self.columns
        if self._watch is not None and written and written % _WATCHED == 0:
            self._watch(written)
        scores = self._penalised(input_ids, scores)
        if self.beams:
            return scores
        chosen = self._draw(scores) if self.generators else self._steady_argmax(input_ids, scores)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, chosen[:, None], 0.0)

    def uniform(self, steps: int) -> torch.Tensor:
        """Return the numbers that the next `steps` draws of every row are made with, `(rows, steps)`; none are used up."""
        return torch.from_numpy(
            np.array([deepcopy(generator).random(steps) for generator in self.generators])
        )

    def _penalised(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.penalising:
            return scores
        rows = [
            penalised(self.decoding, ids[None, self._pad(row, len(input_ids)) :], scores[row : row + 1])
            for row, ids in enumerate(input_ids)
        ]
        return torch.cat(rows)

    def _prompt(self, row: int, rows: int) -> int:
        """Return the prompt of a row: samples and beams of a prompt stand together."""
        return row // (rows // len(self.pads))

    def _pad(self, row: int, rows: int) -> int:
        return self.pads[self._prompt(row, rows)]

    def _steady_argmax(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        best, tokens = scores.topk(2)
        scale = best[:, 0].abs().clamp(min=8) / 8
        near = (best[:, 0] - best[:, 1]) < self.margin * scale
        chosen = tokens[:, 0].clone()
        for row in near.nonzero().flatten().tolist():
            generated = input_ids[row, self.columns :]
            if self.ended(generated.tolist()):
                continue
            self.near_ties += 1
            logits = self.unbatched_logits(self._prompt(row, len(scores)), generated).float()[None]
            ids = input_ids[row : row + 1, self._pad(row, len(scores)) :]
            logits = penalised(self.decoding, ids, logits)[0]
            # What earlier processors forbid (forced or suppressed tokens) stays forbidden.
            chosen[row] = logits.masked_fill(scores[row] == -torch.inf, -torch.inf).argmax()
        return chosen

    def _draw(self, scores: torch.Tensor) -> torch.Tensor:
        uniform = torch.tensor([[g.random()] for g in self.generators], dtype=torch.float64)
        return draw(self.decoding, scores, uniform.to(scores.device))
