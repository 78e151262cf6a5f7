"""What differs between releases of transformers, and that a cache which isn't used is found out."""

import inspect

import pytest
import torch
import transformers

from ordtool.errors import OrdtoolError
from ordtool.models.releases import cache_argument, cache_name, cache_of
from ordtool.transformer.config import OrdtoolLMConfig
from ordtool.transformer.model import OrdtoolLMForCausalLM

SHAPE = {"vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
IDS = torch.tensor([[3, 5, 7, 11]])


def made(kind: type[OrdtoolLMForCausalLM]) -> OrdtoolLMForCausalLM:
    torch.manual_seed(0)
    config = OrdtoolLMConfig(**SHAPE, intermediate_size=20, initializer_range=0.4)
    return kind(config).eval()


def test_the_cache_has_the_name_that_transformers_own_models_give_it():
    for kind in (
        transformers.LlamaForCausalLM,
        transformers.BertModel,
        transformers.T5ForConditionalGeneration,
    ):
        assert cache_name() in inspect.signature(kind.forward).parameters
    config = transformers.LlamaConfig(**SHAPE, intermediate_size=20)
    out = transformers.LlamaForCausalLM(config)(IDS, use_cache=True)
    assert cache_of(out).get_seq_length() == 4
    assert cache_name() in out


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_own_models_take_a_cache_under_either_name(name):
    model = made(OrdtoolLMForCausalLM)
    whole = model(IDS, use_cache=False).logits
    read = model(IDS[:, :3], use_cache=True)
    step = model(IDS[:, 3:], **{name: cache_of(read)})
    torch.testing.assert_close(step.logits[:, -1], whole[:, -1])


class Renaming(OrdtoolLMForCausalLM):
    """Called as by a release that has another name for the cache."""

    def forward(self, *args, **kwargs):
        return super().forward(
            *args, **{"kv_cache" if n == cache_name() else n: v for n, v in kwargs.items()}
        )


class Forgetting(OrdtoolLMForCausalLM):
    """Called as by a release that gives no cache at all, and new tokens alone."""

    def forward(self, *args, **kwargs):
        kwargs.pop(cache_name(), None)
        return super().forward(*args, **kwargs)


class Unfilled(OrdtoolLMForCausalLM):
    """One whose layers don't write into the cache."""

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.attention.register_forward_pre_hook(lambda module, args: (*args[:-1], None))


@pytest.mark.parametrize("kind", [Renaming, Forgetting, Unfilled])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_cache_that_is_not_used_is_an_error_and_no_text(kind, beams):
    assert made(OrdtoolLMForCausalLM).generate(IDS, max_new_tokens=4, num_beams=beams).shape == (1, 8)
    with pytest.raises(OrdtoolError, match="handles a model's cache in a way that isn't known here"):
        made(kind).generate(IDS, max_new_tokens=4, num_beams=beams)


def test_a_second_cache_that_is_not_filled_is_an_error():
    model = made(OrdtoolLMForCausalLM)
    cache = transformers.DynamicCache()
    cache.side = transformers.DynamicCache()
    with pytest.raises(OrdtoolError, match="still holds 0 tokens"):
        model(IDS, use_cache=True, **cache_argument(cache))
