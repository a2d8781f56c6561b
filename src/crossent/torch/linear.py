"""Cross-entropy of a linear layer's outputs, which never exist all at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from crossent.torch.call.checks import (
    TopK,
    check_chunk_bytes,
    check_options,
    is_dtensor,
    logits_of_layer,
    rows_of,
    sample_weight_of,
)
from crossent.torch.call.dtensor import check_no_group, of_layer
from crossent.torch.call.results import Closing, Options, Stats, described, phi_of, reduced, reduction_of
from crossent.torch.operators.linear import linear_loss, linear_stats
from crossent.torch.operators.plain import loss_dtype
from crossent.torch.ranks.shards import NO_SHARDS, Shards, shards_of
from crossent.torch.sources.plan import default_chunk_bytes, device_of, one_sweep

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@overload
def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, target: Tensor | TopK, *, linear_bias: Tensor | None = ...,
    weight: Tensor | None = ..., reduction: str = ..., ignore_index: int | None = ..., label_smoothing: float = ...,
    temperature: float = ..., softcap: float | None = ..., z_loss: float = ..., sample_weight: Tensor | None = ...,
    return_stats: Literal[False] = ..., chunk_bytes: int | None = ..., process_group: ProcessGroup | None = ...,
    first_class: int | None = ..., num_classes: int | None = ...,
) -> Tensor: ...  # fmt: skip
@overload
def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, target: Tensor | TopK, *, linear_bias: Tensor | None = ...,
    weight: Tensor | None = ..., reduction: str = ..., ignore_index: int | None = ..., label_smoothing: float = ...,
    temperature: float = ..., softcap: float | None = ..., z_loss: float = ..., sample_weight: Tensor | None = ...,
    return_stats: Literal[True], chunk_bytes: int | None = ..., process_group: ProcessGroup | None = ...,
    first_class: int | None = ..., num_classes: int | None = ...,
) -> tuple[Tensor, Stats]: ...  # fmt: skip
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor | TopK,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    sample_weight: Tensor | None = None,
    return_stats: bool = False,
    chunk_bytes: int | None = None,
    process_group: ProcessGroup | None = None,
    first_class: int | None = None,
    num_classes: int | None = None,
) -> Tensor | tuple[Tensor, Stats]:
    r"""Cross-entropy between a target and the softmax of input · linear_weightᵀ + linear_bias, in nats.

    It is `cross_entropy(torch.nn.functional.linear(input, linear_weight, linear_bias), target, …)` with all its
    options, but the logits of a large vocabulary, the peak of a training step's memory, are made a chunk at a time.
    Parameters and semantics that torch knows are those of `torch.nn.functional.linear_cross_entropy`.

    Logits are float32 (float64 for float64 operands) whatever the dtype of the operands, and so are all sums; the
    gradients are rounded to the dtype of their operand once, at the end. Where the processor has matrix units for
    bfloat16, the gradient of the logits is rounded to it before it is multiplied. Under `torch.autocast` the
    operands are cast to its dtype.

    With "mean" or "sum" the gradients of float32 operands are computed in the forward already, which saves
    multiplying the logits a second time. A derivative of the gradient (create_graph=True) is recomputed with all
    logits in memory, and slow.

    Parameters
    ----------
    input
        Features, shape (D), (N, D) or (…, D); float32, float64, bfloat16 or float16.
    linear_weight
        Shape (C, D), or (C, d1, …, dk, D), which makes logits (…, C, d1, …, dk); of the dtype of the input.
    target
        Class indices, shape (), (N) or (…, d1, …, dk), any integer dtype; or class probabilities in the shape of the
        logits, (C), (N, C) or (…, C, d1, …, dk), any floating dtype, differentiable; or a `TopK` with K for C.
    linear_bias
        Shape (C) or (C, d1, …, dk), of the dtype of the input.
    weight
        Weight of each class, shape (C). A constant: it gets no gradient.
    reduction, label_smoothing, temperature, softcap, z_loss, return_stats
        As in `cross_entropy`. Stats of soft, smoothed or class-weighted targets cost another product.
    ignore_index
        Rows of this class contribute neither loss nor gradient, nor on CPUs any work; None means −100. Indices only.
    sample_weight
        Weight of each row, in the shape of the loss with reduction="none".
    chunk_bytes
        How many bytes of logits there may be at a time, by default 128 MiB, and 512 MiB or more on GPUs (a thousand
        rows); a tile has one logit at least. It changes results by rounding only. If fewer than 128 rows of logits fit
        (1024 on GPUs), the logits are multiplied twice, in smaller tiles. On GPUs the gradient of a half-precision
        weight may take as much memory again as that weight in float32.
    process_group, first_class, num_classes
        As in `cross_entropy`, for a layer of which this rank has the rows of some classes: `linear_weight` and
        `linear_bias` are shards. The gradient of the input is that of all classes.

    Returns
    -------
    Tensor or (Tensor, Stats)
        The loss, float64 for float64 input and else float32: shape () or, with reduction="none", that of the rows.

    Raises
    ------
    IndexError
        If a class index is neither `ignore_index` nor in [0, C − 1].
    ValueError
        If shapes do not fit, an option is out of its range, a target probability is negative, infinite or NaN, or
        `ignore_index` is given beside probabilities.
    TypeError
        If the operands are not floating-point or differ in dtype, or the target has a dtype that fits neither kind.
    NotImplementedError
        If the input is on a device for which there is no backend.

    Notes
    -----
    Operands may be DTensors: `linear_weight` and `linear_bias` sharded over classes (`Shard(0)`) on any dimensions of
    the mesh, the input on any axis but the last, over the same dimension (sequence parallelism) or others. All three
    are DTensors then. The loss is the same on every rank, and each gradient is placed as its operand.

    For each group of ranks that share the classes, the forward sends one MAX of N numbers and one SUM of 4 N + 2, both
    float64, and the backward one SUM of the input's gradient, N · D numbers in float32, a chunk of rows at a time
    while the next is multiplied. Under sequence parallelism the forward gathers the N · D numbers of the input, and the
    target if that is sharded, and the backward scatters the sum instead. Ranks that have other rows of the same
    classes add up the gradient of the weight in float32. `Stats` send what they send in `cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import linear_cross_entropy
    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> head = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> linear_cross_entropy(features, head, torch.tensor([0, 1]))
    tensor(0.4076)
    >>> linear_cross_entropy(features, head, torch.tensor([0, 2]), reduction="none")
    tensor([0.4076, 1.4076])

    References
    ----------
    Chunks of the vocabulary: Wijmans et al. (2025), https://arxiv.org/abs/2411.09009.
    """
    how: Closing = (reduction_of(reduction), sample_weight, z_loss)
    ignored: Any = ignore_index  # None until it is known whether the target is one of indices
    options = Options(weight, label_smoothing, ignored, *phi_of(temperature, softcap))
    if chunk_bytes is not None:
        check_chunk_bytes(chunk_bytes)
    layer, more = (input, linear_weight, linear_bias), (return_stats, chunk_bytes)
    if any(is_dtensor(x) for x in layer):
        check_no_group(process_group, first_class)
        call, distributed = of_layer(layer, target, options, how, num_classes)
        return distributed(_linear_cross_entropy(*call, more))
    shards = NO_SHARDS
    if process_group is not None or first_class is not None or num_classes is not None:
        columns = linear_weight.shape[0] if isinstance(linear_weight, Tensor) and linear_weight.ndim else 0  # pyright: ignore
        shards = shards_of(process_group, first_class, num_classes, columns)
    return _linear_cross_entropy(layer, target, options, how, shards, more)


def _linear_cross_entropy(
    layer: tuple[Tensor, Tensor, Tensor | None],
    target: Tensor | TopK,
    options: Options,
    how: Closing,
    shards: Shards,
    more: tuple[bool, int | None],
) -> Tensor | tuple[Tensor, Stats]:
    """Return the loss of a layer whose operands are on this rank, and of what others have."""
    features, matrix, bias = _autocast(*layer)
    mode, sample_weight, z_loss = how
    return_stats, chunk_bytes = more
    given = features if shards.gathered is None else shards.gathered.to(features.dtype)
    logits = logits_of_layer(given, matrix, bias, shard=bool(shards.groups))
    soft = isinstance(target, TopK) or (isinstance(target, Tensor) and target.shape == logits.shape)  # pyright: ignore[reportUnnecessaryIsInstance]
    ignored: Any = options.ignore_index
    if soft and ignored is not None:
        raise ValueError(
            "ignore_index applies to class indices, not to probabilities; use sample_weight=0 for such rows"
        )
    options = shards.told_to(options._replace(ignore_index=-100) if ignored is None else options)
    rows = rows_of(logits, given, target, options.ignore_index)
    check_options(given, shards.num_classes or logits.classes, options.weight, options.smoothing, z_loss)
    samples = sample_weight_of(sample_weight, rows, given)

    width = math.prod(matrix.shape[:-1])
    features = features.reshape(math.prod(features.shape[:-1]), features.shape[-1])
    matrix = matrix.reshape(width, matrix.shape[-1])
    bias = None if bias is None else bias.reshape(width)
    positions = math.prod(layer[1].shape[1:-1])
    prob = rows.prob
    if prob is not None and prob.ndim == 3 and matrix.shape[0] == logits.classes:
        prob = prob.squeeze(2)
    call = (features, matrix, bias, positions)
    gathered = None if shards.gathered is None else given.reshape(-1, given.shape[-1])
    local = options._replace(weight=shards.local(options.weight, logits.classes))
    those = (list(shards.row_groups), gathered, shards.order, shards.each)
    wanted, constant = _wants_gradient(features, matrix, bias), not any(_wants_gradient(prob, samples))
    alone = not (shards.groups or shards.row_groups)
    if chunk_bytes is None:
        chunk_bytes = default_chunk_bytes(features, matrix) if alone else device_of(features).chunk_bytes
    if alone and mode != "none" and any(wanted) and constant and one_sweep(features, matrix, chunk_bytes) is not None:
        arguments = (samples, z_loss, mode == "mean", wanted, chunk_bytes)
        result, *stats = linear_loss(*call, rows.index, prob, *local, *those, *arguments)
    else:
        if not alone:
            names = ("input", "linear_weight", "linear_bias")
            frozen = [name for name, want in zip(names, wanted, strict=True) if not want]
            facts = {"the dtype": str(features.dtype), "chunk_bytes": chunk_bytes, "what gets no gradient": frozen}
            shards.check_agreement(rows, options, how, return_stats=return_stats, **facts)
        size = rows.logits.shape.numel() * loss_dtype(features.dtype).itemsize
        keep = any(wanted) and (mode == "none" or return_stats or not alone) and size <= chunk_bytes
        stats = linear_stats(*call, rows.index, prob, *local, *those, keep, chunk_bytes)
        result = reduced(rows, options, (mode, samples, z_loss), stats, shards.row_groups)
    if not return_stats:
        return result
    return result, described(
        rows, options, tuple(stats[:4]), lambda *target: linear_stats(*call, *target, *those, False, chunk_bytes)[:4]
    )


def _wants_gradient(*tensors: Tensor | None) -> list[bool]:
    return [x is not None and x.requires_grad and torch.is_grad_enabled() for x in tensors]


def _autocast(*tensors: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    device = tensors[0].device.type if isinstance(tensors[0], Tensor) else "cpu"
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return tensors  # pyright: ignore[reportReturnType]
    dtype = torch.get_autocast_dtype(device)
    return tuple(  # pyright: ignore[reportReturnType]
        x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64 else x
        for x in tensors
    )
