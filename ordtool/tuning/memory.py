"""How much memory a piece of work needs beyond what was there before it."""

from __future__ import annotations

import ctypes
import gc
import threading
from contextlib import suppress
from types import TracebackType

import torch

from ordtool.runtime import process_memory

_EVERY = 0.01
_MEGABYTE = 1e6


class ExtraMemory:
    """Measure within a `with` the peak above the start; `megabytes` holds it afterwards.

    On CUDA it is torch's peak. On Linux it is the process's anonymous memory, looked at a hundred times a second: files
    that are mapped, such as cached hidden states, don't count, as the system takes their pages back at will. Elsewhere
    it is None.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.megabytes: float | None = None
        self._device = device
        self._stop = threading.Event()
        self._start = self._peak = 0.0
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> ExtraMemory:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            self._start = torch.cuda.memory_allocated(self._device) / _MEGABYTE
            return self
        _give_back()
        found = process_memory("RssAnon")
        if found is not None:
            self._start = self._peak = found
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self._device) / _MEGABYTE
        elif self._watcher is None:
            return
        else:
            self._stop.set()
            self._watcher.join()
        self.megabytes = self._peak - self._start

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY):
            self._peak = max(self._peak, process_memory("RssAnon") or 0.0)


def _give_back() -> None:
    """Let the C library return freed memory, so that it isn't taken for memory in use."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
