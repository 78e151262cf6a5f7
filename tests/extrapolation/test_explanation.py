"""What `extrapolate --explain` tells, against formulas written again, loops, a real cache and counted operations."""

import io
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ordtool.errors import OrdtoolError
from ordtool.extrapolation.base_bound import least_base
from ordtool.extrapolation.explanation import explain, lines_of
from ordtool.lm.model import OrdtoolLMConfig, OrdtoolLMForCausalLM
from ordtool.models.releases import cache_argument, cache_of

TRAINED, LENGTH = 13, 52


@pytest.fixture
def folder(tiny, tmp_path):
    """Save a tiny model: `folder("llama")`."""

    def make(family="llama", **changes):
        path = tmp_path / family
        tiny(family, torch.float32, **changes).save_pretrained(path)
        return str(path)

    return make


def holds(base, length, size):
    return all(
        sum(math.cos(d * base ** (-2 * m / size)) for m in range(size // 2)) >= 0 for d in range(length)
    )


@pytest.mark.parametrize(("length", "size"), [(17, 8), (64, 16), (41, 6)])
def test_the_least_base_by_trying_all(length, size):
    """The search as the article has it, in plain loops."""
    top = 1000.0 * length
    for digits in (1, 2):
        steps = [top * n / 10**digits for n in range(1, 10**digits + 1)]
        top = next(base for base in steps if holds(base, length, size))
    assert least_base(length, size, digits=2) == pytest.approx(top, rel=1e-12)
    assert holds(least_base(length, size), length, size)


def test_few_coordinates_have_no_base_that_will_do():
    assert not any(holds(base, 512, 8) for base in (1e3, 1e4, 1e5, 512_000))
    assert least_base(512, 8) is None


@pytest.mark.parametrize(("thousands", "published"), [(1, "4.3e3"), (2, "1.2e4"), (4, "2.7e4"), (8, "8.4e4")])
def test_the_article_s_table_of_least_bases(thousands, published):
    """kexue.fm/archives/10122, 128 coordinates; the figures there have two digits."""
    assert f"{least_base(1024 * thousands, 128, digits=5):.1e}".replace("e+0", "e") == published


def test_turns_are_those_of_the_definition(folder):
    found = explain(model=folder(), lengths=("4x",), methods=("none",))
    assert (found.train_length, found.length, found.base) == (TRAINED, LENGTH, 97.0)
    for m, pair in enumerate(found.pairs):
        theta = 97 ** (-2 * m / 10)
        assert (pair.number, pair.frequency) == (m, pytest.approx(theta))
        assert pair.turns == pytest.approx(theta * TRAINED / (2 * math.pi))
        assert pair.wavelength * pair.turns == pytest.approx(TRAINED)
    assert (
        found.incomplete
        == tuple(m for m in range(5) if 97 ** (-2 * m / 10) * TRAINED < 2 * math.pi)
        == (1, 2, 3, 4)
    )
    assert found.least_base == least_base(TRAINED, 10, digits=5)
    assert found.least_base_at_length == least_base(LENGTH, 10, digits=5)


def test_what_methods_do_to_the_last_token(folder):
    names = (
        "none",
        "pi",
        "ntk",
        "window:window=5",
        "rerope:window=5",
        "leaky-rerope:window=5:leak=2",
        "logn",
    )
    names += ("dca:chunk=7:context=12", "yarn:turns=2", "p-rope:share=0.4", "rerope:window=5+pi")
    effects = {
        effect.method: effect for effect in explain(model=folder(), lengths=("4x",), methods=names).effects
    }
    last = LENGTH - 1
    assert {name: effect.furthest for name, effect in effects.items()} == {
        "none": last, "pi": last, "ntk": last, "window:window=5": 4, "rerope:window=5": 5, "logn": last,
        "leaky-rerope:window=5:leak=2": 5 + (last - 5) / 2, "dca:chunk=7:context=12": 11, "yarn:turns=2": last,
        "p-rope:share=0.4": last, "rerope:window=5+pi": 5,
    }  # fmt: skip
    assert [effects[name].keys for name in ("none", "window:window=5", "rerope:window=5")] == [
        LENGTH,
        5,
        LENGTH,
    ]
    assert effects["pi"].slowed == pytest.approx([4] * 5)
    assert effects["ntk"].slowed == pytest.approx([4 ** (2 * m / 8) for m in range(5)])
    assert effects["none"].slowed == effects["rerope:window=5"].slowed == (1, 1, 1, 1, 1)
    assert effects["p-rope:share=0.4"].slowed == (1, 1, math.inf, math.inf, math.inf)
    beyond = {name: effect.unseen for name, effect in effects.items() if effect.unseen}
    # ntk divides the last frequency by s, and the others by less.
    assert beyond == {
        "none": (1, 2, 3, 4), "ntk": (1, 2, 3), "logn": (1, 2, 3, 4), "leaky-rerope:window=5:leak=2": (1, 2, 3, 4),
        "p-rope:share=0.4": (1,),
    }  # fmt: skip
    assert effects["logn"].scale == pytest.approx(math.log(LENGTH) / math.log(TRAINED))
    assert effects["yarn:turns=2"].scale == pytest.approx((1 + 0.1 * math.log(4)) ** 2)


def own(path):
    torch.manual_seed(0)
    config = OrdtoolLMConfig(
        vocab_size=61, hidden_size=20, intermediate_size=23, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, key_size=14, value_size=11, max_position_embeddings=TRAINED,
    )  # fmt: skip
    OrdtoolLMForCausalLM(config).save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "own"])
