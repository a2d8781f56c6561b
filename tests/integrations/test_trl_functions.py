"""The functions in place of TRL's, beside TRL's own and the definitions in float64."""

from __future__ import annotations

import types

import pytest
import torch
from torch import Tensor
from torchao import quantization
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
from trl.kernels.chunked_logprob import OPTIONAL_OUTPUTS, ChunkedLogProbFunction
from trl.trainer import utils

from crossent.integrations import trl as enabler
from crossent.integrations import trl_functions as ours
from tests.integrations import trl_runs
from tests.torch import plain
from tests.torch.lazily import Largest

pytestmark = [
    pytest.mark.slow,  # TRL takes seconds to import
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torchao
]


@pytest.fixture(autouse=True)
def eight_rows(little_memory):
    little_memory(trl_runs.V)


N, D, V = 13, 8, 53
SCORES = {
    "plain": (1.0, None, 1.0),
    "temperature": (0.7, None, 1.0),
    "scale": (1.0, None, 0.25),
    "cap": (1.0, 3.0, 1.0),
    "all": (2.0, 3.0, 1.5),
}
"""Temperature, softcap and scale of logits."""


def layer(dtype, *, bias=True, seed=0, features=D):
    g = torch.Generator().manual_seed(seed)
    made = [torch.randn(*size, generator=g, dtype=torch.float64) for size in ((N, features), (V, features), (V,))]
    x, w, b = (t.to(dtype).requires_grad_() for t in made)
    return x, w, b if bias else None


def targets():
    return torch.randint(V, (N,), generator=torch.Generator().manual_seed(7))


def scores(x, w, b, temperature, cap, scale):
    """By the definition, in float64."""
    z = torch.nn.functional.linear(x, w, b) * scale
    return (z if cap is None else cap * torch.tanh(z / cap)) / temperature


def exactly(operands, y, temperature, cap, scale):
    """The definition of all outputs in float64, with the leaves."""
    wide = [None if x is None else x.detach().double().requires_grad_() for x in operands]
    s = scores(*wide, temperature, cap, scale)
    logq = s.log_softmax(-1)
    q = logq.exp()
    found = (logq.gather(1, y[:, None])[:, 0], -(q * logq).sum(1), q.square().sum(1).log(), s.mean(1), s.argmax(1) == y)
    return found, wide


def gradients(found, operands):
    """By random cotangents of what has gradients."""
    total = sum((x * plain.cotangent_like(x, k).to(x.dtype)).sum() for k, x in enumerate(found) if x.requires_grad)
    leaves = [x for x in operands if x is not None and x.requires_grad]
    return torch.autograd.grad(total, leaves) if leaves else ()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("options", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("dtype", plain.DTYPES)
def test_log_probs(dtype, options, bias):
    operands, y = layer(dtype, bias=bias), targets()
    call = (*operands, y, options[0], 16, *options[1:])
    want, got = ChunkedLogProbFunction.apply(*call), ours.LogProbs.apply(*call)
    exact, wide = exactly(operands, y, *options)
    floor = plain.FLOOR[torch.float32]
    for name, g, w, e in zip(("log_probs", *OPTIONAL_OUTPUTS), got, want, exact, strict=True):
        assert (g.dtype, g.shape, g.requires_grad) == (w.dtype, w.shape, w.requires_grad), name
        if g.dtype == torch.bool:
            assert torch.equal(g, e) or dtype not in (torch.float32, torch.float64)
        else:
            plain.agree(name, g, e, w, floor)
    grads = zip(gradients(got, operands), gradients(want, operands), gradients(exact[:2], wide), strict=True)
    for k, (g, w, e) in enumerate(grads):
        assert g.dtype == w.dtype
        plain.agree(f"gradient {k}", g, e, w, plain.FLOOR[dtype] if dtype != torch.float64 else floor)


def test_outputs_that_nobody_asks_for_are_none():
    call = (*layer(torch.float32), targets(), 1.0, 16, None, 1.0)
    for outputs in ((), ("log_probs",), ("log_probs", "is_top1"), OPTIONAL_OUTPUTS):
        got = ours.LogProbs.apply(*call, outputs)
        assert [x is None for x in got] == [x is None for x in ChunkedLogProbFunction.apply(*call, outputs)]


def test_a_tie_belongs_to_the_first():
    x, w, y = torch.ones(1, 1), torch.tensor([[0.0], [3.0], [3.0], [1.0]]), torch.arange(4)
    call = (x.expand(4, 1), w, None, y, 1.0, 2)
    want = ChunkedLogProbFunction.apply(*call)[4]
    assert torch.equal(ours.LogProbs.apply(*call)[4], want)
    assert want.tolist() == [False, True, False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype):
    operands, y = layer(torch.float32), targets()
    with torch.autocast("cpu", dtype=dtype):
        call = (*operands, y, 1.0, 16)
        want, got = ChunkedLogProbFunction.apply(*call), ours.LogProbs.apply(*call)
    exact, wide = exactly([x.to(dtype) for x in operands], y, 1.0, None, 1.0)
    for g, w, e in zip(got[:4], want[:4], exact[:4], strict=True):
        assert g.dtype == w.dtype == torch.float32
        plain.agree("value", g, e, w, plain.FLOOR[torch.float32])
    for g, w, e in zip(gradients(got, operands), gradients(want, operands), gradients(exact[:2], wide), strict=True):
        assert g.dtype == w.dtype == torch.float32
        plain.agree("gradient", g, e, w, plain.FLOOR[dtype])


def test_a_head_of_another_dtype():
    x, w, b = layer(torch.float32)
    w, b = (t.detach().bfloat16().requires_grad_() for t in (w, b))
    call = (x, w, b, targets(), 1.0, 16)
    want, got = ChunkedLogProbFunction.apply(*call), ours.LogProbs.apply(*call)
    torch.testing.assert_close(got[0], want[0])
    for g, its in zip(gradients(got, (x, w, b)), gradients(want, (x, w, b)), strict=True):
        assert g.dtype == its.dtype
        plain.agree("gradient", g, its, None, plain.FLOOR[g.dtype])


@pytest.mark.parametrize("cap", [None, 3.0])
def test_a_quantised_head(cap):
    x, w, b = layer(torch.float32)
    linear = torch.nn.Linear(D, V)
    linear.weight.data.copy_(w)
    quantization.quantize_(linear, quantization.Int8WeightOnlyConfig())
    weight = linear.weight
    found = [
        ours.LogProbs.apply(x, of, b, targets(), 0.7, 16, cap, 1.5) for of in (weight, weight.dequantize().detach())
    ]
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)
    for got, want in zip(*(gradients(of, (x, b)) for of in found), strict=True):
        plain.agree("gradient", got, want, None, plain.FLOOR[torch.float32])


