"""Position schemes against formulas of single pairs in float64, in pure Python."""

import math

import pytest
import torch

from ordtool.errors import UsageError
from ordtool.lm import block
from ordtool.lm.model import OrdtoolLMConfig, OrdtoolLMForCausalLM
from ordtool.lm.position_schemes import SCHEMES, TrainedShape, all_parameters, parse_scheme
from ordtool.lm.positions import make_positions

HEADS, GROUPS, SIZE, N, TRAINED = 6, 3, 14, 13, 7
SHAPE = {
    "vocab_size": 101, "hidden_size": 29, "intermediate_size": 31, "num_hidden_layers": 2,
    "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "key_size": SIZE, "value_size": 17,
    "max_position_embeddings": TRAINED, "initializer_range": 0.3,
}  # fmt: skip
IDS = torch.arange(2, 2 + N)[None] * 7 % 101
SCATTERED = torch.tensor([[0, 3, 4, 9, 10, 17, 18, 25, 26, 33, 40, 51, 60]])


def build(positions, parameters=None, **options):
    torch.manual_seed(0)
    config = OrdtoolLMConfig(**{**SHAPE, **options}, positions=positions, position_parameters=parameters)
    model = OrdtoolLMForCausalLM(config).double().eval()
    for layer in model.model.layers:  # what kerple learns: each layer and head its own
        for parameter in layer.attention.positions.parameters():
            torch.nn.init.normal_(parameter)
    return model


