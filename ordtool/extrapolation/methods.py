"""The methods: what each changes, its formula, its parameters and where it comes from.

`d = i - j` is the distance of query `i` and key `j`, `L` the trained length, `n` the
length to come, `s = n / L`. A name such as `rerope+logn` combines methods that change
different things; `rerope:window=128` sets a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from ordtool.errors import UsageError
from ordtool.extrapolation.frequencies import FrequencyRule, ntk_mixed_rule, ntk_rule, pi_rule, yarn_rule
from ordtool.extrapolation.regions import (
    Regions,
    dca_regions,
    lambda_regions,
    leaky_rerope_regions,
    rerope_regions,
    self_extend_regions,
    window_regions,
)

Changes = Literal["nothing", "mask", "positions", "frequencies", "scale"]
ScaleRule = Callable[[torch.Tensor], torch.Tensor]
"""From the number of tokens that a query sees, itself included, to its factor."""

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Setting:
    """What defaults are worked out from.

    Attributes:
        train_length: L.
        length: The length to come; None: not known.
    """

    train_length: int
    length: int | None = None

    @property
    def factor(self) -> float | None:
        """Return s, at least 1; None where the length is not known."""
        return None if self.length is None else max(1.0, self.length / self.train_length)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a method.

    Attributes:
        name: As it is spelled in `method:name=value`.
        summary: What it is.
        default: Its default; None where it can't be known without the length.
        whole: A whole number.
        least: The smallest value allowed.
        tokens: Counted in tokens, so that `0.25x` means a quarter of the trained length.
    """

    name: str
    summary: str
    default: Callable[[Setting], float | None]
    whole: bool = True
    least: float = 1
    tokens: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """What a method does: one of three things.

    Attributes:
        regions: Which keys are seen, at which distance.
        frequencies: Other rotary frequencies.
        grows: The frequencies follow the text's length: a rule for each length.
        scale: A factor on each query.
    """

    regions: Regions | None = None
    frequencies: FrequencyRule | None = None
    grows: Callable[[int], FrequencyRule] | None = None
    scale: ScaleRule | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """A method of length extrapolation.

    Attributes:
        name: Its name.
        changes: What it touches; two methods that touch the same can't be combined.
        formula: In the symbols of this module.
        source: Where it comes from.
        parameters: What can be set.
        build: From a setting and the parameters' values to what is done.
    """

    name: str
    changes: Changes
    formula: str
    source: str
    build: Callable[[Setting, Values], Part]
    parameters: tuple[Parameter, ...] = ()


def _share(share: float) -> Callable[[Setting], float | None]:
    return lambda setting: max(1, round(share * setting.train_length))


def _twice_factor(setting: Setting) -> float | None:
    return None if setting.factor is None else max(2, round(2 * setting.factor))


def _given(value: float) -> Callable[[Setting], float | None]:
    return lambda setting: value


def _window(share: float) -> Parameter:
    return Parameter("window", "w: distances below it stay", _share(share), tokens=True)


_FACTOR = Parameter("factor", "s: how much longer texts get", lambda s: s.factor, whole=False)
_SINKS = Parameter("sinks", "first keys that stay in sight", _given(4))
_LEAK = Parameter("leak", "k: by which further distances shrink", _twice_factor, whole=False)
_GROUP = Parameter("group", "G: far positions that count as one", _twice_factor)
_CHUNK = Parameter("chunk", "S: tokens a chunk", _share(3 / 4), tokens=True)
_CONTEXT = Parameter("context", "c: distances end below it", _share(1), least=2, tokens=True)
_TURNS = Parameter("turns", "faster dimensions stay", _given(32.0), whole=False, least=1.0)
_EXPONENT = Parameter("exponent", "b: 0 is pi, 1 is ntk-fixed", _given(0.625), whole=False, least=0)


def _yarn(scaled: bool) -> Callable[[Setting, Values], Part]:
    return lambda setting, v: Part(
        frequencies=yarn_rule(v["factor"], v["turns"], setting.train_length, scaled)
    )


def _ntk(setting: Setting, values: Values) -> Part:
    return Part(frequencies=ntk_rule(values["factor"], setting.train_length))


def _dynamic_ntk(setting: Setting, values: Values) -> Part:
    def at(length: int) -> FrequencyRule:
        return ntk_rule(max(1.0, length / setting.train_length), setting.train_length)

    return Part(grows=at) if setting.length is None else Part(frequencies=at(setting.length))


