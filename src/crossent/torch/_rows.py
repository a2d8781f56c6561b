"""The row functions as torch operators: registered, with fake kernels and autograd, over the CPU backend.

crossent::row_stats gives loss, lse and entropy of each row, each differentiable with any cotangent; its backward is
crossent::row_grad, whose own backward recomputes everything in plain torch operations.
"""

from __future__ import annotations

import ctypes
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crossent import kernels
from crossent.spec import Scores, Target
from crossent.torch import _plain

library = torch.library.Library("crossent", "DEF")
_OPTIONS = "Tensor? index, Tensor? prob, Tensor? weight, float smoothing, int ignore_index, float temperature, float softcap"
_Optional = Tensor | None
_Options = tuple[_Optional, _Optional, _Optional, float, int, float, float]

library.define(f"row_stats(Tensor logits, {_OPTIONS}) -> (Tensor loss, Tensor lse, Tensor entropy, Tensor record)")
library.define(
    f"row_grad(Tensor logits, {_OPTIONS}, Tensor record, Tensor? g_loss, Tensor? g_lse, Tensor? g_entropy) -> Tensor"
)


@functools.cache
def backend() -> Any:
    """Return the CPU backend, running on torch's own threads where this torch lends them."""
    cpu = kernels.get("cpu")
    address = _parallel_for()
    if address is not None:
        cpu.lend_threads(address)
    return cpu


def _parallel_for() -> int | None:
    folder = pathlib.Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        if (folder / name).exists():
            symbol = getattr(ctypes.CDLL(str(folder / name)), "torch_parallel_for", None)
            return None if symbol is None else ctypes.cast(symbol, ctypes.c_void_p).value
    return None


def loss_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of losses and statistics: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _bound(options: _Options) -> tuple[Target, Scores]:
    index, prob, weight, smoothing, ignore_index, temperature, softcap = options
    target = Target(index, prob, _detached(weight), smoothing, ignore_index)
    return target, Scores(temperature, softcap or None)


def _detached(tensor: _Optional) -> _Optional:
    return None if tensor is None else tensor.detach()


def _row_stats(logits: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, lse, entropy, record = _row_stats_fake(logits)
    backend().row_stats(logits, *_bound(options), record, (loss, lse, entropy))
    return loss, lse, entropy, record


def _row_stats_fake(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = logits.shape[0] if logits.ndim == 2 else logits.shape[0] * logits.shape[2]
    loss, lse, entropy = (logits.new_empty((rows,), dtype=loss_dtype(logits.dtype)) for _ in range(3))
    return loss, lse, entropy, logits.new_empty((5, rows), dtype=torch.float64)


def _row_grad(logits: Tensor, *arguments: Any) -> Tensor:
    *options, record, g_loss, g_lse, g_entropy = arguments
    target, scores = _bound(tuple(options))  # pyright: ignore[reportArgumentType]
    grad = torch.empty_like(logits)
    backend().row_grad(logits, target, scores, record, (g_loss, g_lse, g_entropy), grad)
    return grad


def _save_row_stats(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, index, prob, weight, *ctx.numbers = inputs
    ctx.save_for_backward(logits, index, prob, weight, output[3])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[3])


def _row_stats_backward(ctx: Any, *cotangents: _Optional) -> tuple[_Optional, ...]:
    logits, index, prob, weight, record = ctx.saved_tensors
    options: _Options = (index, prob, weight, *ctx.numbers)
    g_logits = g_prob = None
    if ctx.needs_input_grad[0]:
        g_logits = torch.ops.crossent.row_grad.default(logits, *options, record, *cotangents[:3])
    if ctx.needs_input_grad[2] and cotangents[0] is not None:
        g_prob = _plain.prob_grad(logits, *_bound(options), cotangents[0])
    return g_logits, None, g_prob, None, None, None, None, None


def _save_row_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, index, prob, weight, *ctx.numbers, _record, g_loss, g_lse, g_entropy = inputs
    ctx.save_for_backward(logits, index, prob, weight, g_loss, g_lse, g_entropy)


def _row_grad_backward(ctx: Any, cotangent: Tensor) -> tuple[_Optional, ...]:
    logits, index, prob, weight, *cotangents = ctx.saved_tensors
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        z, prob_, *g = inputs = aliases(logits, prob, *cotangents)
        outputs = _plain.row_stats(z, *_bound((index, prob_, weight, *ctx.numbers)))
        pairs = [(out, g_) for out, g_ in zip(outputs, g, strict=True) if g_ is not None]
        (grad,) = torch.autograd.grad([o for o, _ in pairs], [z], [g_ for _, g_ in pairs], create_graph=True)
        g_logits, g_prob, *g_g = derivatives(grad, inputs, cotangent, again=again)
    return g_logits, None, g_prob, None, None, None, None, None, None, *g_g


def aliases(first: Tensor, *others: _Optional) -> list[Any]:
    """Return a view of each tensor that requires a gradient, and the first one in any case.

    Derivatives with respect to the views are partial ones: they do not follow how one tensor came from another. Yet
    the views belong to the graph, so that these derivatives can be differentiated in turn.
    """
    head = first.view_as(first) if first.requires_grad else first.detach().requires_grad_()
    return [head, *(x.view_as(x) if x is not None and x.requires_grad else x for x in others)]


def derivatives(output: Tensor, inputs: Sequence[_Optional], cotangent: Tensor, *, again: bool) -> list[_Optional]:
    """Return the gradient with respect to each input that requires one, and None for the others."""
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(output, wanted, cotangent, create_graph=again, allow_unused=True))
    return [next(found) if x is not None and x.requires_grad else None for x in inputs]


library.impl("row_stats", _row_stats, "CPU")
library.impl("row_grad", _row_grad, "CPU")
torch.library.register_fake("crossent::row_stats", _row_stats_fake, lib=library)
torch.library.register_fake("crossent::row_grad", lambda logits, *_: torch.empty_like(logits), lib=library)
torch.library.register_autograd(
    "crossent::row_stats", _row_stats_backward, setup_context=_save_row_stats, lib=library
)
torch.library.register_autograd("crossent::row_grad", _row_grad_backward, setup_context=_save_row_grad, lib=library)
