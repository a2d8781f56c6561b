"""Divergences between the outputs of two linear layers, a student's and a teacher's, which never exist all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor

from crossent.torch.base.overrides import overridable
from crossent.torch.base.values import is_dtensor
from crossent.torch.call.arguments import Arguments, Closing, scores_of, sharding_of
from crossent.torch.call.checks import chunk_bytes_of
from crossent.torch.call.closings import row_function_of
from crossent.torch.call.dtensor import of_two_layers
from crossent.torch.call.layout import LayerOperands
from crossent.torch.call.low_rank import LowRank, layer_of
from crossent.torch.call.results import DivergenceStats, reduction_of
from crossent.torch.call.targets import TargetKind, TopK
from crossent.torch.ranks.shards import NO_SHARDS
from crossent.torch.teachers.linear import TEACHER, divergence_of_layers
from crossent.torch.teachers.view import Kind, Tail, TeacherArguments, options_of, student_target

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@overload
def linear_divergence(
    input: Tensor, linear_weight: Tensor | LowRank, teacher_input: Tensor | TopK,
    teacher_weight: Tensor | LowRank | None = ..., *,
    linear_bias: Tensor | None = ..., teacher_bias: Tensor | None = ..., kind: Kind = ..., beta: float = ...,
    temperature: float | Tensor = ..., teacher_temperature: float | Tensor | None = ..., softcap: float | None = ...,
    teacher_softcap: float | None = ..., teacher_classes: Tensor | None = ..., tail: Tail = ...,
    target: Tensor | TargetKind | None = ..., ignore_index: int = ..., closing: Callable[..., Tensor] | None = ...,
    operands: Sequence[Tensor] = ..., sample_weight: Tensor | None = ..., reduction: str = ...,
    return_stats: Literal[False] = ..., chunk_bytes: int | None = ..., process_group: ProcessGroup | None = ...,
    first_class: int | None = ..., num_classes: int | None = ...,
) -> Tensor: ...  # fmt: skip
@overload
def linear_divergence(
    input: Tensor, linear_weight: Tensor | LowRank, teacher_input: Tensor | TopK,
    teacher_weight: Tensor | LowRank | None = ..., *,
    linear_bias: Tensor | None = ..., teacher_bias: Tensor | None = ..., kind: Kind = ..., beta: float = ...,
    temperature: float | Tensor = ..., teacher_temperature: float | Tensor | None = ..., softcap: float | None = ...,
    teacher_softcap: float | None = ..., teacher_classes: Tensor | None = ..., tail: Tail = ...,
    target: Tensor | TargetKind | None = ..., ignore_index: int = ..., closing: Callable[..., Tensor] | None = ...,
    operands: Sequence[Tensor] = ..., sample_weight: Tensor | None = ..., reduction: str = ...,
    return_stats: Literal[True], chunk_bytes: int | None = ..., process_group: ProcessGroup | None = ...,
    first_class: int | None = ..., num_classes: int | None = ...,
) -> tuple[Tensor, DivergenceStats]: ...  # fmt: skip
@overridable
def linear_divergence(
    input: Tensor,
    linear_weight: Tensor | LowRank,
    teacher_input: Tensor | TopK,
    teacher_weight: Tensor | LowRank | None = None,
    *,
    linear_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
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
    chunk_bytes: int | None = None,
    process_group: ProcessGroup | None = None,
    first_class: int | None = None,
    num_classes: int | None = None,
) -> Tensor | tuple[Tensor, DivergenceStats]:
    r"""Divergence between the predictions of a student's and a teacher's head, in nats, computed in chunks of rows.

    It is `divergence(linear(input, linear_weight, linear_bias), linear(teacher_input, teacher_weight, teacher_bias),
    …)` with all its options, where `linear` is `torch.nn.functional.linear`. With the student's prediction
    q = softmax(s) and the teacher's p, the loss of a row is

        kind="forward"   KL(teacher‖student) = Σ_v p_v (log p_v − log q_v)
        kind="reverse"   KL(student‖teacher) = Σ_v q_v (log q_v − log p_v)
        kind="js"        β KL(teacher‖m) + (1 − β) KL(student‖m),   m = β · teacher + (1 − β) · student

    never negative, and exactly 0 where both heads make the same logits. Logits and all sums are float32 for operands of
    any dtype (float64 for float64 operands); gradients are rounded to the dtype of their operand once, at the end.
    Under `torch.autocast` the operands are cast to its dtype.

    Parameters
    ----------
    input, linear_weight, linear_bias
        The student's layer, as in `linear_cross_entropy`: shapes (…, D), (V, D) and (V), or (V, d1, …, dk, D) and
        (V, d1, …, dk).
    teacher_input, teacher_weight, teacher_bias
        The teacher's layer with the same rows and classes: (…, D2), (V, D2) and (V). Its number of features and its
        dtype may differ. Its operands get gradients if they require them; a frozen teacher costs one product. Either
        weight may be a `LowRank` or a `Dequantized`. Or `teacher_input` is a `TopK` of the teacher's most probable
        classes, without `teacher_weight`.
    kind, beta, temperature, softcap, teacher_temperature, teacher_softcap, tail, target, ignore_index
        As in `divergence`; beside K-dimensional weights a target has the shapes of `linear_cross_entropy`. Rows of the
        class `ignore_index` cost no work on CPUs.
    teacher_classes
        As in `divergence`: for each of the student's classes its row in `teacher_weight`, which is copied in this
        order; −1 for none. Not beside `teacher_softcap`.
    closing, operands
        As in `divergence`, with `rows.js` of any kind. With "mean" or "sum" the closing is called with the rows of a
        chunk at a time while the forward has their logits.
    sample_weight, reduction, return_stats
        As in `divergence`.
    chunk_bytes
        Largest number of bytes of logits of both heads at a time, by default 128 MiB, and 512 MiB on GPUs. The forward
        computes at least one row of both. It changes results only by rounding.
    process_group, first_class, num_classes
        As in `linear_cross_entropy`: both weights are shards of the same classes. Without a group, `num_classes` is the
        number of rows of both weights that are classes; further rows, in either, are padding.

    Returns
    -------
    Tensor or (Tensor, DivergenceStats)
        As from `divergence`.

    Raises
    ------
    IndexError, ValueError, TypeError
        As `divergence`, and if the operands of a layer do not fit each other.
    NotImplementedError
        If the input is on a device for which there is no backend; for `teacher_classes` beside `teacher_softcap`, and
        for a `TopK` beside K-dimensional weights.

    Notes
    -----
    "mean" and "sum" of float32 operands take four products of the size of a head, both heads' logits and the gradients
    of input and weight, three with a frozen student head, six if the teacher learns. Half-precision operands on CPUs,
    shards, reduction="none" and a `chunk_bytes` in which few rows fit take two more, unless all logits of both fit. So
    do closings under `torch.compile` and function transforms. A derivative of the gradient (create_graph=True) is
    recomputed with all logits in memory, and slow.

    On shards, each chunk of rows sends the same as `divergence`, and the backward one SUM of each input's gradient.
    Operands may be DTensors as in `linear_cross_entropy`, the teacher's placed as the student's; but the rows of an
    input may not be sharded over the dimension of the classes.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import divergence, linear_divergence
    >>> student, head = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> teacher, teacher_head = torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [0.0], [-1.0]])
    >>> linear_divergence(student, head, teacher, teacher_head, reduction="none")
    tensor([0.2976, 0.9957])
    >>> divergence(student @ head.T, teacher @ teacher_head.T, reduction="none")
    tensor([0.2976, 0.9957])

    References
    ----------
    Those of `divergence`. Chunks of the vocabulary: Wijmans et al. (2025), https://arxiv.org/abs/2411.09009.
    """
    function = row_function_of(closing, operands, None)
    options = options_of(kind, beta, others_are_seen=bool(return_stats) or function is not None)
    layer, given = layer_of(input, linear_weight, linear_bias), student_target(target, ignore_index)
    teacher = TeacherArguments(
        _teacher_of(teacher_input, teacher_weight, teacher_bias),
        teacher_temperature, teacher_softcap, teacher_classes, tail,
    )  # fmt: skip
    teacher.check_tail()
    of_rows = Closing(reduction_of(reduction), sample_weight, 0.0, function)
    sharding, scores = sharding_of(process_group, first_class, num_classes), scores_of(temperature, softcap)
    ignored = None if type(ignore_index) is int and ignore_index == -100 else ignore_index  # as if it was not passed
    arguments = Arguments(layer, given, None, ignored, 0.0, scores, of_rows, return_stats, sharding, NO_SHARDS)
    chunk_bytes, has_target = chunk_bytes_of(chunk_bytes), target is not None
    if any(is_dtensor(x) for x in layer):
        local = of_two_layers(arguments.bound(), TEACHER)
        if local.arguments.shards.ranks.groups:
            teacher.check_columns(linear_weight.shape[0])
        teacher = teacher.placed(local.of_classes, local.of_rows)
        return local.finish(divergence_of_layers(local.arguments, teacher, options, chunk_bytes, has_target=has_target))
    arguments = arguments.bound().sharded_beside()
    return divergence_of_layers(arguments, teacher, options, chunk_bytes, has_target=has_target)


def _teacher_of(input: Any, weight: Any, bias: Any) -> TopK | LayerOperands:
    """Return a teacher as callers passed it; raise unless its parts belong together."""
    if not isinstance(input, TopK):
        if weight is None:
            raise TypeError(
                "teacher_weight is missing beside teacher_input; pass both, or a TopK as teacher_input. For computed "
                "logits, call divergence"
            )
        return layer_of(input, weight, bias, TEACHER)
    for name, x in (("teacher_weight", weight), ("teacher_bias", bias)):
        if x is not None:
            raise ValueError(f"{name} makes logits, and a TopK holds probabilities of classes; pass one of them")
    return input
