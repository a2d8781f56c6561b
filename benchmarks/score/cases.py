"""Predictions to score: arrays of probabilities in memory, parts of a stream, and a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

AT_ONCE = 1 << 24
"""Numbers that are drawn at a time."""
PART = 1_000_000
"""Rows of a part of a stream."""
PARTS = 16
"""Different parts of a stream, one after the other over and over: more of them than caches hold."""


@dataclass(frozen=True)
class ArrayCase:
    """Rows of float32 probabilities of so many classes, one column for two of them."""

    rows: int
    classes: int
    quick: bool = False
    rival: bool = True
    """Whether scikit-learn takes part; its one-hot matrix of 64-bit numbers needs many times the memory."""

    @property
    def columns(self) -> int:
        return 1 if self.classes == 2 else self.classes

    @property
    def streamed(self) -> bool:
        """Whether the rows come in parts, because they are too many."""
        return self.rows * self.columns > 1 << 30 or self.rows > 10 * PART

    @property
    def name(self) -> str:
        return f"{self.rows:.0e} × {self.classes}".replace("e+0", "e") + (", in parts" if self.streamed else "")

    @property
    def nbytes(self) -> int:
        return 4 * self.rows * self.columns

    def make(self) -> tuple[Any, Any]:
        """Return labels (N,) and probabilities (N,) or (N, C)."""
        return draw(np.random.default_rng(self.rows + self.classes), self.rows, self.classes)

    def parts(self) -> list[tuple[Any, Any]]:
        """Return some parts of a stream."""
        random = np.random.default_rng(self.classes)
        return [draw(random, min(PART, self.rows), self.classes) for _ in range(min(PARTS, -(-self.rows // PART)))]

    def stream(self, parts: list[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Give parts until there were as many rows as there are to be."""
        for begin in range(0, self.rows, PART):
            yield parts[begin // PART % len(parts)]


@dataclass(frozen=True)
class FileCase:
    """A Parquet file as pyarrow writes it: a label, and float32 probabilities in columns p_0 …"""

    rows: int
    classes: int
    group: int
    """Rows of a row group."""
    quick: bool = False

    @property
    def name(self) -> str:
        return f"Parquet, {self.rows:,} × {self.classes}, row groups of {self.group:,}"

    def write(self, path: Path) -> None:
        """Write the file, a row group at a time."""
        import pyarrow as pa
        from pyarrow import parquet

        names = [f"p_{k}" for k in range(self.classes)]
        schema = pa.schema([("label", pa.int64()), *((name, pa.float32()) for name in names)])
        random = np.random.default_rng(self.classes)
        with parquet.ParquetWriter(path, schema) as file:
            for begin in range(0, self.rows, self.group):
                y, p = draw(random, min(self.group, self.rows - begin), self.classes)
                file.write_table(pa.table([y, *np.ascontiguousarray(p.T)], schema=schema), row_group_size=self.group)


CASES = [
    *(ArrayCase(10**k, 2, quick=k < 6) for k in (4, 5, 6, 7)),
    ArrayCase(10**8, 2, rival=False),
    ArrayCase(10**4, 1000, quick=True),
    ArrayCase(10**5, 1000),
    ArrayCase(10**6, 1000, rival=False),
    ArrayCase(10**6, 100),
]
FILES = [
    FileCase(5_000_000, 100, 1 << 17),
    FileCase(5_000_000, 100, 1 << 20),
    FileCase(50_000, 100, 1 << 14, quick=True),
]


def draw(random: np.random.Generator, rows: int, classes: int) -> tuple[Any, Any]:
    """Return labels and float32 probabilities; labels are drawn from the most probable classes and from all."""
    if classes == 2:
        p = random.random(rows, dtype=np.float32)
        return (random.random(rows, dtype=np.float32) < p).astype(np.int64), p
    p = np.empty((rows, classes), np.float32)
    label = random.integers(classes, size=rows)
    step = max(1, AT_ONCE // classes)
    for begin in range(0, rows, step):
        here = p[begin : begin + step]
        random.standard_normal(out=here, dtype=np.float32)
        np.exp(here, out=here)
        here /= here.sum(axis=1, keepdims=True, dtype=np.float32)
        likely = random.random(len(here)) < 0.5
        label[begin : begin + step][likely] = here.argmax(axis=1)[likely]
    return label, p
