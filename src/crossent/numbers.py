"""Numbers as callers pass them: Python's and NumPy's, fractions, and arrays or tensors of one number.

The front doors turn them into int and float here, so that nothing below sees anything else. A value with `__index__` is
a whole number, as in Python, NumPy and torch; a value with `__float__` is a real number. Booleans are neither: `True`
for a strength or a class is a mistake. `False` for a strength is 0, which switches it off.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

_LONGEST = 60
"""Characters of a value that an error shows."""


def whole(name: str, value: Any, of: str = "") -> int:
    """Return an argument as an int.

    Parameters
    ----------
    name
        The argument, for errors.
    value
        What the caller passed.
    of
        What the number counts or names, for errors: " of bytes".

    Raises
    ------
    TypeError
        If it is not a whole number.
    ValueError
        If it does not fit into 64 bits.

    Examples
    --------
    >>> import numpy as np
    >>> whole("ignore_index", np.int16(-100)), whole("ignore_index", np.array(7))
    (-100, 7)
    """
    if type(value) is not int:
        try:
            if isinstance(value, (bool, np.bool_)):
                raise TypeError
            single = _single(value)
            value = operator.index(_NONE if isinstance(single, bool) else single)
        except TypeError:
            raise TypeError(f"{name} must be a whole number{of}, got {shown(value)}") from None
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must be a number of 64 bits, got {shown(value)}")
    return value


def real(name: str, value: Any) -> float:
    """Return an argument as a float.

    Raises
    ------
    TypeError
        If it is not a real number.
    ValueError
        If it is larger than any float, or a tensor that requires a gradient, which would be lost.

    Examples
    --------
    >>> import numpy as np
    >>> from fractions import Fraction
    >>> real("temperature", np.float32(0.5)), real("temperature", Fraction(1, 4)), real("z_loss", 0)
    (0.5, 0.25, 0.0)
    """
    if type(value) is float:
        return value
    if getattr(value, "requires_grad", False):
        raise ValueError(f"{name} is a constant and gets no gradient; use float({name})")
    single = _single(value) if getattr(value, "shape", ()) == () else _NONE
    try:
        if single is True or not (hasattr(single, "__float__") or hasattr(single, "__index__")):
            raise TypeError  # float() would take a text
        return float(single)
    except TypeError:
        raise TypeError(f"{name} must be a number, got {shown(value)}") from None
    except OverflowError:
        raise ValueError(f"{name} must be a finite number, got {shown(value)}") from None


def switch(name: str, value: Any) -> bool:
    """Return an argument as a bool.

    Raises
    ------
    TypeError
        If it is neither true nor false.
    """
    single = _single(value)
    if not isinstance(single, int):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(single)


_NONE: Any = object()
"""No number."""


def _single(value: Any) -> Any:
    """Return the number in an array or tensor of one number, and any other value unchanged."""
    item = getattr(value, "item", None)
    if item is None:
        return value
    if getattr(getattr(value, "dtype", None), "kind", "f") not in "biufO" or getattr(value, "is_meta", False):
        return _NONE  # NumPy's dates and durations, and tensors without numbers
    if str(getattr(value, "layout", "torch.strided")) != "torch.strided":
        return _NONE  # sparse tensors of torch and their like
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        return _NONE
    return item() if all(length == 1 for length in getattr(value, "shape", ())) else _NONE


def shown(value: Any) -> str:
    """Return a value as an error shows it: an array by its shape and dtype, anything else cut to 60 characters."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {tuple(shape)} and dtype {value.dtype}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
