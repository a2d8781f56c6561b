"""Registration of operators with torch, and calls without the dispatcher where that changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from crossent.torch.base.dequantized import KERNELS, Dequantized
from crossent.torch.base.operator_call import OperatorCall
from crossent.torch.base.products import tell_counters
from crossent.torch.base.transforms import has_tangents, is_batched, is_watched, wants_plain_operations

library = torch.library.Library("crossent", "DEF")
_PLAIN = (Tensor, torch.nn.Parameter, Dequantized)
keeps_graph: Callable[[], bool] = getattr(
    torch._C._autograd,  # pyright: ignore
    "_get_current_graph_task_keep_graph",
    lambda: True,
)
"""Return whether the running backward may run again; True if unknown."""

Wants = frozenset[str]
"""Names of the arguments that require a gradient."""
Gradients = Mapping[str, Tensor | None]
"""Gradients by the names of the arguments; a missing one is None."""


class Forward(NamedTuple):
    """The computations of an operator, as functions of a call."""

    kernel: Callable[[Any], Any]
    """Computes it, on any device."""
    fake: Callable[[Any], Any]
    """Makes outputs of the right shapes, of tensors without numbers."""
    plain: Callable[[Any], Any]
    """Computes it in plain torch operations, which can be differentiated, batched and traced: its slow twin."""
    flops: Callable[[Any], int] | None = None
    """Counts the floating-point operations of its matrix products, if it has any."""


class Backward(NamedTuple):
    """How an operator is differentiated."""

    save: Callable[[Any, Any, Any], None]
    """Called as save(ctx, call, output) in the forward; `operator_call.keep` saves a call."""
    gradients: Callable[..., Gradients]
    """Called as gradients(ctx, wants, *cotangents), where `wants` holds the names of the arguments that want one."""


def register(
    name: str,
    takes: type[OperatorCall],
    returns: Any,
    forward: Forward,
    backward: Backward | None = None,
    *,
    first: bool = False,
) -> Callable[..., Any]:
    """Register crossent::name with a kernel for all devices, a fake kernel and autograd; return a caller of it.

    In plain eager mode the caller runs the same kernel, save and backward in an autograd.Function of its own: the
    dispatcher of Python operators takes as long as a small loss. Under function transforms, tangents and tracers it
    runs the slow twin. Everywhere else (compiling, tensor subclasses, fake tensors, dispatch modes) it calls the
    registered operator.

    Parameters
    ----------
    name
        Name of the operator.
    takes
        The class of its calls, which makes its schema.
    returns
        `Tensor`, or the NamedTuple of tensors that it returns.
    forward
        What it computes.
    backward
        How it is differentiated. An operator without this is for backwards, where nothing requires a gradient.
    first
        Return the first output only; the others are for the backward alone.
    """
    kernel = forward.kernel
    library.define(f"{name}({takes.schema()}) -> {_returned(returns)}")
    KERNELS[f"crossent::{name}"] = _flat(takes, kernel, read=True)
    for device in ("CPU", "CUDA"):
        library.impl(name, KERNELS[f"crossent::{name}"], device)
    torch.library.register_fake(f"crossent::{name}", _flat(takes, forward.fake), lib=library)
    names = tuple(leaf.name for leaf in takes.leaves())
    of_tensors = tuple(leaf.name for leaf in takes.leaves() if leaf.is_tensor)
    if backward is not None:
        save, gradients = backward

        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            save(ctx, takes.unflatten(inputs), output)

        def flat_backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
            needs = ctx.needs_input_grad
            found = takes.gradients(gradients(ctx, _wants(names, needs), *cotangents))
            return *found, *[None] * (len(needs) - len(found))

        torch.library.register_autograd(f"crossent::{name}", flat_backward, setup_context=setup, lib=library)
    operator = getattr(torch.ops.crossent, name).default
    count = None if forward.flops is None else _flat_count(takes, forward.flops)

    class Direct(torch.autograd.Function):
        """The operator without the dispatcher: its arguments are the call, and the tensors in it for autograd."""

        @staticmethod
        def forward(ctx: Any, arguments: Any, *_: Any) -> Any:
            output = kernel(arguments)
            if backward is not None:
                backward.save(ctx, arguments, output)
            return output[0] if first else output

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            assert backward is not None
            ctx.plain = is_plain_backward(*cotangents)
            found = backward.gradients(ctx, _wants(of_tensors, ctx.needs_input_grad[1:]), *cotangents)
            return None, *[found.get(name) for name in of_tensors]

    Direct.__name__ = name
    Direct._backward_cls.__name__ = f"{name}Backward"  # pyright: ignore  # the name in profilers and autograd graphs
    function: Any = super(torch.autograd.Function, Direct)
    apply = function.apply  # skips torch's Python code for function transforms, which `call` has excluded

    def call(arguments: Any, *, plain: bool = False) -> Any:
        if plain:  # the caller has checked, and nothing requires a gradient
            return kernel(arguments)
        if is_watched():
            return named(watched(arguments))
        wants_grad, plain, tensors = False, True, arguments.tensors()
        for x in tensors:
            if x is not None:
                plain = plain and is_plain(x)
                wants_grad = wants_grad or x.requires_grad
        if not plain or has_tangents(tensors):
            return named(watched(arguments))
        if wants_grad and torch.is_grad_enabled():
            output = apply(arguments, *tensors)
            return output if first or returns is Tensor else returns(*output)
        if torch.autograd._profiler_enabled():  # pyright: ignore
            with torch.profiler.record_function(name):
                output = kernel(arguments)
        else:
            output = kernel(arguments)
        return output[0] if first else output

    def watched(arguments: Any) -> Any:
        flat = arguments.flatten()
        if wants_plain_operations() or has_tangents(flat):
            return forward.plain(arguments)
        if count is not None and not torch.compiler.is_compiling():
            tell_counters(operator, count)
        return operator(*flat)

    def named(output: Any) -> Any:
        if first:
            return output[0]
        return output if returns is Tensor else returns(*output)

    return call


def is_plain_backward(*cotangents: Tensor | None) -> bool:
    """Return whether these are ordinary cotangents of an unobserved backward without further derivatives."""
    if torch.is_grad_enabled() or is_watched() or forward_ad._current_level >= 0:  # pyright: ignore
        return False
    for x in cotangents:  # noqa: SIM110  this takes half the time of all(…)
        if x is not None and not is_plain(x):
            return False
    return True


def in_plain_backward(ctx: Any) -> bool:
    """Return whether a backward runs in plain eager mode, on ordinary tensors, without further derivatives."""
    return getattr(ctx, "plain", False)


def _returned(returns: Any) -> str:
    return "Tensor" if returns is Tensor else "(" + ", ".join(f"Tensor {name}" for name in returns._fields) + ")"


def _flat(takes: type[OperatorCall], function: Callable[[Any], Any], *, read: bool = False) -> Callable[..., Any]:
    """Return a function of flat arguments; torch requires a plain tuple of several outputs."""
    known = len(takes.leaves())

    def flat(*arguments: Any) -> Any:
        numbers = [x.tolist() if read and x is not None else x for x in arguments[known:]]
        output = function(takes.unflatten([*arguments[:known], *numbers]))
        return output if isinstance(output, Tensor) else tuple(output)

    return flat


def _flat_count(takes: type[OperatorCall], flops: Callable[[Any], int]) -> Callable[..., int]:
    """Return the formula of an operator as torch's counters call it."""
    return lambda *arguments, out_val: flops(takes.unflatten(arguments))


def _wants(names: tuple[str, ...], needs: tuple[bool, ...]) -> Wants:
    return frozenset(compress(names, needs))


def is_plain(x: Tensor) -> bool:
    """Return whether this is an ordinary tensor, which a kernel may read directly."""
    return type(x) in _PLAIN and (x.is_cpu or x.is_cuda) and not (x.is_neg() or is_batched(x))
