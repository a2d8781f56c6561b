"""The losses as modules, with the constructors of torch's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import _reduction as _legacy

from crossent import closing
from crossent.spec import Scores
from crossent.torch._inputs import TopK
from crossent.torch.functional import Stats, binary_cross_entropy_with_logits, cross_entropy


def _mode(reduction: str, size_average: bool | None, reduce: bool | None) -> str:
    if size_average is not None or reduce is not None:
        reduction = _legacy.legacy_get_string(size_average, reduce)
    closing.check_reduction(reduction)
    return reduction


class CrossEntropyLoss(nn.Module):
    """Cross-entropy between a target and the softmax of logits: `cross_entropy` with its options bound.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As in `torch.nn.CrossEntropyLoss`.
    temperature, softcap, z_loss, return_stats
        As in `crossent.torch.cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import CrossEntropyLoss
    >>> loss = CrossEntropyLoss(label_smoothing=0.1)
    >>> loss(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor(1.3863)
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        temperature: float = 1.0,
        softcap: float | None = None,
        z_loss: float = 0.0,
        return_stats: bool = False,
    ) -> None:
        super().__init__()
        _ = Scores(temperature, softcap)  # raises here rather than in the first step of training
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = _mode(reduction, size_average, reduce)
        self.label_smoothing = label_smoothing
        self.temperature = temperature
        self.softcap = softcap
        self.z_loss = z_loss
        self.return_stats = return_stats

    def forward(self, input: Tensor, target: Tensor | TopK, *, sample_weight: Tensor | None = None) -> Any:
        """Return the loss, or (loss, Stats); see `crossent.torch.cross_entropy`."""
        result: Tensor | tuple[Tensor, Stats] = cross_entropy(  # pyright: ignore[reportCallIssue]
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            temperature=self.temperature,
            softcap=self.softcap,
            z_loss=self.z_loss,
            sample_weight=sample_weight,
            return_stats=self.return_stats,  # pyright: ignore[reportArgumentType]
        )
        return result

    def extra_repr(self) -> str:
        """Return the options that are not at their defaults."""
        options = {
            "ignore_index": (self.ignore_index, -100),
            "reduction": (self.reduction, "mean"),
            "label_smoothing": (self.label_smoothing, 0.0),
            "temperature": (self.temperature, 1.0),
            "softcap": (self.softcap, None),
            "z_loss": (self.z_loss, 0.0),
            "return_stats": (self.return_stats, False),
        }
        return ", ".join(f"{name}={value!r}" for name, (value, default) in options.items() if value != default)


class BCEWithLogitsLoss(nn.Module):
    """Binary cross-entropy of sigmoid outputs: `binary_cross_entropy_with_logits` with its options bound.

    Parameters
    ----------
    weight, size_average, reduce, reduction, pos_weight
        As in `torch.nn.BCEWithLogitsLoss`.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import BCEWithLogitsLoss
    >>> loss = BCEWithLogitsLoss(pos_weight=torch.tensor([2.0]))
    >>> loss(torch.zeros(3, 1), torch.tensor([[1.0], [0.0], [0.0]]))
    tensor(0.9242)
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self.reduction = _mode(reduction, size_average, reduce)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; see `crossent.torch.binary_cross_entropy_with_logits`."""
        return binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )
