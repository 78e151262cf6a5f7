"""A ladder to a folder: its own weights and configuration, and the tokenizer of the backbone that it names."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from ordtool.tuning.backbone.model import Backbone
from ordtool.tuning.encoding import prompt_ids
from ordtool.tuning.ladder.model import Ladder

_READS = {"tokens": "LadderForTokenClassification", "span": "LadderForQuestionAnswering"}


def save_ladder(ladder: Ladder, backbone: Backbone, folder: Path) -> None:
    """Save the ladder alone, with the tokenizer of its backbone."""
    architecture = (
        _READS.get(ladder.config.task, "LadderForSequenceClassification")
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
    """Return the chat template by which a prompt stands as sources did in training: with a newline after it.

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
