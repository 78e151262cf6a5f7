"""Every token of every text is in one batch, once."""

from hypothesis import given
from hypothesis import strategies as st

from ordtool.embedding.batching import make_batches

texts_of_tokens = st.lists(st.lists(st.integers(0, 99), max_size=30), max_size=40)


@given(texts_of_tokens, st.integers(1, 100), st.none() | st.integers(1, 5))
def test_batches_hold_every_text_once_within_the_budget(tokens, budget, most):
    seen = []
    for batch in make_batches(tokens, budget, most):
        longest = max(batch.lengths)
        assert longest * len(batch.rows) <= budget or len(batch.rows) == 1
        assert most is None or len(batch.rows) <= most
        start = 0
        for row, length in zip(batch.rows, batch.lengths, strict=True):
            assert batch.ids[start : start + length].tolist() == tokens[row]
            start += length
        assert start == len(batch.ids) == batch.groups[-1].stop
        assert [group.start for group in batch.groups] == [0, *(group.stop for group in batch.groups[:-1])]
        seen += batch.rows.tolist()
    assert sorted(seen) == [index for index, ids in enumerate(tokens) if ids]


def test_longest_texts_come_first_and_ties_keep_their_order():
    batches = make_batches([[1], [2, 2], [3], [4, 4]], budget=4)
    assert [batch.rows.tolist() for batch in batches] == [[1, 3], [0, 2]]
