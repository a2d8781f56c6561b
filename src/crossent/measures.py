"""Entropy, cross-entropy and divergences of distributions, on NumPy, torch and JAX arrays.

Reasons for the form of the formulas:

* Nothing is clipped. 0 · log 0 = 0 is selected by a mask, and the masked element is replaced *before* the logarithm,
  so that its derivative is 0 and not NaN. A class with p > 0 and q = 0 has the cross-entropy +inf.
* Terms ≥ 0 cannot cancel: every measure is a sum of them, each good to a few units in the last place. The classical
  p log(p/q) takes both signs: it loses all digits once p and q differ by a share h whose square is below rounding.
* With r = (q − p) / (q + p), log(q/p) = 2 atanh r. Nothing is lost where p ≈ q, because q − p is exact there.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from crossent.arrays import log, namespace, readable
from crossent.numbers import real, whole


def entropy(p: Any, *, axis: int = -1, base: float | None = None) -> Any:
    """Entropy: the mean surprise of a distribution, a measure of its uncertainty.

    H(p) = −Σ_v p_v log p_v, with 0 · log 0 = 0. It lies between 0 (one class is certain) and log V (uniform).

    Parameters
    ----------
    p : array (..., V) or sequence
        Probabilities of V classes along `axis`, each row with the sum 1. NumPy arrays, lists and series are computed
        and returned in float64; torch and JAX arrays in float32, or in float64 if they have that dtype.
    axis : int
        The axis of the classes.
    base : float, optional
        Base of the logarithm, hence the unit: None is nats, 2 is bits, 10 is decimal digits.

    Returns
    -------
    scalar or array (...)
        The entropy of each row. Its torch derivative is −log p − 1, and 0 instead of +inf where p = 0, so that
        gradients through a softmax are right.

    Raises
    ------
    ValueError
        If a probability is negative, infinite or NaN, if the sum of a row is off 1 by more than 1 %, if there are no
        classes, or if axis or base is impossible. Values are checked in NumPy arrays and in torch tensors on the CPU,
        but not on GPUs, under torch.compile or vmap.
    TypeError
        If p does not hold real numbers.

    Examples
    --------
    >>> import crossent
    >>> crossent.entropy([0.5, 0.25, 0.25], base=2)
    np.float64(1.5)

    References
    ----------
    C. E. Shannon, "A Mathematical Theory of Communication", Bell System Technical Journal 27 (1948), section 6.
    """
    unit, (p,) = _unit(base), _distributions(axis, p=p)
    return _surprise(p, p) / unit


def cross_entropy(p: Any, q: Any, *, axis: int = -1, base: float | None = None) -> Any:
    """Cross-entropy: the mean surprise, −log q, when the truth follows p and the prediction is q.

    H(p, q) = −Σ_v p_v log q_v = H(p) + KL(p ‖ q), with 0 · log 0 = 0. It is +inf where p > 0 meets q = 0.

    Parameters
    ----------
    p, q : array (..., V) or sequence
        The true and the predicted probabilities of V classes along `axis`, as for `entropy`. The other axes broadcast.
        If one is a torch or JAX array, the other becomes one too, of its dtype and on its device.
    axis : int
        The axis of the classes, in p and in q.
    base : float, optional
        Base of the logarithm: None is nats, 2 is bits, 10 is decimal digits.

    Returns
    -------
    scalar or array (...)
        The cross-entropy of each row. Its torch derivatives are −log q by p, and −p/q by q, which is 0 where p = 0.
        For logits, `crossent.torch.cross_entropy` is faster and cannot underflow.

    Raises
    ------
    ValueError
        As `entropy`, and if p and q differ in their number of classes or do not broadcast.
    TypeError
        If p or q does not hold real numbers.

    Examples
    --------
    >>> import crossent
    >>> crossent.cross_entropy([1, 0, 0], [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]).round(6)
    array([0.356675, 2.302585])

    References
    ----------
    C. E. Shannon, "A Mathematical Theory of Communication", Bell System Technical Journal 27 (1948), section 6;
    the name is I. J. Good's, "Rational Decisions", Journal of the Royal Statistical Society B 14 (1952).
    """
    unit, (p, q) = _unit(base), _distributions(axis, p=p, q=q)
    return _surprise(p, q) / unit


def kl_divergence(p: Any, q: Any, *, axis: int = -1, base: float | None = None) -> Any:
    """Kullback–Leibler divergence: the extra cost of predicting q where p is true, H(p, q) − H(p).

    KL(p ‖ q) = Σ_v (p_v log(p_v / q_v) − p_v + q_v), with 0 · log 0 = 0. It is ≥ 0, and 0 only for p = q.

    The terms −p + q sum to zero and keep each term ≥ 0. For rows that sum to 1 only approximately, the classical sum
    has an error of Σp − Σq, which hides small divergences and can be negative. The error here is about (Σp − Σq)² / 2.

    Parameters
    ----------
    p, q : array (..., V) or sequence
        The true and the believed probabilities of V classes along `axis`, as for `cross_entropy`.
    axis : int
        The axis of the classes, in p and in q.
    base : float, optional
        Base of the logarithm: None is nats, 2 is bits, 10 is decimal digits.

    Returns
    -------
    scalar or array (...)
        The divergence of each row, good to a few units in the last place however near p and q are. Its torch
        derivatives are log(p/q) by p, finite instead of −inf where p = 0, and 1 − p/q by q. Along distributions,
        whose entries sum to 1, they are those of the classical sum.

    Raises
    ------
    ValueError, TypeError
        As `cross_entropy`.

    Examples
    --------
    >>> import crossent
    >>> crossent.kl_divergence([0.5, 0.5], [0.25, 0.75]).round(6)
    np.float64(0.143841)

    References
    ----------
    S. Kullback and R. A. Leibler, "On Information and Sufficiency", Annals of Mathematical Statistics 22 (1951);
    with the terms −p + q, I. Csiszár, "Why Least Squares and Maximum Entropy?", Annals of Statistics 19 (1991).
    """
    unit, (p, q) = _unit(base), _distributions(axis, p=p, q=q)
    return _divergence_terms(p, q).sum(-1) / unit


def js_divergence(p: Any, q: Any, *, axis: int = -1, base: float | None = None) -> Any:
    """Jensen–Shannon divergence: the symmetric and always finite mean divergence of p and q from their midpoint.

    JS(p, q) = (KL(p ‖ m) + KL(q ‖ m)) / 2 with m = (p + q) / 2. It lies between 0 (p = q) and log 2 (nothing shared).

    Parameters
    ----------
    p, q : array (..., V) or sequence
        Two distributions over V classes along `axis`, as for `cross_entropy`.
    axis : int
        The axis of the classes, in p and in q.
    base : float, optional
        Base of the logarithm: None is nats, 2 is bits (and the bound 1), 10 is decimal digits.

    Returns
    -------
    scalar or array (...)
        The divergence of each row, good to a few units in the last place however near p and q are. Its torch
        derivative by p is log(2p / (p + q)) / 2, finite instead of −inf where p = 0; by q likewise.

    Raises
    ------
    ValueError, TypeError
        As `cross_entropy`.

    Examples
    --------
    >>> import crossent
    >>> crossent.js_divergence([1, 0], [0, 1], base=2)
    np.float64(1.0)

    References
    ----------
    J. Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Transactions on Information Theory 37 (1991).
    """
    unit, (p, q) = _unit(base), _distributions(axis, p=p, q=q)
    return _midpoint_terms(p, q).sum(-1) / unit


def perplexity(p: Any, q: Any = None, *, axis: int = -1) -> Any:
    """Perplexity: the number of equally likely classes with the same uncertainty.

    exp H(p), or exp H(p, q) for a prediction q of the truth p. It is V for the uniform distribution over V classes.

    Parameters
    ----------
    p : array (..., V) or sequence
        The true probabilities of V classes along `axis`, as for `entropy`.
    q : array (..., V) or sequence, optional
        The believed probabilities, as for `cross_entropy`; None means p itself.
    axis : int
        The axis of the classes, in p and in q.

    Returns
    -------
    scalar or array (...)
        The perplexity of each row, a number of classes. It has no base: any base gives the same number.

    Raises
    ------
    ValueError, TypeError
        As `cross_entropy`.

    Examples
    --------
    >>> import crossent
    >>> crossent.perplexity([0.25, 0.25, 0.25, 0.25]).round(6)
    np.float64(4.0)

    References
    ----------
    F. Jelinek, R. L. Mercer, L. R. Bahl and J. K. Baker, "Perplexity: a Measure of the Difficulty of Speech
    Recognition Tasks", Journal of the Acoustical Society of America 62 (1977).
    """
    nats = entropy(p, axis=axis) if q is None else cross_entropy(p, q, axis=axis)
    xp = namespace(nats)
    if xp is np:
        with np.errstate(over="ignore"):
            return np.exp(nats)
    return xp.exp(nats)


def _surprise(p: Any, q: Any) -> Any:
    """Return −Σ p log q in nats; where p = q = 0 the term is 0, and so are its derivatives."""
    terms = p * log(namespace(p).where((p == 0) & (q == 0), 1.0, q))
    return 0.0 - terms.sum(-1)  # not −Σ: certainty has the entropy 0.0, not −0.0


class _Contrast(NamedTuple):
    """The sum p + q; where p and q are near, |r| < 3/4 for r = (q − p) / (q + p); and r there, 0 elsewhere."""

    total: Any
    near: Any
    r: Any


def _contrast(p: Any, q: Any) -> _Contrast:
    where, total = namespace(p).where, p + q
    r = (q - p) / where(total == 0, 1.0, total)
    near = abs(r) < 0.75
    return _Contrast(total, near, where(near, r, 0.0))


def _divergence_terms(p: Any, q: Any) -> Any:
    """Return p log(p/q) − p + q, which is (p + q) (r atanh r − (atanh r − r)) for the r of `_Contrast`."""
    where, (total, near, r) = namespace(p).where, _contrast(p, q)
    tail = _atanh_tail(r)
    apart = ~near & (p != 0)
    log_ratio = log(where(apart, p, 1.0)) - log(where(apart, q, 1.0))
    return where(near, total * (r * (r + tail) - tail), p * log_ratio - p + q)


def _atanh_tail(r: Any) -> Any:
    """Return atanh r − r for |r| < 3/4: the series r³/3 + r⁵/5 + … where the difference would cancel."""
    xp = namespace(r)
    small = abs(r) < 0.0625
    root = xp.where(small, r, 0.0)
    square = root * root
    series = 1 / 13  # the next term, r¹⁵/15, is below the rounding of float64
    for k in (11, 9, 7, 5, 3):
        series = series * square + 1 / k
    return xp.where(small, root * square * series, xp.arctanh(r) - r)


def _midpoint_terms(p: Any, q: Any) -> Any:
    """Return (p log(p/m) + q log(q/m)) / 2, for the r of `_Contrast` (p + q) (2 r atanh r + log(1 − r²)) / 4."""
    xp, (total, near, r) = namespace(p), _contrast(p, q)
    near_terms = total * (2 * r * xp.arctanh(r) + xp.log1p(-r * r)) / 4
    p_share, q_share = (xp.where(near | (x == 0), 1.0, 2 * x / xp.where(near, 1.0, total)) for x in (p, q))
    return xp.where(near, near_terms, (p * log(p_share) + q * log(q_share)) / 2)


def _unit(base: float | None) -> float:
    """Return the unit that a base gives, in nats."""
    base = math.e if base is None else real("base", base)
    if not (base > 0 and base != 1 and math.isfinite(base)):
        raise ValueError(
            f"base must be a positive finite number other than 1, got {base!r}; use None for nats, 2 for bits"
        )
    return math.log(base)


def _distributions(axis: int, **given: Any) -> list[Any]:
    """Return checked distributions as arrays of one library and dtype, with the classes on the last axis."""
    xp = namespace(*given.values())
    raw = {name: np.asarray(x) if namespace(x) is np else readable(name, x) for name, x in given.items()}
    kinds = {name: _kind(name, x) for name, x in raw.items()}
    natives = [name for name, x in raw.items() if namespace(x) is xp]
    floats = {kinds[name] for name in natives if "float" in kinds[name]} or {_kind("1.0", xp.asarray(1.0))}
    dtype = xp.float64 if xp is np or "float64" in floats else xp.float32
    moved = {name: _classes_last(name, x, axis) for name, x in raw.items()}
    _check_shapes(moved)
    ready = {name: _converted(x, moved[natives[0]], dtype) for name, x in moved.items()}
    for name, x in ready.items():
        _check_values(name, x, kinds[name])
    return list(ready.values())


def _kind(name: str, x: Any) -> str:
    """Return the name of the dtype, if it is one of real numbers."""
    kind = getattr(x.dtype, "name", str(x.dtype)).removeprefix("torch.")
    if not kind.startswith(("float", "bfloat", "longdouble", "int", "uint")):
        raise TypeError(f"{name} holds {kind}, not real numbers; convert it to float (a mask by 1.0 * mask)")
    return kind


def _classes_last(name: str, x: Any, axis: int) -> Any:
    axis = whole("axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise np.exceptions.AxisError(f"{name} has no axis {axis}, its shape is {tuple(x.shape)}; set axis")
    if x.shape[axis] == 0:
        raise ValueError(f"{name} has no classes, its shape is {tuple(x.shape)} and axis is {axis}; is axis right?")
    return x if axis in (-1, x.ndim - 1) else namespace(x).moveaxis(x, axis, -1)


def _check_shapes(moved: dict[str, Any]) -> None:
    for (one, x), (other, y) in pairwise(moved.items()):
        if x.shape[-1] != y.shape[-1]:
            raise ValueError(
                f"the class axes differ in length, {x.shape[-1]} in {one} and {y.shape[-1]} in {other}; "
                "give both a probability for every class, or set axis"
            )
        if any(m != n and 1 not in (m, n) for m, n in zip(x.shape[-2::-1], y.shape[-2::-1], strict=False)):
            raise ValueError(
                f"{one} has rows of shape {tuple(x.shape[:-1])} and {other} of {tuple(y.shape[:-1])}, "
                "which do not broadcast; add axes of length 1"
            )


def _converted(x: Any, like: Any, dtype: Any) -> Any:
    """Return x as an array of the library and device of another."""
    xp = namespace(like)
    if xp is np:
        return np.ascontiguousarray(x, dtype)  # NumPy sums pairwise, so accurately, only along contiguous classes
    if xp.__name__ != "torch":
        return xp.asarray(x, dtype)
    if namespace(x) is xp:
        return x.to(dtype)
    return xp.tensor(np.asarray(x, np.float64), dtype=dtype, device=like.device)


def _check_values(name: str, x: Any, kind: str) -> None:
    """Raise if an entry is not a probability or a row does not sum to 1; arrays on a device are not looked at."""
    values = _values(x)
    if values is None:
        return
    # 1 % covers softmax in bfloat16, and [0.33, 0.33, 0.33]; float16 rounds to multiples of 2⁻²⁴ near 0
    slack = 0.0101 + (2.0**-25 * values.shape[-1] if kind == "float16" else 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        totals = values.sum(-1, dtype=np.float64)
    off = ~(abs(totals - 1.0) <= slack)
    if (values >= 0).all() and not off.any():
        return
    impossible = ~((values >= 0) & np.isfinite(values))
    if impossible.any():
        *row, column = np.argwhere(impossible)[0].tolist()
        value = values[(*row, column)]
        fix = "pass log-probabilities through exp, and logits through softmax, first" if value < 0 else "fix the data"
        raise ValueError(
            f"{name} holds {value} ({_place(row)}class {column}), which is not a probability (a finite number ≥ 0); "
            f"{fix}"
        )
    row = np.argwhere(off)[0].tolist()
    raise ValueError(
        f"{name} sums to {totals[tuple(row)]:.6g} ({_place(row)}{values.shape[-1]} classes), not to 1; "
        "divide it by its sum, pass logits through softmax, or set axis to the classes"
    )


def _values(x: Any) -> Any:
    """Return the entries as a NumPy array, or None if they are on a device or not known yet (compilation, vmap)."""
    xp = namespace(x)
    if xp is np:
        return x
    if xp.__name__ != "torch" or xp.compiler.is_compiling() or x.device.type != "cpu":
        return None
    try:
        return x.detach().numpy()
    except RuntimeError:  # a fake tensor, or one under vmap
        return None


def _place(row: list[int]) -> str:
    if not row:
        return ""
    return f"row {row[0] if len(row) == 1 else tuple(row)}, "
