import gzip
import json

import numpy as np
import pytest

from ordtool.errors import OrdtoolError
from ordtool.independence.variables import VariablesConfig, check_ids, layer_files, read_variable


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_npy(tmp_path):
    np.save(tmp_path / "v.npy", np.ones((5, 2), dtype=np.float16))
    np.save(tmp_path / "numbers.npy", np.linspace(0, 1, 5))
    np.save(tmp_path / "labels.npy", np.array([3, 1, 3, 1, 1]))
    assert read_variable(str(tmp_path / "v.npy")).rows.shape == (5, 2)
    assert read_variable(str(tmp_path / "numbers.npy")).rows.shape == (5, 1)
    labels = read_variable(str(tmp_path / "labels.npy"))
    assert labels.classes == ("1", "3")
    assert labels.rows[:, 1].tolist() == [1, 0, 1, 0, 0]
    np.save(tmp_path / "three.npy", np.ones((5, 2, 3)))
    with pytest.raises(OrdtoolError, match=r"three\.npy: has shape \(5, 2, 3\)"):
        read_variable(str(tmp_path / "three.npy"))


def test_an_npy_by_another_name(tmp_path):
    with open(tmp_path / "vectors", "wb") as file:
        np.save(file, np.ones((5, 2)))
    assert read_variable(str(tmp_path / "vectors")).rows.shape == (5, 2)


def test_jsonl(tmp_path):
    path = lines(
        tmp_path / "a.jsonl",
        {"id": 1, "text": "one", "vector": [1, 2], "label": "x"},
        {"id": 2, "text": "two", "vector": [3, 4.5], "label": "y"},
        {"id": 3, "text": "three", "vector": [0, 0], "label": "x"},
    )
    found = read_variable(path)
    assert found.rows.tolist() == [[1, 2], [3, 4.5], [0, 0]]
    assert found.ids == [1, 2, 3]
    assert read_variable(path, VariablesConfig(label_field="label")).rows.tolist() == [[1, 0], [0, 1], [1, 0]]
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    assert read_variable(str(tmp_path / "b.jsonl.gz")).rows.tolist() == found.rows.tolist()


def test_tables(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,text,label\n1,"one, two",x\n2,three,y\n3,four,x\n')
    found = read_variable(str(path), VariablesConfig(label_field="label"))
    assert found.rows.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert (found.ids, found.lines) == (["1", "2", "3"], [2, 3, 4])
    assert read_variable(str(path)).texts == ["one, two", "three", "four"]
    with pytest.raises(OrdtoolError, match=r"a.csv:2: label field 'class' is missing"):
        read_variable(str(path), VariablesConfig(label_field="class"))


def test_texts(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\nthree\n")
    assert read_variable(str(tmp_path / "a.txt")).texts == ["one", "", "three"]
    path = lines(tmp_path / "a.jsonl", {"body": "one"}, {"body": "two"})
    assert read_variable(path, VariablesConfig(text_field="body")).texts == ["one", "two"]


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        (
            [{"vector": [1, 2]}, {"vector": [1]}],
            {},
            "2: 'vector' is of 1 numbers, and 2 numbers are expected",
        ),
        ([{"vector": [1, 2]}, {"text": "x"}], {}, "2: 'vector' is missing"),
        ([{"vector": [1, "a"]}], {}, "1: 'vector' holds something else"),
        ([{"vector": 3}], {}, "1: 'vector' is missing or no list"),
        (
            [{"label": "a"}, {"label": None}],
            {"label_field": "label"},
            "2: label field 'label' is missing or null",
        ),
        ([{"label": 0.5}], {"label_field": "label"}, "1: label field 'label' is float"),
        ([{"t": "x"}], {}, "1: has neither a 'vector' nor a text in 'text'"),
        ([], {}, "is empty"),
    ],
)
def test_bad_records_are_named(records, options, message, tmp_path):
    path = lines(tmp_path / "a.jsonl", *records)
    with pytest.raises(OrdtoolError, match=f"a.jsonl:? ?{message}"):
        read_variable(path, VariablesConfig(**options))


def test_ids_must_agree(tmp_path):
    a = lines(tmp_path / "a.jsonl", *({"id": i, "vector": [i]} for i in range(5)))
    b = lines(tmp_path / "b.jsonl", *({"id": i if i != 3 else 9, "vector": [i]} for i in range(5)))
    np.save(tmp_path / "c.npy", np.ones((5, 1)))
    variables = [read_variable(str(tmp_path / name)) for name in ("c.npy", "a.jsonl", "b.jsonl")]
    check_ids(variables[:2])
    with pytest.raises(OrdtoolError, match=r"a\.jsonl:4 has id 3 and .*b\.jsonl:4 has id 9"):
        check_ids(variables)
    assert read_variable(a).ids != read_variable(b).ids


def test_records_without_an_id_leave_the_others_to_be_checked(tmp_path):
    rows = [{"id": i, "vector": [i]} for i in range(5)]
    a = lines(tmp_path / "a.jsonl", rows[0], {"vector": [1]}, *rows[2:])
    b = lines(tmp_path / "b.jsonl", *reversed(rows))
    c = lines(tmp_path / "c.jsonl", rows[0], {"id": 7, "vector": [1]}, *rows[2:])
    with pytest.raises(OrdtoolError, match=r"a\.jsonl:1 has id 0 and .*b\.jsonl:1 has id 4"):
        check_ids([read_variable(a), read_variable(b)])
    check_ids([read_variable(a), read_variable(c)])
    with pytest.raises(OrdtoolError, match=r"c\.jsonl:2 has id 7 and .*d\.jsonl:2 has id 1"):
        d = lines(tmp_path / "d.jsonl", *rows)
        check_ids([read_variable(path) for path in (a, c, d)])


def test_layers_in_the_order_of_their_numbers(tmp_path):
    for name in ("layer-10.npy", "layer-2.npy", "layer-0.npy", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.rsplit("/", 1)[1] for path in layer_files(str(tmp_path))] == [
        "layer-0.npy",
        "layer-2.npy",
        "layer-10.npy",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(OrdtoolError, match=r"holds no \.npy files"):
        layer_files(str(tmp_path / "empty"))
