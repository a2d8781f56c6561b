"""The CPU backend: the built core's functions on arrays of any framework that speaks DLPack.

`crossent.kernels.backend` is the contract. Beyond it the CPU has `row_step` for few logits, `row_summary`, which
evaluation uses, and functions that choose instruction set and threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from crossent.kernels import lock
from crossent.kernels.backend import (
    NO_OUTPUTS,
    BinaryKind,
    BinaryOperands,
    Cotangents,
    LossScale,
    PairCotangents,
    Reduced,
    RowOutputs,
    Teacher,
)
from crossent.spec import Array, Scores, Target, class_error, probability_error, temperature_error

_core, _missing = None, lock.why_not()
if _missing is None:
    try:
        with lock.switched_on():
            import crossent._core as _core  # noqa: PLR0402  not the package's face  # pyright: ignore[reportMissingModuleSource]
    except ImportError as error:  # a source tree that was never built
        _missing = f"the C++ core is not built ({error}); run `pip install .` in the source tree"


FEW_CLASSES = 0 if _core is None else int(_core.few_classes)
GRID_CELLS = 0 if _core is None else int(_core.grid_cells)
ADDS_BIAS = False


class StepOptions(NamedTuple):
    """Options of a small loss, as callers passed them."""

    mean: bool
    """Whether the loss is the mean of the rows, else their sum."""
    ignore_index: Any
    label_smoothing: Any
    z_loss: Any
    temperature: Any
    softcap: Any


class _Wrong(NamedTuple):
    """The first entry that cannot be: a class (column −1), the temperature of a row (−2), or a probability."""

    row: int
    column: int
    value: int | float


_OF_TEMPERATURE = -2


def why_not() -> str | None:
    """Return None if the core was built for this Python, else the reason."""
    return _missing


def isa() -> str:
    """Return the name of the instruction set that the kernels run on."""
    return _built().isa()


def available_isas() -> tuple[str, ...]:
    """Return the instruction sets that this build and this processor have, the best last."""
    return tuple(_built().available_isas())


def use_isa(name: str) -> None:
    """Run the kernels on the named instruction set from now on; an empty name is the best one."""
    _built().use_isa(name)


def lend_threads(parallel_for: int) -> None:
    """Give the core the address of a C function `int32_t (begin, end, grain, body, context)` to run its loops with."""
    _built().lend_threads(parallel_for)


def threads() -> str:
    """Return the origin of the core's threads, for people: torch, or the core itself."""
    core = _built()
    return "lent by torch" if core.threads_are_lent() else f"the core's own, up to {core.own_threads()}"


def threads_are_lent() -> bool:
    """Return whether the core runs on threads of torch."""
    return _built().threads_are_lent()


def own_threads() -> int:
    """Return the largest number of threads that the core makes for one call if torch lends none."""
    return _built().own_threads()


def row_stats(
    logits: Array,
    target: Target,
    scores: Scores,
    record: Array | None,
    outputs: RowOutputs = NO_OUTPUTS,
    *,
    extend: bool = False,
) -> None:
    """Write the record of each row, and loss, lse and entropy where wanted: `Backend.row_stats`."""
    _check(_built().row_stats(*_bound(logits, target, scores), record, *outputs, extend), logits, target)


def row_loss(
    logits: Array, target: Target, scores: Scores, record: Array | None, losses: Array | None, *, mean: bool
) -> Reduced:
    """Return sum or mean of the losses and its derivative by each, as floats: `Backend.row_loss`."""
    if record is None:
        found = few_sums(logits, target, scores)
    else:
        row_stats(logits, target, scores, record, RowOutputs(losses))
        index: Any = target.index if target.kind == "index" else None
        found = sums(losses, index, target.weight, target.ignore_index)
    if not mean:
        return Reduced(found.loss, 1.0)
    scale = float("nan") if found.weight == 0 else 1.0 / found.weight
    return Reduced(found.loss * scale, scale)


class Sums(NamedTuple):
    """Numerator and denominator of a mean: Σ loss, and the sum of the weights of the rows that count."""

    loss: float
    weight: float


def sums(loss: Any, index: Array | None, weight: Array | None, ignore_index: int) -> Sums:
    """Return Σ loss, and Σ weight[index] over the rows that are not ignored; without weight, their number.

    Without an index no row is ignored, and the second sum is the number of rows.
    """
    return Sums(*_built().sums(loss, index, weight, ignore_index))


def few_sums(logits: Array, target: Target, scores: Scores) -> Sums:
    """Return numerator and denominator of the mean loss of few classes; nothing is kept of the rows.

    It is `row_stats` without a record, and `sums`, in one pass. Raises as `row_stats` does.
    """
    loss, weight, found = _built().few_sums(*_bound(logits, target, scores))
    _check(found, logits, target)
    return Sums(loss, weight)


def row_grad(
    logits: Array, target: Target, scores: Scores, record: Array | None, cotangents: Cotangents, grad: Array
) -> None:
    """Write the gradient of each row: `Backend.row_grad`."""
    _built().row_grad(*_bound(logits, target, scores), record, *cotangents, grad)


def row_fused(
    logits: Array,
    target: Target,
    scores: Scores,
    scale: LossScale,
    record: Array,
    grad: Array,
    outputs: RowOutputs = NO_OUTPUTS,
) -> None:
    """Write the record of each row and the gradient of a weighted sum of losses: `Backend.row_fused`."""
    _check(_built().row_fused(*_bound(logits, target, scores), *scale, record, *outputs, grad), logits, target)


