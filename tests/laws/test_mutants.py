"""Tests of the tests: a backend with one mistake that somebody shipped must not pass the conformance checks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from crossent.kernels import cpu
from crossent.kernels.backend import NO_OUTPUTS, Cotangents, Reduced
from crossent.spec import Scores
from tests import data, oracle
from tests.torch import plain


def bf16(x):
    """Rounded to bfloat16."""
    return data.decode(data.encode(x, "bfloat16"))


class Core:
    """The real backend, which keeps records; mutants override a step of it."""

    few_classes = 0

    def target(self, target):
        return target

    def scores(self, scores):
        return scores

    def cotangents(self, cotangents):
        return cotangents

    def after_stats(self, logits, target, record, outputs):
        pass

    def after_grad(self, logits, target, grad):
        pass

    def row_stats(self, logits, target, scores, record, outputs=NO_OUTPUTS):
        cpu.row_stats(logits, self.target(target), self.scores(scores), record, outputs)
        self.after_stats(logits, target, record, outputs)

    def row_loss(self, logits, target, scores, record, losses, *, mean):
        return cpu.row_loss(logits, self.target(target), self.scores(scores), record, losses, mean=mean)

    def row_grad(self, logits, target, scores, record, cotangents, grad):
        cpu.row_grad(logits, self.target(target), self.scores(scores), record, self.cotangents(cotangents), grad)
        self.after_grad(logits, target, grad)

    def row_fused(self, logits, target, scores, scale, record, grad):
        self.row_stats(logits, target, scores, record)
        g_lse = None if scale.lse_squared is None else 2.0 * scale.lse_squared * (record[0] + np.log(record[1]))
        self.row_grad(logits, target, scores, record, Cotangents(scale.loss, g_lse), grad)


class Few(Core):
    """The real backend, which keeps no record of few classes."""

    few_classes = cpu.FEW_CLASSES


class FewMeansCountOneMore(Few):
    def row_loss(self, logits, target, scores, record, losses, *, mean):
        found = super().row_loss(logits, target, scores, record, losses, mean=mean)
        if record is not None or not mean:
            return found
        scale = 1 / (1 / found.scale + 1)
        return Reduced(found.loss / found.scale * scale, scale)


class FewLossesAreRounded(Few):
    def after_stats(self, logits, target, record, outputs):
        if record is None:
            outputs.loss[...] = bf16(outputs.loss)


class FewGradientsForgetTheTarget(Few):
    def row_grad(self, logits, target, scores, record, cotangents, grad):
        super().row_grad(logits, target, scores, record, cotangents, grad)
        if record is None:
            grad[0, 0] += np.abs(grad[0]).max() + 1e-3


class ZeroedGradient(Core):
    def after_grad(self, logits, target, grad):
        grad[...] = 0


class HalvedGradient(Core):
    def after_grad(self, logits, target, grad):
        grad *= 0.5


class GradientRoundedToBfloat16(Core):
    def after_grad(self, logits, target, grad):
        grad[...] = bf16(grad)


class LastColumnForgotten(Core):
    def after_grad(self, logits, target, grad):
        grad[:, -1] = np.nan


class WritesBeyondTheEnd(Core):
    def after_grad(self, logits, target, grad):
        if all(s > 0 for s in grad.strides):
            np.lib.stride_tricks.as_strided(grad[(slice(-1, None),) * grad.ndim], (2,), (grad.itemsize,))[1] = 0


class WritesToItsLogits(Core):
    def after_stats(self, logits, target, record, outputs):
        logits[0] = 0


class SwappedTarget(Core):
    def target(self, target):
        index, prob = (None if x is None else np.roll(x, 1, 0) for x in (target.index, target.prob))
        return dataclasses.replace(target, index=index, prob=prob)


class QInsteadOfQMinusP(Core):
    def row_grad(self, logits, target, scores, record, cotangents, grad):
        g_loss, g_lse, g_entropy = cotangents
        add = 0.0 if g_loss is None else g_loss * record[3]
        g_lse = add if g_lse is None else g_lse + add
        g_lse = np.broadcast_to(g_lse, record[0].shape)
        super().row_grad(logits, target, scores, record, Cotangents(None, g_lse, g_entropy), grad)


class LossInBfloat16(Core):
    def after_stats(self, logits, target, record, outputs):
        if outputs.loss is not None:
            outputs.loss[...] = bf16(outputs.loss)


class RecordInFloat32(Core):
    """Fine for float32, not for float64."""

    def after_stats(self, logits, target, record, outputs):
        record[...] = record.astype(np.float32)


class PeakTooLow(Core):
    """A record that is consistent, but not relative to the peak."""

    def after_stats(self, logits, target, record, outputs):
        record[0] -= 1.0
        record[4] = (record[4] + record[1]) * np.e
        record[2] += record[3]
        record[1] *= np.e


class SmoothingForgotten(Core):
    def target(self, target):
        return dataclasses.replace(target, smoothing=0.0)


class SmoothingOverOtherClasses(Core):
    """ε / (V − 1) for the others, as some papers have it; torch's is ε / V for all."""

    def target(self, target):
        V = 17
        return dataclasses.replace(target, smoothing=min(1.0, target.smoothing * V / (V - 1)))


