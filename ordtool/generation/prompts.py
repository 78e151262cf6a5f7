"""What the model is given to read: templates, few-shot examples, chat."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.inputs import open_input, separator_of
from ordtool.io.tables import rows_of
from ordtool.io.text import Record

Message = dict[str, str]


def unescape(text: str) -> str:
    r"""Turn `\n`, `\t` and `\\` as typed in a shell into a line feed, a tab and a backslash."""
    pieces = text.split("\\\\")
    return "\\".join(piece.replace("\\n", "\n").replace("\\t", "\t") for piece in pieces)


class Template:
    """A text with `{field}` holes, filled from a record's keys.

    `{{` and `}}` are braces. Only plain names are holes: no attributes, indices or formats.

    Args:
        text: The template.

    Raises:
        UsageError: If it is malformed or has no field.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise UsageError(
                f"`template` {text!r}: {error}", "a field is {name}; a brace itself is {{ or }}"
            ) from None
        self._parts: list[tuple[str, str | None]] = []
        for literal, name, spec, conversion in parts:
            if name is not None and (not name.isidentifier() or spec or conversion):
                raise UsageError(f"`template` {text!r}: {{{name}}} is not a field", "a field is {name}")
            self._parts.append((literal, name))
        if not self.fields:
            raise UsageError(
                f"`template` {text!r} has no field", "for example `template` 'Summarise: {text}'"
            )

    @property
    def fields(self) -> list[str]:
        """The names of the holes, in order."""
        return [name for _, name in self._parts if name is not None]

    @property
    def answer(self) -> str:
        """The last hole: in a few-shot prompt, what the model fills in."""
        return self.fields[-1]

    @property
    def separator(self) -> str:
        """What stands between filled templates: a blank line if they have lines themselves."""
        return "\n\n" if "\n" in self.text.strip("\n") else "\n"

    @property
    def tail(self) -> str:
        """What follows the last hole."""
        last = self._parts[-1]
        return last[0] if last[1] is None else ""

    def render(self, data: Mapping[str, Any], where: str) -> str:
        """Fill every hole.

        Args:
            data: Values by name: strings, numbers or booleans.
            where: The record's place, for messages.

        Raises:
            OrdtoolError: If a value is missing or of another type.
        """
        return "".join(
            literal + (self.value(data, name, where) if name else "") for literal, name in self._parts
        )

    def head(self, data: Mapping[str, Any], where: str) -> str:
        """Fill every hole but the last, and end where it begins (spaces before it left out)."""
        holes = [index for index, (_, name) in enumerate(self._parts) if name is not None]
        pieces = [
            literal + (self.value(data, name, where) if name and index < holes[-1] else "")
            for index, (literal, name) in enumerate(self._parts[: holes[-1] + 1])
        ]
        return "".join(pieces).rstrip(" ")

    def value(self, data: Mapping[str, Any], name: str, where: str) -> str:
        """Return one field as text; raises as `render`."""
        if name not in data:
            raise OrdtoolError(
                f"{where}: the template needs a field {name!r} (keys: {', '.join(data) or 'none'})",
                "every {name} of `template` is a key of the JSON object",
            )
        value = data[name]
        if isinstance(value, str | int | float) and value is not None:
            return str(value)
        raise OrdtoolError(
            f"{where}: field {name!r} must be a string or a number, found {type(value).__name__}"
        )


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How a record becomes a prompt.

    Attributes:
        template: Text with `{field}` holes; None: the record's text itself.
        examples: Records that the template is filled with completely, before the record
            whose last field the model fills in.
        chat: Use the tokenizer's chat template; None: if it has one and there are no examples.
        system: A system message for the chat template.
        contexts: A field of the template whose value is a list of texts, read side by side; see `ordtool.generation.nbce`.
    """

    template: Template | None = None
    examples: tuple[dict[str, Any], ...] = ()
    chat: bool | None = None
    system: str | None = None
    contexts: str | None = None

    def __post_init__(self) -> None:
        if self.contexts is not None and (
            self.template is None or self.contexts not in self.template.fields or self.examples
        ):
            raise UsageError(
                f"`contexts` {self.contexts!r} is no field of a template without examples",
                f"for example --contexts {self.contexts} --template '{{{self.contexts}}}\\n\\n{{question}}'",
            )
        if self.examples and self.template is None:
            raise UsageError(
                "`examples` needs a `template` that says how an example is written",
                "for example `template` 'Review: {text} => {label}'",
            )
        if self.examples and self.template is not None and len(self.template.fields) < 2:
            raise UsageError(
                f"`template` {self.template.text!r} has one field, and few-shot prompts need two or more",
                "the last field is the answer: `template` '{text} => {label}'",
            )
        if self.system is not None and self.chat is False:
            raise UsageError(
                "`system` is a message of a chat, and `chat=False` asks for none", "leave one of them out"
            )
        if self.template is not None:
            for number, example in enumerate(self.examples, start=1):
                self.template.render(example, f"example {number}")

    @property
    def few_shot(self) -> bool:
        """Whether the model fills in the template's last field."""
        return bool(self.examples)

    @property
    def stop(self) -> tuple[str, ...]:
        """Where a few-shot answer ends: at what follows it in the template."""
        if not self.few_shot or self.template is None:
            return ()
        return (self.template.tail + self.template.separator,)

    def uses_chat(self, has_template: bool) -> bool:
        """Decide whether the chat template is used.

        Raises:
            UsageError: If it is asked for and the tokenizer has none.
        """
        if (self.chat or self.system is not None) and not has_template:
            name = "`chat`" if self.chat else "`system`"
            raise UsageError(
                f"{name}: this model's tokenizer has no chat template",
                "leave it out: the prompt is continued",
            )
        if self.chat is None:
            return has_template and (not self.examples or self.system is not None)
        return self.chat

    def text(self, record: Record) -> str:
        """Return the plain prompt of a record.

        Raises:
            OrdtoolError: If the template's fields are missing or the prompt is empty.
        """
        if self.template is None:
            return _not_empty(record.text, record)
        data = fields_of(record)
        if not self.few_shot:
            return _not_empty(self.template.render(data, record.where), record)
        _not_empty(self.template.value(data, self.template.fields[0], record.where), record)
        shots = [self.template.render(example, "example") for example in self.examples]
        return self.template.separator.join([*shots, self.template.head(data, record.where)])

    def side_by_side(self, record: Record) -> list[Record]:
        """Return a record without any of its texts, then with each.

        Raises:
            OrdtoolError: If its texts are no list.
        """
        data, field = fields_of(record), str(self.contexts)
        texts = check_texts(data.get(field), field, record.where)
        return [replace(record, data={**data, field: text}) for text in ("", *texts)]

    def messages(self, record: Record) -> list[Message]:
        """Return a record as a chat: examples become earlier turns; raises as `text`."""
        chat: list[Message] = []
        if self.system is not None:
            chat.append({"role": "system", "content": self.system})
        if self.few_shot and self.template is not None:
            for example in self.examples:
                chat.append({"role": "user", "content": self.template.head(example, "example")})
                answer = self.template.value(example, self.template.answer, "example")
                chat.append({"role": "assistant", "content": answer})
            data = fields_of(record)
            _not_empty(self.template.value(data, self.template.fields[0], record.where), record)
            chat.append({"role": "user", "content": self.template.head(data, record.where)})
        else:
            chat.append({"role": "user", "content": self.text(record)})
        return chat