@pytest.mark.parametrize("frozen", range(3))
def test_frozen_operands(frozen):
    operands = layer(torch.float32)
    _ = operands[frozen].requires_grad_(False)
    call = (*operands, targets(), 1.0, 16)
    want, got = ChunkedLogProbFunction.apply(*call), ours.LogProbs.apply(*call)
    for g, w in zip(gradients(got, operands), gradients(want, operands), strict=True):
        plain.agree("gradient", g, w, None, plain.FLOOR[torch.float32])


def test_no_rows():
    x, w, _ = layer(torch.float32)
    got = ours.LogProbs.apply(x[:0], w, None, targets()[:0], 1.0, 16, 2.0)
    assert [tuple(t.shape) for t in got] == [(0,)] * 5
    g, _ = torch.autograd.grad(got[0].sum(), (x, w))
    assert torch.equal(g, torch.zeros_like(x))


def test_the_mean_of_capped_scores_is_made_by_tiles(monkeypatch):
    monkeypatch.setitem(ours._TILE, True, 5 * N)
    operands = layer(torch.float32)
    with Largest() as seen:
        got = ours.mean_of_scores(ours.Layer(*operands), ours.scores_of(2.0, 3.0, 1.5))
    assert seen.elements == V * D < N * V
    plain.agree("mean", got, exactly(operands, targets(), 2.0, 3.0, 1.5)[0][3], None, plain.FLOOR[torch.float32])


BAD = {"temperature": (0.0, None, 1.0), "final_logit_softcapping": (1.0, 0.0, 1.0), "logit_scale": (1.0, None, -2.0)}


@pytest.mark.parametrize(("name", "options"), BAD.items())
def test_scores_that_crossent_has_not(name, options):
    with pytest.raises(ValueError, match=rf"{name} of the head is .*disable\(\)"):
        _ = ours.scores_of(*options)
    with pytest.raises(ValueError, match=r"logit_scale of the head is 0\.0"):
        _ = ours.LogProbs.apply(*layer(torch.float32), targets(), 1.0, 16, None, 0.0)


def test_zero_3_is_refused():
    operands = layer(torch.float32)
    operands[1].ds_id = 3
    with pytest.raises(NotImplementedError, match=r"ZeRO-3 frees the weight of the head.*use ZeRO-2 or FSDP2"):
        _ = ours.LogProbs.apply(*operands, targets(), 1.0, 16)
    with pytest.raises(NotImplementedError, match="ZeRO-3"):
        _ = ours.Divergence.apply(*layer(torch.float32), *operands, 0.5)