def pair_stats(
    logits: Array,
    scores: Scores,
    record: Array,
    teacher: Teacher,
    beta: float | None,
    sums: Array,
    *,
    extend: bool = False,
) -> None:
    """Write the sums of each row with its teacher's, or add to them: `Backend.pair_stats`."""
    _built().pair_stats(logits, *_phi(scores), record, *_with(teacher), beta, sums, extend)


def pair_grad(
    logits: Array,
    target: Target,
    scores: Scores,
    record: Array,
    teacher: Teacher,
    beta: float | None,
    sums: Array,
    cotangents: PairCotangents,
    grad: Array,
) -> None:
    """Write the gradient of each row with its teacher's: `Backend.pair_grad`."""
    _built().pair_grad(
        *_bound(logits, target, scores), record, *_with(teacher), beta, sums, *PairCotangents(*cotangents), grad
    )


def row_step(
    logits: Array, index: Array, weight: Array | None, options: StepOptions, grad: Array | None
) -> float | None:
    """Return the sum or mean of the losses of class indices, and write its gradient if wanted; only the CPU has this.

    It is `row_stats`, `sums` and `row_grad` in one call, for logits so few that a call takes longer than the numbers.
    Axes are those of torch's `cross_entropy`, and nothing need be checked before. For an unusual or wrong argument
    (numbers that are neither float nor int, a z-loss, an array that does not fit, a class that does not exist), this
    returns None and the gradient is undefined; the general functions then handle or report it.
    """
    return (_core or _built()).row_step(logits, index, weight, options, grad)  # a call less than _built() alone


def binary_loss(kind: BinaryKind, operands: BinaryOperands, out: Array | None) -> float:
    """Write the binary cross-entropy of each element and return the sum, as a float: `Backend.binary_loss`."""
    total, wrong = _built().binary_loss(kind == "probabilities", *operands, out)
    if wrong >= 0:
        raise BinaryOperands(*operands).wrong_element(_unravel(wrong, operands[0].shape))
    return total


def binary_grad(kind: BinaryKind, operands: BinaryOperands, cotangent: Array, out: Array) -> None:
    """Write the derivative of each element's loss, times its cotangent: `Backend.binary_grad`."""
    _built().binary_grad(kind == "probabilities", *operands, cotangent, out)


def row_summary(values: Array, index: Array | None, result: Array, place: Array, *, entropic: bool) -> None:
    """Write five statistics of each row of values (N, V) into `result` (5, N) float64, and one into `place` (N,) int64.

    `result` holds the value at `index` (NaN where there is no such column, untouched without an index), the sum, the
    largest and the smallest value, and −Σ x log x if `entropic`, else 0. `place` is the first column of the largest. A
    NaN shows only in the sum.
    """
    _built().row_summary(values, index, result, place, entropic)


def row_peaks(values: Array, peak: Array, place: Array) -> None:
    """Write the largest value of each row of values (N, V) into `peak` (1, N) float64, its first column into `place`.

    `place` is (N,) int64. NaN is not a value; a row without a value above −inf has its peak −inf at column 0. This
    takes a read of the values, where torch's argmax on a CPU takes as long as the row functions.
    """
    _built().row_peaks(values, peak, place)


def class_cells(values: Array, index: Array, weight: Array | None, sums: Array, count: Array, square: Array) -> None:
    """Add probabilities (N, V) of rows with the class `index` (N,) to the cells of a grid, and write square losses.

    `crossent.scoring.sums.grid` defines the cells; each class has `GRID_CELLS` of them. `sums` (4, V, cells) float64
    gets Σ w, Σ w q, and both of the rows of the class alone; `count` (V, cells) int64 the numbers of rows. Without
    `weight` (N,) all weights are 1. `square` (N,) float64 becomes Σ q² − 2 q_y + 1, NaN where there is no such class.
    Values below 0 and NaN count as 0, values above 1 as 1.
    """
    _built().class_cells(values, index, weight, sums, count, square)


def _built() -> Any:
    if _core is None:
        raise NotImplementedError(_missing)
    return _core


def _bound(logits: Array, target: Target, scores: Scores) -> tuple[Any, ...]:
    return (
        logits,
        target.index,
        target.prob,
        target.weight,
        target.smoothing,
        target.ignore_index,
        target.first_class,
        logits.shape[1] if target.num_classes is None else target.num_classes,
        *_phi(scores),
    )


def _phi(scores: Scores) -> tuple[Any, ...]:
    return scores.temperature, scores.softcap or 0.0, scores.row_temperature


def _with(teacher: Teacher) -> tuple[Any, ...]:
    return teacher.logits, *_phi(teacher.scores), teacher.record


def _check(found: tuple[int, int, int | float] | None, logits: Array, target: Target) -> None:
    if found is None:
        return
    wrong = _Wrong(*found)
    if wrong.column >= 0:
        raise probability_error(float(wrong.value), wrong.row, wrong.column)
    if wrong.column == _OF_TEMPERATURE:
        raise temperature_error(float(wrong.value), wrong.row)
    rows = logits.shape[0] * (logits.shape[2] if len(logits.shape) == 3 else 1)
    raise class_error(int(wrong.value), wrong.row, rows, target, target.num_classes or logits.shape[1])


def _unravel(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    place: list[int] = []
    for length in reversed(shape):
        position, at = divmod(position, length)
        place.append(at)
    return tuple(reversed(place))
