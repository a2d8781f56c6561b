"""The backends: modules that compute the row functions for one kind of device, and the registry of their names.

Here live `backend` (the contract), one module or package for each backend (`cpu` over the C++ core, `triton` for GPUs),
`checks` (of targets, for backends that cannot raise from within a kernel) and `lock` (Python's, which the core needs).
A backend works on rows, classes and arrays, without reductions, autograd or other backends. Every folder of crossent
may call `get`.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import cast

from crossent.kernels.backend import Backend

_BACKENDS = ("cpu", "triton")


def names() -> tuple[str, ...]:
    """Return the names of all backends, usable or not."""
    return _BACKENDS


def why_not(name: str) -> str | None:
    """Return None if the backend of this name can be used here, else the reason."""
    if name not in _BACKENDS:
        return f"there is no backend {name!r}; there are {', '.join(_BACKENDS)}"
    return _module(name).why_not()


def few_classes(name: str) -> int:
    """Return how many classes need no record on the backend of this name: its `FEW_CLASSES`."""
    return _module(name).FEW_CLASSES


def adds_bias(name: str) -> bool:
    """Return whether the backend of this name takes `BiasedLogits`: its `ADDS_BIAS`."""
    return _module(name).ADDS_BIAS


def get(name: str) -> Backend:
    """Return the backend of this name.

    Raises
    ------
    NotImplementedError
        If the backend cannot be used here, with the reason.
    """
    reason = why_not(name)
    if reason is not None:
        raise NotImplementedError(reason)
    return _module(name)


@functools.cache
def _module(name: str) -> Backend:
    return cast("Backend", import_module(f"crossent.kernels.{name}"))
