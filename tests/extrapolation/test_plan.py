import math

import pytest

from ordtool.errors import OrdtoolError, UsageError
from ordtool.extrapolation.methods import METHODS
from ordtool.extrapolation.plan import make_plan, parse_tokens


def plan(spec, length=4096, **parameters):
    return make_plan(spec, train_length=512, length=length, parameters=parameters)


def test_defaults_follow_the_trained_length_and_the_length_to_come():
    assert {name: dict(plan(name).values[name]) for name in METHODS if name != "longrope"} == {
        "none": {},
        "window": {"window": 512},
        "lambda": {"window": 384, "sinks": 4},
        "pi": {"factor": 8.0},
        "ntk": {"factor": 8.0},
        "ntk-fixed": {"factor": 8.0},
        "ntk-mixed": {"factor": 8.0, "exponent": 0.625},
        "dynamic-ntk": {},
        "yarn": {"factor": 8.0, "turns": 32.0, "ramp": "dimensions"},
        "dynamic-yarn": {"turns": 32.0, "ramp": "dimensions"},
        "yarn-unscaled": {"factor": 8.0, "turns": 32.0, "ramp": "dimensions"},
        "p-rope": {"share": 0.75},
        "string": {"shift": 171, "window": 64},
        "rerope": {"window": 128},
        "leaky-rerope": {"window": 128, "leak": 16.0},
        "self-extend": {"window": 256, "group": 16},
        "dca": {"chunk": 384, "context": 512},
        "dpe": {"window": 64, "factor": 8.0, "lengths": "L/2"},
        "logn": {},
    }
    assert plan("pi", length=300).values["pi"]["factor"] == 1.0


def test_every_method_has_a_formula_and_a_source():
    for method in METHODS.values():
        assert method.formula and method.source
        assert all(parameter.summary for parameter in method.parameters)


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("rerope:window=64", {"rerope": {"window": 64}}),
        ("rerope:window=0.5x", {"rerope": {"window": 256}}),
        (" rerope : window = 1k + logn", {"rerope": {"window": 1024}, "logn": {}}),
        ("leaky-rerope:leak=2.5", {"leaky-rerope": {"window": 128, "leak": 2.5}}),
        ("ntk-mixed:exponent=0.75", {"ntk-mixed": {"factor": 8.0, "exponent": 0.75}}),
    ],
)
def test_parameters_in_a_name(spec, values):
    assert plan(spec).values == values


def test_shared_parameters_give_way_to_those_in_the_name():
    assert plan("rerope", window=99).values["rerope"]["window"] == 99
    assert plan("rerope:window=64", window=99).values["rerope"]["window"] == 64
    assert make_plan("logn", train_length=512, parameters={"window": 9}, lenient=True).values == {"logn": {}}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("reropee", "unknown method 'reropee'"),
        ("rerope+", "unknown method ''"),
        ("rerope+dca", "rerope and dca both change the positions"),
        ("window+rerope", "window and rerope both change"),
        ("ntk+yarn", "ntk and yarn both change the frequencies"),
        ("rerope:w=3", "takes no parameter 'w'"),
        ("logn:window=3", "takes no parameter 'window'"),
        ("rerope:window", "expected parameter=value"),
        ("rerope:window=", "expected parameter=value"),
        ("rerope:window=many", "'many' is no number of tokens"),
        ("rerope:window=2.5", "'2.5' is no number of tokens"),
        ("rerope:window=-3", "no number of tokens"),
        ("leaky-rerope:leak=0.5", "leak 0.5 must be at least 1"),
        ("leaky-rerope:leak=nan", "leak nan must be at least 1"),
        ("self-extend:group=2.5", "group 2.5 must be a whole number"),
        ("pi:factor=x", "factor=x is no number"),
        ("yarn:ramp=turn", "yarn: unknown ramp 'turn'"),
        ("longrope", "longrope needs a JSON file"),
        ("string:shift=32:window=32", "a window of 32 tokens must be smaller than the shift of 32"),
        ("dca:chunk=512", "a chunk of 512 tokens must be smaller than the context of 512"),
    ],
)
def test_what_makes_no_sense_is_refused(spec, message):
    with pytest.raises(UsageError, match=message):
        plan(spec)


def test_hints_say_what_to_do():
    with pytest.raises(UsageError) as caught:
        plan("reropee")
    assert "did you mean 'rerope'?" in caught.value.hint
    with pytest.raises(UsageError, match="rerope takes no 'leak'"):
        plan("rerope", leak=3)


