"""Batches of prompts to texts, through transformers' own `generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack, overload

import torch

from ordtool.arguments import as_many, is_one
from ordtool.batching import windows
from ordtool.errors import OnError, OrdtoolError, reject
from ordtool.generation.backends.backend import Backend
from ordtool.generation.batch_plan import ContextExtension, extended, level_of, plan_batches
from ordtool.generation.codec import PromptCodec
from ordtool.generation.config import Decoding, DecodingOptions, Result, check_side_by_side
from ordtool.generation.decode import decode
from ordtool.generation.loading import load_backend
from ordtool.generation.nbce import ContextPool
from ordtool.generation.processors import TokenSelector
from ordtool.generation.prompts import PromptStyle
from ordtool.generation.results import compare_answers, make_result
from ordtool.generation.stopping import StopStrings, TextStream
from ordtool.io.text import Record
from ordtool.progress import SILENT, Progress
from ordtool.runtime import resolve_device

_WINDOW = 8  # batches that are read ahead and sorted by length


@dataclass(frozen=True, slots=True)
class Prompt:
    """A record, ready to be written from.

    Attributes:
        index: The record's number in the stream, from 0.
        record: The record.
        ids: The prompt's tokens; where several contexts are read side by side, without any of them.
        beside: The prompt's tokens with each of those contexts.
    """

    index: int
    record: Record
    ids: tuple[int, ...]
    beside: tuple[tuple[int, ...], ...] = ()


class TextGenerator:
    """A model that writes.

    Args:
        folder: A model folder, as `resolve_model` gives.
        device: `auto`, `cpu`, `cuda`...
        dtype: Of weights and arithmetic. float32 is the default: near ties between tokens
            are then rare, so that the same text alone and in a batch costs nothing.
        fast_start: Where the model is a plain Llama on a CPU, leave transformers out: it starts seconds
            earlier and writes the same. Beams load transformers' model when they are asked for.
        compile: Let torch compile the forward pass of a model of transformers; one that the fast start has is left as it is.

    Attributes:
        context_extension: How texts longer than the context are read; None: they are refused.
        compiled: The forward pass is one that torch compiled.

    Raises:
        OrdtoolError: If the folder's model can't write (see `load_backend`).
    """

    context_extension: ContextExtension | None = None

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "auto",
        dtype: torch.dtype = torch.float32,
        fast_start: bool = False,
        compile: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.dtype = dtype
        self.device = resolve_device(device)
        self.backend: Backend
        self.backend, tokenizer = self._load(fast_start)
        self._compile = compile
        self.compiled = compile and self._compile_backend()
        self._stops = frozenset(self.backend.stops)
        self.codec = PromptCodec(
            tokenizer,
            list(self._stops),
            continues=self.backend.continues,
            stands_alone=self.backend.stands_alone,
        )

    def _load(self, fast_start: bool) -> tuple[Backend, Any]:
        """Load backend and tokenizer; the folder `llama` is needed here alone."""
        if fast_start:
            from ordtool.generation.llama.fast_start import load_fast_start

            found = load_fast_start(self.folder, self.device, self.dtype)
            if found is not None:
                return found
        return load_backend(self.folder, self.device, self.dtype)

    def _compile_backend(self) -> bool:
        """Compile the model, if it is one of transformers'; whether it was."""
        from ordtool.models.compiling import compile_model, is_compilable

        if not is_compilable(self.backend.model):
            return False
        token = self.backend.stops[0] if self.backend.stops else 0
        model = self.backend.model
        inputs, _, _ = self.backend.batch([[token] * 3, [token] * 4])
        compile_model(model, lambda: model.generate(**inputs, max_new_tokens=3, min_new_tokens=3))
        return True

    @property
    def context(self) -> int | None:
        """The positions that the model has; None for no limit."""
        return self.backend.context

    def encode(self, record: Record, style: PromptStyle) -> tuple[int, ...]:
        """Turn a record into the tokens of its prompt.

        Raises:
            OrdtoolError: If it is empty, lacks a field, or leaves no room in the context.
        """
        limit = None if self.context_extension is not None else self.context
        ids = self.codec.encode(record, style, limit)
        room = self._room(ids)
        if room is not None and room < 1 and self.context_extension is not None:
            raise OrdtoolError(
                f"{record.where}: the prompt has {len(ids)} tokens, and "
                f"{self.context_extension.longest} are the most that are read",
                "shorten it, or raise `max_context`",
            )
        if room is not None and room < 1:
            count = f"more than {limit}" if limit is not None and len(ids) == limit + 1 else str(len(ids))
            raise OrdtoolError(
                f"{record.where}: the prompt has {count} tokens, and the model's context is {self.context}",
                "shorten it, or read further with `context=rerope`"
                if self.backend.rotary
                else "shorten it, or name a model with a longer context",
            )
        return ids

    def _room(self, ids: Sequence[int]) -> int | None:
        if self.context_extension is None:
            return self.backend.room(ids)
        longest = self.context_extension.longest
        return None if longest is None else longest - len(ids)

    @torch.inference_mode()
    def run(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        style: PromptStyle | None = None,
        write: Callable[[str], None] | None = None,
        progress: Progress = SILENT,
    ) -> list[Result]:
        """Write for several prompts, longest first, a batch at a time.

        Args:
            prompts: Encoded prompts.
            decoding: The options.
            style: Adds the stop strings of few-shot prompts, whose answers are stripped.
            write: For one prompt with one continuation: called with pieces as they come.
            progress: Advanced by prompts; told of the tokens of a long text.

        Returns:
            A result a prompt, in the order given.
        """
        style = style or PromptStyle()
        if style.contexts is not None:
            return [self._write_beside(prompt, decoding, style, write, progress) for prompt in prompts]
        if decoding.beams > 1 and not self.backend.searches_beams:
            self.backend, _ = load_backend(self.folder, self.device, self.dtype)
            self.compiled = self._compile and self._compile_backend()
        results: dict[int, Result] = {}
        told = len(self.backend.notes)
        for level, batch in self._plan(prompts, decoding):
            with extended(self.context_extension, level):
                if decoding.choices:
                    found = [self._choose(prompts[place], decoding) for place in batch]
                else:
                    found = self._write([prompts[place] for place in batch], decoding, style, write, progress)
            results.update(zip(batch, found, strict=True))
            for note in self.backend.notes[told:]:
                progress.note(note)
            told = len(self.backend.notes)
            progress.advance(len(batch))
        return [results[place] for place in range(len(prompts))]

    def _plan(self, prompts: Sequence[Prompt], decoding: Decoding) -> list[tuple[int, list[int]]]:
        size = self._batch_prompts(decoding)
        lengths = [len(prompt.ids) for prompt in prompts]
        steps = [self._steps(prompt, decoding) for prompt in prompts]
        totals = (length + more for length, more in zip(lengths, steps, strict=True))
        levels = [level_of(self.context_extension, total) for total in totals]
        return plan_batches(lengths, steps, levels, size, self.backend.step_cost)

    def _batch_prompts(self, decoding: Decoding) -> int:
        return max(1, (decoding.batch_size or self.backend.batch_size) // decoding.rows_per_prompt)

    def _steps(self, prompt: Prompt, decoding: Decoding) -> int:
        room = self._room(prompt.ids)
        return decoding.max_new_tokens if room is None else min(decoding.max_new_tokens, room)

    def _write(
        self,
        batch: Sequence[Prompt],
        decoding: Decoding,
        style: PromptStyle,
        write: Callable[[str], None] | None,
        progress: Progress,
    ) -> list[Result]:
        inputs, pads, columns = self.backend.batch([prompt.ids for prompt in batch])
        stops = decoding.stop + style.stop
        befores = [self.codec.before(prompt.ids) for prompt in batch]
        stream = None
        if write is not None and len(batch) == decoding.rows_per_prompt == 1:
            stream = TextStream(befores[0], stops, self.codec.decode, write)
        stop = StopStrings(stops, befores, columns, self.codec.decode) if stops else None
        select = self._selector(batch, decoding, pads, columns, progress)
        steps = self._steps(batch[0], decoding)
        sequences = decode(self.backend, inputs, steps, select, decoding, stop, stream)
        rows = sequences[:, columns:].tolist()
        results = []
        for number, prompt in enumerate(batch):
            own = rows[number * decoding.n : (number + 1) * decoding.n]
            results.append(
                make_result(self.backend, self.codec, prompt.ids, own, decoding, stops, strip=style.few_shot)
            )
        if stream is not None:
            stream.finish(results[0].text)
        return results

    def _write_beside(
        self,
        prompt: Prompt,
        decoding: Decoding,
        style: PromptStyle,
        write: Callable[[str], None] | None,
        progress: Progress,
    ) -> Result:
        """Write for one prompt whose contexts are read side by side."""
        rows = [prompt.ids, *prompt.beside]
        inputs, pads, columns = self.backend.batch(rows)
        stops = decoding.stop + style.stop
        befores = [self.codec.before(row) for row in rows]
        stop = StopStrings(stops, befores, columns, self.codec.decode) if stops else None
        select = self._selector([prompt], decoding, pads[:1], columns, progress)
        select.margin = 0.0  # one row alone says nothing of a near tie of them all
        longest = replace(prompt, ids=max(rows, key=len))
        pool = ContextPool(select, decoding.beta)
        sequences = decode(self.backend, inputs, self._steps(longest, decoding), pool, decoding, stop, None)
        row = sequences[:1, columns:].tolist()
        result = make_result(self.backend, self.codec, prompt.ids, row, decoding, stops)
        if write is not None:
            write(result.text)
        progress.advance(1)
        return result

    def _selector(
        self,
        batch: Sequence[Prompt],
        decoding: Decoding,
        pads: list[int],
        columns: int,
        progress: Progress,
    ) -> TokenSelector:
        def ended(generated: Sequence[int]) -> bool:
            return bool(self._stops.intersection(generated))

        def unbatched_logits(number: int, generated: torch.Tensor) -> torch.Tensor:
            return self.backend.unbatched_logits(batch[number].ids, generated)

        return TokenSelector(
            decoding,
            pads=pads,
            columns=columns,
            unbatched_logits=unbatched_logits,
            indices=[prompt.index for prompt in batch],
            ended=ended,
            dtype=self.dtype,
            watch=lambda written: progress.advance(0, tokens=f"{written:,}"),
        )

    def _choose(self, prompt: Prompt, decoding: Decoding) -> Result:
        answers = [self.codec.answer(prompt.ids, choice) for choice in decoding.choices]
        room = self._room(prompt.ids)
        if room is not None and max(map(len, answers)) > room:
            raise OrdtoolError(
                f"{prompt.record.where}: no room in the context ({self.context} tokens) for the longest choice",
                "shorten the prompt",
            )
        return compare_answers(self.backend, self.codec, prompt.ids, answers, decoding)

    def stream(
        self,
        records: Iterable[Record],
        decoding: Decoding,
        style: PromptStyle | None = None,
        *,
        on_error: OnError | None = None,
        start: int = 0,
        write: Callable[[str], None] | None = None,
        begin: Callable[[Record], None] | None = None,
        progress: Progress = SILENT,
    ) -> Iterator[tuple[int, Record, Result]]:
        """Write for a stream of records; memory doesn't grow with it.

        Args:
            records: From `read_records` or anywhere.
            decoding: The options.
            style: How a record becomes a prompt.
            on_error: Called with each bad record, which is then skipped; None raises it,
                after the results of the records before it.
            start: Records that were done before and are passed over.
            write: Stream each text in pieces; records are then done one by one.
            begin: Called with a record before its pieces.
            progress: Advanced by records.

        Yields:
            (the number of records consumed, the record, its result), in the input's order.
        """
        style = style or PromptStyle()
        if style.contexts is not None:
            check_side_by_side(decoding)
        size = 1 if write is not None else self._batch_prompts(decoding) * _WINDOW
        for window in windows(self._prompts(records, style, start, on_error), size):
            if begin is not None:
                begin(window[0].record)
            results = self.run(window, decoding, style=style, write=write, progress=progress)
            for prompt, result in zip(window, results, strict=True):
                yield prompt.index + 1, prompt.record, result

    def _prompts(
        self, records: Iterable[Record], style: PromptStyle, start: int, on_error: OnError | None
    ) -> Iterator[Prompt]:
        for index, record in enumerate(records):
            if index < start:
                continue
            try:
                prompt = self.prompt(index, record, style)
            except OrdtoolError as error:
                reject(error, on_error)
                continue
            yield prompt

    def prompt(self, index: int, record: Record, style: PromptStyle) -> Prompt:
        """Make a record ready to be written from; `index` is its number in the stream, on which draws depend.

        Raises:
            OrdtoolError: As `encode`.
        """
        if style.contexts is None:
            return Prompt(index, record, self.encode(record, style))
        ids, *beside = (self.encode(each, style) for each in style.side_by_side(record))
        return Prompt(index, record, ids, tuple(beside))


@overload
def generate(  # type: ignore[overload-overlap]
    prompts: str,
    model: str = "smollm2",
    *,
    system: str | None = None,
    style: PromptStyle | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    **options: Unpack[DecodingOptions],
) -> Result: ...
@overload
def generate(
    prompts: Iterable[str],
    model: str = "smollm2",
    *,
    system: str | None = None,
    style: PromptStyle | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    **options: Unpack[DecodingOptions],
) -> list[Result]: ...
def generate(
    prompts: str | Iterable[str],
    model: str = "smollm2",
    *,
    system: str | None = None,
    style: PromptStyle | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    **options: Unpack[DecodingOptions],
) -> Result | list[Result]:
    """Write a continuation, or an answer, for one prompt or for each of many.

    Args:
        prompts: A text, or many; with a chat model they are a user's messages.
        model: A folder, a catalogue name or a hub id.
        system: A system message for a chat model; on top of `style`.
        style: Templates, examples and chat.
        device: Where to compute.
        progress: Told of fetching and of prompts done.
        **options: The fields of `Decoding`.

    Returns:
        A result for one prompt, whose text it is where a string is wanted; a list of them for many.

    Raises:
        OrdtoolError: For a bad prompt or model; UsageError for options that contradict.

    Example:
        >>> print(generate("The captain", model="tinylm", max_new_tokens=8))  # doctest: +SKIP
    """
    from ordtool.models.resolve import resolve_model

    decoding = Decoding(**options)  # type: ignore[arg-type]  # it makes a tuple of one string, or of a list
    if system is not None:
        style = replace(style or PromptStyle(), system=system)
    beside = style is not None and style.contexts is not None  # which transformers' loop alone can do
    writer = TextGenerator(
        resolve_model(model, progress, kind="causal"), device=device, fast_start=not beside
    )
    records = [Record("prompts", number, text) for number, text in enumerate(as_many(prompts), start=1)]
    results = [result for _, _, result in writer.stream(records, decoding, style, progress=progress)]
    return results[0] if is_one(prompts) else results
