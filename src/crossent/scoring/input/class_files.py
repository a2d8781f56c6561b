"""Names of classes in files: a name a line, a list of JSON, or the `id2label` of a model, also in its config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from crossent.errors import quoted
from crossent.inputs import why_not_readable
from crossent.scoring.input.reader import FileError

_MOST = 1 << 26  # bytes


def read_classes(path: Path) -> list[Any] | dict[Any, Any]:
    """Return the argument `classes` that a file holds.

    Raises
    ------
    FileError
        If it is not a file of classes.
    """
    if reason := why_not_readable(path):
        raise FileError(f"{path} {reason}")
    if path.stat().st_size > _MOST:
        raise FileError(f"{path}: longer than {_MOST >> 20} MiB, too long for names of classes")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not text in UTF-8 (byte {error.object[error.start]:#x})") from error
    begins = text.lstrip()[:1]
    if begins == "{" or (begins == "[" and path.suffix.lower() == ".json"):
        return _of_json(text, path)
    if begins == "[":
        try:
            return _of_json(text, path)
        except FileError:  # names such as [PAD], a line each
            pass
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if len(names) < 2:
        raise FileError(f"{path}: it has {len(names)} lines, and must hold one name per line, or JSON")
    return names


def _of_json(text: str, path: Path) -> list[Any] | dict[Any, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: not JSON ({error})") from error
    for name in ("id2label", "label2id", "classes", "class_names", "labels", "names"):
        if isinstance(found, dict) and isinstance(inner := cast("dict[str, Any]", found).get(name), dict | list):
            found = cast("Any", inner)
            break
    values = list(cast("dict[str, Any]", found).values()) if isinstance(found, dict) else found
    if not isinstance(values, list) or not values or any(isinstance(value, list | dict) for value in values):
        raise FileError(
            f'{path}: neither a list of names nor an object such as {{"0": "cat", "1": "dog"}}, but {quoted(text)}'
        )
    return cast("Any", found)
