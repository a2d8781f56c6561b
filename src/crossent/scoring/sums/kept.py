"""Every row of a state, kept so that `compare` can pair the rows of two."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class KeptColumns:
    """Kept rows by column, (n,) each; weight, cluster and id are None where the rows have none."""

    loss: Any
    label: Any
    weight: Any
    cluster: Any
    id: Any
    number: Any

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, rows: Any) -> KeptColumns:
        """Return the rows at these places, in this order."""
        parts = (getattr(self, field.name) for field in fields(self))
        return KeptColumns(*(None if part is None else part[rows] for part in parts))


class KeptRows:
    """Kept rows of a state, in the blocks in which they came."""

    def __init__(self) -> None:
        self.blocks: list[KeptColumns] = []

    def add(self, block: KeptColumns) -> None:
        """Keep a block of rows."""
        self.blocks.append(block)

    def merge(self, other: KeptRows) -> None:
        """Keep the rows of another state after these."""
        self.blocks.extend(other.blocks)

    def renumbered(self, first: int) -> KeptRows:
        """Return the same rows with numbers that begin at `first`."""
        later = KeptRows()
        later.blocks = [replace(block, number=block.number + first) for block in self.blocks]
        return later

    def whole(self) -> KeptColumns:
        """Return all rows as one block; there must be some."""
        columns = [[getattr(block, field.name) for block in self.blocks] for field in fields(KeptColumns)]
        return KeptColumns(*(None if column[0] is None else _joined(column) for column in columns))


def _joined(parts: list[Any]) -> Any:
    """Return the parts of a column as one; ids of several types stay what they are."""
    if len({part.dtype.kind for part in parts}) > 1:
        parts = [part.astype(object) for part in parts]
    return np.concatenate(parts)
