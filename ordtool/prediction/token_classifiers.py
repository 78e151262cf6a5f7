"""Classifiers of tokens: labels of words, and answers in a context, by ladders and by checkpoints of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ordtool.batching import batches_by_length
from ordtool.models.limits import tokenizer_limit, usable_context
from ordtool.models.loading import check_vocabulary, load_model, load_tokenizer
from ordtool.prediction.evaluation import AnswerEvaluation, Evaluation, WordEvaluation
from ordtool.prediction.items import Answer, Item, WordLabels
from ordtool.progress import SILENT, Progress
from ordtool.tuning.backbone.model import Backbone
from ordtool.tuning.data import Fields, default_fields
from ordtool.tuning.encoding import Encoded
from ordtool.tuning.ladder.model import Ladder
from ordtool.tuning.loading import load_ladder_and_backbone
from ordtool.tuning.questions import AnswerFinder, Question, encode_questions
from ordtool.tuning.words import cut_sentences

_LONGEST = 512
# Tokens of an answer, for checkpoints that don't say what they were trained with (BERT's usual figure for SQuAD).
_ANSWER = 30


@dataclass(frozen=True, slots=True)
class TokenModel:
    """A model that scores tokens.

    Attributes:
        run: From a batch of inputs to logits `(batch, seq, classes)`.
        tokenizer: Its tokenizer.
        length: Tokens at most.
        device: Where it is.
    """

    run: Callable[[dict[str, Tensor]], Tensor]
    tokenizer: Any
    length: int
    device: torch.device

    @torch.inference_mode()
    def scores(self, data: Encoded, batch_size: int) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Yield the numbers of some rows and their logits, until all had their turn."""
        pad = self.tokenizer.pad_token_id or 0
        for index in batches_by_length(data.lengths, size=batch_size, longest_first=True):
            inputs = {k: v.to(self.device) for k, v in data.inputs(index, pad).items()}
            yield index, self.run(inputs).float().cpu().numpy()


def ladder_model(ladder: Ladder, backbone: Backbone) -> TokenModel:
    """Take a ladder that labels tokens, and its backbone."""

    def run(inputs: dict[str, Tensor]) -> Tensor:
        states = backbone.states(inputs, ladder.config.layers, torch.float32)
        logits: Tensor = ladder(states.hidden, states.last, states.mask).logits
        return logits

    return TokenModel(run, backbone.tokenizer, ladder.config.text_length, ladder.device)


def checkpoint_model(folder: Path, device: torch.device, *, span: bool) -> tuple[TokenModel, Any]:
    """Load a `...ForTokenClassification`, or with `span` a `...ForQuestionAnswering`; return its configuration too.

    Raises:
        OrdtoolError: If it can't be loaded, or its head was never trained.
    """
    model = load_model(folder, "span" if span else "tokens", device=device).model
    tokenizer = load_tokenizer(folder)
    check_vocabulary(folder, tokenizer, model)
    limits = (tokenizer_limit(tokenizer), usable_context(model.config), _LONGEST)
    length = min(limit for limit in limits if limit is not None)

    def run(inputs: dict[str, Tensor]) -> Tensor:
        found = model(**inputs)
        logits: Tensor = torch.stack([found.start_logits, found.end_logits], dim=-1) if span else found.logits
        return logits

    return TokenModel(run, tokenizer, length, device), model.config


class WordClassifier:
    """Labels words.

    Args:
        model: What scores their tokens.
        labels: Names of the classes.
        pooling: See `cut_sentences`.
    """

    takes_words = True

    def __init__(self, model: TokenModel, labels: Sequence[str], pooling: str = "cls") -> None:
        self.fields: Fields = default_fields("tokens")
        self.labels = list(labels)
        self._model, self._pooling = model, pooling

    def predict(self, items: Sequence[Item], batch_size: int) -> list[WordLabels]:
        """Label the words of items, each of which has a sentence. Those of long ones are labelled in parts."""
        sentences = [item.sentence for item in items if item.sentence is not None]
        pieces = cut_sentences(self._model.tokenizer, sentences, self._model.length, self._pooling)
        labels = [[""] * len(sentence.offsets) for sentence in sentences]
        shares = [[0.0] * len(sentence.offsets) for sentence in sentences]
        for index, logits in self._model.scores(Encoded([piece.ids for piece in pieces]), batch_size):
            for row, number in zip(logits, index, strict=True):
                piece = pieces[number]
                scores = row[piece.places]
                scores = np.exp(scores - scores.max(axis=1, keepdims=True))
                best = scores.argmax(axis=1)
                part = slice(piece.first, piece.first + len(best))
                labels[piece.sentence][part] = [self.labels[k] for k in best]
                shares[piece.sentence][part] = (scores.max(axis=1) / scores.sum(axis=1)).tolist()
        return [
            WordLabels(" ".join(found), words=sentence.words, labels=tuple(found), shares=tuple(share))
            for sentence, found, share in zip(sentences, labels, shares, strict=True)
        ]

    def evaluation(self) -> Evaluation:
        """Return what measures its predictions."""
        return WordEvaluation(self.labels)


class AnswerClassifier:
    """Finds answers in contexts.

    Args:
        model: What scores tokens as their ends.
        longest: Tokens of an answer at most.
        unanswerable: Whether a context may have none.
        context_field: The key of the context.
    """

    takes_words = False

    def __init__(
        self, model: TokenModel, longest: int, unanswerable: bool, context_field: str | None = None
    ) -> None:
        usual = default_fields("span")
        self.fields = Fields(usual.text, context_field or usual.pair, usual.label)
        self.labels: list[str] = []
        self._model, self._longest, self._unanswerable = model, longest, unanswerable

    def predict(self, items: Sequence[Item], batch_size: int) -> list[Answer]:
        """Answer the questions of items, whose `pair` is the context. Long contexts are read in windows."""
        questions = [Question(item.where, item.text or "", item.pair or "") for item in items]
        data = encode_questions(self._model.tokenizer, questions, self._model.length)
        assert data.windows is not None
        finder = AnswerFinder(data.windows, self._longest, self._unanswerable)
        for index, logits in self._model.scores(data, batch_size):
            finder.add(index, logits)
        return [
            Answer(question.context[start:stop], span=(start, stop), probability=share)
            for question, (start, stop, share) in zip(questions, finder.spans(), strict=True)
        ]

    def evaluation(self) -> Evaluation:
        """Return what measures its predictions."""
        return AnswerEvaluation()


def load_token_ladder(
    folder: Path, backbone: str | None, device: torch.device, progress: Progress = SILENT
) -> WordClassifier | AnswerClassifier:
    """Load what `ordtool train ladder` wrote for `tokens` or `span`.

    Raises:
        OrdtoolError: If it is damaged, or its backbone isn't found.
    """
    ladder, frozen = load_ladder_and_backbone(folder, backbone=backbone, device=device, progress=progress)
    config, model = ladder.config, ladder_model(ladder, frozen)
    if config.task == "span":
        return AnswerClassifier(model, config.longest_answer, config.unanswerable, config.pair_field)
    return WordClassifier(model, [config.id2label[i] for i in range(len(config.id2label))], config.pooling)


def load_token_checkpoint(
    folder: Path, device: torch.device, *, span: bool
) -> WordClassifier | AnswerClassifier:
    """Load a checkpoint of transformers; see `checkpoint_model`."""
    model, config = checkpoint_model(folder, device, span=span)
    if span:
        return AnswerClassifier(model, _ANSWER, unanswerable=True)
    return WordClassifier(model, [str(config.id2label[i]) for i in range(len(config.id2label))])
