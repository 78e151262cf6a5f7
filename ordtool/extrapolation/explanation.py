"""Why a model can't read further, in figures: turns of its frequencies, what methods do to them, and what a context costs.

A pair of coordinates with frequency theta makes `r = theta L / 2 pi` turns while a distance grows to the trained length L.
A pair that completes a turn has been everywhere on its circle. One that doesn't has seen an arc, and a longer text takes it
where it has never been, unless a method slows it down or makes the distance smaller (Su, kexue.fm/archives/9948).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from ordtool.errors import UsageError
from ordtool.extrapolation.base_bound import least_base
from ordtool.extrapolation.comparison import ExtrapolateConfig, ExtrapolateOptions
from ordtool.extrapolation.plan import Plan, make_plan, parse_tokens
from ordtool.extrapolation.rotary import check_frequencies, find_rotary, trained_length
from ordtool.progress import SILENT, Progress

if TYPE_CHECKING:
    from ordtool.extrapolation.methods import Part
    from ordtool.extrapolation.rotary import Rotary

DEFAULT_LENGTH = "8x"
LONGEST_BOUND = 32768
"""Tokens up to which the least base is looked for: beyond, that takes minutes."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair of coordinates that turns with the distance.

    Attributes:
        number: m, from 0.
        frequency: theta_m, radians a token.
        wavelength: Tokens a turn.
        turns: r_m, while the distance grows to the trained length.
    """

    number: int
    frequency: float
    wavelength: float
    turns: float

    @property
    def complete(self) -> bool:
        """Say whether training took it all the way around."""
        return self.turns >= 1


@dataclass(frozen=True, slots=True)
class Effect:
    """What a method does at the length to come.

    Attributes:
        method: As it was asked for.
        parameters: As taken, in one line.
        furthest: The largest distance of a key that the last token sees, as the method counts it; it may be a fraction.
        keys: How many keys the last token sees.
        slowed: theta_m over the method's frequency, of each pair; infinite where it stops.
        unseen: Numbers of the pairs that go where training never took them.
        scale: Factor on the scores of the last token.
    """

    method: str
    parameters: str
    furthest: float
    keys: int
    slowed: tuple[float, ...]
    unseen: tuple[int, ...]
    scale: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What a context costs a model.

    Attributes:
        cache_bytes_per_token: Keys and values of all layers.
        cache_bytes: At the length to come.
        attention_flops: Of the last token: scores and weighted values, two operations a product.
        other_flops: Of the last token: all products with weights.
    """

    cache_bytes_per_token: int
    cache_bytes: int
    attention_flops: int
    other_flops: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """A model and a length.

    Attributes:
        model: As it was asked for.
        train_length: L, in tokens.
        length: The length to come.
        base: Of its frequencies.
        least_base: That L asks for, see `ordtool.extrapolation.base_bound`; None where there is none up to 1,000 L, or L is
            too long to tell in time.
        least_base_at_length: That the length to come asks for; likewise.
        pairs: Its frequencies, the fastest first.
        effects: Of each method.
        cost: Of the context.
    """

    model: str
    train_length: int
    length: int
    base: float
    least_base: float | None
    least_base_at_length: float | None
    pairs: tuple[Pair, ...]
    effects: tuple[Effect, ...]
    cost: Cost

    @property
    def incomplete(self) -> tuple[int, ...]:
        """Return the numbers of the pairs that never complete a turn in training."""
        return tuple(pair.number for pair in self.pairs if not pair.complete)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of a JSON object; `slowed` and `wavelength` are null where a pair doesn't turn."""
        fields = asdict(self)
        fields["incomplete"] = self.incomplete
        for pair in fields["pairs"]:
            pair["wavelength"] = pair["wavelength"] if math.isfinite(pair["wavelength"]) else None
        for effect in fields["effects"]:
            effect["slowed"] = [value if math.isfinite(value) else None for value in effect["slowed"]]
        return fields


def explain(
    config: ExtrapolateConfig | None = None,
    *,
    progress: Progress = SILENT,
    **options: Unpack[ExtrapolateOptions],
) -> Explanation:
    """Say what a longer text is to a model, and what methods make of it. No text is read.

    Args:
        config: The model, its trained length, the methods, and the longest of the lengths; None is the default.
        progress: Told of what is loaded.
        **options: Fields of `ExtrapolateConfig`, instead of or on top of `config`.

    Returns:
        The figures.

    Raises:
        UsageError: For options that make no sense.
        OrdtoolError: If the model has no rotary positions that can be changed, or a method doesn't fit it.
    """
    from ordtool.models.loading import check_causal, load_config, load_model
    from ordtool.models.resolve import resolve_model

    config = replace(config or ExtrapolateConfig(), **options)
    folder = resolve_model(config.model, progress, kind="causal")
    model_config = load_config(folder)
    check_causal(folder, model_config)
    trained = config.train_length or trained_length(model_config)
    if trained is None:
        raise UsageError(
            f"{folder}: its configuration doesn't say how long its training texts were",
            "say it: `train_length`",
        )
    length = max(parse_tokens(str(length), trained) for length in config.lengths or (DEFAULT_LENGTH,))
    model: Any = load_model(folder, "causal").model
    rotary = find_rotary(model)
    theta = rotary.inv_freq.double().tolist()
    pairs = tuple(
        Pair(number, value, 2 * math.pi / value if value else math.inf, value * trained / (2 * math.pi))
        for number, value in enumerate(theta)
    )
    given = _parameters(config, trained)
    plans = [
        make_plan(spec, train_length=trained, length=length, parameters=given, lenient=True)
        for spec in config.specs()
    ]
    if any(plan.part.frequencies is not None for plan in plans):
        check_frequencies(model, rotary)
    size = 2 * len(theta)
    return Explanation(
        model=config.model,
        train_length=trained,
        length=length,
        base=float(rotary.config.rope_parameters["rope_theta"]),
        least_base=least_base(trained, size, digits=5) if trained <= LONGEST_BOUND else None,
        least_base_at_length=least_base(length, size, digits=5) if length <= LONGEST_BOUND else None,
        pairs=pairs,
        effects=tuple(_effect(plan, rotary, length) for plan in plans),
        cost=_cost(model, length, _width(config, model_config)),
    )


