"""Products of states with a model's matrices: torch's, and for a single row a loop that keeps pace with memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import linear

Products = Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor]]

# Below this many bytes a token is written so soon that loading numba (half a second) would hardly ever come back.
_WORTH_IT = 64 << 20


def plain_products(states: Tensor, matrices: Sequence[Tensor]) -> Sequence[Tensor]:
    """Give `states @ matrix.T` for each matrix, by torch.

    Args:
        states: `(..., in)`.
        matrices: `(out, in)` each.

    Returns:
        `(..., out)` for each.
    """
    return [linear(states, matrix) for matrix in matrices]


def row_products(states: Tensor, matrices: Sequence[Tensor]) -> Sequence[Tensor]:
    """Give the same for a single row, by numba (`transformer.single_row`), with other last bits."""
    multiply = _compiled()
    if multiply is None:
        return plain_products(states, matrices)
    return multiply(states, *matrices).split([len(matrix) for matrix in matrices], dim=-1)


def choose_row_products(matrices: Iterable[Tensor], kernel: str = "auto") -> Products:
    """Pick how a model multiplies a single row.

    The choice depends on the machine and the model alone, never on what was written before: the same prompt gives the
    same text wherever in a file it stands.

    Args:
        matrices: The model's weights; vectors among them don't count.
        kernel: `torch`; `numba`; `auto`: numba where it is installed and a model is large enough to win by it.

    Raises:
        ValueError: An unknown name, or `numba` where it can't run.
    """
    if kernel not in ("auto", "torch", "numba"):
        raise ValueError(f"unknown kernel {kernel!r}; choices: auto, torch, numba")
    wide = [matrix for matrix in matrices if matrix.dim() > 1]
    fits = find_spec("numba") is not None and all(_fits(matrix) for matrix in wide)
    if kernel == "numba" and not fits:
        raise ValueError("numba multiplies float32 and bfloat16 on the CPU, where it is installed")
    large = sum(matrix.nbytes for matrix in wide) >= _WORTH_IT
    return row_products if fits and kernel != "torch" and (large or kernel == "numba") else plain_products


def _fits(matrix: Tensor) -> bool:
    kind = matrix.dtype in (torch.float32, torch.bfloat16)
    return kind and matrix.device.type == "cpu" and matrix.is_contiguous()


@cache
def _compiled() -> Callable[..., Tensor] | None:
    """Load the compiled loop, when the first single row comes; None where numba is installed but can't be used."""
    try:
        from ordtool.transformer.single_row import multiply
    except ImportError:
        return None
    return multiply
