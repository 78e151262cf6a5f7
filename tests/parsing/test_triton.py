"""Triton's kernels, interpreted on the CPU, against the paper's equations in float64."""

import os

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from ordtool.parsing.onlstm.scan import INPUT_GATES, ordered_scan

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="Triton compiles here: see tests/gpu"
)


def arguments(seq, batch, hidden, chunk, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    gates = 4 * hidden + 2 * (hidden // chunk)
    shapes = ((seq, batch, gates), (gates, hidden), (batch, hidden), (batch, hidden))
    made = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    # Of the size that training has: recurrent weights of 1 / sqrt(hidden).
    return [made[0] * scale, made[1] / hidden**0.5, made[2].tanh(), made[3]]


def plain_loop(x, weight, h, c, chunk, input_gate="paper"):
    """The paper's equations, one after the other; reversed: the sum from each unit to the last."""
    hidden = h.shape[1]
    units = hidden // chunk
    states, distances = [], []
    for step in x:
        z = step + h @ weight.T
        z_mi, z_mf, z_o, z_c, z_i, z_f = z.split([units, units, hidden, hidden, hidden, hidden], dim=1)
        master_input = 1 - torch.cumsum(torch.softmax(z_mi, dim=1), dim=1)
        if input_gate == "reversed":
            into = torch.softmax(z_mi, dim=1)
            master_input = torch.stack([into[:, k:].sum(dim=1) for k in range(units)], dim=1)
        master_forget = torch.cumsum(torch.softmax(z_mf, dim=1), dim=1)
        i_tilde = master_input.repeat_interleave(chunk, dim=1)
        f_tilde = master_forget.repeat_interleave(chunk, dim=1)
        overlap = f_tilde * i_tilde
        c = (torch.sigmoid(z_f) * overlap + (f_tilde - overlap)) * c
        c = c + (torch.sigmoid(z_i) * overlap + (i_tilde - overlap)) * torch.tanh(z_c)
        h = torch.sigmoid(z_o) * torch.tanh(c)
        states.append(h)
        distances.append(1 - master_forget.mean(dim=1))
    return torch.stack(states), c, torch.stack(distances)


def gradients(states, cell, args):
    weights = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t) for t in (states, cell)]
    return torch.autograd.grad([states, cell], args, weights)


@pytest.mark.parametrize(
    ("seq", "batch", "hidden", "chunk"),
    [(4, 3, 14, 7), (1, 1, 10, 10), (1, 3, 6, 1), (3, 1, 30, 5), (2, 2, 33, 3), (2, 2, 16, 4)],
)
@pytest.mark.parametrize("input_gate", INPUT_GATES)
def test_states_distances_and_gradients(seq, batch, hidden, chunk, input_gate):
    exact = [t.requires_grad_() for t in arguments(seq, batch, hidden, chunk)]
    args = [t.detach().float().requires_grad_() for t in exact]
    ours = ordered_scan(*args, chunk, kernel="triton", input_gate=input_gate)
    theirs = plain_loop(*exact, chunk, input_gate)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach().double(), b.detach(), rtol=0, atol=1e-5)
    found, expected = gradients(*ours[:2], args), gradients(*theirs[:2], exact)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5 * float(b.abs().max().clamp(min=1)))


def test_without_gradients_nothing_changes():
    args = [t.float() for t in arguments(3, 2, 12, 3)]
    kept = ordered_scan(*[t.clone().requires_grad_() for t in args], 3, kernel="triton")
    for a, b in zip(kept, ordered_scan(*args, 3, kernel="triton"), strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=0, atol=0)


def test_bfloat16_products_are_near():
    exact = [t.requires_grad_() for t in arguments(3, 2, 12, 3)]
    args = [t.detach().float().requires_grad_() for t in exact]
    ours = ordered_scan(*args, 3, kernel="triton", matmul_dtype=torch.bfloat16)
    theirs = plain_loop(*exact, 3)
    found, expected = gradients(*ours[:2], args), gradients(*theirs[:2], exact)
    for a, b in zip([*ours[:2], *found], [*theirs[:2], *expected], strict=True):
        assert a.dtype == torch.float32
        assert (a.double() - b).norm() < 0.02 * b.norm()


@pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy's, which interprets
@pytest.mark.parametrize("size", [1e3, -1e30])
def test_huge_pre_activations_stay_finite(size):
    args = [t.float() for t in arguments(2, 2, 6, 3)]
    args[0] = (args[0].sign() * size).requires_grad_()
    output = ordered_scan(*args, 3, kernel="triton")
    (gradient,) = torch.autograd.grad(output.hidden_states.sum(), args[:1])
    assert all(torch.isfinite(tensor).all() for tensor in (*output, gradient))


@pytest.mark.parametrize("classes", [5, 37])
def test_softmax_and_its_gradient(classes, monkeypatch):
    from ordtool.parsing.onlstm import kernels_triton

    monkeypatch.setattr(kernels_triton, "_CLASSES", 16)  # several blocks a row
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(4, classes, generator=generator) * 5
    bias = torch.randn(classes, generator=generator)
    targets = torch.tensor([0, classes - 1, -100, 3])
    exact = scores.double().requires_grad_()
    expected = F.cross_entropy(exact + bias.double(), targets, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum() * 0.25, exact)
    losses = kernels_triton.fused_softmax_gradient_(scores, bias, targets, -100, torch.tensor(0.25))
    torch.testing.assert_close(losses.double(), expected.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scores.double(), gradient, rtol=0, atol=1e-6)


def test_a_kernel_that_cannot_run_is_told(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="needs triton and CUDA"):
        ordered_scan(*[t.float() for t in arguments(1, 1, 4, 2)], 2, kernel="triton")
