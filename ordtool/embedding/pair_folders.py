"""Folders of sentence pairs as benchmarks publish them: STS 2012 to 2016, SICK, STS-B; ATEC, BQ, LCQMC, PAWSX."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ordtool.embedding.pairs import Pair, read_pairs
from ordtool.errors import OnError, OrdtoolError, reject
from ordtool.io.inputs import decode_line, open_input, read_lines

Parts = dict[str, list[Pair]]
_LAYOUTS = (
    "looked for STS.input.NAME.txt with STS.gs.NAME.txt (STS 2012 to 2016), SICK_test_annotated.txt, "
    "sts-test.csv, and NAME.train.data, NAME.valid.data, NAME.test.data"
)
_SPLITS = ("train", "valid", "dev", "test")


@dataclass(frozen=True, slots=True)
class PairTask:
    """A task and its parts, each with pairs of its own.

    Attributes:
        name: The folder's, `STS12`; None for a file of pairs.
        parts: Pairs by the part's name, in the order of the names; of splits, training first.
    """

    name: str | None
    parts: Parts

    @property
    def pairs(self) -> list[Pair]:
        """All pairs, part after part."""
        return [pair for pairs in self.parts.values() for pair in pairs]


def read_pair_folder(folder: str | Path, *, on_error: OnError | None = None) -> list[PairTask]:
    """Read every task of a folder and the folders in it.

    Args:
        folder: One task's, or one that holds several.
        on_error: Called with each bad line, which is then left out; None raises it.

    Returns:
        The tasks, in the order of their folders' names.

    Raises:
        OrdtoolError: For a folder without a task, a part without its scores, and bad lines (as `file:line`).
    """
    tasks = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for find in (_sts_years, _sick, _sts_benchmark, _splits):
            tasks += [
                PairTask(name, parts) for name, parts in find(Path(place), sorted(files), on_error) if parts
            ]
    if not tasks:
        raise OrdtoolError(f"{folder}: no sentence pairs in it", _LAYOUTS)
    return tasks


def _sts_years(place: Path, files: list[str], on_error: OnError | None) -> Iterator[tuple[str, Parts]]:
    """The yearly tasks, as SemEval and SentEval lay them out: sentences and scores in files beside each other."""
    parts: Parts = {}
    for file in files:
        if found := re.fullmatch(r"STS\.input\.(.+)\.txt", file):
            scores = place / f"STS.gs.{found[1]}.txt"
            if not scores.is_file():
                raise OrdtoolError(
                    f"{place / file}: no scores beside it", f"{scores.name} has a number a line"
                )
            parts[found[1]] = _side_by_side(place / file, scores, on_error)
    yield re.sub(r"-(en|es)-test$", "", place.resolve().name), parts


def _side_by_side(sentences: Path, scores: Path, on_error: OnError | None) -> list[Pair]:
    """Read two sentences a line from one file and their score, or nothing for a pair that isn't scored, from another."""
    texts, numbers = _lines(sentences), _lines(scores)
    if len(texts) != len(numbers):
        raise OrdtoolError(
            f"{sentences}: {len(texts):,} lines, and {scores.name} has {len(numbers):,}",
            "line i of one belongs to line i of the other",
        )
    pairs = []
    for number, (text, score) in enumerate(zip(texts, numbers, strict=True), start=1):
        if not score.strip():
            continue
        cells = text.split("\t")
        try:
            if len(cells) < 2:
                raise OrdtoolError(
                    f"{sentences}:{number}: two sentences with a tab between them are expected"
                )
            pairs.append(Pair(cells[0], cells[1], float(score)))
        except ValueError:
            reject(OrdtoolError(f"{scores}:{number}: {score[:40]!r} is no number"), on_error)
        except OrdtoolError as error:
            reject(error, on_error)
    return pairs


def _lines(path: Path) -> list[str]:
    with open_input(path) as stream:
        return [
            decode_line(raw, stream.source, number).rstrip("\r\n")
            for number, raw in enumerate(read_lines(stream, stream.source, arrays=False), start=1)
        ]


def _sick(place: Path, files: list[str], on_error: OnError | None) -> Iterator[tuple[str, Parts]]:
    """SICK's relatedness: the file of the test part names its columns."""
    if "SICK_test_annotated.txt" in files:
        columns = ("sentence_A", "sentence_B", "relatedness_score")
        pairs = read_pairs(place / "SICK_test_annotated.txt", columns=columns, on_error=on_error)
        yield "SICK-R", {"test": pairs}


def _sts_benchmark(place: Path, files: list[str], on_error: OnError | None) -> Iterator[tuple[str, Parts]]:
    """The STS benchmark's original files, whose test part papers score."""
    if "sts-test.csv" in files:
        yield (
            "STS-B",
            {"test": read_pairs(place / "sts-test.csv", columns=("6", "7", "5"), on_error=on_error)},
        )


def _splits(place: Path, files: list[str], on_error: OnError | None) -> Iterator[tuple[str, Parts]]:
    """Chinese tasks as BERT-whitening lays them out: two sentences and a label, tabs between them."""
    found = [match for file in files if (match := re.fullmatch(r"(.+)\.(\w+)\.data", file))]
    for name in sorted({match[1] for match in found}):
        splits = sorted((match[2] for match in found if match[1] == name), key=_by_split)
        yield (
            name,
            {split: read_pairs(place / f"{name}.{split}.data", on_error=on_error) for split in splits},
        )


def _by_split(split: str) -> tuple[int, str]:
    return (_SPLITS.index(split) if split in _SPLITS else len(_SPLITS), split)