class WeightForgotten(Core):
    def target(self, target):
        return dataclasses.replace(target, weight=None)


class IgnoredRowCounted(Core):
    def target(self, target):
        if target.kind != "index":
            return target
        index = np.where(target.index == target.ignore_index, 0, target.index)
        return dataclasses.replace(target, index=index, ignore_index=-(2**63))


class TemperatureForgottenInTheGradient(Core):
    def row_grad(self, logits, target, scores, record, cotangents, grad):
        super().row_grad(logits, target, scores, record, cotangents, grad)
        grad *= scores.temperature


class SoftcapForgotten(Core):
    def scores(self, scores):
        return Scores(scores.temperature)


class TemperatureOfTheNextRow(Core):
    """The vector read from one row too far on, as by a chunk that begins elsewhere."""

    def scores(self, scores):
        return dataclasses.replace(scores, row_temperature=np.roll(scores.row_temperature, 1))


class TemperatureOfTheFirstRow(Core):
    def scores(self, scores):
        own = scores.row_temperature
        return dataclasses.replace(scores, row_temperature=np.full_like(own, own[0]))


class TemperatureOfRowsForgotten(Core):
    def scores(self, scores):
        return dataclasses.replace(scores, row_temperature=None)


class TemperatureOfRowsForgottenInTheGradient(Core):
    def row_grad(self, logits, target, scores, record, cotangents, grad):
        super().row_grad(logits, target, scores, record, cotangents, grad)
        own = scores.row_temperature
        grad *= own[:, None] if grad.ndim == 2 else own.reshape(len(grad), 1, -1)


class EntropyHasNoGradient(Core):
    def cotangents(self, cotangents):
        return cotangents._replace(entropy=None)


class CotangentsAveraged(Core):
    """`grad_output` taken for a scalar."""

    def cotangents(self, cotangents):
        return Cotangents(*(None if g is None else np.full_like(g, g.mean()) for g in cotangents))


class ZLossWithoutItsTwo(Core):
    def row_fused(self, logits, target, scores, scale, record, grad):
        halved = scale._replace(lse_squared=None if scale.lse_squared is None else scale.lse_squared / 2)
        super().row_fused(logits, target, scores, halved, record, grad)


class LastBlockDropped(Core):
    def row_stats(self, logits, target, scores, record, outputs=NO_OUTPUTS):
        short = np.array(logits)
        short[:, -1] = -np.inf
        super().row_stats(short, target, scores, record, outputs)


MUTANTS = {
    name: mutant
    for name, mutant in list(globals().items())
    if isinstance(mutant, type) and issubclass(mutant, Core) and mutant not in (Core, Few)
}
ONLY_FLOAT64 = {"RecordInFloat32"}
OF_ROWS = {name for name in MUTANTS if name.startswith("TemperatureOf")}
ONLY_INDEX = {"IgnoredRowCounted"}
NOT_TOPK = {name for name, mutant in MUTANTS.items() if issubclass(mutant, Few)}


def survives(backend, kind, dtype, *, by_row=False):
    """Whether every case of seventeen classes passes, `row_fused` in place and not, or one with row temperatures."""
    for case in data.cases(kind, 17, dtype):
        if by_row:
            T = np.array([0.5, 1.0, 2.0, 0.7, 1.5, 3.0])
            case = dataclasses.replace(case, scores=Scores(1.0, case.scores.softcap, T))  # noqa: PLW2901
        try:
            oracle.check_rows(backend, case, oracle.Truth.of(case))
        except AssertionError:
            return False
    return True


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", data.KINDS)
def test_the_real_backend_survives_in_pieces(kind, dtype):
    for by_row in (False, True):
        assert survives(Core(), kind, dtype, by_row=by_row)
        assert survives(Few(), kind, dtype, by_row=by_row)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (n, k)
        for n in MUTANTS
        for k in data.KINDS
        if (k == "index" or n not in ONLY_INDEX) and not (k == "topk" and n in NOT_TOPK)
    ],
)
def test_no_mutant_survives(name, kind):
    for dtype in ("float32", "float64"):
        if dtype == "float64" or name not in ONLY_FLOAT64:
            by_row = name in OF_ROWS
            assert not survives(MUTANTS[name](), kind, dtype, by_row=by_row), f"{name} passes as a backend for {dtype}"


class BinaryCore:
    def binary_loss(self, kind, operands, out):
        return cpu.binary_loss(kind, self.operands(operands), out)

    def binary_grad(self, kind, operands, cotangent, out):
        cpu.binary_grad(kind, self.operands(operands), cotangent, out)

    def operands(self, operands):
        return operands


