"""Backends: who can compute the row functions, and why the others cannot.

A backend is a module of this package with `why_not()`, which returns None if the backend can be used here and else the
reason as a string, and the functions `row_stats`, `row_grad`, `row_fused`, `sigmoid_loss` and `sigmoid_grad`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_BACKENDS = ("cpu", "triton")


def names() -> tuple[str, ...]:
    """Return the names of all backends, usable or not."""
    return _BACKENDS


def why_not(name: str) -> str | None:
    """Return None if the backend can be used here, else the reason."""
    if name not in _BACKENDS:
        return f"there is no backend {name!r}; there are {', '.join(_BACKENDS)}"
    reason: str | None = import_module(f"crossent.kernels.{name}").why_not()
    return reason


def get(name: str) -> Any:
    """Return the module of a backend.

    Raises
    ------
    NotImplementedError
        If the backend cannot be used here, with the reason.
    """
    reason = why_not(name)
    if reason is not None:
        raise NotImplementedError(reason)
    return import_module(f"crossent.kernels.{name}")
