"""`Score`: the result of one pass over predictions, as numbers, tables, text, pictures and a page."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from crossent.errors import InputError, InputTypeError
from crossent.scoring.parts import ScoreValues, Slice, Unit


class MergeableState(Protocol):
    """The part of a state that its score needs: `ScoreState` is one."""

    def merge(self, other: Any) -> MergeableState:
        """Add the rows of another state, and return the state itself."""
        ...

    def finalize(self) -> Score:
        """Return the score of all rows."""
        ...


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Score(ScoreValues):
    """Result of scoring predictions: mean loss with its interval, parts by class and slice, calibration, worst rows.

    Losses are in nats. `n` counts the rows with a positive weight, `weight` is the sum of their weights, `clusters` the
    number of clusters (None if rows are independent). `ci` holds the ends of the interval that covers the expected loss
    with probability `level`, `se` is the standard error. `baseline` is the loss of always predicting the class
    frequencies, `skill` = 1 − loss / baseline (NaN where there is only one class), `entropy` the mean of −Σ q log q,
    the loss expected if the probabilities were right. `zero` is the smallest probability used in the loss, or "inf".
    For an infinite loss, `finite` holds the loss of the other rows, and the loss of all rows at some floors; else it is
    None.
    """

    state: MergeableState | None = field(default=None)

    def to_dict(self, *, unit: Unit = "nats") -> dict[str, Any]:
        """Return every number by its name, using only lists, dicts, numbers and texts.

        Parameters
        ----------
        unit
            Unit of all losses, "nats" or "bits"; `bits` is in bits in any case.

        Returns
        -------
        dict
            The fields, the unit, and bits and perplexity with their intervals; NaN is None, infinities are "inf" and
            "-inf".

        Raises
        ------
        InputError
            If the unit is neither.

        Examples
        --------
        >>> import crossent
        >>> crossent.score([1, 1, 0], probs=[0.5, 0.5, 0.5]).to_dict()["bits"]
        1.0
        """
        from crossent.scoring.show.text import json_value
        from crossent.scoring.show.units import in_bits

        if unit not in ("nats", "bits"):
            raise InputError(f"unit must be 'nats' or 'bits', not {unit!r}", argument="unit")
        values = in_bits(self) if unit == "bits" else self
        whole = {f.name: json_value(getattr(values, f.name)) for f in fields(self) if f.name != "state"}
        return {**whole, "unit": unit} | {
            name: json_value(getattr(self, name)) for name in ("bits", "bits_ci", "perplexity", "perplexity_ci")
        }

    def to_json(self, *, indent: int | None = 2, unit: Unit = "nats") -> str:
        """Return `to_dict` as JSON.

        Parameters
        ----------
        indent
            Spaces of indentation, or None for one line.
        unit
            Unit of all losses, "nats" or "bits".

        Returns
        -------
        str
            JSON, without NaN and Infinity, which JSON lacks.

        Examples
        --------
        >>> import crossent
        >>> crossent.score([1, 0], probs=[0.5, 0.5]).to_json(indent=None)[:43]
        '{"loss": 0.6931471805599453, "ci": [0.69314'
        """
        return json.dumps(self.to_dict(unit=unit), indent=indent, allow_nan=False, ensure_ascii=False)

    def to_frame(self, backend: str | None = None) -> Any:
        """Return a frame with a row for the whole, each class and each slice.

        Parameters
        ----------
        backend
            "polars", "pandas" or "pyarrow"; by default the first of them that is imported already, else pyarrow.

        Returns
        -------
        frame
            Columns slice, value, n, weight, loss, low, high, se (in nats) and accuracy.

        Examples
        --------
        >>> import crossent
        >>> crossent.score([1, 0], probs=[0.5, 0.5]).to_frame("pyarrow").column("loss").to_pylist()
        [0.6931471805599453, 0.6931471805599453, 0.6931471805599453]
        """
        import narwhals as nw

        chosen: Any = backend or _backend()
        whole = Slice("", self.n, self.weight, self.loss, self.ci, self.se, self.accuracy)
        groups = {"all": (whole,), "class": self.per_class, **self.by}
        rows = [(name, part) for name, parts in groups.items() for part in parts]
        columns = {
            "slice": [name for name, _ in rows],
            "value": [None if part.value is None else str(part.value) for _, part in rows],
            **{name: [getattr(part, name) for _, part in rows] for name in ("n", "weight", "loss")},
            "low": [part.ci[0] for _, part in rows],
            "high": [part.ci[1] for _, part in rows],
            **{name: [getattr(part, name) for _, part in rows] for name in ("se", "accuracy")},
        }
        return nw.from_dict(columns, backend=chosen).to_native()

    @property
    def rows(self) -> Any:
        """Every row, as a frame of the first of polars, pandas and pyarrow that is imported already, else of pyarrow.

        Columns: id (the row's number, if it has none), label, loss in nats, probability (of the true class), predicted,
        confidence (of the predicted class), and if present weight, cluster and the columns of `by`.

        Returns
        -------
        frame
            Rows in the order in which they were scored.

        Raises
        ------
        InputError
            If the rows were not kept: `crossent.score` and `ScoreState(rows=True)` keep them.

        Examples
        --------
        >>> import crossent
        >>> rows = crossent.score(["no", "yes"], probs=[0.5, 0.25], classes=["no", "yes"]).rows
        >>> import narwhals as nw
        >>> nw.from_native(rows)["predicted"].to_list(), nw.from_native(rows)["probability"].to_list()
        (['no', 'no'], [0.5, 0.25])
        """
        import narwhals as nw

        from crossent.scoring.listed import as_arrow, listing

        sums = getattr(self.state, "sums", None)
        if sums is None or sums.kept is None:
            raise InputError(
                "the rows of this score were not kept; score with crossent.score, or ScoreState(rows=True)"
            )
        table = as_arrow(listing(sums, sums.kept.whole()).items())
        backend: Any = _backend()
        if backend == "pyarrow":
            return table
        return nw.from_native(table, eager_only=True).lazy().collect(backend=backend).to_native()

    def to_html(self, path: str | Path, *, title: str = "Loss of the predictions", source: str = "") -> Path:
        """Write a report with pictures to one self-contained HTML file.

        Parameters
        ----------
        path
            The file to write.
        title, source
            Heading of the page, and origin of the predictions.

        Returns
        -------
        Path
            The file written.

        Raises
        ------
        OSError
            If it cannot be written.

        Examples
        --------
        >>> import crossent
        >>> path = getfixture("tmp_path") / "report.html"
        >>> crossent.score([1, 0], probs=[0.5, 0.6]).to_html(path).read_text(encoding="utf-8")[:15]
        '<!DOCTYPE html>'
        """
        from crossent.scoring.show.report import write

        return write(self, path, title=title, source=source)

    def plot(self, ax: Any = None) -> Any:
        """Draw the reliability diagram: observed frequency over predicted probability.

        Parameters
        ----------
        ax
            Axes of matplotlib to draw on, by default new ones.

        Returns
        -------
        matplotlib.axes.Axes
            The axes.

        Examples
        --------
        >>> import crossent
        >>> crossent.score([1, 0], probs=[0.5, 0.6]).plot().get_xlabel()
        'predicted probability'
        """
        from crossent.scoring.show.pictures import plot

        return plot(self, ax)

    def merge(self, other: Score) -> Score:
        """Return the score of the rows of this score and another.

        Parameters
        ----------
        other
            A score made with the same options and classes.

        Returns
        -------
        Score
            The score of all rows, as if scored at once.

        Raises
        ------
        InputError, InputTypeError
            If the other is not a score, or the two cannot be merged.

        Examples
        --------
        >>> import crossent
        >>> crossent.score([1], probs=[0.5]).merge(crossent.score([0], probs=[0.75])).loss   # log(2 · 4) / 2
        1.0397207708399179
        """
        if not isinstance(other, Score):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputTypeError(f"a score merges with another Score, not with {type(other).__name__}")
        if self.state is None or other.state is None:
            raise InputError("this score was made without a state, and cannot be merged")
        return deepcopy(self.state).merge(other.state).finalize()

    def __repr__(self) -> str:
        from crossent.scoring.show.text import text

        return text(self)

    def _repr_html_(self) -> str:
        from crossent.scoring.show.text import notebook_html

        return notebook_html(self)


def _backend() -> str:
    """Return the name of the first library of frames that is imported already, else pyarrow."""
    return next((name for name in ("polars", "pandas", "pyarrow") if name in sys.modules), "pyarrow")
