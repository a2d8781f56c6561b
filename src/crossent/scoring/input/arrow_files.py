"""Tables in files of Arrow's family: parquet, and Arrow's own files and streams (Feather 2 is one)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from crossent.errors import quoted
from crossent.scoring.input.arrow_values import decoded, is_list, lengths
from crossent.scoring.input.reader import BATCH_BYTES, FileError, Portion, Reader, Selection, rows_at_a_time

_SMALL_FILE = 1 << 26  # bytes of a file that may unpack to much more; of a larger one the first row says how much
_LARGE_GROUP = 1 << 13  # rows
_MANY = 1 << 23  # numbers in the lists of a row group that may be read to find one that is too long


def _parquet_columns(path: Path) -> list[str]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return file.schema_arrow.names


def _parquet_batches(wanted: Selection) -> Iterator[Portion]:
    from pyarrow import parquet

    small = wanted.path.stat().st_size <= _SMALL_FILE
    with parquet.ParquetFile(wanted.path, pre_buffer=small) as file:
        meta, varying = file.metadata, _varying(file, wanted.names) if small else []
        if varying:  # pyarrow ends the process if damaged metadata are read, unless a read has checked all of them
            _ = next(file.iter_batches(1, columns=wanted.names), None)
    texts = [leaf.name for leaf in varying if leaf.text and _may_be_long(meta, leaf)]
    rows = 0
    with parquet.ParquetFile(
        wanted.path, metadata=meta, pre_buffer=False, buffer_size=1 << 15, read_dictionary=texts
    ) as file:
        first = next(file.iter_batches(1, columns=wanted.names), None)
        if first is None:
            return
        for leaf in varying:
            _refuse_longer_lists(meta, leaf, first)
        step = rows_at_a_time(max(_row_bytes(first), 8 * len(wanted.names) + _most_bytes_of_rows(meta, varying)))
        for batch in file.iter_batches(step, columns=wanted.names):
            rows += len(batch)
            yield Portion(_with_short_texts(batch, texts), rows / meta.num_rows)


class _Leaf(NamedTuple):
    """A column of Parquet whose values differ in size: its number, and the name of the table's column that it is in."""

    number: int
    name: str
    text: bool


def _varying(file: Any, names: Sequence[str]) -> list[_Leaf]:
    """Return the columns of text and of lists among these; a nested column of a table is several columns of Parquet."""
    from pyarrow import types

    text = (types.is_string, types.is_binary, types.is_large_string, types.is_large_binary)
    wanted, found, number = set(names), [], 0
    for field in file.schema_arrow:
        parts, is_text = _parts(field.type), any(is_(field.type) for is_ in text)
        if field.name in wanted and (is_text or types.is_nested(field.type)):
            found += [_Leaf(number + k, field.name, is_text) for k in range(parts)]
        number += parts
    return [leaf for leaf in found if leaf.number < file.metadata.num_columns]


def _parts(kind: Any) -> int:
    storage = getattr(kind, "storage_type", kind)
    return sum(_parts(storage.field(k).type) for k in range(storage.num_fields)) or 1


def _chunks(meta: Any, leaf: _Leaf) -> Iterator[Any]:
    """Return a column's part in each row group."""
    return (meta.row_group(number).column(leaf.number) for number in range(meta.num_row_groups))


def _may_be_long(meta: Any, leaf: _Leaf) -> bool:
    """Return whether to keep dictionary-encoded texts encoded: a few kilobytes may decode to gigabytes.

    Batches then end where a row group does, so small groups, whose texts are short on average, are read otherwise.
    """
    chunks = list(_chunks(meta, leaf))
    large = meta.num_rows >= _LARGE_GROUP * meta.num_row_groups
    return any(c.has_dictionary_page and (large or c.total_uncompressed_size > 64 * c.num_values) for c in chunks)


def _most_bytes_of_rows(meta: Any, varying: Sequence[_Leaf]) -> float:
    """Return how many bytes a row takes on average, by the metadata, in the row group whose rows take the most.

    Dictionary-encoded texts count in encoded form.
    """
    most = 0.0
    for group in map(meta.row_group, range(meta.num_row_groups)):
        chunks = map(group.column, (leaf.number for leaf in varying))
        size = sum(max(chunk.total_uncompressed_size, 8 * chunk.num_values) for chunk in chunks)
        most = max(most, size / max(1, group.num_rows))
    return most


def _refuse_longer_lists(meta: Any, leaf: _Leaf, first: Any) -> None:
    """Raise FileError if lists are much longer than the first one, before reading them."""
    column = decoded(first.column(leaf.name))
    if not is_list(column.type):
        return
    length = max(1, int(lengths(column)[0]))
    for number, chunk in enumerate(_chunks(meta, leaf)):
        rows = max(1, meta.row_group(number).num_rows)
        if chunk.num_values > max(_MANY, length * rows):
            raise FileError(
                f"the lists of column {quoted(leaf.name)} differ in length: {length} numbers at first, and "
                f"{chunk.num_values / rows:,.6g} on average in row group {number}"
            )


def _with_short_texts(batch: Any, texts: Sequence[str]) -> Any:
    """Return a batch with its texts written out, unless that would take many times a batch's bytes."""
    import pyarrow as pa
    from pyarrow import compute

    columns = list(batch.columns)
    for k, name in enumerate(batch.schema.names):
        if name in texts and isinstance(columns[k], pa.DictionaryArray):
            lengths = compute.call_function("binary_length", [columns[k].dictionary]).take(columns[k].indices)
            if (compute.call_function("sum", [lengths]).as_py() or 0) <= 4 * BATCH_BYTES:
                columns[k] = columns[k].dictionary_decode()
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


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
            step = rows_at_a_time(_row_bytes(chosen))
            for begin in range(0, len(chosen), step):
                yield Portion(chosen.slice(begin, step), file.tell() / size if count is None else k / count)


def _parquet_class_names(path: Path, column: str) -> list[str] | None:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return class_names(file.schema_arrow, column)


def _arrow_class_names(path: Path, column: str) -> list[str] | None:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        return class_names(_opened(file).schema, column)


def class_names(schema: Any, column: str) -> list[str] | None:
    """Return the names of the classes 0, 1, … of a column by its `ClassLabel` of Hugging Face's datasets, else None."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        names = features[column]["names"] if features[column].get("_type") == "ClassLabel" else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(names, list):
        return None
    texts = [name for name in cast("list[Any]", names) if isinstance(name, str)]
    return texts if len(set(texts)) == len(cast("list[Any]", names)) > 1 else None


def _row_bytes(batch: Any) -> float:
    """Return the average bytes per row of a record batch, without dictionaries."""
    import pyarrow as pa

    columns = (column.indices if isinstance(column, pa.DictionaryArray) else column for column in batch.columns)
    return sum(column.nbytes for column in columns) / max(1, len(batch))


PARQUET = Reader("parquet", _parquet_columns, _parquet_batches, (b"PAR1",), class_names=_parquet_class_names)
ARROW = Reader(
    "arrow", _arrow_columns, _arrow_batches, (b"ARROW1",), always=False, class_names=_arrow_class_names
)  # streams begin otherwise
