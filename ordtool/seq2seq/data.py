"""Sources with their targets: read, cut to length, and put in batches that waste little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ordtool.batching import hold_out, sort_stretches
from ordtool.distributed import ALONE, Ranks
from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.inputs import open_input, separator_of
from ordtool.io.jsonl import has_jsonl_suffix
from ordtool.io.tables import no_column, rows_of

Row = tuple[Sequence[int], list[Sequence[int]]]
"""The tokens of a source, and those of some of its targets."""

_HINT = "`source_field` and `target_field` name the two fields"


@dataclass(frozen=True, slots=True)
class SourceTarget:
    """A source and one of its targets.

    Attributes:
        source: What is read.
        target: What is to be written.
        where: `file:line`.
    """

    source: str
    target: str
    where: str


def read_pairs(path: str | Path, source: str = "source", target: str = "target") -> Iterator[SourceTarget]:
    """Read pairs from JSONL, CSV or TSV, by the file's name (`.gz` too).

    A JSONL target may be a list of strings: several targets of one source. CSV and TSV have a first
    line with the names of the columns; a TSV of exactly two columns without one is source and target.

    Args:
        path: The file.
        source: The key or column of the source.
        target: That of the target.

    Yields:
        The pairs, in order.

    Raises:
        OrdtoolError: Naming `file:line`, for a missing field, a value that is no text, or an
            empty source or target.
        UsageError: For a file name that says nothing about the format.
    """
    separator = separator_of(path)
    if separator is None and not has_jsonl_suffix(path):
        raise UsageError(
            f"{path}: pairs are read from .jsonl, .csv or .tsv files (.gz too)",
            'a JSONL line looks like {"source": "...", "target": "..."}',
        )
    with open_input(path) as stream:
        for row in rows_of(stream, (source, target), hint=_HINT):
            numbered = source.isdecimal() and target.isdecimal()
            if row.headless and not numbered and (separator == "," or len(row.data) != 2):
                raise no_column(source, list(row.data.values()), row.where, _HINT)
            read, targets = row.values
            if not isinstance(read, str):
                raise OrdtoolError(
                    f"{row.where}: field {source!r} must be a string, found {type(read).__name__}"
                )
            targets = targets if isinstance(targets, list) else [targets]
            if not targets or not all(isinstance(text, str) for text in targets):
                raise OrdtoolError(f"{row.where}: field {target!r} must be a string or a list of strings")
            for name, text in ((source, read), *((target, text) for text in targets)):
                if not text.strip():
                    raise OrdtoolError(
                        f"{row.where}: field {name!r} is empty", "every pair needs a source and a target"
                    )
            for text in targets:
                yield SourceTarget(read, text, row.where)


def group(pairs: Sequence[SourceTarget]) -> dict[str, list[str]]:
    """Gather the targets of each source; a target given twice counts twice."""
    groups: dict[str, list[str]] = {}
    for pair in pairs:
        groups.setdefault(pair.source, []).append(pair.target)
    return groups


def hold_out_sources(
    groups: dict[str, list[str]], share: float, seed: int
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Set some sources apart with all their targets, so that none is trained on and measured.

    Args:
        groups: Targets by source.
        share: Of the sources.
        seed: Of the choice.

    Raises:
        OrdtoolError: If there are fewer than two sources.
    """
    if len(groups) < 2:
        raise OrdtoolError(
            f"{len(groups)} source is too few to hold one out", "give more pairs, or held-out ones as `dev`"
        )
    count = min(max(1, round(share * len(groups))), len(groups) - 1)
    pairs = list(groups.items())
    kept, held = hold_out(len(pairs), count, seed)
    return dict(pairs[k] for k in kept), dict(pairs[k] for k in held)


