"""Small helpers for tensors: dtypes, results of rows, autocast, and views to differentiate by."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.kernels.backend import RowOutputs
from crossent.stats import FIELDS

REAL = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
"""The dtypes of logits, probabilities and operands of a head."""
INTEGER = frozenset(
    {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64}
)
"""The dtypes of class indices."""
NUMBERS = frozenset({
    *REAL, *INTEGER, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
})  # fmt: skip
"""The dtypes of weights; kernels read those of `REAL`, and the others are converted."""


class RowResults(NamedTuple):
    """Loss, lse and entropy of each row, (N,), and the record, (5, N) float64."""

    loss: Tensor
    lse: Tensor
    entropy: Tensor
    record: Tensor

    @property
    def outputs(self) -> RowOutputs:
        """The three vectors, as a backend writes them."""
        return RowOutputs(self.loss, self.lse, self.entropy)


class PredictionResults(NamedTuple):
    """Results of the prediction of each row, independent of the target.

    log Σ q² (N,), the record (5, N) float64 of doubled scores, the most probable class (N,) int64 and its logit (N,)
    float64.
    """

    log_sum_squares: Tensor
    squares_record: Tensor
    predicted: Tensor
    peak: Tensor


class PairResults(NamedTuple):
    """Results (N,) of the student's rows and its record, the teacher's, the divergences, and the sums (4, N) float64.

    Results that depend only on the teacher's logits have the dtype of the teacher's losses, all others that of the
    student's.
    """

    loss: Tensor
    lse: Tensor
    entropy: Tensor
    record: Tensor
    teacher_lse: Tensor
    teacher_entropy: Tensor
    teacher_record: Tensor
    kl: Tensor
    reverse_kl: Tensor
    js: Tensor
    """Zeros without β."""
    sums: Tensor

    @property
    def student(self) -> RowResults:
        """The results of the student's rows."""
        return RowResults(self.loss, self.lse, self.entropy, self.record)


SWAPPED = [1, 0, 3, 2]
"""Where the sums of a pair lie in those of the pair in each other's place."""


def pair_results(
    student: RowResults, teacher: RowResults, sums: Tensor, beta: float | None, ignored: Tensor | None
) -> PairResults:
    """Return the results of pairs of student and teacher rows; in place, the sums of ignored rows are set to 0."""
    if ignored is not None:
        sums = sums.masked_fill_(ignored, 0.0)
    kl, reverse, of_p, of_q = sums
    share = 0.0 if beta is None else beta
    divergences = (x.to(student.loss.dtype) for x in (kl, reverse, share * of_p + (1 - share) * of_q))
    return PairResults._make((*student, *teacher[1:], *divergences, sums))


class RowRecord(NamedTuple):
    """Loss (N,) and record (5, N) of each row; a record (5, 0) is none."""

    loss: Tensor
    record: Tensor


def new_record(rows: int, like: Tensor, *, recorded: bool = True) -> RowRecord:
    """Return memory for loss and, if it is wanted, record of so many rows of logits of a dtype and on a device."""
    loss = like.new_empty((rows,), dtype=loss_dtype(like.dtype))
    return RowRecord(loss, like.new_empty((len(FIELDS), rows if recorded else 0), dtype=torch.float64))


def loss_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of losses and statistics: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def has_autocast(tensor: Tensor) -> bool:
    """Return whether torch.autocast supports the device of a tensor."""
    return torch.amp.is_autocast_available(tensor.device.type)


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast on the device of a tensor."""
    return torch.autocast(tensor.device.type, enabled=False) if has_autocast(tensor) else nullcontext()


def is_dtensor(x: Any) -> bool:
    """Return whether this is a DTensor; there is none before torch.distributed.tensor is imported."""
    if type(x) in (Tensor, torch.nn.Parameter):
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)  # pyright: ignore


def aliases(first: Tensor, *others: Tensor | None) -> list[Any]:
    """Return a view of each tensor that requires a gradient, and of the first one in any case.

    Derivatives with respect to the views are partial ones: they do not follow how one tensor came from another. Yet
    the views belong to the graph, so that these derivatives can be differentiated in turn.
    """
    head = partial_view(first) if first.requires_grad else first.detach().requires_grad_()
    return [head, *map(partial_view, others)]


def partial_view(x: Tensor | None) -> Tensor | None:
    """Return a view of a tensor that requires a gradient, to differentiate by: a place in the graph of its own."""
    return x.view_as(x) if x is not None and x.requires_grad else x


def derivatives(
    output: Tensor, inputs: Sequence[Tensor | None], cotangent: Tensor, *, again: bool
) -> list[Tensor | None]:
    """Return the gradient with respect to each input that requires one, and None for the others."""
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(output, wanted, cotangent, create_graph=again, allow_unused=True))
    return [next(found) if x is not None and x.requires_grad else None for x in inputs]
