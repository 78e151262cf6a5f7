"""Questions whose answers are spans of a context: from records to token ids and targets, and from scores to answers.

A context that is too long for the model is read in windows that overlap. In a window without the answer both ends of it are
at the first token, as in BERT's way with SQuAD (Devlin et al. 2019, section 4.2 and 4.3); so are those of a question that
has no answer.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.arguments import as_strings
from ordtool.errors import OrdtoolError
from ordtool.io.inputs import open_input
from ordtool.io.tables import TableRow, rows_of
from ordtool.progress import SILENT, Progress
from ordtool.tuning.data import Fields
from ordtool.tuning.encoding import NO_TARGET, Encoded, Windows, check_offsets

SHORTEST_WINDOW = 16
START_FIELD = "start"
# A token's target is a sum of these; 0 may begin or end no answer, though it is a token that could.
BEGINS, ENDS = 1, 2
_HINT = "`field`, `pair_field` and `label_field` name the fields"
# What SQuAD's evaluation leaves out, and the punctuation of Chinese.
_MARKS = re.compile(
    f"[{re.escape(string.punctuation)}“”‘’…—"
    "\u3000-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
# Scripts without spaces between words: kana and ideographs.
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_PARTS = re.compile(f"[{_ALONE}]|[^\\s{_ALONE}]+")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a context.

    Attributes:
        where: `file:line`.
        question: The question.
        context: What is read for the answer.
        answers: Right ones, the first of which is learnt; none for a question that the context doesn't answer.
        start: Where the first one begins in the context, in characters.
    """

    where: str
    question: str
    context: str
    answers: tuple[str, ...] = ()
    start: int = 0

    @property
    def span(self) -> tuple[int, int]:
        """The first answer's place, half-open; empty where there is none."""
        return (self.start, self.start + len(self.answers[0])) if self.answers else (0, 0)


def read_questions(
    paths: str | Path | Sequence[str | Path], fields: Fields, progress: Progress = SILENT
) -> list[Question]:
    """Read questions with their contexts and answers; `-` is stdin.

    Args:
        paths: JSONL or tables with `question`, `context`, `answer` and perhaps `start`.
        fields: Other names of the first three. An answer may be a list: the first is learnt, and all are right. An empty
            one, or null, says that the context doesn't answer.
        progress: Warned of answers that occur more than once and don't say where they begin.

    Raises:
        OrdtoolError: With `file:line`, for an answer that doesn't stand in its context, or not where it is said to.
    """
    paths = as_strings(paths)
    found, unsure = [], []
    for path in paths:
        with open_input(path) as stream:
            for row in rows_of(stream, fields.texts, optional=(fields.label, START_FIELD), hint=_HINT):
                question = _question(row, fields)
                found.append(question)
                if row.values[3] is None and question.answers:
                    unsure += [question] * (question.context.count(question.answers[0]) > 1)
    if not found:
        raise OrdtoolError(
            f"{', '.join(paths)}: holds no records",
            'a line looks like {"question": ..., "context": ..., "answer": ..., "start": 17}',
        )
    if unsure:
        progress.warn(
            f"{unsure[0].where}: the answer occurs more than once in its context, and the first is taken "
            f"(so in {len(unsure)} records); {START_FIELD!r} says where it begins"
        )
    return found


def _question(row: TableRow, fields: Fields) -> Question:
    question, context, answer, start = row.values
    for name, value in zip(fields.texts, (question, context), strict=True):
        if not isinstance(value, str) or not value.strip():
            raise OrdtoolError(f"{row.where}: field {name!r} must be a string with text in it")
    answers = answers_of(answer, row.where, fields)
    if not answers:
        return Question(row.where, question, context)
    if isinstance(start, list):
        start = start[0] if start else None
    if start is None or start == "":
        begin = context.find(answers[0])
    elif str(start).isdecimal():
        begin = int(start)
    else:
        raise OrdtoolError(f"{row.where}: {START_FIELD!r} is {start!r:.40}, and no number of characters")
    if begin < 0 or not context.startswith(answers[0], begin):
        at = "" if start in (None, "") else f" at {start}"
        raise OrdtoolError(f"{row.where}: the answer {answers[0]!r:.60} isn't in its context{at}")
    return Question(row.where, question, context, answers, begin)


