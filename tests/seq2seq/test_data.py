"""Reading, holding out, batching: nothing lost, nothing twice, whatever the file."""

import gzip
import json
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ordtool.errors import OrdtoolError, UsageError
from ordtool.seq2seq.data import PairBatches, group, hold_out_sources, read_pairs, seq2seq_batch, unilm_batch

PAIRS = [("a b", "x"), ("a b", 'y, "z"'), ("c", "w")]


def texts(path, *fields):
    return [(pair.source, pair.target) for pair in read_pairs(path, *fields)]


def test_every_format_gives_the_same(tmp_path):
    lines = [{"source": s, "target": t} for s, t in PAIRS]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n\n" for line in lines))
    (tmp_path / "b.jsonl").write_text(
        '{"source": "a b", "target": ["x", "y, \\"z\\""]}\n{"source": "c", "target": "w"}\n'
    )
    (tmp_path / "a.csv").write_text('id,source,target\n1,a b,x\n2,a b,"y, ""z"""\n3,c,w\n')
    (tmp_path / "a.tsv").write_text('target\tsource\nx\ta b\ny, "z"\ta b\nw\tc\n')
    (tmp_path / "b.tsv").write_text('a b\tx\na b\ty, "z"\nc\tw\n')
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    for name in ("a.jsonl", "b.jsonl", "a.csv", "a.tsv", "b.tsv", "a.csv.gz"):
        assert texts(tmp_path / name) == PAIRS, name
    (tmp_path / "c.csv").write_bytes(b'\xef\xbb\xbfmr,ref\r\n"name[A], b","two\nlines"\r\n')
    assert texts(tmp_path / "c.csv", "mr", "ref") == [("name[A], b", "two\nlines")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", '{"source": "a", "target": "b"}\n{"source": "a"}\n', "x.jsonl:2: no field 'target'"),
        (
            "x.jsonl",
            '{"source": 3, "target": "b"}\n',
            "x.jsonl:1: field 'source' must be a string, found int",
        ),
        ("x.jsonl", '{"source": "a", "target": ["b", 4]}\n', "x.jsonl:1: field 'target' must be a string or"),
        ("x.jsonl", '{"source": "a", "target": []}\n', "x.jsonl:1: field 'target' must be a string or"),
        ("x.jsonl", '\n{"source": "a", "target": " "}\n', "x.jsonl:2: field 'target' is empty"),
        ("x.jsonl", '{"source": "", "target": "b"}\n', "x.jsonl:1: field 'source' is empty"),
        ("x.jsonl", "[1]\n", "x.jsonl:1: expected a JSON object"),
        ("x.jsonl", '{"source": "a", "target": \n', "x.jsonl:1: malformed JSON"),
        ("x.csv", "a,b\n1,2\n", "x.csv:1: no column 'source' \\(columns: a, b\\)"),
        ("x.csv", "source,target\na,b\nc\n", "x.csv:3: 1 column"),
        ("x.csv", 'source,target\na,b\n"c,d\n', "x.csv:3: malformed CSV"),
        ("x.csv", "source,target\na,\n", "x.csv:2: field 'target' is empty"),
        ("x.tsv", "a\tb\tc\n", "x.tsv:1: no column 'source'"),
    ],
)
def test_bad_pairs_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(OrdtoolError, match=message):
        texts(tmp_path / name)


def test_invalid_utf8_and_unknown_formats(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"source,target\na,\xff\n")
    with pytest.raises(OrdtoolError, match="x.csv:2: invalid UTF-8"):
        texts(tmp_path / "x.csv")
    with pytest.raises(UsageError, match="pairs are read from"):
        texts(tmp_path / "x.txt")


def test_sources_are_held_out_with_all_their_targets(tmp_path):
    groups = {f"s{i}": [f"t{i}", f"u{i}"] for i in range(20)}
    train, dev = hold_out_sources(groups, 0.25, seed=1)
    assert len(dev) == 5
    assert {**train, **dev} == groups
    assert not set(train) & set(dev)
    assert hold_out_sources(groups, 0.25, seed=1) == (train, dev)
    assert hold_out_sources(groups, 0.25, seed=2) != (train, dev)
    with pytest.raises(OrdtoolError, match="too few"):
        hold_out_sources({"a": ["b"]}, 0.5, seed=0)


