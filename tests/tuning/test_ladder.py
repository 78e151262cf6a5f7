"""The ladder itself: its formula against a loop, what autograd keeps, and which backbones it goes beside."""

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from ordtool.errors import OrdtoolError, UsageError
from ordtool.tuning.encoding import Encoded
from ordtool.tuning.ladder.config import LadderConfig
from ordtool.tuning.ladder.ladder_models import LadderForSequenceClassification
from ordtool.tuning.ladder.mixing import pool
from ordtool.tuning.ladder.model import Ladder
from ordtool.tuning.ladder.side_network import choose_layers, narrow_heads
from ordtool.tuning.loading import load_backbone

LAYERS = {"bert": 3, "roberta": 3, "distilbert": 2, "llama": 2, "gpt2": 2, "t5": 2, "bart": 1, "marian": 2}


def build(backbone, **options):
    torch.manual_seed(3)
    shape = {"reduction": 2, "layers": range(1, backbone.depth + 1), "num_labels": 2}
    ladder = Ladder(LadderConfig(backbone_config=backbone.config.to_dict(), **{**shape, **options}))
    for parameter in ladder.trained_parameters():  # U is 0 at first, which would hide what is below it
        torch.nn.init.normal_(parameter, std=0.3)
    return ladder.eval()


def texts(backbone, lengths=(7, 5, 3)):
    rng = np.random.default_rng(1)
    ids = [rng.integers(3, backbone.config.vocab_size, n) for n in lengths]
    return Encoded(ids, None, np.array([0, 1, 0]))


@pytest.mark.parametrize("kind", ["gated", "additive", "additive, as it was"])
@pytest.mark.parametrize("residual", [True, False])
def test_the_formula_against_a_loop(kind, residual, bert):
    form = {"kind": kind.partition(",")[0], "adds_after": kind == "additive"}
    ladder = build(bert, **form, residual=residual, layers=[1, 3])
    inputs = texts(bert).inputs([0], 0)
    with torch.no_grad():
        found = bert.states(inputs, [1, 3], torch.float32)
        logits = ladder(found.hidden, found.last, found.mask).logits
        output = bert.model(**inputs, output_hidden_states=True)
        states = [output.hidden_states[layer] for layer in (0, 1, 3)]
        down = [
            ((s - s.mean(-1, keepdim=True)) / (s.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()) @ w + b
            for s, w, b in zip(states, ladder.down_weight, ladder.down_bias, strict=True)
        ]
        h = down[0]
        for index, block in enumerate(ladder.side_layers):
            block._forward_pre_hooks.clear()  # from here on a plain layer
            block._forward_hooks.clear()
            if kind == "gated":
                mu = 1 / (1 + torch.exp(-ladder.gates[index] / 0.1))
                h = block(mu * h + (1 - mu) * down[index + 1])
            elif kind == "additive":  # the article's, h_l = Block(h_(l-1)) + D_l b_l
                h = block(h)
            else:
                h = block(h + down[index + 1])
            h = h[0] if isinstance(h, tuple) else h
            h = h + down[index + 1] if kind == "additive" else h
        h = F.layer_norm(h, h.shape[-1:], ladder.norm.weight, ladder.norm.bias, ladder.norm.eps)
        u = h @ ladder.up.weight.T + ladder.up.bias
        wanted = ladder.classifier((u + output.last_hidden_state if residual else u).mean(dim=1))
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "distilbert"])
def test_the_last_addition_reaches_the_top_past_silent_blocks(name, encoders, writers):
    backbone = load_backbone(str(writers(name) if name != "distilbert" else encoders(name)))
    ladder = build(backbone, kind="additive", adds_after=True, layers=[1, 2])
    states = backbone.states(texts(backbone).inputs([0], backbone.pad), [1, 2], torch.float32)
    with torch.no_grad():
        whole = ladder.run_side(states.hidden, states.mask)
        # Only h_2 holds D_2 b_2: what it changes is seen behind the last block as it is.
        outputs = []
        ladder.norm.register_forward_pre_hook(lambda module, args: outputs.append(args[0]))
        ladder.run_side(states.hidden, states.mask)
        changed = states.hidden.clone()
        changed[2] += 1
        ladder.run_side(changed, states.mask)
    shift = ladder.down_weight[2].sum(0).expand_as(outputs[0])
    torch.testing.assert_close(outputs[1] - outputs[0], shift, rtol=1e-3, atol=1e-4)
    assert whole.shape == outputs[0].shape


