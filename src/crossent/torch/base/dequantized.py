"""A weight that exists only a range of classes at a time: `Dequantized`, a tensor without memory of its own.

The operators of linear layers take it directly, and ask it for the classes of each product. Any other operation of
torch computes all numbers first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

_SAME = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}
KERNELS: dict[str, Callable[..., Any]] = {}
"""Computations of the operators by name in torch's registry, filled by `register`: functions of flat arguments."""
_BLOCK = 2**22  # numbers computed at once for all logits
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Dequantized(Tensor):
    """A weight (V, D) computed by a function, a range of classes at a time.

    It replaces `linear_weight` or `teacher_weight`, alone or in a `LowRank`, and gets no gradient. Input, bias and
    adapter get the same gradients as with the full weight.

    Parameters
    ----------
    function
        `function(begin, end)` returns rows [begin, end) of the weight: a floating-point tensor (end − begin, D) on the
        device of the input. It is called for a few thousand classes at a time, in the forward and in the backward, and
        must return the same values each time.
    shape
        (V, D).
    dtype
        Dtype of the other operands of the product; results of the function are cast to it.
    device
        Device of the function's results; by default torch's default device.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another type, or out of its range; and, in the loss, if the function returns anything but
        these rows.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import Dequantized, linear_cross_entropy
    >>> codes, steps = torch.tensor([[10, -3], [4, 7], [0, 5]], dtype=torch.int8), torch.tensor([[0.1], [0.2], [0.5]])
    >>> weight = Dequantized(lambda begin, end: codes[begin:end] * steps[begin:end], (3, 2), torch.float32)
    >>> linear_cross_entropy(torch.tensor([[1.0, 2.0]]), weight, torch.tensor([0]))
    tensor(4.8284)
    >>> weight.dequantize()
    tensor([[ 1.0000, -0.3000],
            [ 0.8000,  1.4000],
            [ 0.0000,  2.5000]])

    See Also
    --------
    Dequantized.of : one of a quantised tensor of a library.
    """

    _function: Callable[[int, int], Tensor]
    _begin: int

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    def __new__(
        cls,
        function: Callable[[int, int], Tensor],
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> Self:
        """Return a weight that this function makes."""
        if not callable(function):
            raise TypeError(f"function must make rows [begin, end) of the weight, got a {type(function).__name__}")
        if dtype not in _FLOATS:
            raise TypeError(f"dtype must be float32, float64, bfloat16 or float16, got {dtype}")
        numbers = tuple(shape)
        if len(numbers) != 2 or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"shape must be (V, D), the number of classes and of features, got {numbers}")
        return cls._made(function, 0, numbers, dtype, torch.get_default_device() if device is None else device)

    @classmethod
    def _made(cls, function: Any, begin: int, shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> Self:
        found: Any = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)  # pyright: ignore
        found._function, found._begin = function, begin
        return found

    @classmethod
    def of(cls, weight: Any, dtype: torch.dtype | None = None) -> Self:
        """Wrap a quantised weight of a library, to dequantise it a range of classes at a time.

        Parameters
        ----------
        weight
            A torchao tensor, or another one that supports `weight[begin:end]` and `dequantize()`; or a 4-bit or 8-bit
            weight of bitsandbytes, with its state.
        dtype
            By default the dtype of the tensor, for bitsandbytes the dtype of its state.

        Raises
        ------
        TypeError
            If the tensor type is unknown; `Dequantized(function, shape, dtype)` works for any. And if bitsandbytes has
            packed a 4-bit weight for its own products on CPUs.

        Examples
        --------
        >>> import torch
        >>> from torchao.quantization import Int8WeightOnlyConfig, quantize_  # doctest: +SKIP
        >>> head = torch.nn.Linear(8, 1000, bias=False)
        >>> quantize_(head, Int8WeightOnlyConfig())  # doctest: +SKIP
        >>> weight = Dequantized.of(head.weight)  # doctest: +SKIP
        """
        from crossent.torch.base import quantised

        function, shape, own = quantised.rows_of(weight)
        return cls(function, shape, own if dtype is None else dtype, weight.device)

    def dequantize(self) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return all of the weight, (V, D).

        Raises
        ------
        TypeError, ValueError
            If the function returns anything but the requested rows.
        """
        begin, end = self._begin, self._begin + self.shape[0]
        if begin == end:
            return torch.empty(self.shape, dtype=self.dtype, device=self.device)
        found: Any = self._function(begin, end)
        asked = f"the function of a Dequantized, asked for rows [{begin}, {end}),"
        if not isinstance(found, Tensor):
            raise TypeError(f"{asked} returned a {type(found).__name__}; it must return a tensor")
        if not found.is_floating_point():
            raise TypeError(f"{asked} returned {found.dtype}; it must return numbers of a floating-point dtype")
        if found.shape != self.shape:
            raise ValueError(f"{asked} returned shape {tuple(found.shape)}; it must return {tuple(self.shape)}")
        if found.device != self.device:
            raise ValueError(f"{asked} returned a tensor on {found.device}; it must be on {self.device}")
        return found.detach().to(self.dtype)

    def classes(self, begin: int, end: int) -> Dequantized:
        """Return the weight of classes [begin, end), without computing it."""
        shape = (end - begin, self.shape[1])
        return self._made(self._function, self._begin + begin, shape, self.dtype, self.device)

    def _in_dtype(self, dtype: torch.dtype) -> Dequantized:
        return self._made(self._function, self._begin, tuple(self.shape), dtype, self.device)

    def __repr__(self, **_: Any) -> str:
        """Return shape and dtype: the numbers are not there."""
        return f"Dequantized(shape={tuple(self.shape)}, dtype={self.dtype})"

    def requires_grad_(self, mode: bool = True) -> Self:
        """Raise, because there is no stored weight to train."""
        if mode:
            raise RuntimeError(
                "a Dequantized is computed anew for each use and gets no gradient; train an adapter on top of it"
            )
        return self

    def __copy__(self) -> Dequantized:
        """Return another of the same function."""
        return self.classes(0, self.shape[0])

    def __deepcopy__(self, memo: Any) -> Dequantized:
        """Return a copy of the same function."""
        return self.classes(0, self.shape[0])

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Raise: a function is not written to files."""
        raise TypeError("a Dequantized stores no numbers; save the data that its function reads")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "crossent":  # the operators ask for the classes that they multiply
            return KERNELS[func._schema.name](*args, **kwargs)
        lazy = _kept_lazy(func, args, kwargs)
        if lazy is not None:
            return lazy
        whole = {id(x): x.dequantize() for x in tree_leaves((args, kwargs)) if isinstance(x, Dequantized)}
        replaced: Any = tree_map(lambda x: whole.get(id(x), x), (args, kwargs))
        return func(*replaced[0], **replaced[1])


