"""A ladder on its backbone: Hugging Face models that read tokens, for labels and for text."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast, SequenceClassifierOutput

from ordtool.errors import OrdtoolError
from ordtool.progress import SILENT, Progress
from ordtool.runtime import quiet_libraries
from ordtool.tuning.backbone import Backbone, check_backbone, load_backbone
from ordtool.tuning.ladder import Ladder, LadderConfig, LadderOutput

ARCHITECTURES = {True: "LadderForSequenceClassification", False: "LadderForCausalLM"}


def is_ladder(folder: Path) -> bool:
    """Say whether a model folder holds a ladder."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == LadderConfig.model_type


def load_ladder(folder: str | Path) -> Ladder:
    """Load the ladder alone, without its backbone.

    Raises:
        OrdtoolError: If it is something else, or damaged.
    """
    quiet_libraries()
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        ladder, info = Ladder.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OrdtoolError(
            f"{folder}: can't be loaded as a ladder ({reason})", "was the copy cut short?"
        ) from error
    if wrong := sorted([*info["missing_keys"], *info["unexpected_keys"]]):
        raise OrdtoolError(
            f"{folder}: the weights don't fit the configuration ({wrong[0]})", "was it written by hand?"
        )
    return ladder


def load_laddered(
    folder: str | Path,
    *,
    backbone: str | Backbone | None = None,
    device: torch.device | None = None,
    progress: Progress = SILENT,
) -> tuple[Ladder, Backbone]:
    """Load a ladder and the backbone it belongs to.

    Args:
        folder: What `ordtool train ladder` wrote.
        backbone: Where the backbone is now; None: as the ladder says.
        device: Where both go.
        progress: Told of downloads.

    Raises:
        OrdtoolError: If the backbone isn't found, or is another one.
    """
    ladder = load_ladder(folder)
    config = ladder.config
    if not isinstance(backbone, Backbone):
        name = backbone or config.backbone
        try:
            backbone = load_backbone(name, writes=not config.labels, device=device, progress=progress)
        except OrdtoolError as error:
            raise OrdtoolError(
                f"{folder}: its backbone can't be loaded: {error.message}",
                error.hint if name != config.backbone else _hint(config.labels),
            ) from error
    check_backbone(config.backbone_hash, backbone, str(folder))
    return ladder.to(backbone.model.device).eval(), backbone


def _hint(labels: bool) -> str:
    if labels:
        return "--backbone names the place where it is now"
    return "its config.json says under 'backbone' where it is; write the place where it is now there"


def save_ladder(ladder: Ladder, backbone: Backbone, folder: Path) -> None:
    """Save the ladder alone, with the tokenizer of its backbone."""
    ladder.config.architectures = [ARCHITECTURES[ladder.config.labels]]
    ladder.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = [ARCHITECTURES[ladder.config.labels]]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer = copy.copy(backbone.tokenizer)
    if not ladder.config.labels and getattr(tokenizer, "chat_template", None):
        tokenizer.chat_template = None  # it was trained to continue text, not to chat
    tokenizer.save_pretrained(folder)


