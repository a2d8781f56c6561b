"""Lazy logits: the output of a linear layer that is multiplied only when somebody wants the numbers.

`LazyLogits` is a tensor without memory that remembers input, weight and bias of the layer, and what was done to its
output since, as long as that is a temperature, a softcap, a change of dtype or a choice of rows. A cross-entropy of
it is a `linear_cross_entropy`; anything else gets the numbers: the very operations that were put off, carried out then.
"""

# pyright: reportPrivateUsage=false
# Attributes of a tensor that is not torch's own begin with an underscore, so that they hide none of torch's.

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from crossent.torch.call.checks import TopK, has_autocast
from crossent.torch.call.results import reduction_of
from crossent.torch.lazy.deferred import Deferred, Family, take
from crossent.torch.linear import linear_cross_entropy
from crossent.torch.operators.plain import loss_dtype
from crossent.torch.operators.rows import aliases, derivatives


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
        lazily = _LAZILY.get(name)
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
        # Reached only by what passes __torch_function__ by, such as an autograd.Function; autograd is above this.
        if func._schema.is_mutable:
            raise RuntimeError(f"{func} would write to logits that are not computed yet; use logits + 0 in its place")
        return func(*_numbers(args), **_numbers(kwargs or {}))

    def was_read(self) -> bool:
        """Return whether the numbers exist, of these logits or of those that they are a view of."""
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
        plain = torch.autocast(d.hidden.device.type, enabled=False) if has_autocast(d.hidden) else nullcontext()
        with torch.inference_mode(inference), torch.set_grad_enabled(grad), plain:
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
    """What logits were made of, how their numbers are made of its numbers, and whether in the same memory."""

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


# What keeps logits lazy. Each returns NotImplemented where it cannot: the numbers are computed then. ------------------


def _then(logits: LazyLogits, step: str, what: Any) -> LazyLogits:
    deferred = logits._deferred.then(step, what)
    return defer(deferred, Origin(logits, lambda real: take(real, step, what), shares_memory=False))


def _view(logits: LazyLogits, make: Callable[[Tensor], Tensor], hidden: Tensor) -> LazyLogits:
    deferred = dataclasses.replace(logits._deferred, hidden=hidden)
    return defer(deferred, Origin(logits, make, shares_memory=True))


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _mul(logits: LazyLogits, other: Any, **options: Any) -> Any:
    return _then(logits, "mul", other) if _is_number(other) and not options else NotImplemented


def _div(logits: LazyLogits, other: Any, **options: Any) -> Any:
    return _then(logits, "div", other) if _is_number(other) and not options else NotImplemented


def _tanh(logits: LazyLogits, **options: Any) -> Any:
    return _then(logits, "tanh", None) if not options else NotImplemented


def _cast(dtype: torch.dtype) -> Callable[..., Any]:
    def cast(logits: LazyLogits, **options: Any) -> Any:
        return _to(logits, dtype) if not options else NotImplemented

    return cast


def _to(logits: LazyLogits, *wanted: Any, **options: Any) -> Any:
    dtype = options.pop("dtype", None)
    device = options.pop("device", None)
    for x in wanted:
        if isinstance(x, torch.dtype):
            dtype = x
        elif isinstance(x, (str, torch.device)):
            device = x
        else:
            return NotImplemented
    moves = device is not None and torch.device(device) != logits._deferred.hidden.device
    if options or moves or not (dtype is None or dtype.is_floating_point):
        return NotImplemented
    return logits if dtype in (None, logits._deferred.dtype) else _then(logits, "to", dtype)


def _contiguous(logits: LazyLogits, **options: Any) -> Any:
    if options:
        return NotImplemented
    origin = logits._origin
    whole = origin is None or not origin.shares_memory or logits.numel() == origin.logits.numel()
    return logits if whole else defer(logits._deferred, Origin(logits, Tensor.contiguous, shares_memory=False))


