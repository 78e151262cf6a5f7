"""The model: cache, padding, masks that don't leak, attentions, saving, and transformers' generate."""

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from ordtool.generation.attention_map import attention_map
from ordtool.lm.model import OrdtoolLMConfig, OrdtoolLMForCausalLM, OrdtoolLMForMaskedLM
from ordtool.lm.position_schemes import SCHEMES, TWO_TABLES
from ordtool.lm.training import LMTrainingConfig, train_lm
from ordtool.models.releases import cache_argument, cache_of

# A prime for every dimension, but where one divides another (heads and groups).
SHAPE = {
    "vocab_size": 101,
    "hidden_size": 29,
    "intermediate_size": 31,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "key_size": 14,
    "value_size": 17,
    "max_position_embeddings": 23,
    "initializer_range": 0.3,
}
VARIANTS = {
    "plain": {},
    "grouped": {"num_key_value_heads": 3},
    "talking": {"talking_heads": True},
    "talking before": {"talking_heads": "before"},
    "talking after": {"talking_heads": "after", "num_key_value_heads": 1},
    "talking grouped alibi": {"talking_heads": True, "num_key_value_heads": 2, "positions": "alibi"},
    "logn": {"logn": True, "max_position_embeddings": 5},
    "nope": {"positions": "nope"},
    "alibi": {"positions": "alibi"},
    "prefix": {"objective": "prefix"},
    "prefix alibi logn": {
        "objective": "prefix",
        "positions": "alibi",
        "logn": True,
        "max_position_embeddings": 4,
    },
    "permutation": {"objective": "permutation"},
    "untied": {"tie_word_embeddings": False},
    "kerple": {"positions": "kerple", "num_key_value_heads": 2},
    "sandwich": {"positions": "sandwich"},
    "xpos": {"positions": "xpos", "position_parameters": {"base": 7}},
    "keynorm talking": {"positions": "keynorm", "talking_heads": True},
    "hwfa": {"positions": "hwfa", "position_parameters": {"window": 4}, "max_position_embeddings": 5},
    "hwfa2": {"positions": "hwfa2", "position_parameters": {"window": 4, "rerope": 3}},
    "rerope grouped": {"positions": "rerope", "position_parameters": {"window": 3}, "num_key_value_heads": 3},
    "cosine talking": {"positions": "cosine", "talking_heads": True},
    "kerple-power": {"positions": "kerple-power"},
    "p-rope": {"positions": "p-rope"},
    "partial": {"positions": "partial"},
    "random": {"positions": "random"},
    "inverse-leaky": {"positions": "inverse-leaky"},
    "logn trained": {"logn": "trained"},
}


def build(**options):
    torch.manual_seed(0)
    model = OrdtoolLMForCausalLM(OrdtoolLMConfig(**{**SHAPE, **options})).eval()
    for name, parameter in model.named_parameters():
        if "talking" in name:
            torch.nn.init.normal_(parameter, mean=0.2, std=0.5)
    return model


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def model(request):
    return build(**request.param)


IDS = torch.arange(2, 2 + 2 * 11).view(2, 11) * 7 % 101


