"""What stands in the place of TRL's functions: their arguments and results, by the losses of `crossent.torch`.

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
from torch import Tensor
from torch.nn import functional

from crossent.torch import linear_divergence, linear_logprobs, logprobs
from crossent.torch.call.results import Stats

IGNORED = -100
"""The class of rows that cost no work."""

OUTPUTS = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""The outputs of TRL's function beside the log-probabilities, in their order."""

_NO_CLASS = -(2**62)  # of rows that a mask leaves out; whatever else is no class is an error, as in TRL
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
        caller = _caller()
        if caller is not None and caller.f_code.co_name == "_fused_forward":
            known = caller.f_locals
            refuse_adapter(known["lm_head"])
            if not known.get("compact", True):  # all rows came, and the caller drops what is not in the mask
                targets = targets.masked_fill(~known["mask"].reshape(-1), IGNORED)
        refuse_engine(weight)
        scores = scores_of(temperature, final_logit_softcapping, logit_scale)
        layer = Layer.of(hidden, weight, bias)
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
        target = None
        caller = _caller()
        if caller is not None and caller.f_code.co_name == "_chunked_divergence_loss":
            known, heads = caller.f_locals, caller.f_back.f_locals if caller.f_back else {}
            for name in ("student_lm_head", "teacher_lm_head"):
                refuse_adapter(heads.get(name))
            if not known.get("compact", True):
                target = torch.where(known["valid"], 0, IGNORED)
        for weight in (student_weight, teacher_weight):
            refuse_engine(weight)
        own = scores_of(temperature, student_final_logit_softcapping, student_logit_scale)
        its = scores_of(temperature, teacher_final_logit_softcapping, teacher_logit_scale)
        student = Layer.of(student_hidden, student_weight, student_bias)
        classes = len(student_weight)  # a teacher may have more, as padding
        frozen = [None if x is None else x.detach() for x in (teacher_hidden, teacher_weight, teacher_bias)]
        teacher = Layer.of(frozen[0], *(None if x is None else x[:classes] for x in frozen[1:]))  # pyright: ignore
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
    """Return what TRL's Triton kernel returns: float32 for logits of every dtype."""
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
                f"{name} of the head is {x}, and crossent takes positive numbers alone; correct the configuration of "
                "the model or trainer, or use TRL's own function: crossent.integrations.trl.disable()"
            )
    return ScoresOf(temperature / scale, None if softcap is None else softcap / temperature)


class Layer(NamedTuple):
    """The operands of a head in one dtype."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None

    @staticmethod
    def of(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Layer:
        """Return the operands in autocast's dtype, or else in that of the hidden states, as TRL multiplies them."""
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        return Layer(hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


@torch.no_grad()
def mean_of_scores(layer: Layer, scores: ScoresOf) -> Tensor:
    """Return the mean of the scores of each row, (N,) float32, without the N × V scores.

    The mean of W h + b is that of W times h, plus that of b. Capped scores have no such law, and are made by tiles.
    """
    with torch.autocast(layer.input.device.type, enabled=False):
        if scores.softcap is None:
            mean = layer.weight.mean(0, dtype=torch.float32)
            shift = 0.0 if layer.bias is None else layer.bias.mean(dtype=torch.float32)
            return (layer.input.float() @ mean + shift) / scores.temperature
        rows, classes = len(layer.input), len(layer.weight)
        total = layer.input.new_zeros(rows, dtype=torch.float32)
        step = max(1, _TILE[layer.input.is_cpu] // max(1, rows))
        for begin in range(0, classes, step):
            here = slice(begin, begin + step)
            bias = None if layer.bias is None else layer.bias[here].float()
            z = functional.linear(layer.input.float(), layer.weight[here].float(), bias)
            total += z.div_(scores.temperature * scores.softcap).tanh_().sum(1)
        return total * (scores.softcap / classes)


def refuse_adapter(layer: Any) -> None:
    """Raise if a layer of PEFT adds something to the weight that is about to be read from it.

    Raises
    ------
    NotImplementedError
        If it does.
    """
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    if tuners is None or not isinstance(layer, tuners.BaseTunerLayer):
        return
    names: Any = getattr(layer, "active_adapters", ())
    active = [name for name in names if any(name in getattr(layer, x) for x in layer.adapter_layer_names)]
    if active and not layer.disable_adapters and not layer.merged:
        raise NotImplementedError(
            f"the adapter {', '.join(map(repr, active))} sits on the head, whose weight TRL reads without it: the "
            "adapter would be ignored and never trained. Take the head out of target_modules, or use "
            'modules_to_save=["lm_head"] to train it whole'
        )


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


def _caller() -> FrameType | None:
    """Return the function that called ours if it is TRL's, or None; None under torch.compile, which has no frames."""
    if torch.compiler.is_compiling():
        return None
    frame = sys._getframe(2)
    return frame if str(frame.f_globals.get("__name__")).startswith("trl.") else None
