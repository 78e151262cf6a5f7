import math

import pytest

from ordtool.errors import UsageError
from ordtool.extrapolation.methods import METHODS
from ordtool.extrapolation.plan import make_plan, parse_tokens


def plan(spec, length=4096, **parameters):
    return make_plan(spec, train_length=512, length=length, parameters=parameters)


def test_defaults_follow_the_trained_length_and_the_length_to_come():
    assert {name: dict(plan(name).values[name]) for name in METHODS} == {
        "none": {},
        "window": {"window": 512},
        "lambda": {"window": 384, "sinks": 4},
        "pi": {"factor": 8.0},
        "ntk": {"factor": 8.0},
        "ntk-fixed": {"factor": 8.0},
        "ntk-mixed": {"factor": 8.0, "exponent": 0.625},
        "dynamic-ntk": {},
        "yarn": {"factor": 8.0, "turns": 32.0},
        "yarn-unscaled": {"factor": 8.0, "turns": 32.0},
        "rerope": {"window": 128},
        "leaky-rerope": {"window": 128, "leak": 16.0},
        "self-extend": {"window": 256, "group": 16},
        "dca": {"chunk": 384, "context": 512},
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
    for spec in ("pi", "ntk", "yarn", "leaky-rerope", "self-extend"):
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
    assert not any(plan(name).warnings for name in METHODS)


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
