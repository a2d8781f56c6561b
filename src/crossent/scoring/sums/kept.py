"""Every row of a state, kept so that `compare` can pair the rows of two, and so that they can be listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class KeptColumns:
    """Kept rows by column, (n,) each; weight, cluster and id are None where the rows have none.

    `label`, `predicted`, `cluster` and each column of `by` hold numbers of classes, clusters and values in the state.
    `probability` is that of the true class, `confidence` that of the `predicted` one.
    """

    loss: Any
    label: Any
    weight: Any
    cluster: Any
    id: Any
    number: Any
    probability: Any
    predicted: Any
    confidence: Any
    by: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, rows: Any) -> KeptColumns:
        """Return the rows at these places, in this order."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "by"}
        taken = {name: None if part is None else part[rows] for name, part in parts.items()}
        return KeptColumns(**taken, by={name: part[rows] for name, part in self.by.items()})


class KeptRows:
    """Kept rows of a state, in the blocks in which they came."""

    def __init__(self) -> None:
        self.blocks: list[KeptColumns] = []

    def add(self, block: KeptColumns) -> None:
        """Keep a block of rows."""
        self.blocks.append(block)

    def merge(self, other: KeptRows, clusters: Any | None, by: Mapping[str, Any]) -> None:
        """Keep the rows of another state after these; its clusters, and its values of `by`, have these numbers here."""
        self.blocks.extend(
            replace(
                block,
                cluster=None if clusters is None else clusters[block.cluster],
                by={name: by[name][part] for name, part in block.by.items()},
            )
            for block in other.blocks
        )

    def renumbered(self, first: int) -> KeptRows:
        """Return the same rows with numbers that begin at `first`."""
        later = KeptRows()
        later.blocks = [replace(block, number=block.number + first) for block in self.blocks]
        return later

    def whole(self) -> KeptColumns:
        """Return all rows as one block; there must be some."""
        names = [f.name for f in fields(KeptColumns) if f.name != "by"]
        columns = {name: [getattr(block, name) for block in self.blocks] for name in names}
        joined = {name: None if parts[0] is None else _joined(parts) for name, parts in columns.items()}
        by = {name: _joined([block.by[name] for block in self.blocks]) for name in self.blocks[0].by}
        return KeptColumns(**joined, by=by)


def _joined(parts: list[Any]) -> Any:
    """Return the parts of a column as one; ids of several types stay unchanged."""
    if len({part.dtype.kind for part in parts}) > 1:
        parts = [part.astype(object) for part in parts]
    return np.concatenate(parts)
