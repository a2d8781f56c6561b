"""cross_entropy against torch's own and, where torch has no such option, against plain float64 operations."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F  # the drop-in
from tests.torch import plain
from tests.torch.plain import classes_of, index_of, logits_of, probs_of, rows_of, topk_of

SHAPES = ((7,), (1,), (5, 7), (1, 3), (6, 1), (3, 7, 4), (2, 5, 3, 4), (2, 3, 2, 2, 2), (4, 700), (2, 600, 5))


def dtypes(test):
    return pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)(test)


# What torch has


@dtypes
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_torch_has(shape, reduction, dtype):
    C = classes_of(shape)
    spreads = itertools.cycle((1.0, 5.0, 30.0, 5.0))
    for weighted, smoothing in itertools.product((False, True), (0.0, 0.15, 1.0)):
        z = logits_of(shape, next(spreads))
        weight = torch.rand(C, dtype=torch.float64) + 0.1 if weighted else None
        options = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
        for target, ignore in ((index_of(shape), -100), (index_of(shape, -100), -100), (index_of(shape), C - 1)):
            if reduction == "mean" and (target == ignore).all():
                continue
            call = (z, target), options | {"ignore_index": ignore}
            plain.compare(F.cross_entropy, nnf.cross_entropy, nnf.cross_entropy, dtype, *call)
        call = (z, probs_of(shape, requires_grad=True)), options
        plain.compare(F.cross_entropy, nnf.cross_entropy, nnf.cross_entropy, dtype, *call)


@dtypes
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_memory_of_any_layout(kind, dtype):
    shape = (3, 6, 4, 5)
    z = torch.randn(shape, dtype=torch.float64)
    target = index_of(shape) if kind == "index" else probs_of(shape)
    layouts = {
        "contiguous": lambda x: x.contiguous(),
        "channels last": lambda x: (
            x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.mT.contiguous().mT
        ),
        "permuted": lambda x: x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim))),
        "sliced": lambda x: torch.stack([x, x + 99], -1)[..., 0],
        "rows of a larger one": lambda x: torch.cat([x + 9, x, x + 9], -1)[..., x.shape[-1] : 2 * x.shape[-1]],
        "offset": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
        "every other batch": lambda x: torch.stack([x, x + 9], 1).flatten(0, 1)[::2],
    }
    for turn, (name, lay) in enumerate(layouts.items()):
        others = (list(layouts.values()) * 2)[turn : turn + 3]
        for reduction, other in zip(("mean", "none", "sum"), others, strict=True):

            def ours(a, b, lay=lay, other=other, reduction=reduction):
                return F.cross_entropy(lay(a), other(b), reduction=reduction, label_smoothing=0.1)

            def theirs(a, b, reduction=reduction):
                return nnf.cross_entropy(a, b, reduction=reduction, label_smoothing=0.1)

            assert torch.equal(lay(z), z), name
            leaf = z.clone().requires_grad_()
            plain.compare(ours, theirs, theirs, dtype, (leaf, target), {})


@dtypes
def test_expanded_logits(dtype):
    z = torch.randn(1, 5, 1, dtype=torch.float64, requires_grad=True)
    target = index_of((4, 5, 3))
    for reduction in ("mean", "sum", "none"):
        calls = [
            lambda a, b, f=f, r=reduction: f(a.expand(4, 5, 3), b, reduction=r)
            for f in (F.cross_entropy, nnf.cross_entropy)
        ]
        plain.compare(calls[0], calls[1], calls[1], dtype, (z, target), {})


UNSIGNED = [torch.uint8, torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, *UNSIGNED], ids=str)
def test_classes_of_every_integer_dtype(dtype):
    z, y = torch.randn(20, 30), torch.randint(30, (20,))
    y[3] = 7
    want = nnf.cross_entropy(z, y, ignore_index=7)
    assert F.cross_entropy(z, y.to(dtype), ignore_index=7).item() == pytest.approx(want.item(), rel=1e-6, abs=0)
    w = torch.rand(30)
    for options in (
        {"weight": w},
        {"label_smoothing": 0.1, "weight": w},
        {"sample_weight": torch.ones(20), "weight": w},
    ):
        for ignore in (-100, 7):
            got, stats = F.cross_entropy(z, y.to(dtype), ignore_index=ignore, return_stats=True, **options)
            assert stats.correct.dtype == torch.bool
            want = plain.cross_entropy(z.double(), y, ignore_index=ignore, **options)
            assert got.item() == pytest.approx(want.item(), rel=1e-6, abs=0)
            got = F.cross_entropy(z, y.to(dtype), ignore_index=ignore, **options)
            assert got.item() == pytest.approx(want.item(), rel=1e-6, abs=0)


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
def test_the_deprecated_arguments_override_reduction(size_average, reduce):
    if size_average is None and reduce is None:
        return
    z, y = torch.randn(4, 5), torch.randint(5, (4,))
    p = torch.sigmoid(z)
    old = {"size_average": size_average, "reduce": reduce}
    calls = {
        "cross_entropy": (z, y),
        "binary_cross_entropy_with_logits": (z, p.round()),
        "binary_cross_entropy": (p, p.round()),
    }
    for name, args in calls.items():
        with pytest.warns(UserWarning, match="size_average and reduce"):
            want = getattr(nnf, name)(*args, **old)
        with pytest.warns(UserWarning, match="size_average and reduce"):
            got = getattr(F, name)(*args, **old)
        torch.testing.assert_close(got, want)
    for name, args in {"CrossEntropyLoss": (z, y), "BCEWithLogitsLoss": (z, p.round())}.items():
        with pytest.warns(UserWarning, match="size_average and reduce"):
            made = getattr(F, name)(**old)
        with pytest.warns(UserWarning, match="size_average and reduce"):
            theirs = getattr(torch.nn, name)(**old)
        torch.testing.assert_close(made(*args), theirs(*args))
        assert made.reduction == theirs.reduction


def test_positions_are_those_of_torch():
    z, y, w = torch.randn(4, 5), torch.randint(5, (4,)), torch.rand(5)
    got = F.cross_entropy(z, y, w, None, int(y[0]), None, "sum", 0.1)
    torch.testing.assert_close(got, nnf.cross_entropy(z, y, w, None, int(y[0]), None, "sum", 0.1))
    x, t, v, r = torch.randn(4, 5), torch.rand(4, 5), torch.rand(5), torch.rand(5)
    got = F.binary_cross_entropy_with_logits(x, t, v, None, None, "sum", r)
    torch.testing.assert_close(got, nnf.binary_cross_entropy_with_logits(x, t, v, None, None, "sum", r))
    got = F.binary_cross_entropy(x.sigmoid(), t, v, None, None, "sum")
    torch.testing.assert_close(got, nnf.binary_cross_entropy(x.sigmoid(), t, v, None, None, "sum"))


def test_signatures_begin_with_those_of_torch():
    import inspect

    for name in ("cross_entropy", "binary_cross_entropy_with_logits", "binary_cross_entropy"):
        ours, theirs = (inspect.signature(getattr(home, name)).parameters for home in (F, nnf))
        assert list(ours)[: len(theirs)] == list(theirs)
        for key, parameter in theirs.items():
            assert (ours[key].default, ours[key].kind) == (parameter.default, parameter.kind), key
        assert all(p.kind is p.KEYWORD_ONLY for key, p in ours.items() if key not in theirs)
    for name in ("CrossEntropyLoss", "BCEWithLogitsLoss"):
        ours, theirs = (inspect.signature(getattr(home, name)).parameters for home in (F, torch.nn))
        assert list(ours)[: len(theirs)] == list(theirs)
        assert [ours[k].default for k in theirs] == [p.default for p in theirs.values()]


# What torch does not have


EXTRAS = {
    "temperature": {"temperature": 0.6},
    "softcap": {"softcap": 4.0},
    "temperature and softcap": {"temperature": 1.7, "softcap": 3.0},
    "z-loss": {"z_loss": 1e-2},
    "sample weight": {"sample_weight": None},
    "all": {"temperature": 1.7, "softcap": 3.0, "z_loss": 1e-2, "sample_weight": None},
}


@pytest.mark.slow
@dtypes
@pytest.mark.parametrize("kind", ["index", "ignored", "dense", "topk"])
@pytest.mark.parametrize("extra", EXTRAS)
def test_what_torch_does_not_have(extra, kind, dtype):
    for turn, (shape, reduction, smoothing) in enumerate(
        itertools.product(((7,), (5, 7), (2, 6, 3), (3, 700)), ("none", "mean", "sum"), (0.0, 0.2))
    ):
        z, weighted = logits_of(shape, 3.0), turn % 5 < 3
        if kind in {"index", "ignored"}:
            target = index_of(shape, -100 if kind == "ignored" else None)
            if (target == -100).all():
                continue
        elif kind == "dense":
            target = probs_of(shape, requires_grad=True)
        else:
            target = topk_of(shape, requires_grad=True)
        options = EXTRAS[extra] | {"reduction": reduction, "label_smoothing": smoothing}
        options["weight"] = torch.rand(classes_of(shape), dtype=torch.float64) + 0.1 if weighted else None
        if "sample_weight" in options:
            options["sample_weight"] = torch.rand(rows_of(shape), dtype=torch.float64)
        plain.compare(F.cross_entropy, plain.cross_entropy, plain.cross_entropy, dtype, (z, target), options)


@dtypes
def test_the_oracle_is_torch_where_torch_has_the_option(dtype):
    # the plain loss that the extras are held against is itself torch's
    for shape, reduction, smoothing, weighted in itertools.product(
        ((7,), (5, 7), (2, 6, 3)), ("none", "mean", "sum"), (0.0, 0.2), (False, True)
    ):
        weight = torch.rand(classes_of(shape), dtype=torch.float64) if weighted else None
        for target in (index_of(shape), probs_of(shape)):
            options = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
            want = nnf.cross_entropy(z := logits_of(shape), target, **options)
            plain.agree("plain loss", plain.cross_entropy(z, target, **options), want, None, 1e-12)


@pytest.mark.slow
@dtypes
@pytest.mark.parametrize("kind", ["index", "ignored", "dense", "topk"])
def test_statistics_and_their_gradients(kind, dtype):
    for shape, (temperature, softcap), smoothing, weighted in itertools.product(
        ((7,), (5, 7), (2, 6, 3), (3, 700)), ((1.0, None), (0.7, None), (1.5, 4.0)), (0.0, 0.2), (False, True)
    ):
        z = logits_of(shape, 3.0)
        target = {
            "index": index_of,
            "ignored": lambda s: index_of(s, -100),
            "dense": lambda s: probs_of(s, requires_grad=True),
            "topk": lambda s: topk_of(s, requires_grad=True),
        }[kind](shape)
        options = {
            "temperature": temperature,
            "softcap": softcap,
            "label_smoothing": smoothing,
            "weight": torch.rand(classes_of(shape), dtype=torch.float64) if weighted else None,
            "reduction": "sum",
            "return_stats": True,
        }
        z, target = plain.cast(z, dtype), plain.cast(target, dtype)
        exact_z, exact_target = plain.cast(z, torch.float64), plain.cast(target, torch.float64)
        loss, stats = F.cross_entropy(z, target, **options)
        want_loss, want = plain.cross_entropy(exact_z, exact_target, **options)
        rival_z, rival_target = plain.cast(z, dtype), plain.cast(target, dtype)
        _, rival = plain.cross_entropy(rival_z, rival_target, **options)
        floor = plain.FLOOR[torch.float64 if dtype == torch.float64 else torch.float32]
        plain.agree("loss", loss, want_loss, None, 2 * floor)
        for name in ("lse", "logprob", "entropy", "confidence", "log_sum_squares"):
            got = getattr(stats, name)
            assert got.dtype == loss.dtype
            assert got.shape == rows_of(shape)
            plain.agree(name, got, want[name], rival[name], floor)
        assert stats.correct.dtype == torch.bool
        assert torch.equal(stats.correct, want["correct"].bool())
        assert torch.equal(stats.predicted, want["predicted"])
        for k, name in enumerate(("lse", "logprob", "entropy", "log_sum_squares")):
            for inputs, exact_inputs, rivals in zip(
                plain.leaves(z, target),
                plain.leaves(exact_z, exact_target),
                plain.leaves(rival_z, rival_target),
                strict=True,
            ):
                g = plain.cotangent_like(want[name], k)
                kept = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
                (got,) = torch.autograd.grad(getattr(stats, name), [inputs], g.to(loss.dtype), **kept)
                (exact,) = torch.autograd.grad(want[name], [exact_inputs], g, **kept)
                (other,) = torch.autograd.grad(rival[name], [rivals], g.to(rival[name].dtype), **kept)
                plain.agree(f"gradient of {name}", got, exact, other, plain.FLOOR[dtype])


def test_statistics_together_give_the_sum_of_their_gradients():
    z = logits_of((5, 7))
    y = index_of((5, 7))
    loss, stats = F.cross_entropy(z, y, reduction="none", return_stats=True, label_smoothing=0.1, z_loss=0.01)
    parts = [loss, stats.lse, stats.logprob, stats.entropy]
    gs = [plain.cotangent_like(p, k) for k, p in enumerate(parts)]
    (whole,) = torch.autograd.grad(parts, [z], gs, retain_graph=True)
    alone = [torch.autograd.grad(p, [z], g, retain_graph=True)[0] for p, g in zip(parts, gs, strict=True)]
    torch.testing.assert_close(whole, sum(alone), rtol=1e-12, atol=1e-12)
    assert not stats.correct.requires_grad


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.3, 3.0, 0.1])
def test_the_right_answer_is_correct_at_any_temperature(temperature):
    z = torch.randn(500, 20) * 30
    _, stats = F.cross_entropy(z, z.argmax(1), temperature=temperature, return_stats=True)
    assert stats.correct.all()
    _, stats = F.cross_entropy(z, (z.argmax(1) + 1) % 20, temperature=temperature, return_stats=True)
    assert not stats.correct.any()
    flat = torch.zeros(3, 4)  # ties count as correct
    assert F.cross_entropy(flat, torch.tensor([0, 1, 3]), return_stats=True)[1].correct.all()


def test_targets_of_other_float_dtypes_than_the_logits():
    z = torch.randn(6, 9, requires_grad=True)
    p = torch.rand(6, 9).half()
    want = nnf.cross_entropy(z.double(), p.double())
    for dtype in (torch.float16, torch.float64, torch.float32):
        q = p.to(dtype).requires_grad_()
        got = F.cross_entropy(z, q)
        assert got.item() == pytest.approx(want.item(), rel=1e-6, abs=0)
        (g,) = torch.autograd.grad(got, q)
        assert g.dtype == dtype


def test_losses_of_half_precision_are_float32():
    for dtype in (torch.bfloat16, torch.float16):
        z = torch.randn(100, 1000).to(dtype)
        y = torch.randint(1000, (100,))
        for reduction in ("mean", "sum", "none"):
            got, stats = F.cross_entropy(z, y, reduction=reduction, return_stats=True)
            assert got.dtype == stats.lse.dtype == stats.entropy.dtype == stats.logprob.dtype == torch.float32
            plain.agree("loss", got, nnf.cross_entropy(z.double(), y, reduction=reduction), None, 2e-6)