def fields_of(record: Record) -> Mapping[str, Any]:
    """Return a record's keys; a line of plain text has the one key `text`."""
    return record.data if record.data is not None else {"text": record.text}


def _not_empty(text: str, record: Record) -> str:
    if not text.strip():
        raise OrdtoolError(
            f"{record.where}: empty prompt", "write something to continue, or `on_error=skip` passes over it"
        )
    return text


def read_examples(path: str | Path) -> tuple[dict[str, Any], ...]:
    """Read few-shot examples: JSONL or a table (`.csv`, `.tsv`), an object or row an example.

    Raises:
        OrdtoolError: If the file is missing, malformed or empty.
    """
    with open_input(path) as stream:
        examples = tuple(row.data for row in rows_of(stream, jsonl=separator_of(path) is None))
    if not examples:
        raise OrdtoolError(f"{path}: no examples in it", "an example is a JSON object a line")
    return examples


def parse_choices(text: str) -> tuple[str, ...]:
    """Read `yes,no` or a JSON list `["yes, please", "no"]`.

    Raises:
        UsageError: If a list is malformed or holds something else than strings.
    """
    import json

    if text.lstrip().startswith("["):
        try:
            values: Sequence[Any] = json.loads(text)
        except ValueError:
            raise UsageError(
                f"`choices` {text!r} is not a JSON list", 'for example \'["yes", "no"]\''
            ) from None
        if not values or not all(isinstance(value, str) for value in values):
            raise UsageError("`choices` must be a list of strings", 'for example \'["yes", "no"]\'')
        return tuple(values)
    return tuple(piece.strip() for piece in text.split(","))


def check_texts(texts: object, field: str, where: str) -> Sequence[str]:
    """Return a record's texts.

    Raises:
        OrdtoolError: If they are no list of strings, or there are none.
    """
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise OrdtoolError(
            f"{where}: {field!r} must be a list of texts", f'{{"{field}": ["...", "..."], ...}}'
        )
    return texts
