"""What a span scorer learns from, and the network and vocabulary that are made for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ordtool.errors import UsageError
from ordtool.models.layers import freeze
from ordtool.parsing.loading import load_parser
from ordtool.parsing.spans.config import SpanTrainingConfig
from ordtool.parsing.spans.data import (
    TeacherTree,
    count_labels,
    make_vocabulary,
    read_teacher_trees,
    split_trees,
)
from ordtool.parsing.spans.encoder import load_encoder
from ordtool.parsing.spans.inference import SpanParser
from ordtool.parsing.spans.model import SpanModel
from ordtool.parsing.spans.text import Text, read_text
from ordtool.parsing.spans.words import PieceVocabulary
from ordtool.parsing.text.vocabulary import Vocabulary
from ordtool.progress import Progress
from ordtool.runtime import resolve_dtype

__all__ = ["Lessons", "Words", "make_model", "read_lessons"]

Words = Vocabulary | PieceVocabulary
"""What looks the words of a sentence up."""


@dataclass(slots=True)
class Lessons:
    """What there is to learn from.

    Attributes:
        train: Trees to train on.
        held_out: Trees to score by.
        text: Sentences without trees.
        teacher: Says of their spans how likely each is a phrase.
    """

    train: list[TeacherTree]
    held_out: list[TeacherTree]
    text: Text | None = None
    teacher: SpanParser | None = None


def read_lessons(
    trees: Sequence[str | Path],
    config: SpanTrainingConfig,
    folders: dict[str, Path],
    device: torch.device,
    progress: Progress,
) -> Lessons:
    """Read trees, and text with its teacher.

    Args:
        trees: Files and folders.
        config: What is held out; the teacher and its text.
        folders: The model folder of each name in `config`.
        device: Where the teacher computes.
        progress: Told of what is read.

    Raises:
        OrdtoolError: Unreadable trees, or none of three words or more.
        UsageError: A share held out that leaves nothing; a teacher that is no span scorer.
    """
    lessons = Lessons(*split_trees(read_teacher_trees(trees, progress), config))
    if config.teacher:
        lessons.teacher = _load_teacher(folders[config.teacher], device, config)
        lessons.text = read_text(config.text, config.text_tokens or config.tokens, progress)
    return lessons


def _load_teacher(folder: Path, device: torch.device, config: SpanTrainingConfig) -> SpanParser:
    dtype = resolve_dtype(config.dtype, device)
    teacher = load_parser(folder, device, None if dtype == torch.float32 else dtype)
    if not isinstance(teacher, SpanParser):
        raise UsageError(
            f"{folder}: a teacher is a span scorer, and this is a parser of another kind",
            "parse the text with it",
        )
    return teacher


def make_model(
    config: SpanTrainingConfig, lessons: Lessons, encoder_folder: Path | None, progress: Progress
) -> tuple[SpanModel, Words]:
    """Make the network, and what looks its words up."""
    labels, tags = count_labels(lessons.train)
    if lessons.teacher is not None:
        shape = lessons.teacher.network.config
        labels, tags = shape.labels, shape.tags
    if encoder_folder is not None:
        encoder, pieces = load_encoder(encoder_folder, config.tokens)
        if config.frozen_layers is not None:
            freeze(encoder.model, config.frozen_layers)
        return SpanModel(config.shape(1 << pieces.bits, labels, tags), encoder), pieces
    counts = Counter(word for tree in lessons.train for word in tree.words)
    if lessons.text is not None:
        places = np.bincount(lessons.text.words, minlength=len(lessons.text.surfaces))
        counts.update(dict(zip(lessons.text.surfaces, places.tolist(), strict=True)))
    words = make_vocabulary(counts, config, progress)
    return SpanModel(config.shape(len(words.tokens), labels, tags)), words
