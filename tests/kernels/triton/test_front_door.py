"""The losses of `crossent.torch` for tensors of the Triton backend, against torch's own in float64 on the CPU.

A result may be off by twice what its rival of the same dtype is, plus a floor for its own rounding: `tests.torch.plain`
says who the rival is and how much that is.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import crossent.torch as F
from crossent.kernels import triton
from crossent.torch import TopK
from crossent.torch.base.backends import backend
from tests import oracle
from tests.torch import linear, plain

NAN = math.nan
HALF = (torch.float32, torch.bfloat16)
dtypes = pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
kinds = pytest.mark.parametrize("kind", ["index", "ignored", "dense", "topk"])
ops = torch.ops.crossent


@pytest.fixture(autouse=True)
def seeded():
    _ = torch.manual_seed(0)


@pytest.fixture
def quiet():
    with warnings.catch_warnings():  # of torch's own machinery
        warnings.simplefilter("ignore")
        yield


def moved(x: Any, device: torch.device) -> Any:
    if isinstance(x, TopK):
        return TopK(x.index.to(device), x.prob.to(device))
    return x.to(device) if isinstance(x, Tensor) else x


def on(device: torch.device, function: Any) -> Any:
    """The function on the device: arguments go there, and what comes out is brought back."""

    def call(*args: Any, **options: Any) -> Any:
        out = function(*(moved(x, device) for x in args), **{k: moved(x, device) for k, x in options.items()})
        return out.cpu()

    return call


def target_of(kind: str, shape: tuple[int, ...]) -> Any:
    if kind == "dense":
        return plain.probs_of(shape, requires_grad=True)
    if kind == "topk":
        return plain.topk_of(shape, requires_grad=True)
    target = plain.index_of(shape)
    if kind == "ignored":
        target.view(-1)[::3] = -100
    return target


def weight_of(shape: Any) -> Tensor:
    return torch.rand(shape, dtype=torch.float64) + 0.1


def test_tensors_of_the_device_go_to_the_triton_backend(device):
    assert backend(torch.zeros(1, device=device)) is triton


# What torch has


CALLS = {  # kind, shape, reduction, weighted, label_smoothing
    "rows": ("index", (5, 7), "mean", False, 0.0),
    "a vector": ("index", (7,), "sum", True, 0.1),
    "pixels": ("ignored", (2, 7, 3), "mean", True, 0.1),
    "volumes": ("ignored", (2, 3, 2, 2), "none", True, 0.0),
    "probabilities": ("dense", (5, 7), "mean", True, 0.1),
    "pixels of probabilities": ("dense", (2, 5, 3), "none", False, 0.0),
    "many classes": ("index", (3, 600), "none", False, 1.0),
}


@dtypes
@pytest.mark.parametrize("call", CALLS)
def test_cross_entropy_is_that_of_torch(call, dtype, device):
    kind, shape, reduction, weighted, smoothing = CALLS[call]
    weight = weight_of(plain.classes_of(shape)) if weighted else None
    options = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
    args = (plain.logits_of(shape, 5.0), target_of(kind, shape))
    plain.compare(on(device, F.cross_entropy), nnf.cross_entropy, nnf.cross_entropy, dtype, args, options)


@dtypes
def test_the_module_is_that_of_torch(dtype, device):
    weight, z = weight_of(7), plain.logits_of((6, 7))
    target = torch.tensor([0, 3, 6, 3, 3, 1])

    def of(home: Any) -> Any:
        def call(z: Tensor, target: Tensor, weight: Tensor) -> Tensor:
            return home(weight, ignore_index=3, label_smoothing=0.1)(z, target)

        return call

    ours, theirs = on(device, of(F.CrossEntropyLoss)), of(torch.nn.CrossEntropyLoss)
    plain.compare(ours, theirs, theirs, dtype, (z, target, weight), {})


@pytest.mark.parametrize("name", ["binary_cross_entropy_with_logits", "binary_cross_entropy"])
@dtypes
def test_binary_losses_are_those_of_torch(name, dtype, device):
    for shape, reduction in (((), "sum"), ((3, 5), "mean"), ((2, 3, 4), "none")):
        x, options = torch.randn(shape, dtype=torch.float64) * 3, {"reduction": reduction}
        if name == "binary_cross_entropy":
            x = 0.05 + 0.9 * x.sigmoid()
        options["weight"] = weight_of(shape[-1:])
        if name.endswith("logits"):
            options["pos_weight"] = 3 * weight_of(shape[-1:])
        args = (x.requires_grad_(), torch.rand(shape, dtype=torch.float64, requires_grad=True))
        plain.compare(on(device, getattr(F, name)), None, getattr(nnf, name), dtype, args, options)


def test_a_confident_right_answer_costs_what_it_costs(device):
    x, t = torch.tensor([-40.0, 40, -15, 1e4, -1e4], device=device), torch.tensor([0.0, 1, 0, 1, 1], device=device)
    loss = F.binary_cross_entropy_with_logits(x.requires_grad_(), t, reduction="none")
    (g,) = torch.autograd.grad(loss.sum(), x)
    small, rounding = (math.exp(-40), math.exp(-15)), oracle.K * 2.0**-24
    want = torch.tensor([small[0], small[0], math.log1p(small[1]), 0, 1e4])  # exp(−40) is its own log1p in double
    torch.testing.assert_close(loss.cpu(), want, rtol=rounding, atol=0)
    want = torch.tensor([small[0], -small[0], small[1] / (1 + small[1]), 0, -1])
    torch.testing.assert_close(g.cpu(), want, rtol=rounding, atol=0)


def test_impossible_probabilities_cost_everything_and_what_is_none_is_nan(device, monkeypatch):
    p = torch.tensor([0.0, 1.0, 0.0, 1.0, -0.1, 1.1, NAN], device=device, requires_grad=True)
    t = torch.tensor([1.0, 0, 0, 1, 0, 1, 0], device=device)
    loss = F.binary_cross_entropy(p, t, reduction="none")
    torch.testing.assert_close(loss.cpu(), torch.tensor([math.inf, math.inf, 0, 0, NAN, NAN, NAN]), equal_nan=True)
    (g,) = torch.autograd.grad(loss, p, torch.ones_like(loss))
    assert g[4:].isnan().all()
    assert not g[:4].isnan().any()
    monkeypatch.setenv("CROSSENT_VALIDATE", "1")
    with pytest.raises(ValueError, match=r"input .* at \(4,\).*binary_cross_entropy_with_logits"):
        _ = F.binary_cross_entropy(p, t)


@pytest.mark.parametrize("shape", [(0, 5), (2, 5, 0)], ids=str)
def test_empty_batches_are_those_of_torch(shape, device):
    for reduction in ("mean", "sum", "none"):
        results = []
        for f in (on(device, F.cross_entropy), nnf.cross_entropy):
            z = torch.zeros(shape, requires_grad=True)
            loss = f(z, torch.zeros(plain.rows_of(shape), dtype=torch.long), reduction=reduction)
            results.append((loss, torch.autograd.grad(loss.sum(), z)[0]))
        torch.testing.assert_close(*results, equal_nan=True)


# What torch does not have


EXTRAS = {
    "temperature": {"temperature": 0.6},
    "softcap": {"softcap": 4.0},
    "z-loss": {"z_loss": 1e-2},
    "all": {"temperature": 1.7, "softcap": 3.0, "z_loss": 1e-2, "label_smoothing": 0.2},
    "temperatures": {"temperature": "N"},
    "all and temperatures": {"temperature": "N", "softcap": 3.0, "z_loss": 1e-2, "label_smoothing": 0.2},
}


def by_position(function: Any) -> Any:
    """The function with the sample weight by position, so that it has a gradient."""
    return lambda z, target, samples, **options: function(z, target, sample_weight=samples, **options)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("extra", EXTRAS)
@kinds
def test_what_torch_does_not_have(kind, extra, dtype, device):
    turn = list(EXTRAS).index(extra) + len(kind)
    shape, reduction = ((5, 7), (2, 6, 3), (3, 70))[turn % 3], ("none", "mean", "sum")[turn // 2 % 3]
    samples = torch.rand(plain.rows_of(shape), dtype=torch.float64, requires_grad=True)
    options = EXTRAS[extra] | {"reduction": reduction, "weight": weight_of(shape[1])}
    if options.get("temperature") == "N":
        options["temperature"] = 0.05 + 3 * torch.rand(plain.rows_of(shape), dtype=torch.float64)
    args = (plain.logits_of(shape, 3.0), target_of(kind, shape), samples)
    exact = by_position(plain.cross_entropy)
    plain.compare(on(device, by_position(F.cross_entropy)), exact, exact, dtype, args, options)


def told(function: Any) -> Any:
    """Everything that a call tells of its rows, in one vector."""

    def call(*args: Any, **options: Any) -> Tensor:
        loss, stats = function(*args, **options, reduction="none", return_stats=True)
        of = stats.__getitem__ if isinstance(stats, dict) else functools.partial(getattr, stats)
        told = [of("lse"), of("logprob"), of("entropy"), of("confidence").detach(), of("correct").to(loss.dtype)]
        return torch.cat([x.flatten() for x in (loss, *told)])

    return call


@pytest.mark.parametrize("dtype", [torch.float64, *HALF], ids=str)
@kinds
def test_statistics_and_their_gradients(kind, dtype, device):
    exact = told(plain.cross_entropy)
    for shape, options in (((5, 7), {}), ((2, 6, 3), {"softcap": 4.0, "label_smoothing": 0.2, "weight": weight_of(6)})):
        args = (plain.logits_of(shape, 3.0), target_of(kind, shape))
        plain.compare(on(device, told(F.cross_entropy)), exact, exact, dtype, args, options)


# Rows that count for nothing, or are nothing


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_the_mean_of_rows_that_are_all_ignored_is_nan_without_a_gradient(dtype, device):
    z = torch.randn(3, 5, device=device).to(dtype).requires_grad_()
    y = torch.full((3,), -100, device=device)
    for options in ({}, {"weight": torch.rand(5, device=device), "label_smoothing": 0.1}, {"z_loss": 0.1}):
        for reduction, value in (("mean", NAN), ("sum", 0.0)):
            loss = F.cross_entropy(z, y, reduction=reduction, **options)
            torch.testing.assert_close(loss.item(), value, equal_nan=True, rtol=0, atol=0)
            (g,) = torch.autograd.grad(loss, z)
            assert torch.equal(g, torch.zeros_like(g))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("wrong", [-1, 5, 2**40])
def test_a_class_that_does_not_exist_makes_the_mean_nan_and_spoils_no_other_row(wrong, weighted, device, monkeypatch):
    z = torch.randn(4, 5, device=device, requires_grad=True)
    y = torch.tensor([3, 1, wrong, 0], device=device)
    weight = torch.rand(5, device=device) if weighted else None
    loss = F.cross_entropy(z, y, weight)
    assert loss.isnan()
    (g,) = torch.autograd.grad(loss, z)
    assert g[2].isnan().all()
    rows = F.cross_entropy(z, y, weight, reduction="none")
    (h,) = torch.autograd.grad(rows.sum(), z)
    kept = [0, 1, 3]
    want = nnf.cross_entropy(z[kept], y[kept], weight, reduction="none")
    plain.agree("rows", rows[kept], want.double(), None, plain.FLOOR[torch.float32])
    assert rows[2].isnan()
    (want,) = torch.autograd.grad(want.sum(), z)
    plain.agree("gradient", h[kept], want[kept].double(), None, plain.FLOOR[torch.float32])
    monkeypatch.setenv("CROSSENT_VALIDATE", "1")
    with pytest.raises(IndexError, match=rf"class {wrong} \(row 2"):
        _ = F.cross_entropy(z, y, weight)


# Derivatives of every order, operators, compilation


@kinds
def test_a_second_backward_gives_the_same_gradients(kind, device):
    shape = (2, 6, 3)
    z, target = (plain.cast(x, torch.float32) for x in (plain.logits_of(shape), target_of(kind, shape)))
    inputs = plain.leaves(z, target)
    for reduction in ("mean", "none"):
        loss, stats = F.cross_entropy(moved(z, device), moved(target, device), reduction=reduction, return_stats=True)
        total = loss.sum() + stats.entropy.sum() + stats.lse.square().sum()
        first = [x.clone() for x in torch.autograd.grad(total, inputs, retain_graph=True)]
        for a, b in zip(first, torch.autograd.grad(total, inputs), strict=True):
            assert torch.equal(a, b)


@kinds
def test_second_derivatives(kind, device):
    z, target = plain.logits_of((2, 3)), target_of(kind, (2, 3))
    if kind == "dense":
        target = weight_of((2, 3)).requires_grad_()  # none so small that a little less of it would be negative
    rest = [target.prob] if kind == "topk" else [target] if kind == "dense" else []

    def call(z: Tensor, *prob: Tensor) -> Any:
        given = TopK(target.index, *prob) if kind == "topk" else prob[0] if prob else target
        options = {"z_loss": 0.1, "label_smoothing": 0.1, "softcap": 3.0}
        loss, stats = F.cross_entropy(moved(z, device), moved(given, device), return_stats=True, **options)
        return loss.cpu(), stats.entropy.cpu()

    assert torch.autograd.gradgradcheck(call, (z, *rest), fast_mode=True)


@pytest.mark.usefixtures("quiet")
def test_operators_keep_their_contracts(device):
    z = torch.randn(4, 5, device=device, requires_grad=True)
    prob = torch.rand(4, 2, device=device, requires_grad=True)
    weight = torch.rand(5, device=device)
    options = {
        "weight": weight, "smoothing": 0.1, "ignore_index": -100, "first_class": 0, "num_classes": None,
        "temperature": 0.7, "softcap": 3.0, "row_temperature": None, "groups": [], "recorded": False,
    }  # fmt: skip
    index = (z, torch.randint(5, (4,), device=device), None, *options.values())
    own = options | {"temperature": 1.0, "row_temperature": torch.rand(4, device=device, dtype=torch.float64) + 0.5}
    topk = (z, torch.randint(5, (4, 2), device=device), prob, *options.values())
    _ = torch.library.opcheck(ops.row_stats.default, index)
    _ = torch.library.opcheck(ops.row_stats.default, (*index[:3], *own.values()))
    record = ops.row_stats.default(*topk)[3].detach()
    g = torch.randn(4, device=device, requires_grad=True)
    _ = torch.library.opcheck(ops.row_grad.default, (*topk, record, g, None, g))
    _ = torch.library.opcheck(ops.row_loss.default, (*index, True))
    x = torch.rand(3, 4, device=device, requires_grad=True)
    _ = torch.library.opcheck(ops.binary_loss.default, ("logits", x, x.detach(), None, weight[:4], True))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_without_a_graph_break(dynamic, device):
    def step(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y, label_smoothing=0.1) + F.cross_entropy(z, y, z_loss=0.1, softcap=3.0)

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n in (5, 3):
        z, y = torch.randn(n, 7, device=device, requires_grad=True), torch.randint(7, (n,), device=device)
        got, want = compiled(z, y), step(z, y)
        assert torch.equal(got, want)
        assert torch.equal(*(torch.autograd.grad(x, z)[0] for x in (got, want)))
    torch._dynamo.reset()


# The linear layer


LINEAR = {  # shape, kind of target, option, reduction, bytes of logits at a time
    "at once": (linear.ROWS, "index", "nothing", "mean", None),
    "in chunks": (linear.LONG, "ignored", "everything", "mean", 2000),
    "in tiles": (linear.WIDE, "index", "softcap", "sum", 1500),
    "probabilities": (linear.PIXELS, "dense", "smoothing", "none", 48),
    "picks": (linear.TOKENS, "topk", "z-loss", "mean", 64),
    "picks of one sample": (linear.Shape((1,), (3,), 6, 2), "topk", "temperature", "mean", None),
    "both": (linear.BOTH, "ignored", "weight", "none", 100),
    "temperatures in chunks": (linear.LONG, "ignored", "temperatures", "mean", 2000),
    "temperatures in tiles": (linear.WIDE, "index", "temperatures", "none", 1500),
    "temperatures of positions": (linear.PIXELS, "dense", "temperatures", "sum", 48),
}


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("call", LINEAR)
def test_the_loss_of_a_linear_layer(call, dtype, device):
    shape, kind, option, reduction, chunk_bytes = LINEAR[call]
    args, options = linear.draw(shape, kind, option, bias=True, spread=3.0)
    options |= {"reduction": reduction, "chunk_bytes": chunk_bytes}
    exact = linear.linear_cross_entropy
    ours = on(device, linear.by_position(F.linear_cross_entropy))
    plain.compare(ours, linear.in_float32(exact), exact, dtype, args, options)
