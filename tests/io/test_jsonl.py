import json
import math
import re
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ordtool.io.jsonl import dumps

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def finite(value):
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [finite(v) for v in value]
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return value


@given(values)
def test_one_line_of_valid_json(value):
    line = dumps(value)
    assert "\n" not in line
    line.encode("utf-8")
    assert json.loads(line) == finite(value)


def test_numpy_and_paths():
    obj = {
        "a": np.float32(1.5),
        "b": np.arange(2),
        "c": np.array([np.nan, 1.0]),
        "d": Path("x/y"),
        "e": np.bool_(True),
    }
    assert json.loads(dumps(obj)) == {"a": 1.5, "b": [0, 1], "c": [None, 1.0], "d": "x/y", "e": True}


def test_lone_surrogates_stay_escaped():
    assert json.loads(dumps({"text": "\ud800é"})) == {"text": "\ud800é"}


def test_text_is_not_escaped():
    assert dumps("[bold] 床前明月光") == '"[bold] 床前明月光"'


def test_no_control_character_stands_as_it_is():
    text = "".join(map(chr, range(0xA1))) + "\u2028é"
    line = dumps({"text": text})
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line) and json.loads(line)["text"] == text
    assert "\u2028é" in line
