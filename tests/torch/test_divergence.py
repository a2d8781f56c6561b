"""Divergences of two heads against log_softmax and kl_div in float64: values, and all derivatives."""

from __future__ import annotations

import itertools
import math

import mpmath
import pytest
import torch
from torch.nn.functional import kl_div

import crossent.torch as F
from tests.torch import plain, teaching

each_kind = pytest.mark.parametrize("kind", list(teaching.KINDS))
each_score = pytest.mark.parametrize("scores", teaching.SCORES, ids=str)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
PAIRS = [*((d, d) for d in DTYPES), (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16),
         (torch.float64, torch.float16), (torch.float16, torch.float64)]  # fmt: skip


def heads(rows, V, dtype=torch.float64, teacher_dtype=None, spread=2.0):
    """Logits of a student and a teacher, and the same numbers in float64; all are leaves."""
    z = (spread * torch.randn(*rows, V)).to(dtype).requires_grad_()
    t = (spread * torch.randn(*rows, V)).to(teacher_dtype or dtype).requires_grad_()
    return [z, t], [x.detach().double().requires_grad_() for x in (z, t)]


@each_score
@pytest.mark.parametrize("dtypes", PAIRS, ids=str)
@pytest.mark.parametrize("V", [2, 7, 300])
@pytest.mark.parametrize("target", [False, True])
def test_all_statistics_and_gradients(scores, dtypes, V, target):
    leaves, exacts = heads((6,), V, *dtypes)
    options = dict(scores, beta=0.3)
    if target:
        options["target"] = torch.where(torch.rand(6) < 0.3, -100, torch.randint(V, (6,)))
    _, got = F.divergence(*leaves, return_stats=True, **options)
    teaching.check(got, leaves, teaching.statistics(*exacts, **options), exacts)


@each_kind
@each_score
@each_dtype
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_each_kind(kind, scores, dtype, reduction, weighted):
    leaves, exacts = heads((9,), 40, dtype)
    target = torch.where(torch.rand(9) < 0.3, -100, torch.randint(40, (9,)))
    weight = torch.rand(9, dtype=torch.float64) if weighted else None
    options = dict(scores, beta=0.7 if kind == "js" else 0.5, target=target)
    got = F.divergence(*leaves, kind=kind, reduction=reduction, sample_weight=weight, **options)
    s = torch.ones(9, dtype=torch.float64) if weight is None else weight
    each = s * teaching.statistics(*exacts, **options)[teaching.KINDS[kind]]
    mean = each.sum() / s[target != -100].sum()
    want = {"none": each, "sum": each.sum(), "mean": mean}[reduction]
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert plain.off(got, want) <= teaching.BAR[got.dtype]
    g = plain.cotangent_like(want).to(got.dtype)
    for a, b in zip(torch.autograd.grad(got, leaves, g), torch.autograd.grad(want, exacts, g.double()), strict=True):
        assert plain.off(a, b) <= teaching.BAR[dtype]
        assert (a[target == -100] == 0).all()


def test_forward_is_kl_div_of_torch_and_reverse_the_other_way_round():
    (z, t), _ = heads((5,), 30)
    logq, logp = z.log_softmax(1), t.log_softmax(1)
    forward = kl_div(logq, logp, log_target=True, reduction="batchmean")
    torch.testing.assert_close(F.divergence(z, t), forward)
    torch.testing.assert_close(F.divergence(z, t, kind="reverse"), F.divergence(t, z))
    torch.testing.assert_close(
        F.divergence(z, t, kind="js", beta=0.2), F.divergence(t, z, kind="js", beta=0.8), rtol=1e-13, atol=0
    )


@each_kind
@pytest.mark.parametrize("rows", [(), (4,), (2, 3), (2, 1, 3)])
def test_rows_of_any_shape(kind, rows):
    leaves, exacts = heads(rows, 11)
    loss, got = F.divergence(*leaves, kind=kind, reduction="none", return_stats=True)
    want = teaching.statistics(*exacts)
    teaching.check(got, leaves, want, exacts)
    torch.testing.assert_close(loss, want[teaching.KINDS[kind]])


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("rows", [(6,), (2, 3)])
def test_a_temperature_for_each_row(softcap, own, rows):
    leaves, exacts = heads(rows, 40)
    options = {"temperature": torch.rand(rows) + 0.4, "softcap": softcap, "teacher_softcap": softcap}
    if own:
        options["teacher_temperature"] = torch.rand(rows) + 0.4
    _, got = F.divergence(*leaves, return_stats=True, **options)
    options = {k: x.double() if isinstance(x, torch.Tensor) else x for k, x in options.items()}
    teaching.check(got, leaves, teaching.statistics(*exacts, **options), exacts)


