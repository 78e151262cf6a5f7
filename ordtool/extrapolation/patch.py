"""A method of length extrapolation on a model, for as long as a `with` lasts.

Frequency methods replace the model's rotary module by one with other frequencies;
attention stays the model's own. The others make the model's own rotation do nothing, so
that queries and cached keys stay raw, and put attention by region in the place of its
attention; that rotates them as the method wants, with the model's own rotary module and
the modelling file's own `apply_rotary_pos_emb`.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from ordtool.errors import OrdtoolError, UsageError
from ordtool.extrapolation.blockwise import Rotate, region_attention
from ordtool.extrapolation.flex import FlexRegions, suits
from ordtool.extrapolation.frequencies import own_frequencies
from ordtool.extrapolation.methods import Part
from ordtool.extrapolation.plan import Plan, make_plan
from ordtool.extrapolation.regions import PLAIN
from ordtool.extrapolation.rotary import (
    Rotary,
    check_attention,
    check_frequencies,
    find_rotary,
    model_name,
    trained_length,
)
from ordtool.models.releases import attention_name, name_attention, plain_causal_rule
from ordtool.progress import Progress

NAME = "ordtool_extrapolate"  # of our attention, in transformers' table
_FOREIGN = ("softcap", "s_aux", "position_bias")  # what other attentions add to the scores

_active: WeakKeyDictionary[nn.Module, _RegionAttention] = WeakKeyDictionary()
_busy: WeakSet[nn.Module] = WeakSet()
_checked: WeakSet[nn.Module] = WeakSet()


@contextmanager
def context_extension(
    model: Any,
    method: str = "rerope",
    *,
    train_length: int | None = None,
    length: int | None = None,
    progress: Progress | None = None,
    **parameters: float,
) -> Iterator[Plan]:
    """Let a rotary model read texts longer than those it was trained on.

    Within the `with`, forward passes and `generate` use the method: with a key-value
    cache, with batches and left padding. Leaving it restores the model exactly. For
    inference; gradients are right, but slow.

    Args:
        model: A transformers model with one rotary module, in evaluation mode: Llama,
            Mistral, Qwen2, Qwen3, GPT-NeoX, Phi3, GLM, Cohere and those built like them.
        method: A name of `ordtool.extrapolation.methods.METHODS`, several joined by `+`,
            with parameters if wanted: `rerope:window=128+logn`.
        train_length: The length it was trained at, in tokens; None: its configuration's.
        length: The longest text to come, prompt and new tokens together; frequency
            methods take their factor from it. Without it `dynamic-ntk` follows the text.
        progress: Told of warnings; None: Python's `warnings` are.
        **parameters: Parameters of the methods, such as `window=128`.

    Yields:
        What the method was worked out to.

    Raises:
        UsageError: For unknown methods or parameters.
        OrdtoolError: If the model can't be extrapolated; the message says why.
    """
    known = train_length or trained_length(model.config)
    if known is None:
        raise UsageError(
            f"the configuration of {model_name(model)} doesn't say how long its training texts were",
            "give the trained length",
        )
    plan = make_plan(method, train_length=known, length=length, parameters=parameters)
    _tell(plan.warnings, progress)
    with apply_plan(model, plan, progress):
        yield plan


@contextmanager
def apply_plan(model: Any, plan: Plan, progress: Progress | None = None) -> Iterator[None]:
    """Do what `context_extension` does with a plan that is made already."""
    if plan.does_nothing:
        yield
        return
    if getattr(model, "base_model", model) in _busy:
        raise UsageError(f"{model_name(model)} is being extrapolated already", "leave the outer `with` first")
    _tell(check_plan(model, plan), progress)
    rotary = find_rotary(model)
    _busy.add(rotary.decoder)
    try:
        if plan.needs_attention:
            with _replaced_attention(model, rotary, _RegionAttention(rotary, plan.part, progress)):
                yield
        else:
            with _replaced_rotary(rotary, _changed_module(rotary, plan.part)):
                yield
    finally:
        _busy.discard(rotary.decoder)


def check_plan(model: Any, plan: Plan) -> list[str]:
    """Check that a plan can be applied to a model; the model is left as it is.

    Returns:
        What of the model's own the plan replaces, for a person to know.

    Raises:
        OrdtoolError: As `context_extension` does.
    """
    if plan.does_nothing:
        return []
    rotary = find_rotary(model)
    if plan.part.frequencies is not None or plan.part.grows is not None:
        check_frequencies(model, rotary)
    if plan.part.scale is not None and getattr(rotary.config, "logn", False):
        raise OrdtoolError(
            f"{model_name(model)} scales its scores by the logarithm of the length already",
            "it was trained so; leave out logn",
        )
    if not plan.needs_attention:
        return []
    check_attention(model, rotary)
    _check_by_running(model, rotary)
    _check_pairs(model, rotary, plan.part)
    window = getattr(rotary.config, "sliding_window", None)
    return (
        [f"{model_name(model)} attends within {window:,} tokens; {plan.label} replaces that"]
        if window
        else []
    )


def _tell(messages: Any, progress: Progress | None) -> None:
    for message in messages:
        if progress is not None:
            progress.warn(message)
        else:
            warnings.warn(message, stacklevel=4)


class _Still(nn.Module):
    """Stands for a rotary module and turns nothing: cos is 1, sin is 0."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (*position_ids.shape, self.dim)
        return states.new_ones(shape), states.new_zeros(shape)


