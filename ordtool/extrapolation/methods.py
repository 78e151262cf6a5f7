"""The methods: what each changes, its formula, its parameters and where it comes from.

`d = i - j` is the distance of query `i` and key `j`, `L` the trained length, `n` the
length to come, `s = n / L`. A name such as `rerope+logn` combines methods that change
different things; `rerope:window=128` sets a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ordtool.errors import UsageError
from ordtool.extrapolation.frequencies import (
    FrequencyRule,
    longrope_rule,
    ntk_mixed_rule,
    ntk_rule,
    own_frequencies,
    p_rope_rule,
    pi_rule,
    read_factors,
    yarn_rule,
    yarn_turns_rule,
)
from ordtool.extrapolation.pair_groups import read_groups
from ordtool.extrapolation.regions import (
    KeyPairs,
    PairColumns,
    Regions,
    dca_regions,
    dpe_regions,
    lambda_regions,
    leaky_rerope_regions,
    rerope_regions,
    self_extend_regions,
    string_regions,
    window_regions,
)

Changes = Literal["nothing", "mask", "positions", "frequencies", "scale"]
ScaleRule = Callable[[torch.Tensor], torch.Tensor]
"""From the number of tokens that a query sees, itself included, to its factor."""

Value = float | str
Values = Mapping[str, Value]


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
        choices: A word, one of these.
        file: A file's name, which must be given where there is no default.
    """

    name: str
    summary: str
    default: Callable[[Setting], Value | None]
    whole: bool = True
    least: float = 1
    tokens: bool = False
    choices: tuple[str, ...] = ()
    file: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """What a method does: one of three things.

    Attributes:
        regions: Which keys are seen, at which distance.
        columns: Where distances depend on the frequency: which ones are whose.
        frequencies: Other rotary frequencies.
        grows: The frequencies follow the text's length: a rule for each length.
        scale: A factor on each query.
    """

    regions: Regions | None = None
    columns: PairColumns | None = None
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
        dynamic: s is that of the text at hand; within the trained length the model is as it is.
        caution: What it is known to do to models that weren't tuned with it; None: nothing.
    """

    name: str
    changes: Changes
    formula: str
    source: str
    build: Callable[[Setting, Values], Part]
    parameters: tuple[Parameter, ...] = ()
    dynamic: bool = False
    caution: str | None = None

    @property
    def needs_file(self) -> bool:
        """Say whether it can't do without a file of its own."""
        return any(
            parameter.file and parameter.default(Setting(1, 1)) is None for parameter in self.parameters
        )


def _share(share: float) -> Callable[[Setting], float | None]:
    return lambda setting: max(1, round(share * setting.train_length))


def _twice_factor(setting: Setting) -> float | None:
    return None if setting.factor is None else max(2, round(2 * setting.factor))


