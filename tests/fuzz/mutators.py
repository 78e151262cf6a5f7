"""What a fuzzer does to inputs: texts, JSON, NPY and safetensors that are almost right, from a seeded generator."""

import io
import json
import struct
from random import Random
from typing import Any

import numpy as np

WORDS = (
    "the a cat dog bird river tree sat ran saw sang on under near red small old and then it was not".split()
)
ODD_WORDS = [
    "", " ", "\t", "\x00", "\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\r", "\u2028", "\u202e", "\ufeff", "\ufffe", "é",
    "e\u0301", "我们", "喜欢", "👩‍👩‍👧", "🇫🇷", "\U0010ffff", "(", ")", "(S", "-LRB-", "[", "]", "{", "}", "{}", '"', "'",
    "\\", "\\n",
    "NaN", "1e999", "-0", "null", "<s>", "</s>", "<pad>", "[PAD]", "[MASK]", "[CLS]", "<unk>", "##x", "%s",
    "{text}", "`epochs`", "...", "…",
    "don't", "U.S.", "3.14", "x" * 300, "ab" * 2000, "/" * 50, "# text = a", "1-2", "--", "-o",
]  # fmt: skip
ODD_BYTES = [
    b"\x00", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\r\n",
    b"\n\n", b"\r", b"\x1f\x8b", b"\x93NUMPY", b"PK\x03\x04", b"PAR1", b"\x1b[2J", b"((((((((", b"{" * 30,
    b"[" * 3000, b'"', b"\t", b",",
]  # fmt: skip
ODD_NUMBERS = [
    0, -1, 1, 2, 3, 7, 255, 65536, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30, -(2**31), 0.5, -0.0, 1e-45,
    1e-320, 1e300, 1e308,
    float("nan"), float("inf"), float("-inf"),
]  # fmt: skip
ODD_VALUES = [
    *ODD_NUMBERS, None, True, False, "", "x", "0", "auto", "../../x", "\ud800", "é" * 40, [], {}, [[]], [None], [1,
    2], ["a"], {"a": 1},
    {"": []},
]  # fmt: skip


def odd_text(rng: Random, words: int = 8) -> str:
    """A line of words, some of them odd."""
    odd = rng.random() * 0.5
    return " ".join(
        rng.choice(ODD_WORDS) if rng.random() < odd else rng.choice(WORDS)
        for _ in range(rng.randint(0, words))
    )


def change_bytes(rng: Random, data: bytes, most: int = 4) -> bytes:
    """Bytes with a few changes: flipped, cut, doubled, moved, and odd ones put in."""
    found = bytearray(data)
    for _ in range(rng.randint(1, most)):
        start = rng.randint(0, len(found))
        length = min(len(found) - start, int(rng.expovariate(0.1)))
        kind = rng.randrange(6)
        if kind == 0 and start < len(found):
            found[start] = rng.randrange(256)
        elif kind == 1:
            del found[start : start + length]
        elif kind == 2:
            found[start:start] = found[start : start + length] * rng.choice([1, 1, 2, 50])
        elif kind == 3:
            found[start:start] = rng.choice(ODD_BYTES)
        elif kind == 4:
            del found[start:]
        else:
            piece = found[start : start + length]
            del found[start : start + length]
            to = rng.randint(0, len(found))
            found[to:to] = piece
    return bytes(found)


def change_json(rng: Random, value: Any, most: int = 2) -> Any:
    """A copy of a JSON value with a few changes: values replaced, keys lost, renamed and put in."""
    found = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, most)):
        places = list(_places(found))
        if not places:
            return rng.choice(ODD_VALUES)
        # Near the top more often than not: large lists lie deep.
        owner, key = rng.choice(places[: rng.choice([10, 40, len(places)])])
        kind = rng.randrange(7)
        if kind <= 2:
            owner[key] = rng.choice(ODD_VALUES)
        elif kind == 3:
            del owner[key]
        elif kind == 4 and isinstance(owner[key], int | float) and not isinstance(owner[key], bool):
            owner[key] = owner[key] * rng.choice([-1, 0, 2, 10, 1000]) + rng.choice([-1, 0, 1, 0.5])
        elif kind == 5:
            other, place = rng.choice(places)
            owner[key] = json.loads(
                json.dumps(other.get(place) if isinstance(other, dict) else rng.choice(other or [0]))
            )
        elif isinstance(owner, dict):
            owner[rng.choice(["x", "text", "dtype", "quantization_config", "rope_scaling", key + "x"])] = (
                rng.choice(ODD_VALUES)
            )
        else:
            owner.insert(key, rng.choice(ODD_VALUES))
    return found


def _places(value: Any) -> Any:
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for number, (key, child) in enumerate(children):
        if number == 60:
            break
        yield value, key
        yield from _places(child)


