"""What `ordtool generate` does with its records: JSON lines for a pipe, text for a person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ordtool.errors import OrdtoolError
    from ordtool.generation.config import Decoding, Result
    from ordtool.generation.engine import TextGenerator
    from ordtool.generation.prompts import PromptStyle
    from ordtool.io.resumable import Lines
    from ordtool.io.text import Record
    from ordtool.progress import Progress


class Job:
    """Records in, results out, bad records counted."""

    def __init__(
        self,
        decoding: Decoding,
        style: PromptStyle,
        inputs: list[str],
        prompts: list[str],
        field: str,
        skip: bool,
        progress: Progress,
    ) -> None:
        self.decoding = decoding
        self.style = style
        self.inputs = inputs
        self.prompts = prompts
        self.field = field
        self.skip = skip
        self.progress = progress
        self.skipped: list[OrdtoolError] = []
        self.replaced = False

    def check_inputs(self) -> None:
        """Find missing files and a keyboard on stdin before the model loads."""
        from ordtool.io.inputs import check_inputs

        if not self.prompts:
            check_inputs(
                self.inputs,
                missing="no input: give a file, pipe prompts in, or use --prompt",
                hint="for example: ordtool generate -p 'Name three rivers.'",
            )

    def records(self) -> Iterator[Record]:
        from ordtool.io.text import Record, read_records

        if self.prompts:
            for number, text in enumerate(self.prompts, start=1):
                yield Record("--prompt", number, text)
            return
        yield from read_records(self.inputs, self.field, on_error=self.skipped.append if self.skip else None)

    def write(self, writer: TextGenerator, lines: Lines) -> None:
        """Write a JSON object a record."""
        from ordtool.io.jsonl import dumps

        self.progress.start("generating", self._count(), "prompts")
        if lines.done:
            self.progress.note(f"going on after {lines.done} records")
            self.progress.advance(lines.done)
        try:
            for done, record, result in writer.stream(
                self.records(),
                self.decoding,
                self.style,
                on_error=self.skipped.append if self.skip else None,
                start=lines.done,
                progress=self.progress,
            ):
                fields = to_fields(record, result, self.decoding)
                self._tell_replaced(record, fields)
                lines.write(dumps(fields))
                lines.save(done)
        finally:
            self.progress.close()
            self._tell_skipped()

    def show(self, writer: TextGenerator) -> None:
        """Show texts to a person, in pieces as they come where there is one a prompt."""
        from ordtool import console

        simple = (
            self.decoding.rows_per_prompt == 1 and not self.decoding.choices and not self.decoding.logprobs
        )
        several = len(self.prompts) != 1

        def begin(record: Record) -> None:
            if several:
                console.note(f"[{record.where}] {record.text}")

        def piece(text: str) -> None:
            console.show(text, end="")
            console.flush()

        try:
            for _, _, result in writer.stream(
                self.records(),
                self.decoding,
                self.style,
                on_error=self.skipped.append if self.skip else None,
                write=piece if simple else _nothing,
                begin=begin,
            ):
                for line in [""] if simple else _drawn(result, self.decoding):
                    console.show(line)
                console.flush()
        finally:
            self._tell_skipped()

    def _count(self) -> int | None:
        """Count the lines of plain files, for the time left."""
        from ordtool.io.inputs import open_input, read_again

        if self.prompts:
            return len(self.prompts)
        files = read_again(self.inputs)
        if not files:
            return None
        total = 0
        for path in files:
            with open_input(path) as stream:
                total += sum(1 for _ in stream)
        return total

    def _tell_replaced(self, record: Record, fields: dict[str, Any]) -> None:
        replaced = [name for name, value in (record.data or {}).items() if fields[name] is not value]
        if replaced and not self.replaced:
            self.replaced = True
            self.progress.warn(f"{record.where}: the input's key {replaced[0]!r} is replaced in the output")

    def _tell_skipped(self) -> None:
        if not self.skipped:
            return
        self.progress.warn(f"{len(self.skipped)} bad record(s) skipped")
        for error in self.skipped[:20]:
            self.progress.warn(error.message)
        if len(self.skipped) > 20:
            self.progress.warn(f"and {len(self.skipped) - 20} more")


def _nothing(text: str) -> None:
    """Take pieces of text that are shown later, together."""


def to_fields(record: Record, result: Result, decoding: Decoding) -> dict[str, Any]:
    """Give the JSON object of one record: the input's keys, then what was written."""
    first = result.outputs[0]
    written: dict[str, Any] = {}
    if decoding.n > 1:
        written["outputs"] = [
            {name: value for name, value in asdict(output).items() if value is not None}
            for output in result.outputs
        ]
    else:
        written["output"] = first.text
    written["finish_reason"] = first.finish_reason
    if result.choices:
        written["choices"] = [asdict(choice) for choice in result.choices]
    if decoding.logprobs and decoding.n == 1 and first.tokens is not None:
        written["tokens"] = [asdict(token) for token in first.tokens]
    given = record.data if record.data is not None else {"text": record.text}
    return {**{name: value for name, value in given.items() if name not in written}, **written}


def _drawn(result: Result, decoding: Decoding) -> Iterator[str]:
    """Draw several texts, answers or tokens for a person."""
    for choice in result.choices:
        mark = "*" if choice.text == result.text else " "
        yield f"{mark} {choice.probability:7.2%}  {choice.text}"
    if result.choices and not decoding.logprobs:
        return
    for number, output in enumerate(result.outputs, start=1):
        if not result.choices:
            label = f"{number}. ({output.score:.3f} nats a token) " if decoding.n > 1 else ""
            yield label + output.text
        if output.tokens is not None:
            yield "   " + "  ".join(f"{token.text!r} {token.logprob:.3f}" for token in output.tokens)
