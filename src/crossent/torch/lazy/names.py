"""Which functions of torch need the numbers of a tensor, by name, and how lazy arguments are replaced by numbers."""

from __future__ import annotations

from typing import Any

METADATA = frozenset((
    "shape", "size", "dim", "ndim", "numel", "nelement", "dtype", "device", "layout", "is_cpu", "is_cuda", "is_meta",
    "is_sparse", "is_quantized", "is_nested", "is_floating_point", "is_complex", "is_contiguous", "stride",
    "storage_offset", "element_size", "itemsize", "nbytes", "requires_grad", "is_leaf", "is_inference", "get_device",
    "_base", "__len__", "__hash__",
))  # fmt: skip
"""Attributes of a tensor that need no numbers."""
GRAPH = frozenset((
    "grad", "_grad", "grad_fn", "output_nr", "retain_grad", "retains_grad", "register_hook", "_backward_hooks",
))  # fmt: skip
"""Attributes of a tensor's place in the graph of autograd."""
RAW_MEMORY = frozenset((
    "data", "numpy", "__array__", "__array_interface__", "__dlpack__", "data_ptr", "untyped_storage", "storage",
    "_typed_storage",
))  # fmt: skip
"""Attributes that expose memory to writes without a trace in the tensor's version."""
_FIELDS = frozenset(("__get__", "__set__", "__delete__"))


def name_of(func: Any) -> str:
    """Return the name of a function of torch, or of the attribute that it gets or sets."""
    return func.__self__.__name__ if func.__name__ in _FIELDS else func.__name__


def with_numbers(x: Any, lazy: type) -> Any:
    """Return x with the numbers of lazy tensors for the tensors, in lists, tuples and dicts too."""
    if isinstance(x, lazy):
        tensor: Any = x
        return tensor.numbers()
    if isinstance(x, dict):
        return {key: with_numbers(value, lazy) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        parts = [with_numbers(y, lazy) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return x