def test_a_target_may_hold_probabilities():
    (z, t), (exact, _) = heads((5,), 8)
    p = torch.rand(5, 8, dtype=torch.float64).softmax(1).requires_grad_()
    index, prob = torch.randint(8, (5, 3)), torch.rand(5, 3, dtype=torch.float64)
    logq = exact.log_softmax(1)
    _, dense = F.divergence(z, t, target=p, return_stats=True)
    torch.testing.assert_close(dense.logprob, (p * logq).sum(1))
    (g,), (w,) = (torch.autograd.grad(x.sum(), p) for x in (dense.logprob, (p * logq).sum(1)))
    torch.testing.assert_close(g, w)
    _, top = F.divergence(z, t, target=F.TopK(index, prob), return_stats=True)
    torch.testing.assert_close(top.logprob, (prob * logq.gather(1, index)).sum(1))


@each_dtype
@each_kind
@pytest.mark.parametrize("V", [3, 1000, 20011])
def test_equal_rows_are_exactly_zero_apart(dtype, kind, V):
    z = (5 * torch.randn(4, V)).to(dtype)
    own = z.clone().requires_grad_()
    loss, found = F.divergence(own, z, kind=kind, return_stats=True, temperature=0.7, reduction="none")
    for x in (loss, found.kl, found.reverse_kl, found.js):
        assert (x == 0).all()
    assert found.agreement.all()
    (g,) = torch.autograd.grad(loss.sum(), own)
    assert (g == 0).all()


@each_kind
def test_a_large_vocabulary_in_bfloat16(kind):
    z = (4 * torch.randn(3, 248320)).bfloat16()
    assert (F.divergence(z, z.clone(), kind=kind, reduction="none", temperature=0.6) == 0).all()
    near = torch.where(torch.rand(z.shape) < 0.01, z * 1.01, z).bfloat16()
    loss = F.divergence(z, near, kind=kind, reduction="none")
    assert (loss > 0).all()
    want = teaching.statistics(z.double(), near.double())[teaching.KINDS[kind]]
    assert plain.off(loss, want) <= teaching.BAR[torch.float32]


def with_many_digits(z, t, kind):
    """The divergences of rows with beta 0.5, with 50 digits: float64 has none left where rows are nearly equal."""
    found = []
    with mpmath.workdps(50):
        for row in zip(z.double().tolist(), t.double().tolist(), strict=True):
            q, p = ([mpmath.exp(x) for x in scores] for scores in row)
            q, p = ([x / mpmath.fsum(e) for x in e] for e in (q, p))
            m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]

            def kl(a, b):
                return mpmath.fsum(x * mpmath.log(x / y) for x, y in zip(a, b, strict=True))

            of_kind = {"forward": kl(p, q), "reverse": kl(q, p), "js": (kl(p, m) + kl(q, m)) / 2}
            found.append(float(of_kind[kind]))
    return torch.tensor(found, dtype=torch.float64)


@each_kind
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("apart", [1e-8, 1e-4, 1e-2])
def test_nearly_equal_rows_are_never_less_than_zero_apart(kind, dtype, apart):
    z = 3 * torch.randn(50, 400, dtype=torch.float64)
    near = (z + apart * torch.randn(50, 400, dtype=torch.float64)).to(dtype)
    z = z.to(dtype)
    loss = F.divergence(z, near, kind=kind, reduction="none")
    assert (loss >= 0).all()
    few = slice(0, 2)
    want = with_many_digits(z[few], near[few], kind)
    # a difference of two log-probabilities is known to the rounding of either
    error = plain.off(loss[few], want)
    assert error <= teaching.BAR[loss.dtype] + 2 * torch.finfo(loss.dtype).eps / apart
    if kind == "forward" and (want != 0).any():
        logs = [x.to(loss.dtype).log_softmax(1) for x in (z[few], near[few])]
        assert error <= 0.1 * plain.off(kl_div(*logs, log_target=True, reduction="none").sum(1), want)


@each_kind
def test_cold_rows_far_apart_are_finite(kind):
    z, t = torch.zeros(1, 4), torch.zeros(1, 4)
    z[0, 0], t[0, 1] = 100.0, 100.0
    z.requires_grad_()
    loss = F.divergence(z, t, kind=kind, temperature=0.05)
    assert loss.item() == pytest.approx(math.log(2) if kind == "js" else 2000.0, rel=1e-6)
    (g,) = torch.autograd.grad(loss, z)
    assert g.isfinite().all()


