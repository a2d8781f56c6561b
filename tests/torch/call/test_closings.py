"""Closings that callers write, on logits and on heads: values and derivatives beside plain torch, and errors."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
import torch
from torch import Tensor

import crossent.torch as F
from tests.torch import linear, plain
from tests.torch.lazily import V, pair
from tests.torch.linear import KINDS, draw
from tests.torch.operators.watching import check_compiled

REDUCTIONS = ("mean", "sum", "none")


def clipped(rows: Any, old: Tensor, advantage: Tensor) -> Tensor:
    """Proximal policy optimisation with an entropy bonus, and a little of everything else."""
    ratio = (rows.logprob - old).exp()
    clip = ratio.clamp(0.8, 1.2)
    return -torch.minimum(ratio * advantage, clip * advantage) - 0.1 * rows.entropy + 0.01 * rows.lse**2


def everything(rows: Any, old: Tensor, advantage: Tensor) -> Tensor:
    """Uses every attribute, and operands with more axes."""
    mixed = rows.loss * advantage + rows.logprob * old + rows.entropy * rows.lse
    return mixed + rows.confidence * rows.loss + torch.where(rows.correct, rows.lse, rows.loss)


def over_sequences(rows: Any, old: Tensor, advantage: Tensor) -> Tensor:
    """A ratio of whole sequences."""
    numbers, place = rows.segments.unique(return_inverse=True)
    zeros = rows.logprob.new_zeros(len(numbers))
    count = zeros.index_add(0, place, torch.ones_like(rows.logprob))
    mean = zeros.index_add(0, place, rows.logprob - old) / count
    return -mean.exp()[place] * advantage + 0.1 * rows.entropy


CLOSINGS = {"clipped": clipped, "everything": everything, "over sequences": over_sequences}


class _PlainRows:
    def __init__(self, rows: dict[str, Tensor], keep: Tensor, segments: Tensor | None) -> None:
        self.__dict__.update({k: v.reshape(-1)[keep] for k, v in rows.items()})
        self.confidence = self.confidence.detach()
        self.segments = None if segments is None else segments.reshape(-1)[keep]


def closed(rows: dict[str, Tensor], closing: Any, operands: Any, segments: Any, options: dict[str, Any]) -> Tensor:
    """What the loss of rows is after a closing, by the definition."""
    shape = rows["loss"].shape
    s = options.get("sample_weight")
    s = torch.ones(shape, dtype=rows["loss"].dtype) if s is None else s.detach()
    keep = ((rows["valid"] != 0) & (s != 0)).reshape(-1)
    found = closing(_PlainRows(rows, keep, segments), *(x.reshape(-1)[keep] for x in operands))
    loss = torch.zeros(keep.shape, dtype=found.dtype).masked_scatter(keep, found).reshape(shape)
    penalty = s * options.get("z_loss", 0.0) * rows["lse"] ** 2
    reduction = options["reduction"]
    if reduction == "none":
        return s * loss + penalty
    if reduction == "sum":
        return (s * loss + penalty).sum()
    mean = (s * loss).sum() / (s * rows["weight"]).sum()
    return mean + penalty.sum() / (s * rows["valid"]).sum() if options.get("z_loss") else mean


def drawn(shape: torch.Size) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Operands of rows, and numbers of sequences of about four rows that lie one after the other."""
    number = shape.numel()
    segments = torch.div(torch.arange(number), 4, rounding_mode="floor") * 7 - 3
    return (torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)), segments.reshape(shape)


def compare(name: str, got: Tensor, want: Tensor, leaves: list[Tensor], floor: float = 1e-10) -> None:
    plain.agree(name, got, want, None, floor)
    g = plain.cotangent_like(want)
    for a, b in zip(*(torch.autograd.grad(x, leaves, g.to(x.dtype)) for x in (got, want)), strict=True):
        plain.agree(f"gradient of {name}", a, b, None, floor)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CLOSINGS)
