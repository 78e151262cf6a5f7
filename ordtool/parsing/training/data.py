"""Text to the numbers that training reads: held-out part, vocabulary, encoded sentences, their cache, and streams of them.

Sentences are joined into one stream with `<eos>` between them, shuffled anew for each epoch, and cut into parallel
streams for truncated back-propagation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ordtool.batching import hold_out
from ordtool.errors import OrdtoolError
from ordtool.io.checkpoint import read_checkpoint, restoring, write_checkpoint
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.text.chinese import CHINESE_KINDS
from ordtool.parsing.text.reader import TextConfig, read_sentences
from ordtool.parsing.text.vocabulary import UNKNOWN, Vocabulary, build_vocabulary
from ordtool.parsing.training.recipes import TextTrainingConfig
from ordtool.progress import SILENT, Progress

__all__ = [
    "Encoded",
    "Streams",
    "TrainingData",
    "count_words",
    "encode_sentences",
    "load_data",
    "load_sentences",
    "reversed_data",
    "streams",
]

CACHE = "data.safetensors"
# Sentences that are laid out at once.
_SENTENCES = 1 << 16


@dataclass
class TrainingData:
    """What training reads.

    Attributes:
        tokenizer: With the vocabulary of the training part.
        train: Training sentences.
        dev: Held-out sentences; may be none.
    """

    tokenizer: OnlstmTokenizer
    train: Encoded
    dev: Encoded


def load_data(
    text: Sequence[str | Path],
    dev: Sequence[str | Path],
    config: TextTrainingConfig,
    folder: Path,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> TrainingData:
    """Read text and make the vocabulary, or take both from an interrupted run.

    Args:
        text: Training files or folders of trees.
        dev: Held-out files; empty: a part of the text.
        config: Tokens, layout, vocabulary, seed.
        folder: Working folder, where the numbers are kept for a resumed run.
        resume: Take them from there: the files are still the same.
        progress: Told of the sources.

    Raises:
        OrdtoolError: Unreadable or empty text, or numbers of an interrupted run that are damaged.
    """
    if resume:
        tensors, state = read_checkpoint(folder / CACHE, {"words": (list,)})
        with restoring(folder / CACHE):
            train, held_out = (
                Encoded(*(tensors[f"{part}.{x}"].numpy() for x in ("ids", "starts"))) for part in PARTS
            )
            return TrainingData(_tokenizer(state["words"], config), train, held_out)
    train_text, dev_text = _sentences(text, dev, config, progress)
    words = build_vocabulary(
        count_words(train_text),
        config.vocab_size,
        lowercase=config.lowercase,
        digits=config.digits,
        simplified=config.tokens in CHINESE_KINDS,
    )
    tokenizer = _tokenizer(words, config)
    train, held_out = encode_sentences(train_text, tokenizer), encode_sentences(dev_text, tokenizer)
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


PARTS = ("train", "dev")


def _tokenizer(words: list[str], config: TextTrainingConfig) -> OnlstmTokenizer:
    options: dict[str, Any] = {
        "lowercase": config.lowercase,
        "digits": config.digits,
        "token_kind": config.tokens,
        "simplified": config.tokens in CHINESE_KINDS,
    }
    return OnlstmTokenizer.from_tokens(words, drop_punctuation=not config.punctuation, **options)


def _sentences(
    text: Sequence[str | Path], dev: Sequence[str | Path], config: TextTrainingConfig, progress: Progress
) -> tuple[list[list[str]], list[list[str]]]:
    """Training and held-out sentences."""
    options = TextConfig(config.tokens, config.layout, config.punctuation, config.field, config.language)  # type: ignore[arg-type]
    sentences = load_sentences(text, options, progress)
    if dev:
        return sentences, load_sentences(dev, options, progress)
    kept, held = hold_out(len(sentences), round(len(sentences) * config.holdout), [config.seed, 1])
    return [sentences[k] for k in kept], [sentences[k] for k in held]


def count_words(sentences: Sequence[Sequence[str]]) -> Counter[str]:
    """Occurrences of each surface word, words hidden as `<unk>` left out."""
    counts: Counter[str] = Counter()
    for words in sentences:
        counts.update(words)
    del counts[UNKNOWN]
    return counts


@dataclass(frozen=True)
class Encoded:
    """Sentences as numbers: `ids[starts[k]:starts[k + 1]]` is sentence k without `<eos>`.

    Attributes:
        ids: All sentences one after the other, int32.
        starts: Offsets, one more than there are sentences, int64.
    """

    ids: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        """Number of sentences."""
        return len(self.starts) - 1

    @property
    def tokens(self) -> int:
        """Number of predictions: words, and one `<eos>` a sentence."""
        return len(self.ids) + len(self)


def reversed_data(data: TrainingData) -> TrainingData:
    """Return the text from its end to its beginning, for a model that reads from right to left."""
    return TrainingData(data.tokenizer, _reversed(data.train), _reversed(data.dev))


def _reversed(encoded: Encoded) -> Encoded:
    return Encoded(encoded.ids[::-1].copy(), (encoded.starts[-1] - encoded.starts)[::-1].copy())


def encode_sentences(sentences: Sequence[Sequence[str]], tokenizer: Vocabulary | OnlstmTokenizer) -> Encoded:
    """Turn sentences into numbers."""
    lengths = np.fromiter((len(words) for words in sentences), np.int64, len(sentences))
    starts = np.concatenate(([0], np.cumsum(lengths)))
    ids = np.empty(int(starts[-1]), np.int32)
    position = 0
    for chunk in range(0, len(sentences), 4096):
        for numbers in tokenizer.encode_words(sentences[chunk : chunk + 4096]):
            ids[position : position + len(numbers)] = numbers
            position += len(numbers)
    return Encoded(ids, starts)


@dataclass(frozen=True)
class Streams:
    """Parallel streams of one epoch.

    Attributes:
        tokens: `(batch, steps + 1)` int64: inputs are all but the last column, targets all but the first.
    """

    tokens: np.ndarray

    @property
    def steps(self) -> int:
        """Predictions in each stream."""
        return self.tokens.shape[1] - 1


def streams(encoded: Encoded, batch: int, eos: int, order: np.ndarray | None = None) -> Streams:
    """Lay sentences out as `<eos> s1 <eos> s2 <eos> ...` in `batch` parallel streams.

    The last tokens that don't fill a column are left out; with a new order each epoch they are
    others each time.

    Args:
        encoded: The sentences.
        batch: Number of streams.
        eos: Id of `<eos>`.
        order: Permutation of the sentences; None keeps them as they are.

    Raises:
        OrdtoolError: Fewer tokens than streams.
    """
    order = np.arange(len(encoded)) if order is None else order
    lengths = np.diff(encoded.starts)[order]
    ends = np.cumsum(lengths + 1)
    flat = np.full(int(ends[-1]) + 1 if len(order) else 1, eos, np.int64)
    places, sources = ends - lengths, encoded.starts[:-1][order]
    for block in range(0, len(order), _SENTENCES):
        some = slice(block, block + _SENTENCES)
        count = lengths[some]
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        flat[np.repeat(places[some], count) + within] = encoded.ids[np.repeat(sources[some], count) + within]
    steps = (len(flat) - 1) // batch
    if steps < 1:
        raise OrdtoolError(
            f"{len(flat) - 1} tokens are too few for {batch} streams",
            hint="use more text or a smaller `batch_size`",
        )
    # Neighbouring streams share a token: the last target of one is the first input of the next.
    starts = np.arange(batch) * steps
    return Streams(np.stack([flat[s : s + steps + 1] for s in starts]))


def load_sentences(
    paths: Sequence[str | Path], config: TextConfig, progress: Progress = SILENT
) -> list[list[str]]:
    """Read all sentences into memory, with one line about each source.

    Raises:
        OrdtoolError: As `read_sentences`, and when there is no word in all of it.
    """
    sentences: list[list[str]] = []
    # Equal words share one string object, which makes a large text fit.
    shared: dict[str, str] = {}
    progress.start("reading text", None, "sentences")
    for path in paths:
        before, words = len(sentences), 0
        for sentence in read_sentences([path], config):
            sentences.append([shared.setdefault(word, word) for word in sentence])
            words += len(sentence)
            progress.advance(1)
        if len(sentences) == before:
            progress.warn(f"{path}: no words in it")
        else:
            progress.note(f"{path}: {len(sentences) - before:,} sentences, {words:,} words")
    progress.close()
    if not sentences:
        raise OrdtoolError(
            "no words in the text", hint="give files with text, a sentence or paragraph a line"
        )
    return sentences
