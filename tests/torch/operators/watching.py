"""What tests of registered operators share: a watch on the dispatcher, and a function compiled beside itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.torch import plain


class Watching(TorchDispatchMode):
    """Sees every operator that is called; those of crossent go through the dispatcher while it does."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


def check_compiled(
    function: Callable[..., Tensor], inputs_of: Callable[[int], Sequence[Tensor]], *, dynamic: bool
) -> None:
    """Value and gradients of a compiled function are those of the function, without a break of the graph."""
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n in (5, 7, 3) if dynamic else (5,):
        inputs = inputs_of(n)
        got, want = compiled(*inputs), function(*inputs)
        torch.testing.assert_close(got, want)
        g, options = plain.cotangent_like(want).float(), {"allow_unused": True, "materialize_grads": True}
        for a, b in zip(
            torch.autograd.grad(got, inputs, g, **options), torch.autograd.grad(want, inputs, g, **options), strict=True
        ):
            torch.testing.assert_close(a, b)
    torch._dynamo.reset()
