"""Files that are written: whole or not at all, and never over a file that was read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO


def same_file(path: Path, other: Path) -> bool:
    """Return whether two paths are one file, however they are spelled and linked.

    Examples
    --------
    >>> file = getfixture("tmp_path") / "rows.csv"
    >>> _ = file.write_text("")
    >>> same_file(file, file.parent / "." / "rows.csv"), same_file(file, file.parent / "other.csv")
    (True, False)
    """
    try:
        return path.samefile(other)
    except OSError:  # one of them does not exist
        return path.resolve() == other.resolve()


def why_not_writable(path: Path, inputs: Iterable[Path] = ()) -> str | None:
    """Return why a file cannot be written, or None; inputs must not be overwritten."""
    for source in inputs:
        if same_file(path, source):
            return f"it is the input {source}" if str(source) != str(path) else "it is an input file"
    if path.is_dir():
        return "it is a directory"
    if not path.absolute().parent.is_dir():
        return f"there is no directory {path.absolute().parent}"
    if path.exists() and not path.is_file():
        return "it is not a regular file"
    if not os.access(path.resolve().parent, os.W_OK | os.X_OK):
        return "its directory is not writable"
    return None


_unfinished: set[Path] = set()  # a signal that ends the process has no other way to know of them


def remove_unfinished() -> None:
    """Remove unfinished files, before the process ends."""
    for path in tuple(_unfinished):
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Generator[TextIO, None, None]:
    """Yield a new text file that replaces `path` at the end; if anything fails, the old file stays.

    It is written in the same folder and then renamed. A link stays a link: its target is replaced.

    Raises
    ------
    OSError
        If the file cannot be written; `filename` is `path`.
    """
    target = Path(os.path.realpath(path))
    beside: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:60]}.", suffix=".part", dir=target.parent)
        beside = Path(name)
        _unfinished.add(beside)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(_mode_of(target))
        _ = beside.replace(target)
    except BaseException as error:
        if beside is not None:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        if beside is not None:
            _unfinished.discard(beside)


def write_whole(path: Path, text: str) -> None:
    """Write a text as a file, whole or not at all."""
    with whole_file(path) as file:
        _ = file.write(text)


def _mode_of(target: Path) -> int:
    """Return the permissions of a file that is replaced, or those of a new one."""
    with suppress(OSError):
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    _ = os.umask(mask)
    return 0o666 & ~mask
