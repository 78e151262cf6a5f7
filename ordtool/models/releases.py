"""What differs between releases of the libraries, in one place.

transformers gives models their cache of keys and values under a name that has changed: `past_key_values` up to 5.23,
`cache` from 5.24. What a release calls it is read off its own output classes, not off its number. A model that lets
unknown arguments pass would write wrong text, without a word, where that name changes again; so a cache under any other
name, and a step of `generate` that leans on a cache which isn't there, are errors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from ordtool.errors import OrdtoolError

CACHE_NAMES = ("cache", "past_key_values")
"""What releases of transformers call the cache, the newest name first."""


@functools.cache
def cache_name() -> str:
    """Give the name under which the installed transformers takes and gives a model's cache.

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
    return min(int(part.get_seq_length()) for part in (cache, getattr(cache, "side", cache)))


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