class _OnBackbone(PreTrainedModel):
    """What both kinds of models share: they are loaded as a ladder and its backbone."""

    config_class = LadderConfig
    base_model_prefix = "ladder"
    _supports_sdpa = True

    def __init__(self, config: Any, ladder: Ladder, backbone: Backbone) -> None:
        super().__init__(config)
        self.ladder = ladder
        # In a list, so that the frozen weights are no part of this module's parameters and are never saved with it.
        self._backbone = [backbone]

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self._backbone[0]

    def _init_weights(self, module: Any) -> None:
        """Do nothing: both parts come with their weights."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *arguments: Any, **options: Any) -> Any:
        """Load the ladder from a folder and its backbone from where it lives.

        Args:
            pretrained_model_name_or_path: The ladder's folder.
            *arguments: None are taken.
            **options: `backbone` says where the backbone is now; `output_loading_info` as in transformers; others
                belong to transformers and are left alone.
        """
        ladder, backbone = load_laddered(pretrained_model_name_or_path, backbone=options.get("backbone"))
        dtype = options.get("dtype")
        if isinstance(dtype, torch.dtype):
            ladder = ladder.to(dtype)
            for part in (backbone.model, backbone.head):
                if part is not None:
                    part.to(dtype)
        model = cls(cls._config(ladder, backbone), ladder, backbone).eval()
        info: dict[str, Any] = {
            "missing_keys": set(),
            "unexpected_keys": set(),
            "mismatched_keys": set(),
            "error_msgs": [],
        }
        return (model, info) if options.get("output_loading_info") else model

    @staticmethod
    def _config(ladder: Ladder, backbone: Backbone) -> Any:
        return ladder.config

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """Save the ladder alone.

        Args:
            save_directory: The folder.
            **options: Left alone.
        """
        save_ladder(self.ladder, self.backbone, Path(save_directory))

    def to(self, *arguments: Any, **options: Any) -> Any:
        """Move both parts."""
        super().to(*arguments, **options)
        for part in (self.backbone.model, self.backbone.head):
            if part is not None:
                part.to(*arguments, **options)
        return self

    def _climb(
        self, inputs: dict[str, Tensor], backbone: dict[str, Any], side: dict[str, Any]
    ) -> tuple[LadderOutput, Any]:
        dtype = self.ladder.down_weight.dtype
        states = self.backbone.states(inputs, self.ladder.config.layers, dtype, **backbone)
        return self.ladder(states.rungs, states.last, inputs.get("attention_mask"), **side), states


class LadderForSequenceClassification(_OnBackbone):
    """Texts to classes, or to a score: the backbone, the ladder, a linear read-out."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classify a batch.

        Args:
            input_ids: `(batch, seq)`, padded on the right.
            attention_mask: `(batch, seq)`.
            token_type_ids: `(batch, seq)`.
            labels: `(batch,)`.
            **kwargs: Ignored.
        """
        from ordtool.tuning.learners import label_loss

        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        found, _ = self._climb({k: v for k, v in inputs.items() if v is not None}, {}, {})
        assert found.logits is not None
        loss = None if labels is None else label_loss(found.logits, labels, self.ladder.config.task)
        return SequenceClassifierOutput(loss=loss, logits=found.logits, hidden_states=(found.pooled,))


class LadderCache(DynamicCache):
    """Keys and values of the backbone, and beside them the side network's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.side = DynamicCache()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)
        self.side.reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        super().batch_repeat_interleave(repeats)
        self.side.batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self.side.batch_select_indices(indices)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens."""
        super().crop(tokens_to_remove)
        self.side.crop(tokens_to_remove)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.side.reset()


class LadderForCausalLM(_OnBackbone, GenerationMixin):
    """A language model whose output the ladder corrects before the frozen head."""

    main_input_name = "input_ids"

    @staticmethod
    def _config(ladder: Ladder, backbone: Backbone) -> Any:
        # Generation asks the configuration for token ids, positions and depth, which are the backbone's.
        return backbone.config

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """The cache is made by `forward`, as it has two parts."""
        return False

    def get_output_embeddings(self) -> Any:
        """Give the frozen head."""
        return self.backbone.head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Continue a batch.

        Args:
            input_ids: `(batch, new)`.
            attention_mask: `(batch, past + new)`.
            position_ids: `(batch, new)`.
            past_key_values: A `LadderCache` that an earlier call gave.
            use_cache: Give keys and values.
            labels: `(batch, new)`; the loss is of the next tokens, in nats.
            logits_to_keep: Of the last tokens only; 0 is all.
            **kwargs: Ignored.
        """
        cache = past_key_values if isinstance(past_key_values, LadderCache) else None
        if use_cache and cache is None:
            cache = LadderCache()
        inputs = {"input_ids": input_ids} | (
            {} if attention_mask is None else {"attention_mask": attention_mask}
        )
        places = {} if position_ids is None else {"position_ids": position_ids}
        used: dict[str, Any] = {"use_cache": cache is not None}
        below = {**places, **used, "past_key_values": cache}
        side = {**places, **used, "past_key_values": cache.side if cache is not None else None}
        found, _ = self._climb(inputs, below, side)
        assert found.output is not None and self.backbone.head is not None
        output = found.output[:, -logits_to_keep:] if logits_to_keep else found.output
        logits = self.backbone.head(output)
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)


AutoModelForSequenceClassification.register(LadderConfig, LadderForSequenceClassification, exist_ok=True)
AutoModelForCausalLM.register(LadderConfig, LadderForCausalLM, exist_ok=True)
