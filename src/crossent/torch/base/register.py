"""How an operator is registered with torch, and how it is called without the dispatcher where that changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

library = torch.library.Library("crossent", "DEF")
_PLAIN = (Tensor, torch.nn.Parameter)


def register(
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    save: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    *,
    first: bool = False,
) -> Callable[..., Any]:
    """Register crossent::schema with a kernel for all devices, a fake kernel and autograd; return a caller of it.

    An operator without `backward` is for backwards, where nothing wants a gradient.

    With `first` the function returns the first output only; the others are for `save` alone.

    In plain eager mode the function runs the same kernel, save and backward in an autograd.Function of its own: the
    dispatcher of Python operators takes as long as a small loss. Everywhere else (compiling, tensor subclasses, fake
    tensors, dispatch modes, function transforms) it calls the registered operator.
    """
    name = schema.partition("(")[0]
    library.define(schema)
    for device in ("CPU", "CUDA"):
        library.impl(name, kernel, device)
    torch.library.register_fake(f"crossent::{name}", fake, lib=library)
    if backward is not None:
        torch.library.register_autograd(f"crossent::{name}", backward, setup_context=save, lib=library)
    operator = getattr(torch.ops.crossent, name).default

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            output = kernel(*args)
            ctx.direct = True  # nobody else has its outputs
            if save is not None:
                save(ctx, args, output)
            return output[0] if first else output

    Direct.backward = staticmethod(backward)  # pyright: ignore
    Direct.__name__ = name

    def call(*args: Any) -> Any:
        if forward_ad._current_level >= 0 and any(_has_tangent(x) for x in args):  # pyright: ignore
            raise NotImplementedError(
                "crossent has no forward-mode derivatives; use backward(), torch.autograd.grad or torch's own loss"
            )
        wants_grad = False
        plain = not is_watched()
        for x in args:
            if isinstance(x, Tensor):
                plain = plain and type(x) in _PLAIN and (x.is_cpu or x.is_cuda) and not (x.is_neg() or is_batched(x))
                wants_grad = wants_grad or x.requires_grad
        if plain and wants_grad and torch.is_grad_enabled():
            return Direct.apply(*args)
        output = (kernel if plain else operator)(*args)
        return output[0] if first else output

    return call


is_batched = torch._C._functorch.is_legacy_batchedtensor  # pyright: ignore


def _has_tangent(x: Any) -> bool:
    return isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None


def is_watched() -> bool:
    """Return whether someone wants to see operators: a compiler, a dispatch mode or a function transform."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0  # pyright: ignore
        or torch._C._are_functorch_transforms_active()  # pyright: ignore
    )
