"""Closings of divergences, and options that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import crossent.torch as F
from tests.torch import teaching


def heads(*rows):
    return [torch.randn(*rows, 9, dtype=torch.float64, requires_grad=True) for _ in range(2)]


@pytest.mark.parametrize("kind", list(teaching.KINDS))
@pytest.mark.parametrize("rows", [(6,), (2, 3)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_closing_sees_both_heads(kind, rows, reduction):
    leaves, exacts = heads(*rows), None
    exacts = [x.detach().clone().requires_grad_() for x in leaves]
    target = torch.where(torch.rand(rows) < 0.3, -100, torch.randint(9, rows))
    constant, weight = torch.rand(rows, dtype=torch.float64), torch.rand(rows, dtype=torch.float64)

    def mixed(rows, constant):
        nll = 0.1 * rows.loss - 0.2 * rows.logprob if hasattr(rows, "loss") else -0.3 * rows.logprob
        return nll + constant * rows.kl + rows.reverse_kl**2 + rows.js + rows.teacher_entropy * rows.lse + (
            rows.teacher_lse - rows.entropy
        )  # fmt: skip

    options = {"temperature": 0.8, "softcap": 4.0, "beta": 0.3, "target": target}
    got = F.divergence(
        *leaves, kind=kind, closing=mixed, operands=(constant,), sample_weight=weight, reduction=reduction, **options
    )

    class Rows:
        def __init__(self, found):
            for name, x in found.items():
                setattr(self, name, x)

    each = torch.where(target == -100, 0.0, weight * mixed(Rows(teaching.statistics(*exacts, **options)), constant))
    want = {"none": each, "sum": each.sum(), "mean": each.sum() / weight[target != -100].sum()}[reduction]
    torch.testing.assert_close(got, want)
    g = torch.randn_like(want)
    for a, b in zip(torch.autograd.grad(got, leaves, g), torch.autograd.grad(want, exacts, g), strict=True):
        torch.testing.assert_close(a, b)


def test_hintons_loss():
    z, t = heads(5)
    target, tau, alpha = torch.randint(9, (5,)), 3.0, 0.2

    def mixed(rows):
        return -alpha * rows.logprob + (1 - alpha) * tau**2 * rows.kl

    got = F.divergence(z, t, closing=mixed, target=target, temperature=tau)
    nll = torch.nn.functional.cross_entropy(z / tau, target)
    soft = torch.nn.functional.kl_div(
        (z / tau).log_softmax(1), (t / tau).log_softmax(1), log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(got, alpha * nll + (1 - alpha) * tau**2 * soft)


def test_removed_rows_do_not_reach_a_closing():
    z, t = heads(5)
    target, weight = torch.tensor([1, -100, 2, 3, 4]), torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    seen: list[int] = []

    def closing(rows):
        seen.append(len(rows.kl))
        return rows.kl * rows.correct + rows.js + 0 * rows.confidence

    loss = F.divergence(z, t, closing=closing, target=target, sample_weight=weight, reduction="none")
    assert seen == [3]
    assert (loss[1:3] == 0).all()


def test_a_closing_is_told_what_is_not_there():
    z, t = heads(5)
    for name in ("logprob", "loss", "correct"):
        with pytest.raises(AttributeError, match=f"rows.{name} needs a target; pass target="):
            _ = F.divergence(z, t, closing=lambda rows, name=name: getattr(rows, name))
    for name in ("kl", "reverse_kl", "js", "teacher_entropy", "teacher_lse"):
        with pytest.raises(AttributeError, match=f"rows.{name} needs a teacher"):
            _ = F.cross_entropy(z, torch.arange(5), closing=lambda rows, name=name: getattr(rows, name))


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_a_closing_under_transforms():
    z, t = (torch.randn(3, 4, 9, dtype=torch.float64) for _ in range(2))

    def ours(z: Tensor, t: Tensor) -> Tensor:
        return F.divergence(z, t, closing=lambda rows: rows.kl + rows.js * rows.entropy, target=torch.arange(4))

    found = torch.func.vmap(torch.func.grad(ours))(z, t)
    for k in range(3):
        own = z[k].clone().requires_grad_()
        torch.testing.assert_close(found[k], torch.autograd.grad(ours(own, t[k]), own)[0])


def test_statistics_beside_a_closing():
    z, t = heads(5)
    loss, found = F.divergence(z, t, closing=lambda rows: rows.kl, return_stats=True)
    torch.testing.assert_close(loss, found.kl.mean())
    assert found.logprob is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "kl"}, r'kind must be "forward" \(KL\(teacher‖student\)\), "reverse".*got \'kl\''),
        ({"kind": None}, "kind must be"),
        ({"kind": "js", "beta": 1.0}, "beta, the teacher's share of the mixture, must lie between 0 and 1, got 1.0"),
        ({"kind": "js", "beta": 0}, "must lie between 0 and 1"),
        ({"beta": 0.3}, 'beta belongs to kind="js" and has no effect on kind="forward"'),
        ({"tail": "bucket"}, 'tail="bucket" is for the classes that a TopK teacher lacks'),
        ({"tail": "drop"}, 'tail must be "ignore" or "bucket"'),
        ({"ignore_index": 3}, "ignore_index needs a target"),
        ({"temperature": 0.0}, "temperature must be a positive finite number"),
        ({"teacher_temperature": 0.0}, "teacher_temperature must be between 1e-15 and 1e15, got 0.0; use None for the"),
        ({"teacher_softcap": -1.0}, "teacher_softcap must be between 1e-15 and 1e15, got -1.0; use None for no cap"),
        ({"reduction": "batchmean"}, "'batchmean' is not a valid value for reduction"),
        ({"operands": (torch.ones(3),)}, "operands have no effect without a closing"),
        ({"sample_weight": torch.ones(2)}, "sample_weight of shape"),
        ({"target": torch.zeros(3, 2).long()}, r"target of shape \(3, 2\) fits no logits of shape \(3, 5\)"),
        ({"first_class": 1}, "first_class names this rank's first class, so it needs process_group="),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(options, message):
    z = torch.randn(3, 5)
    with pytest.raises(ValueError, match=message):
        _ = F.divergence(z, z, **options)


def test_what_is_no_head_is_said():
    with pytest.raises(ValueError, match="logits must have a class axis"):
        _ = F.divergence(torch.tensor(1.0), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"logits of shape \(3, 0\) have no classes"):
        _ = F.divergence(torch.zeros(3, 0), torch.zeros(3, 0))
    with pytest.raises(TypeError, match="input must be float32"):
        _ = F.divergence(torch.zeros(3, 2).long(), torch.zeros(3, 2))
    with pytest.raises(TypeError, match="beta must be a"):
        _ = F.divergence(torch.zeros(3, 2), torch.zeros(3, 2), kind="js", beta="0.5")
