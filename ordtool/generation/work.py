"""Writing as work in shards: what a process, a worker or an actor does with the prompts of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ordtool.errors import OrdtoolError
from ordtool.generation.generate_job import GenerateConfig, result_fields
from ordtool.io.text import Record
from ordtool.progress import Progress
from ordtool.sharding.plan import Cut, Reader
from ordtool.sharding.records import RecordReader, Row, write_rows
from ordtool.sharding.work import Computed, OnBad, Runner

if TYPE_CHECKING:
    from ordtool.generation.batch_plan import ContextExtension
    from ordtool.generation.engine import Prompt, TextGenerator

# Of a shard: this many batches, which are sorted by length together.
_BATCHES, _BATCH_SIZE = 8, 32


@dataclass(frozen=True, slots=True)
class GenerateWork:
    """Prompts to records with what was written.

    Attributes:
        model: A folder, a name or a hub id.
        config: What is written from, and how.
        format: One of `ordtool.sharding.records.FORMATS`.
        device: Where to compute.
        dtype: Of weights and arithmetic; `auto` is float32 on a CPU, where batches in bfloat16 are slower.
        context: A method that reads prompts longer than the model's context.
        extension: Makes what does that, of a model, the method, a listener and `max_context`; it can be imported.
        compile: Let torch compile a model that is run by code of transformers.
        max_context: How far `context` is to read, as `RotaryContextExtension` takes it; None: as far as a text goes.
    """

    model: str
    config: GenerateConfig
    format: str = "jsonl"
    device: str = "auto"
    dtype: str = "auto"
    context: str | None = None
    extension: Callable[[Any, str, Progress, str | None], ContextExtension] | None = None
    compile: bool = False
    max_context: str | None = None

    @property
    def cut(self) -> Cut:
        """See `Work`."""
        return Cut(_BATCHES * (self.config.decoding.batch_size or _BATCH_SIZE))

    @property
    def skips(self) -> bool:
        """See `Work`."""
        return self.config.on_error == "skip"

    def load(self, progress: Progress, threads: int | None) -> Runner:
        """See `Work`."""
        return _GenerateRunner(self, self.load_generator(progress, threads), progress)

    def load_generator(self, progress: Progress, threads: int | None) -> TextGenerator:
        """Load the model.

        Raises:
            OrdtoolError: If it can't be fetched or loaded, or can't write.
        """
        from ordtool.models.resolve import resolve_model
        from ordtool.runtime import importing, resolve_device, resolve_dtype, set_threads

        folder = resolve_model(self.model, progress, kind="causal")
        with importing():
            from ordtool.generation.engine import TextGenerator

            set_threads(threads)
            place = resolve_device(self.device)
            # On a CPU batches in bfloat16 are slower than in float32, and near ties are common.
            dtype = "float32" if self.dtype == "auto" and place.type == "cpu" else self.dtype
            # A method of extrapolation, and contexts side by side, work on transformers' model.
            own = self.context is None and self.config.style.contexts is None
            writer = TextGenerator(
                folder,
                device=self.device,
                dtype=resolve_dtype(dtype, place),
                fast_start=own,
                compile=self.compile,
            )
        if self.compile and not writer.compiled:
            progress.note(f"{self.model} is run by code of its own here, so there is nothing to compile")
        if self.context is not None and self.extension is not None:
            writer.context_extension = self.extension(
                writer.backend.model, self.context, progress, self.max_context
            )
        return writer


class _GenerateRunner:
    def __init__(self, work: GenerateWork, writer: TextGenerator, progress: Progress) -> None:
        self.facts: dict[str, Any] = {"device": str(writer.device), "dtype": str(writer.dtype)}
        self.reader: Reader = RecordReader(work.config.text_field)
        self._work = work
        self._writer = writer
        self._progress = progress

    def prepare(self, records: list[Record], indices: list[int], on_error: OnBad) -> Any:
        return records, indices, on_error

    def compute(self, prepared: Any, settled: Any) -> Iterator[Computed]:
        config, failure = self._work.config, None
        prompts: list[Prompt] = []
        try:
            prompts.extend(self._encoded(*prepared))
        except OrdtoolError as error:
            failure = error
        results = self._writer.run(prompts, config.decoding, style=config.style, progress=self._progress)
        records = [prompt.record for prompt in prompts]
        fields = [
            result_fields(record, result, config.decoding)
            for record, result in zip(records, results, strict=True)
        ]
        for record, row in zip(records, fields, strict=True):
            for name, value in (record.data or {}).items():
                if row[name] is not value:
                    self._progress.warn(f"the input's key {name!r} is replaced in the output")
        rows: Iterator[Row] = ((row, record.where) for record, row in zip(records, fields, strict=True))
        yield from write_rows(rows, self._work.format, settled)
        if failure is not None:
            raise failure

    def _encoded(self, records: list[Record], indices: list[int], on_error: OnBad) -> Iterator[Prompt]:
        for index, record in zip(indices, records, strict=True):
            try:
                prompt = self._writer.prompt(index, record, self._work.config.style)
            except OrdtoolError as error:
                on_error(error)
                continue
            yield prompt
