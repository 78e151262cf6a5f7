"""The position schemes a model can be trained with: names, parameters, formulas, sources.

`d = i - j` is the distance of query `i` and key `j`, `L` the trained length, `h = 1..H` a
head, `D` the size of a head. What they compute is in `ordtool.lm.positions`; this
module has no heavy imports, so that a mistyped name is answered at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ordtool.errors import UsageError, close_match_hint


@dataclass(frozen=True, slots=True)
class TrainedShape:
    """What the defaults of parameters are worked out from.

    Attributes:
        context: L.
        layers: Blocks of the model.
    """

    context: int
    layers: int


@dataclass(frozen=True, slots=True)
class SchemeParameter:
    """A parameter of a scheme.

    Attributes:
        summary: What it is.
        default: Its default.
        whole: A whole number.
        least: The smallest value allowed.
        most: The largest.
        even: An even number.
    """

    summary: str
    default: Callable[[TrainedShape], float]
    whole: bool = True
    least: float = 1
    most: float = 1e9
    even: bool = False


@dataclass(frozen=True, slots=True)
class Scheme:
    """A position scheme.

    Attributes:
        formula: In the symbols of this module.
        source: Where it comes from.
        parameters: What can be set, by name.
        rotary: Queries and keys are turned, so that heads must have an even size.
    """

    formula: str
    source: str
    parameters: Mapping[str, SchemeParameter]
    rotary: bool = True


def _hwfa_window(shape: TrainedShape) -> float:
    """Return the w with which the windowed layers together reach back 3/4 L: (layers - 1)(w - 1) + 1."""
    windowed = max(shape.layers - 1, 1)
    return max(2, round((0.75 * shape.context - 1) / windowed) + 1)


def _hwfa2_window(shape: TrainedShape) -> float:
    """Return 3 L / layers, at most L/4: the article finds 2 to 4 L / layers best, in 24 layers."""
    return max(2, min(round(3 * shape.context / shape.layers), shape.context // 4))


def _period(shape: TrainedShape) -> float:
    """Return 4 as the paper has it, and less where there are fewer layers."""
    return min(4, max(2, shape.layers))


def _quarter(shape: TrainedShape) -> float:
    return max(1, shape.context // 4)


def _half(shape: TrainedShape) -> float:
    return max(1, shape.context // 2)


_NOTHING: Mapping[str, SchemeParameter] = {}

SCHEMES: dict[str, Scheme] = {
    "rope": Scheme(
        "queries and keys turned by their positions: <R(i) q, R(j) k> = <R(d) q, k>",
        "Su et al., RoFormer, 2021, equation 34",
        _NOTHING,
    ),
    "nope": Scheme("none: the causal mask alone", "Haviv et al., 2022", _NOTHING, rotary=False),
    "alibi": Scheme("score - 2^(-8h/H) d", "Press et al., ALiBi, 2022, section 3", _NOTHING, rotary=False),
    "kerple": Scheme(
        "score - r1 ln(1 + r2 d), r1 and r2 > 0 learned for each head",
        "Chi et al., KERPLE, 2022, logarithmic variant",
        _NOTHING,
        rotary=False,
    ),
    "kerple-power": Scheme(
        "score - r1 d^r2, r1 > 0 and 0 < r2 < 2 learned for each head",
        "Chi et al., KERPLE, 2022, power variant",
        _NOTHING,
        rotary=False,
    ),
    "sandwich": Scheme(
        "score + H/(8h) sum_i cos(d / 10000^(2i/S)), i = 0 .. S/2 - 1",
        "Chi et al., Sandwich, 2023 (Dissecting transformer length extrapolation)",
        {"size": SchemeParameter("S: twice the number of cosines", lambda s: 128, least=2, even=True)},
        rotary=False,
    ),
    "xpos": Scheme(
        "rope, and its m-th pair decays by z_m^(d/B), z_m = (2m/D + g) / (1 + g)",
        "Sun et al., A length-extrapolatable transformer, 2022",
        {
            "base": SchemeParameter("B: tokens a unit of decay", lambda s: 512),
            "gamma": SchemeParameter("g: 0 makes fast pairs see nothing far", lambda s: 0.4, False, 0.01),
        },
    ),
    "keynorm": Scheme(
        "rope, and scores <q, k / |k|> without 1 / sqrt(D)", "Su, kexue.fm/archives/9859", _NOTHING
    ),
    "querynorm": Scheme(
        "rope, and scores <q / |q|, k> without 1 / sqrt(D)", "Su, kexue.fm/archives/9859 (QNA)", _NOTHING
    ),
    "cosine": Scheme(
        "rope, and scores lambda cos(q, k)",
        "Su, kexue.fm/archives/9859 (CosA)",
        {
            "scale": SchemeParameter(
                "lambda: 4 ln(L/2) by default", lambda s: 4 * math.log(max(s.context, 4) / 2), False, 0.01
            )
        },
    ),
    "hwfa": Scheme(
        "rope within d < w in all layers but the last, which sees all, without positions, scores by ln n / ln L",
        "Su, kexue.fm/archives/9603",
        {
            "window": SchemeParameter("w", _hwfa_window, least=2),
            "full": SchemeParameter("layers at the end that see all", lambda s: 1),
        },
    ),
    "hwfa2": Scheme(
        "rope; d < w in all layers but the middle ones, which see all: at d in training, at min(d, v) afterwards",
        "Su, kexue.fm/archives/9731",
        {
            "window": SchemeParameter("w", _hwfa2_window, least=2),
            "middle": SchemeParameter(
                "f: layers that see all, number k f / (f + 1) of k", lambda s: 2 if s.layers >= 6 else 1
            ),
            "rerope": SchemeParameter(
                "v, after training; 0: plain rope, which doesn't read further", _half, least=0
            ),
        },
    ),
    "rnope-swa": Scheme(
        "rope within d < w, but in every k-th layer all keys, without positions",
        "Yang et al., RoPE to NoPE and back again, 2025 (RNoPE-SWA; k = 4)",
        {
            "window": SchemeParameter("w", _half, least=2),
            "period": SchemeParameter("k: one layer of so many sees all", _period, least=2),
        },
    ),
    "rerope": Scheme(
        "rope at min(d, w), in training too",
        "Su, kexue.fm/archives/9948: reads no further, where rope in training and rerope afterwards does",
        {"window": SchemeParameter("w", _half)},
    ),
    "p-rope": Scheme(
        "rope whose slowest pairs don't turn: base^(-2m/D) for m < p D/2, 0 for the others",
        "Barbero et al., Round and round we go, 2024",
        {"share": SchemeParameter("p: of the pairs that turn", lambda s: 0.75, False, 0.01, most=1)},
    ),
    "partial": Scheme(
        "rope on a part of the coordinates: base^(-2m/pD) for m < p D/2, 0 for the others",
        "Black et al., GPT-NeoX-20B, 2022",
        {"share": SchemeParameter("p: of the coordinates that turn", lambda s: 0.25, False, 0.01, most=1)},
    ),
    "random": Scheme(
        "rope at L positions drawn from 0 .. M - 1 and sorted in training, at 0, 1, 2 .. afterwards",
        "Ruoss et al., Randomized positional encodings, 2023",
        {"longest": SchemeParameter("M: positions are drawn below it", lambda s: 8 * s.context, least=2)},
    ),
    "inverse-leaky": Scheme(
        "rope at d for d < w and at w + (d - w) k beyond in training, plain rope afterwards",
        "Su, kexue.fm/archives/9728",
        {
            "window": SchemeParameter("w", _quarter),
            "stretch": SchemeParameter("k: steps of far positions in training", lambda s: 16, False),
        },
    ),
}
"""Every scheme by its name."""

BOTH_WAYS = ("rope", "keynorm", "querynorm", "cosine", "random")
"""Schemes that tell what comes before from what comes after, at any distance: those of an encoder."""

TWO_TABLES = ("hwfa2", "rerope", "inverse-leaky")
"""Schemes with one table of scores for near keys and one for far ones, which talking heads can't mix."""


