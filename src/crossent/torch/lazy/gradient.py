"""The gradient of lazy logits: it carries the gradients of the layer's operands, and its numbers are made when read.

A fused loss has the gradients of input, weight and bias, but not of the logits, which are rarely needed. Autograd still
needs one tensor for the logits in its graph: a `LazyGradient`. It passes from the loss through all operations on the
logits to the layer, which takes the operands' gradients from it. Hooks on the way see a tensor like any other: its
numbers are computed when a hook reads them, and changes by a hook take effect.
"""

# pyright: reportPrivateUsage=false
# Attributes of a tensor that is not torch's own begin with an underscore, so that they hide none of torch's.

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from crossent.torch.base.values import without_autocast
from crossent.torch.lazy.deferred import Deferred
from crossent.torch.lazy.names import METADATA, RAW_MEMORY, name_of, with_numbers


class OperandGradients(NamedTuple):
    """Gradients of a layer's input, weight, bias and adapter; None where none is wanted."""

    hidden: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    adapter: Tensor | None = None

    def __add__(self, other: Any) -> OperandGradients:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the sum of both, where either may lack an operand."""
        pairs = zip(self, other, strict=True)
        return OperandGradients(*(a if b is None else b if a is None else a + b for a, b in pairs))


class Results(NamedTuple):
    """Tensors computed from logits, and their cotangents."""

    outputs: tuple[Tensor, ...]
    cotangents: tuple[Tensor, ...]


class Sources(NamedTuple):
    """Sources of a gradient of logits.

    `operands` are the gradients of the layer's operands that fused losses found, `ordinary` gradients of the logits
    themselves from everything else, and `results` computes the tensors that the gradient belongs to from the numbers of
    the logits.
    """

    operands: tuple[OperandGradients, ...]
    ordinary: tuple[Tensor, ...]
    results: Callable[[Tensor], Results]

    def __add__(self, other: Any) -> Sources:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the sources of the sum of two gradients of the same logits."""
        mine, its = self.results, other.results

        def results(logits: Tensor) -> Results:
            first, second = mine(logits), its(logits)
            return Results(first.outputs + second.outputs, first.cotangents + second.cotangents)

        return Sources(self.operands + other.operands, self.ordinary + other.ordinary, results)


def ordinary_source(gradient: Tensor) -> Sources:
    """Return the source of a gradient that exists."""
    return Sources((), (gradient,), lambda logits: Results((logits,), (gradient,)))


class Logits(Protocol):
    """Interface of logits for their gradient."""

    _deferred: Deferred
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def recomputed(self) -> Tensor:
        """Return the numbers, outside of every graph."""
        ...


class LazyGradient(Tensor):
    """Gradient of lazy logits: a tensor in every respect, whose numbers are computed when they are first asked for."""

    _logits: Logits
    _sources: Sources | None
    _results: Callable[[Tensor], Results]
    _real: Tensor | None
    _version_read: int
    _exposed: bool

    @classmethod
    def __torch_function__(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = name_of(func)
        if name in METADATA or isinstance(func, torch._ops.OpOverload):  # as modes hand them on
            with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore
                return func(*args, **(kwargs or {}))
        if name in RAW_MEMORY and isinstance(args[0], LazyGradient):
            args[0]._exposed = True
        return func(*with_numbers(args, LazyGradient), **with_numbers(kwargs or {}, LazyGradient))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Autograd comes here: it adds up gradients of several uses, and clones those that retain_grad keeps.
        if func is torch.ops.aten.add.Tensor and len(args) == 2 and not kwargs:
            total = _sum(*args)
            if total is not None:
                return total
        return func(*with_numbers(args, LazyGradient), **with_numbers(kwargs or {}, LazyGradient))

    def numbers(self) -> Tensor:
        """Return the gradient as an ordinary tensor, always the same one."""
        if self._real is None:
            with torch.inference_mode(False), torch.enable_grad(), without_autocast(self):
                logits = self._logits.recomputed().detach().requires_grad_()
                outputs, cotangents = self._results(logits)
                (self._real,) = torch.autograd.grad(outputs, logits, cotangents)
            self._version_read = self._real._version
        return self._real

    def belongs_to(self, deferred: Deferred | None) -> bool:
        """Return whether this is a gradient of the logits of this layer after these steps."""
        return self._logits._deferred is deferred

    def taken(self) -> Sources:
        """Return the sources and let go of them, so that autograd may reuse the memory; the numbers if they differ."""
        sources, self._sources = self._sources, None
        return ordinary_source(self.numbers()) if sources is None or self._was_changed() else sources

    def _was_changed(self) -> bool:
        real = self._real
        return real is not None and (self._exposed or real._version != self._version_read)


def lazy_gradient(logits: Logits, sources: Sources) -> Tensor:
    """Return a gradient of logits; a kept one is computed before the backward returns."""
    found: Any = Tensor._make_wrapper_subclass(LazyGradient, logits.shape, dtype=logits.dtype, device=logits.device)  # pyright: ignore
    found._logits, found._sources, found._results = logits, sources, sources.results
    found._real, found._version_read, found._exposed = None, -1, False
    torch.autograd.Variable._execution_engine.queue_callback(functools.partial(_settle, weakref.ref(found)))  # pyright: ignore
    return found


def _settle(kept: weakref.ref[LazyGradient]) -> None:
    """Compute a gradient that outlives the backward, before an optimizer changes the weight behind it."""
    gradient = kept()
    if gradient is not None:
        with contextlib.suppress(RuntimeError):  # an engine has freed the weight: reading it later raises
            _ = gradient.numbers()


def _sum(a: Any, b: Any) -> Tensor | None:
    """Return the sum of two gradients of the same logits, still lazy, or None if it belongs to their numbers."""
    first, other = (a, b) if isinstance(a, LazyGradient) else (b, a)
    mine = first._sources
    if mine is None or first._was_changed() or other.shape != first.shape or other.dtype != first.dtype:
        return None
    if not isinstance(other, LazyGradient):
        return lazy_gradient(first._logits, mine + ordinary_source(other))
    its = other._sources
    if its is None or other._was_changed() or not other.belongs_to(first._logits._deferred):
        return None
    return lazy_gradient(first._logits, mine + its)
