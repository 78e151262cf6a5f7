"""What `ordtool generate` shows a person: texts while they are written, answers compared, tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ordtool.generation.config import Decoding, Result
    from ordtool.generation.engine import TextGenerator
    from ordtool.generation.generate_job import GenerateConfig
    from ordtool.io.text import Record
    from ordtool.progress import Progress


def show_results(writer: TextGenerator, config: GenerateConfig, progress: Progress) -> None:
    """Show texts on a terminal, in pieces as they come where there is one a prompt."""
    from ordtool import console
    from ordtool.generation.generate_job import generate_records
    from ordtool.generation.prompts import fields_of

    template = config.style.template

    def begin(record: Record) -> None:
        if len(config.prompts) != 1:
            text = record.text or (str(fields_of(record).get(template.fields[0], "")) if template else "")
            console.note(f"[{record.where}] {text}")

    def piece(text: str) -> None:
        console.show(text, end="")
        console.flush()

    write = piece if config.streams else _nothing
    for _, _, result in generate_records(writer, config, write=write, begin=begin, progress=progress):
        for line in [""] if config.streams else _drawn(result, config.decoding):
            console.show(line)
        console.flush()


def _nothing(text: str) -> None:
    """Take pieces of text that are shown later, together."""


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
