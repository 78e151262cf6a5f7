"""Written texts against references: BLEU, chrF and ROUGE-L, by the packages that define them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ordtool.arguments import as_many, as_strings
from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.inputs import open_input
from ordtool.io.jsonl import holds_jsonl
from ordtool.io.tables import rows_of
from ordtool.io.text import records_of
from ordtool.progress import SILENT, Progress
from ordtool.runtime import require

TOKENIZERS = ("13a", "intl", "zh", "char", "none")


@dataclass(frozen=True, slots=True)
class TextScores:
    """Scores of a set of texts, in percent.

    Attributes:
        bleu: Corpus BLEU of 4-grams (Papineni et al. 2002), by sacrebleu.
        chrf: Corpus chrF2 of character 6-grams (Popović 2015), by sacrebleu.
        rouge_l: Mean over segments of the F1 of the longest common subsequence (Lin 2004),
            by rouge-score; the best reference counts.
        segments: How many texts.
        protocol: The signatures of the metrics.
    """

    bleu: float
    chrf: float
    rouge_l: float
    segments: int
    protocol: str

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as a JSON object."""
        return asdict(self)


class _Characters:
    """A tokenizer for rouge-score: every character but spaces."""

    def tokenize(self, text: str) -> list[str]:
        return [character for character in text if not character.isspace()]


class _Words:
    """A tokenizer for rouge-score: what stands between spaces."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def score_text(
    predictions: str | Iterable[str],
    references: str | Iterable[str | Sequence[str]],
    *,
    tokenizer: str = "13a",
    lowercase: bool = False,
    progress: Progress = SILENT,
    rouge: Sequence[float] | None = None,
) -> TextScores:
    """Score texts against one or more references each.

    Args:
        predictions: The texts, or one.
        references: For each text its reference, or a list of them; their number may vary. A single string is the
            reference of a single text.
        tokenizer: Of BLEU: `13a` (the usual), `intl`, `zh`, `char` or `none`. ROUGE-L takes
            characters for `zh` and `char`, words between spaces for `none`, and else
            rouge-score's own: lower case, runs of a-z and 0-9.
        lowercase: BLEU and chrF take A for a.
        progress: Warned if ROUGE-L's tokenizer sees nothing of the references.
        rouge: The best F1 of each text, where `rouge_scores` worked it out before.

    Returns:
        The scores.

    Raises:
        UsageError: For an unknown tokenizer.
        OrdtoolError: If there is nothing to score, the numbers differ, a text has no
            reference, or a package is missing.
    """
    if tokenizer not in TOKENIZERS:
        raise UsageError(f"unknown `tokenizer` {tokenizer!r}", close_match_hint(tokenizer, TOKENIZERS))
    predictions = list(as_many(predictions))
    references = [list(as_many(some)) for some in as_many(references)]
    check_pairs(predictions, references)
    require("sacrebleu", "score")
    require("rouge_score", "score")
    from sacrebleu.metrics import BLEU, CHRF

    width = max(map(len, references))
    streams: list[list[str | None]] = [
        [some[place] if place < len(some) else None for some in references] for place in range(width)
    ]
    bleu, chrf = BLEU(tokenize=tokenizer, lowercase=lowercase), CHRF(lowercase=lowercase)
    found_bleu = bleu.corpus_score(list(predictions), streams).score
    found_chrf = chrf.corpus_score(list(predictions), streams).score
    return TextScores(
        min(float(found_bleu), 100.0),
        min(float(found_chrf), 100.0),
        100
        * sum(rouge_scores(predictions, references, tokenizer, progress) if rouge is None else rouge)
        / len(predictions),
        len(predictions),
        f"BLEU {bleu.get_signature()}; chrF2 {chrf.get_signature()}; ROUGE-L F1 {_rouge_name(tokenizer)}",
    )


def check_pairs(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise an OrdtoolError if there is nothing to score, the numbers differ, or a text has no reference."""
    if not predictions:
        raise OrdtoolError("no texts to score", "give a prediction a line")
    if len(predictions) != len(references):
        raise OrdtoolError(
            f"{len(predictions)} predictions and {len(references)} references",
            "they are matched line by line",
        )
    for number, some in enumerate(references, start=1):
        if not some:
            raise OrdtoolError(f"text {number} has no reference")


def _rouge_name(tokenizer: str) -> str:
    kinds = {"zh": "characters", "char": "characters", "none": "words between spaces"}
    return f"best reference, {kinds.get(tokenizer, 'rouge-score tokens without stemming')}"


def rouge_scores(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenizer: str,
    progress: Progress = SILENT,
) -> list[float]:
    """Return the F1 of ROUGE-L of each text, from 0 to 1, by its best reference; see `score_text`."""
    require("rouge_score", "score")
    from rouge_score.rouge_scorer import RougeScorer

    own = {"zh": _Characters(), "char": _Characters(), "none": _Words()}.get(tokenizer)
    scorer = RougeScorer(["rougeL"], use_stemmer=False, tokenizer=own)
    if own is None and not any(_known(text) for some in references for text in some):
        progress.warn("ROUGE-L's tokenizer sees only a-z and 0-9; `tokenizer=zh` or char counts characters")
    pairs = zip(predictions, references, strict=True)
    return [scorer.score_multi(list(some), text)["rougeL"].fmeasure for text, some in pairs]


def _known(text: str) -> bool:
    return any(character.isascii() and character.isalnum() for character in text)


def read_predictions(path: str | Path, field: str = "output") -> list[str]:
    """Read predictions: a line each, or JSONL with the text under `field`.

    Raises:
        OrdtoolError: Naming `file:line`.
    """
    texts = []
    for where, value in _values(path, field):
        if not isinstance(value, str):
            raise OrdtoolError(
                f"{where}: field {field!r} must be a string, found {type(value).__name__}",
                "predictions are what `ordtool generate` writes, under `output`",
            )
        texts.append(value)
    return texts


def read_references(paths: str | Path | Sequence[str | Path], field: str = "references") -> list[list[str]]:
    """Read references: files side by side, each a line a text or JSONL with a string or list of strings.

    Raises:
        OrdtoolError: If the files' lengths differ or a value is of another type.
    """
    paths = as_strings(paths)
    columns = [[_strings(where, value, field) for where, value in _values(path, field)] for path in paths]
    for path, column in zip(paths[1:], columns[1:], strict=True):
        if len(column) != len(columns[0]):
            raise OrdtoolError(
                f"{paths[0]} has {len(columns[0])} references and {path} has {len(column)}",
                "reference files are matched line by line",
            )
    return [[text for some in row for text in some] for row in zip(*columns, strict=True)]


def _strings(where: str, value: Any, field: str) -> list[str]:
    some = [value] if isinstance(value, str) else value
    if not isinstance(some, list) or not some or not all(isinstance(text, str) for text in some):
        raise OrdtoolError(f"{where}: field {field!r} must be a string or a list of strings")
    return some


def _values(path: str | Path, field: str) -> Iterator[tuple[str, Any]]:
    """Yield `(file:line, value)`: plain lines, or the field of JSON objects."""
    hint = "`field` names that of predictions, `reference_field` that of references"
    with open_input(path) as stream:
        if holds_jsonl(stream):
            yield from (
                (row.where, row.values[0]) for row in rows_of(stream, (field,), jsonl=True, hint=hint)
            )
        else:
            yield from ((record.where, record.text) for record in records_of(stream, field))
