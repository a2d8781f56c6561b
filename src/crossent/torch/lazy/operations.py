"""Operations that keep logits lazy: factor, bias, tanh, change of dtype, choice of rows, reshape of leading axes.

Each function takes the arguments of torch's function of that name. It returns NotImplemented where it cannot put the
operation off: the numbers are computed then.
"""

# pyright: reportPrivateUsage=false
# Attributes of a tensor that is not torch's own begin with an underscore, so that they hide none of torch's.

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from crossent.torch.lazy.deferred import take
from crossent.torch.lazy.graph import derive, of_rows
from crossent.torch.lazy.logits import LazyLogits, Origin, alias, lazily, raise_changed, version_of
from crossent.torch.lazy.sums import sum_of_layers


def _then(logits: LazyLogits, step: str, what: Any) -> LazyLogits:
    dtype = logits._deferred.dtype
    back: dict[str, Callable[[Tensor], Tensor]] = {
        "mul": lambda g: g * what,
        "div": lambda g: g / what,
        "to": lambda g: g.to(dtype),
    }
    origin = Origin(logits, lambda real: take(real, step, what), shares_memory=False, back=back.get(step))
    return derive(origin, logits._deferred.then(step, what))


def _view(logits: LazyLogits, rows: Callable[[Tensor], Tensor]) -> LazyLogits:
    """Return a view of logits, where `rows` chooses the same rows of any tensor with the leading axes of the logits."""
    with torch.no_grad():
        hidden = rows(logits._deferred.hidden)
    shape = logits.shape
    origin = Origin(logits, rows, shares_memory=True, rows=rows, back=lambda g: of_rows(rows, shape, g))
    return derive(origin, logits._deferred.of_rows(hidden))


def _number(x: Any, logits: LazyLogits) -> int | float | None:
    """Return a number, also one that a constant tensor on the CPU holds; None for anything else."""
    if isinstance(x, Tensor):
        constant = type(x) is Tensor and x.numel() == 1 and not x.requires_grad and x.device.type == "cpu"
        fits = x.ndim == 0 or (x.ndim <= logits.ndim and x.dtype == logits.dtype and logits.device == x.device)
        x = x.item() if constant and fits else None
    return x if isinstance(x, (int, float)) and not isinstance(x, bool) else None


@lazily("mul", "__mul__", "__rmul__", "multiply")
def _mul(logits: LazyLogits, other: Any, **options: Any) -> Any:
    factor = _number(other, logits)
    return NotImplemented if factor is None or options else _then(logits, "mul", factor)


@lazily("div", "__truediv__", "divide", "true_divide")
def _div(logits: LazyLogits, other: Any, **options: Any) -> Any:
    factor = _number(other, logits)
    return NotImplemented if factor is None or options else _then(logits, "div", factor)


@lazily("neg", "__neg__", "negative")
def _neg(logits: LazyLogits, **options: Any) -> Any:
    return _then(logits, "mul", -1) if not options else NotImplemented


@lazily("add", "__add__", "__radd__")
def _add(logits: LazyLogits, other: Any, **options: Any) -> Any:
    """Add a bias, a number for each class, the same in every row; or the output of another layer, as of an adapter."""
    deferred = logits._deferred
    if isinstance(other, LazyLogits):
        return NotImplemented if options else sum_of_layers(logits, other)
    if options or type(other) not in (Tensor, nn.Parameter) or not other.is_floating_point():
        return NotImplemented
    one_row = 1 <= other.ndim <= logits.ndim and other.shape[-1] == other.numel() == logits.shape[-1]
    capped = any(step.name == "tanh" for step in deferred.steps)  # a bias of scores is none of logits
    if not one_row or capped or other.device != deferred.hidden.device:
        return NotImplemented
    bias = other if other.requires_grad and torch.is_grad_enabled() else other.detach()
    dtype = torch.promote_types(deferred.dtype, bias.dtype)
    if dtype != deferred.dtype:
        logits = _then(logits, "to", dtype)
    version = version_of(bias)

    def make(real: Tensor) -> Tensor:
        if version_of(bias) != version:
            raise_changed()
        return real + bias

    of_input, of_weight, of_bias, of_adapter = deferred.wants
    wants = (of_input, of_weight, of_bias or bias.requires_grad, of_adapter)
    result = dataclasses.replace(logits._deferred.then("add", bias.detach()), wants=wants)
    return derive(Origin(logits, make, shares_memory=False, back=lambda g: g, added=bias), result)


@lazily("log_softmax")
def _log_softmax(logits: LazyLogits, dim: Any = None, dtype: Any = None, **options: Any) -> Any:
    """Log-probabilities: `log_probs` defines their lazy operations."""
    return _normalised(logits, "log_softmax", dim, dtype, options)


@lazily("softmax")
def _softmax(logits: LazyLogits, dim: Any = None, dtype: Any = None, **options: Any) -> Any:
    """Probabilities: of them a kl_div stays lazy (`divergences`)."""
    return _normalised(logits, "softmax", dim, dtype, options)


def _normalised(logits: LazyLogits, step: str, dim: Any, dtype: Any, options: dict[str, Any]) -> Any:
    if dim not in (-1, logits.ndim - 1) or options.keys() - {"_stacklevel"}:
        return NotImplemented
    device = logits._deferred.hidden.device.type
    if dtype is None and device != "cpu" and torch.is_autocast_enabled(device) and logits.dtype != torch.float64:
        dtype = torch.float32  # as autocast does on GPUs
    if dtype not in (None, logits.dtype):
        if not dtype.is_floating_point:
            return NotImplemented
        logits = _then(logits, "to", dtype)
    return _then(logits, step, None)


