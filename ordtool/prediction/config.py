"""What `predict` may be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from ordtool.errors import UsageError


@dataclass(frozen=True, slots=True)
class PredictConfig:
    """How records are labelled.

    Attributes:
        model: The classifier: a folder, a name or a hub id.
        field: The key, or the column's name, of the text; None: `text`, of words `tokens` (or `text`), of questions
            `question`.
        label_field: Of a label that is known, to measure with; None: `label`, of words `labels`, of questions `answer`.
        embed_model: What embeds texts for a classifier of vectors; None: what it was trained with.
        backbone: Where a ladder's backbone is now; None: where the ladder says.
        vectors: Give the vector that each label is read from, too.
        on_error: `stop` at a bad record, or `skip` it and list it at the end.
        batch_size: Records a batch.
        device: `auto`, `cpu`, `cuda`, `mps`.
        threads: CPU threads; None: one a core.

    Raises:
        UsageError: For an unknown `on_error`, or a batch of nothing.
    """

    model: str
    field: str | None = None
    label_field: str | None = None
    embed_model: str | None = None
    backbone: str | None = None
    vectors: bool = False
    on_error: str = "stop"
    batch_size: int = 32
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise UsageError(f"unknown `on_error` {self.on_error!r}", "choices: stop, skip")
        if self.batch_size < 1:
            raise UsageError(f"`batch_size` {self.batch_size} is not possible", "a number of 1 or more")


class PredictOptions(TypedDict, total=False):
    """The fields of `PredictConfig` that matter to records in memory, as keywords of `predict`."""

    embed_model: str | None
    backbone: str | None
    vectors: bool
    batch_size: int
    device: str
    threads: int | None