inf = math.inf


@each_dtype
@pytest.mark.parametrize(
    ("student", "teacher", "kl", "reverse", "js"),
    [
        ([0, 0, 0, 0], [0, 0, -inf, -inf], math.log(2), inf, "finite"),
        ([0, 0, -inf, -inf], [0, 0, 0, 0], inf, math.log(2), "finite"),
        ([0, -inf, 0], [0, -inf, 0], 0.0, 0.0, 0.0),
        ([0, -inf], [-inf, 0], inf, inf, math.log(2)),
        ([1, 0, -inf], [0, 1, -inf], math.tanh(0.5), math.tanh(0.5), "finite"),
        ([-inf, -inf], [0, 0], math.nan, math.nan, math.nan),
        ([0, 0], [-inf, -inf], math.nan, math.nan, math.nan),
        ([inf, 0], [0, 0], math.nan, math.nan, math.nan),
        ([0, 0], [math.nan, 0], math.nan, math.nan, math.nan),
    ],
    ids=str,
)
def test_excluded_classes(student, teacher, kl, reverse, js, dtype):
    beside = torch.randn(2, len(student))
    z, t = (torch.cat((beside, torch.tensor([x], dtype=torch.float32))).to(dtype) for x in (student, teacher))
    z, t = z.requires_grad_(), t.requires_grad_()
    _, found = F.divergence(z, t, return_stats=True)
    assert found.kl[-1].item() == pytest.approx(kl, rel=1e-6, abs=0, nan_ok=True)
    assert found.reverse_kl[-1].item() == pytest.approx(reverse, rel=1e-6, abs=0, nan_ok=True)
    if js == "finite":
        assert 0 <= found.js[-1] <= math.log(2)
    else:
        assert found.js[-1].item() == pytest.approx(js, rel=1e-6, abs=0, nan_ok=True)
    for x in (found.kl, found.reverse_kl, found.js):
        assert (x[:2] == 0).all()
    grads = torch.autograd.grad(found.js.sum() + found.kl.sum(), (z, t))
    for g in grads:
        assert (g[:2] == 0).all()
    if js == "finite":
        for g in torch.autograd.grad(F.divergence(z, t, kind="js"), (z, t)):
            assert g.isfinite().all()


@pytest.mark.usefixtures("quiet")
@each_kind
@each_dtype
def test_gradients_of_excluded_classes(kind, dtype):
    z, t = (torch.randn(3, 9).to(dtype) for _ in range(2))
    for both in (False, True) if kind != "reverse" else (True,):
        a, b = z.clone(), t.clone()
        b[:, [2, 5]] = -inf
        if both:
            a[:, [2, 5]] = -inf
        exacts = [x.double().requires_grad_() for x in (a, b)]
        kept, whole = [x for x in range(9) if x not in {2, 5}], exacts[0].softmax(1)
        q, p = (x.softmax(1)[:, kept] for x in exacts)
        m = (p + q) / 2
        terms = {"forward": [(1, p, q)], "reverse": [(1, q, p)], "js": [(0.5, p, m), (0.5, q, m)]}[kind]
        parts = [(w * x * (x / y).log()).sum() for w, x, y in terms]
        if kind == "js":  # where the teacher has nothing, the mixture is half of the student
            parts.append((0.5 * whole[:, [2, 5]] * math.log(2)).sum())
        wants = torch.autograd.grad(sum(parts), exacts)
        leaves = [x.requires_grad_() for x in (a, b)]
        eager = torch.autograd.grad(F.divergence(*leaves, kind=kind, reduction="sum"), leaves)
        plainly = torch.func.grad(lambda a, b: F.divergence(a, b, kind=kind, reduction="sum"), argnums=(0, 1))(
            *(x.detach() for x in leaves)
        )
        for found in (eager, plainly):
            for g, w in zip(found, wants, strict=True):
                assert plain.off(g, w.nan_to_num(0.0)) <= teaching.BAR[dtype]


