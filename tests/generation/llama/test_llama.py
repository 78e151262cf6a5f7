"""The Llama without transformers is the one of transformers, to the last bit; what it doesn't know it leaves alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations import sdpa_attention

from ordtool.generation.llama.llama import attend, causal_mask, plain_shape, read_llama
from ordtool.models.entries import catalogue, model_folder
from ordtool.models.releases import cache_argument, cache_of

CPU = torch.device("cpu")
SHAPE = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "vocab_size": 331}
SHAPES = {
    "heads": {"num_attention_heads": 3},
    "groups": {"num_attention_heads": 6, "num_key_value_heads": 2, "rope_parameters": {"rope_theta": 500.0}},
    "tied": {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "wide": {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def get(name):
        if name == "tinylm":
            return model_folder(catalogue()[name])
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            torch.manual_seed(1)
            config = transformers.LlamaConfig(**SHAPE, **SHAPES[name], initializer_range=0.3)
            transformers.LlamaForCausalLM(config).save_pretrained(made[name])
        return made[name]

    return get


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def both(folder, dtype=torch.float32):
    ours = read_llama(folder, config_of(folder), CPU, dtype)
    return ours, transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", [*SHAPES, "tinylm"])
def test_logits_are_transformers_logits(folders, name, dtype):
    ours, theirs = both(folders(name), dtype)
    draw = torch.Generator().manual_seed(0)

    def ids(*size):
        return torch.randint(3, ours.shape.vocabulary, size, generator=draw)

    def same(a, b, grouped=False):
        assert a.logits.dtype == dtype
        if grouped and not hasattr(
            sdpa_attention, "pack_gqa"
        ):  # it copies keys, and adds up in another order
            torch.testing.assert_close(a.logits, b.logits, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(a.logits, b.logits)

    with torch.inference_mode():
        text = ids(3, 17)
        same(ours(text, use_cache=False), theirs(text, use_cache=False))
        # A padded batch, a token at a time.
        mask = torch.ones_like(text)
        mask[0, :5] = mask[2, :1] = 0
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        step, caches = text, (None, None)
        for _ in range(4):
            now = {"attention_mask": mask, "position_ids": places, "logits_to_keep": 1}
            a = ours(step, cache=caches[0], **now)
            b = theirs(step, **cache_argument(caches[1]), **now)
            # A row of padding at the left may hold anything: nobody looks there.
            same(a, b, grouped=step.shape[1] == 1 and "num_key_value_heads" in SHAPES.get(name, ()))
            caches, step = (a.cache, cache_of(b)), ids(3, 1)
            mask, places = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], 1), places[:, -1:] + 1
        # One text, a token at a time, then several continuations of it at once.
        a, b = ours(text[:1]), theirs(text[:1])
        for _ in range(3):
            step = ids(1, 1)
            a, b = (
                ours(step, cache=a.cache),
                theirs(step, **cache_argument(cache_of(b))),
            )
            same(a, b)
        a.cache.batch_repeat_interleave(4)
        cache_of(b).batch_repeat_interleave(4)
        step = ids(4, 6)
        same(ours(step, cache=a.cache), theirs(step, **cache_argument(cache_of(b))))


@pytest.mark.parametrize("length, past, padded", [(5, 0, True), (1, 4, True), (1, 4, False), (3, 2, False)])
def test_attention_by_its_definition(length, past, padded):
    torch.manual_seed(2)
    query = torch.randn(2, 6, length, 8, dtype=torch.float64)
    key, value = torch.randn(2, 2, 2, past + length, 8, dtype=torch.float64)
    padding = torch.ones(2, past + length, dtype=torch.long)
    if padded:
        padding[0, :2] = 0
    found = attend(query, key, value, causal_mask(padding, past, length, CPU), 0.3)
    for row in range(2):
        for head in range(6):
            for place in range(length):
                seen = [k for k in range(past + place + 1) if padding[row, k]]
                if not seen:
                    continue
                weights = (0.3 * query[row, head, place] @ key[row, head // 3, seen].T).softmax(-1)
                expected = weights @ value[row, head // 3, seen]
                torch.testing.assert_close(found[row, head, place], expected)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mistral"},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"sliding_window": 4},
        {"quantization_config": {"quant_method": "awq"}},
        {"rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3", "factor": 8.0}},
        {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"pretraining_tp": 2},
        {"num_key_value_heads": 2},
        {"num_hidden_layers": "two"},
    ],
    ids=str,
)
def test_what_is_not_known_is_left_alone(folders, change):
    config = config_of(folders("heads"))
    assert plain_shape(config) is not None
    assert plain_shape(config | change) is None


def test_configurations_of_older_versions(folders):
    config = config_of(folders("groups"))
    older = {key: value for key, value in config.items() if key != "rope_parameters"}
    older |= {"rope_theta": 500.0, "rope_scaling": None, "torch_dtype": "float32"}
    assert plain_shape(older) == plain_shape(config)


@pytest.mark.parametrize("fault", ["missing", "more", "shape", "integers", "cut", "shards", "absent"])
def test_weights_that_are_not_the_expected_ones(folders, tmp_path, fault):
    folder = Path(shutil.copytree(folders("heads"), tmp_path / "model"))
    file = folder / "model.safetensors"
    tensors = load_file(file)
    first = "model.layers.0.mlp.up_proj.weight"
    if fault == "missing":
        del tensors[first]
    elif fault == "more":
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    elif fault == "shape":
        tensors[first] = tensors[first].T.contiguous()
    elif fault == "integers":
        tensors[first] = tensors[first].to(torch.int8)
    save_file(tensors, file)
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif fault == "shards":
        file.rename(folder / "model-00001-of-00001.safetensors")
    elif fault == "absent":
        file.unlink()
    assert read_llama(folder, config_of(folder), CPU, torch.float32) is None
