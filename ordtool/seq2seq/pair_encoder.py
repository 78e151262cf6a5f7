"""Texts of pairs to tokens of bounded length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ordtool.errors import OrdtoolError, UsageError
from ordtool.models.limits import usable_context
from ordtool.progress import Progress
from ordtool.seq2seq.config import Seq2SeqTrainingConfig
from ordtool.seq2seq.data import Row


class PairEncoder:
    """Texts to tokens of bounded length, with a count of what was too long.

    Args:
        model: The model that will read them.
        tokenizer: Its tokenizer.
        config: The limits.

    Raises:
        UsageError: If the limits together are more than the model's positions.
    """

    def __init__(self, model: Any, tokenizer: Any, config: Seq2SeqTrainingConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.unilm = not model.config.is_encoder_decoder
        self.truncated = self.dropped = 0
        self.eos = self._eos()
        context = usable_context(model.config)
        self.max_target = config.max_target or (128 if context is None else min(128, context // 2))
        left = 384 if context is None else context - (self.max_target if self.unilm else 0)
        self.max_source = config.max_source or max(3, min(384, left))
        total = self.max_source + self.max_target if self.unilm else max(self.max_source, self.max_target)
        if context is not None and total > context:
            raise UsageError(
                f"`max_source` {self.max_source} and `max_target` {self.max_target} don't fit in the model's "
                f"{context} positions",
                "choose smaller ones",
            )

    def _eos(self) -> int:
        own = self.tokenizer.sep_token_id if self.unilm else self.tokenizer.eos_token_id
        eos = own if own is not None else self.tokenizer.eos_token_id
        if eos is None:
            raise OrdtoolError(
                "the tokenizer has no token that ends a text (sep or eos)", "name another model"
            )
        return int(eos)

    def rows(self, groups: dict[str, list[str]]) -> list[Row]:
        """Encode sources with their targets, cut or dropped where they are too long."""
        sources, ends = list(groups), [target for targets in groups.values() for target in targets]
        read = self.tokenizer(sources, verbose=False)["input_ids"]
        written = iter(self._targets(ends))
        rows: list[Row] = []
        for source, ids in zip(sources, read, strict=True):
            targets: list[Sequence[int]] = [next(written) for _ in groups[source]]
            long_source = len(ids) > self.max_source
            long = [long_source or len(target) > self.max_target for target in targets]
            if self.config.overlong == "drop":
                self.dropped += sum(long)
                targets = [target for target, out in zip(targets, long, strict=True) if not out]
            else:
                self.truncated += sum(long)
                # A target that is cut doesn't end there, so its end is not learnt.
                targets = [target[: self.max_target] for target in targets]
                if long_source:
                    ids = self.tokenizer(source, truncation=True, max_length=self.max_source)["input_ids"]
            if targets:
                rows.append((ids, targets))
        return rows

    def _targets(self, texts: list[str]) -> list[list[int]]:
        if not self.unilm:
            found: list[list[int]] = self.tokenizer(text_target=texts, verbose=False)["input_ids"]
            return found
        plain = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [[*ids, self.eos] for ids in plain]

    def report(self, progress: Progress) -> None:
        """Say how many pairs were too long."""
        limits = f"`max_source` {self.max_source}, `max_target` {self.max_target}"
        for count, what in ((self.truncated, "truncated"), (self.dropped, "dropped")):
            if count:
                progress.warn(f"{count:,} pair(s) too long ({limits}) and {what}")
