"""Targeted syntactic evaluation: does a language model find the right one of two sentences more probable?

Each pair differs in one thing, such as the number of a verb; the model is right if the sum of its log-probabilities is
higher for the good sentence (Marvin and Linzen 2018, *Targeted syntactic evaluation of language models*).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordtool.batching import batches_by_length
from ordtool.errors import OrdtoolError
from ordtool.io.inputs import open_input
from ordtool.io.tables import rows_of
from ordtool.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch

ALL = "all"
# Padded tokens of a batch: its scores are as many rows of the whole vocabulary.
_BATCH_TOKENS = 1024
_PAIRS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sentences, of which the first is grammatical.

    Attributes:
        good: The right one.
        bad: The wrong one.
        type: What they test; empty: nothing in particular.
    """

    good: str
    bad: str
    type: str = ""


@dataclass(frozen=True, slots=True)
class SentenceScore:
    """What a model thinks of a sentence.

    Attributes:
        text: The sentence.
        words: What it consists of: what stands between spaces, or the words of a tokenizer that has no pieces.
        word_scores: The log-probability of each word in nats, the sum of its tokens' `(words,)`.
        score: Their sum.
        tokens: The ids that were scored.
    """

    text: str
    words: list[str]
    word_scores: list[float]
    score: float
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PairScore:
    """A pair with both scores.

    Attributes:
        pair: The sentences.
        good: Of the right one.
        bad: Of the wrong one.
    """

    pair: Pair
    good: SentenceScore
    bad: SentenceScore

    @property
    def same(self) -> bool:
        """Whether the model reads the same tokens in both, because its vocabulary lacks what differs."""
        return self.good.tokens == self.bad.tokens

    @property
    def right(self) -> bool:
        """Whether the good one scores higher."""
        return not self.same and self.good.score > self.bad.score

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        found: dict[str, Any] = {"type": self.pair.type, "right": self.right, "same": self.same}
        for name, scored in (("good", self.good), ("bad", self.bad)):
            words = [[word, round(x, 4)] for word, x in zip(scored.words, scored.word_scores, strict=True)]
            found |= {name: scored.text, f"{name}_score": round(scored.score, 4), f"{name}_words": words}
        return found


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often the good one scores higher.

    Attributes:
        type: Of the pairs; `all` for all of them.
        pairs: How many.
        right: How many times the good one scores higher.
        same: Pairs in which the model sees no difference; they count as wrong.
    """

    type: str
    pairs: int
    right: int
    same: int

    @property
    def accuracy(self) -> float:
        """In percent; half of it is chance."""
        return 100 * self.right / self.pairs

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        counts = {"pairs": self.pairs, "right": self.right, "same": self.same}
        return {"type": self.type, "accuracy": round(self.accuracy, 2), **counts}


def read_pairs(path: str | Path) -> list[Pair]:
    """Read minimal pairs: JSON objects (or columns of a table) with `good` and `bad`, and maybe `prefix` and `type`.

    A prefix is what both begin with; a space is put behind it.

    Raises:
        OrdtoolError: With `file:line`, for a missing field or one that is no text; for a file without pairs.
    """
    found = []
    with open_input(path) as stream:
        for row in rows_of(stream, ("good", "bad"), optional=("prefix", "type")):
            texts = ["" if value is None else value for value in row.values]
            if not all(isinstance(text, str) for text in texts):
                raise OrdtoolError(
                    f"{row.where}: a pair is of texts", 'for example {"good": "...", "bad": "..."}'
                )
            good, bad, prefix, kind = texts
            start = f"{prefix.rstrip()} " if prefix.strip() else ""
            found.append(Pair(start + good, start + bad, kind))
    if not found:
        raise OrdtoolError(f"{path}: no pairs", 'a line is {"good": "...", "bad": "..."}')
    return found


def score_agreement(
    pairs: Iterable[Pair | Mapping[str, str]],
    model: str = "english-onlstm",
    *,
    start: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress = SILENT,
) -> list[PairScore]:
    """Score minimal pairs by a causal language model; `summarize` counts them.

    A sentence is read behind the token that begins a text (where there is none, the one that ends it), and its score is the
    sum of the log-probabilities of its tokens, its end not included.

    Args:
        pairs: `Pair`, or mappings with `good`, `bad` and maybe `type`.
        model: A folder or name of a causal model: an ON-LSTM, one of `train lm`, or any of the hub's.
        start: The token that sentences stand behind instead, such as `<|endoftext|>`.
        device: As in `ordtool.runtime.resolve_device`.
        dtype: As in `ordtool.runtime.resolve_dtype`.
        progress: Told how many pairs are done.

    Returns:
        A score a pair, in order.

    Raises:
        OrdtoolError: If there is nothing to score, the model can't be loaded or is not causal, or it has no such token.
    """
    asked = [pair if isinstance(pair, Pair) else Pair(**pair) for pair in pairs]
    if not asked:
        raise OrdtoolError("no pairs to score")
    scorer = SentenceScorer.load(model, device, dtype, progress, start=start)
    progress.start("scoring", len(asked), "pairs")
    found = []
    for first in range(0, len(asked), _PAIRS_AT_ONCE):
        part = asked[first : first + _PAIRS_AT_ONCE]
        scores = scorer.score([text for pair in part for text in (pair.good, pair.bad)])
        found += [PairScore(p, *scores[2 * k : 2 * k + 2]) for k, p in enumerate(part)]
        progress.advance(len(part))
    return found


def summarize(scores: Sequence[PairScore]) -> list[Agreement]:
    """Count what is right, all pairs first and then each type in the order in which they come."""
    kinds = list(dict.fromkeys(score.pair.type for score in scores if score.pair.type))
    return [_count(ALL, scores), *(_count(k, [s for s in scores if s.pair.type == k]) for k in kinds)]


def _count(kind: str, scores: Sequence[PairScore]) -> Agreement:
    return Agreement(kind, len(scores), sum(s.right for s in scores), sum(s.same for s in scores))


class SentenceScorer:
    """A causal model that gives log-probabilities of sentences and their words.

    Args:
        model: Of transformers, in evaluation mode; reads ids padded on the right.
        tokenizer: Its tokenizer.
        start: The id before every sentence.
    """

    def __init__(self, model: Any, tokenizer: Any, start: int) -> None:
        self._model, self._tokenizer, self._start = model, tokenizer, start

    @classmethod
    def load(
        cls,
        name: str,
        device: str = "auto",
        dtype: str = "auto",
        progress: Progress = SILENT,
        *,
        start: str | None = None,
    ) -> SentenceScorer:
        """Load a model by its name.

        Raises:
            OrdtoolError: If it can't be loaded, is not causal, or has no token to begin with.
        """
        from ordtool.models.resolve import resolve_model

        folder = resolve_model(name, progress)
        from ordtool.models.loading import check_causal, load_config, load_model, load_tokenizer
        from ordtool.runtime import resolve_device, resolve_dtype

        check_causal(folder, load_config(folder))
        where = resolve_device(device)
        # An ON-LSTM multiplies in float32 here: a state of bfloat16 would forget what agreement is about.
        kind = resolve_dtype("float32" if dtype == "auto" else dtype, where)
        tokenizer = load_tokenizer(folder)
        model = load_model(folder, "causal", dtype=kind, device=where).model
        return cls(model, tokenizer, _start_token(folder, tokenizer, model.config, start))

    def score(self, texts: Sequence[str]) -> list[SentenceScore]:
        """Score sentences, in batches of like lengths."""
        encoded = [self._encode(text) for text in texts]
        found: dict[int, SentenceScore] = {}
        for batch in batches_by_length([len(ids) for ids, _ in encoded], tokens=_BATCH_TOKENS):
            for k, logprobs in zip(batch, self._logprobs([encoded[k][0] for k in batch]), strict=True):
                found[k] = _of_words(texts[k], *encoded[k], logprobs)
        return [found.get(k) or _of_words(text, [], [], []) for k, text in enumerate(texts)]

    def _encode(self, text: str) -> tuple[list[int], list[str]]:
        """Return a sentence's ids, and the text of each: pieces of it that together are the sentence, or whole words."""
        if not self._tokenizer.is_fast:
            words = self._tokenizer.tokenize(text)
            return self._tokenizer.convert_tokens_to_ids(words), words
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in found["offset_mapping"]]
        return found["input_ids"], [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    def _logprobs(self, sentences: Sequence[Sequence[int]]) -> Iterator[list[float]]:
        """Yield the log-probability of each id of each sentence."""
        import torch

        longest = max(map(len, sentences))
        ids = torch.full((len(sentences), longest + 1), self._start, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sentence in enumerate(sentences):
            ids[row, 1 : len(sentence) + 1] = torch.tensor(sentence, dtype=torch.long)
            mask[row, : len(sentence) + 1] = 1
        device = next(self._model.parameters()).device
        with torch.inference_mode():
            logits = self._model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
            picked = _picked(logits[:, :-1], ids[:, 1:].to(device)).cpu()
        for row, sentence in enumerate(sentences):
            yield picked[row, : len(sentence)].tolist()


def _start_token(folder: Path, tokenizer: Any, config: Any, name: str | None) -> int:
    """Return the id of the token that is named, or of the one that begins a text."""
    if name is not None:
        found = tokenizer.get_vocab().get(name)
        if found is None:
            raise OrdtoolError(
                f"{folder}: the vocabulary has no token {name!r}", "tokens are written as they stand there"
            )
        return int(found)
    ids = (tokenizer.bos_token_id, getattr(config, "bos_token_id", None), tokenizer.eos_token_id)
    start = next((token for token in ids if isinstance(token, int)), None)
    if start is None:
        raise OrdtoolError(
            f"{folder}: the model has no token that begins or ends a text", "name one by `start`"
        )
    return start


def _picked(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of the targets, `(rows, tokens)`, in float32."""
    logits = logits.float()
    return logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(dim=-1)


def _of_words(
    text: str, ids: Sequence[int], pieces: Sequence[str], logprobs: Sequence[float]
) -> SentenceScore:
    """Add up the log-probabilities of each word's pieces; a piece that begins with a space begins a word."""
    whole = "".join(pieces).split() == text.split()  # else the pieces are words themselves
    words: list[str] = []
    scores: list[float] = []
    for piece, logprob in zip(pieces, logprobs, strict=True):
        if words and whole and (not piece[:1].isspace() and not words[-1][-1:].isspace()):
            words[-1] += piece
            scores[-1] += logprob
        else:
            words.append(piece)
            scores.append(logprob)
    return SentenceScore(text, [word.strip() for word in words], scores, float(sum(logprobs)), tuple(ids))