def test_a_factor_needs_a_length():
    for spec in ("pi", "ntk", "yarn", "leaky-rerope", "self-extend", "dpe"):
        with pytest.raises(UsageError, match="must know how long the text will be"):
            plan(spec, length=None)
    assert plan("rerope", length=None).values["rerope"]["window"] == 128
    assert plan("dynamic-ntk", length=None).part.grows is not None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("rerope:window=512", "is not below the trained length of 512"),
        ("rerope:window=600", "is not below the trained length"),
        ("window:window=513", "over the trained length"),
        ("dca:context=1024", "over the trained length"),
    ],
)
def test_windows_over_the_trained_length_are_warned_of(spec, words):
    (warning,) = plan(spec).warnings
    assert words in warning and "fails there" in warning


def test_windows_within_it_are_not():
    assert not any(plan(name).warnings for name in METHODS if name != "longrope")


def test_chunks_may_be_as_long_as_yarn_reaches():
    assert not plan("dca:context=4096+yarn").warnings
    assert plan("dca:context=4097+yarn").warnings


def test_the_factors_of_longrope_in_a_file(tmp_path):
    import torch

    file = tmp_path / "f.json"
    theta = torch.tensor([1.0, 0.1])
    for text, short, long in (
        ("[1, 2.5]", [1, 1], [1, 2.5]),
        ('{"long_factor": [1, 4]}', [1, 1], [1, 4]),
        ('{"rope_scaling": {"short_factor": [1, 2], "long_factor": [3, 4]}}', [1, 2], [3, 4]),
    ):
        file.write_text(text)
        within, scale = plan(f"longrope:factors={file}", length=512).part.frequencies(None, theta)
        torch.testing.assert_close(within, theta / torch.tensor(short))
        assert scale == 1
        beyond, scale = plan(f"longrope:factors={file}", length=1024).part.frequencies(None, theta)
        torch.testing.assert_close(beyond, theta / torch.tensor(long))
        assert scale == pytest.approx(math.sqrt(1 + math.log(2) / math.log(512)))
    with pytest.raises(OrdtoolError, match="2 factors, and the model has 3 frequencies"):
        plan(f"longrope:factors={file}", length=1024).part.frequencies(None, torch.ones(3))
    with pytest.raises(OrdtoolError, match="missing.json: No such file"):
        plan("longrope:factors=missing.json")
    for text, message in (("{", "no JSON"), ("{}", "no long_factor"), ("[1, 0]", "numbers above 0")):
        file.write_text(text)
        with pytest.raises(OrdtoolError, match=message):
            plan(f"longrope:factors={file}")


def test_the_two_ramps_of_yarn_on_llama_2():
    """s = 8, 128 coordinates, 4,096 tokens: the frequencies of the two differ up to 2.3 times."""
    import torch
    from transformers import LlamaConfig

    config = LlamaConfig(
        head_dim=128,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    theta = torch.tensor([10000 ** (-2 * m / 128) for m in range(64)])
    one, other = (
        make_plan(f"yarn:ramp={ramp}", train_length=4096, length=8 * 4096).part.frequencies(config, theta)[0]
        for ramp in ("dimensions", "turns")
    )
    assert (one / other).max() == pytest.approx(2.3, abs=0.05)
    torch.testing.assert_close(other[0], theta[0])
    torch.testing.assert_close(other[-1], theta[-1] / 8)


def test_token_counts():
    assert [parse_tokens(text, 512) for text in ("512", "4k", "2x", "0.25X", "1e3")] == [
        512,
        4096,
        1024,
        128,
        1000,
    ]
    for text in ("", "x", "0", "0.0001x", "-2x", "1.5", "inf", "nan", "12 tokens"):
        with pytest.raises(UsageError, match="is no number of tokens"):
            parse_tokens(text, 512)


def test_the_article_s_limits_of_ntk_mixed():
    """b = 0 is position interpolation, b = 1 is ntk-fixed."""
    import torch

    theta = torch.tensor([10000 ** (-2 * m / 8) for m in range(4)])
    interpolated, _ = plan("ntk-mixed:exponent=0").part.frequencies(None, theta)
    torch.testing.assert_close(interpolated, theta / 8)
    fixed, _ = plan("ntk-mixed:exponent=1").part.frequencies(None, theta)
    written = [10000 ** (-2 * (m - 1) / 8) / (8 ** (2 / 8)) ** m for m in range(1, 5)]
    torch.testing.assert_close(fixed, torch.tensor(written))
    same, _ = plan("ntk-fixed").part.frequencies(None, theta)
    assert torch.equal(same, fixed)
    assert math.isclose(fixed[-1] / theta[-1], 1 / 8, rel_tol=1e-6)