@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_any_backbone(kind, encoders, writers):
    folder = writers(kind) if kind in ("llama", "gpt2", "t5", "bart", "marian") else encoders(kind)
    backbone = load_backbone(str(folder))
    assert backbone.depth == LAYERS[kind]
    ladder = build(backbone)
    data = texts(backbone)
    inputs = data.inputs([0, 1, 2], backbone.pad)
    states = backbone.states(inputs, ladder.config.layers, torch.float32)
    if kind == "marian":  # whose sines no checkpoint holds
        whole = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).get_encoder()
        assert torch.equal(backbone.model.embed_positions.weight, whole.embed_positions.weight)
    # The states are those that transformers itself gives.
    with torch.no_grad():
        theirs = backbone.model(**inputs, output_hidden_states=True).hidden_states
    for place, layer in enumerate((0, *ladder.config.layers)):
        wanted = F.layer_norm(theirs[layer], theirs[layer].shape[-1:])
        real = states.mask.bool()
        torch.testing.assert_close(states.hidden[place][real], wanted[real], rtol=1e-4, atol=1e-4)
    batched = ladder(states.hidden, states.last, states.mask).logits
    for row in range(3):
        own = backbone.states(data.inputs([row], backbone.pad), ladder.config.layers, torch.float32)
        alone = ladder(own.hidden, own.last, own.mask).logits
        torch.testing.assert_close(batched[row : row + 1], alone, rtol=1e-3, atol=1e-4)


def test_no_gradient_and_no_activation_of_the_backbone(bert):
    ladder = build(bert).train()
    model = LadderForSequenceClassification(ladder.config, ladder, bert)
    inputs = texts(bert, (39, 39, 39)).inputs([0, 1, 2], 0)
    kept: list[torch.Tensor] = []
    inside: list[bool] = []
    hook = bert.model.encoder.layer[0].register_forward_hook(
        lambda module, args, output: inside.append(torch.is_inference_mode_enabled())
    )

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**inputs, labels=torch.tensor([0, 1, 0])).loss
    hook.remove()
    loss.backward()
    assert inside == [True]
    assert all(
        parameter.grad is None and not parameter.requires_grad for parameter in bert.model.parameters()
    )
    assert all(parameter.grad is not None for parameter in ladder.trained_parameters())
    tokens, hidden = 3 * 39, 24
    # As wide as the backbone are the states for the side layers, once, and the ladder's output and pooled text;
    # nothing is as wide as its feed-forward (40), and nothing else as its hidden states.
    wide = [t for t in kept if t.numel() >= tokens * hidden]
    assert [t.numel() for t in wide] == [4 * tokens * hidden]
    frozen = {parameter.data_ptr() for parameter in bert.model.parameters()}
    assert not frozen & {t.data_ptr() for t in kept}


def test_the_gate_begins_in_the_middle_and_u_at_zero(bert):
    torch.manual_seed(0)
    ladder = Ladder(LadderConfig(backbone_config=bert.config.to_dict(), reduction=2, layers=[1, 2, 3]))
    assert torch.equal(ladder.gates, torch.zeros(3))
    states = bert.states(texts(bert).inputs([0, 1, 2], 0), [1, 2, 3], torch.float32)
    found = ladder(states.hidden, states.last, states.mask)
    torch.testing.assert_close(found.pooled, pool(states.last, states.mask, "mean"))


def test_half_states_give_nearly_the_same_gradients(bert):
    ladder = build(bert)
    inputs = texts(bert).inputs([0, 1, 2], 0)
    gradients = []
    for dtype in (torch.float32, torch.float16):
        states = bert.states(inputs, [1, 2, 3], dtype)
        assert states.hidden.dtype == dtype
        F.cross_entropy(
            ladder(states.hidden, states.last, states.mask).logits, torch.tensor([0, 1, 0])
        ).backward()
        gradients.append(ladder.down_weight.grad.clone())
        ladder.zero_grad()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=2e-2, atol=2e-3)


def test_the_downsampling_gradient_by_differences(bert):
    from ordtool.tuning.ladder.model import _Downsample

    states = torch.randn(2, 5, 3, dtype=torch.float64)
    weight = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, b: _Downsample.apply(states, w, b), (weight, bias))


