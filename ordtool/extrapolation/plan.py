"""From a name such as `rerope:window=128+logn` to what is done for a length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ordtool.errors import UsageError, close_match_hint
from ordtool.extrapolation.methods import METHODS, Method, Parameter, Part, Setting, Value, Values


@dataclass(frozen=True, slots=True)
class Plan:
    """Methods worked out for a trained length and a length to come.

    Attributes:
        label: As it was asked for.
        part: What is done.
        values: The parameters of each method, defaults included.
        setting: What they were worked out from.
        warnings: What a person should know before trusting the result.
    """

    label: str
    part: Part
    values: dict[str, dict[str, Value]]
    setting: Setting
    warnings: tuple[str, ...] = field(default=())

    @property
    def does_nothing(self) -> bool:
        """Whether the model is left as it is."""
        return self.part == Part()

    @property
    def needs_attention(self) -> bool:
        """Whether attention itself changes, not only the frequencies."""
        part = self.part
        return part.regions is not None or part.scale is not None or part.grows is not None

    def describe(self) -> str:
        """Return the parameters in one line, such as `rerope: window 128`."""
        return "; ".join(
            f"{name}: " + ", ".join(f"{key} {_text(value)}" for key, value in values.items())
            for name, values in self.values.items()
            if values
        )


def make_plan(
    spec: str,
    *,
    train_length: int,
    length: int | None = None,
    parameters: Mapping[str, float] | None = None,
    lenient: bool = False,
) -> Plan:
    """Work out what `spec` means for a trained length and a length to come.

    Args:
        spec: Names joined by `+`, each with parameters if wanted:
            `rerope:window=128+logn`. Token counts may be written `0.25x`, a share of L.
        train_length: L, in tokens.
        length: The length to come, from which factors follow; None: not known.
        parameters: Parameters for every method named that takes them; what `spec`
            says goes first.
        lenient: Pass over `parameters` that no method takes.

    Returns:
        The plan.

    Raises:
        UsageError: For unknown methods or parameters, values that make no sense,
            methods that change the same thing, or a factor that can't be known
            without the length.
    """
    setting, shared = Setting(train_length, length), dict(parameters or {})
    values: dict[str, dict[str, Value]] = {}
    parts: dict[str, Part] = {}
    taken: dict[str, str] = {}
    for name, given in parse_spec(spec):
        method = METHODS[name]
        if (other := taken.get(_touched(method))) is not None:
            raise UsageError(
                f"{spec}: {other} and {name} both change the {method.changes}",
                "combine methods that change different things, such as rerope+logn or ntk-mixed+logn",
            )
        taken[_touched(method)] = name
        values[name] = _resolve(method, setting, given, shared)
        parts[name] = method.build(setting, values[name])
    used = {parameter.name for name in values for parameter in METHODS[name].parameters}
    if not lenient and (unused := sorted(set(shared) - used)):
        raise UsageError(
            f"{spec} takes no {unused[0]!r}", close_match_hint(unused[0], used) if used else None
        )
    return Plan(spec, _join(parts), values, setting, tuple(_warnings(values, train_length)))


def parse_spec(spec: str) -> list[tuple[str, dict[str, str]]]:
    """Split `rerope:window=128+logn` into names and what is set of each.

    Raises:
        UsageError: For unknown names and malformed parameters.
    """
    parsed = []
    for piece in spec.split("+"):
        name, *settings = (part.strip() for part in piece.split(":"))
        if name not in METHODS:
            raise UsageError(f"unknown method {name!r}", close_match_hint(name, METHODS))
        given = {}
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not equals or not value:
                raise UsageError(
                    f"{piece}: expected parameter=value, found {setting!r}", f"{name}:window=128"
                )
            given[key.strip()] = value.strip()
        parsed.append((name, given))
    return parsed


def parse_tokens(text: str, train_length: int) -> int:
    """Read a number of tokens: `512`, `4k`, or `2x`, times the trained length.

    Raises:
        UsageError: If it is none of these, or below 1.
    """
    unit = {"x": train_length, "k": 1024}.get(text[-1:].lower())
    try:
        number = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        number = math.nan
    if not number >= 1 or number != number // 1 and not unit or math.isinf(number):
        raise UsageError(
            f"{text!r} is no number of tokens", "for example 512, 4k (4,096) or 2x (twice the trained length)"
        )
    return round(number)


def _touched(method: Method) -> str:
    """Masks and positions are both regions, so they exclude each other."""
    return "positions" if method.changes == "mask" else method.changes


def _resolve(
    method: Method, setting: Setting, given: Mapping[str, str], shared: Mapping[str, float]
) -> dict[str, Value]:
    known = {parameter.name for parameter in method.parameters}
    if wrong := sorted(set(given) - known):
        hint = close_match_hint(wrong[0], known) if known else f"{method.name} has no parameters"
        raise UsageError(f"{method.name} takes no parameter {wrong[0]!r}", hint)
    values: dict[str, Value] = {}
    for parameter in method.parameters:
        if parameter.name in given:
            value: Value | None = _read(method, parameter, given[parameter.name], setting)
        else:
            value = shared.get(parameter.name, parameter.default(setting))
        if value is None and parameter.file:
            raise UsageError(
                f"{method.name} needs {parameter.summary}", f"{method.name}:{parameter.name}=FILE"
            )
        if value is None:
            raise UsageError(
                f"{method.name} must know how long the text will be, to set its {parameter.name}",
                f"give length=, or {parameter.name}= itself",
            )
        values[parameter.name] = _checked(method, parameter, value)
    return values


def _text(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _read(method: Method, parameter: Parameter, text: str, setting: Setting) -> Value:
    if parameter.file or parameter.choices:
        return text
    if parameter.tokens:
        return parse_tokens(text, setting.train_length)
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{method.name}: {parameter.name}={text} is no number") from None


def _checked(method: Method, parameter: Parameter, value: Value) -> Value:
    if isinstance(value, str):
        if parameter.choices and value not in parameter.choices:
            raise UsageError(
                f"{method.name}: unknown {parameter.name} {value!r}",
                close_match_hint(value, parameter.choices),
            )
        return value
    what = f"{method.name}: {parameter.name} {value:g}"
    if not math.isfinite(value) or value < parameter.least:
        raise UsageError(f"{what} must be at least {parameter.least:g}", parameter.summary)
    if parameter.whole and value != int(value):
        raise UsageError(f"{what} must be a whole number", parameter.summary)
    return int(value) if parameter.whole else float(value)


def _join(parts: Mapping[str, Part]) -> Part:
    joined = Part()
    for part in parts.values():
        joined = Part(
            joined.regions or part.regions,
            joined.columns or part.columns,
            joined.frequencies or part.frequencies,
            joined.grows or part.grows,
            joined.scale or part.scale,
        )
    return joined


def _warnings(values: Mapping[str, Values], train_length: int) -> list[str]:
    warnings = []
    for name, given in values.items():
        window = float(given.get("window", given.get("context", 0)))
        seldom = METHODS[name].changes == "positions" and name not in ("dca", "string")
        # Slower frequencies bring distances of s times the trained length within it.
        reached = (
            float(values.get("yarn", {}).get("factor", 1)) * train_length if name == "dca" else train_length
        )
        if window > reached or (seldom and window == train_length):
            better = "a quarter to a half of it does best" if seldom else "take it or less"
            warnings.append(
                f"{name}: a window of {window:g} is not below the trained length of {train_length}: "
                f"distances near it were hardly seen in training, and the model fails there; {better}"
                if seldom
                else f"{name}: a window of {window:g} is over the trained length of {train_length}: "
                f"further distances were never seen in training, and the model fails there; {better}"
            )
    return warnings