def test_logits(name, kind):
    shapes = itertools.cycle(linear.SHAPES)
    for option, reduction in itertools.product(linear.WITH, REDUCTIONS):
        shape = next(shapes)
        z_shape = (*shape.lead[:1], shape.C, *shape.lead[1:], *shape.out)
        z = plain.logits_of(z_shape)
        target = {"index": plain.index_of, "ignored": lambda s: plain.index_of(s, ignore=-100), "dense": plain.probs_of,
                  "topk": plain.topk_of}[kind](z_shape)  # fmt: skip
        options: dict[str, Any] = dict(linear.WITH[option])
        options |= {"weight": torch.rand(shape.C, dtype=torch.float64) + 0.1} if "weight" in options else {}
        rows_shape = torch.Size(plain.rows_of(z_shape))
        if options.get("temperature") == "N":
            options["temperature"] = torch.rand(rows_shape, dtype=torch.float64) + 0.5
        if "sample_weight" in options:
            options["sample_weight"] = torch.rand(rows_shape, dtype=torch.float64) * (torch.rand(rows_shape) < 0.7)
        operands, segments = drawn(rows_shape)
        got = F.cross_entropy(
            z, target, closing=CLOSINGS[name], operands=operands, segments=segments, reduction=reduction, **options
        )
        row_options = {k: v for k, v in options.items() if k in ("weight", "label_smoothing", "temperature", "softcap")}
        want = closed(
            plain.rows(z, target, **row_options), CLOSINGS[name], operands, segments,
            options | {"reduction": reduction},
        )  # fmt: skip
        if want.isfinite().all():
            compare(f"{shape} {option} {reduction}", got, want, [z])


def linear_rows(args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Tensor]:
    x, w, target, b, _ = args
    names = ("weight", "label_smoothing", "temperature", "softcap")
    return linear.linear_cross_entropy(
        x, w, target, b, reduction="none", return_stats=True, **{k: v for k, v in options.items() if k in names}
    )[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CLOSINGS)
def test_heads(name, kind):
    shapes = itertools.cycle(linear.SHAPES)
    turn = 0
    for option, reduction, rows_at_once in itertools.product(linear.WITH, REDUCTIONS, (1, 6, None)):
        shape, turn = next(shapes), turn + 1
        frozen = ("prob", "sample_weight", *(("linear_weight", "linear_bias") if turn % 4 == 0 else ()))
        args, options = draw(shape, kind, option, bias=turn % 2 == 0, frozen=frozen)
        if args[4] is not None:
            args = (*args[:4], args[4] * (torch.rand(shape.rows) < 0.7))
        options |= {"reduction": reduction}
        operands, segments = drawn(torch.Size(shape.rows))
        chunk = {} if rows_at_once is None else {"chunk_bytes": rows_at_once * 8 * shape.C * max(1, len(shape.out) * 3)}
        got = F.linear_cross_entropy(
            *args[:3], linear_bias=args[3], sample_weight=args[4], closing=CLOSINGS[name], operands=operands,
            segments=segments, **chunk, **options,
        )  # fmt: skip
        want = closed(linear_rows(args, options), CLOSINGS[name], operands, segments,
                      options | {"sample_weight": args[4]})  # fmt: skip
        if want.isfinite().all():
            compare(f"{shape} {option} {reduction} {rows_at_once}", got, want, plain.leaves(*args))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dtypes(dtype):
    args, _ = draw(linear.LONG, "ignored", bias=True)
    x, w, target, b, _ = (plain.cast(x, dtype) for x in args)
    exact = [plain.cast(v, torch.float64) for v in (x, w, target, b)] + [None]
    operands, _ = drawn(torch.Size(linear.LONG.rows))
    narrow = tuple(o.float() for o in operands)
    got = F.linear_cross_entropy(x, w, target, linear_bias=b, closing=clipped, operands=narrow, chunk_bytes=2000)
    assert got.dtype == torch.float32
    want = closed(linear_rows(tuple(exact), {}), clipped, operands, None, {"reduction": "mean"})
    plain.agree("loss", got, want, None, 1e-5)
    found = torch.autograd.grad(got, [x, w, b])
    for a, e in zip(found, torch.autograd.grad(want, [exact[0], exact[1], exact[3]]), strict=True):
        assert a.dtype == dtype
        plain.agree("gradient", a, e, None, {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype])


def test_a_sweep_sees_chunks_and_the_same_numbers_come_of_it():
    args, _ = draw(linear.LONG, "index")
    operands, _ = drawn(torch.Size(linear.LONG.rows))
    seen: list[int] = []

    def watching(rows: Any, *operands: Tensor) -> Tensor:
        seen.append(len(rows.loss))
        return clipped(rows, *operands)

    losses = []
    for chunk_bytes in (2**20, 8 * 13 * 128):
        seen.clear()
        losses.append(F.linear_cross_entropy(*args[:3], closing=watching, operands=operands, chunk_bytes=chunk_bytes))
        assert sum(seen) == 150
        assert (len(seen) == 1) == (chunk_bytes == 2**20)
    plain.agree("loss", losses[1], losses[0], None, 1e-12)


