"""Long sums that an interrupted run goes on with: arrays that are added to, and written down now and then.

Who computes names its stages (`with stage("sums", products=products) as at`) and says after every step how far the arrays
are; who begins the run says where they are kept (`with keeping(folder)`), or nothing, and then nothing is. As with a logger,
what lies between the two needn't pass anything on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError
from ordtool.io.checkpoint import DeferredInterrupt, replacing
from ordtool.io.runs import has_fields, read_record, write_record

__all__ = ["Stage", "holds_stages", "keeping", "once", "part", "seconds_before", "stage"]

# The share of the time that may go to writing: arrays are written when this many times the last writing's have passed.
_SAVE_EVERY = 50
_ARRAYS, _VALUE = ".safetensors", ".once"
_FIELDS = {"done": (int,), "seconds": (int, float)}


@dataclass(slots=True)
class _Run:
    """Where stages are kept, and when the next one is due."""

    folder: Path
    before: float
    started: float = field(default_factory=time.monotonic)
    next: float = 0.0

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started


_run: ContextVar[_Run | None] = ContextVar("run", default=None)
_prefix: ContextVar[str] = ContextVar("prefix", default="")


@contextmanager
def keeping(folder: Path | None) -> Iterator[None]:
    """Keep the stages of all that is computed meanwhile in a folder, and go on from those that are there; None: nowhere.

    Raises:
        OrdtoolError: A file there is damaged.
    """
    run = None if folder is None else _Run(folder, max(map(_seconds_of, _files(folder)), default=0.0))
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)


@contextmanager
def part(name: str) -> Iterator[None]:
    """Name a part of the computation, whose stages are called as those of other parts."""
    token = _prefix.set(f"{_prefix.get()}{name}.")
    try:
        yield
    finally:
        _prefix.reset(token)


def holds_stages(folder: Path) -> bool:
    """Whether an interrupted run left something to go on with in a folder."""
    return bool(_files(folder))


def seconds_before() -> float:
    """Return how long interrupted runs took before this one."""
    run = _run.get()
    return 0.0 if run is None else run.before


class Stage:
    """How far the arrays of a stage are.

    Attributes:
        done: Steps that they hold, as the last `reach` said.
    """

    def __init__(self, run: _Run | None, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.done = 0
        self._run = run
        self._arrays = arrays
        self._path = None if run is None else run.folder / f"{_prefix.get()}{name}{_ARRAYS}"
        self._interrupt: DeferredInterrupt | None = None

    def reach(self, done: int) -> None:
        """Say that the arrays hold so many steps; they are written now or at a later call. Ctrl-C ends the run here."""
        self.done = done
        if self._run is None:
            return
        requested = self._interrupt is not None and self._interrupt.requested
        if requested or time.monotonic() >= self._run.next:
            self._save(self._run)
        if self._interrupt is not None:
            self._interrupt.check()

    @contextmanager
    def open(self) -> Iterator[Stage]:
        """Take up what there is, and let Ctrl-C wait for the next `reach`."""
        if self._path is None:
            yield self
            return
        if self._path.exists():
            self._load(self._path)
        with DeferredInterrupt() as self._interrupt:
            yield self
            if self._interrupt.requested:  # behind the last step
                self.reach(self.done)

    def _save(self, run: _Run) -> None:
        from safetensors.numpy import save_file

        assert self._path is not None
        begin = time.monotonic()
        state = {"done": self.done, "seconds": run.seconds}
        plain = {name: np.ascontiguousarray(array).view(np.uint8) for name, array in self._arrays.items()}
        with replacing(self._path) as partial:
            save_file(plain, partial, metadata={"state": json.dumps(state)})
        end = time.monotonic()
        run.next = end + _SAVE_EVERY * (end - begin)

    def _load(self, path: Path) -> None:
        with _opened(path) as file:
            for name, array in self._arrays.items():
                array.reshape(-1).view(np.uint8)[...] = file.get_tensor(name).reshape(-1)
            self.done = _state_of(file)["done"]


@contextmanager
def stage(name: str | None, **arrays: NDArray[Any]) -> Iterator[Stage]:
    """Compute what can be interrupted: arrays that steps add to.

    Args:
        name: Of the stage, another than those of all others in its part; None: it is not kept.
        **arrays: Contiguous; they get what the interrupted run had, if there is any.

    Yields:
        How far they are: the caller begins behind `done`, and calls `reach` when the arrays hold more.

    Raises:
        OrdtoolError: What an interrupted run left is damaged, or the disk is full.
    """
    with Stage(None if name is None else _run.get(), name or "", arrays).open() as opened:
        yield opened


def once(name: str, compute: Callable[[], Any]) -> Any:
    """Return what is computed, as JSON gives it back, or what an interrupted run had computed.

    Args:
        name: As for `stage`.
        compute: Gives anything JSON holds.
    """
    run = _run.get()
    if run is None:
        return compute()
    path = run.folder / f"{_prefix.get()}{name}{_VALUE}"
    if path.exists():
        return read_record(path, {"found": (dict, list), "seconds": (int, float)})["found"]
    found = compute()
    write_record(path, {"found": found, "seconds": run.seconds})
    return found


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix in (_ARRAYS, _VALUE)] if folder.is_dir() else []


def _seconds_of(path: Path) -> float:
    if path.suffix == _VALUE:
        return float(read_record(path, {"seconds": (int, float)})["seconds"])
    with _opened(path) as file:
        return float(_state_of(file)["seconds"])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a stage's file, and say of one that is none that it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with ExitStack() as stack:
            yield stack.enter_context(safe_open(path, framework="np"))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise OrdtoolError(f"{path}: damaged: {error}", "`force` begins anew") from None


def _state_of(file: Any) -> dict[str, Any]:
    state = json.loads((file.metadata() or {})["state"])
    if not has_fields(state, _FIELDS):
        raise ValueError("no state of a stage")
    return dict(state)
