"""How much memory a piece of work takes: the peak of the process, or what comes on top of it."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CLEAR = Path("/proc/self/clear_refs")
_MEGABYTE = 1e6


class PeakMemory:
    """Measure the peak within a `with`: `megabytes` holds it afterwards.

    On CUDA the peak of torch's allocations; on a CPU the process's resident memory, code and
    weights included, as the system counts it. None where the system doesn't tell.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.megabytes: float | None = None
        self._device = device
        self._watcher: _Watcher | None = None

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            _reset_cuda_peak(self._device)
        elif not _forget_peak() and process_memory("VmRSS") is not None:
            self._watcher = _Watcher("VmRSS", seconds=0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            self.megabytes = _cuda_peak(self._device)
        elif self._watcher is not None:
            self.megabytes = self._watcher.stop()
        elif sys.platform == "linux":
            self.megabytes = process_memory("VmHWM")


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
        self._start = 0.0
        self._watcher: _Watcher | None = None

    def __enter__(self) -> ExtraMemory:
        gc.collect()
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()
            self._start = _reset_cuda_peak(self._device)
            return self
        _trim_heap()
        anonymous = process_memory("RssAnon")
        if anonymous is not None:
            self._start = anonymous
            self._watcher = _Watcher("RssAnon", seconds=0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            self.megabytes = _cuda_peak(self._device) - self._start
        elif self._watcher is not None:
            self.megabytes = max(self._watcher.stop() - self._start, 0.0)


def process_memory(field: str) -> float | None:
    """Return a field of this process's `/proc/self/status`, in megabytes; None where there is none.

    Args:
        field: `VmRSS` (resident), `VmHWM` (its peak) or `RssAnon` (resident without mapped files).
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024 / _MEGABYTE
    except OSError:
        pass
    return None


class _Watcher:
    """A thread that looks at a field of the process's memory again and again."""

    def __init__(self, field: str, seconds: float) -> None:
        self._field = field
        self._seconds = seconds
        self._peak = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._end.wait(self._seconds):
            self._look()

    def _look(self) -> None:
        self._peak = max(self._peak, process_memory(self._field) or 0.0)

    def stop(self) -> float:
        """Return the peak, in megabytes."""
        self._end.set()
        self._thread.join()
        self._look()
        return self._peak


def _reset_cuda_peak(device: torch.device) -> float:
    """Let torch count its peak from now on; return what is allocated, in megabytes."""
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device) / _MEGABYTE


def _cuda_peak(device: torch.device) -> float:
    import torch

    return torch.cuda.max_memory_allocated(device) / _MEGABYTE


def _forget_peak() -> bool:
    """Let the system count the peak from now on (Linux)."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    now, peak = process_memory("VmRSS"), process_memory("VmHWM")
    # Some sandboxes take the write and do nothing.
    return now is not None and peak is not None and peak <= now * 1.01 + 1


def _trim_heap() -> None:
    """Let the C library return freed memory, so that it isn't taken for memory in use."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
