"""Log-probabilities of classes, of logits and of a linear layer: statistics of a head for reinforcement learning."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crossent.torch.base.overrides import overridable
from crossent.torch.base.values import is_dtensor
from crossent.torch.call.arguments import Arguments, scores_of, sharding_of
from crossent.torch.call.checks import check_input, chunk_bytes_of
from crossent.torch.call.dtensor import of_layer, of_logits
from crossent.torch.call.low_rank import LowRank, layer_of
from crossent.torch.call.results import Stats
from crossent.torch.lazy.fusing import fused_loss, fused_selected
from crossent.torch.lazy.logits import LazyLogits
from crossent.torch.linear import loss_of_layer
from crossent.torch.logits import loss_of_logits
from crossent.torch.selected_classes import (
    SelectedClasses,
    reshaped,
    rows_arguments,
    selected_of_dtensor,
    selected_of_layer,
    selected_of_logits,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@overridable
def logprobs(
    logits: Tensor,
    classes: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    process_group: ProcessGroup | None = None,
    first_class: int | None = None,
    num_classes: int | None = None,
) -> Stats:
    r"""Log-probabilities of classes under the softmax of logits, and statistics of each row, in nats.

    The scores of logits z are s = softcap · tanh(z / (temperature · softcap)), or z / temperature without a softcap.
    The prediction of a row is q = softmax(s), and

        logprob = log q_c = s_c − log Σ_v e^(s_v),   entropy = −Σ_v q_v log q_v,   log_sum_squares = log Σ_v q_v²

    with every derivative: `logprob`, `lse`, `entropy` and `log_sum_squares` take any cotangents, all at once. The
    forward allocates no tensor of the size of the logits.

    Parameters
    ----------
    logits
        Logits z, shape (…, V), the classes on the last axis; float32, float64, bfloat16 or float16.
    classes
        A class for each row, shape (…), or K classes for each, shape (…, K); any integer dtype. The same class may
        occur twice in a row.
    temperature
        Divides the logits; positive. A tensor of shape (…) holds one temperature per row.
    softcap
        Soft bound of the scores; None for no bound.
    ignore_index
        A row of this class has no statistics: its outputs are 0 (`predicted` −1), for any logits. With K classes per
        row, only that entry is left out: its `logprob` is 0.
    process_group, first_class, num_classes
        As in `cross_entropy`: the logits are those of a shard of the classes.

    Returns
    -------
    Stats
        `logprob` in the shape of `classes`; everything else in the shape (…) of the rows. Floats are float64 for
        float64 logits and else float32. With K classes per row, `correct` is whether one of them has the highest score
        of all.

    Raises
    ------
    IndexError
        If a class is neither `ignore_index` nor in [0, V − 1]. (On a GPU, `logprob` is NaN instead, to avoid a
        synchronization.)
    ValueError
        If shapes do not fit, or an option is out of its range.
    TypeError
        If the logits are not floating-point, or the classes are not integers.
    NotImplementedError
        If the logits are on a device for which there is no backend.

    Notes
    -----
    The backward reads the logits once for `logprob`, `lse` and `entropy`, and once more for `log_sum_squares`, whose
    gradient 2 q_v (q_v / Σ q² − 1) is computed in float64.
    For each group of ranks that share the classes, the forward sends two times one MAX of N numbers and one SUM of
    4 N + 2, all float64, then a MAX and a MIN of N for `predicted`; K classes take one SUM of N · K more. The backward
    sends nothing.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import logprobs
    >>> logits = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]).log()
    >>> logprobs(logits, torch.tensor([0, 1])).logprob
    tensor([-0.3567, -1.2040])
    >>> found = logprobs(logits, torch.tensor([[0, 1], [2, 2]]))
    >>> found.logprob.exp()
    tensor([[0.7000, 0.2000],
            [0.6000, 0.6000]])
    >>> found.entropy, found.log_sum_squares.exp(), found.predicted
    (tensor([0.8018, 0.8979]), tensor([0.5400, 0.4600]), tensor([0, 2]))

    References
    ----------
    Rényi (1961), On measures of entropy and information, https://projecteuclid.org/euclid.bsmsp/1200512181.
    """
    if not isinstance(logits, LazyLogits):
        check_input(logits)
    if logits.ndim == 0:
        raise ValueError("logits must have a class axis, the last one: shape (…, V); got a number")
    rows, scores = logits.shape[:-1], scores_of(temperature, softcap)
    given = SelectedClasses.of(classes, rows, logits.device, ignore_index, "logits")
    sharding = sharding_of(process_group, first_class, num_classes)
    if is_dtensor(logits):
        arguments = rows_arguments(logits.movedim(-1, min(1, len(rows))), given, scores, sharding)
        return loss_of_logits(arguments)[1] if given.single else selected_of_dtensor(arguments, of_logits)  # pyright: ignore
    flat = logits if len(rows) <= 1 else logits.reshape(rows.numel(), logits.shape[-1])
    own: Any = scores.row_temperature
    if own is not None and own.shape == rows and len(rows) > 1:
        scores = dataclasses.replace(scores, row_temperature=own.reshape(-1))
    arguments = rows_arguments(flat, given.flat(rows), scores, sharding)
    return reshaped(_of_logits(arguments), rows)


@overridable
def linear_logprobs(
    input: Tensor,
    linear_weight: Tensor | LowRank,
    classes: Tensor,
    *,
    linear_bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    chunk_bytes: int | None = None,
    process_group: ProcessGroup | None = None,
    first_class: int | None = None,
    num_classes: int | None = None,
) -> Stats:
    r"""Log-probabilities of classes under the softmax of input · linear_weightᵀ + linear_bias, and statistics of rows.

    It is `logprobs(torch.nn.functional.linear(input, linear_weight, linear_bias), classes, …)`, but the logits are
    computed in chunks. All statistics are read from a chunk while it is in cache: K classes cost one product in the
    forward, the same as one class, and three in a backward of all gradients. A derivative of the gradient
    (create_graph=True) is recomputed with all logits in memory, and slow.

    Parameters
    ----------
    input
        Features, shape (D), (N, D) or (…, D); float32, float64, bfloat16 or float16.
    linear_weight
        Shape (V, D), of the dtype of the input. One class for each row may be one of a K-dimensional layer,
        (V, d1, …, dk, D).
    classes
        A class for each row, shape (…) (or (…, d1, …, dk)), or K classes for each, shape (…, K); any integer dtype.
    linear_bias
        Shape (V) or (V, d1, …, dk), of the dtype of the input.
    temperature, softcap, ignore_index
        As in `logprobs`. Rows of the class `ignore_index` cost no work on CPUs.
    chunk_bytes
        As in `linear_cross_entropy`. Logits that all fit are kept for the backward, which then makes none.
    process_group, first_class, num_classes
        As in `linear_cross_entropy`: `linear_weight` and `linear_bias` are shards, the rows of some classes.

    Returns
    -------
    Stats
        As from `logprobs`.

    Raises
    ------
    IndexError, ValueError, TypeError
        As `logprobs`, and if the operands do not fit each other.
    NotImplementedError
        If the input is on a device for which there is no backend, or for K classes of a K-dimensional layer.

    Notes
    -----
    Operands may be DTensors as in `linear_cross_entropy`. The collectives are those of `logprobs`, and in the backward
    those of `linear_cross_entropy`. Where one class is picked for each row, and neither weight nor bias require a
    gradient, the forward keeps the derivative of each log-probability by its row of the input if that fits into
    `chunk_bytes`: two products in all, for any cotangents of `logprob`.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import linear_logprobs
    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> head = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> linear_logprobs(features, head, torch.tensor([0, 1])).logprob
    tensor([-0.4076, -0.4076])
    >>> linear_logprobs(features, head, torch.tensor([[0, 2], [0, 2]])).logprob
    tensor([[-0.4076, -1.4076],
            [-2.4076, -1.4076]])

    References
    ----------
    Chunks of the vocabulary: Wijmans et al. (2025), https://arxiv.org/abs/2411.09009.
    """
    check_input(input)
    layer, scores = layer_of(input, linear_weight, linear_bias), scores_of(temperature, softcap)
    chunk_bytes, sharding = chunk_bytes_of(chunk_bytes), sharding_of(process_group, first_class, num_classes)
    weight: Any = layer.linear_weight
    positions = weight.shape[1:-1] if isinstance(weight, Tensor) and weight.ndim > 2 else ()
    rows = torch.Size((*input.shape[:-1], *positions))
    given = SelectedClasses.of(classes, rows, input.device, ignore_index, "input")
    arguments = rows_arguments(layer, given, scores, sharding)
    if given.single:
        return loss_of_layer(arguments, chunk_bytes)[1]  # pyright: ignore
    if positions:
        raise NotImplementedError(
            f"{classes.shape[-1]} classes for each row of a K-dimensional layer are not supported yet; pass one class "
            "for "
            "each row, or linear_weight of shape (V, D)"
        )
    if any(is_dtensor(x) for x in layer):
        return selected_of_dtensor(arguments, of_layer, chunk_bytes)
    return selected_of_layer(arguments.sharded(), chunk_bytes)


def _of_logits(arguments: Arguments) -> Stats:
    """Return the statistics of logits (N, V) or (V), of one class a row or of several."""
    logits, single = arguments.operands, not isinstance(arguments.target, SelectedClasses)
    if isinstance(logits, LazyLogits) and logits.stays_lazy():
        fused: Any = fused_loss(arguments) if single else fused_selected(arguments)
        if fused is not NotImplemented:
            return fused[1]
    if not single:
        return selected_of_logits(arguments.sharded())
    found: Any = loss_of_logits(arguments)
    return found[1]
