"""Texts to vectors with a Transformer: the model's own settings, or the user's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ordtool.embedding.batching import Batch, make_batches
from ordtool.embedding.encoder import Encoded, EncoderConfig, Rows
from ordtool.embedding.pooling import parse_layers, parse_poolings, pool_group
from ordtool.embedding.sentence_transformers_config import (
    SentenceTransformersConfig,
    Step,
    after_pooling,
    choose_prompt,
)
from ordtool.errors import OrdtoolError, UsageError
from ordtool.parallel import thread_count
from ordtool.runtime import steady_attention, use_threads

if TYPE_CHECKING:
    import torch

    from ordtool.embedding.tokenizing import Tokens

CPU_TOKENS = 1024
GPU_TOKENS = 32768
WINDOW_TEXTS = 2048
QUEUED = 3  # batches that a card has before it, beside the one at work


class TransformerEncoder:
    """A Hugging Face encoder or causal LM; see `Encoder` for the attributes.

    Args:
        settings: The model folder's own.
        config: The user's.
    """

    def __init__(self, settings: SentenceTransformersConfig, config: EncoderConfig) -> None:
        from ordtool.embedding import padded_encoder
        from ordtool.embedding.tokenizing import TextTokenizer
        from ordtool.models.limits import usable_context
        from ordtool.runtime import resolve_device, resolve_dtype

        self._device = resolve_device(config.device)
        self._dtype = resolve_dtype(config.dtype, self._device)
        model, self.notes = padded_encoder.load_model(settings.transformer, self._device)
        own_choice = config.pooling is not None or config.layers is not None
        self._tokenizer = TextTokenizer(settings.transformer, None, lower_case=settings.lower_case)
        self._tokenizer.check_vocabulary(model)
        self._set_length(settings, config, usable_context(model.config))
        self._choose_pooling(settings, config, model)
        self._prompt = choose_prompt(settings, config.prompt, config.model)
        self._skip = self._choose_skip(settings, config, padded_encoder.is_causal(model))
        self._choose_steps(settings, config, own_choice)
        self._threads = thread_count(config.threads)
        self._most = config.batch_size
        self._budget = config.batch_tokens or (CPU_TOKENS if self._device.type == "cpu" else GPU_TOKENS)
        self._pool_head = padded_encoder.pooler_of(model) if "pooler" in self._poolings else None
        self._place(model, config.compile)
        self.window_texts = WINDOW_TEXTS
        self.dim = self._width(int(model.config.hidden_size))
        self.description = self._describe()

    # ------------------------------------------------------------------ choices

    def _set_length(
        self, settings: SentenceTransformersConfig, config: EncoderConfig, positions: int | None
    ) -> None:
        limits = [limit for limit in (self._tokenizer.model_max_length, positions) if limit]
        # A tokenizer often says less than the model takes (MiniLM: 256 of 512 positions).
        self.model_limit = positions or (min(limits) if limits else None)
        asked = config.max_length
        if asked is not None and self.model_limit is not None and asked > self.model_limit:
            raise UsageError(
                f"`max_length` {asked} is more than the {self.model_limit} tokens that the model takes",
                f"give {self.model_limit} or less",
            )
        own = settings.max_length or (min(limits) if limits else None)
        self.max_length = asked or (min(own, self.model_limit) if own and self.model_limit else own)
        self._tokenizer.limit(self.max_length)

    def _choose_pooling(
        self, settings: SentenceTransformersConfig, config: EncoderConfig, model: Any
    ) -> None:
        from ordtool.embedding.padded_encoder import layer_count

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
            raise UsageError("the pooler was trained on the last layer", "use `pooling` cls with `layers`")

    def _choose_steps(
        self, settings: SentenceTransformersConfig, config: EncoderConfig, own_choice: bool
    ) -> None:
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

    def _choose_skip(self, settings: SentenceTransformersConfig, config: EncoderConfig, causal: bool) -> int:
        skip = config.skip_first
        if skip is None:
            skip = 1 if causal and {"mean", "max"} & set(self._poolings) else 0
            if skip:
                self.notes.append(
                    "a causal LM: its first token, an attention sink, is not pooled (`skip_first=0` pools it)"
                )
        if self._prompt and not settings.include_prompt:
            skip = max(skip, self._tokenizer.prompt_length(self._prompt))
        return skip

    # ------------------------------------------------------------------ the model

    def _place(self, model: Any, compile: bool) -> None:
        """Take the packed pass where it gives what transformers gives, else transformers' own."""
        import torch

        from ordtool.embedding.packed import FAMILIES, PackedEncoder
        from ordtool.embedding.padded_encoder import PaddedEncoder, probe_batch
        from ordtool.models.compiling import compile_model

        self._states: Any = None
        model = model.to(self._device)
        if model.config.model_type in FAMILIES and self._device.type in ("cpu", "cuda"):
            probe = probe_batch(int(model.config.vocab_size), self.model_limit or 8)
            with torch.inference_mode():
                packed = PackedEncoder(model, torch.float32, self._device)
                ours = packed.hidden_states(probe, self._layers)
                theirs = PaddedEncoder(model).hidden_states(probe, self._layers)
                if all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(ours, theirs, strict=True)):
                    same = self._dtype == torch.float32
                    self._states = packed if same else PackedEncoder(model, self._dtype, self._device)
        if self._states is None:
            self._states = PaddedEncoder(model.to(self._dtype))
            if compile:
                probe = probe_batch(int(model.config.vocab_size), self.model_limit or 8)
                compile_model(model, lambda: self._states.hidden_states(probe, self._layers))
        elif compile:
            self.notes.append("this model has a packed pass of its own here, so there is nothing to compile")
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
                        "`pooling` mean leaves them out",
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
        batches = make_batches(tokens.ids, self._budget, self._most)
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
        if self._device.type == "cuda":
            yield from self._queue(batches)
            return
        workers = min(self._threads, len(batches)) if self._packed else 1
        with use_threads(1 if workers > 1 else self._threads):
            if workers <= 1:
                yield from ((batch, self._vectors(batch)) for batch in batches)
                return
            with ThreadPoolExecutor(workers) as pool:
                yield from zip(batches, pool.map(self._vectors, batches), strict=True)

    def _queue(self, batches: list[Batch]) -> Iterator[tuple[Batch, Rows]]:
        """Give the card its next batches before it has done the first, so that it never waits for the host."""
        import torch

        waiting: deque[tuple[Batch, torch.Tensor, torch.cuda.Event]] = deque()

        def first() -> tuple[Batch, Rows]:
            batch, vectors, copied = waiting.popleft()
            copied.synchronize()
            return batch, vectors.numpy()

        for batch in batches:
            pooled = self._pooled(batch)
            vectors = torch.empty(pooled.shape, dtype=pooled.dtype, pin_memory=True)
            vectors.copy_(pooled, non_blocking=True)
            waiting.append((batch, vectors, torch.cuda.current_stream(self._device).record_event()))
            if len(waiting) > QUEUED:
                yield first()
        while waiting:
            yield first()

    def _vectors(self, batch: Batch) -> Rows:
        vectors: Rows = self._pooled(batch).cpu().numpy()
        return vectors

    def _pooled(self, batch: Batch) -> torch.Tensor:
        """Return the pooled vectors of a batch, `(texts, layers or 1, dim)`."""
        import torch

        with torch.inference_mode(), steady_attention(self._device):
            states = self._states.hidden_states(batch, self._layers)
            pooled = torch.stack([self._pool(state, batch) for state in states], dim=1)
            if not self.layers:
                pooled = pooled.mean(dim=1, keepdim=True)
            for step in self._after:
                pooled = step(pooled)
            return pooled

    def _pool(self, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        import torch

        parts = []
        for group in batch.groups:
            texts = states[group.start : group.stop].view(group.count, group.length, -1)
            if self._pool_head is None:
                parts.append(pool_group(texts, self._poolings, self._skip))
            else:
                parts.append(self._pool_head(texts[:, 0].float()))
        return torch.cat(parts)
