"""The losses as modules: subclasses of torch's own, with their constructors and more options.

They are subclasses because other libraries ask for that: skorch makes probabilities of logits for instances of
`torch.nn.CrossEntropyLoss`, and curvature libraries look for torch's losses in the same way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor, nn

from crossent.numbers import real
from crossent.torch.call.arguments import scores_of
from crossent.torch.call.checks import check_numbers, check_tensor, check_weight, chunk_bytes_of, ignore_index_of
from crossent.torch.call.results import Stats, reduction_of
from crossent.torch.call.targets import TargetKind
from crossent.torch.functional import binary_cross_entropy, binary_cross_entropy_with_logits, cross_entropy
from crossent.torch.linear import linear_cross_entropy

if TYPE_CHECKING:
    from torch.nn import LinearCrossEntropyLoss as _TorchLinearLoss
else:
    _TorchLinearLoss = getattr(nn, "LinearCrossEntropyLoss", nn.Module)  # torch 2.10 lacks it


class _NotScripted:
    """A loss that TorchScript refuses with a reason: TorchScript asks a module for its code before it compiles it."""

    def __prepare_scriptable__(self) -> NoReturn:
        name = type(self).__name__
        raise NotImplementedError(
            f"TorchScript cannot compile crossent's {name}; use torch.compile, or script the model without its loss or "
            f"with torch.nn.{name}"
        )


class CrossEntropyLoss(_NotScripted, nn.CrossEntropyLoss):
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
        _check_options(ignore_index, label_smoothing, temperature, softcap, z_loss)
        reduction = reduction_of(reduction, size_average, reduce)
        super().__init__(weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)
        self.temperature = temperature
        self.softcap = softcap
        self.z_loss = z_loss
        self.return_stats = return_stats

    def forward(self, input: Tensor, target: Tensor | TargetKind, *, sample_weight: Tensor | None = None) -> Any:
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
        return _chosen(
            ignore_index=(self.ignore_index, -100),
            reduction=(self.reduction, "mean"),
            label_smoothing=(self.label_smoothing, 0.0),
            temperature=(self.temperature, 1.0),
            softcap=(self.softcap, None),
            z_loss=(self.z_loss, 0.0),
            return_stats=(self.return_stats, False),
        )


class LinearCrossEntropyLoss(_NotScripted, _TorchLinearLoss):
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

    options: Any = None
    """Torch's way to choose chunks, which this loss does not have."""

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
        nn.Module.__init__(self)  # not torch's own, which some versions lack
        _check_options(ignore_index, label_smoothing, temperature, softcap, z_loss)
        if weight is not None:
            check_tensor("weight", weight)
            check_weight(weight, num_classes)
        _ = chunk_bytes_of(chunk_bytes)
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

    def forward(self, input: Tensor, target: Tensor | TargetKind, *, sample_weight: Tensor | None = None) -> Any:
        """Return the loss, or (loss, Stats); see `crossent.torch.linear_cross_entropy`."""
        if self.options is not None:
            raise NotImplementedError("options sets torch's chunks, and this loss has its own; use chunk_bytes")
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
        return _chosen(
            num_classes=(self.num_classes, None),
            out_features=(self.out_features, ()),
            ignore_index=(self.ignore_index, None),
            reduction=(self.reduction, "mean"),
            label_smoothing=(self.label_smoothing, 0.0),
            temperature=(self.temperature, 1.0),
            softcap=(self.softcap, None),
            z_loss=(self.z_loss, 0.0),
            return_stats=(self.return_stats, False),
            chunk_bytes=(self.chunk_bytes, None),
        )


class BCEWithLogitsLoss(_NotScripted, nn.BCEWithLogitsLoss):
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

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__(weight, reduction=reduction_of(reduction, size_average, reduce), pos_weight=pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; see `crossent.torch.binary_cross_entropy_with_logits`."""
        return binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )

    def extra_repr(self) -> str:
        """Return the reduction if it is not the default."""
        return _chosen(reduction=(self.reduction, "mean"))


class BCELoss(_NotScripted, nn.BCELoss):
    """Binary cross-entropy of probabilities: `binary_cross_entropy` with its options bound.

    If you have logits, `BCEWithLogitsLoss` is more accurate.

    Parameters
    ----------
    weight, size_average, reduce, reduction
        As in `torch.nn.BCELoss`.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import BCELoss
    >>> loss = BCELoss(reduction="sum")
    >>> loss(torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0]))
    tensor(0.3285)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, reduction=reduction_of(reduction, size_average, reduce))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; see `crossent.torch.binary_cross_entropy`."""
        return binary_cross_entropy(input, target, self.weight, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the reduction if it is not the default."""
        return _chosen(reduction=(self.reduction, "mean"))


def _check_options(
    ignore_index: int | None, label_smoothing: float, temperature: float, softcap: float | None, z_loss: float
) -> None:
    """Raise where the first step of training would: a number is of a wrong type or out of its range."""
    _ = scores_of(real("temperature", temperature), softcap)
    check_numbers(real("label_smoothing", label_smoothing), real("z_loss", z_loss))
    if ignore_index is not None:
        _ = ignore_index_of(ignore_index)


def _chosen(**options: tuple[Any, Any]) -> str:
    """Return the options, pairs of value and default, that are not at their defaults."""
    return ", ".join(f"{name}={value!r}" for name, (value, default) in options.items() if value != default)
