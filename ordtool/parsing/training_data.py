"""Text to the numbers that training reads: held-out part, vocabulary, encoded sentences, and their cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ordtool.io.checkpoint import read_checkpoint, write_checkpoint
from ordtool.parsing.corpus import (
    Encoded,
    count_words,
    encode_sentences,
    load_sentences,
)
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.recipes import TrainingConfig
from ordtool.parsing.text.chinese import CHINESE_KINDS
from ordtool.parsing.text.reader import TextConfig
from ordtool.parsing.text.vocabulary import build_vocabulary
from ordtool.progress import SILENT, Progress

__all__ = ["TrainingData", "load_data"]

CACHE = "data.safetensors"


@dataclass
class TrainingData:
    """What training reads.

    Attributes:
        tokenizer: With the vocabulary of the training part.
        train: Training sentences.
        valid: Held-out sentences; may be none.
    """

    tokenizer: OnlstmTokenizer
    train: Encoded
    valid: Encoded


def load_data(
    text: Sequence[str | Path],
    valid: Sequence[str | Path],
    config: TrainingConfig,
    folder: Path,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> TrainingData:
    """Read text and make the vocabulary, or take both from an interrupted run.

    Args:
        text: Training files or folders of trees.
        valid: Held-out files; empty: a part of the text.
        config: Tokens, layout, vocabulary, seed.
        folder: Working folder, where the numbers are kept for a resumed run.
        resume: Take them from there: the files are still the same.
        progress: Told of the sources.

    Raises:
        OrdtoolError: Unreadable or empty text.
    """
    if resume:
        tensors, state = read_checkpoint(folder / CACHE, {"words": (list,)})
        train, held_out = (
            Encoded(*(tensors[f"{part}.{x}"].numpy() for x in ("ids", "starts"))) for part in PARTS
        )
        return TrainingData(_tokenizer(state["words"], config), train, held_out)
    train_text, valid_text = _sentences(text, valid, config, progress)
    words = build_vocabulary(
        count_words(train_text),
        config.vocab_size,
        lowercase=config.lowercase,
        digits=config.digits,
        simplified=config.tokens in CHINESE_KINDS,
    )
    tokenizer = _tokenizer(words, config)
    train, held_out = encode_sentences(train_text, tokenizer), encode_sentences(valid_text, tokenizer)
    unknown = np.array([tokenizer.is_unknown(k) for k in range(len(words))])
    progress.note(
        f"vocabulary: {len(words):,} tokens, {int(unknown.sum())} of them shape classes, which "
        f"{100 * unknown[train.ids].mean():.1f}% of the training words need"
    )
    tensors = {
        f"{part}.{name}": torch.from_numpy(array)
        for part, encoded in zip(PARTS, (train, held_out), strict=True)
        for name, array in (("ids", encoded.ids), ("starts", encoded.starts))
    }
    write_checkpoint(folder / CACHE, tensors, {"words": words})
    return TrainingData(tokenizer, train, held_out)


PARTS = ("train", "valid")


def _tokenizer(words: list[str], config: TrainingConfig) -> OnlstmTokenizer:
    options: dict[str, Any] = {
        "lowercase": config.lowercase,
        "digits": config.digits,
        "token_kind": config.tokens,
        "simplified": config.tokens in CHINESE_KINDS,
    }
    return OnlstmTokenizer.from_tokens(words, drop_punctuation=not config.punctuation, **options)


def _sentences(
    text: Sequence[str | Path], valid: Sequence[str | Path], config: TrainingConfig, progress: Progress
) -> tuple[list[list[str]], list[list[str]]]:
    """Training and held-out sentences."""
    options = TextConfig(config.tokens, config.layout, config.punctuation, config.field)  # type: ignore[arg-type]
    sentences = load_sentences(text, options, progress)
    if valid:
        return sentences, load_sentences(valid, options, progress)
    chosen = np.zeros(len(sentences), bool)
    count = round(len(sentences) * config.valid_fraction)
    chosen[np.random.default_rng([config.seed, 1]).permutation(len(sentences))[:count]] = True
    train = [words for words, held in zip(sentences, chosen, strict=True) if not held]
    return train, [words for words, held in zip(sentences, chosen, strict=True) if held]