@torch.no_grad()
def test_cached_is_uncached(model):
    # The first five are read at once, so for a prefix LM they are the source.
    segments = (torch.arange(11) >= 5).long().expand(2, -1)
    whole = model(input_ids=IDS, token_type_ids=segments, use_cache=False)
    assert cache_of(whole) is None
    read = model(input_ids=IDS[:, :5], use_cache=True)
    parts, cache = [read.logits], cache_of(read)
    for start, end in ((5, 6), (6, 9), (9, 10), (10, 11)):
        out = model(input_ids=IDS[:, start:end], **cache_argument(cache), use_cache=True)
        parts.append(out.logits)
        cache = cache_of(out)
    torch.testing.assert_close(torch.cat(parts, 1), whole.logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_batched_is_single_with_padding_on_the_left(model):
    pads = (0, 4)
    ids = torch.stack(
        [
            torch.cat([torch.zeros(pad, dtype=torch.long), row[pad:]])
            for pad, row in zip(pads, IDS, strict=True)
        ]
    )
    mask = torch.stack([(torch.arange(11) >= pad).long() for pad in pads])
    read = model(input_ids=ids, attention_mask=mask, use_cache=True)
    grown = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], 1)
    after = model(
        input_ids=IDS[:, :1], attention_mask=grown, **cache_argument(cache_of(read)), use_cache=True
    )
    for row, pad in enumerate(pads):
        alone = model(input_ids=ids[row : row + 1, pad:], use_cache=True)
        torch.testing.assert_close(read.logits[row, pad:], alone.logits[0], atol=1e-5, rtol=1e-5)
        step = model(input_ids=IDS[row : row + 1, :1], **cache_argument(cache_of(alone)), use_cache=True)
        torch.testing.assert_close(after.logits[row], step.logits[0], atol=1e-5, rtol=1e-5)
    assert read.logits.isfinite().all()


def moved(model, place, **options):
    """Which positions' logits change when the token at `place` does."""
    with torch.no_grad():
        other = IDS[:1].clone()
        other[0, place] = (other[0, place] + 1) % 101
        a = model(input_ids=IDS[:1], use_cache=False, **options).logits
        b = model(input_ids=other, use_cache=False, **options).logits
    return [n for n, same in enumerate((a == b).all(-1)[0].tolist()) if not same]


@pytest.mark.parametrize("positions", SCHEMES)
def test_the_future_does_not_leak(positions):
    for talking in (False, True):
        if talking and positions in TWO_TABLES:
            continue  # refused
        model = build(positions=positions, talking_heads=talking)
        assert moved(model, 6) == list(range(6, 11))
        assert moved(model.train(), 6) == list(range(6, 11))


def test_a_prefix_lm_hides_the_targets_future_alone():
    model = build(objective="prefix")
    segments = (torch.arange(11) >= 4)[None].long()
    assert moved(model, 2, token_type_ids=segments) == list(range(11))
    assert moved(model, 6, token_type_ids=segments) == list(range(6, 11))
    assert moved(model, 4, token_type_ids=segments) == list(range(4, 11))


def test_a_permuted_lm_hides_what_comes_later_in_the_order():
    model = build(objective="permutation")
    ranks = torch.tensor([[4, 0, 9, 2, 10, 1, 6, 3, 8, 5, 7]])
    targets = torch.where(ranks < 10, (ranks[:, :, None] + 1 == ranks[:, None, :]).int().argmax(-1), 11)
    options = {"ranks": ranks, "target_positions": targets}
    for place in range(11):
        expected = [n for n in range(11) if ranks[0, n] >= ranks[0, place]]
        assert moved(model, place, **options) == expected


def test_a_permuted_lm_knows_which_position_it_predicts():
    model = build(objective="permutation")
    with torch.no_grad():
        a = model(input_ids=IDS[:1], target_positions=torch.full((1, 11), 3)).logits
        b = model(input_ids=IDS[:1], target_positions=torch.full((1, 11), 4)).logits
    assert (a - b).abs().max() > 0.01


def test_loss_of_a_permutation_is_that_of_each_target():
    model = build(objective="permutation")
    ranks = torch.tensor([[2, 0, 3, 1]])
    targets = torch.tensor(
        [[2, 3, 4, 0]]
    )  # after rank 2 comes rank 3, at position 2; the last predicts nothing
    ids = IDS[:1, :4]
    with torch.no_grad():
        out = model(input_ids=ids, ranks=ranks, target_positions=targets, labels=ids)
    logprobs = out.logits[0].log_softmax(-1)
    expected = -(logprobs[0, ids[0, 2]] + logprobs[1, ids[0, 3]] + logprobs[3, ids[0, 0]]) / 3
    torch.testing.assert_close(out.loss, expected)


