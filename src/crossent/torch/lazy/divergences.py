"""Divergences of lazy logits, computed from their layers: our `divergence`, and torch's kl_div of log-probabilities."""

# pyright: reportPrivateUsage=false
# Attributes of a tensor that is not torch's own begin with an underscore, so that they hide none of torch's.

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from crossent.spec import Scores
from crossent.torch.base.values import REAL, loss_dtype
from crossent.torch.call.arguments import NOT_SHARDED, Arguments, Closing
from crossent.torch.call.layout import LayerOperands
from crossent.torch.call.results import DivergenceStats
from crossent.torch.call.targets import NoTarget, TopK
from crossent.torch.lazy.deferred import Deferred, combined
from crossent.torch.lazy.logits import LazyLogits, lazily, read, with_numbers_of
from crossent.torch.lazy.results import Outputs, results_of
from crossent.torch.linear import loss_of_layer
from crossent.torch.ranks.shards import NO_SHARDS
from crossent.torch.teachers.linear import divergence_of_layers
from crossent.torch.teachers.view import DivergenceOptions, TeacherArguments

OfNumbers = Callable[[Arguments, TeacherArguments], Any]
"""Returns a divergence of logits that exist, or (divergence, DivergenceStats)."""

_SMOOTH = ("lse", "teacher_lse", "entropy", "teacher_entropy", "kl", "reverse_kl", "js", "logprob")
"""The statistics that have gradients, where they are there."""


class _Teacher(NamedTuple):
    """A lazy teacher: its logits, and the scores of the layer behind them."""

    logits: LazyLogits
    scores: Scores

    def arguments(self, operands: LayerOperands, given: TeacherArguments) -> TeacherArguments:
        """Return the arguments of a teacher with its layer's operands."""
        own: Any = self.scores.row_temperature
        temperature = self.scores.temperature if own is None else own
        return given._replace(logits=operands, temperature=temperature, softcap=self.scores.softcap)


def fused_divergence(
    arguments: Arguments,
    teacher: TeacherArguments,
    options: DivergenceOptions,
    of_numbers: OfNumbers,
    *,
    has_target: bool,
) -> Any:
    """Return the divergence of lazy logits from lazy ones or from a `TopK`, or NotImplemented if it takes numbers."""
    student: LazyLogits = arguments.operands
    seen = arguments.return_stats or arguments.closing.function is not None
    scores = _scores_of(student, arguments.scores, seen=seen)
    lazy = _lazy_teacher(teacher, student, arguments.scores, seen=seen)
    if scores is None or (lazy is None and not isinstance(teacher.logits, TopK)):
        return NotImplemented
    arguments = arguments._replace(target=with_numbers_of(arguments.target, "divergence"))
    made: list[Any] = []  # statistics that have no gradient come along

    def of_layers(operands: LayerOperands, of_teacher: TeacherArguments) -> Outputs:
        of_student = arguments._replace(operands=operands, scores=scores)
        made.append(divergence_of_layers(of_student.sharded_beside(), of_teacher, options, has_target=has_target))
        return _smooth(made[-1])

    def of_logits(numbers: Tensor, of_teacher: Any) -> Outputs:
        return _smooth(of_numbers(arguments._replace(operands=numbers), teacher._replace(logits=of_teacher)))

    if lazy is None:
        top_k = teacher.logits
        found = results_of(student, lambda z: of_logits(z, top_k), lambda layer: of_layers(layer, teacher))
    else:
        found = _of_both(student, lazy, of_logits, lambda layer, t: of_layers(layer, lazy.arguments(t, teacher)))
    loss, *stats = found
    if not arguments.return_stats:
        return loss
    names = (name for name in _SMOOTH if getattr(made[-1][1], name) is not None)
    return loss, dataclasses.replace(made[-1][1], **dict(zip(names, stats, strict=True)))


def _lazy_teacher(teacher: TeacherArguments, student: LazyLogits, scores: Scores, *, seen: bool) -> _Teacher | None:
    """Return a teacher whose logits may stay lazy for a student of these scores, else None.

    Misfits are left to the check of logits, for its error messages.
    """
    logits = teacher.logits
    if not isinstance(logits, LazyLogits) or not logits.stays_lazy() or logits.shape[:-1] != student.shape[:-1]:
        return None
    own = _scores_of(logits, teacher.scores(scores), seen=seen)
    if own is None or (teacher.classes is not None and own.softcap is not None):  # which takes a teacher's logits
        return None
    return _Teacher(logits, own)


def _smooth(found: Any) -> Outputs:
    """Return the results of a divergence that have gradients."""
    if isinstance(found, Tensor):
        return (found,)
    stats: DivergenceStats
    loss, stats = found
    return loss, *(x for x in (getattr(stats, name) for name in _SMOOTH) if x is not None)


def _of_both(
    student: LazyLogits,
    teacher: _Teacher,
    of_numbers: Callable[[Tensor, Tensor], Outputs],
    of_operands: Callable[[LayerOperands, LayerOperands], Outputs],
) -> Outputs:
    """Return differentiable results of two lazy logits; the gradients of either go to it."""

    def of_student(operands: LayerOperands) -> Outputs:
        return results_of(
            teacher.logits,
            lambda numbers: of_numbers(read(student), numbers),
            lambda of_teacher: of_operands(operands, of_teacher),
        )

    return results_of(student, lambda numbers: of_numbers(numbers, read(teacher.logits)), of_student)