def turned(q, k, distance, decay=0.0, gamma=0.4, turning=SIZE // 2, size=SIZE):
    """Sum over pairs of coordinates: turn by the distance, the first ones, and maybe decay."""
    total = 0.0
    for m in range(SIZE // 2):
        pair = complex(q[m], q[m + SIZE // 2]) * complex(k[m], k[m + SIZE // 2]).conjugate()
        angle = distance * 10000 ** (-2 * m / size) if m < turning else 0.0
        shrink = ((2 * m / SIZE + gamma) / (1 + gamma)) ** (distance * decay)
        total += shrink * (pair * complex(math.cos(angle), math.sin(angle))).real
    return total


def dot(q, k):
    return sum(a * b for a, b in zip(q, k, strict=True))


def score(scheme, model, q, k, i, j, head, layer, p):
    """One score, or None where the key is hidden; heads count from 1."""
    d, root = i - j, math.sqrt(SIZE)
    given = model.config.position_parameters
    if scheme in ("rope", "inverse-leaky"):
        return turned(q, k, d) / root
    if scheme == "inverse-leaky training":
        w, stretch = given["window"], given["stretch"]
        return turned(q, k, d if d < w else w + (d - w) * stretch) / root
    if scheme == "random":
        return turned(q, k, p[i] - p[j]) / root
    if scheme == "nope":
        return dot(q, k) / root
    if scheme == "alibi":
        return dot(q, k) / root - 2 ** (-8 * head / HEADS) * d
    if scheme == "kerple":
        own = model.model.layers[layer].attention.positions
        r1, r2 = (math.exp(row[head - 1]) for row in (own.log_r1.tolist(), own.log_r2.tolist()))
        return dot(q, k) / root - r1 * math.log(1 + r2 * d)
    if scheme == "kerple-power":
        own = model.model.layers[layer].attention.positions
        r1, r2 = math.exp(own.log_r1[head - 1]), 2 / (1 + math.exp(-own.logit_r2[head - 1]))
        return dot(q, k) / root - r1 * d**r2
    if scheme == "sandwich":
        cosines = sum(math.cos(d / 10000 ** (2 * n / 128)) for n in range(64))
        return dot(q, k) / root + HEADS / (8 * head) * cosines
    if scheme == "xpos":
        return turned(q, k, d, decay=1 / given["base"], gamma=given["gamma"]) / root
    if scheme == "keynorm":
        length = math.sqrt(dot(k, k))
        return turned(q, [value / length for value in k], d)
    if scheme == "p-rope":  # 0.6 of 7 pairs
        return turned(q, k, d, turning=4) / root
    if scheme == "partial":
        return turned(q, k, d, turning=3, size=6) / root
    if scheme == "querynorm":
        length = math.sqrt(dot(q, q))
        return turned([value / length for value in q], k, d)
    if scheme == "cosine":
        return given["scale"] * turned(q, k, d) / math.sqrt(dot(q, q) * dot(k, k))
    if scheme == "rerope":
        return turned(q, k, min(d, given["window"])) / root
    if scheme.startswith("hwfa2"):  # of two layers the second, number 2 / 2, sees all
        if layer == 0:
            return turned(q, k, d) / root if d < given["window"] else None
        return turned(q, k, d if "training" in scheme else min(d, given["rerope"])) / root
    if scheme == "rnope-swa":  # of two layers the second sees all
        return (turned(q, k, d) if layer == 0 else dot(q, k)) / root if layer or d < given["window"] else None
    assert scheme == "hwfa"
    if layer == 0:
        return turned(q, k, d) / root if d < given["window"] else None
    return dot(q, k) / root * math.log(i + 1) / math.log(TRAINED)


def norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


@torch.no_grad()
def reference(model, scheme, positions=None, sharpen=lambda n: 1.0):
    """The whole model, one score at a time."""
    p = list(range(N)) if positions is None else positions[0].tolist()
    x = model.model.embed_tokens.weight[IDS[0]]
    for layer, part in enumerate(model.model.layers):
        h = norm(x, part.attention_norm.weight)
        attention = part.attention
        q, k, v = (
            (h @ linear.weight.T).view(N, heads, -1)
            for linear, heads in ((attention.q_proj, HEADS), (attention.k_proj, GROUPS), (attention.v_proj, GROUPS))
        )  # fmt: skip
        mixed = torch.zeros(N, HEADS, v.shape[-1], dtype=torch.float64)
        for head in range(HEADS):
            group = head * GROUPS // HEADS
            queries, keys = q[:, head].tolist(), k[:, group].tolist()
            for i in range(N):
                found = [
                    score(scheme, model, queries[i], keys[j], i, j, head + 1, layer, p) for j in range(i + 1)
                ]
                found = [-math.inf if one is None else one * sharpen(i + 1) for one in found]
                powers = [math.exp(one - max(found)) for one in found]
                for j, power in enumerate(powers):
                    mixed[i, head] += power / sum(powers) * v[j, group]
        x = x + mixed.flatten(1) @ attention.o_proj.weight.T
        h = norm(x, part.mlp_norm.weight)
        gate = h @ part.gate_proj.weight.T
        x = x + (gate * gate.sigmoid() * (h @ part.up_proj.weight.T)) @ part.down_proj.weight.T
    return norm(x, model.model.norm.weight) @ model.lm_head.weight.T


PARAMETERS = {
    "rnope-swa": {"window": 5},
    "hwfa": {"window": 4}, "hwfa2": {"window": 4, "rerope": 3}, "rerope": {"window": 3}, "cosine": {"scale": 2.5},
    "p-rope": {"share": 0.6}, "partial": {"share": 0.4}, "xpos": {"base": 5}, "inverse-leaky": {"window": 3, "stretch": 2.5},
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_is_its_formula(scheme):
    model = build(scheme, PARAMETERS.get(scheme))
    positions = SCATTERED if scheme == "random" else None
    found = model(input_ids=IDS, position_ids=positions).logits[0]
    torch.testing.assert_close(found, reference(model, scheme, positions), rtol=0, atol=1e-6)
    if scheme != "nope":  # the test can tell schemes apart
        assert (found - reference(model, "nope")).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["inverse-leaky", "hwfa2"])
def test_what_a_scheme_does_in_training_alone(scheme):
    model = build(scheme, PARAMETERS[scheme])
    tested = model(input_ids=IDS).logits[0]
    trained = model.train()(input_ids=IDS).logits[0]
    torch.testing.assert_close(trained, reference(model, f"{scheme} training"), rtol=0, atol=1e-6)
    assert (trained - tested).abs().max() > 0.1


@torch.no_grad()
def test_rerope_is_the_same_in_training():
    model = build("rerope", PARAMETERS["rerope"])
    torch.testing.assert_close(
        model.train()(input_ids=IDS).logits[0], reference(model, "rerope"), rtol=0, atol=1e-6
    )


@torch.no_grad()
def test_hwfa2_without_its_rerope_is_as_in_training():
    model = build("hwfa2", {"window": 4, "rerope": 0})
    torch.testing.assert_close(
        model(input_ids=IDS).logits[0], reference(model, "hwfa2 training"), rtol=0, atol=1e-6
    )


def test_the_layers_of_hwfa2_that_see_all_stand_in_the_middle():
    for layers, middle, expected in (
        (24, 1, [12]),
        (24, 2, [8, 16]),
        (3, 1, [1]),
        (1, 1, [0]),
        (2, 2, [0, 1]),
    ):
        config = OrdtoolLMConfig(
            **{**SHAPE, "num_hidden_layers": layers},
            positions="hwfa2",
            position_parameters={"middle": middle},
        )
        windows = [make_positions(config, layer).window for layer in range(layers)]
        assert [layer for layer, window in enumerate(windows) if window is None] == expected


@torch.no_grad()
def test_models_saved_as_hwfa2_before_it_was_hwfas_name_are_hwfa(tmp_path):
    model = build("hwfa", PARAMETERS["hwfa"])
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"positions": "hwfa"', '"positions": "hwfa2"'))
    loaded = OrdtoolLMForCausalLM.from_pretrained(tmp_path).double()
    assert loaded.config.positions == "hwfa"
    torch.testing.assert_close(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)
    build("hwfa2").save_pretrained(tmp_path)
    assert OrdtoolLMForCausalLM.from_pretrained(tmp_path).config.positions == "hwfa2"


@torch.no_grad()
@pytest.mark.parametrize("logn", [True, "trained"])
def test_scores_by_the_logarithm_of_the_length(logn):
    model = build("rope", logn=logn)
    least = 1.0 if logn is True else 0.0
    expected = reference(model, "rope", sharpen=lambda n: max(least, math.log(n) / math.log(TRAINED)))
    torch.testing.assert_close(model(input_ids=IDS).logits[0], expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("more", [{}, {"logn": "trained", "objective": "prefix"}], ids=["causal", "prefix"])
def test_queries_by_blocks_are_the_same(scheme, more, monkeypatch):
    model = build(scheme, PARAMETERS.get(scheme), **more)
    mask = torch.ones(2, N, dtype=torch.long)
    mask[1, :3] = 0
    ids = IDS.expand(2, -1)
    for options in ({}, {"attention_mask": mask}):
        monkeypatch.setattr(block, "BLOCK", 4)
        pieces = model(input_ids=ids, **options).logits
        monkeypatch.undo()
        whole = model(input_ids=ids, **options).logits
        if options:
            pieces, whole = pieces[:, 3:], whole[:, 3:]
        torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-9)


@torch.no_grad()
def test_decay_does_not_overflow_in_long_texts():
    own = build("xpos").model.layers[0].attention.positions
    query, key = torch.ones(1, 1, 2, SIZE), torch.ones(1, 1, 200_001, SIZE)
    q, k = own.meet(query, key, torch.tensor([199_999, 200_000]), torch.arange(200_001))
    scores = q @ k.transpose(-1, -2)
    assert scores.isfinite().all()
    assert scores[0, 0, 1, -1] == pytest.approx(SIZE)
    assert scores[0, 0, 1, 0] < 1e-3


def test_every_learned_number_of_a_scheme_learns():
    for scheme in SCHEMES:
        model = build(scheme).train()
        model(input_ids=IDS, labels=IDS).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.abs().sum() > 0, (scheme, name)


def test_kerple_starts_spread_out_and_keeps_what_it_learned(tmp_path):
    torch.manual_seed(0)
    fresh = OrdtoolLMForCausalLM(OrdtoolLMConfig(**SHAPE, positions="kerple"))
    own = fresh.model.layers[1].attention.positions
    assert own.log_r1.exp().tolist() == pytest.approx([1 / 6, 0.5, 5 / 6, 7 / 6, 1.5, 11 / 6])
    assert own.log_r2.exp().tolist() == pytest.approx([1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12])
    torch.nn.init.normal_(own.log_r1)
    fresh.save_pretrained(tmp_path)
    again = OrdtoolLMForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.model.layers[1].attention.positions.log_r1, own.log_r1)


def test_frequencies_stay_exact_in_bfloat16(tmp_path):
    model = build("rope")
    model.save_pretrained(tmp_path)
    loaded = OrdtoolLMForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for other in (loaded, model.to(torch.bfloat16)):
        assert other.model.rotary_emb.inv_freq.tolist() == [
            10000 ** (-2 * m / SIZE) for m in range(SIZE // 2)
        ]


def test_defaults_follow_the_shape_and_are_saved():
    def given(name, **values):
        return all_parameters(name, values, TrainedShape(256, 4))

    assert given("hwfa") == {"window": 65, "full": 1}  # 3 * 64 + 1 = 193, about 3/4 of 256
    assert given("hwfa2") == {"window": 64, "middle": 1, "rerope": 128}
    # The article's best: windows of 64 and two layers that see all, of 24, trained at 512, then rerope with w = 256.
    assert all_parameters("hwfa2", {}, TrainedShape(512, 24)) == {"window": 64, "middle": 2, "rerope": 256}
    assert given("cosine") == {"scale": 4 * math.log(128)}
    assert given("random") == {"longest": 2048}
    assert given("inverse-leaky", stretch=4) == {"window": 64, "stretch": 4.0}
    assert OrdtoolLMConfig(**SHAPE, positions="random").to_dict()["position_parameters"] == {"longest": 56}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rop", "unknown positions 'rop'"),
        ("hwfa:w=3", "unknown parameter 'w'"),
        ("hwfa:window=1.5", "must be a whole number of 2 or more"),
        ("hwfa:window=nan", "must be a whole number"),
        ("hwfa:window", "is no parameter=value"),
        ("hwfa2:full=1", "unknown parameter 'full'"),
        ("p-rope:share=1.1", "must be a number of 0.01 to 1"),
        ("xpos:base=ten", "is 'ten', no number"),
        ("rope:base=10", "rope: unknown parameter 'base'"),
        ("sandwich:size=7", "must be even"),
    ],
)
def test_what_can_not_be_is_told_of(spec, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse_scheme(spec)
    assert caught.value.hint


def test_schemes_that_do_not_go_together():
    for wrong in (
        {"positions": "inverse-leaky", "talking_heads": True},
        {"positions": "hwfa2", "talking_heads": True},
        {"positions": "random", "objective": "permutation"},
        {"positions": "keynorm", "key_size": 7},
        {"logn": "sometimes"},
    ):
        with pytest.raises(ValueError):
            OrdtoolLMConfig(**{**SHAPE, **wrong})
