"""One table in several files, read one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from crossent.errors import quoted
from crossent.inputs import why_not_readable
from crossent.scoring.input.ahead import ahead
from crossent.scoring.input.files import Table, open_table, reader_of
from crossent.scoring.input.paths import STDIN, Source, sources
from crossent.scoring.input.reader import FileError, FileOptions, Portion
from crossent.scoring.input.spool import Spool


class Part(NamedTuple):
    """A file of a table, the columns that the names of its folders are, and where it comes from."""

    table: Table
    folders: Mapping[str, str | None]
    source: Source


class Place(NamedTuple):
    """A row in one of several files: the file's name, and the number of the row in it, from 0 on."""

    file: str
    row: int


@dataclass(eq=False)
class Tables:
    """A table in one or several files, whose rows and their numbers run on from each file to the next.

    Parameters
    ----------
    parts
        The files, in the order of their rows.
    columns
        Names of the columns: those of the files, and those that names of folders are.
    format_named
        Whether the user named the format.
    """

    parts: Sequence[Part]
    columns: tuple[str, ...]
    format_named: bool = False
    _starts: list[int] = field(default_factory=list[int])

    @property
    def name(self) -> str:
        """Its name in errors about the whole."""
        first = self.parts[0].table.name
        return first if len(self.parts) == 1 else f"{first} and {len(self.parts) - 1} more"

    @property
    def paths(self) -> list[Path]:
        """Where the files lie on this disk."""
        return [part.table.path for part in self.parts]

    @property
    def inputs(self) -> list[Path]:
        """The files of this disk that the user named."""
        sources = [part.source for part in self.parts if part.source.name != STDIN and not part.source.url]
        return list(dict.fromkeys(source.archive or Path(source.name) for source in sources))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def said(self) -> list[str]:
        """Notes on automatic choices, a sentence each."""
        piped = [part for part in self.parts if part.source.name == STDIN and not self.format_named]
        told = [f"{part.table.reader.format}, by its first bytes" for part in piped]
        more = [part.table.said for part in self.parts if part.table.said]
        return list(dict.fromkeys([*told, *more]))

    def batches(self, names: Iterable[str], texts: Iterable[str]) -> Iterator[Portion]:
        """Yield record batches of the named columns, each with the share that has been read and its file.

        Columns in `texts` are read as text if the format has no types.

        Raises
        ------
        FileError
            If a file is not what its name says, or a column has another type in it than in those before it.
        """
        yield from ahead(self._portions(list(names), frozenset(texts)))

    @property
    def typed(self) -> bool:
        """Whether the files have column types."""
        return all(part.table.typed for part in self.parts)

    def class_names(self, label: str) -> Sequence[str] | None:
        """Return the names of the classes 0, 1, … that the files give a column of labels; None if they give none.

        Raises
        ------
        FileError
            If two files give them other names.
        """
        tables = [part.table for part in self.parts if label in part.table.columns]
        named = [table.class_names(label) for table in tables]
        for table, names in zip(tables[1:], named[1:], strict=True):
            if names != named[0]:
                raise FileError(
                    f"{table.name} and {tables[0].name} have other names for the classes of column {quoted(label)}: "
                    f"{quoted(names)} and {quoted(named[0])}"
                )
        return named[0] if named else None

    def place(self, row: int) -> Place:
        """Return where a row is, by its number among all rows that have been read."""
        k = bisect_right(self._starts, row) - 1
        return Place(self.parts[k].table.name, row - self._starts[k])

    def _portions(self, names: list[str], texts: frozenset[str]) -> Iterator[Portion]:
        for name in names:
            self._refuse_both(name)
        whole, before, rows = max(1, self.size), 0, 0
        first: dict[str, _Typed] = {}
        self._starts.clear()
        for part in self.parts:
            self._starts.append(rows)
            size, begun = part.table.path.stat().st_size, True
            for portion in self._of_part(part, names, texts):
                batch = _with_folders(portion.batch, names, part, texts)
                if begun and len(batch):
                    _require_types(first, batch, part.table.name)
                    begun = False
                rows += len(batch)
                yield Portion(batch, (before + portion.done * size) / whole, part.table.name)
            before += size

    def _of_part(self, part: Part, names: Sequence[str], texts: frozenset[str]) -> Iterator[Portion]:
        own = [name for name in names if name not in part.folders or name in part.table.columns]
        if own:
            yield from part.table.portions(own, texts)
            return
        first = part.table.columns[:1]  # says how many rows there are
        yield from part.table.portions(first, first)

    def _refuse_both(self, name: str) -> None:
        """Raise FileError if a column is in a file and in the name of a folder above it."""
        for table, folders, _ in self.parts:
            if name in folders and name in table.columns:
                raise FileError(
                    f"{table.name}: column {quoted(name)} is in the file, and its folder is called "
                    f"{quoted(f'{name}={folders[name]}')} too; rename one of them"
                )