@lazily("tanh")
def _tanh(logits: LazyLogits, **options: Any) -> Any:
    return _then(logits, "tanh", None) if not options else NotImplemented


def _cast(dtype: torch.dtype) -> Callable[..., Any]:
    def cast(logits: LazyLogits, **options: Any) -> Any:
        return _to(logits, dtype) if not options else NotImplemented

    return cast


for _name, _dtype in (
    ("float", torch.float32), ("double", torch.float64), ("half", torch.float16), ("bfloat16", torch.bfloat16),
):  # fmt: skip
    _ = lazily(_name)(_cast(_dtype))


@lazily("to")
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


@lazily("cpu")
def _cpu(logits: LazyLogits, **options: Any) -> Any:
    return _to(logits, "cpu") if not options else NotImplemented


@lazily("type_as")
def _type_as(logits: LazyLogits, other: Tensor) -> Any:
    return (
        _to(logits, other.dtype) if other.device == logits.device and other.layout == torch.strided else NotImplemented
    )


@lazily("contiguous")
def _contiguous(logits: LazyLogits, **options: Any) -> Any:
    if options:
        return NotImplemented
    origin = logits._origin
    whole = origin is None or not origin.shares_memory or logits.numel() == origin.logits.numel()
    if whole:
        return logits
    return derive(Origin(logits, Tensor.contiguous, shares_memory=False, back=lambda g: g), logits._deferred)


@lazily("view", "reshape")
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
    return _view(logits, lambda real: real.reshape(*shape[:-1], real.shape[-1]))


@lazily("flatten")
def _flatten(logits: LazyLogits, start_dim: int = 0, end_dim: int = -1) -> Any:
    axes = logits.ndim
    if not (0 <= start_dim <= end_dim % axes < axes - 1):
        return NotImplemented
    return _view(logits, lambda real: real.flatten(start_dim, end_dim))


@lazily("view_as")
def _view_as(logits: LazyLogits, other: Tensor) -> Any:
    if other.shape != logits.shape:
        return NotImplemented
    return derive(Origin(logits, _seen, shares_memory=True, back=lambda g: g), logits._deferred)


def _seen(real: Tensor) -> Tensor:
    return real.view_as(real)


@lazily("transpose", "swapaxes", "swapdims")
def _transpose(logits: LazyLogits, first: int, second: int) -> Any:
    axes = logits.ndim
    if not all(isinstance(axis, int) and -axes <= axis < axes - 1 and axis != -1 for axis in (first, second)):  # pyright: ignore[reportUnnecessaryIsInstance]
        return NotImplemented
    return _view(logits, lambda real: real.transpose(first, second))


@lazily("permute")
def _permute(logits: LazyLogits, *dims: Any) -> Any:
    order = tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims  # pyright: ignore[reportUnknownArgumentType]
    if len(order) != logits.ndim or order[-1] not in (-1, logits.ndim - 1):
        return NotImplemented
    return _view(logits, lambda real: real.permute(order))


@lazily("unsqueeze")
def _unsqueeze(logits: LazyLogits, dim: int) -> Any:
    axes = logits.ndim
    return _view(logits, lambda real: real.unsqueeze(dim)) if -axes - 1 <= dim < axes and dim != -1 else NotImplemented


@lazily("squeeze")
def _squeeze(logits: LazyLogits, *dims: Any) -> Any:
    axes = logits.ndim
    if len(dims) != 1 or not isinstance(dims[0], int) or not (-axes <= dims[0] < axes - 1) or dims[0] == -1:
        return NotImplemented
    return _view(logits, lambda real: real.squeeze(dims[0]))


@lazily("__getitem__")
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
    return _view(logits, lambda real: real[keys])


@lazily("__iter__")
def _iter(logits: LazyLogits) -> Any:
    """Return the logits one after the other along the first axis, as loops over sequences ask for them."""
    if logits.ndim < 2:
        return NotImplemented
    return iter([_getitem(logits, place) for place in range(len(logits))])


@lazily("unbind")
def _unbind(logits: LazyLogits, dim: int = 0) -> Any:
    return NotImplemented if dim != 0 or logits.ndim < 2 else tuple(_iter(logits))


@lazily("split")
def _split(logits: LazyLogits, split_size: Any, dim: int = 0) -> Any:
    if not isinstance(split_size, int) or isinstance(split_size, bool) or dim != 0 or logits.ndim < 2:
        return NotImplemented
    if split_size < 1 or len(logits) == 0:
        return NotImplemented
    return tuple(_getitem(logits, slice(k, k + split_size)) for k in range(0, len(logits), split_size))


@lazily("detach")
def _detach(logits: LazyLogits) -> Any:
    return alias(logits)


@lazily("__repr__")
def _repr(logits: LazyLogits, **options: Any) -> Any:
    notice = logits._deferred.notice
    try:
        text = repr(logits.numbers())
        if notice is not None:
            notice.made("print", logits, None)
        return text
    except RuntimeError as error:
        return f"LazyLogits(shape={tuple(logits.shape)}, dtype={logits.dtype}): {error}"
