"""Tables in files of Arrow's family: parquet, and Arrow's own files and streams (Feather 2 is one)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crossent.scoring.input.arrow_values import decoded, is_list, lengths
from crossent.scoring.input.reader import Portion, Reader, Selection, rows_at_a_time


def _parquet_columns(path: Path) -> list[str]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return file.schema_arrow.names


def _parquet_batches(wanted: Selection) -> Iterator[Portion]:
    from pyarrow import parquet

    rows = 0
    with parquet.ParquetFile(wanted.path, pre_buffer=False, buffer_size=1 << 15) as file:
        first = next(file.iter_batches(1, columns=wanted.names), None)
        if first is None:
            return
        for batch in file.iter_batches(rows_at_a_time(_width(first)), columns=wanted.names):
            rows += len(batch)
            yield Portion(batch, rows / file.metadata.num_rows)


def _opened(file: Any) -> Any:
    """Return Arrow's reader of a file or of a stream."""
    import pyarrow as pa

    head = file.read(6)
    file.seek(0)
    return pa.ipc.open_file(file) if head == b"ARROW1" else pa.ipc.open_stream(file)


def _arrow_columns(path: Path) -> list[str]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        return _opened(file).schema.names


def _arrow_batches(wanted: Selection) -> Iterator[Portion]:
    import pyarrow as pa

    size = wanted.path.stat().st_size
    with pa.memory_map(str(wanted.path)) as file:
        reader = _opened(file)
        count = getattr(reader, "num_record_batches", None)  # a stream does not say
        batches = reader if count is None else (reader.get_batch(k) for k in range(count))
        for k, batch in enumerate(batches, 1):
            chosen = batch.select(wanted.names)
            chosen.validate(full=True)  # offsets of a damaged file may point anywhere
            step = rows_at_a_time(_width(chosen))
            for begin in range(0, len(chosen), step):
                yield Portion(chosen.slice(begin, step), file.tell() / size if count is None else k / count)


def _width(batch: Any) -> int:
    """Return how many numbers the first row of a record batch holds."""
    if not len(batch):
        return 0
    first = batch.slice(0, 1)
    return sum(max(1, int(lengths(c)[0])) if is_list(c.type) else 1 for c in map(decoded, first.columns))


PARQUET = Reader("parquet", _parquet_columns, _parquet_batches, (b"PAR1",))
ARROW = Reader("arrow", _arrow_columns, _arrow_batches, (b"ARROW1",), always=False)  # streams begin otherwise
