"""Files whose rows have several labels, each there or not: `crossent score --labels`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from crossent.errors import InputError
from crossent.scoring.cli.reading import input_errors, progress
from crossent.scoring.input.arrow import Matrix, arguments, numbers
from crossent.scoring.input.columns import Columns, select
from crossent.scoring.input.several import Tables
from crossent.scoring.input.truth import Joined
from crossent.scoring.multilabel import MultilabelScore, MultilabelState


def score_labels(table: Tables | Joined, labels: str, columns: Columns, options: Mapping[str, Any]) -> MultilabelScore:
    """Return the score of a table with a column of 0 and 1 for each label, and one of its predictions."""
    with input_errors(table.name):
        if options.get("classes") is not None:
            raise InputError("each of several labels has the classes 0 and 1; leave this out", argument="classes")
        names = select(labels, table.columns, "labels")
        found = replace(columns, label=names[0]).among(table.columns)
        if len(names) != len(found.values or ()):
            raise InputError(
                f"there are {len(names)} columns of labels and {len(found.values or ())} of predictions; "
                "each label needs one column of each",
                argument="labels",
            )
        state = MultilabelState(**{name: value for name, value in options.items() if name != "classes"})
        texts = [name for name in (found.cluster, *(found.by or ()), found.id) if name is not None]
        needed = list(dict.fromkeys([*names, *found.needed]))
        with progress(table, table.batches(needed, texts)) as portions:
            for portion in portions:
                batch = portion.batch
                if len(batch):
                    given = arguments(batch, found, state.seen)
                    y = Matrix(numbers([batch.column(name) for name in names], names, state.seen), names)
                    _ = state.update(**{**given, "y": y})
        return state.finalize()
