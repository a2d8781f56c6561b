"""A frozen head keeps the derivative of each loss, and its backward multiplies nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import crossent.torch as F
from tests.torch import linear, plain
from tests.torch.linear import KINDS, LONG, draw

ROWS, FEATURES, CLASSES = 150, LONG.D, LONG.C
PRODUCT = ROWS * FEATURES * CLASSES
CHUNK = 8 * CLASSES * 128
"""Bytes of 128 rows of logits: not all of them fit, but enough for one sweep."""
FROZEN = ("linear_weight", "linear_bias", "prob", "sample_weight")


def both(args: tuple[Any, ...], options: dict[str, Any], **how: Any) -> tuple[list[Any], list[Any]]:
    """Values and gradients of ours, and of the plain loss."""
    found = []
    for function in (F.linear_cross_entropy, linear.linear_cross_entropy):
        given = how if function is F.linear_cross_entropy else {}
        x, w, y, b, s = args
        loss = function(x, w, y, linear_bias=b, sample_weight=s, reduction="none", **options, **given)
        (g,) = torch.autograd.grad(loss, [x], plain.cotangent_like(loss))
        found.append([loss, g])
    return found[0], found[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", linear.WITH)
def test_any_cotangent_of_the_losses(option, kind):
    args, options = draw(LONG, kind, option, bias=True, frozen=FROZEN)
    for got, want in zip(*both(args, options, chunk_bytes=CHUNK), strict=True):
        plain.agree("result", got, want, None, 1e-10)


def test_two_products_in_the_forward_and_none_in_the_backward(products):
    args, _ = draw(LONG, "index", frozen=FROZEN)
    loss = F.linear_cross_entropy(*args[:3], reduction="none", chunk_bytes=CHUNK)
    assert sum(products) == 2 * PRODUCT
    loss.backward(torch.rand(ROWS, dtype=torch.float64))
    assert sum(products) == 2 * PRODUCT


def test_logits_that_fit_are_kept_instead(products):
    args, _ = draw(LONG, "index", frozen=FROZEN)
    loss = F.linear_cross_entropy(*args[:3], reduction="none")
    assert sum(products) == PRODUCT
    loss.sum().backward()
    assert sum(products) == 2 * PRODUCT


def test_a_weight_that_learns_keeps_no_derivative(products):
    args, _ = draw(LONG, "index")
    F.linear_cross_entropy(*args[:3], reduction="none", chunk_bytes=CHUNK).sum().backward()
    assert sum(products) == 4 * PRODUCT


def test_gradients_of_the_statistics_are_multiplied():
    args, _ = draw(LONG, "ignored", frozen=FROZEN)
    x = args[0]
    found = []
    for function, how in ((F.linear_cross_entropy, {"chunk_bytes": CHUNK}), (linear.linear_cross_entropy, {})):
        loss, stats = function(*args[:3], reduction="none", return_stats=True, **how)
        stats = stats if isinstance(stats, dict) else {n: getattr(stats, n) for n in ("lse", "logprob", "entropy")}
        outputs = [loss, stats["lse"], stats["logprob"], stats["entropy"]]
        every = [plain.cotangent_like(y, k) for k, y in enumerate(outputs)]
        found.append([
            *torch.autograd.grad(outputs, [x], every, retain_graph=True),
            *torch.autograd.grad(outputs[1:2], [x], every[1:2], retain_graph=True),
            *torch.autograd.grad(outputs[3:], [x], every[3:]),
        ])  # fmt: skip
    for a, b in zip(*found, strict=True):
        plain.agree("gradient", a, b, None, 1e-10)


def test_a_row_without_a_part_in_the_gradient_may_hold_anything():
    args, _ = draw(LONG, "index", frozen=FROZEN)
    x, w, y = args[:3]
    with torch.no_grad():
        x[3], x[70] = torch.nan, torch.inf
    y[70] = -100
    g = torch.rand(ROWS, dtype=torch.float64)
    g[3] = 0
    F.linear_cross_entropy(x, w, y, reduction="none", chunk_bytes=CHUNK).backward(g)
    assert x.grad is not None
    assert (x.grad[[3, 70]] == 0).all()
    assert x.grad.isfinite().all()


def test_second_derivatives():
    args, _ = draw(LONG, "index", frozen=FROZEN)
    x = args[0]
    found = []
    for function, how in ((F.linear_cross_entropy, {"chunk_bytes": CHUNK}), (linear.linear_cross_entropy, {})):
        loss = function(*args[:3], reduction="none", **how)
        g = plain.cotangent_like(loss).requires_grad_()
        (first,) = torch.autograd.grad(loss, x, g, create_graph=True)
        found.append([first, *torch.autograd.grad(first, (x, g), plain.cotangent_like(first))])
    for a, b in zip(*found, strict=True):
        plain.agree("derivative", a, b, None, 1e-10)


@pytest.mark.usefixtures("quiet")
def test_compiled():
    args, _ = draw(LONG, "index", frozen=FROZEN)
    x, w, y = args[:3]

    def loss(x: torch.Tensor) -> torch.Tensor:
        return F.linear_cross_entropy(x, w, y, reduction="none", chunk_bytes=CHUNK)

    g = torch.rand(ROWS, dtype=torch.float64)
    got, want = torch.compile(loss, backend="aot_eager", fullgraph=True)(x), loss(x)
    assert torch.equal(got, want)
    assert torch.equal(*(torch.autograd.grad(y, x, g)[0] for y in (got, want)))