def _given(value: Value | None) -> Callable[[Setting], Value | None]:
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
_RAMP = Parameter(
    "ramp",
    "between: linear in `dimensions` (as transformers) or in `turns` (as the paper)",
    _given("dimensions"),
    choices=("dimensions", "turns"),
)
_SHIFT = Parameter("shift", "S: further distances are shifted", _share(1 / 3), tokens=True)
_LOCAL = Parameter(
    "window", "W: distances at the shift", lambda s: min(128, max(1, s.train_length // 8)), tokens=True
)
_SHARE = Parameter("share", "p: of the pairs, the fastest, that turn", _given(0.75), whole=False, least=0)
_NEAR = Parameter(
    "window",
    "w: distances below it stay",
    lambda s: min(1024, max(1, s.train_length // 8)),
    tokens=True,
)
_LENGTHS = Parameter(
    "lengths", "a JSON file with an effective length for each group of pairs", _given("L/2"), file=True
)
_FILE = Parameter("factors", "a JSON file with a factor for each frequency", _given(None), file=True)
_EXPONENT = Parameter("exponent", "b: 0 is pi, 1 is ntk-fixed", _given(0.625), whole=False, least=0)


def _yarn_rule(factor: float, train_length: int, values: Values, scaled: bool) -> FrequencyRule:
    rule = yarn_turns_rule if values["ramp"] == "turns" else yarn_rule
    return rule(factor, float(values["turns"]), train_length, scaled)


def _yarn(scaled: bool) -> Callable[[Setting, Values], Part]:
    return lambda setting, v: Part(
        frequencies=_yarn_rule(float(v["factor"]), setting.train_length, v, scaled)
    )


def _ntk(setting: Setting, values: Values) -> Part:
    return Part(frequencies=ntk_rule(float(values["factor"]), setting.train_length))


def _by_length(setting: Setting, rule: Callable[[float], FrequencyRule]) -> Part:
    """Take frequencies by the text's own length over the trained one; within that the model's own."""

    def at(length: int) -> FrequencyRule:
        return rule(length / setting.train_length) if length > setting.train_length else own_frequencies

    return Part(grows=at) if setting.length is None else Part(frequencies=at(setting.length))


def _dynamic_ntk(setting: Setting, values: Values) -> Part:
    return _by_length(setting, lambda factor: ntk_rule(factor, setting.train_length))


def _dynamic_yarn(setting: Setting, values: Values) -> Part:
    return _by_length(setting, lambda factor: _yarn_rule(factor, setting.train_length, values, True))


def _longrope(setting: Setting, values: Values) -> Part:
    short, long = read_factors(str(values["factors"]))
    trained = setting.train_length
    within = own_frequencies if short is None else longrope_rule(short, 1.0, trained)

    def at(length: int) -> FrequencyRule:
        return within if length <= trained else longrope_rule(long, length / trained, trained)

    return Part(grows=at) if setting.length is None else Part(frequencies=at(setting.length))


def _string(setting: Setting, values: Values) -> Part:
    shift, window = int(values["shift"]), int(values["window"])
    if window >= shift:
        raise UsageError(
            f"string: a window of {window} tokens must be smaller than the shift of {shift}",
            "the default shift is a third of the trained length",
        )
    return Part(regions=string_regions(shift, window))


def dpe_part(window: int, reach: float, lengths: Sequence[float], key_pairs: KeyPairs | None = None) -> Part:
    """Return DPE with an effective length for each group of pairs, for texts of `reach` tokens."""
    # Rounded up, so that no group goes beyond its length; less the rounding of floats.
    sizes = [max(1, math.ceil(reach / length - 1e-9)) for length in lengths]
    return Part(regions=dpe_regions(window, sizes), columns=PairColumns(len(sizes), key_pairs))


def _dpe(setting: Setting, values: Values) -> Part:
    lengths: tuple[float, ...] = (setting.train_length / 2,)  # what the paper begins with
    key_pairs = None
    if values["lengths"] != _LENGTHS.default(setting):
        lengths, key_pairs = read_groups(str(values["lengths"]))
    return dpe_part(int(values["window"]), float(values["factor"]) * setting.train_length, lengths, key_pairs)


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
        lambda s, v: Part(frequencies=pi_rule(float(v["factor"]))),
        (_FACTOR,),
        caution="without tuning it slows what tells near tokens apart too, and texts a little too long are hurt most",
    ),
    Method("ntk", "frequencies", "base * s^(D/(D-2))", "bloc97, NTK-aware RoPE, 2023", _ntk, (_FACTOR,)),
    Method(
        "ntk-fixed",
        "frequencies",
        "theta_m = base^(-2(m-1)/D) s^(-2m/D), m = 1 .. D/2",
        f"{_SU}/archives/9675",
        lambda s, v: Part(frequencies=ntk_mixed_rule(float(v["factor"]), 1.0)),
        (_FACTOR,),
    ),
    Method(
        "ntk-mixed",
        "frequencies",
        "theta_m exp(-a m^b), m = 1 .. D/2, a (D/2)^b = ln s",
        f"{_SU}/archives/9706",
        lambda s, v: Part(frequencies=ntk_mixed_rule(float(v["factor"]), float(v["exponent"]))),
        (_FACTOR, _EXPONENT),
    ),
    Method(
        "dynamic-ntk",
        "frequencies",
        "ntk, s from the length at hand",
        "emozilla, Dynamic NTK, 2023",
        _dynamic_ntk,
        dynamic=True,
    ),
    Method(
        "yarn",
        "frequencies",
        "turns r = theta L / 2 pi: r > turns stay, r < 1 divided by s, a ramp between; logits (1 + 0.1 ln s)^2",
        "Peng et al., YaRN, 2023",
        _yarn(True),
        (_FACTOR, _TURNS, _RAMP),
    ),
    Method(
        "dynamic-yarn",
        "frequencies",
        "yarn, s from the length at hand",
        "Peng et al., YaRN, 2023, section 3.3",
        _dynamic_yarn,
        (_TURNS, _RAMP),
        dynamic=True,
    ),
    Method(
        "yarn-unscaled",
        "frequencies",
        "yarn without its factor on the logits",
        "Peng et al., NTK-by-parts, 2023",
        _yarn(False),
        (_FACTOR, _TURNS, _RAMP),
    ),
    Method(
        "longrope",
        "frequencies",
        "theta_m / f_m beyond L, logits 1 + ln s / ln L; factors f searched for a model",
        "Ding et al., LongRoPE, 2024",
        _longrope,
        (_FILE,),
        dynamic=True,
    ),
    Method(
        "p-rope",
        "frequencies",
        "theta_m for m < p D/2, 0 for the slower pairs",
        "Barbero et al., Round and round we go, 2024",
        lambda s, v: Part(frequencies=p_rope_rule(float(v["share"]))),
        (_SHARE,),
        caution="it is for models trained with it; others lose what their slow pairs learned, near and far",
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
        lambda s, v: Part(regions=leaky_rerope_regions(int(v["window"]), float(v["leak"]))),
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
        "string",
        "positions",
        "d below S, then d - S + W",
        "An et al., STRING, 2024",
        _string,
        (_SHIFT, _LOCAL),
    ),
    Method(
        "dca",
        "positions",
        "key j mod S; query i mod S, then min(S + i mod S, c - 1), then c - 1",
        "An et al., Dual Chunk Attention, 2024",
        _dca,
        (_CHUNK, _CONTEXT),
    ),
    Method(
        "dpe",
        "positions",
        "d below w, then floor(i/G) - floor(j/G) + w - floor(w/G), G = s L / e by group of pairs",
        "Lu et al., DPE, 2025",
        _dpe,
        (_NEAR, _FACTOR, _LENGTHS),
    ),
    Method("logn", "scale", "q * max(1, ln n / ln L)", f"{_SU}/archives/8823", _logn),
)

METHODS: dict[str, Method] = {method.name: method for method in _LIST}
"""Every method by its name. A new one is an entry here; nothing else knows the names."""
