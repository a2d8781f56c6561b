"""Public bug reports against other losses, each as a test with its own numbers, of logits and of a linear head.

What a report asks is asked of every dtype and of both paths, values and gradients, within the derived bounds of
`soak_truth`. Reports about divergences between two heads (Soup #719: reverse KL at T = 0.05; EasyDeL #267: KL of
identical rows; TRL #5594: a padded teacher) are asked here as far as a loss with one head goes: scores, entropy and a
soft target. The divergences themselves have no tests before they exist.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from mpmath import mp
from torch import Tensor, nn

import crossent
import crossent.torch as F
from crossent.torch.sources.products import operand_dtype
from tests.laws.soak import check
from tests.laws.soak_calls import REAL, STATS, Call, wide

inf = math.inf
dtypes = pytest.mark.parametrize("dtype", REAL, ids=str)
half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
paths = pytest.mark.parametrize("path", ["logits", "linear"])


def call_of(path: str, logits: Tensor, target: Tensor, **options) -> Call:
    """A call on logits (N, V), given as they are or as those of a linear layer.

    The layer multiplies them with the identity, or has the one row as its bias.
    """
    classes = logits.shape[1]
    if path == "logits":
        return Call("cross_entropy", {"input": logits, "target": target, **options}, ["input"], class_axis=1)
    if len(logits) == 1:
        layer = {"linear_weight": logits.new_zeros(classes, 1), "linear_bias": logits[0].clone()}
        x, wanted = logits.new_zeros(1, 1), ["linear_bias"]
    else:
        layer, wanted = {"linear_weight": logits.t().clone()}, ["linear_weight"]
        x = torch.eye(len(logits), dtype=logits.dtype)
    return Call("linear_cross_entropy", {"input": x, "target": target, **layer, **options}, wanted, class_axis=1)


def outcome(call: Call) -> tuple[dict[str, Tensor], Tensor]:
    """Hold a call against its bounds; return its results and the gradient of the logits (N, V)."""
    leaf = call.arguments[call.wanted[0]].detach().requires_grad_()
    call.arguments[call.wanted[0]] = leaf
    stats = call.arguments.get("return_stats", False)
    wrong = [x for x in check(call) if x.ratio > 1]
    assert wrong == [], call.text()
    arguments = dict(call.arguments)
    positional = [arguments.pop(name) for name in ("input", "linear_weight", "target") if name in arguments]
    found = getattr(F, call.loss)(*positional, **arguments)
    results = {"loss": found[0], **{n: getattr(found[1], n) for n in STATS}} if stats else {"loss": found}
    outputs, cotangents = [results[name] for name in call.cotangents], list(call.cotangents.values())
    (grad,) = torch.autograd.grad(outputs, leaf, cotangents)
    if call.loss == "linear_cross_entropy":
        grad = grad[None] if grad.ndim == 1 else grad.t()
    return {name: x.detach() for name, x in results.items()}, grad


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=wide(dtype))


# Rows that are certain, masked or far apart ------------------------------------------------------------------------


@paths
@dtypes
@pytest.mark.parametrize(
    ("row", "entropy"), [((0.0, -inf), 0.0), ((0.0, 0.0, -inf), math.log(2)), ((65504.0, -65504.0), 0.0)]
)
def test_the_entropy_of_a_masked_row_has_a_finite_gradient(row, entropy, dtype, path):
    """Entropy of [0, −∞], [0, 0, −∞] and float16 [65504, −65504] was NaN, or its gradient (TRL #7221)."""
    target = torch.tensor([0])
    call = call_of(path, torch.tensor([row], dtype=dtype), target, reduction="none", return_stats=True)
    call.cotangents = dict.fromkeys(("loss", *STATS), ones(1, dtype=dtype))
    results, grad = outcome(call)
    assert results["entropy"].item() == pytest.approx(entropy, rel=torch.finfo(wide(dtype)).eps, abs=0)
    assert grad.isfinite().all()
    call.cotangents = {"entropy": ones(1, dtype=dtype)}
    _, grad = outcome(call)
    assert grad.abs().max() <= torch.finfo(wide(dtype)).eps  # q (log q + H) is 0 for equal q, and where q is 0


@paths
@dtypes
def test_a_temperature_of_a_twentieth_and_a_gap_of_six(dtype, path):
    """A gap of 6 at T = 0.05 is 120 in scores, where a gradient was NaN (Soup #719; its reverse KL is to come)."""
    logits, target = torch.tensor([[6.0, 0.0, 3.0], [0.0, 6.0, -6.0]], dtype=dtype), torch.tensor([1, 1])
    call = call_of(path, logits, target, reduction="none", temperature=0.05, return_stats=True)
    call.cotangents = dict.fromkeys(("loss", *STATS), ones(2, dtype=dtype))
    results, grad = outcome(call)
    assert results["loss"].tolist() == pytest.approx([120.0, float(mp.log1p(mp.exp(-120) + mp.exp(-240)))], abs=1e-16)
    assert grad.isfinite().all()


@paths
@dtypes
def test_a_teacher_that_is_padded_with_minus_infinity(dtype, path):
    """A vocabulary padded with −∞, in the teacher or in both, made the loss NaN (TRL #5594; its KL is to come)."""
    teacher = torch.tensor([[1.0, 2.0, -1.0, -inf, -inf]]).softmax(1).to(dtype)
    student = torch.tensor([[0.5, -2.0, 1.0, 0.25, -inf]], dtype=dtype)
    call = call_of(path, student, teacher, reduction="none", return_stats=True)
    call.cotangents = dict.fromkeys(("loss", *STATS), ones(1, dtype=dtype))
    results, grad = outcome(call)
    assert results["loss"].isfinite().all()
    assert grad.isfinite().all()
    assert grad[0, 4] == 0


@paths
def test_a_row_of_a_quarter_of_a_million_large_bfloat16_logits_against_itself(path):
    """V = 248320 bfloat16 logits of 50 to 70: H(q, q) is H(q), and its gradient 0 (EasyDeL #267; its KL is to come).

    Both are sums over q |log q|: they share its rounding to float32, and have the roundings of e, of a block of 512 of
    them and of the results, 16 in all if a block is added up by at least 64 lanes or pairwise.
    """
    logits = (50 + 20 * torch.rand(1, 248320)).bfloat16()
    call = call_of(path, logits, logits.double().softmax(1).float(), reduction="none", return_stats=True)
    call.cotangents = {"loss": ones(1)}
    results, grad = outcome(call)
    assert results["loss"].item() == pytest.approx(results["entropy"].item(), rel=16 * 2.0**-24)
    q = logits.double().softmax(1)
    assert (grad.double().abs() <= 2.0**-20 * q + 1e-38).all()


@paths
@dtypes
def test_a_loss_beyond_what_exp_can_hold(dtype, path):
    """An NLL above 709.78, whose exp overflows in float64, was an error (inspect_ai #5028)."""
    logits = torch.tensor([[800.0, 0.0]], dtype=dtype)
    call = call_of(path, logits, torch.tensor([1]), reduction="none")
    call.cotangents = {"loss": ones(1, dtype=dtype)}
    results, grad = outcome(call)
    assert results["loss"].tolist() == [800.0]
    assert grad.tolist() == [[1.0, -1.0]]
    score = crossent.score([1], logits=logits.double().numpy())
    assert (score.loss, score.perplexity) == (800.0, inf)


# Precision ---------------------------------------------------------------------------------------------------------


@paths
@half
@pytest.mark.parametrize(("rows", "classes", "draw"), [(28, 8192, torch.randn), (8, 100, torch.rand)])
def test_losses_of_half_precision_logits_have_no_steps(rows, classes, draw, dtype, path):
    """Losses were multiples of 2⁻⁵: (4, 7, 8192) bfloat16 logits (MLX #4520), uniform (8, 100) ones (optax #1020)."""
    logits, target = draw(rows, classes).to(dtype), torch.randint(classes, (rows,))
    call = call_of(path, logits, target, reduction="none")
    call.cotangents = {"loss": torch.randn(rows)}
    results, _ = outcome(call)
    loss = results["loss"]
    assert loss.dtype == torch.float32
    assert (loss.to(dtype) != loss).sum() > rows // 2
    truth = nnf.cross_entropy(logits.double(), target, reduction="none")
    assert (loss - truth).abs().max() < 2.0**-7 * torch.finfo(dtype).eps * truth.max()


def test_a_positive_weight_multiplies_a_large_loss():
    """A logit of −14.913008 with label 1 and a positive weight of 3 costs 44.739, not 14.913 (Paddle #65859)."""
    for dtype in REAL:
        x, one = torch.tensor([-14.913008], dtype=dtype), torch.ones(1, dtype=dtype)
        arguments = {"input": x, "target": one, "pos_weight": torch.tensor(3.0, dtype=dtype), "reduction": "none"}
        call = Call("binary_cross_entropy_with_logits", arguments, ["input"], {"loss": ones(1, dtype=dtype)})
        results, grad = outcome(call)
        exact = 3 * mp.log1p(mp.exp(-mp.mpf(x.item())))
        assert results["loss"].item() == pytest.approx(float(exact), rel=torch.finfo(wide(dtype)).eps)
        assert results["loss"].item() == pytest.approx(44.739, abs=5e-4 + 3 * torch.finfo(dtype).eps * 8)
        assert grad.item() == pytest.approx(float(-3 / (1 + mp.exp(mp.mpf(x.item())))), rel=torch.finfo(dtype).eps)


# Cotangents, shards, heads -----------------------------------------------------------------------------------------


@paths
@dtypes
def test_a_cotangent_that_is_every_other_number(dtype, path):
    """A cotangent that is a view base[::2] was read as if its numbers were neighbours (verl #6960)."""
    logits, target = torch.randn(5, 7, dtype=dtype), torch.randint(7, (5,))
    base = torch.randn(10, dtype=wide(dtype))
    grads = []
    for cotangent in (base[::2], base[::2].clone()):
        call = call_of(path, logits, target, reduction="none", return_stats=True)
        call.cotangents = dict.fromkeys(("loss", *STATS), cotangent)
        grads.append(outcome(call)[1])
    assert torch.equal(*grads)


def sharded_losses(group, dtype):
    """Loss and gradients of smoothed rows whose classes two ranks share, by cross_entropy and by a linear head."""
    rank = torch.distributed.get_rank(group)
    x, weight, target = smoothed_rows(dtype)
    part = weight[4 * rank : 4 * rank + 4].clone().requires_grad_()
    columns = (x @ weight.T)[:, 4 * rank : 4 * rank + 4].clone().requires_grad_()
    found = []
    for loss, leaf in (
        (F.cross_entropy(columns, target, label_smoothing=0.1, process_group=group), columns),
        (F.linear_cross_entropy(x, part, target, label_smoothing=0.1, process_group=group), part),
    ):
        (grad,) = torch.autograd.grad(loss, leaf)
        found.append((loss.double().item(), grad.double().numpy()))
    return found


def smoothed_rows(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, generator=generator).round().to(dtype)  # small whole numbers, so that all products are exact
    weight = torch.randn(8, 3, generator=generator).round().to(dtype)
    return x, weight, torch.randint(8, (6,), generator=generator)


@pytest.mark.slow
@dtypes
def test_smoothing_over_two_shards_is_that_of_the_whole_vocabulary(ranks, dtype):
    """6 rows, V = 8 on two ranks: smoothing used the local number of classes and the local mean (Megatron #7464)."""
    x, weight, target = smoothed_rows(dtype)
    exact_weight = weight.double().requires_grad_()
    logits = (x.double() @ exact_weight.T).requires_grad_()
    truth = nnf.cross_entropy(logits, target, label_smoothing=0.1)
    wanted = torch.autograd.grad(truth, [logits, exact_weight])
    for found in zip(*ranks.run(2, sharded_losses, dtype), strict=True):
        which = 0 if found[0][1].shape[0] == 6 else 1
        for loss, _ in found:
            assert loss == pytest.approx(truth.item(), rel=8 * torch.finfo(wide(dtype)).eps)
        grad = np.concatenate([part for _, part in found], 1 - which)
        limit = (1.1 * torch.finfo(dtype).eps / 2 + 16 * torch.finfo(wide(dtype)).eps) * wanted[which].abs().max()
        assert np.abs(grad - wanted[which].numpy()).max() <= limit.item()


class Head(nn.Module):
    """A model that is a head and what it does to its logits."""

    def __init__(self, head, after):
        super().__init__()
        self.head, self.after = head, after

    def forward(self, x):
        return self.after(self.head(x))

    def get_output_embeddings(self):
        return self.head


AFTER = {
    "a factor of a sixteenth": lambda z: z * 0.0625,
    "a softcap": lambda z: 30.0 * torch.tanh(z / 30.0),
    "both": lambda z: 30.0 * torch.tanh(z * 0.0625 / 30.0),
    "a division": lambda z: z / 16,
}


@pytest.mark.slow  # fusing loads the compiler, to hide from it
@dtypes
@pytest.mark.parametrize("after", AFTER)
def test_what_a_model_does_to_its_logits_is_not_dropped(after, dtype):
    """A fused loss dropped a model's × 0.0625, or its softcap, and trained on other logits (unsloth-zoo #930)."""
    x, target = 8 * torch.randn(9, 6), torch.randint(40, (9,))
    twin = Head(nn.Linear(6, 40), AFTER[after])
    with torch.no_grad():
        twin.head.weight *= 5
    x, twin = x.to(dtype), twin.to(dtype)
    exact = Head(nn.Linear(6, 40), AFTER[after]).double()
    exact.load_state_dict(twin.state_dict())
    logits = exact.head(x.double())
    truth = nnf.cross_entropy(exact.after(logits), target)
    of_logits, wanted = torch.autograd.grad(truth, [logits, exact.head.weight])
    dropped = nnf.cross_entropy(logits, target)
    loss = nnf.cross_entropy(F.fuse_lm_head(twin)(x), target)
    (grad,) = torch.autograd.grad(loss, twin.head.weight)
    assert abs(loss.item() - truth.item()) < 1e-3 * abs(dropped.item() - truth.item())
    limit = 2 * torch.finfo(dtype).eps * wanted.abs() + 64 * torch.finfo(wide(dtype)).eps * wanted.abs().max()
    if operand_dtype(dtype) == torch.bfloat16:  # matrix units: shares of rows are rounded, and may cancel
        limit += torch.finfo(dtype).eps / 2 * of_logits.abs().T @ x.double().abs()
    assert ((grad.double() - wanted).abs() <= limit).all()


class LowRank(nn.Module):
    """A layer and an adapter beside it, as PEFT has them."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base
        like = base.weight
        self.a = nn.Parameter(torch.randn(rank, like.shape[1], dtype=like.dtype))
        self.b = nn.Parameter(torch.randn(like.shape[0], rank, dtype=like.dtype))

    def forward(self, x):
        return self.base(x) + 2.0 * (x @ self.a.T) @ self.b.T


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_an_adapter_of_the_head_gets_gradients(dtype):
    """A LoRA on the head was ignored in silence by fused losses: no gradient reached it (TRL #4612)."""
    x, target = torch.randn(9, 6, dtype=dtype), torch.randint(40, (9,))
    head = nn.Linear(6, 40, dtype=dtype).requires_grad_(False)
    found = {}
    for name, base in (("alone", head), ("fused", F.fuse_lm_head(nn.Linear(6, 40, dtype=dtype).requires_grad_(False)))):
        base.load_state_dict(head.state_dict())
        torch.manual_seed(7)
        adapted = LowRank(base)
        loss = nnf.cross_entropy(adapted(x), target)
        found[name] = torch.autograd.grad(loss, [adapted.a, adapted.b])
        weight = base.weight + 2.0 * adapted.b @ adapted.a
        merged = F.linear_cross_entropy(x, weight, target, linear_bias=base.bias)
        found["merged"] = torch.autograd.grad(merged, [adapted.a, adapted.b])
    for name in ("fused", "merged"):
        for got, want in zip(found[name], found["alone"], strict=True):
            assert got.abs().max() > 0
            torch.testing.assert_close(got, want)


# Tokens and sequences ----------------------------------------------------------------------------------------------


@paths
@dtypes
def test_the_mean_over_tokens_and_over_sequences(dtype, path):
    """Losses [2, 2, 2, 2, 2] and [10]: the token mean is 3.333, the mean of sequence means 6 (verl #593)."""
    gaps = [float(mp.log(mp.expm1(loss))) for loss in (2, 2, 2, 2, 2, 10)]
    logits = torch.tensor([[gap, 0.0] for gap in gaps], dtype=dtype)
    rounded = [float(mp.log1p(mp.exp(gap))) for gap in logits[:, 0].tolist()]
    of_sequences = 1 / torch.tensor([5.0] * 5 + [1.0], dtype=wide(dtype))
    of_tokens, of_means = sum(rounded) / 6, sum(rounded[:5]) / 10 + rounded[5] / 2
    for weights, reduction, mean, report in (
        (None, "mean", of_tokens, 20 / 6),
        (of_sequences, "mean", of_means, 6.0),
        (of_sequences / 2, "sum", of_means, 6.0),
    ):
        call = call_of(path, logits, torch.ones(6, dtype=torch.long), reduction=reduction, sample_weight=weights)
        call.cotangents = {"loss": ones(dtype=dtype)}
        results, _ = outcome(call)
        assert results["loss"].item() == pytest.approx(mean, rel=8 * torch.finfo(wide(dtype)).eps)
        assert results["loss"].item() == pytest.approx(report, rel=4 * torch.finfo(dtype).eps)


@paths
@dtypes
def test_the_padding_of_a_short_document_is_not_scored(dtype, path):
    """A short and a long document in one batch: the padding of the short one was scored too (mlx-lm #1855)."""
    long, short, width = 7, 3, 11
    logits, target = torch.randn(long + short, width, dtype=dtype), torch.randint(width, (long + short,))
    alone = nnf.cross_entropy(logits.double(), target, reduction="none")
    padding = torch.full((long - short, width), 5.0, dtype=dtype)
    batch = torch.cat([logits, padding])
    labels = torch.cat([target, torch.full((long - short,), -100)])
    for reduction, want in (("mean", alone.mean()), ("sum", alone.sum())):
        call = call_of(path, batch, labels, reduction=reduction)
        call.cotangents = {"loss": ones(dtype=dtype)}
        results, grad = outcome(call)
        assert results["loss"].item() == pytest.approx(want.item(), rel=16 * torch.finfo(wide(dtype)).eps)
        assert (grad[long + short :] == 0).all()


@paths
@dtypes
@pytest.mark.parametrize(("length", "stride"), [(8, 4), (5, 3), (16, 1), (2, 1), (64, 8)])
def test_strided_windows_score_each_token_once(length, stride, dtype, path):
    """Windows over a long document, each scored by its new tokens: some tokens were lost (transformers #30975)."""
    tokens, width = 37, 9
    logits, ids = (
        torch.randn(tokens, width, dtype=dtype),
        torch.randint(width, (tokens,)),
    )  # logits[i] are of ids[i + 1]
    want = nnf.cross_entropy(logits[:-1].double(), ids[1:], reduction="sum")
    total, scored, done = 0.0, 0, 0
    for begin in range(0, tokens, stride):
        end = min(begin + length, tokens)
        labels = ids[begin:end].clone()
        labels[: done - begin] = -100  # tokens that an earlier window has scored are context
        call = call_of(path, logits[begin : end - 1], labels[1:], reduction="sum")
        call.cotangents = {"loss": ones(dtype=dtype)}
        total += outcome(call)[0]["loss"].double().item()
        scored += int((labels[1:] != -100).sum())
        done = end
        if end == tokens:
            break
    assert scored == tokens - 1
    assert total == pytest.approx(want.item(), rel=64 * torch.finfo(wide(dtype)).eps)


# Scores ------------------------------------------------------------------------------------------------------------


def test_the_calibration_error_counts_a_confidence_of_one():
    """Confidences [0.95, 1.0], correct [1, 0], 10 bins: the calibration error is 0.475 (torchmetrics #3510)."""
    assert crossent.score([1, 0], probs=[[0.05, 0.95], [0.0, 1.0]]).calibration.ece == pytest.approx(0.475, rel=1e-15)
