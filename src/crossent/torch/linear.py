"""Cross-entropy of a linear layer's outputs, which never exist all at once."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from crossent.torch._closing import Options, Stats, described, phi_of, reduced, reduction_of
from crossent.torch._inputs import (
    Logits,
    TopK,
    check_chunk_bytes,
    check_companion,
    check_input,
    check_options,
    rows_of,
    sample_weight_of,
)
from crossent.torch._linear import linear_loss, linear_stats
from crossent.torch._plain import loss_dtype
from crossent.torch._plan import default_chunk_bytes, one_sweep


@overload
def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, target: Tensor | TopK, *, linear_bias: Tensor | None = ...,
    weight: Tensor | None = ..., reduction: str = ..., ignore_index: int | None = ..., label_smoothing: float = ...,
    temperature: float = ..., softcap: float | None = ..., z_loss: float = ..., sample_weight: Tensor | None = ...,
    return_stats: Literal[False] = ..., chunk_bytes: int | None = ...,
) -> Tensor: ...  # fmt: skip
@overload
def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, target: Tensor | TopK, *, linear_bias: Tensor | None = ...,
    weight: Tensor | None = ..., reduction: str = ..., ignore_index: int | None = ..., label_smoothing: float = ...,
    temperature: float = ..., softcap: float | None = ..., z_loss: float = ..., sample_weight: Tensor | None = ...,
    return_stats: Literal[True], chunk_bytes: int | None = ...,
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
        Rows of this class contribute neither loss nor gradient, nor any work; None means −100. Indices only.
    sample_weight
        Weight of each row, in the shape of the loss with reduction="none".
    chunk_bytes
        How many bytes of logits there may be at a time, by default 128 MiB, and 512 MiB or more on GPUs (a thousand
        rows); a tile has one logit at least. It changes results by rounding only. If fewer than 128 rows of logits fit
        (1024 on GPUs), the logits are multiplied twice, in smaller tiles. On GPUs the gradient of a half-precision
        weight may take as much memory again as that weight in float32.

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
    mode = reduction_of(reduction)
    features, matrix, bias = _autocast(input, linear_weight, linear_bias)
    logits = _logits_of(features, matrix, bias)
    soft = isinstance(target, TopK) or (isinstance(target, Tensor) and target.shape == logits.shape)  # pyright: ignore[reportUnnecessaryIsInstance]
    if soft and ignore_index is not None:
        raise ValueError(
            "ignore_index applies to class indices, not to probabilities; use sample_weight=0 for such rows"
        )
    ignored = -100 if ignore_index is None else ignore_index
    rows = rows_of(logits, features, target, ignored)
    options = Options(weight, label_smoothing, ignored, *phi_of(temperature, softcap))
    check_options(features, logits.classes, weight, label_smoothing, z_loss)
    samples = sample_weight_of(sample_weight, rows, features)
    if chunk_bytes is not None:
        check_chunk_bytes(chunk_bytes)

    width = math.prod(matrix.shape[:-1])
    features = features.reshape(math.prod(features.shape[:-1]), features.shape[-1])
    matrix = matrix.reshape(width, matrix.shape[-1])
    bias = None if bias is None else bias.reshape(width)
    prob = rows.prob
    if prob is not None and prob.ndim == 3 and width == logits.classes:
        prob = prob.squeeze(2)
    chunk_bytes = default_chunk_bytes(features, matrix) if chunk_bytes is None else chunk_bytes
    call = (features, matrix, bias, logits.classes)
    wanted, constant = _wants_gradient(features, matrix, bias), not any(_wants_gradient(prob, samples))
    if mode != "none" and any(wanted) and constant and one_sweep(features, matrix, chunk_bytes) is not None:
        arguments = (samples, z_loss, mode == "mean", wanted, chunk_bytes)
        result, *stats = linear_loss(*call, rows.index, prob, *options, *arguments)
    else:
        size = features.shape[0] * width * loss_dtype(features.dtype).itemsize
        keep = any(wanted) and (mode == "none" or return_stats) and size <= chunk_bytes
        stats = linear_stats(*call, rows.index, prob, *options, keep, chunk_bytes)
        result = reduced(rows, options, (mode, samples, z_loss), stats)
    if not return_stats:
        return result
    return result, described(
        rows, options, tuple(stats[:4]), lambda *target: linear_stats(*call, *target, False, chunk_bytes)[:4]
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


def _logits_of(input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None) -> Logits:
    check_input(input)
    for name, x in (("linear_weight", linear_weight), ("linear_bias", linear_bias)):
        if x is None:
            continue
        check_companion(name, x, input)
        if x.dtype != input.dtype:
            raise TypeError(
                f"{name} is {x.dtype} and input {input.dtype}; use {name}.to(input.dtype), or torch.autocast"
            )
    given = tuple(linear_weight.shape)
    if input.ndim == 0 or linear_weight.ndim < 2 or given[-1] != input.shape[-1]:
        raise ValueError(
            f"input of shape {tuple(input.shape)} and linear_weight of shape {given} do not fit: they must be (…, D) "
            "and (C, D), or (C, d1, …, D), with the same number D of features"
        )
    if linear_bias is not None and linear_bias.shape != given[:-1]:
        raise ValueError(
            f"linear_bias must have shape {given[:-1]}, one entry for each row of linear_weight, "
            f"got {tuple(linear_bias.shape)}"
        )
    batch, classes, spatial = input.shape[:-1], given[0], given[1:-1]
    if spatial and not batch:
        raise ValueError(
            f"linear_weight of shape {given} makes a K-dimensional loss, which needs a batch of inputs; "
            "use input.unsqueeze(0)"
        )
    rows = torch.Size((*batch, *spatial))
    if classes == 0 and rows.numel() > 0:
        raise ValueError(f"linear_weight of shape {given} has no classes; they are its axis 0")
    return Logits(torch.Size((*batch, classes, *spatial)), len(batch), rows)
