"""Labels with several numbers a row: one-hot rows, several classes, soft labels, and the fix for each."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossent.errors import Argument, Message
from crossent.scoring.input.arrow_numbers import Matrix
from crossent.scoring.input.classes import numbers_of, of_columns
from crossent.scoring.input.tensors import from_tensor, is_tensor

_CLOSE = 1e-2  # how far sums of soft labels may be off


def why_not_labels(y: Any, predictions: Matrix, kind: str) -> str:
    """Return the error about labels (N, K): their likely kind, and the fix.

    Parameters
    ----------
    y
        An array, tensor, frame or nested list with at least two axes, the second longer than 1.
    predictions, kind
        The predictions, and the name of their argument.
    """
    rows = np.asarray(_numbers(y))
    text = f"y must be one class per row, got shape {rows.shape}"
    if rows.ndim != 2 or rows.dtype.kind not in "iubf":
        return text
    zeros_and_ones, sums = bool(((rows == 0) | (rows == 1)).all()), rows.sum(axis=1)
    if zeros_and_ones and (sums == 1).all():
        return Message(f"{text}; if these are one-hot rows, pass ", *_one_hot(y, rows.shape[1], predictions))
    if predictions.values.ndim == 1:
        return f"y has shape {rows.shape} and {kind} one axis: are they swapped? The truth comes first"
    if zeros_and_ones:
        return (
            f"{text}; these mark several labels in a row: pass multilabel=True to score each column as two classes, "
            f"y[:, k] with {kind}[:, k]"
        )
    if (rows >= 0).all() and (np.abs(sums - 1.0) <= _CLOSE).all():
        call = {
            "probs": "crossent.cross_entropy(y, probs)",
            "logprobs": "crossent.cross_entropy(y, np.exp(logprobs))",
            "logits": "crossent.torch.cross_entropy(logits, y)",
        }
        return f"{text}; for soft labels use {call[kind]}"
    return text


def _numbers(y: Any) -> Any:
    if is_tensor(y):
        tensor = from_tensor(y, "y", "y")
        return (tensor.double() if tensor.dtype.is_floating_point else tensor).numpy()
    return y.to_numpy() if hasattr(y, "to_numpy") else y


def _one_hot(y: Any, count: int, predictions: Matrix) -> list[str | Argument]:
    """Return the fix for one-hot rows, as the parts of a message."""
    array = "y.to_numpy()" if hasattr(y, "to_numpy") else "y" if hasattr(y, "argmax") else "np.array(y)"
    place = f"{array}.argmax(1)"
    columns = [str(name) for name in getattr(y, "columns", ())]
    same = ", if its columns are in the order of the predictions'"
    if predictions.names is None:
        return [place, *([same] if columns else [])]
    found = [numbers_of(of_columns(predictions.names)).find(name) for name in columns]
    if columns and all(len(classes) == 1 for classes in found) and len(set(found)) == count:
        return [f"np.array(y.columns)[{place}]"]
    return [place, f"{same}, and ", Argument("classes", list(range(count)))]