def test_loss_of_a_language_model_is_the_next_tokens():
    model = build()
    labels = IDS.clone()
    labels[0, :4] = -100
    with torch.no_grad():
        out = model(input_ids=IDS, labels=labels)
    logprobs = out.logits.log_softmax(-1)
    wanted = [-logprobs[b, n - 1, IDS[b, n]] for b in range(2) for n in range(1, 11) if labels[b, n] >= 0]
    torch.testing.assert_close(out.loss, torch.stack(wanted).mean())


def test_saved_and_loaded_by_the_auto_classes(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) >= ["config.json", "generation_config.json"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True)
    assert type(loaded) is OrdtoolLMForCausalLM
    with torch.no_grad():
        assert torch.equal(loaded.eval()(input_ids=IDS).logits, model(input_ids=IDS).logits)
        bare = AutoModel.from_pretrained(tmp_path)
        hidden = bare.eval()(input_ids=IDS).last_hidden_state
        torch.testing.assert_close(loaded.lm_head(hidden), model(input_ids=IDS).logits)


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 4])
def test_transformers_generate_is_the_uncached_loop(model, beams):
    pads = (0, 3)
    ids = IDS[:, :6].clone()
    mask = torch.stack([(torch.arange(6) >= pad).long() for pad in pads])
    ids[mask == 0] = 0
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
    found = model.generate(input_ids=ids, attention_mask=mask, **options)
    for row, pad in enumerate(pads):
        alone = model.generate(
            input_ids=ids[row : row + 1, pad:], attention_mask=mask[row : row + 1, pad:], **options
        )
        assert found[row, pad:].tolist() == alone[0].tolist()
        if beams == 1:
            written = ids[row, pad:].tolist()
            prompt = len(written)
            for _ in range(5):
                segments = (torch.arange(len(written)) >= prompt).long()[None]
                logits = model(
                    input_ids=torch.tensor([written]), token_type_ids=segments, use_cache=False
                ).logits
                written.append(int(logits[0, -1].argmax()))
            assert alone[0].tolist() == written


def test_key_size_alone_grows_queries_and_keys():
    narrow, wide = build(key_size=14), build(key_size=34)
    count = [sum(p.numel() for p in model.parameters()) for model in (narrow, wide)]
    assert count[1] - count[0] == 2 * 2 * 29 * 6 * 20  # layers, q and k, hidden, heads, growth


def test_gradients_reach_every_parameter():
    model = build(talking_heads=True, logn=True, num_key_value_heads=2).train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters()
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": "x"},
        {"positions": "x"},
        {"num_key_value_heads": 4},
        {"key_size": 7},
        {"key_size": -2},
        {"rms_norm_eps": ""},
        {"rms_norm_eps": float("nan")},
    ],
    ids=str,
)
def test_shapes_that_do_not_fit(wrong):
    with pytest.raises(ValueError):
        OrdtoolLMConfig(**{**SHAPE, **wrong})


