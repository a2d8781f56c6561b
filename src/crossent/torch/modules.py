"""The losses as modules, with the constructors of torch's own."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from crossent.spec import Scores
from crossent.torch.call.checks import check_chunk_bytes, check_ignore_index, check_numbers, check_weight
from crossent.torch.call.results import Stats, reduction_of
from crossent.torch.call.targets import TopK
from crossent.torch.functional import binary_cross_entropy_with_logits, cross_entropy
from crossent.torch.linear import linear_cross_entropy


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
        self.reduction = reduction_of(reduction, size_average, reduce)
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


class LinearCrossEntropyLoss(nn.Module):
    """Cross-entropy of a linear layer's outputs: `linear_cross_entropy` with its layer and its options bound.

    The layer is the submodule `linear`, with out_features · num_classes outputs, as in torch's module of this name.

    Parameters
    ----------
    in_features, num_classes, out_features, bias, device, dtype, weight, reduction, ignore_index, label_smoothing
        As in `torch.nn.LinearCrossEntropyLoss`.
    temperature, softcap, z_loss, return_stats, chunk_bytes
        As in `crossent.torch.linear_cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import LinearCrossEntropyLoss
    >>> _ = torch.manual_seed(0)
    >>> loss = LinearCrossEntropyLoss(8, 4)
    >>> loss(torch.zeros(2, 8), torch.tensor([0, 3])).detach()
    tensor(1.3863)
    """

    weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        temperature: float = 1.0,
        softcap: float | None = None,
        z_loss: float = 0.0,
        return_stats: bool = False,
        chunk_bytes: int | None = None,
    ) -> None:
        super().__init__()
        _ = Scores(temperature, softcap)  # raises here rather than in the first step of training
        check_numbers(label_smoothing, z_loss)
        if weight is not None:
            check_weight(weight, num_classes)
        if ignore_index is not None:
            check_ignore_index(ignore_index)
        if chunk_bytes is not None:
            check_chunk_bytes(chunk_bytes)
        self.register_buffer("weight", weight)
        self.reduction = reduction_of(reduction)
        self.num_classes = num_classes
        self.out_features = tuple(out_features)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.temperature = temperature
        self.softcap = softcap
        self.z_loss = z_loss
        self.return_stats = return_stats
        self.chunk_bytes = chunk_bytes
        outputs = math.prod(self.out_features, start=num_classes)
        self.linear = nn.Linear(in_features, outputs, bias=bias, device=device, dtype=dtype)

    def forward(self, input: Tensor, target: Tensor | TopK, *, sample_weight: Tensor | None = None) -> Any:
        """Return the loss, or (loss, Stats); see `crossent.torch.linear_cross_entropy`."""
        shape = (self.num_classes, *self.out_features)
        bias = self.linear.bias
        result: Tensor | tuple[Tensor, Stats] = linear_cross_entropy(  # pyright: ignore[reportCallIssue]
            input,
            self.linear.weight.reshape(*shape, self.linear.in_features),
            target,
            linear_bias=None if bias is None else bias.reshape(shape),  # pyright: ignore[reportUnnecessaryComparison]
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            temperature=self.temperature,
            softcap=self.softcap,
            z_loss=self.z_loss,
            sample_weight=sample_weight,
            return_stats=self.return_stats,  # pyright: ignore[reportArgumentType]
            chunk_bytes=self.chunk_bytes,
        )
        return result

    def extra_repr(self) -> str:
        """Return the sizes, and the options that are not at their defaults."""
        options = {
            "num_classes": (self.num_classes, None),
            "out_features": (self.out_features, ()),
            "ignore_index": (self.ignore_index, None),
            "reduction": (self.reduction, "mean"),
            "label_smoothing": (self.label_smoothing, 0.0),
            "temperature": (self.temperature, 1.0),
            "softcap": (self.softcap, None),
            "z_loss": (self.z_loss, 0.0),
            "return_stats": (self.return_stats, False),
            "chunk_bytes": (self.chunk_bytes, None),
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
        self.reduction = reduction_of(reduction, size_average, reduce)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; see `crossent.torch.binary_cross_entropy_with_logits`."""
        return binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )
