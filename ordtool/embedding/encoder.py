"""Texts to vectors with a Transformer: the model's own settings, or the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from ordtool.arguments import as_many, is_one
from ordtool.embedding.batching import Batch, make_batches, windows
from ordtool.embedding.modules import after_pooling
from ordtool.embedding.pooling import parse_layers, parse_poolings, pool_slab
from ordtool.embedding.settings import FolderSettings, Step, read_settings
from ordtool.errors import OrdtoolError, UsageError
from ordtool.parallel import thread_count
from ordtool.progress import SILENT, Progress
from ordtool.runtime import use_threads

if TYPE_CHECKING:
    import torch

    from ordtool.embedding.tokenizing import Tokens

Rows = NDArray[np.float32]

CPU_TOKENS = 1024
GPU_TOKENS = 32768
# A window is sorted by length as a whole, and is the unit of resuming.
WINDOW_TEXTS = 2048
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


def load_encoder(config: EncoderConfig, progress: Progress = SILENT) -> Encoder:
    """Load what turns texts into vectors.

    Args:
        config: The model and how to use it.
        progress: Told of a download and of what the model's settings are.

    Returns:
        The encoder; `encode(encoder, texts)` uses it.

    Raises:
        UsageError: For unknown names and contradicting options.
        OrdtoolError: If the model can't be fetched or loaded.
    """
    from ordtool.models.resolve import resolve_model

    _check(config)
    folder = resolve_model(config.model, progress, kind="encoder")
    settings = read_settings(folder)
    if settings.static:
        from ordtool.embedding.static import StaticEncoder

        return StaticEncoder(settings, config)
    from ordtool.runtime import quiet_libraries

    quiet_libraries()
    return TransformerEncoder(settings, config)


def _check(config: EncoderConfig) -> None:
    if config.pooling is not None:
        parse_poolings(config.pooling)
    if config.pooling == "first-last" and config.layers is not None:
        raise UsageError(
            "--pooling first-last and --layers contradict each other",
            "--pooling mean --layers 1,-1 is the same",
        )
    for name in ("max_length", "batch_tokens", "threads"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UsageError(
                f"--{name.replace('_', '-')} {value} is not possible", "give a number of 1 or more"
            )


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
    for window in windows(texts, encoder.window_texts, WINDOW_CHARACTERS):
        unique = list(dict.fromkeys(window))
        rows = encoder.run(encoder.tokenize(unique)).rows
        place = {text: index for index, text in enumerate(unique)}
        out[start : start + len(window)] = rows[[place[text] for text in window]]
        start += len(window)
    return out[0] if alone else out


class TransformerEncoder:
    """A Hugging Face encoder or causal LM; see `Encoder` for the attributes.

    Args:
        settings: The model folder's own.
        config: The user's.
    """

    def __init__(self, settings: FolderSettings, config: EncoderConfig) -> None:
        from ordtool.embedding import hidden
        from ordtool.embedding.tokenizing import TextTokenizer
        from ordtool.models.loading import usable_context
        from ordtool.runtime import resolve_device, resolve_dtype

        self._device = resolve_device(config.device)
        self._dtype = resolve_dtype(config.dtype, self._device)
        model, self.notes = hidden.load_model(settings.transformer)
        own_choice = config.pooling is not None or config.layers is not None
        self._tokenizer = TextTokenizer(settings.transformer, None, lower_case=settings.lower_case)
        self._tokenizer.check_vocabulary(model)
        self._set_length(settings, config, usable_context(model.config))
        self._choose_pooling(settings, config, model)
        self._prompt = _prompt(settings, config)
        self._skip = self._choose_skip(settings, config, hidden.is_causal(model))
        self._choose_steps(settings, config, own_choice)
        self._threads = thread_count(config.threads)
        self._budget = config.batch_tokens or (CPU_TOKENS if self._device.type == "cpu" else GPU_TOKENS)
        self._pool_head = hidden.pooler_of(model) if "pooler" in self._poolings else None
        self._place(model)
        self.window_texts = WINDOW_TEXTS
        self.dim = self._width(int(model.config.hidden_size))
        self.description = self._describe()

    # ------------------------------------------------------------------ choices

    def _set_length(self, settings: FolderSettings, config: EncoderConfig, positions: int | None) -> None:
        limits = [limit for limit in (self._tokenizer.model_max_length, positions) if limit]
        # A tokenizer often says less than the model takes (MiniLM: 256 of 512 positions).
        self.model_limit = positions or (min(limits) if limits else None)
        asked = config.max_length
        if asked is not None and self.model_limit is not None and asked > self.model_limit:
            raise UsageError(
                f"--max-length {asked} is more than the {self.model_limit} tokens that the model takes",
                f"give {self.model_limit} or less",
            )
        own = settings.max_length or (min(limits) if limits else None)
        self.max_length = asked or (min(own, self.model_limit) if own and self.model_limit else own)
        self._tokenizer.limit(self.max_length)

    def _choose_pooling(self, settings: FolderSettings, config: EncoderConfig, model: Any) -> None:
        from ordtool.embedding.hidden import layer_count

        count = layer_count(model)
        named = parse_poolings(config.pooling) if config.pooling else settings.poolings
        self._poolings = named or ("mean",)
        self.layers = 0
        self._layers: tuple[int, ...] = (count - 1,)
        if self._poolings == ("first-last",):
            self._poolings, self._layers = ("mean",), (min(1, count - 1), count - 1)
        elif config.layers is not None:
            self._layers = parse_layers(config.layers, count)
            self.layers = count if config.layers == "all" else 0
        if "pooler" in self._poolings and self._layers != (count - 1,):
            raise UsageError("the pooler was trained on the last layer", "use --pooling cls with --layers")

    def _choose_steps(self, settings: FolderSettings, config: EncoderConfig, own_choice: bool) -> None:
        steps = [] if own_choice else list(settings.steps)
        if own_choice and any(step.kind != "normalize" for step in settings.steps):
            self.notes.append(
                "pooling or layers were chosen: the modules after the model's own pooling are left out"
            )
        if config.normalize is False:
            steps = [step for step in steps if step.kind != "normalize"]
        elif config.normalize and not (steps and steps[-1].kind == "normalize"):
            steps.append(Step("normalize", settings.transformer))
        self.normalized = bool(steps) and steps[-1].kind == "normalize"
        self._after = [after_pooling(step, self._device) for step in steps]

    def _choose_skip(self, settings: FolderSettings, config: EncoderConfig, causal: bool) -> int:
        skip = config.skip_first
        if skip is None:
            skip = 1 if causal and {"mean", "max"} & set(self._poolings) else 0
            if skip:
                self.notes.append(
                    "a causal LM: its first token, an attention sink, is not pooled (--skip-first 0 pools it)"
                )
        if self._prompt and not settings.include_prompt:
            skip = max(skip, self._tokenizer.prompt_length(self._prompt))
        return skip

    # ------------------------------------------------------------------ the model

    def _place(self, model: Any) -> None:
        """Take the packed pass where it gives what transformers gives, else transformers' own."""
        import torch

        from ordtool.embedding.hidden import PaddedEncoder, probe_batch
        from ordtool.embedding.packed import FAMILIES, PackedEncoder

        self._states: Any = None
        if model.config.model_type in FAMILIES and self._device.type == "cpu":
            probe = probe_batch(int(model.config.vocab_size), self.model_limit or 8)
            with torch.inference_mode():
                packed = PackedEncoder(model, torch.float32, self._device)
                ours = packed.hidden_states(probe, self._layers)
                theirs = PaddedEncoder(model).hidden_states(probe, self._layers)
                if all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(ours, theirs, strict=True)):
                    same = self._dtype == torch.float32
                    self._states = packed if same else PackedEncoder(model, self._dtype, self._device)
        if self._states is None:
            self._states = PaddedEncoder(model.to(self._device, self._dtype))
        self._packed = isinstance(self._states, PackedEncoder)
        if self._pool_head is not None:
            model.pooler.to(self._device, torch.float32)

    def _width(self, hidden_size: int) -> int:
        import torch

        pooled = torch.zeros(1, hidden_size * len(self._poolings), device=self._device)
        with torch.inference_mode():
            for step in self._after:
                try:
                    pooled = step(pooled)
                except RuntimeError:
                    raise OrdtoolError(
                        f"the model's modules don't fit together: one is given {pooled.shape[1]} numbers",
                        "--pooling mean leaves them out",
                    ) from None
        return int(pooled.shape[1])

    def _describe(self) -> str:
        layers = "all layers" if self.layers else f"layer {','.join(map(str, self._layers))}"
        dtype = str(self._dtype).removeprefix("torch.")
        length = f", at most {self.max_length} tokens" if self.max_length else ""
        return f"{'+'.join(self._poolings)} of {layers}, {self.dim} dimensions, {dtype} on {self._device}{length}"

    # ------------------------------------------------------------------ running

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokenize a window."""
        return self._tokenizer([self._prompt + text for text in texts] if self._prompt else texts)

    def run(self, tokens: Tokens, advance: Callable[[int], None] = lambda count: None) -> Encoded:
        """Compute the vectors of a window; see `Encoder`."""
        batches = make_batches(tokens.ids, self._budget)
        shape = (len(tokens.ids), max(1, self.layers), self.dim)
        rows = np.zeros(shape, dtype=np.float32)
        for batch, vectors in self._map(batches):
            rows[batch.rows] = vectors
            advance(len(batch.rows))
        empty = sum(not ids for ids in tokens.ids)
        advance(empty)
        size = sum(map(len, tokens.ids))
        return Encoded(rows if self.layers else rows[:, 0], tokens.truncated, empty, size)

    def _map(self, batches: list[Batch]) -> Iterator[tuple[Batch, Rows]]:
        """Run batches side by side, one CPU thread each: no thread waits for another inside a product."""
        workers = min(self._threads, len(batches)) if self._packed else 1
        with use_threads(1 if workers > 1 else self._threads):
            if workers <= 1:
                yield from ((batch, self._vectors(batch)) for batch in batches)
                return
            with ThreadPoolExecutor(workers) as pool:
                yield from zip(batches, pool.map(self._vectors, batches), strict=True)

    def _vectors(self, batch: Batch) -> Rows:
        """Give the pooled vectors of a batch, `(texts, layers or 1, dim)`."""
        import torch

        with torch.inference_mode():
            states = self._states.hidden_states(batch, self._layers)
            pooled = torch.stack([self._pool(state, batch) for state in states], dim=1)
            if not self.layers:
                pooled = pooled.mean(dim=1, keepdim=True)
            for step in self._after:
                pooled = step(pooled)
            vectors: Rows = pooled.cpu().numpy()
            return vectors

    def _pool(self, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        import torch

        parts = []
        for slab in batch.slabs:
            texts = states[slab.start : slab.stop].view(slab.count, slab.length, -1)
            if self._pool_head is None:
                parts.append(pool_slab(texts, self._poolings, self._skip))
            else:
                parts.append(self._pool_head(texts[:, 0].float()))
        return torch.cat(parts)


def _prompt(settings: FolderSettings, config: EncoderConfig) -> str:
    if config.prompt is None:
        return settings.prompts.get(settings.default_prompt or "", "")
    return settings.prompts.get(config.prompt, config.prompt)
