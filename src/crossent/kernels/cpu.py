"""The CPU backend: the built core's functions on arrays of any framework that speaks DLPack.

Logits have shape (N, V), or (outer, V, inner) for N = outer · inner rows with the classes in the middle, with any
strides. Results go into arrays of the caller, so that each framework allocates its own.
"""

from __future__ import annotations

from typing import Any

from crossent.spec import Array, Scores, Target, class_error, probability_error

try:
    from crossent import _core
except ImportError as error:  # a source tree that was never built
    _core = None
    _missing = f"the C++ core is not built ({error}); run `pip install .` in the source tree"
else:
    _missing = None

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


def row_stats(logits: Array, target: Target, scores: Scores, record: Array) -> None:
    """Write peak, total, score, mass and tilt of each row into the float64 array `record` (5, N).

    Raises
    ------
    IndexError
        If a class index is neither `target.ignore_index` nor among the classes.
    ValueError
        If a target probability is negative, infinite or NaN, or if shapes do not fit each other.
    TypeError
        If an array has a dtype that the core does not read.
    """
    _check(_built().row_stats(*_bound(logits, target, scores), record), logits, target)


def row_grad(logits: Array, target: Target, scores: Scores, record: Array, coef: Array, grad: Array) -> None:
    """Write phi'(z) (p (a + b log p) − c q) into `grad`, like logits, for the rows of float64 `coef` (3, N): a, b, c."""
    _built().row_grad(*_bound(logits, target, scores), record, coef, grad)


def row_fused(logits: Array, target: Target, scores: Scores, scale: Array, record: Array, grad: Array) -> None:
    """Do `row_stats`, then write the gradient of Σ scale₀ · loss + scale₁ · lse² for float64 `scale` (2, N) into `grad`.

    `grad` may be the logits themselves. Raises as `row_stats` does; `grad` is then of no use.
    """
    _check(_built().row_fused(*_bound(logits, target, scores), scale, record, grad), logits, target)


def sigmoid_loss(logits: Array, target: Array, weight: Array | None, pos_weight: Array | None, out: Array | None) -> float:
    """Write the binary cross-entropy of each element into `out`, if it is given, and return the sum.

    All arrays have the shape of the logits; weights are broadcast views of it.
    """
    return _built().sigmoid_loss(logits, target, weight, pos_weight, out)


def sigmoid_grad(  # noqa: PLR0917
    logits: Array, target: Array, weight: Array | None, pos_weight: Array | None, cotangent: Array | float, out: Array
) -> None:
    """Write the derivative of the elements' losses times their cotangents, an array or one number, into `out`."""
    if isinstance(cotangent, float):
        _built().sigmoid_grad(logits, target, weight, pos_weight, None, cotangent, out)
    else:
        _built().sigmoid_grad(logits, target, weight, pos_weight, cotangent, 1.0, out)


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