def parse_scheme(spec: str) -> tuple[str, dict[str, float]]:
    """Read a scheme such as `hwfa:window=64`.

    Args:
        spec: A name of `SCHEMES`, with `:parameter=value` for each parameter to set.

    Returns:
        The name, and the parameters that were given.

    Raises:
        UsageError: For unknown names and values that can't be.
    """
    name, *settings = spec.split(":")
    if name not in SCHEMES:
        raise UsageError(f"unknown positions {name!r}", close_match_hint(name, SCHEMES))
    values: dict[str, float] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"{name}: {setting!r} is no parameter=value", f"for example {_example(name)}")
        try:
            values[key] = float(text)
        except ValueError:
            raise UsageError(
                f"{name}: {key} is {text!r}, no number", f"for example {_example(name)}"
            ) from None
    check_parameters(name, values)
    return name, values


def check_parameters(name: str, values: Mapping[str, float]) -> None:
    """Check parameters against a scheme.

    Raises:
        UsageError: For unknown parameters and values that can't be.
    """
    known = SCHEMES[name].parameters
    for key, value in values.items():
        if key not in known:
            hint = close_match_hint(key, known) if known else f"{name} has none"
            raise UsageError(f"{name}: unknown parameter {key!r}", hint)
        rule = known[key]
        wanted = "a whole number" if rule.whole else "a number"
        if not rule.least <= value <= rule.most or (rule.whole and value != int(value)):
            limit = f"{rule.least:g} or more" if rule.most == 1e9 else f"{rule.least:g} to {rule.most:g}"
            raise UsageError(f"{name}: {key} is {value:g}, and must be {wanted} of {limit}", rule.summary)
        if rule.even and value % 2:
            raise UsageError(f"{name}: {key} is {value:g}, and must be even", rule.summary)


def all_parameters(name: str, values: Mapping[str, float], shape: TrainedShape) -> dict[str, float]:
    """Return every parameter of a scheme: those given, and the defaults of the others."""
    found: dict[str, float] = {}
    for key, rule in SCHEMES[name].parameters.items():
        value = values.get(key, rule.default(shape))
        found[key] = int(value) if rule.whole else float(value)
    return found


def _example(name: str) -> str:
    key, rule = next(iter(SCHEMES[name].parameters.items()), ("", None))
    return name if rule is None else f"{name}:{key}={rule.default(TrainedShape(256, 4)):g}"
