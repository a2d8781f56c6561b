"""Labels that lie in another file than the predictions: rows paired by an id, or by their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crossent.errors import Argument, InputError, Message, quoted
from crossent.scoring.input.arrow_values import decoded
from crossent.scoring.input.columns import Columns
from crossent.scoring.input.labels import listing
from crossent.scoring.input.reader import Portion
from crossent.scoring.input.several import Place, Tables
from crossent.scoring.input.tools import is_truth


@dataclass(eq=False)
class Joined:
    """Predictions joined with columns of another table; to its readers it is one table.

    Parameters
    ----------
    predictions, truth
        Both tables.
    on
        The column of ids in both; None pairs rows by their order.
    taken
        What columns of `truth` are called here, and there.
    said
        One line on automatic choices, "" if nothing was.
    """

    predictions: Tables
    truth: Tables
    on: str | None
    taken: dict[str, str]
    said: str = ""
    _read: Any = None
    _ids: Any = None
    _shared: Any = None
    _used: Any = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: those of the predictions, and those that are taken from the truth."""
        return (*self.predictions.columns, *self.taken)

    @property
    def name(self) -> str:
        """Its name in errors about the whole."""
        return self.predictions.name

    @property
    def parts(self) -> Sequence[Any]:
        """The files of the predictions."""
        return self.predictions.parts

    @property
    def inputs(self) -> list[Path]:
        """The files of this disk that the user named."""
        return [*self.predictions.inputs, *self.truth.inputs]

    @property
    def size(self) -> int:
        """Bytes of the predictions."""
        return self.predictions.size

    @property
    def typed(self) -> bool:
        """Whether the files of the predictions have column types."""
        return self.predictions.typed

    def place(self, row: int) -> Place:
        """Return where a row of the predictions is."""
        return self.predictions.place(row)

    def class_names(self, label: str) -> Sequence[str] | None:
        """Return the names of the classes that the files give a column of labels; None if they give none."""
        if label in self.taken:
            return self.truth.class_names(self.taken[label])
        return self.predictions.class_names(label)

    def batches(self, names: Iterable[str], texts: Iterable[str]) -> Iterator[Portion]:
        """Yield record batches of the named columns, in the rows of the predictions.

        Raises
        ------
        InputError
            If a row of the predictions has no row in the truth, or several.
        """
        import pyarrow as pa

        names, texts = list(names), frozenset(texts)
        theirs = [name for name in names if name in self.taken]
        own = [name for name in names if name not in self.taken]
        if not theirs:
            yield from self.predictions.batches(own, texts & frozenset(own))
            return
        table = self._truth(texts)
        asked = own if self.on is None or self.on in own else [*own, self.on]
        asked = [*asked, *(name for name in self._names() if name not in asked)]
        asked = asked or [self.predictions.columns[0]]
        row = 0
        for portion in self.predictions.batches(
            asked, [name for name in asked if name in texts or name == self.on or name in self._names()]
        ):
            batch = portion.batch
            places = self._places(batch, row)
            found = {name: batch.column(name) for name in own}
            found |= {name: table.column(name).take(places).combine_chunks() for name in theirs}
            if self.on is None:
                self._require_same(batch, row)
            row += len(batch)
            yield portion._replace(batch=pa.RecordBatch.from_pydict({name: found[name] for name in names}))
        if self.on is None and row < len(table):
            raise InputError(self._counts(row, len(table)), argument="truth")

    def unused(self) -> str:
        """Return a sentence about rows of the truth that no prediction is of, "" if there are none."""
        if self.on is None or self._used is None or self._used.all():
            return ""
        first = int(self._used.argmin())
        rows = int((~self._used).sum())
        return (
            f"{self.truth.name} has labels of {rows:,} more row{'s' if rows > 1 else ''} without a prediction, "
            f"{quoted(self._ids[first].as_py())} {'among them' if rows > 1 else 'it is'}; they are not scored"
        )

    def _truth(self, texts: frozenset[str]) -> Any:
        """Return the taken columns of the truth, read once, under the names that they have here."""
        import pyarrow as pa

        if self._read is None:
            wanted = list(dict.fromkeys([*self.taken.values(), *self._names()]))
            wanted += [] if self.on is None or self.on in wanted else [self.on]
            as_text = [there for here, there in self.taken.items() if here in texts]
            as_text += self._names() if self.on is None else [self.on]
            read = [portion.batch for portion in self.truth.batches(wanted, as_text)]
            whole = pa.Table.from_batches([batch for batch in read if len(batch)] or read[:1])
            self._read = pa.table({here: whole.column(there) for here, there in self.taken.items()})
            shared = {name: decoded(whole.column(name).combine_chunks()) for name in self._names()}
            self._shared = {name: ids for name, ids in shared.items() if len(ids.unique()) == len(ids)}
            if self.on is not None:
                self._used = np.zeros(len(whole), bool)
                self._ids = _unique(whole.column(self.on), self.on, self.truth.name)
        return self._read

    def _places(self, batch: Any, row: int) -> Any:
        """Return the row of the truth for each row of a batch, whose first row is number `row`."""
        import pyarrow as pa
        from pyarrow import compute

        find: Any = compute
        if self.on is None:
            if row + len(batch) > len(self._read):
                raise InputError(self._counts(None, len(self._read)), argument="truth")
            return pa.array(range(row, row + len(batch)), pa.int64())
        mine = decoded(batch.column(self.on))
        ids, mine = _alike(self._ids, mine)
        places: Any = find.index_in(mine, value_set=ids, skip_nulls=True)
        if places.null_count:
            missing: Any = find.is_null(places)
            first = missing.index(True).as_py()
            raise InputError(
                f"{quoted(mine[first].as_py())} (row {row + first} and {places.null_count - 1} more) of column "
                f"{quoted(self.on)} is not in {self.truth.name}, so its label is unknown",
                argument="truth",
            )
        self._used[places.to_numpy()] = True
        return places

    def _names(self) -> list[str]:
        """Return the columns that both have, where no column of ids is named: some may be ids all the same."""
        if self.on is not None:
            return []
        return [name for name in self.truth.columns if name in self.predictions.columns and name not in self.taken]

    def _require_same(self, batch: Any, row: int) -> None:
        """Raise if a column of both, unique in the truth, has different values in the predictions."""
        for name, ids in self._shared.items():
            theirs, mine = _alike(ids.slice(row, len(batch)), decoded(batch.column(name)))
            wrong = [k for k, (a, b) in enumerate(zip(theirs.to_pylist(), mine.to_pylist(), strict=True)) if a != b]
            if wrong:
                k = wrong[0]
                raise InputError(
                    Message(
                        f"both have a column {quoted(name)}, but with different ids: row {row + k} is "
                        f"{quoted(mine[k].as_py())} here and {quoted(theirs[k].as_py())} in {self.truth.name}; pass ",
                        Argument("on", name),
                        " to pair them by it",
                    ),
                    argument="on",
                )

    def _counts(self, rows: int | None, there: int) -> Message:
        here = "more" if rows is None else f"{rows:,}"
        return Message(
            f"{self.truth.name} has {there:,} rows, the predictions have {here}; only the same rows in the same order "
            "can be paired: pass ",
            Argument("on"),
            " with a column of ids that both have",
        )


