"""Divergences between a student and a teacher: the loss of distillation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor

from crossent.torch.base.overrides import overridable
from crossent.torch.base.values import is_dtensor
from crossent.torch.call.arguments import (
    Arguments,
    Closing,
    check_same_call,
    checked,
    row_closing,
    scores_of,
    sharding_of,
)
from crossent.torch.call.closings import row_function_of
from crossent.torch.call.dtensor import of_heads, stand_in
from crossent.torch.call.layout import layout_of_rows
from crossent.torch.call.results import DivergenceStats, reduction_of
from crossent.torch.call.targets import TargetKind, TopK
from crossent.torch.lazy.divergences import fused_divergence
from crossent.torch.lazy.logits import LazyLogits, with_numbers_of
from crossent.torch.ranks.shards import NO_SHARDS
from crossent.torch.teachers.logits import logits_view
from crossent.torch.teachers.sparse import topk_view
from crossent.torch.teachers.view import DivergenceOptions, Kind, Tail, TeacherArguments, options_of, student_target

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@overload
def divergence(
    logits: Tensor, teacher_logits: Tensor | TopK, *, kind: Kind = ..., beta: float = ...,
    temperature: float | Tensor = ..., teacher_temperature: float | Tensor | None = ..., softcap: float | None = ...,
    teacher_softcap: float | None = ..., teacher_classes: Tensor | None = ..., tail: Tail = ...,
    target: Tensor | TargetKind | None = ..., ignore_index: int = ..., closing: Callable[..., Tensor] | None = ...,
    operands: Sequence[Tensor] = ..., sample_weight: Tensor | None = ..., reduction: str = ...,
    return_stats: Literal[False] = ..., process_group: ProcessGroup | None = ..., first_class: int | None = ...,
    num_classes: int | None = ...,
) -> Tensor: ...  # fmt: skip
@overload
def divergence(
    logits: Tensor, teacher_logits: Tensor | TopK, *, kind: Kind = ..., beta: float = ...,
    temperature: float | Tensor = ..., teacher_temperature: float | Tensor | None = ..., softcap: float | None = ...,
    teacher_softcap: float | None = ..., teacher_classes: Tensor | None = ..., tail: Tail = ...,
    target: Tensor | TargetKind | None = ..., ignore_index: int = ..., closing: Callable[..., Tensor] | None = ...,
    operands: Sequence[Tensor] = ..., sample_weight: Tensor | None = ..., reduction: str = ...,
    return_stats: Literal[True], process_group: ProcessGroup | None = ..., first_class: int | None = ...,
    num_classes: int | None = ...,
) -> tuple[Tensor, DivergenceStats]: ...  # fmt: skip
@overridable
def divergence(
    logits: Tensor,
    teacher_logits: Tensor | TopK,
    *,
    kind: Kind = "forward",
    beta: float = 0.5,
    temperature: float | Tensor = 1.0,
    teacher_temperature: float | Tensor | None = None,
    softcap: float | None = None,
    teacher_softcap: float | None = None,
    teacher_classes: Tensor | None = None,
    tail: Tail = "ignore",
    target: Tensor | TargetKind | None = None,
    ignore_index: int = -100,
    closing: Callable[..., Tensor] | None = None,
    operands: Sequence[Tensor] = (),
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
    return_stats: bool = False,
    process_group: ProcessGroup | None = None,
    first_class: int | None = None,
    num_classes: int | None = None,
) -> Tensor | tuple[Tensor, DivergenceStats]:
    r"""Divergence between the predictions of a student and of a teacher from their logits, in nats, for distillation.

    The scores of logits z are s = softcap · tanh(z / (temperature · softcap)), or z / temperature without a softcap.
    The student's prediction is q = softmax(s), the teacher's p = softmax of its own scores, and the loss of a row is

        kind="forward"   KL(teacher‖student) = Σ_v p_v (log p_v − log q_v)
        kind="reverse"   KL(student‖teacher) = Σ_v q_v (log q_v − log p_v)
        kind="js"        β KL(teacher‖m) + (1 − β) KL(student‖m),   m = β · teacher + (1 − β) · student

    Forward weighs each class by the teacher: the student must give probability to every class that the teacher does.
    This is classical distillation, the sum in `torch.nn.functional.kl_div(log_q, log_p, log_target=True)`. Reverse
    weighs by the student: it must avoid classes that the teacher avoids, and may drop some of the teacher's classes.

    Every divergence is a sum of terms that are never negative: the result is ≥ 0, and exactly 0 for equal logits and
    scores. A class that the teacher excludes by a score of −inf has p = 0, and makes a reverse divergence +inf unless
    the student excludes it too; one that only the student excludes makes the forward divergence +inf; js is finite.

    Parameters
    ----------
    logits
        Logits of the student, shape (…, V), the classes on the last axis; float32, float64, bfloat16 or float16.
    teacher_logits
        Logits of the teacher, shape (…, V) with the same rows; any of these dtypes, also different from the student's.
        They get a gradient if they require one; a frozen teacher is evaluated under `torch.no_grad()`. Or a `TopK` with
        index and prob of shape (…, K), its most probable classes; logits of all classes are then not needed. An entry
        of probability 0 is left out, and probabilities of the same class add.
    kind
        The direction: "forward", "reverse" or "js", as above.
    beta
        The teacher's share β of the mixture m, between 0 and 1, both excluded.
    temperature, softcap
        Scores of the student, as in `cross_entropy`; one temperature, or one for each row, shape (…). With a
        temperature τ for both, gradients shrink with its square. Scale them back yourself: `tau**2 * divergence(logits,
        teacher_logits, temperature=tau)`.
    teacher_temperature, teacher_softcap
        Scores of the teacher. A temperature of None is the student's; a softcap of None is no softcap, also if the
        student has one.
    teacher_classes
        For vocabularies that differ: for each class of the student its column in `teacher_logits`, shape (V), any
        integer dtype, and −1 where the teacher has none (p = 0). The teacher's softmax is over the named columns only.
        The teacher's logits are copied in this order.
    tail
        Treatment of the classes that a `TopK` teacher lacks. "ignore": the loss has the terms of the K classes only.
        These are p (log p − log q) + q − p forward and q (log q − log p) + p − q in reverse: never negative, and 0
        where the student has the same probabilities, even if they add up to less than 1. "bucket": the other classes
        are one extra class on both sides, of probability 1 − Σ p and 1 − Σ q (at least the rounding of these).
    target
        Target of the student beside the teacher, for `closing` and statistics: class indices, shape (…), probabilities,
        shape (…, V), or a `TopK`. It does not enter the divergence.
    ignore_index
        Rows of this target class contribute neither loss nor gradient, for any logits.
    closing, operands
        A function of the rows that returns a loss for each, `closing(rows, *operands)`, in place of the divergence, as
        in `cross_entropy`. Its `rows` have `kl` (forward), `reverse_kl`, `js`, `lse`, `entropy`, `teacher_lse`,
        `teacher_entropy` and, with a target, `logprob`, `loss`, `correct`. `rows.js` costs another pass over both
        logits unless kind="js".
    sample_weight
        Weight of each row, shape (…). A weight of 0 removes the row, even if its divergence is infinite or NaN.
    reduction
        "none" returns the weighted divergence of each row, "sum" adds the rows up, "mean" divides the sum by the
        weights of the rows that are not ignored.
    return_stats
        Also return `DivergenceStats` of the rows: entropies, normalisers and all divergences, each differentiable.
    process_group, first_class, num_classes
        As in `cross_entropy`: both logits are those of the same shard of the classes. Without a group, `num_classes` is
        the number of columns that are classes; further columns, in either, are padding.

    Returns
    -------
    Tensor or (Tensor, DivergenceStats)
        The loss, float64 for float64 logits of the student and else float32: shape () or, with reduction="none", (…).
        The teacher's own statistics are float64 for float64 logits of the teacher and else float32.

    Raises
    ------
    IndexError
        If a class of `target`, of a `TopK` or a column in `teacher_classes` does not exist.
    ValueError
        If shapes do not fit, or an option is out of its range or belongs to another kind of teacher.
    TypeError
        If logits are not floating-point, or classes are not integers.
    NotImplementedError
        If the logits are on a device for which there is no backend.

    Notes
    -----
    The forward allocates no tensor of the size of the logits. The backward computes each required gradient in one pass
    over both logits; derivatives of gradients are recomputed in plain operations, and slow.

    Logits may be DTensors as in `cross_entropy`, their classes and rows sharded over dimensions of a mesh; the
    teacher's are placed as the student's. For each group of ranks that share the classes, the forward sends the MAX and
    SUM of `cross_entropy` for either head and one SUM of 2 N numbers (for js 4 N), the backward nothing. A `TopK` takes
    the collectives of `logprobs`.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import divergence
    >>> student = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    >>> teacher = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    >>> divergence(student, teacher, kind="forward", reduction="none")
    tensor([0.3681, 0.5108])
    >>> divergence(student, teacher, kind="reverse", reduction="none")
    tensor([0.5108, 0.3681])

    In the first row the teacher is the confident one: forward is 0.9 log(0.9 / 0.5) + 0.1 log(0.1 / 0.5).

    Hinton's loss, α of the labels' cross-entropy and 1 − α of τ² times the divergence at temperature τ. The labels
    here are scored at that temperature too; to score them at 1, add `cross_entropy(student, labels)`:

    >>> tau, alpha = 2.0, 0.1
    >>> def mixed(rows):
    ...     return -alpha * rows.logprob + (1 - alpha) * tau**2 * rows.kl
    >>> divergence(student, teacher, target=torch.tensor([0, 1]), closing=mixed, temperature=tau)
    tensor(0.5983)

    References
    ----------
    Hinton, Vinyals and Dean (2015), https://arxiv.org/abs/1503.02531. On-policy distillation and β: Agarwal et al.
    (2024), https://arxiv.org/abs/2306.13649, whose β weighs the same way. Kullback and Leibler (1951),
    https://doi.org/10.1214/aoms/1177729694. Lin (1991), https://doi.org/10.1109/18.61115.
    """
    function = row_function_of(closing, operands, None)
    options = options_of(kind, beta, others_are_seen=bool(return_stats) or function is not None)
    teacher = TeacherArguments(teacher_logits, teacher_temperature, teacher_softcap, teacher_classes, tail)
    of_rows = Closing(reduction_of(reduction), sample_weight, 0.0, function)
    sharding, scores = sharding_of(process_group, first_class, num_classes), scores_of(temperature, softcap)
    given = student_target(target, ignore_index)
    arguments = Arguments(logits, given, None, ignore_index, 0.0, scores, of_rows, return_stats, sharding, NO_SHARDS)
    arguments, has_target = arguments.bound(), target is not None

    def of_numbers(arguments: Arguments, teacher: TeacherArguments) -> Tensor | tuple[Tensor, DivergenceStats]:
        return _of_logits(arguments, teacher, options, has_target=has_target)

    if isinstance(logits, LazyLogits) and logits.stays_lazy():
        teacher.check_tail()
        lazy = arguments._replace(ignore_index=None if ignore_index == -100 else ignore_index)
        fused = fused_divergence(lazy, teacher, options, of_numbers, has_target=has_target)
        if fused is not NotImplemented:
            return fused
    teacher = teacher._replace(logits=with_numbers_of(teacher.logits, "divergence"))
    return of_numbers(arguments._replace(operands=with_numbers_of(logits, "divergence")), teacher)


def _of_logits(
    arguments: Arguments, teacher: TeacherArguments, options: DivergenceOptions, *, has_target: bool
) -> Tensor | tuple[Tensor, DivergenceStats]:
    """Return the divergence of logits, or (divergence, DivergenceStats)."""
    logits: Any = arguments.operands
    teacher.check_tail()
    if is_dtensor(logits):
        teacher.check_rows(layout_of_rows(stand_in(logits)))
        local = of_heads(arguments)
        if local.arguments.shards.ranks.groups:
            teacher.check_columns(logits.shape[-1])
        placed = teacher.placed(local.of_classes, local.of_rows)
        return local.finish(_on_this_rank(local.arguments, placed, options, has_target=has_target))
    layout = layout_of_rows(logits, shard=arguments.sharding.process_group is not None)
    arguments = arguments._replace(operands=layout.flat(logits)).sharded_beside()
    return _on_this_rank(arguments._replace(operands=logits), teacher, options, has_target=has_target)


def _on_this_rank(
    arguments: Arguments, teacher: TeacherArguments, options: DivergenceOptions, *, has_target: bool
) -> Tensor | tuple[Tensor, DivergenceStats]:
    """Return the divergence of logits (…, V) on this rank, and of the classes and rows on other ranks."""
    logits: Tensor = arguments.operands
    layout = layout_of_rows(logits, shard=bool(arguments.shards.ranks.groups))
    teacher.check_rows(layout)
    rows = checked(arguments, layout)
    view_of = topk_view if isinstance(teacher.logits, TopK) else logits_view
    if not rows.ranks.alone:
        facts = {"the dtype": str(logits.dtype), "the kind of teacher": type(teacher.logits).__name__}
        check_same_call(rows, **facts, kind=options.kind, beta=options.beta, tail=teacher.tail)
    view = view_of(layout.flat(logits), rows, teacher, options, has_target=has_target)
    loss = row_closing(rows).closed(view, None if rows.closing.function else view.of_teacher(options.name))
    if rows.closing.reduction == "none" and len(layout.rows) != 1:
        loss = loss.reshape(layout.rows)
    return (loss, view.stats(layout.rows)) if rows.return_stats else loss
