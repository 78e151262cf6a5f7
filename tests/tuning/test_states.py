"""The frozen pass: in another dtype, in parts side by side, and what training makes of it."""

import threading

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ordtool.errors import UsageError
from ordtool.runtime import use_threads
from ordtool.tuning.cache import PART_TOKENS, CachedStates, LiveStates, build_cache
from ordtool.tuning.config import LadderTrainingConfig
from ordtool.tuning.encoding import Encoded
from ordtool.tuning.ladder.bert_side_block import attention_mask, has_bert_blocks
from ordtool.tuning.ladder.config import LadderConfig
from ordtool.tuning.ladder.model import Ladder
from ordtool.tuning.loading import load_backbone
from ordtool.tuning.methods import ladder_threads


@pytest.fixture
def many(bert):
    """More texts than a part has, of unlike lengths, the batch sorted as training's are."""
    rng = np.random.default_rng(5)
    lengths = np.sort(rng.integers(2, 39, 40))
    ids = [rng.integers(5, bert.config.vocab_size, n) for n in lengths]
    assert lengths.sum() > 3 * PART_TOKENS
    return Encoded(ids, None, np.arange(40) % 2)


def relative(found, wanted):
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def test_another_dtype_is_a_copy_made_once(bert, many):
    before = {name: p.clone() for name, p in bert.model.named_parameters()}
    half = bert.in_dtype(torch.bfloat16)
    assert half is bert.in_dtype(torch.bfloat16) and bert.in_dtype(torch.float32) is bert
    assert half.model.dtype == torch.bfloat16 and half.hash == bert.hash and half.layers is not bert.layers
    assert not any(p.requires_grad for p in half.model.parameters())
    assert all(torch.equal(before[name], p) for name, p in bert.model.named_parameters())
    inputs = many.inputs(range(40), 0)
    exact, rounded = (b.states(inputs, [1, 3], torch.float32) for b in (bert, half))
    real = exact.mask.bool()
    # bfloat16 has 8 bits: each rounding is off by 2^-9 of the number at most, a layer does about a dozen.
    assert 0 < relative(rounded.hidden[:, real], exact.hidden[:, real]) < 0.02
    assert relative(rounded.last[real], exact.last[real]) < 0.02


def test_rotary_angles_keep_their_width(llama):
    half = llama.in_dtype(torch.bfloat16)
    assert half.model.dtype == torch.bfloat16 and half.full is None
    assert half.head is llama.head and next(half.head.parameters()).dtype == torch.float32
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_parts_side_by_side_are_the_whole(kind, encoders):
    backbone = load_backbone(str(encoders(kind)))
    rng = np.random.default_rng(6)
    data = Encoded(
        [rng.integers(5, 60, n) for n in np.sort(rng.integers(2, 39, 40))], None, np.zeros(40, int)
    )
    layers = list(range(1, backbone.depth + 1))
    inputs = data.inputs(range(40), backbone.pad)
    whole = backbone.states(inputs, layers, torch.float32)
    seen = []
    hook = backbone.layers[0].register_forward_hook(lambda *_: seen.append(threading.get_ident()))
    with use_threads(3):
        source = LiveStates(backbone, data, layers, torch.float32)
    found = source.batch(range(40))
    hook.remove()
    # A thread that is done early may take another part, so only the parts are counted.
    assert len(seen) == 3 and threading.get_ident() not in seen
    assert torch.equal(found.mask, whole.mask)
    real = whole.mask.bool()
    torch.testing.assert_close(found.hidden[:, real], whole.hidden[:, real], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.last[real], whole.last[real], rtol=1e-4, atol=1e-5)
    assert not found.hidden.is_inference()
    # No hook stays behind.
    assert not any(layer._forward_pre_hooks for layer in backbone.layers)


