import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ordtool.parsing.onlstm import kernels_torch as elementwise
from ordtool.parsing.onlstm.scan import INPUT_GATES, ordered_scan

SEQ, BATCH, HIDDEN, CHUNK = 5, 3, 14, 7  # distinct primes where a mixed-up axis would show
CHUNKS = HIDDEN // CHUNK
GATES = 4 * HIDDEN + 2 * CHUNKS

needs_numba = pytest.mark.skipif(not elementwise.numba_available(), reason="numba is not installed")
KERNELS = ["torch", pytest.param("numba", marks=needs_numba)]


def inputs(
    dtype=torch.float64, seed=0, seq=SEQ, batch=BATCH, hidden=HIDDEN, scale=1.0, grad=False
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gates = 4 * hidden + 2 * CHUNKS
    shapes = ((seq, batch, gates), (gates, hidden), (batch, hidden), (batch, hidden))
    made = [torch.randn(*shape, generator=generator, dtype=torch.float64) * scale for shape in shapes]
    return [tensor.to(dtype).requires_grad_(grad) for tensor in made]


def plain_loop(
    x: Tensor, weight: Tensor, h: Tensor, c: Tensor, input_gate: str = "paper"
) -> tuple[Tensor, Tensor, Tensor]:
    """The paper's equations, one after the other; reversed: the sum from each unit to the last."""
    states, distances = [], []
    for step in x:
        z = step + h @ weight.T
        z_mi, z_mf, z_o, z_c, z_i, z_f = z.split([CHUNKS, CHUNKS, HIDDEN, HIDDEN, HIDDEN, HIDDEN], dim=1)
        master_input = 1 - torch.cumsum(torch.softmax(z_mi, dim=1), dim=1)
        if input_gate == "reversed":
            into = torch.softmax(z_mi, dim=1)
            master_input = torch.stack([into[:, k:].sum(dim=1) for k in range(CHUNKS)], dim=1)
        master_forget = torch.cumsum(torch.softmax(z_mf, dim=1), dim=1)
        i_tilde = master_input.repeat_interleave(CHUNK, dim=1)
        f_tilde = master_forget.repeat_interleave(CHUNK, dim=1)
        overlap = f_tilde * i_tilde
        f_hat = torch.sigmoid(z_f) * overlap + (f_tilde - overlap)
        i_hat = torch.sigmoid(z_i) * overlap + (i_tilde - overlap)
        c = f_hat * c + i_hat * torch.tanh(z_c)
        h = torch.sigmoid(z_o) * torch.tanh(c)
        states.append(h)
        distances.append(1 - master_forget.mean(dim=1))
    return torch.stack(states), c, torch.stack(distances)


def test_the_paper_equation_by_equation():
    ours, theirs = ordered_scan(*inputs(), CHUNK), plain_loop(*inputs())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_nothing_is_kept_without_gradients_and_nothing_changes():
    with_gradients = ordered_scan(*inputs(grad=True), CHUNK)
    with torch.inference_mode():
        without = ordered_scan(*inputs(), CHUNK)
    for a, b in zip(with_gradients, without, strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=0, atol=0)


@pytest.mark.parametrize("input_gate", INPUT_GATES)
def test_gradcheck(input_gate):
    def outputs(*args: Tensor) -> tuple[Tensor, Tensor]:
        result = ordered_scan(*args, 3, input_gate=input_gate)
        return result.hidden_states, result.cell

    assert torch.autograd.gradcheck(outputs, inputs(seq=4, hidden=3 * CHUNKS, grad=True))


def gradients(function, args, seed=3) -> list[Tensor]:
    states, cell = function(*args)[:2]
    generator = torch.Generator().manual_seed(seed)
    weights = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in (states, cell)
    ]
    return list(torch.autograd.grad([states, cell], args, weights))


@pytest.mark.parametrize("input_gate", INPUT_GATES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_float32_kernels_against_float64(kernel, input_gate):
    options = {"kernel": kernel, "input_gate": input_gate}
    args = inputs(torch.float32, grad=True)
    exact = [tensor.detach().double().requires_grad_() for tensor in args]
    ours = ordered_scan(*args, CHUNK, **options)
    for a, b in zip(ours, plain_loop(*exact, input_gate), strict=True):
        torch.testing.assert_close(a.detach().double(), b.detach(), rtol=0, atol=2e-6)
    ours = gradients(lambda *x: ordered_scan(*x, CHUNK, **options), args)
    for a, b in zip(ours, gradients(lambda *x: plain_loop(*x, input_gate), exact), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5 * float(b.abs().max()))


@needs_numba
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 5), st.sampled_from([0.01, 1.0, 30.0]))
def test_both_kernels_agree(seed, seq, batch, scale):
    results = []
    for kernel in ("torch", "numba"):
        # Only what comes in is scaled: large recurrent weights too would blow up the last bits of either kernel.
        x, *others = inputs(torch.float32, seed, seq, batch, grad=True)
        args = [(x.detach() * scale).requires_grad_(), *others]
        results.append(gradients(lambda *x, k=kernel: ordered_scan(*x, CHUNK, kernel=k), args))
        results[-1] += [t.detach() for t in ordered_scan(*args, CHUNK, kernel=kernel)]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(a.abs().max().clamp(min=1)))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [1e3, 1e30, -1e30])
