"""Files of rows that commands write: parquet, arrow or csv, a batch at a time, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossent.errors import UsageError, quoted
from crossent.outputs import whole_file
from crossent.scoring.listed import as_arrow, listing
from crossent.scoring.state import ScoreState
from crossent.scoring.sums.kept import KeptColumns

ENDINGS = (".parquet", ".pq", ".arrow", ".feather", ".csv")


def check_ending(path: Path, option: str) -> None:
    """Raise `UsageError` if the file name has no ending of a format that can be written."""
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{option} {path}: its name must end in {', '.join(ENDINGS)}, got {quoted(path.suffix)}")


@contextmanager
def writing(path: Path) -> Generator[Callable[[Any], None], None, None]:
    """Yield a function that writes a table of pyarrow at the end of a file; the columns are those of the first one."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    with whole_file(path) as file:
        writer: Any = None
        schema: Any = None

        def write(table: Any) -> None:
            nonlocal writer, schema
            if writer is None:
                schema = _without_nothing(table.schema)
                if path.suffix.lower() == ".csv":
                    writer = csv.CSVWriter(file.buffer, schema)
                elif path.suffix.lower() in {".parquet", ".pq"}:
                    writer = parquet.ParquetWriter(file.buffer, schema)
                else:
                    writer = pa.ipc.new_file(file.buffer, schema)
            writer.write_table(_fitted(table, schema))

        try:
            yield write
        finally:  # before the file is closed, whose end it writes
            if writer is not None:
                writer.close()


def _without_nothing(schema: Any) -> Any:
    """Return a schema with texts where the first rows had no value at all, because later ones may have."""
    import pyarrow as pa
    from pyarrow import types

    return pa.schema([field.with_type(pa.string()) if types.is_null(field.type) else field for field in schema])


def _fitted(table: Any, schema: Any) -> Any:
    """Return a table in the types of the first one."""
    import pyarrow as pa

    try:
        return table.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        wrong = [field.name for field in schema if table.schema.field(field.name).type != field.type]
        raise UsageError(
            f"column {quoted(wrong[0] if wrong else '')} has values of another type in later rows, and a column of a "
            "file has one type; make it text"
        ) from error


class RowWriter:
    """Takes the rows of a state in place of `KeptRows`, and writes each block as it comes."""

    def __init__(self, state: ScoreState, write: Callable[[Any], None]) -> None:
        self.state, self.write = state, write
        self.blocks: list[KeptColumns] = []

    def add(self, block: KeptColumns) -> None:
        """Write a block of rows."""
        columns = listing(self.state.sums, block)
        if self.state.sums.layout is not None and not all(type(name) is int for name in self.state.sums.layout.classes):
            columns |= {name: list(map(_text, columns[name])) for name in ("label", "predicted")}
        self.write(as_arrow(columns.items()))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
