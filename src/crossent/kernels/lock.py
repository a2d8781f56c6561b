"""Python's global interpreter lock (GIL), which the C++ core needs.

A free-threaded Python switches its lock on when it imports a module that does not declare to do without one. The core
declares nothing, because it was never tried without the lock. crossent says so in its own words, and refuses a Python
whose lock its user keeps off.
"""

from __future__ import annotations

import sys
import sysconfig
import warnings
from collections.abc import Generator
from contextlib import contextmanager

NEVER = "crossent was never tried without Python's global interpreter lock (GIL)"


def is_free_threaded() -> bool:
    """Return whether this Python was built to run without its lock."""
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def is_held_off() -> bool:
    """Return whether the user keeps the lock off, by PYTHON_GIL=0 or -X gil=0."""
    return is_free_threaded() and getattr(sys.flags, "gil", None) == 0


def why_not() -> str | None:
    """Return None if the core can be imported, else the reason."""
    if is_held_off():
        return f"{NEVER}, and PYTHON_GIL=0 or -X gil=0 keeps it off; leave these out, and the import switches it on"
    return None


@contextmanager
def switched_on() -> Generator[None]:
    """Import the core here: a warning says that Python switches its lock on, in place of Python's own warning."""
    if not is_free_threaded() or getattr(sys, "_is_gil_enabled", lambda: True)():
        yield
        return
    warnings.warn(
        f"{NEVER}: importing it switches the lock on, and from now on the threads of this process take turns; "
        "PYTHON_GIL=1 switches it on from the start, without this warning",
        RuntimeWarning,
        stacklevel=2,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The global interpreter lock", RuntimeWarning)
        yield
