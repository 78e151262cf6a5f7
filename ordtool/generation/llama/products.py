"""The product of states with a matrix: torch's, or for a single row a loop that keeps pace with memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import linear

Product = Callable[[Tensor, Tensor], Tensor]

# Below this many bytes a token is written so soon that loading numba (half a second) would hardly ever come back.
_WORTH_IT = 64 << 20
# The loop has one thread, which beats one or two of torch's; more were not measured.
_MOST_THREADS = 2


def row_product(states: Tensor, matrix: Tensor) -> Tensor:
    """Return `states @ matrix.T` for a single row by numba (`single_row`), with other last bits than torch's."""
    multiply = _compiled()
    return linear(states, matrix) if multiply is None else multiply(states, matrix)


def choose_row_product(matrices: Iterable[Tensor], kernel: str = "auto") -> Product:
    """Pick how a model multiplies a single row.

    The choice depends on the machine and the model alone, never on what was written before: the same prompt gives the
    same text wherever in a file it stands.

    Args:
        matrices: The model's weights; vectors among them don't count.
        kernel: `torch`; `numba`; `auto`: numba where it is installed and wins by the model's size and the threads.

    Raises:
        ValueError: An unknown name, or `numba` where it can't run.
    """
    if kernel not in ("auto", "torch", "numba"):
        raise ValueError(f"unknown kernel {kernel!r}; choices: auto, torch, numba")
    wide = [matrix for matrix in matrices if matrix.dim() > 1]
    fits = find_spec("numba") is not None and all(_fits(matrix) for matrix in wide)
    if kernel == "numba" and not fits:
        raise ValueError("numba multiplies float32 and bfloat16 on the CPU, where it is installed")
    wins = sum(matrix.nbytes for matrix in wide) >= _WORTH_IT and torch.get_num_threads() <= _MOST_THREADS
    return row_product if kernel == "numba" or (kernel == "auto" and fits and wins) else linear


def _fits(matrix: Tensor) -> bool:
    kind = matrix.dtype in (torch.float32, torch.bfloat16)
    return kind and matrix.device.type == "cpu" and matrix.is_contiguous()


@cache
def _compiled() -> Product | None:
    """Load the compiled loop, when the first single row comes; None where numba is installed but can't be used."""
    try:
        from ordtool.generation.llama.single_row import multiply
    except ImportError:
        return None
    return multiply