@each_kind
@pytest.mark.parametrize("how", ["ignored", "weight"])
@pytest.mark.parametrize("topk", [False, True])
def test_a_removed_row_holds_anything(kind, how, topk):
    z, t = torch.randn(3, 5), torch.randn(3, 5)
    z[1] = torch.tensor([math.nan, math.inf, -math.inf, 0.0, 1.0])
    t[1] = math.nan
    z, t = z.requires_grad_(), t.requires_grad_()
    teacher = F.TopK(torch.tensor([[0, 1]] * 3), torch.tensor([[0.5, 0.2]] * 3)) if topk else t
    options = {"target": torch.tensor([1, -100, 2])} if how == "ignored" else {}
    if how == "weight":
        options["sample_weight"] = torch.tensor([1.0, 0.0, 1.0])
    loss = F.divergence(z, teacher, kind=kind, **options)
    leaves = (z,) if topk else (z, t)
    few = F.TopK(teacher.index[::2], teacher.prob[::2]) if topk else t[::2]
    torch.testing.assert_close(loss, F.divergence(z[::2], few, kind=kind))
    for g in torch.autograd.grad(loss, leaves):
        assert (g[1] == 0).all()
        assert g.isfinite().all()
        assert (g[::2] != 0).any()


def test_nan_stays_in_its_row():
    leaves, _ = heads((3,), 40, torch.float32)
    with torch.no_grad():
        leaves[0][1, 7] = math.nan
    _, found = F.divergence(*leaves, return_stats=True)
    for name in ("lse", "entropy", "kl", "reverse_kl", "js"):
        x = getattr(found, name)
        assert x[1].isnan(), name
        assert x[::2].isfinite().all(), name
    assert not found.agreement[1]
    for g in torch.autograd.grad(found.kl.sum(), leaves):
        assert g[1].isnan().any()
        assert g[::2].isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("scores", teaching.SCORES[2:], ids=str)
def test_derivatives_of_derivatives(scores):
    leaves, _ = heads((3,), 6)
    with torch.no_grad():
        leaves[1][0] = leaves[0][0]  # where the divergences have a minimum
    target = torch.tensor([1, -100, 2])

    def all_of(z, t):
        _, found = F.divergence(z, t, target=target, return_stats=True, beta=0.3, **scores)
        return tuple(getattr(found, name) for name in teaching.SMOOTH)

    assert torch.autograd.gradcheck(all_of, leaves)
    assert torch.autograd.gradgradcheck(all_of, leaves)


@pytest.mark.usefixtures("quiet")
@each_kind
def test_second_derivatives_are_those_of_the_plain_formula_for_equal_rows(kind):
    z = torch.randn(4, dtype=torch.float64)
    name = teaching.KINDS[kind]
    for t in (z.clone(), torch.randn(4, dtype=torch.float64)):
        got = torch.func.hessian(lambda z, t=t: F.divergence(z, t, kind=kind))(z)
        want = torch.func.hessian(lambda z, t=t: teaching.statistics(z, t)[name])(z)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def stats_of(z, t, **options):
    return F.divergence(z, t, return_stats=True, **options)[1]


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("dynamic", [False, True])
def test_one_graph_under_a_compiler(dynamic):
    from tests.torch.operators.watching import check_compiled

    def inputs(n):
        return [torch.randn(n, 20, requires_grad=True), torch.randn(n, 20, requires_grad=True)]

    check_compiled(
        lambda z, t: teaching.summed(
            stats_of(z, t, temperature=0.7, teacher_softcap=3.0, beta=0.3, target=torch.arange(len(z)) % 20)
        ),
        inputs,
        dynamic=dynamic,
    )
    for kind in teaching.KINDS:
        check_compiled(
            lambda z, t, kind=kind: F.divergence(z, t, kind=kind, target=torch.arange(len(z)) % 20),
            inputs,
            dynamic=dynamic,
        )

    def of_topk(z, p):
        index = torch.arange(3).expand(len(z), 3)
        return F.divergence(z, F.TopK(index, p.softmax(1)[:, :3]), tail="bucket")

    check_compiled(of_topk, inputs, dynamic=dynamic)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("scores", teaching.SCORES[::2], ids=str)
def test_transforms_see_the_same_function(scores):
    z, t = torch.randn(4, 3, 6, dtype=torch.float64), torch.randn(4, 3, 6, dtype=torch.float64)

    def ours(z, t):
        return teaching.summed(stats_of(z, t, beta=0.3, **scores))

    both = torch.func.vmap(torch.func.grad(ours, argnums=(0, 1)))(z, t)
    for k in range(4):
        own = [x[k].clone().requires_grad_() for x in (z, t)]
        for found, want in zip(both, torch.autograd.grad(ours(*own), own), strict=True):
            torch.testing.assert_close(found[k], want, rtol=1e-9, atol=1e-11)
    tangents = torch.randn_like(z), torch.randn_like(t)
    _, moved = torch.func.jvp(ours, (z, t), tangents)
    own = [x.clone().requires_grad_() for x in (z, t)]
    grads = torch.autograd.grad(ours(*own), own)
    torch.testing.assert_close(moved, sum((g * v).sum() for g, v in zip(grads, tangents, strict=True)))


