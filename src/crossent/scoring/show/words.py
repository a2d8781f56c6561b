"""Numbers, intervals and advice as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from crossent.scoring.parts import Calibration, Interval, Temperature

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_BLANK = "\N{NO-BREAK SPACE}"
NONE = "–"
"""Written in place of a number that does not exist."""
EDGE = 1.0001 / 16
"""The smallest temperature that is tried, nearly; the largest is its inverse."""
WORTH = 0.01
"""Share of the loss that a temperature must save to be worth a word."""


def number(x: float, places: int = 3) -> str:
    r"""Return a number with this many decimal places, or with a power of ten if all of them would be zeros.

    >>> number(0.41237), number(744.44007, 1), number(0.0), number(2.13e-7), number(math.inf), number(math.nan)
    ('0.412', '744.4', '0.000', '2.13\xa0×\xa010⁻⁷', '∞', '–')
    """
    if math.isnan(x):
        return NONE
    sign = "−" if x < 0 else ""
    if math.isinf(x):
        return f"{sign}∞"
    if x and not 10.0**-places <= abs(x) < 1e7:
        digits, _, exponent = f"{abs(x):.2e}".partition("e")
        return f"{sign}{digits}{_BLANK}×{_BLANK}{power(int(exponent))}"
    return f"{sign}{abs(x):,.{places}f}"


def power(exponent: int) -> str:
    """Return a power of ten.

    >>> power(-7)
    '10⁻⁷'
    """
    return f"10{str(exponent).translate(_RAISED)}"


def exponential(x: float) -> str:
    r"""Return eˣ as text, also where it is too large for a float.

    >>> exponential(0.41237), exponential(744.44)
    ('1.510', '2.02\xa0×\xa010³²³')
    """
    if math.isfinite(x) and x > 700.0:
        exponent, rest = divmod(x / math.log(10), 1.0)
        return f"{10.0**rest:.2f}{_BLANK}×{_BLANK}{power(int(exponent))}"
    return number(math.exp(x))


def probability(q: float) -> str:
    """Return a small probability; powers of ten keep that form.

    >>> probability(1e-6), probability(0.002)
    ('10⁻⁶', '0.002')
    """
    exponent = round(math.log10(q))
    return power(exponent) if exponent < 0 and math.isclose(10.0**exponent, q, rel_tol=1e-12) else f"{q:g}"


def share(x: float) -> str:
    r"""Return a fraction as a percentage.

    >>> share(0.0849), share(-0.25), share(0.00004), share(-1e-9), share(math.nan)
    ('8.5\xa0%', '−25.0\xa0%', '0.0040\xa0%', '>−0.001\xa0%', '–')
    """
    if not math.isfinite(x):
        return number(x)
    if 0 < abs(x) < 1e-5:
        return f"{'<' if x > 0 else '>−'}0.001{_BLANK}%"
    places = 1 if x == 0 or abs(x) >= 1e-3 else 1 - math.floor(math.log10(abs(100.0 * x)))
    return f"{number(100.0 * x, places)}{_BLANK}%"


def places(se: float) -> int:
    """Return the number of decimal places that show two digits of a standard error, at least three.

    >>> places(0.0123), places(0.3), places(0.00021), places(math.nan)
    (3, 3, 5, 3)
    """
    if not math.isfinite(se) or se <= 0:
        return 3
    return min(max(1 - math.floor(math.log10(se)), 3), 8)


def interval(ends: Interval, places: int = 3) -> str:
    """Return an interval as text.

    >>> interval((0.38, 0.449)), interval((math.nan, math.nan))
    ('0.380 to 0.449', 'no interval')
    """
    return span(*(number(x, places) for x in ends))


def span(low: str, high: str) -> str:
    """Return an interval whose ends are text already."""
    return "no interval" if NONE in (low, high) else f"{low} to {high}"


def column(values: Sequence[float]) -> list[str]:
    """Return numbers with equally many decimal places, enough for two digits of the smallest, at most six.

    >>> column([0.25, 0.0004, math.inf])
    ['0.25000', '0.00040', '∞']
    """
    smallest = min((abs(x) for x in values if x and math.isfinite(x)), default=1.0)
    wanted = min(max(1 - math.floor(math.log10(smallest)), 3), 6)
    return [number(x, wanted) for x in values]


def counted(n: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "row"), counted(1500, "row"), counted(2, "class")
    ('1 row', '1,500 rows', '2 classes')
    """
    return f"{n:,} {noun}{'' if n == 1 else 'es' if noun.endswith('s') else 's'}"


def advice(temperature: Temperature) -> str:
    r"""Return a sentence on how much one temperature for all rows would change the loss.

    >>> advice(Temperature(value=1.8, loss=0.412, scaled=0.377, n=1000, helps=True))
    'Over-confident: dividing the logits by T = 1.80 would cut the loss from 0.412 to 0.377 (8.5\xa0%).'
    """
    t = temperature
    if not (math.isfinite(t.loss) and math.isfinite(t.scaled) and math.isfinite(t.value)):
        return "No temperature can be advised, because the loss is infinite."
    best = f"T = {t.value:.2f}"
    if not EDGE < t.value < 1.0 / EDGE:
        best = f"a T of {1 / EDGE:g} or more" if t.value > 1 else f"a T of {EDGE:g} or less"
    if not t.helps and t.saving < WORTH:
        return f"A temperature would not help: the best, {best}, would change the loss by {share(t.saving)}."
    places = 3 if abs(t.loss - t.scaled) >= 0.001 else 5
    change = f"cut the loss from {number(t.loss, places)} to {number(t.scaled, places)} ({share(t.saving)})"
    if not t.helps:
        return f"Too few rows to tell whether a temperature would help: the best, {best}, would {change}."
    kind = "Over-confident" if t.value > 1 else "Under-confident"
    return f"{kind}: dividing the logits by {best} would {change}."


def no_advice(reason: str | None) -> str:
    """Return a sentence on why no temperature is advised.

    >>> no_advice("there is no best temperature: none changes the loss")
    'There is no best temperature: none changes the loss.'
    """
    said = reason or "no temperature was fitted"
    return f"{said[0].upper()}{said[1:]}{'' if said[-1] in '.?' else '.'}"


def question(calibration: Calibration) -> str:
    """Return the question behind the decomposition and the reliability diagram."""
    if calibration.of == "top label":
        return "is the most probable class the true one?"
    return "is the row of the positive class?"
