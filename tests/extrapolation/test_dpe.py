"""DPE with a file: what it may hold, key pairs with a cache and padding, and the search that writes it."""

import json
from pathlib import Path

import pytest
import torch

from ordtool.errors import OrdtoolError, UsageError
from ordtool.extrapolation.comparison import ExtrapolateConfig, extrapolate
from ordtool.extrapolation.dpe_search import search_groups
from ordtool.extrapolation.pair_products import pair_products
from ordtool.extrapolation.patch import context_extension
from ordtool.extrapolation.texts import Text
from ordtool.models.releases import cache_argument, cache_of

STORY = (Path(__file__).parents[2] / "examples" / "story.txt").read_text()
N, PAIRS = 41, 5


def written(folder, content):
    (folder / "groups.json").write_text(json.dumps(content))
    return f"dpe:window=5:lengths={folder / 'groups.json'}"


def key_pairs(layers, heads):
    return [
        [[pair for pair in range(PAIRS) if (layer + head + pair) % 3] for head in range(heads)]
        for layer in range(layers)
    ]


@torch.no_grad()
def test_key_pairs_with_a_cache_and_padding(tiny, tmp_path):
    model = tiny("llama")
    tokens = torch.randint(3, 61, (2, N), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(tokens)
    mask[1, :14] = 0
    spec = written(tmp_path, {"lengths": [26, 9, 4], "key_pairs": key_pairs(2, 6)})
    with context_extension(model, spec, length=52):
        whole = model(tokens, attention_mask=mask).logits
        cache, pieces = None, []
        for low, high in ((0, 19), (19, 20), (20, 34), (34, 40), (40, N)):
            out = model(
                tokens[:, low:high], attention_mask=mask[:, :high], **cache_argument(cache), use_cache=True
            )
            cache = cache_of(out)
            pieces.append(out.logits)
        alone = model(tokens[1:, 14:]).logits[0]
    joined = torch.cat(pieces, 1)
    torch.testing.assert_close(joined[0], whole[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(joined[1, 14:], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole[1, 14:], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"long_factor": [1]}, "has no lengths"),
        ({"lengths": [4, 0]}, "lengths must be numbers of tokens"),
        ([], "lengths must be numbers of tokens"),
        ({"lengths": [4], "key_pairs": [[["a"]]]}, "key_pairs must be numbers of pairs"),
        ([9] * 6, "there are 6 lengths, and the pairs of coordinates that turn are 5"),
        ({"lengths": [9], "key_pairs": key_pairs(3, 6)}, "the key pairs are not LlamaForCausalLM's"),
        ({"lengths": [9], "key_pairs": key_pairs(2, 5)}, "the key pairs are not LlamaForCausalLM's"),
        ({"lengths": [9], "key_pairs": [[[5]] * 6] * 2}, "the key pairs are not LlamaForCausalLM's"),
    ],
)
def test_files_that_do_not_fit_are_refused(content, reason, tiny, tmp_path):
    with pytest.raises(OrdtoolError, match=reason):
        with context_extension(tiny("llama"), written(tmp_path, content), length=52):
            pass


@pytest.mark.parametrize("family", ["qwen2", "cohere", "phi3"])
@torch.no_grad()
def test_products_of_pairs_are_those_of_the_projections(family, tiny):
    model = tiny(family)
    tokens = torch.randint(3, 61, (2, 17), generator=torch.Generator().manual_seed(6))
    seen = {}

    def note(name):
        return lambda module, inputs, output: seen.__setitem__(name, output)

    for number, layer in enumerate(model.model.layers):
        for name in ("q", "k") if family != "phi3" else ("qkv",):
            getattr(layer.self_attn, f"{name}_proj").register_forward_hook(note((number, name)))
    found = pair_products(model, tokens)
    assert found.shape == (2, 6, PAIRS)
    for layer in range(2):
        if family == "phi3":
            states = seen[layer, "qkv"].view(2, 17, -1, 14)
            query, key = states[:, :, :6], states[:, :, 6:9]
        else:
            query, key = (seen[layer, name].view(2, 17, -1, 10) for name in ("q", "k"))
        for head in range(6):
            for pair in range(PAIRS):
                places = [2 * pair, 2 * pair + 1] if family == "cohere" else [pair, pair + PAIRS]
                wanted = query[:, :, head, places].norm(dim=-1) * key[:, :, head // 2, places].norm(dim=-1)
                assert float(found[layer, head, pair]) == pytest.approx(float(wanted.mean()), rel=1e-5)


def test_a_search_is_no_worse_than_what_it_began_with_and_can_be_read(tmp_path):
    options = {"lengths": (128,), "train_length": 64, "windows": 2}
    config = ExtrapolateConfig(**options)
    found = search_groups([Text("story", STORY)], "dpe:window=64", config)
    assert set(found.lengths) <= {32.0, 64.0, 128.0} and len(found.lengths) == 8
    assert min(found.checked.values()) <= found.checked["L/2"]
    content = {"lengths": found.lengths, "key_pairs": found.key_pairs}
    method = written(tmp_path, content).replace("window=5", "window=64")
    (row,) = extrapolate(STORY, methods=(method,), **options)
    best = min(found.checked, key=found.checked.get)
    assert row.loss == pytest.approx((found.losses[best] + found.checked[best]) / 2, abs=1e-6)
    with pytest.raises(UsageError, match="the longest length is 64"):
        search_groups([Text("story", STORY)], "dpe", ExtrapolateConfig(lengths=(64,), train_length=64))
    with pytest.raises(UsageError, match="searched alone"):
        search_groups([Text("story", STORY)], "dpe+logn", config)
