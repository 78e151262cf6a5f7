import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ordtool.progress import Silent

sys.path.insert(0, str(Path(__file__).parent))  # workers import `toy`, too


class Listener(Silent):
    def __init__(self):
        self.notes, self.warnings, self.total, self.moved = [], [], None, 0.0

    def start(self, description, total, unit):
        self.total = total

    def advance(self, amount=1, **stats):
        self.moved += amount

    def note(self, message):
        self.notes.append(message)

    def warn(self, message):
        self.warnings.append(message)


@pytest.fixture
def shout(tmp_path):
    """`shout("a.txt", "out", workers=2)` puts a file into upper case, and says how it went."""
    from toy import Shout

    from ordtool.io.inputs import read_again
    from ordtool.sharding.plan import Plan
    from ordtool.sharding.records import RecordReader, form_of
    from ordtool.sharding.run import Scale, ShardBar, Target, Totals, open_executor, run

    def call(inputs, output, *, workers=None, ray=None, resume=False, force=False, stop=None, **options):
        paths = [str(tmp_path / one) for one in ([inputs] if isinstance(inputs, str) else inputs)]
        work = Shout(tmp_path, **options)
        heard, totals = Listener(), Totals()
        plan = Plan(paths, RecordReader("text"), work.cut, skip=work.skips)
        bar = ShardBar(heard, "shouting", "texts")
        target = Target(tmp_path / output, read_again(paths), {"format": work.format}, resume, force)

        def watch(summary):
            if stop is not None and summary.number == stop:
                raise KeyboardInterrupt

        with open_executor(Scale(workers, ray), work, bar) as executor:
            run(plan, executor, target, form_of(work.format), bar, totals=totals, heard=watch)
        return SimpleNamespace(heard=heard, totals=totals, plan=plan)

    return call
