"""Records of a log: the JSON values of its lines, of the events of a stream, or of the samples in an archive."""

from __future__ import annotations

import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from crossent.errors import one_line
from crossent.scoring.lm.document import LogError
from crossent.scoring.lm.opening import ZIP, line_of, opened

LONGEST = 2**28  # bytes of a line: a hundred thousand tokens with twenty candidates each
MOST_SAMPLES = 1_000_000
"""Members of an archive at most."""
Done = Callable[[float], None]
"""Called with the part of a file that has been read, 0 to 1."""
_BROKEN = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError, OverflowError,
    LookupError, struct.error,
)  # fmt: skip
"""Errors from reading a damaged archive; RuntimeError if it is encrypted or of an unknown kind."""
_FIELDS = (b"event:", b"id:", b"retry:", b":")
"""Beginnings of lines in a stream of server-sent events, besides `data:`."""


class LogRecord(NamedTuple):
    """A JSON value of a log, its place in the file, and the name of the task that its archive gives it."""

    where: str
    value: Any
    task: str | None = None


def records(path: Path, done: Done | None = None) -> Iterator[LogRecord]:
    """Yield the records of a file, or of standard input for the path "-"."""
    with opened(path) as log:
        if log.beginning.startswith(ZIP):
            yield from _of_archive(path, done)
            return
        found, number = False, 0
        while line := line_of(log.file, LONGEST + 1, path):
            number += 1
            if done is not None:
                done(log.done())
            if not (line := _data(line)).strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            where = f"line {number}"
            try:
                value = parsed(line)
            except LogError as error:
                if found:
                    raise LogError(f"{path}, {where}: {error}") from None
                value = _whole(path, log.file, line, error, where)
            found = True
            if isinstance(value, list):
                for k, one in enumerate(cast("list[Any]", value), 1):
                    yield LogRecord(f"{where}, entry {k}", one)
            else:
                yield LogRecord(where, value)
    if not found:
        raise LogError(f"{path} is empty; write one JSON object per line")


def _data(line: bytes) -> bytes:
    """Return the value of a line; of a stream of server-sent events the data of an event, nothing for other fields."""
    text = line.lstrip()
    if text.startswith(b"data:"):
        text = text[len(b"data:") :]
        return b"" if text.strip() == b"[DONE]" else text
    return b"" if text.startswith(_FIELDS) else line


def _whole(path: Path, file: BinaryIO, line: bytes, error: LogError, where: str) -> Any:
    """Return the file as one JSON value over several lines; `error` is the error of its first line alone."""
    rest = b"" if len(line) > LONGEST else b"".join(_rest(file, LONGEST + 1 - len(line), path))
    if not rest.strip():
        raise LogError(f"{path}, {where}: {error}") from None
    if len(line) + len(rest) > LONGEST:
        raise LogError(
            f"{path}, {where}: {error}; or the file is one JSON value of more than {LONGEST} bytes"
        ) from None
    try:
        return parsed(line + rest)
    except LogError as whole:
        # A line that ends in the middle of a value begins one that is spread over lines.
        ends = line.rstrip()[-1:] in b"{[,"
        raise LogError(f"{path}, {'in one JSON value' if ends else where}: {whole if ends else error}") from None


def _rest(file: BinaryIO, most: int, path: Path) -> Iterator[bytes]:
    """Yield the lines to the end of a file, `most` bytes of them."""
    while most > 0 and (line := line_of(file, most, path)):
        most -= len(line)
        yield line


def parsed(line: bytes) -> Any:
    """Return the JSON value of a line."""
    if len(line) > LONGEST:
        raise LogError(f"longer than {LONGEST} bytes; write one JSON object per line")
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise LogError(f"byte {error.start} is not UTF-8; write the log as UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"character {error.pos}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise LogError(f"not JSON: {error.msg.lower()} at {place}; was the line cut off?") from None
    except ValueError as error:
        raise LogError(f"not JSON that can be read: {error}") from None
    except RecursionError:
        raise LogError("nested too deeply; this is not a log of log-probabilities") from None


def _of_archive(path: Path, done: Done | None) -> Iterator[LogRecord]:
    """Yield the samples of a log of Inspect (.eval), a zip archive with a member for each."""
    if str(path) == "-":
        raise LogError("an archive cannot be read from standard input; pass the file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            samples = [m for m in members if m.filename.startswith("samples/") and m.filename.endswith(".json")]
            if not samples:
                raise LogError(f"{path} is an archive without samples of Inspect; unpack it and pass the logs in it")
            if len(samples) > MOST_SAMPLES:
                raise LogError(f"{path} has {len(samples)} samples, more than {MOST_SAMPLES}")
            task = _task(archive, {member.filename for member in members}, path)
            for k, member in enumerate(samples, 1):
                yield LogRecord(member.filename.removeprefix("samples/"), _member(archive, member, path), task)
                if done is not None:
                    done(k / len(samples))
    except LogError:
        raise
    except _BROKEN as error:
        said = one_line(str(error) or type(error).__name__, 200)
        raise LogError(f"{path} is an archive that cannot be read: {said}") from None


def _task(archive: zipfile.ZipFile, names: set[str], path: Path) -> str | None:
    """Return the name of the task in the header of an archive, None if there is none."""
    for name in ("header.json", "_journal/start.json"):
        if name in names:
            value = _member(archive, archive.getinfo(name), path)
            about = value.get("eval") if isinstance(value, dict) else None
            task = about.get("task") if isinstance(about, dict) else None
            if isinstance(task, str):
                return task
    return None


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Any:
    with archive.open(member) as file:
        data = file.read(LONGEST + 1)
    try:
        return parsed(data)
    except LogError as error:
        raise LogError(f"{path}, {one_line(member.filename, 60)}: {error}") from None