def _scores_of(logits: LazyLogits, scores: Scores, *, seen: bool) -> Scores | None:
    """Return the scores of the layer behind logits, or None where a divergence needs their numbers.

    `seen` is whether more than a divergence of the rows is read; a log_softmax does not change the divergence.
    """
    layer = logits._deferred
    if loss_dtype(layer.dtype) != loss_dtype(layer.hidden.dtype) or (layer.shifted and seen) or logits.numel() == 0:
        return None
    found = combined(layer.scores(), scores)
    if found is not None:
        logits.check()
    return found


# torch's kl_div ----------------------------------------------------------------------------------------------------


@lazily("kl_div")
def _kl_div(
    logits: LazyLogits,
    target: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Any:
    """Return torch.nn.functional.kl_div of log-probabilities: the sum of all rows, or a share of it."""
    legacy = size_average is not None or reduce is not None
    if legacy or reduction not in ("sum", "batchmean", "mean") or not isinstance(target, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        return NotImplemented
    scores = _of_layer(logits, _log_probs(logits))
    if scores is None or target.shape != logits.shape or target.dtype not in REAL:
        return NotImplemented
    number = {"sum": 1, "batchmean": logits.shape[0], "mean": logits.numel()}[reduction]
    dtype, device = torch.promote_types(logits.dtype, target.dtype), logits.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.promote_types(dtype, torch.float32)  # which autocast casts the operands of kl_div to
    if isinstance(target, LazyLogits):
        found = _from_lazy(logits, scores, target, log_target=log_target)
    else:
        found = _from_numbers(logits, scores, target, log_target=log_target)
    return found if found is NotImplemented else (found / number).to(dtype)


def _log_probs(logits: LazyLogits) -> Deferred | None:
    """Return the logits of log-probabilities that nothing was done to since, or None if these are something else."""
    parts = logits._deferred.log_probs()
    return parts[0] if parts is not None and parts[1] == 1.0 else None


def _of_layer(logits: LazyLogits, layer: Deferred | None) -> Scores | None:
    """Return the scores of the layer behind probabilities or their logarithms, or None if they are something else."""
    if layer is None or logits.numel() == 0 or loss_dtype(logits.dtype) != loss_dtype(layer.hidden.dtype):
        return None
    logits.check()
    return layer.scores()


_SUM = Closing("sum", None, 0.0)


def _arguments(operands: Any, target: Any, scores: Scores) -> Arguments:
    return Arguments(operands, target, None, None, 0.0, scores, _SUM, False, NOT_SHARDED, NO_SHARDS)


def _from_lazy(logits: LazyLogits, scores: Scores, target: LazyLogits, *, log_target: bool) -> Any:
    """Return the sum over all rows of lazy log-probabilities and of a lazy target."""
    made_of = _log_probs(target) if log_target else target._deferred.probabilities()
    of_teacher = _of_layer(target, made_of) if target.stays_lazy() else None
    if of_teacher is None:
        return NotImplemented
    teacher, options = _Teacher(target, of_teacher), DivergenceOptions("forward", 0.5)
    none = TeacherArguments(target, None, None, None, "ignore")

    def of_operands(student: LayerOperands, operands: LayerOperands) -> Outputs:
        arguments = _arguments(student, NoTarget(), scores)
        found: Any = divergence_of_layers(arguments, teacher.arguments(operands, none), options, has_target=False)
        return (found,)

    def of_numbers(numbers: Tensor, of_target: Tensor) -> Outputs:
        return (kl_div(numbers, of_target, reduction="sum", log_target=log_target),)

    return _of_both(logits, teacher, of_numbers, of_operands)[0]


def _from_numbers(logits: LazyLogits, scores: Scores, target: Tensor, *, log_target: bool) -> Any:
    """Return the sum over all rows of lazy log-probabilities and of a target that exists: H(p, q) − H(p)."""
    if type(target) is not Tensor or target.device != logits.device:
        return NotImplemented
    p = target.exp() if log_target else target
    with torch.no_grad():
        # torch handles targets that are not probabilities; a check would wait for a GPU
        if not (p >= 0).all() or p.isinf().any():
            return NotImplemented
    p = p.reshape(-1, p.shape[-1])

    def of_operands(operands: LayerOperands) -> Outputs:
        layer = operands._replace(input=operands.input.reshape(-1, operands.input.shape[-1]))
        found: Any = loss_of_layer(_arguments(layer, p, scores))
        return (found - _entropies(p.to(found.dtype)).sum(),)

    def of_numbers(numbers: Tensor) -> Outputs:
        return (kl_div(numbers, target, reduction="sum", log_target=log_target),)

    return results_of(logits, of_numbers, of_operands)[0]


def _entropies(p: Tensor) -> Tensor:
    """Return −Σ p log p of each row."""
    return -torch.xlogy(p, p).sum(-1)