def classes_of(weight: Tensor, here: slice) -> Tensor:
    """Return a part of a weight, which may be one that is not made."""
    return weight.classes(here.start or 0, here.stop) if isinstance(weight, Dequantized) else weight[here]


def blocks_of(weight: Tensor) -> list[Tensor]:
    """Return a weight as parts that are made, one after the other, where it is used: itself if it is there."""
    if not isinstance(weight, Dequantized):
        return [weight]
    most = max(1, _BLOCK // max(1, weight.shape[1]))
    return [weight.classes(begin, min(begin + most, len(weight))) for begin in range(0, max(1, len(weight)), most)]


def sum_over_classes(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sum of the rows of a weight."""
    if not isinstance(weight, Dequantized):
        return weight.sum(0, dtype=dtype)
    total = torch.zeros(weight.shape[1], dtype=dtype, device=weight.device)
    for block in blocks_of(weight):
        total += block.dequantize().sum(0, dtype=dtype)  # pyright: ignore[reportCallIssue]
    return total


def _kept_lazy(func: Any, args: Any, kwargs: Any) -> Dequantized | None:
    """Return the lazy weight for a slice of classes, a dtype conversion or a copy, else None."""
    x = args[0] if args else None
    if not isinstance(x, Dequantized):
        return None
    if func in _SAME or (func is torch.ops.aten.clone.default):
        return x.classes(0, x.shape[0])
    if func is torch.ops.aten.slice.Tensor:
        dim, begin, end, step = (*args[1:], *(0, None, None, 1)[len(args) - 1 :])
        if dim in (0, -2) and step == 1:
            begin, end, _ = slice(begin, end).indices(x.shape[0])
            return x.classes(begin, max(begin, end))
    if func is torch.ops.aten._to_copy.default and kwargs.get("device") in (None, x.device):
        dtype = kwargs.get("dtype") or x.dtype
        if dtype in _FLOATS:
            return x._in_dtype(dtype)  # pyright: ignore[reportPrivateUsage]
    return None
