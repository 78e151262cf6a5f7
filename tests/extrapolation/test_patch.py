import copy
import re
from pathlib import Path

import pytest
import torch
import transformers

from ordtool.errors import OrdtoolError, UsageError
from ordtool.extrapolation.context_extension import RotaryContextExtension
from ordtool.extrapolation.methods import METHODS
from ordtool.extrapolation.patch import context_extension
from ordtool.extrapolation.replacement import NAME
from ordtool.models.releases import cache_argument, cache_of

TRAINED, N = 13, 41
LONGROPE = f"longrope:factors={Path(__file__).with_name('longrope.json')}"
DPE = f"dpe:window=3:lengths={Path(__file__).with_name('dpe.json')}"
SPECS = [name for name, method in METHODS.items() if not method.needs_file]
SPECS += [LONGROPE, DPE, "yarn:ramp=turns", "dca:chunk=20:context=26+yarn", "rerope+logn", "ntk-mixed+logn"]
SPECS += ["leaky-rerope:window=5:leak=3+yarn+logn"]
FAMILIES = ["llama", "qwen3", "gpt_neox", "cohere"]


@pytest.fixture
def tokens():
    return torch.randint(3, 61, (3, N), generator=torch.Generator().manual_seed(5))


def padded(tokens, lengths):
    """The last `length` tokens of each row, padded on the left with whatever was there."""
    mask = torch.zeros_like(tokens)
    for row, length in enumerate(lengths):
        mask[row, -length:] = 1
    return tokens * mask, mask


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cached_is_uncached(family, tiny, tokens):
    """Whole at once; in a first piece, single tokens and a second piece."""
    model = tiny(family)
    for spec in SPECS:
        with context_extension(model, spec, length=52):
            whole = model(tokens, use_cache=False).logits
            cache, pieces = None, []
            for low, high in ((0, 19), (19, 20), (20, 21), (21, 34), (34, N)):
                out = model(tokens[:, low:high], **cache_argument(cache), use_cache=True)
                cache = cache_of(out)
                pieces.append(out.logits)
        torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-5, msg=spec)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_left_padding_is_harmless(family, tiny, tokens):
    """Rows of 41, 30 and 17 tokens give what each gives alone; so do steps with a cache."""
    model = tiny(family)
    lengths = (N, 30, 17)
    ids, mask = padded(tokens, lengths)
    at = (mask.cumsum(-1) - 1).clamp(min=0)  # as generate counts them
    for spec in SPECS:
        with context_extension(model, spec, length=52):
            batch = model(ids, attention_mask=mask, position_ids=at).logits
            cache, last = None, []
            for low, high in ((0, N - 2), (N - 2, N - 1), (N - 1, N)):
                out = model(
                    ids[:, low:high],
                    attention_mask=mask[:, :high],
                    position_ids=at[:, low:high],
                    **cache_argument(cache),
                    use_cache=True,
                )
                cache = cache_of(out)
                last.append(out.logits[:, -1:])
            for row, length in enumerate(lengths):
                alone = model(tokens[row : row + 1, -length:]).logits[0]
                torch.testing.assert_close(batch[row, -length:], alone, rtol=0, atol=1e-5, msg=spec)
                torch.testing.assert_close(torch.cat(last, 1)[row], alone[-3:], rtol=0, atol=1e-5, msg=spec)


@torch.no_grad()
def test_padding_on_the_right_and_in_the_middle(tiny, tokens):
    model = tiny("llama")
    mask = torch.ones_like(tokens)
    mask[0, 30:], mask[1, 11:17] = 0, 0
    with context_extension(model, "dca"):
        found = model(tokens, attention_mask=mask).logits
        cut = model(tokens[:1, :30]).logits[0]
        holed = model(torch.cat([tokens[1:2, :11], tokens[1:2, 17:]], 1)).logits[0]
    torch.testing.assert_close(found[0, :30], cut, rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.cat([found[1, :11], found[1, 17:]]), holed, rtol=0, atol=1e-9)