@contextmanager
def open_tables(
    names: str | Path | Iterable[str | Path], options: FileOptions | None = None
) -> Generator[Tables, None, None]:
    """Open several files as one table, and delete temporary copies at the end.

    Parameters
    ----------
    names
        Files, folders of parts, patterns such as `preds/*.parquet`, zip archives and their members, URLs that fsspec
        knows, or "-" for standard input: one or several.
    options
        What the user says about them.

    Raises
    ------
    OSError
        If a file cannot be read.
    FileError
        If a name stands for no file, or the files are not one table: of other formats or other columns.
    """
    options = options or FileOptions()
    each = [names] if isinstance(names, str | Path) else list(names)
    with Spool() as spool:
        found = sources(each)
        _require_one_format([source for source in found if not _is_packed(source)], options)
        locals_ = [local for source in found for local in spool.unpacked(source, options.format)]
        parts: list[Part] = []
        for source, path in locals_:
            table = open_table(path, options, name=source.name)
            parts.append(Part(table, _folders(source, table, each), source))
            _require_same(parts[0], parts[-1])
        if len(parts) > 1 and parts[0].table.reader.format == "npy":
            raise FileError(
                f"{parts[0].table.name} and {parts[1].table.name}: npy files are columns of one table, not parts of "
                "it; pass one of them, or write npz"
            )
        columns = parts[0].table.columns
        more = [name for name in parts[0].folders if name not in columns]
        yield Tables(tuple(parts), (*columns, *more), options.format is not None)


def _is_packed(source: Source) -> bool:
    return source.name == STDIN or source.name.lower().endswith((".zip", ".xz"))


def _require_one_format(found: Sequence[Source], options: FileOptions) -> None:
    """Raise FileError if several names have endings of different formats."""
    first: Source | None = None
    for source in found:
        if source.member is None and not source.url and (reason := why_not_readable(Path(source.name))):
            raise FileError(f"{source.name} {reason}")
        found_here = reader_of(source.name, options.format).format
        if first is not None and found_here != (known := reader_of(first.name, options.format).format):
            raise FileError(
                f"{first.name} is {known} and {source.name} is {found_here}: files of several formats are not one "
                "table; pass a pattern such as '*.parquet'"
            )
        first = first or source


def _folders(source: Source, table: Table, names: Sequence[str | Path]) -> dict[str, str | None]:
    """Return the columns that folders are; a file that is passed by its own name may have a column called so too."""
    by_name = any(str(name) == source.name for name in names)
    return {key: value for key, value in source.folders.items() if not (by_name and key in table.columns)}


def _require_same(first: Part, other: Part) -> None:
    """Raise FileError if two files have different columns."""
    if other is first:
        return
    if first.table.reader.format != other.table.reader.format:
        raise FileError(
            f"{first.table.name} is {first.table.reader.format} and {other.table.name} is "
            f"{other.table.reader.format}: files of several formats are not one table"
        )
    mine, theirs = ({*part.table.columns, *part.folders} for part in (first, other))
    for has, lacks, names in ((first, other, mine - theirs), (other, first, theirs - mine)):
        if names:
            raise FileError(
                f"{lacks.table.name} has no column {quoted(min(names))}, and {has.table.name} has; files of one "
                "table must have the same columns"
            )


class _Typed(NamedTuple):
    kind: str
    file: str


def _require_types(first: dict[str, _Typed], batch: Any, file: str) -> None:
    """Raise FileError if a column of a file has another type than in the files before it."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = kind_of(column.type)
        if kind is None:
            continue
        known = first.setdefault(name, _Typed(kind, file))
        if known.kind != kind:
            raise FileError(
                f"{file}: column {quoted(name)} holds {kind}, and in {known.file} {known.kind}; files of one table "
                "must have the same types"
            )


def kind_of(type: Any) -> str | None:
    """Return a type of pyarrow in words; None if that goes with anything, as a column of nulls does.

    Integers, floats and decimals are all numbers: a program that writes parts may find a missing value in one of them.
    """
    from pyarrow import types

    if types.is_dictionary(type):
        return kind_of(type.value_type)
    if types.is_null(type) or types.is_union(type):
        return None
    if types.is_integer(type) or types.is_floating(type) or types.is_decimal(type):
        return "numbers"
    if str(type).removeprefix("large_") in {"string", "string_view"}:
        return "text"
    if hasattr(type, "value_type") and not types.is_map(type):
        inner = kind_of(type.value_type)
        return None if inner is None else f"lists of {inner}"
    return str(type)


def _with_folders(batch: Any, names: Sequence[str], part: Part, texts: frozenset[str]) -> Any:
    """Return a batch with the columns that folders are."""
    import pyarrow as pa

    if not part.folders:
        return batch
    own = set(batch.schema.names) & set(part.table.columns)
    columns = [
        batch.column(name) if name in own else _constant(name, part, len(batch), text=name in texts) for name in names
    ]
    return pa.RecordBatch.from_arrays(columns, names=list(names))


def _constant(name: str, part: Part, rows: int, *, text: bool) -> Any:
    """Return the value of a folder as a column."""
    import pyarrow as pa

    value = part.folders[name]
    if text:
        places = pa.repeat(pa.scalar(None if value is None else 0, pa.int8()), rows)
        return pa.DictionaryArray.from_arrays(places, pa.array([value or ""], pa.string()))
    try:
        number = None if value is None else float(value)
    except ValueError as error:
        raise FileError(
            f"{part.table.name}: its folder {quoted(f'{name}={value}')} is not a column of numbers"
        ) from error
    return pa.repeat(pa.scalar(number, pa.float64()), rows)
