"""The losses as functions, with torch's own signatures and semantics, and more options that compose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor

from crossent.closing import Reduction
from crossent.kernels.backend import BinaryOperands
from crossent.kernels.cpu import StepOptions
from crossent.torch.base.overrides import overridable
from crossent.torch.base.values import is_dtensor
from crossent.torch.call.arguments import Arguments, Closing, scores_of, sharding_of
from crossent.torch.call.checks import (
    broadcasts,
    check_companion,
    check_constant,
    check_input,
    check_number_type,
    in_kernel_dtype,
)
from crossent.torch.call.closings import row_function_of
from crossent.torch.call.dtensor import of_elements, stand_in
from crossent.torch.call.results import Stats, reduction_of
from crossent.torch.call.targets import TargetKind
from crossent.torch.lazy.fusing import fused_loss
from crossent.torch.lazy.logits import LazyLogits
from crossent.torch.logits import loss_of_logits
from crossent.torch.operators.binary import BinaryCall, BinaryLossCall, binary_loss
from crossent.torch.operators.few import loss_of_few
from crossent.torch.ranks.shards import NO_SHARDS

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@overload
def cross_entropy(
    input: Tensor, target: Tensor | TargetKind, weight: Tensor | None = ..., size_average: bool | None = ...,
    ignore_index: int = ..., reduce: bool | None = ..., reduction: str = ..., label_smoothing: float = ..., *,
    temperature: float | Tensor = ..., softcap: float | None = ..., z_loss: float = ...,
    sample_weight: Tensor | None = ..., closing: Callable[..., Tensor] | None = ..., operands: Sequence[Tensor] = ...,
    segments: Tensor | None = ..., return_stats: Literal[False] = ..., process_group: ProcessGroup | None = ...,
    first_class: int | None = ..., num_classes: int | None = ...,
) -> Tensor: ...  # fmt: skip
@overload
def cross_entropy(
    input: Tensor, target: Tensor | TargetKind, weight: Tensor | None = ..., size_average: bool | None = ...,
    ignore_index: int = ..., reduce: bool | None = ..., reduction: str = ..., label_smoothing: float = ..., *,
    temperature: float | Tensor = ..., softcap: float | None = ..., z_loss: float = ...,
    sample_weight: Tensor | None = ..., closing: Callable[..., Tensor] | None = ..., operands: Sequence[Tensor] = ...,
    segments: Tensor | None = ..., return_stats: Literal[True], process_group: ProcessGroup | None = ...,
    first_class: int | None = ..., num_classes: int | None = ...,
) -> tuple[Tensor, Stats]: ...  # fmt: skip
@overridable
def cross_entropy(
    input: Tensor,
    target: Tensor | TargetKind,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    sample_weight: Tensor | None = None,
    closing: Callable[..., Tensor] | None = None,
    operands: Sequence[Tensor] = (),
    segments: Tensor | None = None,
    return_stats: bool = False,
    process_group: ProcessGroup | None = None,
    first_class: int | None = None,
    num_classes: int | None = None,
) -> Tensor | tuple[Tensor, Stats]:
    r"""Cross-entropy between a target and the softmax of logits, in nats.

    The scores of logits z are s = phi(z), phi(z) = softcap · tanh(z / (temperature · softcap)), or z / temperature
    without a softcap. The target p of a row over V classes is p_v = weight_v · ((1 − ε) base_v + ε / V). The loss of
    the row is

        loss = Σ_v p_v · (log Σ_u e^(s_u) − s_v) + z_loss · (log Σ_u e^(s_u))²

    which is −Σ p log q, with the prediction q = softmax(s), and the penalty of the z-loss.

    Positional parameters, defaults and semantics are those of `torch.nn.functional.cross_entropy`; the loss of
    half-precision logits is float32.

    Parameters
    ----------
    input
        Logits z, shape (V), (N, V) or (N, V, d1, …, dk); float32, float64, bfloat16 or float16.
    target
        Class indices, shape (), (N) or (N, d1, …, dk), any integer dtype; or class probabilities in the shape of the
        input, any floating dtype, differentiable; or a `TopK`.
    weight
        Weight of each class, shape (V). A constant: it gets no gradient. A target whose classes all have weight 0 costs
        0, for any logits.
    size_average, reduce
        Deprecated in torch; they override `reduction`, as in torch.
    ignore_index
        Rows of this class contribute neither loss nor gradient, for any logits. Class indices only.
    reduction
        "none" returns s · loss of each row, with the sample weight s; "sum" adds the rows up. "mean" divides the sum:
        for class indices y by Σ s · weight_y over the rows that are not ignored, for probabilities by Σ s.
    label_smoothing
        ε in [0, 1], spread evenly over all classes.
    temperature
        Divides the logits; between 1e-15 and 1e15. A number, or a tensor with a number for each row, in the shape of
        the loss with reduction="none" and of any real dtype. A constant: it gets no gradient. Ignored rows may have
        any temperature.
    softcap
        Soft bound of the scores, as in Gemma 2; None for no bound.
    z_loss
        Strength of the penalty on the log-normaliser. It is neither class-weighted nor smoothed; under "mean" it is
        averaged over the rows that are not ignored by their sample weights.
    sample_weight
        Weight s of each row, in the shape of the loss with reduction="none". A weight of 0 removes the row, even if its
        loss is infinite or NaN: value and gradient are exactly 0.
    closing, operands
        A function of the rows that returns a loss for each, `closing(rows, *operands)`, in place of the cross-entropy.
        `rows` has the vectors (n,) `logprob`, `loss`, `lse`, `entropy`, `confidence`, `correct` and `segments`; see
        `ClosingRows`. The operands are constants for each row, in the rows' shape or with more axes. Reduction, sample
        weights, z-loss and the divisor of a mean are unchanged; ignored rows and rows of weight 0 are not passed to it
        and cost 0. The loss of a row must depend only on that row: CROSSENT_VALIDATE=1 evaluates some rows alone and
        raises otherwise.
    segments
        Sequence number of each row, integers in the rows' shape, for a closing whose losses depend on whole sequences.
        It reads them as `rows.segments`, and gets all rows of a sequence in one call. Not under `torch.compile` and
        function transforms, which cannot leave ignored rows out.
    return_stats
        Also return `Stats` of the rows.
    process_group
        The ranks that hold the other classes, if the input holds only some of them: a shard, as in Megatron. Target,
        sample weight and the weight of all classes are then the same on every rank. A DTensor needs none.
    first_class
        The first class of this rank's shard; by default the shards have equal lengths, in the order of the ranks.
    num_classes
        Number V of all classes. Columns after the last class are padding, with probability and gradient 0. By default
        there is no padding.

    Returns
    -------
    Tensor or (Tensor, Stats)
        The loss, float64 for float64 input and else float32: shape () or, with reduction="none", (N, d1, …, dk).

    Raises
    ------
    IndexError
        If a class index is neither `ignore_index` nor in [0, V − 1].
    ValueError
        If shapes do not fit, an option is out of its range, `temperature` or `weight` requires a gradient, a target
        probability is negative, infinite or NaN, or `ignore_index` ≥ 0 is combined with probabilities.
    TypeError
        If the logits are not floating-point, or the target has a dtype for neither indices nor probabilities.
    NotImplementedError
        If the input is on a device for which there is no backend.

    Notes
    -----
    A DTensor's classes may be sharded over any dimensions of its mesh, and its rows over others. The loss is a DTensor,
    the same on every rank (with reduction="none", sharded as the rows), and the gradient is placed as the input. The
    target and the sample weight are DTensors in their own shapes, or tensors that every rank has whole; the weight of
    the classes too.

    For each group of ranks that share the classes, the forward sends one MAX of N numbers and one SUM of 4 N + 2, both
    float64, the backward nothing (a `TopK` that requires a gradient: a SUM of its size). `Stats` take that pair again,
    and a MAX and a MIN of N; those of soft, smoothed or class-weighted targets take another such pair, and of soft ones
    one more, and a MAX and a MIN of N. Each group that shares the rows adds up two numbers, for z-loss four. With
    CROSSENT_VALIDATE=1, different calls on the ranks raise an error that names the difference; without it they hang or
    fail in torch.distributed.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import cross_entropy
    >>> logits = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]).log()
    >>> cross_entropy(logits, torch.tensor([0, 0]), reduction="none")
    tensor([0.3567, 2.3026])
    >>> cross_entropy(logits, torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    tensor(1.3296)

    A policy gradient with an entropy bonus, in place of the cross-entropy:

    >>> advantage = torch.tensor([1.0, -1.0])
    >>> def policy(rows, advantage):
    ...     return -advantage * rows.logprob - 0.01 * rows.entropy
    >>> cross_entropy(logits, torch.tensor([0, 0]), closing=policy, operands=(advantage,), reduction="none")
    tensor([ 0.3487, -2.3116])

    References
    ----------
    Shannon (1948), https://doi.org/10.1002/j.1538-7305.1948.tb01338.x. Label smoothing: Szegedy et al. (2016),
    https://arxiv.org/abs/1512.00567. z-loss: Chowdhery et al. (2022), https://arxiv.org/abs/2204.02311.
    """
    usual = size_average is reduce is sample_weight is closing is process_group is first_class is num_classes is None
    usual = usual and segments is None and type(operands) is tuple and not operands
    if usual and return_stats is False and type(reduction) is str and reduction in ("mean", "sum"):
        options = StepOptions(reduction == "mean", ignore_index, label_smoothing, z_loss, temperature, softcap)
        loss = loss_of_few(input, target, weight, options)
        if loss is not None:
            return loss
    function = row_function_of(closing, operands, segments)
    of_rows = Closing(reduction_of(reduction, size_average, reduce), sample_weight, z_loss, function)
    scores = scores_of(temperature, softcap)
    sharding = sharding_of(process_group, first_class, num_classes)
    arguments = Arguments(
        input, target, weight, ignore_index, label_smoothing, scores, of_rows, return_stats, sharding, NO_SHARDS
    ).bound()
    if isinstance(input, LazyLogits) and input.stays_lazy():
        fused = fused_loss(arguments)
        if fused is not NotImplemented:
            return fused
    return loss_of_logits(arguments)


@overridable
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    r"""Binary cross-entropy between targets t and the sigmoid of logits x, in nats.

        loss = weight · (pos_weight · t · log(1 + e^(−x)) + (1 − t) · log(1 + e^x))

    Positional parameters, defaults and semantics are those of `torch.nn.functional.binary_cross_entropy_with_logits`;
    the loss of half-precision logits is float32. Both terms keep their relative accuracy: a confident right answer
    costs little, but not nothing.

    Parameters
    ----------
    input
        Logits x of any shape; float32, float64, bfloat16 or float16.
    target
        Targets t in the shape of the input, between 0 and 1; differentiable if floating.
    weight, pos_weight
        Weight of each element, and of its positive part; broadcast to the shape of the input. Constants. A weight of 0
        removes the element, for any input and target: value and gradient are exactly 0.
    size_average, reduce
        Deprecated in torch; they override `reduction`, as in torch.
    reduction
        "none", "mean" over all elements, or "sum".

    Returns
    -------
    Tensor
        The loss, float64 for float64 input and else float32: shape () or, with reduction="none", that of the input.

    Raises
    ------
    ValueError
        If shapes do not fit, or a target is outside [0, 1] or NaN.
    TypeError
        If the input is not floating-point.
    NotImplementedError
        If the input is on a device for which there is no backend.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import binary_cross_entropy_with_logits
    >>> binary_cross_entropy_with_logits(torch.tensor([-40.0]), torch.tensor([0.0]))
    tensor(4.2484e-18)

    References
    ----------
    Cox (1958), https://doi.org/10.1111/j.2517-6161.1958.tb00292.x.
    """
    mode = reduction_of(reduction, size_average, reduce)
    return _binary_cross_entropy("logits", BinaryOperands(input, target, weight, pos_weight), mode)


@overridable
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Binary cross-entropy between targets t and predicted probabilities q, in nats.

        loss = −weight · (t · log q + (1 − t) · log(1 − q)),   0 · log 0 = 0

    Positional parameters, defaults and semantics are those of `torch.nn.functional.binary_cross_entropy`, but nothing
    is clipped: q = 0 for t = 1 costs +inf, where torch returns 100, and the gradient follows the formula. The loss of
    half-precision probabilities is float32. If you have logits, `binary_cross_entropy_with_logits` is more accurate.

    Parameters
    ----------
    input
        Probabilities q in [0, 1] of any shape; float32, float64, bfloat16 or float16.
    target
        Targets t in the shape of the input, between 0 and 1; differentiable if floating.
    weight
        Weight of each element, broadcast to the shape of the input. A constant. A weight of 0 removes the element, for
        any input and target.
    size_average, reduce
        Deprecated in torch; they override `reduction`, as in torch.
    reduction
        "none", "mean" over all elements, or "sum".

    Returns
    -------
    Tensor
        The loss, float64 for float64 input and else float32: shape () or, with reduction="none", that of the input.

    Raises
    ------
    ValueError
        If shapes do not fit, or an element of input or target is outside [0, 1] or NaN.
    TypeError
        If the input is not floating-point.
    NotImplementedError
        If the input is on a device for which there is no backend.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import binary_cross_entropy
    >>> binary_cross_entropy(torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0]), reduction="none")
    tensor([0.1054, 0.2231])

    References
    ----------
    Cox (1958), https://doi.org/10.1111/j.2517-6161.1958.tb00292.x.
    """
    mode = reduction_of(reduction, size_average, reduce)
    return _binary_cross_entropy("probabilities", BinaryOperands(input, target, weight), mode)


def _binary_cross_entropy(kind: str, operands: BinaryOperands, mode: Reduction) -> Tensor:
    """Return the binary loss of logits or of probabilities."""
    if is_dtensor(operands.input):
        _ = _binary_cross_entropy(kind, BinaryOperands(*map(stand_in, operands)), mode)  # raises where it would
        local = of_elements(operands, mode)
        return local.finish(_binary_cross_entropy(kind, local.operands, "none" if mode == "none" else "sum"))
    x: Any = operands.input
    target: Any = operands.target
    check_input(x)
    check_companion("target", target, x.device)
    if target.shape != x.shape:
        raise ValueError(
            f"target of shape {tuple(target.shape)} does not match input of shape {tuple(x.shape)}; "
            "use target.expand_as(input), or view_as, if that is intended"
        )
    check_number_type("target", target)
    target = in_kernel_dtype(target, x.dtype)
    weights: Any = {"weight": operands.weight, "pos_weight": operands.pos_weight}
    for name, w in weights.items():
        if w is not None:
            check_companion(name, w, x.device)
        if w is not None and not broadcasts(w.shape, x.shape):
            raise ValueError(f"{name} of shape {tuple(w.shape)} does not broadcast to input of shape {tuple(x.shape)}")
        check_constant(name, w)
        weights[name] = in_kernel_dtype(w, x.dtype)
    elements = BinaryCall(kind, x, target, *weights.values())
    loss = binary_loss(BinaryLossCall(elements, mode != "none"))
    return loss / x.numel() if mode == "mean" else loss
