"""The inside algorithm of a grammar with independent left and right children, and its gradient.

With `P(A -> B C) = P_left(B | A) P_right(C | A)` the inside score of A over words i to j - 1 is

    s_A[i, j] = sum over k of l_A[i, k] r_A[k, j]
    l_A[i, k] = sum over B of P_left(B | A) s_B[i, k]          r_A[k, j] likewise

l and r are made once a span, so a sentence of n words and a grammar of m symbols take O(n^2 m^2 + n^3 m) instead of
O(n^3 m^3).

Numbers are kept as `exp(scale) * value`, one scale a span and values between 0 and 1, so that nothing but the scales is
ever exponentiated and all the rest are sums of products. All numbers are positive: nothing cancels, factors may be
rounded to TF32, and what is too small for float32's full precision is zero. The gradient is written out, as the same
recurrence from wide spans to narrow ones; it recomputes the products of parts, so that memory holds n^2 m numbers and
not n^3 m.

Source: Liu, Yang, Kim and Tu 2023 (*Simple hardware-efficient PCFGs with independent left and right productions*),
section 3; the scaling and the gradient are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ordtool.parsing.pcfg.merging import Merger, TorchMerger, span_count, span_offset
from ordtool.runtime import denormals_as_zero

__all__ = ["Grammar", "inside", "span_posteriors"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """Probabilities of the rules, for m nonterminals and p preterminals.

    Attributes:
        root: `(m,)`: of each nonterminal over a whole sentence.
        nonterminal_children: `(m, 2 m)`: column A is `P_left(. | A)` of nonterminals, column m + A `P_right(. | A)`.
        preterminal_children: `(p, 2 m)`: the same of preterminals; both together sum to 1 in each column. Products with
            these two have their type; all else has the type of the words.
    """

    root: Tensor
    nonterminal_children: Tensor
    preterminal_children: Tensor


def inside(
    words: Tensor, grammar: Grammar, merger: Merger | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Return the log-probability of each sentence, differentiable by all of its arguments.

    Args:
        words: `(batch, n, p)`: log-probability of each word under each preterminal; n is two at least.
        grammar: The rules.
        merger: What computes sums over splits; None: plain PyTorch.
        dtype: Element type of products with the rules; None: that of the rules.

    Returns:
        `(batch,)`, nats.

    Raises:
        ValueError: For sentences of under two words: no rule makes one.
    """
    if words.shape[1] < 2:
        raise ValueError("the grammar makes sentences of two words or more")
    result: Tensor = _Inside.apply(
        words, grammar.root, grammar.nonterminal_children, grammar.preterminal_children, merger, dtype
    )
    return result


@torch.no_grad()
def span_posteriors(
    words: Tensor, grammar: Grammar, potentials: Tensor | None = None, merger: Merger | None = None
) -> Tensor:
    """Return the probability that each span is a constituent of the sentence: the gradient by a potential of the span.

    Args:
        words: As for `inside`.
        grammar: The rules.
        potentials: `(batch, n, n + 1)`: what is known beforehand: a tree counts `exp` of the sum over its spans.
        merger: As for `inside`.

    Returns:
        `(batch, n, n + 1)`: entry `[b, i, j]` for words i to j - 1; 0 for widths under 2. Those of a sentence sum to n - 1.
    """
    batch, length, _ = words.shape
    starts, ends = _span_edges(length, words.device)
    by_span = None if potentials is None else potentials[:, starts, ends].T.to(words.dtype)
    chart = _Chart.fill(words, grammar, merger or TorchMerger(), by_span)
    outer, _ = chart.outside(torch.ones_like(chart.total))
    weights = (chart.sums * outer).sum(dim=-1)
    wide = slice(length, None)
    table = weights.new_zeros(batch, length, length + 1)
    table[:, starts[wide], ends[wide]] = weights[wide].T
    return table.clamp_(0.0, 1.0)


class _Inside(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        words: Tensor,
        root: Tensor,
        nonterminals: Tensor,
        preterminals: Tensor,
        merger: Merger | None,
        dtype: torch.dtype | None,
    ) -> Tensor:
        if dtype is not None:
            nonterminals, preterminals = nonterminals.to(dtype), preterminals.to(dtype)
        chart = _Chart.fill(words, Grammar(root, nonterminals, preterminals), merger or TorchMerger())
        ctx.chart = chart
        return chart.log_likelihood

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (*ctx.chart.gradients(gradients[0]), None, None)


