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


def log(array: Any) -> Any:
    """Return the natural logarithm; log 0 is −inf, without a warning."""
    xp = namespace(array)
    if xp is np:
        with np.errstate(divide="ignore"):
            return np.log(array)
    return xp.log(array)


def total(vector: Any) -> Any:
    """Return the sum of a vector, added in parts of a fixed size: the number of threads does not change the result."""
    part = 16384
    whole = vector.shape[0] // part * part
    if whole == 0:
        return vector.sum()
    return total(vector[:whole].reshape(-1, part).sum(1)) + vector[whole:].sum()
