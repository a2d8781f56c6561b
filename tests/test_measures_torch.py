"""The measures on torch tensors: dtypes, mixtures, gradients, and tensors without values."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import special

from crossent.measures import cross_entropy, entropy, js_divergence, kl_divergence, perplexity

EVERY = [entropy, cross_entropy, kl_divergence, js_divergence, perplexity]
HALVES = [[0.5, 0.5], [0.25, 0.75]]


def apply(function, p, q, **options):
    return function(p, **options) if function is entropy else function(p, q, **options)


def distributions(seed, rows, classes):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), rows)


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize(
    ("left", "right", "result"),
    [
        (torch.float64, torch.float64, torch.float64),
        (torch.float32, torch.float32, torch.float32),
        (torch.float16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.float8_e5m2, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.float64, None, torch.float64),
        (torch.float32, None, torch.float32),
        (torch.float16, None, torch.float32),
    ],
)
def test_torch_dtypes(function, left, right, result):
    p, q = torch.tensor([0.5, 0.5]).to(left), [0.25, 0.75] if right is None else torch.tensor([0.25, 0.75]).to(right)
    value = apply(function, p, q)
    assert isinstance(value, torch.Tensor)
    assert value.shape == ()
    if function is entropy and left is not torch.float64:
        result = torch.float32
    assert value.dtype is result
    assert value.item() == pytest.approx(float(apply(function, *HALVES)), rel=4 * torch.finfo(result).eps)


def test_torch_meets_everything_else():
    p, q = torch.tensor([1, 0, 0]), np.array([0.5, 0.25, 0.25])
    q.flags.writeable = False
    for value in (cross_entropy(p, q), cross_entropy([1, 0, 0], torch.from_numpy(q.copy()).float())):
        assert value.dtype is torch.float32
        assert value.item() == pytest.approx(math.log(2), rel=1e-7)
    assert cross_entropy(p, torch.from_numpy(q.copy())).dtype is torch.float64
    assert cross_entropy(q.astype(np.longdouble), torch.tensor([0.5, 0.25, 0.25])).item() == pytest.approx(
        1.5 * math.log(2)
    )


@pytest.mark.parametrize("function", EVERY)
def test_a_parameter_is_a_tensor(function):
    p = torch.nn.Parameter(torch.tensor([0.5, 0.5]))
    assert apply(function, p, p).requires_grad


# Gradients


def gradients(function, p, q):
    p, q = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (p, q))
    return [g.numpy() for g in torch.autograd.grad(function(p, q).sum(), (p, q))]


def check_gradients(function):
    """Closed forms at inner points, at zeros, and at pairs so near or so far that a naive formula loses them."""
    closed = {
        "cross_entropy": lambda p, q: (-np.log(q), -p / q),
        "kl_divergence": lambda p, q: (np.log(p / q), 1 - p / q),
        "js_divergence": lambda p, q: (np.log(2 * p / (p + q)) / 2, np.log(2 * q / (p + q)) / 2),
    }[function.__name__]
    p, q = distributions(13, 4, 6), distributions(14, 4, 6)
    far = np.array([1e-30, 0.25, 0.75]), np.array([0.5, 0.5, 1e-200])
    for a, b in ((p, q), far, far[::-1]):
        for got, truth in zip(gradients(function, a, b), closed(a, b), strict=True):
            assert got == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("function", [cross_entropy, kl_divergence, js_divergence])
def test_gradients_are_the_closed_forms(function):
    check_gradients(function)


def test_the_gradient_check_catches_a_detached_prediction():
    def detached(p, q):
        return cross_entropy(p, q.detach()) + 0.0 * q.sum()

    detached.__name__ = "cross_entropy"
    with pytest.raises(AssertionError):
        check_gradients(detached)


def test_gradients_of_entropy():
    p = torch.tensor([0.0, 0.25, 0.75], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(entropy(p), p)
    assert grad.numpy() == pytest.approx([0.0, math.log(4) - 1, math.log(4 / 3) - 1], rel=1e-14)


def test_gradients_at_zeros():
    by_p, by_q = gradients(cross_entropy, [0.0, 0.0, 1.0], [0.5, 0.0, 0.5])
    assert by_p == pytest.approx([math.log(2), 0.0, math.log(2)])
    assert by_q == pytest.approx([0.0, 0.0, -2.0])
    by_p, by_q = gradients(kl_divergence, [0.0, 0.0, 1.0], [0.5, 0.0, 0.5])
    assert np.isfinite(by_p).all()
    assert by_q == pytest.approx([1.0, 0.0, -1.0])
    by_p, by_q = gradients(js_divergence, [0.0, 0.0, 1.0], [1.0, 0.0, 0.0])
    assert np.isfinite([by_p, by_q]).all()
    assert (by_q[0], by_p[2]) == pytest.approx((math.log(2) / 2, math.log(2) / 2))
    for function in (cross_entropy, kl_divergence):  # the loss is infinite: so is its slope, but it is not NaN
        by_p, by_q = gradients(function, [0.5, 0.5], [1.0, 0.0])
        assert by_p[1] == math.inf
        assert by_q[1] == -math.inf


def test_gradients_of_near_distributions_keep_their_digits_in_float32():
    q = torch.tensor([0.3, 0.3, 0.4], requires_grad=True)
    p = torch.tensor([np.nextafter(np.float32(0.3), np.float32(1)), 0.3, 0.4], requires_grad=True)
    by_p, by_q = torch.autograd.grad(kl_divergence(p, q), (p, q))
    with mpmath.workdps(50):
        ratio = mpmath.mpf(p[0].item()) / mpmath.mpf(q[0].item())
        truth = [float(mpmath.log(ratio)), float(1 - ratio)]
    assert [by_p[0].item(), by_q[0].item()] == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_gradcheck(function, check):
    p = torch.tensor([[0.30, 0.05, 0.65], [0.2, 0.3, 0.5]], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.31, 0.60, 0.09], dtype=torch.float64, requires_grad=True)  # near, and far on both sides
    inputs = (p,) if function is entropy else (p, q)
    assert check(lambda *inputs: function(*inputs, axis=-1), inputs)


def test_a_network_ending_in_softmax_learns_as_from_logits():
    logits = torch.tensor([[2.0, -1.0, 0.5], [-300.0, 900.0, 0.0]], dtype=torch.float64, requires_grad=True)
    onehot = torch.tensor([[0, 0, 1], [0, 1, 0]])
    (grad,) = torch.autograd.grad(cross_entropy(onehot, logits.softmax(-1)).sum(), logits)
    truth = special.softmax(logits.detach().numpy(), axis=-1) - onehot.numpy()
    assert grad.numpy() == pytest.approx(truth, rel=1e-13, abs=1e-16)
    (grad,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, onehot.double(), reduction="sum"), logits)
    assert grad.numpy() == pytest.approx(truth, rel=1e-13, abs=1e-16)


def test_entropy_of_a_saturated_softmax_has_a_gradient():
    logits = torch.tensor([0.0, -1.0, -2000.0], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(entropy(logits.softmax(-1)), logits)
    p = special.softmax([0.0, -1.0])
    assert grad.numpy() == pytest.approx([*(-p * (np.log(p) + special.entr(p).sum())), 0.0], rel=1e-12, abs=1e-16)


# Without values


@pytest.mark.slow
def test_compiles_to_one_graph():
    def losses(p, logits):
        return torch.stack([apply(function, logits.softmax(-1), p, axis=-1) for function in EVERY])

    p, logits = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]]), torch.randn(2, 3, requires_grad=True)
    compiled, eager = torch.compile(losses, fullgraph=True, backend="aot_eager")(p, logits), losses(p, logits)
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), logits) for value in (compiled, eager)))


@pytest.mark.parametrize("function", EVERY)
def test_tensors_without_values(function):
    batch = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]])
    torch.testing.assert_close(
        torch.func.vmap(lambda p, q: apply(function, p, q))(batch, batch), apply(function, batch, batch)
    )
    assert apply(function, batch.to("meta"), batch.to("meta")).shape == (2,)
    with torch._subclasses.FakeTensorMode():
        assert apply(function, torch.empty(2, 3), torch.empty(2, 3)).shape == (2,)
