"""What turns texts into vectors, whatever is inside: its configuration, its protocol, and how it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from ordtool.arguments import as_many, is_one
from ordtool.batching import windows
from ordtool.embedding.pooling import parse_poolings
from ordtool.errors import UsageError
from ordtool.parallel import one_ahead

if TYPE_CHECKING:
    from ordtool.embedding.tokenizing import Tokens

Rows = NDArray[np.float32]

# A window is sorted by length as a whole, and is the unit of resuming.
WINDOW_CHARACTERS = 4_000_000


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """How texts become vectors. None takes what the model's folder says, or the usual.

    Attributes:
        model: A folder, a catalogue name, or a hub id.
        pooling: `cls`, `mean`, `max`, `last`, `pooler`, `first-last`, or several with commas.
        layers: Layers whose pooled vectors are averaged: `1,-1`, `2-4`; `all` keeps them apart.
        skip_first: Tokens at the start that aren't pooled: attention sinks of causal LMs.
        prompt: The name of one of the model's prompts, or the text itself; empty for none.
        max_length: Tokens a text at most.
        normalize: Scale vectors to length 1.
        device: `auto`, `cpu`, `cuda`, `mps`.
        dtype: `auto`, `float32`, `bfloat16`, `float16`.
        threads: CPU threads; None: one a core.
        batch_tokens: Tokens a batch.
        batch_size: Texts a batch at most; None: as many as `batch_tokens` hold.
        compile: Let torch compile a model that has no packed pass of its own.
    """

    model: str = "minilm"
    pooling: str | None = None
    layers: str | None = None
    skip_first: int | None = None
    prompt: str | None = None
    max_length: int | None = None
    normalize: bool | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    batch_tokens: int | None = None
    batch_size: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without the model.

        Raises:
            UsageError: For an unknown pooling, contradictions, and numbers below 1.
        """
        if self.pooling is not None:
            parse_poolings(self.pooling)
        if self.pooling == "first-last" and self.layers is not None:
            raise UsageError(
                "`pooling` first-last and `layers` contradict each other",
                "`pooling` mean with `layers` 1,-1 is the same",
            )
        for name in ("max_length", "batch_tokens", "batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"`{name}` {value} is not possible", "give a number of 1 or more")


class EncoderOptions(TypedDict, total=False):
    """The fields of `EncoderConfig` but for `model`, as keywords of `embed`."""

    pooling: str | None
    layers: str | None
    skip_first: int | None
    prompt: str | None
    max_length: int | None
    normalize: bool | None
    device: str
    dtype: str
    threads: int | None
    batch_tokens: int | None
    batch_size: int | None
    compile: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors of a window.

    Attributes:
        rows: `(texts, dim)`, or `(texts, layers, dim)` where layers are kept apart.
        truncated: Texts that were longer than the model reads.
        empty: Texts without a token; their rows are zeros.
        tokens: Tokens read.
    """

    rows: Rows
    truncated: int = 0
    empty: int = 0
    tokens: int = 0


class Encoder(Protocol):
    """What turns texts into vectors.

    Attributes:
        dim: Numbers in a vector.
        layers: How many vectors a text has; 0 where it is one.
        max_length: Tokens of a text that are read; None: all.
        model_limit: Tokens that the model could read; None: any number.
        window_texts: Texts that are best given at a time.
        normalized: Whether vectors have length 1.
        notes: What the user should know about the choice.
        description: One line: pooling, layers, dtype, device.
    """

    dim: int
    layers: int
    max_length: int | None
    model_limit: int | None
    window_texts: int
    normalized: bool
    notes: list[str]
    description: str

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Do what can be done ahead, in another thread."""

    def run(self, tokens: Tokens, advance: Callable[[int], None] = ...) -> Encoded:
        """Compute the vectors of what `tokenize` gave; `advance` is told the texts done."""


def encode(encoder: Encoder, texts: str | Iterable[str]) -> Rows:
    """Encode one text, or many.

    Args:
        encoder: As `load_encoder` gives it.
        texts: A text, or any number.

    Returns:
        `(texts, dim)`, or `(texts, layers, dim)`, float32, and one axis less for one text; identical texts of a
        window are computed once.
    """
    alone = is_one(texts)
    texts = list(as_many(texts))
    shape = (len(texts), encoder.layers, encoder.dim) if encoder.layers else (len(texts), encoder.dim)
    out = np.empty(shape, dtype=np.float32)
    start = 0
    for source, tokens in one_ahead(_tokenized(encoder, texts)):
        out[start : start + len(source)] = encoder.run(tokens).rows[source]
        start += len(source)
    return out[0] if alone else out


def _tokenized(encoder: Encoder, texts: Sequence[str]) -> Iterator[tuple[list[int], Tokens]]:
    """Yield for each window which of its different texts each text is, and the tokens of those."""
    for window in windows(texts, encoder.window_texts, WINDOW_CHARACTERS, len):
        place: dict[str, int] = {}
        source = [place.setdefault(text, len(place)) for text in window]
        yield source, encoder.tokenize(list(place))
