"""How an operator is registered with torch, and how it is called without the dispatcher where that changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

library = torch.library.Library("crossent", "DEF")
_PLAIN = (Tensor, torch.nn.Parameter)


def register(
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    save: Callable[..., None],
    backward: Callable[..., Any],
) -> Callable[..., Any]:
    """Register crossent::schema with a CPU kernel, a fake kernel and autograd; return a function that calls it.

    In plain eager mode the function runs the same kernel, save and backward in an autograd.Function of its own: the
    dispatcher of Python operators takes as long as a small loss. Everywhere else (compiling, tensor subclasses, fake
    tensors, dispatch modes, function transforms) it calls the registered operator.
    """
    name = schema.partition("(")[0]
    library.define(schema)
    library.impl(name, kernel, "CPU")
    torch.library.register_fake(f"crossent::{name}", fake, lib=library)
    torch.library.register_autograd(f"crossent::{name}", backward, setup_context=save, lib=library)
    operator = getattr(torch.ops.crossent, name).default

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            output = kernel(*args)
            save(ctx, args, output)
            return output

    Direct.backward = staticmethod(backward)  # pyright: ignore[reportAttributeAccessIssue]
    Direct.__name__ = name

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling() or not _is_plain(args):
            return operator(*args)
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args):
            return Direct.apply(*args)
        return kernel(*args)

    return call


def _is_plain(args: tuple[Any, ...]) -> bool:
    for x in args:
        if isinstance(x, Tensor) and (type(x) not in _PLAIN or x.device.type != "cpu" or x.is_neg()):
            return False
    return torch._C._len_torch_dispatch_stack() == 0 and not torch._C._are_functorch_transforms_active()  # pyright: ignore