@torch.no_grad()
def test_a_context_costs_what_the_model_spends(family, folder, tiny, tmp_path):
    path = own(tmp_path / "own") if family == "own" else folder(family)
    found = explain(model=path, lengths=(str(LENGTH),), methods=("none",)).cost
    if family == "own":
        model = OrdtoolLMForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
    else:
        model = tiny(family, torch.float32, attn_implementation="eager")
    tokens = torch.arange(LENGTH)[None] % 60
    cache = cache_of(model(tokens[:, :-1], use_cache=True))
    with FlopCounterMode(display=False) as counter:
        model(tokens[:, -1:], **cache_argument(cache), use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == found.cache_bytes == LENGTH * found.cache_bytes_per_token
    angles = counter.get_total_flops() - found.attention_flops - found.other_flops
    assert angles in (0, 2 * 5)  # transformers multiplies a position and frequencies as matrices


def test_pairs_that_do_not_turn(tmp_path):
    config = OrdtoolLMConfig(
        vocab_size=61, hidden_size=20, intermediate_size=23, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=TRAINED, positions="p-rope", position_parameters={"share": 0.4},
    )  # fmt: skip
    OrdtoolLMForCausalLM(config).save_pretrained(tmp_path)
    found = explain(model=str(tmp_path), methods=("none", "rerope"), lengths=("4x",))
    assert [pair.turns > 0 for pair in found.pairs] == [True, True, False, False, False]
    assert found.effects[0].unseen == (1,) and found.effects[0].slowed == (1, 1, 1, 1, 1)
    fields = found.to_dict()
    assert fields["pairs"][4]["wavelength"] is None


def test_the_dtype_asked_for_counts(folder):
    path = folder()
    whole, half = (
        explain(model=path, methods=("none",), dtype=dtype).cost for dtype in ("float32", "bfloat16")
    )
    assert whole.cache_bytes_per_token == 2 * half.cache_bytes_per_token


def test_sentences_say_what_is_too_small(folder):
    text = "\n".join(lines_of(explain(model=folder(), methods=("none",), lengths=("4x",))))
    assert "4 of 5 pairs never complete a turn in training (from number 1 on)" in text
    assert "13 tokens ask for a base of 74 or more: 97 is enough" in text
    assert "52 tokens ask for a base of 4,169 or more: 97 is too small" in text


@pytest.mark.parametrize("format", ["svg", "png"])
def test_the_same_figures_give_the_same_picture(format, folder):
    pytest.importorskip("matplotlib")
    from ordtool.extrapolation.plot import draw_turns

    found = explain(model=folder(), methods=("none", "yarn", "p-rope"))
    pictures = []
    for _ in range(2):
        file = io.BytesIO()
        draw_turns(file, format, found)
        pictures.append(file.getvalue())
    assert pictures[0] == pictures[1]
    assert format != "svg" or b"never seen in training" in pictures[0]


def test_models_without_such_frequencies_are_refused(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(
        GPT2Config(vocab_size=61, n_embd=24, n_layer=1, n_head=2, n_positions=16)
    ).save_pretrained(tmp_path)
    with pytest.raises(OrdtoolError, match="learned a vector for each position"):
        explain(model=str(tmp_path))
