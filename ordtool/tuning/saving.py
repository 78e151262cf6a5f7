"""A ladder in a folder: its own weights and configuration, and the tokenizer of the backbone that it names."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch

from ordtool.errors import OrdtoolError
from ordtool.models.loading import load_model
from ordtool.progress import SILENT, Progress
from ordtool.tuning.backbone import Backbone, check_backbone, load_backbone
from ordtool.tuning.encoding import prompt_ids
from ordtool.tuning.ladder import Ladder, LadderConfig


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
    folder = Path(folder)
    try:
        ladder, missing, unexpected = load_model(folder, Ladder, may_miss=lambda name: True)
    except OrdtoolError as error:
        raise OrdtoolError(f"{error.message} (it can't be loaded as a ladder)", error.hint) from error
    if wrong := [*missing, *unexpected]:
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
    architecture = (
        "LadderForSequenceClassification"
        if ladder.config.labels
        else "LadderForConditionalGeneration"
        if ladder.config.decodes
        else "LadderForCausalLM"
    )
    ladder.config.architectures = [architecture]
    ladder.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = [architecture]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer = copy.copy(backbone.tokenizer)
    if not ladder.config.labels:
        # It was trained to continue texts, not to chat.
        prompts = ladder.config.task == "seq2seq" and not ladder.config.decodes
        tokenizer.chat_template = _source_template(tokenizer) if prompts else None
    tokenizer.save_pretrained(folder)


def _source_template(tokenizer: Any) -> str | None:
    """Give the chat template by which a prompt stands as sources did in training: with a newline after it.

    Returns:
        None for a tokenizer that sees other tokens in such a prompt.
    """
    text = "A source, and more"
    wanted = prompt_ids(tokenizer, text)
    bos = tokenizer.bos_token if wanted[:1] == [tokenizer.bos_token_id] else None
    template = "{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}"
    template = ("{{ bos_token }}" if bos else "") + template
    found = tokenizer((bos or "") + text + "\n", add_special_tokens=False)["input_ids"]
    return template if found == wanted else None
