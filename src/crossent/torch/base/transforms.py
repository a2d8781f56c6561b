"""Observers of a call: compilers, dispatch modes, function transforms, tracers, forward-mode differentiation.

Plain eager mode has none, and calls kernels directly. Compilers and dispatch modes see one operator for each call.
Function transforms, tangents and tracers see the plain torch operations of its slow twin: torch has rules for those, of
every order and in every mode, and a graph of them runs wherever torch or ONNX does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

_functorch: Any = torch._C._functorch  # pyright: ignore
is_batched = _functorch.is_legacy_batchedtensor
# Small losses ask often: each lookup of a name in torch is a tenth of the time of a check.
_is_compiling: Any = torch.compiler.is_compiling
_number_of_modes: Any = torch._C._len_torch_dispatch_stack  # pyright: ignore
_has_transforms: Any = torch._C._are_functorch_transforms_active  # pyright: ignore
_is_tracing: Any = torch._C._is_tracing  # pyright: ignore


def is_watched() -> bool:
    """Return whether operations are observed: a compiler, a mode, a function transform or a tracer."""
    return _is_compiling() or _number_of_modes() > 0 or _has_transforms() or _is_tracing()


def wants_plain_operations() -> bool:
    """Return whether the observer needs plain torch operations: a function transform, a tracer, an export to ONNX."""
    if torch._C._are_functorch_transforms_active():  # pyright: ignore
        return True
    return torch.onnx.is_in_onnx_export() if torch.compiler.is_compiling() else _is_tracing()


def has_tangents(arguments: Iterable[Any]) -> bool:
    """Return whether a tensor among the arguments carries a tangent of forward-mode differentiation."""
    return forward_ad._current_level >= 0 and any(map(_has_tangent, arguments))  # pyright: ignore


def _has_tangent(x: Any) -> bool:
    return isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None


def look_at(check: Callable[..., None], *tensors: Tensor | None) -> None:
    """Call a check with the numbers of tensors on a CPU, outside of all function transforms; None where there are none.

    Under `vmap` all tensors have the axes of the batches before their own. Under compilers, modes and tracers nothing
    is checked, because there are no numbers. Values on a GPU are not checked either, to avoid a synchronization.
    """
    if torch.compiler.is_compiling() or _is_tracing() or torch._C._len_torch_dispatch_stack():  # pyright: ignore
        return
    found = [None if x is None else _unwrapped(x) for x in tensors]
    with temporarily_clear_interpreter_stack():
        levels = sorted({level for x in found if x is not None for level in x.axes})
        parts = [None if x is None else _batches_first(x, levels) for x in found]
        shapes = [x.shape[: len(levels)] for x in parts if x is not None]
        batches = torch.broadcast_shapes(*shapes)
        check(*(None if x is None else x.expand(*batches, *x.shape[len(levels) :]) for x in parts))


class _Unwrapped(NamedTuple):
    """A tensor without its function transforms, and the axis of each `vmap` by its level, the innermost first."""

    tensor: Tensor
    axes: dict[int, int]


def _unwrapped(x: Tensor) -> _Unwrapped | None:
    axes: dict[int, int] = {}
    while _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_batchedtensor(x):
            axes[_functorch.maybe_get_level(x)] = _functorch.maybe_get_bdim(x)
        x = _functorch.get_unwrapped(x)
    readable = type(x) in (Tensor, torch.nn.Parameter) and x.is_cpu and not is_batched(x)
    return _Unwrapped(x, axes) if readable else None


def _batches_first(x: _Unwrapped, levels: list[int]) -> Tensor:
    """Return the tensor with an axis for each level in front, of length 1 where it has none."""
    tensor = x.tensor.detach()
    for done, axis in enumerate(reversed(x.axes.values())):  # the outermost is an axis of the tensor itself
        tensor = tensor.movedim(axis + done, 0)
    own = list(x.axes)  # which lie in this order now
    for place, level in enumerate(levels):
        if level in own:
            tensor = tensor.movedim(place + own.index(level), place)
            own.remove(level)
        else:
            tensor = tensor.unsqueeze(place)
    return tensor