def test_statistics_are_those_without_a_closing_and_have_gradients():
    args, _ = draw(linear.LONG, "ignored")
    operands, _ = drawn(torch.Size(linear.LONG.rows))
    how = {"closing": clipped, "operands": operands}
    loss, stats = F.linear_cross_entropy(*args[:3], return_stats=True, **how)
    _, wanted = F.linear_cross_entropy(*args[:3], return_stats=True)
    for name in ("lse", "logprob", "entropy", "confidence", "correct"):
        assert torch.equal(getattr(stats, name), getattr(wanted, name))
    rows = linear_rows((*args[:3], None, None), {})
    g = plain.cotangent_like(stats.entropy)
    got = torch.autograd.grad((loss, stats.entropy), args[:2], (torch.tensor(0.3, dtype=torch.float64), g))
    want = torch.autograd.grad(
        0.3 * closed(rows, clipped, operands, None, {"reduction": "mean"}) + (rows["entropy"] * g).sum(), args[:2]
    )
    for a, b in zip(got, want, strict=True):
        plain.agree("gradient", a, b, None, 1e-10)


@pytest.mark.parametrize("chunk_bytes", [2**20, 200])
def test_second_derivatives(chunk_bytes):
    args, _ = draw(linear.Shape((6,), (), 5, 3), "index")
    operands, _ = drawn(torch.Size((6,)))
    x, w, y = args[:3]
    both = []
    for loss in (
        F.linear_cross_entropy(x, w, y, closing=clipped, operands=operands, chunk_bytes=chunk_bytes),
        closed(linear_rows((x, w, y, None, None), {}), clipped, operands, None, {"reduction": "mean"}),
    ):
        first = torch.autograd.grad(loss, (x, w), create_graph=True)
        square = sum((g * plain.cotangent_like(g)).sum() for g in first)
        both.append([*first, *torch.autograd.grad(square, (x, w))])
    for a, b in zip(*both, strict=True):
        plain.agree("derivative", a, b, None, 1e-10)


def test_a_tensor_from_outside_gets_its_gradient():
    args, _ = draw(linear.LONG, "index")
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    leaves = [*args[:2], scale]
    got = F.linear_cross_entropy(*args[:3], closing=lambda rows: scale * rows.loss + rows.entropy)
    rows = linear_rows((*args[:3], None, None), {})
    compare("loss", got, (scale * rows["loss"] + rows["entropy"]).mean(), leaves)


def test_rows_that_are_apart_in_a_sequence_come_together():
    args, _ = draw(linear.LONG, "index")
    operands, _ = drawn(torch.Size(linear.LONG.rows))
    segments = torch.arange(150) % 2  # no chunk of 20 rows has all rows of either
    got = F.linear_cross_entropy(
        *args[:3], closing=over_sequences, operands=operands, segments=segments, chunk_bytes=8 * 13 * 20
    )
    rows = linear_rows((*args[:3], None, None), {})
    compare("loss", got, closed(rows, over_sequences, operands, segments, {"reduction": "mean"}), list(args[:2]))


@pytest.mark.parametrize("head", [False, True])
def test_removed_rows_may_hold_anything(head):
    args, _ = draw(linear.LONG, "index", frozen=("linear_weight",))
    x, w, y = args[:3]
    s, old = torch.ones(150, dtype=torch.float64), torch.randn(150, dtype=torch.float64)
    with torch.no_grad():
        x[3], x[70] = torch.nan, torch.inf
    s[3], y[70] = 0.0, -100
    how = {"closing": lambda rows, old: (rows.logprob - old).exp() / rows.loss, "operands": (old,), "sample_weight": s}
    z = torch.nn.functional.linear(x, w)
    loss = F.linear_cross_entropy(x, w, y, **how) if head else F.cross_entropy(z, y, **how)
    loss.backward()
    keep = torch.arange(150) != 3
    keep[70] = False
    assert x.grad is not None
    assert (x.grad[[3, 70]] == 0).all() if head else x.grad[keep].isfinite().all()
    part = x.detach()[keep].requires_grad_()
    only = {"closing": how["closing"], "operands": (old[keep],)}
    want = F.cross_entropy(torch.nn.functional.linear(part, w), y[keep], **only)
    want.backward()
    plain.agree("loss", loss, want, None, 1e-10)
    plain.agree("gradient", x.grad[keep], part.grad, None, 1e-10)


