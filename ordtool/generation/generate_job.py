"""A job of `ordtool generate`: its prompts, one stream of them, and the record that is written of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordtool.arguments import as_strings
from ordtool.errors import BadRecords, UsageError
from ordtool.generation.config import Decoding, Result, check_side_by_side
from ordtool.generation.prompts import PromptStyle
from ordtool.io.inputs import check_inputs
from ordtool.io.text import Record, read_records
from ordtool.progress import SILENT, Progress, warn_each
from ordtool.sharding.plan import input_paths
from ordtool.sharding.records import ENDINGS

if TYPE_CHECKING:
    from ordtool.generation.engine import TextGenerator

ON_ERROR = ("stop", "skip")


@dataclasses.dataclass(frozen=True, slots=True)
class GenerateConfig:
    """What is written from, and how.

    Attributes:
        inputs: Files of prompts; none is stdin.
        prompts: Prompts themselves, instead of files.
        field: The key of a JSONL object that holds the prompt; None: `text`, or what the template's fields say.
        on_error: `stop` at a bad record, or `skip` it and list it at the end.
        decoding: How tokens are chosen and where a text ends.
        style: How a record becomes a prompt.
    """

    inputs: tuple[str | Path, ...] = ()
    prompts: tuple[str, ...] = ()
    field: str | None = None
    on_error: str = "stop"
    decoding: Decoding = dataclasses.field(default_factory=Decoding)
    style: PromptStyle = dataclasses.field(default_factory=PromptStyle)

    def __post_init__(self) -> None:
        for name in ("inputs", "prompts"):
            object.__setattr__(self, name, as_strings(getattr(self, name)))
        if self.on_error not in ON_ERROR:
            raise UsageError(f"unknown `on_error` {self.on_error!r}", f"choices: {', '.join(ON_ERROR)}")
        if self.style.contexts is not None:
            check_side_by_side(self.decoding)
        if self.prompts and self.inputs:
            raise UsageError("`prompts` and input files together", "give one of them")

    @property
    def paths(self) -> list[str]:
        """The files that the inputs stand for."""
        return input_paths([str(path) for path in self.inputs], ENDINGS)

    @property
    def text_field(self) -> str | None:
        """The key whose value must be a string; None where a template takes what it needs."""
        return self.field or (None if self.style.template else "text")

    @property
    def streams(self) -> bool:
        """Whether a record's text can be shown while it is written."""
        return self.decoding.rows_per_prompt == 1 and not self.decoding.choices and not self.decoding.logprobs

    def facts(self) -> dict[str, Any]:
        """Return what a text depends on, for a run that goes on: all but the batch, which changes no text."""
        template = self.style.template
        return {
            "field": self.field or (template.fields[0] if template else "text"),
            **{
                name: value
                for name, value in dataclasses.asdict(self.decoding).items()
                if name != "batch_size"
            },
            "template": template.text if template else None,
            "examples": self.style.examples,
            "chat": self.style.chat,
            "system": self.style.system,
            "contexts": self.style.contexts,
        }


def check_prompts(config: GenerateConfig) -> None:
    """Find missing files and a keyboard on stdin before a model loads.

    Raises:
        OrdtoolError: Naming the file; UsageError where there is no input.
    """
    if not config.prompts:
        check_inputs(
            config.paths,
            missing="no input: give a file, pipe prompts in, or use `prompt`",
            hint="for example: ordtool generate -p 'Name three rivers.'",
        )


def generate_records(
    writer: TextGenerator,
    config: GenerateConfig,
    *,
    start: int = 0,
    write: Callable[[str], None] | None = None,
    begin: Callable[[Record], None] | None = None,
    progress: Progress = SILENT,
) -> Iterator[tuple[int, Record, Result]]:
    """Write for every prompt of a job; bad records that were skipped are told of at the end.

    Args:
        writer: The model.
        config: The job.
        start: Records that were done before.
        write: Called with pieces of text as they come; records are then done one by one.
        begin: Called with a record before its pieces.
        progress: Advanced by records, and warned of those that were skipped.

    Yields:
        (the number of records consumed, the record, its result), in order.
    """
    skipped = BadRecords()
    on_error = skipped.append if config.on_error == "skip" else None
    records: Iterator[Record]
    if config.prompts:
        records = (Record("prompt", k, text) for k, text in enumerate(config.prompts, start=1))
    else:
        records = read_records(config.paths, config.text_field, on_error=on_error)
    try:
        yield from writer.stream(
            records,
            config.decoding,
            config.style,
            on_error=on_error,
            start=start,
            write=write,
            begin=begin,
            progress=progress,
        )
    finally:
        progress.close()
        warn_each(skipped.report(), progress)


def result_fields(record: Record, result: Result, decoding: Decoding) -> dict[str, Any]:
    """Return the JSON object of one record: the input's keys, then what was written."""
    first = result.outputs[0]
    written: dict[str, Any] = {}
    if decoding.n > 1:
        written["outputs"] = [
            {name: value for name, value in dataclasses.asdict(output).items() if value is not None}
            for output in result.outputs
        ]
    else:
        written["output"] = first.text
    written["finish_reason"] = first.finish_reason
    if result.choices:
        written["choices"] = [dataclasses.asdict(choice) for choice in result.choices]
    if decoding.logprobs and decoding.n == 1 and first.tokens is not None:
        written["tokens"] = [dataclasses.asdict(token) for token in first.tokens]
    given = record.data if record.data is not None else {"text": record.text}
    return {**{name: value for name, value in given.items() if name not in written}, **written}
