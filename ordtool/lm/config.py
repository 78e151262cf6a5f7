"""The shape of the small Transformer."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from ordtool.lm.position_schemes import (
    BOTH_WAYS,
    SCHEMES,
    TWO_TABLES,
    TrainedShape,
    all_parameters,
    check_parameters,
)
from ordtool.models.releases import CACHE_NAMES

OBJECTIVES = ("causal", "prefix", "permutation", "masked")


class OrdtoolLMConfig(PreTrainedConfig):
    """TrainedShape and objective of an `OrdtoolLMForCausalLM`.

    Args:
        vocab_size: Rows of the embedding table.
        hidden_size: Size of hidden states.
        intermediate_size: Inner size of the gated feed-forward blocks.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads of queries.
        num_key_value_heads: Heads of keys and values, shared by groups of queries' heads; None: as many.
        key_size: Size of a head's queries and keys, the papers' d_k; None: hidden_size / heads.
        value_size: Size of a head's values; None: hidden_size / heads.
        talking_heads: Mix across heads: `before` the softmax the scores (Lambda alone), `after` it the weights (M alone),
            `both` or True both.
        logn: Scale scores by ln(keys seen) / ln(max_position_embeddings), at least 1, so that training at that
            length is as without it; `trained`: below 1 too, so that training is with it.
        positions: One of `ordtool.lm.position_schemes.SCHEMES`: `rope`, `nope` (none), `alibi` ...
        position_parameters: The scheme's parameters; those that are missing have their defaults.
        rope_theta: Base of the rotary frequencies.
        max_position_embeddings: The length trained on; `generate` takes it for the context.
        objective: `causal`; `prefix`: a source is read in both directions; `permutation`: any order; `masked`: an
            encoder, for `OrdtoolLMForMaskedLM`.
        rms_norm_eps: Of the root-mean-square norms.
        initializer_range: Standard deviation of fresh weights.
        tie_word_embeddings: The embedding table is the softmax layer too.
        use_cache: Return keys and values.

    Raises:
        ValueError: If sizes don't fit or a name is unknown.
        UsageError: If a parameter of the positions is unknown or can't be.
    """

    model_type = "ordtool_lm"
    keys_to_ignore_at_inference = [*CACHE_NAMES]

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    # None when it is given, and never afterwards.
    num_key_value_heads: int = None  # type: ignore[assignment]
    key_size: int = None  # type: ignore[assignment]
    value_size: int = None  # type: ignore[assignment]
    talking_heads: bool | str = False
    logn: bool | str = False
    positions: str = "rope"
    position_parameters: dict[str, float] = None  # type: ignore[assignment]
    rope_theta: float = 10000.0
    max_position_embeddings: int = 256
    objective: str = "causal"
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        self.key_size = self.key_size or self.hidden_size // self.num_attention_heads
        self.value_size = self.value_size or self.hidden_size // self.num_attention_heads
        if self.talking_heads == "both":
            self.talking_heads = True
        if self.positions == "hwfa2" and "full" in (self.position_parameters or {}):
            self.positions = "hwfa"  # its name in models that were saved before there was an hwfa2
        self._check()
        given = self.position_parameters or {}
        check_parameters(self.positions, given)
        shape = TrainedShape(self.max_position_embeddings, self.num_hidden_layers)
        self.position_parameters = all_parameters(self.positions, given, shape)
        # As transformers' own decoders say it, for whoever changes frequencies after training.
        self.head_dim = self.key_size
        kwargs.pop("head_dim", None)
        self.rope_parameters = {"rope_type": "default", "rope_theta": float(self.rope_theta)}
        kwargs.pop("rope_parameters", None)
        self.use_cache = (
            self.use_cache and self.objective != "masked"
        )  # what an encoder says changes with more text
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective {self.objective!r} is none of {', '.join(OBJECTIVES)}")
        if self.positions not in SCHEMES:
            raise ValueError(f"positions {self.positions!r} is none of {', '.join(SCHEMES)}")
        if self.logn not in (True, False, "trained"):
            raise ValueError(f"logn {self.logn!r} is none of True, False and 'trained'")
        if self.talking_heads not in (True, False, "before", "after"):
            raise ValueError(f"talking_heads {self.talking_heads!r} is none of both, before and after")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} heads can't share {self.num_key_value_heads} heads of keys and values"
            )
        if self.positions in TWO_TABLES and self.talking_heads:
            raise ValueError(f"{self.positions} positions have two tables of scores, which can't talk")
        if self.positions == "random" and self.objective == "permutation":
            raise ValueError("a permuted model learns a vector a position, so positions can't be random")
        if self.objective == "masked" and self.positions not in BOTH_WAYS:
            raise ValueError(f"a model that reads both ways can't have {self.positions} positions")
        if SCHEMES[self.positions].rotary and self.key_size % 2:
            raise ValueError(f"rotary positions need an even key_size, not {self.key_size}")
        if not (isinstance(self.rms_norm_eps, int | float) and 0 <= self.rms_norm_eps < 1):
            raise ValueError(f"rms_norm_eps {self.rms_norm_eps!r} is no small number")
        if min(self.key_size, self.value_size) < 1:
            raise ValueError("a head needs a size of at least 1")