@pytest.mark.parametrize("head", [False, True])
def test_all_rows_removed(head):
    args, _ = draw(linear.ROWS, "index")
    x, w, y = args[0], args[1], torch.full((5,), -100)
    z = torch.nn.functional.linear(x, w)

    def call(**how: Any) -> Tensor:
        how["closing"] = lambda rows: rows.loss.max() + rows.loss
        return F.linear_cross_entropy(x, w, y, **how) if head else F.cross_entropy(z, y, **how)

    total = call(reduction="sum")
    total.backward()
    assert total == 0
    assert x.grad is not None
    assert (x.grad == 0).all()
    assert call().isnan()


# What closings may not do


def refusals() -> dict[str, tuple[Any, Any, type[Exception], str]]:
    two = torch.ones(2, dtype=torch.float64)
    return {
        "no tensor": (lambda rows: 1.0, (), TypeError, "must return a tensor of row losses, got float"),
        "reduced": (lambda rows: rows.loss.mean(), (), ValueError, r"vector of the 5 row losses.*let reduction= add"),
        "too many": (lambda rows: rows.loss[:, None], (), ValueError, r"got shape \(5, 1\)"),
        "integers": (lambda rows: rows.correct.long(), (), TypeError, "floating-point losses, got torch.int64"),
        "constant": (lambda rows: rows.loss.detach(), (), ValueError, "does not depend on the rows"),
        "operand": (lambda rows, x: rows.loss, (two,), ValueError, r"operands\[0\] of shape \(2,\) does not match"),
        "learned": (
            lambda rows, x: rows.loss,
            (torch.ones(5, requires_grad=True),),
            ValueError,
            "constant of the loss",
        ),
        "tensor": (lambda rows, x: rows.loss, two, TypeError, r"tuple of tensors, got Tensor; use operands=\(x,\)"),
        "no function": (3, (), TypeError, r"closing must be a function of \(rows, \*operands\), got int"),
        "other parameters": (lambda rows, x: rows.loss, (), TypeError, r"called with \(rows\), .* missing .* 'x'"),
        "a class": (
            object,
            (torch.ones(5),),
            TypeError,
            r"closing is called with \(rows, \*operands\) with 1 operands",
        ),
        "no closing": (None, (two,), ValueError, "operands have no effect without a closing"),
    }


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("name", refusals())
def test_what_is_refused(name, head):
    closing, operands, error, text = refusals()[name]
    args, _ = draw(linear.ROWS, "index")
    loss, operands_of = (
        (F.linear_cross_entropy, args[:3]) if head else (F.cross_entropy, (args[0] @ args[1].T, args[2]))
    )
    with pytest.raises(error, match=text):
        _ = loss(*operands_of, closing=closing, operands=operands)


def test_segments_are_whole_numbers_of_the_rows():
    args, _ = draw(linear.ROWS, "index")
    for segments, error, text in (
        (torch.ones(5), TypeError, "integer dtype, got torch.float32"),
        (torch.ones(4, dtype=torch.int64), ValueError, r"segments of shape \(4,\)"),
    ):
        with pytest.raises(error, match=text):
            _ = F.linear_cross_entropy(*args[:3], closing=lambda rows: rows.loss, segments=segments)
    with pytest.raises(ValueError, match="segments have no effect without a closing"):
        _ = F.linear_cross_entropy(*args[:3], segments=torch.ones(5))


@pytest.mark.parametrize("head", [False, True])
def test_a_closing_that_mixes_rows_is_found_out(head, monkeypatch):
    args, _ = draw(linear.LONG, "index")
    z = args[0] @ args[1].T
    segments = torch.div(torch.arange(150), 10, rounding_mode="floor")

    def call(closing: Any, **how: Any) -> Tensor:
        if head:
            return F.linear_cross_entropy(*args[:3], closing=closing, **how)
        return F.cross_entropy(z, args[2], closing=closing, **how)

    def mixing(rows: Any) -> Tensor:
        return rows.loss - rows.loss.mean()

    _ = call(mixing)
    monkeypatch.setitem(os.environ, "CROSSENT_VALIDATE", "1")
    with pytest.raises(ValueError, match=r"closing mixes rows: row 0 has the loss.*whole sequences need segments="):
        _ = call(mixing)
    with pytest.raises(ValueError, match="closing mixes rows: sequence 0"):
        _ = call(mixing, segments=segments)
    operands, _ = drawn(torch.Size((150,)))
    _ = call(clipped, operands=operands)
    _ = call(over_sequences, operands=operands, segments=segments)


