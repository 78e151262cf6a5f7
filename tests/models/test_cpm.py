"""CPM's original checkpoint: written here as Megatron writes it, read back as a GPT-2, against the definition."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import layer_norm, linear

from ordtool.errors import OrdtoolError
from ordtool.models.cpm import convert_cpm, find_ranks

HIDDEN, HEADS, LAYERS, PIECES, CONTEXT = 24, 4, 3, 40, 32


def weights(seed=0):
    """The whole model's weights, by the checkpoint's names."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {
        "word_embeddings.weight": (PIECES, HIDDEN),
        "position_embeddings.weight": (CONTEXT, HIDDEN),
        "transformer.final_layernorm.weight": (HIDDEN,),
        "transformer.final_layernorm.bias": (HIDDEN,),
    }
    for layer in range(LAYERS):
        for name, out, inner in (
            ("attention.query_key_value", 3 * HIDDEN, HIDDEN),
            ("attention.dense", HIDDEN, HIDDEN),
            ("mlp.dense_h_to_4h", 4 * HIDDEN, HIDDEN),
            ("mlp.dense_4h_to_h", HIDDEN, 4 * HIDDEN),
        ):
            shapes[f"transformer.layers.{layer}.{name}.weight"] = (out, inner)
            shapes[f"transformer.layers.{layer}.{name}.bias"] = (out,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"transformer.layers.{layer}.{name}.weight"] = (HIDDEN,)
            shapes[f"transformer.layers.{layer}.{name}.bias"] = (HIDDEN,)
    return {name: torch.randn(shape, generator=draw) * 0.3 for name, shape in shapes.items()}


def attention_rows(rank, ranks):
    """The rows of q, k and v that a rank keeps: those of its heads."""
    size = HIDDEN // ranks
    return torch.cat([torch.arange(size) + part * HIDDEN + rank * size for part in range(3)])


def share(name, weight, rank, ranks):
    """What a rank keeps of a weight."""
    if "query_key_value" in name:
        return weight[attention_rows(rank, ranks)]
    if "word_embeddings" in name or "h_to_4h" in name:
        return weight.chunk(ranks)[rank]
    if name.endswith(("attention.dense.weight", "4h_to_h.weight")):
        return weight.chunk(ranks, dim=1)[rank]
    return weight


def save(folder, whole, ranks, prefix=""):
    inner = folder / "80000"
    inner.mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("80000\n")
    for rank in range(ranks):
        module = {prefix + name: share(name, w, rank, ranks).clone() for name, w in whole.items()}
        state = {"module": module, "iteration": 80000, "np_rng_state": np.random.RandomState(3).get_state()}
        torch.save(state, inner / f"mp_rank_{rank:02d}_model_states.pt")
    return folder


def logits_by_definition(whole, ids):
    """GPT-2 of the original: pre-norm, tanh GELU, heads of contiguous rows, the embedding as softmax layer."""

    def dense(x, name):
        return linear(x, whole[f"{name}.weight"], whole[f"{name}.bias"])

    def norm(x, name):
        return layer_norm(x, (HIDDEN,), whole[f"{name}.weight"], whole[f"{name}.bias"], 1e-5)

    n, size = len(ids), HIDDEN // HEADS
    x = whole["word_embeddings.weight"][ids] + whole["position_embeddings.weight"][:n]
    past = torch.ones(n, n).tril()
    for layer in range(LAYERS):
        at = f"transformer.layers.{layer}."
        q, k, v = dense(norm(x, at + "input_layernorm"), at + "attention.query_key_value").chunk(3, dim=-1)
        heads = []
        for head in range(HEADS):
            rows = slice(head * size, (head + 1) * size)
            scores = q[:, rows] @ k[:, rows].T / math.sqrt(size)
            heads.append((scores * past - 10000 * (1 - past)).softmax(-1) @ v[:, rows])
        x = x + dense(torch.cat(heads, dim=-1), at + "attention.dense")
        y = dense(norm(x, at + "post_attention_layernorm"), at + "mlp.dense_h_to_4h")
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + dense(y, at + "mlp.dense_4h_to_h")
    return norm(x, "transformer.final_layernorm") @ whole["word_embeddings.weight"].T


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A `.model` file with CPM's special pieces, written by hand: a piece is field 1 of 1, its score a float."""
    pieces = ["<unk>", "<s>", "</s>", "▃", "<sep>", "<pad>", "<mask>", "<eod>", "▁", ",", "▂"]
    pieces += [chr(0x4E00 + i) for i in range(PIECES - len(pieces))]
    data = b""
    for piece in pieces:
        text = piece.encode()
        body = b"\x0a" + bytes([len(text)]) + text + b"\x15" + np.float32(-1).tobytes()
        data += b"\x0a" + bytes([len(body)]) + body
    file = tmp_path_factory.mktemp("v") / "chinese_vocab.model"
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_logits_are_the_originals(tmp_path, vocabulary, ranks):
    from transformers import AutoModelForCausalLM

    whole = weights()
    folder = convert_cpm(
        save(tmp_path / "cpm", whole, ranks, prefix="module." if ranks == 2 else ""),
        vocabulary,
        tmp_path / "out",
        heads=HEADS,
    )
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = torch.tensor([3, 17, 39, 0, 25, 8, 8])
    with torch.no_grad():
        found = model(input_ids=ids[None]).logits[0]
    torch.testing.assert_close(found, logits_by_definition(whole, ids), atol=1e-4, rtol=1e-5)
    assert (model.config.eos_token_id, model.config.pad_token_id, model.config.bos_token_id) == (7, 5, 1)
    assert (folder / "chinese_vocab.model").read_bytes() == vocabulary.read_bytes()


