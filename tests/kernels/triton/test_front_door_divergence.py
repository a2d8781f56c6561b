"""`divergence` for tensors of the Triton backend, against log_softmax and kl_div in float64 on the CPU."""

from __future__ import annotations

import math

import pytest
import torch

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import plain, teaching

each = pytest.mark.parametrize
F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
PAIRS = [(F64, F64), (F32, F32), (BF16, BF16), (F16, F16), (BF16, F32), (F32, BF16), (F32, F64), (F64, F16)]


@pytest.fixture(autouse=True)
def seeded():
    _ = torch.manual_seed(0)


def heads(shape, dtypes):
    """Logits of a student and a teacher, and the same numbers in float64; all are leaves."""
    own = [(2 * torch.randn(shape, dtype=F64)).to(dtype) for dtype in dtypes]
    return [x.clone().requires_grad_() for x in own], [x.double().requires_grad_() for x in own]


def moved(heads, device):
    """Both heads on the device."""
    return [x.to(device) for x in heads]


@each("dtypes", PAIRS, ids=str)
def test_all_statistics_and_the_gradients_of_both_heads(dtypes, device):
    turn = PAIRS.index(dtypes)
    shape = ((6, 7), (2, 3, 40), (3, 300), (2, 2100))[turn % 4]
    leaves, exacts = heads(shape, dtypes)
    options = dict(teaching.SCORES[turn // 2 % 4], beta=0.3)
    target = torch.where(torch.rand(shape[:-1]) < 0.3, -100, torch.randint(shape[-1], shape[:-1]))
    _, got = F.divergence(*moved(leaves, device), target=target.to(device), return_stats=True, **options)
    found = {name: x.cpu() for name, x in teaching.as_dict(got).items()}
    teaching.check(found, leaves, teaching.statistics(*exacts, target=target, **options), exacts)


@each("kind", list(teaching.KINDS))
def test_the_loss_of_each_kind_and_a_frozen_teacher(kind, device):
    leaves, exacts = heads((9, 40), (F32, F32))
    weight = torch.rand(9, dtype=F64)
    for reduction in ("mean", "none"):
        got = F.divergence(
            leaves[0].to(device), leaves[1].detach().to(device), kind=kind, reduction=reduction,
            sample_weight=weight.to(device),
        )  # fmt: skip
        rows = weight * teaching.statistics(*exacts)[teaching.KINDS[kind]]
        want = rows.sum() / weight.sum() if reduction == "mean" else rows
        assert plain.off(got.cpu(), want) <= teaching.BAR[F32]
        (a,), (b,) = torch.autograd.grad(got.sum(), leaves[:1]), torch.autograd.grad(want.sum(), exacts[:1])
        assert plain.off(a.cpu(), b) <= teaching.BAR[F32]


def test_a_loss_of_labels_and_teacher_together(device):
    leaves, exacts = heads((5, 300), (F32, F32))
    y = torch.tensor([3, 299, -100, 0, 7])

    def closing(rows):
        return 0.3 * -rows.logprob + 0.7 * 4.0 * rows.kl

    got = F.divergence(*moved(leaves, device), target=y.to(device), closing=closing, temperature=2.0)
    want = teaching.statistics(*exacts, target=y, temperature=2.0)
    exact = (0.3 * -want["logprob"] + 2.8 * want["kl"]).sum() / 4
    assert plain.off(got.cpu(), exact) <= teaching.BAR[F32]
    for a, b in zip(torch.autograd.grad(got.cpu(), leaves), torch.autograd.grad(exact, exacts), strict=True):
        assert plain.off(a.cpu(), b) <= teaching.BAR[F32]
    assert (torch.autograd.grad(F.divergence(*moved(leaves, device), target=y.to(device)), leaves)[0][2] == 0).all()


def test_equal_heads_have_no_divergence_and_padding_costs_nothing(device):
    z = torch.randn(4, 260, device=device)
    z[:, 250:] = -math.inf
    student = z.clone().requires_grad_()
    for kind in teaching.KINDS:
        loss = F.divergence(student, z, kind=kind, reduction="none")
        assert (loss == 0).all()
        assert (torch.autograd.grad(loss.sum(), student)[0] == 0).all()
    padded = F.divergence(student[:, :250], z[:, :250].flip(1), reduction="none")
    wide = torch.cat([z[:, :250].flip(1), z[:, 250:]], 1)
    torch.testing.assert_close(F.divergence(student, wide, reduction="none"), padded)
    assert F.divergence(student, z.roll(1, 1)).isinf()  # a class that only the teacher has


def test_the_most_probable_classes_of_a_teacher(device):
    leaves, exacts = heads((4, 60), (F32, F32))
    prob, index = exacts[1].detach().softmax(1).topk(60)
    teacher = TopK(index.to(device), prob.to(device))
    got = F.divergence(leaves[0].to(device), teacher)
    want = teaching.statistics(*exacts)["kl"].mean()
    assert plain.off(got.cpu(), want) <= teaching.BAR[F32]


def test_second_derivatives_go_through_the_slow_twin(device):
    leaves, exacts = heads((3, 7), (F64, F64))
    found = []
    for z, t in (leaves, exacts):
        loss = F.divergence(*moved((z, t), device)) if z is leaves[0] else teaching.statistics(z, t)["kl"].mean()
        (g,) = torch.autograd.grad(loss, z, create_graph=True)
        found.append(torch.autograd.grad(g.square().sum(), (z, t)))
    for a, b in zip(*found, strict=True):
        assert plain.off(a.cpu(), b) <= teaching.BAR[F64]


@pytest.mark.filterwarnings("ignore")
def test_compiled_without_a_graph_break(device):
    def step(z, t):
        return F.divergence(z, t, kind="js", beta=0.3) + F.divergence(z, t, softcap=3.0)

    torch._dynamo.reset()
    leaves, _ = heads((5, 7), (F32, F32))
    both = moved(leaves, device)
    got, want = torch.compile(step, fullgraph=True, backend="aot_eager")(*both), step(*both)
    assert torch.equal(got, want)
    for a, b in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True):
        assert torch.equal(a, b)
    torch._dynamo.reset()
