"""A method of length extrapolation on a model, for as long as a `with` lasts.

Frequency methods replace the model's rotary module by one with other frequencies;
attention stays the model's own. The others make the model's own rotation do nothing, so
that queries and cached keys stay raw, and put attention by region in the place of its
attention; that rotates them as the method wants, with the model's own rotary module and
the modelling file's own `apply_rotary_pos_emb`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from ordtool.errors import OrdtoolError, UsageError
from ordtool.extrapolation.blockwise import region_attention
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
            with _replaced_attention(model, rotary, plan.part, progress):
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

    def __call__(self, states: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        """Rotate `(batch, heads, n, dim)` by `(n,)`; None: by 0, which only scales."""
        if positions is None:
            if not self._scales:
                return states
            positions = torch.zeros(1, device=states.device)
        cos, sin = self._module(states, positions[None])
        # Some families cut off the part that isn't rotated in the attention layer, some in the function.
        turning, passing = states.split([cos.shape[-1], states.shape[-1] - cos.shape[-1]], dim=-1)
        # The function rotates a pair; one head is enough of a companion.
        turned = self._rotary.apply(turning, turning[:1, :1], cos, sin)[0]
        return torch.cat([turned, passing], dim=-1) if passing.shape[-1] else turned


class _RegionAttention:
    """Attention by region for one model."""

    def __init__(self, rotary: Rotary, part: Part, progress: Progress | None = None) -> None:
        self._progress = progress
        self._rotate = _Rotation(rotary, part)
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
    ) -> torch.Tensor:
        """Attend; `present`, `(batch, keys)`, is False where there is padding."""
        if present is None:
            return self._attend(query, key, value, scaling)
        output = value.new_zeros(*query.shape[:3], value.shape[3])
        first = key.shape[2] - query.shape[2]
        patterns, pattern_of_row = present.unique(dim=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            rows = (pattern_of_row == number).nonzero().squeeze(-1)
            keys = pattern.nonzero().squeeze(-1)
            queries = keys[keys >= first] - first
            if len(queries):
                # Without its padding a text is a text of its own, with positions from 0.
                attended = self._attend(
                    _pick(query, rows, queries), _pick(key, rows, keys), _pick(value, rows, keys), scaling
                )
                output[rows[:, None], :, queries] = attended.transpose(1, 2)
        return output

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        own = self._rotate.set_length(key.shape[2])
        if own and self._regions is PLAIN and self._scale is None:
            return self._attend_as_trained(query, key, value, scaling)
        if self._flex is not None and suits(query, key, value, self._regions):
            try:
                return self._flex(query, key, value, self._rotate, scaling=scaling, scale=self._scale)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # compilers raise anything
                self._flex = None
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                _tell(
                    [f"attention by regions can't be compiled here, and is slower without: {reason}"],
                    self._progress,
                )
        return region_attention(
            query, key, value, self._regions, self._rotate, scaling=scaling, scale=self._scale
        )

    def _attend_as_trained(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Attend as the model itself does, to the last bit: with a mask where a cache is continued by several tokens."""
        count, total = query.shape[2], key.shape[2]
        index = torch.arange(total, device=query.device)
        mask = None if count in (1, total) else index <= index[-count:, None]
        return scaled_dot_product_attention(
            self._rotate(query, index[-count:]),
            self._rotate(key, index),
            value,
            attn_mask=mask,
            is_causal=count == total > 1,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )


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
    output = attention(query, key, value, attention_mask, scaling or query.shape[-1] ** -0.5)
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
def _replaced_attention(
    model: nn.Module, rotary: Rotary, part: Part, progress: Progress | None = None
) -> Iterator[None]:
    config = rotary.config
    attention = _RegionAttention(rotary, part, progress)
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
        with _replaced_attention(model, rotary, Part()):
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


def _first_output(outputs: Any) -> Any:
    return outputs[0].double()