def test_several_shards_keep_the_dtype(tmp_path, vocabulary, monkeypatch):
    from transformers import AutoModelForCausalLM

    from ordtool.models import cpm

    whole = {name: weight.half() for name, weight in weights().items()}
    source = save(tmp_path / "cpm", whole, 2)
    monkeypatch.setattr(cpm, "_SHARD", 20_000)
    folder = convert_cpm(source / "80000", vocabulary, tmp_path / "out", heads=HEADS)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.float16
    assert torch.equal(model.transformer.wte.weight, whole["word_embeddings.weight"])


def test_what_is_no_checkpoint_is_refused(tmp_path, vocabulary):
    def refused(source, match, **options):
        with pytest.raises(OrdtoolError, match=match):
            convert_cpm(source, options.pop("vocabulary", vocabulary), tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    refused(tmp_path, "no mp_rank_00")
    whole = weights()
    source = save(tmp_path / "a", whole, 2)
    refused(source, "no such file", vocabulary=tmp_path / "none.model")
    refused(source, "24 hidden don't make 0 heads")
    refused(source, "don't make 3 heads", heads=3)
    (source / "80000" / "mp_rank_00_model_states.pt").rename(source / "80000" / "mp_rank_02_model_states.pt")
    refused(source, "mp_rank_00_model_states.pt is missing")
    torch.save({"module": {**whole, "more": torch.zeros(1)}}, tmp_path / "mp_rank_00_model_states.pt")
    refused(tmp_path, "no GPT-2 has the weight more", heads=HEADS)
    torch.save({"model": whole}, tmp_path / "mp_rank_00_model_states.pt")
    refused(tmp_path, "no weights under 'module'")
    (tmp_path / "mp_rank_00_model_states.pt").write_bytes(b"not a checkpoint")
    refused(tmp_path, "can't be read as weights alone")
    # A class of the file's own is never made.
    torch.save({"module": whole, "args": Arguments()}, tmp_path / "mp_rank_00_model_states.pt")
    refused(tmp_path, "can't be read as weights alone")
    assert not Arguments.made


class Arguments:
    """What training scripts leave in checkpoints; here it would tell that it was run."""

    made = False

    def __setstate__(self, state):
        Arguments.made = True


def test_ranks_are_in_order(tmp_path):
    for rank in (1, 0, 10, *range(2, 10)):
        (tmp_path / f"mp_rank_{rank:02d}_model_states.pt").touch()
    assert [file.name[8:10] for file in find_ranks(tmp_path)] == [f"{rank:02d}" for rank in range(11)]


def test_the_command(run_in_process, tmp_path, vocabulary):
    save(tmp_path / "cpm", weights(), 2)
    done = run_in_process("models", "convert", "cpm", vocabulary, "-o", "out", "--heads", HEADS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"out\n"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["n_layer"] == LAYERS
    again = run_in_process("models", "convert", "cpm", vocabulary, "-o", "out", "--heads", HEADS)
    assert again.returncode == 1 and "out: exists already" in again.stderr