def _reshape(logits: LazyLogits, *shape: Any, **options: Any) -> Any:
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    d = logits._deferred
    whole, V = d.shape.numel(), d.weight.shape[0]
    if options or not shape or whole == 0 or not all(isinstance(n, int) for n in shape):
        return NotImplemented
    known = math.prod(n for n in shape if n != -1)
    if shape.count(-1) == 1 and known > 0 and whole % known == 0:
        shape = tuple(whole // known if n == -1 else n for n in shape)
    if shape[-1] != V or min(shape) < 0 or math.prod(shape) != whole:
        return NotImplemented
    hidden = d.hidden.reshape(*shape[:-1], d.hidden.shape[-1])
    return _view(logits, lambda real: real.reshape(shape), hidden)


def _flatten(logits: LazyLogits, start_dim: int = 0, end_dim: int = -1) -> Any:
    axes = logits.ndim
    if not (0 <= start_dim <= end_dim % axes < axes - 1):
        return NotImplemented
    hidden = logits._deferred.hidden.flatten(start_dim, end_dim)
    return _view(logits, lambda real: real.flatten(start_dim, end_dim), hidden)


def _getitem(logits: LazyLogits, key: Any) -> Any:
    keys = key if isinstance(key, tuple) else (key,)
    axes = 0
    for k in keys:
        if k is None or isinstance(k, (bool, LazyLogits)) or not (k is ... or isinstance(k, (int, slice, Tensor))):
            return NotImplemented
        if isinstance(k, Tensor) and k.dtype not in (torch.bool, torch.int64):
            return NotImplemented
        axes += k.ndim if isinstance(k, Tensor) and k.dtype == torch.bool else int(k is not ...)
    rest = (slice(None),) * (logits.ndim - axes)
    dots = [at for at, k in enumerate(keys) if k is ...]
    if axes > logits.ndim or len(dots) > 1:
        return NotImplemented
    keys = (*keys[: dots[0]], *rest, *keys[dots[0] + 1 :]) if dots else (*keys, *rest)
    if not (isinstance(keys[-1], slice) and keys[-1] == slice(None)):
        return NotImplemented
    return _view(logits, lambda real: real[key], logits._deferred.hidden[keys])


def _detach(logits: LazyLogits) -> Any:
    d = logits._deferred
    bias = None if d.bias is None else d.bias.detach()
    detached = dataclasses.replace(d, hidden=d.hidden.detach(), weight=d.weight.detach(), bias=bias)
    return defer(detached, Origin(logits, torch.detach, shares_memory=True))


def _repr(logits: LazyLogits, **options: Any) -> Any:
    try:
        return repr(logits.numbers())
    except RuntimeError as error:
        return f"LazyLogits(shape={tuple(logits.shape)}, dtype={logits.dtype}): {error}"


def _cross_entropy(
    logits: LazyLogits,
    target: Any,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    mode = reduction_of(reduction, size_average, reduce)
    options = {"weight": weight, "reduction": mode, "label_smoothing": label_smoothing}
    return fused_loss(logits, target, ignore_index, options)


def fused_loss(logits: LazyLogits, target: Any, ignore_index: int, options: dict[str, Any]) -> Any:
    """Return the linear cross-entropy of lazy logits (C) or (N, C), or NotImplemented if it takes their numbers."""
    d, phi = logits._deferred, logits._deferred.phi()
    same_dtype = loss_dtype(d.dtype) == loss_dtype(d.hidden.dtype)
    if phi is None or not same_dtype or logits.ndim > 2 or isinstance(target, LazyLogits):
        return NotImplemented
    logits.check()
    if not isinstance(target, (Tensor, TopK)):
        return NotImplemented
    soft = isinstance(target, TopK) or target.shape == logits.shape
    divisor, softcap = options.get("temperature", 1.0), options.get("softcap")
    if phi[1] is not None:  # cap tanh(z) / t = (cap / t) tanh(z); a cap of a cap is neither
        if softcap is not None:
            return NotImplemented
        softcap = phi[1] / divisor
    options |= {"temperature": phi[0] * divisor, "softcap": softcap, "linear_bias": d.bias}
    ignored = None if soft and ignore_index < 0 else ignore_index
    with torch.autocast(d.hidden.device.type, enabled=False) if has_autocast(d.hidden) else nullcontext():
        found: Any = linear_cross_entropy(d.hidden, d.weight, target, ignore_index=ignored, **options)
    logits._family.fused = True
    loss, *stats = found if isinstance(found, tuple) else (found,)
    logits._family.tell([loss, *(x for s in stats for x in (s.lse, s.logprob, s.entropy))])
    return found


_LAZILY: dict[str, Callable[..., Any]] = {
    "mul": _mul,
    "__mul__": _mul,
    "__rmul__": _mul,
    "multiply": _mul,
    "div": _div,
    "__truediv__": _div,
    "divide": _div,
    "true_divide": _div,
    "tanh": _tanh,
    "float": _cast(torch.float32),
    "double": _cast(torch.float64),
    "half": _cast(torch.float16),
    "bfloat16": _cast(torch.bfloat16),
    "to": _to,
    "contiguous": _contiguous,
    "view": _reshape,
    "reshape": _reshape,
    "flatten": _flatten,
    "__getitem__": _getitem,
    "detach": _detach,
    "__repr__": _repr,
    "cross_entropy": _cross_entropy,
}
_METADATA = frozenset((
    "shape", "size", "dim", "ndim", "numel", "nelement", "dtype", "device", "layout", "is_cpu", "is_cuda", "is_meta",
    "is_sparse", "is_quantized", "is_nested", "is_floating_point", "is_complex", "is_contiguous", "stride",
    "storage_offset", "element_size", "itemsize", "nbytes", "requires_grad", "is_leaf", "grad_fn", "is_inference",
    "get_device", "names", "_base", "__len__", "__hash__",
))  # fmt: skip
_WATCHING = frozenset(("retain_grad", "register_hook", "grad", "requires_grad_", "register_post_accumulate_grad_hook"))
