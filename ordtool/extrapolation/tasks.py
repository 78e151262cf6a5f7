"""Texts with something to find in them, and the question at their end: tasks of growing length.

A text is the filler's lines with the facts of a task between them, and then a question. It has an exact number of tokens,
and facts stand at a chosen depth: 0 is the text's begin, 1 is right before the question. Lines, facts and question are
encoded one by one, so that nothing moves when a text grows.
"""

from __future__ import annotations

import copy
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.extrapolation.filler import FILLER
from ordtool.extrapolation.texts import Encode, Text

CHOICES = 10  # answers to choose from, the right one among them
COPIED, ASKED = 12, 24  # tokens to copy, and tokens before them that say what
_NAMES = 3  # variables that one value is passed on to
_FEW = 3  # pairs of a solved example
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NOUNS = (
    "anchor apple arrow barrel basket bell bridge candle castle chain clock cloud copper crown desk door drum engine "
    "feather field flag flute forest garden gate glass hammer harbor horse island jacket kettle key ladder lamp letter"
).split()
_LINE = 200  # characters from which a line is cut into sentences


@dataclass(frozen=True, slots=True)
class Quest:
    """What is to be found, in words.

    Attributes:
        facts: Depth and sentence of each, in the order of the text.
        question: The end of the text; the answer follows it.
        answer: The right one, with the space before it.
        wrong: Others, as many as there are choices but one.
        packed: The facts are the whole text, one a line; their depths are ranks.
    """

    facts: tuple[tuple[float, str], ...]
    question: str
    answer: str
    wrong: tuple[str, ...]
    packed: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """A text in tokens, and the answers to choose from.

    Attributes:
        prompt: The text with its question.
        choices: Token ids of each answer, the right one first.
    """

    prompt: list[int]
    choices: list[list[int]]


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What the texts of a task are like.

    Attributes:
        name: One of `TASKS`.
        depths: Where the fact that is asked for stands, 0 to 1.
        needles: For `niah`: facts of the kind that is asked for; for `vt`: chains of variables besides the one asked for.
        values: For `niah`: values of the one asked for.
        examples: Solved ones before the text.
        seed: Of everything that is drawn.

    Raises:
        UsageError: For unknown tasks and numbers that make no sense.
    """

    name: str
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    needles: int = 1
    values: int = 1
    examples: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in TASKS:
            raise UsageError(f"unknown task {self.name!r}", close_match_hint(self.name, TASKS))
        if not self.depths or not all(0 <= depth <= 1 for depth in self.depths):
            raise UsageError("`depths` are shares of the text, 0 to 1", "for example 0, 0.5 and 1")
        for name, most in (("needles", 20 if self.name == "niah" else 7), ("values", 8)):
            if not 1 <= getattr(self, name) <= most:
                raise UsageError(f"`{name}` {getattr(self, name)} is not possible", f"1 to {most}")
        if self.examples < 0:
            raise UsageError(f"`examples` {self.examples} is not possible", "0 or more")


def _numbers(draw: random.Random, count: int) -> list[str]:
    """Draw numbers of five digits, each another one."""
    return [str(number) for number in draw.sample(range(10_000, 100_000), count)]


def _word(draw: random.Random) -> str:
    return "".join(draw.choice("bcdfghjklmnprstvz") + draw.choice("aeiou") for _ in range(3))


def _passkey(draw: random.Random, depth: float, task: TaskSettings, pairs: int) -> Quest:
    key, *wrong = _numbers(draw, CHOICES)
    fact = f"The pass key is {key}. Remember it. {key} is the pass key."
    question = "What is the pass key? The pass key is"
    return Quest(((depth, fact),), question, f" {key}", tuple(f" {other}" for other in wrong))


def _niah(draw: random.Random, depth: float, task: TaskSettings, pairs: int) -> Quest:
    """Ask for the values of one needle among several; wrong answers have values of the others, as far as there are."""
    asked, *others = draw.sample(_NOUNS, task.needles)
    numbers = _numbers(draw, task.values + len(others) + CHOICES * task.values)
    values, rest = numbers[: task.values], numbers[task.values :]

    def fact(noun: str, value: str) -> str:
        return f"The special number for {noun} is {value}."

    # The first value stands at the depth asked for, the others and the other needles anywhere.
    depths = [depth, *sorted(depth + (1 - depth) * draw.random() for _ in values[1:])]
    facts = [(at, fact(asked, value)) for at, value in zip(depths, values, strict=True)]
    facts += [(draw.random(), fact(noun, value)) for noun, value in zip(others, rest, strict=False)]
    if task.values == 1:
        question = f"What is the special number for {asked}? The special number for {asked} is"
    else:
        question = f"What are the special numbers for {asked}? The special numbers for {asked} are"
    wrong = [rest[number * task.values : (number + 1) * task.values] for number in range(CHOICES - 1)]
    return Quest(
        tuple(sorted(facts, key=lambda fact: fact[0])),
        question,
        " " + ", ".join(values),
        tuple(" " + ", ".join(numbers) for numbers in wrong),
    )


def _kv(draw: random.Random, depth: float, task: TaskSettings, pairs: int) -> Quest:
    """List pairs and ask for one; the wrong answers are values of other keys."""
    keys: dict[str, None] = {}
    while len(keys) < pairs:
        keys[_word(draw)] = None
    numbers = _numbers(draw, max(pairs, CHOICES))
    asked = round(depth * (pairs - 1))
    table = list(zip(keys, numbers, strict=False))
    others = [number for number in numbers if number != numbers[asked]]
    return Quest(
        tuple((rank / pairs, f"{key}: {value}") for rank, (key, value) in enumerate(table)),
        f"{table[asked][0]}:",
        f" {table[asked][1]}",
        tuple(f" {value}" for value in draw.sample(others, CHOICES - 1)),
        packed=True,
    )


def _vt(draw: random.Random, depth: float, task: TaskSettings, pairs: int) -> Quest:
    """Pass values on from variable to variable, and ask which have one of them; wrong answers mix in other variables."""
    chains = task.needles + 1
    names = draw.sample(_LETTERS, _NAMES * chains)
    facts: list[tuple[float, str]] = []
    numbers = _numbers(draw, chains)
    for chain, value in enumerate(numbers):
        own = names[_NAMES * chain : _NAMES * (chain + 1)]
        said = [f"VAR {own[0]} = {value}."]
        said += [f"VAR {new} = VAR {old}." for old, new in zip(own, own[1:], strict=False)]
        first = depth if chain == 0 else draw.random()
        facts += [(first + (1 - first) * number / _NAMES, fact) for number, fact in enumerate(said)]
    answer = names[:_NAMES]
    wrong: dict[str, None] = {}
    while len(wrong) < CHOICES - 1:
        drawn = draw.sample(names, _NAMES)
        if set(drawn) != set(answer):
            wrong[" " + " ".join(drawn)] = None
    return Quest(
        tuple(sorted(facts, key=lambda fact: fact[0])),
        f"{numbers[0]} is the value of",
        " " + " ".join(answer),
        tuple(wrong),
    )


Builder = Callable[[random.Random, float, TaskSettings, int], Quest]
TASKS: dict[str, Builder | None] = {
    "passkey": _passkey,
    "niah": _niah,
    "kv": _kv,
    "vt": _vt,
    "copy": None,
}
"""Every task by its name; `copy` is made of tokens."""


class TaskTexts:
    """Makes the texts of a task, with a model's tokenizer.

    Args:
        task: What is asked.
        texts: Whose lines are the filler; none: a packaged one, whose lines come in another order in every text.
        encode: From text to tokens, without special ones.
    """

    def __init__(self, task: TaskSettings, texts: Sequence[Text], encode: Encode) -> None:
        self.task = task
        self._encode = encode
        self._own = not texts
        self._lines = _cut_lines("\n".join(text.text for text in texts) if texts else FILLER)
        if not self._lines:
            raise OrdtoolError("no text in the input", "leave it out to take the packaged filler")

    def of(self, task: TaskSettings) -> TaskTexts:
        """Return the texts of another task, or of other seeds, from the same filler."""
        other = copy.copy(self)
        other.task = task
        return other

    def example(self, length: int, depth: float, number: int) -> Example:
        """Make a text of exactly `length` tokens, its longest answer included.

        The same number gives the same facts and filler at every length and depth.

        Raises:
            UsageError: If the facts and the question alone are longer.
            OrdtoolError: If there is too little text to copy from.
        """
        draw = random.Random(f"{self.task.seed}/{self.task.name}/{number}")
        solved = [token for _ in range(self.task.examples) for token in self._solved(draw)]
        build = TASKS[self.task.name]
        if build is None:
            return self._copying(draw, length, depth, solved)
        state = draw.getstate()
        quest = build(draw, depth, self.task, self._pairs(length - len(solved)))
        while True:
            example = self._assemble(quest, length, solved, draw)
            if example is not None:
                return example
            if not quest.packed or len(quest.facts) <= 2:
                raise self._too_short(length)
            draw.setstate(state)
            quest = build(draw, depth, self.task, len(quest.facts) - 1)

    def _too_short(self, length: int) -> UsageError:
        return UsageError(
            f"{length:,} tokens are too few for {self.task.name}: the facts and the question alone take more",
            "ask for longer lengths, fewer needles or fewer examples",
        )

    def _pairs(self, length: int) -> int:
        """Return how many pairs fill a length, about."""
        draw = random.Random(0)
        lines = [self._line(f"{_word(draw)}: {number}") for number in _numbers(draw, 16)]
        return max(2, (length - CHOICES) * len(lines) // sum(map(len, lines)))

    def _line(self, text: str) -> list[int]:
        return self._encode(text + "\n")

    def _assemble(self, quest: Quest, length: int, solved: list[int], draw: random.Random) -> Example | None:
        """Put filler, facts and question together; None: there is no room for them."""
        question = self._encode(quest.question)
        choices = [
            _continued(self._encode, quest.question, question, text) for text in (quest.answer, *quest.wrong)
        ]
        facts = [(depth, self._line(fact)) for depth, fact in quest.facts]
        room = length - max(map(len, choices)) - len(question) - len(solved)
        room -= sum(len(tokens) for _, tokens in facts)
        if room < 0:
            return None
        filler = self._filler(room, draw)
        if quest.packed:
            body = [token for line in filler for token in line]
            body += [token for _, tokens in facts for token in tokens]
        else:
            body = _place(filler, facts)
        return Example([*solved, *body, *question], choices)

    def _filler(self, room: int, draw: random.Random) -> list[list[int]]:
        """Return lines in tokens, of `room` tokens in all; of the first one the begin may be cut off."""
        start = draw.randrange(len(self._lines))
        lines = self._lines[start:] + self._lines[:start]
        words = " ".join(lines).split() if self._own and self.task.name == "copy" else []
        if self._own:
            lines = draw.sample(lines, len(lines))
        taken: list[list[int]] = []
        number = 0
        while room > 0:
            if self.task.name == "copy" and not self._own and number == len(lines):
                raise OrdtoolError(
                    "the text is too short to copy from: it would come twice",
                    "give a longer text, or none to take shuffled words",
                )
            # Nothing may stand twice in a text to copy from.
            text = " ".join(draw.choices(words, k=12)) if words else lines[number % len(lines)]
            tokens = self._line(text)
            # What is left over is the end of a line, and comes first: no fact stands within a line.
            taken = [*taken, tokens] if len(tokens) <= room else [tokens[-room:], *taken]
            room -= min(room, len(tokens))
            number += 1
        return taken

    def _copying(self, draw: random.Random, length: int, depth: float, solved: list[int]) -> Example:
        room = length - COPIED - ASKED - len(solved)
        if room < 2 * (COPIED + ASKED):
            raise self._too_short(length)
        body = [token for line in self._filler(room, draw) for token in line]
        last = len(body) - COPIED - ASKED
        spot = round(depth * last)
        others = [start for start in range(last) if abs(start - spot) > COPIED]
        starts = [spot, *draw.sample(others, min(CHOICES - 1, len(others)))]
        choices = [body[start + ASKED : start + ASKED + COPIED] for start in starts]
        return Example([*solved, *body, *body[spot : spot + ASKED]], choices)

    def _solved(self, draw: random.Random) -> list[int]:
        """Return a short text with its question and answer."""
        build = TASKS[self.task.name]
        if build is None:
            tokens = [token for line in self._filler(COPIED + ASKED, draw) for token in line]
            return [*tokens, *tokens, *self._encode("\n\n")]
        quest = build(draw, draw.random(), self.task, _FEW)
        return self._line("\n".join([*(fact for _, fact in quest.facts), quest.question + quest.answer, ""]))


def _cut_lines(text: str) -> list[str]:
    """Cut a text into lines; long ones, such as paragraphs, after a sentence's end."""
    lines: list[str] = []
    for line in text.splitlines():
        line = line.strip()
        while len(line) > _LINE:
            end = max(line.rfind(mark, 0, _LINE) for mark in (". ", "? ", "! ", "; "))
            end = end if end > 0 else line.rfind(" ", 0, _LINE)
            if end <= 0:
                break
            lines.append(line[: end + 1].rstrip())
            line = line[end + 1 :].lstrip()
        if line:
            lines.append(line)
    return lines


def _place(filler: list[list[int]], facts: Sequence[tuple[float, list[int]]]) -> list[int]:
    """Put facts between the lines of the filler, each where the share of tokens before it is nearest its depth."""
    ends = [0]
    for line in filler:
        ends.append(ends[-1] + len(line))
    placed: list[int] = []
    done = 0
    for depth, tokens in facts:
        wanted = depth * ends[-1]
        border = bisect_left(ends, wanted)
        if border and (border == len(ends) or wanted - ends[border - 1] < ends[border] - wanted):
            border -= 1
        for line in filler[done:border]:
            placed += line
        done = max(done, border)
        placed += tokens
    return placed + [token for line in filler[done:] for token in line]


def _continued(encode: Encode, prompt: str, prompt_ids: list[int], answer: str) -> list[int]:
    """Return the tokens of an answer behind a prompt.

    Most tokenizers give the prompt's own tokens first; where one doesn't, the answer is encoded alone.
    """
    whole = encode(prompt + answer)
    if whole[: len(prompt_ids)] == prompt_ids and len(whole) > len(prompt_ids):
        return whole[len(prompt_ids) :]
    return encode(answer)