@pytest.mark.parametrize("spec", SPECS)
@torch.no_grad()
def test_generate_is_greedy_search_without_a_cache(spec, tiny, tokens):
    model = tiny("llama")
    ids, mask = padded(tokens[:, :23], (23, 17, 5))
    with context_extension(model, spec, length=29):
        found = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=None)
        beams = model.generate(
            ids, attention_mask=mask, max_new_tokens=4, num_beams=3, do_sample=False, eos_token_id=None
        )
        for _ in range(6):
            step = model(ids, attention_mask=mask, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
            ids, mask = torch.cat([ids, step], 1), torch.cat([mask, torch.ones_like(step)], 1)
    assert torch.equal(found, ids)
    assert beams.shape == (3, 27)


@pytest.mark.parametrize("name", ["ntk", "yarn"])
@torch.no_grad()
def test_dynamic_methods_without_a_length_follow_the_text(name, tiny, tokens):
    """Each step rotates all raw keys anew; with one layer that is what no cache would give."""
    model = tiny("llama", num_hidden_layers=1)
    with context_extension(model, f"dynamic-{name}"):
        cache = cache_of(model(tokens[:, :-1], use_cache=True))
        step = model(tokens[:, -1:], **cache_argument(cache)).logits[:, -1]
        whole = model(tokens).logits[:, -1]
    with context_extension(model, f"{name}:factor={N / TRAINED}"):
        fixed = model(tokens).logits[:, -1]
    torch.testing.assert_close(step, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole, fixed, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_dynamic_methods_leave_every_bit_within_the_trained_length(family, dtype, tiny, tokens):
    """A text, steps with a cache, several tokens at a time; whether the length is known or not."""
    model = tiny(family, dtype)

    def read():
        pieces, cache = [], None
        for low, high in ((0, 5), (5, 6), (6, 10), (10, TRAINED)):
            out = model(tokens[:, low:high], **cache_argument(cache), use_cache=True)
            cache = cache_of(out)
            pieces.append(out.logits)
        return [model(tokens[:, :TRAINED]).logits, *pieces]

    wanted = read()
    for spec in ("dynamic-ntk", "dynamic-yarn", "dynamic-yarn:ramp=turns", LONGROPE):
        for length in (None, TRAINED):
            with context_extension(model, spec, length=length):
                assert all(map(torch.equal, read(), wanted)), (spec, length)
        with context_extension(model, spec):
            assert not torch.equal(model(tokens).logits[:, :TRAINED], wanted[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_leaving_restores_every_bit(dtype, tiny, tokens):
    model = tiny("mistral", dtype, sliding_window=11)
    config, state = copy.deepcopy(model.config.to_dict()), set(model.state_dict())
    before = model(tokens).logits
    for spec in SPECS:
        with context_extension(model, spec, length=52, progress=Told()):
            assert model(tokens, logits_to_keep=1).logits.shape[1] == 1
            assert set(model.state_dict()) == state
        assert torch.equal(model(tokens).logits, before), spec
    assert model.config.to_dict() == config


@torch.no_grad()
def test_leaving_by_an_exception_restores_too(tiny, tokens):
    model = tiny("llama")
    before = model(tokens).logits
    for spec in ("rerope", "ntk:factor=2"):
        with pytest.raises(KeyError), context_extension(model, spec):
            raise KeyError
        assert torch.equal(model(tokens).logits, before)


@torch.no_grad()
def test_none_is_the_untouched_model(tiny, tokens):
    model = tiny("llama", torch.float32)
    before = model(tokens).logits
    with context_extension(model, "none") as plan:
        assert torch.equal(model(tokens).logits, before)
        assert plan.does_nothing


@torch.no_grad()
def test_a_window_as_wide_as_the_text_changes_nothing(tiny, tokens):
    model = tiny("qwen2")
    before = model(tokens).logits
    for spec in (
        "rerope:window=41",
        "leaky-rerope:window=50:leak=2",
        "self-extend:window=41:group=2",
        "dpe:window=41:factor=4",
        "window:window=41",
    ):
        with context_extension(model, spec, progress=Told()):
            torch.testing.assert_close(model(tokens).logits, before, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_models_own_window_is_replaced_and_told_of(tiny, tokens):
    """Mistral's window hides keys; a position method shows them again, and its cache keeps them."""
    windowed, plain = tiny("mistral", sliding_window=11), tiny("mistral")
    told = Told()
    with (
        context_extension(windowed, "rerope", window=5, progress=told),
        context_extension(plain, "rerope", window=5),
    ):
        assert torch.equal(windowed(tokens).logits, plain(tokens).logits)
        cache = cache_of(windowed(tokens[:, :-1], use_cache=True))
        step = windowed(tokens[:, -1:], **cache_argument(cache)).logits[:, -1]
        torch.testing.assert_close(step, plain(tokens).logits[:, -1], rtol=0, atol=1e-5)
    assert told.messages == ["MistralForCausalLM attends within 11 tokens; rerope replaces that"]
    with context_extension(windowed, "ntk", factor=2, progress=told):  # frequencies leave the window as it is
        pass
    assert len(told.messages) == 1


def test_a_scaled_model_keeps_its_frequencies(tiny, tokens):
    """Position methods work on a yarn model as it is, scale included; frequency methods refuse it."""
    yarn = {
        "rope_type": "yarn",
        "rope_theta": 97.0,
        "factor": 2.0,
        "original_max_position_embeddings": TRAINED,
    }
    model = tiny("llama", rope_parameters=yarn)
    with torch.no_grad():
        before = model(tokens).logits
        with context_extension(model, "rerope", window=60, progress=Told()) as plan:
            whole = model(tokens).logits
            cache = cache_of(model(tokens[:, :-1], use_cache=True))
            step = model(tokens[:, -1:], **cache_argument(cache)).logits[:, -1]
    assert plan.setting.train_length == TRAINED
    torch.testing.assert_close(whole, before, rtol=0, atol=1e-5)
    torch.testing.assert_close(step, before[:, -1], rtol=0, atol=1e-5)
    with (
        pytest.raises(OrdtoolError, match="scaled already .rope type yarn."),
        context_extension(model, "ntk", factor=2),
    ):
        pass


def test_gradients_pass(tiny, tokens):
    model = tiny("llama")
    with context_extension(model, "rerope"):
        model(tokens).logits.sum().backward()
    assert model.model.embed_tokens.weight.grad.abs().sum() > 0


class Told:
    def __init__(self):
        self.messages = []

    def warn(self, message):
        self.messages.append(message)


def refusal(model, spec="rerope", **options):
    with pytest.raises(OrdtoolError) as caught, context_extension(model, spec, **options):
        pass
    return str(caught.value)


SMALL = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("GPT2LMHeadModel", {"vocab_size": 61, "n_embd": 24, "n_layer": 1, "n_head": 2}, "learned a vector"),
        ("BloomForCausalLM", {"vocab_size": 61, "hidden_size": 24, "n_layer": 1, "n_head": 2}, "ALiBi"),
        ("GPTJForCausalLM", {"vocab_size": 61, "n_embd": 24, "n_layer": 1, "n_head": 2}, "rotary module"),
        ("T5ForConditionalGeneration", {"vocab_size": 61, "d_model": 8, "num_layers": 1}, "encoder-decoder"),
        (
            "Gemma3ForCausalLM",
            {**SMALL, "intermediate_size": 8, "head_dim": 4, "num_key_value_heads": 1},
            "several rotary",
        ),
        (
            "DeepseekV3ForCausalLM",
            {
                **SMALL,
                "intermediate_size": 8,
                "moe_intermediate_size": 4,
                "n_routed_experts": 2,
                "num_experts_per_tok": 1,
                "n_group": 1,
                "topk_group": 1,
                "kv_lora_rank": 4,
                "q_lora_rank": 4,
                "qk_rope_head_dim": 4,
                "qk_nope_head_dim": 4,
                "v_head_dim": 4,
                "num_key_value_heads": 2,
            },
            "latent",
        ),
        (
            "Qwen2ForCausalLM",
            {
                **SMALL,
                "num_key_value_heads": 2,
                "intermediate_size": 8,
                "use_sliding_window": True,
                "max_window_layers": 1,
                "sliding_window": 5,
            },
            "no plain attention .sliding_attention",
        ),
        (
            "SmolLM3ForCausalLM",
            {**SMALL, "num_key_value_heads": 2, "intermediate_size": 8, "no_rope_layers": [1, 0], "pad_token_id": 0},
            "no positions at all",
        ),
        (
            "LlamaForCausalLM",
            {
                **SMALL,
                "num_key_value_heads": 2,
                "intermediate_size": 8,
                "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
            },
            "already follow the length .* .rope type dynamic",
        ),
    ],
)  # fmt: skip
def test_models_that_do_not_fit_are_refused_by_name(family, options, reason):
    model_class = getattr(transformers, family)
    model = model_class(model_class.config_class(**options)).eval()
    message = refusal(model, train_length=16)
    assert message.startswith(family), message
    assert re.search(reason, message), message


def test_a_model_that_lies_about_itself_is_found_by_running_it(tiny):
    model = tiny("llama")
    attention = model.model.layers[0].self_attn
    forward = attention.forward
    attention.forward = lambda **options: (forward(**options)[0] * 0.5, None)  # fine: ours is halved too
    with context_extension(model, "rerope"):
        pass
    other = tiny("llama")
    attention = other.model.layers[0].self_attn
    plain = attention.forward

    def without_rotation(position_embeddings, **options):
        cos, sin = position_embeddings
        return plain(position_embeddings=(torch.ones_like(cos), torch.zeros_like(sin)), **options)

    attention.forward = without_rotation
    assert "not the one that its parts suggest" in refusal(other)


def test_misuse_is_told_of(tiny, tokens):
    model = tiny("llama")
    with context_extension(model, "ntk", factor=2):
        assert "already" in refusal(model)
    assert "training mode" in refusal(tiny("llama").train())
    with context_extension(model, "rerope"), torch.no_grad():
        with pytest.raises(OrdtoolError, match="mask of queries and keys"):
            model(tokens, attention_mask=torch.ones(3, 1, N, N, dtype=torch.bool))
        with pytest.raises(OrdtoolError, match="packed"):
            model(tokens, position_ids=torch.cat([torch.arange(20), torch.arange(21)])[None], use_cache=False)
        with pytest.raises(OrdtoolError, match="static or sliding cache"):
            cache = transformers.StaticCache(config=model.config, max_cache_len=64)
            model(tokens, **cache_argument(cache))
    shared = transformers.LlamaForCausalLM(model.config).eval()
    with context_extension(model, "rerope"), pytest.raises(OrdtoolError, match="shares its configuration"):
        shared(tokens)


def test_two_models_at_once(tiny, tokens):
    one, two = tiny("llama"), tiny("qwen3")
    with torch.no_grad(), context_extension(one, "rerope"), context_extension(two, "dca"):
        assert one.config._attn_implementation == two.config._attn_implementation == NAME
        both = one(tokens).logits, two(tokens).logits
    for model, spec, logits in ((one, "rerope", both[0]), (two, "dca", both[1])):
        with torch.no_grad(), context_extension(model, spec):
            assert torch.equal(model(tokens).logits, logits)


def test_warnings_reach_python_where_nobody_listens(tiny):
    model = tiny("llama")
    with pytest.warns(UserWarning, match="window of 13 is not below the trained length of 13"):
        with context_extension(model, "rerope", window=13):
            pass


def test_a_text_after_another_warns_of_nothing_new(tiny, tokens):
    """A method is applied anew for each text that a model writes on; only the listener is told, and once."""
    model, told = tiny("mistral", sliding_window=11), Told()
    extension = RotaryContextExtension(model, "rerope", told)
    assert told.messages == ["MistralForCausalLM attends within 11 tokens; rerope replaces that"]
    for level in (2, 2, 4):
        with extension.applied(level):
            model(tokens)
    assert len(told.messages) == 1


def test_a_model_without_a_length_needs_one(tiny):
    model = tiny("llama")
    object.__setattr__(model.config, "max_position_embeddings", None)
    with pytest.raises(UsageError, match="how long its training texts"), context_extension(model, "rerope"):
        pass