def test_huge_pre_activations_stay_finite(kernel, size):
    args = inputs(torch.float32)
    args[0] = (args[0].sign() * size).requires_grad_()
    output = ordered_scan(*args, CHUNK, kernel=kernel)
    (gradient,) = torch.autograd.grad(output.hidden_states.sum(), args[:1])
    for tensor in (*output, gradient):
        assert torch.isfinite(tensor).all()
    assert output.hidden_states.abs().max() <= 1
    assert (output.distances >= -1e-6).all() and (output.distances <= 1).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_long_window(kernel):
    args = inputs(torch.float32, seq=2000, grad=True)
    output = ordered_scan(*args, CHUNK, kernel=kernel)
    found = torch.autograd.grad(output.hidden_states.mean(), args)
    assert all(torch.isfinite(tensor).all() for tensor in (*output, *found))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("seq", "batch"), [(0, 3), (4, 0), (0, 0)])
def test_nothing_to_do(kernel, seq, batch):
    x, weight, h, c = inputs(torch.float32, seq=seq, batch=batch, grad=True)
    output = ordered_scan(x, weight, h, c, CHUNK, kernel=kernel)
    assert output.hidden_states.shape == (seq, batch, HIDDEN)
    assert output.distances.shape == (seq, batch)
    torch.testing.assert_close(output.cell, c)


def test_windows_in_turn_are_one_window():
    x, weight, h, c = inputs()
    whole = ordered_scan(x, weight, h, c, CHUNK)
    first = ordered_scan(x[:2], weight, h, c, CHUNK)
    second = ordered_scan(x[2:], weight, first.hidden_states[-1], first.cell, CHUNK)
    torch.testing.assert_close(torch.cat((first.hidden_states, second.hidden_states)), whole.hidden_states)
    torch.testing.assert_close(second.cell, whole.cell)


@pytest.mark.parametrize("kernel", KERNELS)
def test_bfloat16_products_keep_float32_states(kernel):
    args = inputs(torch.float32, scale=0.3, grad=True)
    output = ordered_scan(*args, CHUNK, matmul_dtype=torch.bfloat16, kernel=kernel)
    exact = ordered_scan(*args, CHUNK, kernel=kernel)
    assert output.hidden_states.dtype == output.cell.dtype == torch.float32
    # bfloat16 has 8 bits; errors of products of size 1 stay near 2^-8 and don't grow over the window.
    assert (output.hidden_states - exact.hidden_states).abs().max() < 0.01
    found = gradients(lambda *x: ordered_scan(*x, CHUNK, matmul_dtype=torch.bfloat16, kernel=kernel), args)
    wanted = gradients(lambda *x: ordered_scan(*x, CHUNK, kernel=kernel), args)
    for a, b in zip(found, wanted, strict=True):
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.9995


def test_backward_twice_gives_the_same():
    args = inputs(grad=True)
    output = ordered_scan(*args, CHUNK)
    loss = output.hidden_states.square().sum()
    first = torch.autograd.grad(loss, args, retain_graph=True)
    second = torch.autograd.grad(loss, args)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_caller_may_change_the_output_in_place():
    args = inputs(grad=True)
    wanted = gradients(plain_loop, args)
    output = ordered_scan(*args, CHUNK)
    states = output.hidden_states * 1.0
    output.hidden_states.data.fill_(9.0)
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in (states, output.cell)]
    for a, b in zip(torch.autograd.grad([states, output.cell], args, weights), wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: (a[0][:, :, 1:], *a[1:], CHUNK), "inputs must be"),
        (lambda a: (a[0], a[1][1:], *a[2:], CHUNK), "weight must be"),
        (lambda a: (*a[:2], a[2][1:], a[3], CHUNK), "hidden must be"),
        (lambda a: (*a, 4), "doesn't divide"),
    ],
)
def test_shapes_are_checked(change, words):
    with pytest.raises(ValueError, match=words):
        ordered_scan(*change(inputs()))


def test_names_are_checked():
    with pytest.raises(ValueError, match="unknown input gate"):
        ordered_scan(*inputs(), CHUNK, input_gate="mirrored")
    with pytest.raises(ValueError, match="unknown kernel"):
        ordered_scan(*inputs(), CHUNK, kernel="cuda")
    with pytest.raises(ValueError, match="numba"):
        ordered_scan(*inputs(torch.float64), CHUNK, kernel="numba")


@needs_numba
def test_the_polynomial_exp():
    import numpy as np

    from ordtool.parsing.onlstm.kernels_numba import _exp

    x = np.concatenate([np.linspace(-87, 87, 10_001), [0.0, 1e-8, -1e-8]]).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    bits = np.empty(len(x), np.int32)
    _exp(x, bits, bits.view(np.float32))
    assert np.max(np.abs(x - exact) / exact) < 2.5e-7
