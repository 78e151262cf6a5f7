"""What differs between releases of transformers, and that a cache which isn't used is found out."""

import inspect
import subprocess
import sys

import pytest
import torch
import transformers

from ordtool.errors import OrdtoolError
from ordtool.lm.config import OrdtoolLMConfig
from ordtool.lm.model import OrdtoolLMForCausalLM
from ordtool.models import releases
from ordtool.models.releases import cache_argument, cache_name, cache_of

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


@pytest.fixture(scope="module")
def llama():
    config = transformers.LlamaConfig(
        **SHAPE | {"hidden_size": 24}, intermediate_size=20, max_position_embeddings=64
    )
    return transformers.LlamaForCausalLM(config).eval()


def test_names_of_attention(llama):
    assert releases.attention_can_be_replaced(llama) and not releases.attention_can_be_replaced(
        torch.nn.Linear(1, 1)
    )
    before = releases.attention_name(llama.config)
    assert before == "sdpa"
    releases.name_attention(llama.config, "eager")
    assert releases.attention_name(llama.config) == "eager"
    llama(IDS)
    releases.name_attention(llama.config, before)


def test_an_attention_out_of_the_table_with_a_causal_mask(llama):
    query, key, value = torch.randn(3, 1, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    mask = releases.causal_mask(llama.config, torch.zeros(1, 4, 24), torch.tensor([[0, 1, 1, 1]]), None, None)
    attention = next(module for module in llama.modules() if hasattr(module, "q_proj"))
    out = releases.attention_function("sdpa")(attention, query, key, value, mask, scaling=8**-0.5)[0]
    seen = torch.ones(4, 4, dtype=torch.bool).tril()
    seen[:, 0] = False
    scores = (query @ key.mT * 8**-0.5).masked_fill(~seen, -torch.inf).softmax(-1)
    torch.testing.assert_close(out[:, 1:], (scores[:, :, 1:] @ value).transpose(1, 2))


def test_the_rule_of_masks_is_the_past():
    assert [bool(releases.plain_causal_rule()(0, 0, 2, key)) for key in range(4)] == [True, True, True, False]


def test_rotation_and_frequencies(llama):
    rotate = releases.rotation_of(llama.base_model)
    half = torch.full((1, 1, 8), torch.pi / 2)
    query, _ = rotate(torch.eye(8)[None, None, :1], torch.zeros(1, 1, 1, 8), half.cos(), half.sin())
    torch.testing.assert_close(query[0, 0, 0], torch.eye(8)[4], atol=1e-6, rtol=0)
    config = transformers.LlamaConfig(**SHAPE | {"hidden_size": 24}, max_position_embeddings=64)
    config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0}
    found, scaling = releases.rope_frequencies("linear", config, torch.device("cpu"), None)
    torch.testing.assert_close(found, 100.0 ** -(torch.arange(0, 8, 2) / 8) / 4)
    assert scaling == 1


def test_activations_and_first_values():
    torch.testing.assert_close(
        releases.activation("relu")(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0])
    )
    empty = torch.zeros(2)
    releases.fill(empty, torch.tensor([1.0, 2.0]))
    assert empty.tolist() == [1, 2]


def test_products_of_onednn_and_attention_with_its_log_sum_exp():
    draw = torch.Generator().manual_seed(0)
    weight, bias, rows = (torch.randn(*size, generator=draw) for size in ((5, 7), (5,), (3, 7)))
    if releases.has_onednn_linear():
        product = releases.onednn_linear(weight, bias, 3, "relu")
        torch.testing.assert_close(product(rows), (rows @ weight.T + bias).relu())
    assert releases.has_attention_with_lse(), "extrapolation works without, but slower"
    query, key, value = torch.randn(3, 1, 2, 4, 8, generator=draw)
    output, lse = releases.attention_with_lse(query, key, value, None, 0.5)
    scores = query @ key.mT * 0.5
    torch.testing.assert_close(lse, scores.logsumexp(-1))
    torch.testing.assert_close(output, scores.softmax(-1) @ value)


def test_one_device_a_process(tmp_path):
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    releases.one_device_a_process(arguments)
    assert arguments.n_gpu == 0


def test_a_module_without_its_packages():
    code = (
        "import sys\nfrom ordtool.models.releases import import_without_packages\n"
        "module = import_without_packages('nltk.tokenize.destructive', ('nltk', 'nltk.tokenize'))\n"
        "assert module.NLTKWordTokenizer().tokenize(\"can't\") == ['ca', \"n't\"]\n"
        "assert not {'nltk', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "import nltk\nassert nltk.word_tokenize and 'nltk.corpus' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
