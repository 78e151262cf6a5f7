"""Models of `ordtool train lm`: extrapolated as a Llama of the same weights is, or refused by name."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ordtool.errors import OrdtoolError
from ordtool.extrapolation.evaluation import Grid, check_grid, evaluate
from ordtool.extrapolation.methods import METHODS
from ordtool.extrapolation.patch import context_extension
from ordtool.lm.model import OrdtoolLMConfig, OrdtoolLMForCausalLM
from ordtool.models.releases import cache_argument, cache_of

TRAINED, N = 13, 41
SHAPE = {
    "vocab_size": 61, "hidden_size": 66, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 3, "max_position_embeddings": TRAINED, "rope_theta": 97.0,
}  # fmt: skip
NAMES = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attention": "self_attn",
}
SPECS = [
    *(set(METHODS) - {"longrope"}),
    "rerope+logn",
    "ntk-mixed+logn",
    "leaky-rerope:window=5:leak=3+yarn+logn",
]


@pytest.fixture
def tokens():
    return torch.randint(3, 61, (3, N), generator=torch.Generator().manual_seed(5))


def own(dtype=torch.float64, **options):
    torch.manual_seed(7)
    model = OrdtoolLMForCausalLM(OrdtoolLMConfig(**{**SHAPE, "key_size": 10, "value_size": 10, **options}))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.to(dtype).eval()


def llama_of(model):
    """The same weights in a Llama, whose oracle is in `test_reference`."""
    rope = {"rope_type": "default", "rope_theta": 97.0}
    options = {name: value for name, value in SHAPE.items() if name != "rope_theta"}
    config = LlamaConfig(**options, head_dim=10, rope_parameters=rope, tie_word_embeddings=True)
    llama = LlamaForCausalLM(config).double().eval()
    weights = {}
    for name, value in model.state_dict().items():
        parts = [NAMES.get(part, part) for part in name.split(".")]
        if parts[-2] in ("gate_proj", "up_proj", "down_proj"):
            parts.insert(-2, "mlp")
        weights[".".join(parts)] = value
    llama.load_state_dict(weights)
    return llama


@torch.no_grad()
def test_every_method_is_that_of_a_llama(tokens):
    model = own()
    llama = llama_of(model)
    untouched = model(tokens).logits
    torch.testing.assert_close(untouched, llama(tokens).logits, rtol=0, atol=1e-5)
    for spec in SPECS:
        with context_extension(model, spec, length=52), context_extension(llama, spec, length=52):
            found, wanted = model(tokens).logits, llama(tokens).logits
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5, msg=spec)
        assert torch.equal(model(tokens).logits, untouched), spec


@pytest.mark.parametrize(
    "options",
    [
        {"positions": "keynorm"},
        {"positions": "cosine"},
        {"positions": "random"},
        {"positions": "inverse-leaky"},
        {"logn": True},
        {"logn": "trained", "value_size": 7},
    ],
    ids=str,
)
@torch.no_grad()
def test_cached_is_uncached_with_padding(options, tokens):
    model = own(**options)
    specs = [
        spec
        for spec in ("rerope", "dca", "dynamic-ntk", "yarn", "window+logn")
        if not ("logn" in spec and model.config.logn)
    ]
    mask = torch.ones_like(tokens)
    mask[1, :11] = 0
    for spec in specs:
        with context_extension(model, spec, length=52):
            whole = model(tokens, attention_mask=mask).logits
            alone = model(tokens[1:2, 11:]).logits
            cache, pieces = None, []
            for low, high in ((0, 19), (19, 20), (20, N)):
                out = model(
                    tokens[:, low:high],
                    attention_mask=mask[:, :high],
                    **cache_argument(cache),
                    use_cache=True,
                )
                cache = cache_of(out)
                pieces.append(out.logits)
        found = torch.cat(pieces, 1)
        torch.testing.assert_close(found[0], whole[0], rtol=0, atol=1e-5, msg=spec)
        torch.testing.assert_close(found[1, 11:], whole[1, 11:], rtol=0, atol=1e-5, msg=spec)
        torch.testing.assert_close(alone[0], whole[1, 11:], rtol=0, atol=1e-5, msg=spec)


@torch.no_grad()
def test_position_methods_leave_short_texts_as_they_are(tokens):
    """Within the window everything is as trained, also with scores by the logarithm of the length."""
    for options in (
        {"positions": "keynorm"},
        {"logn": "trained"},
        {"positions": "inverse-leaky", "logn": True},
    ):
        model = own(torch.float32, **options)
        before = model(tokens[:, :7]).logits
        with context_extension(model, "rerope:window=7"):
            torch.testing.assert_close(model(tokens[:, :7]).logits, before, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"positions": "nope"}, "without positions"),
        ({"positions": "alibi"}, "ALiBi, a penalty on distances"),
        ({"positions": "kerple"}, "KERPLE"),
        ({"positions": "sandwich"}, "Sandwich"),
        ({"positions": "xpos"}, "decay with the distance"),
        ({"positions": "hwfa"}, "windows, within which no distance is new"),
        ({"positions": "hwfa2"}, "ReRoPE of its own"),
        ({"positions": "rnope-swa"}, "full layers without positions"),
        ({"positions": "rerope"}, "trained with ReRoPE"),
        ({"objective": "prefix"}, "objective prefix"),
        ({"talking_heads": True}, "heads talk"),
    ],
    ids=str,
)
def test_what_can_not_be_changed_is_measured_as_it_is(options, reason, tokens):
    model = own(**options)
    for spec in ("rerope", "ntk", "logn"):
        with pytest.raises(OrdtoolError, match=reason) as caught, context_extension(model, spec, length=52):
            pass
        assert str(caught.value).startswith("OrdtoolLMForCausalLM: can't be extrapolated")
    grid = Grid(("none",), (13, 41), TRAINED)
    check_grid(model, grid)
    rows = [row for cell in evaluate(model, tokens, grid) for row in cell]
    assert [row.length for row in rows] == [13, 41]
    with pytest.raises(OrdtoolError, match=reason):
        check_grid(model, Grid(("none", "rerope"), (13, 41), TRAINED))


@torch.no_grad()
def test_pairs_that_do_not_turn_are_left_so(tokens):
    model = own(positions="p-rope")
    with (
        pytest.raises(OrdtoolError, match="trained not to turn"),
        context_extension(model, "yarn", length=52),
    ):
        pass
    before = model(tokens[:, :7]).logits
    with context_extension(model, "rerope:window=7"):
        torch.testing.assert_close(model(tokens[:, :7]).logits, before, rtol=0, atol=1e-5)


def test_a_logarithm_is_enough():
    with (
        pytest.raises(OrdtoolError, match="logarithm of the length already"),
        context_extension(own(logn=True), "logn"),
    ):
        pass


def test_a_table_of_positions_has_an_end():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=24, n_layer=1, n_head=2, n_positions=16)).eval()
    check_grid(model, Grid(("none",), (8, 16), 16))
    with pytest.raises(OrdtoolError, match="learned a vector for each position, and has none from 16 on"):
        check_grid(model, Grid(("none",), (8, 32), 16))
