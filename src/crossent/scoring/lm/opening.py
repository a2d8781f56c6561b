"""Bytes of a log: plain or compressed, of a file or of standard input, and how much of a file has been read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from crossent.errors import one_line
from crossent.inputs import why_not_readable
from crossent.scoring.lm.document import LogError

_BEGINNINGS = {
    b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4",
}  # fmt: skip
ZIP = b"PK\x03\x04"
"""First bytes of a zip archive."""
_LONGEST_BEGINNING = 6
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError)


class OpenedLog(NamedTuple):
    """The decompressed bytes of a log, which can be read once; its first bytes, and the part of it read so far."""

    file: BinaryIO
    beginning: bytes
    done: Callable[[], float]


@contextmanager
def opened(path: Path) -> Generator[OpenedLog, None, None]:
    """Open a log with any compression; "-" is standard input.

    Raises
    ------
    LogError
        If it is not a regular file, or its compression needs a package that is missing.
    OSError
        If it cannot be opened.
    """
    with ExitStack() as stack:
        if str(path) == "-":
            plain: BinaryIO = sys.stdin.buffer
            size, place = 0, plain
        else:
            if reason := why_not_readable(path):
                raise LogError(f"{path} {reason}")
            size = path.stat().st_size
            place = stack.enter_context(path.open("rb"))
            plain = place
        buffered: Any = plain if hasattr(plain, "peek") else io.BufferedReader(cast("Any", plain))
        beginning = bytes(buffered.peek(_LONGEST_BEGINNING)[:_LONGEST_BEGINNING])
        kind = next((kind for magic, kind in _BEGINNINGS.items() if beginning.startswith(magic)), None)
        file = buffered if kind is None else stack.enter_context(_decompressed(buffered, kind, path))
        if kind is not None:
            beginning = _beginning(file, path)
        yield OpenedLog(file, beginning, lambda: place.tell() / size if size else 0.0)


def line_of(file: BinaryIO, longest: int, path: Path) -> bytes:
    """Return the next line, at most `longest` bytes of it; nothing at the end.

    Raises
    ------
    LogError
        If the compressed file is damaged.
    """
    try:
        return file.readline(longest)
    except _DAMAGED as error:
        raise LogError(f"{path} is compressed, and damaged or cut off: {one_line(error, 200)}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise LogError(f"{path} is compressed, and damaged: {one_line(error, 200)}") from None


def _beginning(file: Any, path: Path) -> bytes:
    try:
        return bytes(file.peek(_LONGEST_BEGINNING)[:_LONGEST_BEGINNING])
    except (*_DAMAGED, OSError) as error:
        raise LogError(f"{path} is compressed, and damaged: {one_line(error, 200)}") from None


def _decompressed(file: BinaryIO, kind: str, path: Path) -> Any:
    if kind == "gzip":
        return io.BufferedReader(cast("Any", gzip.GzipFile(fileobj=file, mode="rb")))
    if kind == "bz2":
        return io.BufferedReader(cast("Any", bz2.BZ2File(file)))
    if kind == "xz":
        return io.BufferedReader(cast("Any", lzma.LZMAFile(file)))
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        raise LogError(f"{path} is compressed by {kind}, which pyarrow reads: pip install pyarrow") from None
    return io.BufferedReader(_Raw(pa.CompressedInputStream(file, kind)))


class _Raw(io.RawIOBase):
    """A stream of pyarrow as Python's own."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.source = source

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, and return the number of bytes."""
        found: bytes = self.source.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)