def joined(predictions: Tables, truth: Tables, columns: Columns) -> tuple[Joined, Columns]:
    """Return predictions joined with the needed columns of the truth, and the columns to read.

    Labels are taken from the truth; weights, clusters and slices from the predictions if they have them, else from the
    truth. Without a name, labels are its only other column, or the only one that is called as labels are.

    Raises
    ------
    InputError
        If a column is in neither, or it is not clear which holds the labels.
    """
    on = columns.id
    for table, what in ((predictions, "the predictions"), (truth, truth.name)):
        if on is not None and on not in table.columns:
            raise InputError(
                Message(
                    Argument("id", is_subject=True),
                    f": there is no column {quoted(on)} in {what}; the columns are {listing(table.columns)}",
                ),
                argument="on",
            )
    taken: dict[str, str] = {}

    def take(name: str) -> str:
        here = name
        while here in predictions.columns:
            here = f"{here} of {truth.name}"
        taken[here] = name
        return here

    label = take(columns.label if columns.label is not None else _label(truth, on))
    said = f"labels in {quoted(taken[label])} of {truth.name}" if columns.label is None else ""
    if columns.label is not None and label != columns.label and columns.label in truth.columns:
        said = f"labels in {quoted(columns.label)} of {truth.name}, not in the column of that name in the predictions"
    if taken[label] not in truth.columns:
        raise InputError(
            Message(
                Argument("label", is_subject=True),
                f": there is no column {quoted(taken[label])} in {truth.name}; the columns are "
                f"{listing(truth.columns)}",
            ),
            argument="label",
        )
    for name in (columns.weight, columns.cluster, *([columns.by] if isinstance(columns.by, str) else columns.by or ())):
        if name is not None and name not in predictions.columns and name in truth.columns and name not in taken:
            _ = take(name)
    return Joined(predictions, truth, on, taken, said), replace(columns, label=label)


def _label(truth: Tables, on: str | None) -> str:
    others = [name for name in truth.columns if name != on]
    called = others if len(others) == 1 else [name for name in others if is_truth(name)]
    if len(called) == 1:
        return called[0]
    raise InputError(
        Message("pass ", Argument("label"), f", the column of {truth.name} with the true classes: {listing(others)}"),
        argument="label",
    )


def _unique(ids: Any, on: str, name: str) -> Any:
    """Return a column of ids as one array; raise unless all are present and unique."""
    from pyarrow import compute

    count: Any = compute
    whole = decoded(ids.combine_chunks())
    if whole.null_count:
        raise InputError(f"column {quoted(on)} of {name} has {whole.null_count:,} rows without an id", argument="on")
    counts: Any = count.value_counts(whole)
    if len(counts) < len(whole):
        twice = next(each["values"].as_py() for each in counts if each["counts"].as_py() > 1)
        raise InputError(
            f"column {quoted(on)} of {name} names {len(whole) - len(counts):,} rows twice, {quoted(twice)} among them",
            argument="on",
        )
    return whole


def _alike(ids: Any, mine: Any) -> tuple[Any, Any]:
    """Return ids of both sides in one type: as whole numbers if both are, else as texts."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_integer(ids.type) and types.is_integer(mine.type):
        return ids.cast(pa.int64()), mine.cast(pa.int64())
    return ids.cast(pa.large_string()), mine.cast(pa.large_string())
