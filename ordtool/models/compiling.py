"""A model's forward pass, compiled by torch for texts of any length."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ordtool.errors import OrdtoolError

__all__ = ["BACKEND", "compile_model", "is_compilable", "quiet_compiler"]

BACKEND = "inductor"
"""What torch compiles with: it writes C++ on a processor, which takes a compiler, and Triton on a card."""


def is_compilable(model: Any) -> bool:
    """Whether a model is one of transformers' own kind, and not code of ours that has its own fast ways."""
    from transformers import PreTrainedModel

    return isinstance(model, PreTrainedModel)


def compile_model(model: Any, run: Callable[[], Any]) -> None:
    """Let torch compile a model's forward pass, once for all numbers of texts and all lengths above 1.

    The first pass is run here, so that what can't be compiled is known before there is work to lose. Others that differ in
    kind (with a cache, of one token) are compiled when they first come.

    Args:
        model: A model of transformers, in evaluation mode; it is changed.
        run: Runs it over two texts of three tokens or more.

    Raises:
        OrdtoolError: If torch can't compile it here.
    """
    import torch

    try:
        with torch.inference_mode(), quiet_compiler():
            model.compile(dynamic=True, backend=BACKEND)
            run()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise OrdtoolError(
            f"torch can't compile this model here: {reason}", "leave `compile` out: it only saves time"
        ) from error


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Leave out what torch's compiler says of torch's own old functions, and of products in TensorFloat32."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        yield
