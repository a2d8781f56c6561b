"""The rows of a state as a table: their losses, true classes, predicted classes and slices."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from crossent.scoring.sums.kept import KeptColumns
from crossent.scoring.sums.row_sums import RowSums

COLUMNS = ("id", "label", "loss", "probability", "predicted", "confidence", "weight", "cluster")
"""Columns of a listing; the last two exist only if the rows have them; then come those of `by`."""


def listing(sums: RowSums, block: KeptColumns) -> dict[str, Any]:
    """Return a block of kept rows as columns, (n,) each; without ids `id` is the number of the row.

    Classes, clusters and values of slices have the caller's names, as lists; a column of `by` with the name of another
    column is called "by " and its name.
    """
    assert sums.layout is not None
    classes = sums.layout.classes
    found: dict[str, Any] = {
        "id": block.number if block.id is None else block.id,
        "label": _named(classes, block.label),
        "loss": block.loss,
        "probability": block.probability,
        "predicted": _named(classes, block.predicted),
        "confidence": block.confidence,
    }
    if block.weight is not None:
        found["weight"] = block.weight
    if block.cluster is not None:
        found["cluster"] = _named(list(sums.clusters.number), block.cluster)
    for name, groups in block.by.items():
        found[f"by {name}" if name in COLUMNS else name] = _named(list(sums.by[name].listed.number), groups)
    return found


def as_arrow(columns: Iterable[tuple[str, Any]]) -> Any:
    """Return columns as a table of pyarrow; values of several types in one column become text."""
    import pyarrow as pa

    return pa.table({name: _array(values) for name, values in columns})


def blocks(sums: RowSums) -> Iterator[KeptColumns]:
    """Yield the kept rows of a state."""
    if sums.kept is not None:
        yield from sums.kept.blocks


def _named(names: Sequence[Hashable], numbers: Any) -> Any:
    """Return the names of numbers: whole numbers as an array of them, anything else as a list."""
    if isinstance(names, range):
        return np.asarray(numbers, np.int64)
    if all(type(name) is int and abs(name) < 2**63 for name in names):
        return np.array(list(names), np.int64)[numbers]
    return [names[k] for k in numbers.tolist()]


def _array(values: Any) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if value is None else str(value) for value in values])