# Who watches: compilers, transforms, lazy logits


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("head", [False, True])
def test_compiled_without_a_graph_break(head):
    def loss(x: Tensor, w: Tensor) -> Tensor:
        y = torch.where(torch.arange(x.shape[0]) % 4 == 1, -100, torch.arange(x.shape[0]) % 7)
        how: dict[str, Any] = {"closing": clipped, "operands": (x[:, 0].detach(), x[:, 1].detach())}
        return F.linear_cross_entropy(x, w, y, **how) if head else F.cross_entropy(x @ w.T, y, **how)

    check_compiled(loss, lambda n: [torch.randn(size, requires_grad=True) for size in ((n, 4), (7, 4))], dynamic=False)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("head", [False, True])
def test_function_transforms(head):
    args, _ = draw(linear.Shape((6,), (), 5, 3), "ignored")
    operands, _ = drawn(torch.Size((6,)))
    x, w, y = (a.detach() for a in args[:3])

    def ours(x: Tensor) -> Tensor:
        how: dict[str, Any] = {"closing": clipped, "operands": operands}
        return F.linear_cross_entropy(x, w, y, **how) if head else F.cross_entropy(x @ w.T, y, **how)

    def theirs(x: Tensor) -> Tensor:
        keep = y != -100
        rows = plain.rows(x[keep] @ w.T, y[keep])
        return clipped(_PlainRows(rows, keep[keep], None), *(o[keep] for o in operands)).mean()

    t = plain.cotangent_like(x)
    for transform in (torch.func.grad, torch.func.hessian, lambda f: lambda x: torch.func.jvp(f, (x,), (t,))[1]):
        plain.agree("result", transform(ours)(x), transform(theirs)(x), None, 1e-10)
    many = torch.stack([x, x + 0.1 * t])
    got, want = torch.func.vmap(torch.func.grad(ours))(many), torch.stack([torch.func.grad(theirs)(x) for x in many])
    plain.agree("result", got, want, None, 1e-10)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("head", [False, True])
def test_whole_sequences_are_refused_where_rows_cannot_be_left_out(head):
    args, _ = draw(linear.ROWS, "ignored")
    operands, segments = drawn(torch.Size(linear.ROWS.rows))
    x, w, y = (a.detach() for a in args[:3])
    how: dict[str, Any] = {"closing": over_sequences, "operands": operands, "segments": segments}

    def loss(x: Tensor) -> Tensor:
        return F.linear_cross_entropy(x, w, y, **how) if head else F.cross_entropy(x @ w.T, y, **how)

    assert loss(x).isfinite()
    with pytest.raises(NotImplementedError, match="segments drop the rows without a target"):
        _ = torch.func.grad(loss)(x)


def test_lazy_logits_stay_lazy():
    results = []
    for head, x in pair():
        z = (head(x) / 0.7).view(-1, V)
        y, random = torch.arange(len(z)) % V, torch.Generator().manual_seed(1)
        operands = tuple(torch.randn(len(z), generator=random, dtype=torch.float64) for _ in range(2))
        loss = F.cross_entropy(z, y, closing=clipped, operands=operands)
        results.append([loss, *torch.autograd.grad(loss, [x, head.weight])])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_a_row_of_a_learned_weight_of_zero_leads_no_nan_to_the_others(reduction):
    """A closing makes NaN · 0 of it; the weight has its loss for a gradient, and nothing else does."""
    x, weight = (torch.randn(*s, dtype=torch.float64) for s in ((3, 4), (5, 4)))
    x[1] = float("nan")
    s = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    target, rest = torch.tensor([0, 1, 2]), torch.tensor([0, 2])

    def gradient(rows, learned):
        own, w = weight.clone().requires_grad_(), s[rows].clone().requires_grad_(learned)
        how = {"closing": lambda r: r.logprob.square(), "sample_weight": w, "reduction": reduction}
        loss = F.linear_cross_entropy(x[rows], own, target[rows], **how)
        return torch.autograd.grad(torch.where(loss.isnan(), 0.0, loss).sum(), own)[0]

    want = gradient(rest, learned=False)
    torch.testing.assert_close(gradient(torch.arange(3), learned=True), want)
    torch.testing.assert_close(gradient(torch.arange(3), learned=False), want)