def test_pooling():
    hidden = torch.arange(24.0).view(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert torch.equal(pool(hidden, mask, "cls"), hidden[:, 0])
    assert torch.equal(pool(hidden, mask, "last"), torch.stack([hidden[0, 1], hidden[1, 2]]))
    torch.testing.assert_close(pool(hidden, mask, "mean")[0], hidden[0, :2].mean(dim=0))


@pytest.mark.parametrize(
    ("wanted", "total", "found"),
    [
        (None, 6, (2, 4, 6)),
        (None, 3, (1, 2, 3)),
        (None, 5, (1, 3, 5)),
        (None, 30, (3, 6, 9, 12, 15, 18, 21, 24, 27, 30)),
        ("3", 12, (4, 8, 12)),
        ("2,5", 6, (2, 5)),
        ("1", 6, (6,)),
    ],
)
def test_layers(wanted, total, found):
    assert choose_layers(wanted, total) == found


def test_a_backbone_without_a_name_is_refused():
    with pytest.raises(UsageError, match="65536 is no name"):
        LadderConfig(backbone=65536)


@pytest.mark.parametrize("wanted", ["0", "7", "2,1", "1,9", "x", "1,,2"])
def test_layers_that_are_not_there(wanted):
    with pytest.raises(UsageError):
        choose_layers(wanted, 6)


def test_heads_become_fewer_when_they_would_be_tiny():
    from transformers import BertConfig, LlamaConfig

    small = narrow_heads(BertConfig(hidden_size=384, num_attention_heads=12), 8)
    assert (small.groups, small.per_group, small.size, small.width) == (3, 1, 16, 48)
    llama = LlamaConfig(hidden_size=576, num_attention_heads=9, num_key_value_heads=3, head_dim=64)
    small = narrow_heads(llama, 8)
    assert (small.groups, small.per_group, small.size) == (3, 1, 24)
    whole = narrow_heads(llama, 1)
    assert (whole.groups, whole.per_group, whole.size) == (3, 3, 64)


def test_shared_layers_are_refused(tmp_path):
    config = transformers.AlbertConfig(
        vocab_size=30,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
    )
    with pytest.raises(OrdtoolError, match="in no list"):
        Ladder(LadderConfig(backbone_config=config.to_dict(), reduction=2, layers=[1, 2, 3]))


@pytest.mark.parametrize("kind", ["gated", "additive"])
def test_mlp_blocks_against_a_loop(kind, bert):
    ladder = build(bert, kind=kind, adds_after=True, block="mlp", layers=[1, 3])
    inputs = texts(bert).inputs([0, 1], 0)
    with torch.no_grad():
        found = bert.states(inputs, [1, 3], torch.float32)
        narrow = ladder.run_side(found.hidden, found.mask)
        down = [s @ w + b for s, w, b in zip(found.hidden, ladder.down_weight, ladder.down_bias, strict=True)]
        h = down[0]
        for index, block in enumerate(ladder.side_layers):
            if kind == "gated":
                mu = torch.sigmoid(ladder.gates[index] / 0.1)
                h = mu * h + (1 - mu) * down[index + 1]
            normed = (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            z = (normed * block.norm.weight + block.norm.bias) @ block.inner.weight.T + block.inner.bias
            h = h + (z * (1 + torch.erf(z / 2**0.5)) / 2) @ block.outer.weight.T + block.outer.bias
            h = h + down[index + 1] if kind == "additive" else h
        wanted = F.layer_norm(h, h.shape[-1:], ladder.norm.weight, ladder.norm.bias, ladder.norm.eps)
    torch.testing.assert_close(narrow, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bart"])
def test_a_ladder_of_mlps_writes_with_a_cache_as_without(name, writers, tmp_path):
    from ordtool.tuning.ladder.ladder_models import LadderForCausalLM, LadderForConditionalGeneration
    from ordtool.tuning.saving import save_ladder

    home = str(writers(name))
    backbone = load_backbone(home, writes=True)
    task = "seq2seq" if backbone.decodes else "lm"
    ladder = build(backbone, task=task, block="mlp", layers=[1])
    ladder.config.backbone, ladder.config.backbone_hash = home, backbone.hash
    save_ladder(ladder, backbone, tmp_path / "m")
    kind = LadderForConditionalGeneration if backbone.decodes else LadderForCausalLM
    model = kind.from_pretrained(tmp_path / "m")
    for ours, theirs in zip(ladder.trained_parameters(), model.ladder.trained_parameters(), strict=True):
        assert torch.equal(ours, theirs)
    ids = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])
    options = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": 5,
        "do_sample": False,
    }
    beams = {"num_beams": 2}
    for more in ({}, beams):
        cached, plain = (model.generate(**options, **more, use_cache=use) for use in (True, False))
        assert torch.equal(cached, plain)