def json_bytes(rng: Random, value: Any) -> bytes:
    """JSON as bytes, now and then with a change that is no JSON, or nested too deeply."""
    if rng.random() < 0.02:
        return b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    data = json.dumps(value, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
    return change_bytes(rng, data, 2) if rng.random() < 0.15 else data


def odd_array(rng: Random, rows: int, columns: int) -> np.ndarray:
    """Numbers of any kind: usual, constant, huge, tiny, far from zero, few values, with NaN, of other types and orders."""
    draw = np.random.default_rng(rng.randrange(2**32))
    found = draw.standard_normal((rows, columns))
    kind = rng.randrange(12)
    if kind == 0:
        found[:] = rng.choice([0, 1, 1e300, -5])
    elif kind == 1:
        found *= rng.choice([1e300, 1e150, 1e-300, 1e-320, 5e-324, 1e38])
    elif kind == 2:
        found += rng.choice([1e12, -1e8, 1e300])
    elif kind == 3:
        found = np.repeat(found[: max(1, rows // 3)], 3, axis=0)[:rows]
    elif kind == 4 and columns:
        found[:, rng.randrange(columns)] = rng.choice([0, 1e200, float("nan"), float("inf")])
    elif kind == 5:
        found = np.round(found)
    if rng.random() < 0.4:
        types = ["f2", ">f4", ">f8", "i1", "u8", "<i8", "?", "f4", "c16", "M8[s]", "S4", "U3", "i4,f8"]
        with np.errstate(all="ignore"):
            try:
                found = found.astype(rng.choice(types))
            except (TypeError, ValueError):
                pass
    if rng.random() < 0.1:
        found = found.reshape(rng.choice([(-1,), (1, -1), (-1, 1), (1, 1, -1)]))
    return np.asfortranarray(found) if rng.random() < 0.2 else found


def npy_bytes(rng: Random, rows: int, columns: int) -> bytes:
    """An NPY file, half of them damaged in the header or the data."""
    buffer = io.BytesIO()
    np.save(buffer, odd_array(rng, rows, columns), allow_pickle=False)
    data = buffer.getvalue()
    kind = rng.randrange(6)
    if kind == 0:
        return change_bytes(rng, data)
    if kind == 1:
        return odd_header(rng) + data[128:]
    if kind == 2:
        end = min(len(data), 128)
        return change_bytes(rng, data[:end]) + data[end:]
    return data


def odd_header(rng: Random) -> bytes:
    """The header of an NPY file with something else in it."""
    odd = [
        "()",
        "(1,)",
        "(-1, 3)",
        f"({2**62}, 4)",
        f"({10**30}, 2)",
        "(3.5, 2)",
        "(True, 2)",
        "'x'",
        "(3, 0)",
        "None",
        "(9,9,9,9)",
    ]
    shape = rng.choice(odd)
    types = [
        "'<f8'",
        "'<f4'",
        "'|O'",
        "'>i2'",
        "'V8'",
        "'<f99'",
        "[('a','<f8')]",
        "None",
        "'" + "x" * 500 + "'",
        "3",
        "'<U9'",
        "('<f8', (2,))",
    ]
    order = rng.choice(["True", "False", "0", "None"])
    text = rng.choice(
        [
            f"{{'descr': {rng.choice(types)}, 'fortran_order': {order}, 'shape': {shape}, }}",
            "{'descr': ",
            "{" * 300,
            "(" * 5000,
            "__import__('os')",
            "{'a': 1}",
            "",
            "\\",
            "{'descr': '<f8', 'shape': (3,",
            '"""',
        ]
    )
    raw = text.encode("latin-1")
    version = rng.choice([(1, 0), (1, 0), (2, 0), (3, 0), (9, 9)])
    size = struct.pack(
        "<H" if version[0] == 1 else "<I", len(raw) if rng.random() < 0.9 else rng.randrange(65536)
    )
    return b"\x93NUMPY" + bytes(version) + size + raw


def change_safetensors(rng: Random, data: bytes) -> bytes:
    """A safetensors file with a change in the length of its header, the header, its tensors, or anywhere."""
    size = int.from_bytes(data[:8], "little")
    kind = rng.randrange(7)
    if kind == 0:
        return (
            rng.choice([0, 1, size - 1, size + 1, 2**32, 2**63, 2**64 - 1]).to_bytes(8, "little") + data[8:]
        )
    if kind == 1:
        return change_bytes(rng, data[: rng.choice([64, len(data)])]) + data[64:]
    if kind == 2:
        return data[: rng.randrange(len(data) + 1)]
    if kind == 3:
        body = bytearray(data)
        values = np.array([rng.choice([np.nan, np.inf, 1e38, 0, -1e30, 1e-45])], "f4").tobytes()
        for _ in range(rng.choice([1, 20])):
            start = 8 + size + 4 * rng.randrange(max(1, (len(body) - 8 - size) // 4))
            body[start : start + 4] = values
        return bytes(body)
    header = json.loads(data[8 : 8 + size])
    if kind == 4:
        names = [name for name in header if name != "__metadata__"]
        first, second = rng.choice(names), rng.choice(names)
        header[first], header[second] = header[second], header[first]
    elif kind == 5:
        name = rng.choice(list(header))
        entry = header.pop(name)
        if rng.random() < 0.5:
            header[rng.choice(["x", name + ".x", ""])] = entry
    else:
        header = change_json(rng, header)
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data[8 + size :]