@dataclass(slots=True)
class _Chart:
    """Inside values of all spans of a batch; spans are counted by width, then by start (see `span_offset`).

    Attributes:
        grammar: The rules.
        merger: What computes sums over splits.
        emissions: `(n, batch, p)`: probability of each word, over the largest one.
        sums: `(spans, batch, m)`: s over its scale; widths under 2 have none.
        children: `(spans, batch, 2 m)`: l and r over the same scale.
        scales: `(spans, batch)`: logarithms.
        sum_scales: The same without the spans' potentials.
        total: `(batch,)`: probability of the sentence over its scale.
        log_likelihood: `(batch,)`.
    """

    grammar: Grammar
    merger: Merger
    emissions: Tensor
    sums: Tensor
    children: Tensor
    scales: Tensor
    sum_scales: Tensor
    total: Tensor
    log_likelihood: Tensor

    @classmethod
    @denormals_as_zero()
    def fill(
        cls, words: Tensor, grammar: Grammar, merger: Merger, potentials: Tensor | None = None
    ) -> _Chart:
        """Compute all spans, narrow ones first; `potentials` is `(spans, batch)`."""
        batch, length, _ = words.shape
        size = len(grammar.root)
        spans = span_count(length)
        by_word = words.transpose(0, 1)
        highest = by_word.amax(dim=-1)
        emissions = torch.exp(by_word - highest[..., None]).contiguous()
        sums = words.new_empty(spans, batch, size)
        sums[:length] = 0
        children = words.new_empty(spans, batch, 2 * size)
        scales = words.new_empty(spans, batch)
        sum_scales = scales if potentials is None else torch.empty_like(scales)
        scales[:length] = highest
        _product(emissions, grammar.preterminal_children, children[:length])
        for width in range(2, length + 1):
            first = span_offset(width, length)
            last = first + length - width + 1
            merger.forward(children, scales, sums, sum_scales, width)
            if potentials is not None:
                torch.add(sum_scales[first:last], potentials[first:last], out=scales[first:last])
            if width < length:
                _product(sums[first:last], grammar.nonterminal_children, children[first:last])
        total = sums[-1] @ grammar.root
        likelihood = torch.log(total) + scales[-1]
        return cls(grammar, merger, emissions, sums, children, scales, sum_scales, total, likelihood)

    @denormals_as_zero()
    def outside(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients by `sums` and by `children`, computed from wide spans to narrow ones.

        Args:
            gradient: `(batch,)`, by `log_likelihood`.
        """
        length, grammar = len(self.emissions), self.grammar
        outer = torch.empty_like(self.sums)
        by_children = torch.empty_like(self.children)
        outer[:length] = 0
        outer[-1] = (gradient / self.total)[:, None] * grammar.root
        for width in range(length - 1, 0, -1):
            first = span_offset(width, length)
            last = first + length - width + 1
            self.merger.backward(self.children, self.scales, outer, self.sum_scales, by_children, width)
            if width > 1:
                _product(by_children[first:last], grammar.nonterminal_children.T, outer[first:last])
        return outer, by_children

    @denormals_as_zero()
    def gradients(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients by the words and by the three tables of the grammar."""
        length = len(self.emissions)
        _, by_children = self.outside(gradient)
        by_root = (gradient / self.total) @ self.sums[-1]
        wide = slice(length, len(self.sums) - 1)
        rules = self.grammar.preterminal_children
        nonterminals = _sum_of_products(self.sums[wide], by_children[wide], rules.dtype)
        preterminals = _sum_of_products(self.emissions, by_children[:length], rules.dtype)
        by_words = torch.empty_like(self.emissions)
        _product(by_children[:length], rules.T, by_words)
        return by_words.mul_(self.emissions).transpose(0, 1), by_root, nonterminals, preterminals


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Write `left @ right`, its leading axes taken together, into `out`; factors have the type of `right`."""
    left, out = left.flatten(0, 1), out.view(-1, right.shape[1])
    if right.dtype == out.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left.to(right.dtype) @ right)


def _sum_of_products(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sum over all leading axes of outer products, its factors rounded to `dtype`.

    It lies in memory as rules are made, a row a parent: what follows in the backward pass copies nothing.
    """
    left, right = left.flatten(0, 1), right.flatten(0, 1)
    return (right.to(dtype).T @ left.to(dtype)).to(left.dtype).T


@lru_cache(maxsize=256)
def _span_edges(length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Start and end of each span, in the chart's order."""
    pairs = [(i, i + width) for width in range(1, length + 1) for i in range(length - width + 1)]
    edges = torch.tensor(pairs, device=device).T
    return edges[0], edges[1]
