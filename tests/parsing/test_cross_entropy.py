import pytest
import torch
from torch.nn import functional as F

from ordtool.parsing.onlstm import cross_entropy
from ordtool.parsing.onlstm.cross_entropy import linear_cross_entropy
from ordtool.parsing.onlstm.kernels_torch import numba_available

ROWS, FEATURES, CLASSES = 13, 5, 11


def problem(dtype=torch.float64, grad=True):
    generator = torch.Generator().manual_seed(1)
    shapes = ((ROWS, FEATURES), (CLASSES, FEATURES), (CLASSES,))
    args = [
        torch.randn(*s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad)
        for s in shapes
    ]
    return args, torch.randint(0, CLASSES, (ROWS,), generator=generator)


@pytest.mark.parametrize("block", [1, 4, 256])
@pytest.mark.parametrize("ignored", [[], [0, 7], list(range(ROWS))])
def test_against_torch(monkeypatch, block, ignored):
    monkeypatch.setattr(cross_entropy, "BLOCK_ROWS", block)
    args, targets = problem()
    targets[ignored] = -100
    ours = linear_cross_entropy(*args, targets)
    hidden, weight, bias = args
    total = F.cross_entropy(hidden @ weight.T + bias, targets, reduction="sum")
    theirs = total / max(ROWS - len(ignored), 1)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(3 * ours, args), torch.autograd.grad(3 * theirs, args), strict=True):
        torch.testing.assert_close(a, b)


def test_gradcheck():
    args, targets = problem()
    assert torch.autograd.gradcheck(lambda *a: linear_cross_entropy(*a, targets), args)


def test_without_gradients():
    args, targets = problem(grad=False)
    hidden, weight, bias = args
    torch.testing.assert_close(
        linear_cross_entropy(*args, targets), F.cross_entropy(hidden @ weight.T + bias, targets)
    )


def test_huge_scores():
    args, targets = problem(torch.float32, grad=False)
    args[0] = (args[0] * 1e6).requires_grad_()
    loss = linear_cross_entropy(*args, targets)
    (gradient,) = torch.autograd.grad(loss, args[:1])
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()


@pytest.mark.parametrize("ignored", [[], [0, 7], list(range(ROWS))])
@pytest.mark.parametrize("fused", [False, True])
def test_bfloat16_products(monkeypatch, fused, ignored):
    if fused and not numba_available():
        pytest.skip("numba is not installed")
    monkeypatch.setattr(cross_entropy, "numba_available", lambda: fused)
    args, targets = problem(torch.float32)
    targets[ignored] = -100
    exact = linear_cross_entropy(*args, targets)
    near = linear_cross_entropy(*args, targets, matmul_dtype=torch.bfloat16)
    assert abs(exact.item() - near.item()) < 0.02
    assert near.dtype == torch.float32
    for a, b in zip(torch.autograd.grad(near, args), torch.autograd.grad(exact, args), strict=True):
        # Scores carry 8 bits, so single gradients are off by some percent; together they point the same way.
        assert (a - b).norm() <= 0.02 * b.norm()
    with torch.no_grad():
        assert linear_cross_entropy(*args, targets, matmul_dtype=torch.bfloat16).item() == near.item()


@pytest.mark.skipif(not numba_available(), reason="numba is not installed")
@pytest.mark.parametrize("classes", [1, 15, 16, 1003])
def test_the_fused_softmax(classes):
    from ordtool.parsing.onlstm.kernels_softmax import softmax_gradient_

    generator = torch.Generator().manual_seed(classes)
    scores = (torch.randn(7, classes, generator=generator) * 8).bfloat16()
    bias = torch.randn(classes, generator=generator)
    targets = torch.randint(0, classes, (7,), generator=generator)
    targets[3] = -100
    logits = (scores.double() + bias.double()).requires_grad_()
    wanted = F.cross_entropy(logits, targets, reduction="sum")
    (gradient,) = torch.autograd.grad(wanted, logits)
    d_bias = torch.zeros(classes)
    found = softmax_gradient_(scores, bias, targets, -100, 0.25, d_bias)
    assert found == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(d_bias.double(), 0.25 * gradient.sum(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores.double(), 0.25 * gradient, rtol=2**-8, atol=1e-9)
