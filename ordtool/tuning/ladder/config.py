"""What a ladder is: the configuration that is saved with its weights."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ordtool.errors import UsageError, close_match_hint
from ordtool.models.own import register
from ordtool.tuning.backbone.layers import as_decoder
from ordtool.tuning.data import TEXT_TASKS, TOKEN_TASKS

MODEL_TYPE = "ordtool_ladder"
KINDS = ("gated", "additive")
BLOCKS = ("transformer", "mlp")
POOLINGS = ("mean", "cls", "last")


class LadderConfig(PreTrainedConfig):
    """What a ladder is, and which backbone it belongs to.

    Attributes:
        backbone: The name or folder that was given for the backbone.
        backbone_hash: SHA-256 of its weights.
        backbone_config: Its configuration, as a dictionary with `model_type`.
        task: `classify`, `regress`, `pairs`, `tokens`, `span`, `lm` or `seq2seq`.
        kind: `gated` or `additive`.
        block: What a side layer is: `transformer`, one of the backbone's own kind, or `mlp`, without attention.
        adds_after: An additive ladder adds what comes from the backbone behind each side layer, as the article does, and
            not before it. Files that don't say it were trained with the latter.
        reduction: r: hidden size over the ladder's.
        layers: The backbone's layers that have a side layer, from 1, ascending.
        residual: Add the ladder's output to the backbone's, instead of using it alone.
        pooling: How tokens become a text: `mean`, `cls` (the first) or `last`; where words have labels, the token that each
            is read from: its first (`cls`) or `last`.
        dropout: Within the ladder's layers. None by default: attention with dropout has no fused kernel on
            CPUs and would take more time than all the rest.
        text_length: Tokens of a text that were read in training.
        pair_field: The JSONL key of the second text, for tasks of pairs.
        target_mean: Of the training scores (regression).
        target_scale: Their standard deviation.
        longest_answer: Tokens of the longest answer in training (`span`).
        unanswerable: Whether some questions had none (`span`).

    Raises:
        UsageError: For an unknown kind, block or pooling.
    """

    model_type = MODEL_TYPE

    backbone: str = ""
    backbone_hash: str = ""
    backbone_config: dict[str, Any] | None = None
    task: str = "classify"
    kind: str = "gated"
    block: str = "transformer"
    adds_after: bool = False
    reduction: int = 8
    layers: list[int] | tuple[int, ...] = (1,)
    residual: bool = True
    pooling: str = "mean"
    dropout: float = 0.0
    text_length: int = 128
    pair_field: str | None = None
    target_mean: float = 0.0
    target_scale: float = 1.0
    longest_answer: int = 0
    unanswerable: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the choices; `kwargs` are what else Hugging Face configurations hold, such as `id2label`."""
        chosen = (
            ("ladder", self.kind, KINDS),
            ("block", self.block, BLOCKS),
            ("pooling", self.pooling, POOLINGS),
        )
        for name, value, choices in chosen:
            if value not in choices:
                raise UsageError(f"unknown {name} {value!r}", close_match_hint(value, choices))
        if not isinstance(self.backbone, str):
            raise UsageError(f"the backbone {self.backbone!r} is no name")
        self.backbone_config = self.backbone_config or {"model_type": "bert"}
        self.layers = list(self.layers)
        super().__post_init__(**kwargs)

    def backbone_as_config(self) -> Any:
        """Return the backbone's configuration as an object, of the half that the ladder stands beside."""
        fields = dict(self.backbone_config or {})
        kind = fields.pop("model_type")
        register(kind)
        found = AutoConfig.for_model(kind, **fields)
        return as_decoder(found) if self.decodes else found

    @property
    def decodes(self) -> bool:
        """Whether the ladder stands beside the decoder of an encoder-decoder."""
        return not self.labels and bool((self.backbone_config or {}).get("is_encoder_decoder"))

    @property
    def attends_to_source(self) -> bool:
        """Whether side layers attend to what an encoder has read."""
        return self.decodes and self.block == "transformer"

    @property
    def labels(self) -> bool:
        """Whether texts or tokens get a label or a score, rather than text."""
        return self.task not in TEXT_TASKS

    @property
    def by_token(self) -> bool:
        """Whether tokens get labels, and not texts."""
        return self.task in TOKEN_TASKS
