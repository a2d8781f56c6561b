"""What a loss is told: how logits become scores, and what the target is.

Both are frozen values, bound once at the front door and passed whole to every backend. Every check that needs only
shapes and numbers is here, and so are the texts of the errors that a backend finds while it reads the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

NO_CLASS = -(2**63)
"""An `ignore_index` that no target holds: nothing is ignored."""


class Array(Protocol):
    """What all array libraries have in common: a shape and a dtype. NumPy, torch and JAX arrays are all `Array`s."""

    @property
    def shape(self) -> Any:
        """Lengths of the axes."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of the elements."""
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores s = phi(z) of logits z: phi(z) = z / temperature, then softcap · tanh(· / softcap) if there is a softcap.

    Raises
    ------
    ValueError
        If temperature or softcap is not a positive finite number.
    """

    temperature: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("temperature", self.temperature), ("softcap", self.softcap)):
            if value is not None and not 0 < value < float("inf"):
                why = "use softcap=None for no cap" if name == "softcap" else "1.0 leaves the logits as they are"
                raise ValueError(f"{name} must be a positive finite number, got {value!r}; {why}")


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """Target measure of each row, p_v = weight_v · ((1 − smoothing) · base_v + smoothing / num_classes).

    The base is a class (`index` of shape (N,)), K classes with their probabilities (`index` and `prob` of shape (N, K))
    or a dense row (`prob` in the shape of the logits). `weight` has one entry per column of the logits at hand.

    Parameters
    ----------
    index, prob, weight
        Arrays as above, or None. Classes are global: column j of the logits is class `first_class + j`.
    smoothing
        Share of each row's base that is spread evenly over all classes, in [0, 1].
    ignore_index
        A row whose class is this has no target: every statistic of it is zero, and so is its gradient.
    first_class, num_classes
        Where the columns at hand lie among all classes, for vocabulary shards. `num_classes=None` means that the
        columns are all there are.

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
        if not 0.0 <= self.smoothing <= 1.0:
            raise ValueError(f"label_smoothing must be between 0.0 and 1.0, got {self.smoothing!r}")
        if self.index is None and self.prob is None:
            raise ValueError("a target needs class indices, class probabilities, or both (top-k)")

    @property
    def kind(self) -> Literal["index", "topk", "dense"]:
        """Which of the three bases this is."""
        if self.index is None:
            return "dense"
        return "index" if self.prob is None else "topk"


def class_error(value: int, row: int, rows: int, target: Target, num_classes: int) -> IndexError:
    """Error for a class that is not one of the columns."""
    hint = ""
    if target.kind == "index":
        hint = f"; use ignore_index={value} to skip such rows"
        if value == num_classes:
            hint = f"; classes count from 0, were they counted from 1 here? If not,{hint[1:]}"
    return IndexError(
        f"class {value} (row {row} of {rows}) is not one of the {num_classes} classes [0, {num_classes - 1}]{hint}"
    )


def probability_error(value: float, row: int, column: int) -> ValueError:
    """Error for a target probability that is negative, infinite or NaN."""
    fix = "pass log-probabilities through exp, and logits through softmax, first" if value < 0 else "mend the data"
    return ValueError(f"target probability {value!r} (row {row}, column {column}) is not a finite number ≥ 0; {fix}")


def not_probability_error(place: tuple[int, ...]) -> ValueError:
    """Error for an input of binary cross-entropy that is outside [0, 1] or NaN."""
    return ValueError(
        f"element {place} of the input is not a probability in [0, 1]; "
        "if the input are logits, use binary_cross_entropy_with_logits"
    )
