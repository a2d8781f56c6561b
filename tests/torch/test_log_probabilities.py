"""Log-probabilities of classes against log_softmax, gather and logsumexp in float64: values, and all derivatives."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from tests.torch import logq, plain
from tests.torch.operators.watching import check_compiled

each_K = pytest.mark.parametrize("K", [None, 1, 3])
each_score = pytest.mark.parametrize("scores", logq.SCORES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)


@each_K
@each_score
@each_dtype
@pytest.mark.parametrize("V", [7, 300])
def test_all_outputs_and_gradients_of_logits(K, scores, dtype, V):
    # two gradients add up to that of log Σ q², and are rounded each: they cancel where rows are confident
    logits = (2 * torch.randn(6, V)).to(dtype).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    classes = logq.classes_of((6, V), K, ignored=-100)
    got, want = F.logprobs(logits, classes, **scores), logq.statistics(exact, classes, **scores)
    logq.check(got, [logits], want, [exact], dtype)


@each_K
@each_score
@each_dtype
@pytest.mark.parametrize("chunk_bytes", [None, 4000, 300])
def test_all_outputs_and_gradients_of_a_layer(K, scores, dtype, chunk_bytes):
    N, D, V = 9, 5, 70
    x, w, b = torch.randn(N, D), torch.randn(V, D), torch.randn(V)
    leaves = [a.to(dtype).requires_grad_() for a in (x, w, b)]
    exacts = [a.detach().double().requires_grad_() for a in leaves]
    classes = logq.classes_of((N, V), K, ignored=-100)
    got = F.linear_logprobs(*leaves[:2], classes, linear_bias=leaves[2], chunk_bytes=chunk_bytes, **scores)
    want = logq.statistics(nnf.linear(*exacts), classes, **scores)
    logq.check(got, leaves, want, exacts, dtype)


@each_K
@pytest.mark.parametrize("rows", [(), (4,), (2, 3), (2, 1, 3)])
def test_rows_of_any_shape(K, rows):
    z = torch.randn(*rows, 11, dtype=torch.float64, requires_grad=True)
    exact = z.detach().clone().requires_grad_()
    classes = logq.classes_of(tuple(z.shape), K)
    logq.check(F.logprobs(z, classes), [z], logq.statistics(exact, classes), [exact], torch.float64)
    x, w = torch.randn(*rows, 3, dtype=torch.float64), torch.randn(11, 3, dtype=torch.float64)
    leaves, exacts = [x.requires_grad_(), w.requires_grad_()], [a.clone().detach().requires_grad_() for a in (x, w)]
    want = logq.statistics(nnf.linear(*exacts), classes)
    logq.check(F.linear_logprobs(*leaves, classes), leaves, want, exacts, torch.float64)


@each_K
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("rows", [(6,), (2, 3)])
def test_a_temperature_for_each_row(K, softcap, rows):
    temperature = torch.rand(rows, dtype=torch.float64) + 0.4
    classes = logq.classes_of((*rows, 40), K, ignored=-100)
    z = torch.randn(*rows, 40, dtype=torch.float64, requires_grad=True)
    exact = z.detach().clone().requires_grad_()
    got = F.logprobs(z, classes, temperature=temperature, softcap=softcap)
    logq.check(got, [z], logq.statistics(exact, classes, temperature, softcap), [exact], torch.float64)
    leaves = [torch.randn(n, dtype=torch.float64).requires_grad_() for n in ((*rows, 4), (40, 4))]
    exacts = [a.detach().clone().requires_grad_() for a in leaves]
    got = F.linear_logprobs(*leaves, classes, temperature=temperature, softcap=softcap, chunk_bytes=900)
    logq.check(got, leaves, logq.statistics(nnf.linear(*exacts), classes, temperature, softcap), exacts, torch.float64)


def test_one_class_of_a_layer_with_positions():
    x, w = torch.randn(4, 3, dtype=torch.float64), torch.randn(6, 2, 3, dtype=torch.float64)
    leaves = [a.requires_grad_() for a in (x, w)]
    classes = torch.randint(6, (4, 2))
    got = F.linear_logprobs(*leaves, classes, chunk_bytes=200)
    exacts = [a.detach().clone().requires_grad_() for a in leaves]
    logits = nnf.linear(exacts[0], exacts[1].flatten(0, 1)).unflatten(1, (6, 2)).movedim(1, -1)
    logq.check(got, leaves, logq.statistics(logits, classes), exacts, torch.float64)
    with pytest.raises(NotImplementedError, match="2 classes for each row of a K-dimensional layer"):
        _ = F.linear_logprobs(x, w, torch.zeros(4, 2, 2).long())


@each_dtype
def test_a_class_may_occur_twice_and_entries_may_be_left_out(dtype):
    classes = torch.tensor([[3, 3, 0, -1], [-1, -1, -1, -1], [5, -1, 5, 5]])
    z = torch.randn(3, 8).to(dtype).requires_grad_()
    exact = z.detach().double().requires_grad_()
    got, want = F.logprobs(z, classes, ignore_index=-1), logq.statistics(exact, classes, ignore_index=-1)
    logq.check(got, [z], want, [exact], dtype)
    assert (got.logprob[1] == 0).all()
    assert (got.entropy > 0).all()  # no row is removed


def test_an_ignored_row_of_one_class_holds_anything():
    z = torch.randn(3, 5)
    z[1] = torch.tensor([math.nan, math.inf, -math.inf, 0.0, 1.0])
    z.requires_grad_()
    found = F.logprobs(z, torch.tensor([1, -100, 2]))
    for name in logq.FLOATS:
        assert getattr(found, name)[1] == 0
    assert found.predicted.tolist()[1] == -1
    assert not found.correct[1]
    (g,) = torch.autograd.grad(sum(getattr(found, name).sum() for name in logq.SMOOTH), z)
    assert torch.equal(g[1], torch.zeros(5))
    assert g[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize(
    ("row", "entropy"),
    [([0.0, -math.inf], 0.0), ([0.0, 0.0, -math.inf], math.log(2)), ([65504.0, -65504.0], 0.0)],
    ids=str,
)
def test_entropies_at_the_edges(row, entropy, dtype, softcap):
    z = torch.tensor([row], dtype=dtype, requires_grad=True)
    for classes in (torch.tensor([0]), torch.tensor([[0, 1, 0]])):
        found = F.logprobs(z, classes, softcap=softcap)
        if softcap is None:
            assert found.entropy.item() == pytest.approx(entropy, rel=1e-6, abs=1e-30)
            assert found.log_sum_squares.item() == pytest.approx(-entropy, rel=1e-6, abs=1e-30)
        for name in logq.SMOOTH:
            (g,) = torch.autograd.grad(getattr(found, name).sum(), z, retain_graph=True)
            assert g.isfinite().all(), name


def test_nan_stays_in_its_row():
    z = torch.randn(3, 40)
    z[1, 7] = math.nan
    z.requires_grad_()
    found = F.logprobs(z, torch.randint(40, (3, 2)))
    for name in logq.FLOATS:
        x = getattr(found, name)
        assert x[1].isnan().all(), name
        assert x[[0, 2]].isfinite().all(), name
    assert found.predicted[1] == -1
    (g,) = torch.autograd.grad(sum(getattr(found, name).sum() for name in logq.SMOOTH), z)
    assert g[1].isnan().all()
    assert g[[0, 2]].isfinite().all()


def test_the_first_of_equal_classes_is_predicted():
    z = torch.zeros(4, 3000)
    z[1, [2000, 17, 2999]] = 1.0
    z[2] = -math.inf
    z[3, 2999] = 1e-3
    for chunk in (z, z.to(torch.bfloat16)):
        assert F.logprobs(chunk, torch.zeros(4).long()).predicted.tolist() == [0, 17, 0, 2999]
    x, w = torch.zeros(3, 2), torch.zeros(3000, 2)
    x[:, 0] = torch.tensor([0.0, 1.0, -1.0])
    w[[2000, 17, 2999], 0] = 1.0
    assert F.linear_logprobs(x, w, torch.zeros(3, 2).long(), chunk_bytes=2000).predicted.tolist() == [0, 17, 0]
    assert F.linear_logprobs(x, w, torch.zeros(3).long(), chunk_bytes=2000).predicted.tolist() == [0, 17, 0]


def test_a_confident_class_keeps_its_digits():
    z = torch.tensor([[0.0, -40.0, -41.0]], requires_grad=True)
    found = F.logprobs(z, torch.tensor([[0, 1]]))
    exact = z.detach().double().requires_grad_()
    want = exact.log_softmax(-1)
    torch.testing.assert_close(found.logprob.double(), want[:, :2], rtol=1e-6, atol=0)
    (g,) = torch.autograd.grad(found.logprob[0, 0], z, retain_graph=True)
    (w,) = torch.autograd.grad(want[0, 0], exact)
    torch.testing.assert_close(g.double(), w, rtol=1e-5, atol=0)


@each_K
def test_derivatives_of_derivatives(K):
    z = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    classes = logq.classes_of((3, 6), K, ignored=-100)

    def of_logits(z):
        found = F.logprobs(z, classes, temperature=0.7, softcap=3.0)
        return tuple(getattr(found, name) for name in logq.SMOOTH)

    assert torch.autograd.gradcheck(of_logits, (z,))
    assert torch.autograd.gradgradcheck(of_logits, (z,))
    x, w = (torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (3, 6))

    def of_layer(x, w):
        found = F.linear_logprobs(x, w, classes, temperature=0.7)
        return tuple(getattr(found, name) for name in logq.SMOOTH)

    assert torch.autograd.gradgradcheck(of_layer, (x, w))


def summed(stats):
    return sum((k * getattr(stats, name)).sum() for k, name in enumerate(logq.SMOOTH, 1))


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@each_K
@pytest.mark.parametrize("dynamic", [False, True])
def test_one_graph_under_a_compiler(K, dynamic):
    def classes(n):
        found = torch.arange(n) % 20
        return found if K is None else torch.stack([found + k for k in range(K)], 1) % 20

    check_compiled(
        lambda z: summed(F.logprobs(z, classes(len(z)), temperature=0.7)),
        lambda n: [torch.randn(n, 20, requires_grad=True)],
        dynamic=dynamic,
    )
    check_compiled(
        lambda x, w: summed(F.linear_logprobs(x, w, classes(len(x)), temperature=0.7)),
        lambda n: [torch.randn(n, 3, requires_grad=True), torch.randn(20, 3, requires_grad=True)],
        dynamic=dynamic,
    )


@pytest.mark.usefixtures("quiet")
@each_K
def test_transforms_see_the_same_function(K):
    z, classes = torch.randn(4, 3, 6, dtype=torch.float64), logq.classes_of((4, 3, 6), K)
    for ours in (
        lambda z, y: summed(F.logprobs(z, y)),
        lambda z, y: summed(F.linear_logprobs(z, torch.eye(6, dtype=z.dtype), y)),
    ):
        found = torch.func.vmap(torch.func.grad(ours))(z, classes)
        for k in range(4):
            torch.testing.assert_close(found[k], torch.func.grad(ours)(z[k], classes[k]), rtol=1e-9, atol=1e-11)
            own = z[k].clone().requires_grad_()
            torch.testing.assert_close(
                found[k], torch.autograd.grad(ours(own, classes[k]), own)[0], rtol=1e-9, atol=1e-11
            )
    tangent = torch.randn_like(z)
    primal, moved = torch.func.jvp(lambda z: summed(F.logprobs(z, classes)), (z,), (tangent,))
    own = z.clone().requires_grad_()
    (g,) = torch.autograd.grad(summed(F.logprobs(own, classes)), own)
    torch.testing.assert_close(moved, (g * tangent).sum())
    assert primal.isfinite()


def test_autocast_casts_the_operands_of_a_layer():
    x, w, classes = torch.randn(5, 8), torch.randn(30, 8), torch.randint(30, (5, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = F.linear_logprobs(x, w, classes)
        alone = F.logprobs(x @ w.t(), classes)
    want = F.linear_logprobs(x.bfloat16(), w.bfloat16(), classes)
    for name in logq.FLOATS:
        assert torch.equal(getattr(found, name), getattr(want, name))
    assert alone.logprob.dtype == torch.float32


def test_arguments_are_never_written_to_and_a_backward_can_be_repeated():
    x, w, classes = torch.randn(6, 4), torch.randn(50, 4), torch.randint(50, (6, 3))
    before = [a.clone() for a in (x, w, classes)]
    leaves = [a.requires_grad_() for a in (x, w)]
    found = summed(F.linear_logprobs(*leaves, classes))
    first = torch.autograd.grad(found, leaves, retain_graph=True)
    second = torch.autograd.grad(found, leaves)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    for a, b in zip((x, w, classes), before, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16, torch.uint32, torch.uint64], ids=str
)
def test_classes_of_any_integer_dtype(dtype):
    z = torch.randn(4, 9)
    for K in (None, 2):
        classes = logq.classes_of((4, 9), K)
        got, want = F.logprobs(z, classes.to(dtype)), F.logprobs(z, classes)
        assert torch.equal(got.logprob, want.logprob)


def test_no_rows_and_no_classes_to_pick():
    for K in (None, 2):
        found = F.logprobs(torch.randn(0, 5, requires_grad=True), torch.zeros((0,) if K is None else (0, K)).long())
        assert found.logprob.shape == ((0,) if K is None else (0, K))
    found = F.logprobs(torch.randn(3, 5, requires_grad=True), torch.zeros(3, 0).long())
    assert found.logprob.shape == (3, 0)
    assert found.entropy.shape == (3,)
    assert not found.correct.any()
    found.entropy.sum().backward()


@pytest.mark.parametrize("beside", [F.logprobs, lambda z, *a, **k: F.linear_logprobs(z, torch.eye(5), *a, **k)])
def test_what_is_wrong_is_said_with_its_place(beside):
    z = torch.randn(3, 5)
    with pytest.raises(IndexError, match=r"class 5 \(row 1 of 3, entry 1\) is not one of the 5 classes \[0, 4\]"):
        _ = beside(z, torch.tensor([[0, 1], [2, 5], [7, 0]]))
    with pytest.raises(IndexError, match=r"class -1 \(row 0 of 3, entry 0\).*use ignore_index=-1 to leave"):
        _ = beside(z, torch.tensor([[-1, 1], [2, 5], [7, 0]]))
    with pytest.raises(IndexError, match=r"class 5 \(row 2 of 3\) is not one of the 5 classes"):
        _ = beside(z, torch.tensor([0, 1, 5]))
    with pytest.raises(ValueError, match=r"classes of shape \(2,\) do not fit rows of shape \(3,\).*\(3, K\)"):
        _ = beside(z, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="classes of shape"):
        _ = beside(z, torch.zeros(3, 1, 1).long())
    with pytest.raises(TypeError, match=r"integer dtype, got torch.float32; use classes.long\(\)"):
        _ = beside(z, torch.zeros(3))
    with pytest.raises(TypeError, match="classes must be a tensor, got list"):
        _ = beside(z, [0, 1, 2])
    with pytest.raises(ValueError, match="temperature must be a positive finite number"):
        _ = beside(z, torch.zeros(3).long(), temperature=0.0)
    with pytest.raises(TypeError, match="input must be float32"):
        _ = beside(z.long(), torch.zeros(3).long())


def test_more_classes_are_padding():
    z, classes = torch.randn(4, 8, dtype=torch.float64), torch.randint(6, (4, 2))
    z[:, 6:] = math.nan
    z.requires_grad_()
    exact = z.detach()[:, :6].clone().requires_grad_()
    got, want = F.logprobs(z, classes, num_classes=6), logq.statistics(exact, classes)
    torch.testing.assert_close(got.logprob, want["logprob"])
    (g,) = torch.autograd.grad(summed(got), z)
    (w,) = torch.autograd.grad(sum((k * want[name]).sum() for k, name in enumerate(logq.SMOOTH, 1)), exact)
    torch.testing.assert_close(g[:, :6], w)
    assert (g[:, 6:] == 0).all()
    with pytest.raises(IndexError, match="class 6"):
        _ = F.logprobs(z, torch.tensor([[6]] * 4), num_classes=6)


def test_one_and_several_classes_agree():
    z, y = torch.randn(5, 400), torch.randint(400, (5,))
    one, several = F.logprobs(z, y), F.logprobs(z, y[:, None])
    torch.testing.assert_close(several.logprob[:, 0], one.logprob, rtol=1e-6, atol=1e-6)
    for name in ("lse", "entropy", "log_sum_squares", "confidence", "correct", "predicted"):
        assert torch.equal(getattr(one, name), getattr(several, name)), name


def test_the_plain_check_finds_a_wrong_sign():
    z = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    want = logq.statistics(z, torch.randint(6, (4,)))
    with pytest.raises(AssertionError):
        logq.check(want | {"entropy": -want["entropy"]}, [z], want, [z], torch.float64)
    assert plain.off(want["lse"], want["lse"]) == 0