def answers_of(value: Any, where: str, fields: Fields) -> tuple[str, ...]:
    """Take the right answers out of what stands under their key: a string, or a list of them; none if it is empty.

    Raises:
        OrdtoolError: For something else.
    """
    answers = [] if value in (None, "") else [value] if isinstance(value, str) else value
    if not isinstance(answers, list) or not all(isinstance(answer, str) and answer for answer in answers):
        raise OrdtoolError(f"{where}: field {fields.label!r} must be a string, or a list of them")
    return tuple(answers)


def encode_questions(tokenizer: Any, questions: Sequence[Question], max_length: int) -> Encoded:
    """Tokenize questions with their contexts, in windows that overlap by an eighth of `max_length`.

    Returns:
        A row a window. A token's target says whether the answer begins (`BEGINS`) or ends there (`ENDS`); the first token
        stands for no answer, and tokens of the question have none.

    Raises:
        OrdtoolError: If the tokenizer doesn't say where its tokens stand.
    """
    check_offsets(tokenizer)
    asked = [_shortened(tokenizer, question.question, max_length // 2) for question in questions]
    found = tokenizer(
        asked,
        [question.context for question in questions],
        truncation="only_second",
        max_length=max_length,
        stride=max_length // 8,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    of = np.array(found["overflow_to_sample_mapping"], dtype=np.int64)
    places, targets = [], []
    for window, number in enumerate(of):
        inside = np.array([part == 1 for part in found.sequence_ids(window)])
        offsets = np.array(found["offset_mapping"][window], dtype=np.int64).reshape(-1, 2)
        places.append(np.where(inside[:, None], offsets, 0))
        targets.append(_targets(places[-1], questions[number].span))
    types = found.get("token_type_ids")
    return Encoded(
        [np.array(row, dtype=np.int64) for row in found["input_ids"]],
        None if types is None else [np.array(row, dtype=np.int64) for row in types],
        token_targets=targets,
        windows=Windows(of, places, [q.context for q in questions], [q.answers for q in questions]),
    )


def _shortened(tokenizer: Any, question: str, tokens: int) -> str:
    """Cut a question after some tokens, and end it with a line where the tokenizer puts nothing between two texts."""
    found = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [stop for _, stop in found["offset_mapping"]]
    text = question[: ends[tokens - 1]] if len(ends) > tokens else question
    apart = tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add(pair=False)
    return text if apart else text + "\n"


def _targets(places: NDArray[np.int64], span: tuple[int, int]) -> NDArray[np.int64]:
    """Mark the tokens of the context, and among them the first and last that the answer touches, if all of it is here."""
    starts, stops = places.T
    inside = stops > starts
    found = np.where(inside, 0, NO_TARGET)
    found[0] = 0
    touched = np.flatnonzero(inside & (starts < span[1]) & (stops > span[0]))
    whole = len(touched) and starts[touched[0]] <= span[0] and stops[touched[-1]] >= span[1]
    first, last = (touched[0], touched[-1]) if whole else (0, 0)
    found[first] += BEGINS
    found[last] += ENDS
    return found


def longest_answer(data: Encoded) -> int:
    """Return the tokens of the longest answer in encoded questions."""
    ends = [
        (int(np.flatnonzero(row & BEGINS)[0]), int(np.flatnonzero(row & ENDS)[0]))
        for row in (np.maximum(row, 0) for row in data.token_targets or [])
    ]
    return max(last - first + 1 for first, last in ends)


class AnswerFinder:
    r"""The likeliest span of each question, over its windows.

    A span from token i to j has the probability $p_{begins}(i) \, p_{ends}(j)$, each a softmax over the tokens of the
    window's context and the first token, which stands for no answer.

    Args:
        windows: Of the questions.
        longest: Tokens of an answer at most.
        unanswerable: Whether a question may have no answer: where that is likelier than the best span in every window.
    """

    def __init__(self, windows: Windows, longest: int, unanswerable: bool) -> None:
        self._windows, self._longest, self._unanswerable = windows, longest, unanswerable
        self._best = [(-1.0, 0, 0)] * len(windows.contexts)
        self._none = [2.0] * len(windows.contexts)

    def add(self, index: Sequence[int], logits: NDArray[np.floating]) -> None:
        """Take the scores of some windows, `(windows, tokens, 2)`."""
        for scores, window in zip(logits, index, strict=True):
            places = self._windows.places[window]
            number = int(self._windows.of[window])
            share, first, last, none = best_span(
                scores[: len(places)], places[:, 1] > places[:, 0], self._longest
            )
            self._best[number] = max(self._best[number], (share, int(places[first, 0]), int(places[last, 1])))
            self._none[number] = min(self._none[number], none)

    def spans(self) -> list[tuple[int, int, float]]:
        """Return each question's answer: where it begins and ends in its context, and its probability; 0 and 0 for none."""
        return [
            (0, 0, none) if share < 0 or (self._unanswerable and none > share) else (start, stop, share)
            for (share, start, stop), none in zip(self._best, self._none, strict=True)
        ]

    def texts(self) -> list[str]:
        """Return each question's answer as text; empty for none."""
        pairs = zip(self.spans(), self._windows.contexts, strict=True)
        return [context[start:stop] for (start, stop, _), context in pairs]


def best_span(
    logits: NDArray[np.floating], inside: NDArray[np.bool_], longest: int
) -> tuple[float, int, int, float]:
    """Find the likeliest span of a window.

    Args:
        logits: Of beginning and ending, `(tokens, 2)`.
        inside: Which tokens are of the context, `(tokens,)`.
        longest: Tokens of a span at most.

    Returns:
        Its probability, its first and last token, and the probability of no answer; -1 and twice 0 where no token is inside.
    """
    allowed = inside.copy()
    allowed[0] = True
    shares = np.where(allowed[:, None], logits, -np.inf).astype(np.float64)
    shares = np.exp(shares - shares.max(axis=0))
    shares /= shares.sum(axis=0)
    none = float(shares[0].prod())
    tokens = np.flatnonzero(inside)
    if not len(tokens):
        return -1.0, 0, 0, none
    both = shares[tokens, 0][:, None] * shares[tokens, 1]
    both = np.triu(both) - np.triu(both, longest)
    first, last = np.unravel_index(int(both.argmax()), both.shape)
    return float(both[first, last]), int(tokens[first]), int(tokens[last]), none


def answer_words(text: str) -> list[str]:
    """Return an answer's words as SQuAD's evaluation compares them: lower case, no punctuation, no articles.

    Of Chinese and Japanese every character is one, as in CMRC's.
    """
    return _PARTS.findall(_ARTICLES.sub(" ", _MARKS.sub("", text.lower())))


def exact_match(guess: str, answers: Sequence[str]) -> float:
    """Return 1 if a guess is one of the answers, by `answer_words`, else 0; without any, if the guess is empty."""
    words = answer_words(guess)
    return float(any(words == answer_words(answer) for answer in answers or [""]))


def answer_f1(guess: str, answers: Sequence[str]) -> float:
    """Return the F1 of the words that a guess and an answer share, of the answer that has most (SQuAD's)."""
    return max(_f1(answer_words(guess), answer_words(answer)) for answer in answers or [""])


def _f1(guess: Sequence[str], answer: Sequence[str]) -> float:
    if not guess or not answer:
        return float(guess == answer)
    shared = (Counter(guess) & Counter(answer)).total()
    return 2 * shared / (len(guess) + len(answer))


def score_answers(guesses: Sequence[str], answers: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Return the means of `answer_f1` and `exact_match` in percent."""
    pairs = list(zip(guesses, answers, strict=True))
    return tuple(100 * float(np.mean([f(g, a) for g, a in pairs])) for f in (answer_f1, exact_match))  # type: ignore[return-value]
