"""Scores of written texts as work in shards: ROUGE-L, which takes nearly all of the time, is of each text alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from ordtool.errors import UsageError, close_match_hint
from ordtool.generation.scoring import TOKENIZERS, TextScores, check_pairs, rouge_scores, score_text
from ordtool.progress import SILENT, Progress
from ordtool.runtime import require
from ordtool.sharding.plan import Cut, Plan, Reader
from ordtool.sharding.records import Figures, RecordReader
from ordtool.sharding.run import Scale, ShardBar, Target, open_executor, run
from ordtool.sharding.work import Computed, OnBad, Runner

SHARD_TEXTS = 2048


@dataclass(frozen=True, slots=True)
class _Pair:
    """A text and its references; shards are told of by where they begin."""

    where: str
    text: str
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoreWork:
    """Texts and their references to ROUGE-L, a float64 each.

    Attributes:
        tokenizer: See `score_text`.
        skips: Never: a bad line would shift all others.
    """

    tokenizer: str
    skips: bool = False

    @property
    def cut(self) -> Cut:
        """See `Work`."""
        return Cut(SHARD_TEXTS)

    def load(self, progress: Progress, threads: int | None) -> Runner:
        """See `Work`."""
        require("rouge_score", "score")
        return _ScoreRunner(self.tokenizer)


class _ScoreRunner:
    def __init__(self, tokenizer: str) -> None:
        self.facts: dict[str, Any] = {}
        self.reader: Reader = RecordReader(None)
        self._tokenizer = tokenizer

    def prepare(self, records: list[_Pair], indices: list[int], on_error: OnBad) -> list[_Pair]:
        return records

    def compute(self, prepared: list[_Pair], settled: Any) -> Iterator[Computed]:
        texts, references = [pair.text for pair in prepared], [pair.references for pair in prepared]
        scores = rouge_scores(texts, references, self._tokenizer)
        yield Computed(np.array(scores, dtype=np.float64).tobytes(), len(prepared))


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """How texts are scored.

    Attributes:
        tokenizer: See `score_text`.
        lowercase: See `score_text`.
        scale: Who does the work.
    """

    tokenizer: str = "13a"
    lowercase: bool = False
    scale: Scale = Scale()

    def __post_init__(self) -> None:
        if self.tokenizer not in TOKENIZERS:
            raise UsageError(
                f"unknown `tokenizer` {self.tokenizer!r}", close_match_hint(self.tokenizer, TOKENIZERS)
            )


def score_files(
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    config: ScoreConfig,
    target: Target,
    write: Callable[[TextScores, BinaryIO], None],
    progress: Progress = SILENT,
) -> None:
    """Score texts by several workers, or in a run that can be gone on with, and write the scores.

    Args:
        texts: The texts.
        references: Of each.
        config: How.
        target: Where the scores go; ROUGE-L of an interrupted run stands in its `.partial`.
        write: Writes them.
        progress: A bar.

    Raises:
        OrdtoolError: As `score_text` does.
    """
    check_pairs(texts, references)
    require("sacrebleu", "score")
    target.check()
    work = ScoreWork(config.tokenizer)
    given = [
        _Pair(f"text {number}", text, tuple(some))
        for number, (text, some) in enumerate(zip(texts, references, strict=True), start=1)
    ]
    plan = Plan([], RecordReader(None), work.cut, given=given)
    bar = ShardBar(progress, "scoring", "texts")

    def finish(file: BinaryIO, output: BinaryIO) -> None:
        rouge = np.frombuffer(file.read(), dtype=np.float64).tolist()
        scores = score_text(
            texts,
            references,
            tokenizer=config.tokenizer,
            lowercase=config.lowercase,
            progress=progress,
            rouge=rouge,
        )
        write(scores, output)

    try:
        with open_executor(config.scale, work, bar) as executor:
            run(plan, executor, target, Figures(finish), bar)
    finally:
        progress.close()
