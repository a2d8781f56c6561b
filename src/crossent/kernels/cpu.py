"""The CPU backend: the built core's functions on arrays of any framework that speaks DLPack.

Logits have shape (N, V), or (outer, V, inner) for N = outer · inner rows with the classes in the middle, with any
strides. Results go into arrays of the caller, so that each framework allocates its own.
"""

from __future__ import annotations

from typing import Any, Literal

from crossent.spec import Array, Scores, Target, class_error, not_probability_error, probability_error

try:
    from crossent import _core
except ImportError as error:  # a source tree that was never built
    _core = None
    _missing = f"the C++ core is not built ({error}); run `pip install .` in the source tree"
else:
    _missing = None

Cotangents = tuple[Array | None, Array | None, Array | None]
Summary = tuple[Array | None, Array | None, Array | None]
_NO_SUMMARY: Summary = (None, None, None)
BinaryKind = Literal["logits", "probabilities"]
BinaryOperands = tuple[Array, Array, Array | None, Array | None]
_Wrong = tuple[int, int, int | float] | None


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
    """Return where the threads of the core come from."""
    core = _built()
    return "lent by torch" if core.threads_are_lent() else f"the core's own, up to {core.own_threads()}"


def row_stats(
    logits: Array,
    target: Target,
    scores: Scores,
    record: Array,
    summary: Summary = _NO_SUMMARY,
    *,
    extend: bool = False,
) -> None:
    """Write the record of each row into `record` (5, N): peak, total, target_score, mass, tilt, in float64.

    With `extend` the record holds other columns of the same rows already, and the logits' are merged into it.
    The arrays (N,) of `summary`, float64 for float64 logits and else float32, receive loss, lse and entropy.

    Raises
    ------
    IndexError
        If a class index is neither `target.ignore_index` nor among the classes.
    ValueError
        If a target probability is negative, infinite or NaN, or if shapes do not fit each other.
    TypeError
        If an array has a dtype that the core does not read.
    """
    _check(_built().row_stats(*_bound(logits, target, scores), record, *summary, extend), logits, target)


def sums(loss: Array, index: Array | None, weight: Array | None, ignore_index: int) -> tuple[float, float]:
    """Return Σ loss, and Σ weight_y over the rows of `index` that are not ignored (the number of rows without it)."""
    return _built().sums(loss, index, weight, ignore_index)


def row_grad(logits: Array, target: Target, scores: Scores, record: Array, cotangents: Cotangents, grad: Array) -> None:
    """Write phi'(z) (p (a + b log p) − c q) into `grad`, like the logits.

    a, b and c are `RowStats.coefficients` of the cotangents (N,) of loss, lse and entropy; None is zero.
    """
    _built().row_grad(*_bound(logits, target, scores), record, *cotangents, grad)


def row_fused(
    logits: Array,
    target: Target,
    scores: Scores,
    scale: tuple[Array, Array | None],
    record: Array,
    grad: Array,
    summary: Summary = _NO_SUMMARY,
) -> None:
    """Do `row_stats`, then write the gradient of Σ scale₀ · loss + scale₁ · lse².

    `grad` may be the logits themselves. Raises as `row_stats` does; `grad` is then of no use.
    """
    _check(_built().row_fused(*_bound(logits, target, scores), *scale, record, *summary, grad), logits, target)


def binary_loss(kind: BinaryKind, operands: BinaryOperands, out: Array | None) -> float:
    """Write the binary cross-entropy of each element into `out`, if it is given, and return the sum.

    The operands are input, target, weight and pos_weight, all with the shape of the input (broadcast views will do);
    a weight of None is 1.

    Raises
    ------
    ValueError
        If the kind is "probabilities" and an element of the input is outside [0, 1] or NaN.
    """
    total, wrong = _built().binary_loss(kind == "probabilities", *operands, out)
    if wrong >= 0:
        raise not_probability_error(_unravel(wrong, operands[0].shape))
    return total


def binary_grad(kind: BinaryKind, operands: BinaryOperands, cotangent: Array, out: Array) -> None:
    """Write the derivative of each element's loss with respect to the input, times its cotangent, into `out`."""
    _built().binary_grad(kind == "probabilities", *operands, cotangent, out)


def row_summary(values: Array, index: Array | None, result: Array, place: Array, *, entropic: bool) -> None:
    """Write what rows of numbers say of themselves into `result` (5, N) float64 and `place` (N,) int64.

    The fields are the value at `index` (NaN where that names no column, untouched without an index), and sum, largest,
    smallest and, if `entropic` (else 0), −Σ x log x of the row; `place` is the first column of the largest. NaN is
    seen in the sum alone.
    """
    _built().row_summary(values, index, result, place, entropic)


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
        scores.temperature,
        scores.softcap or 0.0,
    )


def _check(wrong: _Wrong, logits: Array, target: Target) -> None:
    if wrong is None:
        return
    row, column, value = wrong
    if column >= 0:
        raise probability_error(float(value), row, column)
    rows = logits.shape[0] * (logits.shape[2] if len(logits.shape) == 3 else 1)
    raise class_error(int(value), row, rows, target, target.num_classes or logits.shape[1])


def _unravel(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    place: list[int] = []
    for length in reversed(shape):
        position, at = divmod(position, length)
        place.append(at)
    return tuple(reversed(place))
