"""How text is written: the options of decoding, checked, and what comes out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal, TypedDict

from ordtool.arguments import as_strings
from ordtool.errors import UsageError

LEAST_TEMPERATURE = 1e-6
"""Below it, logits divided by it overflow and a draw would be of no numbers."""

MOST_SEQUENCES = 4096
"""Beams or samples of a prompt at most: they are held in memory together."""

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the next token is chosen and when writing ends.

    Greedy unless a sampling option (`temperature`, `top_k`, `top_p`, `min_p`, `typical`)
    or `beams` is given.

    Attributes:
        max_new_tokens: Tokens a continuation at most.
        temperature: Divides the logits before a draw; None with another sampling option is 1.
        top_k: Draw among the k most probable tokens.
        top_p: Draw among the fewest tokens that hold this probability together.
        min_p: Draw among tokens at least this probable, relative to the most probable one.
        typical: Locally typical sampling: keep this mass of tokens whose surprise is
            nearest to the entropy (Meister et al. 2022).
        repetition_penalty: Divides (or multiplies, if negative) the logits of tokens seen
            before, prompt included (Keskar et al. 2019); 1 is off.
        no_repeat_ngram: No n-gram of this length occurs twice, prompt included; 0 is off.
        beams: Beam search of this width, 4,096 at most; 1 is off.
        length_penalty: Beams are ranked by log-probability / length ** length_penalty.
        n: Continuations a prompt, 4,096 at most: samples, or the best beams.
        stop: The text ends before the first of these.
        choices: Only these answers are compared, by their log-probability.
        beta: With several contexts side by side: what the model says without any is taken off beta times.
        logprobs: Give every token's log-probability (natural logarithm) too.
        seed: Of the draws; a record's draws don't depend on the others.
        batch_size: Sequences at once: prompts times `n` or `beams`; None: 32, and on a GPU as many as its memory takes
            where a model is written by CUDA graphs.
    """

    max_new_tokens: int = 128
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    beams: int = 1
    length_penalty: float = 1.0
    n: int = 1
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    beta: float = 0.25
    logprobs: bool = False
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("stop", "choices"):
            object.__setattr__(self, name, as_strings(getattr(self, name)))
        self._check_ranges()
        self._check_temperature()
        self._check_combinations()

    @property
    def warps(self) -> dict[str, float]:
        """The options given that only make sense with sampling, by name."""
        options = {"top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p, "typical": self.typical}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def sampling(self) -> bool:
        """Whether tokens are drawn rather than chosen."""
        return bool(self.warps) or bool(self.temperature)

    @property
    def scored(self) -> bool:
        """Whether log-probabilities are wanted."""
        return self.logprobs or self.n > 1

    @property
    def rows_per_prompt(self) -> int:
        """Sequences that one prompt becomes: its beams or its samples."""
        return max(self.n, self.beams)

    def _check_ranges(self) -> None:
        for name, low in (("max_new_tokens", 1), ("beams", 1), ("n", 1), ("batch_size", 1), ("top_k", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise UsageError(f"`{name}` {value} is not possible", f"give a number of {low} or more")
        for name in ("beams", "n"):
            if getattr(self, name) > MOST_SEQUENCES:
                raise UsageError(
                    f"`{name}` {getattr(self, name):,} is more than {MOST_SEQUENCES:,}: they are written side by side",
                    "for more samples, repeat the prompt" if name == "n" else "4 or 8 are usual",
                )
        for name in ("top_p", "min_p", "typical"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"`{name}` {value} is out of range", "it is a probability: 0 < p <= 1")
        if self.typical == 1:
            raise UsageError("`typical` 1 keeps every token", "give a mass below 1, such as 0.95")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UsageError(
                f"`repetition_penalty` {self.repetition_penalty} is not possible",
                "1 is off, 1.1 a mild penalty",
            )
        if not -1 <= self.beta < 100:
            raise UsageError(f"`beta` {self.beta} is out of range", "0.25 is usual; -1 is the least")
        if not isfinite(self.length_penalty):
            raise UsageError(f"`length_penalty` {self.length_penalty} is not possible", "1 ranks by the mean")
        if self.no_repeat_ngram < 0:
            raise UsageError(f"`no_repeat_ngram` {self.no_repeat_ngram} is not possible", "0 is off")
        if "" in self.stop or "" in self.choices:
            name = "`stop`" if "" in self.stop else "`choices`"
            raise UsageError(f"{name} has an empty string", "leave it out, or quote what was meant")

    def _check_temperature(self) -> None:
        if self.temperature is None:
            return
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(
                f"`temperature` {self.temperature} is not possible",
                "0 is greedy, 1 the model's own distribution",
            )
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise UsageError(
                f"`temperature` {self.temperature} is too near to 0: logits divided by it are infinite",
                "0 is greedy",
            )
        if self.temperature == 0 and self.warps:
            raise UsageError(
                f"`temperature` 0 is greedy, and `{next(iter(self.warps))}` is for sampling",
                "leave one of them out; `temperature` 0.7 samples",
            )

    def _check_combinations(self) -> None:
        if self.beams > 1 and self.sampling:
            raise UsageError(
                "`beams` searches for the most probable text, and sampling options draw at random",
                "leave out `beams`, or the sampling options",
            )
        if self.n > 1 and self.beams == 1 and not self.sampling:
            raise UsageError(
                f"`n` {self.n} without sampling would be the same text {self.n} times",
                f"add `temperature` 0.8 (or another sampling option), or `beams` {self.n}",
            )
        if 1 < self.beams < self.n:
            raise UsageError(f"`n` {self.n} is more than `beams` {self.beams}", f"try `beams` {self.n}")
        if self.length_penalty != 1 and self.beams == 1:
            raise UsageError("`length_penalty` ranks beams, and there are none", "add `beams` 4")
        if self.choices:
            self._check_choices()

    def _check_choices(self) -> None:
        if len(set(self.choices)) < max(2, len(self.choices)):
            raise UsageError(
                "`choices` needs two different answers or more", "for example `choices` yes,no,maybe"
            )
        others = {"sampling options": self.sampling, "`beams`": self.beams > 1, "`stop`": bool(self.stop)}
        for name, given in others.items():
            if given:
                raise UsageError(
                    f"`choices` compares given answers, so {name} can't apply", f"leave out {name}"
                )


class DecodingOptions(TypedDict, total=False):
    """The fields of `Decoding`, as keywords of `generate`."""

    max_new_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical: float | None
    repetition_penalty: float
    no_repeat_ngram: int
    beams: int
    length_penalty: float
    n: int
    stop: str | Iterable[str]
    choices: str | Iterable[str]
    beta: float
    logprobs: bool
    seed: int
    batch_size: int | None


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was written.

    Attributes:
        text: Its text; pieces of a character show as U+FFFD.
        logprob: ln p(token | what stands before it) under the model itself, before
            temperature and penalties.
    """

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Continuation:
    """One text written after a prompt.

    Attributes:
        text: The continuation alone.
        finish_reason: `stop`: the model ended it, or a stop string did; `length`: it was cut.
        score: The mean log-probability a token, in nats; None unless asked for.
        tokens: Its tokens; None unless asked for.
    """

    text: str
    finish_reason: FinishReason
    score: float | None = None
    tokens: tuple[Token, ...] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers that were compared.

    Attributes:
        text: The answer.
        score: The sum of its tokens' log-probabilities, in nats.
        probability: softmax of the scores over the answers.
    """

    text: str
    score: float
    probability: float


@dataclass(frozen=True, slots=True)
class Result:
    """What was written for one prompt.

    Attributes:
        outputs: The continuations: one, or `n` (beams best first, samples as drawn).
        choices: The answers compared, in the order given; empty without choices.
    """

    outputs: tuple[Continuation, ...]
    choices: tuple[Choice, ...] = field(default=())

    @property
    def text(self) -> str:
        """The first continuation."""
        return self.outputs[0].text

    def __str__(self) -> str:
        """Return the first continuation."""
        return self.text


def check_side_by_side(decoding: Decoding) -> None:
    """Refuse what several texts side by side don't go with.

    Raises:
        UsageError: For beams, several continuations, choices and log-probabilities.
    """
    for name, given in (
        ("beams", decoding.beams > 1),
        ("n", decoding.n > 1),
        ("choices", bool(decoding.choices)),
        ("logprobs", decoding.logprobs),
    ):
        if given:
            raise UsageError(
                f"`{name}` doesn't go with several contexts side by side", "leave one of them out"
            )
