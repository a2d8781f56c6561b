"""A low-rank adapter beside a head's weight: the argument in place of the weight, and its computation.

The logits x Wᵀ + s (x Aᵀ) Bᵀ equal those of one layer with r more input features, u = s x Aᵀ, and r more columns of the
weight, B. So weights are never added, and autograd does the rest: u is computed here by operations of torch, which pass
its gradient on to A and x.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.numbers import real
from crossent.torch.base.transforms import has_tangents, wants_plain_operations
from crossent.torch.base.values import REAL, has_autocast, is_dtensor, without_autocast
from crossent.torch.call.checks import check_companion, check_input, check_tensor
from crossent.torch.call.layout import LAYER_NAMES, LayerNames, LayerOperands


class LowRank:
    """The weight of a head with a low-rank adapter, weight + scale · b a; the sum is never computed.

    It replaces `linear_weight` or `teacher_weight`. The logits are

        z = input · weightᵀ + scale · (input₂ · aᵀ) · bᵀ + bias

    The number of products of the size of the head is that of the weight alone: two if it is frozen. The adapter adds
    products of rank r. A frozen weight gets no gradient and is not copied.

    Parameters
    ----------
    weight
        Shape (V, D), or (V, d1, …, dk, D): the weight of the head. Or a `Dequantized`, or another `LowRank`, whose
        adapter is added to this one.
    a
        Shape (r, D₂).
    b
        Shape (V, r), or (V, d1, …, dk, r).
    scale
        Factor of the adapter: alpha / r in LoRA, alpha / √r in rsLoRA.
    input
        input₂, of shape (…, D₂): the input of the adapter, if it differs from the head's, as after a dropout.

    Raises
    ------
    TypeError
        If an argument has another type, or a dtype that is not floating-point.
    ValueError
        If shapes do not fit, or the scale is not finite.

    Notes
    -----
    The dtypes of `a` and `b` may differ from the head's. scale · input₂ · aᵀ is computed in the dtype of `a`, and under
    `torch.autocast` in its dtype; it and `b` are then rounded to the dtype of the head's input. On shards of the
    classes, `b` is the shard's rows like `weight`, and `a` the same on all ranks.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import LowRank, linear_cross_entropy
    >>> features, target = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    >>> head = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> a, b = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.5], [0.5], [-1.0]])
    >>> linear_cross_entropy(features, LowRank(head, a, b, scale=2.0), target)
    tensor(0.1429)
    >>> linear_cross_entropy(features, head + 2.0 * b @ a, target)
    tensor(0.1429)

    References
    ----------
    Hu et al. (2021), https://arxiv.org/abs/2106.09685.
    """

    __slots__ = ("a", "b", "input", "scale", "weight")

    def __init__(
        self, weight: Tensor | LowRank, a: Tensor, b: Tensor, scale: float = 1.0, *, input: Tensor | None = None
    ) -> None:
        self.weight, self.a, self.b, self.scale, self.input = weight, a, b, real("scale", scale), input
        if not torch.jit.is_tracing():  # pyright: ignore  # a graph would warn of each comparison of shapes
            self._check()

    def _check(self) -> None:
        weight, a, b = self.weight, self.a, self.b
        for name, x in (("a", a), ("b", b), ("input", self.input)):
            if x is None and name == "input":
                continue
            check_tensor(f"{name} of LowRank", x)  # pyright: ignore[reportArgumentType]
            if x.dtype not in REAL:  # pyright: ignore[reportOptionalMemberAccess]
                raise TypeError(
                    f"{name} of LowRank must be float32, float64, bfloat16 or float16, got {x.dtype}; "  # pyright: ignore
                    f"use {name}.float()"
                )
        if not isinstance(weight, (Tensor, LowRank)):  # pyright: ignore[reportUnnecessaryIsInstance]
            hint = "; pass its .weight" if hasattr(weight, "weight") else ""
            raise TypeError(f"weight of LowRank must be a tensor or a LowRank, got {type(weight).__name__}{hint}")
        if a.ndim != 2 or b.ndim < 2 or a.shape[0] != b.shape[-1]:
            hint = ""
            if a.ndim == 2 and b.ndim == 2 and a.shape[1] == b.shape[0]:
                swapped = a.shape[0] == weight.shape[0] != b.shape[1]
                hint = "; pass them in the other order" if swapped else "; use a.t() and b.t()"
            raise ValueError(
                f"a and b of LowRank must be (r, D) and (V, r), with one rank r, got {tuple(a.shape)} and "
                f"{tuple(b.shape)}{hint}"
            )
        if tuple(b.shape[:-1]) != tuple(weight.shape[:-1]):
            raise ValueError(
                f"b of LowRank must have the {tuple(weight.shape[:-1])} classes of its weight, got {tuple(b.shape)}"
            )
        if not math.isfinite(self.scale):
            raise ValueError(f"scale of LowRank must be finite, got {self.scale}")

    @property
    def shape(self) -> torch.Size:
        """Shape of the weight."""
        return self.weight.shape

    def __repr__(self) -> str:
        """Return shapes and scale."""
        return f"LowRank(weight={tuple(self.shape)}, rank={self.a.shape[0]}, scale={self.scale:g})"


class _Adapter(NamedTuple):
    """Parts of an adapter's layer: more input features, and their columns."""

    features: Tensor
    columns: Tensor


