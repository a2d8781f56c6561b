"""The command `crossent calibrate`: fit a scaling to files, report its gain, and write calibrated predictions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crossent.errors import InputError, UsageError, quoted, spelled
from crossent.scoring.calibration.cross_fit import CrossFit
from crossent.scoring.calibration.estimators import TemperatureScaling, VectorScaling
from crossent.scoring.calibration.methods import log_probabilities
from crossent.scoring.calibration.rows import Rows, logits_of
from crossent.scoring.calibration.scaling import CalibrationWarning, Scaling
from crossent.scoring.cli.reading import as_option, input_errors
from crossent.scoring.cli.row_files import writing
from crossent.scoring.input.arguments import RowArguments
from crossent.scoring.input.arrow import arguments, numbers
from crossent.scoring.input.batch import Batch, batch
from crossent.scoring.input.columns import Columns
from crossent.scoring.input.labels import listing
from crossent.scoring.input.several import Tables
from crossent.scoring.input.survey import Settled, settled
from crossent.scoring.input.truth import Joined
from crossent.scoring.show import words
from crossent.scoring.show.comparison_text import chance
from crossent.scoring.show.text import aligned, json_value
from crossent.scoring.state import ScoreState

Method = Literal["temperature", "vector"]
KEPT = 1 << 28
"""Bytes of predictions that are kept between passes; of more each pass reads the files again."""


class Kept:
    """Batches that `read` yields; few are kept, so that they need not be read again."""

    def __init__(self, read: Callable[[], Iterator[Batch]]) -> None:
        self._read, self._kept = read, None

    def __call__(self) -> Iterator[Batch]:
        """Yield the batches once more."""
        if self._kept is not None:
            yield from self._kept
            return
        found: list[Batch] | None = []
        size = 0
        for each in self._read():
            size += each.values.nbytes
            found = None if found is None or size > KEPT else [*found, each]
            yield each
        self._kept = found

    _kept: list[Batch] | None


def asked_of(tables: Tables | Joined, columns: Columns, options: Mapping[str, Any]) -> Settled:
    """Return how a table is to be read, whose predictions must be columns of numbers or one of lists."""
    with input_errors(tables.name):
        asked = settled(tables, columns, options.get("classes"))
        found = asked.columns
        if found.keys or found.as_text or any(value in found.roots for value in found.values or ()):
            raise InputError(
                "calibrated predictions can replace columns of numbers, or one column of lists, but not objects or "
                "texts; write a column for each class first",
                argument=found.kind,
            )
        return asked


def reader(tables: Tables | Joined, asked: Settled, options: Mapping[str, Any]) -> Callable[[], Iterator[Batch]]:
    """Return a function that reads the rows of a table as batches at each call."""
    ready = ScoreState(**{**options, "classes": asked.classes}).options

    def read() -> Iterator[Batch]:
        seen = 0
        for portion in tables.batches(asked.columns.needed, asked.columns.texts):
            with input_errors(tables.name, asked.columns.label):
                for piece in asked.pieces(portion.batch):
                    if len(piece):
                        given = arguments(piece, asked.columns, seen)
                        y = given.pop("y")
                        yield batch(y, RowArguments(**given), ready)
                        seen += len(piece)

    return read


def fitted(
    rows: Rows, asked: Settled, method: Method, *, folds: int, level: float, tell: Callable[[], None]
) -> tuple[Scaling, CrossFit | None, list[str]]:
    """Return the scaling, its gain on rows that had no part in it (None where nothing is scaled), and warnings."""
    kind = TemperatureScaling if method == "temperature" else VectorScaling
    scaling = kind(input=asked.columns.kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        with input_errors():
            _ = scaling.fit_rows(rows)
            gain = None if scaling.reason_ else scaling.gain(rows, folds, level, tell)
    return scaling, gain, [spelled(warning, as_option) for warning in scaling.warnings_]


def said(scaling: Scaling, gain: CrossFit, *, as_json: bool, found: list[str]) -> str:
    """Return the fit and its gain as text or JSON."""
    if as_json:
        whole = {**parameters(scaling), "gain": gain.to_dict(), "loss": scaling.loss_, "warnings": found}
        whole |= {"calibrated_loss": scaling.calibrated_loss_, "classes": list(scaling.names_)}
        return json.dumps(json_value(whole), indent=2, allow_nan=False, ensure_ascii=False)
    n = words.counted(gain.n, "row") + (
        "" if gain.clusters is None else f" in {words.counted(gain.clusters, 'cluster')}"
    )
    places = words.places((gain.ci[1] - gain.ci[0]) / 4.0)
    rows = [
        ("", "nats", f"{100 * gain.level:g} % interval"),
        ("loss as given", words.number(gain.loss, places), ""),
        ("loss calibrated", words.number(gain.calibrated, places), "each row scored by a fit to other rows"),
        ("gain", words.number(gain.gain, places), words.interval(gain.ci, places)),
        ("p-value", chance(gain.p_value), "chance of a difference this large if there is no gain"),
    ]
    lines = [f"{_heading(scaling)}, from {n}", *aligned(rows, (0, 2)), f"{gain.folds} folds"]
    if gain.ci[0] <= 0.0:
        lines.append("These rows do not show that calibration helps: the interval holds 0.")
    if isinstance(scaling, VectorScaling):
        lines += ["", "calibrated logit = scale · logit + bias", *_by_class(scaling)]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in found)])


def parameters(scaling: Scaling) -> dict[str, Any]:
    """Return the parameters of a scaling by their names."""
    if isinstance(scaling, TemperatureScaling):
        return {"temperature": scaling.temperature_}
    assert isinstance(scaling, VectorScaling)
    return {"scale": scaling.scale_.tolist(), "bias": scaling.bias_.tolist()}


def _heading(scaling: Scaling) -> str:
    if not isinstance(scaling, TemperatureScaling):
        return "a scale and a bias for each class"
    t = scaling.temperature_
    kind = "too sure" if t > 1.0 else "not sure enough"
    return f"one temperature, T = {words.number(t, 4)}: the predictions are {kind}"


def _by_class(scaling: VectorScaling) -> list[str]:
    names = scaling.names_[1:] if scaling.n_features_in_ == 1 else scaling.names_
    listed = list(zip(names, scaling.scale_.tolist(), scaling.bias_.tolist(), strict=True))[:20]
    rows = [(str(name), words.number(a, 4), words.number(b, 4)) for name, a, b in listed]
    return aligned([("class", "scale", "bias"), *rows])


def write(path: Path, tables: Tables, columns: Columns, scaling: Scaling) -> int:
    """Write all columns of a table, with calibrated predictions in place of those of the fit; return the rows.

    Probabilities become probabilities, log-probabilities log-probabilities, and logits scaled logits.
    """
    values = list(columns.values or ())
    missing = [name for name in values if name not in tables.columns]
    if missing:
        raise UsageError(f"{tables.name}: there is no column {quoted(missing[0])}; it has {listing(tables.columns)}")
    others = [name for name in tables.columns if name not in values]
    rows = 0
    try:
        with writing(path) as put:
            for portion in tables.batches(tables.columns, others):
                if len(portion.batch):
                    with input_errors(tables.name):
                        put(_calibrated(portion.batch, columns, values, scaling, rows))
                    rows += len(portion.batch)
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror or error}") from error
    return rows


def _calibrated(portion: Any, columns: Columns, values: list[str], scaling: Scaling, first: int) -> Any:
    """Return a record batch as a table with calibrated predictions."""
    import pyarrow as pa

    stored = numbers([portion.column(name) for name in values], values, first)
    made = Batch(columns.kind, stored, np.zeros(len(portion), np.int64), scaling.names_, None, None, {}, None)
    scaled = scaling.scaled(logits_of(made, slice(None)).astype(np.float64))
    if np.isnan(scaled).any():
        wrong = int(np.isnan(scaled).any(axis=1).argmax())
        raise InputError(f"row {first + wrong} has no prediction to calibrate: its {columns.kind} hold NaN")
    if columns.kind != "logits":
        scaled = log_probabilities(scaled)
        scaled = np.exp(scaled) if columns.kind == "probs" else scaled
    if made.binary:
        scaled = scaled[:, 1] - scaled[:, 0] if columns.kind == "logits" else scaled[:, 1]
    found = {name: portion.column(name) for name in portion.schema.names}
    if len(values) == 1:
        width = 0 if made.binary else scaled.shape[1]
        flat = pa.array(np.ascontiguousarray(scaled).reshape(-1))
        found[values[0]] = (
            pa.FixedSizeListArray.from_arrays(flat, width).cast(pa.list_(pa.float64())) if width else flat
        )
    else:
        found |= {name: pa.array(np.ascontiguousarray(scaled[:, k])) for k, name in enumerate(values)}
    return pa.table(found)
