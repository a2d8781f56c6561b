"""Texts out of files: a document for each file, or for each line of JSON objects that hold one under a key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from crossent.errors import quoted
from crossent.scoring.lm.document import DocumentNote, LogError, described
from crossent.scoring.lm.fields import at
from crossent.scoring.lm.opening import line_of, opened
from crossent.scoring.lm.reading import task_of, value_at
from crossent.scoring.lm.records import LONGEST, records

KEY = "text"
"""Key of the text in an object, by default."""
_OBJECTS = (".jsonl", ".ndjson", ".json")
_MARK = "\ufeff"
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4")


class ReadText(NamedTuple):
    """A text, its name, the values for its slices, and the part of all files that ends with it."""

    name: str
    text: str
    by: tuple[tuple[str, str | None], ...]
    done: float
    notes: frozenset[DocumentNote] = frozenset()


def texts_of(paths: Sequence[Path], *, key: str | None = None, by: Sequence[str] = ()) -> Iterator[ReadText]:
    """Yield the texts of files one after the other.

    Parameters
    ----------
    paths
        Files, compressed or not; "-" is standard input. Those that end with .jsonl, .ndjson or .json hold objects. An
        empty file is an empty text.
    key
        Key of the text in an object, such as `content.body`; with a key every file holds objects.
    by
        Keys of the objects whose values get a score each.

    Raises
    ------
    LogError
        If a file cannot be read, is not UTF-8, or an object has no such text.
    OSError
        If a file cannot be opened.
    """
    for k, path in enumerate(paths):
        values = tuple((name, task_of(path) if name == "task" else None) for name in by)
        if path.is_file() and not path.stat().st_size:
            yield ReadText(str(path), "", values, (k + 1) / len(paths))
        elif key is not None or _holds_objects(path):
            yield from _of_objects(path, key or KEY, by, (k, len(paths)))
        else:
            if by and values[0][1] is None:
                raise LogError(f"{path} is a text, which has no {quoted(by[0])}; leave --by out", argument="by")
            text = _whole(path)
            notes = frozenset[DocumentNote]({"byte-order mark"} if text.startswith(_MARK) else ())
            yield ReadText(str(path), text.removeprefix(_MARK), values, (k + 1) / len(paths), notes)


def _holds_objects(path: Path) -> bool:
    name = path.name.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return name.endswith(_OBJECTS)


def _whole(path: Path) -> str:
    """Return the text of a file unchanged."""
    parts: list[bytes] = []
    size = 0
    with opened(path) as log:
        while part := line_of(log.file, LONGEST, path):
            parts.append(part)
            size += len(part)
            if size > LONGEST:
                raise LogError(f"{path} is longer than {LONGEST} bytes; split it into documents, one object per line")
    try:
        return b"".join(parts).decode("utf-8")
    except UnicodeDecodeError as error:
        raise LogError(f"{path}: byte {error.start} is not UTF-8; write the text as UTF-8") from None


def _of_objects(path: Path, key: str, by: Sequence[str], place: tuple[int, int]) -> Iterator[ReadText]:
    part, found = [0.0], set[str]()
    for where, record, _ in records(path, lambda done: part.__setitem__(0, done)):
        text = at(record, key)
        if not isinstance(text, str):
            has = (
                described(record) if not isinstance(text, str) and text is None else f"{quoted(key)} {described(text)}"
            )
            raise LogError(f"{path}, {where}: this is {has}; pass --text-key with the key that holds the text")
        own = record.get("id")
        name = str(own) if isinstance(own, str | int) and not isinstance(own, bool) else f"{path}, {where}"
        try:
            values = tuple((name, value_at(record, name, task_of(path), found)) for name in by)
        except LogError as error:
            raise LogError(f"{path}, {where}: {error}") from None
        yield ReadText(name, text, values, (place[0] + part[0]) / place[1])
    missing = [name for name in by if name not in found]
    if missing:
        raise LogError(f"{path}: no object has {quoted(missing[0])}", argument="by")
