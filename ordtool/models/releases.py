"""What differs between releases of the libraries, in one place.

transformers gives models their cache of keys and values under a name that has changed: `past_key_values` up to 5.23,
`cache` from 5.24. What a release calls it is read off its own output classes, not off its number. A model that lets
unknown arguments pass would write wrong text, without a word, where that name changes again; so a cache under any other
name, and a step of `generate` that leans on a cache which isn't there, are errors.

Names that libraries don't document are used here alone, each where there is no public way. docs/architecture.md lists
them; tests/models/test_releases.py says which of them broke.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ordtool.errors import OrdtoolError

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torch", "transformers")
"""What models run on."""
CACHE_NAMES = ("cache", "past_key_values")
"""What releases of transformers call the cache, the newest name first."""


@functools.cache
def cache_name() -> str:
    """Return the name under which the installed transformers takes and gives a model's cache.

    Raises:
        OrdtoolError: If it has none of the known ones.
    """
    from transformers.modeling_outputs import CausalLMOutputWithPast

    found = {field.name for field in fields(CausalLMOutputWithPast)}
    for name in CACHE_NAMES:
        if name in found:
            return name
    raise _unknown("its outputs hold the cache under none of " + ", ".join(CACHE_NAMES))


def cache_argument(cache: Any) -> dict[str, Any]:
    """Name a cache as the installed transformers does: an argument of its models, and a field of its outputs."""
    return {cache_name(): cache}


def cache_of(output: Any) -> Any:
    """Take the cache out of a model's output; None where there is none."""
    return getattr(output, cache_name(), None)


def takes_cache(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Let a model's `forward(..., cache=None)` be called with the cache under any name that a release gives it.

    Args:
        forward: The method. It ignores arguments that it doesn't know, and gives an output with the cache.

    Raises:
        OrdtoolError: When called: if a cache comes under a name that isn't known, or if the one that is given back
            holds no more tokens than before.
    """

    @functools.wraps(forward)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        newest, *older = CACHE_NAMES
        for name in older:
            if name in kwargs and kwargs.get(newest) is None:
                kwargs[newest] = kwargs.pop(name)
        for name, value in kwargs.items():
            if name != newest and hasattr(value, "get_seq_length"):
                raise _unknown(f"{type(self).__name__} is given it as {name!r}")
        before = _held(kwargs.get(newest))
        output = forward(self, *args, **kwargs)
        cache = cache_of(output)
        if cache is not None and _held(cache) <= before:
            raise _unknown(f"{type(self).__name__} has read on, and it still holds {before} tokens")
        return output

    return call


def _held(cache: Any) -> int:
    """Count the tokens in a cache; of one that has another beside it, `side`, those in both."""
    if cache is None:
        return 0
    parts = (cache, getattr(cache, "side", None))
    return min(int(part.get_seq_length()) for part in parts if part is not None)


class CheckedCache:
    """Stands before `GenerationMixin`: holds every step of `generate` to the cache that it leans on.

    From the second step on a model is given the new tokens alone. Where what came before isn't in the cache, the text
    would be of those tokens alone, and look like text.
    """

    def prepare_inputs_for_generation(self, input_ids: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Prepare a step as transformers does.

        Args:
            input_ids: All tokens so far, `(batch, seq)`.
            *args: Left to transformers.
            **kwargs: Left to transformers.

        Raises:
            OrdtoolError: If earlier tokens are left out and the cache doesn't hold them.
        """
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, *args, **kwargs
        )
        given = inputs.get("decoder_input_ids")
        given = inputs.get("input_ids") if given is None else given
        if given is None:  # embeddings, in the first step alone
            return inputs
        held = _held(inputs.get(cache_name()))
        if held + given.shape[1] < input_ids.shape[1]:
            raise _unknown(
                f"of {input_ids.shape[1]} tokens {type(self).__name__} is given {given.shape[1]}, "
                f"and its cache holds {held}"
            )
        return inputs


def _unknown(what: str) -> OrdtoolError:
    import transformers

    return OrdtoolError(
        f"transformers {transformers.__version__} handles a model's cache in a way that isn't known here: {what}",
        "install a release that ordtool was tested with: pip install -U ordtool",
    )


def attention_name(config: Any) -> str | None:
    """Return the name of a model's attention (`sdpa`, `eager`, ...), which its configuration holds once it is built."""
    name: str | None = config._attn_implementation
    return name


def name_attention(config: Any, name: str | None) -> None:
    """Set that name as it is, without the checks of `set_attn_implementation`, which loads kernels for some names."""
    config._attn_implementation = name


def attention_can_be_replaced(model: Any) -> bool:
    """Whether a model looks its attention up in transformers' table."""
    return bool(getattr(model, "_supports_attention_backend", False))


def attention_function(name: str) -> Callable[..., Any]:
    """Take an attention out of transformers' table.

    Raises:
        KeyError: If there is none of this name.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    function: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[name]
    return function


def causal_mask(config: Any, embeddings: Any, mask: Any, cache: Any, position_ids: Any) -> Any:
    """Make a causal mask as the attention that a configuration names wants it.

    Args:
        config: Of the model.
        embeddings: `(batch, seq, hidden)`.
        mask: `(batch, cached + seq)`, 0 for padding; or None.
        cache: What was read before; or None.
        position_ids: `(batch, seq)`.
    """
    from transformers.masking_utils import create_causal_mask

    return create_causal_mask(config, embeddings, mask, cache, position_ids)


def plain_causal_rule() -> Callable[..., Any]:
    """Return the rule that transformers hands to a mask function where every token sees its past and nothing is packed."""
    from transformers.masking_utils import causal_mask_function

    rule: Callable[..., Any] = causal_mask_function
    return rule


def rotation_of(decoder: Any) -> Callable[..., Any] | None:
    """Return the function by which a decoder's modelling file rotates queries and keys; None if it has none."""
    return getattr(sys.modules[type(decoder).__module__], "apply_rotary_pos_emb", None)


