"""JSON of any length read value by value, so that a file with one great array takes the memory of its parts."""

from __future__ import annotations

import codecs
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossent.scoring.input.json_cells import finite, with_repeats
from crossent.scoring.input.reader import FileError
from crossent.scoring.input.text_files import LONGEST, compression_of

_BLOCK = 1 << 20
_SPACE = " \t\n\r"
_ENDS = (",", "]", "}", ":", *_SPACE)


class Scanner:
    """A place in a text of JSON.

    Parameters
    ----------
    file
        A stream of bytes in UTF-8.
    path
        What errors call the file.
    begun
        How many bytes of the file lie before the stream.
    """

    def __init__(self, file: Any, path: str, begun: int = 0) -> None:
        self._file, self._path, self._read = file, path, begun
        self._text, self._at, self._ended = "", 0, False
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._values = json.JSONDecoder(object_pairs_hook=with_repeats, parse_float=finite)

    @property
    def offset(self) -> int:
        """How many bytes of the file lie before this place."""
        return self._read - len(self._decoder.getstate()[0]) - len(self._text[self._at :].encode())

    def peek(self) -> str:
        """Return the next character other than a space, "" at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def take(self, mark: str) -> None:
        """Step over a mark, which must be the next one.

        Raises
        ------
        FileError
            If another follows.
        """
        found = self.peek()
        if found != mark:
            raise FileError(
                f"{self._path}: not JSON ({mark} is expected at byte {self.offset:,}, and {found!r} follows)"
            )
        self._at += 1

    def value(self) -> Any:
        """Step over a value, and return it.

        Raises
        ------
        FileError
            If there is none, or it is longer than 16 MiB.
        """
        _ = self.peek()
        while True:
            try:
                found, end = self._values.raw_decode(self._text, self._at)
                if self._ended or self._text[end : end + 1] in _ENDS:  # else a number may go on
                    self._at = end
                    return found
                why = ""
            except (ValueError, RecursionError) as error:  # not kept, for it keeps the text
                why = "nested too deeply" if isinstance(error, RecursionError) else str(error).split(":")[0]
            if not self._more() and why:
                raise FileError(f"{self._path}: not JSON ({why}, near byte {self.offset:,})")

    def items(self) -> Iterator[None]:
        """Stand before each item of an array in turn; each must be stepped over."""
        yield from self._parts("[", "]")

    def pairs(self) -> Iterator[str]:
        """Yield the name of each pair of an object and stand before its value, which must be stepped over."""
        for _ in self._parts("{", "}"):
            name = self.value()
            if not isinstance(name, str):
                raise FileError(f"{self._path}: not JSON (a name is expected before byte {self.offset:,})")
            self.take(":")
            yield name

    def skip(self) -> int:
        """Step over a value of any length, and return how many items or pairs it has."""
        count = 0
        if self.peek() not in ("[", "{"):
            _ = self.value()
            return 0
        parts = self.items() if self.peek() == "[" else self.pairs()
        for _ in parts:
            _ = self.value()
            count += 1
        return count

    def _parts(self, begin: str, end: str) -> Iterator[None]:
        self.take(begin)
        if self.peek() == end:
            self.take(end)
            return
        while True:
            yield
            if self.peek() != ",":
                break
            self.take(",")
        self.take(end)

    def _more(self) -> bool:
        """Read a further block, and return whether there is one."""
        if self._ended:
            return False
        if len(self._text) - self._at > LONGEST:
            raise FileError(
                f"{self._path}: not JSON, or a value is longer than {LONGEST >> 20} MiB near byte {self.offset:,}"
            )
        data = self._file.read(_BLOCK)
        self._read += len(data)
        self._ended = not data
        try:
            text = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise FileError(f"{self._path}: not text in UTF-8 (byte {error.object[error.start]:#x})") from error
        self._text, self._at = self._text[self._at :] + text, 0
        return not self._ended


@contextmanager
def scanned(path: Path, offset: int = 0) -> Generator[tuple[Scanner, Any], None, None]:
    """Open a file of JSON, compressed or not, at an offset of its text: its scanner, and the file on the disk."""
    import pyarrow as pa

    with path.open("rb") as raw, pa.input_stream(pa.PythonFile(raw), compression_of(path)) as file:
        left, begun = offset, offset
        if compression_of(path) is None:
            file.seek(offset)
            left = 0
        while left and (data := file.read(min(left, _BLOCK))):
            left -= len(data)
        if not offset:
            head = file.read(3)
            mark = head == b"\xef\xbb\xbf"
            begun = 3 if mark else 0
            yield Scanner(_After(b"" if mark else head, file), str(path), begun), raw
            return
        yield Scanner(file, str(path), begun), raw


class _After:
    """A stream behind bytes that have been read of it."""

    def __init__(self, head: bytes, file: Any) -> None:
        self._head, self._file = head, file

    def read(self, size: int) -> bytes:
        head, self._head = self._head, b""
        return head + self._file.read(size)