def _parameters(config: ExtrapolateConfig, trained: int) -> dict[str, float]:
    given: dict[str, float] = {}
    if config.window is not None:
        given["window"] = parse_tokens(str(config.window), trained)
    if isinstance(config.factor, int | float):
        given["factor"] = float(config.factor)
    return given


def _width(config: ExtrapolateConfig, model_config: Any) -> int:
    """Return the bytes of a number in the cache: as asked for, else as the checkpoint has it."""
    import torch

    from ordtool.runtime import resolve_device, resolve_dtype

    if config.dtype != "auto":
        return resolve_dtype(config.dtype, resolve_device(config.device)).itemsize
    saved = model_config.get_text_config().dtype
    saved = getattr(torch, saved) if isinstance(saved, str) else saved
    return (saved or torch.float32).itemsize


def _effect(plan: Plan, rotary: Rotary, length: int) -> Effect:
    """Work out what a plan does to the last token of a text."""
    import torch

    from ordtool.extrapolation.regions import PLAIN

    own = rotary.inv_freq.double().cpu()
    frequencies, scaling = own, 1.0
    if plan.part.frequencies is not None:
        changed, scaling = plan.part.frequencies(rotary.config, rotary.inv_freq)
        frequencies = changed.double().cpu()
    last = torch.tensor([length - 1])
    furthest, keys = torch.zeros(len(own), dtype=torch.double), 0  # of each pair
    columns = _columns_far(plan.part, len(own))
    for region in plan.part.regions or PLAIN:
        start, stop = (int(bound) for bound in region.bounds(last))
        if start < stop:
            seen = torch.arange(start, stop)
            at = region.key(seen) if region.key else torch.zeros_like(seen)
            reached = (region.query(last) - at).double().reshape(stop - start, -1).amax(0)
            furthest = torch.maximum(furthest, reached[columns] if len(reached) > 1 else reached)
            keys += stop - start
    scale = scaling**2
    if plan.part.scale is not None:
        scale *= float(plan.part.scale(last + 1))
    arc = own * plan.setting.train_length
    # Who made a whole turn has been everywhere; who didn't should stay within the arc.
    unseen = (arc < 2 * math.pi) & (frequencies * furthest > arc)
    return Effect(
        method=plan.label,
        parameters=plan.describe(),
        furthest=float(furthest.max()),
        keys=keys,
        slowed=tuple(torch.where(own == frequencies, 1.0, own / frequencies).tolist()),
        unseen=tuple(unseen.nonzero().flatten().tolist()),
        scale=scale,
    )


def _columns_far(part: Part, pairs: int) -> Any:
    """Return the column of positions in which each pair gets furthest: the last where a head leaves it as it is."""
    import torch

    if part.columns is None:
        return torch.zeros(pairs, dtype=torch.long)
    layers = range(len(part.columns.key_pairs or (None,)))
    return torch.cat([part.columns.of(pairs, layer) for layer in layers]).amax(0)


def _cost(model: Any, length: int, width: int) -> Cost:
    """Count the bytes of a cache and the operations of one token."""
    config = model.config.get_text_config()
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_size, value_size = (
        getattr(config, "key_size", None) or size,
        getattr(config, "value_size", None) or size,
    )
    per_token = layers * groups * (key_size + value_size) * width
    weights = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name and p.ndim > 1)
    if model.get_output_embeddings() is not None and config.tie_word_embeddings:
        weights += model.get_output_embeddings().weight.numel()
    return Cost(
        cache_bytes_per_token=per_token,
        cache_bytes=per_token * length,
        attention_flops=2 * layers * heads * (key_size + value_size) * length,
        other_flops=2 * weights,
    )


def lines_of(explanation: Explanation) -> Sequence[str]:
    """Say in sentences what the figures mean."""
    found, pairs = explanation, explanation.pairs
    incomplete = found.incomplete
    lines = [
        f"trained length {found.train_length:,} tokens, length to come {found.length:,}; base {found.base:,.0f}, "
        f"{len(pairs)} frequencies"
    ]
    if incomplete:
        lines.append(
            f"{len(incomplete)} of {len(pairs)} pairs never complete a turn in training (from number {incomplete[0]} on): "
            "further away they are where they have never been"
        )
    else:
        lines.append("all pairs complete a turn in training")
    for length, bound in (
        (found.train_length, found.least_base),
        (found.length, found.least_base_at_length),
    ):
        if bound is not None:
            enough = "enough" if found.base >= bound else "too small"
            lines.append(
                f"{length:,} tokens ask for a base of {bound:,.0f} or more: {found.base:,.0f} is {enough}"
            )
    cost = found.cost
    share = cost.attention_flops / (cost.attention_flops + cost.other_flops)
    lines.append(
        f"cache: {cost.cache_bytes_per_token:,} bytes a token, {cost.cache_bytes / 1e6:,.1f} MB at {found.length:,} tokens"
    )
    lines.append(
        f"attention of one token at {found.length:,} tokens: {cost.attention_flops / 1e6:,.1f} million operations, beside "
        f"{cost.other_flops / 1e6:,.1f} million for the weights ({100 * share:.0f}% of all)"
    )
    return lines