def layer_of(input: Any, weight: Any, bias: Any, names: LayerNames = LAYER_NAMES) -> LayerOperands:
    """Return the operands of a layer as callers pass them.

    Raises
    ------
    TypeError, ValueError
        If an adapter does not fit the layer.
    """
    if not isinstance(weight, LowRank):
        return LayerOperands(input, weight, bias)
    check_input(input, names.input)
    adapters: list[_Adapter] = []
    while isinstance(weight, LowRank):
        adapters.append(_adapter(weight, input, names))
        weight = weight.weight
    D = weight.shape[-1] if weight.ndim else 0
    if input.shape[-1] != D:
        raise ValueError(
            f"{names.input} of shape {tuple(input.shape)} and the weight of LowRank, of shape {tuple(weight.shape)}, "
            "do not fit: they must be (…, D) and (V, D), or (V, d1, …, D), with the same number D of features"
        )
    columns = [adapter.columns for adapter in reversed(adapters)]
    features = [adapter.features for adapter in reversed(adapters)]
    one = columns[0] if len(columns) == 1 else torch.cat(columns, -1)
    return LayerOperands(torch.cat([input, *features], -1), weight, bias, one)


def _products(x: Tensor, a: Tensor) -> Tensor:
    """Return x aᵀ in the dtype of a, or of autocast."""
    dtype = a.dtype
    if has_autocast(x) and torch.is_autocast_enabled(x.device.type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
    x, a = x.to(dtype), a.to(dtype)
    with without_autocast(x):
        if wants_plain_operations() or has_tangents((x, a)) or is_dtensor(x):
            return torch.nn.functional.linear(x, a)
        return _RowProducts.apply(x, a)  # pyright: ignore[reportReturnType]


class _RowProducts(torch.autograd.Function):
    """x aᵀ, where a row without a gradient adds nothing to the gradient of a, for any values.

    Its finite numbers still enter the gradient, times 0, so that derivatives of the gradient exist.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, a)
        return torch.nn.functional.linear(x, a)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, a = ctx.saved_tensors
        of_x, of_a = ctx.needs_input_grad
        counted = (g != 0).any(-1, keepdim=True) | x.isfinite().all(-1, keepdim=True)
        g_a = None
        if of_a:
            rows = torch.where(counted, x, 0.0).reshape(-1, x.shape[-1])
            g_a = g.reshape(-1, g.shape[-1]).mT @ rows
        return g @ a if of_x else None, g_a


def _adapter(given: LowRank, input: Tensor, names: LayerNames) -> _Adapter:
    """Return scale · x aᵀ in the dtype of the input, and b in the dtype of the weight."""
    x = input if given.input is None else given.input
    for name, operand in (("a", given.a), ("b", given.b), ("input", x)):
        if is_dtensor(operand) != is_dtensor(input):
            raise TypeError(
                f"{name} of LowRank and {names.input} must both be DTensors or both be plain tensors; use "
                "DTensor.from_local(x, mesh, placements)"
            )
        if not is_dtensor(input):
            check_companion(f"{name} of LowRank", operand, input.device)
    if x.ndim == 0 or x.shape[-1] != given.a.shape[1]:
        whose = names.input if given.input is None else "input of LowRank"
        raise ValueError(
            f"{whose} of shape {tuple(x.shape)} and a of LowRank, of shape {tuple(given.a.shape)}, do not fit: they "
            "must be (…, D) and (r, D), with the same number D of features"
        )
    if x.shape[:-1] != input.shape[:-1]:
        raise ValueError(
            f"input of LowRank must have the rows {tuple(input.shape[:-1])} of {names.input}, "
            f"got shape {tuple(x.shape)}"
        )
    u = _products(x, given.a)
    if given.scale != 1.0:
        u = u * given.scale
    base: Any = given
    while isinstance(base, LowRank):
        base = base.weight
    return _Adapter(u.to(input.dtype), given.b.to(base.dtype))