def test_group_keeps_doubles(tmp_path):
    (tmp_path / "x.tsv").write_text("a\tb\na\tb\nc\td\n")
    assert group(list(read_pairs(tmp_path / "x.tsv"))) == {"a": ["b", "b"], "c": ["d"]}


rows = st.lists(
    st.tuples(
        st.lists(st.integers(5, 9), min_size=1, max_size=6),
        st.lists(st.lists(st.integers(10, 15), min_size=1, max_size=5), min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=12,
)


def unpack(batch):
    """(source, target) of every target of a batch, from the tensors alone."""
    found, labels = [], batch["labels"].tolist()
    ids, segments, places = (batch[name] for name in ("input_ids", "token_type_ids", "position_ids"))
    width = ids.shape[1]
    starts = [i for i, p in enumerate(batch["predictors"].tolist()) if segments.flatten()[p] == 0]
    for start, end in zip(starts, [*starts[1:], len(labels)], strict=True):
        predictors = batch["predictors"][start:end].tolist()
        row, last = divmod(predictors[0], width)
        source = ids[row, : last + 1].tolist()
        inputs = [int(ids.flatten()[p]) for p in predictors[1:]]
        assert inputs == labels[start : end - 1]  # each but the last is read before the next
        assert places.flatten()[predictors].tolist() == list(range(last, last + end - start))
        assert len({int(segments.flatten()[p]) for p in predictors[1:]}) <= 1
        found.append((tuple(source), tuple(labels[start:end])))
    return found


@given(rows, st.integers(1, 7), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_pair_once(given_rows, size, together, epoch):
    expected = Counter((tuple(s), tuple(t)) for s, targets in given_rows for t in targets)
    batches = PairBatches(given_rows, size, together, pad=0, seed=1)
    batches.set_epoch(epoch)
    found = Counter(pair for index in range(len(batches)) for pair in unpack(batches[index]))
    assert found == expected
    assert len(batches) == max(1, sum(expected.values()) // size)
    again = PairBatches(given_rows, size, together, pad=0, seed=1)
    again.set_epoch(epoch)
    for index in range(len(batches)):
        one, other = batches[index], again[index]
        assert all(torch.equal(one[name], other[name]) for name in one)
    decoder = PairBatches(given_rows, size, together, pad=0, seed=1, encoder_decoder=True)
    count = 0
    for index in range(len(decoder)):
        batch = decoder[index]
        count += len(batch["labels"])
        assert (batch["labels"] >= 5).sum() == (batch["labels"] != -100).sum()
    assert count == sum(expected.values())


def test_batches_differ_from_epoch_to_epoch_and_are_of_like_length():
    given_rows = [([5] * (1 + i % 30), [[10 + i] * 4]) for i in range(400)]
    batches = PairBatches(given_rows, 10, 1, pad=0, seed=3)
    first = [batches[i]["input_ids"].tolist() for i in range(len(batches))]
    waste = sum(float((batches[i]["attention_mask"] == 0).float().sum()) for i in range(len(batches)))
    batches.set_epoch(1)
    assert first != [batches[i]["input_ids"].tolist() for i in range(len(batches))]
    total = sum(len(source) + 3 for source, _ in given_rows)
    assert waste / total < 0.05


def test_a_batch_by_hand():
    batch = unilm_batch([([1, 2], [[3, 4], [5]]), ([6], [[7, 8, 9]])], 0)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [6, 7, 8]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1], [0, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert batch["predictors"].tolist() == [1, 2, 1, 3, 4, 5]
    assert batch["labels"].tolist() == [3, 4, 5, 7, 8, 9]
    both = seq2seq_batch([([1, 2], [[3, 4], [5]])], 0)
    assert both["input_ids"].tolist() == [[1, 2], [1, 2]]
    assert both["labels"].tolist() == [[3, 4], [5, -100]]
