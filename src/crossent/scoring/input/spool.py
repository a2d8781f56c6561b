"""Temporary copies of files that cannot be read where they are: members of archives, xz, standard input, URLs.

Readers take a file twice, for its columns and for its rows, and some formats begin at the end. So these files are
copied to the disk first, in little memory, and use at most a part of its free space.
"""

from __future__ import annotations

import lzma
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from crossent.errors import Argument, Message, quoted
from crossent.scoring.input import remote
from crossent.scoring.input.paths import STDIN, Source, folders_of
from crossent.scoring.input.reader import FileError, errors_named
from crossent.scoring.input.remote import is_hidden

SHARE = 0.5
"""Part of the free space of the disk that copies may take."""
_CHUNK = 1 << 20
_MEMBERS = 10_000
_DICTIONARY = 1 << 28  # bytes of memory that unpacking xz may take; its highest level takes 65 MB
_FORMATS = {
    b"PAR1": ".parquet", b"ARROW1": ".arrow", b"\xff\xff\xff\xff": ".arrow", b"\x93NUMPY": ".npy",
    b"{": ".jsonl", b"[": ".json",
}  # fmt: skip
"""Endings by first bytes."""
_PACKED = {
    b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\x28\xb5\x2f\xfd": ".zst", b"\x04\x22\x4d\x18": ".lz4",
    b"\xfd7zXZ\0": ".xz",
}  # fmt: skip


class Local(NamedTuple):
    """A file of a table, and where it lies on this disk."""

    source: Source
    path: Path


class Spool:
    """Temporary copies, deleted when the `with` block ends."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._folder: Path | None = None
        self._copies = 0
        self._left = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._folder = None

    def unpacked(self, source: Source, format: str | None) -> Iterator[Local]:
        """Yield where the files of a source lie on this disk: themselves, or copies; a zip archive may hold several.

        Raises
        ------
        FileError
            If a copy would take too much of the disk, or an archive is damaged.
        """
        path = Path(source.name)
        if source.name == STDIN:
            path = self._standard_input(format)
        elif source.url:
            with remote.opened(source.name) as file:
                path = self._copy(file, PurePosixPath(source.name).name, source.name)
        elif source.member is not None and source.archive is not None:
            yield from self._members(source.archive, source, source.member)
            return
        if path.suffix.lower() == ".zip":
            yield from self._members(path, source, None)
        elif path.suffix.lower() == ".xz":
            yield Local(source, self._without_xz(path, source.name))
        else:
            yield Local(source, path)

    def _copy(self, file: BinaryIO, name: str, called: str, most: int | None = None) -> Path:
        """Copy a stream to a file of this name in a folder of its own."""
        if self._folder is None:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="crossent-")))
            self._left = int(shutil.disk_usage(self._folder).free * SHARE)
        folder = self._folder / str(self._copies)
        self._copies += 1
        folder.mkdir()
        path = folder / (name.replace("\0", "_")[-100:] or "file")
        try:
            with path.open("wb") as copy:
                while data := _read(file, called):
                    self._left -= len(data)
                    if self._left < 0:
                        raise FileError(
                            f"{called} takes more than half of what {self._folder.parent} has free when it is copied "
                            "or unpacked there; is it damaged? Else unpack it first"
                        )
                    _ = copy.write(data)
        except OSError as error:
            raise FileError(f"cannot copy {called} to {folder.parent}: {error.strerror or error}") from error
        return path

    def _standard_input(self, format: str | None) -> Path:
        stream = sys.stdin.buffer
        if stream.isatty():
            raise FileError("- is standard input, and nothing is piped to it; pass a file")
        copy = self._copy(stream, "stdin", STDIN)
        with copy.open("rb") as file:
            first = file.read(64)
        if not first:
            raise FileError("- is standard input, which is empty")
        packed = next((end for begin, end in _PACKED.items() if first.startswith(begin)), "")
        ending = f".{format}" if format is not None else _ending(copy, first)
        if ending is None or (packed and format is None):
            raise FileError(Message("the format of standard input, -, is unknown; pass ", Argument("format", "csv")))
        return copy.rename(copy.with_name(f"stdin{ending}{packed}"))

    def _without_xz(self, path: Path, called: str) -> Path:
        with errors_named(called), path.open("rb") as packed:
            return self._copy(_Unpacked(packed), path.stem, called)  # pyright: ignore[reportArgumentType]

    def _members(self, archive: Path, source: Source, member: str | None) -> Iterator[Local]:
        """Yield the members of a zip archive, or the named one."""
        called = source.name if member is None else str(source.archive)
        with errors_named(called), zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
            if member is None:
                names = (PurePosixPath(info.filename).parts for info in infos)
                infos = [
                    info
                    for info, parts in zip(infos, names, strict=True)
                    if not any(is_hidden(part) and part != ".." for part in parts)
                ]
            else:
                infos = [info for info in infos if info.filename == member]
            if not infos:
                what = "files" if member is None else f"a file {quoted(member)}"
                raise FileError(f"{called} is a zip archive without {what}")
            if len(infos) > _MEMBERS:
                raise FileError(f"{called} holds {len(infos):,} files, more than {_MEMBERS:,}; unpack it first")
            for info in sorted(infos, key=lambda info: info.filename):
                name = PurePosixPath(info.filename)
                part = f"{called}/{info.filename}"
                if name.suffix.lower() in {".zip", ".xz"}:
                    raise FileError(f"{part} is packed twice; unpack {called} first")
                with errors_named(part), opened.open(info) as file:
                    path = self._copy(file, name.name, part)  # pyright: ignore[reportArgumentType]
                yield Local(Source(part, {**source.folders, **folders_of(name)}, info.filename, archive), path)


def _read(file: BinaryIO, called: str) -> bytes:
    try:
        return file.read(_CHUNK)
    except OSError as error:
        raise FileError(f"cannot read {called}: {error.strerror or error}") from error


class _Unpacked:
    """The stream that an xz file holds, in bounded memory."""

    def __init__(self, packed: BinaryIO) -> None:
        self.packed, self.rest = packed, b""
        self.unpacker: lzma.LZMADecompressor | None = None

    def read(self, size: int) -> bytes:
        while True:
            if self.unpacker is None:
                start = self.rest.lstrip(b"\0") or self.packed.read(_CHUNK).lstrip(b"\0")  # zeros pad streams
                if not start:
                    return b""
                self.unpacker, self.rest = lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_DICTIONARY), start
            if self.unpacker.needs_input and not self.rest:
                self.rest = self.packed.read(_CHUNK)
                if not self.rest:
                    raise EOFError("it ends in the middle; is it damaged?")
            data = self.unpacker.decompress(self.rest, size)
            self.rest = b""
            if self.unpacker.eof:
                self.rest, self.unpacker = self.unpacker.unused_data, None
            if data:
                return data


def _ending(path: Path, first: bytes) -> str | None:
    """Return the ending that a file's name should have, by its first bytes."""
    if first.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            return None
        return ".xlsx" if "xl/workbook.xml" in names else ".npz" if _all_npy(names) else ".zip"
    if first[8:10] in {b'{"', b"{}"} and int.from_bytes(first[:8], "little") < path.stat().st_size:
        return ".safetensors"
    return next(
        (end for begin, end in _FORMATS.items() if first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(begin)), None
    )


def _all_npy(names: list[str]) -> bool:
    return bool(names) and all(name.endswith(".npy") for name in names)
