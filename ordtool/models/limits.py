"""How long a text a model and its tokenizer take, as their configurations say it."""

from __future__ import annotations

from typing import Any

_LIMITS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_encoder_position_embeddings",
)
# The padding id that MPNet's code takes, whatever its configuration says.
_MPNET_PADDING = 1
# Families whose positions are counted from the padding id + 1, so that as many can't be used.
_FROM_PADDING = frozenset(
    "camembert data2vec-text esm ibert lilt longformer luke markuplm mpnet roberta roberta-prelayernorm xlm-roberta "
    "xlm-roberta-xl xmod".split()
)
UNBOUNDED = 10**7
"""Configurations and tokenizers say numbers from here on where they mean no limit."""


def usable_context(config: Any) -> int | None:
    """Return how many positions a model has for tokens; None where nothing limits it (relative positions).

    Args:
        config: The model's configuration.
    """
    config = config.get_text_config()
    if hasattr(config, "relative_attention_num_buckets") and not hasattr(config, "max_position_embeddings"):
        return None  # T5's kind: its old files have an `n_positions` that limits nothing
    for name in _LIMITS:
        value = getattr(config, name, None)
        if isinstance(value, int) and 0 < value < UNBOUNDED:
            return value - position_offset(config)
    return None


def position_offset(config: Any) -> int:
    """Return the number of the first position: in RoBERTa's family the padding id + 1, elsewhere 0."""
    if config.model_type not in _FROM_PADDING:
        return 0
    padding = _MPNET_PADDING if config.model_type == "mpnet" else config.pad_token_id
    return 0 if padding is None else int(padding) + 1


def tokenizer_limit(tokenizer: Any) -> int | None:
    """Return how many tokens the tokenizer says that the model takes; None where it doesn't say."""
    limit = tokenizer.model_max_length
    return int(limit) if limit is not None and 0 < limit < UNBOUNDED else None
