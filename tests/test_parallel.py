import threading
import time

import numpy as np
import pytest

from ordtool.errors import UsageError
from ordtool.memory import ExtraMemory, process_memory
from ordtool.parallel import ordered_map, thread_count


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads):
    def late_if_first(number):
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    assert list(ordered_map(late_if_first, range(20), threads)) == [n * n for n in range(20)]
    assert list(ordered_map(late_if_first, iter(range(20)), threads)) == [n * n for n in range(20)]
    assert list(ordered_map(late_if_first, [], threads)) == []


def test_items_are_done_at_the_same_time():
    both = threading.Barrier(2)
    assert sorted(ordered_map(lambda n: both.wait(timeout=10), range(2), 2)) == [0, 1]


def test_a_stream_is_not_read_far_ahead():
    taken = []

    def stream():
        for number in range(1000):
            taken.append(number)
            yield number

    results = ordered_map(lambda number: number, stream(), 2)
    assert next(results) == 0
    assert len(taken) < 10
    results.close()
    assert len(taken) < 10


def test_an_error_ends_the_map():
    def fail(number):
        if number == 3:
            raise ValueError("three")
        return number

    seen = []
    with pytest.raises(ValueError, match="three"):
        seen.extend(ordered_map(fail, range(10), 2))


def test_thread_counts():
    assert thread_count(3) == 3
    assert thread_count() >= 1
    with pytest.raises(UsageError, match="0 threads are not possible"):
        thread_count(0)


@pytest.mark.skipif(process_memory("RssAnon") is None, reason="only Linux counts it")
def test_extra_memory_is_what_came_on_top():
    import torch

    with ExtraMemory(torch.device("cpu")) as little:
        pass
    with ExtraMemory(torch.device("cpu")) as much:
        rows = np.ones((80, 1 << 17))
        time.sleep(0.05)
        del rows
    assert little.megabytes < 20
    assert 80 < much.megabytes < 120
