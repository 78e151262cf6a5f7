import numpy as np
import pytest
import torch

from ordtool import runtime
from ordtool.errors import OrdtoolError, UsageError, close_match_hint


def test_devices():
    assert runtime.resolve_device("cpu") == torch.device("cpu")
    assert runtime.resolve_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        runtime.resolve_device("gpu")
    with pytest.raises(UsageError, match="not on this machine"):
        runtime.resolve_device("cuda:99")


def test_dtypes():
    assert runtime.resolve_dtype("float16") == torch.float16
    expected = torch.bfloat16 if runtime.cpu_has_bf16() else torch.float32
    assert runtime.resolve_dtype("auto", torch.device("cpu")) == expected
    with pytest.raises(UsageError, match="float31") as caught:
        runtime.resolve_dtype("float31")
    assert "'float32'" in caught.value.hint


def test_a_seed_reaches_every_generator():
    import random

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    runtime.seed_everything(5)
    first = draw()
    runtime.seed_everything(5)
    assert draw() == first
    with pytest.raises(UsageError):
        runtime.seed_everything(-1)


def test_missing_extra_names_itself():
    with pytest.raises(OrdtoolError, match="no_such_module_here") as caught:
        runtime.require("no_such_module_here", "plot")
    assert "ordtool[plot]" in caught.value.hint


def test_close_matches():
    assert close_match_hint("maen", ["mean", "max", "cls"]).startswith("did you mean 'mean'?")
    assert close_match_hint("zzz", ["mean", "cls"]) == "choices: cls, mean"


def test_only_large_imports_freeze_what_there_is():
    import gc
    import sys

    from ordtool.runtime import importing

    frozen, enabled = gc.get_freeze_count(), gc.isenabled()
    with importing():
        assert not gc.isenabled()
    assert (gc.get_freeze_count(), gc.isenabled()) == (frozen, enabled)
    names = [f"ordtool_test_{number}" for number in range(200)]
    try:
        with importing():
            sys.modules.update((name, gc) for name in names)
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
        for name in names:
            del sys.modules[name]


def test_denormals_are_zero_meanwhile():
    tiny = torch.full((1,), 1e-30)
    if not torch.set_flush_denormal(True):
        pytest.skip("the processor can't")
    torch.set_flush_denormal(False)
    with runtime.denormals_as_zero():
        with runtime.denormals_as_zero():
            assert float((tiny * 1e-9).double()) == 0
        assert float((tiny * 1e-9).double()) == 0
    assert float((tiny * 1e-9).double()) > 0
