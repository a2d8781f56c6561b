"""Files elsewhere, by URL: fsspec lists and copies them, where it is installed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from crossent.errors import one_line
from crossent.scoring.input.reader import FileError

_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
    "hf": "huggingface_hub", "http": "aiohttp", "https": "aiohttp", "sftp": "paramiko", "ssh": "paramiko",
}  # fmt: skip
"""The package that fsspec needs beside itself for a protocol."""


def listed(url: str) -> list[str]:
    """Return the URLs of the files of a URL, a pattern or a folder.

    Raises
    ------
    FileError
        If there is no file, or a package is not installed.
    """
    with _errors_said(url):
        system, path = _system(url)
        if any(mark in path for mark in "*?["):
            found = [name for name in sorted(system.glob(path)) if not system.isdir(name)]
        elif not system.isdir(path):
            return [url]
        else:
            below = (name for name in system.find(path) if name != path)
            found = sorted(name for name in below if not _is_hidden_below(name, path))
        if not found:
            raise FileError(f"{url}: no file matches")
        return [system.unstrip_protocol(name) for name in found]


def is_hidden(name: str) -> bool:
    """Return whether a name is left out of folders of parts, as Spark leaves it out.

    Examples
    --------
    >>> is_hidden("_SUCCESS"), is_hidden(".a.csv.crc"), is_hidden("_group=a"), is_hidden("a.csv")
    (True, True, False, False)
    """
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _is_hidden_below(name: str, folder: str) -> bool:
    rest = name.removeprefix(folder).strip("/")
    return any(is_hidden(part) for part in PurePosixPath(rest).parts)


@contextmanager
def opened(url: str) -> Generator[BinaryIO, None, None]:
    """Open a file elsewhere for reading.

    Raises
    ------
    FileError
        If it cannot be read, or a package is not installed.
    """
    with _errors_said(url):
        system, path = _system(url)
        with system.open(path, "rb") as file:
            yield file


def _system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    protocol = url.partition("://")[0].lower()
    packages = " ".join(["fsspec", *([_PACKAGES[protocol]] if protocol in _PACKAGES else [])])
    try:
        import fsspec
    except ImportError as error:
        raise FileError(f"{url} is read by fsspec, which is not installed: pip install {packages}") from error
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise FileError(f"{url} needs a package that is not installed: pip install {packages}") from error
    except ValueError as error:
        raise FileError(f"{url}: {one_line(error)[:300]}") from error


@contextmanager
def _errors_said(url: str) -> Generator[None, None, None]:
    """Turn any error of a file system (network, permissions) into a one-line FileError."""
    try:
        yield
    except (MemoryError, FileError):
        raise
    except FileNotFoundError as error:
        raise FileError(f"cannot read {url}: no such file") from error
    except Exception as error:
        said = one_line(" ".join(str(error).split())) or type(error).__name__
        raise FileError(f"cannot read {url}: {said[:300]}") from error
