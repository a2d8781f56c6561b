"""Replacements of TRL's functions: their arguments and results, by the losses of `crossent.torch`.

LogProbs.apply, Divergence.apply      of hidden states and heads, for TRL's `autograd.Function`s of that call
selective_log_softmax, …              of logits
"""

# pyright: reportPrivateUsage=false
# Of TRL: which dtype its results have. Of Python: the frame of the caller.

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crossent.integrations.trl_adapters import Head, head_of, refuse_what_is_hidden
from crossent.torch import Dequantized, LowRank, linear_divergence, linear_logprobs, logprobs
from crossent.torch.call.low_rank import layer_of
from crossent.torch.call.results import Stats

IGNORED = -100
"""The class of rows that cost no work."""

OUTPUTS = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""The outputs of TRL's function beside the log-probabilities, in their order."""

_NO_CLASS = -(2**62)  # of masked rows; other invalid classes are errors, as in TRL
_TILE = {True: 2**20, False: 2**24}
"""So many capped scores exist at a time for their mean: on a CPU in its cache, and on other devices."""


class LogProbs:
    """Log-probabilities of targets and statistics of a head's predictions, in place of `ChunkedLogProbFunction`."""

    @staticmethod
    def apply(
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_size: int,
        final_logit_softcapping: float | None = None,
        logit_scale: float = 1.0,
        outputs: Sequence[str] = OUTPUTS,
    ) -> tuple[Tensor | None, ...]:
        """Return log-probabilities (N,), then the `OUTPUTS` that are asked for and None for the others.

        `chunk_size` is TRL's way to bound memory, and crossent has its own.
        """
        del chunk_size
        refuse_engine(weight)
        head = Head(weight, bias)
        caller = _caller("_fused_forward", "lm_head")
        if caller is not None:
            known = caller.f_locals
            head = head_of(known["lm_head"], hidden, weight, bias)
            if not known.get("compact", True):  # all rows are computed, and the caller drops masked ones
                targets = targets.masked_fill(~known["mask"].reshape(-1), IGNORED)
        scores = scores_of(temperature, final_logit_softcapping, logit_scale)
        layer = Layer.of(hidden, *head)
        stats = linear_logprobs(
            layer.input, layer.weight, targets, linear_bias=layer.bias, temperature=scores.temperature,
            softcap=scores.softcap, ignore_index=IGNORED,
        )  # fmt: skip
        return (
            stats.logprob.float(),
            stats.entropy.float() if "entropy" in outputs else None,
            stats.log_sum_squares.detach().float() if "log_sum_sq_probs" in outputs else None,
            mean_of_scores(layer, scores) if "mean_logits" in outputs else None,
            stats.predicted == targets if "is_top1" in outputs else None,
        )


