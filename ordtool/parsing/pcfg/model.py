"""A neural grammar: probabilities of rules that small networks make of a vector a symbol.

Rules share what their symbols have in common, which is why gradient descent finds grammars that counting never does (Kim,
Dyer and Rush 2019). The left and the right child are drawn independently (Liu, Yang, Kim and Tu 2023), which lets a grammar
have hundreds or thousands of symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ordtool.errors import UsageError
from ordtool.parsing.pcfg.inside import Grammar

__all__ = ["MODEL_TYPE", "PcfgConfig", "PcfgModel"]

MODEL_TYPE = "ordtool_pcfg"


@dataclass(frozen=True)
class PcfgConfig:
    """The shape of a grammar.

    Attributes:
        vocab_size: Words and shape classes.
        num_nonterminals: Symbols with two children, m.
        num_preterminals: Symbols with a word, p.
        state_size: Of a symbol's vector.
    """

    vocab_size: int
    num_nonterminals: int = 256
    num_preterminals: int = 512
    state_size: int = 256

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            UsageError: If one is less than 1.
        """
        for name in ("vocab_size", "num_nonterminals", "num_preterminals", "state_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')} must be at least 1")


class PcfgModel(nn.Module):
    """Vectors of symbols and words, and the networks that make rules of them.

    With symbol vectors e, word vectors v and `f(x) = relu(W x + b) + x`:

        P(root -> A)        softmax over A of <root, e_A>
        P_left(B | A)       softmax over B of <f_left(e_B), f_parent(e_A)>        P_right likewise
        P(T -> w)           softmax over w of <g(e_T) + e_T, v_w>                 g: a linear layer and three residual blocks

    Source: Liu et al. 2023, appendix; the weights' first values are Xavier's, as there.
    """

    def __init__(self, config: PcfgConfig) -> None:
        super().__init__()
        self.config = config
        size = config.state_size
        self.root = nn.Parameter(torch.empty(1, size))
        self.symbols = nn.Parameter(torch.empty(config.num_nonterminals + config.num_preterminals, size))
        self.words = nn.Parameter(torch.empty(config.vocab_size, size))
        self.parent = nn.Linear(size, size)
        self.left = nn.Linear(size, size)
        self.right = nn.Linear(size, size)
        self.emission = nn.Sequential(nn.Linear(size, size), *(_Residual(size) for _ in range(3)))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def grammar(self) -> Grammar:
        """Return the probabilities of the rules."""
        count = self.config.num_nonterminals
        nonterminals = self.symbols[:count]
        parents = F.relu(self.parent(nonterminals)) + nonterminals
        left = F.relu(self.left(self.symbols)) + self.symbols
        right = F.relu(self.right(self.symbols)) + self.symbols
        # (2 m, m + p): a row a parent and side.
        rules = torch.cat((parents @ left.T, parents @ right.T)).softmax(dim=-1)
        root = (self.root @ nonterminals.T).softmax(dim=-1)[0]
        return Grammar(root, rules[:, :count].T, rules[:, count:].T)

    def emission_vectors(self) -> tuple[Tensor, Tensor]:
        """Return a vector `(p, state_size)` for each preterminal, and the logarithm of what its words sum to, `(p,)`."""
        preterminals = self.symbols[self.config.num_nonterminals :]
        vectors = self.emission(preterminals) + preterminals
        result: Tensor = _LogSumOfWords.apply(vectors, self.words)
        return vectors, result

    def word_scores(self, ids: Tensor, vectors: Tensor, normalizer: Tensor) -> Tensor:
        """Return log P(T -> w) for the words of sentences.

        Args:
            ids: `(batch, n)`.
            vectors: See `emission_vectors`.
            normalizer: Likewise.

        Returns:
            `(batch, n, p)`.
        """
        return F.embedding(ids, self.words) @ vectors.T - normalizer


# Words whose products are held at a time: a CPU's caches hold them.
_WORDS_AT_A_TIME = 2048


class _LogSumOfWords(torch.autograd.Function):
    """log of the sum over words of exp(vector . word): vectors `(p, size)` and words `(v, size)` give `(p,)`.

    What autograd would keep is larger than all the rest of a step; here products are made twice instead, some words at a
    time. The gradient is the words' shares, softmax(vector . word), times the other factor.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, words: Tensor) -> Tensor:
        parts = [torch.logsumexp(vectors @ some.T, dim=-1) for some in words.split(_WORDS_AT_A_TIME)]
        total = torch.logsumexp(torch.stack(parts), dim=0)
        ctx.save_for_backward(vectors, words, total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        vectors, words, total = ctx.saved_tensors
        weights = gradients[0][:, None]
        weighted = vectors * weights
        by_vectors, by_words = torch.zeros_like(vectors), torch.empty_like(words)
        for some, by_some in zip(
            words.split(_WORDS_AT_A_TIME), by_words.split(_WORDS_AT_A_TIME), strict=True
        ):
            shares = torch.addmm(-total[:, None], vectors, some.T).exp_()
            by_vectors.addmm_(shares, some)
            torch.mm(shares.T, weighted, out=by_some)
        return by_vectors.mul_(weights), by_words


class _Residual(nn.Module):
    """x + relu(W relu(V x + a) + b)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(size, size)
        self.outer = nn.Linear(size, size)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + F.relu(self.outer(F.relu(self.inner(hidden))))
