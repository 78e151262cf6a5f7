"""What decides how text is parsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from ordtool.arguments import as_strings
from ordtool.errors import UsageError, close_match_hint
from ordtool.parsing.text.tokenize import TOKEN_KINDS
from ordtool.parsing.trees.builders import BUILDERS
from ordtool.parsing.trees.config import DISTANCES
from ordtool.parsing.voting import VOTES, check_weights

__all__ = ["ParseConfig", "ParseOptions"]


@dataclass(frozen=True, slots=True)
class ParseConfig:
    """How to parse.

    Attributes:
        model: A model folder or name, or several, which vote.
        layer: Layers whose distances make trees: `2`, `2,3` (equal shares), `2:0.25,3:0.75`; None: each model's own. Of a
            model that reads in two directions, those that read from the right are counted on behind the others.
        distance: `forget` or `input`: the master gate of an ON-LSTM whose distances make trees; None: each model's own.
        builder: `paper`, `unbiased`, `chart` or `mixed`; None: each model's own. With several models, `chart` and `mixed`
            add up their span scores, and the others build a tree a model and let the trees vote.
        right_branching_bias: How far trees lean to the right where distances leave it open, see `add_right_branching_bias`;
            None: each model's own.
        vote: How several models agree: `trees`, the tree with most spans of theirs, or `posteriors`, the tree with the
            largest sum of what each thinks of its spans.
        weights: What each model counts, in `posteriors`; None: all the same.
        posteriors: Give the probabilities of spans as well, the models' mean.
        binary: Draw a binary tree, without labels, also where the model would leave out spans.
        punctuation: Let punctuation say where phrases end, as far as the models know how; see
            `ordtool.parsing.trees.punctuation`.
        tokens: `words`, `chars`, `jieba` or `whitespace`; None: the model's own.
        batch_size: Sentences a batch, at most. 64 batches are read ahead to be sorted by length; 1 reads nothing ahead.
        device: As in `ordtool.runtime.resolve_device`.
        dtype: Of matrix products, as in `ordtool.runtime.resolve_dtype`.
    """

    model: str | Sequence[str] = "english"
    layer: str | None = None
    distance: str | None = None
    builder: str | None = None
    right_branching_bias: float | None = None
    vote: str = "trees"
    weights: Sequence[float] | None = None
    posteriors: bool = False
    binary: bool = False
    punctuation: bool = True
    tokens: str | None = None
    batch_size: int = 128
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked without the models.

        Raises:
            UsageError: For no model, an unknown distance, builder, vote or kind of tokens, or other than a weight a model.
        """
        if not self.models:
            raise UsageError("no model was named")
        if self.builder is not None and self.builder not in BUILDERS:
            raise UsageError(f"unknown builder {self.builder!r}", close_match_hint(self.builder, BUILDERS))
        if self.distance is not None and self.distance not in DISTANCES:
            raise UsageError(
                f"unknown `distance` {self.distance!r}", close_match_hint(self.distance, DISTANCES)
            )
        if self.vote not in VOTES:
            raise UsageError(f"unknown vote {self.vote!r}", close_match_hint(self.vote, VOTES))
        if self.weights is not None:
            check_weights(self.weights, len(self.models))
        kinds = (*TOKEN_KINDS, "whitespace")
        if self.tokens is not None and self.tokens not in kinds:
            raise UsageError(f"unknown tokens {self.tokens!r}", close_match_hint(self.tokens, kinds))

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, one or several."""
        return as_strings(self.model)


class ParseOptions(TypedDict, total=False):
    """The fields of `ParseConfig`, as keywords of `parse`."""

    model: str | Sequence[str]
    layer: str | None
    distance: str | None
    builder: str | None
    right_branching_bias: float | None
    vote: str
    weights: Sequence[float] | None
    posteriors: bool
    binary: bool
    punctuation: bool
    tokens: str | None
    batch_size: int
    device: str
    dtype: str
