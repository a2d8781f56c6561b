"""Scores and targets: the two values that describe a loss of rows to every backend.

`Scores` maps logits to scores, `Target` defines the target distribution of each row. Both are frozen, made once at the
front door and passed whole. Checks that need shapes and numbers only are here, and so are the texts of errors that a
backend finds while it reads the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

NO_CLASS = -(2**63)
"""An `ignore_index` that no target holds: nothing is ignored."""
LAST_CLASS = 2**63 - 1
"""The largest class index; a larger number, in an array of uint64, is read as this one. There are never so many."""


LEAST_SCALE, LARGEST_SCALE = 1e-15, 1e15
"""Bounds of temperatures and softcaps."""


class Array(Protocol):
    """An array of any library, known by its shape and dtype: NumPy's, torch's and JAX's."""

    @property
    def shape(self) -> Any:
        """Lengths of the axes."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of the elements."""
        ...


def is_scale(value: float) -> bool:
    """Return whether a number can be a temperature or a softcap: products and quotients of two fit float32."""
    return LEAST_SCALE <= value <= LARGEST_SCALE


def _is_known(value: object) -> bool:
    """Return whether a number can be compared; in compiled programs a tensor may replace a checked number."""
    return isinstance(value, (float, int))


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores s = phi(z) of logits z: phi(z) = z / temperature, then softcap · tanh(· / softcap) if there is a softcap.

    Parameters
    ----------
    temperature
        The temperature of all rows; 1 if each row has its own.
    softcap
        The bound of the scores; None for no bound.
    row_temperature
        The temperature of each row, (N,), floating-point; None if all have the same. Backends check its range.

    Raises
    ------
    ValueError
        If temperature or softcap is not between 1e-15 and 1e15, where float32 can multiply and divide by both.
    """

    temperature: float = 1.0
    softcap: float | None = None
    row_temperature: Array | None = None

    def __post_init__(self) -> None:
        if self.row_temperature is not None and _is_known(self.temperature) and self.temperature != 1.0:
            raise ValueError(f"temperature must stay 1.0 if each row has its own, got temperature={self.temperature!r}")
        for name, value in (("temperature", self.temperature), ("softcap", self.softcap)):
            if value is None or not _is_known(value) or is_scale(value):
                continue
            why = "use softcap=None for no cap" if name == "softcap" else "1.0 leaves the logits as they are"
            bounds = " between 1e-15 and 1e15" if 0 < value < float("inf") else ""
            raise ValueError(f"{name} must be a positive finite number{bounds}, got {value!r}; {why}")

    @property
    def doubled(self) -> Scores:
        """The scores 2 s: their normaliser is Σ e^(2 s), so that log Σ q² = lse(2 s) − 2 lse(s).

        They are exactly twice these scores in floating point too, because both options change by a power of two.

        Raises
        ------
        ValueError
            If temperature or softcap is so close to its bound that the other one is beyond it.
        """
        softcap, own = None if self.softcap is None else 2 * self.softcap, self.row_temperature
        try:
            if own is not None:
                halves: Any = own
                return Scores(1.0, softcap, halves / 2)
            return Scores(self.temperature / 2, softcap)
        except ValueError:
            raise ValueError(
                "statistics of rows need the normaliser of doubled scores, so temperature must be at least 2e-15 and "
                f"softcap at most 5e14, got {self.temperature!r} and {self.softcap!r}"
            ) from None


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """Target measure p of each row, p_v = weight_v · ((1 − smoothing) · base_v + smoothing / num_classes).

    The base is a class, K classes with their probabilities (top-k), or a probability for each class (dense).

    Parameters
    ----------
    index
        Classes, (N,) or, for top-k, (N, K); None for a dense target. Classes are global: column j of the logits is
        class `first_class + j`.
    prob
        Probabilities of the classes of a top-k target, (N, K), or a dense target, of the shape of the logits.
    weight
        Class weight of each column of the logits, (V,); None is 1.
    smoothing
        Share of each row's base that is spread evenly over all classes, in [0, 1].
    ignore_index
        Class of rows without a target: loss and gradient of such a row are 0. For index targets only.
    first_class, num_classes
        Class of the first column and number of all classes, for a shard of the vocabulary. `num_classes=None` means
        that the columns are all classes.

    Raises
    ------
    ValueError
        If smoothing is outside [0, 1], or neither index nor prob is given.
    """

    index: Array | None = None
    prob: Array | None = None
    weight: Array | None = None
    smoothing: float = 0.0
    ignore_index: int = NO_CLASS
    first_class: int = 0
    num_classes: int | None = None

    def __post_init__(self) -> None:
        if _is_known(self.smoothing) and not 0.0 <= self.smoothing <= 1.0:
            raise ValueError(f"label_smoothing must be between 0.0 and 1.0, got {self.smoothing!r}")
        if self.index is None and self.prob is None:
            raise ValueError("a target needs class indices, class probabilities, or both (top-k)")

    @property
    def kind(self) -> Literal["index", "topk", "dense"]:
        """Kind of the base."""
        if self.index is None:
            return "dense"
        return "index" if self.prob is None else "topk"


def class_error(value: int, row: int, rows: int, target: Target, num_classes: int) -> IndexError:
    """Return the error for a class of a row that is not among the classes."""
    hint = ""
    if target.kind == "index" and value < LAST_CLASS - 1:
        hint = f"; use ignore_index={value} to skip such rows"
        if value == num_classes:
            hint = f"; classes count from 0: do these count from 1? If not,{hint[1:]}"
    or_more = " or more" if value >= LAST_CLASS - 1 else ""
    return IndexError(
        f"class {value}{or_more} (row {row} of {rows}) is not one of the {num_classes} classes "
        f"[0, {num_classes - 1}]{hint}"
    )


def probability_error(value: float, row: int, column: int) -> ValueError:
    """Return the error for a target probability that is negative, infinite or NaN."""
    fix = "pass log-probabilities through exp, and logits through softmax, first" if value < 0 else "fix the data"
    return ValueError(f"target probability {value!r} (row {row}, column {column}) is not a finite number ≥ 0; {fix}")


def temperature_error(value: float, row: int) -> ValueError:
    """Return the error for a temperature of a row that is not between 1e-15 and 1e15."""
    return ValueError(
        f"temperature must be between 1e-15 and 1e15, got {value!r} (row {row}); 1.0 leaves the logits as they are"
    )


def element_error(name: str, value: float, place: tuple[int, ...]) -> ValueError:
    """Return the error for an element of a binary target, or of an input of probabilities, that is not in [0, 1]."""
    if name == "input":
        fix = "if the input are logits, use binary_cross_entropy_with_logits"
    elif -1e-2 < value < 1.01:
        fix = "if that is rounding, use target.clamp(0, 1)"
    else:
        fix = "a target is the probability of the positive class; a weight of 0 leaves an element out"
    return ValueError(f"{name} must be between 0 and 1, got {value!r} at {place}; {fix}")
