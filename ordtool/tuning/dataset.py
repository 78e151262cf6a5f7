"""From files to encoded training, dev and test data of any task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ordtool.batching import hold_out
from ordtool.errors import OrdtoolError, UsageError
from ordtool.progress import SILENT, Progress
from ordtool.tuning.backbone.model import Backbone
from ordtool.tuning.config import LadderTrainingConfig
from ordtool.tuning.data import (
    TOKEN_TASKS,
    Example,
    Fields,
    class_indices,
    class_names,
    read_examples,
    scores,
    warn_of_heads,
)
from ordtool.tuning.encoding import Encoded, encode_blocks, encode_labelled, encode_pairs, encode_sources
from ordtool.tuning.questions import Question, encode_questions, read_questions
from ordtool.tuning.words import TaggedSentence, encode_words, read_tagged

MIN_DEV = 2
SPAN_ENDS = ("start", "end")

Files = tuple[Sequence[str | Path], Sequence[str | Path], Sequence[str | Path]]
Record = TypeVar("Record", Example, TaggedSentence, Question)


@dataclass(frozen=True, slots=True)
class LadderData:
    """Encoded data and what its labels are.

    Attributes:
        train: To train on.
        dev: Held out.
        names: Of the classes, or of the two ends of a span; empty where there are none.
        mean: Of the training scores.
        scale: Their standard deviation.
        test: Measured once, after the training, by comparisons; None: there is none.
    """

    train: Encoded
    dev: Encoded
    names: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    test: Encoded | None = None

    @property
    def parts(self) -> tuple[Encoded, ...]:
        """All texts whose hidden states are needed."""
        return (self.train, self.dev) if self.test is None else (self.train, self.dev, self.test)

    @property
    def outputs(self) -> int:
        """How many numbers a classifier gives a text: as many as classes, 1 for scores, 0 for text tasks."""
        return len(self.names) or (0 if self.train.writes else 1)


def read_data(
    paths: Sequence[str | Path],
    dev: Sequence[str | Path],
    config: LadderTrainingConfig,
    backbone: Backbone,
    test: Sequence[str | Path] = (),
    progress: Progress = SILENT,
) -> LadderData:
    """Read, split and encode the data of any task.

    Raises:
        OrdtoolError: For bad records, one class only, an unknown dev label, an empty dev set.
        UsageError: For a share that leaves nothing on one side.
    """
    fields = config.data_fields
    length = text_length(config, backbone)
    tokenizer = backbone.tokenizer
    if config.task == "lm":
        if backbone.decodes:
            raise UsageError(
                f"`task=lm` continues a text, and {backbone.name} is an encoder-decoder: it answers one",
                "`task=seq2seq` teaches it to, from pairs; or name a causal model, such as `model=smollm2`",
            )
        return _read_lm((paths, dev, test), config, tokenizer, length)
    if config.task in TOKEN_TASKS:
        return _read_tokens((paths, dev, test), config, backbone, length, progress)

    def read(files: Sequence[str | Path]) -> list[Example]:
        return read_examples(files, fields)

    examples, names = read(paths), list[str]()
    if config.task in ("classify", "pairs"):
        # One class only is said before the data is split.
        names = class_names((example.label for example in examples), examples[0].where)
        warn_of_heads(examples, progress)
    rows = _with_held_out(examples, dev, test, read, config)
    return _encode_examples(rows, names, config, backbone, length)


def _read_tokens(
    files: Files, config: LadderTrainingConfig, backbone: Backbone, length: int, progress: Progress
) -> LadderData:
    """Read sentences whose words have labels, or questions whose answers are spans."""
    paths, dev, test = files
    fields, tokenizer = config.data_fields, backbone.tokenizer
    if config.task == "span":

        def read(part: Sequence[str | Path]) -> list[Question]:
            return read_questions(part, fields, progress)

        asked = _with_held_out(read(paths), dev, test, read, config)
        return _parts([encode_questions(tokenizer, part, length) for part in asked], names=SPAN_ENDS)

    def read_sentences(part: Sequence[str | Path]) -> list[TaggedSentence]:
        return read_tagged(part, fields)

    sentences = read_sentences(paths)
    names = class_names((label for s in sentences for label in s.labels or ()), sentences[0].where)
    rows = _with_held_out(sentences, dev, test, read_sentences, config)
    pooling = config.pooling_of(backbone.causal)
    encoded = [encode_words(tokenizer, part, names, length, pooling) for part in rows]
    return _parts(encoded, names=tuple(names))


def _with_held_out(
    records: list[Record],
    dev: Sequence[str | Path],
    test: Sequence[str | Path],
    read: Callable[[Sequence[str | Path]], list[Record]],
    config: LadderTrainingConfig,
) -> list[list[Record]]:
    """Return training, dev and perhaps test records; without dev files a share of the training records is held out."""
    if dev:
        held_out = _read_dev(dev, read)
    else:
        records, held_out = _split(records, config.holdout, config.schedule.seed)
    parts = [records, held_out]
    if test:
        parts.append(_read_dev(test, read, "test"))
    return parts


def _encode_examples(
    rows: list[list[Example]],
    names: Sequence[str],
    config: LadderTrainingConfig,
    backbone: Backbone,
    length: int,
) -> LadderData:
    """Encode texts with what each is to be given: a class, a score or another text."""
    tokenizer = backbone.tokenizer
    if config.task == "seq2seq":
        if backbone.decodes:
            return _parts([encode_sources(tokenizer, part, length, backbone.start) for part in rows])
        return _parts([encode_pairs(tokenizer, part, length) for part in rows])
    if config.task == "regress":
        numbers = [scores(part) for part in rows]
        mean, scale = float(np.mean(numbers[0])), float(np.std(numbers[0]))
        if scale == 0:
            raise OrdtoolError(f"{rows[0][0].where}: all scores are {mean:g}: there is nothing to tell apart")
        encoded = [
            encode_labelled(tokenizer, part, [(value - mean) / scale for value in values], length)
            for part, values in zip(rows, numbers, strict=True)
        ]
        return _parts(encoded, mean=mean, scale=scale)
    encoded = [encode_labelled(tokenizer, part, class_indices(part, names), length) for part in rows]
    return _parts(encoded, names=tuple(names))


def _parts(parts: list[Encoded], **more: Any) -> LadderData:
    return LadderData(parts[0], parts[1], test=parts[2] if len(parts) > 2 else None, **more)


def _read_dev(
    dev: Sequence[str | Path], read: Callable[[Sequence[str | Path]], list[Record]], name: str = "dev"
) -> list[Record]:
    try:
        return read(dev)
    except OrdtoolError as error:
        if "holds no records" in error.message:
            raise OrdtoolError(
                f"the {name} set is empty: {error.message}",
                f"without --{name}, a share of the data is held out" if name == "dev" else None,
            ) from None
        raise


def _split(examples: list[Record], holdout: float, seed: int) -> tuple[list[Record], list[Record]]:
    count = round(len(examples) * holdout) if 0 < holdout < 1 else 0
    if count < MIN_DEV or len(examples) - count < MIN_DEV:
        raise UsageError(
            f"holding out {holdout:g} of {len(examples)} records leaves the dev set empty, or nothing to train on",
            "a larger `holdout`, or dev data (`dev`)",
        )
    kept, held = hold_out(len(examples), count, [seed, 0x53504C])
    return [examples[k] for k in kept], [examples[k] for k in held]


def _read_lm(files: Files, config: LadderTrainingConfig, tokenizer: Any, length: int) -> LadderData:
    """Read and cut texts: training, dev and test files, of which the last two may be none."""
    train, dev, last = (
        encode_blocks(tokenizer, _documents(paths, config.data_fields), length) if paths else None
        for paths in files
    )
    assert train is not None
    if dev is not None:
        return LadderData(train, dev, test=last)
    count = max(1, round(len(train) * config.holdout))
    if not 0 < config.holdout < 1 or count >= len(train):
        raise UsageError(
            f"holding out {config.holdout:g} of {len(train)} block(s) leaves nothing to train on",
            "more text, a shorter `max_length`, or dev data (`dev`)",
        )
    # The end of the text, not blocks out of its middle, which would share sentences with their neighbours.
    parts = [Encoded(ids, starts=[1] * len(ids)) for ids in (train.ids[:-count], train.ids[-count:])]
    return LadderData(parts[0], parts[1], test=last)


def _documents(paths: Sequence[str | Path], fields: Fields) -> list[str]:
    """Read texts: a file is one, and so is a JSONL record."""
    from ordtool.io.text import read_documents

    documents = list(read_documents(paths, fields.text, end=""))
    if not any(document.strip() for document in documents):
        raise OrdtoolError(f"{', '.join(map(str, paths))}: holds no text")
    return documents


def text_length(config: LadderTrainingConfig, backbone: Backbone) -> int:
    """Return the tokens of a text at most: what is asked for, as far as the backbone's positions reach."""
    limit = backbone.context
    return config.max_length if limit is None else min(config.max_length, limit)
