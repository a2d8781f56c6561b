"""Lazy logits: the output of a linear layer that is multiplied only when somebody wants the numbers.

`LazyLogits` is a tensor without memory that remembers input, weight and bias of the layer, and what was done to its
output since, as long as that is a temperature, a softcap, a change of dtype or a choice of rows. A cross-entropy of
it is a `linear_cross_entropy`; anything else gets the numbers: the very operations that were put off, carried out then.
"""

# pyright: reportPrivateUsage=false
# Attributes of a tensor that is not torch's own begin with an underscore, so that they hide none of torch's.

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from crossent.torch.base.values import aliases, derivatives, without_autocast
from crossent.torch.lazy.deferred import Deferred, Family

LAZILY: dict[str, Callable[..., Any]] = {}
"""What keeps logits lazy, by the name of torch's function; filled by `lazily`.

Each takes the arguments of torch's function, and returns NotImplemented where the numbers are needed after all.
"""


def lazily(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as what these functions of torch do to lazy logits."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        LAZILY.update(dict.fromkeys(names, function))
        return function

    return register


class LazyLogits(Tensor):
    """Logits of a fused head: a tensor in every respect, whose numbers are computed when they are first asked for."""

    _deferred: Deferred
    _origin: Origin | None
    _versions: tuple[tuple[int, int], ...]
    _modes: tuple[bool, bool]
    _family: Family
    _real: Tensor | None

    @classmethod
    def __torch_function__(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        field = func.__name__ == "__get__"
        name = func.__self__.__name__ if field else func.__name__
        if name in _METADATA and not (isinstance(args[0], LazyLogits) and args[0].was_read()):
            with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore
                return func(*args, **kwargs)
        lazily = LAZILY.get(name)
        if lazily is not None and args and isinstance(args[0], LazyLogits) and args[0].stays_lazy():
            result = lazily(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if func is torch.autograd.grad:
            inputs = kwargs.get("inputs", args[1] if len(args) > 1 else ())
            _watch(name, inputs if isinstance(inputs, (list, tuple)) else (inputs,))
        elif name == "register_hook" and _prepares_backward(args[1]):
            return args[0]._family.prepare(args[1])
        elif name in _WATCHING and (field or name != "grad"):
            _watch(name, args[:1])
        return func(*_numbers(args), **_numbers(kwargs))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Only calls that bypass __torch_function__ come here, from an autograd.Function for example, below autograd.
        if func._schema.is_mutable:
            raise RuntimeError(f"{func} would write to logits that are not computed yet; use logits + 0 in its place")
        return func(*_numbers(args), **_numbers(kwargs or {}))

    def was_read(self) -> bool:
        """Return whether the numbers of these logits exist, or of the logits that they are a view of."""
        origin = self._origin
        return self._real is not None or (origin is not None and origin.shares_memory and origin.logits.was_read())

    def stays_lazy(self) -> bool:
        """Return whether what is made of these logits may be put off too.

        Not so once their numbers exist: somebody may write to them, or wait for their gradient. Nor where gradients are
        switched off only for now, as in the forward of an autograd.Function, which will give its output a place in
        the graph itself.
        """
        return self._modes == _modes() and not self.was_read()

    def numbers(self) -> Tensor:
        """Return the logits as an ordinary tensor, always the same one; made as if nothing had been put off."""
        if self._real is not None:
            return self._real
        d, origin = self._deferred, self._origin
        grad, inference = self._modes
        with torch.inference_mode(inference), torch.set_grad_enabled(grad), without_autocast(d.hidden):
            if origin is not None and (origin.shares_memory or not origin.logits.was_read()):
                real = origin.make(origin.logits.numbers())
            else:
                self.check()
                real = d.compute(d.hidden, d.weight, d.bias)
        if real.requires_grad or not d.requires_grad or not grad:  # else autograd is out of sight here
            self._real = real
            self._family.tell([real])
        return real

    def check(self) -> None:
        """Raise if the operands are not what they were when the layer was called."""
        if self._origin is not None:
            self._origin.logits.check()
        elif _versions(self._deferred) != self._versions:
            raise RuntimeError(
                "these logits were never computed, and the input or the weight of their layer has been changed in "
                "place since (by an optimizer's step?); read them before that, or use unfuse_lm_head(model)"
            )


def _prepares_backward(hook: Any) -> bool:
    """Return whether a hook is FSDP's, which waits for the backward and leaves the gradient as it is."""
    return type(getattr(hook, "__self__", None)).__module__.startswith("torch.distributed.fsdp")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """The logits that these logits come from, how to make the numbers from theirs, and whether both share memory."""

    logits: LazyLogits
    make: Callable[[Tensor], Tensor]
    shares_memory: bool


def defer(deferred: Deferred, origin: Origin | None = None) -> LazyLogits:
    """Return lazy logits; they know their place in the graph of autograd whatever becomes of them."""
    logits: Any = _Defer.apply(deferred.hidden, deferred.weight, deferred.bias, deferred)
    logits._deferred = deferred
    logits._origin = origin
    logits._versions = _versions(deferred)
    logits._modes = _modes()
    logits._family = Family() if origin is None else origin.logits._family
    logits._real = None
    return logits


class _Defer(torch.autograd.Function):
    """Where lazy logits stand in the graph, for whoever uses them without being noticed by __torch_function__."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, deferred: Deferred) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(hidden, weight, bias)
        ctx.deferred = deferred
        return Tensor._make_wrapper_subclass(LazyLogits, deferred.shape, dtype=deferred.dtype, device=hidden.device)  # pyright: ignore

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            inputs = aliases(*ctx.saved_tensors)
            found = derivatives(ctx.deferred.compute(*inputs), inputs, grad, again=again)
        return *found, None


def _modes() -> tuple[bool, bool]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def _versions(deferred: Deferred) -> tuple[tuple[int, int], ...]:
    operands = (deferred.hidden, deferred.weight, deferred.bias)
    return tuple((0, 0) if x is None else (_version(x), x.data_ptr()) for x in operands)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version  # pyright: ignore


def _numbers(x: Any) -> Any:
    """Return x with the numbers of lazy logits for the logits, in lists, tuples and dicts too."""
    if isinstance(x, LazyLogits):
        return x.numbers()
    if isinstance(x, dict):
        return {key: _numbers(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        parts = [_numbers(y) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return x


def _watch(name: str, tensors: Sequence[Any]) -> None:
    """See to it that gradients flow through the numbers of logits from now on, because somebody waits for them."""
    for logits in tensors:
        if not isinstance(logits, LazyLogits):
            continue
        if logits._family.fused:
            raise RuntimeError(
                f"{name} comes too late: a loss of these logits was computed without them; "
                "use it before the loss, or use unfuse_lm_head(model)"
            )
        _ = logits.numbers()


_METADATA = frozenset((
    "shape", "size", "dim", "ndim", "numel", "nelement", "dtype", "device", "layout", "is_cpu", "is_cuda", "is_meta",
    "is_sparse", "is_quantized", "is_nested", "is_floating_point", "is_complex", "is_contiguous", "stride",
    "storage_offset", "element_size", "itemsize", "nbytes", "requires_grad", "is_leaf", "grad_fn", "is_inference",
    "get_device", "names", "_base", "__len__", "__hash__",
))  # fmt: skip
_WATCHING = frozenset(("retain_grad", "register_hook", "grad", "requires_grad_", "register_post_accumulate_grad_hook"))
