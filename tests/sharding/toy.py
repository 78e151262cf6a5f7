"""Work that loads nothing: texts to upper case, with all that can go wrong on the way. It is imported in workers too."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ordtool.errors import OrdtoolError
from ordtool.sharding.plan import Cut
from ordtool.sharding.records import RecordReader, write_rows


@dataclass(frozen=True)
class Shout:
    """`die` kills a worker once a file of that name is gone; `poison` always; `bug` is one; `bad` is a bad record."""

    folder: Path
    format: str = "jsonl"
    skips: bool = False
    most: int = 10
    first: int | None = None
    wait: float = 0.0
    lost: bool = False

    @property
    def cut(self) -> Cut:
        return Cut(self.most, first=self.first)

    def load(self, progress, threads):
        if self.lost:
            raise OrdtoolError("no such model")
        progress.note("loaded")
        return Runner(self, progress)


class Runner:
    def __init__(self, work, progress):
        self.facts = {"threads": "any"}
        self.reader = RecordReader("text")
        self._work = work
        self._progress = progress

    def prepare(self, records, indices, on_error):
        return records, indices, on_error

    def compute(self, prepared, settled) -> Iterator:
        yield from write_rows(self._rows(*prepared), self._work.format, settled)

    def _rows(self, records, indices, on_error):
        time.sleep(self._work.wait)
        for index, record in zip(indices, records, strict=True):
            word, _, name = record.text.partition(" ")
            if word == "die" and self._first_time(name):
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "poison":
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "bug":
                raise RuntimeError("a bug")
            if word == "bad":
                on_error(OrdtoolError(f"{record.where}: bad"))
                continue
            if word == "warn":
                self._progress.warn("mind this")
            fields = dict(record.data or {"text": record.text})
            yield fields | {"text": record.text.upper(), "index": index}, record.where
            self._progress.advance(1)

    def _first_time(self, name) -> bool:
        try:
            os.mkdir(self._work.folder / f"died-{name}")
        except FileExistsError:
            return False
        return True
