"""The process of the command line: what signals do to it, and its standard streams.

A signal may come at any time, also while libraries are imported, so its handling is set up first.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

_SHOW_CURSOR = b"\x1b[?25h"


def prepare() -> None:
    """Let signals end the process in silence, and open standard streams that are closed."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) and signal.getsignal(number) is not signal.SIG_IGN:  # as of nohup
            _ = signal.signal(number, _leave)
    _open_closed_streams()


def settle() -> None:
    """Let signals change nothing any more: the command is done, and Python, while it ends, would let them kill it."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) and signal.getsignal(number) is _leave:
            _ = signal.signal(number, signal.SIG_IGN)


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process at once and in silence, without files that are not whole and with the terminal as it was."""
    outputs = sys.modules.get("crossent.outputs")
    if outputs is not None and hasattr(outputs, "remove_unfinished"):  # else it is being imported
        outputs.remove_unfinished()
    for stream in (1, 2):
        if os.isatty(stream):
            _ = os.write(stream, _SHOW_CURSOR)
    os._exit(128 + number)


def _open_closed_streams() -> None:
    """Open closed standard streams on the null device; otherwise files would get their numbers and output."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                _ = os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  open to the end