@pytest.mark.usefixtures("quiet")
def test_transforms_of_a_sparse_teacher():
    z = torch.randn(4, 3, 6, dtype=torch.float64)
    index, prob = torch.randint(6, (4, 3, 2)), 0.4 * torch.rand(4, 3, 2, dtype=torch.float64)

    def ours(z, index, prob):
        return F.divergence(z, F.TopK(index, prob), kind="js", tail="bucket")

    both = torch.func.vmap(torch.func.grad(ours, argnums=(0, 2)))(z, index, prob)
    for k in range(4):
        own = [x[k].clone().requires_grad_() for x in (z, prob)]
        want = torch.autograd.grad(ours(own[0], index[k], own[1]), own)
        for found, w in zip(both, want, strict=True):
            torch.testing.assert_close(found[k], w, rtol=1e-9, atol=1e-11)


def test_autocast_changes_nothing_of_logits():
    (z, t), _ = heads((5,), 30, torch.bfloat16, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = stats_of(z, t)
    want = stats_of(z, t)
    for name in teaching.SMOOTH[:-1]:
        assert torch.equal(getattr(found, name), getattr(want, name))
        assert getattr(found, name).dtype == torch.float32


@each_kind
def test_arguments_are_never_written_to_and_a_backward_can_be_repeated(kind):
    leaves, _ = heads((6,), 50, torch.float32)
    before = [x.detach().clone() for x in leaves]
    loss = F.divergence(*leaves, kind=kind)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, leaves), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(leaves, before, strict=True):
        assert torch.equal(a.detach(), b)


def test_a_frozen_teacher_costs_no_gradient():
    (z, t), _ = heads((4,), 9)
    for pair, wanted in (((z, t.detach()), z), ((z.detach(), t), t)):
        alone = torch.autograd.grad(F.divergence(*pair), wanted)
        together = torch.autograd.grad(F.divergence(z, t), wanted)
        torch.testing.assert_close(alone, together)


@pytest.mark.parametrize("strides", ["transposed", "every other", "expanded"])
def test_logits_of_any_strides(strides):
    def lay(x):
        if strides == "transposed":
            return x.t().contiguous().t()
        if strides == "expanded":
            return x[:1].expand(6, -1)
        return torch.stack((x, x + 9), -1).flatten(1)[:, ::2]

    (z, t), _ = heads((6,), 70, torch.float32)
    z, t = z.detach(), t.detach()
    for z_, t_ in itertools.product((z, lay(z)), (t, lay(t))):
        a, b = (x.contiguous() for x in (z_, t_))
        assert F.divergence(z_, t_, reduction="none").allclose(F.divergence(a, b, reduction="none"), rtol=1e-6)


def test_no_rows():
    for kind in teaching.KINDS:
        z, t = torch.randn(0, 5, requires_grad=True), torch.randn(0, 5)
        loss = F.divergence(z, t, kind=kind, reduction="none")
        assert loss.shape == (0,)
        assert F.divergence(z, t, kind=kind).isnan()
        loss.sum().backward()


def test_lazy_logits_are_made_which_is_said():
    twins = [torch.nn.Linear(4, 9) for _ in range(2)]
    x = torch.randn(2, 3, 4)
    numbers = twins[1](x)
    want = F.divergence(twins[0](x), numbers, kind="js")
    grads = torch.autograd.grad(want, twins[0].weight, retain_graph=True)
    student, teacher = F.fuse_lm_head(twins[0])(x), numbers  # two lazy ones stay lazy: tests/torch/lazy
    with pytest.warns(UserWarning, match="divergence asked for the logits of a head that fuse_lm_head fused"):
        got = F.divergence(student, teacher, kind="js")
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, twins[0].weight), grads)


class _Wrapped(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return func.__name__ if func is F.divergence else NotImplemented


def test_objects_that_act_like_tensors_are_asked_first():
    z = torch.randn(2, 3)
    assert F.divergence(z, z.as_subclass(_Wrapped)) == "divergence"
