"""The losses against `hsic`, which shares no line with them, and their gradients against differences."""

import numpy as np
import pytest
import torch

import ordtool
from ordtool.errors import OrdtoolError, UsageError
from ordtool.independence.loss import hsic_loss, nhsic_loss

KERNELS = ["gaussian", "laplacian", "linear", "cosine", ("gaussian", "linear")]


def batch(rows: int = 9, requires_grad: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    y = torch.sin(2 * x[:, :2]) + 0.3 * torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    return x.requires_grad_(requires_grad), y.requires_grad_(requires_grad)


@pytest.mark.parametrize("multiples", [(1.0,), (0.5, 1.0, 3.0)])
@pytest.mark.parametrize("estimator", ["unbiased", "biased", "gretton"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_it_is_hsic(kernel, estimator, multiples):
    x, y = batch(40)
    options = {"kernel": kernel, "estimator": estimator}
    if "gaussian" in kernel or "laplacian" in kernel:
        options["multiples"] = multiples
    for bandwidth in (None, 0.7, (1.3, None)):
        expected = ordtool.hsic(x.numpy(), y.numpy(), bandwidth=bandwidth, test="none", **options).statistic
        assert hsic_loss(x, y, bandwidth=bandwidth, **options).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "linear", "cosine"])
def test_the_normalized_one_is_the_trace(kernel, oracle):
    x, y = batch(30)
    h = np.eye(30) - 1 / 30
    for epsilon in (1e-2, 1e-4):
        parts = []
        for rows in (x, y):
            k = h @ oracle.kernel(rows.numpy(), kernel, 1.2) @ h
            parts.append(k @ np.linalg.inv(k + epsilon * 30 * np.eye(30)))
        found = nhsic_loss(x, y, kernel=kernel, bandwidth=1.2, epsilon=epsilon).item()
        assert found == pytest.approx(np.trace(parts[0] @ parts[1]), rel=1e-8)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("loss", [hsic_loss, nhsic_loss])
def test_gradients_are_those_of_differences(loss, kernel):
    def measured(x, y):
        return loss(x, y, kernel=kernel, bandwidth=(1.1, 0.9), multiples=(0.5, 2.0))

    assert torch.autograd.gradcheck(measured, batch(requires_grad=True))


def test_no_gradient_flows_through_the_median():
    x, y = batch(requires_grad=True)
    (free,) = torch.autograd.grad(hsic_loss(x, y), x)
    held = ordtool.hsic(x.detach().numpy(), y.detach().numpy(), test="none")
    (fixed,) = torch.autograd.grad(hsic_loss(x, y, bandwidth=(held.bandwidth_x, held.bandwidth_y)), x)
    torch.testing.assert_close(free, fixed, rtol=1e-9, atol=1e-12)


def test_a_kernel_of_ones_own():
    x, y = batch(40, requires_grad=True)

    def quadratic(rows):
        return (1 + rows @ rows.T) ** 2

    loss = hsic_loss(x, y, kernel=(quadratic, "linear"))
    k = quadratic(x).detach().numpy()
    h = np.eye(40) - 1 / 40
    biased = hsic_loss(x, y, kernel=(quadratic, "linear"), estimator="biased")
    assert biased.item() == pytest.approx(np.trace(k @ h @ (y @ y.T).detach().numpy() @ h) / 1600, rel=1e-9)
    assert torch.autograd.grad(loss, x)[0].abs().sum() > 0


def test_integers_are_class_labels_and_numbers_may_stand_alone():
    x, _ = batch(12)
    labels = torch.tensor([3, 7, 9] * 4)
    unit = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 1, 2] * 4)]
    assert hsic_loss(x, labels).item() == pytest.approx(hsic_loss(x, unit).item(), rel=1e-12)
    assert hsic_loss(x[:, 0], unit).item() == pytest.approx(hsic_loss(x[:, :1], unit).item(), rel=1e-12)


def test_a_half_batch_comes_back_as_half_and_without_nan():
    x = torch.zeros(8, 4, dtype=torch.bfloat16, requires_grad=True)
    for loss in (hsic_loss, nhsic_loss):
        value = loss(x, torch.arange(8.0))
        assert value.dtype == torch.bfloat16
        assert value.item() == pytest.approx(0, abs=1e-9)
        assert torch.isfinite(torch.autograd.grad(value, x)[0]).all()


def test_minimising_it_makes_independent():
    """A layer that may say what it likes but not what the first coordinate is."""
    x = torch.cartesian_prod(
        torch.linspace(-1, 1, 7), torch.linspace(-1, 1, 7)
    )  # coordinates that don't depend
    weight = torch.tensor([[1.0], [1.0]], requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        # Without the second term the layer would be silent.
        (20 * hsic_loss(x @ weight, x[:, 0]) - hsic_loss(x @ weight, x)).backward()
        optimizer.step()
    assert abs(weight[0].item()) < 0.2 * abs(weight[1].item())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel": "gausian"}, UsageError, "unknown kernel"),
        ({"estimator": "normalised"}, UsageError, "unknown estimator"),
        ({"bandwidth": -1.0}, OrdtoolError, "bandwidth -1 is not possible"),
        ({"multiples": ()}, UsageError, "`multiples`"),
    ],
)
def test_impossible_options(options, error, message):
    with pytest.raises(error, match=message):
        hsic_loss(*batch(), **options)


def test_impossible_batches():
    x, y = batch()
    with pytest.raises(OrdtoolError, match="x has 8 rows and y has 9"):
        hsic_loss(x[1:], y)
    with pytest.raises(OrdtoolError, match=r"x has shape \(3, 3\)"):
        nhsic_loss(x[:3], y[:3])
    with pytest.raises(OrdtoolError, match="epsilon 0 is not possible"):
        nhsic_loss(x, y, epsilon=0)