class PosWeightForgotten(BinaryCore):
    def operands(self, operands):
        return operands._replace(pos_weight=None)


class TargetFlipped(BinaryCore):
    def operands(self, operands):
        return operands._replace(target=1 - operands.target)


class NaiveSoftplus(BinaryCore):
    """log(1 + e^x), which forgets what a confident right answer costs."""

    def binary_loss(self, kind, operands, out):
        x, t, w, r = (1.0 if a is None else np.float32(a) for a in operands)
        loss = w * (r * t * np.log(1 + np.exp(-x)) + (1 - t) * np.log(1 + np.exp(x)))
        if out is not None:
            out[...] = loss
        return float(loss.sum())


class GradientWithoutItsCotangent(BinaryCore):
    def binary_grad(self, kind, operands, cotangent, out):
        cpu.binary_grad(kind, operands, np.ones_like(cotangent), out)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize(
    "mutant", [BinaryCore, PosWeightForgotten, TargetFlipped, NaiveSoftplus, GradientWithoutItsCotangent]
)
def test_no_binary_mutant_survives(mutant):
    rng = np.random.default_rng(0)
    operands = [rng.normal(0, 10, 40), rng.integers(0, 2, 40), rng.random(40), rng.random(40), rng.normal(size=40)]
    *operands, cotangent = (x.astype(np.float32) for x in operands)
    check = lambda: oracle.check_binary(mutant(), "logits", tuple(operands), cotangent)  # noqa: E731
    if mutant is BinaryCore:
        check()
    else:
        with pytest.raises(AssertionError):
            check()


# Mistakes of a front end, which the comparison of tests/torch must see


class Wrong(torch.autograd.Function):
    """A right loss with a gradient that is not its own."""

    @staticmethod
    def forward(ctx, z, loss, factor):
        ctx.factor = factor
        ctx.save_for_backward(z)
        return loss.detach().clone()

    @staticmethod
    def backward(ctx, g):
        (z,) = ctx.saved_tensors
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            (grad,) = torch.autograd.grad(ctx.factor["loss"](z), z, ctx.factor["cotangent"](g))
        return grad * ctx.factor["scale"], None, None


def with_gradient(scale=1.0, cotangent=lambda g: g):
    def mutant(z, y, **options):
        def loss(z):
            return F.cross_entropy(z, y, **options)

        return Wrong.apply(z, loss(z), {"loss": loss, "cotangent": cotangent, "scale": scale})

    return mutant


def without(*names):
    return lambda z, y, **options: F.cross_entropy(z, y, **{k: v for k, v in options.items() if k not in names})


FRONT_MUTANTS = {
    "none": (F.cross_entropy, set()),
    "none, through a function": (with_gradient(), set()),
    "no 1/N": (with_gradient(8.0), {"mean", "sum", "none"}),
    "zero gradient": (with_gradient(0.0), {"mean", "sum", "none"}),
    "gradient off by one in a thousand": (with_gradient(1.001), {"mean", "sum", "none"}),
    "cotangent taken for 1": (with_gradient(cotangent=torch.ones_like), {"mean", "sum", "none"}),
    "cotangent averaged": (with_gradient(cotangent=lambda g: g.mean().expand(g.shape)), {"none"}),
    "loss in bfloat16": (lambda z, y, **o: F.cross_entropy(z, y, **o).bfloat16().float(), {"mean", "sum", "none"}),
    "logits in bfloat16": (lambda z, y, **o: F.cross_entropy(z.bfloat16(), y, **o), {"mean", "sum", "none"}),
    "weight forgotten": (without("weight"), {"mean", "sum", "none"}),
    "smoothing forgotten": (without("label_smoothing"), {"mean", "sum", "none"}),
    "mean of weighted rows": (
        lambda z, y, reduction, **o: (
            F.cross_entropy(z, y, reduction="none", **o).mean()
            if reduction == "mean"
            else F.cross_entropy(z, y, reduction=reduction, **o)
        ),
        {"mean"},
    ),
    "next row's label": (lambda z, y, **o: F.cross_entropy(z, y.roll(1), **o), {"mean", "sum", "none"}),
    "ignored row counted": (lambda z, y, **o: F.cross_entropy(z, y.clamp(min=0), **o), {"mean", "sum", "none"}),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", FRONT_MUTANTS)
def test_no_mutant_of_the_front_end_survives(name, reduction):
    mutant, killed = FRONT_MUTANTS[name]
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(8, 6, generator=generator, dtype=torch.float64).requires_grad_()
    y = torch.tensor([0, 1, 2, 3, 4, 5, -100, 1])
    weight = torch.rand(6, generator=generator, dtype=torch.float64) + 0.5
    options = {"reduction": reduction, "weight": weight, "label_smoothing": 0.1}

    def check():
        plain.compare(mutant, nnf.cross_entropy, nnf.cross_entropy, torch.float32, (z, y), options)

    if reduction in killed:
        with pytest.raises(AssertionError):
            check()
    else:
        check()
