"""Names passed by a user, resolved to files: globs, folders of parts, zip archives, URLs, "-".

A folder stands for all files below it, in the order of their names; names that begin with "_" or "." are left out, as
Spark's marks are. A folder called `key=value` is a column of its files (Hive's partitions).
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from crossent.errors import quoted
from crossent.scoring.input.reader import FileError
from crossent.scoring.input.remote import is_hidden, listed

STDIN = "-"
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(?=[^/])", re.IGNORECASE | re.ASCII)
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
"""Log folders that select the valid files next to them."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a table.

    Parameters
    ----------
    name
        What errors call it: its path as the user passed it, a URL, or - for standard input.
    folders
        Columns that the names of its folders are, each with its value; None for a missing one.
    member
        Name of the file inside of a zip archive, whose name `archive` is.
    archive
        The zip archive that holds the file.
    """

    name: str
    folders: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    member: str | None = None
    archive: Path | None = None

    @property
    def url(self) -> bool:
        """Whether the file is elsewhere."""
        return is_url(self.name)


def is_url(name: str) -> bool:
    """Return whether a name is a URL, such as s3://bucket/a.csv.

    Examples
    --------
    >>> is_url("s3://bucket/a.csv"), is_url("c:/a.csv"), is_url("a.csv")
    (True, False, False)
    """
    return "://" in name and _URL.match(name) is not None


def spelled(name: str | Path) -> str:
    """Return a name as the user passed it: `pathlib` takes one slash from URLs, and `file://` is a path.

    Examples
    --------
    >>> spelled(Path("s3://bucket/a.csv")), spelled("file:///data/a.csv")
    ('s3://bucket/a.csv', '/data/a.csv')
    """
    text = os.fspath(name)
    found = _URL.match(text)
    if found is None or (isinstance(name, Path) and name.exists()):
        return text
    rest = text[found.end() :]
    return f"/{rest}" if found[1].lower() == "file" else f"{found[1]}://{rest}"


def sources(names: Iterable[str | Path]) -> list[Source]:
    """Return the files of names, in the order of the names, sorted within each.

    Raises
    ------
    OSError
        If a file or a folder cannot be read.
    FileError
        If a name stands for no file, two stand for the same one, or a folder's log selects the valid files.
    """
    found: list[Source] = []
    for name in map(spelled, names):
        found += _of_url(name) if is_url(name) else _of_name(name)
    _require_once(found)
    return found


def _of_name(name: str) -> list[Source]:
    path = Path(name)
    if name == STDIN:
        return [Source(name)]
    if glob.has_magic(name) and not os.path.lexists(path):
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 (of any folder)
        below = [source for match in matches if not _is_left_out(match, name) for source in _of_path(Path(match))]
        if not below:
            raise FileError(f"{name}: no file matches")
        return _once(below)
    return _of_path(path)


def _is_left_out(match: str, pattern: str) -> bool:
    """Return whether a pattern such as * matched a name that folders leave out, without naming it."""
    name = Path(match).name
    return is_hidden(name) and not Path(pattern).name.startswith(name[0])


def _of_path(path: Path) -> list[Source]:
    if path.is_dir():
        found = [_source(file) for file in _files_below(path)]
        if not found:
            raise FileError(f"{path} is a directory without files; names that begin with _ or . do not count")
        return found
    inside = None if os.path.lexists(path) else _inside(path)
    return [_source(path) if inside is None else inside]


def _inside(path: Path) -> Source | None:
    """Return the member of a zip archive in a path such as a.zip/b.csv."""
    for archive in path.parents:
        if archive.suffix.lower() == ".zip" and archive.is_file():
            member = path.relative_to(archive).as_posix()
            return Source(str(path), folders_of(path), member, archive)
    return None


def _source(path: Path) -> Source:
    return Source(str(path), folders_of(path))


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder of parts."""
    for root, folders, files in os.walk(folder, onerror=_raised):
        here = Path(root)
        _refuse_logs(here, folders)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (here / name for name in sorted(files) if not is_hidden(name))


def _raised(error: OSError) -> None:
    raise error


def _refuse_logs(folder: Path, folders: Sequence[str]) -> None:
    """Raise FileError for a table format whose log selects the valid files: others have been replaced or deleted."""
    kind = next((kind for name, kind in _LOGS.items() if name in folders), None)
    if "metadata" in folders and any((folder / "metadata").glob("*.metadata.json")):
        kind = "Iceberg"
    if kind is not None:
        raise FileError(f"{folder} is a table of {kind}, whose log says which files count; write it to parquet first")


def folders_of(path: Path | PurePosixPath) -> dict[str, str | None]:
    """Return the columns that the folders of a file are.

    Examples
    --------
    >>> folders_of(Path("preds/lang=de/day=2026-11-30/a.parquet"))
    {'lang': 'de', 'day': '2026-11-30'}
    """
    found: dict[str, str | None] = {}
    for name in path.parent.parts:
        key, equals, value = name.partition("=")
        if equals and key:
            found[unquote(key)] = None if value == _NO_VALUE else unquote(value)
    return found


def _of_url(url: str) -> list[Source]:
    """Return the files of a URL."""
    return [Source(name, folders_of(PurePosixPath(name))) for name in listed(url)]


def _once(found: Sequence[Source]) -> list[Source]:
    """Return sources without repetitions: a pattern such as ** matches folders and the files in them."""
    return list({source.name: source for source in found}.values())


def _require_once(found: Sequence[Source]) -> None:
    seen: dict[object, str] = {}
    for source in found:
        key: object = (source.name, source.member)
        if source.member is None and not source.url and source.name != STDIN:
            stat = Path(source.name).stat()
            key = (stat.st_dev, stat.st_ino)
        if key in seen:
            other = "" if seen[key] == source.name else f" (as {quoted(seen[key])} too)"
            raise FileError(f"{source.name} is passed twice{other}, so its rows would count twice")
        seen[key] = source.name