class _Rotation:
    """The model's rotation, by positions of our own."""

    def __init__(self, rotary: Rotary, part: Part) -> None:
        self._rotary = rotary
        self._grows = part.grows
        self._chosen = part.columns
        self._columns: dict[int, torch.Tensor] = {}
        self._module: Any = _changed_module(rotary, part)
        self._scaling = float(getattr(self._module, "attention_scaling", 1.0))
        self._scales = self._scaling != 1.0

    def set_length(self, length: int) -> bool:
        """Let the frequencies follow the text's length, if the method wants that.

        Returns:
            Whether they do, and are the model's own at this length.
        """
        if self._grows is None:
            return False
        rule = self._grows(length)
        inv_freq, scaling = rule(self._rotary.config, self._rotary.inv_freq)
        self._module.inv_freq = inv_freq
        self._module.attention_scaling = self._scaling * scaling
        self._scales = self._module.attention_scaling != 1.0
        return rule is own_frequencies

    @property
    def differs_by_head(self) -> bool:
        """Whether heads of a layer are rotated differently, so that none can share a key."""
        return self._chosen is not None and self._chosen.key_pairs is not None

    def in_layer(self, layer: int) -> Rotate:
        """Return the rotation of a layer, by columns of positions too."""
        if self._chosen is None:
            return self._rotate
        if layer not in self._columns:
            columns = self._chosen.of(len(self._rotary.inv_freq), layer)
            pairs, _ = self.pairs()
            self._columns[layer] = columns.to(pairs.device)[:, pairs]
        return partial(self._rotate, columns=self._columns[layer])

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the pair of each coordinate of cos and sin, and of each coordinate of the states that turns, `(dim,)`.

        Families lay pairs out in several ways: one pair is given half a turn, and what changes sign is of it.
        """
        own = self._module.inv_freq
        ones = own.new_ones(1, 1, 1, 2 * len(own))
        of_cos, of_states = (torch.zeros(2 * len(own), dtype=torch.long, device=own.device) for _ in range(2))
        for pair in range(len(own)):
            self._module.inv_freq = torch.zeros_like(own)
            self._module.inv_freq[pair] = math.pi
            cos, sin = self._module(ones, own.new_ones(1, 1))
            of_cos[cos[0, 0] < 0] = pair
            of_states[self._turn(ones, cos, sin)[0, 0, 0] < 0] = pair
        self._module.inv_freq = own
        return of_cos, of_states

    def _rotate(
        self, states: torch.Tensor, positions: torch.Tensor | None, columns: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Rotate `(batch, heads, n, dim)` by `(n,)`; None: by 0, which only scales.

        With `columns`, `(1 or heads, dim)`, positions may be `(n, columns)`, and each coordinate takes its own.
        """
        if positions is None:
            if not self._scales:
                return states
            positions = torch.zeros(1, device=states.device)
        if positions.ndim == 1:
            cos, sin = self._module(states, positions[None])
            return self._turn(states, cos, sin)
        assert columns is not None
        at = torch.arange(len(positions), device=states.device)
        cos, sin = (
            # From (columns, n, dim) to (1 or heads, n, dim).
            one[columns[:, None], at[:, None], torch.arange(one.shape[-1], device=one.device)]
            for one in self._module(states, positions.T)
        )
        # Heads take the place of the batch, for which the function lets cos and sin differ.
        return self._turn(states.transpose(0, 1), cos, sin).transpose(0, 1)

    def _turn(self, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        # Some families cut off the part that isn't rotated in the attention layer, some in the function.
        turning, passing = states.split([cos.shape[-1], states.shape[-1] - cos.shape[-1]], dim=-1)
        # The function rotates a pair; one of what cos holds for many is enough of a companion.
        turned = self._rotary.apply(turning, turning[: len(cos), :1], cos, sin)[0]
        return torch.cat([turned, passing], dim=-1) if passing.shape[-1] else turned


class _RegionAttention:
    """Attention by region for one model."""

    def __init__(self, rotary: Rotary, part: Part, progress: Progress | None = None) -> None:
        self._progress = progress
        self._rotation = _Rotation(rotary, part)
        self._layers: dict[nn.Module, int] = {}
        self._regions = part.regions or PLAIN
        self._scale = part.scale
        self._flex: FlexRegions | None = FlexRegions(self._regions)

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        present: torch.Tensor | None,
        scaling: float,
        module: nn.Module,
    ) -> torch.Tensor:
        """Attend; `present`, `(batch, keys)`, is False where there is padding; `module` is the layer at hand."""
        # The first pass goes through all layers in their order.
        layer = self._layers.setdefault(module, len(self._layers))
        rotate = self._rotation.in_layer(layer)
        if self._rotation.differs_by_head and query.shape[1] != key.shape[1]:
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        attend = partial(self._attend, rotate=rotate, scaling=scaling)
        if present is None:
            return attend(query, key, value)
        output = value.new_zeros(*query.shape[:3], value.shape[3])
        first = key.shape[2] - query.shape[2]
        patterns, pattern_of_row = present.unique(dim=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            rows = (pattern_of_row == number).nonzero().squeeze(-1)
            keys = pattern.nonzero().squeeze(-1)
            queries = keys[keys >= first] - first
            if len(queries):
                # Without its padding a text is a text of its own, with positions from 0.
                attended = attend(
                    _pick(query, rows, queries), _pick(key, rows, keys), _pick(value, rows, keys)
                )
                output[rows[:, None], :, queries] = attended.transpose(1, 2)
        return output

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rotate: Rotate, scaling: float
    ) -> torch.Tensor:
        own = self._rotation.set_length(key.shape[2])
        if own and self._regions is PLAIN and self._scale is None:
            return _attend_as_trained(query, key, value, rotate, scaling)
        if self._flex is not None and suits(query, key, value, self._regions):
            try:
                return self._flex(query, key, value, rotate, scaling=scaling, scale=self._scale)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # compilers raise anything
                self._flex = None
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                _tell(
                    [f"attention by regions can't be compiled here, and is slower without: {reason}"],
                    self._progress,
                )
        return region_attention(query, key, value, self._regions, rotate, scaling=scaling, scale=self._scale)


