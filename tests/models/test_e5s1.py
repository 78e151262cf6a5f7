"""The 4-bit format against its definition, written and computed by hand."""

import struct
from pathlib import Path

import numpy as np
import pytest

from ordtool.errors import OrdtoolError
from ordtool.models.download.e5s1 import convert_e5s1, read_e5s1, unpack_four_bit


def four_bit_by_hand(weights: np.ndarray) -> bytes:
    """Write blocks of 32 weights as the format's definition says."""
    out = b""
    for block in weights.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 7 or 1)
        quanta = [min(15, max(0, round(float(w) / float(scale)) + 8)) for w in block]
        out += scale.tobytes() + bytes(quanta[j] | quanta[j + 16] << 4 for j in range(16))
    return out


def write_e5s1(path: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """A tiny model in the format: 2 layers, 32 wide, 11 pieces. Gives its tensors."""
    hidden, layers, heads, inner, positions = 32, 2, 2, 64, 10
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁a", -1.0), ("b", -1.5),
              ("ab", -3.0), ("é", -3.0), ("～", -3.0), ("<mask>", 0.0)]  # fmt: skip
    normal = {0x09: " ", 0x01: "", 0xFF41: "a", 0xE9: "é"}
    generator = np.random.default_rng(seed)
    shapes = {"emb.pos": positions * hidden, "emb.type": 2 * hidden, "emb.ln.w": hidden, "emb.ln.b": hidden}
    quantized = {"emb.word": len(pieces) * hidden}
    for layer in range(layers):
        for name, size in {
            "q": hidden,
            "k": hidden,
            "v": hidden,
            "ao": hidden,
            "fi": inner,
            "fo": hidden,
        }.items():
            shapes[f"l{layer}.{name}.b"] = size
            quantized[f"l{layer}.{name}.w"] = size * (inner if name == "fo" else hidden)
        for name in ("aln", "oln"):
            shapes |= {f"l{layer}.{name}.w": hidden, f"l{layer}.{name}.b": hidden}
    blobs, tensors = {}, {}
    for name, size in shapes.items():
        tensors[name] = generator.normal(0, 0.5, size).astype("<f4")
        blobs[name] = (0, size, tensors[name].tobytes())
    for name, size in quantized.items():
        raw = four_bit_by_hand(generator.normal(0, 0.5, size))
        tensors[name] = unpack_four_bit(raw)
        blobs[name] = (1, size, raw)
    texts = [piece.encode() for piece, _ in pieces]
    offsets = np.cumsum([0, *map(len, texts)]).astype("<u4")
    table = b"".join(struct.pack("<IB", p, len(f)) + b"".join(struct.pack("<I", ord(c)) for c in f)
                     for p, f in normal.items())  # fmt: skip
    head = b"E5S1" + struct.pack("<I", 1)
    head += struct.pack("<7ifi", hidden, layers, heads, inner, len(pieces), positions, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, len(b"".join(texts))) + offsets.tobytes()
    head += np.array([score for _, score in pieces], "<f4").tobytes() + b"".join(texts)
    head += struct.pack("<iI", len(normal), len(table)) + table
    directory = sum(2 + len(name) + 21 for name in blobs) + 4
    offset, body, listing = len(head) + directory, b"", struct.pack("<i", len(blobs))
    for name, (kind, count, raw) in blobs.items():
        listing += (
            struct.pack("<H", len(name))
            + name.encode()
            + struct.pack("<BIQQ", kind, count, offset + len(body), len(raw))
        )
        body += raw
    path.write_bytes(head + listing + body)
    return tensors


def test_four_bit_blocks_unpack_to_what_was_packed():
    weights = np.random.default_rng(0).normal(0, 1, 320)
    unpacked = unpack_four_bit(four_bit_by_hand(weights))
    steps = np.abs(weights.reshape(-1, 32)).max(1) / 7
    assert (np.abs(unpacked - weights).reshape(-1, 32) <= steps[:, None] * 0.51 + 1e-3).all()
    low, high = unpack_four_bit(np.float16(1).tobytes() + bytes([0xF0] + [0x88] * 15))[[0, 16]]
    assert (low, high) == (-8, 7)


def test_the_folder_computes_what_the_file_says(tmp_path):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tensors = write_e5s1(tmp_path / "tiny.bin")
    folder = tmp_path / "folder"
    folder.mkdir()
    convert_e5s1(tmp_path / "tiny.bin", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ids = tokenizer("ab").input_ids
    assert ids[0] == 0 and ids[-1] == 2
    with torch.no_grad():
        got = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(got, forward_by_hand(tensors, ids), rtol=1e-4, atol=1e-5)


def forward_by_hand(tensors: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """The encoder as the format's own engine computes it, in float64."""
    from scipy.special import erf, softmax

    t = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def norm(x, name):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12) * t[f"{name}.w"] + t[
            f"{name}.b"
        ]

    def linear(x, name):
        return x @ t[f"{name}.w"].reshape(-1, x.shape[1]).T + t[f"{name}.b"]

    x = t["emb.word"].reshape(-1, 32)[ids] + t["emb.pos"].reshape(-1, 32)[: len(ids)] + t["emb.type"][:32]
    x = norm(x, "emb.ln")
    for layer in ("l0", "l1"):
        q, k, v = (linear(x, f"{layer}.{name}") for name in "qkv")
        heads = [softmax(q[:, s] @ k[:, s].T / 4, axis=1) @ v[:, s] for s in (slice(0, 16), slice(16, 32))]
        x = norm(x + linear(np.concatenate(heads, 1), f"{layer}.ao"), f"{layer}.aln")
        inner = linear(x, f"{layer}.fi")
        inner = 0.5 * inner * (1 + erf(inner / np.sqrt(2)))
        x = norm(x + linear(inner, f"{layer}.fo"), f"{layer}.oln")
    return x


def test_text_is_normalised_as_the_table_says(tmp_path):
    from transformers import AutoTokenizer

    write_e5s1(tmp_path / "tiny.bin")
    folder = tmp_path / "folder"
    folder.mkdir()
    convert_e5s1(tmp_path / "tiny.bin", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def pieces(text):
        return tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)[1:-1]

    assert pieces("ab") == pieces("\uff41b") == pieces("a\x01b")  # full-width a; a control character
    assert pieces("a\tb") == pieces("a  b") == ["▁a", "▁", "b"]
    assert pieces("\uff5e") == ["▁", "～"]  # kept, though NFKC makes it ~
    assert pieces("e\u0301") == pieces("\u00e9")  # an accent of its own


def test_damaged_files(tmp_path):
    write_e5s1(tmp_path / "tiny.bin")
    data = (tmp_path / "tiny.bin").read_bytes()
    (tmp_path / "cut.bin").write_bytes(data[:-5])
    with pytest.raises(OrdtoolError, match="truncated"):
        read_e5s1(tmp_path / "cut.bin")
    (tmp_path / "other.bin").write_bytes(b"GGUF" + data[4:])
    with pytest.raises(OrdtoolError, match="wrong magic"):
        read_e5s1(tmp_path / "other.bin")