# Divergences


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("options", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_divergences(dtype, options, beta):
    student, teacher = layer(dtype), layer(dtype, seed=1, features=6, bias=False)
    temperature, cap, scale = options
    call = (*student, *teacher, beta, temperature, scale, cap, 0.5, None)
    want, got = ChunkedDivergenceFunction.apply(*call), ours.Divergence.apply(*call)
    wide = [x.detach().double().requires_grad_() for x in student]
    logq = scores(*wide, temperature, cap, scale).log_softmax(1)
    logp = scores(*(None if x is None else x.detach().double() for x in teacher), temperature, None, 0.5).log_softmax(1)
    exact = [by_definition(logp, logq, beta), -(logq.exp() * logq).sum(1)]
    for name, g, w, e in zip(("divergence", "entropy"), got, want, exact, strict=True):
        assert (g.dtype, g.shape, g.requires_grad) == (w.dtype, w.shape, w.requires_grad)
        plain.agree(name, g, e, w, plain.FLOOR[torch.float32])
    for g, w, e in zip(gradients(got, student), gradients(want, student), gradients(exact[:1], wide), strict=True):
        assert g.dtype == w.dtype
        plain.agree("gradient", g, e, w, plain.FLOOR[dtype])
    assert not any(x.grad is not None for x in teacher if x is not None)


def by_definition(logp: Tensor, logq: Tensor, beta: float) -> Tensor:
    """Of each row, in float64."""
    p, q = logp.exp(), logq.exp()
    if beta == 0.0:
        return (p * (logp - logq)).sum(1)
    if beta == 1.0:
        return (q * (logq - logp)).sum(1)
    logm = (beta * p + (1 - beta) * q).log()
    return (beta * p * (logp - logm) + (1 - beta) * q * (logq - logm)).sum(1)


def test_a_teacher_with_more_classes_than_the_student():
    student, (x, w, b) = layer(torch.float32), layer(torch.float32, seed=1)
    padding = torch.full((3, D), 5.0)
    call = (x, torch.cat([w.detach(), padding]), torch.cat([b.detach(), torch.zeros(3)]), 0.0)
    want, got = ChunkedDivergenceFunction.apply(*student, *call), ours.Divergence.apply(*student, *call)
    torch.testing.assert_close(got, want)


def test_a_teacher_gets_no_gradient():
    student, teacher = layer(torch.float32), layer(torch.float32, seed=1)
    ours.Divergence.apply(*student, *teacher, 0.5)[0].sum().backward()
    assert all(x.grad is not None for x in student)
    assert all(x.grad is None for x in teacher)


# Of logits


def logits_of(dtype, shape=(3, 5, V)):
    z = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return (3 * z).to(dtype).requires_grad_()


def masks(shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.7


@pytest.mark.parametrize("mask", [None, torch.bool, torch.int64])
@pytest.mark.parametrize("K", [None, 4])
@pytest.mark.parametrize("dtype", plain.DTYPES)
def test_selected_classes(dtype, K, mask):
    z = logits_of(dtype)
    shape = z.shape[:-1] if K is None else (*z.shape[:-1], K)
    index = torch.randint(V, shape, generator=torch.Generator().manual_seed(4))
    options = {"temperature": 0.7, "row_mask": None if mask is None else masks(shape).to(mask)}
    want, got = (f(z, index, **options) for f in (utils.selective_log_softmax, ours.selective_log_softmax))
    wide = z.detach().double().requires_grad_()
    exact = utils.selective_log_softmax(wide, index, **options)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    floor = plain.FLOOR[dtype]
    plain.agree("log_probs", got, exact, want, floor)
    (g,), (w,), (e,) = (gradients([x], [leaf]) for x, leaf in ((got, z), (want, z), (exact, wide)))
    plain.agree("gradient", g, e, w, floor)


@pytest.mark.parametrize("with_gradient", [True, False])
@pytest.mark.parametrize("mask", [None, torch.bool])
@pytest.mark.parametrize("dtype", plain.DTYPES)
def test_selected_classes_and_entropies(dtype, mask, with_gradient):
    z = logits_of(dtype)
    index = torch.randint(V, z.shape[:-1], generator=torch.Generator().manual_seed(4))
    row_mask = None if mask is None else masks(index.shape)
    options = (index, with_gradient, 1.3, row_mask)
    functions = utils.selective_log_softmax_and_entropy, ours.selective_log_softmax_and_entropy
    want, got = (f(z, *options) for f in functions)
    wide = z.detach().double().requires_grad_()
    exact = functions[0](wide, *options)
    for g, w, e in zip(got, want, exact, strict=True):
        assert (g.dtype, g.shape, g.requires_grad) == (w.dtype, w.shape, w.requires_grad)
        plain.agree("value", g, e, w, plain.FLOOR[dtype])
    (g,), (w,), (e,) = (gradients(x, [leaf]) for x, leaf in ((got, z), (want, z), (exact, wide)))
    plain.agree("gradient", g, e, w, plain.FLOOR[dtype])


@pytest.mark.parametrize("shape", [(V,), (4, V), (3, 5, V), (0, V)])
@pytest.mark.parametrize("dtype", plain.DTYPES)
def test_entropies(dtype, shape):
    z = logits_of(dtype, shape)
    want, got = utils.entropy_from_logits(z), ours.entropy_from_logits(z, chunk_size=2)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    exact = utils.entropy_from_logits(z.detach().double())
    plain.agree("entropy", got, exact, want, plain.FLOOR[dtype])


def test_what_the_triton_kernel_returns_is_float32():
    z = logits_of(torch.bfloat16)
    index = torch.zeros(z.shape[:-1], dtype=torch.int64)
    found = ours.fused_log_softmax_and_entropy(z, index, 0.5, masks(index.shape))
    exact = utils.selective_log_softmax_and_entropy(z.detach().double(), index, True, 0.5, masks(index.shape))
    for got, e in zip(found, exact, strict=True):
        assert got.dtype == torch.float32
        plain.agree("value", got, e, None, plain.FLOOR[torch.float32])


def test_on_a_gpu_the_dtype_is_that_of_the_triton_kernel(monkeypatch):
    z = types.SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16)
    for supported in (True, False):
        monkeypatch.setattr(utils, "_supports_trl_loss_kernel", lambda *_, yes=supported: yes)
        monkeypatch.setattr(utils, "is_triton_available", lambda: True)
        assert ours._dtype_of(z, None, None) == (torch.float32 if supported else torch.bfloat16)


@pytest.mark.parametrize("function", [ours.selective_log_softmax, utils.selective_log_softmax])
def test_what_is_no_class_and_no_temperature(function):
    z = logits_of(torch.float32, (2, V))
    for wrong in (-100, -1, V):
        with pytest.raises((IndexError, RuntimeError)):
            _ = function(z, torch.tensor([0, wrong]))
    with pytest.raises(ValueError, match="temperature must be positive"):
        _ = function(z, torch.tensor([0, 1]), temperature=0.0)


# What is read from TRL's caller


def test_rows_that_trl_drops_are_not_computed(monkeypatch):
    """TRL's caller says which; where TRL has no Triton it computes every row."""
    seen = list[int]()
    original = ours.linear_logprobs

    def counting(x, w, classes, **options):
        seen.append(int((classes != options["ignore_index"]).sum()))
        return original(x, w, classes, **options)

    monkeypatch.setattr(ours, "linear_logprobs", counting)
    student = trl_runs.model()
    utils.add_fused_lm_head(student)
    ids = torch.randint(2, 300, (2, 9), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :5] = -100
    want = student(input_ids=ids, labels=labels, fused_lm_head=True)
    with enabler.enable():
        got = student(input_ids=ids, labels=labels, fused_lm_head=True)
        nothing = student(input_ids=ids, labels=torch.full_like(labels, -100), fused_lm_head=True)
    assert seen == [8, 0]
    torch.testing.assert_close(got.log_probs, want.log_probs)
    assert torch.equal(got.log_probs[:, :4], torch.zeros(2, 4))
    nothing.loss.backward()
    assert nothing.loss.item() == 0.0


@pytest.mark.parametrize("mask", [None, torch.bool])
def test_lazy_logits_stay_lazy(mask):
    """What a trainer does to `model(...).logits`, of a model with a fused head."""
    found = []
    for make in (trl_runs.model, trl_runs.fused):
        student = make()
        ids = torch.randint(2, 300, (2, 30), generator=torch.Generator().manual_seed(1))
        keep = None if mask is None else masks(ids.shape)
        with Largest() as seen:
            z = student(input_ids=ids).logits
            both = ours.selective_log_softmax_and_entropy(z, ids, True, 0.7, keep)
            one, entropy = ours.selective_log_softmax(z, ids, 0.7, keep), ours.entropy_from_logits(z)
            sum(x.sum() for x in (*both, one, entropy)).backward()
        found.append((*both, one, entropy, student.lm_head.weight.grad))
        assert (seen.elements < ids.numel() * trl_runs.V) == (make is trl_runs.fused)
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)
