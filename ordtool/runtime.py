"""Device, dtype, seed and threads: what every engine asks of the machine.

torch is imported inside the functions, so that commands which don't compute start fast.
"""

from __future__ import annotations

import gc
import logging
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from ordtool.distributed import local_rank
from ordtool.errors import OrdtoolError, UsageError, close_match_hint

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")


def resolve_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:1` or `mps` into a device that is there.

    Args:
        name: The device asked for; `auto` takes CUDA, then MPS, then the CPU. Of several ranks each takes the CUDA
            device of its number on this machine, where none is named by its own.

    Returns:
        A device that tensors can be put on.

    Raises:
        UsageError: If the name is unknown or this machine has no such device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return _cuda_of_rank(torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (index and not index.isdecimal()):
        raise UsageError(
            f"unknown device {name!r}", close_match_hint(kind, ["auto", "cpu", "cuda", "cuda:0", "mps"])
        )
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }[kind]
    if int(index or 0) >= there:
        raise UsageError(
            f"device {name!r} is not on this machine ({there} {kind} device(s) found)",
            "use `device=auto` or `device=cpu`",
        )
    return _cuda_of_rank(there) if name == "cuda" else torch.device(name)


def _cuda_of_rank(there: int) -> torch.device:
    """Return the CUDA device of this rank; a launcher may also show each rank one device alone."""
    import torch

    number = local_rank()
    if number < there or there == 1:
        return torch.device("cuda", number) if 0 < number < there else torch.device("cuda")
    raise OrdtoolError(
        f"rank {number} of this machine finds no CUDA device of its own ({there} found)",
        "start as many ranks as there are devices",
    )


def resolve_dtype(name: str = "auto", device: torch.device | None = None) -> torch.dtype:
    """Turn `auto`, `float32`, `bfloat16` or `float16` into a dtype.

    Args:
        name: The dtype asked for; `auto` is bfloat16 where the device multiplies it
            faster than float32 (see `has_fast_bf16`) and float32 elsewhere.
        device: Where it will be used; the CPU if None.

    Returns:
        The dtype of weights and activations.

    Raises:
        UsageError: If the name is unknown.
    """
    import torch

    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}", close_match_hint(name, DTYPES))
    if name == "auto":
        return torch.bfloat16 if has_fast_bf16(device or torch.device("cpu")) else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def has_fast_bf16(device: torch.device) -> bool:
    """Say whether `device` multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_has_bf16()


@cache
def cpu_has_bf16() -> bool:
    """Say whether the processor has bfloat16 dot products (AVX-512 bf16, AMX or Arm's bf16)."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
            flags = next((line for line in info if line.startswith(("flags", "Features"))), "")
    except OSError:
        return _torch_says_bf16()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))


def _torch_says_bf16() -> bool:
    """Ask torch where there is no /proc/cpuinfo (Windows, macOS)."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return False
    import torch

    ask = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch that will do
    return ask is not None and bool(ask().get("avx512_bf16"))


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and torch (every device).

    Args:
        seed: Any integer from 0 to 2^32 - 1.

    Raises:
        UsageError: If the seed is out of range.
    """
    import random

    import numpy as np
    import torch

    if not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed} is out of range", "a seed is an integer from 0 to 4294967295")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_threads(count: int | None) -> None:
    """Let torch use `count` threads; None leaves its own choice (one a core)."""
    if count is None:
        return
    if count < 1:
        raise UsageError(f"`threads` {count} is not possible", "give a number of 1 or more")
    import torch

    torch.set_num_threads(count)


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads meanwhile, also in threads begun inside; None changes nothing."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Take numbers too small for float32's full precision (1.2e-38) for zero meanwhile, in this thread.

    Processors are many times slower with them.
    """
    import torch

    before = float(torch.full((), 1e-39)) == 0  # torch doesn't tell
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def steady_attention(device: torch.device) -> Iterator[None]:
    """Leave cuDNN out of torch's kernels of attention meanwhile: it plans anew for every shape, and shapes are many here."""
    if device.type != "cuda":
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield


def require(module: str, extra: str) -> None:
    """Check that an optional dependency is there.

    Args:
        module: The module that is about to be imported.
        extra: The extra of ordtool that brings it.

    Raises:
        OrdtoolError: If it can't be found; the hint names the extra.
    """
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise OrdtoolError(f"this needs {module}, which is not installed", f"pip install 'ordtool[{extra}]'")


_MANY_MODULES = 100


@contextmanager
def importing() -> Iterator[None]:
    """Import large libraries without the garbage collector, which finds nothing among modules but looks again and again.

    For torch that is a fifth of the time. Where many modules were imported, what was made meanwhile is left out of later
    collections too.
    """
    collecting, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) - before > _MANY_MODULES:  # else garbage that holds a model might stay for good
            gc.freeze()
        if collecting:
            gc.enable()


_libraries_heard = False


@contextmanager
def library_messages(*, shown: bool) -> Iterator[None]:
    """Keep what libraries have to say from a person, who can do nothing about it, or let it through.

    Filters of Python's `warnings` stay as they are, so one that makes an error of a warning still does.

    Args:
        shown: Let through warnings and log lines.
    """
    global _libraries_heard
    before = _libraries_heard, warnings.showwarning, logging.lastResort
    _libraries_heard = shown
    if not shown:
        warnings.showwarning = _say_nothing
        logging.lastResort = logging.NullHandler()  # of loggers that nobody has set up
        quiet_libraries()
    try:
        yield
    finally:
        _libraries_heard, warnings.showwarning, logging.lastResort = before


def libraries_heard() -> bool:
    """Say whether `library_messages` lets libraries' messages through."""
    return _libraries_heard


def _say_nothing(*_args: Any, **_options: Any) -> None:
    """Stand for `warnings.showwarning`."""


def quiet_libraries() -> None:
    """Keep transformers and its relatives from writing bars and advice between our lines.

    Called before they are imported, or after; advice is let through where `library_messages` shows it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not _libraries_heard:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        if not _libraries_heard:
            transformers_logging.set_verbosity_error()