def _attend_as_trained(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rotate: Rotate, scaling: float
) -> torch.Tensor:
    """Attend as the model itself does, to the last bit: with a mask where a cache is continued by several tokens."""
    count, total = query.shape[2], key.shape[2]
    index = torch.arange(total, device=query.device)
    mask = None if count in (1, total) else index <= index[-count:, None]
    return scaled_dot_product_attention(
        rotate(query, index[-count:]),
        rotate(key, index),
        value,
        attn_mask=mask,
        is_causal=count == total > 1,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


class _Watch(_RegionAttention):
    """The model's own attention, which notes how much each pair of coordinates can bring to the scores."""

    def __init__(self, rotary: Rotary) -> None:
        super().__init__(rotary, Part())
        _, self._pairs = self._rotation.pairs()
        self.products: list[torch.Tensor] = []

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rotate: Rotate, scaling: float
    ) -> torch.Tensor:
        norms = []
        for states in (query, key):
            turning = states[..., : len(self._pairs)].float().square()
            sums = turning.new_zeros(*turning.shape[:-1], len(self._pairs) // 2)
            norms.append(sums.index_add_(-1, self._pairs, turning).sqrt())
        keys = norms[1].repeat_interleave(query.shape[1] // key.shape[1], 1)
        self.products.append((norms[0] * keys).mean((0, 2)))
        return super()._attend(query, key, value, rotate, scaling)


def _pick(states: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Take rows of the first dimension and columns of the third, as a view where they are runs."""
    if len(columns) and int(columns[-1] - columns[0]) == len(columns) - 1:
        states = states[:, :, int(columns[0]) : int(columns[-1]) + 1]
    else:
        states = states[:, :, columns]
    if len(rows) == states.shape[0]:
        return states
    return states[int(rows[0]) : int(rows[0]) + 1] if len(rows) == 1 else states[rows]


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Stand in transformers' table of attentions."""
    attention = _active.get(module)
    if attention is None:
        raise OrdtoolError(
            "a model shares its configuration with one that is being extrapolated",
            "load it with a configuration of its own",
        )
    if foreign := [name for name in _FOREIGN if options.get(name) is not None]:
        raise OrdtoolError(f"{type(module).__name__} adds {foreign[0]} to its scores, which is not supported")
    if attention_mask is not None and attention_mask.ndim != 2:
        raise OrdtoolError(
            "a mask of queries and keys was given, and the method decides which keys are seen",
            "give a padding mask of shape (batch, tokens), or none",
        )
    output = attention(query, key, value, attention_mask, scaling or query.shape[-1] ** -0.5, module)
    return output.transpose(1, 2).contiguous(), None


def _padding(
    *,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor | None:
    """Stand in transformers' table of masks: hand on the padding, `(batch, keys)`, if there is any."""
    if mask_function not in (None, plain_causal_rule()):
        raise OrdtoolError(
            "several texts packed in one row can't be extrapolated", "give a row to each, with left padding"
        )
    if int(kv_offset) or kv_length != int(q_offset) + q_length:
        raise OrdtoolError(
            "a static or sliding cache can't hold raw keys of any length",
            "use the default, transformers' DynamicCache",
        )
    if attention_mask is None:
        return None
    present = nn.functional.pad(attention_mask, (0, max(0, kv_length - attention_mask.shape[1])))[
        :, :kv_length
    ]
    return None if bool(present.all()) else present


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _padding)


def _changed_module(rotary: Rotary, part: Part) -> Any:
    """Copy a rotary module, with a method's frequencies if it has any."""
    module: Any = copy.deepcopy(rotary.module)
    if part.frequencies is not None:
        module.inv_freq, module.attention_scaling = part.frequencies(rotary.config, rotary.inv_freq)
    return module


@contextmanager
def _replaced_rotary(rotary: Rotary, module: nn.Module) -> Iterator[None]:
    decoder: Any = rotary.decoder
    decoder.rotary_emb = module
    try:
        yield
    finally:
        decoder.rotary_emb = rotary.module


@contextmanager
def _replaced_attention(model: nn.Module, rotary: Rotary, attention: _RegionAttention) -> Iterator[None]:
    config = rotary.config
    implementation, window = attention_name(config), getattr(config, "sliding_window", None)
    modules = [model, *model.modules()]
    try:
        _active.update(dict.fromkeys(modules, attention))
        name_attention(config, NAME)
        if window is not None:
            config.sliding_window = None
        with _replaced_rotary(rotary, _Still(2 * len(rotary.inv_freq))):
            yield
    finally:
        name_attention(config, implementation)
        if window is not None:
            config.sliding_window = window
        for module in modules:
            _active.pop(module, None)


@torch.no_grad()
def _check_by_running(model: Any, rotary: Rotary) -> None:
    """Check once a model that plain attention by region gives what its own attention gives.

    This finds what no list of properties does, such as layers that don't rotate.
    """
    if model in _checked:
        return
    device = rotary.inv_freq.device
    vocabulary = model.config.get_text_config().vocab_size
    count = min(11, getattr(rotary.config, "sliding_window", None) or 11)  # within a window of its own
    tokens = (torch.arange(1, count + 1, device=device) * 7 % vocabulary)[None]
    own = _first_output(model(input_ids=tokens, use_cache=False))
    try:
        with _replaced_attention(model, rotary, _RegionAttention(rotary, Part())):
            ours = _first_output(model(input_ids=tokens, use_cache=False))
    except (RuntimeError, TypeError, ValueError) as error:
        raise OrdtoolError(
            f"{model_name(model)}: can't be extrapolated: {' '.join(str(error).split())[:200]}"
        ) from error
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.2
    if not bool((own - ours).abs().max() <= tolerance * own.std()):
        raise OrdtoolError(
            f"{model_name(model)}: can't be extrapolated: its attention is not the one that its parts suggest",
            "frequency methods (ntk, yarn) may work on it",
        )
    _checked.add(model)


def _check_pairs(model: nn.Module, rotary: Rotary, part: Part) -> None:
    """Check that groups and key pairs, which belong to one model, can be this one's."""
    if part.columns is None:
        return
    pairs, heads, layers = (
        len(rotary.inv_freq),
        rotary.config.num_attention_heads,
        rotary.config.num_hidden_layers,
    )
    if part.columns.groups > pairs:
        raise OrdtoolError(
            f"dpe: there are {part.columns.groups} lengths, and the pairs of coordinates that turn are {pairs}",
            f"{model_name(model)} can have one length for each, or for each group of them",
        )
    key_pairs = part.columns.key_pairs
    if key_pairs is not None and not (
        len(key_pairs) == layers
        and all(len(layer) == heads for layer in key_pairs)
        and all(number < pairs for layer in key_pairs for head in layer for number in head)
    ):
        raise OrdtoolError(
            f"dpe: the key pairs are not {model_name(model)}'s",
            f"it has {layers} layers, {heads} heads and {pairs} pairs of coordinates that turn",
        )


@torch.no_grad()
def pair_products(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return |q_m| |k_m| of each pair m of coordinates, the most that it can bring to a score; a mean over the tokens.

    Args:
        model: A transformers model with one rotary module.
        tokens: `(batch, n)`.

    Returns:
        `(layers, heads, pairs)`.

    Raises:
        OrdtoolError: If the model's attention can't be replaced.
    """
    rotary = find_rotary(model)
    check_attention(model, rotary)
    watch = _Watch(rotary)
    with _replaced_attention(model, rotary, watch):
        model(input_ids=tokens, use_cache=False)
    return torch.stack(watch.products)


def _first_output(outputs: Any) -> Any:
    return outputs[0].double()