class PairBatches(Dataset[dict[str, Tensor]]):
    """Batches of about so many pairs, each an item of its own.

    Sources are shuffled, then sorted by length within stretches of many batches, so that little is
    padded; up to `together` targets of one source share a row. The plan is a function of the
    seed and the epoch, so a resumed run sees the same; every epoch has as many batches.

    Args:
        rows: Sources with all their targets, as tokens.
        size: Pairs a batch, about.
        together: Targets a row at most.
        pad: Fills rows up.
        seed: Of the order.
        decoder_start: For encoder-decoders; None packs for an encoder that writes.
        shuffle: False keeps the order of the lengths.
        ranks: Those that train: each gets its part of every batch.

    Raises:
        UsageError: For fewer pairs a batch than ranks.
    """

    STRETCH = 40

    def __init__(
        self,
        rows: Sequence[Row],
        size: int,
        together: int,
        pad: int,
        seed: int = 0,
        *,
        encoder_decoder: bool = False,
        shuffle: bool = True,
        ranks: Ranks = ALONE,
    ) -> None:
        if ranks.size > size:
            raise UsageError(f"`batch_size` {size} can't be dealt out to {ranks.size} ranks")
        self.ranks = ranks
        self.rows = rows
        self.size = size
        self.together = 1 if encoder_decoder else max(1, min(together, size))
        self.pad = pad
        self.seed = seed
        self.encoder_decoder = encoder_decoder
        self.shuffle = shuffle
        self.total = sum(len(targets) for _, targets in rows)
        self.count = max(1, self.total // size)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Plan an epoch; accelerate's loader calls this."""
        draw = np.random.default_rng([self.seed, epoch])
        pieces: list[Row] = []
        for source, targets in self.rows:
            order = draw.permutation(len(targets)) if self.shuffle else np.arange(len(targets))
            for start in range(0, len(targets), self.together):
                pieces.append((source, [targets[i] for i in order[start : start + self.together]]))
        order = draw.permutation(len(pieces)) if self.shuffle else np.arange(len(pieces))
        stretch = max(1, round(self.STRETCH * self.size * len(pieces) / self.total))
        lengths = [len(source) + sum(map(len, targets)) for source, targets in pieces]
        stretches = sort_stretches(order, lengths, stretch if self.shuffle else len(pieces))
        batches: list[list[Row]] = [[] for _ in range(self.count)]
        done = 0
        for k in np.concatenate(stretches).tolist():
            batches[min(done // self.size, self.count - 1)].append(pieces[k])
            done += len(pieces[k][1])
        self.batches = batches

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        batch = self._part(self.batches[index])
        return seq2seq_batch(batch, self.pad) if self.encoder_decoder else unilm_batch(batch, self.pad)

    def _part(self, rows: list[Row]) -> list[Row]:
        """Return this rank's rows of a batch; of one with few rows, its targets.

        A batch with even fewer targets than ranks gives some of them the same one.
        """
        if len(rows) < self.ranks.size:
            rows = [(source, [target]) for source, targets in rows for target in targets]
        return list(self.ranks.share(rows)) or [rows[self.ranks.rank % len(rows)]]


def unilm_batch(rows: Sequence[Row], pad: int) -> dict[str, Tensor]:
    """Pack rows of a source and its targets for `UnilmForSeq2Seq`.

    Each target begins at the position after the source's last. The source's last token predicts
    the first token of every target; a target's last token is an input of nobody, so it is left out.

    Returns:
        `input_ids`, `attention_mask`, `token_type_ids`, `position_ids`, all `(batch, longest)`, and
        `predictors` and `labels`, `(tokens of all targets,)`.
    """
    width = max(len(source) + sum(len(target) - 1 for target in targets) for source, targets in rows)
    ids = torch.full((len(rows), width), pad)
    segments, positions, mask = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
    predictors: list[int] = []
    labels: list[int] = []
    for number, (source, targets) in enumerate(rows):
        size = len(source)
        ids[number, :size] = torch.tensor(source)
        positions[number, :size] = torch.arange(size)
        end = size
        for segment, target in enumerate(targets, start=1):
            more = len(target) - 1
            ids[number, end : end + more] = torch.tensor(target[:-1], dtype=torch.long)
            segments[number, end : end + more] = segment
            positions[number, end : end + more] = torch.arange(size, size + more)
            base = number * width
            predictors += [base + size - 1, *range(base + end, base + end + more)]
            labels += target
            end += more
        mask[number, :end] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": segments,
        "position_ids": positions,
        "predictors": torch.tensor(predictors),
        "labels": torch.tensor(labels),
    }


def seq2seq_batch(rows: Sequence[Row], pad: int) -> dict[str, Tensor]:
    """Pad rows of a source and one target for an encoder-decoder.

    Returns:
        `input_ids` and `attention_mask` `(batch, longest source)`, `labels` `(batch, longest
        target)` with -100 for padding.
    """
    pairs = [(source, target) for source, targets in rows for target in targets]
    wide = max(len(source) for source, _ in pairs)
    long = max(len(target) for _, target in pairs)
    return {
        "input_ids": torch.tensor([[*source, *[pad] * (wide - len(source))] for source, _ in pairs]),
        "attention_mask": torch.tensor([[1] * len(s) + [0] * (wide - len(s)) for s, _ in pairs]),
        "labels": torch.tensor([[*target, *[-100] * (long - len(target))] for _, target in pairs]),
    }
