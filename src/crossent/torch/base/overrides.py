"""The public face before objects that act like tensors, and before tracers: as torch's own functions behave."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch.overrides import handle_torch_function, has_torch_function

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

KNOWN: set[type] = set()
"""Tensor classes of this library. The losses know them; their `__torch_function__` is for torch's functions."""


def overridable(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Ask arguments that have `__torch_function__` first: proxies of `torch.fx`, subclasses of tensors, modes."""

    @functools.wraps(function)
    def face(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if has_torch_function(args) or (kwargs and has_torch_function((*kwargs.values(),))):
            others = tuple(x for x in (*args, *kwargs.values()) if type(x) not in KNOWN)
            if has_torch_function(others):
                return handle_torch_function(face, others, *args, **kwargs)
        if not torch.compiler.is_compiling() and torch._C._is_tracing():  # pyright: ignore
            with warnings.catch_warnings():  # about checks of shapes: a graph is for the shapes that it was traced with
                warnings.simplefilter("ignore", torch.jit.TracerWarning)  # pyright: ignore[reportPrivateImportUsage]
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    return face
