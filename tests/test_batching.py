"""Windows, batches and what is held out: everything once, whatever the sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordtool.batching import (
    batches_by_length,
    cut_batches,
    hold_out,
    shuffled_batches,
    sort_stretches,
    windows,
)
from ordtool.errors import OrdtoolError

lengths_lists = st.lists(st.integers(0, 30), max_size=40)


@pytest.mark.parametrize(
    ("most", "heaviest", "first", "expected"),
    [
        (2, 99, None, [2, 2, 1]),
        (99, 99, None, [5]),
        (99, 2, None, [1, 1, 1, 1, 1]),
        (99, 5, None, [2, 2, 1]),
        (3, 99, 1, [1, 2, 2]),
        (99, 99, 2, [2, 3]),
    ],
)
def test_windows_end_at_items_or_weight(most, heaviest, first, expected):
    assert [len(window) for window in windows(["abc"] * 5, most, heaviest, len, first)] == expected
    assert list(windows([], most, heaviest, len, first)) == []


def test_windows_are_read_as_they_are_wanted():
    taken = []
    stream = windows((taken.append(k) or k for k in range(100)), 10)
    assert next(stream) == list(range(10)) and taken == list(range(10))


def test_what_was_read_before_a_bad_record_is_given_out():
    def items():
        yield from range(5)
        raise OrdtoolError("a.txt:6: bad")

    given_out = []
    with pytest.raises(OrdtoolError, match="a.txt:6"):
        for window in windows(items(), 3):
            given_out.append(window)
    assert given_out == [[0, 1, 2], [3, 4]]


def greedy(lengths, tokens, size, longest_first):
    """The rule in words: as many as fit, padded to the longest, in the order of length."""
    left = sorted(
        (k for k, n in enumerate(lengths) if n), key=lambda k: -lengths[k] if longest_first else lengths[k]
    )
    found = []
    while left:
        count = 1
        while (
            count < len(left)
            and (size is None or count < size)
            and (tokens is None or (count + 1) * max(lengths[k] for k in left[: count + 1]) <= tokens)
        ):
            count += 1
        found.append(left[:count])
        left = left[count:]
    return found


@given(lengths_lists, st.integers(1, 100) | st.none(), st.integers(1, 9) | st.none(), st.booleans())
def test_batches_by_length(lengths, tokens, size, longest_first):
    found = batches_by_length(lengths, tokens=tokens, size=size, longest_first=longest_first)
    assert found == greedy(lengths, tokens, size, longest_first)


def test_batches_of_an_order_that_is_given():
    assert cut_batches([2, 0, 1], [3, 4, 2], tokens=6) == [[2, 0], [1]]
    assert cut_batches([], [], tokens=6) == []


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 9), st.integers(1, 5))
def test_shuffled_batches_hold_everything_once(lengths, size, together):
    measured = np.array(lengths, dtype=np.int64)
    batches = shuffled_batches(measured, size, 1, 2, together)
    assert sorted(k for batch in batches for k in batch) == list(range(len(lengths)))
    assert all(len(batch) <= size for batch in batches)
    assert all(lengths[a] <= lengths[b] for batch in batches for a, b in zip(batch, batch[1:], strict=False))
    assert batches == shuffled_batches(measured, size, 1, 2, together)


def test_an_epoch_has_an_order_of_its_own():
    lengths = np.random.default_rng(0).integers(1, 40, 103)
    assert shuffled_batches(lengths, 8, 1, 2) != shuffled_batches(lengths, 8, 1, 3)
    assert shuffled_batches(lengths, 8, 1, 2) != shuffled_batches(lengths, 8, 2, 2)


def test_stretches_keep_their_items():
    parts = sort_stretches(np.array([3, 0, 2, 1, 4]), [5, 1, 4, 2, 3], 2)
    assert [part.tolist() for part in parts] == [[3, 0], [1, 2], [4]]


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 9))
def test_what_is_held_out_is_not_trained_on(total, count, seed):
    kept, held = hold_out(total, min(count, total), seed)
    assert sorted([*kept, *held]) == list(range(total)) and len(held) == min(count, total)
    assert kept.tolist() == sorted(kept) and held.tolist() == sorted(held)
    assert all(
        (a == b).all() for a, b in zip((kept, held), hold_out(total, min(count, total), seed), strict=True)
    )
