"""Functions for arrays of NumPy, torch and JAX alike. A library is used only if the caller has imported it already."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

_HOME = {"torch": "torch", "jax": "jax.numpy", "jaxlib": "jax.numpy"}


def namespace(*arrays: Any) -> Any:
    """Return the module whose functions take these arrays: torch or jax.numpy if one is theirs, else numpy."""
    for array in arrays:
        home = _HOME.get(type(array).__module__.partition(".")[0])
        torch = sys.modules.get("torch")
        if home is None and torch is not None and isinstance(array, torch.Tensor):  # a subclass from elsewhere
            home = "torch"
        if home is not None:
            return sys.modules[home]
    return np


def readable(name: str, array: Any) -> Any:
    """Return an array as it is; raise if it is a torch tensor whose numbers do not lie in memory, strides apart.

    Raises
    ------
    TypeError
        If it is sparse, nested, masked or of another layout, with the fix.
    RuntimeError
        If its storage was freed, as torch's own functions do.
    """
    if namespace(array) is np or not hasattr(array, "untyped_storage"):
        return array
    if array.is_nested:
        fix = f"torch.nested.to_padded_tensor({name}, ...), and ignore the padding"
        raise TypeError(f"{name} is a nested tensor, and must be strided; use {fix}")
    layout = str(array.layout).removeprefix("torch.").removeprefix("_")
    if layout != "strided":
        raise TypeError(f"{name} is a {layout} tensor, and must be strided; use {name}.to_dense()")
    if type(array).__module__.startswith("torch.masked"):
        raise TypeError(f"{name} is a MaskedTensor; use {name}.get_data(), and a weight of 0 for masked elements")
    if is_freed(array):
        raise RuntimeError(f"{name} has elements but no memory: its storage was freed; use it before, or a copy")
    return array


def is_freed(tensor: Any) -> bool:
    """Return whether an ordinary torch tensor has elements but no memory."""
    torch = namespace(tensor)
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or torch.compiler.is_dynamo_compiling():
        return False  # a subclass may have its memory elsewhere
    try:
        return tensor.untyped_storage().nbytes() == 0 and tensor.numel() > 0
    except NotImplementedError:  # inside a function transform
        return False


def log(array: Any) -> Any:
    """Return the natural logarithm; log 0 is −inf, without a warning."""
    xp = namespace(array)
    if xp is np:
        with np.errstate(divide="ignore"):
            return np.log(array)
    return xp.log(array)


def weighted(weight: Any, array: Any) -> Any:
    """Return weight · array, where 0 · anything is 0, infinite or NaN though it may be."""
    xp = namespace(weight, array)
    with np.errstate(invalid="ignore"):
        return xp.where(xp.zeros_like(array) + weight == 0, 0.0, weight * array)


def total(vector: Any) -> Any:
    """Return the sum of a vector, added in parts of a fixed size: the number of threads does not change the result."""
    part = 16384
    whole = vector.shape[0] // part * part
    if whole == 0:
        return vector.sum()
    return total(vector[:whole].reshape(-1, part).sum(1)) + vector[whole:].sum()
