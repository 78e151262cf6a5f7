"""The most memory that was in use while something ran."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType

import torch

from ordtool.runtime import process_memory

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
        self._stop = threading.Event()
        self._seen = 0.0
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif not _forget_peak() and process_memory("VmRSS") is not None:
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            self.megabytes = torch.cuda.max_memory_allocated(self._device) / _MEGABYTE
        elif self._watcher is not None:
            self._stop.set()
            self._watcher.join()
            self.megabytes = max(self._seen, process_memory("VmRSS") or 0.0)
        elif sys.platform == "linux":
            self.megabytes = process_memory("VmHWM")

    def _watch(self) -> None:
        """Look every few milliseconds, where the system can't forget an older peak."""
        while not self._stop.wait(0.005):
            self._seen = max(self._seen, process_memory("VmRSS") or 0.0)


def _forget_peak() -> bool:
    """Let the system count the peak from now on (Linux)."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    now, peak = process_memory("VmRSS"), process_memory("VmHWM")
    # Some sandboxes take the write and do nothing.
    return now is not None and peak is not None and peak <= now * 1.01 + 1