def rope_frequencies(
    rope_type: str, config: Any, device: Any, length: float | None
) -> tuple[torch.Tensor, float]:
    """Return the frequencies of one of transformers' rope types, and the factor on cosines and sines.

    Args:
        rope_type: `yarn`, `dynamic`, ...
        config: With the type's `rope_parameters`.
        device: Where to compute.
        length: Of the text, for types that follow it.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    found, scaling = ROPE_INIT_FUNCTIONS[rope_type](config, device, seq_len=length)
    return found, float(scaling)


def activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Give an activation by the name that configurations have for it (`hidden_act`)."""
    from transformers.activations import ACT2FN

    function: Callable[[torch.Tensor], torch.Tensor] = ACT2FN[name]
    return function


def fill(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Give a parameter or buffer its first values, unless a checkpoint has filled it."""
    from transformers import initialization

    initialization.copy_(tensor, values)


def one_device_a_process(arguments: Any) -> None:
    """Keep a Trainer from sharing a batch between the GPUs of a machine; there is no argument for it."""
    arguments._n_gpu = min(arguments.n_gpu, 1)


def dequantized() -> dict[str, Any]:
    """Return the options with which a GGUF file is loaded as plain weights.

    Later releases of transformers keep the quantised ones unless told; earlier ones (5.9 was one) always unpack them.
    """
    import transformers

    kind = getattr(transformers, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def has_onednn_linear() -> bool:
    """Whether this torch can lay weights out for oneDNN; torch.compile uses the same operators."""
    import torch

    operators = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(operators, "_linear_pointwise")
        and hasattr(operators, "_reorder_linear_weight")
    )


def onednn_linear(
    weight: torch.Tensor, bias: torch.Tensor, tokens: int, after: str = "none", algorithm: str = ""
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Lay a weight out for oneDNN, and give the product with it.

    Args:
        weight: `(out, in)`.
        bias: `(out,)`.
        tokens: How many rows a product usually has.
        after: oneDNN's name of an activation inside of the product.
        algorithm: Which of its kinds.
    """
    import torch

    operators = torch.ops.mkldnn
    laid_out = operators._reorder_linear_weight(weight, tokens)

    def apply(states: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = operators._linear_pointwise(states, laid_out, bias, after, [], algorithm)
        return out

    return apply


def has_attention_with_lse() -> bool:
    """Whether this torch's attention for CPUs gives the log-sum-exp of its scores too."""
    import torch

    return hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")


def attention_with_lse(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend on a CPU; the output, and the log-sum-exp of the scores `(batch, heads, queries)`.

    Args:
        query: `(batch, heads, queries, dim)`.
        key: `(batch, key_heads, keys, dim)`.
        value: `(batch, key_heads, keys, dim)`.
        bias: Added to the scores; None: nothing is.
        scaling: On the scores.
    """
    import torch

    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, False, attn_mask=bias, scale=scaling
    )
    return output, lse


def import_without_packages(name: str, packages: Sequence[str]) -> ModuleType:
    """Import a module without running the packages above it, which would import much that it doesn't need.

    They are entered unexecuted for the time of the import and taken out again, so that a later import of them is a
    full one. Where that can't be, or they are imported already, it is a plain import.

    Args:
        name: The module, such as `nltk.tokenize.destructive`.
        packages: The packages above it, from the top.
    """
    if packages[0] in sys.modules:
        return importlib.import_module(name)
    before = set(sys.modules)
    try:
        for package in packages:
            spec = importlib.util.find_spec(package)
            if spec is None:
                raise ImportError(f"{package} is not installed")
            sys.modules[package] = importlib.util.module_from_spec(spec)
        return importlib.import_module(name)
    except (AttributeError, ImportError):
        _forget(packages[0], before)
        before = set(sys.modules)  # what a full import brings stays
        module = importlib.import_module(name)
        before |= set(sys.modules)
        return module
    finally:
        _forget(packages[0], before)


def _forget(package: str, before: set[str]) -> None:
    for name in set(sys.modules) - before:
        if name.split(".")[0] == package:
            del sys.modules[name]


def installed_releases() -> dict[str, str | None]:
    """Return the installed release of each of `LIBRARIES`, such as `2.13.0+cpu`; None where there is none."""
    return {name: _release(name) for name in LIBRARIES}


@functools.cache
def untested_releases() -> tuple[str, ...]:
    """Name each of `LIBRARIES` whose release lies outside the range that this ordtool asks for.

    Returns:
        Phrases such as `transformers 6.0.0 (tested: >=5.0,<5.25)`; none where ordtool itself isn't installed, and the
        range isn't known.
    """
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(line) for line in metadata.requires("ordtool") or ()]
    except metadata.PackageNotFoundError:
        return ()
    tested = {requirement.name: requirement.specifier for requirement in asked}
    found = []
    for name, release in installed_releases().items():
        if release and name in tested and not tested[name].contains(release, prereleases=True):
            bounds = ",".join(sorted(map(str, tested[name]), reverse=True))
            found.append(f"{name} {release} (tested: {bounds})")
    return tuple(found)


def _release(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
