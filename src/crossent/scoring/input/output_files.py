"""Outputs of models in text files without names of columns: one column "predictions", a row a line.

    0.25                              one number: the positive class of two (XGBoost, LightGBM, SageMaker)
    0.1 0.9 · 0.1,0.9 · 0.1⇥0.9       a number a class (LightGBM, CatBoost)
    __label__a 0.9 __label__b 0.1     labels and probabilities of fastText (`predict-prob`, -1 labels)
    [0.1, 0.9]                        a list of JSON (answers of servers)
    {"y": 1, "p": [0.1, 0.9]}         JSON lines

The first line decides; all others must match it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from crossent.errors import Argument, Message, quoted
from crossent.scoring.input.json_cells import Cell, CellError, column
from crossent.scoring.input.json_files import JSONL
from crossent.scoring.input.reader import FileError, Portion, Reader, Selection
from crossent.scoring.input.text_files import LONGEST, compression_of, first_line

NAME = "predictions"
"""Name of the only column."""
_BLOCK = 1 << 20
_LABEL = "__label__"
_BETWEEN = re.compile(r"[,;\t ]\s*")


def _columns(path: Path) -> list[str]:
    line = first_line(path)
    if line.startswith("{"):
        return list(JSONL.columns(path))
    if line.startswith(("[", _LABEL)) or _numbers(line) is not None:
        return [NAME]
    raise FileError(
        Message(
            f"{path}: its first line, {quoted(line)}, holds neither numbers nor labels of fastText; if these are "
            "names of columns, pass ",
            *(Argument("format", "csv"), " or ", Argument("format", "tsv")),
        ),
        argument="format",
    )


def _batches(wanted: Selection) -> Iterator[Portion]:
    import pyarrow as pa

    line = first_line(wanted.path)
    if line.startswith("{"):
        yield from JSONL.batches(wanted)
        return
    size, number = wanted.path.stat().st_size, 0
    with wanted.path.open("rb") as raw, pa.input_stream(pa.PythonFile(raw), compression_of(wanted.path)) as file:
        for lines in _lines(file, wanted.path):
            texts = [(number + k, text.strip()) for k, text in enumerate(lines, 1)]
            number += len(lines)
            rows = [(k, text) for k, text in texts if text]
            if rows:
                yield Portion(
                    pa.RecordBatch.from_arrays([_column(rows, line, wanted)], names=[NAME]), raw.tell() / size
                )


def _lines(file: Any, path: Path) -> Generator[list[str], None, None]:
    """Yield the lines of a file, some at a time."""
    rest = file.read(3).removeprefix(b"\xef\xbb\xbf")
    while data := file.read(_BLOCK):
        whole, newline, begun = (rest + data).rpartition(b"\n")
        rest = begun
        if len(rest) > LONGEST:
            raise FileError(f"{path}: a line is longer than {LONGEST >> 20} MiB")
        if newline:
            yield _decoded(whole, path).split("\n")
    yield _decoded(rest, path).split("\n")


def _decoded(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not text in UTF-8 (byte {data[error.start]:#x})") from error


def _column(rows: list[tuple[int, str]], first: str, wanted: Selection) -> Any:
    """Return lines, each with its number, as a column."""
    import json

    import pyarrow as pa

    if first.startswith(_LABEL):
        return pa.array([_pairs(text, k, wanted.path) for k, text in rows], pa.map_(pa.string(), pa.float64()))
    if first.startswith("["):
        try:
            return column([Cell(json.loads(text), k) for k, text in rows], text=False)
        except (ValueError, RecursionError, CellError) as error:
            raise FileError(f"{wanted.path}: a line is not a JSON list ({error})") from error
    found: list[list[float]] = []
    count = len(_numbers(first) or ())
    for k, text in rows:
        numbers = _numbers(text)
        if numbers is None or len(numbers) != count:
            raise FileError(
                f"{wanted.path}, line {k}: {quoted(text)} does not hold {count} numbers like the first line"
            )
        found.append(numbers)
    return pa.array(found) if count > 1 else pa.array([each[0] for each in found])


def _pairs(text: str, line: int, path: Path) -> list[tuple[str, float]]:
    """Return the labels of a line of fastText with their probabilities."""
    words = text.split()
    labels, numbers = words[::2], words[1::2]
    try:
        if len(labels) != len(numbers) or not all(label.startswith(_LABEL) for label in labels):
            raise ValueError
        return [(label.removeprefix(_LABEL), float(number)) for label, number in zip(labels, numbers, strict=True)]
    except ValueError as error:
        raise FileError(
            f"{path}, line {line}: {quoted(text)} is not a label of fastText with its probability"
        ) from error


def _numbers(text: str) -> list[float] | None:
    """Return the numbers of a line, None if it holds anything else."""
    try:
        return [float(word) for word in _BETWEEN.split(text.strip())]
    except ValueError:
        return None


OUTPUT = Reader("output", _columns, _batches, compressible=True)
