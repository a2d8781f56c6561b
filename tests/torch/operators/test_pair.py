"""crossent::pair_stats and crossent::pair_grad: their contracts, their numbers, and cotangents of any kind."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from crossent.spec import Scores, Target
from crossent.torch.operators.pair import PairCall, PairGradCall, TeacherScores, pair_grad, pair_stats
from crossent.torch.operators.rows import RowCall
from tests.torch import plain, teaching

N, V = 6, 40
OUTPUTS = ("loss", "lse", "entropy", "teacher_lse", "teacher_entropy", "kl", "reverse_kl", "js")
OF_STUDENT = ("loss", "lse", "entropy", "kl", "reverse_kl", "js")


def call(dtype=torch.float64, teacher_dtype=torch.float64, beta=0.3, *, ignored=-100):
    z = (2 * torch.randn(N, V)).to(dtype).requires_grad_()
    t = (2 * torch.randn(N, V)).to(teacher_dtype).requires_grad_()
    index = torch.randint(V, (N,))
    index[1] = ignored
    rows = RowCall(z, Target(index, ignore_index=-100), Scores(0.7, 4.0), recorded=True)
    return PairCall(rows, t, TeacherScores.of(Scores(1.3)), beta)


def truth(own):
    z, t = (x.detach().double().requires_grad_() for x in (own.rows.logits, own.teacher_logits))
    options = {"temperature": 0.7, "softcap": 4.0, "teacher_temperature": 1.3, "beta": own.beta or 0.5}
    found = teaching.statistics(z, t, target=own.rows.target.index, **options)
    return [z, t], found | {"loss": -found["logprob"]}


def cotangents(found, names):
    return [
        plain.cotangent_like(getattr(found, name), k).to(getattr(found, name).dtype) for k, name in enumerate(names)
    ]


DTYPES = [
    (torch.float64, torch.float64),
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float64, torch.float32),
]


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("beta", [None, 0.3])
def test_results_and_gradients_are_those_of_the_truth(dtypes, beta):
    own = call(*dtypes, beta)
    exacts, want = truth(own)
    found = pair_stats(own)
    names = OUTPUTS if beta else OUTPUTS[:-1]
    wide = [torch.float64 if d == torch.float64 else torch.float32 for d in dtypes]
    for name in names:
        got = getattr(found, name)
        assert got.dtype == wide[name.startswith("teacher")]
        assert plain.off(got, want[name]) <= teaching.BAR[max(wide, key=teaching.BAR.__getitem__)], name
    if beta is None:
        assert (found.js == 0).all()
    g = cotangents(found, names)
    leaves = [own.rows.logits, own.teacher_logits]
    grads = torch.autograd.grad([getattr(found, name) for name in names], leaves, g)
    wants = torch.autograd.grad([want[name] for name in names], exacts, [x.double() for x in g])
    for a, b, leaf in zip(grads, wants, leaves, strict=True):
        assert a.dtype == leaf.dtype
        assert plain.off(a, b) <= teaching.BAR[max([leaf.dtype, *wide], key=teaching.BAR.__getitem__)]
        assert (a[1] == 0).all()


@pytest.mark.parametrize("left_out", [(name,) for name in OF_STUDENT] + [("kl", "reverse_kl", "js"), OF_STUDENT[:3]])
def test_cotangents_that_are_not_there_are_zero(left_out):
    own = call()
    found = pair_stats(own)
    kept = (own, found.record, found.teacher_record, found.sums)
    given = dict(zip(OF_STUDENT, cotangents(found, OF_STUDENT), strict=True))
    without = [None if name in left_out else g for name, g in given.items()]
    zeros = [torch.zeros_like(g) if name in left_out else g for name, g in given.items()]
    torch.testing.assert_close(pair_grad(PairGradCall(*kept, *without)), pair_grad(PairGradCall(*kept, *zeros)))


def test_roles_in_each_others_place_give_the_same_divergences():
    own = call(ignored=3)
    there, back = pair_stats(own), pair_stats(own.swapped)
    for one, other in (("kl", "reverse_kl"), ("reverse_kl", "kl"), ("js", "js"), ("lse", "teacher_lse")):
        torch.testing.assert_close(getattr(there, one), getattr(back, other), rtol=1e-12, atol=0)
    torch.testing.assert_close(there.sums, back.sums[[1, 0, 3, 2]], rtol=1e-12, atol=0)


def test_a_row_without_a_cotangent_has_no_gradient_whatever_it_holds():
    own = call(torch.float32, torch.float32)
    with torch.no_grad():
        own.rows.logits[2] = torch.nan
        own.teacher_logits[3] = torch.nan
    found = pair_stats(own)
    g = [x.index_fill(0, torch.tensor([2, 3]), 0.0) for x in cotangents(found, OUTPUTS)]
    leaves = [own.rows.logits, own.teacher_logits]
    for grad in torch.autograd.grad([getattr(found, name) for name in OUTPUTS], leaves, g):
        assert (grad[2:4] == 0).all()
        assert grad.isfinite().all()


def test_logits_with_positions():
    z, t = (torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    target = Target(torch.zeros(6, dtype=torch.int64))
    own = PairCall(RowCall(z, target, Scores(0.7), recorded=True), t, TeacherScores(), 0.3)
    found = pair_stats(own)
    exacts = [x.detach().clone().requires_grad_() for x in (z, t)]
    want = teaching.statistics(*(x.movedim(1, 2) for x in exacts), temperature=0.7, teacher_temperature=1.0, beta=0.3)
    names = ("kl", "reverse_kl", "js", "entropy")
    for name in names:
        torch.testing.assert_close(getattr(found, name), want[name].reshape(-1), rtol=1e-11, atol=0)
    g = cotangents(found, names)
    grads = torch.autograd.grad([getattr(found, name) for name in names], [z, t], g)
    wants = torch.autograd.grad([want[name].reshape(-1) for name in names], exacts, g)
    for a, b in zip(grads, wants, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("beta", [None, 0.3])
def test_operators_keep_their_contracts(beta):
    own = call(torch.float32, torch.bfloat16, beta)
    _ = torch.library.opcheck(torch.ops.crossent.pair_stats.default, tuple(own.flatten()))
    found = pair_stats(own)
    rows = dataclasses.replace(own.rows, logits=own.rows.logits.detach())
    frozen = dataclasses.replace(own, rows=rows, teacher_logits=own.teacher_logits.detach())
    names = OF_STUDENT if beta else OF_STUDENT[:-1]
    g = (x.detach() for x in cotangents(found, names))
    grad = PairGradCall(frozen, found.record, found.teacher_record, found.sums, *g)
    _ = torch.library.opcheck(torch.ops.crossent.pair_grad.default, tuple(grad.flatten()))