class Divergence:
    """Divergences between a student's head and a teacher's, in place of `ChunkedDivergenceFunction`."""

    @staticmethod
    def apply(
        student_hidden: Tensor,
        student_weight: Tensor,
        student_bias: Tensor | None,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        teacher_bias: Tensor | None,
        beta: float,
        temperature: float = 1.0,
        student_logit_scale: float = 1.0,
        student_final_logit_softcapping: float | None = None,
        teacher_logit_scale: float = 1.0,
        teacher_final_logit_softcapping: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the divergence of each row and the student's entropy, (N,) each; the entropy has no gradient."""
        for weight in (student_weight, teacher_weight):
            refuse_engine(weight)
        classes = len(student_weight)  # a teacher may have more, as padding
        one, other, target = Head(student_weight, student_bias), Head(teacher_weight, teacher_bias), None
        caller = _caller("_chunked_divergence_loss", "valid")
        if caller is not None:
            known, heads = caller.f_locals, caller.f_back.f_locals if caller.f_back else {}
            one = head_of(heads.get("student_lm_head"), student_hidden, student_weight, student_bias)
            other = head_of(heads.get("teacher_lm_head"), teacher_hidden, teacher_weight, teacher_bias)
            if not known.get("compact", True):
                target = torch.where(known["valid"], 0, IGNORED)
        own = scores_of(temperature, student_final_logit_softcapping, student_logit_scale)
        its = scores_of(temperature, teacher_final_logit_softcapping, teacher_logit_scale)
        student = Layer.of(student_hidden, *one)
        with torch.no_grad():
            teacher = Layer.of(teacher_hidden.detach(), *other, classes=classes)
        kind: Any = "forward" if beta == 0.0 else "reverse" if beta == 1.0 else "js"
        divergence, stats = linear_divergence(
            student.input, student.weight, teacher.input, teacher.weight, linear_bias=student.bias,
            teacher_bias=teacher.bias, kind=kind, beta=beta if kind == "js" else 0.5, temperature=own.temperature,
            softcap=own.softcap, teacher_temperature=its.temperature, teacher_softcap=its.softcap, target=target,
            reduction="none", return_stats=True,
        )  # fmt: skip
        return divergence.float(), stats.entropy.detach().float()


def selective_log_softmax(
    logits: Tensor, index: Tensor, temperature: float = 1.0, row_mask: Tensor | None = None
) -> Tensor:
    """Return log-probabilities of the classes `index`, (…) or (…, K), 0 where `row_mask` is 0."""
    dtype = _dtype_of(logits, index, row_mask)
    return _stats(logits, index, temperature, row_mask).logprob.to(dtype)


def entropy_from_logits(logits: Tensor, chunk_size: int = 128) -> Tensor:
    """Return the entropy of each row of logits."""
    del chunk_size
    index = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    return logprobs(logits, index).entropy.to(_dtype_of(logits))


def selective_log_softmax_and_entropy(
    logits: Tensor,
    index: Tensor,
    entropy_requires_grad: bool = True,
    temperature: float = 1.0,
    row_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of the classes `index` (…), and the entropy of each row; 0 where `row_mask` is 0."""
    dtype = _dtype_of(logits, index, row_mask)
    stats = _stats(logits, index, temperature, row_mask)
    entropy = stats.entropy if entropy_requires_grad else stats.entropy.detach()
    return stats.logprob.to(dtype), entropy.to(dtype)


def fused_log_softmax_and_entropy(
    logits: Tensor, index: Tensor, temperature: float = 1.0, row_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the results of TRL's Triton kernel: float32 for logits of every dtype."""
    stats = _stats(logits, index, temperature, row_mask)
    return stats.logprob.float(), stats.entropy.float()


class ScoresOf(NamedTuple):
    """How logits become scores, in the terms of `crossent.torch`."""

    temperature: float
    softcap: float | None


def scores_of(temperature: float, softcap: float | None, scale: float) -> ScoresOf:
    """Return TRL's scores c tanh(a z / c) / τ as C tanh(z / (T C)): T = τ / a and C = c / τ.

    Raises
    ------
    ValueError
        If one of the numbers is not positive.
    """
    for name, x in (("temperature", temperature), ("final_logit_softcapping", softcap), ("logit_scale", scale)):
        if x is not None and not 0.0 < x < math.inf:
            raise ValueError(
                f"{name} of the head is {x}, and crossent takes only positive numbers; correct the configuration of "
                "the model or trainer, or use TRL's own function: crossent.integrations.trl.disable()"
            )
    return ScoresOf(temperature / scale, None if softcap is None else softcap / temperature)


class Layer(NamedTuple):
    """The operands of a head in one dtype."""

    input: Tensor
    weight: Tensor | LowRank
    bias: Tensor | None

    @staticmethod
    def of(hidden: Tensor, weight: Tensor | LowRank, bias: Tensor | None, *, classes: int | None = None) -> Layer:
        """Return the operands in autocast's dtype, else in the dtype of the hidden states, as TRL multiplies them.

        With `classes`, the operands of a teacher: only the first classes, without gradients.
        """
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype

        def own(x: Tensor) -> Tensor:
            return x if classes is None else x[:classes].detach()

        def of(weight: Tensor | LowRank) -> Tensor | LowRank:
            if isinstance(weight, LowRank):
                a = weight.a if classes is None else weight.a.detach()
                return LowRank(of(weight.weight), a, own(weight.b), weight.scale, input=weight.input)
            if type(weight) not in (Tensor, nn.Parameter):  # of a library that quantises
                weight = Dequantized.of(weight, dtype)
            return own(weight).to(dtype)

        return Layer(hidden.to(dtype), of(weight), None if bias is None else own(bias).to(dtype))


@torch.no_grad()
def mean_of_scores(layer: Layer, scores: ScoresOf) -> Tensor:
    """Return the mean of the scores of each row, (N,) float32, without the N × V scores.

    The mean of W h + b is that of W times h, plus that of b. Capped scores have no such law, and are made by tiles.
    """
    x, weight, bias, adapter = layer_of(*layer)
    D = weight.shape[-1]
    parts = (
        [(x[:, :D].float(), weight)] if adapter is None else [(x[:, :D].float(), weight), (x[:, D:].float(), adapter)]
    )
    with torch.autocast(x.device.type, enabled=False):
        if scores.softcap is None:
            means = sum(
                (own @ w.mean(0, dtype=torch.float32) for own, w in parts), start=torch.zeros((), device=x.device)
            )
            shift = 0.0 if bias is None else bias.mean(dtype=torch.float32)
            return (means + shift) / scores.temperature
        total = x.new_zeros(len(x), dtype=torch.float32)
        step = max(1, _TILE[x.is_cpu] // max(1, len(x)))
        for begin in range(0, len(weight), step):
            here = slice(begin, begin + step)
            z = parts[0][0] @ weight[here].float().t()
            for own, w in parts[1:]:
                _ = z.addmm_(own, w[here].float().t())
            z = z if bias is None else z.add_(bias[here].float())
            total += z.div_(scores.temperature * scores.softcap).tanh_().sum(1)
        return total * (scores.softcap / len(weight))


def refuse_engine(weight: Tensor) -> None:
    """Raise if an engine frees the weight before the backward, which reads it again.

    Raises
    ------
    NotImplementedError
        If it does.
    """
    if hasattr(weight, "ds_id"):
        raise NotImplementedError(
            "DeepSpeed ZeRO-3 frees the weight of the head before the backward; use ZeRO-2 or FSDP2, or TRL's own "
            "function: crossent.integrations.trl.disable()"
        )


def _stats(logits: Tensor, index: Tensor, temperature: float, row_mask: Tensor | None) -> Stats:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if row_mask is not None:
        index = index.long().masked_fill(row_mask == 0, _NO_CLASS)
    return logprobs(logits, index, temperature=temperature, ignore_index=_NO_CLASS)


def _dtype_of(logits: Tensor, *others: Tensor | None) -> torch.dtype:
    """Return the dtype that TRL's function returns: float32 where its Triton kernel would run."""
    if logits.device.type == "cpu":
        return logits.dtype
    utils: Any = sys.modules["trl.trainer.utils"]
    fused = utils.is_triton_available() and utils._supports_trl_loss_kernel(logits, *others)
    return torch.float32 if fused else logits.dtype


def _caller(function: str, variable: str) -> FrameType | None:
    """Return the frame of TRL's function that called ours, or None for another caller.

    None under torch.compile too, which has no frames. Where that matters, `refuse_what_is_hidden` raises, and
    torch.compile leaves TRL's function as it is.
    """
    if torch.compiler.is_compiling():
        refuse_what_is_hidden()
        return None
    frame = sys._getframe(2)
    if not str(frame.f_globals.get("__name__")).startswith("trl.") or function not in frame.f_code.co_name:
        return None
    if variable in frame.f_locals:
        return frame
    refuse_what_is_hidden()  # what is left of the function by torch.compile
    return None
