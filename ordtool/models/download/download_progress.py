"""A progress bar for downloads that other programs do: watch the bytes arrive."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ordtool.progress import Progress

_INTERVAL = 0.2


@contextmanager
def watch_bytes(folder: Path, total: int, description: str, progress: Progress) -> Iterator[None]:
    """Show how many bytes have arrived in `folder` while the block runs.

    Args:
        folder: Where another program or library is writing.
        total: The bytes expected.
        description: What the bar is called.
        progress: Where the bar is drawn.
    """
    done = threading.Event()
    start = _bytes_in(folder)
    progress.start(description, float(total), "B")

    def watch() -> None:
        seen = 0
        while not done.wait(_INTERVAL):
            now = min(total, _bytes_in(folder) - start)
            if now > seen:
                progress.advance(now - seen)
                seen = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        progress.close()


def _bytes_in(folder: Path) -> int:
    """Sum the sizes of all regular files below `folder`; files that vanish count nothing."""
    total = 0
    for file in folder.rglob("*") if folder.is_dir() else ():
        try:
            total += 0 if file.is_symlink() or not file.is_file() else file.stat().st_size
        except OSError:
            continue
    return total
