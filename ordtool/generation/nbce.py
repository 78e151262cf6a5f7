"""Several texts read side by side: naive Bayes context extension (NBCE; Su, kexue.fm/archives/9617 and 9632).

The model reads each text with the question, and the question alone, as rows of one batch. At each step the next token comes
from one distribution,

    log p(T | S_1 .. S_n) = (1 + beta) log p(T | S_k) - beta log p(T),

where k is the text whose distribution has the lowest entropy, and all rows go on with the token chosen. So the texts
together may be longer than the context, and time and memory grow linearly with their number. Their order is lost.

As in the article's code, distributions are cut to the likeliest tokens that hold 95% before; a token that the question alone
doesn't keep is not reduced by it; and 0.1 is taken off the entropy of the text that decided last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ordtool.generation.warping import top_p

if TYPE_CHECKING:
    from ordtool.generation.processors import TokenSelector

MASS = 0.95
STAYS = 0.1


def pooled(scores: torch.Tensor, beta: float, last: int | None) -> tuple[torch.Tensor, int]:
    """Make one distribution of several.

    Args:
        scores: Logits: without a text in the first row, then with each, `(1 + texts, vocabulary)`.
        beta: How much what the model says without a text is taken off.
        last: The text that decided last, from 0; None: none did.

    Returns:
        Scores `(vocabulary,)`, not normalised, and the text that decides.
    """
    logs = scores.float().log_softmax(-1)
    logs = logs.masked_fill(top_p(logs, MASS) == -torch.inf, -torch.inf)
    probabilities = logs.exp()
    entropy = -(probabilities * logs.masked_fill(probabilities == 0, 0)).sum(-1)[1:]
    if last is not None:
        entropy[last] -= STAYS
    decides = int(entropy.argmin())
    without, told = logs[0], logs[1 + decides]
    return torch.where(without > -torch.inf, (1 + beta) * told - beta * without, told), decides


class ContextPool:
    """The last logits processor where texts are read side by side: the same chosen token in all rows.

    Args:
        select: Selects the token of one row.
        beta: As in `pooled`.

    Attributes:
        decided: Which text decided each token, from 0.
    """

    def __init__(self, select: TokenSelector, beta: float) -> None:
        self._select = select
        self._beta = beta
        self.decided: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map logits `(1 + texts, vocabulary)` to scores of the same shape."""
        found, decides = pooled(scores, self._beta, self.decided[-1] if self.decided else None)
        chosen = self._select(input_ids[:1], found[None])
        self.decided.append(decides)
        return chosen.expand(len(scores), -1)