def _logn(setting: Setting, values: Values) -> Part:
    trained = math.log(setting.train_length)
    return Part(scale=lambda seen: (seen.double().log() / trained).clamp(min=1.0))


def _dca(setting: Setting, values: Values) -> Part:
    chunk, context = int(values["chunk"]), int(values["context"])
    if chunk >= context:
        raise UsageError(
            f"dca: a chunk of {chunk} tokens must be smaller than the context of {context}",
            "the default is three quarters of it",
        )
    return Part(regions=dca_regions(chunk, context))


_SU = "Su, kexue.fm"
_LIST: tuple[Method, ...] = (
    Method("none", "nothing", "d", "Su et al., RoFormer, 2021", lambda s, v: Part()),
    Method(
        "window",
        "mask",
        "keys d < w only",
        "Beltagy et al., Longformer, 2020",
        lambda s, v: Part(regions=window_regions(int(v["window"]))),
        (_window(1.0),),
    ),
    Method(
        "lambda",
        "mask",
        "keys d < w, and the first few at distance w",
        "Han et al., LM-Infinite, 2023; Xiao et al., StreamingLLM, 2023",
        lambda s, v: Part(regions=lambda_regions(int(v["window"]), int(v["sinks"]))),
        (_window(0.75), _SINKS),
    ),
    Method(
        "pi",
        "frequencies",
        "theta / s",
        "Chen et al., Position Interpolation, 2023",
        lambda s, v: Part(frequencies=pi_rule(v["factor"])),
        (_FACTOR,),
    ),
    Method("ntk", "frequencies", "base * s^(D/(D-2))", "bloc97, NTK-aware RoPE, 2023", _ntk, (_FACTOR,)),
    Method(
        "ntk-fixed",
        "frequencies",
        "theta_m = base^(-2(m-1)/D) s^(-2m/D), m = 1 .. D/2",
        f"{_SU}/archives/9675",
        lambda s, v: Part(frequencies=ntk_mixed_rule(v["factor"], 1.0)),
        (_FACTOR,),
    ),
    Method(
        "ntk-mixed",
        "frequencies",
        "theta_m exp(-a m^b), m = 1 .. D/2, a (D/2)^b = ln s",
        f"{_SU}/archives/9706",
        lambda s, v: Part(frequencies=ntk_mixed_rule(v["factor"], v["exponent"])),
        (_FACTOR, _EXPONENT),
    ),
    Method(
        "dynamic-ntk",
        "frequencies",
        "ntk, s from the length at hand",
        "emozilla, Dynamic NTK, 2023",
        _dynamic_ntk,
    ),
    Method(
        "yarn",
        "frequencies",
        "turns r = theta L / 2 pi: r > turns stay, r < 1 divided by s, a ramp between; logits (1 + 0.1 ln s)^2",
        "Peng et al., YaRN, 2023",
        _yarn(True),
        (_FACTOR, _TURNS),
    ),
    Method(
        "yarn-unscaled",
        "frequencies",
        "yarn without its factor on the logits",
        "Peng et al., NTK-by-parts, 2023",
        _yarn(False),
        (_FACTOR, _TURNS),
    ),
    Method(
        "rerope",
        "positions",
        "min(d, w)",
        f"{_SU}/archives/9708",
        lambda s, v: Part(regions=rerope_regions(int(v["window"]))),
        (_window(0.25),),
    ),
    Method(
        "leaky-rerope",
        "positions",
        "d below w, then w + (d - w) / k",
        f"{_SU}/archives/9708",
        lambda s, v: Part(regions=leaky_rerope_regions(int(v["window"]), v["leak"])),
        (_window(0.25), _LEAK),
    ),
    Method(
        "self-extend",
        "positions",
        "d below w, then floor(i/G) - floor(j/G) + w - floor(w/G)",
        "Jin et al., LLM Maybe LongLM, 2024",
        lambda s, v: Part(regions=self_extend_regions(int(v["window"]), int(v["group"]))),
        (_window(0.5), _GROUP),
    ),
    Method(
        "dca",
        "positions",
        "key j mod S; query i mod S, then min(S + i mod S, c - 1), then c - 1",
        "An et al., Dual Chunk Attention, 2024",
        _dca,
        (_CHUNK, _CONTEXT),
    ),
    Method("logn", "scale", "q * max(1, ln n / ln L)", f"{_SU}/archives/8823", _logn),
)

METHODS: dict[str, Method] = {method.name: method for method in _LIST}
"""Every method by its name. A new one is an entry here; nothing else knows the names."""