def test_parts_are_about_equal_and_none_is_empty(bert, many):
    for threads in (1, 2, 3, 64):
        with use_threads(threads):
            source = LiveStates(bert, many, [1])
        index = list(range(40))
        cuts = source._cuts(index)
        assert cuts[0] == 0 and cuts[-1] == 40 and cuts == sorted(set(cuts))
        tokens = [int(many.lengths[a:b].sum()) for a, b in zip(cuts, cuts[1:], strict=False)]
        assert len(tokens) <= threads and max(tokens) - min(tokens) <= 2 * 39 + len(tokens)


def test_cached_and_live_states_in_bfloat16(bert, many, tmp_path):
    half = bert.in_dtype(torch.bfloat16)
    folder = build_cache(half, many, [1, 3], tmp_path)
    assert build_cache(bert, many, [1, 3], tmp_path) != folder
    cached = CachedStates(folder, torch.device("cpu"))
    live = LiveStates(half, many, [1, 3], torch.float32)
    index = [3, 20, 39]
    ours, theirs = cached.batch(index), live.batch(index)
    real = theirs.mask.bool()
    # Sums of other shapes may round to the neighbouring bfloat16 here and there.
    assert relative(ours.hidden[:, real], theirs.hidden[:, real]) < 2**-8
    assert relative(ours.last[real], theirs.last[real]) < 2**-8


def test_bert_side_blocks_are_transformers_layers(bert, many):
    torch.manual_seed(0)
    ladder = Ladder(
        LadderConfig(backbone_config=bert.config.to_dict(), reduction=2, layers=[1, 3], num_labels=2)
    )
    for parameter in ladder.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert ladder.eval()._bert_blocks
    states = bert.states(many.inputs([2, 20, 39], 0), [1, 3], torch.float32)
    wanted = torch.tensor([0, 1, 0])
    found = []
    for ours in (True, False):
        ladder._bert_blocks = ours
        logits = ladder(states.hidden, states.last, states.mask).logits
        F.cross_entropy(logits, wanted).backward()
        gradients = {n: p.grad.clone() for n, p in ladder.named_parameters() if p.grad is not None}
        ladder.zero_grad()
        found.append((logits, gradients))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-3, atol=1e-5)


def test_what_the_short_way_is_for(bert, llama):
    for backbone, short in ((bert, True), (llama, False)):
        ladder = Ladder(LadderConfig(backbone_config=backbone.config.to_dict(), reduction=2, layers=[1]))
        assert has_bert_blocks(ladder.side.config, ladder.side_layers) is short
    assert attention_mask(None) is None and attention_mask(torch.ones(2, 3)) is None
    assert attention_mask(torch.tensor([[1, 0], [1, 1]])).shape == (2, 1, 1, 2)


@pytest.mark.parametrize("how", ["mean", "cls", "last"])
def test_pooling_before_the_map_is_pooling_after_it(how, bert, many):
    from ordtool.tuning.ladder.mixing import pool

    torch.manual_seed(1)
    shape = {"backbone_config": bert.config.to_dict(), "reduction": 2, "layers": [2], "num_labels": 3}
    ladder = Ladder(LadderConfig(**shape, pooling=how)).eval()
    torch.nn.init.normal_(ladder.up.weight)
    torch.nn.init.normal_(ladder.up.bias)
    states = bert.states(many.inputs([2, 20, 39], 0), [2], torch.float32)
    with torch.no_grad():
        found = ladder(states.hidden, states.last, states.mask)
        narrow = ladder.run_side(states.hidden, states.mask)
        wide = pool(ladder.up(narrow) + states.last, states.mask, how)
    torch.testing.assert_close(found.pooled, wide, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.logits, ladder.classifier(wide), rtol=1e-4, atol=1e-5)


def test_threads():
    before = torch.get_num_threads()
    with use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        with use_threads(None):
            assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    assert ladder_threads(32 * 26, 48) == 1 and ladder_threads(32 * 512, 48) is None


def test_unknown_dtype():
    with pytest.raises(UsageError, match="unknown dtype"):
        LadderTrainingConfig(dtype="float8")