def turned(x, base):
    """Pairs (x_m, x_(m + D/2)) of `(heads, n, D)` as complex numbers, turned by position times base^(-2m/D)."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * base ** (
        -2 * torch.arange(half, dtype=torch.float64) / (2 * half)
    )
    return torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)


def by_hand(model, ids, rotary, causal, bias=None):
    """The first layer's weights of a text, `(heads, n, n)`: a plain softmax in float64, head by head."""
    block, config = model.model.layers[0], model.config
    x = model.model.embed_tokens(ids).double()
    x = (
        x
        / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()
        * block.attention_norm.weight.double()
    )
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    query = (x @ block.attention.q_proj.weight.double().T).view(len(ids), heads, -1).transpose(0, 1)
    key = (x @ block.attention.k_proj.weight.double().T).view(len(ids), groups, -1).transpose(0, 1)
    if rotary:
        query, key = turned(query, config.rope_theta), turned(key, config.rope_theta)
    scores = []
    for head in range(heads):
        product = query[head] @ key[head * groups // heads].conj().T
        scores.append((product.real if rotary else product) * config.key_size**-0.5)
    scores = torch.stack(scores) + (0 if bias is None else bias)
    talking = block.attention.talking
    if talking is not None and talking.before is not None:
        scores = torch.stack(
            [sum(w * s for w, s in zip(row, scores, strict=True)) for row in talking.before.double()]
        )
    if causal:
        scores = scores + torch.full((len(ids), len(ids)), -torch.inf).triu(1)
    weights = scores.softmax(-1)
    if talking is not None and talking.after is not None:
        weights = torch.stack(
            [sum(w * p for w, p in zip(row, weights, strict=True)) for row in talking.after.double()]
        )
    return weights


DISTANCE = torch.arange(11, dtype=torch.float64)[:, None] - torch.arange(11)
ALIBI = -(2.0 ** (-8 * torch.arange(1, 7, dtype=torch.float64) / 6))[:, None, None] * DISTANCE.clamp(min=0)


@pytest.mark.parametrize(
    ("name", "rotary", "bias"),
    [("grouped", True, None), ("nope", False, None), ("talking after", True, None), ("talking", True, None)]
    + [("alibi", False, ALIBI), ("prefix", True, None)],
)
@torch.no_grad()
def test_weights_are_the_softmax_of_the_scores(name, rotary, bias):
    model = build(**VARIANTS[name])
    found = model(input_ids=IDS, output_attentions=True).attentions
    assert len(found) == 2 and found[0].shape == (2, 6, 11, 11)
    for row, ids in enumerate(IDS):
        expected = by_hand(model, ids, rotary, causal=name != "prefix", bias=bias)
        torch.testing.assert_close(found[0][row].double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("talking", ["before", True])
@torch.no_grad()
def test_an_encoders_wide_and_talking_heads(talking):
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "intermediate_size": 31, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = OrdtoolLMConfig(
        vocab_size=101, key_size=14, objective="masked", talking_heads=talking, initializer_range=0.3, **shape
    )
    model = OrdtoolLMForMaskedLM(config).eval()
    for parameter in model.model.layers[0].attention.talking.parameters():
        torch.nn.init.normal_(parameter, mean=0.2, std=0.5)
    [found] = model(input_ids=IDS[:1], output_attentions=True).attentions
    torch.testing.assert_close(
        found[0].double(), by_hand(model, IDS[0], True, causal=False), atol=1e-5, rtol=1e-4
    )
    assert found[0, :, 0, -1].abs().min() > 0


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_values_are_taken_by_the_weights(name):
    model = build(**VARIANTS[name])
    seen = {}
    for number, block in enumerate(model.model.layers):
        block.attention.v_proj.register_forward_hook(lambda _, __, out, n=number: seen.update({n: out}))
        block.attention.o_proj.register_forward_hook(
            lambda _, given, __, n=number: seen.update({-1 - n: given[0]})
        )
    plain = model(input_ids=IDS).logits
    output = model(input_ids=IDS, output_attentions=True)
    torch.testing.assert_close(output.logits, plain, atol=0, rtol=0)
    for number, weights in enumerate(output.attentions):
        values = seen[number].view(2, 11, -1, 17).transpose(1, 2)
        values = values.repeat_interleave(6 // values.shape[1], dim=1)
        taken = (weights @ values).transpose(1, 2).reshape(2, 11, -1)
        torch.testing.assert_close(taken, seen[-1 - number], atol=2e-5, rtol=1e-4)


def test_a_trained_model_is_drawn(run_in_process, tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat and the dog lay on the rug. " * 60)
    shape = {
        "layers": 1,
        "hidden": 16,
        "heads": 2,
        "vocab_size": 280,
        "context": 16,
        "steps": 1,
        "batch_size": 2,
    }
    train_lm(tmp_path / "text.txt", tmp_path / "model", LMTrainingConfig(**shape), device="cpu")
    done = run_in_process(
        "generate", "--show-mask", "-m", "model", "--text", "the cat sat", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    found = attention_map(tmp_path / "model", "the cat sat")
    assert (found.visible == (torch.ones(found.weights.shape).tril() > 0).numpy()).all()
    assert abs(found.weights.sum(1) - 1).max() < 1e-5
    assert all(token.strip() in done.stdout.decode() for token in found.tokens)
